//! Connections over memory: both ends of everything in one process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod at_once;
mod bytes_from_outside;
mod closing;
mod rules;
mod streams;

use bytes::Bytes;
use haul_core::ids::PublicKey;
use haul_core::wire::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::identity::SecretKey;
use crate::transport::memory_pair;

type End = (Connection, Inbox);

fn key(n: u8) -> PublicKey {
    SecretKey::from_seed([n; 32]).unwrap().public()
}

/// Two connections that talk to each other.
fn pair() -> (End, End) {
    let (left, right) = memory_pair();
    (
        Connection::start(left, key(2), ConnectionSettings::default()),
        Connection::start(right, key(1), ConnectionSettings::default()),
    )
}

/// A connection, and the other side as plain bytes.
fn raw(settings: ConnectionSettings) -> (DuplexStream, End) {
    let (left, right) = memory_pair();
    (left, Connection::start(right, key(1), settings))
}

fn frame(kind: FrameKind, id: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = FrameHeader { body_bytes: body.len(), kind, id }.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn data(id: u32, index: u64, bytes: &[u8]) -> Vec<u8> {
    frame(FrameKind::Data, id, &[&index.to_le_bytes(), bytes].concat())
}

async fn read_frame(raw: &mut DuplexStream) -> Option<(FrameKind, u32, Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    raw.read_exact(&mut header).await.ok()?;
    let header = FrameHeader::decode(&header, limits::FRAME_BYTES).unwrap();
    let mut body = vec![0; header.body_bytes];
    raw.read_exact(&mut body).await.ok()?;
    Some((header.kind, header.id, body))
}

async fn next_request(inbox: &mut Inbox) -> InboundRequest {
    match inbox.next().await {
        Some(Inbound::Request(request)) => request,
        other => panic!("expected a request, got {other:?}"),
    }
}

/// Answers every request, a number, with its double, until the connection ends.
async fn double(mut inbox: Inbox) {
    while let Some(inbound) = inbox.next().await {
        if let Inbound::Request(request) = inbound {
            let number: u32 = request.decode().unwrap();
            let _ = request.answer(&(2 * number)).await;
        }
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
async fn answers_overtake_each_other() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    let serve = async {
        let mut waiting = Vec::new();
        for _ in 0..64 {
            waiting.push(next_request(&mut inbox).await);
        }
        for request in waiting.into_iter().rev() {
            let number: u32 = request.decode().unwrap();
            request.answer(&(2 * number)).await.unwrap();
        }
    };
    let (order, ()) = tokio::join!(
        async {
            let mut order = Vec::new();
            let mut asked = tokio::task::JoinSet::new();
            for number in 0..64u32 {
                let left = left.clone();
                asked.spawn(async move {
                    assert_eq!(left.request::<u32, u32>(&number).await, Ok(2 * number));
                    number
                });
            }
            while let Some(number) = asked.join_next().await {
                order.push(number.unwrap());
            }
            order
        },
        serve
    );
    assert_eq!(order.len(), 64);
}

#[tokio::test]
async fn pushes_arrive_in_order_between_requests() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    for number in 0..10u32 {
        left.push(&number).unwrap();
    }
    for number in 0..10u32 {
        let Some(Inbound::Push(body)) = inbox.next().await else { panic!("expected a push") };
        assert_eq!(haul_core::wire::decode(&body), Ok(number));
    }
}

#[tokio::test]
async fn a_dropped_request_fails_at_once_and_its_place_is_free_again() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    for _ in 0..2 * limits::REQUESTS_IN_FLIGHT {
        let (answer, ()) = tokio::join!(left.request::<u32, u32>(&1), async {
            drop(next_request(&mut inbox).await);
        });
        assert_eq!(answer, Err(RequestError::Unanswered));
    }
}

#[tokio::test]
async fn requests_wait_while_too_many_are_unanswered() {
    let ((left, _left_inbox), (right, mut inbox)) = pair();
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..=limits::REQUESTS_IN_FLIGHT as u32 {
        let left = left.clone();
        asked.spawn(async move { left.request::<u32, u32>(&number).await });
    }
    let mut waiting = Vec::new();
    for _ in 0..limits::REQUESTS_IN_FLIGHT {
        waiting.push(next_request(&mut inbox).await);
    }
    // The next one comes only once one of these is answered; were it sent before, it would break a rule.
    assert!(futures_are_pending(&mut inbox).await);
    waiting.pop().unwrap().answer(&0u32).await.unwrap();
    waiting.push(next_request(&mut inbox).await);
    assert_eq!(right.close_reason(), None);
}

#[tokio::test]
async fn answered_requests_count_no_longer() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    let large = "x".repeat(limits::FRAME_BYTES - 100);
    for _ in 0..2 * limits::REQUEST_BYTES_IN_FLIGHT / limits::FRAME_BYTES {
        let (answer, ()) = tokio::join!(left.request::<String, u32>(&large), async {
            next_request(&mut inbox).await.answer(&1u32).await.unwrap();
        });
        assert_eq!(answer, Ok(1));
    }
}

/// Whether nothing more arrives, however often both tasks run.
async fn futures_are_pending(inbox: &mut Inbox) -> bool {
    for _ in 0..1_000 {
        tokio::select! {
            biased;
            _ = inbox.next() => return false,
            () = tokio::task::yield_now() => {}
        }
    }
    true
}

#[tokio::test]
async fn what_does_not_fit_a_frame_is_refused_here() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    let large = "x".repeat(limits::FRAME_BYTES);
    let too_large = left.request::<String, u32>(&large).await;
    assert!(matches!(too_large, Err(RequestError::TooLarge { .. })), "{too_large:?}");
    assert!(matches!(left.push(&large), Err(SendError::TooLarge { .. })));
    let (answer, sent) =
        tokio::join!(left.request::<u32, u32>(&1), async { next_request(&mut inbox).await.answer(&large).await });
    assert_eq!(answer, Err(RequestError::Unanswered));
    assert!(matches!(sent, Err(SendError::TooLarge { .. })));
}

#[tokio::test]
async fn traffic_is_counted() {
    let ((left, _left_inbox), (right, inbox)) = pair();
    let asked = async {
        assert_eq!(left.request::<u32, u32>(&1).await, Ok(2));
        left.close("counted");
    };
    tokio::join!(asked, double(inbox));
    let (there, here) = (right.traffic(), left.traffic());
    // A request of one byte; the goodbye is not received as a frame by whoever says it.
    assert_eq!(there.frames_in, 2);
    assert_eq!(here.frames_in, 1);
    assert_eq!(here.bytes_in, HEADER_BYTES as u64 + 1);
    assert_eq!(there.bytes_out, here.bytes_in);
    assert_eq!(there.bytes_in, here.bytes_out);
}

/// A body of these bytes.
fn body(bytes: usize) -> Bytes {
    Bytes::from(vec![7; bytes])
}
