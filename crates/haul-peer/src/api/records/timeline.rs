//! The timeline of a transfer: what happened, line by line, then what each provider gave and fell short of, then sums.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::timeline::{How, Lie, Note};

/// One thing that happened in a transfer. The field `note` says what; more fields follow from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRecord {
    /// Number of the transfer in the list.
    pub transfer: u64,
    /// When it happened.
    pub at: String,
    /// The same in milliseconds since the timeline begins.
    pub after_ms: u64,
    /// How often, if several in a row are told as one.
    pub times: u64,
    /// When it happened last, in milliseconds since the timeline begins.
    pub last_ms: u64,
    /// Key of the provider; null if it is about the whole transfer.
    pub peer: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The file of a folder that it is about, by the end of its path; null if it is about the whole.
    pub file: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub note: Note,
}

/// What one provider gave and fell short of in a transfer, in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TallyRecord {
    /// Number of the transfer in the list.
    pub transfer: u64,
    /// Key of the provider.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// From whom it is known: `asked`, `index`, `push`, `plan`.
    pub found: BTreeSet<How>,
    /// Whether it is connected now.
    pub joined: bool,
    /// Whether it gave the outline.
    pub outline: bool,
    /// Verified bytes from it.
    pub bytes: u64,
    /// Verified leaves, and small files of a folder.
    pub leaves: u64,
    /// Bytes from it that were thrown away: wrong, too late, or not asked for.
    pub wasted: u64,
    /// Mean rate while it was to give.
    pub bps: u64,
    /// Calls that did not reach it.
    pub unreachable: u64,
    /// How often it refused: denied, busy, gone, changed, another size.
    pub refused: u64,
    /// Requests and connections that broke.
    pub broke: u64,
    /// Times when nothing came for too long.
    pub stalled: u64,
    /// Leaves that came so late that somebody else was asked for them too.
    pub late: u64,
    /// What it lied with, if it is banned.
    pub banned: Option<Lie>,
    /// What it fell short of last, as in the lines of the timeline.
    pub trouble: Option<Note>,
    /// When that was, in milliseconds since the timeline begins.
    pub trouble_ms: Option<u64>,
}

/// The end of a timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRecord {
    /// Number of the transfer in the list.
    pub transfer: u64,
    /// When it begins: the transfer was added then, or taken over from an earlier daemon.
    pub since: String,
    /// Lines told.
    pub notes: u64,
    /// Earlier lines that are not kept.
    pub dropped: u64,
    /// Providers told.
    pub providers: u64,
    /// Verified bytes from all of them.
    pub fetched: u64,
    /// Bytes from them that were thrown away.
    pub wasted: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Line, Record};
    use super::*;

    fn line(record: Record) -> String {
        let line = record.to_line();
        assert_eq!(serde_json::from_str::<Line>(&line).unwrap(), Line { v: 1, record });
        line
    }

    #[test]
    fn golden_note_tally_timeline() {
        let mut note = NoteRecord {
            transfer: 3,
            at: "2026-11-22T14:57:42Z".into(),
            after_ms: 1_500,
            times: 2,
            last_ms: 2_500,
            peer: Some("pk:00".into()),
            name: Some("lab-3".into()),
            file: Some("a/b".into()),
            note: Note::Stalled { silence_ms: 5_000, bps: 131_072 },
        };
        let head = "{\"v\":1,\"type\":\"note\",\"transfer\":3,\"at\":\"2026-11-22T14:57:42Z\",\"after_ms\":1500,\"times\":2,\
                    \"last_ms\":2500,\"peer\":\"pk:00\",\"name\":\"lab-3\",\"file\":\"a/b\",";
        let end = "\"note\":\"stalled\",\"silence_ms\":5000,\"bps\":131072}\n";
        assert_eq!(line(Record::Note(note.clone())), format!("{head}{end}"));
        note.note = Note::Banned { lie: Lie::Leaf { leaf: 7 } };
        let end = "\"note\":\"banned\",\"lie\":{\"lie\":\"leaf\",\"leaf\":7}}\n";
        assert_eq!(line(Record::Note(note.clone())), format!("{head}{end}"));
        note.note = Note::Found { how: How::Push };
        assert!(line(Record::Note(note.clone())).ends_with("\"note\":\"found\",\"how\":\"push\"}\n"));
        note.note = Note::Waits { reason: "nobody".into(), again_ms: None };
        assert!(line(Record::Note(note)).ends_with("\"note\":\"waits\",\"reason\":\"nobody\",\"again_ms\":null}\n"));
        let tally = TallyRecord {
            transfer: 3,
            peer: "pk:00".into(),
            name: "lab-3".into(),
            found: BTreeSet::from([How::Index, How::Plan]),
            bytes: 9,
            trouble: Some(Note::Busy),
            trouble_ms: Some(7),
            ..TallyRecord::default()
        };
        assert_eq!(
            line(Record::Tally(Box::new(tally))),
            "{\"v\":1,\"type\":\"tally\",\"transfer\":3,\"peer\":\"pk:00\",\"name\":\"lab-3\",\"found\":[\"index\",\
             \"plan\"],\"joined\":false,\"outline\":false,\"bytes\":9,\"leaves\":0,\"wasted\":0,\"bps\":0,\"unreachable\":0,\
             \"refused\":0,\"broke\":0,\"stalled\":0,\"late\":0,\"banned\":null,\"trouble\":{\"note\":\"busy\"},\
             \"trouble_ms\":7}\n"
        );
        let sums = TimelineRecord { transfer: 3, notes: 4, ..TimelineRecord::default() };
        assert_eq!(
            line(Record::Timeline(sums)),
            "{\"v\":1,\"type\":\"timeline\",\"transfer\":3,\"since\":\"\",\"notes\":4,\"dropped\":0,\"providers\":0,\
             \"fetched\":0,\"wasted\":0}\n"
        );
    }
}
