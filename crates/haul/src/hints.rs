//! A check of every hint in the workspace: what haul tells people to type must exist.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::args::Cli;

/// Words behind `haul` that make a sentence and not a command.
const PROSE: &[&str] = &[
    "alone",
    "cannot",
    "could",
    "did",
    "does",
    "finds",
    "has",
    "is",
    "keeps",
    "peer",
    "process",
    "processes",
    "runs",
    "shares",
    "was",
];

/// Source files of all crates, without their tests' own files.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the workspace can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The commands in a text: what stands behind `haul ` where a command may begin.
fn commands(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("haul ") {
        let before = &text[..at];
        let begins = ["`", "  ", ": ", "\"", "(", "or "].iter().any(|mark| before.ends_with(mark));
        if begins && !before.trim_start().starts_with("//") {
            let end = text[at..].find(['`', '"', '\\', '\n', ',', ';', ')']).map_or(text.len(), |end| at + end);
            found.push(&text[at + 5..end]);
        }
    }
    found
}

/// What is wrong with a command, if anything.
fn fault(command: &str) -> Option<String> {
    let mut root = Cli::command();
    root.build();
    let mut verb = &root;
    let mut words = command.split(' ').take_while(|word| !word.is_empty()).peekable();
    while let Some(word) = words.peek() {
        if !verb.has_subcommands() || word.starts_with('-') || !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
            break;
        }
        verb = match verb.find_subcommand(word) {
            Some(found) => found,
            None => return Some(format!("no verb '{word}' in 'haul {command}'")),
        };
        words.next();
    }
    for flag in words.filter_map(|word| word.strip_prefix("--")).filter(|flag| !flag.is_empty()) {
        let flag = flag.trim_end_matches(['.', ':']);
        let has = |command: &clap::Command| {
            command.get_arguments().any(|argument| {
                argument.get_long() == Some(flag) || argument.get_all_aliases().is_some_and(|all| all.contains(&flag))
            })
        };
        if flag != "help" && !has(verb) && !has(&root) {
            return Some(format!("no flag '--{flag}' in 'haul {command}'"));
        }
    }
    None
}

#[test]
fn every_hint_names_what_exists() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for name in ["haul", "haul-core", "haul-net", "haul-index", "haul-peer", "haul-web"] {
        sources(&crates.join(name).join("src"), &mut files);
    }
    let mut faults = Vec::new();
    let mut checked = 0;
    for file in files.iter().filter(|file| !file.ends_with("hints.rs") && !file.ends_with("bench/plot.rs")) {
        let text = fs::read_to_string(file).expect("a source file");
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//!"));
        for (number, line) in lines {
            for command in commands(line) {
                let first = command.split([' ', '.']).next().unwrap_or_default();
                if PROSE.contains(&first) && Cli::command().find_subcommand(first).is_none() {
                    continue;
                }
                checked += 1;
                if let Some(fault) = fault(command) {
                    faults.push(format!("{}:{}: {fault}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(checked > 30, "only {checked} hints were found: the search for them is broken");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_check_finds_faults() {
    assert_eq!(
        commands("next: \"start one: haul up        more: haul explain x\""),
        ["up        more: haul explain x", "explain x"]
    );
    assert_eq!(fault("up        more"), None);
    assert_eq!(fault("get NAME --from PEER"), None);
    assert!(fault("fetch NAME").is_some());
    assert!(fault("share drop NAME").is_some());
    assert!(fault("get NAME --patience").is_some());
}
