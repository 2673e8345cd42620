//! The partitions' watermarks.
//!
//! ListOffsets has two weaknesses: some Kafka-compatible brokers answer it wrongly, and its answer includes transaction
//! markers, which consumers never receive, so a group would wait for an offset that it can't reach. So the partitions are
//! fetched instead: every fetch response has the log start offset, high watermark and last stable offset, and the end is the
//! offset after the last record that a consumer receives.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError as RdError,
};

use super::{
    check::{blocking, partitions},
    client::CommonContext,
    error::KafkaError,
    options::KafkaOptions,
    partition::Partition,
    statistics::Statistics,
};

/// The range of offsets that a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The log start offset.
    pub low: i64,
    /// The offset after the last record; equal to `low` if there are no records.
    pub high: i64,
}

impl Watermarks {
    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.low >= self.high
    }
}

/// The current watermarks of all partitions of the configured topics. A group whose next offsets have reached each `high`
/// has read all records that existed at the time of the call.
///
/// # Errors
/// [`KafkaError`] if a topic doesn't exist or the brokers don't answer within `timeout`.
pub async fn watermarks(
    options: &KafkaOptions,
    timeout: Duration,
) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
    options.check()?;
    let options = options.clone();
    blocking(move || {
        let deadline = Instant::now() + timeout;
        let partitions = partitions(&options, timeout)?;
        let client = WatermarkClient::new(&options, deadline)?;
        let watermarks = client.log_watermarks(&partitions)?;
        client.last_records(watermarks)
    })
    .await
}

/// Log start and end of the partitions, including transaction markers: the range in which reading may start. Partitions for
/// which no broker answers within `timeout`, for example for lack of a leader, are absent.
pub(super) async fn log_watermarks(
    options: &KafkaOptions,
    partitions: Vec<Partition>,
    timeout: Duration,
) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
    let options = options.clone();
    blocking(move || WatermarkClient::new(&options, Instant::now() + timeout)?.available_log_watermarks(&partitions))
        .await
}

/// The ends of partitions, given offsets that they are known to have reached. Fetching starts at those offsets: earlier
/// records would be read in vain, and their memory would stay in the allocator arenas of librdkafka's threads, which are new
/// each time.
///
/// Partitions for which no broker answers within `timeout` are absent.
pub(super) async fn ends(
    options: &KafkaOptions,
    known: Vec<(Partition, i64)>,
    timeout: Duration,
) -> Result<BTreeMap<Partition, i64>, KafkaError> {
    let options = options.clone();
    blocking(move || WatermarkClient::new(&options, Instant::now() + timeout)?.ends(&known)).await
}

/// How long each poll waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(5);

/// A consumer with manual assignment, which joins no group and commits nothing.
struct WatermarkClient {
    consumer: Arc<BaseConsumer<CommonContext>>,
    brokers: String,
    read_committed: bool,
    deadline: Instant,
}

/// The search for a partition's last record.
struct Search {
    partition: Partition,
    watermarks: Watermarks,
    /// Where reading starts, in offsets before the end.
    back: i64,
    queue: PartitionQueue<CommonContext>,
    last: Option<i64>,
    done: bool,
}

impl WatermarkClient {
    fn new(options: &KafkaOptions, deadline: Instant) -> Result<Self, KafkaError> {
        let consumer = options
            .watermark_client_config()
            .create_with_context(CommonContext::default())
            .map_err(|error| KafkaError::client("creating a consumer", &error))?;
        Ok(Self {
            consumer: Arc::new(consumer),
            brokers: options.brokers.clone(),
            read_committed: options.read_committed(),
            deadline,
        })
    }

    fn log_watermarks(&self, partitions: &[Partition]) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
        let mut found = BTreeMap::new();
        let offsets = partitions.iter().map(|partition| (partition, Offset::Beginning));
        self.find(offsets, &mut found)?;
        Ok(found)
    }

    /// The watermarks of those partitions for which a broker answers in time.
    ///
    /// # Errors
    /// No broker answers for any partition.
    fn available_log_watermarks(
        &self,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
        let mut found = BTreeMap::new();
        let offsets = partitions.iter().map(|partition| (partition, Offset::Beginning));
        match self.find(offsets, &mut found) {
            Err(KafkaError::Unreachable { .. }) if !found.is_empty() => Ok(found),
            other => other.map(|()| found),
        }
    }

    fn ends(&self, known: &[(Partition, i64)]) -> Result<BTreeMap<Partition, i64>, KafkaError> {
        let mut found = BTreeMap::new();
        let offsets = known.iter().map(|(partition, end)| (partition, Offset::Offset(*end)));
        match self.find(offsets, &mut found) {
            // There may be no answer for a partition whose end has moved back; the others' ends are still needed.
            Ok(()) | Err(KafkaError::Unreachable { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(found
            .into_iter()
            .map(|(partition, watermarks)| (partition, watermarks.high))
            .collect())
    }

    /// Fetches partitions from these offsets until the watermarks of all are known.
    fn find<'a>(
        &self,
        offsets: impl Iterator<Item = (&'a Partition, Offset)>,
        found: &mut BTreeMap<Partition, Watermarks>,
    ) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        let mut missing: HashSet<&Partition> = HashSet::new();
        for (partition, offset) in offsets {
            add(&mut list, &partition.0, partition.1, offset)?;
            missing.insert(partition);
        }
        self.assign(&list)?;
        while !missing.is_empty() {
            self.check_deadline("the watermarks of", missing.iter().copied())?;
            // The records are discarded; only the watermarks in the responses are needed.
            let _ = self.consumer.poll(POLL_TIMEOUT);
            let statistics = self.consumer.context().take_statistics();
            let Ok(statistics) = serde_json::from_slice::<Statistics>(&statistics) else {
                continue;
            };
            let mut answered = TopicPartitionList::new();
            missing.retain(|partition| {
                let statistics = statistics
                    .topics
                    .get(&*partition.0)
                    .and_then(|topic| topic.partitions.get(&partition.1));
                let Some((low, high)) =
                    statistics.and_then(|partition| Some((partition.start()?, partition.end(self.read_committed)?)))
                else {
                    return true;
                };
                found.insert((*partition).clone(), Watermarks { low, high });
                answered.add_partition(&partition.0, partition.1);
                false
            });
            // Answered partitions need no more fetching; if pausing fails, only bandwidth is wasted.
            let _ = self.consumer.pause(&answered);
        }
        Ok(())
    }

    /// Moves each end to the offset after the last record that a consumer receives.
    fn last_records(
        &self,
        watermarks: BTreeMap<Partition, Watermarks>,
    ) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
        // Partitions that the first pass paused would stay paused.
        let mut paused = TopicPartitionList::new();
        for (topic, partition) in watermarks.keys() {
            paused.add_partition(topic, *partition);
        }
        self.consumer
            .resume(&paused)
            .map_err(|error| KafkaError::client("resuming partitions", &error))?;
        // Records fetched by the first pass must not reach the queues that are split off now.
        self.assign(&TopicPartitionList::new())?;
        let mut found = BTreeMap::new();
        let mut open = Vec::new();
        for (partition, watermarks) in watermarks {
            if watermarks.is_empty() {
                found.insert(partition, watermarks);
                continue;
            }
            let queue = self
                .consumer
                .split_partition_queue(&partition.0, partition.1)
                .ok_or_else(|| KafkaError::Client {
                    what: "splitting off a partition's queue",
                    detail: format!("{}/{} is unknown", partition.0, partition.1),
                })?;
            open.push(Search {
                partition,
                watermarks,
                back: 1,
                queue,
                last: None,
                done: false,
            });
        }
        while !open.is_empty() {
            let mut list = TopicPartitionList::new();
            for search in &mut open {
                search.done = false;
                add(
                    &mut list,
                    &search.partition.0,
                    search.partition.1,
                    Offset::Offset(search.from()),
                )?;
            }
            self.assign(&list)?;
            while open.iter().any(|search| !search.done) {
                self.check_deadline(
                    "the last record of",
                    open.iter()
                        .filter(|search| !search.done)
                        .map(|search| &search.partition),
                )?;
                let _ = self.consumer.poll(POLL_TIMEOUT);
                for search in open.iter_mut().filter(|search| !search.done) {
                    search.read();
                }
            }
            let (finished, rest): (Vec<_>, Vec<_>) = open
                .into_iter()
                .partition(|search| search.last.is_some() || search.from() <= search.watermarks.low);
            for Search {
                partition,
                watermarks,
                last,
                ..
            } in finished
            {
                found.insert(
                    partition,
                    Watermarks {
                        high: last.map_or(watermarks.low, |last| last + 1),
                        ..watermarks
                    },
                );
            }
            open = rest;
            for search in &mut open {
                search.back = search.back.saturating_mul(8);
            }
        }
        self.assign(&TopicPartitionList::new())?;
        Ok(found)
    }

    fn assign(&self, list: &TopicPartitionList) -> Result<(), KafkaError> {
        self.consumer
            .assign(list)
            .map_err(|error| KafkaError::client("assigning partitions", &error))
    }

    fn check_deadline<'a>(&self, what: &str, waiting: impl Iterator<Item = &'a Partition>) -> Result<(), KafkaError> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        let names: Vec<String> = waiting
            .take(3)
            .map(|(topic, partition)| format!("{topic}/{partition}"))
            .collect();
        let reason = self
            .consumer
            .context()
            .last_error()
            .map_or_else(String::new, |(_, reason)| format!(" ({reason})"));
        Err(KafkaError::Unreachable {
            brokers: self.brokers.clone(),
            detail: format!("no answer in time for {what} {}{reason}", names.join(", ")),
        })
    }
}

impl Search {
    fn from(&self) -> i64 {
        (self.watermarks.high.saturating_sub(self.back)).max(self.watermarks.low)
    }

    /// Reads the records fetched of the partition.
    fn read(&mut self) {
        while let Some(event) = self.queue.poll(Duration::ZERO) {
            match event {
                Ok(record) if record.offset() < self.watermarks.high => {
                    self.last = Some(record.offset());
                    self.done = record.offset() + 1 == self.watermarks.high;
                }
                // Beyond the reported end: all records before it have been read.
                Ok(_) | Err(RdError::PartitionEOF(_)) => self.done = true,
                // librdkafka recovers from transient errors; the deadline bounds the others.
                Err(_) => {}
            }
            if self.done {
                return;
            }
        }
    }
}

fn add(list: &mut TopicPartitionList, topic: &str, partition: i32, offset: Offset) -> Result<(), KafkaError> {
    list.add_partition_offset(topic, partition, offset)
        .map_err(|error| KafkaError::client("assigning an offset", &error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rdkafka::{
        ClientConfig,
        mocking::MockCluster,
        producer::{BaseProducer, BaseRecord, Producer as _},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// The number of records that the client has received from the broker.
    fn received(client: &WatermarkClient) -> u64 {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "no statistics");
            let _ = client.consumer.poll(POLL_TIMEOUT);
            let statistics = client.consumer.context().take_statistics();
            if let Ok(statistics) = serde_json::from_slice::<serde_json::Value>(&statistics) {
                return statistics["rxmsgs"].as_u64().unwrap();
            }
        }
    }

    /// Otherwise refreshes under back pressure would fetch whole batches again and again.
    #[test]
    fn querying_the_ends_reads_no_records_if_they_have_not_moved() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("posts", 2, 1).unwrap();
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", mock.bootstrap_servers())
            .create()
            .unwrap();
        let produce = |records: usize| {
            for _ in 0..records {
                let record = BaseRecord::<(), str>::to("posts").partition(1).payload("text");
                producer.send(record).unwrap();
            }
            producer.flush(PATIENCE).unwrap();
        };
        produce(500);
        let options = KafkaOptions {
            brokers: mock.bootstrap_servers(),
            topics: vec!["posts".into()],
            ..KafkaOptions::default()
        };
        let client = || WatermarkClient::new(&options, Instant::now() + PATIENCE).unwrap();
        let of = |partition| (Arc::<str>::from("posts"), partition);

        let all = client();
        assert_eq!(
            all.log_watermarks(&[of(1)]).unwrap()[&of(1)],
            Watermarks { low: 0, high: 500 }
        );
        assert!(received(&all) > 0);

        let at_ends = client();
        let ends = at_ends.ends(&[(of(0), 0), (of(1), 500)]).unwrap();
        assert_eq!((ends[&of(0)], ends[&of(1)]), (0, 500));
        assert_eq!(received(&at_ends), 0);

        produce(3);
        assert_eq!(client().ends(&[(of(1), 500)]).unwrap()[&of(1)], 503);

        // There is no answer for a partition that doesn't exist, but the others' ends are returned.
        let brief = WatermarkClient::new(&options, Instant::now() + Duration::from_secs(3)).unwrap();
        let ends = brief.ends(&[(of(0), 0), (of(7), 0)]).unwrap();
        assert_eq!(ends.get(&of(7)), None);
        assert_eq!(ends.get(&of(0)), Some(&0));
    }
}
