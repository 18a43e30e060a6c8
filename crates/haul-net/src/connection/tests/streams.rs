//! Streams: order, credit, cancelling, and that nobody waits for anybody else.

use super::*;

/// Sends leaves until the end or until it is cancelled; gives the number sent.
async fn send_leaves(request: InboundRequest, leaves: u64) -> u64 {
    let stream = request.into_stream();
    let leaf = body(65_536);
    for index in 0..leaves {
        if stream.send(index, leaf.clone()).await.is_err() {
            let _ = stream.end(&index).await;
            return index;
        }
    }
    stream.end(&leaves).await.unwrap();
    leaves
}

async fn receive_leaves(mut stream: StreamReceiver) -> Result<u64, RequestError> {
    let mut next = 0;
    loop {
        match stream.next().await? {
            StreamItem::Data { index, bytes } => {
                assert_eq!((index, bytes.len()), (next, 65_536));
                next += 1;
            }
            StreamItem::End(body) => {
                assert_eq!(haul_core::wire::decode::<u64>(&body), Ok(next));
                return Ok(next);
            }
        }
    }
}

#[tokio::test]
async fn a_stream_arrives_whole_and_in_order() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    let receive = async { receive_leaves(left.open_stream(&7u32).await.unwrap()).await };
    let send = async { send_leaves(next_request(&mut inbox).await, 200).await };
    assert_eq!(tokio::join!(receive, send), (Ok(200), 200));
}

#[tokio::test(start_paused = true)]
async fn a_sender_stops_where_the_credit_ends_and_goes_on_with_more() {
    let (mut raw, (_right, mut inbox)) = raw(ConnectionSettings::default());
    raw.write_all(&frame(FrameKind::Request, 9, &[1])).await.unwrap();
    let sender = tokio::spawn(async move { send_leaves(next_request(&mut inbox).await, 1_000).await });
    let cost = 65_536 + limits::DATA_FRAME_COST;
    let within = u64::from(limits::STREAM_WINDOW_BYTES / cost);
    for index in 0..within {
        let (kind, id, body) = read_frame(&mut raw).await.unwrap();
        assert_eq!((kind, id, &body[..8]), (FrameKind::Data, 9, &index.to_le_bytes()[..]));
    }
    let nothing = tokio::time::timeout(Duration::from_secs(1), raw.read_u8()).await;
    assert!(nothing.is_err(), "more than the credit was sent");
    raw.write_all(&frame(FrameKind::Credit, 9, &(2 * cost).to_le_bytes())).await.unwrap();
    for index in within..within + 2 {
        assert_eq!(read_frame(&mut raw).await.unwrap().2[..8], index.to_le_bytes());
    }
    raw.write_all(&frame(FrameKind::Cancel, 9, &[])).await.unwrap();
    assert!(sender.await.unwrap() < 1_000);
    loop {
        if let (FrameKind::End, id, _) = read_frame(&mut raw).await.unwrap() {
            assert_eq!(id, 9);
            break;
        }
    }
}

#[tokio::test]
async fn a_reader_that_stops_does_not_stop_others() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    let server = tokio::spawn(async move {
        let mut streams = tokio::task::JoinSet::new();
        while let Some(Inbound::Request(request)) = inbox.next().await {
            if request.decode::<u32>() == Ok(0) {
                streams.spawn(send_leaves(request, 100));
            } else {
                request.answer(&1u32).await.unwrap();
            }
        }
    });
    // Sixteen streams of which nobody takes anything …
    let mut stopped = Vec::new();
    for _ in 0..16 {
        stopped.push(left.open_stream(&0u32).await.unwrap());
    }
    // … while others come through, whole.
    for _ in 0..4 {
        let stream = left.open_stream(&0u32).await.unwrap();
        assert_eq!(receive_leaves(stream).await, Ok(100));
        assert_eq!(left.request::<u32, u32>(&1).await, Ok(1));
    }
    // A stopped one goes on where it was.
    assert_eq!(receive_leaves(stopped.pop().unwrap()).await, Ok(100));
    left.close("enough");
    server.await.unwrap();
}

#[tokio::test]
async fn dropping_a_receiver_cancels_and_frees_its_place() {
    let ((left, _left_inbox), (right, mut inbox)) = pair();
    let server = tokio::spawn(async move {
        let mut sent = Vec::new();
        while let Some(Inbound::Request(request)) = inbox.next().await {
            sent.push(send_leaves(request, 1_000).await);
        }
        sent
    });
    let rounds = limits::REQUESTS_IN_FLIGHT + 10;
    for _ in 0..rounds {
        let mut stream = left.open_stream(&0u32).await.unwrap();
        assert!(matches!(stream.next().await, Ok(StreamItem::Data { index: 0, .. })));
    }
    left.close("enough");
    assert_eq!(right.closed().await, CloseReason::Remote("enough".into()));
    let sent = server.await.unwrap();
    assert!(sent.len() >= rounds - 1 && sent.iter().all(|leaves| *leaves < 1_000), "{sent:?}");
}

#[tokio::test]
async fn a_sender_that_gives_up_fails_the_receiver_behind_the_data() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    let give_up = async {
        let stream = next_request(&mut inbox).await.into_stream();
        stream.send(5, body(10)).await.unwrap();
    };
    let receive = async {
        let mut stream = left.open_stream(&0u32).await.unwrap();
        assert_eq!(stream.next().await, Ok(StreamItem::Data { index: 5, bytes: body(10) }));
        assert_eq!(stream.next().await, Err(RequestError::Unanswered));
        assert_eq!(stream.next().await, Err(RequestError::Unanswered));
    };
    tokio::join!(give_up, receive);
}

#[tokio::test]
async fn a_stream_request_may_be_answered_in_one_piece() {
    let ((left, _left_inbox), (_right, mut inbox)) = pair();
    let serve = async { next_request(&mut inbox).await.answer(&3u64).await };
    let receive = async { receive_end(left.open_stream(&0u32).await.unwrap()).await };
    assert_eq!(tokio::join!(serve, receive), (Ok(()), 3));
}

async fn receive_end(mut stream: StreamReceiver) -> u64 {
    let Ok(StreamItem::End(body)) = stream.next().await else { panic!("expected the end") };
    haul_core::wire::decode(&body).unwrap()
}

#[tokio::test]
async fn messages_overtake_bulk_data_and_do_not_starve_it() {
    let (mut raw, (connection, mut inbox)) = raw(ConnectionSettings::default());
    raw.write_all(&frame(FrameKind::Request, 9, &[1])).await.unwrap();
    let mut sender = tokio::spawn(async move { send_leaves(next_request(&mut inbox).await, 28).await });
    // Nobody reads: the transport, one batch and the queue fill up.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!sender.is_finished(), "the queue for bulk data is bounded");
    for _ in 0..300 {
        connection.push(&"x".repeat(4_000)).unwrap();
    }
    let mut order = Vec::new();
    while order.len() < 300 + 28 {
        order.push(read_frame(&mut raw).await.unwrap().0);
    }
    let first = order.iter().position(|kind| *kind == FrameKind::Push).unwrap();
    assert!(first <= 10, "the first message waits behind {first} leaves");
    let last = order.iter().rposition(|kind| *kind == FrameKind::Push).unwrap();
    let between = order[first..last].iter().filter(|kind| **kind == FrameKind::Data).count();
    assert!(between >= 3, "only {between} leaves came between 1.2 MB of messages");
    assert_eq!((&mut sender).await.unwrap(), 28);
}

#[tokio::test]
async fn a_cancelled_stream_keeps_to_its_credit() {
    let (mut raw, (right, _inbox)) = raw(ConnectionSettings::default());
    drop(right.open_stream(&0u32).await.unwrap());
    assert_eq!(read_frame(&mut raw).await.unwrap().0, FrameKind::Request);
    let (kind, id, _) = read_frame(&mut raw).await.unwrap();
    assert_eq!(kind, FrameKind::Cancel);
    let flood = data(id, 0, &[1; 10_000]);
    let writing = async { while raw.write_all(&flood).await.is_ok() {} };
    assert_eq!(tokio::join!(right.closed(), writing).0, CloseReason::Violation(Violation::OverCredit));
}

#[tokio::test]
async fn empty_data_frames_cost_credit_too() {
    let (mut raw, (right, _inbox)) = raw(ConnectionSettings::default());
    let _stream = right.open_stream(&0u32).await.unwrap();
    let (kind, id, _) = read_frame(&mut raw).await.unwrap();
    assert_eq!(kind, FrameKind::Request);
    let flood: Vec<u8> = (0..100).flat_map(|_| data(id, 0, &[])).collect();
    let writing = async { while raw.write_all(&flood).await.is_ok() {} };
    let (reason, ()) = tokio::join!(right.closed(), writing);
    assert_eq!(reason, CloseReason::Violation(Violation::OverCredit));
    let bound = u64::from(limits::STREAM_WINDOW_BYTES / limits::DATA_FRAME_COST) + 1;
    assert_eq!(right.traffic().frames_in, bound);
}

#[tokio::test]
async fn the_stream_that_was_asked_for_first_is_through_first() {
    let (mut raw, (_right, mut inbox)) = raw(ConnectionSettings::default());
    let leaves = u64::from(limits::STREAM_WINDOW_BYTES / (65_536 + limits::DATA_FRAME_COST));
    for id in [9, 4] {
        raw.write_all(&frame(FrameKind::Request, id, &[1])).await.unwrap();
    }
    let (first, second) = (next_request(&mut inbox).await, next_request(&mut inbox).await);
    let send = |request: InboundRequest| async move {
        let stream = request.into_stream();
        let parts = (0..leaves).map(|index| (index, body(65_536))).collect();
        stream.send_all(parts).await.unwrap();
        stream.end(&leaves).await.unwrap();
    };
    let (second, first) = (tokio::spawn(send(second)), tokio::spawn(send(first)));
    let mut of_the_other = 0;
    loop {
        match read_frame(&mut raw).await.unwrap() {
            (FrameKind::End, 9, _) => break,
            (FrameKind::End, _, _) => panic!("the younger stream overtook"),
            (_, id, _) => of_the_other += u64::from(id == 4),
        }
    }
    // What found room before the older one had anything to send.
    assert!(of_the_other <= leaves / 4, "{of_the_other} of {leaves}");
    while !matches!(read_frame(&mut raw).await.unwrap(), (FrameKind::End, 4, _)) {}
    tokio::try_join!(first, second).unwrap();
}

/// Reads this many bytes, and lets the connection go on with what it has.
async fn take(raw: &mut DuplexStream, bytes: usize) {
    raw.read_exact(&mut vec![0; bytes]).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_has_something_waiting_all_the_time_is_told_from_who_ran_empty() {
    let (mut raw, (right, mut inbox)) = raw(ConnectionSettings::default());
    raw.write_all(&frame(FrameKind::Request, 9, &[1])).await.unwrap();
    let leaves = 24;
    let sender = tokio::spawn(async move { send_leaves(next_request(&mut inbox).await, leaves).await });
    let idle = right.traffic();
    assert!(!idle.is_blocked());
    let frame_bytes = HEADER_BYTES + size_of::<u64>() + 65_536;
    take(&mut raw, frame_bytes).await;
    let first = right.traffic();
    assert!(first.is_blocked() && !first.was_blocked_since(&idle));
    for _ in 0..10 {
        let before = right.traffic();
        take(&mut raw, frame_bytes).await;
        let after = right.traffic();
        assert!(after.was_blocked_since(&before) && after.bytes_out > before.bytes_out);
    }
    take(&mut raw, (leaves as usize - 11) * frame_bytes).await;
    assert_eq!(sender.await.unwrap(), leaves);
    let empty = right.traffic();
    assert!(!empty.is_blocked() && empty.blocks == first.blocks + 1, "{empty:?}");
    for _ in 0..10 {
        right.push(&vec![7_u8; 100_000]).unwrap();
    }
    take(&mut raw, 1).await;
    let again = right.traffic();
    assert!(again.is_blocked() && !again.was_blocked_since(&first), "it ran empty between");
}

#[tokio::test]
async fn a_cancelled_stream_does_not_wait_for_those_before_it() {
    let (mut raw, (_right, mut inbox)) = raw(ConnectionSettings::default());
    for id in [9, 4] {
        raw.write_all(&frame(FrameKind::Request, id, &[1])).await.unwrap();
    }
    let (first, second) = (next_request(&mut inbox).await, next_request(&mut inbox).await);
    let leaves = u64::from(limits::STREAM_WINDOW_BYTES / (65_536 + limits::DATA_FRAME_COST));
    let first = tokio::spawn(send_leaves(first, leaves));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn(send_leaves(second, leaves));
    raw.write_all(&frame(FrameKind::Cancel, 4, &[])).await.unwrap();
    // Nobody reads, so nothing else can have ended it.
    assert!(second.await.unwrap() < leaves);
    assert!(!first.is_finished());
    drop(raw);
}
