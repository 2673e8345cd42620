//! The fuzzers' seeds: records that the project generates, and known edge cases.

use std::{fs, path::Path};

use moodstream::post::{self, Envelope, ParseOptions, Parsed};
use moodstream_demo::Writer;
use time::{Duration, macros::datetime};

use super::properties::root;

/// Returns the seeds of each target by name.
pub fn all(posts: usize) -> [(&'static str, Vec<Vec<u8>>); 4] {
    [
        ("parse", records(posts)),
        ("clean", texts(posts)),
        ("tokenise", texts(posts)),
        ("settings", settings()),
    ]
}

/// The demo's sample in every wire format, and damaged records. The first byte is the selector of [`super::properties::parse`].
pub fn records(posts: usize) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    let mut add = |choice: u8, record: &[u8]| seeds.push([&[choice], record].concat());
    for record in Writer::new(11)
        .sample(posts, Duration::minutes(30), datetime!(2026-03-01 12:00 UTC))
        .records
    {
        add(b'0', &record);
    }
    for (at, record) in EDGES.iter().enumerate() {
        add(b'0', record.as_bytes());
        add(b'8', record.as_bytes());
        // Small limits, with each format in turn.
        add(b'p' + u8::try_from(at % 8).unwrap_or(0), record.as_bytes());
    }
    for size in [1, 100, 127, 128, 200] {
        add(b'0', format!("{}{}", "[".repeat(size), "]".repeat(size)).as_bytes());
        add(b'0', "{\"retweeted_status\":".repeat(size).as_bytes());
    }
    // Fields at the limits of the tables and one byte beyond, and an id composed of two parts.
    for bytes in [255, 256, 400, 511, 512, 513] {
        let long = "é".repeat(bytes / 2) + &"x".repeat(bytes % 2);
        add(
            b'0',
            format!(
                r##"{{"id":"{long}","text":"#{long}","author_id":"{long}","repost_of":"{long}","lang":"{long}","hashtags":["{long}"],
                    "created_at":"2200-12-31T23:59:59Z"}}"##
            )
            .as_bytes(),
        );
        for operation in ["create", "delete"] {
            add(
                b'0',
                format!(
                    r#"{{"did":"{long}","time_us":1790000000000000,"kind":"commit","commit":{{"operation":"{operation}",
                        "collection":"app.bsky.feed.post","rkey":"{long}","record":{{"text":"{long}","langs":["qzxwvk"]}}}}}}"#
                )
                .as_bytes(),
            );
        }
    }
    add(b'0', b"{\"id\":1,\"text\":\"a\xff\"}");
    add(b'7', &[0xff, 0xfe, 0xfd]);
    seeds
}

/// The texts of those posts, and texts that exercise the steps of cleaning.
pub fn texts(posts: usize) -> Vec<Vec<u8>> {
    let envelope = Envelope {
        timestamp: Some(datetime!(2026-03-01 12:00 UTC)),
        fallback_id: "posts/0/0@0".try_into().ok(),
    };
    let text = |record: Vec<u8>| match post::parse(record.get(1..)?, &envelope, &ParseOptions::default()) {
        Ok(Parsed::Post(post)) => Some(post.text.as_bytes().to_vec()),
        _ => None,
    };
    let written = records(posts).into_iter().filter_map(text);
    let edges = TEXTS.iter().map(|text| text.as_bytes().to_vec());
    let long = TEXTS.iter().map(|text| text.repeat(40).into_bytes());
    written.chain(edges).chain(long).collect()
}

/// The example settings unchanged, with every setting enabled, and section by section; and variables.
pub fn settings() -> Vec<Vec<u8>> {
    let example = fs::read_to_string(root().join("deploy/moodstream.example.toml")).unwrap_or_default();
    let in_force: String = example
        .lines()
        .map(|line| {
            let bare = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
            format!("{}\n", bare.unwrap_or(line))
        })
        .collect();
    let settings: String = in_force
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    let sections = settings.split("\n\n").map(|section| section.as_bytes().to_vec());
    let edges = SETTINGS.iter().map(|text| text.as_bytes().to_vec());
    [example.clone().into_bytes(), settings.clone().into_bytes()]
        .into_iter()
        .chain(sections)
        .chain(edges)
        .collect()
}

/// Writes each target's seeds to files in a folder of its name.
pub fn write(folder: &Path, posts: usize) -> std::io::Result<()> {
    for (target, seeds) in all(posts) {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        for (at, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{at:05}")), seed)?;
        }
        println!("{} seeds in {}", seeds.len(), folder.display());
    }
    Ok(())
}

const EDGES: &[&str] = &[
    "",
    " \r\n",
    "\u{feff}{\"id\":1,\"text\":\"behind a byte order mark\"}",
    "\"{\\\"id\\\":1,\\\"text\\\":\\\"encoded twice\\\"}\"",
    r#"{"id":1,"text":"a \ud83d b \ude00 c \ud83d\ude00 \ud83d\ud83d\ude00"}"#,
    r##"{"id":"1\u0000","text":"a\u0000","author_id":"x\u0000","created_at":1704164645123,"hashtags":["b\u0000"],"quoted_text":"\u0000"}"##,
    r#"{"id":1e400,"text":"a","created_at":-1}"#,
    r#"{"id":12345678901234567890123456789012345678901234567890,"text":"a","created_at":9223372036854775807}"#,
    r#"{"delete":{"status":{"id":1,"id_str":"1","user_id":2},"timestamp_ms":"1704164645000"}}"#,
    r#"{"event":"delete","payload":"1"}"#,
    "event: update\ndata: {\"id\":\"1\",\"created_at\":\"2024-01-02T03:04:05Z\",\"content\":\"<p>a&#0;<br/>b</p>\",\"account\":{\"id\":\"2\"}}\n",
    r#"{"event":"update","payload":"{\"id\":\"1\",\"created_at\":\"2024-01-02T03:04:05Z\",\"content\":\"<p>a &lt;<a href='x'>b</a><span class=\\\"invisible\\\">c</span></p>\",\"account\":{\"id\":\"2\"}}"}"#,
    r#"{"did":"did:plc:a","time_us":1704164645000000,"kind":"commit","commit":{"operation":"delete","collection":"app.bsky.feed.post","rkey":"k"}}"#,
    r#"{"data":{"id":"1","text":"RT @a: b","created_at":"2024-01-02T03:04:05.678Z","referenced_tweets":[{"type":"retweeted","id":"2"}]},"includes":{"tweets":[{"id":"2","text":"the whole of b"}]}}"#,
    r#"{"statuses":[{"id_str":"1","text":"a","created_at":"Tue Jan 02 03:04:05 +0000 2024"}]}"#,
    r#"[{"id":1,"text":"a"},{"id":2,"text":"b"}]"#,
    r#"{"id":"tag:x:1","verb":"share","postedTime":"2024-01-02T03:04:05Z","body":"a","object":{"id":"tag:x:2","body":"b"}}"#,
    r#"{"created_at":"Tue Feb 29 23:59:60 +0000 2023","id_str":"1","text":"a","extended_tweet":{"full_text":"b &amp;lt; c","entities":{"hashtags":[{"text":"D"}]}}}"#,
];

const TEXTS: &[&str] = &[
    "RT @ann: RT @bob@x.org : So happy",
    "@ann@mastodon.social and @bob.bsky.social said https://t.co/AbC123, www.example.com pic.twitter.com/x1",
    "&amp;amp;amp;lt;3 &#x1F600; &hearts; &semi&semi; &#0;&#xD800; &#1114112; &nosuch;",
    "\u{feff}a\u{200b}b\u{0}c\u{ad}d\u{202e}e \t\r\n f\u{2028}g cafe\u{301}",
    "👨‍👩‍👧 ❤️‍🔥 🏳️‍🌈 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 👍🏽 می‌خواهم 🇫🇷🇫",
    "I don't love it, can't stand it and won't go; sooooo happyyyyyy :( <3 xD",
    "ほんとうに嬉しい ＠ann ＃お茶 한국어 ภาษาไทย हिन्दी",
    "<s></s><mask><pad> [CLS] [SEP] [UNK] ##ness ▁happy",
    "İıſßΣς ﷺ ㎒ ﬁ Å\u{212b} \u{1d160} e\u{301}\u{327}\u{323}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

const SETTINGS: &[&str] = &[
    "[kafka]\ntopics = [\"posts\"]\n[model]\npath = \"m\"\n\0KAFKA__GROUP=7\0WINDOW__MAX_POSTS=9\0POSTS__LANGUAGES=en,de",
    "\0KAFKA__PROPERTIES__SASL_PASSWORD=123\0DATABASE__URL=postgres://a:b@c/d?sslmode=require\0LOG__LEVEL=debug",
    "[kafka]\ntopics = [\"^posts\\\\..*\", \"x\"]\nproperties = { \"acks\" = 1 }\n[model]\npath = \"m\"",
    "[[subjects]]\nname = \"t\"\nkeywords = [\"flat white\", \"コーヒー\", \"c++\"]\nhashtags = [\"#Tea\"]\nregex = '\\b(bus|train)s?\\b.*(late|cancell?ed)'",
    "[[subjects]]\nname = \"t\"\nregex = '(a{1,99}){1,99}'\n[posts]\nonly_tracked = true\nlanguages = [\"pt-BR\", \"und\"]",
    "store.retention_days = 30\nhttp.listen = \"0.0.0.0:1\"\nlog = { level = \"info\", format = \"json\" }",
    "database = \"postgres://me@db/x\"",
    "[window]\nmax_posts = 0x10\nmax_delay_ms = 1_000\n[shutdown]\ndeadline_seconds = -1",
    "a.b.c = 1979-05-27T07:32:00Z\n\"\\u00e9\" = '''x'''\ninf = nan",
];
