//! Requests that one message answers: outlines, bitfields, listings.

use std::sync::Arc;

use haul_core::blob::BlobGeometry;
use haul_core::ids::BlobId;
use haul_core::limits::BITFIELD_WAIT;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_core::wire::{ByteString, Label};

use crate::share::{ListError, LocalFile, Shares};

/// Answers on a blocking thread: outlines and listings may come from disk.
pub(super) async fn answer(shares: &Arc<Shares>, asked: PeerRequest, groups: &Arc<[Label]>) -> PeerAnswer {
    let (shares, groups) = (Arc::clone(shares), Arc::clone(groups));
    tokio::task::spawn_blocking(move || answer_now(&shares, asked, &groups))
        .await
        .unwrap_or_else(|_| PeerAnswer::Bad { reason: "this request could not be answered".into() })
}

fn answer_now(shares: &Shares, asked: PeerRequest, groups: &[Label]) -> PeerAnswer {
    match asked {
        PeerRequest::Outline { blob, sheet } => outline(shares, &blob, sheet, groups),
        PeerRequest::List { share, path, recursive, cursor } => {
            match shares.list_directory(&share, &path, recursive, cursor.as_deref(), groups) {
                Ok(listing) => PeerAnswer::Listing(listing),
                Err(ListError::NotFound) => PeerAnswer::NotHeld,
                Err(ListError::BadCursor) => PeerAnswer::Bad { reason: ListError::BadCursor.to_string() },
            }
        }
        PeerRequest::Grant { .. }
        | PeerRequest::Pieces { .. }
        | PeerRequest::Blobs { .. }
        | PeerRequest::Bitfield { .. } => PeerAnswer::Bad { reason: "answered elsewhere".into() },
    }
}

/// Which leaves of a blob are here. Waits for more than `beyond` while the blob is on its way here.
pub(super) async fn bitfield(shares: &Shares, blob: &BlobId, beyond: Option<u64>, groups: &Arc<[Label]>) -> PeerAnswer {
    if let Some(file) = shares.locate_for(blob, groups) {
        return PeerAnswer::Bitfield { size: file.size(), leaves: None };
    }
    let Some(partial) = shares.partials().find(blob, groups) else { return PeerAnswer::NotHeld };
    if let Some(beyond) = beyond {
        let mut growth = partial.growth();
        let grown = growth.wait_for(|count| count.is_none_or(|count| count > beyond));
        // Nothing new is an answer too.
        let _ = tokio::time::timeout(BITFIELD_WAIT, grown).await;
    }
    let held = partial.held();
    let leaves = (!held.is_full()).then(|| ByteString(held.to_bytes()));
    PeerAnswer::Bitfield { size: partial.geometry().size(), leaves }
}

fn outline(shares: &Shares, blob: &BlobId, sheet: Option<u64>, groups: &[Label]) -> PeerAnswer {
    let file = shares.locate_for(blob, groups);
    let partial = if file.is_none() { shares.partials().find(blob, groups) } else { None };
    let size = file.as_ref().map(LocalFile::size).or(partial.as_ref().map(|partial| partial.geometry().size()));
    let Some((size, geometry)) = size.and_then(|size| Some((size, BlobGeometry::new(size)?))) else {
        return PeerAnswer::NotHeld;
    };
    if sheet.is_some_and(|sheet| sheet >= geometry.sheets()) {
        // The asker thinks of another size: it learns ours.
        return PeerAnswer::Outline { size, values: ByteString::default() };
    }
    if let Some(partial) = partial {
        return match partial.values(sheet) {
            Some(values) => PeerAnswer::Outline { size, values: ByteString(values.concat()) },
            None => PeerAnswer::Queued { place: 0, reason: "this part of the outline is on its way here".into() },
        };
    }
    let Some(outline) = shares.outline(blob) else {
        return PeerAnswer::Queued { place: 0, reason: "the outline of this file is being computed".into() };
    };
    let values = match sheet {
        None => outline.root_sheet().concat(),
        Some(sheet) => outline.sheet(sheet).unwrap_or_default().concat(),
    };
    PeerAnswer::Outline { size, values: ByteString(values) }
}
