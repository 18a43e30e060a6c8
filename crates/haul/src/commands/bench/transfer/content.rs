//! What is moved: one large file and a tree of small ones, made up, the same in every run; and whether what arrives is
//! the same.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};

use super::floors;

/// One write.
const WRITE_BYTES: usize = 1 << 20;
/// Files look old (14 November 2023): what changed a moment ago is hashed again after a restart, which is not the usual
/// case.
const OLD: Duration = Duration::from_secs(1_700_000_000);
/// Small files are like those of a Linux source tree: median 4.7 kB, mean 13 kB, 3% above 64 KiB.
const MEDIAN_BYTES: f64 = 4_700.0;
const SIGMA: f64 = 1.45;
const LARGEST_BYTES: f64 = 4_194_304.0;
/// As many as in a folder of such a tree.
const FILES_PER_FOLDER: u32 = 18;
const FOLDERS_PER_FOLDER: u32 = 24;
/// The number of the large file; small ones count from 0.
const LARGE: u64 = u64::MAX;

/// Set when the run is over before its end: threads that read and write look at it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Tells all threads.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// An error if the run is over.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "stopped");
        Ok(())
    }
}

/// A small file before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SmallFile {
    /// Below the tree's root.
    pub(super) path: String,
    /// At least 1.
    pub(super) bytes: u64,
}

/// A tree of so many small files; the same for the same number.
pub(super) fn plan_tree(files: u32) -> Vec<SmallFile> {
    (0..files)
        .map(|number| {
            let folder = number / FILES_PER_FOLDER;
            let path = format!("part-{:03}/group-{folder:05}/item-{number:06}.dat", folder / FOLDERS_PER_FOLDER);
            SmallFile { path, bytes: small_size(number) }
        })
        .collect()
}

/// Log-normal, from two uniform numbers (Box and Muller's way).
fn small_size(number: u32) -> u64 {
    let mut random = [0; 16];
    stream("size", number.into()).fill(&mut random);
    let (first, second) = random.split_at(8);
    // Never 0, whose logarithm is not finite.
    let uniform =
        |bytes: &[u8]| bytes.iter().rev().fold(0.0, |value, byte| (value + f64::from(*byte)) / 256.0) + f64::EPSILON;
    let normal = (-2.0 * uniform(first).ln()).sqrt() * (std::f64::consts::TAU * uniform(second)).cos();
    (MEDIAN_BYTES * (SIGMA * normal).exp()).round().clamp(1.0, LARGEST_BYTES) as u64
}

/// Bytes without an end that nothing compresses.
fn stream(purpose: &str, number: u64) -> blake3::OutputReader {
    blake3::Hasher::new_derive_key(&format!("haul bench transfer {purpose}"))
        .update(&number.to_le_bytes())
        .finalize_xof()
}

/// Content on the disk, with the hashes that it must have where it arrives.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// The folder of the large file.
    pub(super) large_folder: PathBuf,
    /// The large file.
    pub(super) large: PathBuf,
    /// Its bytes.
    pub(super) large_bytes: u64,
    /// Its BLAKE3.
    pub(super) large_hash: blake3::Hash,
    /// The folder of small files.
    pub(super) small_folder: PathBuf,
    /// The small files.
    pub(super) small: Vec<SmallFile>,
    small_hashes: Vec<blake3::Hash>,
}

impl Content {
    /// Writes all of it below `directory`, durable, so that the disk is at rest when measuring begins.
    pub(super) fn write(directory: &Path, large_bytes: u64, files: u32, stop: &Stop) -> anyhow::Result<Self> {
        let (large_folder, small_folder) = (directory.join("large"), directory.join("small"));
        fs::create_dir_all(&large_folder)?;
        fs::create_dir_all(&small_folder)?;
        let large = large_folder.join("large.bin");
        let large_hash = write_file(&large, large_bytes, LARGE, stop).context("writing the large file")?;
        let small = plan_tree(files);
        let mut small_hashes = Vec::with_capacity(small.len());
        for (number, file) in small.iter().enumerate() {
            let path = small_folder.join(&file.path);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            small_hashes.push(write_file(&path, file.bytes, number as u64, stop).context("writing small files")?);
        }
        rustix::fs::syncfs(File::open(directory)?)?;
        Ok(Self { large_folder, large, large_bytes, large_hash, small_folder, small, small_hashes })
    }

    /// Bytes of all small files.
    pub(super) fn small_bytes(&self) -> u64 {
        self.small.iter().map(|file| file.bytes).sum()
    }

    /// Whether `path` is the large file.
    pub(super) fn check_large(&self, path: &Path, stop: &Stop) -> anyhow::Result<()> {
        let found = floors::hash_all_threads(path, stop).context("reading what arrived")?;
        ensure!(found == self.large_hash, "what arrived at {} is not what was sent: {found}", path.display());
        Ok(())
    }

    /// Whether `folder` has exactly the small files.
    pub(super) fn check_small(&self, folder: &Path, stop: &Stop) -> anyhow::Result<()> {
        let arrived = count_files(folder)?;
        ensure!(arrived == self.small.len(), "{arrived} of {} small files arrived", self.small.len());
        for (file, expected) in self.small.iter().zip(&self.small_hashes) {
            stop.check()?;
            let path = folder.join(&file.path);
            let bytes = fs::read(&path).with_context(|| format!("{} did not arrive", file.path))?;
            if blake3::hash(&bytes) != *expected {
                bail!("what arrived at {} is not what was sent", path.display());
            }
        }
        Ok(())
    }
}

fn count_files(folder: &Path) -> std::io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(files)
}

fn write_file(path: &Path, bytes: u64, number: u64, stop: &Stop) -> anyhow::Result<blake3::Hash> {
    let mut file = File::create_new(path)?;
    let mut source = stream("bytes", number);
    let mut buffer = vec![0; WRITE_BYTES.min(bytes as usize)];
    let (mut left, mut hasher) = (bytes, blake3::Hasher::new());
    while left > 0 {
        stop.check()?;
        let portion = left.min(buffer.len() as u64) as usize;
        let portion = buffer.get_mut(..portion).unwrap_or_default();
        source.fill(portion);
        hasher.update(portion);
        file.write_all(portion)?;
        left -= portion.len() as u64;
    }
    file.set_modified(SystemTime::UNIX_EPOCH + OLD)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_like_a_source_tree() {
        let tree = plan_tree(20_000);
        assert_eq!(tree, plan_tree(20_000));
        let mut sizes: Vec<u64> = tree.iter().map(|file| file.bytes).collect();
        sizes.sort_unstable();
        assert!((4_400..5_000).contains(&sizes[10_000]), "median {}", sizes[10_000]);
        let mean = sizes.iter().sum::<u64>() / 20_000;
        assert!((12_000..15_000).contains(&mean), "mean {mean}");
        let paths: std::collections::HashSet<_> = tree.iter().map(|file| &file.path).collect();
        assert_eq!(paths.len(), 20_000);
    }

    #[test]
    fn what_arrives_is_compared() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let stop = Stop::default();
        let content = Content::write(folder.path(), 300_000, 5, &stop).expect("written");
        content.check_large(&content.large, &stop).expect("the same");
        content.check_small(&content.small_folder, &stop).expect("the same");
        let victim = content.small_folder.join(&content.small[3].path);
        let bytes = fs::read(&victim).expect("there");
        fs::write(&victim, vec![1; bytes.len()]).expect("written");
        assert!(content.check_small(&content.small_folder, &stop).is_err(), "other bytes");
        fs::write(&victim, &bytes).expect("written");
        fs::write(content.small_folder.join("more"), "x").expect("written");
        assert!(content.check_small(&content.small_folder, &stop).is_err(), "one file more");
        fs::write(&content.large, vec![0; 300_000]).expect("written");
        assert!(content.check_large(&content.large, &stop).is_err(), "other bytes");
        stop.set();
        let told = Content::write(&folder.path().join("again"), 300_000, 5, &stop).expect_err("stopped");
        assert_eq!(told.root_cause().to_string(), "stopped");
    }
}
