//! The expected contents of the tables and of the dead-letter topic, computed from the meaning that the feed recorded for each
//! record, not from the service's parsing of its bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use time::OffsetDateTime;

use crate::{
    feed::{Key, Line, Meaning, Post},
    harness::{Harness, Stored, TOPIC},
};

type Origin = (i32, i64);

/// Counts of a partition, in the order of the columns of `consumer_tally`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    records: i64,
    posts: i64,
    deletions: i64,
    filtered: i64,
    late: i64,
    rejected: i64,
}

/// The records as they are stored in the topic, each with its meaning.
pub struct Oracle {
    records: BTreeMap<Origin, (Stored, Meaning)>,
    deleted: BTreeSet<Key>,
    /// For each post, the offset of its first copy in each partition: whichever is committed first wins.
    firsts: BTreeMap<Key, BTreeMap<i32, i64>>,
    counts: BTreeMap<i32, Counts>,
}

impl Oracle {
    /// Combines the fed records with those that the broker has, which must be the same.
    pub fn new(fed: &[Line], stored: Vec<Stored>) -> Self {
        let meanings: HashMap<&[u8], &Meaning> = fed.iter().map(|line| (&*line.payload, &line.meaning)).collect();
        let mut sent: Vec<(i32, &[u8])> = fed.iter().map(|line| (line.partition, &*line.payload)).collect();
        let mut found: Vec<(i32, &[u8])> = stored
            .iter()
            .map(|record| (record.partition, &*record.payload))
            .collect();
        sent.sort_unstable();
        found.sort_unstable();
        assert!(
            sent == found,
            "the topic has other records than were fed: {} instead of {}",
            found.len(),
            sent.len()
        );

        let mut oracle = Self {
            records: BTreeMap::new(),
            deleted: BTreeSet::new(),
            firsts: BTreeMap::new(),
            counts: BTreeMap::new(),
        };
        for record in &stored {
            let meaning = meanings[&*record.payload].clone();
            oracle.record(record, &meaning);
            oracle
                .records
                .insert((record.partition, record.offset), (record.clone(), meaning));
        }
        oracle
    }

    fn record(&mut self, record: &Stored, meaning: &Meaning) {
        let counts = self.counts.entry(record.partition).or_default();
        counts.records += 1;
        match meaning {
            Meaning::Post(post) => {
                counts.posts += 1;
                let first = self.firsts.entry(post.key.clone()).or_default();
                let offset = first.entry(record.partition).or_insert(record.offset);
                *offset = (*offset).min(record.offset);
            }
            Meaning::Deletion(key) => {
                counts.deletions += 1;
                self.deleted.insert(key.clone());
            }
            Meaning::Filtered => counts.filtered += 1,
            Meaning::Late => counts.late += 1,
            Meaning::Rejected(_) => counts.rejected += 1,
        }
    }

    /// Compares the tables and the dead letters with it.
    pub fn check(&self, harness: &Harness, letters: &[Stored]) {
        self.check_rows(harness);
        self.check_keys(harness);
        self.check_tallies(harness);
        self.check_letters(letters);
        let differences: Vec<(String, String)> = harness.rows(include_str!("../support/recount.sql"));
        assert!(differences.is_empty(), "rollup and recount differ: {differences:#?}");
    }

    /// Every post that was not deleted is stored once, as the first copy of its partition.
    fn check_rows(&self, harness: &Harness) {
        type Row = (
            String,
            String,
            OffsetDateTime,
            String,
            String,
            Vec<String>,
            Vec<String>,
            i32,
            i64,
            String,
        );
        let rows: Vec<Row> = harness.rows(
            "SELECT source, post_id, created_at, lang, text, subjects, hashtags, kafka_partition, kafka_offset, kafka_topic
             FROM post",
        );
        let mut found = BTreeSet::new();
        for (source, id, created_at, lang, text, subjects, hashtags, partition, offset, topic) in rows {
            let at = format!("{source} {id} from {partition}@{offset}");
            let Some((_, Meaning::Post(post))) = self.records.get(&(partition, offset)) else {
                panic!("{at}: the record there is not a post");
            };
            let key = (post.key.0, id.clone());
            let row = Post {
                key: key.clone(),
                created_at,
                lang: post.lang,
                text,
                subjects,
                hashtags,
            };
            assert_eq!(&row, post, "{at}");
            assert_eq!(
                (source.as_str(), lang.as_str(), topic.as_str()),
                (post.key.0, post.lang, TOPIC),
                "{at}"
            );
            assert_eq!(
                self.firsts[&key].get(&partition),
                Some(&offset),
                "{at} is not the first copy"
            );
            assert!(!self.deleted.contains(&key), "{at} was deleted");
            assert!(found.insert(key), "{at} is stored twice");
        }
        let missing: Vec<&Key> = self
            .firsts
            .keys()
            .filter(|key| !self.deleted.contains(*key) && !found.contains(*key))
            .collect();
        assert!(
            missing.is_empty(),
            "{} posts are missing: {:?}",
            missing.len(),
            &missing[..missing.len().min(5)]
        );
    }

    /// Every post and every deletion has its key, and there are no other keys.
    fn check_keys(&self, harness: &Harness) {
        let keys: Vec<(String, String, bool)> =
            harness.rows("SELECT source, post_id, deleted_at IS NOT NULL FROM post_key");
        let keys: BTreeSet<(String, String, bool)> = keys.into_iter().collect();
        let all = self.firsts.keys().chain(&self.deleted);
        let expected: BTreeSet<(String, String, bool)> = all
            .map(|key| (key.0.to_owned(), key.1.clone(), self.deleted.contains(key)))
            .collect();
        let odd: Vec<_> = keys.symmetric_difference(&expected).take(5).collect();
        assert!(odd.is_empty(), "post_key differs in {odd:?}");
    }

    /// For each partition: records = rows + duplicates + deletions + filtered + late + rejected.
    fn check_tallies(&self, harness: &Harness) {
        let tallies: Vec<(i32, i64, i64, i64, i64, i64, i64)> = harness.rows(&format!(
            "SELECT partition, records, inserted + duplicates, deletions, filtered, late, rejected
             FROM consumer_tally WHERE topic = '{TOPIC}'"
        ));
        let tallies: BTreeMap<i32, Counts> = tallies
            .into_iter()
            .map(|(partition, records, posts, deletions, filtered, late, rejected)| {
                let counts = Counts {
                    records,
                    posts,
                    deletions,
                    filtered,
                    late,
                    rejected,
                };
                (partition, counts)
            })
            .collect();
        assert_eq!(tallies, self.counts);
        let [(standing, rows)]: [(i64, i64); 1] = harness
            .rows("SELECT sum(inserted - removed)::bigint, (SELECT count(*) FROM post) FROM consumer_tally")
            .try_into()
            .unwrap();
        assert_eq!(standing, rows, "inserted minus removed is not the number of rows");
        let offsets: Vec<(i32, i64)> = harness.rows("SELECT partition, next_offset FROM consumer_offset");
        for (partition, next) in offsets {
            let last = self.records.range((partition, 0)..(partition + 1, 0)).next_back();
            assert_eq!(
                last.map(|((_, offset), _)| offset + 1).unwrap_or(0),
                next,
                "partition {partition}"
            );
        }
    }

    /// Every rejected record has a dead letter with the same bytes and its reason. Duplicates are allowed, other letters are
    /// not.
    fn check_letters(&self, letters: &[Stored]) {
        let mut written = BTreeSet::new();
        for letter in letters {
            let header = |name: &str| letter.headers.get(name).map_or("", String::as_str);
            let origin: Origin = (
                header("origin_partition").parse().unwrap(),
                header("origin_offset").parse().unwrap(),
            );
            let Some((record, Meaning::Rejected(reason))) = self.records.get(&origin) else {
                panic!(
                    "a dead letter for {origin:?}, which should not be rejected: {:?}",
                    letter.headers
                );
            };
            assert_eq!(header("origin_topic"), TOPIC);
            assert_eq!(header("reason"), *reason, "{origin:?}: {}", header("detail"));
            assert!(
                letter.payload == record.payload && letter.key == record.key,
                "{origin:?}: different bytes"
            );
            written.insert(origin);
        }
        let missing: Vec<&Origin> = self
            .records
            .iter()
            .filter(|(origin, (_, meaning))| matches!(meaning, Meaning::Rejected(_)) && !written.contains(*origin))
            .map(|(origin, _)| origin)
            .collect();
        assert!(
            missing.is_empty(),
            "rejected records without a dead letter: {missing:?}"
        );
    }

    /// What was checked, in one line.
    pub fn summary(&self) -> String {
        let mut all = Counts::default();
        for counts in self.counts.values() {
            all.records += counts.records;
            all.posts += counts.posts;
            all.deletions += counts.deletions;
            all.filtered += counts.filtered;
            all.late += counts.late;
            all.rejected += counts.rejected;
        }
        let standing = self.firsts.keys().filter(|key| !self.deleted.contains(*key)).count();
        format!(
            "{} records: {} posts of which {standing} are stored, {} deletions, {} filtered, {} late, {} rejected",
            all.records, all.posts, all.deletions, all.filtered, all.late, all.rejected
        )
    }
}
