//! At least one sample of every kind of record: Twitter's formats.

use serde_json::json;

use super::*;

#[test]
fn a_v1_status_has_its_full_text_in_every_mode() {
    let status = |extra: serde_json::Value| {
        let mut status = json!({
            "created_at": "Tue Jan 02 03:04:05 +0000 2024", "id": 1_742_000_000_000_000_100_u64, "id_str": "1742000000000000123",
            "text": "cut shor\u{2026}", "truncated": true, "lang": "in", "user": {"id": 77, "id_str": "77", "screen_name": "ann"},
            "entities": {"hashtags": [{"text": "Cut", "indices": [0, 4]}]},
        });
        status
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        status.to_string()
    };
    let streamed = post(status(json!({"extended_tweet": {
        "full_text": "not cut short &amp; #Whole &lt;3", "entities": {"hashtags": [{"text": "Whole"}]}}})));
    assert_eq!(
        streamed,
        Post {
            source: Source::Twitter,
            id: "1742000000000000123".try_into().unwrap(),
            created_at: datetime!(2024-01-02 03:04:05 UTC).try_into().unwrap(),
            time_source: TimeSource::Post,
            author_id: Some("77".try_into().unwrap()),
            lang: Language::of_tag("id"),
            lang_identified: false,
            text: "not cut short & #Whole <3".try_into().unwrap(),
            repost_of: None,
            quoted_text: None,
            hashtags: vec!["whole".try_into().unwrap()],
        }
    );
    let extended = post(status(json!({"full_text": "all of it", "text": null})));
    assert_eq!(
        (extended.text.as_str(), extended.hashtags),
        ("all of it", vec![tag("cut")])
    );
    // Without entities, hashtags are extracted from the text. Some tools write `[]` for a missing object.
    assert_eq!(
        post(status(json!({"entities": [], "text": "so #Found"}))).hashtags,
        ["found"]
    );
    assert_eq!(
        post(status(json!({"entities": {"hashtags": []}, "text": "so #unfound"}))).hashtags,
        [""; 0]
    );
    assert_eq!(post(status(json!({"user": null}))).author_id, None);
}

#[test]
fn a_v1_retweet_has_the_full_text_of_the_original() {
    let retweet = json!({
        "created_at": "Tue Jan 02 03:04:05 +0000 2024", "id_str": "20", "text": "RT @ann: the begin\u{2026}", "lang": "en",
        "user": {"id_str": "2"}, "entities": {"hashtags": []},
        "retweeted_status": {
            "created_at": "Mon Jan 01 00:00:00 +0000 2024", "id_str": "10", "text": "the begin\u{2026}", "user": {"id_str": "1"},
            "extended_tweet": {"full_text": "the beginning and the end #All", "entities": {"hashtags": [{"text": "All"}]}},
            "quoted_status": {"id_str": "5", "text": "quo\u{2026}", "extended_tweet": {"full_text": "quoted &amp; whole"}},
        },
    });
    let post = post(retweet.to_string());
    assert_eq!(
        (post.id.as_str(), post.repost_of.as_deref(), post.author_id.as_deref()),
        ("20", Some("10"), Some("2"))
    );
    assert_eq!(post.created_at, datetime!(2024-01-02 03:04:05 UTC));
    assert_eq!(post.text, "the beginning and the end #All");
    assert_eq!(post.quoted_text.as_deref(), Some("quoted & whole"));
    assert_eq!(post.hashtags, ["all"]);
}

#[test]
fn v1_notices_are_deletions_or_rejects() {
    let notice = r#"{"delete":{"status":{"id":1234,"id_str":"1235","user_id":3,"user_id_str":"3"},"timestamp_ms":"1704164645000"}}"#;
    assert_eq!(deleted(notice), (Source::Twitter, "1235".into()));
    assert_eq!(deleted(format!("{notice}\r\n")).1, "1235");
    assert_eq!(deleted(r#"{"delete":{"status":{"id":1234}}}"#).1, "1234");
    rejected(r#"{"delete":{"status":{}}}"#, Reason::NoId, "status's id");
    rejected(
        r#"{"delete":{"direct_message":{"id":1}}}"#,
        Reason::NotAPost,
        "deletion of something else",
    );
    rejected(r#"{"limit":{"track":12}}"#, Reason::NotAPost, "a limit notice");
    rejected(
        r#"{"scrub_geo":{"user_id":1,"up_to_status_id":2}}"#,
        Reason::NotAPost,
        "locations",
    );
    rejected(
        r#"{"warning":{"code":"FALLING_BEHIND"}}"#,
        Reason::NotAPost,
        "a stream warning",
    );
    rejected(r#"{"status_withheld":{"id":1}}"#, Reason::NotAPost, "withheld status");
    rejected(r#"{"friends":[1,2]}"#, Reason::NotAPost, "friends");
    rejected(
        r#"{"event":"favorite","source":{},"target":{}}"#,
        Reason::NotAPost,
        "event",
    );
    rejected(
        r#"{"direct_message":{"id":1,"text":"psst"}}"#,
        Reason::NotAPost,
        "a direct message",
    );
    rejected(
        r#"{"id":1,"id_str":"1","text":"psst","sender":{},"recipient":{}}"#,
        Reason::NotAPost,
        "a direct message",
    );
    rejected(
        r#"{"id":1,"id_str":"1","screen_name":"ann","name":"Ann"}"#,
        Reason::NotAPost,
        "a user",
    );
}

#[test]
fn an_invalid_v1_status_is_rejected_with_the_field() {
    rejected(
        r#"{"id_str":"1","created_at":"Tue Jan 02 03:04:05 +0000 2024","user":{}}"#,
        Reason::NoText,
        "post 1 has no text",
    );
    rejected(
        r#"{"id_str":"1","created_at":"Tue Jan 02 03:04:05 +0000 2024","text":" "}"#,
        Reason::NoText,
        "empty",
    );
    rejected(
        r#"{"full_text":"a","created_at":"Tue Jan 02 03:04:05 +0000 2024"}"#,
        Reason::NoId,
        "without an id",
    );
    rejected(r#"{"id_str":"1","text":"a"}"#, Reason::BadTime, "no creation time");
    rejected(
        r#"{"id_str":"1","text":"a","created_at":"soon"}"#,
        Reason::BadTime,
        "`soon`",
    );
    rejected(
        r#"{"id_str":"1","text":["a"],"created_at":1704164645}"#,
        Reason::BadField,
        "`text` is a list",
    );
    rejected(
        r#"{"id_str":{},"text":"a","created_at":1704164645}"#,
        Reason::BadField,
        "`id` is an object",
    );
    rejected(
        r#"{"id_str":"1","text":"a","text":"b","created_at":1704164645}"#,
        Reason::BadField,
        "duplicate field `text`",
    );
}

#[test]
fn v2_tweets_are_read_with_and_without_their_envelope() {
    let tweet = json!({
        "id": "1742000000000000123", "text": "cut shor\u{2026}", "created_at": "2024-01-02T03:04:05.000Z", "author_id": "77",
        "lang": "en", "edit_history_tweet_ids": ["1742000000000000123"], "entities": {"hashtags": [{"tag": "Cut"}]},
        "note_tweet": {"text": "a long note &amp; #More", "entities": {"hashtags": [{"tag": "More"}]}},
    });
    let bare = post(tweet.to_string());
    assert_eq!(
        (bare.id.as_str(), bare.text.as_str()),
        ("1742000000000000123", "a long note & #More")
    );
    assert_eq!(
        (bare.source, bare.lang.as_str(), bare.hashtags.as_slice()),
        (Source::Twitter, "en", [tag("more")].as_slice())
    );
    assert_eq!(
        (bare.author_id.as_deref(), bare.created_at),
        (Some("77"), at(datetime!(2024-01-02 03:04:05 UTC)))
    );
    assert_eq!(
        post(json!({"data": tweet, "matching_rules": [{"id": "9"}]}).to_string()),
        bare
    );
    assert_eq!(
        post(json!({"data": [tweet], "meta": {"result_count": 1}}).to_string()),
        bare
    );
    rejected(
        json!({"data": [tweet, tweet]}).to_string(),
        Reason::SeveralPosts,
        "a list of 2 elements",
    );
}

#[test]
fn a_v2_tweet_without_a_time_takes_it_from_its_id() {
    let minimal = post(r#"{"data":{"id":"1212092628029698048","text":"a"}}"#);
    assert_eq!(minimal.created_at, datetime!(2019-12-31 19:26:16.771 UTC));
    assert_eq!(post(r#"{"data":{"id":"20","text":"a"}}"#).created_at, BROKER_TIME);
}

#[test]
fn v2_retweets_and_quotes_use_included_full_texts() {
    let quoted = json!({"id": "5", "text": "quo", "note_tweet": {"text": "quoted whole"}});
    let original =
        json!({"id": "10", "text": "the whole &lt;original&gt;", "referenced_tweets": [{"type": "quoted", "id": "5"}]});
    let retweet = json!({"id": "20", "text": "RT @ann: the wh\u{2026}", "created_at": "2024-01-02T03:04:05Z", "author_id": "2",
        "referenced_tweets": [{"type": "retweeted", "id": "10"}]});
    let included = post(json!({"data": retweet, "includes": {"tweets": [original, quoted], "users": []}}).to_string());
    assert_eq!(
        (included.id.as_str(), included.repost_of.as_deref()),
        ("20", Some("10"))
    );
    assert_eq!(included.text, "the whole <original>");
    assert_eq!(included.quoted_text.as_deref(), Some("quoted whole"));

    let mut flat = retweet.clone();
    flat["referenced_tweets"] = json!([{"type": "retweeted", "id": "10", "text": "the whole original"}]);
    assert_eq!(post(flat.to_string()).text, "the whole original");
    // If the original is not included, the retweet's own text is used.
    assert_eq!(
        post(json!({"data": retweet}).to_string()).text,
        "RT @ann: the wh\u{2026}"
    );
}

#[test]
fn v2_compliance_events_are_deletions_or_rejects() {
    let event =
        json!({"data": {"delete": {"tweet": {"id": "1", "author_id": "2"}, "event_at": "2024-01-02T03:04:05Z"}}});
    assert_eq!(deleted(event.to_string()), (Source::Twitter, "1".into()));
    assert_eq!(
        deleted(r#"{"id":"1","action":"delete","created_at":"2024-01-02T03:04:05Z","reason":"protected"}"#).1,
        "1"
    );
    rejected(
        r#"{"id":"1","action":"scrub_geo"}"#,
        Reason::NotAPost,
        "other than a deletion",
    );
    rejected(
        r#"{"errors":[{"title":"operational-disconnect"}]}"#,
        Reason::NotAPost,
        "operational-disconnect",
    );
    rejected(r#"{"meta":{"result_count":0}}"#, Reason::NotAPost, "without data");
    rejected(
        r#"{"data":{"id":"1","username":"ann","name":"Ann"}}"#,
        Reason::NotAPost,
        "a user",
    );
    rejected(
        r#"{"data":{"id":"1","text":"psst","event_type":"MessageCreate"}}"#,
        Reason::NotAPost,
        "direct message",
    );
    rejected(r#"{"data":{"provisioned":true}}"#, Reason::UnknownFormat, "provisioned");
}

#[test]
fn activity_ids_are_the_numbers_in_their_uris() {
    let note = json!({
        "id": "tag:search.twitter.com,2005:10", "objectType": "activity", "verb": "post", "postedTime": "2024-01-02T03:04:05.000Z",
        "body": "cut shor\u{2026}", "actor": {"id": "id:twitter.com:7"}, "twitter_lang": "EN",
        "long_object": {"body": "whole &amp; #Long", "twitter_entities": {"hashtags": [{"text": "Long"}]}},
        "object": {"objectType": "note", "id": "object:search.twitter.com,2005:10", "summary": "cut shor\u{2026}"},
        "twitter_quoted_status": {"id": "tag:search.twitter.com,2005:5", "body": "quoted"},
    });
    let posted = post(note.to_string());
    assert_eq!(
        (posted.id.as_str(), posted.author_id.as_deref(), posted.lang.as_str()),
        ("10", Some("7"), "en")
    );
    assert_eq!(
        (posted.text.as_str(), posted.quoted_text.as_deref()),
        ("whole & #Long", Some("quoted"))
    );
    assert_eq!(
        (posted.repost_of.as_deref(), posted.hashtags.as_slice()),
        (None, [tag("long")].as_slice())
    );

    let share = json!({
        "id": "tag:search.twitter.com,2005:20", "verb": "share", "postedTime": "2024-01-03T00:00:00Z", "body": "RT @ann: cut",
        "actor": {"id": "id:twitter.com:8"}, "object": note,
    });
    let shared = post(share.to_string());
    assert_eq!(
        (
            shared.id.as_str(),
            shared.repost_of.as_deref(),
            shared.author_id.as_deref()
        ),
        ("20", Some("10"), Some("8"))
    );
    assert_eq!(
        (shared.text.as_str(), shared.created_at),
        ("whole & #Long", at(datetime!(2024-01-03 00:00 UTC)))
    );
    assert_eq!(shared.quoted_text.as_deref(), Some("quoted"));

    let delete =
        json!({"objectType": "activity", "verb": "delete", "object": {"id": "tag:search.twitter.com,2005:10"}});
    assert_eq!(deleted(delete.to_string()), (Source::Twitter, "10".into()));
    rejected(
        r#"{"verb":"follow","objectType":"activity"}"#,
        Reason::NotAPost,
        "`follow`",
    );
}
