//! The query language: folding of names, parsing of queries, ranking of hits.
//!
//! Words are AND-ed substrings of the folded base name. `"an exact phrase"` keeps its spaces, `-word` excludes, and
//! `key:value` filters restrict: `size:>1G`, `type:video`, `ext:iso`, `peer:lab-3`, `share:films`, `path:/models`,
//! `age:<7d`, `hash:7f4e`, `name:word` (never matches a directory part). Commas in `type:` and `ext:` mean "or".

mod entry;
mod fold;
mod kind;
mod near;
mod parse;
mod rank;
pub(crate) mod value;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub use entry::{FoldedEntry, Origin};
pub use fold::{fold, fold_text};
pub use kind::FileType;
pub use near::{NearWord, near_distance, near_part, near_tolerance};
pub use parse::parse;
pub use rank::{MatchClass, match_class};
pub use value::size as parse_size;

/// A parsed query: every term must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Texts that the name must contain.
    pub words: Vec<Word>,
    /// Texts that the base name must not contain, folded.
    pub without: Vec<String>,
    /// Restrictions on the entry, each possibly inverted.
    pub filters: Vec<Filter>,
}

/// A text to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Folded, not empty.
    pub text: String,
    /// Only the base name counts, never a directory part.
    pub name_only: bool,
}

/// A restriction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What is tested.
    pub test: Test,
    /// The test must fail instead.
    pub inverted: bool,
}

/// What a filter tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// A file, or the files in a directory and below together, of at least `min` and at most `max` bytes.
    Size {
        /// Bytes, included.
        min: u64,
        /// Bytes, included.
        max: u64,
    },
    /// Last modified at least `min_ns` and at most `max_ns` nanoseconds ago.
    Age {
        /// Nanoseconds, included.
        min_ns: i64,
        /// Nanoseconds, included.
        max_ns: i64,
    },
    /// One of these types.
    Type(Vec<FileType>),
    /// The folded name ends with a dot and one of these, folded.
    Extension(Vec<String>),
    /// The name of the peer, folded, or the start of its key (`pk:` and at least 8 digits).
    Peer(String),
    /// The name of the share, folded.
    Share(String),
    /// The directory that holds it.
    Path(PathTest),
    /// The first digits of the blob's hash, lower case.
    Hash(String),
}

/// A restriction on the directory that holds an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathTest {
    /// These folded components from the top down; the top is the share's name or the share's root.
    Below(Vec<String>),
    /// A folded text somewhere in `share/directory/…/`.
    Contains(String),
}

/// Why a text is not a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    /// Byte of the text where the trouble starts.
    pub at: usize,
    /// What is wrong.
    pub kind: QueryErrorKind,
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryErrorKind {
    /// Nothing to look for.
    Empty,
    /// Only exclusions: nearly everything would fit.
    OnlyExclusions,
    /// More than [`crate::limits::QUERY_BYTES`] bytes.
    TooLong,
    /// More than [`crate::limits::QUERY_TERMS`] terms.
    TooManyTerms,
    /// A quote that does not end.
    OpenQuote,
    /// A filter without a value.
    NoValue(&'static str),
    /// A value of `size:` that is none.
    Size(String),
    /// A value of `age:` that is none.
    Age(String),
    /// A value of `type:` that is none.
    Type(String),
    /// A value of `hash:` that is none.
    Hash(String),
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            QueryErrorKind::Empty => return f.write_str("the query is empty: give at least one word"),
            QueryErrorKind::OnlyExclusions => {
                return f.write_str("the query only excludes: add a word or a filter that names what you want");
            }
            QueryErrorKind::TooLong => return f.write_str("the query is longer than 1,024 bytes: shorten it"),
            QueryErrorKind::TooManyTerms => {
                return f.write_str("the query has more than 32 words and filters: leave some out");
            }
            QueryErrorKind::OpenQuote => f.write_str("this quote does not end: add a closing \"")?,
            QueryErrorKind::NoValue(key) => write!(f, "{key}: has no value: write one directly behind the colon")?,
            QueryErrorKind::Size(text) => {
                write!(f, "'{text}' is not a size: write size:>1G, size:<=500k, size:0 or size:1M..2G")?;
            }
            QueryErrorKind::Age(text) => {
                write!(f, "'{text}' is not an age: write age:<7d, age:>1y or age:1d..4w (s, m, h, d, w, y)")?;
            }
            QueryErrorKind::Type(text) => {
                write!(f, "'{text}' is not a type: write one of {}", FileType::NAMES)?;
            }
            QueryErrorKind::Hash(text) => {
                write!(f, "'{text}' is not the start of a hash: write 1 to 64 hexadecimal digits")?;
            }
        }
        write!(f, " (at byte {})", self.at)
    }
}

impl core::error::Error for QueryError {}
