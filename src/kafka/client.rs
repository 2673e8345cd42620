//! Shared by all clients: logging at a bounded rate, counting errors, and keeping the last error.

use std::sync::{Arc, Mutex};

use rdkafka::{
    ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError as RdError,
    message::DeliveryResult, producer::ProducerContext, types::RDKafkaErrorCode,
};

use crate::{
    sync::lock,
    telemetry::{log_limiter::LogLimiter, metric},
};

/// Counts an error of this kind: `consume`, `commit`, `produce` or `broker`.
pub(crate) fn count_error(kind: &'static str) {
    metrics::counter!(metric::KAFKA_ERRORS, "kind" => kind).increment(1);
}

/// Forwards a log line of librdkafka.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        // Also reported through the error callback, which logs at a bounded rate.
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

/// The callbacks of all clients but the group's consumer: keeps the last error and the latest statistics. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommonContext(Arc<ContextState>);

#[derive(Debug, Default)]
struct ContextState {
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
    statistics: Mutex<Vec<u8>>,
    log_limiter: LogLimiter,
}

impl CommonContext {
    /// The last error that librdkafka reported, with its reason.
    pub(super) fn last_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        lock(&self.0.last).clone()
    }

    /// Takes the latest statistics.
    pub(super) fn take_statistics(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.0.statistics))
    }
}

impl ClientContext for CommonContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: RdError, reason: &str) {
        count_error("broker");
        if let Some(code) = error.rdkafka_error_code() {
            let mut last = lock(&self.0.last);
            // "All brokers down" follows the error with the cause, which is the one to keep.
            if code != RDKafkaErrorCode::AllBrokersDown || last.is_none() {
                *last = Some((code, reason.to_owned()));
            }
        }
        if let Some(more) = self.0.log_limiter.allow(&error.to_string()) {
            tracing::debug!(error = %super::error::describe(&error), reason, more, "Kafka client error");
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        *lock(&self.0.statistics) = statistics.to_vec();
    }
}

impl ConsumerContext for CommonContext {}

impl ProducerContext for CommonContext {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
