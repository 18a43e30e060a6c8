//! Disks that lose what was written: the kernel says so once, at a sync, and goes on showing the lost bytes from memory.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{Advice, fadvise};

use crate::mounted::{Image, Mounted};
use crate::support::{Home, Running, leftovers, pattern, up, wait_ready};

const MIB: usize = 1024 * 1024;

/// What is on the disk, and not what memory holds of it.
fn on_disk(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    fs::read(path).unwrap()
}

struct Network {
    _data: tempfile::TempDir,
    _homes: [Home; 1],
    server: Running,
    reader: Home,
    daemon: Running,
}

fn share(fill: impl FnOnce(&Path)) -> Network {
    let (home, reader, data) = (Home::new(), Home::new(), tempfile::tempdir().unwrap());
    let folder = data.path().join("things");
    fs::create_dir(&folder).unwrap();
    fill(&folder);
    let server = home.start(up(&["--share", folder.to_str().unwrap()]));
    wait_ready(&home);
    let daemon = reader.start(up(&["--join", &server.ticket()]));
    Network { _data: data, _homes: [home], server, reader, daemon }
}

impl Network {
    /// Gets something on a disk that takes 12 MiB and loses the rest at the sync, then once more when there is room.
    fn get_on_a_lossy_disk(self, what: &str, check: impl FnOnce(&Path)) {
        let Some(below) = Mounted::in_memory("size=12m") else { return };
        let Some(disk) = Image::new(below.path(), 48 * MIB as u64).and_then(|image| image.mount()) else { return };
        let target = disk.path().join("got");
        let get = || self.reader.run(["get", "--json", what, "-o", target.to_str().unwrap()]);
        let failed = get();
        assert_eq!((failed.code(), &failed.record("error")["code"]), (7, &"disk".into()), "{}", failed.stdout());
        assert!(!target.exists(), "what is on no disk has no name");
        below.remount("size=128m");
        let done = get().ok().record("done");
        let kept = done["resumed_from"].as_u64().unwrap();
        assert!(kept > 0 && done["fetched"].as_u64().unwrap() > 0, "what is there is used, the rest fetched: {done}");
        check(&target);
        assert_eq!(leftovers(disk.path()), Vec::<std::path::PathBuf>::new());
        self.daemon.stop();
        self.server.stop();
    }
}

#[test]
fn what_a_failed_sync_has_lost_is_fetched_again() {
    let content = pattern(51, 24 * MIB);
    let network = share(|folder| fs::write(folder.join("big.bin"), &content).unwrap());
    network.get_on_a_lossy_disk("big.bin", |file| assert!(on_disk(file) == content, "its bytes are on the disk"));
}

#[test]
fn what_a_failed_sync_has_lost_of_a_folder_is_fetched_again() {
    let content = |n: u64| pattern(n, 60 * 1024);
    let network = share(|folder| {
        (0..400).for_each(|n| fs::write(folder.join(n.to_string()), content(n)).unwrap());
    });
    let source = format!("{}:things", network.server.ready["peer"].as_str().unwrap());
    network.get_on_a_lossy_disk(&source, |folder| {
        let lost = (0..400).filter(|n| on_disk(&folder.join(n.to_string())) != content(*n)).count();
        assert_eq!(lost, 0, "their bytes are on the disk");
    });
}
