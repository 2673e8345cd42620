//! The list of all metrics: names, kinds, units, labels with their bounds, help texts and buckets.
//!
//! Every exported metric is a [`Metric`] in [`ALL`]; no others may be recorded. `docs/metrics.md` is
//! [generated from the list](document()), and a test compares it with `/metrics` of a running service.

mod document;
mod topics;

pub use document::document;
pub use topics::{MAX_TOPICS, OTHER_TOPICS, topic_label};

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A value that only increases.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution over fixed buckets.
    Histogram(&'static [f64]),
}

/// A label and the bound on its values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// The name.
    pub name: &'static str,
    /// All possible values; empty if they come from outside.
    pub values: &'static [&'static str],
    /// What bounds values that come from outside.
    pub bound: &'static str,
}

/// An exported metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// The exported name.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The unit in UCUM, as OpenTelemetry writes it.
    pub unit: &'static str,
    /// The labels.
    pub labels: &'static [Label],
    /// What must have happened before it is exported; empty if it is exported from the start.
    pub once: &'static str,
    /// The closest name in OpenTelemetry's semantic conventions; empty if there is none.
    pub otel: &'static str,
    /// The help text, in one line.
    pub help: &'static str,
}

// The buckets fit measurements of the default model on CPUs, both live and while catching up. The outer buckets cover GPUs
// and other models.

/// Tokenising a window: 0.1 ms for a single post, 20 ms for 1,024 posts.
const TOKENIZE: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];
/// A batch on one core: 3 ms for a single post, 80 ms for 512 tokens. A GPU takes a few milliseconds.
const INFERENCE: &[f64] = &[
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0,
];
/// A window in a stage: reading takes less than a millisecond; classifying 3 ms live and several seconds with a backlog.
const STAGE: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// A flush: 1 to 10 ms for single posts, 50 to 500 ms for thousands. More indicates a problem with the database.
const TRANSACTION: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// 20 to 250 ms live; seconds to days with a backlog.
pub(super) const DELAY: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0,
    86400.0,
];
/// By default, a batch holds 1 to 8 posts on a CPU and hundreds on a GPU.
const BATCH_SIZES: &[f64] = &[
    1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];
/// 1 live; with a backlog, windows and flushes are filled up to their limits.
const SIZES: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0,
];
const TOKENS: &[f64] = &[
    16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0,
];

const fn closed(name: &'static str, values: &'static [&'static str]) -> Label {
    Label {
        name,
        values,
        bound: "",
    }
}

const fn open(name: &'static str, bound: &'static str) -> Label {
    Label {
        name,
        values: &[],
        bound,
    }
}

const VERSION: Label = open("version", "one: the running version");
const MODEL_ID: Label = open("model_id", "one: the model in use");
const PROVIDER: Label = closed("provider", &["cpu", "cuda", "tensorrt"]);
const PRECISION: Label = closed("precision", &["fp32", "fp16", "int8"]);
const TOPIC: Label = open(
    "topic",
    "the consumed Kafka topics: the first 100 by name, all others as `(other)`",
);
const PARTITION: Label = open(
    "partition",
    "the partitions that this process has held; none for `(other)` topics",
);
const STAGE_NAME: Label = closed("stage", &["read", "classify", "store"]);
const STAGE_TIMED: Label = closed("stage", &["read", "classify"]);
/// The stages whose delays add up to the delay from the broker.
const STAGE_DELAYED: Label = closed("stage", &["fetch", "window", "classify", "store"]);
const OUTCOME: Label = closed(
    "outcome",
    &["inserted", "duplicate", "deletion", "filtered", "late", "rejected"],
);
const REASON: Label = closed("reason", crate::post::Reason::NAMES);
/// Why a partition is quarantined: the names of `kafka::QuarantineReason`.
pub const QUARANTINE_REASONS: &[&str] = &[
    "offset_out_of_range",
    "topic_changed",
    "record_refused",
    "consumer_error",
];
const QUARANTINE_REASON: Label = closed("reason", QUARANTINE_REASONS);
const EMOTION: Label = open("emotion", "the labels of the model");
const CACHE: Label = closed("kind", &["cache", "window"]);
const QUEUE: Label = closed("queue", &["records", "batches"]);
const QUEUE_OF_RECORDS: Label = closed("queue", &["records"]);
const REBALANCE: Label = closed("kind", &["assign", "revoke", "lost"]);
const KAFKA_ERROR: Label = closed("kind", &["consume", "commit", "produce", "broker"]);
const RESULT: Label = closed("result", &["committed", "fenced", "failed"]);
const RETRY: Label = closed("what", &["database", "kafka", "dead_letter"]);

macro_rules! metrics {
    ($($konst:ident = $name:literal, $kind:expr, $unit:literal, [$($label:expr),*], $once:literal, $otel:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $konst: &str = $name;)*
        /// Every metric of the service.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name, kind: $kind, unit: $unit, labels: &[$($label),*], once: $once, otel: $otel, help: $help,
        },)*];
    };
}

metrics! {
    BUILD_INFO = "moodstream_build_info", Kind::Gauge, "1", [VERSION], "", "service.version (attribute)",
        "The running version; always 1.";
    READY = "moodstream_ready", Kind::Gauge, "1", [], "", "", "1 while the service is ready.";
    MODEL_INFO = "moodstream_model_info", Kind::Gauge, "1", [MODEL_ID, PROVIDER, PRECISION], "the model is loaded", "",
        "The model in use; always 1.";
    RECORDS = "moodstream_records_total", Kind::Counter, "{record}", [TOPIC], "a partition is read",
        "messaging.client.consumed.messages", "Records received from Kafka.";
    RECORD_BYTES = "moodstream_record_bytes_total", Kind::Counter, "By", [TOPIC], "a partition is read", "",
        "Bytes of the records received from Kafka.";
    LAG = "moodstream_lag_records", Kind::Gauge, "{record}", [TOPIC, PARTITION], "the broker has reported a partition's end", "",
        "Records in a partition not yet committed.";
    ASSIGNED = "moodstream_assigned_partitions", Kind::Gauge, "{partition}", [], "", "",
        "Partitions assigned to this process.";
    QUARANTINED = "moodstream_partition_quarantined", Kind::Gauge, "1", [TOPIC, PARTITION, QUARANTINE_REASON],
        "a partition is quarantined", "",
        "1 while a partition is quarantined because of a problem that affects it alone; GET /ready has the details.";
    PAUSED = "moodstream_paused", Kind::Gauge, "1", [], "", "",
        "1 while consumption is paused because a later stage is slow.";
    REBALANCES = "moodstream_rebalances_total", Kind::Counter, "{rebalance}", [REBALANCE], "", "",
        "Rebalances: assign, revoke, lost.";
    KAFKA_ERRORS = "moodstream_kafka_errors_total", Kind::Counter, "{error}", [KAFKA_ERROR], "",
        "error.type (attribute)", "Errors from Kafka: consume, commit, produce, broker.";
    STAGE_RECORDS = "moodstream_stage_records_total", Kind::Counter, "{record}", [STAGE_NAME], "", "",
        "Records that have passed a stage: read, classify (posts only), store.";
    STAGE_SECONDS = "moodstream_stage_seconds", Kind::Histogram(STAGE), "s", [STAGE_TIMED], "a record is read",
        "messaging.process.duration", "Seconds a window spent in a stage; for read, a chunk of records.";
    OUTCOMES = "moodstream_outcomes_total", Kind::Counter, "{record}", [OUTCOME], "", "",
        "Processed records by outcome: inserted, duplicate, deletion, filtered, late, rejected.";
    REJECTS = "moodstream_rejects_total", Kind::Counter, "{record}", [REASON], "", "error.type (attribute)",
        "Rejected records by reason.";
    EMOTIONS = "moodstream_emotions_total", Kind::Counter, "{post}", [EMOTION], "a post is stored", "",
        "Stored posts by emotion.";
    POSTS_WITHOUT_TIME = "moodstream_posts_without_time_total", Kind::Counter, "{post}", [], "", "",
        "Posts read without a time, which took their record's.";
    POSTS_IN_UNSUPPORTED_LANGUAGES = "moodstream_posts_in_unsupported_languages_total", Kind::Counter, "{post}", [], "", "",
        "Posts classified in languages that the model's manifest does not list.";
    EVENT_DELAY = "moodstream_event_delay_seconds", Kind::Histogram(DELAY), "s", [], "a post is stored", "",
        "Seconds from a post's event time to the commit of its row.";
    BROKER_DELAY = "moodstream_broker_delay_seconds", Kind::Histogram(DELAY), "s", [],
        "a post is stored whose record has a timestamp", "", "Seconds from a record's timestamp at the broker to the commit of its row.";
    STAGE_DELAY = "moodstream_stage_delay_seconds", Kind::Histogram(STAGE), "s", [STAGE_DELAYED],
        "a post is stored whose record has a timestamp", "",
        "Parts of that delay: until the record was fetched, its window was closed, it was classified, and its row was committed.";
    WINDOW_RECORDS = "moodstream_window_records", Kind::Histogram(SIZES), "{record}", [], "a window is closed",
        "messaging.batch.message_count (attribute)", "Records in a window.";
    TOKENIZE_SECONDS = "moodstream_tokenize_seconds", Kind::Histogram(TOKENIZE), "s", [], "a text is classified", "",
        "Seconds to tokenise a window.";
    BATCH_POSTS = "moodstream_batch_posts", Kind::Histogram(BATCH_SIZES), "{post}", [], "a text is classified", "",
        "Posts in an inference batch.";
    BATCH_TOKENS = "moodstream_batch_tokens", Kind::Histogram(TOKENS), "{token}", [], "a text is classified", "",
        "Tokens in an inference batch, including padding.";
    TOKENS_TOTAL = "moodstream_tokens_total", Kind::Counter, "{token}", [], "", "",
        "Tokens classified, excluding padding.";
    PADDING_TOKENS = "moodstream_padding_tokens_total", Kind::Counter, "{token}", [], "", "",
        "Padding tokens computed.";
    INFERENCE_SECONDS = "moodstream_inference_seconds", Kind::Histogram(INFERENCE), "s", [], "a text is classified", "",
        "Seconds to run a batch in an ONNX session.";
    CACHE_HITS = "moodstream_cache_hits_total", Kind::Counter, "{text}", [CACHE], "", "",
        "Texts not classified again: found in the cache, or equal to another in the window.";
    MODEL_FAULTS = "moodstream_model_faults_total", Kind::Counter, "{text}", [], "", "",
        "Texts on which the model failed.";
    QUEUE_DEPTH = "moodstream_queue_depth", Kind::Gauge, "{item}", [QUEUE], "", "",
        "Items waiting in a bounded queue: records in flight, batches waiting for a session.";
    QUEUE_BYTES = "moodstream_queue_bytes", Kind::Gauge, "By", [QUEUE_OF_RECORDS], "", "",
        "Bytes of the records in flight.";
    TRANSACTIONS = "moodstream_transactions_total", Kind::Counter, "{transaction}", [RESULT], "", "",
        "Flush transactions: committed, fenced, failed.";
    TRANSACTION_SECONDS = "moodstream_transaction_seconds", Kind::Histogram(TRANSACTION), "s", [], "a flush is committed",
        "db.client.operation.duration", "Seconds of a committed flush transaction.";
    FLUSH_POSTS = "moodstream_flush_posts", Kind::Histogram(SIZES), "{post}", [], "a flush is committed",
        "db.operation.batch.size (attribute)", "Posts in a flush transaction.";
    FENCED = "moodstream_fenced_total", Kind::Counter, "{range}", [], "", "",
        "Offset ranges dropped because another consumer has advanced the offset.";
    RETRIES = "moodstream_retries_total", Kind::Counter, "{try}", [RETRY], "", "",
        "Retries after transient errors: database, kafka, dead_letter.";
    DEAD_LETTERS = "moodstream_dead_letters_total", Kind::Counter, "{record}", [], "",
        "messaging.client.sent.messages", "Records written to the dead-letter topic.";
    DEAD_LETTER_ERRORS = "moodstream_dead_letter_errors_total", Kind::Counter, "{error}", [], "", "",
        "Failed attempts to write a dead letter.";
    STORE_PARTITIONS_DROPPED = "moodstream_store_partitions_dropped_total", Kind::Counter, "{partition}", [], "", "",
        "Partitions of posts dropped after their retention.";
}

/// Returns the label and its values for a metric with one label of known values, or no values for a metric without labels.
/// Such counters and gauges are exported from the start, so that rates have a start.
pub(super) fn known_values(metric: &Metric) -> Option<(&'static str, &'static [&'static str])> {
    match metric.labels {
        [] => Some(("", &[])),
        [label] if !label.values.is_empty() => Some((label.name, label.values)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_units_follow_the_conventions() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("moodstream_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(buckets.is_sorted_by(|a, b| a < b), "{name}");
                assert!(
                    !metric.once.is_empty(),
                    "{name}: a histogram is not exported before its first observation"
                );
            }
            let base = name.trim_end_matches("_total");
            assert_eq!(metric.unit == "s", base.ends_with("_seconds"), "{name}");
            assert_eq!(metric.unit == "By", base.ends_with("_bytes"), "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{name}");
            for label in metric.labels {
                assert_ne!(
                    label.values.is_empty(),
                    label.bound.is_empty(),
                    "{name}: {}",
                    label.name
                );
            }
        }
    }
}
