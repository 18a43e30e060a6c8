//! Paths of the files of a load: from a list of real ones, or made up.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use haul_core::path;

use super::population::Population;

/// Files in one made-up directory.
const GENERATED_DIRECTORY: u64 = 1_000;

/// Where paths come from.
#[derive(Clone, Debug)]
pub(crate) enum Paths {
    /// Lines of a file.
    Listed(Lines),
    /// `set/0000012/blob-000000012345.bin`.
    Generated,
}

/// The usable lines of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    text: Vec<u8>,
    /// Where each usable line begins and ends.
    places: Vec<(u32, u16)>,
}

impl Lines {
    /// Lines that are allowed as paths, in their order.
    pub(crate) fn new(text: Vec<u8>) -> Self {
        let mut places = Vec::new();
        let mut start = 0;
        for line in text.split(|byte| *byte == b'\n') {
            let place = u32::try_from(start).ok().zip(u16::try_from(line.len()).ok());
            start += line.len() + 1;
            let Some(place) = place else { continue };
            if !line.is_empty() && path::check_path(line).is_ok() {
                places.push(place);
            }
        }
        Self { text, places }
    }

    fn get(&self, number: u64) -> Option<&[u8]> {
        let (start, length) = *self.places.get(usize::try_from(number).ok()?)?;
        self.text.get(start as usize..start as usize + usize::from(length))
    }

    fn len(&self) -> u64 {
        self.places.len() as u64
    }
}

impl Paths {
    /// Reads the list, one path per line; made-up ones without a list.
    pub(crate) fn read(list: Option<&Path>) -> std::io::Result<Self> {
        list.map_or(Ok(Self::Generated), |list| Ok(Self::Listed(Lines::new(fs::read(list)?))))
    }

    /// Whether there are enough.
    pub(crate) fn suffice(&self, population: &Population) -> Result<(), String> {
        match self {
            Self::Listed(lines) if lines.len() < population.files() => {
                Err(format!("the list has {} usable paths, {} are needed", lines.len(), population.files()))
            }
            _ => Ok(()),
        }
    }

    /// The path of a file. The list is cut into as many equal parts as there are peers, and each peer's block is the
    /// beginning of a part: directories stay together, and small sets are spread over the whole list.
    pub(crate) fn of(&self, population: &Population, file: u64) -> Cow<'_, [u8]> {
        match self {
            Self::Listed(lines) => {
                let (block, peers) = (u64::from(population.block()), u64::from(population.peers()));
                let part = lines.len() / peers.max(1);
                let line = file / block * part + file % block;
                Cow::Borrowed(lines.get(line).unwrap_or_default())
            }
            Self::Generated => {
                Cow::Owned(format!("set/{:07}/blob-{file:012}.bin", file / GENERATED_DIRECTORY).into_bytes())
            }
        }
    }
}

/// Directory and base name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    slash.map_or((&[], path), |at| (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn bad_lines_are_left_out_and_files_have_paths_of_their_own() {
        let lines: Vec<_> = (0..100).map(|n| format!("usr/lib/{n}/name-{n}\n/absolute\n\na//b\n")).collect();
        let text = lines.concat();
        let lines = Lines::new(text.into_bytes());
        assert_eq!(lines.len(), 100);
        let paths = Paths::Listed(lines);
        let population = Population::new(1, 9, 15, 1.5).unwrap();
        assert!(paths.suffice(&population).is_ok());
        let all: BTreeSet<Vec<u8>> =
            (0..population.files()).map(|file| paths.of(&population, file).into_owned()).collect();
        assert_eq!(all.len() as u64, population.files());
        assert!(all.iter().all(|path| path.starts_with(b"usr/lib/")));
        assert!(paths.suffice(&Population::new(1, 9, 50, 1.0).unwrap()).is_err());
    }

    #[test]
    fn paths_split_at_their_last_slash() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
        let population = Population::new(1, 1, 10, 1.0).unwrap();
        assert_eq!(&*Paths::Generated.of(&population, 2_345), b"set/0000002/blob-000000002345.bin");
    }
}
