//! Records as rows of the pages: sizes and states for people.

use haul_web::peer_pages::{FoundRow, ShareRow, TransferRow};

use crate::api::records::{HitRecord, Kind, ShareActivity, ShareRecord, Summary, TransferRecord, TransferState};

/// Bytes in binary units, three digits or so.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if value < 100.0 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}

pub(super) fn found(hit: &HitRecord) -> FoundRow {
    let by_path = format!("haul get '{}:{}'", hit.peer_name, hit.path.replace('\'', "'\\''"));
    FoundRow {
        name: if hit.kind == Kind::Dir { format!("{}/", hit.name) } else { hit.name.clone() },
        size: match (hit.kind, hit.size) {
            (Kind::Dir, Some(bytes)) => match hit.files {
                Some(1) => format!("{} in 1 file", size(bytes)),
                files => format!("{} in {} files", size(bytes), files.unwrap_or_default()),
            },
            (Kind::Dir, None) => "folder".into(),
            (Kind::Link, _) => "link".into(),
            (Kind::File, bytes) => bytes.map(size).unwrap_or_default(),
        },
        copies: if hit.online == hit.copies {
            hit.copies.to_string()
        } else {
            format!("{} of {} online", hit.online, hit.copies)
        },
        place: format!("{}:{}", hit.peer_name, hit.path),
        also: also(hit),
        command: hit.id.as_ref().map_or(by_path, |id| format!("haul get {id}")),
        near: hit.near,
    }
}

/// Says where the same name has other contents, or the same content other names.
fn also(hit: &HitRecord) -> String {
    let others = [(hit.contents, "content of this name"), (hit.names, "name of this content")].into_iter();
    let others = others.filter(|(count, _)| *count > 1).map(|(count, what)| match count - 1 {
        1 => format!("1 other {what}"),
        many => format!("{many} other {}", what.replacen(' ', "s ", 1)),
    });
    others.collect::<Vec<_>>().join(", ")
}

pub(super) fn summary_words(summary: &Summary) -> String {
    let results = if summary.hits == 1 { "1 result".to_owned() } else { format!("{} results", summary.hits) };
    let of = if summary.truncated {
        let about = if summary.exact { "" } else { "at least " };
        format!(" of {about}{}", summary.total)
    } else {
        String::new()
    };
    let near = if summary.only_near { ", only near ones" } else { "" };
    format!("{results}{of}{near} in {:.1} ms", summary.took_us as f64 / 1_000.0)
}

pub(super) fn share(share: &ShareRecord) -> ShareRow {
    let state = match share.state {
        ShareActivity::Ready => "ready",
        ShareActivity::Scanning => "scanning",
        ShareActivity::Hashing => "hashing",
        ShareActivity::Away => "away",
    };
    ShareRow {
        name: share.name.clone(),
        path: share.path.clone(),
        files: format!("{} ({} hashed)", share.files, share.hashed),
        size: size(share.bytes),
        state: share.reason.as_ref().map_or_else(|| state.to_owned(), |reason| format!("{state}: {reason}")),
    }
}

pub(super) fn transfer(transfer: &TransferRecord) -> TransferRow {
    let (state, actions): (&str, &[(&str, &str)]) = match transfer.state {
        TransferState::Waiting => ("waiting", &[("pause", "Pause"), ("cancel", "Cancel")]),
        TransferState::Running => ("running", &[("pause", "Pause"), ("cancel", "Cancel")]),
        TransferState::Paused => ("paused", &[("resume", "Resume"), ("cancel", "Cancel")]),
        TransferState::Done => ("done", &[]),
        TransferState::Failed => ("failed", &[("retry", "Try again"), ("cancel", "Cancel")]),
        TransferState::Canceled => ("canceled", &[("retry", "Start again")]),
    };
    let percent = match transfer.total {
        Some(total) if total > 0 => (transfer.done.saturating_mul(100) / total).min(100) as u8,
        _ if transfer.state == TransferState::Done => 100,
        _ => 0,
    };
    let total = transfer.total.map_or_else(|| "?".to_owned(), size);
    TransferRow {
        transfer: transfer.transfer,
        name: transfer.path.clone(),
        percent,
        progress: format!("{} of {total}", size(transfer.done)),
        state: transfer.reason.as_ref().map_or_else(|| state.to_owned(), |reason| format!("{state}: {reason}")),
        actions: actions.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(kind: Kind, name: &str) -> HitRecord {
        HitRecord {
            n: 1,
            kind,
            name: name.into(),
            path: format!("docs/{name}"),
            share: "docs".into(),
            peer: "pk:00".into(),
            peer_name: "nas".into(),
            size: None,
            files: None,
            id: None,
            state: crate::api::records::ContentState::Ready,
            names: 1,
            contents: 1,
            copies: 1,
            online: 1,
            mtime: None,
            near: false,
            raw: None,
        }
    }

    #[test]
    fn folders_say_how_much_is_in_them_and_files_what_else_there_is() {
        let row = found(&HitRecord { size: Some(3 << 20), files: Some(12), ..hit(Kind::Dir, "scans") });
        let told = (row.name.as_str(), row.size.as_str(), row.also.as_str(), row.command.as_str());
        assert_eq!(told, ("scans/", "3.0 MiB in 12 files", "", "haul get 'nas:docs/scans'"));
        let one = found(&HitRecord { size: Some(0), files: Some(1), ..hit(Kind::Dir, "a") });
        assert_eq!((one.size.as_str(), found(&hit(Kind::Dir, "a")).size.as_str()), ("0 B in 1 file", "folder"));
        let file = found(&HitRecord { names: 2, contents: 3, ..hit(Kind::File, "model.bin") });
        assert_eq!(file.also, "2 other contents of this name, 1 other name of this content");
    }

    #[test]
    fn sizes() {
        let cases = [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (150 << 30, "150 GiB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }
}
