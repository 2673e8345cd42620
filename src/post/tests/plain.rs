//! The plain format: other field names and time notations, mapped fields, output of other systems.

use serde_json::json;

use super::*;

#[test]
fn structured_data_never_becomes_a_text() {
    for record in [
        r#""0","1467810369","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","someone","so sad today""#,
        "null",
        "12345",
        "NaN",
        "}",
        r#""lang": "en","#,
        r#"b'{"text": "so happy"}'"#,
        "PAR1\u{15}\u{4}\u{15}",
        "<status><text>so happy</text></status>",
    ] {
        rejected(record, Reason::UnknownFormat, "posts.format");
        let text = read_as(Format::Text, record).unwrap();
        assert!(
            matches!(text, Parsed::Post(post) if post.text.as_str() == record),
            "{record}"
        );
    }
    let utf16: Vec<u8> = POST.encode_utf16().flat_map(u16::to_le_bytes).collect();
    rejected(&utf16, Reason::NotUtf8, "UTF-16");
    rejected([&[0xff, 0xfe], &utf16[..]].concat(), Reason::NotUtf8, "UTF-16");
}

#[test]
fn alternative_names_of_plain_fields_are_read() {
    for name in ["timestamp", "date", "createdAt", "time", "created_utc"] {
        let record = json!({"id": 1, "text": "a", name: "2026-11-27 07:00:00"});
        let read = post(record.to_string());
        assert_eq!(
            (read.created_at.get(), read.time_source),
            (TIME, TimeSource::Post),
            "{name}"
        );
    }
    for name in ["tweet_id", "_id"] {
        assert_eq!(post(json!({name: "a9", "text": "a"}).to_string()).id, "a9", "{name}");
    }
    for name in ["author", "user_id", "user"] {
        let read = post(json!({"id": 1, "text": "a", name: "bob"}).to_string());
        assert_eq!(
            (read.source, read.author_id.as_deref()),
            (Source::Plain, Some("bob")),
            "{name}"
        );
    }
    assert_eq!(post(r#"{"id":1,"text":"a","language":"pt-BR"}"#).lang, "pt");
    let content = post(r#"{"id":"a16","content":"so <happy>","created_at":"2026-11-27T07:00:00Z"}"#);
    assert_eq!((content.source, content.text.as_str()), (Source::Plain, "so <happy>"));
    // The format's own names take precedence, and an object under another name is ignored.
    let both =
        post(r#"{"id":1,"tweet_id":2,"_id":{"$oid":"x"},"text":"a","content":"b","created_at":1795762800,"date":"x"}"#);
    assert_eq!(
        (both.id.as_str(), both.text.as_str(), both.created_at.get()),
        ("1", "a", TIME)
    );
    assert_eq!(post(r#"{"id":1,"text":"a","author":{"name":"bob"}}"#).author_id, None);
    for tags in [r#""tea, #coffee""#, r#"[{"tag":"tea"},"coffee"]"#] {
        let read = post(format!(r#"{{"id":1,"text":"a","hashtags":{tags}}}"#));
        assert_eq!(read.hashtags, ["tea", "coffee"], "{tags}");
    }
    assert_eq!(
        post(r#"{"id":1,"text":"a","created_at":""}"#).time_source,
        TimeSource::Record
    );
}

#[test]
fn a_missing_time_is_the_record_s_or_a_reject() {
    let untimed = r#"{"id":1,"text":"a","issued":"2026-11-27"}"#;
    let read = post(untimed);
    assert_eq!(
        (read.created_at, read.time_source),
        (at(BROKER_TIME), TimeSource::Record)
    );
    assert_eq!(post("words").time_source, TimeSource::Record);
    let strict = ParseOptions {
        missing_time: MissingTime::Reject,
        ..ParseOptions::default()
    };
    for record in [untimed, "words", r#"{"data":{"id":"1","text":"a"}}"#] {
        let reject = read_with(&strict, record).unwrap_err();
        assert_eq!(reject.reason, Reason::BadTime);
        assert!(reject.detail.contains("posts.missing_time"), "{reject}");
    }
    assert!(read_with(&strict, POST).is_ok());
}

#[test]
fn invalid_json_numbers_are_repaired() {
    let record =
        r#"{"id":1,"text":"NaN, \"Infinity\" and -Infinity","author_id":5.0,"score":NaN,"x":[-Infinity,Infinity]}"#;
    let read = post(record);
    assert_eq!(read.text, "NaN, \"Infinity\" and -Infinity");
    assert_eq!(read.author_id.as_deref(), Some("5"));
    rejected(r#"{"id":NaN1,"text":"a"}"#, Reason::NotJson, "expected");
    rejected(
        r#"{"id":1,"text":"a","author_id":9007199254740993.0}"#,
        Reason::BadField,
        "too large",
    );
}

#[test]
fn mapped_fields_are_read() {
    let record = json!({
        "tweet_id": 15, "tweet": "so #happy", "when": {"utc": 1_795_762_800.0}, "user": {"handle": "ann"}, "lng": "ES",
        "marks": [{"tag": "A"}, "b"], "via": "twitter", "original": "a14", "in reply": ["quoted"],
    });
    let paths = [
        ("id", "tweet_id"),
        ("text", "tweet"),
        ("created_at", "$.when.utc"),
        ("author", "user.handle"),
        ("lang", "lng"),
        ("hashtags", "marks"),
        ("source", "via"),
        ("repost_of", "original"),
        ("quoted_text", "['in reply'][0]"),
    ];
    let Ok(Parsed::Post(read)) = mapped(&paths, &record) else {
        panic!("not read");
    };
    assert_eq!(
        *read,
        Post {
            source: Source::Twitter,
            id: "15".try_into().unwrap(),
            created_at: at(TIME),
            time_source: TimeSource::Post,
            author_id: Some("ann".try_into().unwrap()),
            lang: Language::of_tag("es"),
            lang_identified: false,
            text: "so #happy".try_into().unwrap(),
            repost_of: Some("a14".try_into().unwrap()),
            quoted_text: Some("quoted".try_into().unwrap()),
            hashtags: vec![tag("a"), tag("b")],
        }
    );
    rejected(record.to_string(), Reason::UnknownFormat, "tweet_id");
    let words = json!({"tweet": "a", "marks": "#One two,three"});
    assert!(matches!(mapped(&paths, &words), Ok(Parsed::Post(post)) if post.hashtags == ["one", "two", "three"]));
}

#[test]
fn a_mapped_text_determines_which_records_are_mapped() {
    let text = [("text", "text"), ("id", "key")];
    let tweet = json!({"id_str": "9", "key": "k", "text": "a", "user": {"id_str": "2"}, "created_at": "Tue Jan 02 03:04:05 +0000 2024"});
    assert!(matches!(mapped(&text, &tweet), Ok(Parsed::Post(post)) if post.source == Source::Plain && post.id == "k"));
    // Without it, other formats are read as before.
    let id = [("id", "key")];
    assert!(matches!(mapped(&id, &tweet), Ok(Parsed::Post(post)) if post.source == Source::Twitter && post.id == "9"));
    assert!(matches!(mapped(&id, &json!({"key": "k", "text": "a"})), Ok(Parsed::Post(post)) if post.id == "k"));
    let deletion = json!({"delete": {"status": {"id_str": "12"}}});
    assert!(matches!(mapped(&text, &deletion), Ok(Parsed::Deletion(_))));
    // An unreadable mapped field is named by its path.
    let reject = mapped(
        &[("text", "t"), ("created_at", "w.utc")],
        &json!({"t": "a", "w": {"utc": "soon"}}),
    )
    .unwrap_err();
    assert_eq!(reject.reason, Reason::BadTime);
    assert!(reject.detail.contains(r#"$["w"]["utc"]"#), "{reject}");
}

#[test]
fn keys_with_null_do_not_determine_the_format() {
    for extra in [
        r#""full_text":null"#,
        r#""note_tweet":null"#,
        r#""id_str":null"#,
        r#""user":{"id":"9"}"#,
    ] {
        let read = post(format!(r#"{{"id":20,"text":"so happy",{extra}}}"#));
        assert_eq!((read.source, read.id.as_str()), (Source::Plain, "20"), "{extra}");
    }
}

#[test]
fn mongodb_extended_json_is_read() {
    let record = json!({
        "_id": {"$oid": "65a1b2c3d4e5f60718293a4b"}, "text": "so happy", "created_at": {"$date": "2026-11-27T07:00:00Z"},
        "author_id": {"$numberLong": "9007199254740993"},
    });
    let read = post(record.to_string());
    assert_eq!(
        (read.id.as_str(), read.created_at.get(), read.author_id.as_deref()),
        ("65a1b2c3d4e5f60718293a4b", TIME, Some("9007199254740993"))
    );
    for date in [
        json!({"$date": {"$numberLong": "1795762800000"}}),
        json!({"$date": 1_795_762_800_000_i64}),
        json!({"$numberLong": "1795762800000"}),
        json!({"$numberDouble": "1795762800.0"}),
    ] {
        let record = json!({"id": 1, "text": "a", "created_at": date});
        assert_eq!(post(record.to_string()).created_at, TIME, "{date}");
        // The same with a mapping.
        let Ok(Parsed::Post(read)) = mapped(&[("created_at", "when")], &json!({"id": 1, "text": "a", "when": date}))
        else {
            panic!("not read: {date}");
        };
        assert_eq!(read.created_at, TIME, "{date}");
    }
    // Always milliseconds, even if the number is small.
    let old = post(r#"{"id":1,"text":"a","created_at":{"$date":1000000000}}"#);
    assert_eq!(old.created_at, datetime!(1970-01-12 13:46:40 UTC));
    rejected(r#"{"id":{"$oid":"a","b":1},"text":"a"}"#, Reason::BadField, "an object");
    rejected(r#"{"id":{"$unknown":"a"},"text":"a"}"#, Reason::BadField, "an object");
}

#[test]
fn a_flag_in_a_plain_object_deletes_its_post() {
    for record in [
        r#"{"id":"7","deleted":true}"#,
        r#"{"id":7,"text":"so happy","deleted":1}"#,
        r#"{"_id":{"$oid":"7"},"deleted":"2026-11-27T07:00:00Z"}"#,
        r#"{"post_id":"7","text":"so happy","__deleted":"true"}"#,
    ] {
        assert_eq!(deleted(record), (Source::Plain, "7".to_owned()), "{record}");
    }
    for flag in ["false", "0", "null", r#""false""#, r#""""#, "[]"] {
        let read = post(format!(r#"{{"id":"7","text":"so happy","deleted":{flag}}}"#));
        assert_eq!(read.id, "7", "{flag}");
    }
    rejected(r#"{"text":"so happy","deleted":true}"#, Reason::NoId, "posts.fields.id");
    let paths = [
        ("text", "tweet"),
        ("id", "key"),
        ("deleted", "gone.at"),
        ("source", "via"),
    ];
    let gone = json!({"key": 9, "gone": {"at": "2026-11-27"}, "via": "twitter"});
    assert!(
        matches!(mapped(&paths, &gone), Ok(Parsed::Deletion(it)) if it.post_id == "9" && it.source == Source::Twitter)
    );
    let there = json!({"key": 9, "gone": {"at": null}, "tweet": "so happy"});
    assert!(matches!(mapped(&paths, &there), Ok(Parsed::Post(post)) if post.id == "9"));
}

#[test]
fn output_of_other_systems_is_read_or_rejected_with_a_hint() {
    // A line of a JSON array, and several values in one record.
    assert_eq!(post(format!("{POST},")).id, "a1");
    for several in [format!("{POST}{POST}"), format!("{POST}\n{POST}")] {
        rejected(several, Reason::SeveralPosts, "one per record");
    }
    rejected(format!("{POST} so"), Reason::NotJson, "trailing");
    rejected(r#"{"id":1,"text":null}"#, Reason::NoText, "`text` is null");
    rejected(
        r#"{"type":"m.room.message","content":{"body":"a"}}"#,
        Reason::BadField,
        "`content` is an object",
    );
    for (record, name) in [
        (r#"{"id":1,"body":"a"}"#, "body"),
        (r#"{"id":1,"message":"a"}"#, "message"),
    ] {
        rejected(
            record,
            Reason::UnknownFormat,
            &format!("posts.fields.text = \"{name}\""),
        );
    }
    // A path can't reach into a string, and a list is not a text: neither is suggested.
    let sns = json!({"Type": "Notification", "message": POST}).to_string();
    rejected(sns, Reason::UnknownFormat, "`message` holds JSON in a string");
    rejected(
        r#"{"id":1,"body":["a","b"]}"#,
        Reason::UnknownFormat,
        "posts.fields can map",
    );
    // Other envelopes with `data` are not Twitter posts.
    for envelope in [
        json!({"id": "e", "eventType": "post", "subject": "s", "data": {"id": "a1", "text": "so happy"}}),
        json!({"kind": "t1", "data": {"id": "a1", "body": "so happy"}}),
    ] {
        rejected(envelope.to_string(), Reason::UnknownFormat, "data");
        let paths = [("text", "data.text"), ("id", "data.id")];
        let read = mapped(&paths, &envelope);
        assert_eq!(
            matches!(read, Ok(Parsed::Post(post)) if post.id == "a1"),
            envelope["data"]["text"].is_string()
        );
    }
    for name in ["tweetId", "postId", "commentId", "uuid"] {
        assert_eq!(post(json!({name: "a9", "text": "a"}).to_string()).id, "a9", "{name}");
    }
    for name in ["created_time", "publishedAt", "date_published", "ts", "datetime"] {
        assert_eq!(
            post(json!({name: "2026-11-27T07:00:00Z", "text": "a"}).to_string()).created_at,
            TIME,
            "{name}"
        );
    }
    assert_eq!(
        post(r##"{"id":1,"text":"a","hashtags":"[\"x\", '#y']"}"##).hashtags,
        ["x", "y"]
    );
    let mongo = json!({"before": null, "after": "{\"_id\": {\"$oid\": \"a\"}, \"text\": \"so happy\"}", "op": "c"});
    assert_eq!(post(mongo.to_string()).id, "a");
    rejected(
        [&b"\x1f\x8b\x08"[..], b"\0"].concat(),
        Reason::NotUtf8,
        "compressed with gzip",
    );
}
