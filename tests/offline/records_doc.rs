//! `docs/records.md` says what the parser does: its tables are made of the records below.
//!
//! `MOODSTREAM_RENEW=1 cargo test --test offline records_doc` writes it anew.

use std::{fmt::Write as _, fs, path::Path};

use moodstream::post::{Envelope, Hashtag, MissingTime, ParseOptions, Parsed, TimeSource, parse};
use time::{format_description::well_known::Rfc3339, macros::datetime};

const HEAD: &str = "# Which records are read

A record is one post or one deletion. With `posts.format = \"auto\"`, the default, its format is found from the keys of its
outermost object; any other value of the setting fixes it. What can't be read is a dead letter with a reason, and is counted in
`moodstream_rejects_total`. `posts.format = \"text\"` takes every record as a text, whatever it looks like.

This page is made by a test of the parser (`tests/offline/records_doc.rs`), so it says what the code does. The records here came
at 2026-11-27 08:00 UTC as offset 14 of partition 3 of the topic `posts`.
";

/// A record and how it is read.
struct Sample {
    record: Vec<u8>,
    /// The settings that are not the default, as the page shows them.
    settings: String,
    options: ParseOptions,
}

fn plain(record: impl Into<Vec<u8>>) -> Sample {
    Sample {
        record: record.into(),
        settings: String::new(),
        options: ParseOptions::default(),
    }
}

fn mapped(record: &str, fields: &str) -> Sample {
    let table: toml::Table = fields.parse().unwrap();
    Sample {
        record: record.into(),
        settings: fields
            .lines()
            .map(|line| format!("`fields.{line}`"))
            .collect::<Vec<_>>()
            .join(", "),
        options: ParseOptions {
            fields: table.try_into().unwrap(),
            ..ParseOptions::default()
        },
    }
}

fn sections() -> Vec<(&'static str, &'static str, Vec<Sample>)> {
    let post = r#"{"id":"a1","text":"so happy","created_at":"2026-11-27T07:00:00Z"}"#;
    let framed = |payload: &[u8]| [&b"\0\0\0\0\x07"[..], payload].concat();
    let strict = ParseOptions {
        missing_time: MissingTime::Reject,
        ..ParseOptions::default()
    };
    let berlin = ParseOptions {
        time_zone: "Europe/Berlin".to_owned().try_into().unwrap(),
        ..ParseOptions::default()
    };
    let with = |options: &ParseOptions, setting: &str, record: &str| Sample {
        record: record.into(),
        settings: format!("`{setting}`"),
        options: options.clone(),
    };
    vec![
        (
            "Formats",
            "The formats of networks and of their tools. Objects with other keys beside these are the same.",
            vec![
                plain(
                    r#"{"id_str":"1146301632000000000","full_text":"so happy #tea","created_at":"Wed Jul 03 06:29:00 +0000 2019","lang":"en","user":{"id_str":"7"}}"#,
                ),
                plain(r#"{"data":{"id":"1146301632000000000","text":"so happy","author_id":"7"}}"#),
                plain(
                    r#"{"id":"tag:search.twitter.com,2005:9","verb":"post","postedTime":"2026-11-27T07:00:00Z","body":"so happy","actor":{"id":"id:twitter.com:7"}}"#,
                ),
                plain(
                    r#"{"did":"did:plc:ann","time_us":1795762800000000,"kind":"commit","commit":{"operation":"create","collection":"app.bsky.feed.post","rkey":"3k","record":{"text":"so happy","createdAt":"2026-11-27T07:00:00Z","langs":["en"]}}}"#,
                ),
                plain(
                    r#"{"id":"100","created_at":"2026-11-27T07:00:00Z","content":"<p>so happy</p>","visibility":"public","language":"en","account":{"id":"7"}}"#,
                ),
                plain(
                    r#"{"event":"update","payload":"{\"id\":\"100\",\"created_at\":\"2026-11-27T07:00:00Z\",\"content\":\"<p>so happy</p>\",\"account\":{\"id\":\"7\"}}"}"#,
                ),
                plain(post),
                plain("so happy"),
            ],
        ),
        (
            "Deletions",
            "They delete the post of the same id, before it or after it.",
            vec![
                plain(r#"{"delete":{"status":{"id_str":"12"}}}"#),
                plain(
                    r#"{"did":"did:plc:ann","time_us":1,"kind":"commit","commit":{"operation":"delete","collection":"app.bsky.feed.post","rkey":"3k"}}"#,
                ),
                plain(r#"{"event":"delete","payload":"100"}"#),
                plain(r#"{"id":"7","deleted":true}"#),
                plain(r#"{"id":"7","text":"so happy","deleted":"2026-11-27T07:00:00Z"}"#),
                plain(r#"{"id":"7","text":"so happy","deleted":false}"#),
                mapped(
                    r#"{"key":"7","state":{"gone":1}}"#,
                    "id = 'key'\ndeleted = 'state.gone'\ntext = 'words'",
                ),
            ],
        ),
        (
            "Plain objects",
            "A text under `text` or `content`; all else may be absent. Without an id the post has the place of its record for one.",
            vec![
                plain(
                    r##"{"id":7,"text":"so #happy","created_at":1795762800,"author_id":"x","lang":"pt-BR","hashtags":["#B"],"repost_of":5,"source":"bluesky"}"##,
                ),
                plain(
                    r#"{"tweet_id":"7","text":"so happy","timestamp":"2026-11-27T07:00:00Z","user":"ann","language":"en"}"#,
                ),
                plain(r#"{"_id":"7","content":"so happy","date":"2026-11-27","author":"ann"}"#),
                plain(r#"{"id":"7","text":"so happy","createdAt":"2026-11-27T07:00:00Z","user_id":5.0,"score":NaN}"#),
                plain(r#"{"id":"7","text":"so happy","created_utc":1795762800.5}"#),
                plain(
                    r#"{"_id":{"$oid":"65a1b2c3d4e5f60718293a4b"},"text":"so happy","created_at":{"$date":"2026-11-27T07:00:00Z"}}"#,
                ),
                plain(r#"{"text":"so happy"}"#),
                with(&strict, "missing_time = 'reject'", r#"{"text":"so happy"}"#),
            ],
        ),
        (
            "Objects of your own",
            "`[posts.fields]` names the path to each field: `name`, `user.name`, `tags[0]`, `['a.b']`.",
            vec![
                mapped(
                    r#"{"tweet_id":"a15","tweet":"so happy","when":{"utc":"2026-11-27T07:00:00Z"}}"#,
                    "id = 'tweet_id'\ntext = 'tweet'\ncreated_at = 'when.utc'",
                ),
                mapped(
                    r#"{"id":"a17","body":"so happy","author":"x","created_utc":1795762800.0}"#,
                    "text = 'body'",
                ),
                mapped(
                    r#"{"k":1,"msg":{"text":"so happy"},"marks":[{"tag":"Tea"}]}"#,
                    "id = 'k'\ntext = '$.msg.text'\nhashtags = 'marks'",
                ),
                plain(r#"{"k":1,"msg":{"text":"so happy"}}"#),
            ],
        ),
        (
            "Times",
            "Without a zone they are in `posts.time_zone` (UTC by default).",
            vec![
                plain(r#"{"id":1,"text":"a","created_at":"2026-11-27T08:00:00+01:00"}"#),
                plain(r#"{"id":1,"text":"a","created_at":"2026-11-27 07:00:00"}"#),
                with(
                    &berlin,
                    "time_zone = 'Europe/Berlin'",
                    r#"{"id":1,"text":"a","created_at":"2026-11-27 08:00:00"}"#,
                ),
                plain(r#"{"id":1,"text":"a","created_at":"2026-11-27 07:00:00.5 UTC"}"#),
                plain(r#"{"id":1,"text":"a","created_at":"2026-11-27T07:00:00+00"}"#),
                plain(r#"{"id":1,"text":"a","created_at":"Fri, 27 Nov 2026 07:00:00 +0000"}"#),
                plain(r#"{"id":1,"text":"a","created_at":"Fri Nov 27 07:00:00 +0000 2026"}"#),
                plain(r#"{"id":1,"text":"a","created_at":"1795762800000"}"#),
                plain(r#"{"id":1,"text":"a","created_at":1795762800000000000}"#),
                plain(r#"{"id":1,"text":"a","created_at":"27/11/2026"}"#),
                plain(r#"{"id":1,"text":"a","created_at":"2201-01-01T00:00:00Z"}"#),
            ],
        ),
        (
            "Framings",
            "What producers wrap around a post is taken off.",
            vec![
                plain(framed(post.as_bytes())),
                plain(framed(b"\x04a2\x10so happy")),
                plain(format!(r#"{{"schema":{{"type":"struct"}},"payload":{post}}}"#)),
                plain(r#"{"schema":{"type":"string"},"payload":"so happy"}"#),
                plain(
                    r#"{"specversion":"1.0","id":"e1","time":"2026-11-27T07:00:00Z","data":{"id":"a1","text":"so happy"}}"#,
                ),
                plain(r#"{"schema":{"type":"bytes"},"payload":"eyJpZCI6ImExIiwidGV4dCI6InNvIGhhcHB5In0="}"#),
                plain(r#"{"schema":null,"payload":null}"#),
                plain(r#"{"before":null,"after":{"id":7,"text":"so happy"},"op":"c","ts_ms":1795762800000}"#),
                plain(r#"{"before":{"id":7},"after":null,"op":"d","ts_ms":1795762800000}"#),
                plain(r#"{"database":"app","table":"posts","type":"insert","data":{"id":7,"text":"so happy"}}"#),
                plain(serde_json::json!(post).to_string()),
                plain(format!("\u{feff}{post}")),
                plain(format!("[{post}]")),
                plain(format!("[{post},{post}]")),
                plain(format!("data: {post}\n\n")),
            ],
        ),
        (
            "Never taken for texts",
            "Structured data that is none of these formats, and what is no text at all.",
            vec![
                plain(r#""0","1467810369","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","ann","so sad""#),
                plain("id,text,label"),
                plain("1,so happy"),
                plain("123,2024-01-01,ann,so happy"),
                plain("null"),
                plain("12345"),
                plain("}"),
                plain(r#""lang": "en","#),
                plain(r#"b'{"text": "so happy"}'"#),
                plain("<post><text>so happy</text></post>"),
                plain(&b"PAR1\x15\x04"[..]),
                plain(r#"{"text":"so happy""#),
                plain(r#"{"alpha":1,"beta":2}"#),
                plain(r#""{\"id\":1,\"text\":\"so hap""#),
                plain(r#"{"limit":{"track":5}}"#),
                plain(&b"\xff\xfes\0o\0"[..]),
                plain(&b"caf\xe9"[..]),
                plain(""),
            ],
        ),
    ]
}

/// A record as it can be shown on a line within a table.
fn shown(record: &[u8]) -> String {
    let text = match std::str::from_utf8(record) {
        Ok(text) => text
            .chars()
            .flat_map(|c| {
                if c.is_control() || c == '\u{feff}' {
                    c.escape_default().collect::<Vec<_>>()
                } else {
                    vec![c]
                }
            })
            .collect(),
        Err(_) => record.escape_ascii().to_string(),
    };
    if text.is_empty() {
        return "(nothing)".to_owned();
    }
    format!("`` {} ``", text.replace('|', "\\|"))
}

fn outcome(sample: &Sample) -> String {
    let envelope = Envelope {
        timestamp: Some(datetime!(2026-11-27 08:00 UTC)),
        fallback_id: "posts/3/14@1795766400000".try_into().ok(),
    };
    match parse(&sample.record, &envelope, &sample.options) {
        Err(reject) => format!("**{}**: {}", reject.reason.as_str(), reject.detail.replace('|', "\\|")),
        Ok(Parsed::Deletion(deletion)) => format!("deletion of {} `{}`", deletion.source, deletion.post_id),
        Ok(Parsed::Post(post)) => {
            let mut line = format!("{} `{}`", post.source, post.id);
            let time = post.created_at.get().format(&Rfc3339).unwrap();
            let from = if post.time_source == TimeSource::Record {
                " (the record's)"
            } else {
                ""
            };
            write!(line, ", {time}{from}, text `{}`", post.text).unwrap();
            if post.lang.as_str() != "und" {
                write!(line, ", lang {}", post.lang).unwrap();
            }
            for (name, id) in [("author", &post.author_id), ("repost of", &post.repost_of)] {
                if let Some(id) = id {
                    write!(line, ", {name} `{id}`").unwrap();
                }
            }
            if !post.hashtags.is_empty() {
                let tags: Vec<&str> = post.hashtags.iter().map(Hashtag::as_str).collect();
                write!(line, ", hashtags {}", tags.join(" ")).unwrap();
            }
            line
        }
    }
}

fn document() -> String {
    let mut page = HEAD.to_owned();
    for (title, words, samples) in sections() {
        write!(page, "\n## {title}\n\n{words}\n\n| record | read as |\n|---|---|\n").unwrap();
        for sample in samples {
            let record = shown(&sample.record);
            let with = match sample.settings.is_empty() {
                true => String::new(),
                false => format!(" with {}", sample.settings),
            };
            writeln!(page, "| {record}{with} | {} |", outcome(&sample)).unwrap();
        }
    }
    page
}

#[test]
fn the_page_on_records_says_what_the_parser_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/records.md");
    let made = document();
    if std::env::var_os("MOODSTREAM_RENEW").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    for (number, (written, made)) in written.lines().zip(made.lines()).enumerate() {
        assert_eq!(
            written,
            made,
            "docs/records.md, line {}: run with MOODSTREAM_RENEW=1",
            number + 1
        );
    }
    assert_eq!(
        written.len(),
        made.len(),
        "docs/records.md is not whole: run with MOODSTREAM_RENEW=1"
    );
}
