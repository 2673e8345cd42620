//! Tests of the Kafka stage with a real broker.

mod assignment;
mod back_pressure;
mod odd_records;
mod producing;
mod quarantine;
mod starts;
mod unreachable;

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::broker::Broker;
use futures::future::BoxFuture;
use moodstream::feed::{self, FeedError, FeedInput, FeedOptions, FeedSummary};
use moodstream::kafka::{
    Consumer, DeadLetter, DeadLetterCounts, DeadLetterError, DeadLetterTopic, DeadLetters, KafkaError, KafkaOptions,
    OffsetStore, OffsetStoreError, OnTopicChanged, Origin, OutOfRange, Partition, QuarantineReason, Record, StartFrom,
    StartOffset, check_broker, prepare_dead_letter_topic, watermarks,
};
use moodstream::post::Fingerprint;
use tokio::{sync::mpsc::Receiver, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// An in-memory `OffsetStore` that behaves like the database's.
#[derive(Default)]
struct Offsets {
    rows: Mutex<HashMap<(String, i32), StartOffset>>,
    unavailable: AtomicBool,
    refused: AtomicUsize,
    inserted: Mutex<Vec<(i32, i64)>>,
}

impl Offsets {
    fn with(rows: &[(&str, i32, i64)]) -> Arc<Self> {
        let offsets = Self::default();
        for (topic, partition, offset) in rows {
            offsets.set(topic, *partition, *offset);
        }
        Arc::new(offsets)
    }

    fn set(&self, topic: &str, partition: i32, offset: i64) {
        let stored = StartOffset {
            next: offset,
            ..StartOffset::default()
        };
        self.put(topic, partition, stored);
    }

    fn put(&self, topic: &str, partition: i32, stored: StartOffset) {
        self.rows.lock().unwrap().insert((topic.to_owned(), partition), stored);
    }

    fn get(&self, topic: &str, partition: i32) -> Option<i64> {
        self.stored(topic, partition).map(|stored| stored.next)
    }

    fn stored(&self, topic: &str, partition: i32) -> Option<StartOffset> {
        self.rows.lock().unwrap().get(&(topic.to_owned(), partition)).cloned()
    }

    fn check_available(&self) -> Result<(), OffsetStoreError> {
        if self.unavailable.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err("the database is unavailable".into());
        }
        Ok(())
    }
}

impl OffsetStore for Offsets {
    fn start_offsets<'a>(
        &'a self,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<HashMap<Partition, StartOffset>, OffsetStoreError>> {
        Box::pin(async move {
            self.check_available()?;
            Ok(partitions
                .iter()
                .filter_map(|key| Some((key.clone(), self.stored(&key.0, key.1)?)))
                .collect())
        })
    }

    fn topics_with_offsets(&self) -> BoxFuture<'_, Result<Vec<String>, OffsetStoreError>> {
        Box::pin(async move {
            self.check_available()?;
            Ok(self
                .rows
                .lock()
                .unwrap()
                .keys()
                .map(|(topic, _)| topic.clone())
                .collect())
        })
    }

    fn insert_start_offsets<'a>(
        &'a self,
        starts: &'a [(Partition, i64)],
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
        Box::pin(async move {
            self.check_available()?;
            for ((topic, partition), offset) in starts {
                self.inserted.lock().unwrap().push((*partition, *offset));
                let mut rows = self.rows.lock().unwrap();
                rows.entry((topic.to_string(), *partition)).or_insert(StartOffset {
                    next: *offset,
                    cluster: cluster.map(str::to_owned),
                    last: None,
                });
            }
            Ok(())
        })
    }

    fn reset<'a>(
        &'a self,
        (topic, partition): &'a Partition,
        from: &'a StartOffset,
        to: i64,
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
        Box::pin(async move {
            self.check_available()?;
            let mut rows = self.rows.lock().unwrap();
            let row = rows.get_mut(&(topic.to_string(), *partition)).ok_or("no such row")?;
            if row == from {
                *row = StartOffset {
                    next: to,
                    cluster: cluster.map(str::to_owned),
                    last: None,
                };
            }
            Ok(())
        })
    }

    fn adopt<'a>(
        &'a self,
        partitions: &'a [Partition],
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
        Box::pin(async move {
            self.check_available()?;
            let mut rows = self.rows.lock().unwrap();
            for (topic, partition) in partitions {
                if let Some(row) = rows.get_mut(&(topic.to_string(), *partition)) {
                    row.cluster = Some(cluster.to_owned());
                }
            }
            Ok(())
        })
    }
}

fn options(broker: &Broker, topics: &[&str]) -> KafkaOptions {
    KafkaOptions {
        brokers: broker.address(),
        topics: topics.iter().map(ToString::to_string).collect(),
        group: "readers".into(),
        ..KafkaOptions::default()
    }
}

async fn next(records: &mut Receiver<Record>) -> Record {
    timeout(PATIENCE, records.recv())
        .await
        .expect("no record in time")
        .expect("the consumer ended")
}

async fn take(records: &mut Receiver<Record>, count: usize) -> Vec<Record> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(next(records).await);
    }
    taken
}

/// Fails if a record arrives within `time`.
async fn assert_no_record(records: &mut Receiver<Record>, time: Duration) {
    if let Ok(record) = timeout(time, records.recv()).await {
        panic!("unexpected: {record:?}");
    }
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Produces `count` records to each partition, interleaved, with the value `partition:number`.
fn fill(broker: &Broker, topic: &str, partitions: i32, count: usize) {
    let texts: Vec<(i32, String)> = (0..count)
        .flat_map(|n| (0..partitions).map(move |p| (p, format!("{p}:{n}"))))
        .collect();
    broker.produce(topic, texts.iter().map(|(p, text)| (*p, text.as_bytes())));
}
