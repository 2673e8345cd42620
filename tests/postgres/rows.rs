//! What a flush writes: rows, duplicates, deletions, partitions, and facts about the model.

use std::sync::Arc;

use moodstream::{
    model::SupportedLanguages,
    post::{self as parser, Envelope, Hashtag, Id, Language, ParseOptions, Parsed, Source},
    store::{DeletionRow, Flush, Tally},
};
use sqlx::Row;
use time::{Duration, OffsetDateTime, macros::datetime};

use crate::support::store::{GROUP, Harness, NOON, Random, deletion, flush, offset_range, origin, post};

#[tokio::test]
async fn a_row_is_read_back_as_it_was_written() {
    let harness = Harness::with_partitions(1).await;
    let nasty =
        "tab\t newline\n cr\r quote' \"double\" back\\slash {braces,} \\N \u{1f602}\u{200d}\u{202e}rtl é \u{7f} end";
    let long = "wordy ".repeat(200_000);
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 3));
    let mut row = post("1", datetime!(2019-07-03 12:34:56.789_012_345 +05:30), 0, 0);
    Arc::make_mut(&mut row.post).source = Source::Mastodon;
    Arc::make_mut(&mut row.post).text = nasty.try_into().unwrap();
    Arc::make_mut(&mut row.post).repost_of = Id::new("orig'inal").ok();
    Arc::make_mut(&mut row.post).hashtags = ["a,b", "\"q\"", "null", "b\\s", "\u{1f389}"]
        .map(|tag| tag.try_into().unwrap())
        .to_vec();
    row.subjects = vec!["t{1}".into(), "t 2".into(), "t{1}".into()];
    Arc::make_mut(&mut row.post).lang = Language::of_tag("pt-BR");
    all.posts.push(row);
    let mut row = post("2", NOON, 0, 1);
    Arc::make_mut(&mut row.post).text = long.as_str().try_into().unwrap();
    Arc::make_mut(&mut row.post).author_id = None;
    Arc::make_mut(&mut row.post).hashtags.clear();
    row.subjects.clear();
    Arc::make_mut(&mut row.post).lang = Language::UNDETERMINED;
    all.posts.push(row);
    let mut row = post("nul\0", NOON, 0, 2);
    Arc::make_mut(&mut row.post).text = "nul\0".try_into().unwrap();
    all.posts.push(row);

    let flushed = harness.flush(&all).await;
    assert_eq!(flushed.written, [0, 1, 2]);
    let rows = sqlx::query("SELECT *, scores->>'joy' AS joy FROM post ORDER BY kafka_offset")
        .fetch_all(&harness.pool)
        .await
        .unwrap();
    let first = &rows[0];
    assert_eq!(first.get::<String, _>("source"), "mastodon");
    assert_eq!(first.get::<String, _>("text"), nasty);
    assert_eq!(
        first.get::<OffsetDateTime, _>("created_at"),
        datetime!(2019-07-03 07:04:56.789_012 UTC)
    );
    assert_eq!(
        first.get::<Option<String>, _>("repost_of").as_deref(),
        Some("orig'inal")
    );
    assert_eq!(
        first.get::<Vec<String>, _>("hashtags"),
        ["a,b", "\"q\"", "null", "b\\s", "\u{1f389}"]
    );
    assert_eq!(first.get::<Vec<String>, _>("subjects"), ["t{1}", "t 2"]);
    assert_eq!(first.get::<String, _>("lang"), "pt");
    assert_eq!(first.get::<String, _>("emotion"), "joy");
    assert_eq!(first.get::<String, _>("model_id"), "test@0badcafe");
    assert_eq!(first.get::<f64, _>("score"), all.posts[0].prediction.score);
    assert_eq!(
        first.get::<String, _>("joy").parse::<f64>().unwrap(),
        all.posts[0].prediction.scores[1]
    );
    assert_eq!(first.get::<String, _>("kafka_topic"), "posts");
    assert_eq!(
        (
            first.get::<i32, _>("kafka_partition"),
            first.get::<i64, _>("kafka_offset")
        ),
        (0, 0)
    );
    assert_eq!(rows[1].get::<String, _>("text"), long);
    assert_eq!(rows[1].get::<Option<String>, _>("author_id"), None);
    assert!(rows[1].get::<Vec<String>, _>("subjects").is_empty());
    assert_eq!(rows[1].get::<String, _>("lang"), "und");
    assert_eq!(rows[2].get::<String, _>("post_id"), "nul");
    harness.assert_whole().await;
}

/// A record with fields around their limits: empty, one byte, one byte below the limit, at it, one above it, or twice it.
fn record_at_the_limits(random: &mut Random) -> Vec<u8> {
    let mut field = |most: usize| {
        let filling = ["x", "é", "日", "\u{1f389}", "İ", "\\u0000", "'", "#"][random.below(8) as usize];
        let bytes = [0, 1, most - 1, most, most + 1, 2 * most][random.below(6) as usize];
        let mut text = filling.repeat(bytes / filling.len());
        text.push_str(&"y".repeat(bytes % filling.len()));
        text
    };
    let (id, author, repost_of) = (field(Id::MAX_BYTES), field(Id::MAX_BYTES), field(Id::MAX_BYTES));
    let (did, rkey) = (field(Id::MAX_BYTES / 2), field(Id::MAX_BYTES / 2));
    let (tag, lang, text) = (field(Hashtag::MAX_BYTES), field(8), field(25_000));
    let year = ["1969", "1970", "2026", "2200", "2201"][random.below(5) as usize];
    let record = match random.below(3) {
        0 => format!(
            r#"{{"id":"{id}","text":"{text}","created_at":"{year}-01-01T00:00:00Z","author_id":"{author}",
                "repost_of":"{repost_of}","lang":"{lang}","hashtags":["{tag}"],"quoted_text":"{text}"}}"#
        ),
        1 => format!(
            r#"{{"did":"did:plc:{did}","time_us":1790000000000000,"kind":"commit","commit":{{"operation":"delete",
                "collection":"app.bsky.feed.post","rkey":"{rkey}"}}}}"#
        ),
        _ => format!(
            r#"{{"did":"did:plc:{did}","time_us":1790000000000000,"kind":"commit","commit":{{"operation":"create",
                "collection":"app.bsky.feed.post","rkey":"{rkey}","record":{{"text":"{text}","langs":["{lang}"],
                "tags":["{tag}"],"createdAt":"{year}-12-31T23:59:59.999999999Z"}}}}}}"#
        ),
    };
    record.into_bytes()
}

/// A deletion whose `did` and `rkey` were within their limits, but whose combined id was too long, once made the process
/// exit at every start.
#[tokio::test]
async fn every_parsed_record_can_be_stored_however_long_its_fields_are() {
    let mut random = Random(7);
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    let (mut kept, mut rejected) = (0, 0);
    for offset in 0..1_000_i64 {
        let envelope = Envelope {
            timestamp: Some(NOON),
            fallback_id: Id::new(format!("posts/0/{offset}")).ok(),
        };
        let record = record_at_the_limits(&mut random);
        match parser::parse(&record, &envelope, &ParseOptions::default()) {
            Ok(Parsed::Post(parsed)) => {
                let mut row = post("1", NOON, 0, offset);
                row.post = Arc::from(parsed);
                all.posts.push(row);
                kept += 1;
            }
            Ok(Parsed::Deletion(deletion)) => {
                let origin = origin(0, offset);
                all.deletions.push(DeletionRow { deletion, origin });
                kept += 1;
            }
            Err(_) => rejected += 1,
        }
    }
    assert!(kept > 100 && rejected > 100, "{kept} kept, {rejected} rejected");
    let mut range = offset_range(0, 0, 1_000);
    range.rejected = rejected;
    all.ranges.push(range);
    assert_eq!(harness.flush(&all).await.total().records(), 1_000);
    harness.assert_whole().await;
}

#[tokio::test]
async fn the_first_copy_of_a_post_wins_across_days() {
    let harness = Harness::with_partitions(2).await;
    let mut first = flush();
    first.ranges.extend([offset_range(0, 0, 10), offset_range(1, 0, 10)]);
    first.posts.push(post("a", NOON + Duration::hours(1), 1, 2));
    first.posts.push(post("a", NOON + Duration::hours(2), 0, 7));
    first.posts.push(post("a", NOON, 0, 3));
    // The same id from another source is another post.
    let mut other = post("a", NOON, 0, 4);
    Arc::make_mut(&mut other.post).source = Source::Plain;
    first.posts.push(other);
    let flushed = harness.flush(&first).await;
    assert_eq!(flushed.written, [2, 3]);
    assert_eq!(
        flushed.tallies[0],
        Tally {
            inserted: 2,
            duplicates: 1,
            ..Tally::default()
        }
    );
    assert_eq!(
        flushed.tallies[1],
        Tally {
            duplicates: 1,
            ..Tally::default()
        }
    );

    let mut again = flush();
    again.ranges.push(offset_range(0, 10, 20));
    again.posts.push(post("a", NOON + Duration::days(3), 0, 10));
    let flushed = harness.flush(&again).await;
    assert!(flushed.written.is_empty());
    assert_eq!(
        flushed.total(),
        Tally {
            duplicates: 1,
            ..Tally::default()
        }
    );
    let offset: i64 = sqlx::query_scalar("SELECT kafka_offset FROM post WHERE source = 'twitter'")
        .fetch_one(&harness.pool)
        .await
        .unwrap();
    assert_eq!(offset, 3);
    harness.assert_whole().await;
}

#[tokio::test]
async fn deletions_remove_posts_and_are_final() {
    let harness = Harness::with_partitions(2).await;
    let mut posts = flush();
    posts.ranges.push(offset_range(0, 0, 10));
    posts.posts.extend([
        post("keep", NOON, 0, 0),
        post("gone", NOON, 0, 1),
        post("alone", NOON + Duration::days(1), 0, 2),
    ]);
    harness.flush(&posts).await;
    assert_eq!(
        harness.count("emotion_rollup").await,
        4,
        "two minutes, each with a row for all posts and one for a subject"
    );

    let mut deletions = flush();
    deletions.ranges.push(offset_range(1, 0, 10));
    for (offset, id) in (0..).zip(["gone", "alone", "never-seen", "gone"]) {
        deletions.deletions.push(deletion(id, 1, offset));
    }
    let flushed = harness.flush(&deletions).await;
    assert_eq!(
        flushed.total(),
        Tally {
            deletions: 4,
            removed: 2,
            ..Tally::default()
        }
    );
    assert_eq!(harness.ids().await, ["keep"]);
    assert_eq!(
        harness.count("emotion_rollup").await,
        2,
        "rows without posts are deleted"
    );
    harness.assert_whole().await;

    // A deletion is final: a copy of a deleted post is not written again, nor is a post that comes after its deletion.
    let mut later = flush();
    later.ranges.push(offset_range(0, 10, 20));
    later.posts.extend([
        post("never-seen", NOON, 0, 10),
        post("gone", NOON, 0, 11),
        post("new", NOON, 0, 12),
    ]);
    let flushed = harness.flush(&later).await;
    assert_eq!(
        flushed.total(),
        Tally {
            inserted: 1,
            duplicates: 2,
            ..Tally::default()
        }
    );
    assert_eq!(harness.ids().await, ["keep", "new"]);
    harness.assert_whole().await;
}

#[tokio::test]
async fn posts_and_deletions_of_one_key_in_one_flush_apply_in_order() {
    let harness = Harness::with_partitions(1).await;
    let mut first = flush();
    first.ranges.push(offset_range(0, 0, 1));
    first.posts.push(post("stored", NOON, 0, 0));
    harness.flush(&first).await;

    let mut mixed = flush();
    mixed.ranges.push(offset_range(0, 1, 10));
    mixed.posts.extend([
        post("after", NOON, 0, 1),
        post("before", NOON, 0, 4),
        post("stored", NOON, 0, 5),
    ]);
    mixed.deletions.extend([
        deletion("after", 0, 2),
        deletion("before", 0, 3),
        deletion("stored", 0, 6),
    ]);
    let flushed = harness.flush(&mixed).await;
    // `after` was inserted and deleted, `before` came after its deletion, `stored` is a copy of a post that is now deleted.
    assert_eq!(
        flushed.total(),
        Tally {
            inserted: 1,
            duplicates: 2,
            deletions: 3,
            removed: 2,
            ..Tally::default()
        }
    );
    assert!(harness.ids().await.is_empty());
    assert_eq!(harness.count("emotion_rollup").await, 0);
    assert_eq!(harness.count("post_key WHERE deleted_at IS NOT NULL").await, 3);
    harness.assert_whole().await;
}

#[tokio::test]
async fn every_day_gets_its_partition() {
    let harness = Harness::with_partitions(1).await;
    let days = [
        datetime!(1970-01-01 00:00 UTC),
        datetime!(2020-02-29 23:59:59.999_999_9 UTC),
        datetime!(2020-03-01 00:00 UTC),
        datetime!(2200-12-31 23:59:59 UTC),
        datetime!(2019-07-04 01:00 +02:00),
    ];
    let mut odd = flush();
    odd.ranges.push(offset_range(0, 0, 10));
    for (offset, day) in (0..).zip(days) {
        odd.posts.push(post(&offset.to_string(), day, 0, offset));
    }
    harness.flush(&odd).await;
    let partitions: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT tableoid::regclass::text AS t FROM post ORDER BY t")
            .fetch_all(&harness.pool)
            .await
            .unwrap();
    assert_eq!(
        partitions,
        [
            "post_19700101",
            "post_20190703",
            "post_20200229",
            "post_20200301",
            "post_22001231"
        ]
    );
    harness.assert_whole().await;

    let now = datetime!(2019-07-03 23:00 UTC);
    assert_eq!(harness.store.ensure_partitions(now, 3).await.unwrap(), 3);
    assert_eq!(harness.store.ensure_partitions(now, 3).await.unwrap(), 0);
    assert_eq!(
        harness.another_store().await.ensure_partitions(now, 3).await.unwrap(),
        0
    );
}

#[tokio::test]
async fn the_models_groups_replace_those_stored_before() {
    let harness = Harness::new().await;
    let mut model = (*crate::support::store::model()).clone();
    model.groups = [
        ("negative".into(), vec!["anger".into()]),
        ("strong".into(), vec!["anger".into(), "joy".into()]),
    ]
    .into();
    harness.store.replace_emotion_groups(&model).await.unwrap();
    harness.store.replace_emotion_groups(&model).await.unwrap();
    let groups = "SELECT concat_ws(' ', model_id, emotion, group_name) FROM emotion_group ORDER BY 1";
    let read = || async {
        sqlx::query_scalar::<_, String>(groups)
            .fetch_all(&harness.pool)
            .await
            .unwrap()
    };
    assert_eq!(
        read().await,
        [
            "test@0badcafe anger negative",
            "test@0badcafe anger strong",
            "test@0badcafe joy strong"
        ]
    );
    model.groups = [("positive".into(), vec!["joy".into()])].into();
    harness.store.replace_emotion_groups(&model).await.unwrap();
    assert_eq!(read().await, ["test@0badcafe joy positive"]);
}

#[tokio::test]
async fn rows_record_whether_the_model_supports_their_language() {
    let harness = Harness::with_partitions(1).await;
    let mut model = (*crate::support::store::model()).clone();
    model.languages = SupportedLanguages::new(&[("en".into(), 0.66), ("pt-BR".into(), 0.4)].into());
    harness.store.replace_model_languages(&model).await.unwrap();
    let known = "SELECT string_agg(concat_ws(' ', model_id, lang, macro_f1), ', ' ORDER BY lang) FROM model_language";
    let read = || async {
        sqlx::query_scalar::<_, String>(known)
            .fetch_one(&harness.pool)
            .await
            .unwrap()
    };
    assert_eq!(read().await, "test@0badcafe en 0.66, test@0badcafe pt 0.4");

    let mut all = Flush::new(GROUP.into(), Arc::new(model.clone()));
    for (offset, lang) in (0..).zip(["en", "pt", "th", "und"]) {
        let mut row = post(lang, NOON, 0, offset);
        Arc::make_mut(&mut row.post).lang = Language::of_tag(lang);
        all.posts.push(row);
    }
    all.ranges.push(offset_range(0, 0, 4));
    harness.flush(&all).await;
    let rows: Vec<(String, Option<bool>)> = sqlx::query_as("SELECT lang, lang_supported FROM post ORDER BY lang")
        .fetch_all(&harness.pool)
        .await
        .unwrap();
    let rows: Vec<_> = rows
        .iter()
        .map(|(lang, supported)| (lang.as_str(), *supported))
        .collect();
    assert_eq!(
        rows,
        [
            ("en", Some(true)),
            ("pt", Some(true)),
            ("th", Some(false)),
            ("und", None)
        ]
    );

    model.languages = SupportedLanguages::new(&[("pt".into(), 0.5)].into());
    harness.store.replace_model_languages(&model).await.unwrap();
    assert_eq!(read().await, "test@0badcafe pt 0.5");
}
