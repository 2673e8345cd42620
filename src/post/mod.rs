//! Parsing: a record's bytes become one [`Post`], one [`Deletion`], or a [`Reject`] with its reason.
//!
//! [`parse()`] is the verb. Behind it, a record's shape (the keys of its outermost object) decides the
//! format, and one file a wire format reads it with types that borrow from the record. Fields that
//! don't matter are skipped unread; fields that do are read leniently and named when they are wrong.

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
mod mend;
mod origin;
mod parse;
mod plain;
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
pub use origin::{Fingerprint, Origin};
pub use parse::{Limits, ParseOptions, key, parse};

use time::OffsetDateTime;

/// Where a post was published. Stored as [`Source::as_str`] in the `source` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Twitter / X, whichever wire format it came in.
    Twitter,
    /// Bluesky.
    Bluesky,
    /// Mastodon and what speaks its API.
    Mastodon,
    /// Anything else, in the plain format.
    Plain,
}

impl Source {
    /// The name in tables, metrics and settings.
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

/// One post, as far as the monitor needs it. Every field is of a type that the database can store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Where it was published.
    pub source: Source,
    /// Its identity within the source.
    pub id: Id,
    /// Event time.
    pub created_at: EventTime,
    /// Where the event time is from.
    pub time_source: TimeSource,
    /// The author's identity within the source, where known.
    pub author_id: Option<Id>,
    /// Its language.
    pub lang: Language,
    /// Whether the language was identified from the text, as the record names none.
    pub lang_identified: bool,
    /// The whole text (for a repost: the original's whole text), entities and HTML resolved.
    pub text: Text,
    /// For a repost: the original's id.
    pub repost_of: Option<Id>,
    /// The whole text of a quoted post, where it travels along.
    pub quoted_text: Option<Text>,
    /// Hashtags in order of appearance, without repeats.
    pub hashtags: Vec<Hashtag>,
}

/// Where a post's event time is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeSource {
    /// The post itself.
    #[default]
    Post,
    /// The record's time at the broker: the post has none, or none that the settings find.
    Record,
}

/// What becomes of a post without a time of its own, in formats whose posts may come without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingTime {
    /// It has the record's time at the broker.
    #[default]
    Record,
    /// It is rejected.
    Reject,
}

/// A notice that a post was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Where the post was published.
    pub source: Source,
    /// The deleted post's id.
    pub post_id: Id,
}

/// What a record held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A post.
    Post(Box<Post>),
    /// A deletion notice.
    Deletion(Deletion),
}

/// Why a record can't be handled: the bounded set used as a metric label and in the dead-letter header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The record has a null value, as compacted topics mark a key that was deleted.
    Tombstone,
    /// The record's value has no bytes.
    Empty,
    /// More bytes than the settings allow.
    TooLarge,
    /// Not UTF-8.
    NotUtf8,
    /// Looks like JSON and is not.
    NotJson,
    /// JSON nested deeper than the parser's limit.
    TooDeep,
    /// Framed for a schema registry, in another format than JSON.
    SchemaRegistry,
    /// JSON or other structured data that is no known format of a post or a deletion.
    UnknownFormat,
    /// A control or keep-alive message of a stream, or an event that is not about a post.
    NotAPost,
    /// Several posts in one record.
    SeveralPosts,
    /// A post without an id.
    NoId,
    /// A post without a text.
    NoText,
    /// A post without a time, or one that can't be read or lies outside the years 1970 to 2200.
    BadTime,
    /// A post dated further ahead than the settings allow.
    FutureTime,
    /// A field of the wrong type or with an impossible value.
    BadField,
    /// The model fails on this text.
    Model,
    /// The database refuses the row.
    Database,
}

impl Reason {
    /// All the names that [`Reason::as_str`] gives.
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

    /// The name in metrics and dead-letter headers.
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

/// A record that can't be handled, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .reason.as_str())]
pub struct Reject {
    /// The kind of fault.
    pub reason: Reason,
    /// One line: what was wrong and where. At most [`Reject::MAX_DETAIL_CHARS`] characters, none of them a control character.
    pub detail: String,
}

impl Reject {
    /// The longest detail, in characters: it travels in logs and in a Kafka header.
    pub const MAX_DETAIL_CHARS: usize = 300;

    /// A reject whose detail is cut and cleaned: parts of it may come from the record itself.
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

/// How the bytes of a record are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Found for each record from its shape.
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
    /// Mastodon status or streaming event.
    Mastodon,
    /// `{id, text, created_at, ...}`, or by the names of [`FieldPaths`].
    Plain,
    /// The whole record is the text.
    Text,
}

/// What a record brings beside its bytes: used where the format lacks it.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The record's time at the broker: the event time of formats that have none.
    pub timestamp: Option<OffsetDateTime>,
    /// An identity for posts that bring none: where and when the record lies, `topic/partition/offset@milliseconds`.
    /// Without it such posts are rejected.
    pub fallback_id: Option<Id>,
}

impl Envelope {
    /// The record's time as an event time: held to the years that one in a field is held to, as producers may write any.
    pub(crate) fn event_time(&self) -> Option<EventTime> {
        self.timestamp.and_then(|time| EventTime::new(time).ok())
    }
}
