//! The report's mix: how many operations of which kind, names, questions and the answers that must come. The program
//! in `bench/report_baseline` uses the same ones.

use haul_core::ids::BlobId;
use haul_core::outline::OutlineBuilder;

/// Searches of each peer.
pub(crate) const SEARCHES: usize = 1_000;
/// Files that each peer registers.
pub(crate) const REGISTRATIONS: usize = 200;
/// Lookups of each peer.
pub(crate) const LOOKUPS: usize = 800;

/// Lookups walk over the files in steps of this many.
const STRIDE: usize = 13;
const FIRST: [&str; 7] = ["annual", "field", "lecture", "holiday", "genome", "sensor", "kernel"];
const SECOND: [&str; 11] =
    ["report", "notes", "photos", "backup", "samples", "slides", "budget", "minutes", "draft", "archive", "video"];
const EXTENSIONS: [&str; 5] = ["pdf", "iso", "jpg", "tar.gz", "csv"];

/// What one run of the mix asks. `run` stands in every name, so that runs side by side do not find each other's files.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// Short word in every name.
    pub(crate) run: String,
    /// Peers that take part.
    pub(crate) peers: usize,
}

/// A search and what it must find.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SearchCase {
    /// One word, part of the names.
    pub(crate) query: String,
    /// The names, sorted.
    pub(crate) names: Vec<String>,
}

/// A lookup and what it must find.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LookupCase {
    /// The file's name; its content is the name's bytes.
    pub(crate) name: String,
    /// Peers that have it, counted from 0, sorted.
    pub(crate) holders: Vec<usize>,
}

impl Mix {
    /// Name of a file of a peer (both counted from 0). Every fourth file is the same on all peers.
    pub(crate) fn file_name(&self, peer: usize, file: usize) -> String {
        let (first, second) = (pick(&FIRST, file), pick(&SECOND, file));
        let owner = self.owner(peer, is_common(file));
        format!("{first}-{second}_{owner}.{file:03}.{}", pick(&EXTENSIONS, file))
    }

    /// A search of a peer: the files of everyone in turn, ten numbers at a time.
    pub(crate) fn search(&self, peer: usize, number: usize) -> SearchCase {
        let other = self.asked_peer(peer, number);
        let ten = number * 3 % (REGISTRATIONS / 10);
        let common = number.is_multiple_of(4);
        let files = (ten * 10..ten * 10 + 10).filter(|file| is_common(*file) == common);
        let mut names: Vec<String> = files.map(|file| self.file_name(other, file)).collect();
        names.sort();
        SearchCase { query: format!("_{}.{ten:02}", self.owner(other, common)), names }
    }

    /// A lookup of a peer.
    pub(crate) fn lookup(&self, peer: usize, number: usize) -> LookupCase {
        let other = self.asked_peer(peer, number);
        let file = number * STRIDE % REGISTRATIONS;
        let holders = if is_common(file) { (0..self.peers).collect() } else { vec![other] };
        LookupCase { name: self.file_name(other, file), holders }
    }

    fn asked_peer(&self, peer: usize, number: usize) -> usize {
        (peer + number) % self.peers.max(1)
    }

    fn owner(&self, peer: usize, common: bool) -> String {
        if common { format!("{}.all", self.run) } else { format!("{}.p{}", self.run, peer + 1) }
    }
}

/// When the file claims to have been changed.
pub(crate) fn file_mtime_ns(file: usize) -> i64 {
    (1_700_000_000 + file as i64) * 1_000_000_000
}

/// The blob of a file: its content is its name's bytes.
pub(crate) fn file_blob(name: &str) -> BlobId {
    let mut content = OutlineBuilder::new();
    content.push(name.as_bytes());
    content.finish().0
}

fn is_common(file: usize) -> bool {
    file.is_multiple_of(4)
}

fn pick<'a>(words: &[&'a str], number: usize) -> &'a str {
    words.get(number % words.len()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix() -> Mix {
        Mix { run: "r0".to_owned(), peers: 3 }
    }

    #[test]
    fn names_and_questions_are_those_of_the_python_program() {
        assert_eq!(mix().file_name(1, 17), "holiday-budget_r0.p2.017.jpg");
        assert_eq!(mix().file_name(1, 20), mix().file_name(0, 20));
        assert_eq!(mix().search(0, 1).query, "_r0.p2.03");
        let lookup = LookupCase { name: "holiday-draft_r0.all.052.jpg".to_owned(), holders: vec![0, 1, 2] };
        assert_eq!(mix().lookup(0, 4), lookup);
    }

    #[test]
    fn a_search_expects_exactly_the_names_that_contain_its_query() {
        let all: Vec<String> = (0..3).flat_map(|p| (0..REGISTRATIONS).map(move |f| mix().file_name(p, f))).collect();
        for number in 0..SEARCHES {
            let case = mix().search(2, number);
            let mut found: Vec<String> = all.iter().filter(|name| name.contains(&case.query)).cloned().collect();
            found.sort();
            found.dedup();
            assert_eq!(case.names, found);
            assert!(!found.is_empty());
        }
    }
}
