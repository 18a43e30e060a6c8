//! This peer's places in swarms: taken at the index on every session, kept up to date, given up when nobody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use haul_core::blob::BlobGeometry;
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits;
use haul_core::wire::index::{IndexAnswer, IndexPush, IndexRequest, Joined, Received, Refusal, Runs};
use haul_core::wire::{Label, List};
use haul_net::connection::RequestError;
use tokio::sync::{Notify, mpsc};

use super::session::Session;
use crate::swarm::{Report, Seat, SwarmNews, SwarmSeat};

/// Bounds of the wait for an index that is busy, whatever it says.
const BUSY_SHORTEST: Duration = Duration::from_millis(100);
const BUSY_LONGEST: Duration = Duration::from_secs(10);

/// All places of this peer.
#[derive(Debug, Default)]
pub(super) struct Swarms {
    inner: Mutex<Inner>,
    /// Something is to be told to the index.
    orders: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    places: BTreeMap<BlobId, Place>,
    /// Bytes per second that the uplink of this peer carries, if that is known.
    uplink: Option<u64>,
    /// How many more places may be told of that alone, until the next look.
    uplink_tellings: u32,
    /// Whose order was carried out last: the next one is that of a place behind it, so that all have their turn.
    served: Option<BlobId>,
    /// Given up here, and still taken at the index.
    ended: Vec<BlobId>,
}

#[derive(Debug)]
struct Place {
    number: u64,
    size: u64,
    standing: Standing,
    held: BTreeSet<u32>,
    /// Of those, what the index does not know yet.
    untold: BTreeSet<u32>,
    received: BTreeMap<PeerId, u64>,
    failed: BTreeSet<PeerId>,
    /// What the index was told of the uplink last.
    uplink_told: Option<u64>,
    /// Who may have the blob, as the index said last.
    groups: Option<Vec<Label>>,
    news: mpsc::UnboundedSender<SwarmNews>,
}

/// How a place stands on this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    New,
    Asked,
    Taken,
    Refused,
}

/// One place; dropping it gives it up.
#[derive(Debug)]
struct LinkSeat {
    blob: BlobId,
    number: u64,
    swarms: Arc<Swarms>,
}

impl SwarmSeat for LinkSeat {
    fn have(&self, report: &Report) {
        {
            let mut inner = self.swarms.lock();
            let Some(place) = inner.places.get_mut(&self.blob).filter(|place| place.number == self.number) else {
                return;
            };
            for piece in report.pieces.iter().flat_map(|run| run.pieces()) {
                if place.held.insert(piece) {
                    place.untold.insert(piece);
                }
            }
            for new in &report.received {
                *place.received.entry(new.from).or_default() += new.bytes;
            }
            place.failed.extend(&report.failed);
        }
        self.swarms.orders.notify_one();
    }

    fn groups(&self) -> Option<Vec<Label>> {
        let inner = self.swarms.lock();
        inner.places.get(&self.blob).filter(|place| place.number == self.number)?.groups.clone()
    }
}

impl Drop for LinkSeat {
    fn drop(&mut self) {
        let mut inner = self.swarms.lock();
        if inner.places.get(&self.blob).is_some_and(|place| place.number == self.number)
            && inner.places.remove(&self.blob).is_some_and(|place| place.standing != Standing::New)
        {
            inner.ended.push(self.blob);
            drop(inner);
            self.swarms.orders.notify_one();
        }
    }
}

/// What the index is to be told.
enum Order {
    Join(BlobId, u64, IndexRequest),
    Have(BlobId, u64, IndexRequest),
    Depart(IndexRequest),
}

impl Order {
    fn request(&self) -> &IndexRequest {
        let (Self::Join(_, _, request) | Self::Have(_, _, request) | Self::Depart(request)) = self;
        request
    }
}

impl Swarms {
    /// Takes a place, unless another download of the blob has it.
    pub(super) fn join(self: &Arc<Self>, blob: BlobId, size: u64) -> Option<Seat> {
        let (sender, news) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        if inner.places.contains_key(&blob) || inner.places.len() >= limits::SWARMS_PER_MEMBER {
            return None;
        }
        inner.last += 1;
        let number = inner.last;
        let place = Place {
            number,
            size,
            standing: Standing::New,
            held: BTreeSet::new(),
            untold: BTreeSet::new(),
            received: BTreeMap::new(),
            failed: BTreeSet::new(),
            uplink_told: None,
            groups: None,
            news: sender,
        };
        inner.places.insert(blob, place);
        drop(inner);
        self.orders.notify_one();
        Some(Seat { seat: Box::new(LinkSeat { blob, number, swarms: Arc::clone(self) }), news })
    }

    /// What the uplink carries for all swarms, in bytes per second; none if nothing is known of it. To be called again and
    /// again: each time, some places are told.
    pub(super) fn set_uplink(&self, rate: Option<u64>) {
        let mut inner = self.lock();
        (inner.uplink, inner.uplink_tellings) = (rate, limits::UPLINK_TELLINGS);
        let share = inner.uplink_share();
        let news = inner.places.values().any(|place| place.uplink_alone(share).is_some());
        drop(inner);
        if news {
            self.orders.notify_one();
        }
    }

    /// A new session: all places are taken anew.
    pub(super) fn begin_session(&self) {
        let mut inner = self.lock();
        inner.ended.clear();
        for place in inner.places.values_mut() {
            place.standing = Standing::New;
        }
    }

    /// What the index says of a swarm; what concerns no place here is forgotten.
    pub(super) fn deliver(&self, push: IndexPush) {
        let (blob, news) = match push {
            IndexPush::Providers { blob, peers } => (blob, SwarmNews::Peers(peers)),
            IndexPush::Plan { blob, lease_ms, sources } => {
                let lease = Duration::from_millis(lease_ms.into());
                (blob, SwarmNews::Plan { lease, sources: sources.into_vec() })
            }
            IndexPush::Revoked { .. } | IndexPush::Match { .. } => return,
        };
        self.tell(blob, news);
    }

    /// Tells the index what is to be told. Does not end by itself.
    pub(super) async fn carry_out_orders(&self, session: &Session) {
        loop {
            let Some(order) = self.next_order() else {
                self.orders.notified().await;
                continue;
            };
            let answer = session.connection.request::<_, IndexAnswer>(order.request()).await;
            if matches!(answer, Err(RequestError::Closed(_))) {
                // Whoever reads learns it, too.
                return std::future::pending().await;
            }
            match (order, answer) {
                (Order::Join(blob, number, _), Ok(IndexAnswer::Joined(joined))) => self.joined(blob, number, joined),
                // A place that is taken anew tells all again, so nothing is lost.
                (
                    Order::Join(blob, number, _) | Order::Have(blob, number, _),
                    Ok(IndexAnswer::Refused(Refusal::Busy { retry_after_ms })),
                ) => {
                    let wait = Duration::from_millis(retry_after_ms);
                    tokio::time::sleep(wait.clamp(BUSY_SHORTEST, BUSY_LONGEST)).await;
                    self.stand(blob, number, Standing::New);
                }
                (Order::Join(blob, number, _), answer) => {
                    tracing::debug!(?answer, %blob, "the index keeps no swarm for this content");
                    self.refused(blob, number);
                }
                // It has forgotten the place: taken anew.
                (Order::Have(blob, number, _), Ok(IndexAnswer::Refused(_)) | Err(_)) => {
                    self.stand(blob, number, Standing::New);
                }
                (Order::Have(..) | Order::Depart(_), _) => {}
            }
        }
    }

    fn next_order(&self) -> Option<Order> {
        let mut inner = self.lock();
        if let Some(blob) = inner.ended.pop() {
            // Somebody may have taken the place again meanwhile.
            if !inner.places.contains_key(&blob) {
                return Some(Order::Depart(IndexRequest::Depart { blob }));
            }
        }
        // Pieces are told of first: others wait for them.
        let (blob, order) = inner.next_order(false).or_else(|| {
            inner.uplink_tellings = inner.uplink_tellings.checked_sub(1)?;
            inner.next_order(true)
        })?;
        inner.served = Some(blob);
        Some(order)
    }

    fn joined(&self, blob: BlobId, number: u64, joined: Joined) {
        if self.stand(blob, number, Standing::Taken) {
            let groups = joined.groups.into_vec();
            self.allow(blob, Some(groups.clone()));
            self.tell(blob, SwarmNews::Peers(joined.peers));
            self.tell(blob, SwarmNews::Joined { groups });
        }
    }

    fn refused(&self, blob: BlobId, number: u64) {
        if self.stand(blob, number, Standing::Refused) {
            self.allow(blob, None);
            self.tell(blob, SwarmNews::Alone);
        }
    }

    fn allow(&self, blob: BlobId, groups: Option<Vec<Label>>) {
        if let Some(place) = self.lock().places.get_mut(&blob) {
            place.groups = groups;
        }
    }

    /// Notes how a place stands; false if it was given up meanwhile. Another of the same blob is asked for by itself.
    fn stand(&self, blob: BlobId, number: u64, standing: Standing) -> bool {
        let mut inner = self.lock();
        let place = inner.places.get_mut(&blob).filter(|place| place.number == number);
        place.map(|place| place.standing = standing).is_some()
    }

    fn tell(&self, blob: BlobId, news: SwarmNews) {
        if let Some(place) = self.lock().places.get(&blob) {
            // Nobody listens once the download is complete.
            let _ = place.news.send(news);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The order of the next place that has one, also if the uplink `alone` is news.
    fn next_order(&mut self, alone: bool) -> Option<(BlobId, Order)> {
        let share = self.uplink_share();
        let after = self.served.map_or(Bound::Unbounded, Bound::Excluded);
        let order = |(blob, place): (&BlobId, &mut Place)| Some((*blob, place.order(*blob, share, alone)?));
        let behind = self.places.range_mut((after, Bound::Unbounded)).find_map(order);
        behind.or_else(|| self.places.iter_mut().find_map(order))
    }

    /// What the uplink carries for one place. Swarms are planned each by itself: if every one took all of the uplink for its
    /// own, each would have too much planned. Downloads that are complete do not count: most of their swarms are over.
    fn uplink_share(&self) -> Option<u64> {
        let places = self.places.values().filter(|place| place.is_downloading()).count();
        // Zero would say that nothing is known.
        Some((self.uplink? / places.max(1) as u64).max(1))
    }
}

impl Place {
    /// Pieces of it are lacking, and the index knows.
    fn is_downloading(&self) -> bool {
        let pieces = BlobGeometry::new(self.size).map_or(0, |geometry| geometry.pieces() as usize);
        self.standing != Standing::Refused && self.held.len() < pieces
    }

    /// What is to be told of the uplink; 0 takes back what was told.
    fn uplink_news(&self, share: Option<u64>) -> Option<u64> {
        let (told, share) = (self.uplink_told.unwrap_or(0), share.unwrap_or(0));
        (self.standing == Standing::Taken && share.abs_diff(told) > told / limits::UPLINK_NEWS).then_some(share)
    }

    /// The same, if it is worth a message of its own: what is complete waits for other news.
    fn uplink_alone(&self, share: Option<u64>) -> Option<u64> {
        self.uplink_news(share).filter(|_| self.is_downloading())
    }

    /// What the index is to be told of this place, which carries such a share of the uplink; of that `alone`, too.
    fn order(&mut self, blob: BlobId, share: Option<u64>, alone: bool) -> Option<Order> {
        let uplink = if self.has_news() { self.uplink_news(share) } else { self.uplink_alone(share).filter(|_| alone) };
        match self.standing {
            Standing::New => {
                self.standing = Standing::Asked;
                self.received.clear();
                self.failed.clear();
                let mut untold = self.held.clone();
                let pieces = take_runs(&mut untold);
                self.untold = untold;
                self.uplink_told = share;
                Some(Order::Join(
                    blob,
                    self.number,
                    IndexRequest::Join { blob, size: self.size, pieces, uplink: share },
                ))
            }
            Standing::Taken if self.has_news() || uplink.is_some() => {
                let pieces = take_runs(&mut self.untold);
                // What one message does not hold follows with the next.
                let received = std::iter::from_fn(|| self.received.pop_first()).take(limits::SWARM_SOURCES);
                let received = List::new(received.map(|(from, bytes)| Received { from, bytes }).collect());
                let failed = std::iter::from_fn(|| self.failed.pop_first()).take(limits::SWARM_SOURCES);
                let failed = List::new(failed.collect());
                self.uplink_told = uplink.or(self.uplink_told);
                let have = IndexRequest::Have { blob, pieces, received, failed, uplink };
                Some(Order::Have(blob, self.number, have))
            }
            Standing::Asked | Standing::Taken | Standing::Refused => None,
        }
    }

    /// Whether there is anything to tell of pieces and of others.
    fn has_news(&self) -> bool {
        !self.untold.is_empty() || !self.received.is_empty() || !self.failed.is_empty()
    }
}

/// Takes as many runs as a message holds off the set.
fn take_runs(pieces: &mut BTreeSet<u32>) -> Runs {
    let mut runs = Runs::default();
    let _ = pieces.iter().all(|piece| runs.push(*piece));
    *pieces = pieces.split_off(&runs.end());
    runs
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::wire::index::PieceRange;

    use super::*;

    fn run(first: u32, count: u32) -> PieceRange {
        PieceRange { first, count }
    }

    fn request(order: Option<Order>) -> Option<IndexRequest> {
        order.map(|(Order::Join(.., request) | Order::Have(.., request) | Order::Depart(request))| request)
    }

    #[test]
    fn a_place_is_taken_told_of_and_taken_again_on_the_next_session() {
        let swarms = Arc::<Swarms>::default();
        let blob = BlobId::new([1; 32]);
        let mut seat = swarms.join(blob, 100).unwrap();
        assert!(swarms.join(blob, 100).is_none(), "one download of a blob has the place");
        let join = |pieces: Vec<PieceRange>| {
            let pieces = pieces.try_into().unwrap();
            Some(IndexRequest::Join { blob, size: 100, pieces, uplink: None })
        };
        assert_eq!(request(swarms.next_order()), join(Vec::new()));
        let other = haul_core::ids::PublicKey::new([7; 32]).unwrap();
        let received = vec![Received { from: other, bytes: 5 }];
        let report = Report { pieces: vec![run(3, 2)], received, failed: vec![other] };
        seat.seat.have(&report);
        seat.seat.have(&Report { pieces: Vec::new(), ..report });
        assert_eq!(request(swarms.next_order()), None, "the index has not answered yet");
        let groups = List::new(Vec::new());
        swarms.joined(blob, 1, Joined { groups, peers: Vec::new() });
        assert_eq!(seat.news.try_recv().unwrap(), SwarmNews::Peers(Vec::new()));
        assert_eq!(seat.news.try_recv().unwrap(), SwarmNews::Joined { groups: Vec::new() });
        let have = IndexRequest::Have {
            blob,
            pieces: vec![run(3, 2)].try_into().unwrap(),
            received: List::new(vec![Received { from: other, bytes: 10 }]),
            failed: List::new(vec![other]),
            uplink: None,
        };
        assert_eq!(request(swarms.next_order()), Some(have));
        assert_eq!(request(swarms.next_order()), None);
        swarms.begin_session();
        assert_eq!(request(swarms.next_order()), join(vec![run(3, 2)]));
        drop(seat);
        assert_eq!(request(swarms.next_order()), Some(IndexRequest::Depart { blob }));
        assert_eq!(request(swarms.next_order()), None);
    }

    #[test]
    fn a_message_holds_so_many_runs_and_the_rest_follows() {
        let every_other: BTreeSet<u32> = (0..2 * limits::HAVE_RANGES as u32 + 4).step_by(2).collect();
        let mut left = every_other.clone();
        assert_eq!(take_runs(&mut left).len(), limits::HAVE_RANGES);
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn a_message_names_so_many_sources_and_the_rest_follows() {
        let swarms = Arc::<Swarms>::default();
        let blob = BlobId::new([1; 32]);
        let seat = swarms.join(blob, 100).unwrap();
        swarms.next_order();
        swarms.joined(blob, 1, Joined { groups: List::new(Vec::new()), peers: Vec::new() });
        let most = limits::SWARM_SOURCES;
        let peers: BTreeSet<PeerId> = (0..=u8::MAX)
            .filter_map(|n| haul_core::ids::PublicKey::new([[n, 7], [7; 2]].concat().repeat(8).try_into().ok()?).ok())
            .take(2 * most + 3)
            .collect();
        assert!(peers.len() > most + 3, "{} of these bytes are keys", peers.len());
        let received = peers.iter().map(|from| Received { from: *from, bytes: 5 }).collect();
        seat.seat.have(&Report { pieces: Vec::new(), received, failed: peers.iter().copied().collect() });
        let (mut gave, mut failing, mut orders) = (BTreeSet::new(), BTreeSet::new(), 0);
        while let Some(IndexRequest::Have { received, failed, .. }) = request(swarms.next_order()) {
            gave.extend(received.iter().map(|received| received.from));
            failing.extend(failed.iter().copied());
            orders += 1;
        }
        assert_eq!((&gave, &failing, orders), (&peers, &peers, peers.len().div_ceil(most)));
    }

    #[test]
    fn who_may_have_it_is_what_the_index_said_last_also_when_nobody_listens() {
        let swarms = Arc::<Swarms>::default();
        let blob = BlobId::new([1; 32]);
        let Seat { seat, news } = swarms.join(blob, 100).unwrap();
        assert_eq!(seat.groups(), None);
        drop(news);
        for groups in [vec!["lab"], vec!["lab", "friends"], vec![]] {
            swarms.begin_session();
            let groups: Vec<Label> = groups.into_iter().map(|group| Label::new(group).unwrap()).collect();
            assert!(matches!(swarms.next_order(), Some(Order::Join(..))));
            swarms.joined(blob, 1, Joined { groups: List::new(groups.clone()), peers: Vec::new() });
            assert_eq!(seat.groups(), Some(groups));
        }
        swarms.begin_session();
        assert_eq!(seat.groups(), Some(vec![]), "while the index is away");
        assert!(matches!(swarms.next_order(), Some(Order::Join(..))));
        swarms.refused(blob, 1);
        assert_eq!(seat.groups(), None);
    }

    #[test]
    fn an_answer_to_a_place_that_was_given_up_says_nothing_of_the_next_one() {
        let swarms = Arc::<Swarms>::default();
        let blob = BlobId::new([1; 32]);
        let joined = || Joined { groups: List::new(Vec::new()), peers: Vec::new() };
        let old = swarms.join(blob, 100).unwrap();
        let Some(Order::Join(_, first, _)) = swarms.next_order() else { panic!("it is asked for") };
        drop(old);
        let _new = swarms.join(blob, 100).unwrap();
        swarms.joined(blob, first, joined());
        let Some(Order::Join(_, second, _)) = swarms.next_order() else { panic!("it is asked for, too") };
        assert_ne!(first, second);
    }

    #[test]
    fn places_take_turns_however_much_one_has_to_tell() {
        let swarms = Arc::<Swarms>::default();
        let (low, high) = (BlobId::new([1; 32]), BlobId::new([2; 32]));
        let busy = swarms.join(low, 100).unwrap();
        assert!(matches!(swarms.next_order(), Some(Order::Join(..))));
        swarms.joined(low, 1, Joined { groups: List::new(Vec::new()), peers: Vec::new() });
        let _other = swarms.join(high, 100).unwrap();
        let next = |piece| {
            busy.seat.have(&Report { pieces: vec![run(piece, 1)], ..Report::default() });
            swarms.next_order()
        };
        assert!(matches!(next(0), Some(Order::Join(blob, ..)) if blob == high));
        assert!(matches!(next(1), Some(Order::Have(blob, ..)) if blob == low));
    }

    /// The next order, if there is one, with what it says of the uplink.
    fn said(swarms: &Arc<Swarms>) -> Option<(&'static str, Option<u64>)> {
        swarms.next_order().map(|order| match order.request() {
            IndexRequest::Join { uplink, .. } => ("join", *uplink),
            IndexRequest::Have { uplink, .. } => ("have", *uplink),
            _ => ("depart", None),
        })
    }

    /// Bytes of a blob of many pieces.
    const LARGE: u64 = 1 << 30;

    fn joined() -> Joined {
        Joined { groups: List::new(Vec::new()), peers: Vec::new() }
    }

    /// Whether the task that carries out orders is woken.
    fn is_woken(swarms: &Swarms) -> bool {
        use futures_util::FutureExt;
        swarms.orders.notified().now_or_never().is_some()
    }

    #[test]
    fn what_the_uplink_carries_is_told_when_it_is_known_and_when_it_has_changed() {
        let swarms = Arc::<Swarms>::default();
        let blob = BlobId::new([1; 32]);
        let seat = swarms.join(blob, LARGE).unwrap();
        assert!(is_woken(&swarms));
        assert_eq!(said(&swarms), Some(("join", None)));
        swarms.set_uplink(Some(1_000));
        assert!(!is_woken(&swarms), "the index has not answered yet");
        assert_eq!(said(&swarms), None);
        swarms.joined(blob, 1, joined());
        assert_eq!(said(&swarms), Some(("have", Some(1_000))), "although no piece was gained");
        swarms.set_uplink(Some(1_050));
        assert!(!is_woken(&swarms) && said(&swarms).is_none(), "a twentieth is noise");
        seat.seat.have(&Report { pieces: vec![run(3, 1)], ..Report::default() });
        assert!(is_woken(&swarms));
        assert_eq!(said(&swarms), Some(("have", None)), "nor is it told with a piece");
        swarms.set_uplink(Some(949));
        assert!(is_woken(&swarms));
        seat.seat.have(&Report { pieces: vec![run(4, 1)], ..Report::default() });
        assert_eq!(said(&swarms), Some(("have", Some(949))));
        assert_eq!(said(&swarms), None);
        swarms.begin_session();
        assert_eq!(said(&swarms), Some(("join", Some(949))));
        swarms.joined(blob, 1, joined());
        assert_eq!(said(&swarms), None);
        swarms.set_uplink(None);
        assert!(is_woken(&swarms));
        assert_eq!(said(&swarms), Some(("have", Some(0))), "it takes back what was said");
        assert_eq!(said(&swarms), None);
    }

    #[test]
    fn so_many_places_are_told_of_the_uplink_at_once_and_the_others_later() {
        let swarms = Arc::<Swarms>::default();
        let most = limits::UPLINK_TELLINGS as u8;
        let blobs: Vec<BlobId> = (0..most + 2).map(|n| BlobId::new([n; 32])).collect();
        let seats: Vec<Seat> = blobs.iter().map(|blob| swarms.join(*blob, LARGE).unwrap()).collect();
        for (number, blob) in (1..).zip(&blobs) {
            assert!(matches!(swarms.next_order(), Some(Order::Join(..))));
            swarms.joined(*blob, number, joined());
        }
        let told = |swarms| std::iter::from_fn(|| said(swarms)).filter(|(_, uplink)| uplink.is_some()).count();
        swarms.set_uplink(Some(1_000_000));
        assert_eq!(told(&swarms), usize::from(most));
        let Some(last) = seats.last() else { panic!("some have seats") };
        last.seat.have(&Report { pieces: vec![run(3, 1)], ..Report::default() });
        assert_eq!(told(&swarms), 1, "with a piece");
        swarms.set_uplink(Some(1_000_000));
        assert!(is_woken(&swarms));
        assert_eq!(told(&swarms), 1);
    }

    #[test]
    fn places_share_the_uplink() {
        let swarms = Arc::<Swarms>::default();
        let blobs = [1, 2].map(|n| BlobId::new([n; 32]));
        swarms.set_uplink(Some(1_000));
        let _first = swarms.join(blobs[0], LARGE).unwrap();
        assert_eq!(said(&swarms), Some(("join", Some(1_000))));
        swarms.joined(blobs[0], 1, joined());
        let second = swarms.join(blobs[1], LARGE).unwrap();
        assert_eq!(said(&swarms), Some(("join", Some(500))));
        assert_eq!(said(&swarms), Some(("have", Some(500))), "it has less for the first one now");
        swarms.refused(blobs[1], 2);
        assert_eq!(said(&swarms), Some(("have", Some(1_000))), "the other one is no place");
        drop(second);
        assert_eq!(said(&swarms), Some(("depart", None)));
        swarms.set_uplink(Some(0));
        assert_eq!(said(&swarms), Some(("have", Some(1))));
    }

    #[test]
    fn a_complete_download_takes_no_share_and_no_message_of_its_own() {
        let swarms = Arc::<Swarms>::default();
        let blobs = [1, 2].map(|n| BlobId::new([n; 32]));
        let complete = swarms.join(blobs[0], 100).unwrap();
        complete.seat.have(&Report { pieces: vec![run(0, 1)], ..Report::default() });
        assert_eq!(said(&swarms), Some(("join", None)));
        swarms.joined(blobs[0], 1, joined());
        swarms.set_uplink(Some(1_000));
        assert!(said(&swarms).is_none());
        let _other = swarms.join(blobs[1], LARGE).unwrap();
        assert_eq!(said(&swarms), Some(("join", Some(1_000))));
    }
}
