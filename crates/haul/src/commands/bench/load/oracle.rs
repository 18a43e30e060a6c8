//! What a search must find: a scan over all names, for many queries at once.

use std::collections::HashSet;

use anyhow::ensure;
use haul_core::ids::BlobId;
use haul_core::query::{FileType, PathTest, Query, Test, fold};
use haul_core::wire::index::{Hit, HitKind, Hits};

use super::paths::{self, Paths};
use super::population::Population;

/// What one query must find.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    /// Files that match.
    pub(crate) files: u64,
    /// Of these, files with a name in ASCII: other programs fold no accents, and count alike only here.
    pub(crate) ascii_files: u64,
    /// Their blobs, as long as they are not too many.
    blobs: HashSet<BlobId>,
}

/// Blobs kept for one query: more than an answer can hold.
const BLOBS_KEPT: usize = 2_000;

/// Scans all files once. Only what [`super::queries`] makes is understood: words in base names, `ext:`, `path:/…`,
/// `size:` and `type:`.
pub(crate) fn scan(queries: &[Query], population: &Population, paths: &Paths) -> Vec<Truth> {
    let mut truths = vec![Truth::default(); queries.len()];
    let needed: Vec<u64> = queries.iter().map(|q| q.words.iter().fold(0, |mask, w| mask | letters(&w.text))).collect();
    for file in 0..population.files() {
        let path = paths.of(population, file);
        let (directory, name) = paths::split(&path);
        let ascii = u64::from(name.is_ascii());
        let name = fold(name);
        let there = letters(&name);
        let mut blob = None;
        for ((query, needed), truth) in queries.iter().zip(&needed).zip(&mut truths) {
            if needed & !there != 0 || !query.words.iter().all(|word| name.contains(word.text.as_str())) {
                continue;
            }
            let blob = *blob.get_or_insert_with(|| population.blob(file));
            if fits(query, directory, &name, Population::size(&blob)) {
                truth.files += 1;
                truth.ascii_files += ascii;
                if truth.blobs.len() < BLOBS_KEPT {
                    truth.blobs.insert(blob);
                }
            }
        }
    }
    truths
}

/// A bit for each byte value of a text, modulo 64: a name that lacks a letter of a query need not be looked at further.
fn letters(text: &str) -> u64 {
    text.bytes().fold(0, |mask, byte| mask | 1 << (byte & 63))
}

fn fits(query: &Query, directory: &[u8], name: &str, size: u64) -> bool {
    query.filters.iter().all(|filter| {
        let holds = match &filter.test {
            Test::Size { min, max } => (*min..=*max).contains(&size),
            Test::Extension(list) => {
                let extension = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty());
                extension.is_some_and(|(_, extension)| list.iter().any(|one| one == extension))
            }
            Test::Path(PathTest::Below(parts)) => {
                let mut components = directory.split(|byte| *byte == b'/').map(fold);
                parts.iter().all(|part| components.next().as_ref() == Some(part))
            }
            Test::Type(list) => list.iter().any(|one: &FileType| one.fits(HitKind::File, name)),
            _ => false,
        };
        holds != filter.inverted
    })
}

/// Whether an answer to a query whose words match base names only is right: all hits match, none is missing while
/// there is room, the total is the true one where it is said to be exact. Directories are left out: the list of paths
/// does not name them.
pub(crate) fn check(query: &Query, limit: usize, truth: &Truth, hits: &Hits) -> anyhow::Result<()> {
    let files: Vec<&Hit> = hits.hits.iter().filter(|hit| hit.kind == HitKind::File).collect();
    if truth.files == 0 {
        ensure!(files.iter().all(|hit| hit.near), "nothing matches, but there are hits that are not near ones");
        return Ok(());
    }
    let mut found = HashSet::new();
    for hit in &files {
        let name = fold(&hit.name);
        let (directory, _) = paths::split(hit.path.as_bytes());
        let matches = query.words.iter().all(|word| name.contains(word.text.as_str()))
            && fits(query, directory, &name, hit.size)
            && !hit.near;
        ensure!(matches, "a hit that does not match: {hit:?}");
        let blob = hit.blob.unwrap_or_else(BlobId::empty);
        ensure!(found.insert(blob), "a hit twice: {hit:?}");
        let known = truth.blobs.len() >= BLOBS_KEPT || truth.blobs.contains(&blob);
        ensure!(known, "a hit that is not registered: {hit:?}");
    }
    let room = hits.hits.len() < limit;
    if room {
        ensure!(found.len() as u64 == truth.files, "{} of {} files are found", found.len(), truth.files);
    } else {
        ensure!(hits.total >= truth.files || !hits.exact, "the total is {}, not {}", hits.total, truth.files);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use haul_core::path::SharePath;
    use haul_core::query::parse;
    use haul_core::wire::Label;

    use super::super::paths::Lines;
    use super::*;

    fn hit(path: &str, blob: BlobId, size: u64) -> Hit {
        Hit {
            kind: HitKind::File,
            name: paths::split(path.as_bytes()).1.into(),
            blob: Some(blob),
            size,
            files: None,
            mtime_ns: 0,
            peer: haul_net::identity::SecretKey::from_seed([1; 32]).unwrap().public(),
            peer_name: Label::from_lossy("p"),
            share: Label::from_lossy("s"),
            path: SharePath::new(path.as_bytes()).unwrap(),
            names: 1,
            contents: 1,
            copies: 1,
            online: 1,
            near: false,
        }
    }

    #[test]
    fn missing_and_wrong_hits_are_noticed() {
        let lines = "usr/lib/Alpha.so\nusr/lib/beta.so\nusr/share/alphabet.txt\netc/gámma\n";
        let paths = Paths::Listed(Lines::new(lines.as_bytes().to_vec()));
        let population = Population::new(1, 1, 4, 1.0).unwrap();
        let texts = ["alpha", "alpha ext:so", "a path:/usr/lib", "zeta", "alpha size:<1", "a"];
        let queries: Vec<Query> = texts.iter().map(|text| parse(text).unwrap()).collect();
        let truths = scan(&queries, &population, &paths);
        let counts: Vec<u64> = truths.iter().map(|truth| truth.files).collect();
        assert_eq!(counts, [2, 1, 2, 0, 0, 4]);
        assert_eq!(truths[5].ascii_files, 3);
        let of = |file: u64| {
            let blob = population.blob(file);
            hit(std::str::from_utf8(&paths.of(&population, file)).unwrap(), blob, Population::size(&blob))
        };
        let answer = |hits: Vec<Hit>| Hits { total: hits.len() as u64, exact: true, hits, ..Hits::default() };
        let check = |hits: Vec<Hit>| check(&queries[0], 10, &truths[0], &answer(hits));
        assert!(check(vec![of(0), of(2)]).is_ok());
        assert!(check(vec![of(0)]).is_err());
        assert!(check(vec![of(0), of(0)]).is_err());
        assert!(check(vec![of(0), of(1)]).is_err());
        assert!(check(vec![of(0), Hit { near: true, ..of(2) }]).is_err());
        assert!(check(vec![of(0), Hit { blob: Some(BlobId::new([9; 32])), ..of(2) }]).is_err());
    }
}
