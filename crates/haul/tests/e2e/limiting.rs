//! Limits of bandwidth as people see them: set, shown, cleared, and named by what they hold.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Home, Running, eventually, pattern, up, wait_ready};

const MIB: usize = 1024 * 1024;

/// A peer that shares one file, and one that has joined it.
struct World {
    content: Vec<u8>,
    owner: Running,
    reader: Running,
    reader_home: Home,
    data: tempfile::TempDir,
    _owner_home: Home,
}

impl World {
    fn new(seed: u64) -> Self {
        let content = pattern(seed, 4 * MIB);
        let data = tempfile::tempdir().unwrap();
        let share = data.path().join("share");
        fs::create_dir(&share).unwrap();
        fs::write(share.join("big.bin"), &content).unwrap();
        let (owner_home, reader_home) = (Home::new(), Home::new());
        let owner = owner_home.start(up(&["--share", share.to_str().unwrap()]));
        wait_ready(&owner_home);
        let reader = reader_home.start(up(&["--join", &owner.ticket()]));
        eventually("the file is found", || {
            !reader_home.run(["lookup", "--json", "big.bin"]).records("provider").is_empty()
        });
        Self { content, owner, reader, reader_home, data, _owner_home: owner_home }
    }

    fn file(&self) -> PathBuf {
        self.data.path().join("got.bin")
    }

    fn transfer(&self) -> Option<Value> {
        self.reader_home.run(["transfers", "--json"]).ok().records("transfer").pop()
    }

    /// Waits until the only transfer gives this reason; its record.
    fn waits_for(&self, reason: &str) -> Value {
        let mut seen = None;
        eventually(reason, || {
            seen = self.transfer();
            seen.as_ref().is_some_and(|transfer| transfer["reason"].as_str().is_some_and(|said| said.contains(reason)))
        });
        seen.unwrap()
    }

    fn limits(&self) -> Vec<Value> {
        self.reader_home.run(["limit", "--json"]).ok().records("limit")
    }

    /// Gets the file with these options, and does this while it is under way.
    fn get(&self, options: &[&str], meanwhile: impl FnOnce()) {
        let file = self.file();
        let line = [&["get", "big.bin", "-o", path(&file)], options].concat();
        let home = &self.reader_home;
        std::thread::scope(|scope| {
            let get = scope.spawn(|| home.run(line));
            meanwhile();
            get.join().unwrap().ok();
        });
        assert!(fs::read(&file).unwrap() == self.content);
    }

    fn end(self) {
        self.reader.stop();
        self.owner.stop();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_download_under_its_own_limit_says_so_until_the_limit_is_lifted() {
    let world = World::new(51);
    world.get(&["--limit", "0"], || {
        let held = world.waits_for("stopped by the limit of this transfer");
        assert_eq!((&held["state"], &held["done"]), (&"running".into(), &0.into()), "{held}");
        let number = held["transfer"].to_string();
        let limits = world.limits();
        let [limit] = limits.as_slice() else { panic!("{limits:?}") };
        assert_eq!((&limit["transfer"], &limit["direction"]), (&held["transfer"], &"down".into()));
        assert_eq!((&limit["bps"], &limit["origin"]), (&0.into(), &"haul limit".into()));
        let explained = world.reader_home.run(["transfers", "explain", &number]).ok().stdout();
        assert!(explained.contains("nothing moves: stopped by the limit of this transfer"), "{explained}");
        world.reader_home.run(["limit", "down", "off", "--transfer", &number]).ok();
    });
    let refused = world.reader_home.run(["get", "big.bin", "--limit", "fast", "--json"]);
    assert_eq!(refused.code(), 2, "{}", refused.stderr());
    let stream = world.reader_home.run(["get", "big.bin", "-o", "-", "--limit", "5M"]);
    assert!(stream.code() == 2 && stream.stderr().contains("haul limit down"), "{}", stream.stderr());
    world.end();
}

#[test]
fn a_limit_for_everything_holds_downloads_until_it_is_cleared() {
    let world = World::new(52);
    assert!(world.reader_home.run(["limit"]).ok().stdout().contains("no limits"));
    world.reader_home.run(["limit", "0"]).ok();
    let ways: Vec<(Value, Value)> = world.limits().iter().map(|l| (l["direction"].clone(), l["bps"].clone())).collect();
    assert_eq!(ways, [("up".into(), 0.into()), ("down".into(), 0.into())]);
    world.get(&[], || {
        let held = world.waits_for("stopped by the limit of all downloads");
        assert!(held["next"].as_str().is_some_and(|next| next.contains("haul limit down")), "{held}");
        world.reader_home.run(["limit", "clear"]).ok();
    });
    assert_eq!(world.limits(), Vec::<Value>::new());
    world.end();
}
