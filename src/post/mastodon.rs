//! Mastodon: statuses, and streaming API events as WebSocket messages or server-sent events.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Deletion, Parsed, Reason, Reject, Source,
    draft::{Draft, Input, ListedHashtag, deletion, tag_names},
    html, json,
    json::{List, Object, Scalar},
    list::not_a_post,
    repair,
    shape::{Key, Shape},
};

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    created_at: Scalar<'a>,
    #[serde(borrow, default)]
    content: Scalar<'a>,
    /// The source text, which the server returns instead of `content` when a status is deleted.
    #[serde(borrow, default)]
    text: Scalar<'a>,
    #[serde(borrow, default)]
    spoiler_text: Scalar<'a>,
    #[serde(borrow, default)]
    language: Scalar<'a>,
    #[serde(borrow, default)]
    account: Object<Account<'a>>,
    #[serde(borrow, default)]
    tags: List<Object<ListedHashtag<'a>>>,
    #[serde(borrow, default)]
    reblog: Object<Box<Status<'a>>>,
    #[serde(borrow, default)]
    quote: Object<Box<Quote<'a>>>,
}

#[derive(Deserialize)]
struct Account<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
}

/// Mastodon wraps the quoted status together with the author's approval. Compatible servers put the status here directly.
#[derive(Deserialize)]
struct Quote<'a> {
    #[serde(borrow, default)]
    quoted_status: Object<Box<Status<'a>>>,
    #[serde(borrow, default)]
    content: Scalar<'a>,
}

impl Quote<'_> {
    fn text(&self) -> Option<String> {
        let content = self
            .quoted_status
            .as_ref()
            .map_or(&self.content, |status| &status.content);
        content.as_str().map(html::to_text)
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    event: Scalar<'a>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// Parses one status or streaming event.
pub(super) fn parse(json: &str, shape: Shape, input: Input<'_>) -> Result<Parsed, Reject> {
    if shape.has(Key::Content) || shape.has(Key::Reblog) {
        return status(json, input);
    }
    if shape.has(Key::Event) {
        let message: Event<'_> = json::read(json)?;
        let name = message.event.text("event")?.unwrap_or_default();
        let payload = message.payload.map_or("", RawValue::get);
        // The payload is a string that holds a status as JSON, or an id.
        return match json::read::<Cow<'_, str>>(payload) {
            Ok(inner) => event(name, inner.trim(), input),
            Err(_) => event(name, payload, input),
        };
    }
    Err(match shape.control_message().or_else(|| shape.non_post()) {
        Some(what) => not_a_post(what),
        None if shape.has_all(&[Key::SpoilerText, Key::Text]) => not_a_post("a status source"),
        None => Reject::new(Reason::NoText, "a status without content"),
    })
}

fn event(name: &str, payload: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    match name {
        "update" | "status.update" if payload.is_empty() => Err(Reject::new(
            Reason::NoText,
            format!("the event `{name}` has no payload"),
        )),
        "update" | "status.update" => {
            status(payload, input).or_else(|reject| match repair::repair_surrogates(payload) {
                Some(repaired) => status(&repaired, input),
                None => Err(reject),
            })
        }
        "delete" => {
            let id = Scalar::Text(Cow::Borrowed(payload)).id("payload")?;
            deletion(Source::Mastodon, id, "the event `delete` names no status")
        }
        other => Err(not_a_post(&format!("the event `{other}`"))),
    }
}

fn status(json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let status: Status<'_> = json::read(json)?;
    let Some(id) = status.id.id("id")? else {
        return Err(Reject::new(
            Reason::NoId,
            "content without a status id, possibly a translation or an earlier revision",
        ));
    };
    if status.content.is_absent() && !status.text.is_absent() {
        return Ok(Parsed::Deletion(Deletion {
            source: Source::Mastodon,
            post_id: id,
        }));
    }
    let reblogged = status.reblog.as_ref();
    let original = reblogged.map_or(&status, Box::as_ref);
    let mut text = original.content.text("content")?.map(html::to_text);
    // A status with only media may still have a content warning.
    if text.as_deref().is_none_or(str::is_empty)
        && let Some(spoiler) = original.spoiler_text.as_str().filter(|spoiler| !spoiler.is_empty())
    {
        text = Some(spoiler.to_owned());
    }
    let account = status.account.as_ref();
    Draft {
        source: Source::Mastodon,
        id: Some(id),
        created_at: input.time(&[(&status.created_at, "created_at")])?,
        allow_record_time: false,
        author_id: account
            .map(|account| account.id.id("account.id"))
            .transpose()?
            .flatten(),
        lang: status.language.as_str().or_else(|| original.language.as_str()),
        text: text.map(Cow::Owned),
        repost_of: reblogged
            .map(|original| original.id.id("reblog.id"))
            .transpose()?
            .flatten(),
        quoted_text: original.quote.as_ref().and_then(|quote| quote.text()).map(Cow::Owned),
        hashtags: tag_names(&original.tags),
    }
    .finish(input)
}

/// Whether a record is a block of server-sent events, as the streaming API writes them over HTTP.
pub(super) fn is_server_sent(record: &str) -> bool {
    let mut lines = record.lines().filter(|line| !line.starts_with(':'));
    lines.next().is_some_and(|line| line.starts_with("event:"))
        && lines.next().is_some_and(|line| line.starts_with("data:"))
}

/// Parses a block that holds one server-sent event. Comments (heartbeats) are ignored.
pub(super) fn server_sent(record: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let named = record.lines().filter(|line| line.starts_with("event:")).count();
    if named > 1 {
        return Err(Reject::new(
            Reason::SeveralPosts,
            format!("{named} server-sent events: send one per record"),
        ));
    }
    let field = |name: &str| {
        record
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map_or("", str::trim)
    };
    event(field("event:"), field("data:"), input)
}
