//! What queries mean, as text to read: a change of the language shows up here as a difference.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use haul_core::query::{PathTest, Query, Test, parse};

/// Queries, each a line of the snapshot; what is special about them stands above.
const QUERIES: &[(&str, &[&str])] = &[
    (
        "words",
        &["report", "  Report   2025 ", "Größe straße İSTANBUL ﬁn ＦＵＬＬ é e\u{301}", "a.b-c_d", "日本 🦀", "x"],
    ),
    ("phrases", &["\"annual report\"", "\"\"", "\"a\"\"b\"", "a\"b c\"", "\"open", "-\"not this\" but"]),
    ("exclusions", &["report -draft", "-draft", "- a", "--a", "a -\u{301}", "-name:draft a"]),
    ("names", &["name:report", "name:\"annual report\"", "NAME:x", "name:", "names:x"]),
    (
        "sizes",
        &[
            "size:0",
            "size:=5",
            "size:>1G",
            "size:>=1g",
            "size:<1GiB",
            "size:<=1.5M",
            "size:1k..2KiB",
            "size:..3",
            "size:3..",
            "size:3..2",
            "size:..",
            "size:<0",
            "size:-1",
            "size:1e3",
            "size:99999999999999999999",
            "size:x",
            "-size:>1G a",
        ],
    ),
    ("ages", &["age:<7d", "age:>1.5y", "age:1h..2w", "age:=30s", "age:5m", "age:d", "age:7", "age:99999999999y"]),
    (
        "types",
        &["type:video", "type:Audio,image", "type:file", "type:folder", "type:dir", "type:link", "type:,", "type:x"],
    ),
    ("extensions", &["ext:pdf", "ext:.TAR.GZ,zip", "ext:,", "ext:.", "-ext:tmp report"]),
    (
        "places",
        &["peer:Lab-3", "peer:pk:0a1b", "share:Ärzte", "path:/Models/A//b/", "path:/", "path:odd/B", "path:\"a b\""],
    ),
    ("hashes", &["hash:7F4E", "hash:b3:7f4e", "id:0", "hash:xyz", "hash:"]),
    ("no filters", &["a::b", "c:\\x", "http://x", "size", ":", "key:value"]),
    ("nothing", &["", "   ", "\u{301}"]),
];

fn words(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(" ")
}

fn tested(what: &Test) -> String {
    match what {
        Test::Size { min, max } => format!("size {min}..={max}"),
        Test::Age { min_ns, max_ns } => format!("age {min_ns}..={max_ns}"),
        Test::Type(types) => format!("type {types:?}"),
        Test::Extension(list) => format!("ext {list:?}"),
        Test::Peer(text) => format!("peer {text:?}"),
        Test::Share(text) => format!("share {text:?}"),
        Test::Path(PathTest::Below(components)) => format!("below {components:?}"),
        Test::Path(PathTest::Contains(part)) => format!("path contains {part:?}"),
        Test::Hash(digits) => format!("hash {digits}"),
    }
}

fn meaning(query: &Query) -> String {
    let contains =
        query.words.iter().map(|word| format!("{}{:?}", if word.name_only { "name " } else { "" }, word.text));
    let without = query.without.iter().map(|word| format!("without {word:?}"));
    let filters = query.filters.iter().map(|filter| {
        let not = if filter.inverted { "not " } else { "" };
        format!("{not}[{}]", tested(&filter.test))
    });
    words(contains.chain(without).chain(filters))
}

#[test]
fn what_queries_mean() {
    let mut text = String::new();
    for (title, queries) in QUERIES {
        writeln!(text, "{title}").unwrap();
        for query in *queries {
            let meaning = parse(query).map_or_else(|error| format!("error: {error}"), |query| meaning(&query));
            writeln!(text, "  {:<28} {meaning}", format!("{query:?}")).unwrap();
        }
    }
    insta::assert_snapshot!(text);
}
