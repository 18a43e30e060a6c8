//! What haul makes of itself: completions, man pages, explanations.

use crate::daemon::haul;

fn run(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = haul(home.path(), arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.contains("transfers") && script.contains("rescan"), "{shell}");
    }
}

#[test]
fn man_pages_are_complete() {
    assert!(run(&["man"]).contains(".TH haul 1"));
    assert!(run(&["man", "get"]).contains("haul-get") || run(&["man", "get"]).contains("haul get"));
    let folder = tempfile::tempdir().unwrap();
    run(&["man", "--out", folder.path().to_str().unwrap()]);
    for page in ["haul.1", "haul-get.1", "haul-share-add.1", "haul-network-export.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
}

#[test]
fn haul_alone_says_where_to_start() {
    let text = run(&[]);
    assert_eq!(text.lines().count(), 12, "{text}");
}

#[test]
fn codes_are_explained() {
    assert!(run(&["explain", "no-provider"]).starts_with("no-provider   (exit code 1"));
    assert!(run(&["explain", "[no-provider]"]).starts_with("no-provider"));
    assert!(run(&["explain"]).lines().count() > 25);
}

#[test]
fn the_configuration_names_its_layers() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("config.toml"), "name = \"lab-3\"\n").unwrap();
    let output = haul(home.path(), &["config", "show", "--origin"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("lab-3") && text.contains("config.toml"), "{text}");
    std::fs::write(home.path().join("config.toml"), "nmae = \"lab-3\"\n").unwrap();
    let output = haul(home.path(), &["config", "show"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean 'name'"));
}
