//! Connections over memory: both ends of everything in one process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use haul_core::ids::PublicKey;

use super::*;
use crate::identity::SecretKey;
use crate::transport::memory_pair;

fn key(n: u8) -> PublicKey {
    SecretKey::from_seed([n; 32]).unwrap().public()
}

fn pair() -> ((Connection, Inbox), (Connection, Inbox)) {
    let (left, right) = memory_pair();
    (
        Connection::start(left, key(2), ConnectionSettings::default()),
        Connection::start(right, key(1), ConnectionSettings::default()),
    )
}

async fn next_request(inbox: &mut Inbox) -> InboundRequest {
    match inbox.next().await {
        Some(Inbound::Request(request)) => request,
        other => panic!("expected a request, got {other:?}"),
    }
}

#[tokio::test]
async fn a_request_is_answered_and_the_last_handle_closes() {
    let ((left, left_inbox), (right, mut inbox)) = pair();
    let asked = async { left.request::<String, u32>(&"four".into()).await };
    let served = async {
        let request = next_request(&mut inbox).await;
        assert_eq!(request.decode::<String>().unwrap(), "four");
        request.answer(&4u32).await.unwrap();
    };
    assert_eq!(tokio::join!(asked, served).0, Ok(4));
    drop(left);
    drop(left_inbox);
    assert_eq!(right.closed().await, CloseReason::Remote("done".into()));
    assert!(inbox.next().await.is_none());
}

#[tokio::test]
async fn a_stream_arrives_whole_and_in_order() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    let receive = async {
        let mut stream = left.open_stream(&7u32).await.unwrap();
        let mut total = 0;
        loop {
            match stream.next().await.unwrap() {
                StreamItem::Data { index, bytes } => {
                    assert_eq!(bytes.len(), 65_536);
                    assert!(bytes.iter().all(|byte| *byte == index as u8));
                    assert_eq!(index, total);
                    total += 1;
                }
                StreamItem::End(body) => {
                    assert_eq!(haul_core::wire::decode::<u64>(&body), Ok(total));
                    return total;
                }
            }
        }
    };
    let send = async {
        let stream = next_request(&mut inbox).await.into_stream();
        for index in 0..200u64 {
            stream.send(index, vec![index as u8; 65_536].into()).await.unwrap();
        }
        stream.end(&200u64).await.unwrap();
    };
    assert_eq!(tokio::join!(receive, send).0, 200);
}
