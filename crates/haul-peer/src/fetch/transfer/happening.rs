//! What happens to a transfer: providers come and go, sheets and leaves arrive and are written, requests end.

use std::sync::Arc;

use haul_core::blob::LeafSet;
use haul_core::download::{Arrival, Have, RequestEnd, RequestId, Verdict};
use haul_core::ids::PeerId;
use haul_core::limits::LEAF_BYTES;
use haul_core::wire::index::PlannedSource;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_net::clock::boot_now;
use tokio::sync::OwnedSemaphorePermit;

use super::super::output::Output;
use super::super::pool::ConnectError;
use super::super::requests::{Arrived, Following, SheetAnswer, follow};
use super::super::writing::{Batch, Written};
use super::super::{CHANGED, FetchError, noting};
use super::{Event, Transfer};
use crate::swarm::{SwarmNews, leaves_of};
use crate::timeline::{How, Note};

impl Transfer<'_> {
    pub(super) fn happen(&mut self, event: Event) -> Result<(), FetchError> {
        let now = boot_now();
        match event {
            Event::Sheet { request, provider, sheet, answer } => self.sheet(request, provider, sheet, answer),
            Event::Leaves { request, provider, leaves, permit } => self.leaves(request, provider, leaves, permit),
            Event::Ended { request, provider, end } => self.ended(request, provider, end),
            Event::Written(written) => self.written(written?),
            Event::Local(results) => {
                for (leaf, good) in results {
                    if good {
                        let bytes = self.start.geometry.leaf_bytes(leaf) as u64;
                        self.tally.local += bytes;
                        self.passing.add(&[leaf]);
                        self.note_bytes(bytes);
                    }
                    self.machine.handle_local(now, leaf, good);
                }
            }
            Event::Checkpointed(result) => {
                self.checkpoint.running = false;
                result?;
            }
            Event::Connected { provider, result } => {
                let ours = matches!(result, Err(ConnectError::NoGrant));
                if self.providers.connected(provider, result, now) {
                    self.provider_is_there(provider);
                } else if !ours {
                    self.passing.failed(provider);
                }
            }
            Event::Swarm(news) => self.swarm(news),
            Event::Holds { provider, have } => {
                if self.providers.is_partial(&provider) {
                    self.machine.handle_provider(now, provider, have);
                }
            }
            Event::Queued { request, .. } if !self.requests.contains_key(&request) => {}
            Event::Queued { request, provider, place } => {
                self.providers.queued(provider, request, place);
                self.machine.handle_queued(now, request);
            }
            Event::Allowed(bytes) => {
                self.held.answered();
                self.machine.allow(now, bytes / LEAF_BYTES);
            }
            Event::Size { provider, size } => self.judge_size(provider, size),
            Event::Found(found) => {
                self.providers.found(found, now);
                self.named_again();
            }
        }
        Ok(())
    }

    fn named_again(&mut self) {
        for provider in self.providers.named_again() {
            if !self.providers.is_partial(&provider) {
                self.machine.handle_provider(boot_now(), provider, Have::All);
            }
        }
    }

    /// A provider is connected. What one that is downloading itself holds has to be asked for, again and again.
    fn provider_is_there(&mut self, provider: PeerId) {
        let now = boot_now();
        if !self.providers.is_partial(&provider) {
            return self.machine.handle_provider(now, provider, Have::All);
        }
        let nothing = Have::Leaves(LeafSet::new(self.start.geometry.leaves()));
        self.machine.handle_provider(now, provider, nothing);
        if let Some(lease) = self.providers.lease(&provider) {
            let following = Following {
                provider,
                blob: self.start.blob,
                geometry: self.start.geometry,
                lease,
                events: self.sender.clone(),
            };
            let task = self.tasks.spawn(follow(following));
            if let Some(before) = self.followers.insert(provider, task) {
                before.abort();
            }
        }
    }

    fn swarm(&mut self, news: SwarmNews) {
        let now = boot_now();
        match news {
            SwarmNews::Joined { groups } => {
                self.start.timeline.note(now, Note::InSwarm);
                self.providers.swarm_is_joined(now);
                self.held.joined(&groups);
                self.passing.joined(groups);
            }
            SwarmNews::Alone => self.providers.no_swarm(),
            SwarmNews::Peers(peers) => {
                self.providers.told_of(peers, now);
                self.named_again();
            }
            SwarmNews::Plan { lease, sources } => {
                self.providers.planned(sources.iter().map(|source| source.from));
                self.start.timeline.note(now, Note::Planned { sources: sources.len() as u64 });
                for source in &sources {
                    self.start.timeline.note_of(now, source.from, Note::Found { how: How::Plan });
                }
                let leaves = |source: &PlannedSource| (source.from, leaves_of(self.start.geometry, &source.pieces));
                let sources = sources.iter().map(leaves).collect();
                self.machine.handle_plan(now, now.after(lease), sources);
            }
        }
    }

    fn sheet(&mut self, request: RequestId, provider: PeerId, sheet: Option<u64>, answer: SheetAnswer) {
        match answer {
            SheetAnswer::Values { size, values } if size == self.start.geometry.size() => {
                // An answer that was cancelled meanwhile must not count for the next prover.
                if self.requests.remove(&request).is_some() {
                    let good = self.checker.accept(sheet, &values);
                    if good {
                        self.note_of(provider, Note::Outline);
                    }
                    self.machine.handle_sheet(boot_now(), request, good);
                    if let Some(sheet) = sheet.filter(|_| good) {
                        self.passing.add_sheet(sheet, self.machine.verified());
                    }
                }
            }
            SheetAnswer::Values { size, .. } => {
                self.claims_other_size(provider, size);
                self.ended(request, provider, RequestEnd::OtherSize);
            }
            SheetAnswer::End(end) => self.ended(request, provider, end),
        }
    }

    fn leaves(&mut self, request: RequestId, provider: PeerId, leaves: Vec<Arrived>, permit: OwnedSemaphorePermit) {
        let (now, current) = (boot_now(), self.checker.epoch());
        let mut good = Vec::with_capacity(leaves.len());
        for Arrived { leaf, bytes, epoch, verdict } in leaves {
            if self.machine.handle_arrival(now, request, leaf) == Arrival::Discard {
                self.start.timeline.wasted(provider, bytes.len() as u64);
                continue;
            }
            match (if epoch == current { verdict } else { Verdict::Unknown }, &mut self.output) {
                (Verdict::Good, Output::File(_)) => good.push((leaf, bytes)),
                (Verdict::Good, Output::Reader(reader)) => {
                    reader.keep(leaf, bytes);
                    self.verified(provider, &[leaf]);
                }
                (verdict, _) => self.refused(provider, leaf, verdict),
            }
        }
        if !good.is_empty() {
            self.write(Batch { provider, epoch: current, leaves: good, _permit: permit });
        }
    }

    /// A leaf that cannot be used.
    fn refused(&mut self, provider: PeerId, leaf: u64, verdict: Verdict) {
        self.start.timeline.wasted(provider, self.start.geometry.leaf_bytes(leaf) as u64);
        if verdict == Verdict::Bad && self.start.geometry.sheets() == 0 {
            // Without an outline nothing has shown yet what size this provider believes in.
            self.ask_size(provider);
        } else {
            self.machine.handle_verified(boot_now(), provider, leaf, verdict);
        }
    }

    fn write(&mut self, batch: Batch) {
        let Output::File(part) = &self.output else { return };
        if self.writing.push(batch) {
            let (writing, part, sender) = (self.writing.clone(), Arc::clone(part), self.sender.clone());
            self.workers.spawn_blocking(move || writing.drain(&part, &sender));
        }
    }

    pub(super) fn written(&mut self, written: Vec<Written>) {
        let current = self.checker.epoch();
        for Written { provider, epoch, leaves } in written {
            if epoch == current {
                self.verified(provider, &leaves);
            } else {
                let now = boot_now();
                for leaf in leaves {
                    self.start.timeline.wasted(provider, self.start.geometry.leaf_bytes(leaf) as u64);
                    self.machine.handle_verified(now, provider, leaf, Verdict::Unknown);
                }
            }
        }
    }

    /// Leaves of this provider are verified, and written if they are to be.
    fn verified(&mut self, provider: PeerId, leaves: &[u64]) {
        let now = boot_now();
        let bytes = leaves.iter().map(|leaf| self.start.geometry.leaf_bytes(*leaf) as u64).sum();
        self.start.timeline.gave(now, provider, bytes, leaves.len() as u64);
        self.passing.add(leaves);
        self.passing.gave(provider, bytes);
        *self.tally.gave.entry(provider).or_default() += bytes;
        self.providers.gave(provider);
        self.note_bytes(bytes);
        for leaf in leaves {
            self.machine.handle_verified(now, provider, *leaf, Verdict::Good);
        }
    }

    fn ask_size(&mut self, provider: PeerId) {
        let Some(lease) = self.providers.lease(&provider) else { return self.judge_size(provider, None) };
        let (sender, blob) = (self.sender.clone(), self.start.blob);
        self.tasks.spawn(async move {
            let size = match lease.connection().request(&PeerRequest::Bitfield { blob, beyond: None }).await {
                Ok(PeerAnswer::Bitfield { size, .. }) => Some(size),
                _ => None,
            };
            let _ = sender.send(Event::Size { provider, size }).await;
        });
    }

    /// The provider of a bad only leaf has told its size, if it did.
    fn judge_size(&mut self, provider: PeerId, size: Option<u64>) {
        let now = boot_now();
        if size == Some(self.start.geometry.size()) {
            return self.machine.handle_verified(now, provider, 0, Verdict::Bad);
        }
        if let Some(size) = size {
            self.claims_other_size(provider, size);
        }
        self.machine.handle_verified(now, provider, 0, Verdict::Unknown);
        self.machine.handle_provider_of_no_use(now, provider);
    }

    fn note_bytes(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        self.checkpoint.bytes += bytes;
        self.checkpoint.durable_bytes += bytes;
    }

    fn ended(&mut self, request: RequestId, provider: PeerId, end: RequestEnd) {
        self.requests.remove(&request);
        self.providers.request_over(request);
        let now = boot_now();
        match end {
            RequestEnd::Served | RequestEnd::OtherSize | RequestEnd::Interrupted => {}
            RequestEnd::NotHeld => self.providers.not_held(provider),
            RequestEnd::Changed => self.providers.trouble(provider, CHANGED.into()),
            RequestEnd::Busy => self.providers.trouble(provider, "is busy".into()),
            RequestEnd::Failed => self.providers.trouble(provider, "broke off".into()),
        }
        // Before the end of the request: the others of a lost connection then end by themselves.
        if self.providers.lost(&provider, now) {
            self.machine.handle_provider_lost(now, provider);
        }
        self.machine.handle_end(now, request, end);
        // Of a connection that has ended that is noted, not each request that broke with it.
        let connected = self.providers.lease(&provider).is_some();
        if let Some(note) = noting::of_end(end).filter(|note| connected || *note != Note::BrokeOff) {
            self.note_of(provider, note);
        }
    }
}
