//! The plain format, `{id, text, created_at, ...}` or with mapped fields, and bare text.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::{
    FieldPath, FieldPaths, Format, Id, Parsed, Reason, Reject, Source,
    draft::{self, Draft, Input},
    json::{self, Scalar},
    shape::Shape,
};

/// The fields of the format, including common alternative names.
#[derive(Default, Deserialize)]
struct Plain<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    tweet_id: Scalar<'a>,
    #[serde(borrow, default, rename = "_id")]
    underscore_id: Scalar<'a>,
    #[serde(borrow, default)]
    comment_id: Scalar<'a>,
    #[serde(borrow, default)]
    post_id: Scalar<'a>,
    #[serde(borrow, default)]
    uuid: Scalar<'a>,
    #[serde(borrow, default, rename = "tweetId")]
    tweet_id_camel: Scalar<'a>,
    #[serde(borrow, default, rename = "commentId")]
    comment_id_camel: Scalar<'a>,
    #[serde(borrow, default, rename = "postId")]
    post_id_camel: Scalar<'a>,
    #[serde(borrow, default)]
    text: Scalar<'a>,
    #[serde(borrow, default)]
    content: Scalar<'a>,
    #[serde(borrow, default)]
    created_at: Scalar<'a>,
    #[serde(borrow, default, rename = "createdAt")]
    created_at_camel: Scalar<'a>,
    #[serde(borrow, default)]
    created_utc: Scalar<'a>,
    #[serde(borrow, default)]
    published: Scalar<'a>,
    #[serde(borrow, default)]
    published_at: Scalar<'a>,
    #[serde(borrow, default, rename = "publishedAt")]
    published_at_camel: Scalar<'a>,
    #[serde(borrow, default)]
    date_published: Scalar<'a>,
    #[serde(borrow, default)]
    created_time: Scalar<'a>,
    #[serde(borrow, default)]
    create_time: Scalar<'a>,
    #[serde(borrow, default)]
    created: Scalar<'a>,
    #[serde(borrow, default)]
    datetime: Scalar<'a>,
    #[serde(borrow, default)]
    ts: Scalar<'a>,
    #[serde(borrow, default, rename = "@timestamp")]
    at_timestamp: Scalar<'a>,
    #[serde(borrow, default)]
    timestamp: Scalar<'a>,
    #[serde(borrow, default)]
    date: Scalar<'a>,
    #[serde(borrow, default)]
    time: Scalar<'a>,
    #[serde(borrow, default)]
    author_id: Scalar<'a>,
    #[serde(borrow, default)]
    author: Scalar<'a>,
    #[serde(borrow, default)]
    user_id: Scalar<'a>,
    #[serde(borrow, default)]
    user: Scalar<'a>,
    #[serde(borrow, default)]
    lang: Scalar<'a>,
    #[serde(borrow, default)]
    language: Scalar<'a>,
    #[serde(default)]
    hashtags: Option<Value>,
    #[serde(borrow, default)]
    repost_of: Scalar<'a>,
    #[serde(borrow, default)]
    quoted_text: Scalar<'a>,
    #[serde(borrow, default)]
    source: Scalar<'a>,
    #[serde(borrow, default)]
    deleted: Scalar<'a>,
    /// Added by Debezium's transform that unwraps rows.
    #[serde(borrow, default, rename = "__deleted")]
    underscore_deleted: Scalar<'a>,
}

/// Returns the first value that is present.
fn first<'s, 'a>(values: &[&'s Scalar<'a>]) -> Option<&'s Scalar<'a>> {
    values.iter().copied().find(|value| !value.is_absent())
}

/// Returns the first string or number, since the alternative names may also hold objects.
fn first_scalar<'s, 'a>(values: &[&'s Scalar<'a>]) -> &'s Scalar<'a> {
    const ABSENT: &Scalar<'_> = &Scalar::Absent;
    let scalar = |value: &&&Scalar<'_>| matches!(value, Scalar::Text(_) | Scalar::Integer(_) | Scalar::Float(_));
    values.iter().find(scalar).copied().unwrap_or(ABSENT)
}

/// Parses an object of the plain format. The envelope supplies a missing id or time.
pub(super) fn parse(json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let plain: Plain<'_> = json::read(json)?;
    if plain.is_deletion() {
        return plain.deletion();
    }
    plain.draft(plain.hashtags.as_ref().and_then(tags), &[], input)
}

/// Parses an object as the deletion of the post it describes, using the id's configured path or the format's own keys.
pub(super) fn deletion(json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let fields = &input.options.fields;
    if fields.is_empty() {
        return json::read::<Plain<'_>>(json)?.deletion();
    }
    let value: Value = json::read(json)?;
    Plain::mapped(&value, fields)?.deletion()
}

impl Plain<'_> {
    /// Returns the post's id as given in the object.
    fn own_id(&self) -> Result<Option<Id>, Reject> {
        let others = [
            &self.tweet_id,
            &self.underscore_id,
            &self.tweet_id_camel,
            &self.comment_id,
            &self.comment_id_camel,
            &self.post_id,
            &self.post_id_camel,
            &self.uuid,
        ];
        match first(&[&self.id]) {
            Some(id) => id.id("id"),
            None => first_scalar(&others).id("tweet_id"),
        }
    }

    fn source(&self) -> Source {
        match self.source.as_str() {
            Some("twitter") => Source::Twitter,
            Some("bluesky") => Source::Bluesky,
            Some("mastodon") => Source::Mastodon,
            _ => Source::Plain,
        }
    }

    fn is_deletion(&self) -> bool {
        self.deleted.is_set() || self.underscore_deleted.is_set()
    }

    fn deletion(&self) -> Result<Parsed, Reject> {
        let without_id = "a deletion without the post's id; posts.fields.id can map another key";
        draft::deletion(self.source(), self.own_id()?, without_id)
    }

    /// `created_at` is the configured field, if any. It takes precedence over the format's own fields.
    fn draft(
        &self,
        hashtags: Option<Vec<&str>>,
        created_at: &[(&Scalar<'_>, &str)],
        input: Input<'_>,
    ) -> Result<Parsed, Reject> {
        let id = self.own_id()?;
        let author = match first(&[&self.author_id]) {
            Some(author) => author.id("author_id")?,
            None => first_scalar(&[&self.author, &self.user_id, &self.user]).id("author")?,
        };
        let named = [
            (&self.created_at, "created_at"),
            (&self.created_at_camel, "createdAt"),
            (&self.created_utc, "created_utc"),
            (&self.published, "published"),
            (&self.published_at, "published_at"),
            (&self.published_at_camel, "publishedAt"),
            (&self.date_published, "date_published"),
            (&self.created_time, "created_time"),
            (&self.create_time, "create_time"),
            (&self.created, "created"),
            (&self.timestamp, "timestamp"),
            (&self.at_timestamp, "@timestamp"),
            (&self.date, "date"),
            (&self.datetime, "datetime"),
            (&self.time, "time"),
            (&self.ts, "ts"),
        ];
        let created_at = match created_at.is_empty() {
            true => input.time(&named)?,
            false => input.time(created_at)?,
        };
        let (text, name) = match self.text.is_absent() {
            true => (&self.content, "content"),
            false => (&self.text, "text"),
        };
        Draft {
            source: self.source(),
            id: id.or_else(|| input.envelope.fallback_id.clone()),
            created_at,
            allow_record_time: true,
            author_id: author,
            lang: self.lang.as_str().or_else(|| self.language.as_str()),
            text: text.text(name)?.map(Cow::Borrowed),
            repost_of: self.repost_of.id("repost_of")?,
            quoted_text: self.quoted_text.as_str().map(Cow::Borrowed),
            hashtags,
        }
        .finish(input)
    }
}

/// Parses an object whose fields are mapped in the settings.
///
/// Returns `None` if the settings map no fields. When the format is detected automatically, also returns `None` if the
/// object has no text at the mapped path, or, with the text unmapped, if the object is of another known format.
pub(super) fn mapped(json: &str, shape: Shape, input: Input<'_>) -> Option<Result<Parsed, Reject>> {
    let fields = &input.options.fields;
    if fields.is_empty() {
        return None;
    }
    let value: Value = match json::read(json) {
        Ok(value) => value,
        Err(reject) => return Some(Err(reject)),
    };
    let is_meant = match (&fields.text, input.options.format) {
        (_, Format::Plain) => true,
        (Some(text), _) => {
            let deleted = fields.deleted.as_ref().and_then(|path| path.find(&value));
            let deleted = deleted.or_else(|| value.get("deleted"));
            text.find(&value).is_some() || deleted.is_some_and(|value| Scalar::from(value).is_set())
        }
        (None, _) => shape.format() == Some(Format::Plain),
    };
    is_meant.then(|| from_value(&value, fields, input))
}

/// Returns the value at a path.
fn at<'v>(value: &'v Value, path: &FieldPath) -> Scalar<'v> {
    path.find(value).map_or(Scalar::Absent, Scalar::from)
}

impl<'a> Plain<'a> {
    /// Reads the fields of an object, mapped paths taking precedence, except times and hashtags.
    fn mapped(value: &'a Value, fields: &FieldPaths) -> Result<Self, Reject> {
        let at = |path: &FieldPath| at(value, path);
        // Can fail only on invalid JSON: every field accepts any value.
        let mut plain = Plain::deserialize(value).map_err(|error| Reject::new(Reason::BadField, error.to_string()))?;
        if let Some(path) = &fields.id {
            plain.id = at(path);
        }
        if let Some(path) = &fields.text {
            (plain.text, plain.content) = (at(path), Scalar::Absent);
        }
        if let Some(path) = &fields.author {
            plain.author_id = at(path);
        }
        if let Some(path) = &fields.lang {
            (plain.lang, plain.language) = (at(path), Scalar::Absent);
        }
        if let Some(path) = &fields.source {
            plain.source = at(path);
        }
        if let Some(path) = &fields.repost_of {
            plain.repost_of = at(path);
        }
        if let Some(path) = &fields.quoted_text {
            plain.quoted_text = at(path);
        }
        if let Some(path) = &fields.deleted {
            (plain.deleted, plain.underscore_deleted) = (at(path), Scalar::Absent);
        }
        Ok(plain)
    }
}

fn from_value(value: &Value, fields: &FieldPaths, input: Input<'_>) -> Result<Parsed, Reject> {
    let plain = Plain::mapped(value, fields)?;
    if plain.is_deletion() {
        return plain.deletion();
    }
    let created_at = fields
        .created_at
        .as_ref()
        .map(|path| (at(value, path), format!("{path:?}")));
    let created_at: Vec<_> = created_at.iter().map(|(value, name)| (value, name.as_str())).collect();
    let hashtags = match &fields.hashtags {
        Some(path) => path.find(value).and_then(tags),
        None => value.get("hashtags").and_then(tags),
    };
    plain.draft(hashtags, &created_at, input)
}

/// Returns the words of a list of strings or objects, or of a string separated by whitespace, commas or semicolons.
fn tags(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(words) => Some(
            words
                // Brackets and quotes are left over when a list was formatted as a string.
                .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '[' | ']' | '"' | '\''))
                .filter(|word| !word.is_empty())
                .collect(),
        ),
        Value::Array(list) => Some(
            list.iter()
                .filter_map(|tag| {
                    let word = || {
                        ["text", "tag", "name"]
                            .into_iter()
                            .find_map(|key| tag.get(key)?.as_str())
                    };
                    tag.as_str().or_else(word)
                })
                .collect(),
        ),
        _ => None,
    }
}

/// Parses a record that consists only of its text.
pub(super) fn text(record: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    Draft {
        source: Source::Plain,
        id: input.envelope.fallback_id.clone(),
        created_at: None,
        allow_record_time: true,
        author_id: None,
        lang: None,
        text: Some(Cow::Borrowed(record)),
        repost_of: None,
        quoted_text: None,
        hashtags: None,
    }
    .finish(input)
}
