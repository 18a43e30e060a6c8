//! A million empty files: walked, registered with an index that only answers, loaded again. Run it in release:
//! `cargo test --release -p haul-peer --test share_scale -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use haul_core::manifest::{Change, Page, RegistrationDigest};
use haul_core::wire::index::{IndexAnswer, IndexRequest};
use haul_peer::register::{self, IndexSession, SessionEnded};
use haul_peer::share::{NewShare, ShareSettings, ShareState, Shares};
use tokio_util::sync::CancellationToken;

const FILES: usize = 1_000_000;

/// Checks the digest of lists that only grow.
#[derive(Clone, Default)]
struct Growing {
    held: Arc<std::sync::Mutex<(RegistrationDigest, u64, u64)>>,
}

impl IndexSession for Growing {
    async fn ask(&self, request: &IndexRequest) -> Result<IndexAnswer, SessionEnded> {
        let mut held = self.held.lock().unwrap();
        Ok(match request {
            IndexRequest::Open { state, .. } if state.digest == held.0 => IndexAnswer::Same,
            IndexRequest::Open { .. } => IndexAnswer::Replace,
            IndexRequest::Begin { .. } => IndexAnswer::Begun,
            IndexRequest::Page { seq, bytes, .. } => {
                for change in Page::check(bytes).unwrap().changes() {
                    let Change::Upsert(entry) = change else { panic!("nothing is removed") };
                    held.0.add(&entry);
                    held.1 += 1;
                }
                IndexAnswer::Staged { seq: *seq }
            }
            IndexRequest::Commit { state, .. } => {
                assert_eq!(state.digest, held.0);
                held.2 += 1;
                IndexAnswer::Committed { state: *state }
            }
            _ => IndexAnswer::Closed,
        })
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let pages: u64 = fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn until(shares: &Shares, reached: impl Fn(ShareState) -> bool) {
    let mut changes = shares.changes();
    while !shares.list().iter().all(|share| reached(share.state)) {
        changes.changed().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a million files"]
async fn a_million_empty_files() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    for folder in 0..1_000 {
        let folder = data.join(format!("folder-{folder:04}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..FILES / 1_000 {
            fs::File::create(folder.join(format!("file-{file:05}.dat"))).unwrap();
        }
    }
    let settings = ShareSettings::new(home.path().join("state"), home.path().join("cache"));
    let shares = Shares::open(settings.clone()).unwrap();
    let (before, began) = (resident(), Instant::now());
    let name = shares.add(NewShare::new(&data)).unwrap().name;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(shares.clone().run(shutdown.clone()));
    let index = Growing::default();
    let registering = tokio::spawn(register::run(shares.clone(), index.clone(), shutdown.clone()));
    until(&shares, |state| state != ShareState::Scanning).await;
    let walked = began.elapsed();
    println!("walked beside registering: {walked:?}, {:?}", *index.held.lock().unwrap());
    until(&shares, |state| state == ShareState::Ready).await;
    println!(
        "registered after the walk: {:?}, {:?}",
        began.elapsed().saturating_sub(walked),
        *index.held.lock().unwrap()
    );
    println!("memory of the entries: {} MB", (resident() - before) / 1_000_000);
    assert_eq!(shares.status(&name).unwrap().registered, FILES as u64);
    assert!(began.elapsed().saturating_sub(walked) < Duration::from_secs(20));
    shutdown.cancel();
    running.await.unwrap();
    registering.await.unwrap();
    drop(shares);

    let began = Instant::now();
    let shares = Shares::open(settings.clone()).unwrap();
    println!("loaded again: {:?}, state {} MB", began.elapsed(), size(&settings.state_dir.join("shares.redb")));
    let began = Instant::now();
    shares.scan_now(&name).unwrap();
    println!("walked again: {:?}", began.elapsed());

    // Everything at once, as for an index that has lost it.
    let index = Growing::default();
    let began = Instant::now();
    let shutdown = CancellationToken::new();
    let registering = tokio::spawn(register::run(shares.clone(), index.clone(), shutdown.clone()));
    until(&shares, |state| state == ShareState::Ready).await;
    println!("registered in full: {:?}, {:?}", began.elapsed(), *index.held.lock().unwrap());
    shutdown.cancel();
    registering.await.unwrap();
}

fn size(path: &std::path::Path) -> u64 {
    fs::metadata(path).unwrap().len() / 1_000_000
}
