//! The timeline of a transfer in words: one line per note, one row per provider. Pure text, no printing.

use std::time::Duration;

use haul_peer::api::records::{NoteRecord, TallyRecord, TimelineRecord};
use haul_peer::timeline::{How, Lie, Note};

use super::Style;
use super::text::{Align, Table, count, escape, plural, rate, rough, size, took};

const LEAF_BYTES: u64 = haul_core::limits::LEAF_BYTES;

/// A line of the timeline, without its time.
pub(crate) struct Line {
    /// How it is painted; none for what is as it should be.
    pub(crate) style: Option<Style>,
    /// Since the beginning: `+1.2 s`.
    pub(crate) time: String,
    /// What happened, with whom.
    pub(crate) text: String,
}

/// A note as a line.
pub(crate) fn line(record: &NoteRecord) -> Line {
    let mut text = match &record.peer {
        Some(peer) => format!("{} {}", who(record.name.as_deref(), peer), of_provider(&record.note)),
        None => of_transfer(&record.note),
    };
    if let Some(file) = &record.file {
        text = format!("{}: {text}", escape(file));
    }
    if record.times > 1 {
        text.push_str(&format!(" ({}×, last at {})", count(record.times), after(record.last_ms)));
    }
    Line { style: style(&record.note), time: after(record.after_ms), text }
}

/// `lab-3 pk:1a2b3c4d`: names may be alike, keys are not.
pub(crate) fn who(name: Option<&str>, peer: &str) -> String {
    let key = short_key(peer);
    match name {
        Some(name) if name != key => format!("{} {key}", escape(name)),
        _ => key.to_owned(),
    }
}

fn short_key(peer: &str) -> &str {
    peer.get(..11).unwrap_or(peer)
}

fn after(ms: u64) -> String {
    if ms < 60_000 { format!("+{}.{} s", ms / 1_000, ms % 1_000 / 100) } else { format!("+{}", rough(duration(ms))) }
}

fn duration(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn style(note: &Note) -> Option<Style> {
    match note {
        Note::Banned { .. } | Note::Failed { .. } => Some(Style::Bad),
        Note::Done { .. } => Some(Style::Good),
        Note::Begun
        | Note::Known { .. }
        | Note::LookedUp { .. }
        | Note::InSwarm
        | Note::Planned { .. }
        | Note::GoesOn
        | Note::Found { .. }
        | Note::Joined
        | Note::Outline => None,
        _ => Some(Style::Warning),
    }
}

fn of_transfer(note: &Note) -> String {
    match note {
        Note::Queued => "waits for a place: other transfers run".into(),
        Note::Begun => "begins".into(),
        Note::Known { bytes, here: 0 } => format!("its size is {}", size(*bytes)),
        Note::Known { bytes, here } => {
            format!("its size is {}, of which {} are here and verified", size(*bytes), size(*here))
        }
        Note::LookedUp { providers: 0 } => "the index names nobody who is online and has it".into(),
        Note::LookedUp { providers } => {
            format!("the index names {}", plural(*providers, "provider", "providers"))
        }
        Note::LookupFailed { reason } => format!("the index cannot be asked for providers: {}", escape(reason)),
        Note::InSwarm => "the index counts it among those who download the same".into(),
        Note::Planned { sources } => {
            format!("the index plans what to ask of {}", plural(*sources, "provider", "providers"))
        }
        Note::Waits { reason, again_ms } => {
            let next = again_ms.map(|ms| format!("; tries again in {}", took(duration(ms)))).unwrap_or_default();
            format!("nothing moves: {}{next}", escape(reason))
        }
        Note::GoesOn => "asks again".into(),
        Note::OutlineForgotten => "the outline is asked for again: who gave it did not prove the size".into(),
        Note::Damaged { at } => {
            format!(
                "what was written at {} is not what was verified, so it is fetched again: is the disk damaged?",
                count(*at)
            )
        }
        Note::Paused => "paused; what arrived is kept".into(),
        Note::Canceled => "given up; what arrived is kept for a retry".into(),
        Note::Stopped => "stopped with the daemon; the next one goes on".into(),
        Note::Failed { reason } => format!("failed: {}", escape(reason)),
        Note::Done { bytes, fetched: 0, .. } => format!("done: {}, all of it was here, verified", size(*bytes)),
        Note::Done { bytes, fetched, ms } => {
            let (time, speed) = (took(duration(*ms)), rate(fetched.saturating_mul(1_000) / (*ms).max(1)));
            format!("done: {}, of which {} came in {time} ({speed}), verified", size(*bytes), size(*fetched))
        }
        // Never without a provider.
        other => of_provider(other),
    }
}

fn of_provider(note: &Note) -> String {
    match note {
        Note::Found { how } => format!("is known: {}", found(*how)),
        Note::Joined => "joined".into(),
        Note::Outline => "gave the outline that everything is verified against".into(),
        Note::Unreachable { reason } => format!("cannot be reached: {}", escape(reason)),
        Note::Denied { reason } => format!("does not serve this peer: {}", escape(reason)),
        Note::Busy => "is busy; asked again later".into(),
        Note::Gone => "does not have it".into(),
        Note::Changed => "has another file there by now".into(),
        Note::OtherSize { bytes } => format!("says that it has {}; not asked for this one", size(*bytes)),
        Note::BrokeOff => "broke a request off".into(),
        Note::Lost { reason } => format!("is gone, its connection ended: {}", escape(reason)),
        Note::Stalled { silence_ms, bps: 0 } => {
            format!(
                "stalled: nothing for {}, and nothing before; others are asked for its part",
                took(duration(*silence_ms))
            )
        }
        Note::Stalled { silence_ms, bps } => {
            let silence = took(duration(*silence_ms));
            format!("stalled: nothing for {silence}, after {}; others are asked for its part", rate(*bps))
        }
        Note::Late { leaves, bps: 0 } => {
            format!("is slow, nothing came yet: {} asked of somebody else too", plural(*leaves, "leaf", "leaves"))
        }
        Note::Late { leaves, bps } => {
            let leaves = plural(*leaves, "leaf", "leaves");
            format!("is slow, at {}: {leaves} asked of somebody else too", rate(*bps))
        }
        Note::GivenUp { failures } => {
            format!("failed {failures} times in a row; dropped until the index names it again")
        }
        Note::Banned { lie } => format!("lied: {}; banned for this content", lied(*lie)),
        other => of_transfer(other),
    }
}

fn lied(lie: Lie) -> String {
    match lie {
        Lie::Outline => "its outline does not belong to the content".into(),
        Lie::Leaf { leaf } => format!("wrong bytes at {}", count(leaf.saturating_mul(LEAF_BYTES))),
        Lie::SmallFile => "wrong bytes for a small file".into(),
    }
}

fn found(how: How) -> &'static str {
    match how {
        How::Asked => "named in the request",
        How::Index => "an answer of the index",
        How::Push => "the index told of it unasked",
        How::Plan => "a plan of the index",
    }
}

fn found_short(how: How) -> &'static str {
    match how {
        How::Asked => "request",
        How::Index => "index",
        How::Push => "push",
        How::Plan => "plan",
    }
}

/// What is to be said against a provider, in one word; empty if nothing is.
pub(crate) fn fault(tally: &TallyRecord) -> &'static str {
    if tally.banned.is_some() {
        return "liar";
    }
    match &tally.trouble {
        None => "",
        Some(Note::Unreachable { .. } | Note::Lost { .. }) if !tally.joined => "dead",
        Some(Note::Denied { .. }) => "denied",
        Some(Note::Gone) => "gone",
        Some(Note::Changed) => "changed",
        Some(Note::OtherSize { .. }) => "other size",
        Some(_) if tally.stalled > 0 => "stalled",
        Some(_) if tally.late > 0 => "slow",
        Some(Note::Busy) => "busy",
        Some(_) => "broke off",
    }
}

/// Numbers and words behind [`fault`].
fn trouble(tally: &TallyRecord) -> String {
    let Some(last) = &tally.trouble else { return String::new() };
    let counted = [
        (tally.unreachable, "not reached"),
        (tally.refused, "refused"),
        (tally.broke, "broke off"),
        (tally.stalled, "stalled"),
    ];
    let mut parts = vec![of_provider(last)];
    parts.extend(counted.iter().filter(|(times, _)| *times > 1).map(|(times, what)| format!("{what} {times}×")));
    parts.join("; ")
}

/// Columns that the whole table of providers needs, with names of usual length; narrower ones show the most important.
const WHOLE: usize = 96;
const MOST: usize = 76;

/// What a column shows of a provider.
type Cell<'a> = &'a dyn Fn(&TallyRecord) -> String;

/// The providers of a timeline, as a table that fits into so many columns.
pub(crate) fn providers(tallies: &[TallyRecord], columns: Option<usize>) -> Table {
    let columns = columns.unwrap_or(usize::MAX);
    let all: u64 = tallies.iter().map(|tally| tally.bytes).sum();
    let some = |number: u64, text: String| if number > 0 { text } else { String::new() };
    let share = |tally: &TallyRecord| format!("{} %", u128::from(tally.bytes) * 100 / u128::from(all.max(1)));
    let found = |tally: &TallyRecord| tally.found.iter().map(|how| found_short(*how)).collect::<Vec<_>>().join(", ");
    let cells: [(&'static str, Align, usize, Cell<'_>); 9] = [
        ("PROVIDER", Align::Left, 0, &|tally| escape(&tally.name).into_owned()),
        ("KEY", Align::Left, MOST, &|tally| short_key(&tally.peer).to_owned()),
        ("FOUND", Align::Left, WHOLE, &found),
        ("GAVE", Align::Right, 0, &|tally| size(tally.bytes)),
        ("SHARE", Align::Right, MOST, &share),
        ("RATE", Align::Right, MOST, &|tally| some(tally.bytes, rate(tally.bps))),
        ("LEAVES", Align::Right, MOST, &|tally| some(tally.leaves, count(tally.leaves))),
        ("WASTED", Align::Right, MOST, &|tally| some(tally.wasted, size(tally.wasted))),
        ("FAULT", Align::Left, 0, &|tally| fault(tally).to_owned()),
    ];
    let shown: Vec<_> = cells.iter().filter(|(_, _, least, _)| columns >= *least).collect();
    let headings: Vec<_> = shown.iter().map(|(heading, align, ..)| (*heading, *align)).collect();
    let mut table = Table::new(&headings, 0);
    for tally in tallies {
        table.row(shown.iter().map(|(.., cell)| cell(tally)).collect::<Vec<_>>());
    }
    table.drop_if_empty("WASTED");
    table.drop_if_empty("FAULT");
    table
}

/// One line for each provider that fell short of something: what, with the numbers.
pub(crate) fn faults(tallies: &[TallyRecord]) -> Vec<String> {
    let faulty = tallies.iter().filter(|tally| !fault(tally).is_empty());
    faulty.map(|tally| format!("! {}: {}", who(Some(&tally.name), &tally.peer), trouble(tally))).collect()
}

/// The last line.
pub(crate) fn sums(sums: &TimelineRecord) -> String {
    let mut text = format!("{}, {} received", plural(sums.providers, "provider", "providers"), size(sums.fetched));
    if sums.wasted > 0 {
        text.push_str(&format!(" and {} more thrown away", size(sums.wasted)));
    }
    if sums.dropped > 0 {
        text.push_str(&format!("; {} are not kept", plural(sums.dropped, "earlier line", "earlier lines")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(peer: Option<&str>, note: Note) -> NoteRecord {
        NoteRecord {
            transfer: 1,
            at: String::new(),
            after_ms: 1_234,
            times: 1,
            last_ms: 1_234,
            peer: peer.map(|_| format!("pk:{}", "1a2b3c4d".repeat(8))),
            name: peer.map(str::to_owned),
            file: None,
            note,
        }
    }

    #[test]
    fn notes_are_sentences_with_name_and_key() {
        let mut stalled = record(Some("lab\u{1b}-3"), Note::Stalled { silence_ms: 5_000, bps: 131_072 });
        let said = line(&stalled);
        assert_eq!((said.time.as_str(), said.style), ("+1.2 s", Some(Style::Warning)));
        let text = "lab\\x1b-3 pk:1a2b3c4d stalled: nothing for 5.0 s, after 128 KiB/s; others are asked for its part";
        assert_eq!(said.text, text);
        (stalled.times, stalled.last_ms) = (3, 125_000);
        assert_eq!(line(&stalled).text, format!("{text} (3×, last at +2 min 5 s)"));
        stalled.file = Some("a/b\n".into());
        assert!(line(&stalled).text.starts_with("a/b\\n: lab"), "{}", line(&stalled).text);
        let waits = Note::Waits { reason: "nobody is there".into(), again_ms: Some(5_000) };
        assert_eq!(line(&record(None, waits)).text, "nothing moves: nobody is there; tries again in 5.0 s");
        let lie = Note::Banned { lie: Lie::Leaf { leaf: 2 } };
        assert_eq!(
            line(&record(Some("nas"), lie)).text,
            "nas pk:1a2b3c4d lied: wrong bytes at 131,072; banned for this content"
        );
    }

    #[test]
    fn a_fault_is_one_word() {
        let of = |change: fn(&mut TallyRecord)| {
            let mut tally = TallyRecord::default();
            change(&mut tally);
            fault(&tally)
        };
        assert_eq!(of(|_| {}), "");
        assert_eq!(of(|tally| tally.banned = Some(Lie::Outline)), "liar");
        assert_eq!(of(|tally| tally.trouble = Some(Note::Lost { reason: "x".into() })), "dead");
        assert_eq!(of(|tally| (tally.trouble, tally.stalled) = (Some(Note::GivenUp { failures: 5 }), 5)), "stalled");
        assert_eq!(of(|tally| (tally.trouble, tally.late) = (Some(Note::Late { leaves: 1, bps: 1 }), 1)), "slow");
        assert_eq!(of(|tally| tally.trouble = Some(Note::Busy)), "busy");
    }
}
