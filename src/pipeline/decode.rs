//! The first stage: parse, filter and clean a record, everything that needs no model.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::{
    clean::Profile,
    filter::PostFilter,
    kafka::Record,
    post::{self, Deletion, Envelope, Format, Limits, Origin, Parsed, Post, Reject},
    store::Retention,
};

/// A record and what it holds.
#[derive(Debug)]
pub struct Decoded {
    /// The record.
    pub record: Record,
    /// What it holds.
    pub content: Content,
}

/// What a record holds.
#[derive(Debug)]
pub enum Content {
    /// A post to classify and store.
    Post {
        /// The post.
        post: Arc<Post>,
        /// The tracked topics it touches.
        topics: Vec<Arc<str>>,
        /// Its text as the model wants it.
        cleaned: Arc<str>,
    },
    /// A notice that a post was deleted.
    Deletion(Deletion),
    /// A post whose language or topics are not among those asked for.
    Filtered,
    /// A post older than what is kept.
    Late,
    /// Something that can't be processed.
    Rejected(Reject),
}

/// Decodes records. Everything it needs is fixed at start.
#[derive(Debug)]
pub struct Decoder {
    /// The wire format.
    pub format: Format,
    /// Bounds on size.
    pub limits: Limits,
    /// Which posts are wanted, and their tracked topics.
    pub filter: PostFilter,
    /// The cleaning that the model was trained with.
    pub profile: Profile,
    /// What is too old to keep.
    pub retention: Retention,
    /// Posts before this moment were dropped by an earlier retention and are late for good, see
    /// [`crate::store::Store::retired_until`].
    pub retired_until: Option<OffsetDateTime>,
}

impl Decoder {
    /// Parses, filters and cleans one record.
    #[must_use]
    pub fn decode(&self, record: Record, now: OffsetDateTime) -> Decoded {
        let content = self.content(&record, now);
        Decoded { record, content }
    }

    fn content(&self, record: &Record, now: OffsetDateTime) -> Content {
        let envelope = Envelope {
            timestamp: record.timestamp,
            fallback_id: fallback_id(&record.origin, record.timestamp),
        };
        let post = match post::parse(self.format, &record.value, &envelope, &self.limits) {
            Err(reject) => return Content::Rejected(reject),
            Ok(Parsed::Deletion(deletion)) => return Content::Deletion(deletion),
            Ok(Parsed::Post(post)) => post,
        };
        let retired = self.retired_until.is_some_and(|until| post.created_at < until);
        if retired || self.retention.is_late(post.created_at, now) {
            return Content::Late;
        }
        let Some(topics) = self.filter.admit(&post) else {
            return Content::Filtered;
        };
        let cleaned = self.profile.clean(&post.text).into();
        Content::Post {
            post: Arc::from(post),
            topics,
            cleaned,
        }
    }
}

/// The id of a post that has none. It stays the same however often the record is read, and differs for a record at the same
/// offset of a topic that was deleted and created again, or of another cluster, because that one has another timestamp. Only
/// records without a timestamp can't be told apart.
fn fallback_id(origin: &Origin, timestamp: Option<OffsetDateTime>) -> Arc<str> {
    match timestamp {
        Some(time) => format!("{origin}@{}", time.unix_timestamp_nanos() / 1_000_000).into(),
        None => origin.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_post_without_an_id_is_identified_by_its_record_s_offset_and_timestamp() {
        let origin = Origin {
            topic: "posts".into(),
            partition: 3,
            offset: 14,
        };
        let id = |timestamp| fallback_id(&origin, timestamp).to_string();
        assert_eq!(
            id(Some(datetime!(2026-01-02 03:04:05.006 UTC))),
            "posts/3/14@1767323045006"
        );
        assert_eq!(id(Some(OffsetDateTime::UNIX_EPOCH)), "posts/3/14@0");
        assert_eq!(id(None), "posts/3/14");
    }
}
