//! What all clients share: logs at a bounded rate, errors counted, the last reason kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError as RdError,
    types::RDKafkaErrorCode,
};

use super::budget::lock;
use crate::observe::metric;

/// Counts an error: consume, commit, produce or broker.
pub(super) fn count_error(kind: &'static str) {
    metrics::counter!(metric::KAFKA_ERRORS, "kind" => kind).increment(1);
}

/// librdkafka's own lines.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        // Also told as an error, which is logged at a bounded rate.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if matches!(facility, "FAIL" | "ERROR") => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::trace!(target: "librdkafka", facility, "{message}");
        }
    }
}

const EVERY: Duration = Duration::from_secs(10);
const KINDS: usize = 64;

/// Lets one line of a kind through every ten seconds.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<HashMap<String, (Instant, u64)>>);

impl Quiet {
    /// `Some` with the number of lines held back since the last one, if the line may be logged.
    pub(super) fn allow(&self, kind: &str) -> Option<u64> {
        self.allow_at(kind, Instant::now())
    }

    fn allow_at(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut kinds = lock(&self.0);
        if let Some((last, held_back)) = kinds.get_mut(kind) {
            if now.duration_since(*last) < EVERY {
                *held_back += 1;
                return None;
            }
            *last = now;
            return Some(std::mem::take(held_back));
        }
        if kinds.len() >= KINDS {
            kinds.clear();
        }
        kinds.insert(kind.to_owned(), (now, 0));
        Some(0)
    }
}

/// The callbacks of probes, producers and questions: keeps the last reason for a person to read.
/// Clones share what they keep.
#[derive(Debug, Clone, Default)]
pub(super) struct Plain(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
    statistics: Mutex<Vec<u8>>,
    quiet: Quiet,
}

impl Plain {
    /// The last error that librdkafka told, with its reason.
    pub(super) fn last_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        lock(&self.0.last).clone()
    }

    /// The latest statistics, once.
    pub(super) fn take_statistics(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.0.statistics))
    }
}

impl ClientContext for Plain {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: RdError, reason: &str) {
        count_error("broker");
        if let Some(code) = error.rdkafka_error_code() {
            let mut last = lock(&self.0.last);
            // "All brokers down" follows the error that says why; keep the latter.
            if code != RDKafkaErrorCode::AllBrokersDown || last.is_none() {
                *last = Some((code, reason.to_owned()));
            }
        }
        if let Some(more) = self.0.quiet.allow(&error.to_string()) {
            tracing::debug!(error = %super::error::describe(&error), reason, more, "kafka client");
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        *lock(&self.0.statistics) = statistics.to_vec();
    }
}

impl ConsumerContext for Plain {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_kind_every_ten_seconds_with_the_number_held_back() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.allow_at("down", start), Some(0));
        assert_eq!(quiet.allow_at("down", start + Duration::from_secs(1)), None);
        assert_eq!(quiet.allow_at("other", start + Duration::from_secs(1)), Some(0));
        assert_eq!(quiet.allow_at("down", start + Duration::from_secs(2)), None);
        assert_eq!(quiet.allow_at("down", start + Duration::from_secs(11)), Some(2));
        assert_eq!(quiet.allow_at("down", start + Duration::from_secs(22)), Some(0));
    }

    #[test]
    fn the_memory_of_kinds_is_bounded() {
        let (quiet, now) = (Quiet::default(), Instant::now());
        for kind in 0..1_000 {
            quiet.allow_at(&kind.to_string(), now);
        }
        assert!(lock(&quiet.0).len() <= KINDS);
    }
}
