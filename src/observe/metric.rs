//! The one list of metrics: names, kinds, units, help texts and buckets.
//!
//! Every metric the service exports is a [`Metric`] in [`ALL`]; nothing else may be recorded.

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution over fixed buckets.
    Histogram(&'static [f64]),
}

/// One exported metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// The exported name.
    pub name: &'static str,
    /// What it measures.
    pub kind: Kind,
    /// One line for `# HELP`.
    pub help: &'static str,
    /// Its label names.
    pub labels: &'static [&'static str],
}

const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
const DELAY: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0,
];
const SIZES: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
];
const TOKENS: &[f64] = &[
    16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0,
];

macro_rules! metrics {
    ($($konst:ident = $name:literal, $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $konst: &str = $name;)*
        /// Every metric of the service.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: $kind, help: $help, labels: &[$($label),*] },)*];
    };
}

metrics! {
    BUILD_INFO = "moodstream_build_info", Kind::Gauge, ["version"], "The running version; always 1.";
    MODEL_INFO = "moodstream_model_info", Kind::Gauge, ["model_id", "provider", "precision"], "The model in service; always 1.";
    RECORDS = "moodstream_records_total", Kind::Counter, ["topic"], "Records received from Kafka.";
    RECORD_BYTES = "moodstream_record_bytes_total", Kind::Counter, ["topic"], "Bytes of the records received from Kafka.";
    STAGE_RECORDS = "moodstream_stage_records_total", Kind::Counter, ["stage"], "Records that have passed a stage: parse, clean, classify, store.";
    STAGE_SECONDS = "moodstream_stage_seconds", Kind::Histogram(SECONDS), ["stage"], "Seconds a window spent in a stage.";
    OUTCOMES = "moodstream_outcomes_total", Kind::Counter, ["outcome"], "Settled records by outcome: inserted, duplicate, deletion, filtered, late, rejected.";
    REJECTS = "moodstream_rejects_total", Kind::Counter, ["reason"], "Rejected records by reason.";
    EMOTIONS = "moodstream_emotions_total", Kind::Counter, ["emotion"], "Stored posts by emotion.";
    DEAD_LETTERS = "moodstream_dead_letters_total", Kind::Counter, [], "Records written to the dead-letter topic.";
    DEAD_LETTER_ERRORS = "moodstream_dead_letter_errors_total", Kind::Counter, [], "Failed tries to write a dead letter.";
    BATCH_POSTS = "moodstream_batch_posts", Kind::Histogram(SIZES), [], "Posts in an inference batch.";
    BATCH_TOKENS = "moodstream_batch_tokens", Kind::Histogram(TOKENS), [], "Tokens in an inference batch, padding included.";
    TOKENS_TOTAL = "moodstream_tokens_total", Kind::Counter, [], "Tokens classified, padding not counted.";
    PADDING_TOKENS = "moodstream_padding_tokens_total", Kind::Counter, [], "Padding tokens computed in vain.";
    INFERENCE_SECONDS = "moodstream_inference_seconds", Kind::Histogram(SECONDS), [], "Seconds of one batch in the ONNX session.";
    TOKENIZE_SECONDS = "moodstream_tokenize_seconds", Kind::Histogram(SECONDS), [], "Seconds of tokenising one window.";
    CACHE_HITS = "moodstream_cache_hits_total", Kind::Counter, ["kind"], "Texts not classified again: from the cache, or equal within the window.";
    MODEL_FAULTS = "moodstream_model_faults_total", Kind::Counter, [], "Texts on which the model failed.";
    WINDOW_RECORDS = "moodstream_window_records", Kind::Histogram(SIZES), [], "Records in a window.";
    QUEUE_DEPTH = "moodstream_queue_depth", Kind::Gauge, ["queue"], "Items waiting in a bounded queue: records, windows, batches, flush.";
    QUEUE_BYTES = "moodstream_queue_bytes", Kind::Gauge, ["queue"], "Bytes held by records in flight.";
    EVENT_DELAY = "moodstream_event_delay_seconds", Kind::Histogram(DELAY), [], "Seconds from a post's event time to the commit of its row.";
    BROKER_DELAY = "moodstream_broker_delay_seconds", Kind::Histogram(DELAY), [], "Seconds from a record's time at the broker to the commit of its row.";
    LAG = "moodstream_lag_records", Kind::Gauge, ["topic", "partition"], "Records in a partition not yet committed.";
    ASSIGNED = "moodstream_assigned_partitions", Kind::Gauge, [], "Partitions this consumer holds.";
    PAUSED = "moodstream_paused", Kind::Gauge, [], "1 while consumption is paused because a lower stage is slow.";
    REBALANCES = "moodstream_rebalances_total", Kind::Counter, ["kind"], "Rebalances: assign, revoke, lost.";
    KAFKA_ERRORS = "moodstream_kafka_errors_total", Kind::Counter, ["kind"], "Errors from Kafka: consume, commit, produce, broker.";
    FENCED = "moodstream_fenced_total", Kind::Counter, [], "Partition runs dropped because another consumer had moved on.";
    TRANSACTIONS = "moodstream_transactions_total", Kind::Counter, ["result"], "Flush transactions: committed, fenced, failed.";
    TRANSACTION_SECONDS = "moodstream_transaction_seconds", Kind::Histogram(SECONDS), [], "Seconds of a committed flush transaction.";
    FLUSH_POSTS = "moodstream_flush_posts", Kind::Histogram(SIZES), [], "Posts in a flush transaction.";
    RETRIES = "moodstream_retries_total", Kind::Counter, ["what"], "Tries again after a passing fault: database, kafka, dead_letter.";
    STORE_PARTITIONS_DROPPED = "moodstream_store_partitions_dropped_total", Kind::Counter, [], "Day partitions dropped past retention.";
    READY = "moodstream_ready", Kind::Gauge, [], "1 while the service is ready.";
}
