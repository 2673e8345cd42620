//! Parses real posts: every line of the stream archive and every payload sample, if they are available.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use moodstream::post::{Envelope, Language, Limits, ParseOptions, Parsed, Reason, Reject, Source, key, parse};
use time::{OffsetDateTime, macros::datetime};

const FALLBACK_ID: &str = "topic/0/0@1728000000000";

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} does not exist", path.display());
    None
}

fn read(payload: &[u8]) -> Result<Parsed, Reject> {
    let timestamp = Some(OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000));
    let envelope = Envelope {
        timestamp,
        fallback_id: FALLBACK_ID.try_into().ok(),
    };
    let options = ParseOptions {
        limits: Limits {
            max_bytes: 8 << 20,
            ..Limits::default()
        },
        ..ParseOptions::default()
    };
    parse(payload, &envelope, &options)
}

#[test]
fn every_record_of_the_stream_archive_is_a_post_or_a_deletion() {
    let Some(folder) = shared("stream") else { return };
    let (mut lines, mut posts, mut deletions) = (0, 0, 0);
    let (mut reposts, mut quotes, mut hashtags) = (0, 0, 0);
    let mut languages: BTreeMap<&str, usize> = BTreeMap::new();
    for archive in fs::read_dir(folder).unwrap() {
        let archive = archive.unwrap().path();
        if archive.extension().is_none_or(|extension| extension != "zst") {
            continue;
        }
        let decoder = zstd::stream::read::Decoder::new(fs::File::open(&archive).unwrap()).unwrap();
        let mut reader = BufReader::with_capacity(1 << 20, decoder);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).unwrap() > 0 {
            lines += 1;
            match read(&line).unwrap_or_else(|reject| panic!("line {lines}: {reject}")) {
                Parsed::Deletion(deletion) => {
                    assert!(
                        deletion.post_id.bytes().all(|byte| byte.is_ascii_digit()),
                        "line {lines}"
                    );
                    deletions += 1;
                }
                Parsed::Post(post) => {
                    posts += 1;
                    assert_eq!(post.source, Source::Twitter);
                    assert!(
                        (datetime!(2019-07-03 06:28 UTC)..datetime!(2019-07-03 06:43 UTC))
                            .contains(&post.created_at.get()),
                        "line {lines}"
                    );
                    assert!(post.author_id.is_some() && !post.text.contains('\0'), "line {lines}");
                    reposts += usize::from(post.repost_of.is_some());
                    quotes += usize::from(post.quoted_text.is_some());
                    hashtags += post.hashtags.len();
                    *languages.entry(post.lang.as_str()).or_default() += 1;
                }
            }
            line.clear();
        }
    }
    println!(
        "{lines} lines: {posts} posts ({reposts} reposts, {quotes} with quotes, {hashtags} hashtags), {deletions} deletions"
    );
    println!("{languages:?}");
    assert_eq!((lines, posts, deletions), (97_217, 23_583, 73_634));
    assert_eq!((reposts, quotes, hashtags), (12_086, 2_089, 9_345));
    // Codes deprecated in BCP 47 are mapped, others are kept.
    assert_eq!((languages["id"], languages["he"], languages["en"]), (942, 20, 7_322));
    assert!(!languages.contains_key("in") && !languages.contains_key("iw"));
}

/// The outcomes of a file's records.
#[derive(Default)]
struct Outcome {
    records: usize,
    posts: usize,
    deletions: usize,
    rejects: BTreeMap<Reason, (usize, String)>,
}

impl Outcome {
    fn count(&mut self, payload: &[u8]) {
        self.records += 1;
        match read(payload) {
            Ok(record) => {
                let id = match &record {
                    Parsed::Post(post) => {
                        self.posts += 1;
                        &post.id
                    }
                    Parsed::Deletion(deletion) => {
                        self.deletions += 1;
                        &deletion.post_id
                    }
                };
                if *id != FALLBACK_ID && payload.len() < 1 << 20 {
                    assert_eq!(key(payload, &ParseOptions::default()).as_ref(), Some(id));
                }
            }
            Err(reject) => {
                assert!(!reject.detail.is_empty() && !reject.detail.contains('\n'));
                let first = self
                    .rejects
                    .entry(reject.reason)
                    .or_insert_with(|| (0, reject.detail.clone()));
                first.0 += 1;
            }
        }
    }

    fn rejected(&self, reason: Reason) -> usize {
        self.rejects.get(&reason).map_or(0, |(count, _)| *count)
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
    found.sort();
}

/// Returns the records of a file: its lines, or its whole content. For recorded server responses, returns the response.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    let name = path.to_string_lossy();
    let json_lines = name.ends_with(".jsonl")
        || name.contains("format_examples")
        || name.contains("streams_examples")
        || name.ends_with("public_api_sample.json");
    if !json_lines {
        return vec![bytes];
    }
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| match serde_json::from_slice::<serde_json::Value>(line) {
            Ok(wrapped) if wrapped.get("cassette").is_some() || wrapped.get("fence").is_some() => {
                let inner = ["body", "raw", "text"]
                    .iter()
                    .find_map(|name| wrapped.get(*name))
                    .unwrap();
                inner
                    .as_str()
                    .map_or_else(|| inner.to_string().into_bytes(), |text| text.as_bytes().to_vec())
            }
            _ => line.to_vec(),
        })
        .collect()
}

#[test]
fn every_payload_sample_is_a_post_a_deletion_or_rightly_rejected() {
    let Some(folder) = shared("payloads") else { return };
    let mut paths = Vec::new();
    files(&folder, &mut paths);
    let mut outcomes = BTreeMap::new();
    println!("{:>7} {:>6} {:>9}  file", "records", "posts", "deletions");
    for path in paths {
        let name = path.strip_prefix(&folder).unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".json") && !name.ends_with(".jsonl") {
            continue;
        }
        let mut outcome = Outcome::default();
        for record in records(&path) {
            outcome.count(&record);
        }
        println!(
            "{:>7} {:>6} {:>9}  {name}",
            outcome.records, outcome.posts, outcome.deletions
        );
        for (reason, (count, detail)) in &outcome.rejects {
            println!("{:>25} {count} x {}: {}", "", reason.as_str(), detail);
        }
        outcomes.insert(name, outcome);
    }

    let total = |counted: fn(&Outcome) -> usize| outcomes.values().map(counted).sum::<usize>();
    let rejects = |outcome: &Outcome| outcome.rejects.values().map(|(count, _)| count).sum::<usize>();
    for (name, outcome) in &outcomes {
        assert_eq!(
            outcome.records,
            outcome.posts + outcome.deletions + rejects(outcome),
            "{name}"
        );
        // Every field of these records has the type that its format specifies.
        assert_eq!(
            outcome.rejected(Reason::BadField) + outcome.rejected(Reason::BadTime),
            0,
            "{name}"
        );
    }
    println!(
        "{} records: {} posts, {} deletions",
        total(|o| o.records),
        total(|o| o.posts),
        total(|o| o.deletions)
    );

    // Files that contain only posts, one per record, yield as many posts as records.
    let all_posts = |name: &str| {
        name.starts_with("twitter-activity/")
            || name.starts_with("twitter-v11/tweet") && !SEVERAL_DOCUMENTS.contains(&name)
            || name.contains("twut/")
            || name.ends_with("flat.jsonl") && !name.ends_with("noflat.jsonl")
    };
    for (name, outcome) in outcomes.iter().filter(|(name, _)| all_posts(name)) {
        assert_eq!(outcome.posts, outcome.records, "{name}");
    }
    for name in SEVERAL_DOCUMENTS {
        // In one of them, the second document is damaged.
        let outcome = &outcomes[name];
        let rejected = outcome.rejected(Reason::SeveralPosts) + outcome.rejected(Reason::NotJson);
        assert_eq!(rejected, 1, "{name}");
    }
    // Counted independently: posts, deletions.
    for (name, posts, deletions) in [
        ("bluesky/jetstream_golden_v1.jsonl", 1, 0),
        ("bluesky/jetstream_window_v1.jsonl", 16, 1),
        ("mastodon/mastodonpy_responses.jsonl", 190, 147),
        ("twitter-v2/twarc-csv/streaming_output_with_error.jsonl", 7, 0),
        ("twitter-v2/twarc-csv/tweets_compliance.jsonl", 0, 2),
        ("twitter-v2/twarc-csv/withheld.jsonl", 3, 0),
    ] {
        assert_eq!(
            (outcomes[name].posts, outcomes[name].deletions),
            (posts, deletions),
            "{name}"
        );
    }
    assert_eq!(
        outcomes["twitter-v11/simdjson/twitter.json"].rejected(Reason::SeveralPosts),
        1
    );
}

/// Samples with more than one JSON document: two tweets, or a caption between them.
const SEVERAL_DOCUMENTS: [&str; 2] = [
    "twitter-v11/tweet-updates/initial/compatibility_classic_13995.json",
    "twitter-v11/tweet-updates/original/classic/tweet.json",
];

/// Records of kinds that were once parsed wrongly, with the expected result.
#[test]
fn reported_cases_are_read_as_expected() {
    let Some(path) = shared("cases/wire/cases.jsonl") else {
        return;
    };
    let settings = |table: &str| -> ParseOptions {
        let table: toml::Table = table.parse().unwrap();
        ParseOptions {
            fields: table.try_into().unwrap(),
            ..ParseOptions::default()
        }
    };
    let envelope = Envelope {
        timestamp: Some(datetime!(2026-11-27 08:00 UTC)),
        fallback_id: FALLBACK_ID.try_into().ok(),
    };
    let seven = datetime!(2026-11-27 07:00 UTC);
    let mut seen = 0;
    for line in fs::read_to_string(path).unwrap().lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = case["name"].as_str().unwrap();
        let encoded = case["value_base64"].as_str().unwrap();
        let value = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, encoded).unwrap();
        let options = match name {
            "fields-of-their-own" => settings("id = 'tweet_id'\ntext = 'tweet'\ncreated_at = 'timestamp'"),
            "reddit-comment" => settings("text = 'body'\ncreated_at = 'created_utc'"),
            _ => ParseOptions::default(),
        };
        let outcome = parse(&value, &envelope, &options);
        let post = |id: &str| matches!(&outcome, Ok(Parsed::Post(post)) if post.id == id);
        let rejected = |reason| matches!(&outcome, Err(reject) if reject.reason == reason);
        let as_expected = match name {
            "jetstream-delete-long-id" => rejected(Reason::BadField),
            "confluent-framed-json" => post("a1"),
            "confluent-framed-avro" => rejected(Reason::SchemaRegistry),
            "connect-envelope" => post("a2"),
            "csv-line-sentiment140" => rejected(Reason::UnknownFormat),
            "plain-with-content" => matches!(&outcome, Ok(Parsed::Post(post)) if post.source == Source::Plain),
            "time-rfc2822" | "time-without-zone" | "time-sql" => {
                matches!(&outcome, Ok(Parsed::Post(post)) if post.created_at == seven)
            }
            // A post dated in the future is rejected later, by the clock.
            "time-far-ahead" => outcome.is_ok(),
            "language-unregistered" => matches!(&outcome, Ok(Parsed::Post(post)) if post.lang == "und"),
            "fields-of-their-own" => post("a15"),
            "reddit-comment" => {
                matches!(&outcome, Ok(Parsed::Post(post)) if post.id == "a17" && post.created_at.get().year() == 2026)
            }
            // Sent as a null value, which does not reach the parser.
            "tombstone" => rejected(Reason::Empty),
            other => panic!("a case without an expectation: {other}"),
        };
        assert!(as_expected, "{name}: {outcome:?}");
        seen += 1;
    }
    assert!(seen >= 14, "{seen} cases");
}

/// Twitter specifies the language of its posts. docs/benchmarks.md reports how often identification agrees.
#[test]
fn identified_languages_agree_with_twitter_s() {
    let Some(folder) = shared("stream") else { return };
    let archive = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let decoder = zstd::stream::read::Decoder::new(fs::File::open(&archive).unwrap()).unwrap();
    let (mut posts, mut identified, mut right) = (0.0, 0.0, 0.0);
    let mut seen = std::collections::HashSet::new();
    for line in BufReader::new(decoder).lines().map_while(Result::ok) {
        let Ok(Parsed::Post(post)) = read(line.as_bytes()) else {
            continue;
        };
        if post.lang == Language::UNDETERMINED || !seen.insert(post.text.clone()) {
            continue;
        }
        posts += 1.0;
        if let Some(language) = Language::identify(&post.text) {
            identified += 1.0;
            right += f64::from(u8::from(language == post.lang));
        }
        if seen.len() == 4_000 {
            break;
        }
    }
    println!(
        "identified {:.1} % of {posts} posts, of these {:.1} % correctly",
        100.0 * identified / posts,
        100.0 * right / identified
    );
    assert!(
        identified / posts > 0.7 && right / identified > 0.95,
        "{identified} of {posts} identified, {right} correctly"
    );
}
