//! The plain format, `{id, text, created_at, ...}`, and bare text.

use std::borrow::Cow;

use serde::Deserialize;

use super::{
    Parsed, Reject, Source, clock,
    draft::{Draft, Input},
    json::{self, List, Scalar},
};

#[derive(Deserialize)]
struct Plain<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    text: Scalar<'a>,
    #[serde(borrow, default)]
    created_at: Scalar<'a>,
    #[serde(borrow, default)]
    author_id: Scalar<'a>,
    #[serde(borrow, default)]
    lang: Scalar<'a>,
    #[serde(borrow, default)]
    hashtags: List<Scalar<'a>>,
    #[serde(borrow, default)]
    repost_of: Scalar<'a>,
    #[serde(borrow, default)]
    quoted_text: Scalar<'a>,
    #[serde(borrow, default)]
    source: Scalar<'a>,
}

/// An object of the plain format. Without an id or a time it takes the envelope's.
pub(super) fn parse(json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let plain: Plain<'_> = json::read(json)?;
    let source = match plain.source.as_str() {
        Some("twitter") => Source::Twitter,
        Some("bluesky") => Source::Bluesky,
        Some("mastodon") => Source::Mastodon,
        _ => Source::Plain,
    };
    let hashtags = plain.hashtags.0.as_ref();
    Draft {
        source,
        id: plain.id.id("id")?.or_else(|| input.envelope.fallback_id.clone()),
        created_at: clock::read(&plain.created_at, "created_at")?.or_else(|| input.envelope.event_time()),
        author_id: plain.author_id.id("author_id")?,
        lang: plain.lang.as_str(),
        text: plain.text.text("text")?.map(Cow::Borrowed),
        repost_of: plain.repost_of.id("repost_of")?,
        quoted_text: plain.quoted_text.as_str().map(Cow::Borrowed),
        hashtags: hashtags.map(|tags| tags.iter().filter_map(Scalar::as_str).collect()),
    }
    .finish(input.limits)
}

/// A record that is nothing but its text.
pub(super) fn text(record: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    Draft {
        source: Source::Plain,
        id: input.envelope.fallback_id.clone(),
        created_at: input.envelope.event_time(),
        author_id: None,
        lang: None,
        text: Some(Cow::Borrowed(record)),
        repost_of: None,
        quoted_text: None,
        hashtags: None,
    }
    .finish(input.limits)
}
