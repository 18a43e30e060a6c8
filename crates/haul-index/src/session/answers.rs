//! What changes no share: renewals, lookups, searches, listings, totals, invitations, removals, leaving.
//!
//! Every answer fits into a frame: what is too much is cut where the protocol has a count or a cursor for the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use haul_core::ids::{BlobId, PeerId};
use haul_core::limits;
use haul_core::path::SharePath;
use haul_core::query;
use haul_core::trust::Role;
use haul_core::wire::index::{
    BlobPlaces, Hits, IndexAnswer, IndexRequest, Located, LookupKeys, PeerCard, Providers, Refusal, Renewed, Stats,
};
use haul_core::wire::{ByteString, Label};
use haul_net::clock;
use haul_net::connection::InboundRequest;

use super::{Done, Session, Visitor, greeting, swarming};
use crate::config::Invitation;
use crate::state::{Counters, blocking, busy, refusal};
use crate::store::{BrowseQuestion, Found, IndexStore, SearchQuestion};

/// Bytes of lists in one answer: what stands around them fits beside it.
const ANSWER_BYTES: usize = limits::FRAME_BYTES - 64 * 1024;

/// Answers of up to a frame that one session makes before it has written them. Whoever asks 256 times and reads nothing
/// has the output queue filled once, and not the memory with the rest.
pub(super) const LARGE_ANSWERS: usize = 4;

/// Work units of a place in an answer: its path is put together from several tables.
const PLACE_COST: usize = 10;
/// Work units of a question that may go through lists, besides what it finds there.
const QUESTION_COST: usize = 50;
/// Work units in a microsecond of one core.
const UNITS_PER_MICRO: usize = 10;
/// While lists are loaded, whoever searches waits so many times as long as his search took, so that the loading has nine
/// tenths of a busy core: it is what ends partial answers.
const LOADING_PAUSE: u32 = 9;
/// Bytes of a listing for one work unit.
const LISTED_PER_UNIT: usize = 16;

/// Answers one request.
pub(super) async fn answer<S: IndexStore>(
    session: Arc<Session<S>>,
    inbound: InboundRequest,
    request: IndexRequest,
) -> Done {
    let ends = match &request {
        IndexRequest::Leave => Some("the peer left"),
        _ => None,
    };
    let is_large = matches!(
        request,
        IndexRequest::Search { .. }
            | IndexRequest::Lookup { .. }
            | IndexRequest::Locate { .. }
            | IndexRequest::Cards { .. }
            | IndexRequest::Browse { .. }
            | IndexRequest::Peers { .. }
    );
    // Kept until the answer is in the output queue. The semaphore is never closed.
    let _turn = if is_large { session.large_answers.acquire().await.ok() } else { None };
    if is_large && session.connection.close_reason().is_some() {
        return Done::Nothing;
    }
    let outcome = if swarming::is_about_swarms(&request) {
        swarming::answer(&session, request).await
    } else {
        find(&session, request).await
    };
    let ends = if outcome.as_ref().is_err_and(ends_session) { Some("the session is over") } else { ends };
    let _ = inbound.answer(&outcome.unwrap_or_else(IndexAnswer::Refused)).await;
    ends.map_or(Done::Nothing, Done::End)
}

/// Whether nothing can follow this refusal.
pub(super) fn ends_session(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NoSession | Refusal::Revoked | Refusal::TicketExpired)
}

async fn find<S: IndexStore>(visitor: &Visitor<S>, request: IndexRequest) -> Result<IndexAnswer, Refusal> {
    visitor.state.expire(clock::boot_now()).await;
    match request {
        IndexRequest::Renew => renew(visitor),
        IndexRequest::Lookup { keys, max, away } => lookup(visitor, &keys, max, away).await,
        IndexRequest::Locate { blobs, max, away } => locate(visitor, &blobs, max, away).await.map(IndexAnswer::Located),
        IndexRequest::Cards { numbers } => Ok(cards(visitor, &numbers)),
        IndexRequest::Search { query, limit, cursor, away, exact } => {
            search(visitor, &query, limit, cursor, away, exact).await
        }
        IndexRequest::Browse { peer, share, path, recursive, cursor } => {
            browse(visitor, peer, share.as_ref(), &path, recursive, cursor.as_ref()).await
        }
        IndexRequest::Peers { after } => {
            visitor.ask()?;
            visitor.pay(limits::SEARCH_HITS * PLACE_COST);
            Ok(peers(visitor, after).await)
        }
        IndexRequest::Stats => {
            visitor.ask()?;
            visitor.pay(limits::SEARCH_HITS);
            Ok(IndexAnswer::Stats(stats(visitor).await))
        }
        IndexRequest::Invite { uses, life_ms, role, groups, one_user } => {
            let life = Duration::from_millis(life_ms);
            invite(visitor, Invitation { uses, life, role, groups: groups.into_vec(), one_user }).await
        }
        IndexRequest::Remove { peer } => remove(visitor, peer).await,
        IndexRequest::Leave => {
            // Hidden before the answer, so that whoever reads it can rely on it.
            visitor.state.disconnect(visitor.id, visitor.peer).await;
            Ok(IndexAnswer::Left)
        }
        _ => Err(Refusal::NotAllowed),
    }
}

pub(super) fn renew<S: IndexStore>(visitor: &Visitor<S>) -> Result<IndexAnswer, Refusal> {
    let now = clock::wall_now();
    let member = visitor.state.members.find(&visitor.peer).ok_or(Refusal::Revoked)?;
    if visitor.until.is_some_and(|until| until <= now) && member.role == Role::Guest {
        return Err(Refusal::TicketExpired);
    }
    if !visitor.state.presence.renewed(clock::boot_now(), now, visitor.id, visitor.peer) {
        return Err(Refusal::NoSession);
    }
    let mut granted = visitor.granted.lock().unwrap_or_else(PoisonError::into_inner);
    // Also when the wall clock was set: a grant must be in date by the index time that this answer carries.
    let fresh = *granted <= now && now < granted.after(limits::GRANT / 2);
    let grant = (!fresh).then(|| {
        *granted = now;
        ByteString(greeting::grant(&visitor.state, visitor.peer, &member))
    });
    Ok(IndexAnswer::Renewed(Renewed { grant, time: now, revoked: visitor.state.members.revoked(now) }))
}

pub(super) async fn lookup<S: IndexStore>(
    visitor: &Visitor<S>,
    keys: &LookupKeys,
    max: u32,
    away: bool,
) -> Result<IndexAnswer, Refusal> {
    visitor.ask()?;
    let max = (max as usize).min(limits::LOOKUP_PROVIDERS);
    let found = visitor.state.store.lookup(&visitor.asker, keys, max, away).await.map_err(refusal)?;
    let count = match keys {
        LookupKeys::Blobs(blobs) => blobs.len(),
        LookupKeys::Names(names) => names.len(),
    };
    Counters::add(&visitor.state.counters.lookups, count);
    let places: usize = found.answers.iter().flatten().map(|blob| blob.places.len() + 1).sum();
    visitor.pay(places * PLACE_COST + count + usize::try_from(found.walked).unwrap_or(usize::MAX));
    Ok(IndexAnswer::Providers(providers(visitor, found)))
}

pub(super) async fn locate<S: IndexStore>(
    visitor: &Visitor<S>,
    blobs: &[BlobId],
    max: u32,
    away: bool,
) -> Result<Located, Refusal> {
    visitor.ask()?;
    let max = (max as usize).min(limits::LOOKUP_PROVIDERS);
    Counters::add(&visitor.state.counters.lookups, blobs.len());
    let located = visitor.state.store.locate(&visitor.asker, blobs, max, away).await.map_err(refusal)?;
    let places: usize = located.blobs.iter().map(|blob| blob.total as usize).sum();
    visitor.pay(blobs.len() + places);
    Ok(located)
}

/// Puts cards to the peers, within the bytes of an answer; `total` still tells what was cut.
fn providers<S: IndexStore>(visitor: &Visitor<S>, found: Found) -> Providers {
    let mut answer = Providers {
        peers: Vec::new(),
        answers: Vec::with_capacity(found.answers.len()),
        coverage_permille: found.coverage_permille,
    };
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    let mut room = ANSWER_BYTES;
    for blobs in found.answers {
        let mut kept = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let Some(left) = room.checked_sub(64) else { break };
            room = left;
            let mut places = Vec::with_capacity(blob.places.len());
            for mut place in blob.places {
                let Some(peer) = found.peers.get(place.peer as usize) else { continue };
                let mut cost = place.path.as_bytes().len() + place.share.as_str().len() + 32;
                let number = if let Some(number) = numbers.get(&place.peer) {
                    *number
                } else {
                    let card = visitor.card(*peer, None);
                    cost += card_bytes(&card);
                    if cost > room {
                        break;
                    }
                    let number = answer.peers.len() as u32;
                    numbers.insert(place.peer, number);
                    answer.peers.push(card);
                    number
                };
                let Some(left) = room.checked_sub(cost) else { break };
                room = left;
                place.peer = number;
                places.push(place);
            }
            kept.push(BlobPlaces { blob: blob.blob, size: blob.size, places, total: blob.total });
        }
        answer.answers.push(kept);
    }
    answer
}

/// Cards of the peers with these numbers, as many as fit.
pub(super) fn cards<S: IndexStore>(visitor: &Visitor<S>, numbers: &[u32]) -> IndexAnswer {
    let mut cards = Vec::with_capacity(numbers.len());
    let mut room = ANSWER_BYTES;
    for peer in visitor.state.store.peer_ids(numbers) {
        let member = peer.and_then(|peer| Some((peer, visitor.state.members.find(&peer)?.name)));
        let card = member.map(|(peer, name)| visitor.card(peer, Some(name)));
        let Some(left) = room.checked_sub(card.as_ref().map_or(1, card_bytes)) else { break };
        room = left;
        cards.push(card);
    }
    IndexAnswer::Cards { cards }
}

fn card_bytes(card: &PeerCard) -> usize {
    card.addresses.iter().map(|address| address.len() + 2).sum::<usize>() + card.name.as_str().len() + 80
}

pub(super) async fn search<S: IndexStore>(
    visitor: &Visitor<S>,
    text: &str,
    limit: u32,
    cursor: Option<ByteString>,
    away: bool,
    exact: bool,
) -> Result<IndexAnswer, Refusal> {
    visitor.ask()?;
    let begun = Instant::now();
    if text.len() > limits::QUERY_BYTES {
        return Err(Refusal::BadQuery(format!("a query has at most {} bytes", limits::QUERY_BYTES)));
    }
    let query = query::parse(text).map_err(|error| Refusal::BadQuery(error.to_string()))?;
    let now_ns = i64::try_from(clock::wall_now().0.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    let mut limit = (limit as usize).min(limits::SEARCH_HITS);
    let mut hits: Hits;
    loop {
        let asked = Instant::now();
        let question = SearchQuestion { query: &query, limit, cursor: cursor.as_deref(), away, now_ns, exact };
        hits = visitor.state.store.search(&visitor.asker, question).await.map_err(refusal)?;
        // One name may have a million rows, so names alone do not say it.
        let examined = usize::try_from(hits.examined).unwrap_or(usize::MAX);
        let time = usize::try_from(asked.elapsed().as_micros()).unwrap_or(usize::MAX).saturating_mul(UNITS_PER_MICRO);
        visitor.pay(examined.max(time).saturating_add(QUESTION_COST));
        // Only the store can make the cursor of a shorter answer, so hits with very long paths are asked for again.
        if limit <= 1 || hits_bytes(&hits) <= ANSWER_BYTES {
            break;
        }
        limit /= 2;
    }
    hits.index_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    if hits.coverage_permille < 1_000 {
        tokio::time::sleep(begun.elapsed() * LOADING_PAUSE).await;
    }
    Counters::add(&visitor.state.counters.searches, 1);
    Ok(IndexAnswer::Hits(hits))
}

fn hits_bytes(hits: &Hits) -> usize {
    let bytes = |name: &ByteString, share: &Label, peer: &Label, path: &SharePath| {
        name.len() + share.as_str().len() + peer.as_str().len() + path.as_bytes().len() + 128
    };
    hits.hits.iter().map(|hit| bytes(&hit.name, &hit.share, &hit.peer_name, &hit.path)).sum()
}

pub(super) async fn browse<S: IndexStore>(
    visitor: &Visitor<S>,
    peer: PeerId,
    share: Option<&Label>,
    path: &SharePath,
    recursive: bool,
    cursor: Option<&ByteString>,
) -> Result<IndexAnswer, Refusal> {
    visitor.ask()?;
    let cursor = cursor.map(|cursor| &**cursor);
    let question = BrowseQuestion { peer, share, path, recursive, cursor };
    let listing = visitor.state.store.browse(&visitor.asker, question).await.map_err(refusal)?;
    visitor.pay(QUESTION_COST + listing.page.len() / LISTED_PER_UNIT);
    Ok(IndexAnswer::Listing(listing))
}

async fn peers<S: IndexStore>(visitor: &Visitor<S>, after: Option<PeerId>) -> IndexAnswer {
    let listed = visitor.state.members.list(after, limits::SEARCH_HITS + 1);
    let mut more = listed.len() > limits::SEARCH_HITS;
    let mut peers = Vec::new();
    let mut room = ANSWER_BYTES;
    for (peer, name) in listed.into_iter().take(limits::SEARCH_HITS) {
        let mut card = visitor.card(peer, Some(name));
        let totals = visitor.state.store.totals(&visitor.asker, peer).await;
        (card.files, card.bytes) = (totals.files, totals.bytes);
        let Some(left) = room.checked_sub(card_bytes(&card)) else {
            more = true;
            break;
        };
        room = left;
        peers.push(card);
    }
    IndexAnswer::Peers { peers, more }
}

async fn stats<S: IndexStore>(visitor: &Visitor<S>) -> Stats {
    let state = &visitor.state;
    let visible = state.store.visible(&visitor.asker).await;
    Stats {
        peers: state.members.count() as u64,
        peers_online: state.presence.present_count() as u64,
        shares: visible.shares,
        files: visible.files,
        bytes: visible.bytes,
        blobs: visible.blobs,
        searches: state.counters.searches.load(Ordering::Relaxed),
        lookups: state.counters.lookups.load(Ordering::Relaxed),
        uptime_ms: u64::try_from(clock::boot_now().since(state.started).as_millis()).unwrap_or(u64::MAX),
    }
}

async fn invite<S: IndexStore>(visitor: &Visitor<S>, invitation: Invitation) -> Result<IndexAnswer, Refusal> {
    let state = Arc::clone(&visitor.state);
    let (secret, expires) = blocking(move || state.members.invite(clock::wall_now(), &invitation)).await?;
    Ok(IndexAnswer::Invited { secret, expires })
}

async fn remove<S: IndexStore>(visitor: &Visitor<S>, peer: PeerId) -> Result<IndexAnswer, Refusal> {
    // An admin who removes itself by mistake may leave a network without any.
    if peer == visitor.peer {
        return Err(Refusal::NotAllowed);
    }
    visitor.state.remove(clock::wall_now(), peer).await?;
    Ok(IndexAnswer::Removed)
}

impl<S: IndexStore> Visitor<S> {
    /// Refuses a question of a peer that has asked too much lately.
    pub(super) fn ask(&self) -> Result<(), Refusal> {
        self.allowance.ask(clock::boot_now()).map_err(busy)
    }

    /// Notes what a question has cost.
    pub(super) fn pay(&self, units: usize) {
        self.allowance.pay(units as u64);
    }

    /// A peer as this visitor may see it. `name` if it is known already.
    pub(super) fn card(&self, peer: PeerId, name: Option<Label>) -> PeerCard {
        let standing = self.state.presence.standing(&peer, self.origin, self.reached);
        let name = name.or_else(|| self.state.members.find(&peer).map(|member| member.name));
        PeerCard {
            id: peer,
            // Removed while this answer was made.
            name: name.unwrap_or_else(|| Label::from_lossy("removed")),
            addresses: standing.addresses,
            online: standing.online,
            seen: standing.seen,
            files: 0,
            bytes: 0,
        }
    }
}
