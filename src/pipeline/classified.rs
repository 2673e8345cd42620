//! A record with its outcome, ready to be committed.

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

/// A record with its outcome. Key, value and headers are kept until it is committed, since it may still be rejected.
#[derive(Debug)]
pub(super) struct Classified {
    pub(super) origin: Origin,
    /// The epoch of its partition under which it was read.
    pub(super) epoch: u64,
    /// The record's timestamp at the broker.
    pub(super) timestamp: Option<OffsetDateTime>,
    pub(super) fingerprint: Fingerprint,
    pub(super) stage_times: StageTimes,
    pub(super) outcome: Outcome,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Option<OwnedHeaders>,
    /// Counts the record as in flight until it is committed or dropped.
    _permit: InFlightPermit,
}

/// When a record passed the stages.
#[derive(Debug, Clone, Copy)]
pub(super) struct StageTimes {
    /// When it was polled from librdkafka.
    pub(super) received: Instant,
    /// When its window began to be classified.
    pub(super) begun: Instant,
    /// When its window had been classified.
    pub(super) classified: Instant,
}

/// Histograms of each stage's part of the posts' delay.
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

    /// Records the parts of a post's delay: `delay` is in seconds, from the record's timestamp to the commit at `committed`.
    pub(super) fn record(&self, times: StageTimes, delay: f64, committed: Instant) {
        let seconds = |from: Instant, until: Instant| until.saturating_duration_since(from).as_secs_f64();
        let fetch = delay - seconds(times.received, committed);
        self.fetch.record(fetch.max(0.0));
        self.window.record(seconds(times.received, times.begun));
        self.classify.record(seconds(times.begun, times.classified));
        self.store.record(seconds(times.classified, committed));
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
    /// A post is removed from the tables.
    Deletion(Deletion),
    /// The post's language or subjects are not wanted.
    Filtered,
    /// The post is older than the retention.
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
            stage_times: StageTimes {
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

    /// The dead letter of a rejected record. Tombstones have none unless `of_tombstones`, since they have no value to inspect.
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
