//! The `[posts]` section.

use serde::Deserialize;

use crate::post::{FieldPaths, Format, Limits, MissingTime, ParseOptions, Zone};

/// `[posts]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostSettings {
    /// The wire format; `auto` detects it for each record.
    pub format: Format,
    /// Languages to keep (BCP 47 primary subtags); empty keeps all.
    pub languages: Vec<String>,
    /// Keep only posts that match a tracked subject.
    pub only_tracked: bool,
    /// The maximum size of a record, in bytes; larger ones become dead letters.
    pub max_bytes: usize,
    /// The maximum length of a text, in characters.
    pub max_text_chars: usize,
    /// How far in the future a post may be dated by this machine's clock, in seconds.
    pub max_future_seconds: u32,
    /// How to treat a post dated further in the future.
    pub future: FuturePolicy,
    /// The time zone of times that do not specify one.
    pub time_zone: Zone,
    /// How to treat a post without a time.
    pub missing_time: MissingTime,
    /// Identify the language of posts that don't specify one.
    pub detect_language: bool,
    /// The paths of a post's fields in records with a custom layout.
    pub fields: FieldPaths,
}

impl Default for PostSettings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            format: Format::Auto,
            languages: Vec::new(),
            only_tracked: false,
            max_bytes: limits.max_bytes,
            max_text_chars: limits.max_text_chars,
            max_future_seconds: 3_600,
            future: FuturePolicy::Reject,
            time_zone: Zone::default(),
            missing_time: MissingTime::Record,
            detect_language: true,
            fields: FieldPaths::default(),
        }
    }
}

impl PostSettings {
    /// Returns the options for parsing records.
    #[must_use]
    pub fn parsing(&self) -> ParseOptions {
        ParseOptions {
            format: self.format,
            limits: Limits {
                max_bytes: self.max_bytes,
                max_text_chars: self.max_text_chars,
                ..Limits::default()
            },
            fields: self.fields.clone(),
            time_zone: self.time_zone.clone(),
            missing_time: self.missing_time,
        }
    }
}

/// How to treat a post dated further in the future than `posts.max_future_seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FuturePolicy {
    /// Send it to the dead letters.
    #[default]
    Reject,
    /// Store it as published now.
    Clamp,
}
