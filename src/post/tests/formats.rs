//! At least one sample of every kind of record: Bluesky, Mastodon, the plain format, lists.

use serde_json::json;

use super::*;

fn commit(operation: &str, collection: &str, record: serde_json::Value) -> String {
    json!({"did": "did:plc:ann", "time_us": 1_704_164_645_123_456_u64, "kind": "commit", "commit": {
        "rev": "r", "operation": operation, "collection": collection, "rkey": "3k", "record": record, "cid": "c"}})
    .to_string()
}

#[test]
fn a_jetstream_post_and_its_deletion_share_an_id() {
    let uri = "at://did:plc:ann/app.bsky.feed.post/3k";
    let record = json!({
        "$type": "app.bsky.feed.post", "text": "hello #Sky &amp;", "createdAt": "2024-01-02T03:04:05.678Z", "langs": ["pt-BR", "en"],
        "facets": [{"features": [{"tag": "Sky"}, {"uri": "https://ex.example"}]}], "tags": ["extra"],
        "embed": {"record": {"record": {"value": {"text": "quoted"}}}},
    });
    let created = post(commit("create", "app.bsky.feed.post", record.clone()));
    assert_eq!(
        created,
        Post {
            source: Source::Bluesky,
            id: uri.try_into().unwrap(),
            created_at: datetime!(2024-01-02 03:04:05.678 UTC).try_into().unwrap(),
            time_source: TimeSource::Post,
            author_id: Some("did:plc:ann".try_into().unwrap()),
            lang: Language::of_tag("pt"),
            lang_identified: false,
            text: "hello #Sky &amp;".try_into().unwrap(),
            repost_of: None,
            quoted_text: Some("quoted".try_into().unwrap()),
            hashtags: vec!["sky".try_into().unwrap(), "extra".try_into().unwrap()],
        }
    );
    assert_eq!(post(commit("update", "app.bsky.feed.post", record)), created);
    assert_eq!(
        deleted(commit("delete", "app.bsky.feed.post", json!(null))),
        (Source::Bluesky, uri.into())
    );
    // A post without a readable time takes the event's.
    let untimed = post(commit("create", "app.bsky.feed.post", json!({"text": "a #b"})));
    assert_eq!(
        (untimed.created_at, untimed.lang.as_str()),
        (at(datetime!(2024-01-02 03:04:05.123456 UTC)), "und")
    );
    let misdated = json!({"text": "a #b", "createdAt": "0001-01-01T00:00:00Z"});
    assert_eq!(post(commit("create", "app.bsky.feed.post", misdated)), untimed);
    assert_eq!(untimed.hashtags, ["b"]);
}

#[test]
fn other_jetstream_events_are_not_posts() {
    rejected(
        commit("create", "app.bsky.feed.like", json!({"subject": {}})),
        Reason::NotAPost,
        "app.bsky.feed.like",
    );
    rejected(
        commit("delete", "app.bsky.feed.repost", json!(null)),
        Reason::NotAPost,
        "app.bsky.feed.repost",
    );
    rejected(
        r#"{"did":"did:plc:a","time_us":1,"kind":"identity","identity":{}}"#,
        Reason::NotAPost,
        "`identity`",
    );
    rejected(
        commit(
            "create",
            "app.bsky.feed.post",
            json!({"text": "", "createdAt": "2024-01-02T03:04:05Z"}),
        ),
        Reason::NoText,
        "empty",
    );
    rejected(
        commit(
            "create",
            "app.bsky.feed.post",
            json!({"text": "a", "createdAt": "0000-00-00T00:00:00Z"}),
        )
        .replace("1704164645123456", "null"),
        Reason::BadTime,
        "createdAt",
    );
}

fn status() -> serde_json::Value {
    json!({
        "id": "100", "created_at": "2024-01-02T03:04:05.000Z", "content": "<p>one &amp; two<br>three</p>", "spoiler_text": "",
        "visibility": "public", "language": "de", "account": {"id": "7", "username": "ann"}, "reblog": null,
        "tags": [{"name": "Tea", "url": "https://ex.example/tags/tea"}],
        "quote": {"state": "accepted", "quoted_status": {"id": "90", "content": "<p>quoted</p>"}},
    })
}

#[test]
fn a_mastodon_status_becomes_text_and_a_reblog_a_repost() {
    let own = post(status().to_string());
    assert_eq!(
        (own.source, own.id.as_str(), own.text.as_str()),
        (Source::Mastodon, "100", "one & two\nthree")
    );
    assert_eq!((own.author_id.as_deref(), own.lang.as_str()), (Some("7"), "de"));
    assert_eq!(
        (own.quoted_text.as_deref(), own.hashtags.as_slice()),
        (Some("quoted"), [tag("tea")].as_slice())
    );

    let reblog = json!({"id": "200", "created_at": "2024-01-03T00:00:00Z", "content": "", "language": null, "account": {"id": "8"}, "reblog": status()});
    let reblog = post(reblog.to_string());
    assert_eq!(
        (
            reblog.id.as_str(),
            reblog.repost_of.as_deref(),
            reblog.author_id.as_deref()
        ),
        ("200", Some("100"), Some("8"))
    );
    assert_eq!((reblog.text.as_str(), reblog.lang.as_str()), ("one & two\nthree", "de"));

    let mut warned = status();
    warned["content"] = json!("");
    warned["spoiler_text"] = json!("only pictures");
    assert_eq!(post(warned.to_string()).text, "only pictures");
}

#[test]
fn mastodon_events_are_posts_and_deletions() {
    let own = post(status().to_string());
    for event in ["update", "status.update"] {
        assert_eq!(
            post(json!({"stream": ["public"], "event": event, "payload": status().to_string()}).to_string()),
            own
        );
        assert_eq!(post(json!({"event": event, "payload": status()}).to_string()), own);
        assert_eq!(post(format!(":thump\nevent: {event}\ndata: {}\n\n", status())), own);
    }
    for payload in [json!("100"), json!(100)] {
        let event = json!({"stream": ["public"], "event": "delete", "payload": payload});
        assert_eq!(deleted(event.to_string()), (Source::Mastodon, "100".into()));
    }
    assert_eq!(deleted("event: delete\ndata: 100\n\n").1, "100");
    rejected(
        r#"{"stream":["user"],"event":"filters_changed"}"#,
        Reason::NotAPost,
        "`filters_changed`",
    );
    rejected(
        r#"{"stream":["user"],"event":"notification","payload":"{}"}"#,
        Reason::NotAPost,
        "`notification`",
    );
    rejected(
        r#"{"stream":["user"],"event":"update","payload":"{"}"#,
        Reason::NotJson,
        "EOF",
    );
    rejected(
        "event: delete\ndata: 1\n\nevent: delete\ndata: 2",
        Reason::SeveralPosts,
        "2 server-sent events",
    );
    rejected(
        r#"{"id":"1","text":"raw","spoiler_text":""}"#,
        Reason::NotAPost,
        "source",
    );
}

#[test]
fn a_mastodon_status_with_its_source_instead_of_content_is_a_deletion() {
    let mut answer = status();
    let fields = answer.as_object_mut().unwrap();
    fields.remove("content");
    fields.insert("text".into(), json!("one & two"));
    assert_eq!(deleted(answer.to_string()), (Source::Mastodon, "100".into()));
    rejected(
        r#"{"content":"<p>a</p>","spoiler_text":"","language":"en"}"#,
        Reason::NoId,
        "translation",
    );
}

#[test]
fn the_plain_format_falls_back_to_the_envelope() {
    let full = post(
        r##"{"id":7,"text":"a #B","created_at":1704164645,"author_id":"x","lang":"EN-us","hashtags":["#C","d"],"repost_of":5,"source":"bluesky"}"##,
    );
    assert_eq!(
        (full.source, full.id.as_str(), full.repost_of.as_deref()),
        (Source::Bluesky, "7", Some("5"))
    );
    assert_eq!(
        (full.created_at, full.lang.as_str()),
        (at(datetime!(2024-01-02 03:04:05 UTC)), "en")
    );
    assert_eq!(full.hashtags, ["c", "d"]);
    let least = post(r#"{"text":"a #B"}"#);
    assert_eq!(
        (least.source, least.id.as_str(), least.created_at),
        (Source::Plain, FALLBACK_ID, at(BROKER_TIME))
    );
    assert_eq!(
        (least.lang.as_str(), least.hashtags.as_slice()),
        ("und", [tag("b")].as_slice())
    );
    rejected(r#"{"id":1.5,"text":"a"}"#, Reason::BadField, "`id` is a fraction");
    rejected(
        r#"{"id":1,"text":"a","created_at":"2024-13-01T00:00:00Z"}"#,
        Reason::BadTime,
        "2024-13-01",
    );
}

#[test]
fn a_record_that_does_not_start_like_json_is_text() {
    for (record, text) in [
        ("just words\r\n", "just words"),
        ("\"quoted\\u0021\"", "quoted!"),
        ("\"To be\", he said", "\"To be\", he said"),
    ] {
        let bare = post(record);
        assert_eq!(
            (bare.text.as_str(), bare.id.as_str(), bare.created_at),
            (text, FALLBACK_ID, at(BROKER_TIME))
        );
    }
    assert_eq!(post(r#""{\"id\":\"9\",\"text\":\"encoded twice\"}""#).id, "9");
    let untimed = Envelope {
        timestamp: None,
        ..envelope()
    };
    assert_eq!(
        parse(b"words", &untimed, &ParseOptions::default()).unwrap_err().reason,
        Reason::BadTime
    );
    let braces = read_as(Format::Text, "{not json}").unwrap();
    assert!(matches!(braces, Parsed::Post(post) if post.text == "{not json}"));
}

#[test]
fn a_list_or_page_with_one_post_is_read_and_with_more_is_refused() {
    let plain = r#"{"id":"9","text":"a"}"#;
    assert_eq!(post(format!("[{plain}]")).id, "9");
    assert_eq!(
        post(format!(r#"{{"statuses":[{plain}],"search_metadata":{{}}}}"#)).id,
        "9"
    );
    assert_eq!(post(format!(r#"{{"results":[{plain}]}}"#)).id, "9");
    rejected(
        format!("[{plain},{plain},{plain}]"),
        Reason::SeveralPosts,
        "a list of 3 elements",
    );
    rejected(
        format!(r#"{{"statuses":[{plain},{plain}]}}"#),
        Reason::SeveralPosts,
        "a list of 2 elements",
    );
    rejected("[]", Reason::NotAPost, "an empty list");
    rejected("[[1]]", Reason::UnknownFormat, "not objects");
    rejected(
        r#"[{"username":"ann"},{"username":"bob"}]"#,
        Reason::NotAPost,
        "none of them a post; the first: a user",
    );
}

#[test]
fn an_unknown_format_is_rejected_with_its_keys() {
    rejected(r#"{"alpha":1,"beta":2}"#, Reason::UnknownFormat, "alpha, beta");
    rejected(r#"{"alpha":1}"#, Reason::UnknownFormat, "posts.fields");
    rejected("{}", Reason::UnknownFormat, "an empty object");
}

#[test]
fn a_fixed_format_rejects_others() {
    let plain = r#"{"id":"9","text":"a","created_at":"2024-01-02T03:04:05Z"}"#;
    for format in [Format::Plain, Format::TwitterV1, Format::TwitterV2] {
        assert!(read_as(format, plain).is_ok(), "{format:?}");
    }
    for format in [Format::ActivityStreams, Format::Jetstream, Format::Mastodon] {
        assert!(read_as(format, plain).is_err(), "{format:?}");
    }
    assert_eq!(read_as(Format::TwitterV1, "words").unwrap_err().reason, Reason::NotJson);
}

#[test]
fn a_key_is_the_id_of_the_post_or_deletion() {
    let key = |record: &[u8]| key(record, &ParseOptions::default());
    assert_eq!(key(br#"{"delete":{"status":{"id_str":"12"}}}"#).as_deref(), Some("12"));
    assert_eq!(key(br#"{"id":12,"text":"a"}"#).as_deref(), Some("12"));
    assert_eq!(key(br#"{"text":"a"}"#), None);
    assert_eq!(key(b"words"), None);
    assert_eq!(key(b"{"), None);
}
