//! How long searches of real names take, class by class, without a network.
//!
//! ```text
//! searches DIR PATHS ENTRIES [ROUNDS [CLASS]]
//! ```
//!
//! Fills a store in DIR, if it is empty, with about ENTRIES entries out of the list PATHS, 1.5 copies each. The
//! queries are made as those of `haul bench search`. Times are processor time of the one thread that searches.
//! Environment: `HAUL_AWAY=PERMILLE` lets so many of the peers be away; `HAUL_ANSWERS=FILE` writes all answers there.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::query::{fold, parse};
use haul_core::wire::Label;
use haul_core::wire::index::Hits;
use haul_index::store::{Asker, EmbeddedStore, IndexStore, Opened, SearchQuestion, ShareOffer};

/// Different files of one peer; it holds half as many copies of the next one's.
const BLOCK: usize = 4_867;
/// Entries of one page.
const PAGE: usize = 1_000;
const QUERIES: usize = 60;
const CLASSES: [&str; 9] =
    ["rare", "medium", "common", "two_letters", "no_hit", "two_terms", "three_terms", "filtered", "crowded"];
/// The names of most files: not among the classes of `haul bench search`.
const CROWDED: [&str; 4] = ["copyright", "changelog.gz", "index.html", "__init__.py"];

/// `SplitMix64` (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (dir, list, entries) = (Path::new(&args[0]), &args[1], args[2].parse().unwrap());
    let rounds = args.get(3).map_or(5, |rounds| rounds.parse().unwrap());
    let text = std::fs::read_to_string(list).unwrap();
    let files = files(&text, entries);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let start = Instant::now();
        let store = EmbeddedStore::open(dir).unwrap();
        let away = std::env::var("HAUL_AWAY").map_or(0, |permille| permille.parse().unwrap());
        for peer in 0..files.len() / BLOCK {
            come(&store, &files, peer).await;
            if peer * 7 % 1_000 < away {
                store.leave(peer_id(peer)).await.unwrap();
            }
        }
        while store.stats().loaded_permille < 1_000 || store.maintain(Duration::from_secs(1)).await.unwrap() {}
        let stats = store.stats();
        println!("{} entries, {} names, ready in {:.1?}", stats.files, stats.names, start.elapsed());
        let cases = cases(&files, args.get(4).map(String::as_str));
        measure(&store, &cases, rounds).await;
        if args.len() < 5 {
            count(&store).await;
        }
    });
}

/// Paths in blocks of neighbours, from all parts of the list.
fn files(text: &str, entries: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().filter(|line| haul_core::path::check_path(line.as_bytes()).is_ok()).collect();
    let blocks = (entries * 2 / 3 / BLOCK).clamp(2, lines.len() / BLOCK);
    let step = lines.len() / blocks;
    (0..blocks).flat_map(|block| lines[block * step..block * step + BLOCK].iter().copied()).collect()
}

fn peer_id(peer: usize) -> PeerId {
    PeerId::new(*blake3::hash(&(peer as u64).to_le_bytes()).as_bytes()).unwrap()
}

fn size(file: usize) -> u64 {
    Random(file as u64).below(1 << 24) as u64
}

/// A peer comes with its files, which the store may hold already.
async fn come(store: &EmbeddedStore, files: &[&str], peer: usize) {
    let first = peer * BLOCK;
    let mut own: Vec<(&str, &str, usize)> = (first..first + BLOCK + BLOCK / 2)
        .map(|file| {
            let (directory, name) =
                files[file % files.len()].rsplit_once('/').unwrap_or(("", files[file % files.len()]));
            (directory, name, file % files.len())
        })
        .collect();
    own.sort_unstable();
    own.dedup_by_key(|(directory, name, _)| (*directory, *name));
    let mut digest = RegistrationDigest::default();
    let mut pages = Vec::new();
    for page in own.chunks(PAGE) {
        let mut builder = PageBuilder::new();
        for (directory, name, file) in page {
            let blob = Some(BlobId::new(*blake3::hash(&file.to_le_bytes()).as_bytes()));
            let kind = EntryKind::File { size: size(*file), executable: false, blob };
            let entry = Entry { directory: directory.as_bytes(), name: name.as_bytes(), mtime_ns: *file as i64, kind };
            digest.add(&entry);
            assert!(builder.push(&Change::Upsert(entry)));
        }
        pages.push(Bytes::from(builder.finish()));
    }
    let (id, share, state) = (peer_id(peer), ShareId([1; 16]), ShareState { revision: 1, digest });
    store.connect(id, Label::new(format!("peer-{peer}")).unwrap()).await.unwrap();
    let offer = ShareOffer { id: share, name: Label::new("data").unwrap(), groups: Vec::new(), state };
    if store.open(id, offer).await.unwrap() != Opened::Same {
        let tx = store.begin(id, share, None).await.unwrap();
        for page in pages {
            store.stage(tx, page).await.unwrap();
        }
        store.commit(tx, state, own.len() as u64).await.unwrap();
    }
}

fn name(files: &[&str], file: usize) -> String {
    fold(files[file].rsplit('/').next().unwrap_or_default().as_bytes())
}

fn words(name: &str) -> Vec<&str> {
    name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

/// `length` letters and digits in a row.
fn run(random: &mut Random, name: &str, length: usize) -> Option<String> {
    let long: Vec<&str> = words(name).into_iter().filter(|word| word.len() >= length).collect();
    let word = long.get(random.below(long.len().max(1)))?;
    let start = random.below(word.len() - length + 1);
    Some(word[start..start + length].to_owned())
}

/// `count` different words of at least three letters.
fn several(random: &mut Random, name: &str, count: usize) -> Option<String> {
    let all: BTreeSet<&str> = words(name).into_iter().filter(|word| (3..=20).contains(&word.len())).collect();
    let mut all: Vec<&str> = all.into_iter().collect();
    let chosen: Vec<&str> = (0..count.min(all.len())).map(|_| all.swap_remove(random.below(all.len()))).collect();
    (chosen.len() == count).then(|| chosen.join(" name:"))
}

fn common_words(files: &[&str]) -> Vec<String> {
    let mut random = Random(5);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..200_000 {
        let name = name(files, random.below(files.len()));
        for word in words(&name).into_iter().filter(|word| (3..=9).contains(&word.len())) {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    let mut counted: Vec<(usize, String)> = counts.into_iter().map(|(word, count)| (count, word)).collect();
    counted.sort_unstable_by(|a, b| b.cmp(a));
    counted.into_iter().take(60).map(|(_, word)| word).collect()
}

/// One query of a class, if the file that comes up is good for one.
fn query(random: &mut Random, class: &str, files: &[&str], common: &[String]) -> Option<String> {
    let file = random.below(files.len());
    let name = name(files, file);
    let text = match class {
        "rare" => run(random, &name, 7 + file % 2)?,
        "medium" => run(random, &name, 4 + file % 3)?,
        "common" => common[file % common.len()].clone(),
        "two_letters" => run(random, &name, 2)?,
        "no_hit" => {
            let mut text = run(random, &name, 6 + file % 3)?.into_bytes();
            let at = random.below(text.len());
            text[at] = b'a' + random.below(26) as u8;
            String::from_utf8(text).unwrap()
        }
        "two_terms" => several(random, &name, 2)?,
        "three_terms" => several(random, &name, 3)?,
        "crowded" => CROWDED[file % CROWDED.len()].to_owned(),
        _ => {
            let word = several(random, &name, 1)?;
            let top: Vec<&str> = files[file].split('/').collect();
            match random.below(4) {
                0 => format!("{word} ext:{}", words(name.rsplit_once('.')?.1).first()?),
                1 if top.len() > 3 => format!("{word} path:\"/{}\"", top[..3].join("/")),
                1 => return None,
                2 => format!("{word} size:<={}", size(file)),
                _ => format!("{word} size:>={}", size(file)),
            }
        }
    };
    Some(format!("name:{text}"))
}

fn cases<'a>(files: &[&str], only: Option<&str>) -> Vec<(&'a str, String)> {
    let common = common_words(files);
    let mut cases = Vec::new();
    for (number, class) in CLASSES.into_iter().enumerate().filter(|(_, class)| only.is_none_or(|only| only == *class)) {
        let mut random = Random(number as u64);
        let mut queries = BTreeSet::new();
        for _ in 0..100 * QUERIES {
            if queries.len() < QUERIES {
                queries.extend(query(&mut random, class, files, &common));
            }
        }
        cases.extend(queries.into_iter().map(|query| (class, query)));
    }
    cases
}

/// Processor time of this thread: what a busy machine changes least.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn ask(store: &EmbeddedStore, text: &str, exact: bool) -> (Duration, Hits) {
    let query = parse(text).unwrap();
    let asker = Asker { peer: peer_id(0), groups: Vec::new() };
    let question = SearchQuestion { query: &query, limit: 100, cursor: None, away: false, now_ns: 0, exact };
    let start = cpu();
    let hits = store.search(&asker, question).await.unwrap();
    (cpu().saturating_sub(start), hits)
}

/// All queries `rounds` times, each time in another order.
async fn measure(store: &EmbeddedStore, cases: &[(&str, String)], rounds: usize) {
    let mut times: BTreeMap<&str, Vec<(Duration, usize)>> = BTreeMap::new();
    let mut random = Random(9);
    let mut answers: Vec<Option<Hits>> = vec![None; cases.len()];
    for _ in 0..rounds {
        let mut order: Vec<usize> = (0..cases.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at + 1));
        }
        for number in order {
            let (class, text) = &cases[number];
            let (took, hits) = ask(store, text, false).await;
            times.entry(class).or_default().push((took, number));
            if *class != "crowded" {
                times.entry("~all").or_default().push((took, number));
            }
            answers[number] = Some(hits);
        }
    }
    for (class, mut times) in times {
        times.sort_unstable();
        let of =
            |permille: usize| times[(times.len() * permille / 1_000).min(times.len() - 1)].0.as_nanos() as f64 / 1e3;
        let numbers: BTreeSet<usize> = times.iter().map(|(_, number)| *number).collect();
        let mean = |what: fn(&Hits) -> u64| {
            numbers.iter().filter_map(|number| answers[*number].as_ref()).map(what).sum::<u64>() / numbers.len() as u64
        };
        println!(
            "{class:<11} p50 {:>7.1} us  p90 {:>7.1}  p99 {:>8.1}  max {:>8.1}  hits {:>3}  examined {:>6}  slowest {}",
            of(500),
            of(900),
            of(990),
            of(1_000),
            mean(|hits| hits.hits.len() as u64),
            mean(|hits| hits.examined),
            times.last().map(|(_, number)| &cases[*number].1).unwrap(),
        );
    }
    if let Ok(path) = std::env::var("HAUL_ANSWERS") {
        std::fs::write(path, written(cases, &answers)).unwrap();
    }
}

/// Exact counts; of some runs the fastest.
async fn count(store: &EmbeddedStore) {
    for text in ["lib", "python", "changelog", "gnome", "ruby", "kde", "linux", "html", "e", "python test"] {
        let mut best = ask(store, text, true).await;
        for _ in 0..5 {
            best = std::cmp::min_by_key(best, ask(store, text, true).await, |(took, _)| *took);
        }
        println!("exact count of {text:12} {:>8} in {:>8.1} us", best.1.total, best.0.as_nanos() as f64 / 1e3);
    }
}

/// Answers as lines, to compare those of two versions.
fn written(cases: &[(&str, String)], answers: &[Option<Hits>]) -> String {
    let mut lines = String::new();
    for ((_, text), hits) in cases.iter().zip(answers) {
        let Some(hits) = hits else { continue };
        writeln!(lines, "{text}: {} {}", hits.total, hits.exact).unwrap();
        for hit in &hits.hits {
            writeln!(
                lines,
                "  {} {:?} {:?} {} {} {} {} {}",
                String::from_utf8_lossy(&hit.name),
                hit.blob,
                hit.path,
                hit.peer,
                hit.names,
                hit.copies,
                hit.online,
                hit.near
            )
            .unwrap();
        }
    }
    lines
}
