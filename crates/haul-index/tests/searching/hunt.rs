//! Random queries, asked of the engine and of a plain loop: whole lists of hits are compared, and their order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use haul_core::query::{Query, fold, parse};
use haul_core::wire::ByteString;
use haul_core::wire::index::Hit;
use haul_index::store::{Asker, EmbeddedStore, IndexStore, SearchQuestion, SearchSettings, StoreSettings};

use super::oracle::{Expected, Line, NOW_NS, Oracle, Place};
use super::paths::{Files, Random, come_back, connect, peer, replace};
use super::questions::{any_query, two_short_words};

pub(crate) const SHARES: usize = 4;
/// The peer of this share is away in a part of the questions.
const LEAVES: usize = 3;
/// Pages that are turned at most.
const PAGES: usize = 40;

/// With segments of 64 names, tails of 8, and every search walking.
pub(crate) const SMALL: SearchSettings =
    SearchSettings { tail_names: 8, fan: 3, one_pass: 0, stale_permille: 0, work: 200_000 };

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With the last hit.
    Last,
    /// More pages follow.
    More,
    /// At the budget.
    Cut,
}

/// What the engine answered.
pub(crate) struct Answered {
    hits: Vec<Hit>,
    /// If it was exact.
    total: Option<u64>,
    end: End,
    pages: usize,
}

impl Answered {
    /// Leaves out names that other files have which come and go: when the copies of a name double or halve, its hits
    /// change their places, and whoever turns pages meanwhile may miss them or see them twice. The total stays what it
    /// must be, if it was.
    fn without_moving(mut self, want: &mut Expected, moving: &BTreeSet<String>) -> Self {
        if self.pages > 1 {
            let wrong_by = self.total.map(|total| total as i64 - want.hits.len() as i64);
            self.hits.retain(|hit| !moving.contains(&fold(&hit.name)));
            want.hits.retain(|line, _| !moving.contains(&fold(&line.name)));
            self.total = wrong_by.map(|wrong_by| (want.hits.len() as i64 + wrong_by) as u64);
        }
        self
    }
}

/// All pages of a query, or the first ones.
pub(crate) async fn pages(store: &EmbeddedStore, query: &Query, limit: usize, away: bool) -> Answered {
    let asker = Asker { peer: peer(0), groups: Vec::new() };
    let question = SearchQuestion { query, limit, cursor: None, away, now_ns: NOW_NS, exact: false };
    let counted = store.search(&asker, SearchQuestion { limit: 1, exact: true, ..question }).await.unwrap();
    let mut answered =
        Answered { hits: Vec::new(), total: counted.exact.then_some(counted.total), end: End::More, pages: 0 };
    let mut cursor: Option<ByteString> = None;
    while answered.pages < PAGES {
        let page = store.search(&asker, SearchQuestion { cursor: cursor.as_deref(), ..question }).await.unwrap();
        answered.hits.extend(page.hits);
        answered.pages += 1;
        cursor = page.cursor;
        if cursor.is_none() {
            answered.end = if page.exact { End::Last } else { End::Cut };
            break;
        }
    }
    answered
}

/// How a comparison ended if nothing differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Every hit that there is was in the answer.
    Whole,
    /// What was in the answer is right; it ended at the last page that was turned.
    Part,
    /// The same, but it ended at the budget.
    Cut,
}

/// Compares answers; the error says how they differ. `settled` if upkeep is done and nothing has changed since.
pub(crate) fn compare(want: &Expected, answered: &Answered, limit: usize, settled: bool) -> Result<Compared, String> {
    let got: Vec<Line> = answered.hits.iter().map(|hit| Line::of(hit, &want.uncounted)).collect();
    let set: BTreeSet<&Line> = got.iter().collect();
    if set.len() != got.len() {
        return Err("a hit comes twice".to_owned());
    }
    if let Some(extra) = got.iter().find(|line| !want.hits.contains_key(*line)) {
        let like: Vec<&Line> = want.hits.keys().filter(|line| line.name == extra.name).collect();
        return Err(format!("{extra:?} does not fit; of this name {like:?}"));
    }
    if answered.hits.iter().any(|hit| hit.near != want.near) {
        return Err(format!("near is {}", want.near));
    }
    let places: Vec<Place> = got.iter().map(|line| want.hits[line]).collect();
    let known = |place: &Place| if settled { *place } else { place.only_class() };
    if !places.is_sorted_by_key(known) {
        return Err(format!("order {places:?}"));
    }
    if let Some(total) = answered.total.filter(|total| *total != want.hits.len() as u64) {
        return Err(format!("total {total} with {} hits, want {}", got.len(), want.hits.len()));
    }
    if answered.end == End::Cut {
        return Ok(Compared::Cut);
    }
    let missing = || want.hits.iter().filter(|(line, _)| !set.contains(line));
    let best_missing = missing().map(|(_, place)| known(place)).min();
    if best_missing.is_some_and(|missing| places.last().is_some_and(|last| known(last) > missing)) {
        return Err(format!("before the last hit is missing {:?}", missing().min_by_key(|(_, place)| known(place))));
    }
    // Near matches have one page.
    let wanted = if want.near { want.hits.len().min(limit) } else { want.hits.len() };
    if answered.end == End::Last && got.len() != wanted {
        return Err(format!("{} hits of {wanted}, missing {:?}", got.len(), missing().next()));
    }
    Ok(if got.len() == want.hits.len() { Compared::Whole } else { Compared::Part })
}

async fn filled(files: &Files, search: SearchSettings) -> (tempfile::TempDir, EmbeddedStore) {
    let dir = tempfile::tempdir().unwrap();
    let settings = StoreSettings { search, ..StoreSettings::default() };
    let store = EmbeddedStore::open_with(dir.path(), settings).unwrap();
    for share in 0..SHARES {
        connect(&store, share).await;
        replace(&store, share, files.of_share(share), 1).await;
        store.maintain(Duration::from_millis(20)).await.unwrap();
    }
    (dir, store)
}

/// What a hunt did.
#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    /// All hits were compared.
    whole: usize,
    /// They ended at the budget.
    cut: usize,
    /// Something fits.
    fitting: usize,
    near: usize,
    /// Hits that were compared.
    hits: usize,
    loop_time: Duration,
    engine_time: Duration,
}

impl Tally {
    fn note(&mut self, compared: Compared) {
        self.whole += usize::from(compared == Compared::Whole);
        self.cut += usize::from(compared == Compared::Cut);
    }
}

/// Asks so many random queries: half while segments are small, half when upkeep is done; in the middle of both a peer
/// leaves.
async fn hunt(files: &Files, search: SearchSettings, queries: usize, seed: u64) -> Tally {
    let (_dir, store) = filled(files, search).await;
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let mut number = 0;
    for (settled, all_there) in [(false, true), (false, false), (true, false), (true, true)] {
        if settled {
            while store.maintain(Duration::from_millis(50)).await.unwrap() {}
        }
        if all_there {
            come_back(&store, LEAVES).await.unwrap();
        } else {
            store.leave(peer(LEAVES)).await.unwrap();
        }
        let oracle = Oracle::new(files, (0..SHARES).map(|share| all_there || share != LEAVES).collect());
        let settled = settled && search.stale_permille == 0;
        let end = number + queries / 4;
        while number < end {
            let text = any_query(&mut random, files);
            let Ok(query) = parse(&text) else { continue };
            let (limit, away) = ([7, 100, 1_000][random.below(3)], random.below(4) == 0);
            let start = Instant::now();
            let want = oracle.search(&query, away);
            let between = Instant::now();
            let answered = pages(&store, &query, limit, away).await;
            tally.engine_time += between.elapsed();
            tally.loop_time += between - start;
            tally.asked += 1;
            tally.fitting += usize::from(!want.hits.is_empty() && !want.near);
            tally.near += usize::from(want.near);
            tally.hits += answered.hits.len();
            match compare(&want, &answered, limit, settled) {
                Ok(compared) => tally.note(compared),
                Err(difference) => panic!(
                    "seed {seed}, query {number}, limit {limit}, away {away}, settled {settled}, all there {all_there}: \
                     {text}\n{difference}"
                ),
            }
            number += 1;
        }
    }
    tally
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn random_queries_find_what_a_plain_loop_finds() {
    let first = number_of("HAUL_SEED", 1);
    for (seed, search) in [(first, SMALL), (first + 1, SearchSettings::default())] {
        let files = Files::mixed(SHARES, 800, seed);
        let tally = runtime().block_on(hunt(&files, search, 600, seed));
        assert!(tally.whole > 450 && tally.fitting > 200 && tally.near > 10, "{tally:?}");
    }
}

/// Whatever is asked, a search looks at no more than it may; what it finds is right, and says that it is not all.
#[test]
fn a_search_costs_at_most_its_budget() {
    const WORK: u64 = 300;
    let files = Files::mixed(SHARES, 1_500, 9);
    let all_words = |word: &str| [word; 64].join(" ");
    let hostile =
        ["a", "e", "te", "e s", "-a e", "type:file", "-type:link", "size:>0", "path:a", "-ext:q", "name:e -hash:0"]
            .map(str::to_owned)
            .into_iter()
            .chain([all_words("e"), all_words("te"), "x".repeat(250), "ab".repeat(60), "e ".repeat(20) + "size:>1"]);
    let cut = runtime().block_on(async {
        let (_dir, store) = filled(&files, SearchSettings { work: WORK, ..SMALL }).await;
        let oracle = Oracle::new(&files, vec![true; SHARES]);
        let mut random = Random(9);
        let mut cut = 0;
        for text in hostile.chain((0..400).map(|_| any_query(&mut random, &files))) {
            let Ok(query) = parse(&text) else { continue };
            let asker = Asker { peer: peer(0), groups: Vec::new() };
            let question =
                SearchQuestion { query: &query, limit: 1_000, cursor: None, away: false, now_ns: NOW_NS, exact: false };
            let hits = store.search(&asker, question).await.unwrap();
            let want = oracle.search(&query, false);
            assert!(hits.examined <= WORK, "{text}: {} names", hits.examined);
            for hit in hits.hits.iter().filter(|_| !want.near) {
                assert!(want.hits.contains_key(&Line::of(hit, &want.uncounted)), "{text}: {hit:?} does not fit");
            }
            let whole = hits.hits.len() == want.hits.len();
            assert!(whole || want.near || !hits.exact, "{text}: {} of {}", hits.hits.len(), want.hits.len());
            cut += usize::from(!whole);
        }
        cut
    });
    assert!(cut > 50, "{cut} searches came to their budget");
}

/// Postings of one or two letters lead to names without them too: the file of such a name counts once, whichever word is
/// in its name and whichever above.
#[test]
fn words_of_a_letter_or_two_count_every_file_once() {
    // So many files below directories with each of the letters that a search does not start from there.
    let mut files = Files::made_up(SHARES, 1_200, 5);
    files.0.retain(|file| !file.directory.is_empty() && file.directory.len() < 100);
    for (number, file) in files.0.iter_mut().enumerate() {
        file.directory = [&b"restate26/26rates/testar26/rates26/arrest26/stare26/"[..], &file.directory].concat();
        if number % 16 == 0 {
            file.name.extend(b".rare");
        }
    }
    let whole = runtime().block_on(async {
        let (_dir, store) = filled(&files, SMALL).await;
        let oracle = Oracle::new(&files, vec![true; SHARES]);
        let mut random = Random(5);
        let mut whole = 0;
        for _ in 0..60 {
            let text = format!("{} ext:rare", two_short_words(&mut random));
            let query = parse(&text).unwrap();
            let answered = pages(&store, &query, 100, false).await;
            match compare(&oracle.search(&query, false), &answered, 100, false) {
                Ok(compared) => whole += usize::from(compared == Compared::Whole),
                Err(difference) => panic!("{text}\n{difference}"),
            }
        }
        whole
    });
    assert!(whole > 40, "{whole} of 60 were compared in full");
}

/// 100,000 queries unless `HAUL_QUERIES` says how many; `HAUL_SEED` is the first seed, printed with each round.
#[test]
#[ignore = "100,000 queries: run in release"]
fn many_random_queries_find_what_a_plain_loop_finds() {
    let seed = number_of("HAUL_SEED", 1);
    let rounds = number_of("HAUL_QUERIES", 100_000).div_ceil(5_000);
    for round in 0..rounds {
        let search = match round % 3 {
            0 => SMALL,
            1 => SearchSettings { one_pass: 50, stale_permille: 0, ..SearchSettings::default() },
            _ => SearchSettings::default(),
        };
        let files = Files::mixed(SHARES, 2_000 + (round as usize % 10) * 1_500, seed + round);
        let tally = runtime().block_on(hunt(&files, search, 5_000, seed + round));
        println!("seed {}: {} files, {tally:?}", seed + round, files.0.len());
    }
}

/// One share is replaced again and again, upkeep works, and others are asked meanwhile: their hits must not change.
async fn hunt_in_churn(files: &Files, others: &Files, queries: usize, seed: u64) -> Tally {
    let calm: Vec<_> = files.0.iter().filter(|file| file.share > 0).cloned().collect();
    let all = Files([others.of_share(0), &calm].concat());
    let (_dir, store) = filled(&all, SMALL).await;
    let store = Arc::new(store);
    let calm = Files(calm);
    let moving: BTreeSet<String> = others
        .0
        .iter()
        .flat_map(|file| file.path().split(|byte| *byte == b'/').map(fold).collect::<Vec<_>>())
        .collect();
    let oracle = Oracle::new(&calm, vec![true; SHARES]).without_contents_of(&moving);
    let stop = Arc::new(AtomicBool::new(false));
    let churn = {
        let (store, stop, list) = (Arc::clone(&store), Arc::clone(&stop), others.of_share(0).to_vec());
        tokio::spawn(async move {
            let span = list.len() * 3 / 8;
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return round;
                }
                let from = round * 37 % (list.len() - span);
                replace(&store, 0, &list[from..from + span], 2 + round as u64).await;
                while store.maintain(Duration::from_millis(5)).await.unwrap() {
                    tokio::task::yield_now().await;
                }
            }
            0
        })
    };
    let mut random = Random(seed);
    let mut tally = Tally::default();
    while tally.asked < queries {
        // Whichever files of the other share fit are no hits of this question.
        let text = format!("{} -peer:lab-0", any_query(&mut random, &calm));
        let Ok(query) = parse(&text) else { continue };
        let mut want = oracle.search(&query, false);
        let limit = [100, 1_000][random.below(2)];
        let answered = pages(&store, &query, limit, false).await.without_moving(&mut want, &moving);
        tally.asked += 1;
        tally.fitting += usize::from(!want.hits.is_empty() && !want.near);
        tally.near += usize::from(want.near);
        tally.hits += answered.hits.len();
        match compare(&want, &answered, limit, false) {
            Ok(compared) => tally.note(compared),
            Err(difference) => panic!("seed {seed}, query {}: {text}\n{difference}", tally.asked),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = churn.await.unwrap();
    assert!(rounds > 1, "the share changed {rounds} times");
    tally
}

/// Files of one share with contents that no other file has.
fn others(seed: u64, count: usize) -> Files {
    let mut others = Files::mixed(1, count, seed);
    for file in others.0.iter_mut().filter(|file| file.size > 0) {
        file.size |= 1 << 40;
    }
    others
}

#[test]
fn hits_of_calm_shares_stay_while_another_share_changes() {
    let seed = number_of("HAUL_SEED", 5);
    let files = Files::mixed(SHARES, 1_200, seed);
    let tally = runtime().block_on(hunt_in_churn(&files, &others(seed + 72, 400), 400, seed));
    assert!(tally.whole > 300 && tally.fitting > 100, "{tally:?}");
}

/// 20,000 queries unless `HAUL_QUERIES` says how many.
#[test]
#[ignore = "20,000 queries beside changes: run in release"]
fn hits_of_calm_shares_stay_through_many_queries() {
    let seed = number_of("HAUL_SEED", 1);
    for round in 0..number_of("HAUL_QUERIES", 20_000).div_ceil(2_000) {
        let seed = seed + round;
        let files = Files::mixed(SHARES, 3_000 + (round as usize % 5) * 1_000, seed);
        let tally = runtime().block_on(hunt_in_churn(&files, &others(seed + 1_000, 1_000), 2_000, seed));
        println!("seed {seed}: {} files, {tally:?}", files.0.len());
    }
}
