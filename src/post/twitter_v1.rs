//! Twitter API v1.1: statuses of streams and responses, deletion notices, control messages.
//!
//! A status longer than 140 characters has its full text in `full_text` (extended mode), in
//! `extended_tweet.full_text` next to a truncated `text` (compatibility mode, used by the streams), or in `text`.

use serde::Deserialize;

use super::{
    Id, Parsed, Reject, Source,
    draft::{Draft, Entities, Input, deletion, twitter_unescape},
    json::{self, Object, Scalar, id_of},
    list::not_a_post,
    shape::{Key, Shape},
};

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow, default)]
    id_str: Scalar<'a>,
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    created_at: Scalar<'a>,
    #[serde(borrow, default)]
    timestamp_ms: Scalar<'a>,
    #[serde(borrow, default)]
    text: Scalar<'a>,
    #[serde(borrow, default)]
    full_text: Scalar<'a>,
    #[serde(borrow, default)]
    lang: Scalar<'a>,
    #[serde(borrow, default)]
    user: Object<User<'a>>,
    #[serde(borrow, default)]
    entities: Object<Entities<'a>>,
    #[serde(borrow, default)]
    extended_tweet: Object<Extended<'a>>,
    #[serde(borrow, default)]
    retweeted_status: Object<Box<Status<'a>>>,
    #[serde(borrow, default)]
    quoted_status: Object<Box<Status<'a>>>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow, default)]
    id_str: Scalar<'a>,
    #[serde(borrow, default)]
    id: Scalar<'a>,
}

#[derive(Deserialize)]
struct Extended<'a> {
    #[serde(borrow, default)]
    full_text: Scalar<'a>,
    #[serde(borrow, default)]
    entities: Object<Entities<'a>>,
}

impl Status<'_> {
    fn post_id(&self) -> Result<Option<Id>, Reject> {
        id_of(&self.id_str, &self.id, "id")
    }

    /// Returns the full text and the entities that belong to it.
    fn text_and_entities(&self) -> Result<(Option<&str>, Option<&Entities<'_>>), Reject> {
        if let Some(extended) = self.extended_tweet.as_ref()
            && let Some(text) = extended.full_text.text("extended_tweet.full_text")?
        {
            return Ok((Some(text), extended.entities.as_ref().or(self.entities.as_ref())));
        }
        let text = match self.full_text.text("full_text")? {
            Some(text) => Some(text),
            None => self.text.text("text")?,
        };
        Ok((text, self.entities.as_ref()))
    }
}

#[derive(Deserialize)]
struct Notice<'a> {
    #[serde(borrow, default)]
    delete: Object<Delete<'a>>,
}

#[derive(Deserialize)]
struct Delete<'a> {
    #[serde(borrow, default)]
    status: Object<Deleted<'a>>,
}

#[derive(Deserialize)]
struct Deleted<'a> {
    #[serde(borrow, default)]
    id_str: Scalar<'a>,
    #[serde(borrow, default)]
    id: Scalar<'a>,
}

/// Parses one object of the v1.1 API.
pub(super) fn parse(json: &str, shape: Shape, input: Input<'_>) -> Result<Parsed, Reject> {
    if shape.has(Key::Recipient) {
        return Err(not_a_post("a direct message"));
    }
    if shape.has_any(&[Key::Text, Key::FullText, Key::ExtendedTweet, Key::RetweetedStatus]) {
        return status(json, input);
    }
    if shape.has(Key::Delete) {
        return notice(json);
    }
    if let Some(what) = shape.control_message().or_else(|| shape.non_post()) {
        return Err(not_a_post(what));
    }
    if shape.has(Key::Event) {
        return Err(not_a_post("a user stream event"));
    }
    status(json, input)
}

fn status(json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let status: Status<'_> = json::read(json)?;
    // A retweet's own text is the original's, prefixed with `RT @name:` and truncated.
    let original = status.retweeted_status.as_ref();
    let (text, entities) = original.map_or(&status, Box::as_ref).text_and_entities()?;
    let quoted = status
        .quoted_status
        .as_ref()
        .or_else(|| original.and_then(|original| original.quoted_status.as_ref()));
    let quoted_text = match quoted {
        Some(quoted) => quoted.text_and_entities()?.0,
        None => None,
    };
    let author_id = match status.user.as_ref() {
        Some(user) => id_of(&user.id_str, &user.id, "user.id")?,
        None => None,
    };
    let created_at = input.time(&[
        (&status.created_at, "created_at"),
        (&status.timestamp_ms, "timestamp_ms"),
    ])?;
    Draft {
        source: Source::Twitter,
        id: status.post_id()?,
        created_at,
        allow_record_time: false,
        author_id,
        lang: status
            .lang
            .as_str()
            .or_else(|| original.and_then(|original| original.lang.as_str())),
        text: text.map(twitter_unescape),
        repost_of: original.map(|original| original.post_id()).transpose()?.flatten(),
        quoted_text: quoted_text.map(twitter_unescape),
        hashtags: entities.and_then(Entities::tags),
    }
    .finish(input)
}

fn notice(json: &str) -> Result<Parsed, Reject> {
    let notice: Notice<'_> = json::read(json)?;
    let Some(status) = notice.delete.0.and_then(|delete| delete.status.0) else {
        return Err(not_a_post("a deletion of something else"));
    };
    let id = id_of(&status.id_str, &status.id, "delete.status.id")?;
    deletion(Source::Twitter, id, "a deletion notice without the status's id")
}
