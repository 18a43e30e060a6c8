//! File systems of their own for tests: small ones in memory, and real ones in a file whose bytes can be changed. Where
//! mounting is not allowed, tests that need it say so and end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system on a folder; unmounted when it ends.
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    /// A file system in memory. None, and told, where mounting is not allowed.
    pub(crate) fn in_memory(options: &str) -> Option<Self> {
        Self::new(&["-t", "tmpfs", "-o", options, "haul-test"])
    }

    fn new(arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        if succeeds(Command::new("mount").args(arguments).arg(folder.path())) {
            return Some(Self(folder));
        }
        println!("skipped: `mount {}` is not allowed here", arguments.join(" "));
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes an image off, lets `change` do something to its bytes, and mounts it at the same place again.
    pub(crate) fn change(&self, image: &Image, change: impl FnOnce()) {
        assert!(succeeds(Command::new("umount").arg(self.path())), "nobody uses it");
        change();
        assert!(succeeds(Command::new("mount").args(["-o", "loop"]).args([image.path(), self.path()])));
    }

    /// Changes options of what is mounted.
    pub(crate) fn remount(&self, options: &str) {
        assert!(succeeds(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path())));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// A file that holds an ext4 file system.
pub(crate) struct Image(PathBuf);

impl Image {
    /// A new one of this size in a folder. It takes space as it is written to. None where it cannot be made.
    pub(crate) fn new(folder: &Path, bytes: u64) -> Option<Self> {
        let path = folder.join("image");
        fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&path));
        if !made {
            println!("skipped: there is no mkfs.ext4 here");
        }
        made.then_some(Self(path))
    }

    /// Mounts it.
    pub(crate) fn mount(&self) -> Option<Mounted> {
        Mounted::new(&["-o", "loop", self.0.to_str().unwrap()])
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
