//! What keeps a download from asking although somebody has what it wants: its own limit of bandwidth, and providers
//! without a free upload slot.

use super::provider::{Provider, ProviderState};
use super::{BUSY_AGAIN, Download, RequestId};
use crate::ids::PeerId;
use crate::time::Moment;

impl Download {
    /// Whether a limit of bandwidth holds from now on. With one, no more leaves are asked for than [`Self::allow`] lets.
    pub fn set_limited(&mut self, now: Moment, limited: bool) {
        if limited == self.allowance.is_some() {
            return;
        }
        self.now = now;
        self.allowance = limited.then_some(0);
        self.assign();
    }

    /// So many further leaves may be asked for.
    pub fn allow(&mut self, now: Moment, leaves: u64) {
        self.now = now;
        if let Some(allowance) = &mut self.allowance {
            *allowance = allowance.saturating_add(leaves);
            self.assign();
        }
    }

    /// Whether only the limit keeps this download from asking for more.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// A request waits at its provider for an upload slot: that is no stall, as long as it is said again and again. The
    /// proof of the size does not wait for it if somebody else can give it.
    pub fn handle_queued(&mut self, now: Moment, request: RequestId) {
        self.now = now;
        let Some(provider) = self.requests.get(&request).map(|request| request.provider) else { return };
        let Some(known) = self.providers.get_mut(&provider).filter(|known| known.state == ProviderState::Ready) else {
            return;
        };
        known.queued(now);
        let last = self.geometry.leaves() - 1;
        let able = |(id, known): (&PeerId, &Provider)| {
            *id != provider && known.state == ProviderState::Ready && !known.is_queued() && known.have.contains(last)
        };
        if self.prover == Some(provider) && !self.size_is_proven() && self.providers.iter().any(able) {
            self.drop_provider(provider, ProviderState::Waiting(now.after(BUSY_AGAIN)));
        }
        self.assign();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use alloc::vec::Vec;

    use super::*;
    use crate::blob::{BlobGeometry, LeafSet};
    use crate::download::{Action, Arrival, Have, RequestEnd, Verdict};
    use crate::ids::PublicKey;
    use crate::limits::LEAF_BYTES;

    fn peer(n: u8) -> PeerId {
        let mut bytes = [7; 32];
        bytes[0] = n;
        PublicKey::new(bytes).unwrap()
    }

    fn download(leaves: u64) -> Download {
        let geometry = BlobGeometry::new(leaves * LEAF_BYTES).unwrap();
        Download::new(geometry, LeafSet::new(leaves), &LeafSet::new(leaves), 1)
    }

    /// Answers sheets; the leaves that are asked for, with whom they were asked of.
    fn asked(machine: &mut Download, now: Moment) -> Vec<(RequestId, PeerId, Vec<u64>)> {
        let mut leaves = Vec::new();
        while let Some(action) = machine.poll_action() {
            match action {
                Action::RequestSheet { request, .. } => machine.handle_sheet(now, request, true),
                Action::RequestLeaves { request, provider, ranges, .. } => {
                    let wanted = ranges.iter().flat_map(|range| range.first..range.first + range.count).collect();
                    leaves.push((request, provider, wanted));
                }
                _ => {}
            }
        }
        leaves
    }

    fn count(asked: &[(RequestId, PeerId, Vec<u64>)]) -> usize {
        asked.iter().map(|(_, _, leaves)| leaves.len()).sum()
    }

    fn give(machine: &mut Download, now: Moment, (request, provider, leaves): (RequestId, PeerId, Vec<u64>)) {
        for leaf in leaves {
            assert_eq!(machine.handle_arrival(now, request, leaf), Arrival::Verify);
            machine.handle_verified(now, provider, leaf, Verdict::Good);
        }
        machine.handle_end(now, request, RequestEnd::Served);
    }

    #[test]
    fn no_more_is_asked_for_than_allowed() {
        let mut machine = download(100);
        machine.set_limited(Moment(0), true);
        machine.handle_provider(Moment(0), peer(1), Have::All);
        assert_eq!(count(&asked(&mut machine, Moment(0))), 0);
        assert!(machine.is_held() && machine.starved().is_none(), "held by the limit, not for want of providers");
        let mut got = 0;
        for n in 1_u64.. {
            // A minute for each: who is not asked cannot stall.
            let now = Moment(n * 60_000);
            machine.handle_timeout(now);
            machine.allow(now, 3);
            let requests = asked(&mut machine, now);
            assert!(count(&requests) <= 3);
            for request in requests {
                got += request.2.len();
                give(&mut machine, now, request);
            }
            if machine.verified().is_full() {
                break;
            }
        }
        assert_eq!(got, 100);
    }

    #[test]
    fn without_a_limit_everything_goes_on() {
        let mut machine = download(100);
        machine.set_limited(Moment(0), true);
        machine.handle_provider(Moment(0), peer(1), Have::All);
        assert!(asked(&mut machine, Moment(0)).is_empty());
        machine.set_limited(Moment(1), false);
        assert!(!machine.is_held() && count(&asked(&mut machine, Moment(1))) > 1);
    }

    #[test]
    fn who_waits_for_a_slot_is_patient_and_the_proof_goes_elsewhere() {
        let mut machine = download(10);
        machine.handle_provider(Moment(0), peer(1), Have::All);
        let first = asked(&mut machine, Moment(0)).remove(0);
        // Alone it waits as long as it takes.
        for second in 1..100 {
            machine.handle_queued(Moment(second * 1_000), first.0);
            machine.handle_timeout(Moment(second * 1_000));
            assert!(asked(&mut machine, Moment(second * 1_000)).is_empty());
        }
        // With somebody else the proof does not wait.
        machine.handle_provider(Moment(100_000), peer(2), Have::All);
        machine.handle_queued(Moment(100_000), first.0);
        let other = asked(&mut machine, Moment(100_000)).remove(0);
        assert_eq!(other.1, peer(2));
        give(&mut machine, Moment(100_001), other);
        // Silence is a stall as before.
        let mut silent = download(10);
        silent.handle_provider(Moment(0), peer(1), Have::All);
        asked(&mut silent, Moment(0));
        silent.handle_timeout(Moment(10_000));
        assert!(core::iter::from_fn(|| silent.poll_action()).any(|action| matches!(action, Action::Cancel { .. })));
    }

    #[test]
    fn who_is_busy_is_asked_again_for_ever() {
        let mut machine = download(10);
        machine.handle_provider(Moment(0), peer(1), Have::All);
        for round in 0..100 {
            let now = Moment(round * 10_000);
            machine.handle_timeout(now);
            let request = asked(&mut machine, now).remove(0);
            machine.handle_end(now, request.0, RequestEnd::Busy);
        }
    }
}
