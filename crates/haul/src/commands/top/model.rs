//! What the screen shows, and what keys do to it. It knows neither terminal nor daemon.

use std::collections::BTreeMap;
use std::time::Instant;

use crossterm::event::KeyCode;
use haul_peer::api::records::{NoteRecord, Record, StatusRecord, TallyRecord, TransferRecord, TransferState};

/// The daemon's answer to one look.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) status: StatusRecord,
    pub(super) transfers: Vec<TransferRecord>,
}

/// What to tell the daemon about a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Pause(u64),
    Resume(u64),
    Retry(u64),
    Cancel(u64),
    Explain(u64),
}

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Stay,
    Leave,
    Order(Order),
}

/// What keys mean at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    List,
    /// The filter is being typed.
    Filter,
    /// Whether to cancel this transfer.
    Cancel(u64),
    /// The timeline of a transfer, scrolled down by so many lines.
    Explain(u64, usize),
}

/// The timeline of a transfer, as last told.
#[derive(Clone, Debug, Default)]
pub(super) struct Explained {
    pub(super) notes: Vec<NoteRecord>,
    pub(super) tallies: Vec<TallyRecord>,
}

/// Bytes per second of this peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) down: u64,
    pub(super) up: u64,
}

/// A provider over all transfers that run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Giver {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) bps: u64,
    pub(super) transfers: u64,
}

/// The screen.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    pub(super) seen: Seen,
    pub(super) rates: Rates,
    pub(super) mode: Mode,
    pub(super) filter: String,
    pub(super) explained: Explained,
    /// What came of the last order.
    pub(super) said: String,
    /// Why the daemon does not answer at present.
    pub(super) silent: Option<String>,
    pub(super) colors: bool,
    /// By number, so that it stays with its transfer when the list changes.
    selected: Option<u64>,
    looked: Option<Instant>,
}

impl Screen {
    pub(super) fn new(colors: bool) -> Self {
        Self { colors, ..Self::default() }
    }

    /// Takes up what the daemon says now.
    pub(super) fn see(&mut self, mut seen: Seen, now: Instant) {
        if let Some(before) = self.looked {
            let ms = (now - before).as_millis().max(1) as u64;
            let rate = |now: u64, before: u64| now.saturating_sub(before).saturating_mul(1_000) / ms;
            self.rates.down = rate(seen.status.down_bytes, self.seen.status.down_bytes);
            self.rates.up = rate(seen.status.up_bytes, self.seen.status.up_bytes);
        }
        // What needs a look comes first; within that, the newest.
        seen.transfers.sort_by_key(|transfer| (order(transfer.state), std::cmp::Reverse(transfer.transfer)));
        self.looked = Some(now);
        self.silent = None;
        self.seen = seen;
        self.keep_selection();
    }

    pub(super) fn explain(&mut self, id: u64, records: Vec<Record>) {
        if !matches!(self.mode, Mode::Explain(shown, _) if shown == id) {
            return;
        }
        self.explained = Explained::default();
        for record in records {
            match record {
                Record::Note(note) => self.explained.notes.push(note),
                Record::Tally(tally) => self.explained.tallies.push(*tally),
                _ => {}
            }
        }
    }

    pub(super) fn say(&mut self, text: String) {
        self.said = text;
    }

    /// The transfers that the filter lets through.
    pub(super) fn listed(&self) -> impl Iterator<Item = &TransferRecord> {
        let wanted = self.filter.to_lowercase();
        self.seen.transfers.iter().filter(move |transfer| {
            wanted.is_empty()
                || [&transfer.path, &transfer.what].iter().any(|text| text.to_lowercase().contains(&wanted))
        })
    }

    /// The place of the selected transfer in the list, and the transfer.
    pub(super) fn selected(&self) -> Option<(usize, &TransferRecord)> {
        self.listed().enumerate().find(|(_, transfer)| Some(transfer.transfer) == self.selected)
    }

    /// A transfer by its number.
    pub(super) fn transfer(&self, id: u64) -> Option<&TransferRecord> {
        self.seen.transfers.iter().find(|transfer| transfer.transfer == id)
    }

    /// Who gives to transfers that run, the fastest first.
    pub(super) fn givers(&self) -> Vec<Giver> {
        let mut givers: BTreeMap<&str, Giver> = BTreeMap::new();
        let running = self.seen.transfers.iter().filter(|transfer| transfer.state == TransferState::Running);
        for share in running.flat_map(|transfer| &transfer.from) {
            let giver = givers.entry(&share.peer).or_default();
            giver.name.clone_from(&share.name);
            giver.bytes += share.bytes;
            giver.bps += share.bps.unwrap_or_default();
            giver.transfers += 1;
        }
        let mut givers: Vec<Giver> = givers.into_values().collect();
        givers.sort_by_key(|giver| std::cmp::Reverse((giver.bps, giver.bytes)));
        givers
    }

    /// Does what a key means.
    pub(super) fn key(&mut self, key: KeyCode) -> Turn {
        self.said.clear();
        match self.mode.clone() {
            Mode::List => self.key_in_list(key),
            Mode::Filter => self.key_in_filter(key),
            Mode::Cancel(id) => {
                self.mode = Mode::List;
                if key == KeyCode::Char('y') { Turn::Order(Order::Cancel(id)) } else { Turn::Stay }
            }
            Mode::Explain(id, top) => self.key_in_timeline(key, id, top),
        }
    }

    fn key_in_list(&mut self, key: KeyCode) -> Turn {
        let selected = self.selected().map(|(_, transfer)| (transfer.transfer, transfer.state));
        match (key, selected) {
            (KeyCode::Char('q'), _) => return Turn::Leave,
            (KeyCode::Esc, _) => {
                self.filter.clear();
                self.keep_selection();
            }
            (KeyCode::Char('/'), _) => self.mode = Mode::Filter,
            (KeyCode::Down | KeyCode::Char('j'), _) => self.select(1),
            (KeyCode::Up | KeyCode::Char('k'), _) => self.select(-1),
            (KeyCode::PageDown, _) => self.select(10),
            (KeyCode::PageUp, _) => self.select(-10),
            (KeyCode::Char('p'), Some((id, TransferState::Running | TransferState::Waiting))) => {
                return Turn::Order(Order::Pause(id));
            }
            (KeyCode::Char('p'), Some((id, TransferState::Paused))) => return Turn::Order(Order::Resume(id)),
            (KeyCode::Char('p'), Some((id, state))) => {
                self.said = format!("{id} is {}; there is nothing to pause", word(state));
            }
            (
                KeyCode::Char('r'),
                Some((id, TransferState::Failed | TransferState::Canceled | TransferState::Paused)),
            ) => {
                return Turn::Order(Order::Retry(id));
            }
            (KeyCode::Char('r'), Some((id, state))) => {
                self.said = format!("{id} is {}; there is nothing to try again", word(state));
            }
            (KeyCode::Char('c'), Some((id, TransferState::Done | TransferState::Canceled))) => {
                self.said = format!("{id} has ended; there is nothing to cancel");
            }
            (KeyCode::Char('c'), Some((id, _))) => self.mode = Mode::Cancel(id),
            (KeyCode::Enter, Some((id, _))) => {
                self.explained = Explained::default();
                self.mode = Mode::Explain(id, 0);
                return Turn::Order(Order::Explain(id));
            }
            _ => {}
        }
        Turn::Stay
    }

    fn key_in_filter(&mut self, key: KeyCode) -> Turn {
        match key {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
        self.keep_selection();
        Turn::Stay
    }

    fn key_in_timeline(&mut self, key: KeyCode, id: u64, top: usize) -> Turn {
        self.mode = match key {
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Enter => Mode::List,
            KeyCode::Down | KeyCode::Char('j') => Mode::Explain(id, top + 1),
            KeyCode::Up | KeyCode::Char('k') => Mode::Explain(id, top.saturating_sub(1)),
            KeyCode::PageDown | KeyCode::Char(' ') => Mode::Explain(id, top + 10),
            KeyCode::PageUp => Mode::Explain(id, top.saturating_sub(10)),
            _ => return Turn::Order(Order::Explain(id)),
        };
        Turn::Stay
    }

    /// The end of the timeline may be scrolled to, and no further.
    pub(super) fn bound_scroll(&mut self, most: usize) -> usize {
        match &mut self.mode {
            Mode::Explain(_, top) => {
                *top = (*top).min(most);
                *top
            }
            _ => 0,
        }
    }

    /// What to ask for again at every look.
    pub(super) fn watched(&self) -> Option<Order> {
        match self.mode {
            Mode::Explain(id, _) => Some(Order::Explain(id)),
            _ => None,
        }
    }

    fn select(&mut self, by: isize) {
        let at = self.selected().map_or(0, |(at, _)| at);
        let last = self.listed().count().saturating_sub(1);
        let to = at.saturating_add_signed(by).min(last);
        let found = self.listed().nth(to).map(|transfer| transfer.transfer);
        self.selected = found;
    }

    /// Something is selected as long as something is listed.
    fn keep_selection(&mut self) {
        if self.selected().is_none() {
            let first = self.listed().next().map(|transfer| transfer.transfer);
            self.selected = first;
        }
    }
}

fn order(state: TransferState) -> u8 {
    match state {
        TransferState::Running => 0,
        TransferState::Waiting => 1,
        TransferState::Paused => 2,
        TransferState::Failed => 3,
        TransferState::Canceled => 4,
        TransferState::Done => 5,
    }
}

/// A state in one word.
pub(super) fn word(state: TransferState) -> &'static str {
    crate::commands::transfers::state(state)
}
