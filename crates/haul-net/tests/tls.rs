//! Dialer and listener over loopback sockets: who gets in, and who does not.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "common/sockets.rs"]
mod common;

use common::{connected, key};
use haul_net::connection::{CloseReason, Inbound};

#[tokio::test]
async fn both_sides_know_each_others_key_and_requests_pass() {
    let ((dialer, _dialer_inbox), (server, mut inbox)) = connected().await;
    assert_eq!(dialer.remote(), key(1).public());
    assert_eq!(server.remote(), key(2).public());
    let serve = async {
        while let Some(inbound) = inbox.next().await {
            let Inbound::Request(request) = inbound else { panic!("no push expected") };
            let number: u32 = request.decode().unwrap();
            request.answer(&(number + 1)).await.unwrap();
        }
    };
    let ask = async {
        assert_eq!(dialer.request(&41u32).await, Ok(42u32));
        dialer.close("enough");
    };
    tokio::join!(serve, ask);
    assert_eq!(server.closed().await, CloseReason::Remote("enough".into()));
    assert_eq!(dialer.closed().await, CloseReason::Local("enough".into()));
}
