//! Decodes records: parses, filters and cleans them, without the model.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::{
    clean::Profile,
    config::FuturePolicy,
    filter::PostFilter,
    kafka::Record,
    post::{
        self, Deletion, Envelope, EventTime, Id, Language, Origin, ParseOptions, Parsed, Post, Reason, Reject,
        TimeSource,
    },
    store::{Retention, RetentionCutoff},
    telemetry::metric,
};

/// A record and its content.
#[derive(Debug)]
pub struct Decoded {
    /// The record.
    pub record: Record,
    /// Its content.
    pub content: Content,
}

/// The content of a record.
#[derive(Debug)]
pub enum Content {
    /// A post to classify and store.
    Post {
        /// The post.
        post: Arc<Post>,
        /// The tracked subjects that it matches.
        subjects: Vec<Arc<str>>,
        /// Its text, cleaned for the model.
        cleaned: Arc<str>,
    },
    /// A notice that a post was deleted.
    Deletion(Deletion),
    /// A post whose language or subjects are not wanted.
    Filtered,
    /// A post older than the retention.
    Late,
    /// A record that can't be processed.
    Rejected(Reject),
}

/// How to treat posts dated in the future. Each day with posts has its own partitions, so made-up dates must not create any.
#[derive(Debug, Clone, Copy)]
pub struct FutureTimes {
    /// How far ahead of this machine's clock a post may be dated.
    pub max_ahead: time::Duration,
    /// How to treat posts dated further ahead.
    pub policy: FuturePolicy,
}

impl FutureTimes {
    /// Returns the event time to store.
    fn check(self, created_at: EventTime, now: OffsetDateTime) -> Result<EventTime, Reject> {
        let bound = EventTime::new(now.saturating_add(self.max_ahead)).ok();
        if bound.is_some_and(|bound| created_at <= bound) {
            return Ok(created_at);
        }
        match (self.policy, EventTime::new(now)) {
            (FuturePolicy::Clamp, Ok(now)) => Ok(now),
            _ => Err(Reject::new(
                Reason::FutureTime,
                format!(
                    "the post is dated {created_at}, more than {} seconds ahead of the clock",
                    self.max_ahead.whole_seconds()
                ),
            )),
        }
    }
}

/// Decodes records. Its settings are fixed at startup.
#[derive(Debug)]
pub struct Decoder {
    /// How records are read.
    pub parsing: ParseOptions,
    /// Which posts are wanted, and their tracked subjects.
    pub filter: PostFilter,
    /// The cleaning profile with which the model was trained.
    pub profile: Profile,
    /// How to treat posts dated in the future.
    pub future: FutureTimes,
    /// Whether to identify the language of posts that don't name one.
    pub detect_language: bool,
    /// How long posts are kept; older ones are late.
    pub retention: Retention,
    /// Posts from before this time are late too, since retention has dropped their days: see
    /// [`crate::store::Store::retention_mark`]. The flush checks again, under its locks; checking here saves the model's work.
    pub retention_mark: RetentionCutoff,
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
        let Some(value) = &record.value else {
            return Content::Rejected(Reject::new(Reason::Tombstone, "the record has no value"));
        };
        let mut post = match post::parse(value, &envelope, &self.parsing) {
            Err(reject) => return Content::Rejected(reject),
            Ok(Parsed::Deletion(deletion)) => return Content::Deletion(deletion),
            Ok(Parsed::Post(post)) => post,
        };
        match self.future.check(post.created_at, now) {
            Ok(created_at) => post.created_at = created_at,
            Err(reject) => return Content::Rejected(reject),
        }
        let created_at = post.created_at.get();
        if self.retention.cutoff(now).max(self.retention_mark).is_late(created_at) {
            return Content::Late;
        }
        if post.time_source == TimeSource::Record {
            metrics::counter!(metric::POSTS_WITHOUT_TIME).increment(1);
        }
        if self.detect_language
            && post.lang == Language::UNDETERMINED
            && let Some(language) = Language::identify(&post.text)
        {
            (post.lang, post.lang_identified) = (language, true);
        }
        let Some(subjects) = self.filter.admit(&post) else {
            return Content::Filtered;
        };
        let cleaned = self.profile.clean(&post.text).into();
        Content::Post {
            post: Arc::from(post),
            subjects,
            cleaned,
        }
    }
}

/// The id of a post that has none. It is the same each time the record is read, but differs from that of a record at the same
/// offset of a recreated topic or of another cluster, because that record has another timestamp. Only records without a
/// timestamp can't be distinguished.
fn fallback_id(origin: &Origin, timestamp: Option<OffsetDateTime>) -> Option<Id> {
    let id = match timestamp {
        Some(time) => format!("{origin}@{}", time.unix_timestamp_nanos() / 1_000_000),
        None => origin.to_string(),
    };
    Id::new(id).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use time::{Duration, macros::datetime};

    use super::*;

    #[test]
    fn posts_dated_in_the_future_are_rejected_or_clamped() {
        let now = datetime!(2026-11-27 12:00 UTC);
        let time = |time| EventTime::new(time).unwrap();
        let reject = FutureTimes {
            max_ahead: Duration::hours(1),
            policy: FuturePolicy::Reject,
        };
        let clamp = FutureTimes {
            policy: FuturePolicy::Clamp,
            ..reject
        };
        for allowed in [datetime!(1970-01-01 00:00 UTC), now, datetime!(2026-11-27 13:00 UTC)] {
            assert_eq!(reject.check(time(allowed), now).unwrap(), allowed);
            assert_eq!(clamp.check(time(allowed), now).unwrap(), allowed);
        }
        for ahead in [datetime!(2026-11-27 13:00:01 UTC), datetime!(2199-01-01 00:00 UTC)] {
            assert_eq!(reject.check(time(ahead), now).unwrap_err().reason, Reason::FutureTime);
            assert_eq!(clamp.check(time(ahead), now).unwrap(), now);
        }
    }

    #[test]
    fn a_post_without_an_id_is_identified_by_offset_and_timestamp_of_its_record() {
        let origin = Origin {
            topic: "posts".into(),
            partition: 3,
            offset: 14,
        };
        let id = |timestamp| fallback_id(&origin, timestamp).unwrap().to_string();
        assert_eq!(
            id(Some(datetime!(2026-01-02 03:04:05.006 UTC))),
            "posts/3/14@1767323045006"
        );
        assert_eq!(id(Some(OffsetDateTime::UNIX_EPOCH)), "posts/3/14@0");
        assert_eq!(id(None), "posts/3/14");
    }
}
