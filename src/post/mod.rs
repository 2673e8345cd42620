//! Parses a record's bytes into a [`Post`], a [`Deletion`], or a [`Reject`] with its reason.
//!
//! [`parse()`] is the entry point. It determines the wire format from the record's shape (the keys of
//! the outermost object) and hands the record to that format's module, which deserializes into types
//! that borrow from the record. Unused fields are skipped. The others are read leniently, and an
//! invalid one is named in the reject.

mod activity_streams;
mod bare_text;
mod clock;
mod draft;
mod field;
mod field_path;
mod framing;
mod html;
mod jetstream;
mod json;
mod language;
mod list;
mod mastodon;
mod options;
mod origin;
mod parse;
mod plain;
mod repair;
mod row_change;
mod shape;
#[cfg(test)]
mod tests;
mod twitter_v1;
mod twitter_v2;

use std::fmt;

pub use bare_text::looks_structured;
pub use clock::{Zone, ZoneError};
pub use field::{EventTime, FieldError, Hashtag, Id, Text};
pub use field_path::{FieldPath, FieldPathError, FieldPaths};
pub use language::Language;
pub use options::{Limits, ParseOptions};
pub use origin::{Fingerprint, Origin};
pub use parse::{key, parse};

use time::OffsetDateTime;

/// The platform on which a post was published, stored as [`Source::as_str`] in the `source` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Twitter / X, in any of its wire formats.
    Twitter,
    /// Bluesky.
    Bluesky,
    /// Mastodon and servers compatible with its API.
    Mastodon,
    /// Anything else, in the plain format.
    Plain,
}

impl Source {
    /// The name used in tables, metrics and settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Twitter => "twitter",
            Self::Bluesky => "bluesky",
            Self::Mastodon => "mastodon",
            Self::Plain => "plain",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A post, reduced to the fields the service uses. Every field's type guarantees that the database can store it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// The platform on which it was published.
    pub source: Source,
    /// The identifier, unique within the source.
    pub id: Id,
    /// The event time.
    pub created_at: EventTime,
    /// Where the event time was taken from.
    pub time_source: TimeSource,
    /// The author's identifier within the source, if known.
    pub author_id: Option<Id>,
    /// The language.
    pub lang: Language,
    /// Whether the language was identified from the text because the record names none.
    pub lang_identified: bool,
    /// The full text with entities and HTML resolved. For a repost, the original's full text.
    pub text: Text,
    /// For a repost, the original's id.
    pub repost_of: Option<Id>,
    /// The full text of a quoted post, if the record contains it.
    pub quoted_text: Option<Text>,
    /// Hashtags in order of first appearance, without duplicates.
    pub hashtags: Vec<Hashtag>,
}

/// Where a post's event time was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeSource {
    /// The post.
    #[default]
    Post,
    /// The Kafka record's timestamp, because no time was found in the post.
    Record,
}

/// How to treat a post without a time, in formats that allow one to be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingTime {
    /// Use the Kafka record's timestamp.
    #[default]
    Record,
    /// Reject the post.
    Reject,
}

/// A notice that a post was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The platform on which the post was published.
    pub source: Source,
    /// The deleted post's id.
    pub post_id: Id,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A post.
    Post(Box<Post>),
    /// A deletion notice.
    Deletion(Deletion),
}

/// Why a record can't be processed: a bounded set, used as a metric label and in a dead-letter header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The value is null, which marks a deleted key in a compacted topic.
    Tombstone,
    /// The value is empty.
    Empty,
    /// The record or its text exceeds the size limit.
    TooLarge,
    /// The value is not UTF-8.
    NotUtf8,
    /// The value looks like JSON but does not parse.
    NotJson,
    /// JSON is nested deeper than the limit.
    TooDeep,
    /// The value has a schema registry header, but its content is not JSON.
    SchemaRegistry,
    /// JSON or other structured data that is not a known format of a post or a deletion.
    UnknownFormat,
    /// A control or keep-alive message of a stream, or an event that does not concern a post.
    NotAPost,
    /// Several posts in one record.
    SeveralPosts,
    /// A post without an id.
    NoId,
    /// A post without a text.
    NoText,
    /// A post without a time, or with one that can't be parsed or is outside the years 1970 to 2200.
    BadTime,
    /// A post dated further in the future than the settings allow.
    FutureTime,
    /// A field has the wrong type or an impossible value.
    BadField,
    /// The model failed on this text.
    Model,
    /// The database refused the row.
    Database,
}

impl Reason {
    /// All names that [`Reason::as_str`] returns.
    pub const NAMES: &[&str] = &[
        Self::Tombstone.as_str(),
        Self::Empty.as_str(),
        Self::TooLarge.as_str(),
        Self::NotUtf8.as_str(),
        Self::NotJson.as_str(),
        Self::TooDeep.as_str(),
        Self::SchemaRegistry.as_str(),
        Self::UnknownFormat.as_str(),
        Self::NotAPost.as_str(),
        Self::SeveralPosts.as_str(),
        Self::NoId.as_str(),
        Self::NoText.as_str(),
        Self::BadTime.as_str(),
        Self::FutureTime.as_str(),
        Self::BadField.as_str(),
        Self::Model.as_str(),
        Self::Database.as_str(),
    ];

    /// The name used in metrics and dead-letter headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::TooDeep => "too_deep",
            Self::SchemaRegistry => "schema_registry",
            Self::UnknownFormat => "unknown_format",
            Self::NotAPost => "not_a_post",
            Self::SeveralPosts => "several_posts",
            Self::NoId => "no_id",
            Self::NoText => "no_text",
            Self::BadTime => "bad_time",
            Self::FutureTime => "future_time",
            Self::BadField => "bad_field",
            Self::Model => "model",
            Self::Database => "database",
        }
    }
}

/// A record that can't be processed, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .reason.as_str())]
pub struct Reject {
    /// The kind of error.
    pub reason: Reason,
    /// One line saying what is wrong and where: at most [`Reject::MAX_DETAIL_CHARS`] characters, none of them a
    /// control character.
    pub detail: String,
}

impl Reject {
    /// The maximum length of a detail, in characters. It is written to logs and to a Kafka header.
    pub const MAX_DETAIL_CHARS: usize = 300;

    /// Creates a reject, truncating the detail and replacing control characters, since parts of it may come from the record.
    #[must_use]
    pub fn new(reason: Reason, detail: impl AsRef<str>) -> Self {
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let detail = detail
            .as_ref()
            .chars()
            .take(Self::MAX_DETAIL_CHARS)
            .map(printable)
            .collect();
        Self { reason, detail }
    }
}

/// The wire format of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Determined for each record from its shape.
    #[default]
    Auto,
    /// Twitter API v1.1 (streams and responses).
    TwitterV1,
    /// Twitter API v2, with or without the `data` envelope.
    TwitterV2,
    /// Activity Streams (GNIP).
    ActivityStreams,
    /// Bluesky Jetstream.
    Jetstream,
    /// A Mastodon status or streaming event.
    Mastodon,
    /// `{id, text, created_at, ...}`, or the keys given in [`FieldPaths`].
    Plain,
    /// The whole value is the text.
    Text,
}

/// Metadata of a record, used for fields that its format lacks.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The Kafka record's timestamp: the event time where a format has none.
    pub timestamp: Option<OffsetDateTime>,
    /// The id of posts that have none: the record's position and timestamp, `topic/partition/offset@milliseconds`.
    /// If it is `None`, such posts are rejected.
    pub fallback_id: Option<Id>,
}

impl Envelope {
    /// Returns the record's timestamp as an event time, or `None` if it is outside the supported years: producers may set
    /// any timestamp.
    pub(crate) fn event_time(&self) -> Option<EventTime> {
        self.timestamp.and_then(|time| EventTime::new(time).ok())
    }
}
