//! System calls of the log. Those that make things durable are behind functions that tests let fail.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, pwritev};

use super::format::{HEAD_BYTES, Head, decode_head};
use crate::store::StoreError;

/// Slices that one system call takes (`UIO_MAXIOV`).
const SLICES: usize = 1_024;
/// Bytes that a reader of a whole segment reads at once.
const WINDOW: usize = 1024 * 1024;
const SUFFIX: &str = ".log";
const DAMAGED: &str = "damaged";

/// How bytes reach the disk.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Device {
    /// Writes all slices at an offset.
    pub(in crate::store) write: fn(&File, &mut [IoSlice<'_>], u64) -> io::Result<()>,
    /// Makes a file's bytes durable.
    pub(in crate::store) sync: fn(&File) -> io::Result<()>,
    /// Makes the names in a folder durable.
    pub(in crate::store) sync_folder: fn(&File) -> io::Result<()>,
}

impl Default for Device {
    fn default() -> Self {
        Self { write: write_all_at, sync: File::sync_data, sync_folder: File::sync_all }
    }
}

pub(in crate::store) fn write_all_at(file: &File, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let some = slices.get(..SLICES).unwrap_or(slices);
        match pwritev(file, some, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut slices, written);
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The folder of a log, locked for this process. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(in crate::store) struct Folder {
    path: PathBuf,
    file: File,
}

impl Folder {
    pub(in crate::store) fn lock(path: &Path) -> Result<Self, StoreError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            StoreError::Storage(format!("cannot {what} the folder {}: {error}", path.display()))
        };
        std::fs::create_dir_all(path).map_err(|error| failed("make", &error))?;
        let file = File::open(path).map_err(|error| failed("open", &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), file }),
            Err(Errno::WOULDBLOCK) => Err(failed("use", &"another process has it open: stop that one first")),
            Err(error) => Err(failed("lock", &error)),
        }
    }

    pub(in crate::store) fn segment_path(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:08}{SUFFIX}"))
    }

    /// Numbers of all segments, ascending.
    pub(in crate::store) fn segments(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).filter(|digits| digits.len() == 8);
            // `parse` alone would take "+0000001" too.
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            numbers.extend(digits.and_then(|digits| digits.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(in crate::store) fn create(&self, number: u32) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.segment_path(number))
    }

    pub(in crate::store) fn remove(&self, number: u32) -> io::Result<()> {
        std::fs::remove_file(self.segment_path(number))
    }

    /// Deletes a segment of which nothing is needed, and sets a file aside that is none.
    pub(in crate::store) fn discard(&self, number: u32) -> io::Result<()> {
        let head = read_at(&File::open(self.segment_path(number))?, 0, HEAD_BYTES)?;
        let unfinished = head.iter().all(|byte| *byte == 0);
        if unfinished || matches!(decode_head(&head), Head::Segment { .. }) {
            self.remove(number)
        } else {
            self.set_aside(number)
        }
    }

    /// Renames a file of which nothing can be read, so that nobody's bytes are deleted unseen.
    pub(in crate::store) fn set_aside(&self, number: u32) -> io::Result<()> {
        let path = self.segment_path(number);
        let mut aside = path.with_added_extension(DAMAGED);
        let mut copy = 1;
        while aside.exists() {
            copy += 1;
            aside = path.with_added_extension(format!("{DAMAGED}-{copy}"));
        }
        tracing::error!(from = %path.display(), to = %aside.display(), "nothing in this file can be read; it is set aside");
        std::fs::rename(&path, &aside)
    }

    /// The folder itself.
    pub(in crate::store) fn file(&self) -> &File {
        &self.file
    }
}

/// Reads `length` bytes, or as many as there are.
pub(in crate::store) fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Reads a file from front to back in large steps.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, start: 0, bytes: Vec::new() }
    }

    /// The bytes from `offset` on: `length` of them, or fewer at the end of the file.
    pub(super) fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let ahead = offset.checked_sub(self.start).filter(|ahead| *ahead < self.bytes.len() as u64);
        let here = ahead.map(|ahead| ahead as usize).filter(|ahead| self.bytes.len() - ahead >= length);
        let ahead = if let Some(ahead) = here {
            ahead
        } else {
            self.bytes = read_at(self.file, offset, length.max(WINDOW))?;
            self.start = offset;
            0
        };
        let rest = self.bytes.get(ahead..).unwrap_or_default();
        Ok(rest.get(..length).unwrap_or(rest))
    }
}
