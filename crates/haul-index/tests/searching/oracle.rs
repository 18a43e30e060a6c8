//! A plain loop over all files, as the language defines it, beside the engine: whole lists of hits are compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use haul_core::ids::{BlobId, PeerId};
use haul_core::query::{Filter, PathTest, Query, Test, fold, match_class, parse};
use haul_core::wire::ByteString;
use haul_core::wire::index::{Hit, HitKind};
use haul_index::store::{Asker, EmbeddedStore, IndexStore, SearchQuestion, SearchSettings, StoreSettings};

use super::paths::{File, Files, Random, connect, peer, peer_name, replace, share_name};
use super::questions::any_query;

const SHARES: usize = 4;
const NOW_NS: i64 = 1_000 * 86_400_000_000_000;
/// Directory parts count only below so many hits.
const DIRECTORY_PARTS_BELOW: usize = 100;

/// A file with what every query needs of it.
struct Folded<'a> {
    file: &'a File,
    name: String,
    parts: Vec<String>,
}

/// What tells a hit: name, content or place, copies.
type Line = (String, Option<BlobId>, Option<(PeerId, String)>, u32);

fn folded(files: &Files) -> Vec<Folded<'_>> {
    let parts = |directory: &str| -> Vec<String> {
        directory.split('/').filter(|part| !part.is_empty()).map(|part| fold(part.as_bytes())).collect()
    };
    files
        .0
        .iter()
        .map(|file| Folded { file, name: fold(file.name.as_bytes()), parts: parts(&file.directory) })
        .collect()
}

fn passes(file: &Folded<'_>, filter: &Filter) -> bool {
    let File { share, size, mtime_ns, blob, .. } = file.file;
    let holds = match &filter.test {
        Test::Size { min, max } => (*min..=*max).contains(size),
        Test::Age { min_ns, max_ns } => (*min_ns..=*max_ns).contains(&(NOW_NS - mtime_ns)),
        Test::Type(list) => list.iter().any(|wanted| wanted.fits(HitKind::File, &file.name)),
        Test::Extension(list) => list.iter().any(|extension| file.name.ends_with(&format!(".{extension}"))),
        Test::Peer(text) => peer_name(*share) == *text,
        Test::Share(text) => share_name(*share) == *text,
        Test::Path(PathTest::Below(below)) => {
            file.parts.starts_with(below)
                || below
                    .split_first()
                    .is_some_and(|(top, rest)| share_name(*share) == *top && file.parts.starts_with(rest))
                || below.is_empty()
        }
        Test::Path(PathTest::Contains(part)) => {
            let path: Vec<&str> = std::iter::once(share_name(*share))
                .map(|name| &*name.leak())
                .chain(file.parts.iter().map(String::as_str))
                .collect();
            (path.join("/") + "/").contains(part)
        }
        Test::Hash(digits) => blob.is_some_and(|blob| blob.to_string()[3..].starts_with(digits)),
    };
    holds != filter.inverted
}

/// The class of a file by its base name, or 3 if directory parts help.
fn class_of(query: &Query, file: &Folded<'_>, directories: bool) -> Option<usize> {
    let by_name = match_class(query.words.iter().map(|word| word.text.as_str()), &file.name);
    if !directories || by_name.is_some() {
        return by_name.filter(|_| !directories).map(|class| class as usize);
    }
    let in_name = |word: &str| file.name.contains(word);
    let above = |word: &str| file.parts.iter().any(|part| part.contains(word));
    let all = query.words.iter().all(|word| in_name(&word.text) || (!word.name_only && above(&word.text)));
    (all && query.words.iter().any(|word| in_name(&word.text))).then_some(3)
}

/// What makes one hit of several files of a name: the content, or the number of a file without one.
type Group = (Option<(BlobId, u64)>, usize);

/// Hits with class and length of the name, in no particular order.
fn expected(
    files: &[Folded<'_>],
    by_name: &HashMap<&str, Vec<usize>>,
    query: &Query,
) -> BTreeMap<Line, (usize, usize)> {
    let mut hits = BTreeMap::new();
    for directories in [false, true] {
        if directories && (hits.len() >= DIRECTORY_PARTS_BELOW || query.words.len() < 2) {
            break;
        }
        for (name, numbers) in by_name {
            if query.without.iter().any(|word| name.contains(word.as_str())) {
                continue;
            }
            if !query.words.iter().any(|word| name.contains(&word.text)) && !query.words.is_empty() {
                continue;
            }
            let mut groups: BTreeMap<Group, (u32, Option<usize>)> = BTreeMap::new();
            for number in numbers {
                let file = &files[*number];
                let class = class_of(query, file, directories)
                    .filter(|_| query.filters.iter().all(|filter| passes(file, filter)));
                let content = file.file.blob.map(|blob| (blob, file.file.size));
                let group = groups.entry((content, if content.is_some() { 0 } else { *number })).or_default();
                group.0 += 1;
                group.1 = group.1.or(class);
            }
            for ((content, number), (copies, class)) in groups {
                let Some(class) = class else { continue };
                let place = content.is_none().then(|| {
                    let file = files[number].file;
                    (peer(file.share), format!("{}/{}", file.directory, file.name).trim_start_matches('/').to_owned())
                });
                hits.insert(((*name).to_owned(), content.map(|(blob, _)| blob), place, copies), (class, name.len()));
            }
        }
    }
    hits
}

fn line(hit: &Hit) -> Line {
    let place = hit.blob.is_none().then(|| (hit.peer, String::from_utf8_lossy(hit.path.as_bytes()).into_owned()));
    (fold(&hit.name), hit.blob, place, hit.copies)
}

/// All pages of a query, or the first ones; the total if it was exact.
async fn pages(store: &EmbeddedStore, query: &Query, limit: usize, most: usize) -> (Vec<Hit>, Option<u64>, bool) {
    let asker = Asker { peer: peer(0), groups: Vec::new() };
    let mut cursor: Option<ByteString> = None;
    let mut hits = Vec::new();
    loop {
        let exact = hits.is_empty();
        let question = SearchQuestion { query, limit, cursor: cursor.as_deref(), away: false, now_ns: NOW_NS, exact };
        let page = store.search(&asker, question).await.unwrap();
        let total = page.exact.then_some(page.total);
        hits.extend(page.hits);
        cursor = page.cursor;
        if cursor.is_none() || hits.len() >= most {
            return (hits, total, cursor.is_none());
        }
    }
}

/// Compares one query; the error says how they differ.
async fn compare(
    store: &EmbeddedStore,
    files: &[Folded<'_>],
    by_name: &HashMap<&str, Vec<usize>>,
    text: &str,
    limit: usize,
    most: usize,
) -> Result<bool, String> {
    let Ok(query) = parse(text) else { return Ok(false) };
    let want = expected(files, by_name, &query);
    let (hits, total, ended) = pages(store, &query, limit, most).await;
    let hits: Vec<Hit> = hits.into_iter().filter(|hit| !hit.near).collect();
    let got: Vec<Line> = hits.iter().map(line).collect();
    let set: BTreeSet<&Line> = got.iter().collect();
    if set.len() != got.len() {
        return Err(format!("{text}: a hit comes twice"));
    }
    if let Some(extra) = got.iter().find(|line| !want.contains_key(*line)) {
        return Err(format!("{text}: {extra:?} does not fit"));
    }
    let Some(total) = total else { return Ok(false) };
    if (ended || total == 0) && got.len() != want.len() {
        let missing = want.keys().find(|line| !set.contains(line));
        return Err(format!("{text}: {} hits of {}, missing {missing:?}", got.len(), want.len()));
    }
    if !want.is_empty() && ended && total != want.len() as u64 {
        return Err(format!("{text}: total {total}, want {}", want.len()));
    }
    let classes: Vec<usize> = got.iter().map(|line| want[line].0).collect();
    let best_missing = want.iter().filter(|(line, _)| !set.contains(line)).map(|(_, (class, _))| *class).min();
    if !classes.is_sorted() || best_missing.is_some_and(|missing| classes.last().is_some_and(|last| *last > missing)) {
        return Err(format!("{text}: classes {classes:?}, best missing {best_missing:?}"));
    }
    Ok(true)
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

/// Asks so many random queries; returns how many could be compared in full.
async fn hunt(files: &Files, search: SearchSettings, queries: usize, seed: u64) -> usize {
    let (_dir, store) = filled(files, search).await;
    let folded = folded(files);
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (number, file) in folded.iter().enumerate() {
        by_name.entry(&file.name).or_default().push(number);
    }
    let mut random = Random(seed);
    let mut whole = 0;
    for number in 0..queries {
        if number == queries / 2 {
            while store.maintain(Duration::from_millis(50)).await.unwrap() {}
        }
        let text = any_query(&mut random, files);
        let limit = [7, 100, 1_000][random.below(3)];
        match compare(&store, &folded, &by_name, &text, limit, 3_000).await {
            Ok(compared) => whole += usize::from(compared),
            Err(difference) => panic!("seed {seed}, query {number}: {difference}"),
        }
    }
    whole
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// With segments of 64 names, tails of 8, and every search walking.
const SMALL: SearchSettings = SearchSettings { tail_names: 8, fan: 3, one_pass: 0, stale_permille: 100 };

#[test]
fn random_queries_find_what_a_plain_loop_finds() {
    for (seed, search) in [(1, SMALL), (2, SearchSettings::default())] {
        let files = Files::made_up(SHARES, 800, seed);
        let whole = runtime().block_on(hunt(&files, search, 600, seed));
        assert!(whole > 450, "{whole} of 600 were compared in full");
    }
}

#[test]
#[ignore = "100,000 queries: run in release"]
fn many_random_queries_find_what_a_plain_loop_finds() {
    let seed = std::env::var("HAUL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for round in 0..20 {
        let search = if round % 2 == 0 { SMALL } else { SearchSettings { one_pass: 50, ..SearchSettings::default() } };
        let made_up = || Files::made_up(SHARES, 4_000, seed + round);
        let files = Files::from_list(SHARES, 6_000 + round as usize * 500).unwrap_or_else(made_up);
        let whole = runtime().block_on(hunt(&files, search, 5_000, seed + round));
        println!("round {round}: {} files, 5,000 queries, {whole} compared in full", files.0.len());
    }
}

/// One share is replaced again and again while others are asked: their hits must not change.
#[test]
fn hits_of_calm_shares_stay_while_another_share_changes() {
    runtime().block_on(async {
        let files = Files::made_up(SHARES, 1_200, 9);
        let (_dir, store) = filled(&files, SMALL).await;
        let others = Files::made_up(1, 400, 77);
        let calm = Files(files.0.iter().filter(|file| file.share > 0).cloned().collect());
        let folded = folded(&calm);
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (number, file) in folded.iter().enumerate() {
            by_name.entry(&file.name).or_default().push(number);
        }
        let stop = AtomicBool::new(false);
        let churn = async {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let from = round * 37 % 200;
                replace(&store, 0, &others.of_share(0)[from..from + 150], 2 + round as u64).await;
                while store.maintain(Duration::from_millis(5)).await.unwrap() {
                    tokio::task::yield_now().await;
                }
            }
        };
        let ask = async {
            let mut random = Random(5);
            for _ in 0..400 {
                let share = 1 + random.below(SHARES - 1);
                let text = format!("{} peer:lab-{share}", any_query(&mut random, &calm));
                let Ok(query) = parse(&text) else { continue };
                let want = expected(&folded, &by_name, &query);
                let (hits, ..) = pages(&store, &query, 1_000, 3_000).await;
                let got: BTreeSet<(String, Option<BlobId>)> =
                    hits.iter().filter(|hit| !hit.near).map(|hit| (fold(&hit.name), hit.blob)).collect();
                let want: BTreeSet<(String, Option<BlobId>)> =
                    want.into_keys().map(|(name, blob, ..)| (name, blob)).collect();
                assert_eq!(got, want, "{text}");
                tokio::task::yield_now().await;
            }
            stop.store(true, Ordering::Relaxed);
        };
        tokio::join!(churn, ask);
    });
}
