//! Listing directories of a peer as the index knows them, and finding one entry by its path.

use std::time::Instant;

use haul_core::ids::BlobId;
use haul_core::manifest::{Change, Entry, EntryKind, Page};
use haul_core::path::SharePath;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Listing, PeerCard, Refusal};
use haul_core::wire::{ByteString, Label};

use super::codes::ErrorCode;
use super::context::Context;
use super::find::{content_state, full_path};
use super::problem::Problem;
use super::records::{EntryRecord, Kind, Record, Summary};
use super::requests::BrowseRequest;
use super::stream::Records;
use crate::link::LinkError;
use crate::text;

/// A place in somebody's shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPath {
    /// The share; none is the list of shares.
    pub share: Option<Label>,
    /// Within it.
    pub path: SharePath,
}

impl PeerPath {
    /// Splits `share/path`. A closing `/` is allowed.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let wrong =
            |why: &dyn std::fmt::Display| Problem::new(ErrorCode::Usage, format!("the path {text} cannot be: {why}"));
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(Self { share: None, path: SharePath::default() });
        }
        let (share, path) = trimmed.split_once('/').unwrap_or((trimmed, ""));
        Ok(Self {
            share: Some(Label::new(share).map_err(|error| wrong(&error))?),
            path: SharePath::new(path).map_err(|error| wrong(&error))?,
        })
    }
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Whether its owner may execute it.
        executable: bool,
        /// Content, once hashed.
        blob: Option<BlobId>,
        /// Last change.
        mtime_ns: i64,
    },
    /// A directory, or a whole share.
    Directory,
    /// A symbolic link.
    Link,
}

async fn page(
    context: &Context,
    peer: &PeerCard,
    place: &PeerPath,
    recursive: bool,
    cursor: Option<ByteString>,
) -> Result<Option<Listing>, Problem> {
    let request =
        IndexRequest::Browse { peer: peer.id, share: place.share.clone(), path: place.path.clone(), recursive, cursor };
    match context.link.ask(&request).await {
        Ok(IndexAnswer::Listing(listing)) => Ok(Some(listing)),
        Ok(_) => Err(LinkError::Unexpected.into()),
        Err(LinkError::Refused(Refusal::NotFound)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn entries(listing: &Listing) -> Result<Vec<Entry<'_>>, Problem> {
    let page = Page::check(&listing.page).map_err(|error| {
        Problem::new(ErrorCode::Internal, format!("the index gave a listing that is not one: {error}"))
    })?;
    Ok(page
        .changes()
        .filter_map(|change| match change {
            Change::Upsert(entry) => Some(entry),
            Change::Remove { .. } => None,
        })
        .collect())
}

/// Lists shares, a directory, or everything below it.
pub async fn browse(context: &Context, request: BrowseRequest, records: &Records) -> Result<(), Problem> {
    let started = Instant::now();
    let peer = context.member(&request.peer).await?;
    let place = PeerPath::parse(&request.path)?;
    let (mut sent, mut cursor) = (0, None);
    loop {
        let Some(listing) = page(context, &peer, &place, request.recursive, cursor.take()).await? else {
            // A path to one file lists that file.
            return match entry_record(context, &peer, &place).await? {
                Some(record) => {
                    records.send(Record::Entry(record)).await?;
                    records.send(summary(1, started)).await?;
                    Ok(())
                }
                None => Err(no_path(&peer, &request.path)),
            };
        };
        let found = entries(&listing)?;
        let empty = found.is_empty();
        for entry in found {
            sent += 1;
            records.send(Record::Entry(record_of(&peer, place.share.as_ref(), &entry))).await?;
        }
        if listing.cursor.is_none() || empty {
            break;
        }
        cursor = listing.cursor;
    }
    records.send(summary(sent, started)).await?;
    Ok(())
}

fn summary(hits: u64, started: Instant) -> Record {
    let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Record::Summary(Summary { hits, total: hits, exact: true, coverage: 1.0, took_us, ..Summary::default() })
}

pub(super) fn no_path(peer: &PeerCard, path: &str) -> Problem {
    Problem::new(ErrorCode::NotFound, format!("{} shares nothing at {path}", peer.name))
        .next(format!("see what is there: haul browse {}", peer.name))
}

/// The entry at a path, by listing the directory that holds it.
pub async fn find(context: &Context, peer: &PeerCard, place: &PeerPath) -> Result<Option<Found>, Problem> {
    if place.share.is_none() || place.path.is_root() {
        return Ok(page(context, peer, place, false, None).await?.map(|_| Found::Directory));
    }
    with_entry(context, peer, place, |entry| match entry.kind {
        EntryKind::File { size, executable, blob } => Found::File { size, executable, blob, mtime_ns: entry.mtime_ns },
        EntryKind::Directory => Found::Directory,
        EntryKind::Symlink { .. } => Found::Link,
    })
    .await
}

async fn entry_record(context: &Context, peer: &PeerCard, place: &PeerPath) -> Result<Option<EntryRecord>, Problem> {
    if place.path.is_root() {
        return Ok(None);
    }
    with_entry(context, peer, place, |entry| record_of(peer, place.share.as_ref(), entry)).await
}

async fn with_entry<T>(
    context: &Context,
    peer: &PeerCard,
    place: &PeerPath,
    take: impl Fn(&Entry<'_>) -> T,
) -> Result<Option<T>, Problem> {
    let (directory, name) = place.path.split();
    let Ok(directory) = SharePath::new(directory) else { return Ok(None) };
    let folder = PeerPath { share: place.share.clone(), path: directory };
    let mut cursor = None;
    loop {
        let Some(listing) = page(context, peer, &folder, false, cursor.take()).await? else { return Ok(None) };
        let found = entries(&listing)?;
        if let Some(entry) = found.iter().find(|entry| entry.name == name) {
            return Ok(Some(take(entry)));
        }
        if listing.cursor.is_none() || found.is_empty() {
            return Ok(None);
        }
        cursor = listing.cursor;
    }
}

fn record_of(peer: &PeerCard, share: Option<&Label>, entry: &Entry<'_>) -> EntryRecord {
    let mut path = entry.directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(entry.name);
    let (path, raw) = match share {
        Some(share) => full_path(share.as_str(), &path),
        None => text::lossy(&path),
    };
    let (kind, size, id, executable, target) = match entry.kind {
        EntryKind::File { size, executable, blob } => (Kind::File, Some(size), blob, executable, None),
        EntryKind::Directory => (Kind::Dir, None, None, false, None),
        EntryKind::Symlink { target } => (Kind::Link, None, None, false, Some(text::lossy(target).0)),
    };
    EntryRecord {
        kind,
        name: text::lossy(entry.name).0,
        path,
        peer: peer.id.to_string(),
        size,
        id: id.map(|blob| blob.to_string()),
        state: content_state(kind, id),
        // A share as a whole has no time of its own.
        mtime: share.and_then(|_| text::mtime(entry.mtime_ns)),
        executable,
        target,
        raw,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn peer_paths() {
        assert_eq!(PeerPath::parse("").unwrap().share, None);
        let place = PeerPath::parse("docs/a/b/").unwrap();
        assert_eq!((place.share.unwrap().as_str(), place.path.display().as_str()), ("docs", "a/b"));
        assert!(PeerPath::parse("docs").unwrap().path.is_root());
        assert_eq!(PeerPath::parse("docs/../x").unwrap_err().code, ErrorCode::Usage);
        assert_eq!(PeerPath::parse("docs//x").unwrap_err().code, ErrorCode::Usage);
    }
}
