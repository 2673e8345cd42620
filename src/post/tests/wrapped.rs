//! Records in envelopes: framed, encoded as strings, in events and in row changes.

use serde_json::json;

use super::*;

fn framed(schema: u32, payload: &[u8]) -> Vec<u8> {
    [&[0], &schema.to_be_bytes()[..], payload].concat()
}

#[test]
fn json_with_a_schema_registry_header_is_read() {
    for format in [Format::Auto, Format::Plain] {
        let read = read_as(format, framed(7, POST.as_bytes())).unwrap();
        assert!(matches!(read, Parsed::Post(post) if post.id == "a1" && post.created_at == TIME));
    }
    assert_eq!(post(framed(7, format!("\u{feff}{POST}").as_bytes())).id, "a1");
    assert_eq!(
        deleted(framed(u32::MAX, br#"{"delete":{"status":{"id_str":"9"}}}"#)).1,
        "9"
    );
    rejected(framed(7, br#"{"alpha":1}"#), Reason::UnknownFormat, "alpha");
    // A schema of type string.
    assert_eq!(post(framed(7, br#""so happy""#)).text, "so happy");
}

#[test]
fn other_content_with_a_schema_registry_header_is_rejected() {
    for payload in [&b"\x04a2\x1cso happy today"[..], b"\0\n\x02a2\xff", b"", b"{not json"] {
        rejected(
            framed(9, payload),
            Reason::SchemaRegistry,
            "schema registry header (schema 9)",
        );
    }
}

#[test]
fn the_envelope_of_kafka_connect_is_unwrapped() {
    let envelope = |payload: serde_json::Value| json!({"schema": {"type": "struct", "fields": []}, "payload": payload});
    let inner: serde_json::Value = serde_json::from_str(POST).unwrap();
    assert_eq!(post(envelope(inner.clone()).to_string()).id, "a1");
    assert_eq!(post(envelope(json!(POST)).to_string()).id, "a1");
    assert_eq!(post(envelope(json!("so happy")).to_string()).text, "so happy");
    assert_eq!(post(framed(1, envelope(inner.clone()).to_string().as_bytes())).id, "a1");
    assert_eq!(post(json!({"schema": null, "payload": inner}).to_string()).id, "a1");
    rejected(envelope(json!(null)).to_string(), Reason::Tombstone, "without a value");
    rejected(
        envelope(json!(5)).to_string(),
        Reason::UnknownFormat,
        "a single JSON value",
    );
    rejected(
        envelope(json!({"alpha": 1})).to_string(),
        Reason::UnknownFormat,
        "alpha",
    );
}

#[test]
fn json_encoded_as_a_string_is_read() {
    let once = json!(POST).to_string();
    let twice = json!(once).to_string();
    for record in [&once, &twice] {
        assert_eq!(post(record).id, "a1", "{record}");
    }
    assert_eq!(post(r#""[news] at ten""#).text, "[news] at ten");
    let deep = (0..40).fold(POST.to_owned(), |inner, _| {
        // Each level doubles the backslashes of the one before.
        if inner.len() < 60_000 {
            json!(inner).to_string()
        } else {
            inner
        }
    });
    rejected(deep, Reason::UnknownFormat, "more than 4 times");
}

#[test]
fn an_unnamed_server_sent_event_is_read_from_its_data() {
    assert_eq!(post(format!("data: {POST}\n\n")).id, "a1");
    assert_eq!(post(format!(":thump\nid: 7\ndata: {POST}\n\n")).id, "a1");
    rejected(
        "event: update\nid: 3\ndata: so happy",
        Reason::UnknownFormat,
        "server-sent",
    );
}

#[test]
fn damaged_json_in_a_string_is_not_text() {
    for record in [
        r#""{\"id\":1,\"text\":\"so hap""#,
        r#""{\"id\":1,\"text\":\"a\",}""#,
        r#""{'id': 1, 'text': 'x'}""#,
        r#"{"schema":{"type":"string"},"payload":"{\"id\":1,"}"#,
    ] {
        rejected(record, Reason::NotJson, "");
    }
    rejected(r#""{\"id\":1,\"text\":\"so hap"#, Reason::UnknownFormat, "damaged JSON");
}

#[test]
fn a_cloud_event_holds_a_post_in_its_data() {
    let event = |data: serde_json::Value| json!({"specversion": "1.0", "id": "e1", "source": "/app", "type": "post", "time": "2026-11-27T07:00:00Z", "data": data});
    let read = post(event(json!({"id": "5", "text": "so happy"})).to_string());
    assert_eq!(
        (read.source, read.id.as_str(), read.created_at.get()),
        (Source::Plain, "5", TIME)
    );
    assert_eq!(post(event(json!("so happy")).to_string()).created_at, TIME);
    rejected(event(json!({"alpha": 1})).to_string(), Reason::UnknownFormat, "alpha");
}

#[test]
fn row_changes_are_posts_and_deletions() {
    let row = json!({"id": 7, "text": "so happy", "created_at": 1_795_762_800_000_000_i64});
    let debezium = |op: &str, before: Option<&serde_json::Value>, after: Option<&serde_json::Value>| json!({"before": before, "after": after, "source": {"table": "posts"}, "op": op, "ts_ms": 1});
    for op in ["c", "r", "u"] {
        let read = post(debezium(op, None, Some(&row)).to_string());
        assert_eq!((read.id.as_str(), read.created_at.get()), ("7", TIME), "{op}");
    }
    assert_eq!(deleted(debezium("d", Some(&row), None).to_string()).1, "7");
    let enveloped = json!({"schema": {"type": "struct"}, "payload": debezium("d", Some(&row), None)});
    assert_eq!(deleted(enveloped.to_string()).1, "7");
    rejected(debezium("d", None, None).to_string(), Reason::UnknownFormat, "op");
    rejected(debezium("t", None, Some(&row)).to_string(), Reason::NotAPost, "`t`");
    // Maxwell, and Canal with its list of rows.
    let maxwell = |kind: &str, data: serde_json::Value| json!({"database": "d", "table": "posts", "type": kind, "ts": 1, "data": data});
    assert_eq!(post(maxwell("insert", row.clone()).to_string()).source, Source::Plain);
    assert_eq!(post(maxwell("UPDATE", json!([row])).to_string()).id, "7");
    assert_eq!(deleted(maxwell("delete", row.clone()).to_string()).1, "7");
    assert_eq!(deleted(maxwell("DELETE", json!([row])).to_string()).1, "7");
    rejected(
        maxwell("table-create", row.clone()).to_string(),
        Reason::NotAPost,
        "table-create",
    );
    // A mapping applies to the row.
    let own = json!({"key": 9, "tweet": "so happy"});
    let paths = [("text", "tweet"), ("id", "key")];
    assert!(matches!(mapped(&paths, &debezium("c", None, Some(&own))), Ok(Parsed::Post(post)) if post.id == "9"));
    assert!(matches!(mapped(&paths, &debezium("d", Some(&own), None)), Ok(Parsed::Deletion(it)) if it.post_id == "9"));
}

#[test]
fn bytes_from_kafka_connect_are_decoded() {
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let envelope = |payload: serde_json::Value| {
        json!({"schema": {"type": "bytes", "optional": false}, "payload": payload}).to_string()
    };
    assert_eq!(post(envelope(json!(base64(POST.as_bytes())))).id, "a1");
    assert_eq!(post(envelope(json!(base64(&framed(7, POST.as_bytes()))))).id, "a1");
    assert_eq!(post(envelope(json!(base64(b"so happy")))).text, "so happy");
    assert_eq!(post(envelope(json!(POST.as_bytes()))).id, "a1");
    assert_eq!(
        post(envelope(json!({"type": "Buffer", "data": POST.as_bytes()}))).id,
        "a1"
    );
    rejected(envelope(json!("so happy!")), Reason::BadField, "base64");
    rejected(envelope(json!(null)), Reason::Tombstone, "without a value");
    rejected(envelope(json!(base64(b"\xff\xfe\x80"))), Reason::NotUtf8, "UTF-16");
}
