//! The screen as it is drawn, at the usual and at a small size, and what keys make of it.

use std::time::{Duration, Instant};

use crossterm::event::KeyCode;
use haul_peer::api::records::{NoteRecord, ProviderShare, Record, TallyRecord, TransferRecord, TransferState};
use haul_peer::timeline::{How, Lie, Note};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::model::{Mode, Order, Screen, Seen, Turn};

const MIB: u64 = 1024 * 1024;

fn transfer(id: u64, path: &str, state: TransferState, done: u64) -> TransferRecord {
    TransferRecord {
        transfer: id,
        what: "b3:00".into(),
        id: None,
        path: path.into(),
        state,
        done: done * MIB,
        total: Some(100 * MIB),
        bps: if state == TransferState::Running { 12 * MIB } else { 0 },
        providers: 2,
        reason: None,
        next: None,
        code: None,
        added: String::new(),
        from: Vec::new(),
    }
}

fn share(name: &str, mib: u64, bps: Option<u64>) -> ProviderShare {
    ProviderShare { peer: format!("pk:{name}"), name: name.into(), bytes: mib * MIB, corrupt: 0, bps }
}

fn filled() -> Screen {
    let mut running = transfer(4, "/data/big-model-with-a-rather-long-name-70b.gguf", TransferState::Running, 61);
    running.from = vec![share("lab-3", 41, Some(9 * MIB)), share("nas", 20, Some(3 * MIB))];
    let mut waiting = transfer(3, "/data/photos", TransferState::Running, 7);
    (waiting.bps, waiting.from) = (0, vec![share("nas", 7, None)]);
    waiting.reason = Some("waiting for a provider: nas cannot be reached: refused".into());
    waiting.next = Some("give it up: haul transfers cancel 3".into());
    let mut paused = transfer(2, "/data/evil\u{1b}[31m\u{202e}name", TransferState::Paused, 30);
    (paused.reason, paused.next) =
        (Some("paused; what arrived is kept".into()), Some("haul transfers resume 2".into()));
    let done = transfer(1, "/data/notes.txt", TransferState::Done, 100);
    let mut seen = Seen { transfers: vec![done, paused, waiting, running], ..Seen::default() };
    let status = &mut seen.status;
    (status.name, status.index.state, status.index.answer_us) = ("desk".into(), "connected".into(), Some(420));
    (status.downloads, status.waiting, status.uploads) = (2, 1, 5);
    (status.down_bytes, status.up_bytes) = (200 * MIB, 10 * MIB);
    let mut screen = Screen::new(true);
    let start = Instant::now();
    screen.see(seen.clone(), start);
    seen.status.down_bytes += 24 * MIB;
    seen.status.up_bytes += MIB;
    screen.see(seen, start + Duration::from_secs(2));
    screen
}

fn drawn(screen: &mut Screen, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal in memory");
    terminal.draw(|frame| super::screen(frame, screen)).expect("drawn");
    terminal.backend().to_string()
}

fn press(screen: &mut Screen, keys: &str) -> Turn {
    keys.chars().map(|key| screen.key(KeyCode::Char(key))).last().expect("a key")
}

#[test]
fn the_list_at_80_by_24() {
    insta::assert_snapshot!("list_80x24", drawn(&mut filled(), 80, 24));
}

#[test]
fn the_list_at_40_by_10() {
    let mut screen = filled();
    press(&mut screen, "j");
    insta::assert_snapshot!("list_40x10", drawn(&mut screen, 40, 10));
}

#[test]
fn a_timeline_is_filled_and_scrolls_to_its_end_only() {
    let mut screen = filled();
    assert_eq!(screen.key(KeyCode::Enter), Turn::Order(Order::Explain(4)));
    let note = |after_ms, name: Option<&str>, note| {
        Record::Note(NoteRecord {
            transfer: 4,
            at: String::new(),
            after_ms,
            times: 1,
            last_ms: after_ms,
            peer: name.map(|_| format!("pk:{}", "1a2b3c4d".repeat(8))),
            name: name.map(str::to_owned),
            file: None,
            note,
        })
    };
    let tally = TallyRecord {
        peer: format!("pk:{}", "1a2b3c4d".repeat(8)),
        name: "nas".into(),
        found: [How::Index].into(),
        wasted: 65_536,
        banned: Some(Lie::Leaf { leaf: 9 }),
        trouble: Some(Note::Banned { lie: Lie::Leaf { leaf: 9 } }),
        ..TallyRecord::default()
    };
    let records = vec![
        note(0, None, Note::Begun),
        note(40, Some("nas"), Note::Joined),
        note(1_500, Some("nas"), Note::Banned { lie: Lie::Leaf { leaf: 9 } }),
        note(2_000, None, Note::Waits { reason: "every provider sent wrong bytes".into(), again_ms: Some(1_000) }),
        Record::Tally(Box::new(tally)),
    ];
    // An answer about another transfer comes too late.
    screen.explain(3, vec![note(0, None, Note::Paused)]);
    assert!(screen.explained.notes.is_empty());
    screen.explain(4, records);
    insta::assert_snapshot!("timeline_80x24", drawn(&mut screen, 80, 24));
    for _ in 0..50 {
        screen.key(KeyCode::Down);
    }
    insta::assert_snapshot!("timeline_40x10", drawn(&mut screen, 40, 10));
    assert!(matches!(screen.mode, Mode::Explain(4, top) if top < 12), "{:?}", screen.mode);
    assert_eq!((press(&mut screen, "q"), screen.mode), (Turn::Stay, Mode::List));
}

#[test]
fn keys_give_the_orders_that_fit_the_state() {
    let mut screen = filled();
    assert_eq!(press(&mut screen, "p"), Turn::Order(Order::Pause(4)));
    assert_eq!(press(&mut screen, "r"), Turn::Stay);
    assert!(drawn(&mut screen, 80, 24).contains("4 is running; there is nothing to try again"));
    assert_eq!(press(&mut screen, "jjp"), Turn::Order(Order::Resume(2)));
    assert_eq!(press(&mut screen, "r"), Turn::Order(Order::Retry(2)));
    // Cancelling is asked once, and anything but yes is no.
    assert_eq!(press(&mut screen, "c"), Turn::Stay);
    let asked = drawn(&mut screen, 80, 24);
    assert!(asked.contains("cancel 2 evil\\x1b[31m\\u{202e}name? What arrived is kept."), "{asked}");
    assert_eq!(press(&mut screen, "n"), Turn::Stay);
    assert_eq!(press(&mut screen, "cy"), Turn::Order(Order::Cancel(2)));
    assert_eq!(press(&mut screen, "jc"), Turn::Stay);
    assert_eq!(screen.mode, Mode::List, "one that is done is not cancelled");
    assert_eq!(press(&mut screen, "q"), Turn::Leave);
}

#[test]
fn a_filter_narrows_the_list_and_escape_ends_it() {
    let mut screen = filled();
    press(&mut screen, "/PHOq");
    assert!(drawn(&mut screen, 80, 24).contains("nothing fits"));
    screen.key(KeyCode::Backspace);
    screen.key(KeyCode::Enter);
    assert_eq!(screen.listed().count(), 1);
    assert_eq!(press(&mut screen, "p"), Turn::Order(Order::Pause(3)), "what is listed is selected");
    screen.key(KeyCode::Esc);
    assert_eq!(screen.listed().count(), 4);
    assert_eq!(screen.selected().map(|(at, _)| at), Some(1), "the selection stays with its transfer");
}

#[test]
fn without_colours_there_are_none_and_a_silent_daemon_is_told() {
    let mut screen = filled();
    screen.colors = false;
    screen.silent = Some("no haul is running here".into());
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal in memory");
    terminal.draw(|frame| super::screen(frame, &mut screen)).expect("drawn");
    let plain = |color| color == ratatui::style::Color::Reset;
    assert!(terminal.backend().buffer().content().iter().all(|cell| plain(cell.fg) && plain(cell.bg)));
    assert!(terminal.backend().to_string().contains("! no haul is running here"));
    // No size is too small to draw.
    for (columns, rows) in [(1, 1), (5, 3), (20, 4)] {
        drawn(&mut screen, columns, rows);
    }
}
