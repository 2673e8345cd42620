//! The first stage: a record's bytes to its fate, as far as it can be told without the model.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::{
    clean::Profile,
    filter::PostFilter,
    kafka::Message,
    post::{self, Deletion, Envelope, Format, Limits, Post, Record, Reject},
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
            fallback_id: message.origin.to_string().into(),
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
