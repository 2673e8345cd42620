//! Parses a record: size, encoding, shape, format.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{
    Envelope, Format, Id, Parsed, Reason, Reject, activity_streams, bare_text,
    draft::Input,
    framing::{self, SchemaRegistry},
    jetstream, json,
    list::{not_a_post, single_post},
    mastodon,
    options::ParseOptions,
    plain, repair, row_change,
    shape::{self, Key, Shape},
    twitter_v1, twitter_v2,
};

/// Parses one record.
///
/// `envelope` supplies the time and the id of posts whose format has none. Never panics. The running
/// time is linear in the record's length, times the depth of nested lists.
///
/// # Errors
///
/// Returns a [`Reject`] with the reason if the record is neither exactly one post nor exactly one deletion.
pub fn parse(payload: &[u8], envelope: &Envelope, options: &ParseOptions) -> Result<Parsed, Reject> {
    let input = Input { envelope, options };
    if payload.len() > input.limits().max_bytes {
        let detail = format!(
            "the record has {} bytes, more than {}",
            payload.len(),
            input.limits().max_bytes
        );
        return Err(Reject::new(Reason::TooLarge, detail));
    }
    bytes(payload, input)
}

/// Parses a payload that may have a schema registry header.
fn bytes(payload: &[u8], input: Input<'_>) -> Result<Parsed, Reject> {
    if framing::is_utf16(payload) {
        return Err(Reject::new(Reason::NotUtf8, "UTF-16, not UTF-8"));
    }
    match SchemaRegistry::split(payload) {
        Some((head, framed)) if input.options.format != Format::Text => {
            let json = utf8(framed).map_err(|_| head.not_json())?;
            let read = match input.options.format {
                // A plain string, as a string serializer writes it.
                Format::Auto if json.starts_with('"') => any(json, input, 0),
                format => document(format, json, input),
            };
            read.map_err(|reject| match reject.reason {
                Reason::NotJson => head.not_json(),
                _ => reject,
            })
        }
        _ => record(payload, input),
    }
}

/// Decodes UTF-8 and strips a leading byte order mark and surrounding whitespace.
fn utf8(payload: &[u8]) -> Result<&str, std::str::Utf8Error> {
    std::str::from_utf8(payload).map(|text| text.trim_start_matches(['\u{feff}', '\u{200b}']).trim())
}

/// Parses a payload without a schema registry header.
fn record(payload: &[u8], input: Input<'_>) -> Result<Parsed, Reject> {
    for (magic, what) in [(&b"\x1f\x8b"[..], "gzip"), (b"\x28\xb5\x2f\xfd", "zstd")] {
        if payload.starts_with(magic) {
            let detail = format!(
                "the value is compressed with {what}: send it uncompressed (the producer's compression.type compresses batches)"
            );
            return Err(Reject::new(Reason::NotUtf8, detail));
        }
    }
    let record = utf8(payload)
        .map_err(|error| Reject::new(Reason::NotUtf8, format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    if record.is_empty() {
        let what = if payload.is_empty() {
            "no bytes"
        } else {
            "only whitespace"
        };
        return Err(Reject::new(Reason::Empty, format!("the record has {what}")));
    }
    match input.options.format {
        Format::Auto => any(record, input, 0),
        Format::Text => plain::text(record, input),
        Format::Mastodon if mastodon::is_server_sent(record) => mastodon::server_sent(record, input),
        format => document(format, record, input),
    }
}

/// Returns the id of the post that a record contains or deletes. Used as the record key, it puts both in the same
/// partition.
///
/// Returns `None` for any other record, and for posts without an id of their own.
#[must_use]
pub fn key(payload: &[u8], options: &ParseOptions) -> Option<Id> {
    let envelope = Envelope {
        timestamp: Some(OffsetDateTime::UNIX_EPOCH),
        fallback_id: None,
    };
    match parse(payload, &envelope, options).ok()? {
        Parsed::Post(post) => Some(post.id),
        Parsed::Deletion(deletion) => Some(deletion.post_id),
    }
}

/// The maximum number of times a document may be encoded as a JSON string: some producers do it twice, a few three times.
const MAX_STRING_ENCODINGS: usize = 4;

/// Parses a record of any format. `encoded` is how many times it was encoded as a JSON string.
fn any(record: &str, input: Input<'_>, encoded: usize) -> Result<Parsed, Reject> {
    match record.as_bytes().first() {
        Some(b'{' | b'[') => match document(Format::Auto, record, input) {
            Err(reject) if reject.reason == Reason::NotJson && !bare_text::is_like_json(record) => text(record, input),
            outcome => outcome,
        },
        Some(b'"') => match json::read::<Cow<'_, str>>(record) {
            Ok(inner) => {
                let inner = inner.trim();
                let is_json = inner.starts_with(['{', '[', '"']) && json::read::<IgnoredAny>(inner).is_ok();
                match is_json {
                    true if encoded == MAX_STRING_ENCODINGS => Err(Reject::new(
                        Reason::UnknownFormat,
                        format!("JSON encoded as a string more than {MAX_STRING_ENCODINGS} times"),
                    )),
                    true => any(inner, input, encoded + 1),
                    false if bare_text::is_like_json(inner) => document(Format::Auto, inner, input),
                    false => text(inner, input),
                }
            }
            Err(_) => text(record, input),
        },
        _ if mastodon::is_server_sent(record) => mastodon::server_sent(record, input),
        _ => match framing::server_sent_data(record) {
            Some(data) if data.starts_with(['{', '[']) => document(Format::Auto, &data, input),
            _ => text(record, input),
        },
    }
}

/// Parses a record as bare text, unless it looks like structured data.
fn text(record: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    match bare_text::looks_structured(record) {
        None => plain::text(record, input),
        Some(what) => Err(Reject::new(
            Reason::UnknownFormat,
            format!("{what}, not a post; with posts.format = \"text\" every record is read as text"),
        )),
    }
}

/// Parses a JSON document: an object, or a list with a single object.
fn document(format: Format, record: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    if let Some(depth) = json::depth_beyond(input.limits().max_depth, record) {
        let detail = format!("nested {depth} levels deep, more than {}", input.limits().max_depth);
        return Err(Reject::new(Reason::TooDeep, detail));
    }
    let read = |json: &str| match json.starts_with('[') {
        true => single_post(json, |element| object(format, element, input)),
        false => object(format, json, input),
    };
    // A trailing comma is left over when a JSON array is split into lines.
    let record = match record.strip_suffix(',') {
        Some(one) if record.starts_with('{') => one.trim_end(),
        _ => record,
    };
    match read(record) {
        Err(reject) if reject.reason == Reason::NotJson && json::has_several_values(record) => Err(Reject::new(
            Reason::SeveralPosts,
            "several JSON values in one record: send one per record",
        )),
        Err(reject) if matches!(reject.reason, Reason::NotJson | Reason::BadField) => {
            repair::repair(record).map_or(Err(reject), |repaired| read(&repaired))
        }
        outcome => outcome,
    }
}

/// Parses a JSON object.
pub(super) fn object(format: Format, json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let shape = Shape::of(json)?;
    if shape.is_connect() {
        return connect(format, json, input);
    }
    if shape.has_all(&[Key::SpecVersion, Key::Data]) {
        return cloud_event(format, json, input);
    }
    // A configured mapping takes precedence over the detected format.
    if matches!(format, Format::Auto | Format::Plain)
        && let Some(mapped) = plain::mapped(json, shape, input)
    {
        return mapped;
    }
    if shape.is_row_change() && matches!(format, Format::Auto | Format::Plain) {
        return row_change::parse(json, input, |row| object(format, row, input));
    }
    let format = match format {
        Format::Auto if shape.has_any(PAGES) && !shape.has_any(&[Key::Text, Key::Content]) => return page(json, input),
        Format::Auto => match (shape.format(), shape.non_post()) {
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

/// Parses the envelope of Kafka Connect's JSON converter, `{"schema": ..., "payload": ...}`.
fn connect(format: Format, json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    #[derive(serde::Deserialize)]
    struct ConnectEnvelope<'a> {
        #[serde(borrow)]
        payload: Option<&'a RawValue>,
        #[serde(borrow, default)]
        schema: json::Object<ConnectSchema<'a>>,
    }

    #[derive(serde::Deserialize)]
    struct ConnectSchema<'a> {
        #[serde(borrow, default, rename = "type")]
        kind: json::Scalar<'a>,
    }

    let envelope: ConnectEnvelope<'_> = json::read(json)?;
    let is_bytes = envelope.schema.as_ref().and_then(|schema| schema.kind.as_str()) == Some("bytes");
    match envelope.payload.map(RawValue::get) {
        Some(payload) if is_bytes => match framing::bytes_in_json(payload) {
            Some(payload) => bytes(&payload, input),
            None => Err(Reject::new(
                Reason::BadField,
                "`payload` is not base64, although its schema says `bytes`",
            )),
        },
        None => Err(Reject::new(
            Reason::Tombstone,
            "a Kafka Connect envelope without a value",
        )),
        Some(object) if object.starts_with('{') => self::object(format, object, input),
        // A string that is either an encoded document or the text itself.
        Some(value) if format == Format::Auto => any(value, input, 0),
        Some(value) => document(format, value, input),
    }
}

/// Parses a CloudEvent with the post in `data` (<https://github.com/cloudevents/spec/blob/main/cloudevents/spec.md>).
/// A post without a time takes the event's, or else the record's.
fn cloud_event(format: Format, json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    #[derive(serde::Deserialize)]
    struct Event<'a> {
        #[serde(borrow, default)]
        time: json::Scalar<'a>,
        #[serde(borrow)]
        data: &'a RawValue,
    }

    let event: Event<'_> = json::read(json)?;
    let time = input.time(&[(&event.time, "time")])?;
    let envelope = Envelope {
        timestamp: time.map(super::EventTime::get).or(input.envelope.timestamp),
        fallback_id: input.envelope.fallback_id.clone(),
    };
    let input = Input {
        envelope: &envelope,
        ..input
    };
    match event.data.get() {
        data if data.starts_with('{') => object(format, data, input),
        data => any(data, input, 0),
    }
}

/// The keys under which search results, replays and webhooks hold their lists of posts.
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
        Some(list) if list.get().starts_with('[') => {
            single_post(list.get(), |element| object(Format::Auto, element, input))
        }
        _ => Err(shape::unknown(json)),
    }
}
