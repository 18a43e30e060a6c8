//! Requests that one message answers: outlines, bitfields, listings.

use std::sync::Arc;

use haul_core::blob::BlobGeometry;
use haul_core::ids::BlobId;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_core::wire::{ByteString, Label};

use crate::share::{ListError, Shares};

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
        PeerRequest::Bitfield { blob } => match shares.locate_for(&blob, groups) {
            Some(file) => PeerAnswer::Bitfield { size: file.size(), leaves: None },
            None => PeerAnswer::NotHeld,
        },
        PeerRequest::List { share, path, recursive, cursor } => {
            match shares.list_directory(&share, &path, recursive, cursor.as_deref(), groups) {
                Ok(listing) => PeerAnswer::Listing(listing),
                Err(ListError::NotFound) => PeerAnswer::NotHeld,
                Err(ListError::BadCursor) => PeerAnswer::Bad { reason: ListError::BadCursor.to_string() },
            }
        }
        PeerRequest::Grant { .. } | PeerRequest::Pieces { .. } | PeerRequest::Blobs { .. } => {
            PeerAnswer::Bad { reason: "answered elsewhere".into() }
        }
    }
}

fn outline(shares: &Shares, blob: &BlobId, sheet: Option<u64>, groups: &[Label]) -> PeerAnswer {
    let Some(file) = shares.locate_for(blob, groups) else { return PeerAnswer::NotHeld };
    let size = file.size();
    let Some(geometry) = BlobGeometry::new(size) else { return PeerAnswer::NotHeld };
    if sheet.is_some_and(|sheet| sheet >= geometry.sheets()) {
        // The asker thinks of another size: it learns ours.
        return PeerAnswer::Outline { size, values: ByteString::default() };
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
