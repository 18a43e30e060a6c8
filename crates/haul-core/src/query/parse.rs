//! From the text of a query to its terms.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::fold::fold_text;
use super::value;
use super::{FileType, Filter, PathTest, Query, QueryError, QueryErrorKind, Test, Word};
use crate::limits;

const KEYS: [&str; 10] = ["size", "type", "ext", "peer", "share", "path", "age", "hash", "name", "id"];

/// Reads a query; see [`super`] for the language. A `key:` that is not a filter is an ordinary word, so `a::b` and
/// `c:\x` can be searched.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    if text.len() > limits::QUERY_BYTES {
        return Err(QueryError { at: limits::QUERY_BYTES, kind: QueryErrorKind::TooLong });
    }
    let mut query = Query::default();
    let mut terms = 0;
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let at = text.len() - rest.len();
        let (term, behind) = next_term(rest).map_err(|kind| QueryError { at, kind })?;
        terms += 1;
        if terms > limits::QUERY_TERMS {
            return Err(QueryError { at, kind: QueryErrorKind::TooManyTerms });
        }
        add(&mut query, &term).map_err(|kind| QueryError { at, kind })?;
        rest = behind.trim_start();
    }
    let wanted = !query.words.is_empty() || query.filters.iter().any(|filter| !filter.inverted);
    if wanted {
        Ok(query)
    } else if query.without.is_empty() && query.filters.is_empty() {
        Err(QueryError { at: 0, kind: QueryErrorKind::Empty })
    } else {
        Err(QueryError { at: 0, kind: QueryErrorKind::OnlyExclusions })
    }
}

/// A term as written.
struct Term {
    excluded: bool,
    key: Option<&'static str>,
    value: String,
}

/// Splits the first term off: `-`? (`key:`)? (`"…"` or everything up to white space).
fn next_term(text: &str) -> Result<(Term, &str), QueryErrorKind> {
    let (excluded, body) = match text.strip_prefix('-') {
        Some(body) if body.starts_with(|c: char| !c.is_whitespace()) => (true, body),
        _ => (false, text),
    };
    let key = body.split_once(':').and_then(|(key, _)| {
        let lower = key.to_ascii_lowercase();
        KEYS.into_iter().find(|known| *known == lower)
    });
    let body = key.map_or(body, |key| body.get(key.len() + 1..).unwrap_or_default());
    if let Some(quoted) = body.strip_prefix('"') {
        let (value, behind) = quoted.split_once('"').ok_or(QueryErrorKind::OpenQuote)?;
        return Ok((Term { excluded, key, value: value.to_owned() }, behind));
    }
    let end = body.find(char::is_whitespace).unwrap_or(body.len());
    let (value, behind) = body.split_at_checked(end).unwrap_or((body, ""));
    Ok((Term { excluded, key, value: value.to_owned() }, behind))
}

fn add(query: &mut Query, term: &Term) -> Result<(), QueryErrorKind> {
    let Some(key) = term.key else {
        add_word(query, term, false);
        return Ok(());
    };
    if term.value.is_empty() {
        return Err(QueryErrorKind::NoValue(key));
    }
    if key == "name" {
        add_word(query, term, true);
        return Ok(());
    }
    let test = filter(key, &term.value)?;
    query.filters.push(Filter { test, inverted: term.excluded });
    Ok(())
}

/// A word that folds to nothing (a lone accent) restricts nothing.
fn add_word(query: &mut Query, term: &Term, name_only: bool) {
    let text = fold_text(&term.value);
    if text.is_empty() {
        return;
    }
    if term.excluded {
        query.without.push(text);
    } else {
        query.words.push(Word { text, name_only });
    }
}

fn filter(key: &'static str, text: &str) -> Result<Test, QueryErrorKind> {
    Ok(match key {
        "size" => {
            let (min, max) =
                value::range(text, value::size, (0, u64::MAX), |size| size.checked_add(1), |size| size.checked_sub(1))
                    .ok_or_else(|| QueryErrorKind::Size(text.to_string()))?;
            Test::Size { min, max }
        }
        "age" => {
            let bad = || QueryErrorKind::Age(text.to_string());
            let (min_ns, max_ns) = value::range(
                text,
                value::age,
                (i64::MIN, i64::MAX),
                |age| age.checked_add(1),
                |age| age.checked_sub(1),
            )
            .ok_or_else(bad)?;
            Test::Age { min_ns, max_ns }
        }
        "type" => Test::Type(types(text)?),
        "ext" => Test::Extension(extensions(text)?),
        "peer" => Test::Peer(fold_text(text)),
        "share" => Test::Share(fold_text(text)),
        "path" => Test::Path(path(text)),
        _ => Test::Hash(hash(text)?),
    })
}

fn types(text: &str) -> Result<Vec<FileType>, QueryErrorKind> {
    text.split(',')
        .map(|name| FileType::from_name(&fold_text(name)).ok_or_else(|| QueryErrorKind::Type(name.to_string())))
        .collect()
}

fn extensions(text: &str) -> Result<Vec<String>, QueryErrorKind> {
    let list: Vec<String> = text
        .split(',')
        .map(|extension| fold_text(extension.trim_start_matches('.')))
        .filter(|extension| !extension.is_empty())
        .collect();
    if list.is_empty() { Err(QueryErrorKind::NoValue("ext")) } else { Ok(list) }
}

fn path(text: &str) -> PathTest {
    match text.strip_prefix('/') {
        Some(below) => {
            PathTest::Below(below.split('/').filter(|component| !component.is_empty()).map(fold_text).collect())
        }
        None => PathTest::Contains(fold_text(text)),
    }
}

fn hash(text: &str) -> Result<String, QueryErrorKind> {
    let digits = text.strip_prefix("b3:").unwrap_or(text).to_ascii_lowercase();
    let good = (1..=64).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if good { Ok(digits) } else { Err(QueryErrorKind::Hash(text.to_string())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn words(query: &Query) -> Vec<&str> {
        query.words.iter().map(|word| word.text.as_str()).collect()
    }

    #[test]
    fn words_phrases_and_exclusions() {
        let query = parse(r#"  Linux -beta "Exact Phrase" -"no this" a::b c:\x - name:Kernel"#).expect("parses");
        assert_eq!(words(&query), ["linux", "exact phrase", "a::b", "c:\\x", "-", "kernel"]);
        assert_eq!(
            query.words.iter().map(|word| word.name_only).collect::<Vec<_>>(),
            [false, false, false, false, false, true]
        );
        assert_eq!(query.without, ["beta", "no this"]);
        assert_eq!(query.filters, []);
    }

    #[test]
    fn filters() {
        let query = parse(
            "size:>1G -size:1k..2KiB age:<7d type:video,Audio EXT:.ISO,img peer:Lab-3 share:x path:/Models/A path:odd/b id:b3:7F4E hash:0",
        )
        .expect("parses");
        let day = 86_400 * 1_000_000_000;
        let tests: Vec<_> = query.filters.iter().map(|filter| (filter.inverted, filter.test.clone())).collect();
        assert_eq!(
            tests,
            [
                (false, Test::Size { min: 1_000_000_001, max: u64::MAX }),
                (true, Test::Size { min: 1_000, max: 2_048 }),
                (false, Test::Age { min_ns: i64::MIN, max_ns: 7 * day - 1 }),
                (false, Test::Type(vec![FileType::Video, FileType::Audio])),
                (false, Test::Extension(vec!["iso".into(), "img".into()])),
                (false, Test::Peer("lab-3".into())),
                (false, Test::Share("x".into())),
                (false, Test::Path(PathTest::Below(vec!["models".into(), "a".into()]))),
                (false, Test::Path(PathTest::Contains("odd/b".into()))),
                (false, Test::Hash("7f4e".into())),
                (false, Test::Hash("0".into())),
            ]
        );
    }

    #[test]
    fn errors_say_where_and_what_to_do() {
        for (text, at, message) in [
            ("", 0, "the query is empty: give at least one word"),
            ("\u{301}", 0, "the query is empty: give at least one word"),
            ("-a", 0, "the query only excludes: add a word or a filter that names what you want"),
            ("abc \"de", 4, "this quote does not end: add a closing \" (at byte 4)"),
            ("a size:big", 2, "'big' is not a size: write size:>1G, size:<=500k, size:0 or size:1M..2G (at byte 2)"),
            ("size:<0", 0, "'<0' is not a size: write size:>1G, size:<=500k, size:0 or size:1M..2G (at byte 0)"),
            ("age:7", 0, "'7' is not an age: write age:<7d, age:>1y or age:1d..4w (s, m, h, d, w, y) (at byte 0)"),
            ("a ext:", 2, "ext: has no value: write one directly behind the colon (at byte 2)"),
            ("hash:xyz", 0, "'xyz' is not the start of a hash: write 1 to 64 hexadecimal digits (at byte 0)"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!((error.at, error.to_string().as_str()), (at, message), "{text}");
        }
        assert!(parse("type:blob").expect_err("no type").to_string().starts_with("'blob' is not a type: write one of"));
        assert_eq!(parse(&"a ".repeat(33)).expect_err("many").kind, QueryErrorKind::TooManyTerms);
        assert_eq!(parse(&"a".repeat(1_025)).expect_err("long").kind, QueryErrorKind::TooLong);
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn likely_texts_parse_or_fail_inside_the_text(
            text in r#"((-|"|size:|age:|type:|ext:|path:|hash:|name:|[a-zé]|[0-9]|<|>|=|\.\.|[kGdy]|,|/| ){0,12})"#,
        ) {
            match parse(&text) {
                Ok(query) => prop_assert!(query.words.iter().all(|word| !word.text.is_empty())),
                Err(error) => prop_assert!(error.at <= text.len()),
            }
        }
    }
}
