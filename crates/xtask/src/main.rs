//! Chores of this repository, each one command on a fresh machine that has Rust.
//!
//! `cargo xtask test` sets up and runs every test, `cargo xtask lint` checks form, `cargo xtask nightly` hunts longer,
//! at its end with `cargo xtask fuzz`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod tidy;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    let result = match task.as_str() {
        "test" => test(),
        "lint" => lint(),
        "nightly" => nightly(),
        "fuzz" => fuzz(),
        _ => {
            eprintln!("usage: cargo xtask test | lint | nightly | fuzz");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {task}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The tests that mean something only at a size for which an unoptimized build is too slow. What else is left out of usual
/// runs is for the nightly ones.
const SCALE: &str = "(binary(e2e) & test(/^scale::/)) + binary(store_scale)";

/// What is built for them: every other test binary would cost a link.
const SCALE_BINARIES: [&str; 8] = ["-p", "haul", "-p", "haul-index", "--test", "e2e", "--test", "store_scale"];

/// The targets of `fuzz/`, and how long each runs.
const FUZZED: [&str; 2] = ["query", "page"];
const FUZZ_SECONDS: u32 = 600;

/// All tests: the suite as it is built while working, then the ones that only mean something at scale, optimized.
fn test() -> Result<()> {
    install_strace()?;
    python_tests()?;
    if has("nextest") {
        cargo(&["nextest", "run", "--workspace"])?;
        let scale = ["nextest", "run", "--cargo-profile", "scale", "--profile", "scale", "--run-ignored", "only"];
        cargo(&[&scale[..], &SCALE_BINARIES, &["-E", SCALE]].concat())
    } else {
        cargo(&["test", "--workspace"])?;
        let scale = ["test", "--profile", "scale"];
        cargo(&[&scale[..], &SCALE_BINARIES, &["--", "--ignored", "--test-threads", "1", "--skip", "sweep::"]].concat())
    }
}

/// The pure parts of the comparisons in `bench`; nothing is measured.
fn python_tests() -> Result<()> {
    for folder in ["bench/index", "bench/transfer"] {
        println!("+ python3 -m unittest discover {folder}");
        let status = Command::new("python3")
            .args(["-m", "unittest", "discover", "-q", folder])
            .current_dir(root()?)
            .status()
            .context("cannot start python3")?;
        if !status.success() {
            bail!("the tests of {folder} failed");
        }
    }
    Ok(())
}

/// The tests that kill a process at a counted system call let strace count.
fn install_strace() -> Result<()> {
    let there = || Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    if there() {
        return Ok(());
    }
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    let sudo = if root { "" } else { "sudo " };
    for step in ["apt-get update -q", "apt-get install -qy --no-install-recommends strace"] {
        let step = format!("{sudo}{step}");
        println!("+ {step}");
        // An outdated list of packages is no reason to stop; a missing strace is, below.
        let _ = Command::new("sh").args(["-c", &step]).env("DEBIAN_FRONTEND", "noninteractive").status();
    }
    if there() { Ok(()) } else { bail!("strace is missing and could not be installed; install it and run again") }
}

fn lint() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    doc()?;
    tidy::check(&root()?)
}

fn doc() -> Result<()> {
    println!("+ cargo doc, broken links are errors");
    let status = Command::new(env!("CARGO"))
        .args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .current_dir(root()?)
        .status()
        .context("cannot start cargo doc")?;
    if status.success() { Ok(()) } else { bail!("cargo doc failed") }
}

/// Longer hunts: property tests with many more cases, then fuzzing.
fn nightly() -> Result<()> {
    println!("+ PROPTEST_CASES=20000 cargo test --workspace --release -- --include-ignored");
    let status = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--release", "--", "--include-ignored", "--test-threads", "1"])
        .env("PROPTEST_CASES", "20000")
        .current_dir(root()?)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("a nightly hunt failed");
    }
    fuzz()
}

/// Fuzzes what reads text and bytes of others, each target for [`FUZZ_SECONDS`]. What makes one fail stays in
/// `fuzz/artifacts`.
fn fuzz() -> Result<()> {
    if !has("fuzz") {
        cargo(&["install", "cargo-fuzz", "--locked"])?;
    }
    let time = format!("-max_total_time={FUZZ_SECONDS}");
    for target in FUZZED {
        // Without a sanitizer it builds with a stable compiler; there is no unsafe code that one could find fault with.
        cargo(&["fuzz", "run", "--sanitizer", "none", target, "--", &time, "-timeout=10", "-rss_limit_mb=1024"])?;
    }
    Ok(())
}

/// Whether cargo has this command.
fn has(command: &str) -> bool {
    Command::new(env!("CARGO")).args([command, "--version"]).output().is_ok_and(|output| output.status.success())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    println!("+ cargo {}", arguments.join(" "));
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root()?)
        .status()
        .with_context(|| format!("cannot start cargo {}", arguments.join(" ")))?;
    if status.success() { Ok(()) } else { bail!("cargo {} failed", arguments.join(" ")) }
}

fn root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.ancestors().nth(2).context("crates/xtask lies two folders below the root")?.to_path_buf())
}
