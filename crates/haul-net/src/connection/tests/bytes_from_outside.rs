//! Any bytes at all: a connection ends or goes on, nothing panics, nothing hangs, and another connection does not notice.

use proptest::prelude::*;

use super::*;

/// A valid beginning of a conversation: requests, credit, a push, a goodbye.
fn valid() -> Vec<u8> {
    [
        frame(FrameKind::Request, 1, &[5]),
        frame(FrameKind::Request, 2, &[6; 300]),
        frame(FrameKind::Credit, 1, &100u32.to_le_bytes()),
        frame(FrameKind::Cancel, 2, &[]),
        frame(FrameKind::Push, 0, &[1, 2, 3]),
        frame(FrameKind::Request, 3, &vec![7; 20_000]),
        frame(FrameKind::Goodbye, 0, b"bye"),
    ]
    .concat()
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let length = valid().len();
    let near = |n: usize| 0..n;
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2_000),
        near(length).prop_map(|cut| valid()[..cut].to_vec()),
        (near(400), 0..8u32).prop_map(|(place, bit)| {
            let mut bytes = valid();
            bytes[place] ^= 1 << bit;
            bytes
        }),
        (near(length), near(length)).prop_map(|(first, second)| [&valid()[..first], &valid()[second..]].concat()),
        (any::<[u8; HEADER_BYTES]>(), 0..100usize).prop_map(|(header, rest)| [&header[..], &vec![1; rest]].concat()),
        // Plausible headers with any kind, id and length.
        proptest::collection::vec((0..9u8, 0..4u32, 0..40usize), 1..20).prop_map(|frames| {
            let mut bytes = Vec::new();
            for (kind, id, length) in frames {
                bytes.extend_from_slice(&(length as u32 + 5).to_le_bytes());
                bytes.push(kind);
                bytes.extend_from_slice(&id.to_le_bytes());
                bytes.extend(std::iter::repeat_n(1, length));
            }
            bytes
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn only_this_connection_ends(bytes in hostile()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ((bystander, _inbox), (_other, other_inbox)) = pair();
            let other = tokio::spawn(double(other_inbox));
            let (mut raw, (connection, inbox)) = raw(ConnectionSettings::default());
            let served = tokio::spawn(double_or_drop(inbox));
            let asked = connection.clone();
            // A request of our own is open, so that answers and data meet something.
            let asking = tokio::spawn(async move { asked.request::<u32, u32>(&1).await });
            let _ = raw.write_all(&bytes).await;
            let _ = raw.shutdown().await;
            let mut rest = Vec::new();
            let _ = raw.read_to_end(&mut rest).await;
            connection.closed().await;
            let _ = asking.await.unwrap();
            served.await.unwrap();
            prop_assert_eq!(bystander.request::<u32, u32>(&21).await, Ok(42));
            bystander.close("enough");
            other.await.unwrap();
            Ok(())
        })?;
    }
}

async fn double_or_drop(mut inbox: Inbox) {
    while let Some(inbound) = inbox.next().await {
        if let Inbound::Request(request) = inbound
            && let Ok(number) = request.decode::<u8>()
        {
            let _ = request.answer(&u32::from(number)).await;
        }
    }
}
