//! Requests that are answered where they are read.

use std::sync::atomic::{AtomicU8, Ordering};

use super::*;

/// Answers even numbers with a text of so many letters, and leaves odd ones to the inbox.
struct Letters;

impl AnswerAtOnce for Letters {
    fn answer(&self, request: &[u8], answer: &mut Vec<u8>) -> Option<u32> {
        let number: u32 = haul_core::wire::decode(request).ok()?;
        let text = "x".repeat(number as usize);
        haul_core::wire::encode_to(&text, answer);
        number.is_multiple_of(2).then_some(1)
    }
}

fn letters() -> Arc<dyn AnswerAtOnce> {
    Arc::new(Letters)
}

#[tokio::test]
async fn what_the_service_answers_does_not_reach_the_inbox() {
    let ((left, _left_inbox), (right, mut inbox)) = pair();
    right.answer_at_once(letters());
    for number in [4u32, 0, 6_000] {
        assert_eq!(left.request::<u32, String>(&number).await.map(|text| text.len()), Ok(number as usize));
    }
    // What was appended for the odd one is not sent.
    let (answer, ()) = tokio::join!(left.request::<u32, u32>(&5), async {
        let request = next_request(&mut inbox).await;
        assert_eq!(request.decode::<u32>(), Ok(5));
        request.answer(&7u32).await.unwrap();
    });
    assert_eq!(answer, Ok(7));
    let traffic = right.traffic();
    assert_eq!((traffic.frames_in, traffic.frames_out), (4, 4));
}

#[tokio::test]
async fn many_requests_of_one_read_are_answered_in_their_order() {
    let (mut raw, (connection, _inbox)) = raw(ConnectionSettings::default());
    connection.answer_at_once(letters());
    let count = 3 * limits::REQUESTS_IN_FLIGHT as u32;
    let requests: Vec<u8> = (0..count).flat_map(|id| frame(FrameKind::Request, id, &[2])).collect();
    raw.write_all(&requests).await.unwrap();
    for id in 0..count {
        assert_eq!(read_frame(&mut raw).await, Some((FrameKind::Answer, id, b"\x02xx".to_vec())));
    }
    assert_eq!(connection.close_reason(), None, "an answered request does not count as unanswered");
}

#[tokio::test]
async fn an_id_that_is_being_served_is_refused() {
    let (mut raw, (connection, mut inbox)) = raw(ConnectionSettings::default());
    connection.answer_at_once(letters());
    raw.write_all(&frame(FrameKind::Request, 9, &[1])).await.unwrap();
    let _waiting = next_request(&mut inbox).await;
    raw.write_all(&frame(FrameKind::Request, 9, &[2])).await.unwrap();
    assert_eq!(connection.closed().await, CloseReason::Violation(Violation::RequestId));
}

#[tokio::test]
async fn answers_that_nobody_reads_end_as_unanswered_requests() {
    let (mut raw, (connection, inbox)) = raw(ConnectionSettings::default());
    connection.answer_at_once(letters());
    let keep = tokio::spawn(async move {
        let mut inbox = inbox;
        let mut kept = Vec::new();
        while let Some(inbound) = inbox.next().await {
            kept.push(inbound);
        }
        kept.len()
    });
    // Answers of 16 KiB each: some fill the transport and this side's room, the rest waits like any request.
    let requests: Vec<u8> = (0..1_000).flat_map(|id| frame(FrameKind::Request, id, &[0x80, 0x80, 0x01])).collect();
    raw.write_all(&requests).await.unwrap();
    assert_eq!(connection.closed().await, CloseReason::Violation(Violation::TooManyRequests));
    assert_eq!(keep.await.unwrap(), limits::REQUESTS_IN_FLIGHT);
}

/// Whose every answer is as much work as a turn may be, and tells how many came before it.
struct Dear(Arc<AtomicU8>);

impl AnswerAtOnce for Dear {
    fn answer(&self, _request: &[u8], answer: &mut Vec<u8>) -> Option<u32> {
        answer.push(self.0.fetch_add(1, Ordering::Relaxed));
        Some(1_000)
    }
}

#[tokio::test]
async fn a_greedy_connection_does_not_starve_another() {
    let (mut greedy, (connection, _greedy_inbox)) = raw(ConnectionSettings::default());
    let (mut modest, (other, _modest_inbox)) = raw(ConnectionSettings::default());
    let answers = Arc::default();
    for connection in [&connection, &other] {
        connection.answer_at_once(Arc::new(Dear(Arc::clone(&answers))));
    }
    let requests: Vec<u8> = (0..200).flat_map(|id| frame(FrameKind::Request, id, &[1])).collect();
    greedy.write_all(&requests).await.unwrap();
    modest.write_all(&frame(FrameKind::Request, 1, &[1])).await.unwrap();
    let (_, _, before) = read_frame(&mut modest).await.unwrap();
    assert!(before[0] <= 3, "{} greedy requests went first", before[0]);
    for id in 0..200 {
        assert_eq!(read_frame(&mut greedy).await.map(|(_, answered, _)| answered), Some(id));
    }
}

#[tokio::test]
async fn the_service_ends_with_the_connection() {
    let ((left, _left_inbox), (right, _inbox)) = pair();
    let service = letters();
    right.answer_at_once(Arc::clone(&service));
    assert!(left.request::<u32, String>(&2).await.is_ok());
    left.close("enough");
    right.closed().await;
    // The handle lives on, the task does not.
    assert_eq!(Arc::strong_count(&service), 1);
    let ((_left, _left_inbox), (right, _inbox)) = pair();
    right.answer_at_once(Arc::clone(&service));
    right.close("never used");
    right.closed().await;
    assert_eq!(Arc::strong_count(&service), 1);
}
