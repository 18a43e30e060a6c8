//! How connections end: in order, in time, for everyone who waits, and with every task joined.

use super::*;

#[tokio::test]
async fn what_was_queued_before_the_close_still_arrives() {
    let ((left, left_inbox), (right, mut inbox)) = pair();
    for number in 0..200u32 {
        left.push(&number).unwrap();
    }
    left.close("that was all");
    drop((left, left_inbox));
    for number in 0..200u32 {
        let Some(Inbound::Push(body)) = inbox.next().await else { panic!("push {number} is missing") };
        assert_eq!(haul_core::wire::decode(&body), Ok(number));
    }
    assert!(inbox.next().await.is_none());
    assert_eq!(right.closed().await, CloseReason::Remote("that was all".into()));
}

#[tokio::test]
async fn everything_that_waits_fails_with_the_reason() {
    let ((left, mut left_inbox), (_right, mut inbox)) = pair();
    let expected = CloseReason::Remote("bye".into());
    let ask = left.request::<u32, u32>(&1);
    let stream = async {
        let mut stream = left.open_stream(&1u32).await.unwrap();
        stream.next().await
    };
    let serve = async {
        let first = next_request(&mut inbox).await;
        let _second = next_request(&mut inbox).await;
        first.connection().close("bye");
        first.connection().closed().await;
    };
    let (asked, streamed, (), none) = tokio::join!(ask, stream, serve, left_inbox.next());
    assert_eq!(asked, Err(RequestError::Closed(expected.clone())));
    assert_eq!(streamed, Err(RequestError::Closed(expected.clone())));
    assert!(none.is_none());
    assert_eq!(left.closed().await, expected);
    // And so does everything that comes later.
    assert_eq!(left.request::<u32, u32>(&1).await, Err(RequestError::Closed(expected.clone())));
    assert_eq!(left.push(&1u32), Err(SendError::Closed(expected)));
}

#[tokio::test]
async fn a_sender_without_credit_fails_when_the_connection_ends() {
    let (mut raw, (connection, mut inbox)) = raw(ConnectionSettings::default());
    raw.write_all(&frame(FrameKind::Request, 1, &[1])).await.unwrap();
    let send = async {
        let stream = next_request(&mut inbox).await.into_stream();
        loop {
            if let Err(error) = stream.send(0, body(65_536)).await {
                return error;
            }
        }
    };
    let vanish = async {
        for _ in 0..31 {
            read_frame(&mut raw).await.unwrap();
        }
        drop(raw);
    };
    assert_eq!(tokio::join!(send, vanish).0, SendError::Closed(CloseReason::Vanished));
    assert_eq!(connection.closed().await, CloseReason::Vanished);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_no_output_is_closed_at_the_deadline() {
    let (_raw, (connection, mut inbox)) = raw(ConnectionSettings::default());
    let began = tokio::time::Instant::now();
    let mut pushed = 0;
    while connection.push(&"x".repeat(60_000)).is_ok() {
        pushed += 60_000;
    }
    assert!(pushed <= limits::OUTPUT_QUEUE_BYTES, "the queue is bounded");
    assert_eq!(connection.push(&"x".repeat(60_000)), Err(SendError::Full));
    assert_eq!(connection.closed().await, CloseReason::Stalled);
    assert_eq!(began.elapsed().as_secs(), limits::OUTPUT_STALL.as_secs());
    assert!(inbox.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn output_that_moves_slowly_is_no_stall() {
    let (mut raw, (connection, _inbox)) = raw(ConnectionSettings::default());
    let total = 1024 * 1024;
    connection.push(&"x".repeat(total - 100)).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut read = 0;
    while read < total - 100 {
        tokio::time::sleep(limits::OUTPUT_STALL.mul_f32(0.9)).await;
        read += raw.read(&mut buffer).await.unwrap();
    }
    assert_eq!(connection.close_reason(), None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_dialer_is_closed_at_the_deadline_and_one_that_asked_is_not() {
    let (mut silent, (connection, _inbox)) = raw(ConnectionSettings::server(None));
    let began = tokio::time::Instant::now();
    assert_eq!(connection.closed().await, CloseReason::Silent);
    assert_eq!(began.elapsed().as_secs(), limits::FIRST_REQUEST_DEADLINE.as_secs() + 1, "the deadline and the linger");
    assert_eq!(read_frame(&mut silent).await.unwrap().0, FrameKind::Goodbye);

    let (mut asking, (connection, mut inbox)) = raw(ConnectionSettings::server(None));
    asking.write_all(&frame(FrameKind::Request, 1, &[1])).await.unwrap();
    let _request = next_request(&mut inbox).await;
    tokio::time::sleep(100 * limits::FIRST_REQUEST_DEADLINE).await;
    assert_eq!(connection.close_reason(), None);
}

#[tokio::test(start_paused = true)]
async fn closing_takes_bounded_time_even_if_the_other_side_hangs() {
    let (_raw, (connection, _inbox)) = raw(ConnectionSettings::default());
    while connection.push(&"x".repeat(60_000)).is_ok() {}
    let began = tokio::time::Instant::now();
    connection.close("enough");
    assert_eq!(connection.closed().await, CloseReason::Local("enough".into()));
    assert!(began.elapsed() <= Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn every_task_is_joined() {
    let tasks = TaskTracker::new();
    let settings = ConnectionSettings { tasks: tasks.clone(), ..ConnectionSettings::default() };
    let (left, right) = memory_pair();
    let (left, left_inbox) = Connection::start(left, key(2), settings.clone());
    let (right, right_inbox) = Connection::start(right, key(1), settings);
    assert_eq!(tasks.len(), 2);
    let (asked, ()) = tokio::join!(
        async {
            let answer = left.request::<u32, u32>(&4).await;
            left.close("enough");
            answer
        },
        double(right_inbox)
    );
    assert_eq!(asked, Ok(8));
    tasks.close();
    tasks.wait().await;
    assert!(tasks.is_empty() && right.close_reason().is_some());
    drop(left_inbox);
}

#[tokio::test]
async fn a_goodbye_is_safe_to_show() {
    let (mut raw, (connection, _inbox)) = raw(ConnectionSettings::default());
    let text = [b"\x1b[31mred\n\xff".to_vec(), vec![b'a'; 100_000]].concat();
    raw.write_all(&frame(FrameKind::Goodbye, 0, &text)).await.unwrap();
    let CloseReason::Remote(shown) = connection.closed().await else { panic!("expected the goodbye") };
    assert!(shown.starts_with(" [31mred ") && shown.len() < 300 && !shown.contains(char::is_control), "{shown}");
}
