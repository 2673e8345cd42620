//! Reads dead letters and sends their records back to where they came from, for `moodstream dead-letters`.

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

use super::letter::header;
use crate::kafka::{
    check::fetch_metadata,
    client::CommonContext,
    consumer::{Origin, read_headers},
    error::{KafkaError, describe},
    options::KafkaOptions,
};

/// The header of a replayed record with the place of its dead letter, `topic/partition/offset`.
pub const REPLAYED_FROM: &str = "replayed_from";

/// How long to wait for an answer of the broker.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The most records sent and not yet acknowledged.
const MAX_IN_FLIGHT: usize = 500;

/// A dead letter as read from its topic.
#[derive(Debug, Clone)]
pub struct StoredDeadLetter {
    /// Where the dead letter is stored.
    pub place: Origin,
    /// The reason; `None` for a record that is not a dead letter of this service.
    pub reason: Option<String>,
    /// What was wrong and where.
    pub detail: Option<String>,
    /// Where the record was read.
    pub origin: Option<Origin>,
    /// The record's own timestamp.
    pub origin_timestamp: Option<OffsetDateTime>,
    /// When the dead letter was written.
    pub written_at: Option<OffsetDateTime>,
    /// The parts of the record that are missing because it was too large for the broker, or that can't be read: the end of
    /// its value, its key or its headers.
    pub lacks: Vec<&'static str>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value; `None` for a tombstone.
    pub value: Option<Bytes>,
    /// The record's own headers.
    pub headers: OwnedHeaders,
}

impl StoredDeadLetter {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers: Vec<Option<Header<'_, &[u8]>>> = message.headers().into_iter().flat_map(read_headers).collect();
        // The headers of the dead letter follow those of the record, which may have the same names.
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

/// Calls `each` with every dead letter of the topic, in order within each partition, until all partitions are at their end
/// or `each` breaks. Dead letters written in the meantime may be included. Blocks the thread.
///
/// # Errors
/// The topic doesn't exist, or the broker doesn't answer.
pub fn read_dead_letters(
    options: &KafkaOptions,
    topic: &str,
    mut each: impl FnMut(StoredDeadLetter) -> ControlFlow<()>,
) -> Result<(), KafkaError> {
    let metadata = fetch_metadata(options, TIMEOUT)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found.filter(|found| found.error().is_none()) else {
        return Err(KafkaError::TopicsAbsent {
            topics: vec![topic.to_owned()],
        });
    };
    let consumer: BaseConsumer<CommonContext> = options
        .dead_letter_reader_config()
        .create_with_context(CommonContext::default())
        .map_err(|error| KafkaError::client("creating a consumer of dead letters", &error))?;
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
        match consumer.poll(TIMEOUT) {
            None => {
                let detail = consumer.context().last_error().map_or_else(
                    || format!("no record arrived for {} s", TIMEOUT.as_secs()),
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

/// Sends the records of dead letters back.
pub struct Replay {
    producer: FutureProducer<CommonContext>,
    to: Option<String>,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("to", &self.to).finish_non_exhaustive()
    }
}

impl Replay {
    /// Sends to the topic `to`, or if it is `None` to the topic and partition that each record came from.
    ///
    /// # Errors
    /// librdkafka refuses a setting.
    pub fn new(options: &KafkaOptions, to: Option<String>) -> Result<Self, KafkaError> {
        let producer = options
            .producer_config()
            .create_with_context(CommonContext::default())
            .map_err(|error| KafkaError::client("creating the producer", &error))?;
        Ok(Self { producer, to })
    }

    /// Sends the records with their keys, values, timestamps and own headers, adding [`REPLAYED_FROM`]; resolves when the
    /// broker has acknowledged all. Records of one partition keep their order only if their dead letters are in the same
    /// partition. Dead letters without a destination are skipped: see [`Self::takes`].
    ///
    /// # Errors
    /// A record was not acknowledged. Others may have been sent; sending them again is harmless if posts have ids.
    pub async fn send(&self, letters: &[StoredDeadLetter]) -> Result<(), KafkaError> {
        for window in letters.chunks(MAX_IN_FLIGHT) {
            let sent = window
                .iter()
                .filter(|letter| self.takes(letter))
                .map(|letter| self.send_one(letter));
            join_all(sent).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        Ok(())
    }

    /// Whether the record has a destination: the topic given, or its origin.
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
        match self.producer.send(record, Timeout::After(TIMEOUT)).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(KafkaError::Client {
                what: "sending records back",
                detail: format!("{place} to {topic}: {}", describe(&error)),
            }),
        }
    }
}
