//! One peer shares a folder, another finds and fetches it: names, contents, links and modes arrive as they were.

use std::fs;
use std::path::Path;

use crate::support::{Home, assert_same_tree, leftovers, odd_folder, up, wait_ready};

#[test]
fn a_folder_arrives_as_it_was() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("things");
    odd_folder(&folder);
    let (first, second) = (Home::new(), Home::new());
    let server = first.start(up(&["--share", folder.to_str().unwrap()]));
    wait_ready(&first);
    let reader = second.start(up(&["--join", &server.ticket()]));

    let hits = second.run(["search", "--json", "same txt"]).ok();
    assert!(hits.records("hit").len() >= 2, "{}", hits.stdout());
    let folders = second.run(["search", "--json", "sub type:folder"]).ok().records("hit");
    let (files, bytes) = below(&folder.join("sub"));
    assert_eq!(folders[0]["path"], "things/sub");
    assert_eq!((folders[0]["files"].as_u64(), folders[0]["size"].as_u64()), (Some(files), Some(bytes)));
    let nothing = second.run(["search", "--json", "no-such-name-anywhere"]);
    assert_eq!(nothing.code(), 1);

    let found = second.run(["lookup", "--json", "size-65537.bin"]).ok();
    let expected = blake3::hash(&fs::read(folder.join("size-65537.bin")).unwrap());
    assert_eq!(found.record("provider")["id"], format!("b3:{expected}"));

    let peer = server.ready["peer"].as_str().unwrap();
    let listing = second.run(["browse", "--json", &format!("{peer}:things/sub")]).ok();
    assert!(listing.stdout().contains("run.sh"), "{}", listing.stdout());

    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("one.bin");
    let done = second.run(["get", "--json", "size-65537.bin", "-o", file.to_str().unwrap()]).ok().record("done");
    assert_eq!(done["verified"], true);
    assert_eq!(fs::read(&file).unwrap(), fs::read(folder.join("size-65537.bin")).unwrap());
    let again = second.run(["get", "--json", "name::with::colons.pm", "-o", file.to_str().unwrap()]);
    assert_ne!(again.code(), 0, "an existing file is not replaced without --force");

    let copy = target.path().join("copy");
    let source = format!("{peer}:things");
    second.run(["get", "--json", &source, "-o", copy.to_str().unwrap()]).ok();
    assert_same_tree(&folder, &copy);
    assert_eq!(leftovers(target.path()), Vec::<std::path::PathBuf>::new());

    server.stop();
    reader.stop();
}

/// Files below a folder, and their bytes.
fn below(folder: &Path) -> (u64, u64) {
    let found = fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        match (metadata.is_dir(), metadata.is_file()) {
            (true, _) => below(&entry.path()),
            (_, true) => (1, metadata.len()),
            _ => (0, 0),
        }
    });
    found.fold((0, 0), |sum, (files, bytes)| (sum.0 + files, sum.1 + bytes))
}
