//! A line of the shell taken apart: quotes, the shell's own words (`register`, `cd`, `ls`, `get 1 from 2`), and places.

use std::fmt;

use haul_peer::api::codes::ErrorCode;

use crate::commands::{split_place, what};
use crate::errors::Failure;
use crate::numbers::Numbers;

/// Where the shell stands: at a peer, in a folder of a share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Name or key; empty at the start.
    pub(super) peer: String,
    /// Share and path.
    pub(super) path: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.peer.as_str(), self.path.as_str()) {
            ("", _) => Ok(()),
            (peer, "") => f.write_str(peer),
            (peer, path) => write!(f, "{peer}:{path}"),
        }
    }
}

impl Place {
    /// The place that `text` means from here: `PEER:PATH`, `..`, a folder below, or, at the start, a peer.
    pub(super) fn step(&self, text: &str) -> Self {
        if text.is_empty() || text == "/" {
            return Self::default();
        }
        if self.peer.is_empty() || text.contains(':') {
            let (peer, path) = split_place(text);
            return Self { peer, path };
        }
        let mut place = self.clone();
        for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if part != ".." {
                place.path = if place.path.is_empty() { part.to_owned() } else { format!("{}/{part}", place.path) };
            } else if place.path.is_empty() {
                place.peer.clear();
            } else {
                place.path.truncate(place.path.rfind('/').unwrap_or(0));
            }
        }
        place
    }
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// An empty line or a comment.
    Nothing,
    /// `exit`.
    End,
    /// `cd`.
    Go(Place),
    /// `pwd`.
    Where,
    /// A verb with its arguments.
    Run(Vec<String>),
}

/// Understands a line.
pub(super) fn understand(line: &str, place: &Place, numbers: &Numbers) -> Result<Order, Failure> {
    // The query language has quotes of its own.
    let keeps_quotes = line.trim_start().starts_with("search ");
    let mut words = split(line, keeps_quotes)?;
    if words.first().is_some_and(|word| word == "haul") {
        words.remove(0);
    }
    let Some((verb, rest)) = words.split_first() else { return Ok(Order::Nothing) };
    let first = rest.first().map(String::as_str).unwrap_or_default();
    Ok(match verb.as_str() {
        "exit" | "quit" => Order::End,
        "help" => Order::Run(rest.iter().cloned().chain(["--help".to_owned()]).collect()),
        "pwd" => Order::Where,
        "cd" => Order::Go(place.step(first)),
        "ls" => Order::Run(list(rest, place)?),
        "register" => Order::Run(["share", "add"].map(str::to_owned).into_iter().chain(rest.iter().cloned()).collect()),
        "get" => Order::Run(get(rest, place, numbers)?),
        "cat" | "lookup" => {
            Order::Run(std::iter::once(verb.clone()).chain(rest.iter().map(|word| at(word, place, numbers))).collect())
        }
        "browse" if rest.is_empty() && !place.peer.is_empty() => Order::Run(list(rest, place)?),
        _ => Order::Run(words),
    })
}

fn list(rest: &[String], place: &Place) -> Result<Vec<String>, Failure> {
    let (options, places): (Vec<_>, Vec<_>) = rest.iter().cloned().partition(|word| word.starts_with('-'));
    let place = match places.as_slice() {
        [] => place.clone(),
        [text] => place.step(text),
        _ => return Err(Failure::new(ErrorCode::Usage, "ls takes one place")),
    };
    if place.peer.is_empty() {
        return Ok(["peers"].map(str::to_owned).into_iter().chain(options).collect());
    }
    let place = format!("{}:{}", place.peer, place.path);
    Ok(["browse".to_owned(), place].into_iter().chain(options).collect())
}

/// `get 1 from 2`, `get NAME from PEER`, and, after a lookup, `get from 2`.
fn get(rest: &[String], place: &Place, numbers: &Numbers) -> Result<Vec<String>, Failure> {
    let mut words = vec!["get".to_owned()];
    let end = rest.iter().position(|word| word == "from").unwrap_or(rest.len());
    let (wanted, from) = rest.split_at(end);
    words.extend(wanted.iter().map(|word| at(word, place, numbers)));
    let Some((_, from)) = from.split_first() else { return Ok(words) };
    let [provider, more @ ..] = from else {
        return Err(Failure::new(ErrorCode::Usage, "from whom?").next("a number of the last lookup, or a peer's name"));
    };
    if wanted.is_empty() {
        let Some(looked_up) = numbers.provider(provider)? else {
            return Err(Failure::new(ErrorCode::Usage, "get what?").next("get NAME from PEER"));
        };
        words.push(looked_up.what());
    }
    words.extend(["--from".to_owned(), provider.clone()]);
    words.extend(more.iter().cloned());
    Ok(words)
}

/// A name as seen from `place`; options, ids, links, numbers and full places stay as they are.
fn at(word: &str, place: &Place, numbers: &Numbers) -> String {
    let is_number = numbers.hit(word) != Ok(None) || numbers.expand(&[word.to_owned()]).len() > 1;
    if place.path.is_empty() || word.starts_with('-') || word.contains(':') || what::is_id(word) || is_number {
        return word.to_owned();
    }
    format!("{}:{}/{word}", place.peer, place.path)
}

/// Splits at blanks outside quotes. `#` at the start of a word begins a comment.
fn split(line: &str, keeps_quotes: bool) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('"' | '\'', None) if !keeps_quotes || letter == '"' => {
                quote = Some(letter);
                let word = word.get_or_insert_default();
                if keeps_quotes {
                    word.push(letter);
                }
            }
            (letter, Some(open)) if letter == open => {
                quote = None;
                if keeps_quotes {
                    word.get_or_insert_default().push(letter);
                }
            }
            ('\\', None | Some('"')) if !keeps_quotes => word.get_or_insert_default().extend(letters.next()),
            ('#', None) if word.is_none() => break,
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err(Failure::new(ErrorCode::Usage, "a quote is not closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Numbered;

    fn order(line: &str, place: &str) -> String {
        let numbers = Numbers::of_shell();
        let numbered =
            |name: &str| Numbered { id: Some(format!("b3:{name}")), peer: "pk:aa".into(), ..Numbered::default() };
        numbers.remember_hits(vec![numbered("hit1"), numbered("hit2")]);
        numbers.remember_providers(vec![numbered("p1"), numbered("p2")]);
        match understand(line, &Place::default().step(place), &numbers) {
            Ok(Order::Run(words)) => words.join("|"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn lines_become_verbs() {
        assert_eq!(order("register '/srv/my data'", ""), "share|add|/srv/my data");
        assert_eq!(order("haul status", ""), "status");
        assert_eq!(order("search \"exact phrase\" -- -not", ""), "search|\"exact phrase\"|--|-not");
        assert_eq!(order("get 1 from 2", ""), "get|1|--from|2");
        assert_eq!(order("get from 2 -o /tmp/x", ""), "get|b3:p2|--from|2|-o|/tmp/x");
        assert_eq!(order("get a\\ b.txt", ""), "get|a b.txt");
        assert_eq!(order("help get", ""), "get|--help");
        assert_eq!(order("  # nothing", ""), "Ok(Nothing)");
        assert_eq!(order("exit", ""), "Ok(End)");
        assert!(order("get 'open", "").contains("not closed"));
        assert!(order("get x from", "").contains("from whom"));
    }

    #[test]
    fn places_are_walked() {
        assert_eq!(order("ls", ""), "peers");
        assert_eq!(order("ls", "lab-3:models"), "browse|lab-3:models");
        assert_eq!(order("ls llama -r", "lab-3:models"), "browse|lab-3:models/llama|-r");
        assert_eq!(order("get a.gguf", "lab-3:models"), "get|lab-3:models/a.gguf");
        assert_eq!(order("get 1", "lab-3:models"), "get|1");
        assert_eq!(order("get nas:x/y", "lab-3:models"), "get|nas:x/y");
        let place = Place::default().step("lab-3:models/llama");
        assert_eq!(place.step("../qwen").to_string(), "lab-3:models/qwen");
        assert_eq!(place.step("../..").to_string(), "lab-3");
        assert_eq!(place.step("../../..").to_string(), "");
        assert_eq!(place.step("../../../..").to_string(), "");
        assert_eq!(place.step("nas").to_string(), "lab-3:models/llama/nas");
        assert_eq!(place.step("nas:").to_string(), "nas");
    }
}
