//! Which rules there are, where they come from, and the file of those that were set while running.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use haul_core::bandwidth::{Direction, Rule, RuleError, Schedule};
use haul_core::ids::BlobId;
use haul_core::wire::Label;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Scope;

/// What a limit is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Everything.
    All,
    /// A group.
    Group(Label),
    /// A download in the list, by its number.
    Transfer(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Group(group) => write!(f, "group:{group}"),
            Self::Transfer(id) => write!(f, "transfer:{id}"),
        }
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("group", group)) => Label::new(group).map(Self::Group).map_err(|_| ()),
            Some(("transfer", id)) => id.parse().map(Self::Transfer).map_err(|_| ()),
            _ => Err(()),
        }
    }
}

/// Limits of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// For what, and the rules in their order.
    pub rules: Vec<(Place, Rule)>,
}

/// Reads `GROUP [up|down] [DAYS] [HH:MM-HH:MM] RATE`.
pub fn group_rule(text: &str) -> Result<(Place, Rule), RuleError> {
    let (group, rule) = text.trim().split_once(char::is_whitespace).ok_or_else(|| RuleError::Form(text.into()))?;
    let group = Label::new(group).map_err(|_| RuleError::Form(text.into()))?;
    Ok((Place::Group(group), rule.parse()?))
}

/// A limit, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// What it is for.
    pub place: Place,
    /// Which way.
    pub direction: Direction,
    /// Bytes per second now; none is without a limit.
    pub now: Option<u64>,
    /// The rules in their order.
    pub rules: Vec<Rule>,
    /// Whether `haul limit` has set it; else it comes from the configuration.
    pub set: bool,
}

type Key = (Place, Direction);

#[derive(Debug, Default)]
pub(super) struct Rules {
    configured: BTreeMap<Key, Vec<Rule>>,
    set: BTreeMap<Key, Vec<Rule>>,
    /// What transfers with a limit fetch.
    contents: BTreeMap<u64, BlobId>,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    limits: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    place: String,
    rules: Vec<String>,
    content: Option<String>,
}

impl Rules {
    pub(super) fn load(configured: Configured, file: Option<&Path>) -> Self {
        let mut rules = Self::default();
        for (place, rule) in configured.rules {
            for (direction, rule) in each_way(rule) {
                rules.configured.entry((place.clone(), direction)).or_default().push(rule);
            }
        }
        let Some(path) = file else { return rules };
        match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, path = %path.display(), "the limits that were set cannot be read"),
            Ok(bytes) => {
                if rules.decode(&bytes).is_none() {
                    let aside = path.with_extension("damaged");
                    warn!(path = %path.display(), "the file of limits is damaged; it is set aside, set them again");
                    rules.set.clear();
                    rules.contents.clear();
                    drop(std::fs::rename(path, aside));
                }
            }
        }
        rules
    }

    fn decode(&mut self, bytes: &[u8]) -> Option<()> {
        let file: File = serde_json::from_slice(bytes).ok().filter(|file: &File| file.version == 1)?;
        for stored in file.limits {
            let place: Place = stored.place.parse().ok()?;
            if let (Place::Transfer(id), Some(content)) = (&place, stored.content) {
                self.contents.insert(*id, content.parse().ok()?);
            }
            for rule in stored.rules {
                let rule: Rule = rule.parse().ok()?;
                self.set.entry((place.clone(), rule.direction?)).or_default().push(rule);
            }
        }
        Some(())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let limits = self.set.iter().map(|((place, _), rules)| Stored {
            place: place.to_string(),
            rules: rules.iter().map(ToString::to_string).collect(),
            content: match place {
                Place::Transfer(id) => self.contents.get(id).map(ToString::to_string),
                _ => None,
            },
        });
        let mut bytes = serde_json::to_vec_pretty(&File { version: 1, limits: limits.collect() }).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    pub(super) fn count(&self) -> usize {
        self.set.values().map(Vec::len).sum()
    }

    /// A rule with hours joins those that are there, or replaces the one of the same hours; one without replaces what
    /// holds outside of all hours.
    pub(super) fn set(&mut self, place: Place, content: Option<BlobId>, rule: Rule) {
        if let (Place::Transfer(id), Some(content)) = (&place, content) {
            self.contents.insert(*id, content);
        }
        for (direction, rule) in each_way(rule) {
            let key = (place.clone(), direction);
            let mut rules = self.of(&key).to_vec();
            rules.retain(|other| other.when != rule.when);
            let at = if rule.when.is_none() { 0 } else { rules.len() };
            rules.insert(at, rule);
            self.set.insert(key, rules);
        }
    }

    pub(super) fn clear(&mut self, place: &Place, direction: Option<Direction>) -> bool {
        let before = self.set.len();
        self.set.retain(|(other, way), _| other != place || direction.is_some_and(|direction| direction != *way));
        self.forget_contents();
        self.set.len() < before
    }

    pub(super) fn keep_transfers(&mut self, is_there: impl Fn(u64) -> bool) {
        self.set.retain(|(place, _), _| if let Place::Transfer(id) = place { is_there(*id) } else { true });
        self.forget_contents();
    }

    fn forget_contents(&mut self) {
        let set = &self.set;
        self.contents.retain(|id, _| set.keys().any(|(place, _)| *place == Place::Transfer(*id)));
    }

    fn of(&self, key: &Key) -> &[Rule] {
        self.set.get(key).or_else(|| self.configured.get(key)).map_or(&[], Vec::as_slice)
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.set.keys().chain(self.configured.keys().filter(|key| !self.set.contains_key(key)))
    }

    pub(super) fn has_hours(&self) -> bool {
        self.keys().any(|key| Schedule::new(self.of(key), key.1).has_hours())
    }

    /// Bytes per second of every bucket at this minute of the week.
    pub(super) fn rates(&self, direction: Direction, minute: u16) -> BTreeMap<Scope, u64> {
        let of_direction = self.keys().filter(|(_, way)| *way == direction);
        let rate = |key: &Key| {
            let scope = match &key.0 {
                Place::All => Scope::All,
                Place::Group(group) => Scope::Group(group.clone()),
                Place::Transfer(id) if direction == Direction::Down => Scope::Transfer(*id),
                Place::Transfer(id) => Scope::Content(*self.contents.get(id)?),
            };
            Some((scope, Schedule::new(self.of(key), direction).rate_at(minute)?))
        };
        of_direction.filter_map(rate).collect()
    }

    pub(super) fn list(&self, minute: u16) -> Vec<InForce> {
        let mut list: Vec<InForce> = self
            .keys()
            .map(|key| InForce {
                place: key.0.clone(),
                direction: key.1,
                now: Schedule::new(self.of(key), key.1).rate_at(minute),
                rules: self.of(key).to_vec(),
                set: self.set.contains_key(key),
            })
            .collect();
        list.sort_by(|a, b| (&a.place, a.direction).cmp(&(&b.place, b.direction)));
        list
    }
}

fn each_way(rule: Rule) -> impl Iterator<Item = (Direction, Rule)> {
    let ways = [Direction::Up, Direction::Down].into_iter();
    let wanted = ways.filter(move |way| rule.direction.is_none_or(|direction| direction == *way));
    wanted.map(move |way| (way, Rule { direction: Some(way), ..rule }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    fn configured(rules: &[(Place, &str)]) -> Configured {
        Configured { rules: rules.iter().map(|(place, text)| (place.clone(), rule(text))).collect() }
    }

    const MONDAY_NOON: u16 = 12 * 60;
    const SUNDAY_NOON: u16 = 6 * 24 * 60 + 12 * 60;

    fn all(rules: &Rules, direction: Direction, minute: u16) -> Option<u64> {
        rules.rates(direction, minute).get(&Scope::All).copied()
    }

    #[test]
    fn what_is_set_wins_until_it_is_cleared() {
        let mut rules = Rules::load(configured(&[(Place::All, "up 5M"), (Place::All, "mon-fri 08:00-18:00 1M")]), None);
        assert_eq!(all(&rules, Direction::Up, MONDAY_NOON), Some(1_000_000));
        assert_eq!(all(&rules, Direction::Down, SUNDAY_NOON), None);
        rules.set(Place::All, None, rule("up 7M"));
        assert_eq!(all(&rules, Direction::Up, SUNDAY_NOON), Some(7_000_000));
        assert_eq!(all(&rules, Direction::Up, MONDAY_NOON), Some(1_000_000), "the hours stay");
        rules.set(Place::All, None, rule("up mon-fri 08:00-18:00 2M"));
        rules.set(Place::All, None, rule("down off"));
        assert_eq!(all(&rules, Direction::Up, MONDAY_NOON), Some(2_000_000));
        assert_eq!(rules.list(MONDAY_NOON).iter().map(|limit| limit.rules.len()).sum::<usize>(), 4);
        assert!(rules.clear(&Place::All, Some(Direction::Up)) && !rules.clear(&Place::All, Some(Direction::Up)));
        assert_eq!(all(&rules, Direction::Up, SUNDAY_NOON), Some(5_000_000), "the configuration holds again");
    }

    #[test]
    fn what_is_set_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.json");
        let lab = Place::Group(Label::new("lab").unwrap());
        let blob = BlobId::new([7; 32]);
        let mut rules = Rules::default();
        rules.set(Place::All, None, rule("up 7M"));
        rules.set(lab.clone(), None, rule("sun 22:00-06:00 12345"));
        rules.set(Place::Transfer(3), Some(blob), rule("0"));
        std::fs::write(&path, rules.encode()).unwrap();
        let mut again = Rules::load(Configured::default(), Some(&path));
        assert_eq!((again.list(0), again.contents.clone()), (rules.list(0), rules.contents.clone()));
        assert_eq!(again.rates(Direction::Up, 0).get(&Scope::Content(blob)), Some(&0));
        again.keep_transfers(|_| false);
        assert_eq!((again.list(0).len(), again.contents.len()), (3, 0));
        // A damaged file is no reason not to start.
        std::fs::write(&path, b"{").unwrap();
        assert!(Rules::load(Configured::default(), Some(&path)).list(0).is_empty());
        assert!(!path.exists() && path.with_extension("damaged").exists());
    }

    #[test]
    fn limits_of_groups() {
        let (place, rule) = group_rule("lab up mon-fri 08:00-18:00 5M").unwrap();
        assert_eq!((place.to_string(), rule.rate), ("group:lab".into(), Some(5_000_000)));
        for bad in ["lab", "", "lab fast"] {
            assert!(group_rule(bad).is_err(), "{bad}");
        }
    }
}
