//! How records are parsed.

use super::{FieldPaths, Format, MissingTime, Zone};

/// Limits on a record. A record beyond one of them is rejected, except that surplus hashtags are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The maximum size of a record, in bytes.
    pub max_bytes: usize,
    /// The maximum length of a text, in characters. A quoted text is truncated to it.
    pub max_text_chars: usize,
    /// The maximum nesting depth of JSON objects and arrays. The parser's own limit of 127 also applies.
    pub max_depth: usize,
    /// The maximum number of hashtags kept for a post.
    pub max_hashtags: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 20,
            max_text_chars: 25_000,
            max_depth: 128,
            max_hashtags: 100,
        }
    }
}

/// How records are parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// The wire format.
    pub format: Format,
    /// Limits on size.
    pub limits: Limits,
    /// The paths of a post's fields in records with a custom layout.
    pub fields: FieldPaths,
    /// The time zone of times that do not specify one.
    pub time_zone: Zone,
    /// How to treat a post without a time, in formats that allow one to be absent.
    pub missing_time: MissingTime,
}
