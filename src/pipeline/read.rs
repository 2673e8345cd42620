//! The first stage: a record's bytes to its fate, as far as it can be told without the model.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::{
    clean::Profile,
    filter::PostFilter,
    kafka::Message,
    post::{self, Deletion, Envelope, Format, Limits, Origin, Post, Record, Reject},
    store::Retention,
};

/// What is to become of a record.
#[derive(Debug)]
pub enum Fate {
    /// To be classified and stored.
    Post {
        /// The post.
        post: Box<Post>,
        /// The tracked topics it touches.
        topics: Vec<Arc<str>>,
        /// Its text as the model wants it.
        cleaned: Arc<str>,
    },
    /// To take a post out of the tables.
    Deletion(Deletion),
    /// Not wanted: its language or topic is not among those asked for.
    Filtered,
    /// Older than what is kept.
    Late,
    /// Can't be handled.
    Rejected(Reject),
}

/// Everything that reading needs, fixed at start.
#[derive(Debug)]
pub struct Reader {
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
    /// What once was: posts before this moment are late whatever the retention is now, see
    /// [`crate::store::Store::retired_until`].
    pub retired_until: Option<OffsetDateTime>,
}

impl Reader {
    /// Parses, filters and cleans one record.
    #[must_use]
    pub fn read(&self, message: &Message, now: OffsetDateTime) -> Fate {
        let envelope = Envelope {
            timestamp: message.timestamp,
            fallback_id: fallback_id(&message.origin, message.timestamp),
        };
        let post = match post::parse(self.format, &message.payload, &envelope, &self.limits) {
            Err(reject) => return Fate::Rejected(reject),
            Ok(Record::Deletion(deletion)) => return Fate::Deletion(deletion),
            Ok(Record::Post(post)) => post,
        };
        let retired = self.retired_until.is_some_and(|until| post.created_at < until);
        if retired || self.retention.is_late(post.created_at, now) {
            return Fate::Late;
        }
        let Some(topics) = self.filter.admit(&post) else {
            return Fate::Filtered;
        };
        let cleaned = self.profile.clean(&post.text).into();
        Fate::Post { post, topics, cleaned }
    }
}

/// The identity of a post that brings none: the same however often its record is read, and another for one that lies at
/// the same place of another topic of that name, made anew or of another cluster. Such a one has another time; only
/// records without a time can't be told apart.
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
    fn a_post_without_an_id_is_known_by_where_and_when_its_record_lies() {
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
