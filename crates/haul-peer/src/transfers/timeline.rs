//! A timeline as records.

use std::time::Duration;

use haul_core::time::Moment;

use super::Item;
use crate::api::known::Known;
use crate::api::records::{NoteRecord, Record, TallyRecord, TimelineRecord};
use crate::text::rfc3339;

/// The transfer, its notes, its providers (who gave most first), and the sums.
pub(super) fn records(id: u64, item: &Item, known: &Known) -> Vec<Record> {
    let told = item.timeline.told();
    let (wall, began) = told.began;
    let after = |moment: Moment| moment.since(began).as_millis() as u64;
    let mut records = vec![Record::Transfer(super::report::transfer(id, item, known))];
    records.extend(told.notes.iter().map(|noted| {
        Record::Note(NoteRecord {
            transfer: id,
            at: rfc3339(wall.after(Duration::from_millis(after(noted.first)))),
            after_ms: after(noted.first),
            times: noted.times,
            last_ms: after(noted.last),
            peer: noted.peer.map(|peer| peer.to_string()),
            name: noted.peer.map(|peer| known.name(&peer)),
            file: noted.file.as_deref().map(str::to_owned),
            note: noted.note.clone(),
        })
    }));
    let mut tallies: Vec<TallyRecord> = told
        .tallies
        .iter()
        .map(|(peer, tally)| TallyRecord {
            transfer: id,
            peer: peer.to_string(),
            name: known.name(peer),
            found: tally.found.clone(),
            joined: tally.joined,
            outline: tally.outline,
            bytes: tally.bytes,
            leaves: tally.leaves,
            wasted: tally.wasted,
            bps: tally.bps(),
            unreachable: tally.unreachable,
            refused: tally.refused,
            broke: tally.broke,
            stalled: tally.stalled,
            late: tally.late,
            banned: tally.banned,
            trouble: tally.trouble.as_ref().map(|(_, note)| note.clone()),
            trouble_ms: tally.trouble.as_ref().map(|(moment, _)| after(*moment)),
        })
        .collect();
    tallies.sort_by_key(|tally| std::cmp::Reverse(tally.bytes));
    let sums = TimelineRecord {
        transfer: id,
        since: rfc3339(wall),
        notes: told.notes.len() as u64,
        dropped: told.dropped,
        providers: tallies.len() as u64,
        fetched: tallies.iter().map(|tally| tally.bytes).sum(),
        wasted: tallies.iter().map(|tally| tally.wasted).sum(),
    };
    records.extend(tallies.into_iter().map(|tally| Record::Tally(Box::new(tally))));
    records.push(Record::Timeline(sums));
    records
}
