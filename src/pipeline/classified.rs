//! A record about which everything is known.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use metrics::Histogram;
use time::OffsetDateTime;

use crate::{
    kafka::{DeadLetter, InFlightPermit, OwnedHeaders, Record},
    model::Prediction,
    post::{Deletion, Fingerprint, Origin, Post, Reason, Reject},
    telemetry::metric,
};

/// A record with the outcome that the flush gives it. Its bytes are kept until it is committed, as it may yet be rejected.
#[derive(Debug)]
pub(super) struct Classified {
    pub(super) origin: Origin,
    /// The assignment of its partition under which it was read.
    pub(super) epoch: u64,
    /// The record's timestamp at the broker.
    pub(super) timestamp: Option<OffsetDateTime>,
    pub(super) fingerprint: Fingerprint,
    /// When it came to and left the stages.
    pub(super) passage: Passage,
    pub(super) outcome: Outcome,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Option<OwnedHeaders>,
    /// Counts the record as in flight until it is committed or dropped.
    _permit: InFlightPermit,
}

/// When a record came to and left the stages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passage {
    /// It came out of librdkafka.
    pub(super) received: Instant,
    /// Its window was closed and put in work.
    pub(super) begun: Instant,
    /// Its window was classified.
    pub(super) classified: Instant,
}

/// Where the stages' parts of the posts' delays are recorded.
pub(super) struct StageDelays {
    fetch: Histogram,
    window: Histogram,
    classify: Histogram,
    store: Histogram,
}

impl StageDelays {
    pub(super) fn new() -> Self {
        let of = |stage: &'static str| metrics::histogram!(metric::STAGE_DELAY, "stage" => stage);
        Self {
            fetch: of("fetch"),
            window: of("window"),
            classify: of("classify"),
            store: of("store"),
        }
    }

    /// Records the parts of a delay from the broker, in seconds, that ended with the commit at `committed`.
    pub(super) fn record(&self, passage: Passage, delay: f64, committed: Instant) {
        let seconds = |from: Instant, until: Instant| until.saturating_duration_since(from).as_secs_f64();
        let fetch = delay - seconds(passage.received, committed);
        self.fetch.record(fetch.max(0.0));
        self.window.record(seconds(passage.received, passage.begun));
        self.classify.record(seconds(passage.begun, passage.classified));
        self.store.record(seconds(passage.classified, committed));
    }
}

/// What becomes of a record.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The post is stored with its prediction.
    Post {
        post: Arc<Post>,
        subjects: Vec<Arc<str>>,
        prediction: Prediction,
    },
    /// The post is taken out of the tables.
    Deletion(Deletion),
    /// The post's language or subjects are not among those asked for.
    Filtered,
    /// The post is older than what is kept.
    Late,
    /// The record goes to the dead-letter topic.
    Rejected(Reject),
}

impl Classified {
    pub(super) fn new(record: Record, begun: Instant, classified: Instant, outcome: Outcome) -> Self {
        Self {
            origin: record.origin,
            epoch: record.epoch,
            timestamp: record.timestamp,
            fingerprint: record.fingerprint,
            passage: Passage {
                received: record.received,
                begun,
                classified,
            },
            outcome,
            key: record.key,
            value: record.value,
            headers: record.headers,
            _permit: record.permit,
        }
    }

    /// The dead letter of a rejected record. A tombstone has none unless they are asked for: there is nothing in it to look at.
    pub(super) fn dead_letter(&self, of_tombstones: bool) -> Option<DeadLetter> {
        let Outcome::Rejected(reject) = &self.outcome else {
            return None;
        };
        if reject.reason == Reason::Tombstone && !of_tombstones {
            return None;
        }
        Some(DeadLetter {
            origin: self.origin.clone(),
            timestamp: self.timestamp,
            key: self.key.clone(),
            value: self.value.clone(),
            headers: self.headers.clone(),
            reason: reject.reason.as_str(),
            detail: reject.detail.clone(),
        })
    }
}
