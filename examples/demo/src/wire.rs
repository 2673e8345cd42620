//! Encodes drafts in the platforms' wire formats, as their servers send them.

use fastrand::Rng;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use crate::draft::{Draft, Relation, Wire};

/// Encodes a post in its wire format.
pub(crate) fn encode(draft: &Draft, rng: &mut Rng) -> Vec<u8> {
    let value = match draft.wire {
        Wire::TwitterV1 => twitter_v1(draft),
        Wire::TwitterV2 => twitter_v2(draft, rng),
        Wire::ActivityStreams => activity(draft),
        Wire::Jetstream => jetstream(draft),
        Wire::Mastodon => mastodon(draft, rng),
        Wire::Plain => {
            json!({ "id": id(draft), "text": draft.text, "created_at": rfc3339(draft.at), "lang": draft.lang,
            "author_id": format!("user-{}", draft.author) })
        }
        Wire::Text => return draft.text.replace('\n', " ").into_bytes(),
    };
    value.to_string().into_bytes()
}

/// Returns the post's deletion notice, if its format has one.
pub(crate) fn deletion(draft: &Draft) -> Option<Vec<u8>> {
    let id = id(draft);
    let value = match draft.wire {
        Wire::TwitterV1 => json!({ "delete": {
            "status": { "id": number(&id), "id_str": id, "user_id": draft.author, "user_id_str": draft.author.to_string() },
            "timestamp_ms": millis(draft.at).to_string(),
        } }),
        Wire::Jetstream => {
            json!({ "did": did(draft.author), "time_us": micros(draft.at) + 60_000_000, "kind": "commit",
            "commit": { "rev": id, "operation": "delete", "collection": "app.bsky.feed.post", "rkey": id } })
        }
        Wire::Mastodon => json!({ "event": "delete", "payload": id }),
        Wire::TwitterV2 | Wire::ActivityStreams | Wire::Plain | Wire::Text => return None,
    };
    Some(value.to_string().into_bytes())
}

/// An id as the platform creates it. It contains the serial number, so posts that were moved in time keep distinct ids.
fn id(draft: &Draft) -> String {
    let serial = draft.serial;
    match draft.wire {
        Wire::TwitterV1 | Wire::TwitterV2 | Wire::ActivityStreams => {
            // Snowflake: milliseconds since 2010-11-04 above 22 bits of machine and sequence.
            (((millis(draft.at) - 1_288_834_974_657).max(0) as u64) << 22 | (serial & 0x3f_ffff)).to_string()
        }
        Wire::Mastodon => ((millis(draft.at) as u64) << 16 | (serial & 0xffff)).to_string(),
        Wire::Jetstream => tid((micros(draft.at) as u64) << 10 | (serial & 0x3ff)),
        Wire::Plain | Wire::Text => format!("sample-{}-{serial}", millis(draft.at)),
    }
}

/// AT Protocol's timestamp identifier: 13 digits of its sortable base 32.
fn tid(mut value: u64) -> String {
    const DIGITS: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";
    let mut digits = [b'2'; 13];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(value & 31) as usize];
        value >>= 5;
    }
    digits.iter().copied().map(char::from).collect()
}

fn twitter_v1(draft: &Draft) -> Value {
    let id = id(draft);
    let hashtags: Vec<Value> = hashtags(&draft.text).map(|tag| json!({ "text": tag })).collect();
    let escaped = draft
        .text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let mut status = json!({
        "created_at": twitter_time(draft.at), "id": number(&id), "id_str": id, "text": escaped, "truncated": false,
        "source": "<a href=\"https://example.org\" rel=\"nofollow\">Sample Client</a>",
        "user": { "id": draft.author, "id_str": draft.author.to_string(), "screen_name": handle(draft.author) },
        "is_quote_status": false, "entities": { "hashtags": hashtags, "urls": [], "user_mentions": [] },
        "lang": draft.lang, "timestamp_ms": millis(draft.at).to_string(),
    });
    match &draft.relation {
        Relation::RepostOf(original) => {
            let text = format!("RT @{}: {escaped}", handle(original.author));
            status["text"] = json!(shortened(&text));
            status["retweeted_status"] = twitter_v1(original);
        }
        Relation::Quotes(quoted) => {
            status["is_quote_status"] = json!(true);
            status["quoted_status_id_str"] = json!(self::id(quoted));
            status["quoted_status"] = twitter_v1(quoted);
        }
        Relation::Original => {}
    }
    if !matches!(draft.relation, Relation::RepostOf(_)) && draft.text.chars().count() > 140 {
        status["text"] = json!(shortened(&escaped));
        status["truncated"] = json!(true);
        status["extended_tweet"] = json!({ "full_text": escaped, "entities": { "hashtags": hashtags } });
    }
    status
}

fn twitter_v2(draft: &Draft, rng: &mut Rng) -> Value {
    let mut data = tweet_v2(draft);
    let (kind, referenced) = match &draft.relation {
        Relation::Original => {
            let bare = rng.u8(..3) == 0;
            return if bare {
                data
            } else {
                json!({ "data": data, "includes": { "users": [user_v2(draft.author)] } })
            };
        }
        Relation::RepostOf(original) => {
            data["text"] = json!(shortened(&format!(
                "RT @{}: {}",
                handle(original.author),
                original.text
            )));
            if let Some(fields) = data.as_object_mut() {
                fields.remove("note_tweet");
            }
            ("retweeted", original)
        }
        Relation::Quotes(quoted) => ("quoted", quoted),
    };
    data["referenced_tweets"] = json!([{ "type": kind, "id": id(referenced) }]);
    json!({ "data": data, "includes": {
        "users": [user_v2(draft.author), user_v2(referenced.author)], "tweets": [tweet_v2(referenced)],
    } })
}

fn tweet_v2(draft: &Draft) -> Value {
    let id = id(draft);
    let hashtags: Vec<Value> = hashtags(&draft.text).map(|tag| json!({ "tag": tag })).collect();
    let mut tweet = json!({
        "id": id, "text": draft.text, "created_at": rfc3339(draft.at), "author_id": draft.author.to_string(),
        "lang": draft.lang, "edit_history_tweet_ids": [id], "entities": { "hashtags": hashtags },
    });
    if draft.text.chars().count() > 280 {
        tweet["text"] = json!(draft.text.chars().take(277).chain("...".chars()).collect::<String>());
        tweet["note_tweet"] = json!({ "text": draft.text });
    }
    tweet
}

fn user_v2(author: u32) -> Value {
    json!({ "id": author.to_string(), "username": handle(author), "name": handle(author) })
}

fn activity(draft: &Draft) -> Value {
    let id = id(draft);
    let link = format!("http://twitter.com/{}/statuses/{id}", handle(draft.author));
    let hashtags: Vec<Value> = hashtags(&draft.text).map(|tag| json!({ "text": tag })).collect();
    let mut activity = json!({
        "id": format!("tag:search.twitter.com,2005:{id}"), "objectType": "activity", "verb": "post",
        "actor": { "objectType": "person", "id": format!("id:twitter.com:{}", draft.author),
            "preferredUsername": handle(draft.author) },
        "postedTime": millis_rfc3339(draft.at), "body": draft.text, "link": link, "twitter_lang": draft.lang,
        "object": { "objectType": "note", "id": format!("object:search.twitter.com,2005:{id}"), "summary": draft.text,
            "link": link, "postedTime": millis_rfc3339(draft.at) },
        "twitter_entities": { "hashtags": hashtags },
    });
    if let Relation::RepostOf(original) = &draft.relation {
        activity["verb"] = json!("share");
        activity["body"] = json!(shortened(&format!(
            "RT @{}: {}",
            handle(original.author),
            original.text
        )));
        activity["object"] = self::activity(original);
    }
    activity
}

fn jetstream(draft: &Draft) -> Value {
    let rkey = id(draft);
    json!({ "did": did(draft.author), "time_us": micros(draft.at), "kind": "commit", "commit": {
        "rev": rkey, "operation": "create", "collection": "app.bsky.feed.post", "rkey": rkey,
        "record": { "$type": "app.bsky.feed.post", "createdAt": millis_rfc3339(draft.at), "langs": [draft.lang],
            "text": draft.text },
        "cid": format!("bafyreisample{}", draft.serial),
    } })
}

fn mastodon(draft: &Draft, rng: &mut Rng) -> Value {
    let status = mastodon_status(draft);
    // A streaming server wraps the status, as a string, into an event.
    if rng.bool() {
        json!({ "stream": ["public"], "event": "update", "payload": status.to_string() })
    } else {
        status
    }
}

fn mastodon_status(draft: &Draft) -> Value {
    let id = id(draft);
    let reblog = match &draft.relation {
        Relation::RepostOf(original) => mastodon_status(original),
        Relation::Original | Relation::Quotes(_) => Value::Null,
    };
    let tags: Vec<Value> = hashtags(&draft.text)
        .map(|tag| json!({ "name": tag.to_lowercase() }))
        .collect();
    json!({
        "id": id, "created_at": millis_rfc3339(draft.at), "language": draft.lang, "visibility": "public",
        "sensitive": false, "spoiler_text": "", "uri": format!("https://social.example/users/{}/statuses/{id}", draft.author),
        "content": html(&draft.text), "reblog": reblog, "tags": tags, "mentions": [], "media_attachments": [],
        "account": { "id": draft.author.to_string(), "username": handle(draft.author), "acct": handle(draft.author) },
    })
}

/// The text as Mastodon renders it: paragraphs, escaped, hashtags and links as anchors.
fn html(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let words = paragraph.split(' ').map(|word| {
            let escaped = html_escape::encode_text(word).into_owned();
            match word.split_at_checked(1) {
                Some(("#", tag)) => format!(
                    "<a href=\"https://social.example/tags/{tag}\" class=\"mention hashtag\" rel=\"tag\">#<span>{tag}</span></a>"
                ),
                _ if word.starts_with("https://") => format!(
                    "<a href=\"{escaped}\" rel=\"nofollow noopener\"><span class=\"invisible\">https://</span><span>{}</span></a>",
                    &escaped["https://".len()..]
                ),
                _ => escaped,
            }
        });
        format!("<p>{}</p>", words.collect::<Vec<_>>().join(" "))
    });
    paragraphs.collect()
}

fn hashtags(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix('#'))
        .filter(|tag| !tag.is_empty())
}

/// Shortens a text as Twitter's early streams did for old clients.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 140 {
        text.to_owned()
    } else {
        text.chars().take(139).chain(['…']).collect()
    }
}

fn handle(author: u32) -> String {
    const FIRST: [&str; 16] = [
        "lena", "tomasz", "mira", "jonas", "aiko", "yusuf", "ines", "paulo", "noor", "elif", "sari", "marco", "zoe",
        "amir", "hana", "luis",
    ];
    format!("{}_{author}", FIRST[author as usize % FIRST.len()])
}

fn did(author: u32) -> String {
    format!("did:plc:{}", tid(u64::from(author).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A numeric id as a JSON number, also above 2^53.
fn number(id: &str) -> Value {
    id.parse::<u64>().map_or(Value::Null, Value::from)
}

fn millis(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1_000 + i64::from(at.millisecond())
}

fn micros(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1_000_000 + i64::from(at.microsecond())
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0)
        .unwrap_or(at)
        .format(&Rfc3339)
        .unwrap_or_default()
}

fn millis_rfc3339(at: OffsetDateTime) -> String {
    at.format(format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    ))
    .unwrap_or_default()
}

fn twitter_time(at: OffsetDateTime) -> String {
    at.format(format_description!(
        "[weekday repr:short] [month repr:short] [day] [hour]:[minute]:[second] +0000 [year]"
    ))
    .unwrap_or_default()
}
