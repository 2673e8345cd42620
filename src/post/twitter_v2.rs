//! Twitter API v2: tweets with and without the `data` envelope, compliance events, error messages.
//!
//! A tweet references the tweets that it retweets or quotes. Their full texts are in `includes.tweets`
//! or, if flattened by twarc, within `referenced_tweets`.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Parsed, Reject, Source, clock,
    draft::{Draft, Entities, Input, deletion, twitter_unescape},
    json::{self, List, Object, Scalar},
    list::{not_a_post, single_post},
    shape::{self, Key, Shape},
};

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    includes: Object<Includes<'a>>,
    #[serde(borrow, default)]
    errors: List<Object<Problem<'a>>>,
}

#[derive(Default, Deserialize)]
struct Includes<'a> {
    #[serde(borrow, default)]
    tweets: List<Object<Tweet<'a>>>,
}

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow, default)]
    title: Scalar<'a>,
    #[serde(borrow, default)]
    detail: Scalar<'a>,
    #[serde(borrow, default)]
    message: Scalar<'a>,
}

/// A tweet, or a reference to one. A flattened reference contains the tweet's fields.
#[derive(Deserialize)]
struct Tweet<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Scalar<'a>,
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    created_at: Scalar<'a>,
    #[serde(borrow, default)]
    author_id: Scalar<'a>,
    #[serde(borrow, default)]
    lang: Scalar<'a>,
    #[serde(borrow, default)]
    text: Scalar<'a>,
    #[serde(borrow, default)]
    note_tweet: Object<Note<'a>>,
    #[serde(borrow, default)]
    entities: Object<Entities<'a>>,
    #[serde(borrow, default)]
    referenced_tweets: List<Object<Tweet<'a>>>,
}

impl<'a> Tweet<'a> {
    /// Returns the full text and the entities that belong to it.
    fn text_and_entities(&self) -> Result<(Option<&str>, Option<&Entities<'a>>), Reject> {
        if let Some(note) = self.note_tweet.as_ref()
            && let Some(text) = note.text.text("note_tweet.text")?
        {
            return Ok((Some(text), note.entities.as_ref().or(self.entities.as_ref())));
        }
        Ok((self.text.text("text")?, self.entities.as_ref()))
    }

    /// Returns this tweet's reference of a kind, such as `retweeted` or `quoted`.
    fn reference(&self, kind: &str) -> Option<&Self> {
        self.referenced_tweets
            .iter()
            .filter_map(Object::as_ref)
            .find(|reference| reference.kind.as_str() == Some(kind))
    }

    /// Returns the referenced tweet, if the record contains it.
    fn resolve<'t>(&'t self, includes: &'t Includes<'a>) -> Result<Option<&'t Self>, Reject> {
        let id = self.id.id("referenced_tweets.id")?;
        for tweet in includes.tweets.iter().filter_map(Object::as_ref) {
            if id.is_some() && tweet.id.id("includes.tweets.id")? == id {
                return Ok(Some(tweet));
            }
        }
        Ok(Some(self).filter(|reference| !reference.text.is_absent()))
    }
}

#[derive(Deserialize)]
struct Note<'a> {
    #[serde(borrow, default)]
    text: Scalar<'a>,
    #[serde(borrow, default)]
    entities: Object<Entities<'a>>,
}

#[derive(Deserialize)]
struct Compliance<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    action: Scalar<'a>,
    #[serde(borrow, default)]
    delete: Object<ComplianceDelete<'a>>,
}

#[derive(Deserialize)]
struct ComplianceDelete<'a> {
    #[serde(borrow, default)]
    tweet: Object<ComplianceTweet<'a>>,
}

#[derive(Deserialize)]
struct ComplianceTweet<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
}

/// Parses one response, tweet or compliance event of the v2 API.
pub(super) fn parse(json: &str, shape: Shape, input: Input<'_>) -> Result<Parsed, Reject> {
    if !shape.has_any(&[Key::Data, Key::Errors, Key::Meta]) || shape.has(Key::Text) {
        return item(json, shape, &Includes::default(), input);
    }
    let response: Response<'_> = json::read(json)?;
    let includes = response.includes.0.unwrap_or_default();
    match response.data.map(RawValue::get) {
        Some(list) if list.starts_with('[') => {
            single_post(list, |tweet| item(tweet, Shape::of(tweet)?, &includes, input))
        }
        Some(data) if data.starts_with('{') => item(data, Shape::of(data)?, &includes, input),
        _ => Err(without_data(&response.errors)),
    }
}

fn without_data(errors: &List<Object<Problem<'_>>>) -> Reject {
    let Some(first) = errors.iter().find_map(Object::as_ref) else {
        return not_a_post("a response without data");
    };
    let said = [&first.title, &first.detail, &first.message]
        .into_iter()
        .find_map(Scalar::as_str);
    not_a_post(&format!("an error message ({})", said.unwrap_or("untitled")))
}

/// Parses the content of `data`, or an object without that envelope.
fn item(json: &str, shape: Shape, includes: &Includes<'_>, input: Input<'_>) -> Result<Parsed, Reject> {
    if shape.has(Key::EventType) {
        return Err(not_a_post("a direct message event"));
    }
    if shape.has_any(&[Key::Text, Key::NoteTweet]) {
        return tweet(json, includes, input);
    }
    if shape.has_any(&[Key::Delete, Key::Action]) {
        return compliance(json);
    }
    if let Some(what) = shape.non_post() {
        return Err(not_a_post(what));
    }
    // A tweet always has a text. Without one, the object is something else.
    let v2_tweet = [
        Key::EditHistory,
        Key::ConversationId,
        Key::ReferencedTweets,
        Key::ReplySettings,
    ];
    if shape.has_any(&v2_tweet) {
        tweet(json, includes, input)
    } else {
        Err(shape::unknown(json))
    }
}

fn tweet(json: &str, includes: &Includes<'_>, input: Input<'_>) -> Result<Parsed, Reject> {
    let tweet: Tweet<'_> = json::read(json)?;
    let retweeted = tweet.reference("retweeted");
    let original = match retweeted {
        Some(reference) => reference.resolve(includes)?,
        None => None,
    };
    let (text, entities) = original.unwrap_or(&tweet).text_and_entities()?;
    let quoting = tweet
        .reference("quoted")
        .or_else(|| original.and_then(|original| original.reference("quoted")));
    let quoted_text = match quoting
        .map(|reference| reference.resolve(includes))
        .transpose()?
        .flatten()
    {
        Some(quoted) => quoted.text_and_entities()?.0,
        None => None,
    };
    let id = tweet.id.id("id")?;
    // `created_at` is not one of the API's default fields, but the id also contains the time.
    let created_at = match (
        input.time(&[(&tweet.created_at, "created_at")]),
        id.as_deref().and_then(clock::snowflake),
    ) {
        (Ok(None) | Err(_), Some(time)) => Some(time),
        (read, _) => read?,
    };
    Draft {
        source: Source::Twitter,
        id,
        created_at,
        allow_record_time: true,
        author_id: tweet.author_id.id("author_id")?,
        lang: tweet.lang.as_str(),
        text: text.map(twitter_unescape),
        repost_of: retweeted
            .map(|reference| reference.id.id("referenced_tweets.id"))
            .transpose()?
            .flatten(),
        quoted_text: quoted_text.map(twitter_unescape),
        hashtags: entities.and_then(Entities::tags),
    }
    .finish(input)
}

/// Parses a compliance event: `{"delete": {"tweet": {"id": ...}}}` from the stream, or `{"action": "delete", "id": ...}`
/// from a batch job's result.
fn compliance(json: &str) -> Result<Parsed, Reject> {
    let event: Compliance<'_> = json::read(json)?;
    let id = match (
        event.delete.as_ref().and_then(|delete| delete.tweet.as_ref()),
        event.action.as_str(),
    ) {
        (Some(tweet), _) => tweet.id.id("delete.tweet.id")?,
        (None, Some("delete")) => event.id.id("id")?,
        _ => return Err(not_a_post("a compliance event other than a deletion")),
    };
    deletion(Source::Twitter, id, "a deletion event without the tweet's id")
}
