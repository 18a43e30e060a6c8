//! Every rule of frames, broken once: the connection closes with the rule's name, and says so to the other side.

use super::*;

/// Writes these bytes to a connection and gives the reason for which it closed and the goodbye that it sent.
async fn after(bytes: Vec<u8>, settings: ConnectionSettings) -> (CloseReason, Option<String>) {
    let (mut raw, (connection, inbox)) = raw(settings);
    let keep = tokio::spawn(keep_requests(inbox));
    raw.write_all(&bytes).await.unwrap();
    let mut goodbye = None;
    while let Some((kind, _, body)) = read_frame(&mut raw).await {
        if kind == FrameKind::Goodbye {
            goodbye = Some(String::from_utf8(body).unwrap());
        }
    }
    drop(raw);
    let reason = connection.closed().await;
    keep.await.unwrap();
    (reason, goodbye)
}

/// Takes requests and answers none.
async fn keep_requests(mut inbox: Inbox) {
    let mut kept = Vec::new();
    while let Some(inbound) = inbox.next().await {
        kept.push(inbound);
    }
}

async fn check(bytes: Vec<u8>, violation: Violation) {
    let (reason, goodbye) = after(bytes, ConnectionSettings::default()).await;
    assert_eq!(reason, CloseReason::Violation(violation));
    assert_eq!(goodbye, Some(violation.to_string()));
}

fn requests(count: usize, bytes: usize) -> Vec<u8> {
    (0..count as u32).flat_map(|id| frame(FrameKind::Request, id, &vec![1; bytes])).collect()
}

#[tokio::test]
async fn rules_of_requests() {
    check(requests(limits::REQUESTS_IN_FLIGHT + 1, 1), Violation::TooManyRequests).await;
    check([requests(1, 1), requests(1, 1)].concat(), Violation::RequestId).await;
}

#[tokio::test]
async fn bytes_of_unanswered_requests_are_bounded() {
    let (mut raw, (connection, inbox)) = raw(ConnectionSettings::default());
    let keep = tokio::spawn(keep_requests(inbox));
    let each = limits::FRAME_BYTES - limits::FRAME_HEADER_BYTES;
    let all = requests(limits::REQUEST_BYTES_IN_FLIGHT / each + 2, each);
    let writing = async { while raw.write_all(&all).await.is_ok() {} };
    assert_eq!(tokio::join!(connection.closed(), writing).0, CloseReason::Violation(Violation::TooManyRequestBytes));
    keep.await.unwrap();
}

#[tokio::test]
async fn rules_of_answers() {
    check(frame(FrameKind::Answer, 1, &[1]), Violation::UnknownRequest).await;
    check(frame(FrameKind::End, 0, &[1]), Violation::UnknownRequest).await;
    check(data(1, 0, &[1]), Violation::UnknownRequest).await;
    check(frame(FrameKind::Data, 1, &[1; 7]), Violation::Body).await;
}

#[tokio::test]
async fn data_for_one_answer_and_an_answer_too_many() {
    for (second, violation) in [
        (data(1, 0, &[1]), Violation::UnexpectedData),
        ([frame(FrameKind::Answer, 1, &[1]), frame(FrameKind::Answer, 1, &[1])].concat(), Violation::UnknownRequest),
    ] {
        let (mut raw, (connection, _inbox)) = raw(ConnectionSettings::default());
        let _asked = tokio::join!(connection.request::<u32, u32>(&1), async {
            assert_eq!(read_frame(&mut raw).await, Some((FrameKind::Request, 1, vec![1])));
            raw.write_all(&second).await.unwrap();
            drop(raw);
        });
        assert_eq!(connection.closed().await, CloseReason::Violation(violation));
    }
}

#[tokio::test]
async fn rules_of_control_frames() {
    check(frame(FrameKind::Credit, 1, &[1; 3]), Violation::Body).await;
    check(frame(FrameKind::Cancel, 1, &[1]), Violation::Body).await;
    check(frame(FrameKind::Push, 1, &[1]), Violation::Id).await;
    check(frame(FrameKind::Goodbye, 1, &[1]), Violation::Id).await;
    let credit = frame(FrameKind::Credit, 0, &u32::MAX.to_le_bytes());
    check([requests(1, 1), credit.clone()].concat(), Violation::Credit).await;
    // Credit and cancel for a stream that has just ended are no mistake.
    let (reason, _) = after(
        [credit, frame(FrameKind::Cancel, 7, &[]), frame(FrameKind::Goodbye, 0, b"fine")].concat(),
        ConnectionSettings::default(),
    )
    .await;
    assert_eq!(reason, CloseReason::Remote("fine".into()));
}

#[tokio::test]
async fn unread_pushes_are_bounded() {
    let (mut raw, (connection, _inbox)) = raw(ConnectionSettings::default());
    let push = frame(FrameKind::Push, 0, &[1]);
    let writing = async { while raw.write_all(&push).await.is_ok() {} };
    assert_eq!(tokio::join!(connection.closed(), writing).0, CloseReason::Violation(Violation::TooManyPushes));
}

#[tokio::test]
async fn bytes_of_unread_pushes_are_bounded() {
    const BYTES: usize = limits::PUSH_BYTES_WAITING / 16;
    let (mut raw, (connection, mut inbox)) = raw(ConnectionSettings::default());
    let push = frame(FrameKind::Push, 0, &vec![1; BYTES]);
    // Whoever reads may be sent any number of them.
    for _ in 0..40 {
        raw.write_all(&push).await.unwrap();
        assert!(matches!(inbox.next().await, Some(Inbound::Push(body)) if body.len() == BYTES));
    }
    // Far fewer than may wait when they are small.
    let writing = async {
        for _ in 0..17 {
            let _ = raw.write_all(&push).await;
        }
    };
    assert_eq!(tokio::join!(connection.closed(), writing).0, CloseReason::Violation(Violation::TooManyPushes));
}

#[tokio::test]
async fn a_side_that_serves_nothing_closes_on_a_request_and_ignores_pushes() {
    let ((left, left_inbox), (right, _inbox)) = pair();
    drop(left_inbox);
    right.push(&1u32).unwrap();
    assert!(matches!(right.request::<u32, u32>(&1).await, Err(RequestError::Closed(CloseReason::Remote(_)))));
    assert_eq!(left.closed().await, CloseReason::Violation(Violation::NotServing));
}

#[tokio::test]
async fn before_membership_frames_are_small_and_few() {
    let stranger = || ConnectionSettings::server(None);
    let limit = limits::FRAME_BYTES_BEFORE_MEMBERSHIP;
    let large = frame(FrameKind::Request, 1, &vec![0; limit]);
    let error = FrameError::TooLong { claimed: limit + limits::FRAME_HEADER_BYTES, limit };
    assert_eq!(
        after(large[..HEADER_BYTES].to_vec(), stranger()).await,
        (CloseReason::Frame(error), Some(error.to_string()))
    );
    let (reason, _) = after(requests(limits::REQUESTS_BEFORE_MEMBERSHIP + 1, 1), stranger()).await;
    assert_eq!(reason, CloseReason::Violation(Violation::TooManyRequests));
    let (reason, _) = after(frame(FrameKind::Push, 0, &[1]), stranger()).await;
    assert_eq!(reason, CloseReason::Violation(Violation::TooManyPushes));
}

#[tokio::test]
async fn a_member_may_send_large_frames_at_once() {
    let (left, right) = memory_pair();
    let (left, _left_inbox) = Connection::start(left, key(2), ConnectionSettings::default());
    let (right, mut inbox) = Connection::start(right, key(1), ConnectionSettings::server(None));
    let serve = async {
        right.set_frame_limit(limits::FRAME_BYTES);
        let text: String = next_request(&mut inbox).await.decode().unwrap();
        text.len()
    };
    let large = "x".repeat(limits::FRAME_BYTES - 100);
    let ask = left.request::<String, u32>(&large);
    let (length, answer) = tokio::join!(serve, ask);
    assert_eq!((length, answer), (large.len(), Err(RequestError::Unanswered)));
}
