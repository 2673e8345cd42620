//! The way of a record through the parser: size, encoding, shape, format.

use std::borrow::Cow;

use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{
    Envelope, Format, Id, Parsed, Reason, Reject, activity_streams,
    draft::Input,
    jetstream, json,
    list::{not_a_post, one_of},
    mastodon, plain,
    shape::{self, Key, Shape},
    twitter_v1, twitter_v2,
};

/// Bounds on what a record may hold. Anything beyond is rejected, except hashtags, of which the first are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The longest record, in bytes.
    pub max_bytes: usize,
    /// The longest text, in characters; a quoted text is cut there.
    pub max_text_chars: usize,
    /// The deepest nesting of JSON objects and lists; the parser's own limit of 127 holds above that.
    pub max_depth: usize,
    /// The most hashtags kept of a post.
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

/// Reads one record.
///
/// `envelope` gives the time and the identity of posts whose format has none. Never panics. The work
/// is linear in the record's length, once for each level of lists within lists.
///
/// # Errors
///
/// A [`Reject`] with the reason why the record is neither one post nor one deletion.
pub fn parse(format: Format, payload: &[u8], envelope: &Envelope, limits: &Limits) -> Result<Parsed, Reject> {
    if payload.len() > limits.max_bytes {
        let detail = format!("the record has {} bytes, more than {}", payload.len(), limits.max_bytes);
        return Err(Reject::new(Reason::TooLarge, detail));
    }
    let record = std::str::from_utf8(payload).map_err(|error| {
        Reject::new(
            Reason::NotUtf8,
            format!("not UTF-8 from byte {} on", error.valid_up_to()),
        )
    })?;
    let record = record.trim_start_matches('\u{feff}').trim();
    if record.is_empty() {
        let what = if payload.is_empty() {
            "no bytes"
        } else {
            "nothing but white space"
        };
        return Err(Reject::new(Reason::Empty, format!("the record has {what}")));
    }
    let input = Input { envelope, limits };
    match format {
        Format::Auto => any(record, input),
        Format::Text => plain::text(record, input),
        Format::Mastodon if mastodon::is_server_sent(record) => mastodon::server_sent(record, input),
        _ => document(format, record, input),
    }
}

/// The id of the post that a record holds or deletes: the key under which both meet in one partition.
///
/// Nothing for records that are neither, and for posts without an id of their own.
#[must_use]
pub fn key(payload: &[u8]) -> Option<Id> {
    let envelope = Envelope {
        timestamp: Some(OffsetDateTime::UNIX_EPOCH),
        fallback_id: None,
    };
    match parse(Format::Auto, payload, &envelope, &Limits::default()).ok()? {
        Parsed::Post(post) => Some(post.id),
        Parsed::Deletion(deletion) => Some(deletion.post_id),
    }
}

/// A record of any format.
fn any(record: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    match record.as_bytes().first() {
        Some(b'{' | b'[') => document(Format::Auto, record, input),
        Some(b'"') => match json::read::<Cow<'_, str>>(record) {
            // Some producers encode twice: a JSON string that holds the document.
            Ok(inner) if inner.trim_start().starts_with('{') && Shape::of(&inner).is_ok() => {
                document(Format::Auto, inner.trim(), input)
            }
            Ok(inner) => plain::text(&inner, input),
            Err(_) => plain::text(record, input),
        },
        _ if mastodon::is_server_sent(record) => mastodon::server_sent(record, input),
        _ => plain::text(record, input),
    }
}

/// A JSON document: one object, or a list of one.
fn document(format: Format, record: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let depth = json::depth(record);
    if depth > input.limits.max_depth {
        let detail = format!("nested {depth} levels deep, more than {}", input.limits.max_depth);
        return Err(Reject::new(Reason::TooDeep, detail));
    }
    let read = |json: &str| match json.starts_with('[') {
        true => one_of(json, |element| object(format, element, input)),
        false => object(format, json, input),
    };
    match read(record) {
        Err(reject) if matches!(reject.reason, Reason::NotJson | Reason::BadField) => {
            json::mend_surrogates(record).map_or(Err(reject), |mended| read(&mended))
        }
        outcome => outcome,
    }
}

/// One JSON object.
pub(super) fn object(format: Format, json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let shape = Shape::of(json)?;
    let format = match format {
        Format::Auto if shape.has_any(PAGES) && !shape.has_any(&[Key::Text, Key::Content]) => return page(json, input),
        Format::Auto => match (shape.format(), shape.other_object()) {
            (Some(format), _) => format,
            (None, Some(what)) => return Err(not_a_post(what)),
            (None, None) => return Err(shape::unknown(json)),
        },
        Format::TwitterV1 if shape.has_any(PAGES) => return page(json, input),
        fixed => fixed,
    };
    match format {
        Format::TwitterV1 => twitter_v1::parse(json, shape, input),
        Format::TwitterV2 => twitter_v2::parse(json, shape, input),
        Format::ActivityStreams => activity_streams::parse(json, input),
        Format::Jetstream => jetstream::parse(json, input),
        Format::Mastodon => mastodon::parse(json, shape, input),
        Format::Plain | Format::Text | Format::Auto => plain::parse(json, input),
    }
}

/// The keys under which search pages, replays and webhooks hold their lists of posts.
const PAGES: &[Key] = &[Key::Statuses, Key::Results, Key::TweetCreateEvents];

#[derive(serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    statuses: Option<&'a RawValue>,
    #[serde(borrow)]
    results: Option<&'a RawValue>,
    #[serde(borrow)]
    tweet_create_events: Option<&'a RawValue>,
}

fn page(json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let page: Page<'_> = json::read(json)?;
    match page.statuses.or(page.results).or(page.tweet_create_events) {
        Some(list) if list.get().starts_with('[') => one_of(list.get(), |element| object(Format::Auto, element, input)),
        _ => Err(shape::unknown(json)),
    }
}
