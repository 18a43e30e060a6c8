//! The query language: folding of names, parsing of queries, ranking of hits.

/// A parsed query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {}
