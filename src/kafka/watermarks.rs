//! How far partitions reach.
//!
//! ListOffsets has two weaknesses: some Kafka-compatible brokers answer it wrongly, and its answer counts transaction
//! markers, which no consumer ever gets, so a group would wait for an offset that it can't reach. So the partitions are
//! fetched: every fetch response has the log's start, high watermark and last stable offset, and the end is the offset
//! after the last record that a consumer really gets.

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
    client::Plain,
    error::KafkaError,
    options::KafkaOptions,
    partition::Partition,
    rebalance::Statistics,
};

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The offset of the oldest record.
    pub low: i64,
    /// The offset after the newest record. Equal to `low` where there is none.
    pub high: i64,
}

impl Watermarks {
    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.low >= self.high
    }
}

/// What all partitions of the topics hold now, whoever reads them: a group whose next offsets
/// have reached each `high` has read everything that was there when this was called.
///
/// # Errors
/// [`KafkaError`] if a topic is absent or the brokers don't answer within `timeout`.
pub async fn watermarks(
    options: &KafkaOptions,
    timeout: Duration,
) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
    options.check()?;
    let options = options.clone();
    blocking(move || {
        let deadline = Instant::now() + timeout;
        let partitions = partitions(&options, timeout)?;
        let probe = Probe::new(&options, deadline)?;
        let watermarks = probe.log_watermarks(&partitions)?;
        probe.last_records(watermarks)
    })
    .await
}

/// Log start and end of the partitions, transaction markers included: where reading may start. Partitions that don't answer within
/// `timeout`, having no leader for example, are absent.
pub(super) async fn log_watermarks(
    options: &KafkaOptions,
    partitions: Vec<Partition>,
    timeout: Duration,
) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
    let options = options.clone();
    blocking(move || Probe::new(&options, Instant::now() + timeout)?.answers(&partitions)).await
}

/// The ends of partitions that reach at least as far as given. Fetching starts there: earlier records would be read for
/// nothing, and librdkafka's threads, new ones each time, would keep their memory in allocator pools of their own.
///
/// Partitions that don't answer within `timeout` are absent.
pub(super) async fn ends(
    options: &KafkaOptions,
    known: Vec<(Partition, i64)>,
    timeout: Duration,
) -> Result<BTreeMap<Partition, i64>, KafkaError> {
    let options = options.clone();
    blocking(move || Probe::new(&options, Instant::now() + timeout)?.ends(&known)).await
}

const STEP: Duration = Duration::from_millis(5);

/// A consumer by manual assignment, which joins no group and commits nothing.
struct Probe {
    consumer: Arc<BaseConsumer<Plain>>,
    brokers: String,
    read_committed: bool,
    deadline: Instant,
}

/// A partition whose last record is looked for.
struct Search {
    partition: Partition,
    watermarks: Watermarks,
    /// Where the search starts, counted back from the end.
    back: i64,
    queue: PartitionQueue<Plain>,
    last: Option<i64>,
    done: bool,
}

impl Probe {
    fn new(options: &KafkaOptions, deadline: Instant) -> Result<Self, KafkaError> {
        let consumer = options
            .probe_config()
            .create_with_context(Plain::default())
            .map_err(|error| KafkaError::client("making a consumer", &error))?;
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

    /// The watermarks of those partitions that answer in time.
    ///
    /// # Errors
    /// No partition answers.
    fn answers(&self, partitions: &[Partition]) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
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
            // A partition whose end has moved back may not answer; the others' ends are still wanted.
            Ok(()) | Err(KafkaError::Unreachable { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(found
            .into_iter()
            .map(|(partition, watermarks)| (partition, watermarks.high))
            .collect())
    }

    /// Fetches partitions from these offsets on until the watermarks of all are known.
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
            self.in_time("the watermarks of", missing.iter().copied())?;
            // The records are not wanted, only the watermarks in the responses.
            let _ = self.consumer.poll(STEP);
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
            // Partitions that have answered need no more fetching; a failure to pause costs only bytes.
            let _ = self.consumer.pause(&answered);
        }
        Ok(())
    }

    /// Moves each end to the one after the last record that a consumer gets.
    fn last_records(
        &self,
        watermarks: BTreeMap<Partition, Watermarks>,
    ) -> Result<BTreeMap<Partition, Watermarks>, KafkaError> {
        // Partitions that the first pass has paused would stay paused.
        let mut looked_at = TopicPartitionList::new();
        for (topic, partition) in watermarks.keys() {
            looked_at.add_partition(topic, *partition);
        }
        self.consumer
            .resume(&looked_at)
            .map_err(|error| KafkaError::client("resuming partitions to look at", &error))?;
        // Nothing fetched by the first pass may reach the queues that are split off now.
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
                    what: "looking at a partition",
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
                self.in_time(
                    "the last record of",
                    open.iter()
                        .filter(|search| !search.done)
                        .map(|search| &search.partition),
                )?;
                let _ = self.consumer.poll(STEP);
                for search in open.iter_mut().filter(|search| !search.done) {
                    search.read();
                }
            }
            let (settled, rest): (Vec<_>, Vec<_>) = open
                .into_iter()
                .partition(|search| search.last.is_some() || search.from() <= search.watermarks.low);
            for Search {
                partition,
                watermarks,
                last,
                ..
            } in settled
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
            .map_err(|error| KafkaError::client("assigning partitions to look at", &error))
    }

    fn in_time<'a>(&self, what: &str, waiting: impl Iterator<Item = &'a Partition>) -> Result<(), KafkaError> {
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

    /// Reads what was fetched of the partition.
    fn read(&mut self) {
        while let Some(event) = self.queue.poll(Duration::ZERO) {
            match event {
                Ok(record) if record.offset() < self.watermarks.high => {
                    self.last = Some(record.offset());
                    self.done = record.offset() + 1 == self.watermarks.high;
                }
                // Beyond the end that was reported: everything before it has been read.
                Ok(_) | Err(RdError::PartitionEOF(_)) => self.done = true,
                // A transient error: librdkafka goes on by itself, or the deadline ends it.
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
        .map_err(|error| KafkaError::client("naming an offset", &error))
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

    /// Records that a probe's client was given by the broker in its life.
    fn received(probe: &Probe) -> u64 {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "no statistics");
            let _ = probe.consumer.poll(STEP);
            let statistics = probe.consumer.context().take_statistics();
            if let Ok(statistics) = serde_json::from_slice::<serde_json::Value>(&statistics) {
                return statistics["rxmsgs"].as_u64().unwrap();
            }
        }
    }

    /// Else a pause under back pressure read whole batches again and again.
    #[test]
    fn a_look_at_known_ends_reads_no_records() {
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
        let probe = || Probe::new(&options, Instant::now() + PATIENCE).unwrap();
        let of = |partition| (Arc::<str>::from("posts"), partition);

        let all = probe();
        assert_eq!(
            all.log_watermarks(&[of(1)]).unwrap()[&of(1)],
            Watermarks { low: 0, high: 500 }
        );
        assert!(received(&all) > 0);

        let look = probe();
        let ends = look.ends(&[(of(0), 0), (of(1), 500)]).unwrap();
        assert_eq!((ends[&of(0)], ends[&of(1)]), (0, 500));
        assert_eq!(received(&look), 0);

        produce(3);
        assert_eq!(probe().ends(&[(of(1), 500)]).unwrap()[&of(1)], 503);

        // One that is not there never answers, and one that has been made anew may not: the others are told all the same.
        let brief = Probe::new(&options, Instant::now() + Duration::from_secs(3)).unwrap();
        let ends = brief.ends(&[(of(0), 0), (of(7), 0)]).unwrap();
        assert_eq!(ends.get(&of(7)), None);
        assert_eq!(ends.get(&of(0)), Some(&0));
    }
}
