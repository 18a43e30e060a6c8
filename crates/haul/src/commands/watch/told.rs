//! What this watch has printed and handed on, so that every name and content comes once.

use std::collections::{HashMap, HashSet, VecDeque};

use haul_peer::api::records::{ContentState, HitRecord};

/// Names that are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 10_000;
/// Contents that are remembered of one name; when there are more, they are forgotten together, and one may come again.
const CONTENTS: usize = 100;

/// What is new about a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// To be shown: a name that was not, or that has another content than before.
    pub(super) name: bool,
    /// To be handed on: a content that is known now. What has no content, a folder say, is complete at once.
    pub(super) content: bool,
}

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By name: the contents, none for what has none.
    names: HashMap<String, HashSet<Option<String>>>,
    order: VecDeque<String>,
}

impl Told {
    /// Hears of a match. The same file comes without its id while it is hashed, and again with it.
    pub(super) fn hear(&mut self, hit: &HitRecord) -> News {
        let known = self.names.contains_key(&hit.name);
        if !known {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.names.remove(&oldest);
            }
            self.order.push_back(hit.name.clone());
        }
        let contents = self.names.entry(hit.name.clone()).or_default();
        if hit.state == ContentState::Hashing {
            return News { name: !known, content: false };
        }
        if contents.len() >= CONTENTS && !contents.contains(&hit.id) {
            contents.retain(Option::is_none);
            contents.insert(hit.id.clone());
            return News { name: true, content: true };
        }
        let first = contents.is_empty();
        let content = contents.insert(hit.id.clone());
        News { name: content && (!known || !first), content }
    }
}

#[cfg(test)]
mod tests {
    use haul_peer::api::records::Kind;

    use super::*;

    fn hit(name: &str, id: Option<&str>, kind: Kind) -> HitRecord {
        let state = if kind == Kind::File && id.is_none() { ContentState::Hashing } else { ContentState::Ready };
        HitRecord {
            n: 1,
            kind,
            name: name.into(),
            path: format!("docs/{name}"),
            share: "docs".into(),
            peer: "pk:00".into(),
            peer_name: "nas".into(),
            size: None,
            files: None,
            id: id.map(str::to_owned),
            state,
            names: 1,
            contents: 1,
            copies: 1,
            online: 1,
            mtime: None,
            near: false,
            raw: None,
        }
    }

    #[test]
    fn a_name_is_shown_once_and_each_content_handed_on_once() {
        let mut told = Told::default();
        let mut hear = |name: &str, id: Option<&str>| {
            let News { name, content } = told.hear(&hit(name, id, Kind::File));
            (name, content)
        };
        assert_eq!(hear("a", None), (true, false));
        assert_eq!(hear("a", None), (false, false));
        assert_eq!(hear("a", Some("1")), (false, true), "its hash is ready");
        assert_eq!(hear("a", Some("1")), (false, false));
        assert_eq!(hear("a", None), (false, false));
        assert_eq!(hear("a", Some("2")), (true, true), "another content");
        assert_eq!(hear("b", Some("1")), (true, true));
        let folder = hit("c", None, Kind::Dir);
        assert_eq!(told.hear(&folder), News { name: true, content: true });
        assert_eq!(told.hear(&folder), News { name: false, content: false });
    }

    #[test]
    fn memory_is_bounded() {
        let mut told = Told::default();
        for n in 0..2 * REMEMBERED {
            assert!(told.hear(&hit(&n.to_string(), Some("1"), Kind::File)).name);
        }
        for n in 0..10 * CONTENTS {
            let news = told.hear(&hit("one name", Some(&n.to_string()), Kind::File));
            assert_eq!(news, News { name: n != 0 || news.name, content: true });
        }
        assert!(told.names.len() <= REMEMBERED && told.order.len() <= REMEMBERED);
        assert!(told.names.values().all(|contents| contents.len() <= CONTENTS));
        assert!(!told.hear(&hit(&(2 * REMEMBERED - 1).to_string(), Some("1"), Kind::File)).name);
    }
}
