//! Bad input is handled within bounds and never causes a panic.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const STATUS: &str = r##"{"created_at":"Tue Jan 02 03:04:05 +0000 2024","id":1,"id_str":"1","text":"a \ud83d\ude00 &amp; #b\u0000","lang":"en",
    "user":{"id_str":"2"},"entities":{"hashtags":[{"text":"b\u0000"}]},"retweeted_status":{"id_str":"3","full_text":"c\u0000"},
    "quoted_status":{"text":"d\u0000"}}"##;
const TWEET: &str = r##"{"data":{"id":"1","text":"a\u0000","created_at":"2024-01-02T03:04:05Z","referenced_tweets":[{"type":"quoted","id":"2"}],
    "entities":{"hashtags":[{"tag":"b"}]}},"includes":{"tweets":[{"id":"2","text":"c"}]},"errors":[{"title":"t"}]}"##;
const ACTIVITY: &str = r##"{"id":"tag:x:1","verb":"share","postedTime":"2024-01-02T03:04:05Z","body":"a","object":{"id":"tag:x:2","body":"b\u0000"}}"##;
const COMMIT: &str = r##"{"did":"did:plc:a","time_us":1704164645000000,"kind":"commit","commit":{"operation":"create",
    "collection":"app.bsky.feed.post","rkey":"k\u0000","record":{"text":"a\u0000","createdAt":"2024-01-02T03:04:05Z","langs":["en"],
    "facets":[{"features":[{"tag":"b"}]}]}}}"##;
const EVENT: &str = r##"{"event":"update","payload":"{\"id\":\"1\",\"created_at\":\"2024-01-02T03:04:05Z\",\"content\":\"<p>a&#0;\\u0000</p>\",\"account\":{\"id\":\"2\"}}"}"##;
const PLAIN: &str = r##"{"id":"1\u0000","text":"a\u0000","author_id":"x\u0000","created_at":1704164645123,"hashtags":["b\u0000"],"quoted_text":"\u0000"}"##;
const SAMPLES: [&str; 6] = [STATUS, TWEET, ACTIVITY, COMMIT, EVENT, PLAIN];

const FORMATS: [Format; 8] = [
    Format::Auto,
    Format::TwitterV1,
    Format::TwitterV2,
    Format::ActivityStreams,
    Format::Jetstream,
    Format::Mastodon,
    Format::Plain,
    Format::Text,
];

/// Checks the invariants of any outcome.
fn check(outcome: Result<Parsed, Reject>) {
    match outcome {
        Ok(Parsed::Post(post)) => {
            let strings = [
                Some(post.id.as_str()),
                Some(post.lang.as_str()),
                Some(post.text.as_str()),
                post.author_id.as_deref(),
                post.repost_of.as_deref(),
                post.quoted_text.as_deref(),
            ];
            for string in strings
                .into_iter()
                .flatten()
                .chain(post.hashtags.iter().map(Hashtag::as_str))
            {
                assert!(!string.contains('\0') && !string.is_empty(), "{post:?}");
            }
            assert!((1970..=2200).contains(&post.created_at.get().year()), "{post:?}");
        }
        Ok(Parsed::Deletion(deletion)) => assert!(!deletion.post_id.contains('\0') && !deletion.post_id.is_empty()),
        Err(reject) => {
            assert!(!reject.detail.is_empty() && reject.detail.chars().count() <= Reject::MAX_DETAIL_CHARS);
            assert!(!reject.detail.contains(char::is_control), "{reject}");
        }
    }
}

#[test]
fn samples_are_posts_without_nul() {
    for sample in SAMPLES {
        assert!(!post(sample).text.contains('\0'));
        check(read(sample));
    }
}

proptest! {
    /// Producers may set any timestamp, such as the year 9999 for "never".
    #[test]
    fn record_timestamps_are_limited_to_the_supported_years(
        seconds in prop_oneof![any::<i32>().prop_map(i64::from), -377_705_116_800_i64..=253_402_300_799],
        record in prop::sample::select(vec!["so glad", r#"{"text":"so glad"}"#, r#"{"data":{"id":"1","text":"so glad"}}"#]),
    ) {
        let timestamp = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let envelope = Envelope { timestamp: Some(timestamp), ..envelope() };
        let outcome = parse(record.as_bytes(), &envelope, &ParseOptions::default());
        match &outcome {
            Ok(Parsed::Post(post)) => prop_assert_eq!(post.created_at, timestamp),
            Err(reject) => prop_assert_eq!(reject.reason, Reason::BadTime),
            other => prop_assert!(false, "{:?}", other),
        }
        prop_assert_eq!(outcome.is_ok(), (1970..=2200).contains(&timestamp.year()));
        check(outcome);
    }

    #[test]
    fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in FORMATS {
            check(read_as(format, &bytes));
        }
    }

    #[test]
    fn any_change_to_a_record_is_handled(
        sample in prop::sample::select(SAMPLES.to_vec()),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[\\[\\]{}\":,0-9a-z\\\\\u{0}<>&#-]{0,8}"), 1..4),
    ) {
        let mut record = sample.as_bytes().to_vec();
        for (at, length, with) in cuts {
            let start = at.index(record.len() + 1);
            let end = (start + length).min(record.len());
            record.splice(start..end, with.bytes());
        }
        for format in FORMATS {
            check(read_as(format, &record));
        }
        let _ = key(&record, &ParseOptions::default());
    }

    #[test]
    fn any_value_in_any_field_is_handled(
        sample in prop::sample::select(SAMPLES.to_vec()),
        field in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![json!(null), json!(true), json!(-1), json!(1e300), json!(""), json!("x"), json!([]), json!([1, null, {}]), json!({}), json!({"id": []})]),
    ) {
        let mut record: serde_json::Value = serde_json::from_str(sample).unwrap();
        let mut holder = &mut record;
        for inner in ["data", "commit", "record"] {
            if holder.get(inner).is_some() {
                holder = &mut holder[inner];
            }
        }
        let fields = holder.as_object_mut().unwrap();
        let name = fields.keys().nth(field.index(fields.len())).unwrap().clone();
        fields.insert(name, value);
        for format in FORMATS {
            check(read_as(format, record.to_string()));
        }
    }

    #[test]
    fn the_plain_format_preserves_any_text(text in "\\PC{1,200}") {
        prop_assume!(!text.trim().is_empty());
        let record = json!({"id": "1", "text": text}).to_string();
        prop_assert_eq!(&*post(record).text, text);
    }
}

#[test]
fn empty_records_are_rejected_as_empty() {
    rejected(b"", Reason::Empty, "no bytes");
    rejected(b" \r\n", Reason::Empty, "whitespace");
    rejected("\u{feff}\n", Reason::Empty, "whitespace");
    assert_eq!(post("\u{feff}{\"id\":1,\"text\":\"behind a byte order mark\"}").id, "1");
}

#[test]
fn invalid_utf8_is_located() {
    rejected(b"{\"text\":\"a\xff\"}", Reason::NotUtf8, "byte 10");
}

#[test]
fn malformed_json_is_refused() {
    rejected("{\"text\":", Reason::NotJson, "EOF");
    rejected("[\"news\"] at ten", Reason::NotJson, "trailing");
    rejected("{id: 1, text: \"json5\"}", Reason::NotJson, "key must be a string");
    for text in [
        "[news] at ten",
        "[10/10] again",
        "{sigh} so tired",
        "{{user}} is happy",
        "[so happy](http://x)",
    ] {
        assert_eq!(post(text).text, text);
    }
    rejected("{\"id\":1,\"text\":\"a\"} trailing", Reason::NotJson, "trailing");
    rejected(
        "{\"id\":1,\"text\":\"raw\nline end\"}",
        Reason::NotJson,
        "control character",
    );
}

#[test]
fn lone_surrogates_are_replaced() {
    assert_eq!(
        post(r#"{"id":1,"text":"a \ud83d b \ude00 c \ud83d\ude00 \ud83d\ud83d\ude00"}"#).text,
        "a \u{fffd} b \u{fffd} c 😀 \u{fffd}😀"
    );
    assert_eq!(post(r#"{"id":1,"text":"kept \\ud83d"}"#).text, "kept \\ud83d");
    assert_eq!(post(r#"{"\udead":0,"id":1,"text":"in a key"}"#).text, "in a key");
    assert_eq!(
        post(r#"{"id":1,"text":"at the end \ud83d"}"#).text,
        "at the end \u{fffd}"
    );
    let inner = r#"{"event":"update","payload":"{\"id\":\"1\",\"created_at\":\"2024-01-02T03:04:05Z\",\"content\":\"a \\ud83d\"}"}"#;
    assert_eq!(post(inner).text, "a \u{fffd}");
    assert_eq!(post(r#"[{"id":1,"text":"\ud83d"}]"#).text, "\u{fffd}");
}

#[test]
fn deeply_nested_json_is_refused_but_not_brackets_in_a_text() {
    for deep in [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        format!(
            "{{\"id\":1,\"text\":\"a\",\"x\":{}{}}}",
            "[".repeat(500),
            "]".repeat(500)
        ),
    ] {
        rejected(deep, Reason::TooDeep, "levels deep");
    }
    let brackets = "[{".repeat(500);
    assert_eq!(
        post(json!({"id": 1, "text": brackets}).to_string()).text.as_str(),
        brackets
    );
    let siblings = vec![json!({}); 500];
    assert_eq!(
        post(json!({"id": 1, "text": "so happy", "more": siblings}).to_string())
            .text
            .as_str(),
        "so happy"
    );
    // Below the configured limit, the parser's own limit applies.
    let nested = format!("{}{}{}", "{\"retweeted_status\":".repeat(127), "{}", "}".repeat(127));
    rejected(nested, Reason::TooDeep, "recursion limit");
}

#[test]
fn large_records_and_texts_are_refused_but_not_long_words() {
    let limits = Limits::default();
    rejected(vec![b'a'; 5_000_000], Reason::TooLarge, "5000000 bytes");
    rejected(
        "é".repeat(limits.max_text_chars + 1),
        Reason::TooLarge,
        "25001 characters",
    );
    assert_eq!(
        post("é".repeat(limits.max_text_chars)).text.chars().count(),
        limits.max_text_chars
    );
    let word = "w".repeat(10_000);
    assert_eq!(
        post(json!({"id": 1, "text": word, "quoted_text": word.repeat(5)}).to_string())
            .quoted_text
            .unwrap()
            .len(),
        limits.max_text_chars
    );
    rejected(
        json!({"id": "i".repeat(2_000), "text": "a"}).to_string(),
        Reason::BadField,
        "2000 bytes",
    );
}

#[test]
fn languages_and_hashtags_of_any_length_are_bounded() {
    let tags: Vec<String> = (0..1_000).map(|n| format!("tag{n}")).collect();
    let post = post(json!({"id": 1, "text": "a", "lang": "x".repeat(1_000), "hashtags": tags}).to_string());
    assert_eq!((post.lang.as_str(), post.hashtags.len()), ("und", 100));
}
