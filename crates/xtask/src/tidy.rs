//! House rules as a check: what CONTRIBUTING.md asks for and no other lint sees.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A file longer than this asks for a split.
const FILE_LINES: usize = 800;

/// Who may depend on whom inside the workspace; everything not listed is forbidden.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("haul-core", &[]),
    ("haul-net", &["haul-core"]),
    ("haul-web", &["haul-core"]),
    ("haul-index", &["haul-core", "haul-net", "haul-web"]),
    ("haul-peer", &["haul-core", "haul-net", "haul-web"]),
    ("haul", &["haul-core", "haul-net", "haul-index", "haul-peer"]),
    ("haul-sim", &["haul-core", "haul-net", "haul-index", "haul-peer"]),
    ("xtask", &[]),
];

/// Words that the glossary replaces, as they would appear in names.
const WORDS: &[&str] = &["tracker", "torrent", "metainfo", "infohash", "outboard"];

/// Crates that would bring a clock, a socket or randomness into haul-core.
const IMPURE: &[&str] = &["tokio", "mio", "socket2", "getrandom", "rustix", "libc", "std"];

/// Checks every rule and reports all that is broken.
pub(crate) fn check(root: &Path) -> Result<()> {
    println!("+ house rules");
    let mut broken = Vec::new();
    let mut files = Vec::new();
    rust_files(&root.join("crates"), &mut files)?;
    let mut named = BTreeSet::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        check_file(root, file, &text, &mut broken);
        named.extend(file.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        let functions = text.lines().filter_map(|line| line.split_once("fn ")?.1.split(['(', '<']).next());
        named.extend(functions.map(ToOwned::to_owned));
    }
    check_tests_told(root, &named, &mut broken)?;
    check_map(root, &mut broken)?;
    check_directions(root, &mut broken)?;
    check_purity(root, &mut broken)?;
    if broken.is_empty() {
        println!("  {} files keep them", files.len());
        return Ok(());
    }
    bail!("{} house rules broken:\n  {}", broken.len(), broken.join("\n  "))
}

/// Every place that the map names is there.
fn check_map(root: &Path, broken: &mut Vec<String>) -> Result<()> {
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let places = map.split('`').filter(|place| place.starts_with("haul") && place.contains("/src/"));
    for place in places {
        if !root.join("crates").join(place).exists() {
            broken.push(format!("ARCHITECTURE.md: there is no {place}"));
        }
    }
    Ok(())
}

fn check_file(root: &Path, file: &Path, text: &str, broken: &mut Vec<String>) {
    let name = file.strip_prefix(root).unwrap_or(file).display();
    if file.file_name().is_some_and(|name| name == "mod.rs") {
        broken.push(format!("{name}: use `name.rs` beside `name/`, not mod.rs"));
    }
    if !text.starts_with("//!") {
        broken.push(format!("{name}: opens without saying what the file is for (`//!`)"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES {
        broken.push(format!("{name}: {lines} lines, over {FILE_LINES}"));
    }
    if name.to_string().contains("xtask/src/tidy.rs") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        // The type that waits for tasks is called so by its crate.
        let lower = line.to_lowercase().replace("tasktracker", "");
        for word in WORDS {
            if lower.contains(word) && !lower.contains("type:") {
                broken.push(format!("{name}:{}: the glossary has another word for `{word}`", number + 1));
            }
        }
        for mark in ["todo", "fixme", "xxx"] {
            if lower.contains(&format!("// {mark}")) {
                broken.push(format!("{name}:{}: a leftover `{mark}`", number + 1));
            }
        }
        if line.contains("sleep(") && text.contains("#[test]") && !line.trim_start().starts_with("//") {
            let test_part = text
                .find("#[cfg(test)]")
                .is_some_and(|at| text.lines().take(number).map(|line| line.len() + 1).sum::<usize>() > at);
            if test_part && !line.contains("time::sleep") {
                broken.push(format!("{name}:{}: a test that sleeps", number + 1));
            }
        }
    }
}

/// The pages that say which test shows what name tests, or files of tests, that exist.
fn check_tests_told(root: &Path, named: &BTreeSet<String>, broken: &mut Vec<String>) -> Result<()> {
    for page in ["docs/testing.md", "docs/faults.md"] {
        let text = fs::read_to_string(root.join(page)).context(page)?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
            for told in line.split('`').skip(1).step_by(2).filter(|told| told.contains("::")) {
                let name = told.rsplit([':', '/']).next().unwrap_or(told);
                if !named.contains(name) {
                    broken.push(format!("{page}:{}: there is no test `{told}`", number + 1));
                }
            }
        }
    }
    Ok(())
}

fn check_directions(root: &Path, broken: &mut Vec<String>) -> Result<()> {
    for (name, allowed) in DIRECTIONS {
        let manifest = fs::read_to_string(root.join("crates").join(name).join("Cargo.toml"))
            .with_context(|| format!("manifest of {name}"))?;
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for (other, _) in DIRECTIONS {
            let depends = dependencies
                .lines()
                .any(|line| line.split(['.', ' ', '=']).next() == Some(other) && line.contains("workspace"));
            if depends && other != name && !allowed.contains(other) {
                broken.push(format!("{name} must not depend on {other}"));
            }
        }
    }
    Ok(())
}

/// haul-core is `no_std`, and nothing that it depends on brings input, output or randomness back.
fn check_purity(root: &Path, broken: &mut Vec<String>) -> Result<()> {
    let library = fs::read_to_string(root.join("crates/haul-core/src/lib.rs"))?;
    if !library.contains("#![no_std]") {
        broken.push("haul-core: #![no_std] is gone".to_owned());
    }
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "haul-core", "--edges", "normal", "--prefix", "none", "--format", "{p} {f}"])
        .current_dir(root)
        .output()
        .context("cannot start cargo tree")?;
    let tree = String::from_utf8_lossy(&output.stdout);
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let features = line.split_once(") ").map_or(line, |(_, features)| features);
        if IMPURE.contains(&name) || features.split([',', ' ']).any(|feature| feature == "std") {
            broken.push(format!("haul-core depends on `{}`, which is not pure", line.trim()));
        }
    }
    Ok(())
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}
