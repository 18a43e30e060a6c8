//! The numbers in front of hits and providers: `get 1`, `get 1 from 2`. They belong to one terminal and its last
//! search and lookup; off a terminal there are none, so that scripts never depend on them.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use haul_core::path::check_name;
use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{HitRecord, ProviderRecord};
use haul_peer::config::Home;
use serde::{Deserialize, Serialize};

use crate::errors::Failure;
use crate::output::Output;

/// Something that a number stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Numbered {
    /// Its id, if it has one.
    pub(crate) id: Option<String>,
    /// The key of a peer that has it.
    pub(crate) peer: String,
    /// Share and path there.
    pub(crate) path: String,
    /// Base name, if it can be the name of a file here.
    pub(crate) name: Option<String>,
}

impl Numbered {
    /// What to ask for.
    pub(crate) fn what(&self) -> String {
        self.id.clone().unwrap_or_else(|| format!("{}:{}", self.peer, self.path))
    }
}

impl From<&HitRecord> for Numbered {
    fn from(hit: &HitRecord) -> Self {
        let name = (hit.raw.is_none() && check_name(hit.name.as_bytes()).is_ok()).then(|| hit.name.clone());
        Self { id: hit.id.clone(), peer: hit.peer.clone(), path: hit.path.clone(), name }
    }
}

impl From<&ProviderRecord> for Numbered {
    fn from(provider: &ProviderRecord) -> Self {
        Self { id: provider.id.clone(), peer: provider.peer.clone(), path: provider.path.clone(), name: None }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Lists {
    /// A later login on a terminal of the same name is another terminal.
    session: i32,
    hits: Vec<Numbered>,
    providers: Vec<Numbered>,
}

/// What this terminal remembers.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// None: not at a terminal and not in a shell.
    lists: Option<Mutex<Lists>>,
    file: Option<PathBuf>,
}

impl Numbers {
    /// More are not worth a number.
    pub(crate) const REMEMBERED: usize = 1_000;

    /// Those of the terminal behind standard output; none off a terminal.
    pub(crate) fn of_terminal(output: &Output, home: Option<&Home>) -> Self {
        if !output.out_is_terminal {
            return Self::default();
        }
        let session = rustix::process::getsid(None).map_or(0, |session| session.as_raw_nonzero().get());
        let file = home.zip(rustix::termios::ttyname(io::stdout(), Vec::new()).ok()).map(|(home, name)| {
            let name = name.to_string_lossy().trim_start_matches("/dev/").replace('/', "-");
            home.state.join("terminals").join(name + ".json")
        });
        let stored = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let lists = stored
            .and_then(|bytes| serde_json::from_slice::<Lists>(&bytes).ok())
            .filter(|lists| lists.session == session)
            .unwrap_or(Lists { session, ..Lists::default() });
        Self { lists: Some(Mutex::new(lists)), file }
    }

    /// Those of a shell, which may read a script: they live as long as it does.
    pub(crate) fn of_shell() -> Self {
        Self { lists: Some(Mutex::default()), file: None }
    }

    /// The names of remembered hits.
    pub(crate) fn names(&self) -> Vec<String> {
        let Some(lists) = &self.lists else { return Vec::new() };
        let lists = lists.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lists.hits.iter().filter_map(|hit| hit.name.clone()).collect()
    }

    /// Whether hits get numbers.
    pub(crate) fn are_on(&self) -> bool {
        self.lists.is_some()
    }

    /// Remembers the hits of a search; numbers of an earlier lookup end.
    pub(crate) fn remember_hits(&self, hits: Vec<Numbered>) {
        self.change(|lists| {
            lists.hits = hits;
            lists.providers.clear();
        });
    }

    /// Remembers the providers of a lookup.
    pub(crate) fn remember_providers(&self, providers: Vec<Numbered>) {
        self.change(|lists| lists.providers = providers);
    }

    fn change(&self, change: impl FnOnce(&mut Lists)) {
        let Some(lists) = &self.lists else { return };
        let mut lists = lists.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut lists);
        lists.hits.truncate(Self::REMEMBERED);
        lists.providers.truncate(Self::REMEMBERED);
        if let Some(file) = &self.file
            && let Some(folder) = file.parent()
        {
            // Numbers are a convenience: a disk that is full or read-only takes them away and nothing else.
            let _ = std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::write(file, serde_json::to_vec(&*lists).unwrap_or_default()));
        }
    }

    /// The hit that `text` is the number of. None when it is no number, or when there are no numbers here: then it
    /// is a name like any other.
    pub(crate) fn hit(&self, text: &str) -> Result<Option<Numbered>, Failure> {
        self.find(text, |lists| &lists.hits, "hit", "search first: haul search WORDS")
    }

    /// The provider that `text` is the number of; None as above.
    pub(crate) fn provider(&self, text: &str) -> Result<Option<Numbered>, Failure> {
        self.find(text, |lists| &lists.providers, "provider", "look first who has it: haul lookup NAME")
    }

    fn find(
        &self,
        text: &str,
        list: impl Fn(&Lists) -> &Vec<Numbered>,
        what: &str,
        next: &str,
    ) -> Result<Option<Numbered>, Failure> {
        let Some(lists) = &self.lists else { return Ok(None) };
        if text.is_empty() || text.len() > 6 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(None);
        }
        let number: usize = text.parse().unwrap_or_default();
        let lists = lists.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = number.checked_sub(1).and_then(|index| list(&lists).get(index)).cloned();
        match found {
            Some(found) => Ok(Some(found)),
            None => Err(Failure::new(ErrorCode::NoSuch, format!("there is no {what} number {number} here")).next(next)),
        }
    }

    /// Takes ranges of hits apart: `3-5` is `3 4 5`. Everything else stays as it is.
    pub(crate) fn expand(&self, texts: &[String]) -> Vec<String> {
        let mut expanded = Vec::with_capacity(texts.len());
        for text in texts {
            let ends = text.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
            match ends {
                Some((first, last)) if self.are_on() && first <= last && last <= Self::REMEMBERED => {
                    expanded.extend((first..=last).map(|number| number.to_string()));
                }
                _ => expanded.push(text.clone()),
            }
        }
        expanded
    }
}

fn number(text: &str) -> Option<usize> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(name: &str) -> Numbered {
        Numbered { id: None, peer: "pk:00".into(), path: format!("docs/{name}"), name: Some(name.into()) }
    }

    #[test]
    fn numbers_live_with_their_shell() {
        let numbers = Numbers::of_shell();
        numbers.remember_hits(vec![numbered("a"), numbered("b")]);
        assert_eq!(numbers.hit("2").map(|hit| hit.map(|hit| hit.what())), Ok(Some("pk:00:docs/b".into())));
        assert_eq!(numbers.hit("report.pdf"), Ok(None));
        for wrong in ["0", "3", "999999"] {
            assert_eq!(numbers.hit(wrong).map_err(|failure| failure.code()), Err(ErrorCode::NoSuch), "{wrong}");
        }
        numbers.remember_providers(vec![numbered("a")]);
        assert!(numbers.provider("1").is_ok_and(|found| found.is_some()));
        numbers.remember_hits(vec![numbered("c")]);
        assert!(numbers.provider("1").is_err(), "a new search ends the numbers of the lookup");
    }

    #[test]
    fn ranges_are_taken_apart() {
        let numbers = Numbers::of_shell();
        let texts = ["1", "3-5", "a-b", "5-3"].map(str::to_owned);
        assert_eq!(numbers.expand(&texts), ["1", "3", "4", "5", "a-b", "5-3"]);
        assert_eq!(Numbers::default().expand(&texts), texts);
    }

    #[test]
    fn off_a_terminal_a_number_is_a_name() {
        assert_eq!(Numbers::default().hit("1"), Ok(None));
    }
}
