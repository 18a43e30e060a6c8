//! Peers of a load that come back with what they had registered, and peers that come and go in the background.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use haul_core::ids::ShareId;
use haul_core::manifest::ShareState;
use haul_core::wire::index::IndexRequest;
use haul_core::wire::{self, Label, List};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

use super::LoadArgs;
use super::Setting;
use super::crowd::{Door, Member, Renewals};
use super::keys::Dice;
use super::registering::{Held, Prepared, group, held};

/// Peers that open their shares at a time.
const OPENING: usize = 32;
/// How long a peer of the background stays away.
const ABSENCE: Duration = Duration::from_millis(500);

/// A share as its peer offers it when it comes back unchanged.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    share: ShareId,
    group: Option<Label>,
    state: ShareState,
}

impl Offer {
    /// Of what was prepared, once it is registered.
    pub(crate) fn new(prepared: &Prepared) -> Self {
        Self { share: prepared.share(), group: prepared.group(), state: prepared.state() }
    }

    /// In this state.
    pub(crate) fn of(share: ShareId, group: Option<Label>, state: ShareState) -> Self {
        Self { share, group, state }
    }

    /// The share.
    pub(crate) fn share(&self) -> ShareId {
        self.share
    }

    /// The request.
    pub(crate) fn request(&self) -> IndexRequest {
        let groups = List::new(self.group.iter().cloned().collect());
        IndexRequest::Open { share: self.share, name: Label::from_lossy("files"), groups, state: self.state }
    }

    /// Opens the share; the index must hold exactly this.
    pub(crate) async fn open(&self, member: &Member) -> anyhow::Result<()> {
        let found = held(&member.session().ask(&self.request()).await?)?;
        ensure!(found == Held::Same, "the index holds {found:?} of the share of peer {}", member.number());
        Ok(())
    }
}

/// All peers of the population, connected here, with their shares open and complete.
#[derive(Debug)]
pub(crate) struct Returned {
    /// The peers with what they offer.
    pub(crate) peers: Vec<(Member, Offer)>,
    /// Keeps them present.
    pub(crate) renewals: Renewals,
}

/// Brings all peers of the population here; connections that they have elsewhere end.
pub(crate) async fn bring_back(setting: &Setting, load: &LoadArgs) -> anyhow::Result<Returned> {
    let states = match &load.states {
        Some(path) => newest(&fs::read_to_string(path).context("the states cannot be read")?)?,
        None => BTreeMap::new(),
    };
    let members = setting.peers.enter_all(0, setting.population.peers()).await.context("connecting")?;
    let renewals = Renewals::start(&members);
    let states = &states;
    let open = |member: Member| async move {
        let (number, groups) = (member.number(), load.groups);
        let offer = match states.get(&number) {
            Some(state) => Offer::of(setting.population.share(number), group(number, groups), *state),
            None => Offer::new(&Prepared::new(&setting.population, &setting.paths, number, groups)),
        };
        offer.open(&member).await?;
        Ok::<_, anyhow::Error>((member, offer))
    };
    let mut opening = stream::iter(members.into_iter().map(open)).buffered(OPENING);
    let mut peers = Vec::new();
    while let Some(peer) = opening.next().await {
        peers.push(peer?);
    }
    drop(opening);
    Ok(Returned { peers, renewals })
}

/// The newest acknowledged state of each peer, from the text of a journal.
pub(super) fn newest(journal: &str) -> anyhow::Result<BTreeMap<u32, ShareState>> {
    let mut states = BTreeMap::new();
    // The last line may have been cut off with its writer.
    for line in journal.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let (peer, state) = line.trim_end().split_once(' ').context("a line of the journal has two fields")?;
        let bytes = (0..state.len()).step_by(2).map(|at| {
            let digits = state.get(at..at + 2).context("a state has two digits for each byte")?;
            Ok(u8::from_str_radix(digits, 16)?)
        });
        states.insert(peer.parse()?, wire::decode(&bytes.collect::<anyhow::Result<Vec<u8>>>()?)?);
    }
    Ok(states)
}

type Slots = Arc<Vec<Mutex<Option<(Member, Offer)>>>>;

/// Peers that leave without a word and come back unchanged, all the time.
#[derive(Debug)]
pub(crate) struct Churn {
    task: JoinHandle<anyhow::Result<()>>,
    events: Arc<AtomicU64>,
    _renewals: Renewals,
}

impl Churn {
    /// `per_second` peers leave in each second, chosen at random.
    pub(crate) fn start(returned: Returned, door: Door, per_second: f64, seed: u64) -> Self {
        let slots: Slots = Arc::new(returned.peers.into_iter().map(|peer| Mutex::new(Some(peer))).collect());
        let pause = Duration::from_secs_f64(1.0 / per_second.max(0.001));
        let events = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&events);
        let task = tokio::spawn(async move {
            let (mut dice, mut away) = (Dice::new(seed), JoinSet::new());
            let mut ticks = tokio::time::interval(pause);
            loop {
                ticks.tick().await;
                let (door, slots) = (door.clone(), Arc::clone(&slots));
                let number = dice.below(slots.len() as u64) as usize;
                away.spawn(async move { leave_and_return(&door, &slots, number).await });
                while let Some(done) = away.try_join_next() {
                    done??;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { task, events, _renewals: returned.renewals }
    }

    /// Ends it; returns how many peers left and came back. An error of one of them is an error here.
    pub(crate) async fn stop(self) -> anyhow::Result<u64> {
        if self.task.is_finished() {
            self.task.await??;
        } else {
            self.task.abort();
        }
        Ok(self.events.load(Ordering::Relaxed))
    }
}

async fn leave_and_return(door: &Door, slots: &Slots, number: usize) -> anyhow::Result<()> {
    let Some(mut slot) = slots.get(number).and_then(|slot| slot.try_lock().ok()) else { return Ok(()) };
    let Some((member, offer)) = slot.take() else { return Ok(()) };
    let gone = member.vanish().await;
    let back = Instant::now() + ABSENCE;
    tokio::time::sleep_until(back.into()).await;
    let member = door.enter_again(gone).await.context("coming back")?;
    offer.open(&member).await?;
    *slot = Some((member, offer));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_complete_line_of_each_peer_counts() {
        let state = |revision| ShareState { revision, ..ShareState::default() };
        let line =
            |peer: u32, revision| format!("{peer} {}\n", super::super::register::hex(&wire::encode(&state(revision))));
        let text = line(1, 1) + &line(2, 1) + &line(1, 2) + line(2, 9).trim_end();
        assert_eq!(newest(&text).unwrap(), BTreeMap::from([(1, state(2)), (2, state(1))]));
        assert!(newest("1 zz\n").is_err() && newest("1\n").is_err());
    }
}
