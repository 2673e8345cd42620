//! The Kafka stage against a real broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

#[path = "support/broker.rs"]
mod broker;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use broker::Broker;
use futures::future::BoxFuture;
use moodstream::kafka::{Consumer, KafkaError, KafkaOptions, Message, OutOfRange, Partition, StartFrom, StartOffsets, StartOffsetsError, end_offsets};
use tokio::{sync::mpsc::Receiver, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Offsets in memory, as the database keeps them.
#[derive(Default)]
struct Offsets {
    rows: Mutex<HashMap<(String, i32), i64>>,
    away: AtomicBool,
    refused: AtomicUsize,
    begun: Mutex<Vec<(i32, i64)>>,
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
        self.rows.lock().unwrap().insert((topic.to_owned(), partition), offset);
    }

    fn get(&self, topic: &str, partition: i32) -> Option<i64> {
        self.rows.lock().unwrap().get(&(topic.to_owned(), partition)).copied()
    }

    fn here(&self) -> Result<(), StartOffsetsError> {
        if self.away.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err("the database is away".into());
        }
        Ok(())
    }
}

impl StartOffsets for Offsets {
    fn start_offsets<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<HashMap<Partition, Option<i64>>, StartOffsetsError>> {
        Box::pin(async move {
            self.here()?;
            Ok(partitions.iter().map(|key| (key.clone(), self.get(&key.0, key.1))).collect())
        })
    }

    fn begin<'a>(&'a self, topic: &'a str, partition: i32, offset: i64) -> BoxFuture<'a, Result<i64, StartOffsetsError>> {
        Box::pin(async move {
            self.here()?;
            self.begun.lock().unwrap().push((partition, offset));
            Ok(*self.rows.lock().unwrap().entry((topic.to_owned(), partition)).or_insert(offset))
        })
    }

    fn reset<'a>(&'a self, topic: &'a str, partition: i32, from: i64, to: i64) -> BoxFuture<'a, Result<i64, StartOffsetsError>> {
        Box::pin(async move {
            self.here()?;
            let mut rows = self.rows.lock().unwrap();
            let row = rows.get_mut(&(topic.to_owned(), partition)).ok_or("no such row")?;
            if *row == from {
                *row = to;
            }
            Ok(*row)
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

async fn next(messages: &mut Receiver<Message>) -> Message {
    timeout(PATIENCE, messages.recv()).await.expect("a message in time").expect("the consumer goes on")
}

async fn take(messages: &mut Receiver<Message>, count: usize) -> Vec<Message> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(next(messages).await);
    }
    taken
}

/// Fails if a message comes within the time: for proofs that nothing comes.
async fn nothing_for(messages: &mut Receiver<Message>, time: Duration) {
    if let Ok(message) = timeout(time, messages.recv()).await {
        panic!("unexpected: {message:?}");
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `count` records a partition: `partition:number`, interleaved.
fn fill(broker: &Broker, topic: &str, partitions: i32, count: usize) {
    let texts: Vec<(i32, String)> = (0..count).flat_map(|n| (0..partitions).map(move |p| (p, format!("{p}:{n}")))).collect();
    broker.produce(topic, texts.iter().map(|(p, text)| (*p, text.as_bytes())));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_records_of_all_partitions_come_in_order() {
    let broker = Broker::start();
    broker.create_topic("posts", 4);
    fill(&broker, "posts", 4, 500);
    let offsets = Offsets::with(&[]);
    let (consumer, mut messages) = Consumer::start(&options(&broker, &["posts"]), offsets.clone()).unwrap();
    let taken = take(&mut messages, 2_000).await;

    let mut next_of = BTreeMap::new();
    for message in &taken {
        let partition = message.origin.partition;
        let number = next_of.entry(partition).or_insert(0i64);
        assert_eq!(message.origin.offset, *number);
        assert_eq!(message.payload, format!("{partition}:{number}"));
        assert_eq!(&*message.origin.topic, "posts");
        assert!(consumer.assignment().holds(&message.origin.topic, partition, message.epoch));
        assert!(message.timestamp.is_some());
        *number += 1;
    }
    assert_eq!(next_of, BTreeMap::from([(0, 500), (1, 500), (2, 500), (3, 500)]));
    // The start was resolved to a real offset and written down.
    let mut begun = offsets.begun.lock().unwrap().clone();
    begun.sort_unstable();
    assert_eq!(begun, [(0, 0), (1, 0), (2, 0), (3, 0)]);
    nothing_for(&mut messages, Duration::from_millis(200)).await;
    consumer.close().await.unwrap();
    assert!(messages.recv().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn end_offsets_are_those_of_all_partitions_also_empty_ones() {
    let broker = Broker::start();
    broker.create_topic("posts", 3);
    broker.create_topic("empty", 2);
    fill(&broker, "posts", 2, 321);
    let started = Instant::now();
    let extents = end_offsets(&options(&broker, &["posts", "empty"]), PATIENCE).await.unwrap();
    eprintln!("took {:?}", started.elapsed());
    let ends: Vec<(String, i32, i64, i64)> = extents.iter().map(|((topic, partition), extent)| (topic.to_string(), *partition, extent.start, extent.end)).collect();
    let expected = [("empty", 0, 0, 0), ("empty", 1, 0, 0), ("posts", 0, 0, 321), ("posts", 1, 0, 321), ("posts", 2, 0, 0)];
    assert_eq!(ends, expected.map(|(topic, partition, start, end)| (topic.to_owned(), partition, start, end)));
}
