//! What moving files cannot be faster than on this machine: hashing, carrying over the loopback, writing and creating,
//! each alone and in its plainest form.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::ScopedJoinHandle;

use anyhow::{Context as _, anyhow, ensure};
use haul_core::limits::LEAF_BYTES;
use haul_core::outline::{ChainingValue, OutlineBuilder, leaf_value};

use super::content::{SmallFile, Stop};

/// One read or write: large enough that the call costs little.
const PORTION: usize = 1 << 20;
/// What one thread hashes at a time, in whole leaves.
const PART_BYTES: u64 = 8 << 20;
/// How much is written before the disk is asked to begin with it.
const SYNC_BYTES: u64 = 64 << 20;

/// Hashes a file as `b3sum --num-threads 1` does.
pub(super) fn hash_one_thread(path: &Path, stop: &Stop) -> anyhow::Result<blake3::Hash> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PORTION];
    loop {
        stop.check()?;
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}

/// Hashes a file in all threads that the machine has, as `b3sum` does.
pub(super) fn hash_all_threads(path: &Path, stop: &Stop) -> anyhow::Result<blake3::Hash> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes <= LEAF_BYTES {
        return hash_one_thread(path, stop);
    }
    // Whoever is through takes the next part: one that is disturbed does not hold up the others.
    let next = AtomicU64::new(0);
    let work = || -> anyhow::Result<Vec<(u64, Vec<ChainingValue>)>> {
        let starts = std::iter::from_fn(|| Some(next.fetch_add(PART_BYTES, Ordering::Relaxed)));
        let starts = starts.take_while(|start| *start < bytes);
        starts.map(|start| Ok((start, part_values(&file, start, bytes.min(start + PART_BYTES), stop)?))).collect()
    };
    let mut parts = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join =
            |thread: ScopedJoinHandle<'_, _>| thread.join().map_err(|_| anyhow!("a thread that hashes failed"))?;
        threads.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
    })?
    .concat();
    parts.sort_unstable_by_key(|(start, _)| *start);
    let mut builder = OutlineBuilder::new();
    parts.into_iter().flat_map(|(_, values)| values).for_each(|value| builder.push_value(value));
    Ok(blake3::Hash::from_bytes(*builder.finish().0.as_bytes()))
}

/// Values of the leaves between two offsets, of which the first one begins a leaf.
fn part_values(file: &File, start: u64, end: u64, stop: &Stop) -> anyhow::Result<Vec<ChainingValue>> {
    let mut buffer = vec![0; PORTION];
    let (mut at, mut values) = (start, Vec::new());
    while at < end {
        stop.check()?;
        let portion = buffer.get_mut(..(end - at).min(PORTION as u64) as usize).unwrap_or_default();
        file.read_exact_at(portion, at)?;
        let leaves = portion.chunks(LEAF_BYTES as usize);
        values.extend(leaves.zip(at / LEAF_BYTES..).map(|(bytes, leaf)| leaf_value(leaf, bytes)));
        at += portion.len() as u64;
    }
    Ok(values)
}

/// Sends a file through one TCP connection on the loopback, not encrypted, to a reader that throws it away.
pub(super) fn carry(path: &Path, stop: &Stop) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // The system completes it before anybody accepts; so a reader never waits for a connection that does not come.
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> std::io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let (mut buffer, mut received) = (vec![0; PORTION], 0);
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(received),
                    read => received += read as u64,
                }
            }
        });
        let sent = send(file, stream, stop);
        let received = reader.join().map_err(|_| anyhow!("the thread that receives failed"))?;
        sent?;
        ensure!(received? == bytes, "the loopback lost bytes");
        Ok(())
    })
}

/// Takes the connection, so that it ends with the file.
fn send(mut file: File, mut stream: TcpStream, stop: &Stop) -> anyhow::Result<()> {
    let mut buffer = vec![0; PORTION];
    loop {
        stop.check()?;
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..read).unwrap_or_default())?;
    }
}

/// Writes as many bytes from memory into a new file, and has them made durable, by another thread beside the writing.
pub(super) fn write(target: &Path, bytes: u64, stop: &Stop) -> anyhow::Result<()> {
    let file = &File::create_new(target)?;
    let buffer = noise();
    std::thread::scope(|scope| {
        let (written, news) = mpsc::channel();
        let syncer = scope.spawn(move || news.iter().try_for_each(|()| file.sync_data()));
        for at in (0..bytes).step_by(PORTION) {
            stop.check()?;
            (&*file).write_all(buffer.get(..(bytes - at).min(PORTION as u64) as usize).unwrap_or_default())?;
            if at % SYNC_BYTES == 0 {
                // Fails only if a sync has failed, which is told below.
                let _ = written.send(());
            }
        }
        drop(written);
        syncer.join().map_err(|_| anyhow!("the thread that syncs failed"))??;
        Ok(file.sync_all()?)
    })
}

/// Creates, writes and closes as many files of the same sizes in the same folders, one thread, and has them made durable
/// together.
pub(super) fn create(target: &Path, files: &[SmallFile], stop: &Stop) -> anyhow::Result<()> {
    let buffer = noise();
    let mut folder = None;
    for file in files {
        stop.check()?;
        let path = target.join(&file.path);
        let parent = path.parent().context("a file lies in a folder")?;
        if folder.as_deref() != Some(parent) {
            fs::create_dir_all(parent)?;
            folder = Some(parent.to_owned());
        }
        let mut made = File::create_new(&path)?;
        let mut left = file.bytes;
        while left > 0 {
            let portion = buffer.get(..left.min(PORTION as u64) as usize).unwrap_or_default();
            made.write_all(portion)?;
            left -= portion.len() as u64;
        }
    }
    Ok(rustix::fs::syncfs(File::open(target)?)?)
}

/// Bytes that a file system does not compress.
fn noise() -> Vec<u8> {
    let mut bytes = vec![0; PORTION];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::content::plan_tree;
    use super::*;

    #[test]
    fn threads_find_the_same_hash() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let stop = Stop::default();
        // Within a leaf, at its edge, over a portion, and several of them in each thread.
        for bytes in [1, 65_536, 65_537, (PORTION + 5) as u64, (17 << 20) + 5] {
            let path = folder.path().join(bytes.to_string());
            write(&path, bytes, &stop).expect("written");
            let whole = blake3::hash(&fs::read(&path).expect("there"));
            assert_eq!(hash_one_thread(&path, &stop).expect("hashed"), whole, "{bytes}");
            assert_eq!(hash_all_threads(&path, &stop).expect("hashed"), whole, "{bytes}");
            carry(&path, &stop).expect("carried");
        }
        stop.set();
        assert!(carry(&folder.path().join("65537"), &stop).is_err(), "nobody waits for the rest");
    }

    #[test]
    fn the_same_files_are_created() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let tree = plan_tree(40);
        create(folder.path(), &tree, &Stop::default()).expect("created");
        for file in &tree {
            assert_eq!(fs::metadata(folder.path().join(&file.path)).expect("there").len(), file.bytes, "{file:?}");
        }
    }
}
