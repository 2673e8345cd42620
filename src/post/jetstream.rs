//! Bluesky's Jetstream: commits to users' repositories, of which only those to posts are used.
//!
//! A post's id is its URI, `at://<did>/app.bsky.feed.post/<rkey>`, which a deletion also names.

use std::borrow::Cow;

use serde::Deserialize;

use super::{
    Deletion, Id, Parsed, Reason, Reject, Source,
    draft::{Draft, Input},
    json::{self, List, Object, Scalar},
    list::not_a_post,
};

/// The repository collection that holds posts.
const POSTS: &str = "app.bsky.feed.post";

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    did: Scalar<'a>,
    #[serde(borrow, default)]
    time_us: Scalar<'a>,
    #[serde(borrow, default)]
    kind: Scalar<'a>,
    #[serde(borrow, default)]
    commit: Object<Commit<'a>>,
}

#[derive(Deserialize)]
struct Commit<'a> {
    #[serde(borrow, default)]
    operation: Scalar<'a>,
    #[serde(borrow, default)]
    collection: Scalar<'a>,
    #[serde(borrow, default)]
    rkey: Scalar<'a>,
    #[serde(borrow, default)]
    record: Object<PostRecord<'a>>,
}

/// The `app.bsky.feed.post` lexicon.
#[derive(Deserialize)]
struct PostRecord<'a> {
    #[serde(borrow, default)]
    text: Scalar<'a>,
    #[serde(borrow, default, rename = "createdAt")]
    created_at: Scalar<'a>,
    #[serde(borrow, default)]
    langs: List<Scalar<'a>>,
    #[serde(borrow, default)]
    facets: List<Object<Facet<'a>>>,
    /// Hashtags in addition to those in the text.
    #[serde(borrow, default)]
    tags: List<Scalar<'a>>,
    #[serde(borrow, default)]
    embed: Object<Embed<'a>>,
}

#[derive(Deserialize)]
struct Facet<'a> {
    #[serde(borrow, default)]
    features: List<Object<Feature<'a>>>,
}

#[derive(Deserialize)]
struct Feature<'a> {
    #[serde(borrow, default)]
    tag: Scalar<'a>,
}

/// An embed. The text of a quoted post is present only in records enriched downstream, in the shape of the app's views.
#[derive(Deserialize)]
struct Embed<'a> {
    #[serde(borrow, default)]
    record: Object<Embedded<'a>>,
}

#[derive(Deserialize)]
struct Embedded<'a> {
    #[serde(borrow, default)]
    value: Object<Quoted<'a>>,
    /// One level deeper if the quote has media.
    #[serde(borrow, default)]
    record: Object<EmbeddedWithMedia<'a>>,
}

#[derive(Deserialize)]
struct EmbeddedWithMedia<'a> {
    #[serde(borrow, default)]
    value: Object<Quoted<'a>>,
}

#[derive(Deserialize)]
struct Quoted<'a> {
    #[serde(borrow, default)]
    text: Scalar<'a>,
}

impl PostRecord<'_> {
    fn hashtags(&self) -> Option<Vec<&str>> {
        if self.facets.0.is_none() && self.tags.0.is_none() {
            return None;
        }
        let features = self
            .facets
            .iter()
            .filter_map(Object::as_ref)
            .flat_map(|facet| facet.features.iter());
        let in_text = features
            .filter_map(Object::as_ref)
            .filter_map(|feature| feature.tag.as_str());
        Some(in_text.chain(self.tags.iter().filter_map(Scalar::as_str)).collect())
    }

    fn quoted_text(&self) -> Option<&str> {
        let embedded = self.embed.as_ref()?.record.as_ref()?;
        let beside_media = embedded.record.as_ref().and_then(|record| record.value.as_ref());
        embedded.value.as_ref().or(beside_media)?.text.as_str()
    }
}

/// Parses one event of the stream.
pub(super) fn parse(json: &str, input: Input<'_>) -> Result<Parsed, Reject> {
    let event: Event<'_> = json::read(json)?;
    let Some(commit) = event.commit.as_ref() else {
        return Err(not_a_post(&format!(
            "an event of the kind `{}`",
            event.kind.as_str().unwrap_or("unnamed")
        )));
    };
    let collection = commit.collection.as_str().unwrap_or("unnamed");
    let operation = commit.operation.as_str().unwrap_or("unnamed");
    if collection != POSTS {
        return Err(not_a_post(&format!(
            "a commit ({operation}) to the collection `{collection}`"
        )));
    }
    let did = event.did.id("did")?;
    let (Some(author), Some(key)) = (&did, commit.rkey.id("commit.rkey")?) else {
        return Err(Reject::new(Reason::NoId, "a post commit without `did` or `rkey`"));
    };
    let Some(id) = json::id(
        format!("at://{author}/{POSTS}/{key}"),
        "the URI of `did` and `commit.rkey`",
    )?
    else {
        return Err(Reject::new(Reason::NoId, "a post commit without `did` or `rkey`"));
    };
    match operation {
        "delete" => Ok(Parsed::Deletion(Deletion {
            source: Source::Bluesky,
            post_id: id,
        })),
        "create" | "update" => post(&event, commit, id, did, input),
        other => Err(Reject::new(
            Reason::BadField,
            format!("`commit.operation` is `{other}`, not create, update or delete"),
        )),
    }
}

fn post(
    event: &Event<'_>,
    commit: &Commit<'_>,
    id: Id,
    author_id: Option<Id>,
    input: Input<'_>,
) -> Result<Parsed, Reject> {
    let Some(record) = commit.record.as_ref() else {
        return Err(Reject::new(
            Reason::NoText,
            format!("the commit of the post {id} has no record"),
        ));
    };
    let created_at = input.time(&[(&record.created_at, "createdAt"), (&event.time_us, "time_us")])?;
    Draft {
        source: Source::Bluesky,
        id: Some(id),
        created_at,
        allow_record_time: false,
        author_id,
        lang: record.langs.iter().find_map(Scalar::as_str),
        text: record.text.text("text")?.map(Cow::Borrowed),
        repost_of: None,
        quoted_text: record.quoted_text().map(Cow::Borrowed),
        hashtags: record.hashtags(),
    }
    .finish(input)
}
