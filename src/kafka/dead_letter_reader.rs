//! Dead letters read back, and sent to where they came from: what `moodstream dead-letters` does.

use std::{collections::BTreeSet, ops::ControlFlow, str, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError as RdError,
    message::{BorrowedMessage, Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    check::fetch_metadata,
    client::Plain,
    dead_letter::header,
    error::{KafkaError, describe},
    options::KafkaOptions,
    record::{Origin, readable},
};

/// The header of a record that was sent back: where its dead letter lies, `topic/partition/offset`.
pub const REPLAYED_FROM: &str = "replayed_from";

/// How long the broker may be silent while dead letters are read.
const PATIENCE: Duration = Duration::from_secs(30);
/// Records that are sent before the first of them is acknowledged.
const IN_FLIGHT: usize = 500;

/// A dead letter as it lies in its topic.
#[derive(Debug, Clone)]
pub struct StoredDeadLetter {
    /// Where the letter lies.
    pub place: Origin,
    /// The kind of fault; absent in a record that is no dead letter of this service.
    pub reason: Option<String>,
    /// What was wrong and where.
    pub detail: Option<String>,
    /// Where the record lay.
    pub origin: Option<Origin>,
    /// The record's own time.
    pub origin_timestamp: Option<OffsetDateTime>,
    /// When the letter was written.
    pub written_at: Option<OffsetDateTime>,
    /// What of the record the letter lacks, because the broker refused the whole, or what can't be read of it: its end, its key or
    /// its headers.
    pub lacks: Vec<&'static str>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value; none for a tombstone.
    pub value: Option<Bytes>,
    /// The record's own headers.
    pub headers: OwnedHeaders,
}

impl StoredDeadLetter {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers: Vec<Option<Header<'_, &[u8]>>> = message.headers().into_iter().flat_map(readable).collect();
        // The headers of the letter follow those of the record, which may have the same names.
        let own = headers
            .iter()
            .rposition(|found| found.as_ref().is_some_and(|found| found.key == header::REASON))
            .unwrap_or(headers.len());
        let (record, letter) = headers.split_at(own);
        let text = |name: &str| {
            let found = letter.iter().flatten().find(|found| found.key == name)?;
            str::from_utf8(found.value?).ok()
        };
        let time = |name| OffsetDateTime::parse(text(name)?, &Rfc3339).ok();
        let origin = || {
            Some(Origin {
                topic: text(header::ORIGIN_TOPIC)?.into(),
                partition: text(header::ORIGIN_PARTITION)?.parse().ok()?,
                offset: text(header::ORIGIN_OFFSET)?.parse().ok()?,
            })
        };
        let lacks = [
            (header::TRUNCATED, "the end of its value"),
            (header::KEY_OMITTED, "its key"),
            (header::HEADERS_OMITTED, "its headers"),
        ];
        Self {
            place: Origin {
                topic: message.topic().into(),
                partition: message.partition(),
                offset: message.offset(),
            },
            reason: text(header::REASON).map(str::to_owned),
            detail: text(header::DETAIL).map(str::to_owned),
            origin: origin(),
            origin_timestamp: time(header::ORIGIN_TIMESTAMP),
            written_at: time(header::TIMESTAMP),
            lacks: lacks
                .into_iter()
                .filter(|(name, _)| text(name).is_some())
                .map(|(_, what)| what)
                .chain(
                    record
                        .iter()
                        .any(Option::is_none)
                        .then_some("a header whose name is not UTF-8"),
                )
                .collect(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: record.iter().flatten().fold(OwnedHeaders::new(), |headers, header| {
                headers.insert(Header {
                    key: header.key,
                    value: header.value,
                })
            }),
        }
    }
}

/// Calls `each` with every dead letter of the topic, partition by partition in order, until their ends are reached or it
/// says so. What is written meanwhile may be among them. Blocks: call it on a thread that may.
///
/// # Errors
/// The topic is not there, or the broker does not answer.
pub fn read_dead_letters(
    options: &KafkaOptions,
    topic: &str,
    mut each: impl FnMut(StoredDeadLetter) -> ControlFlow<()>,
) -> Result<(), KafkaError> {
    let metadata = fetch_metadata(options, PATIENCE)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found.filter(|found| found.error().is_none()) else {
        return Err(KafkaError::TopicsAbsent {
            topics: vec![topic.to_owned()],
        });
    };
    let consumer: BaseConsumer<Plain> = options
        .dead_letter_reader_config()
        .create_with_context(Plain::default())
        .map_err(|error| KafkaError::client("making a consumer of dead letters", &error))?;
    let client = |error| KafkaError::client("reading dead letters", &error);
    let mut open: BTreeSet<i32> = found
        .partitions()
        .iter()
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect();
    let mut assignment = TopicPartitionList::new();
    for &partition in &open {
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(client)?;
    }
    consumer.assign(&assignment).map_err(client)?;
    while !open.is_empty() {
        match consumer.poll(PATIENCE) {
            None => {
                let detail = consumer.context().last_error().map_or_else(
                    || format!("it gave no record for {} s", PATIENCE.as_secs()),
                    |(_, detail)| detail,
                );
                return Err(KafkaError::Unreachable {
                    brokers: options.brokers.clone(),
                    detail,
                });
            }
            Some(Err(RdError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => {
                return Err(client(error));
            }
            Some(Ok(message)) => {
                if each(StoredDeadLetter::of(&message)).is_break() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Sends records back.
pub struct Replay {
    producer: FutureProducer<Plain>,
    to: Option<String>,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("to", &self.to).finish_non_exhaustive()
    }
}

impl Replay {
    /// To the topic `to`, or without it to the topic and partition that each record came from.
    ///
    /// # Errors
    /// A setting that the client refuses.
    pub fn new(options: &KafkaOptions, to: Option<String>) -> Result<Self, KafkaError> {
        let producer = options
            .producer_config()
            .create_with_context(Plain::default())
            .map_err(|error| KafkaError::client("making the producer", &error))?;
        Ok(Self { producer, to })
    }

    /// Sends the records with their keys, values, times and own headers, and [`REPLAYED_FROM`] beside them; resolves when
    /// the broker has them all. Records of one partition keep their order only as far as their dead letters lie in one
    /// partition. Letters without an origin are left out where no topic was named: see [`Self::takes`].
    ///
    /// # Errors
    /// The broker has not taken one: some may have been sent, and sending them again is harmless where posts have ids.
    pub async fn send(&self, letters: &[StoredDeadLetter]) -> Result<(), KafkaError> {
        for window in letters.chunks(IN_FLIGHT) {
            let sent = window
                .iter()
                .filter(|letter| self.takes(letter))
                .map(|letter| self.send_one(letter));
            join_all(sent).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        Ok(())
    }

    /// Whether it is known where the record goes.
    #[must_use]
    pub fn takes(&self, letter: &StoredDeadLetter) -> bool {
        self.to.is_some() || letter.origin.is_some()
    }

    async fn send_one(&self, letter: &StoredDeadLetter) -> Result<(), KafkaError> {
        let place = letter.place.to_string();
        let headers = letter.headers.clone().insert(Header {
            key: REPLAYED_FROM,
            value: Some(&place),
        });
        let topic = match (&self.to, &letter.origin) {
            (Some(topic), _) => topic.as_str(),
            (None, Some(origin)) => &*origin.topic,
            (None, None) => return Ok(()),
        };
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(headers);
        if self.to.is_none()
            && let Some(origin) = &letter.origin
        {
            record = record.partition(origin.partition);
        }
        if let Some(key) = &letter.key {
            record = record.key(key);
        }
        if let Some(value) = &letter.value {
            record = record.payload(value);
        }
        if let Some(time) = letter.origin_timestamp {
            let milliseconds = time.unix_timestamp_nanos() / 1_000_000;
            record = record.timestamp(i64::try_from(milliseconds).unwrap_or_default());
        }
        match self.producer.send(record, Timeout::After(PATIENCE)).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(KafkaError::Client {
                what: "sending records back",
                detail: format!("{place} to {topic}: {}", describe(&error)),
            }),
        }
    }
}
