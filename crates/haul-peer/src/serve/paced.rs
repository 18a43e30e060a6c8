//! Sending under a limit of bandwidth.

use std::time::Duration;

use bytes::Bytes;
use haul_core::ids::BlobId;
use haul_core::wire::Label;
use haul_net::connection::StreamSender;

use crate::bandwidth::{Bandwidth, Route, Scope};

/// How soon it is noticed that nobody waits any more for what a limit holds.
const NOTICE: Duration = Duration::from_millis(500);

/// The limits that one stream of an upload passes.
pub(super) struct Paced<'a> {
    bandwidth: &'a Bandwidth,
    groups: &'a std::sync::Arc<[Label]>,
    blob: Option<BlobId>,
}

impl<'a> Paced<'a> {
    /// For a member of these groups, sending this content; none is many small ones.
    pub(super) fn new(bandwidth: &'a Bandwidth, groups: &'a std::sync::Arc<[Label]>, blob: Option<BlobId>) -> Self {
        Self { bandwidth, groups, blob }
    }

    /// Sends when the limits let; false if nobody waits for it any more.
    pub(super) async fn send_all(&self, stream: &StreamSender, parts: Vec<(u64, Bytes)>) -> bool {
        if !self.bandwidth.up.is_limited() {
            return stream.send_all(parts).await.is_ok();
        }
        for (index, bytes) in parts {
            if !self.may_go(stream, bytes.len()).await || stream.send(index, bytes).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn may_go(&self, stream: &StreamSender, bytes: usize) -> bool {
        let route = Route { groups: Some(self.groups.clone()), own: self.blob.map(Scope::Content) };
        let taken = self.bandwidth.up.take(&route, bytes as u64);
        tokio::pin!(taken);
        loop {
            tokio::select! {
                biased;
                _ = &mut taken => return true,
                () = tokio::time::sleep(NOTICE) => if stream.is_cancelled() {
                    return false;
                },
            }
        }
    }
}
