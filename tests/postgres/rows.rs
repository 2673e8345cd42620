//! What a flush writes: rows, duplicates, deletions, partitions.

use std::sync::Arc;

use moodstream::{
    model::Languages,
    post::{self as parser, Envelope, Hashtag, Id, Language, ParseOptions, Parsed, Source},
    store::{DeletionRow, Fault, Flush, FlushError, MAX_DAYS, Retention, Tally},
};
use sqlx::Row;
use time::{Duration, OffsetDateTime, macros::datetime};

use crate::support::store::{GROUP, Harness, NOON, Random, deletion, flush, origin, post, run};

#[tokio::test]
async fn a_row_comes_back_as_it_went_in() {
    let harness = Harness::with_partitions(1).await;
    let nasty =
        "tab\t newline\n cr\r quote' \"double\" back\\slash {braces,} \\N \u{1f602}\u{200d}\u{202e}rtl é \u{7f} end";
    let long = "wordy ".repeat(200_000);
    let mut all = flush();
    all.ranges.push(run(0, 0, 3));
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

/// A record whose every field is as long as its limit, one byte shorter, one longer, or nothing.
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

/// A deletion whose `did` and `rkey` were each short enough, and the id made of them too long, once ended the process at
/// every start.
#[tokio::test]
async fn what_is_parsed_can_be_stored_however_long_its_fields_are() {
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
    let mut range = run(0, 0, 1_000);
    range.rejected = rejected;
    all.ranges.push(range);
    assert_eq!(harness.flush(&all).await.total().records(), 1_000);
    harness.assert_whole().await;
}

#[tokio::test]
async fn the_first_copy_wins_over_all_days() {
    let harness = Harness::with_partitions(2).await;
    let mut first = flush();
    first.ranges.extend([run(0, 0, 10), run(1, 0, 10)]);
    first.posts.push(post("a", NOON + Duration::hours(1), 1, 2));
    first.posts.push(post("a", NOON + Duration::hours(2), 0, 7));
    first.posts.push(post("a", NOON, 0, 3));
    // The same id at another source is another post.
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
    again.ranges.push(run(0, 10, 20));
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
async fn deletions_take_out_what_they_name() {
    let harness = Harness::with_partitions(2).await;
    let mut posts = flush();
    posts.ranges.push(run(0, 0, 10));
    posts.posts.extend([
        post("keep", NOON, 0, 0),
        post("gone", NOON, 0, 1),
        post("alone", NOON + Duration::days(1), 0, 2),
    ]);
    harness.flush(&posts).await;
    assert_eq!(
        harness.count("emotion_rollup").await,
        4,
        "two minutes, each for all posts and for a subject"
    );

    let mut deletions = flush();
    deletions.ranges.push(run(1, 0, 10));
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
        "rows left without posts are gone"
    );
    harness.assert_whole().await;

    // A deletion is final: neither a post seen before it nor one that comes later is written again.
    let mut later = flush();
    later.ranges.push(run(0, 10, 20));
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
async fn posts_and_deletions_of_one_key_in_one_flush() {
    let harness = Harness::with_partitions(1).await;
    let mut first = flush();
    first.ranges.push(run(0, 0, 1));
    first.posts.push(post("stored", NOON, 0, 0));
    harness.flush(&first).await;

    let mut mixed = flush();
    mixed.ranges.push(run(0, 1, 10));
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
    // `after` came and went, `before` came too late, `stored` was a copy whose original is now deleted.
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
    odd.ranges.push(run(0, 0, 10));
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
async fn days_of_a_flush_are_bounded() {
    let harness = Harness::with_partitions(1).await;
    let of_days = |days: usize| {
        let mut all = flush();
        all.ranges.push(run(0, 0, 1000));
        all.posts = (0..days)
            .map(|day| {
                let day = i64::try_from(day).unwrap();
                post(&day.to_string(), NOON + Duration::days(day), 0, day)
            })
            .collect();
        all
    };
    let error = harness.store.flush(&of_days(MAX_DAYS + 1)).await.unwrap_err();
    assert!(
        matches!(error, FlushError::TooManyDays { .. }) && !error.is_transient(),
        "{error}"
    );
    assert_eq!(harness.count("pg_inherits").await, 0, "nothing was made for it");
    harness.flush(&of_days(MAX_DAYS)).await;
    assert_eq!(harness.count("post").await, i64::try_from(MAX_DAYS).unwrap());
    harness.assert_whole().await;
}

#[tokio::test]
async fn contradictions_are_refused_before_anything_is_written() {
    let harness = Harness::with_partitions(1).await;
    type Spoil = fn(&mut Flush);
    let cases: [(&str, Spoil); 9] = [
        ("belongs to no range", |f| f.posts.push(post("a", NOON, 9, 0))),
        ("belongs to no range", |f| f.deletions.push(deletion("a", 9, 0))),
        ("lies outside its range", |f| f.posts.push(post("a", NOON, 0, 10))),
        ("two ranges of posts/0", |f| f.ranges.push(run(0, 0, 1))),
        ("goes from 5 to 4", |f| f.ranges.push(run(1, 5, 4))),
        ("1 scores, the model 2 labels", |f| {
            f.posts.push(post("a", NOON, 0, 0));
            f.posts[0].prediction.scores = [0.5].into();
        }),
        ("no multiple of 2^-20", |f| {
            f.posts.push(post("a", NOON, 0, 0));
            f.posts[0].prediction.score = 0.1;
        }),
        ("no multiple of 2^-20", |f| {
            f.posts.push(post("a", NOON, 0, 0));
            f.posts[0].prediction.scores = [f64::NAN, 0.5].into();
        }),
        ("settles 11 records between offsets 0 and 10", |f| {
            f.ranges[0].rejected = 11;
        }),
    ];
    for (expected, spoil) in cases {
        let mut bad = flush();
        bad.ranges.push(run(0, 0, 10));
        spoil(&mut bad);
        let error = harness.store.flush(&bad).await.unwrap_err();
        assert!(matches!(error, FlushError::Invalid(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_transient());
    }
    assert_eq!(harness.count("post_key").await, 0);
}

#[tokio::test]
async fn a_rollup_changed_by_hand_is_found_out() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(run(0, 0, 1));
    all.posts.push(post("a", NOON, 0, 0));
    harness.flush(&all).await;
    harness.execute("TRUNCATE emotion_rollup").await;
    let mut gone = flush();
    gone.ranges.push(run(0, 1, 2));
    gone.deletions.push(deletion("a", 0, 1));
    let error = harness.store.flush(&gone).await.unwrap_err();
    assert!(
        matches!(error, FlushError::Inconsistent(_)) && !error.is_transient(),
        "{error}"
    );
    assert_eq!(harness.ids().await, ["a"], "nothing was done");
}

#[tokio::test]
async fn groups_of_the_model_replace_what_was_known_of_it() {
    let harness = Harness::new().await;
    let mut model = (*crate::support::store::model()).clone();
    model.groups = [
        ("negative".into(), vec!["anger".into()]),
        ("strong".into(), vec!["anger".into(), "joy".into()]),
    ]
    .into();
    harness.store.keep_groups(&model).await.unwrap();
    harness.store.keep_groups(&model).await.unwrap();
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
    harness.store.keep_groups(&model).await.unwrap();
    assert_eq!(read().await, ["test@0badcafe joy positive"]);
}

/// 3,000 days that people made up once made 21,371 relations, and a query over all of them found no room for its locks.
#[tokio::test]
async fn posts_of_any_days_make_a_bounded_number_of_partitions() {
    let harness = Harness::with_partitions(1).await;
    let store = harness.another_store().await.keeping(Retention::default());
    let mut first = 0;
    for chunk in 0..12_i64 {
        let mut odd = flush();
        for offset in first..first + 250 {
            let day = datetime!(1970-01-01 12:00 UTC) + Duration::days(offset * 7 % 20_000);
            odd.posts.push(post(&format!("{chunk}-{offset}"), day, 0, offset));
        }
        odd.ranges.push(run(0, first, first + 250));
        store.flush(&odd).await.unwrap();
        first += 250;
    }
    assert_eq!(harness.count("post").await, first);
    let partitions = harness.count("pg_inherits WHERE inhparent = 'post'::regclass").await;
    assert!((50..=90).contains(&partitions), "{partitions} partitions");
    let relations = harness
        .count("pg_class WHERE relnamespace = current_schema()::regnamespace")
        .await;
    assert!(relations < 3_000, "{relations} relations");
    harness.assert_whole().await;
}

#[tokio::test]
async fn rows_say_whether_the_model_supports_their_language() {
    let harness = Harness::with_partitions(1).await;
    let mut model = (*crate::support::store::model()).clone();
    model.languages = Languages::new(&[("en".into(), 0.66), ("pt-BR".into(), 0.4)].into());
    harness.store.keep_languages(&model).await.unwrap();
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
    all.ranges.push(run(0, 0, 4));
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

    model.languages = Languages::new(&[("pt".into(), 0.5)].into());
    harness.store.keep_languages(&model).await.unwrap();
    assert_eq!(read().await, "test@0badcafe pt 0.5");
}

/// The store tells a record whose row is refused from a database that refuses all of them, and leaves nothing behind.
#[tokio::test]
async fn a_plain_row_tells_whose_fault_a_refusal_is() {
    let harness = Harness::with_partitions(1).await;
    let mut first = flush();
    first.ranges.push(run(0, 0, 1));
    first.posts.push(post("kept", NOON, 0, 0));
    harness.flush(&first).await;
    let mut posted = flush();
    posted.ranges.push(run(0, 1, 2));
    posted.posts.push(post("refused", NOON, 0, 1));
    let mut deleted = flush();
    deleted.ranges.push(run(0, 1, 2));
    deleted.deletions.push(deletion("kept", 0, 1));
    let refuses = async |all: &Flush| {
        let error = harness.store.flush(all).await.unwrap_err();
        assert!(
            matches!(&error, FlushError::Store(error) if error.fault == Fault::Row),
            "{error}"
        );
        !harness.store.takes_plain_rows(all).await.unwrap()
    };
    let all_posts = "ALTER TABLE post ADD CHECK (text = '') NOT VALID";
    for (change, undone, all, every_row) in [
        ("ALTER TABLE post ADD CONSTRAINT c CHECK (post_id <> 'refused')", "ALTER TABLE post DROP CONSTRAINT c", &posted, false),
        ("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$;
          CREATE TRIGGER no BEFORE INSERT ON post FOR EACH ROW EXECUTE FUNCTION no()", "DROP TRIGGER no ON post", &posted, true),
        ("CREATE TRIGGER no BEFORE INSERT ON post_key FOR EACH ROW EXECUTE FUNCTION no()", "DROP TRIGGER no ON post_key", &posted, true),
        ("CREATE TRIGGER no BEFORE DELETE ON post FOR EACH ROW EXECUTE FUNCTION no()", "DROP TRIGGER no ON post", &deleted, true),
        ("CREATE TABLE mine (source text, post_id text, created_at timestamptz, FOREIGN KEY (source, post_id, created_at)
          REFERENCES post (source, post_id, created_at)); INSERT INTO mine SELECT source, post_id, created_at FROM post",
         "DROP TABLE mine", &deleted, false),
        (all_posts, "SELECT 1", &posted, true),
    ] {
        harness.execute(change).await;
        assert_eq!(refuses(all).await, every_row, "{change}");
        harness.execute(undone).await;
        assert_eq!(harness.ids().await, ["kept"]);
        harness.assert_whole().await;
    }
    assert_eq!(harness.count("post_key").await, 1);
    assert_eq!(harness.count("consumer_offset WHERE next_offset = 1").await, 1);
    // Not refused for a row: the fence comes first.
    deleted.ranges[0].expected = 0;
    assert!(matches!(
        harness.store.takes_plain_rows(&deleted).await,
        Err(FlushError::Fenced(_))
    ));
}
