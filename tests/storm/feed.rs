//! A stream of records generated from a seed. Each record's meaning is recorded when it is generated, never parsed from its
//! bytes.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::json;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

pub const PARTITIONS: i32 = 4;
/// Settings of the service that the stream is made for.
pub const LANGUAGES: [&str; 2] = ["en", "es"];
pub const RETENTION_DAYS: u32 = 30;
pub const MAX_BYTES: usize = 8_192;
/// Tracked subjects, each with one keyword.
pub const SUBJECTS: [(&str, &str); 3] = [("drinks", "coffee"), ("rain", "umbrella"), ("work", "meeting")];

/// What identifies a post: source and id.
pub type Key = (&'static str, String);

/// A post as its row should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    pub key: Key,
    pub created_at: OffsetDateTime,
    pub lang: &'static str,
    pub text: String,
    pub subjects: Vec<String>,
    pub hashtags: Vec<String>,
}

/// What a record means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    Post(Post),
    Deletion(Key),
    Filtered,
    Late,
    Rejected(&'static str),
}

/// A record.
#[derive(Debug, Clone)]
pub struct Line {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    pub meaning: Meaning,
}

const MOODS: [&str; 8] = [
    "i am so happy about",
    "this makes me furious:",
    "i miss",
    "what a surprise,",
    "scared of",
    "nothing but",
    "qué alegría,",
    "no more",
];
const THINGS: [&str; 8] = [
    "coffee",
    "my umbrella",
    "the meeting",
    "the sea",
    "coffee in the meeting",
    "monday",
    "an umbrella ☔ of one's own",
    "\"quotes\" and \\ slashes",
];

/// How far back copies and deletions reach.
const MEMORY: usize = 400;

pub struct Feed {
    random: Rng,
    now: OffsetDateTime,
    number: u64,
    recent: Vec<Line>,
}

impl Feed {
    /// Creates a feed whose event times are before `now`, so that the retention's cutoff stays the same during the storm.
    pub fn new(seed: u64, now: OffsetDateTime) -> Self {
        Self {
            // A different sequence of random numbers than the plan's.
            random: Rng::with_seed(seed ^ 0x5eed_0ff1_ce00),
            now: now.replace_nanosecond(0).unwrap(),
            number: 0,
            recent: Vec::new(),
        }
    }

    /// The next records.
    pub fn take(&mut self, count: usize) -> Vec<Line> {
        (0..count).map(|_| self.line()).collect()
    }

    /// A record that goes to the dead-letter topic.
    pub fn poison(&mut self) -> Line {
        self.number += 1;
        let partition = self.partition();
        let (payload, reason) = self.reject();
        Line {
            partition,
            key: None,
            payload,
            meaning: Meaning::Rejected(reason),
        }
    }

    fn line(&mut self) -> Line {
        self.number += 1;
        let recent = !self.recent.is_empty();
        match self.random.u32(0..100) {
            0..12 if recent => self.copy(),
            12..16 if recent => self.edited(),
            16..28 => self.deletion(),
            28..32 => self.odd("fr", Duration::ZERO, Meaning::Filtered),
            32..34 => self.odd("en", Duration::days(i64::from(RETENTION_DAYS) + 60), Meaning::Late),
            34..41 => self.poison(),
            _ => self.post(),
        }
    }

    fn partition(&mut self) -> i32 {
        self.random.i32(0..PARTITIONS)
    }

    /// Minutes, hours or days ago.
    fn time(&mut self) -> OffsetDateTime {
        let seconds = match self.random.u32(0..20) {
            0 => self.random.i64(0..6 * 86_400),
            1..4 => self.random.i64(0..7_200),
            _ => self.random.i64(0..600),
        };
        self.now - Duration::seconds(seconds)
    }

    fn post(&mut self) -> Line {
        let partition = self.partition();
        let (key, body) = self.identity(self.number);
        let post = self.content(key);
        let line = Line {
            partition,
            key: self.random.bool().then(|| post.key.1.clone().into_bytes()),
            payload: body.write(&post, &self.number.to_string()),
            meaning: Meaning::Post(post),
        };
        if self.recent.len() == MEMORY {
            self.recent.remove(0);
        }
        self.recent.push(line.clone());
        line
    }

    /// The number decides the source and the wire format.
    fn identity(&self, number: u64) -> (Key, Body) {
        match number % 5 {
            0 | 1 => (("twitter", number.to_string()), Body::Twitter),
            2 => (("twitter", number.to_string()), Body::Plain),
            3 => (
                (
                    "bluesky",
                    format!("at://did:plc:a{}/app.bsky.feed.post/r{number}", number % 7),
                ),
                Body::Jetstream,
            ),
            _ => (("plain", format!("p-{number}")), Body::Plain),
        }
    }

    fn content(&mut self, key: Key) -> Post {
        let (mood, thing) = (MOODS[self.random.usize(..8)], THINGS[self.random.usize(..8)]);
        let mut text = format!("{mood} {thing}");
        // The others have identical texts, as reposts do.
        if self.random.u32(0..3) > 0 {
            text = format!("{text} {}", self.number);
        }
        let mut hashtags = Vec::new();
        if self.random.bool() {
            let tag = format!("tag{}", self.random.u32(0..5));
            text = format!("{text} #{tag}");
            hashtags.push(tag);
        }
        let subjects = SUBJECTS.iter().filter(|(_, keyword)| text.contains(keyword));
        Post {
            key,
            created_at: self.time(),
            lang: LANGUAGES[self.random.usize(..2)],
            subjects: subjects.map(|(name, _)| (*name).to_owned()).collect(),
            text,
            hashtags,
        }
    }

    /// The same bytes again, usually in the partition of the first copy, as with producers that use keys.
    fn copy(&mut self) -> Line {
        let mut line = self.recent[self.random.usize(..self.recent.len())].clone();
        if self.random.u32(0..4) == 0 {
            line.partition = self.partition();
        }
        line
    }

    /// The same post with another text, time and language.
    fn edited(&mut self) -> Line {
        let mut line = self.recent[self.random.usize(..self.recent.len())].clone();
        let Meaning::Post(post) = &line.meaning else {
            return line;
        };
        let key = post.key.clone();
        let number: u64 = key
            .1
            .rsplit(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let (_, body) = self.identity(number);
        let post = self.content(key);
        line.payload = body.write(&post, &number.to_string());
        line.meaning = Meaning::Post(post);
        line
    }

    /// The deletion of an earlier post, of a later one, or of one that never comes.
    fn deletion(&mut self) -> Line {
        let number = match self.random.u32(0..10) {
            0 => self.number + self.random.u64(1..60),
            1 => self.number + 1_000_000_000,
            _ => self.number.saturating_sub(self.random.u64(1..200)),
        };
        // Plain posts have no deletions.
        let number = if number % 5 == 4 { number + 1 } else { number };
        let (key, _) = self.identity(number);
        let payload = if key.0 == "twitter" {
            json!({"delete": {"status": {"id": number, "id_str": key.1, "user_id": 1}, "timestamp_ms": self.number.to_string()}})
        } else {
            json!({"did": format!("did:plc:a{}", number % 7), "time_us": self.number, "kind": "commit", "commit":
                {"rev": "r", "operation": "delete", "collection": "app.bsky.feed.post", "rkey": format!("r{number}")}})
        };
        let first = self
            .recent
            .iter()
            .find(|line| matches!(&line.meaning, Meaning::Post(post) if post.key == key));
        let home = first.map(|line| line.partition);
        let stray = self.random.u32(0..3) == 0;
        Line {
            partition: home.filter(|_| !stray).unwrap_or_else(|| self.partition()),
            key: None,
            payload: payload.to_string().into_bytes(),
            meaning: Meaning::Deletion(key),
        }
    }

    /// A post that is filtered or late.
    fn odd(&mut self, lang: &'static str, age: Duration, meaning: Meaning) -> Line {
        let post = self.content(("twitter", format!("odd-{}", self.number)));
        let post = Post {
            lang,
            created_at: post.created_at - age,
            ..post
        };
        Line {
            partition: self.partition(),
            key: None,
            payload: Body::Plain.write(&post, &self.number.to_string()),
            meaning,
        }
    }

    /// A record that is rejected, and the reason; every reason occurs.
    fn reject(&mut self) -> (Vec<u8>, &'static str) {
        let n = self.number;
        let at = self.time().format(&Rfc3339).unwrap();
        let text =
            |text: &str| json!({"id": format!("x{n}"), "text": text, "lang": "en", "created_at": at}).to_string();
        let (bytes, reason) = match self.random.u32(0..16) {
            0 => (String::new(), "empty"),
            1 => (
                "x".repeat(MAX_BYTES + 1 + usize::try_from(n % 100).unwrap()),
                "too_large",
            ),
            2 => return ([&b"\xff\xfe "[..], n.to_string().as_bytes()].concat(), "not_utf8"),
            3 => (format!("{{\"id\":\"{n}\", broken"), "not_json"),
            4 => (format!("{}{n}{}", "[".repeat(300), "]".repeat(300)), "too_deep"),
            5 => (json!({"colour": "green", "number": n}).to_string(), "unknown_format"),
            6 => (json!({"limit": {"track": n}}).to_string(), "not_a_post"),
            7 => (format!("[{},{}]", text("one"), text("two")), "several_posts"),
            8 => (
                json!({"text": format!("no id {n}"), "user": {"id": 1}, "truncated": false}).to_string(),
                "no_id",
            ),
            9 => (text("   "), "no_text"),
            10 => (
                json!({"id": n, "text": "when?", "created_at": "9999-99-99"}).to_string(),
                "bad_time",
            ),
            11 => (
                json!({"id": {"a": n}, "text": "what?", "created_at": at}).to_string(),
                "bad_field",
            ),
            12 => (
                json!({"id": n, "text": "not yet", "created_at": "2199-01-01T00:00:00Z"}).to_string(),
                "future_time",
            ),
            // The id is built from both, each of which is short enough.
            13 => (
                json!({"did": format!("{n:0>400}"), "time_us": 1, "kind": "commit", "commit": {
                    "operation": "delete", "collection": "app.bsky.feed.post", "rkey": "k".repeat(400)}})
                .to_string(),
                "bad_field",
            ),
            // Two words of the test model: its session fails on the first, and the scores of the second are NaN.
            14 => (text(&format!("POISON {n}")), "model"),
            _ => (text(&format!("NANNAN {n}")), "model"),
        };
        (bytes.into_bytes(), reason)
    }
}

/// The wire formats used.
#[derive(Debug, Clone, Copy)]
enum Body {
    Twitter,
    Plain,
    Jetstream,
}

impl Body {
    fn write(self, post: &Post, number: &str) -> Vec<u8> {
        let (source, id) = &post.key;
        let at = post.created_at.format(&Rfc3339).unwrap();
        let value = match self {
            Self::Twitter => json!({
                "created_at": post.created_at.format(format_description!(
                    "[weekday repr:short] [month repr:short] [day] [hour]:[minute]:[second] +0000 [year]")).unwrap(),
                "id_str": id, "text": post.text, "lang": post.lang, "user": {"id_str": "7"}, "truncated": false,
            }),
            Self::Plain => json!({
                "id": id, "source": source, "text": post.text, "lang": post.lang, "created_at": at, "author_id": "7",
            }),
            Self::Jetstream => json!({
                "did": id.split('/').nth(2).unwrap(), "time_us": 1, "kind": "commit", "commit": {
                    "rev": "r", "operation": "create", "collection": "app.bsky.feed.post", "rkey": format!("r{number}"),
                    "record": {"$type": "app.bsky.feed.post", "text": post.text, "createdAt": at, "langs": [post.lang]},
                },
            }),
        };
        value.to_string().into_bytes()
    }
}

/// The number of lines of each meaning.
pub fn count(lines: &[Line]) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let name = match line.meaning {
            Meaning::Post(_) => "posts",
            Meaning::Deletion(_) => "deletions",
            Meaning::Filtered => "filtered",
            Meaning::Late => "late",
            Meaning::Rejected(_) => "rejected",
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[test]
fn the_same_seed_makes_the_same_stream() {
    let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
    let bytes = |seed| -> Vec<Vec<u8>> {
        Feed::new(seed, now)
            .take(2_000)
            .into_iter()
            .map(|line| line.payload)
            .collect()
    };
    assert_eq!(bytes(3), bytes(3));
    assert_ne!(bytes(3), bytes(4));
    assert_eq!(count(&Feed::new(3, now).take(2_000)).len(), 5, "every meaning occurs");
}
