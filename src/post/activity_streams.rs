//! Activity Streams, as GNIP delivers tweets.
//!
//! Ids are URIs (`tag:search.twitter.com,2005:123`, `id:twitter.com:45`). Only the number at the end is
//! kept, so that posts and authors have the same ids as in Twitter's other formats.

use serde::Deserialize;

use super::{
    Id, Parsed, Reject, Source,
    draft::{Draft, Entities, Input, deletion, twitter_unescape},
    json::{self, Object, Scalar},
    list::not_a_post,
};

#[derive(Deserialize)]
struct Activity<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    verb: Scalar<'a>,
    #[serde(borrow, default, rename = "postedTime")]
    posted_time: Scalar<'a>,
    #[serde(borrow, default)]
    body: Scalar<'a>,
    /// A post's note: its text if `body` is absent.
    #[serde(borrow, default)]
    summary: Scalar<'a>,
    #[serde(borrow, default)]
    twitter_lang: Scalar<'a>,
    #[serde(borrow, default)]
    actor: Object<Actor<'a>>,
    #[serde(borrow, default)]
    twitter_entities: Object<Entities<'a>>,
    #[serde(borrow, default)]
    long_object: Object<Long<'a>>,
    #[serde(borrow, default)]
    object: Object<Box<Activity<'a>>>,
    #[serde(borrow, default)]
    twitter_quoted_status: Object<Box<Activity<'a>>>,
}

#[derive(Deserialize)]
struct Actor<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
}

#[derive(Deserialize)]
struct Long<'a> {
    #[serde(borrow, default)]
    body: Scalar<'a>,
    #[serde(borrow, default)]
    twitter_entities: Object<Entities<'a>>,
}

impl<'a> Activity<'a> {
    /// Returns the full text and the entities that belong to it.
    fn text_and_entities(&self) -> Result<(Option<&str>, Option<&Entities<'a>>), Reject> {
        if let Some(long) = self.long_object.as_ref()
            && let Some(text) = long.body.text("long_object.body")?
        {
            return Ok((
                Some(text),
                long.twitter_entities.as_ref().or(self.twitter_entities.as_ref()),
            ));
        }
        let text = match (self.body.text("body")?, self.object.as_ref()) {
            (None, Some(note)) => note.summary.text("object.summary")?,
            (text, _) => text,
        };
        Ok((text, self.twitter_entities.as_ref()))
    }
}

/// Parses one activity.
pub(super) fn parse(json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let activity: Activity<'_> = json::read(json)?;
    match activity.verb.as_str() {
        Some("post") | None => post(&activity, None, input),
        Some("share") => post(&activity, activity.object.as_ref().map(Box::as_ref), input),
        Some("delete") => {
            let deleted = activity.object.as_ref();
            let id = deleted.map(|deleted| number(&deleted.id, "object.id")).transpose()?;
            deletion(Source::Twitter, id.flatten(), "a deletion without the id of its object")
        }
        Some(verb) => Err(not_a_post(&format!("an activity of the verb `{verb}`"))),
    }
}

fn post(activity: &Activity<'_>, shared: Option<&Activity<'_>>, input: Input<'_>) -> Result<Parsed, Reject> {
    // Some shares reference the original without its body. Use the share's own text then.
    let original = shared.filter(|original| !original.body.is_absent() || original.long_object.as_ref().is_some());
    let (text, entities) = original.unwrap_or(activity).text_and_entities()?;
    let quoted = activity.twitter_quoted_status.as_ref();
    let quoted = quoted.or_else(|| original.and_then(|original| original.twitter_quoted_status.as_ref()));
    let quoted_text = match quoted {
        Some(quoted) => quoted.text_and_entities()?.0,
        None => None,
    };
    let author_id = activity
        .actor
        .as_ref()
        .map(|actor| number(&actor.id, "actor.id"))
        .transpose()?
        .flatten();
    Draft {
        source: Source::Twitter,
        id: number(&activity.id, "id")?,
        created_at: input.time(&[(&activity.posted_time, "postedTime")])?,
        allow_record_time: false,
        author_id,
        lang: activity
            .twitter_lang
            .as_str()
            .or_else(|| original.and_then(|original| original.twitter_lang.as_str())),
        text: text.map(twitter_unescape),
        repost_of: shared
            .map(|original| number(&original.id, "object.id"))
            .transpose()?
            .flatten(),
        quoted_text: quoted_text.map(twitter_unescape),
        hashtags: entities.and_then(Entities::tags),
    }
    .finish(input)
}

/// Returns the number at the end of an id URI, or the complete id if there is none.
fn number(id: &Scalar<'_>, field: &str) -> Result<Option<Id>, Reject> {
    let Some(uri) = id.id(field)? else { return Ok(None) };
    match uri.rsplit_once(':') {
        Some((_, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            json::id(number, field)
        }
        _ => Ok(Some(uri)),
    }
}
