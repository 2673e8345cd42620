//! Feeds a topic from a file or standard input, as `moodstream feed` does.

mod layout;
mod options;
mod pace;
mod records;
pub mod shift_timestamps;
mod topic;

use std::{
    borrow::Cow,
    ops::ControlFlow,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use self::{
    options::{FeedError, FeedOptions},
    records::FeedInput,
};
use self::{pace::Pace, records::Records};
use crate::{
    kafka::{KafkaError, KafkaOptions, client, error::describe},
    sync::lock,
};
use rdkafka::{
    ClientContext,
    error::KafkaError as RdError,
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
    types::RDKafkaErrorCode,
};

/// The progress of feeding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedProgress {
    /// The number of records handed to the producer, excluding empty ones.
    pub sent: u64,
    /// The number of records acknowledged by the broker.
    pub acknowledged: u64,
    /// The total size of the records sent, in bytes.
    pub bytes: u64,
    /// The number of bytes read from the input, before decompression.
    pub input_bytes: u64,
    /// The length of the input in bytes, if known.
    pub input_length: Option<u64>,
}

/// The result of feeding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeedSummary {
    /// The final counts. Everything sent has been acknowledged.
    pub progress: FeedProgress,
    /// The number of records without a key, which were sent to arbitrary partitions.
    pub without_key: u64,
    /// Whether the progress callback stopped it before the end of the input.
    pub interrupted: bool,
    /// The elapsed time.
    pub elapsed: Duration,
}

impl FeedSummary {
    /// Returns the rate in records per second.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // for display only
    pub fn rate(&self) -> f64 {
        self.progress.sent as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Counts delivery reports.
#[derive(Debug, Default)]
struct Deliveries {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    first_error: Mutex<Option<String>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: RdError, reason: &str) {
        client::count_error("broker");
        tracing::debug!(error = %describe(&error), reason, "kafka client");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                client::count_error("produce");
                self.failed.fetch_add(1, Ordering::Relaxed);
                lock(&self.first_error).get_or_insert_with(|| describe(error));
            }
        }
    }
}

/// Sends each record of the input once, in order. Records are lines or, if the input is pretty-printed JSON, a JSON array
/// or server-sent events, the values, elements or events. Empty records are skipped.
///
/// `rewrite` may modify each record (see [`shift_timestamps`]). `key` returns a record's key,
/// which determines its partition. `progress` is called periodically and may stop the feeding; records already
/// sent are then still awaited. Blocks: call it on a thread that may block.
///
/// # Errors
/// Returns [`FeedError`] if the input can't be read, or the broker does not accept the records.
pub fn feed(
    kafka: &KafkaOptions,
    options: &FeedOptions,
    input: &FeedInput,
    rewrite: impl for<'a> Fn(&'a [u8]) -> Cow<'a, [u8]>,
    key: impl Fn(&[u8]) -> Option<String>,
    mut progress: impl FnMut(&FeedProgress) -> ControlFlow<()>,
) -> Result<FeedSummary, FeedError> {
    kafka.properties.check()?;
    if options.topic.is_empty() {
        return Err(KafkaError::setting("topic", "is empty: name the topic to feed").into());
    }
    if let Some(rate) = options.rate
        && !(rate.is_finite() && rate > 0.0)
    {
        return Err(KafkaError::setting("rate", "must be a number of records per second above 0").into());
    }
    let mut records = Records::open(input, options.any_text).map_err(|error| read_error(input, error, 0))?;
    topic::prepare(kafka, options)?;
    let producer = producer(kafka, options)?;

    let started = Instant::now();
    let mut pace = Pace::new(options.rate, started);
    let mut state = FeedProgress {
        input_length: records.length(),
        ..FeedProgress::default()
    };
    let (mut without_key, mut interrupted, mut shown) = (0, false, started);
    while let Some(line) = records.next().map_err(|error| read_error(input, error, state.sent))? {
        if line.is_empty() {
            continue;
        }
        pace.wait(|pause| producer.poll(pause));
        let line = rewrite(line);
        let key = key(&line);
        without_key += u64::from(key.is_none());
        send(&producer, &options.topic, &line, key.as_deref(), options)?;
        state.sent += 1;
        state.bytes += line.len() as u64;
        state.input_bytes = records.position();
        if state.sent.is_multiple_of(64) || options.rate.is_some() {
            producer.poll(Duration::ZERO);
            failures(&producer, options)?;
        }
        if shown.elapsed() >= Duration::from_millis(50) {
            shown = Instant::now();
            state.acknowledged = producer.context().acknowledged.load(Ordering::Relaxed);
            if progress(&state).is_break() {
                interrupted = true;
                break;
            }
        }
    }
    flush(&producer, options, &mut state, &mut progress)?;
    state.input_bytes = records.position();
    let _ = progress(&state);
    Ok(FeedSummary {
        progress: state,
        without_key,
        interrupted,
        elapsed: started.elapsed(),
    })
}

fn read_error(input: &FeedInput, error: std::io::Error, sent: u64) -> FeedError {
    FeedError::Read {
        input: input.to_string(),
        error,
        sent,
    }
}

fn producer(kafka: &KafkaOptions, options: &FeedOptions) -> Result<BaseProducer<Deliveries>, KafkaError> {
    let mut config = kafka.producer_config();
    for (name, value) in [
        ("compression.type", options.compression.as_str()),
        ("linger.ms", "20"),
        ("batch.num.messages", "10000"),
        // The size of records waiting for the broker, which bounds this process's memory.
        ("queue.buffering.max.kbytes", "65536"),
        ("message.timeout.ms", "60000"),
    ] {
        if !kafka.properties.0.contains_key(name) {
            config.set(name, value);
        }
    }
    config
        .create_with_context(Deliveries::default())
        .map_err(|error| KafkaError::client("creating the producer", &error))
}

fn send(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    line: &[u8],
    key: Option<&str>,
    options: &FeedOptions,
) -> Result<(), FeedError> {
    let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(topic).payload(line);
    if let Some(key) = key {
        record = record.key(key);
    }
    loop {
        let Err((error, unsent)) = producer.send(record) else {
            return Ok(());
        };
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
            return Err(FeedError::NotAcknowledged {
                topic: topic.to_owned(),
                failed: 1,
                detail: describe(&error),
            });
        }
        // Sleeps until the broker acknowledges a record, which makes room for another.
        producer.poll(Duration::from_millis(100));
        failures(producer, options)?;
        record = unsent;
    }
}

fn flush(
    producer: &BaseProducer<Deliveries>,
    options: &FeedOptions,
    state: &mut FeedProgress,
    progress: &mut impl FnMut(&FeedProgress) -> ControlFlow<()>,
) -> Result<(), FeedError> {
    loop {
        // Every record is acknowledged or fails within message.timeout.ms.
        let flushed = producer.flush(Duration::from_millis(100)).is_ok();
        failures(producer, options)?;
        state.acknowledged = producer.context().acknowledged.load(Ordering::Relaxed);
        if flushed && state.acknowledged == state.sent {
            return Ok(());
        }
        let _ = progress(state);
    }
}

fn failures(producer: &BaseProducer<Deliveries>, options: &FeedOptions) -> Result<(), FeedError> {
    let failed = producer.context().failed.load(Ordering::Relaxed);
    if failed == 0 {
        return Ok(());
    }
    let detail = lock(&producer.context().first_error).clone().unwrap_or_default();
    Err(FeedError::NotAcknowledged {
        topic: options.topic.clone(),
        failed,
        detail,
    })
}
