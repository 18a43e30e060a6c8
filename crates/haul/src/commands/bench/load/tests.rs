//! The tools against an index and a null server in this process.

#![allow(clippy::unwrap_used)]
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use clap::Parser;
use haul_core::wire::Label;
use haul_index::{Index, IndexConfig, Invitation, RunningIndex};
use tokio_util::sync::CancellationToken;

use super::super::null_server::NullServer;
use crate::args::{Cli, Command, Global};
use crate::commands::bench::BenchArgs;
use crate::output::Output;

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn index(state: &Path) -> (RunningIndex, String) {
    let index = Index::start(IndexConfig::new(state, vec![loopback()]), CancellationToken::new()).await.unwrap();
    let groups = (0..3).map(|group| Label::from_lossy(&super::group_name(group))).collect();
    let ticket = index.invite(Invitation { uses: 100, groups, ..Invitation::default() }).await.unwrap();
    (index, ticket.to_string())
}

/// Runs a command line of `haul bench` and gives its results.json.
async fn bench(ticket: &str, out: &Path, words: &str) -> anyhow::Result<serde_json::Value> {
    let line = ["haul", "bench"].into_iter().chain(words.split_whitespace());
    let Some(Command::Bench(BenchArgs { command })) = Cli::try_parse_from(line)?.command else { panic!("bench") };
    let output = Output::new(&Global { quiet: true, ..Global::default() });
    super::super::run_load(command, Some(ticket.to_owned()), output).await?;
    Ok(serde_json::from_slice(&std::fs::read(out.join("results.json"))?)?)
}

fn list_of_paths(directory: &Path) -> String {
    let path = directory.join("paths");
    let line = |n: u32| format!("usr/share/doc-{}/python3-module{}/{n}-readme first_{}.txt.gz\n", n % 9, n % 50, n * 7);
    std::fs::write(&path, (0..800).map(line).collect::<String>()).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_registered_is_looked_up_and_found_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let (index, ticket) = index(&directory.path().join("index")).await;
    let out = directory.path().join("out");
    let load =
        format!("--peers 12 --files-per-peer 60 --paths {} --out {}", list_of_paths(directory.path()), out.display());
    let pid = std::process::id();
    let journal = directory.path().join("journal");
    let words = format!("register {load} --checks 50 --server-pid {pid} --journal {}", journal.display());
    let registered = bench(&ticket, &out, &words).await.unwrap();
    let figure = |results: &serde_json::Value, name: &str| results["figures"][name].as_f64().unwrap();
    assert_eq!(figure(&registered, "checked_lookups") as u64, 50);
    assert!(figure(&registered, "registered_per_server_cpu_s") > 0.0);
    assert!(figure(&registered, "checked_at_ack") >= 40.0);
    assert_eq!(std::fs::read_to_string(&journal).unwrap().lines().count(), 12);
    let words = format!("search {load} --per-class 3 --rounds 2 --churn 500 --unchecked");
    let searched = bench(&ticket, &out, &words).await.unwrap();
    assert!(searched["latencies"]["server_all"]["count"].as_u64().unwrap() > 20);
    let words = format!("search {load} --per-class 3 --rounds 1 --with-peers");
    let searched = bench(&ticket, &out, &words).await.unwrap();
    assert!(figure(&searched, "checked_queries") > 10.0 && figure(&searched, "matching_files") > 100.0);
    let quick = "--seconds 0.05 --warm-up 0.01 --pool 10 --connections 2 --in-flight 2 --batch 8 --with-peers";
    let looked = bench(&ticket, &out, &format!("lookup {load} {quick}")).await.unwrap();
    assert!(figure(&looked, "lookups_count") > 8.0);
    let counted = bench(&ticket, &out, &format!("count {load} --near 480 --times 3 --with-peers")).await.unwrap();
    assert!(figure(&counted, "counted") > 100.0);
    // The index runs in this process since before the journal was written, so all of it is there.
    let since = directory.path().join("since");
    std::fs::write(&since, "0").unwrap();
    let words = format!("verify {load} --samples 20 --since-file {} --patience 1e12", since.display());
    let words = format!("{words} --journal {}", journal.display());
    let verified = bench(&ticket, &out, &format!("{words} --journal-seed 1 --with-peers")).await.unwrap();
    let count = |name| figure(&verified, name) as u64;
    assert_eq!((count("acknowledged_same"), count("answers_wrong"), count("answers_exact")), (12, 0, 40));
    index.join().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_of_absent_peers_are_noticed_and_the_null_server_is_not_checked() {
    let directory = tempfile::tempdir().unwrap();
    let (index, ticket) = index(&directory.path().join("index")).await;
    let out = directory.path().join("out");
    let load = format!("--peers 12 --files-per-peer 60 --out {}", out.display());
    let quick = "--seconds 0.05 --warm-up 0.01 --pool 10 --connections 2 --in-flight 2 --batch 8";
    let wrong = bench(&ticket, &out, &format!("lookup {load} {quick}")).await.unwrap_err();
    assert!(format!("{wrong:#}").contains("not LocatedBlob"), "{wrong:#}");
    let shutdown = CancellationToken::new();
    let null = NullServer::bind(loopback()).unwrap();
    let place = format!("{}@{}", null.address().unwrap(), null.key());
    let running = tokio::spawn(null.run(shutdown.clone()));
    for more in ["", "--rate 500", "--keys zipf --hot 5"] {
        let looked = bench(&ticket, &out, &format!("lookup {load} {quick} {more} --null {place}")).await.unwrap();
        assert!(looked["figures"]["lookups_per_s"].as_f64().unwrap() > 0.0);
    }
    let searched =
        bench(&ticket, &out, &format!("search {load} --per-class 2 --rounds 1 --rate 500 --null {place}")).await;
    assert!(searched.unwrap()["latencies"]["client_all"]["count"].as_u64().unwrap() > 0);
    shutdown.cancel();
    running.await.unwrap();
    index.join().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_come_and_go_and_everything_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (index, ticket) = index(&directory.path().join("index")).await;
    let out = directory.path().join("out");
    let load = format!("--peers 12 --files-per-peer 60 --out {} --server-pid {}", out.display(), std::process::id());
    let figure = |results: &serde_json::Value, name: &str| results["figures"][name].as_f64().unwrap();
    let replaced = bench(&ticket, &out, &format!("churn {load} --turnovers 2")).await.unwrap();
    assert_eq!(replaced["samples"]["memory_after_each_turnover_bytes_per_entry"].as_array().unwrap().len(), 3);
    assert_eq!(figure(&replaced, "checked_lookups") as u64, 500);
    let directory = tempfile::tempdir().unwrap();
    index.join().await.unwrap();

    let (index, ticket) = super::tests::index(&directory.path().join("index")).await;
    bench(&ticket, &out, &format!("register {load} --checks 1")).await.unwrap();
    let churned = bench(&ticket, &out, &format!("churn {load} --events 5 --reopenings 5")).await.unwrap();
    assert_eq!(churned["latencies"]["until_invisible"]["count"], 5);
    assert!((40.0..512.0).contains(&figure(&churned, "return_frame_bytes_up")));
    let words = format!("mixed {load} --with-peers --rate 300 --seconds 0.2 --entries 12000 --connections 2");
    let mixed = bench(&ticket, &out, &words).await.unwrap();
    assert!(figure(&mixed, "registration_s") > 0.0);
    assert!(mixed["latencies"]["calm"]["count"].as_u64().unwrap() > 20);
    let idle = bench(&ticket, &out, &format!("idle {load} --seconds 0.1")).await.unwrap();
    assert_eq!(figure(&idle, "still_connected") as u64, 12);
    index.join().await.unwrap();
}
