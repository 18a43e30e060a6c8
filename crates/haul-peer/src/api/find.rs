//! Searching names and looking up who has exactly something.

use std::collections::BTreeMap;
use std::time::Instant;

use haul_core::ids::BlobId;
use haul_core::limits;
use haul_core::wire::index::{
    BlobPlaces, Hit, HitKind, Hits, IndexAnswer, IndexRequest, LookupKeys, PeerCard, Place, Providers,
};
use haul_core::wire::{ByteString, List};

use super::codes::ErrorCode;
use super::context::Context;
use super::problem::Problem;
use super::records::{ContentState, HitRecord, Kind, Notice, Presence, ProviderRecord, Record, Summary};
use super::requests::{LookupRequest, SearchRequest};
use super::stream::Records;
use crate::link::LinkError;
use crate::text;

/// Hits of a search that names no limit.
const DEFAULT_HITS: u64 = 50;

/// Finds names and reports them page by page.
pub async fn search(context: &Context, request: SearchRequest, records: &Records) -> Result<(), Problem> {
    let wanted = if request.all { u64::MAX } else { request.limit.unwrap_or(DEFAULT_HITS) };
    let mut search = Search::new(context, request, wanted)?;
    while let Some(hits) = search.next_page().await? {
        for hit in hits {
            records.send(Record::Hit(hit)).await?;
        }
    }
    records.send(Record::Summary(search.finish().await)).await?;
    Ok(())
}

/// The first page of hits, and the figures.
pub async fn search_page(context: &Context, request: SearchRequest) -> Result<(Vec<HitRecord>, Summary), Problem> {
    let wanted = request.limit.unwrap_or(DEFAULT_HITS).min(limits::SEARCH_HITS as u64);
    let mut search = Search::new(context, request, wanted)?;
    let mut found = Vec::new();
    while let Some(hits) = search.next_page().await? {
        found.extend(hits);
    }
    Ok((found, search.finish().await))
}

/// A search under way.
struct Search<'a> {
    context: &'a Context,
    request: SearchRequest,
    started: Instant,
    wanted: u64,
    near: u64,
    /// Where the next page begins; none before the first.
    cursor: Option<ByteString>,
    ended: bool,
    summary: Summary,
}

impl<'a> Search<'a> {
    fn new(context: &'a Context, request: SearchRequest, wanted: u64) -> Result<Self, Problem> {
        if request.query.trim().is_empty() {
            return Err(Problem::new(ErrorCode::BadQuery, "the query is empty")
                .next("search for part of a name: haul search WORD"));
        }
        let summary =
            Summary { exact: true, coverage: 1.0, index_us: Some(0), examined: Some(0), ..Summary::default() };
        let started = Instant::now();
        Ok(Self { context, request, started, wanted, near: 0, cursor: None, ended: false, summary })
    }

    /// The next hits; none behind the last.
    async fn next_page(&mut self) -> Result<Option<Vec<HitRecord>>, Problem> {
        if self.ended {
            return Ok(None);
        }
        let ask = IndexRequest::Search {
            query: self.request.query.clone(),
            limit: self.wanted.saturating_sub(self.summary.hits).min(limits::SEARCH_HITS as u64) as u32,
            cursor: self.cursor.take(),
            away: self.request.away,
            exact: self.request.count,
        };
        let IndexAnswer::Hits(answer) = self.context.link.ask(&ask).await? else {
            return Err(LinkError::Unexpected.into());
        };
        let Hits { hits, cursor, total, exact, coverage_permille, examined, index_us } = answer;
        let summary = &mut self.summary;
        (summary.total, summary.exact) = (total, exact);
        summary.coverage = summary.coverage.min(f64::from(coverage_permille) / 1_000.0);
        summary.index_us = summary.index_us.map(|sum| sum.saturating_add(index_us));
        summary.examined = summary.examined.map(|sum| sum.saturating_add(examined));
        let mut found = Vec::with_capacity(hits.len());
        for hit in &hits {
            summary.hits += 1;
            self.near += u64::from(hit.near);
            found.push(hit_record(summary.hits, hit));
        }
        self.ended = cursor.is_none() || hits.is_empty() || summary.hits >= self.wanted;
        summary.truncated = self.ended && cursor.is_some();
        self.cursor = cursor;
        Ok(Some(found))
    }

    async fn finish(self) -> Summary {
        let mut summary = self.summary;
        summary.only_near = summary.hits > 0 && self.near == summary.hits;
        summary.took_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        // The totals are a courtesy of the last line; an index that does not give them has still answered.
        if let Some(stats) = self.context.totals().await {
            (summary.files, summary.peers) = (Some(stats.files), Some(stats.peers_online));
        }
        summary
    }
}

/// A hit as a record, the `n`th of its answer.
pub(super) fn hit_record(n: u64, hit: &Hit) -> HitRecord {
    let (path, raw) = full_path(hit.share.as_str(), hit.path.as_bytes());
    let kind = kind_of(hit.kind);
    HitRecord {
        n,
        kind,
        name: text::lossy(&hit.name).0,
        path,
        share: hit.share.to_string(),
        peer: hit.peer.to_string(),
        peer_name: hit.peer_name.to_string(),
        size: (kind == Kind::File || hit.files.is_some()).then_some(hit.size),
        files: hit.files.filter(|_| kind == Kind::Dir),
        id: hit.blob.map(|blob| blob.to_string()),
        state: content_state(kind, hit.blob),
        names: hit.names,
        contents: hit.contents.max(1),
        copies: hit.copies,
        online: hit.online,
        // A directory of which nobody told more than its files has no time of its own.
        mtime: text::mtime(hit.mtime_ns).filter(|_| kind != Kind::Dir || hit.mtime_ns != 0),
        near: hit.near,
        raw,
    }
}

fn kind_of(kind: HitKind) -> Kind {
    match kind {
        HitKind::File => Kind::File,
        HitKind::Directory => Kind::Dir,
        HitKind::Symlink => Kind::Link,
    }
}

pub(super) fn content_state(kind: Kind, blob: Option<BlobId>) -> ContentState {
    if kind == Kind::File && blob.is_none() { ContentState::Hashing } else { ContentState::Ready }
}

/// Share and path as one text, and in hexadecimal if the text loses something.
pub(super) fn full_path(share: &str, path: &[u8]) -> (String, Option<String>) {
    let mut full = share.as_bytes().to_vec();
    if !path.is_empty() {
        full.push(b'/');
        full.extend_from_slice(path);
    }
    text::lossy(&full)
}

/// The blob that a text names as `b3:…` or as a link to it.
pub(super) fn blob_id(what: &str) -> Result<Option<BlobId>, Problem> {
    let id = what.strip_prefix("haul:").unwrap_or(what);
    if id.starts_with("d3:") {
        return Err(Problem::new(ErrorCode::Usage, "directories are not found by their id yet")
            .next("fetch it as PEER:PATH; find it: haul search NAME"));
    }
    if !id.starts_with("b3:") {
        return Ok(None);
    }
    match id.parse() {
        Ok(blob) => Ok(Some(blob)),
        // A short form for people, or a file that is really called so.
        Err(_) if id.len() == "b3:".len() + 64 || what.starts_with("haul:") => {
            Err(Problem::new(ErrorCode::Usage, format!("{what} is not an id: 64 hexadecimal digits follow b3:")))
        }
        Err(_) => Ok(None),
    }
}

/// Asks the index who has it. Remembers the answer.
pub(super) async fn providers_of(context: &Context, what: &str, max: u32, away: bool) -> Result<Providers, Problem> {
    let keys = match blob_id(what)? {
        Some(blob) => LookupKeys::Blobs(List::new(vec![blob])),
        None if what.len() > limits::NAME_BYTES => {
            return Err(Problem::new(ErrorCode::Usage, "a name has at most 255 bytes").next("haul search WORD"));
        }
        None => LookupKeys::Names(List::new(vec![ByteString::from(what.as_bytes())])),
    };
    match context.link.ask(&IndexRequest::Lookup { keys, max, away }).await? {
        IndexAnswer::Providers(providers) => {
            context.known.providers(&providers);
            Ok(providers)
        }
        _ => Err(LinkError::Unexpected.into()),
    }
}

/// Who has exactly this.
pub async fn lookup(context: &Context, request: LookupRequest, records: &Records) -> Result<(), Problem> {
    let started = Instant::now();
    let max = request.max.unwrap_or(limits::LOOKUP_PROVIDERS as u32).clamp(1, limits::LOOKUP_PROVIDERS as u32);
    let providers = providers_of(context, &request.what, max, request.away).await?;
    let mut contents: BTreeMap<Option<BlobId>, u32> = BTreeMap::new();
    let (mut hits, mut online, mut total) = (0, 0, 0);
    for places in providers.answers.iter().flatten() {
        *contents.entry(places.blob).or_default() += places.total;
        total += u64::from(places.total);
        for place in &places.places {
            let Some(card) = providers.peers.get(place.peer as usize) else { continue };
            hits += 1;
            online += u64::from(card.online);
            records.send(Record::Provider(provider_record(context, places, place, card))).await?;
        }
    }
    if hits == 0 {
        return Err(nobody(context, &request.what, request.away).await);
    }
    if contents.len() > 1 {
        let message = format!(
            "{} different contents have the name {}; use an id to be sure which one you get",
            contents.len(),
            request.what
        );
        let first = contents.keys().flatten().next().map(|blob| format!("haul get {blob}"));
        records.send(Record::Warning(Notice { message, next: first })).await?;
    }
    let summary = Summary {
        hits,
        total,
        exact: true,
        truncated: hits < total,
        coverage: f64::from(providers.coverage_permille) / 1_000.0,
        contents: Some(contents.len() as u64),
        online: Some(online),
        took_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        ..Summary::default()
    };
    records.send(Record::Summary(summary)).await?;
    Ok(())
}

/// Why nobody was found: not known at all, or known and away.
pub(super) async fn nobody(context: &Context, what: &str, away_counted: bool) -> Problem {
    let unknown =
        Problem::new(ErrorCode::NotFound, format!("nobody shares {what}")).next(if blob_id(what) == Ok(None) {
            format!("find names like it: haul search {what}")
        } else {
            "find it by name: haul search WORD".to_owned()
        });
    if away_counted {
        return unknown;
    }
    let Ok(away) = providers_of(context, what, limits::LOOKUP_PROVIDERS as u32, true).await else { return unknown };
    if away.peers.is_empty() {
        return unknown;
    }
    let count = away.peers.len();
    let peers = if count == 1 { "1 peer knows it".to_owned() } else { format!("{count} peers know it") };
    let causes = away.peers.iter().map(super::context::away_cause).collect();
    Problem::new(ErrorCode::NoProvider, format!("nobody who has {what} can be reached ({peers})"))
        .causes(causes)
        .next(format!("wait for one of them: haul get {what} --wait"))
}

fn provider_record(context: &Context, places: &BlobPlaces, place: &Place, card: &PeerCard) -> ProviderRecord {
    let (path, raw) = full_path(place.share.as_str(), place.path.as_bytes());
    let route = match () {
        () if card.id == context.link.me() => Some("self".to_owned()),
        () if card.online && !card.addresses.is_empty() => Some("direct".to_owned()),
        () => None,
    };
    ProviderRecord {
        id: places.blob.map(|blob| blob.to_string()),
        peer: card.id.to_string(),
        name: card.name.to_string(),
        path,
        size: places.size,
        complete: true,
        state: presence(card),
        route,
        addr: card.addresses.first().filter(|_| card.online).cloned(),
        seen: Some(text::rfc3339(card.seen)),
        mtime: text::mtime(place.mtime_ns),
        raw,
    }
}

pub(super) fn presence(card: &PeerCard) -> Presence {
    if card.online { Presence::Online } else { Presence::Away }
}
