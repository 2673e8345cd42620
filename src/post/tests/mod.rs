//! Handwritten records of every kind, and properties that hold for any bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod formats;
mod plain;
mod robust;
mod twitter;
mod wrapped;

use time::macros::datetime;

use super::*;

/// The record's timestamp in these tests.
const BROKER_TIME: OffsetDateTime = datetime!(2024-05-06 07:08:09 UTC);
const FALLBACK_ID: &str = "posts/3/14@1714979289000";
/// A post in the plain format, of [`TIME`].
const POST: &str = r#"{"id":"a1","text":"so happy today","created_at":"2026-11-27T07:00:00Z"}"#;
const TIME: OffsetDateTime = datetime!(2026-11-27 07:00 UTC);

fn envelope() -> Envelope {
    Envelope {
        timestamp: Some(BROKER_TIME),
        fallback_id: FALLBACK_ID.try_into().ok(),
    }
}

fn at(time: OffsetDateTime) -> EventTime {
    EventTime::new(time).unwrap()
}

fn tag(word: &str) -> Hashtag {
    Hashtag::new(word).unwrap()
}

fn read_as(format: Format, record: impl AsRef<[u8]>) -> Result<Parsed, Reject> {
    read_with(
        &ParseOptions {
            format,
            ..ParseOptions::default()
        },
        record,
    )
}

fn read_with(options: &ParseOptions, record: impl AsRef<[u8]>) -> Result<Parsed, Reject> {
    parse(record.as_ref(), &envelope(), options)
}

fn read(record: impl AsRef<[u8]>) -> Result<Parsed, Reject> {
    read_as(Format::Auto, record)
}

fn post(record: impl AsRef<[u8]>) -> Post {
    match read(record).unwrap() {
        Parsed::Post(post) => *post,
        Parsed::Deletion(deletion) => panic!("a deletion: {deletion:?}"),
    }
}

fn deleted(record: impl AsRef<[u8]>) -> (Source, String) {
    match read(record).unwrap() {
        Parsed::Deletion(deletion) => (deletion.source, deletion.post_id.to_string()),
        Parsed::Post(post) => panic!("a post: {post:?}"),
    }
}

/// Asserts a reject's reason and that its detail contains `what`.
fn rejected(record: impl AsRef<[u8]>, reason: Reason, what: &str) {
    let reject = read(record).unwrap_err();
    assert_eq!(reject.reason, reason, "{reject}");
    assert!(reject.detail.contains(what), "{reject}");
}

fn mapping(paths: &[(&str, &str)]) -> ParseOptions {
    let table: toml::Table = paths
        .iter()
        .map(|(field, path)| ((*field).to_owned(), (*path).into()))
        .collect();
    ParseOptions {
        fields: table.try_into().unwrap(),
        ..ParseOptions::default()
    }
}

fn mapped(paths: &[(&str, &str)], record: &serde_json::Value) -> Result<Parsed, Reject> {
    read_with(&mapping(paths), record.to_string())
}
