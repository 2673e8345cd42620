//! The Kafka stage against a real broker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "support/broker.rs"]
mod broker;

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use broker::Broker;
use futures::future::BoxFuture;
use moodstream::kafka::{
    Consumer, DeadLetter, DeadLetterError, DeadLetters, FeedError, FeedOptions, FeedSource, FeedSummary, KafkaError,
    KafkaOptions, Message, Origin, OutOfRange, Partition, Sent, StartFrom, StartOffsets, StartOffsetsError,
    check_broker, end_offsets, feed,
};
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
    fn start_offsets<'a>(
        &'a self,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<HashMap<Partition, Option<i64>>, StartOffsetsError>> {
        Box::pin(async move {
            self.here()?;
            Ok(partitions
                .iter()
                .map(|key| (key.clone(), self.get(&key.0, key.1)))
                .collect())
        })
    }

    fn begin<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        offset: i64,
    ) -> BoxFuture<'a, Result<i64, StartOffsetsError>> {
        Box::pin(async move {
            self.here()?;
            self.begun.lock().unwrap().push((partition, offset));
            Ok(*self
                .rows
                .lock()
                .unwrap()
                .entry((topic.to_owned(), partition))
                .or_insert(offset))
        })
    }

    fn reset<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        from: i64,
        to: i64,
    ) -> BoxFuture<'a, Result<i64, StartOffsetsError>> {
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
    timeout(PATIENCE, messages.recv())
        .await
        .expect("a message in time")
        .expect("the consumer goes on")
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
    let texts: Vec<(i32, String)> = (0..count)
        .flat_map(|n| (0..partitions).map(move |p| (p, format!("{p}:{n}"))))
        .collect();
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
        assert!(
            consumer
                .assignment()
                .holds(&message.origin.topic, partition, message.epoch)
        );
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
    let extents = end_offsets(&options(&broker, &["posts", "empty"]), PATIENCE)
        .await
        .unwrap();
    eprintln!("took {:?}", started.elapsed());
    let ends: Vec<(String, i32, i64, i64)> = extents
        .iter()
        .map(|((topic, partition), extent)| (topic.to_string(), *partition, extent.start, extent.end))
        .collect();
    let expected = [
        ("empty", 0, 0, 0),
        ("empty", 1, 0, 0),
        ("posts", 0, 0, 321),
        ("posts", 1, 0, 321),
        ("posts", 2, 0, 0),
    ];
    assert_eq!(
        ends,
        expected.map(|(topic, partition, start, end)| (topic.to_owned(), partition, start, end))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_topic_and_an_absent_broker_are_named() {
    let mut broker = Broker::start();
    broker.create_topic("posts", 2);
    let mut options = options(&broker, &["posts", "nowhere", "^none-.*"]);
    let error = end_offsets(&options, PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, KafkaError::TopicsAbsent { topics } if topics == &["nowhere", "^none-.*"]),
        "{error}"
    );
    options.topics = vec!["^po.ts$".into()];
    let report = check_broker(&options, PATIENCE).await.unwrap();
    assert_eq!(report.topics, [("posts".to_owned(), 2)]);
    assert_eq!(report.brokers, [broker.address()]);

    broker.kill();
    let error = check_broker(&options, Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(&error, KafkaError::Unreachable { .. }), "{error}");
    let line = error.to_string();
    assert!(
        line.contains(&broker.address()) && line.contains("refused") && !line.contains('\n'),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_property_does_not_show_its_secret() {
    let options = KafkaOptions {
        topics: vec!["posts".into()],
        properties: [("ssl.key.password", "hunter2"), ("security.protocol", "nonsense")]
            .into_iter()
            .collect(),
        ..KafkaOptions::default()
    };
    let error = Consumer::start(&options, Offsets::with(&[])).err().unwrap();
    let shown = format!("{error} {error:?} {options:?}");
    assert!(
        shown.contains("security.protocol") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_bounded_bytes_and_loses_nothing() {
    let broker = Broker::start();
    broker.create_topic("posts", 2);
    let payload = vec![b'x'; 10_000];
    broker.produce("posts", (0..1_000).map(|n| (n % 2, payload.as_slice())));
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_bytes = 100_000;
    let (consumer, mut messages) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    until("the budget is full", || consumer.in_flight().1 > 89_000).await;
    // Longer than the session: a member that did not poll would be thrown out.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let (records, bytes) = consumer.in_flight();
    assert!(records == 9 && bytes <= 100_000, "{records} records, {bytes} bytes");
    let epochs: Vec<u64> = consumer.positions().iter().map(|held| held.epoch).collect();
    assert_eq!(epochs.len(), 2, "kept its place in the group");

    // Held back by the reader's hand, not by the channel alone.
    let held = take(&mut messages, 9).await;
    nothing_for(&mut messages, Duration::from_millis(300)).await;
    let mut seen: Vec<(i32, i64)> = held
        .iter()
        .map(|message| (message.origin.partition, message.origin.offset))
        .collect();
    drop(held);
    for _ in 9..1_000 {
        let message = next(&mut messages).await;
        assert!(epochs.contains(&message.epoch));
        seen.push((message.origin.partition, message.origin.offset));
    }
    seen.sort_unstable();
    let all: Vec<(i32, i64)> = (0..2)
        .flat_map(|partition| (0..500).map(move |offset| (partition, offset)))
        .collect();
    assert_eq!(seen, all);
    until("all room is given back", || consumer.in_flight() == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_greater_than_the_budget_passes_alone() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    let (small, huge) = (vec![b's'; 10], vec![b'h'; 3_000_000]);
    broker.produce(
        "posts",
        [(0, small.as_slice()), (0, huge.as_slice()), (0, small.as_slice())],
    );
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_bytes = 1_000;
    let (_consumer, mut messages) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    for length in [10, 3_000_000, 10] {
        assert_eq!(next(&mut messages).await.payload.len(), length);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_start_where_the_offsets_say() {
    let broker = Broker::start();
    broker.create_topic("posts", 3);
    fill(&broker, "posts", 3, 100);
    let offsets = Offsets::with(&[("posts", 0, 90), ("posts", 1, 100)]);
    let mut options = options(&broker, &["posts"]);
    options.start = StartFrom::Latest;
    let (consumer, mut messages) = Consumer::start(&options, offsets.clone()).unwrap();
    let taken = take(&mut messages, 10).await;
    let read: Vec<(i32, i64)> = taken
        .iter()
        .map(|message| (message.origin.partition, message.origin.offset))
        .collect();
    assert_eq!(read, (90..100).map(|offset| (0, offset)).collect::<Vec<_>>());
    until("all partitions are read", || consumer.assignment().settled()).await;
    assert_eq!(
        offsets.get("posts", 2),
        Some(100),
        "latest is written down as a real offset"
    );
    fill(&broker, "posts", 3, 1);
    let mut fresh: Vec<(i32, i64)> = take(&mut messages, 3)
        .await
        .iter()
        .map(|message| (message.origin.partition, message.origin.offset))
        .collect();
    fresh.sort_unstable();
    assert_eq!(fresh, [(0, 100), (1, 100), (2, 100)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_to_begin_a_partition_is_right() {
    struct Other(Offsets);
    impl StartOffsets for Other {
        fn start_offsets<'a>(
            &'a self,
            _: &'a [Partition],
        ) -> BoxFuture<'a, Result<HashMap<Partition, Option<i64>>, StartOffsetsError>> {
            Box::pin(async { Ok(HashMap::new()) })
        }
        fn begin<'a>(
            &'a self,
            topic: &'a str,
            partition: i32,
            offset: i64,
        ) -> BoxFuture<'a, Result<i64, StartOffsetsError>> {
            self.0.set(topic, partition, 42);
            self.0.begin(topic, partition, offset)
        }
        fn reset<'a>(
            &'a self,
            topic: &'a str,
            partition: i32,
            from: i64,
            to: i64,
        ) -> BoxFuture<'a, Result<i64, StartOffsetsError>> {
            self.0.reset(topic, partition, from, to)
        }
    }
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 50);
    let (_consumer, mut messages) =
        Consumer::start(&options(&broker, &["posts"]), Arc::new(Other(Offsets::default()))).unwrap();
    assert_eq!(next(&mut messages).await.origin.offset, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_delays_and_loses_nothing() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 10);
    let offsets = Offsets::with(&[]);
    offsets.away.store(true, Ordering::SeqCst);
    let (consumer, mut messages) = Consumer::start(&options(&broker, &["posts"]), offsets.clone()).unwrap();
    until("it has asked again", || offsets.refused.load(Ordering::SeqCst) >= 3).await;
    assert!(!consumer.assignment().settled());
    assert!(messages.try_recv().is_err());
    offsets.away.store(false, Ordering::SeqCst);
    assert_eq!(take(&mut messages, 10).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn rewinding_reads_anew_from_the_stored_offset_under_a_new_epoch() {
    let broker = Broker::start();
    broker.create_topic("posts", 2);
    fill(&broker, "posts", 2, 1_000);
    let offsets = Offsets::with(&[("posts", 0, 0), ("posts", 1, 0)]);
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_records = 100;
    let (consumer, mut messages) = Consumer::start(&options, offsets.clone()).unwrap();
    let fenced = loop {
        let message = next(&mut messages).await;
        if message.origin.partition == 0 && message.origin.offset >= 300 {
            break message;
        }
    };
    offsets.set("posts", 0, 123);
    let topic = fenced.origin.topic.clone();
    consumer.rewind(&topic, 0, fenced.epoch);
    assert!(!consumer.assignment().holds(&topic, 0, fenced.epoch), "stale at once");
    // A second fence of the same epoch is the same event.
    consumer.rewind(&topic, 0, fenced.epoch);

    let mut anew = Vec::new();
    let mut epochs = std::collections::BTreeSet::new();
    let mut other = 0;
    while anew.len() < 877 {
        let message = next(&mut messages).await;
        if message.origin.partition == 1 {
            other += 1;
        } else if message.epoch != fenced.epoch {
            assert!(consumer.assignment().holds(&topic, 0, message.epoch));
            epochs.insert(message.epoch);
            anew.push(message.origin.offset);
        }
    }
    assert_eq!(anew, (123..1_000).collect::<Vec<_>>());
    assert_eq!(epochs.len(), 1);
    assert!(other <= 1_000, "the other partition is not read twice");
}

/// A member of the group that does as the pipeline: keeps what was read under a held epoch, then moves the offset.
struct Member {
    consumer: Consumer,
    messages: Receiver<Message>,
}

impl Member {
    fn join(options: &KafkaOptions, offsets: &Arc<Offsets>) -> Self {
        let (consumer, messages) = Consumer::start(options, offsets.clone()).unwrap();
        Self { consumer, messages }
    }

    /// Takes one message, if there is one, into the tables.
    fn step(&mut self, offsets: &Offsets, seen: &mut BTreeMap<(i32, i64), usize>) -> bool {
        let Ok(message) = self.messages.try_recv() else {
            return false;
        };
        let Message { origin, epoch, .. } = message;
        if !self.consumer.assignment().holds(&origin.topic, origin.partition, epoch) {
            return true;
        }
        // The fence: only the owner of the next offset moves it.
        let mut rows = offsets.rows.lock().unwrap();
        let row = rows.get_mut(&(origin.topic.to_string(), origin.partition)).unwrap();
        if *row != origin.offset {
            drop(rows);
            self.consumer.rewind(&origin.topic, origin.partition, epoch);
            return true;
        }
        *row += 1;
        drop(rows);
        *seen.entry((origin.partition, origin.offset)).or_default() += 1;
        self.consumer
            .commit(&[(origin.topic, origin.partition, origin.offset + 1)]);
        true
    }

    fn held(&self) -> Vec<i32> {
        self.consumer.positions().iter().map(|held| held.partition).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_and_every_record_counts_once() {
    let broker = Broker::start();
    broker.create_topic("posts", 4);
    fill(&broker, "posts", 4, 2_000);
    let offsets = Offsets::with(&[]);
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_records = 50;
    let mut seen = BTreeMap::new();
    let mut first = Member::join(&options, &offsets);
    let patience = Instant::now() + Duration::from_secs(60);
    while seen.len() < 1_000 {
        assert!(Instant::now() < patience, "only {} records", seen.len());
        if !first.step(&offsets, &mut seen) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    // A second member takes over a part, while the first keeps reading the rest.
    let before: BTreeMap<i32, u64> = first
        .consumer
        .positions()
        .iter()
        .map(|held| (held.partition, held.epoch))
        .collect();
    assert_eq!(before.len(), 4);
    let mut second = Member::join(&options, &offsets);
    let patience = Instant::now() + Duration::from_secs(60);
    while !(first.held().len() == 2 && second.held().len() == 2) {
        assert!(
            Instant::now() < patience,
            "first holds {:?}, second {:?}",
            first.held(),
            second.held()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for held in first.consumer.positions() {
        assert_eq!(before[&held.partition], held.epoch, "what stays was not touched");
    }
    let from_first = seen.len();
    let patience = Instant::now() + Duration::from_secs(60);
    while seen.len() < from_first + 2_000 {
        assert!(Instant::now() < patience);
        let busy = first.step(&offsets, &mut seen) | second.step(&offsets, &mut seen);
        if !busy {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    // The first leaves; the second reads the rest alone.
    let Member { consumer, .. } = first;
    timeout(PATIENCE, consumer.close())
        .await
        .expect("leaves in time")
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while seen.len() < 8_000 {
        assert!(
            Instant::now() < patience,
            "only {} records; second holds {:?}",
            seen.len(),
            second.held()
        );
        if !second.step(&offsets, &mut seen) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(seen.values().all(|times| *times == 1));
    until("the lag is gone", || {
        second.consumer.positions().len() == 4 && second.consumer.positions().iter().all(|held| held.lag() == Some(0))
    })
    .await;
}

/// Ten records in a mock of Kafka, which refuses offsets out of range as Kafka does.
fn mock() -> (
    rdkafka::mocking::MockCluster<'static, rdkafka::producer::DefaultProducerContext>,
    KafkaOptions,
) {
    use rdkafka::producer::Producer as _;
    let mock = rdkafka::mocking::MockCluster::new(1).unwrap();
    mock.create_topic("posts", 1, 1).unwrap();
    let producer: rdkafka::producer::BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .create()
        .unwrap();
    for _ in 0..10 {
        producer
            .send(rdkafka::producer::BaseRecord::<(), str>::to("posts").payload("text"))
            .unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let options = KafkaOptions {
        brokers: mock.bootstrap_servers(),
        topics: vec!["posts".into()],
        ..KafkaOptions::default()
    };
    (mock, options)
}

async fn stops_out_of_range(options: &KafkaOptions) {
    let (consumer, mut messages) = Consumer::start(options, Offsets::with(&[("posts", 0, 5_000)])).unwrap();
    assert!(
        timeout(PATIENCE, messages.recv())
            .await
            .expect("it stops in time")
            .is_none()
    );
    let error = consumer.close().await.unwrap_err();
    assert!(
        matches!(
            &error,
            KafkaError::OffsetOutOfRange {
                offset: 5_000,
                low: 0,
                high: 10,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("kafka.on_offset_out_of_range"));
}

async fn goes_on_out_of_range(options: &KafkaOptions) {
    for (policy, expected) in [(OutOfRange::Earliest, 0), (OutOfRange::Latest, 10)] {
        let options = KafkaOptions {
            on_offset_out_of_range: policy,
            group: format!("{policy:?}"),
            ..options.clone()
        };
        let offsets = Offsets::with(&[("posts", 0, 5_000)]);
        let (consumer, mut messages) = Consumer::start(&options, offsets.clone()).unwrap();
        until("it goes on elsewhere", || {
            consumer.positions().iter().any(|held| held.committed == expected)
        })
        .await;
        assert_eq!(offsets.get("posts", 0), Some(expected), "written down");
        if policy == OutOfRange::Earliest {
            assert_eq!(next(&mut messages).await.origin.offset, 0);
        }
        consumer.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_not_at_the_broker_stops_the_consumer_with_clear_words() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 10);
    stops_out_of_range(&options(&broker, &["posts"])).await;
    let (_mock, options) = mock();
    stops_out_of_range(&options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_not_at_the_broker_is_replaced_where_the_settings_say_so() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 10);
    goes_on_out_of_range(&options(&broker, &["posts"])).await;
    let (_mock, options) = mock();
    goes_on_out_of_range(&options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_one_that_a_consumer_reaches_also_behind_a_transaction() {
    use rdkafka::producer::Producer as _;
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    let producer: rdkafka::producer::BaseProducer = broker.config().set("transactional.id", "t").create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    for _ in 0..5 {
        producer
            .send(rdkafka::producer::BaseRecord::<(), str>::to("posts").payload("text"))
            .unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    producer.commit_transaction(PATIENCE).unwrap();
    let options = options(&broker, &["posts"]);
    let end = end_offsets(&options, PATIENCE)
        .await
        .unwrap()
        .into_values()
        .next()
        .unwrap()
        .end;
    let (_consumer, mut messages) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    let taken = take(&mut messages, 5).await;
    assert_eq!(taken.last().unwrap().origin.offset + 1, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_away_needs_no_restart_of_the_consumer() {
    let mock = rdkafka::mocking::MockCluster::new(1).unwrap();
    mock.create_topic("posts", 1, 1).unwrap();
    let producer: rdkafka::producer::BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("linger.ms", "1")
        .create()
        .unwrap();
    let produce = |text: &str| {
        use rdkafka::producer::Producer as _;
        producer
            .send(rdkafka::producer::BaseRecord::<(), str>::to("posts").payload(text))
            .unwrap();
        producer.flush(PATIENCE).unwrap();
    };
    produce("before");
    let options = KafkaOptions {
        brokers: mock.bootstrap_servers(),
        topics: vec!["posts".into()],
        ..KafkaOptions::default()
    };
    let offsets = Offsets::with(&[]);
    let (_consumer, mut messages) = Consumer::start(&options, offsets.clone()).unwrap();
    assert_eq!(next(&mut messages).await.payload, "before");
    offsets.set("posts", 0, 1);
    // Longer than the session.
    mock.broker_down(1).unwrap();
    nothing_for(&mut messages, Duration::from_secs(8)).await;
    mock.broker_up(1).unwrap();
    produce("after");
    let message = next(&mut messages).await;
    assert_eq!((message.payload.as_ref(), message.origin.offset), (&b"after"[..], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_may_start_before_its_broker() {
    let mut broker = Broker::start();
    broker.kill();
    let offsets = Offsets::with(&[]);
    let (_consumer, mut messages) = Consumer::start(&options(&broker, &["posts"]), offsets).unwrap();
    nothing_for(&mut messages, Duration::from_millis(500)).await;
    broker.restart();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 3);
    assert_eq!(take(&mut messages, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_is_read() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    let text = "the same words again and again ".repeat(100);
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        broker.produce_with(
            &[("compression.type", codec)],
            "posts",
            [(0, text.as_bytes()), (0, codec.as_bytes())],
        );
    }
    let (_consumer, mut messages) = Consumer::start(&options(&broker, &["posts"]), Offsets::with(&[])).unwrap();
    for codec in codecs {
        assert_eq!(next(&mut messages).await.payload, text);
        assert_eq!(next(&mut messages).await.payload, codec);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_ends_the_messages_but_keeps_the_partitions() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 1_000);
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_records = 10;
    let (consumer, mut messages) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    let first = next(&mut messages).await;
    consumer.drain();
    let mut rest = 0;
    while timeout(PATIENCE, messages.recv())
        .await
        .expect("it ends in time")
        .is_some()
    {
        rest += 1;
    }
    assert!(rest < 999, "it went on");
    assert!(consumer.assignment().holds(&first.origin.topic, 0, first.epoch));
    consumer.commit(&[(first.origin.topic.clone(), 0, 1)]);
    let group = options.group.clone();
    consumer.close().await.unwrap();
    let asker: rdkafka::consumer::BaseConsumer = broker.config().set("group.id", group).create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition("posts", 0);
    let committed = rdkafka::consumer::Consumer::committed_offsets(&asker, list, PATIENCE).unwrap();
    assert_eq!(
        committed.find_partition("posts", 0).unwrap().offset(),
        rdkafka::Offset::Offset(1),
        "the last commit is sent before leaving"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_true_also_while_nothing_is_fetched() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    let payload = vec![b'x'; 10_000];
    broker.produce("posts", (0..1_000).map(|_| (0, payload.as_slice())));
    let mut options = options(&broker, &["posts"]);
    (options.max_in_flight_records, options.prefetch_kib) = (1, 1);
    let (consumer, _messages) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    until("the first word", || consumer.lag() == 1_000).await;
    broker.produce("posts", (0..500).map(|_| (0, payload.as_slice())));
    let patience = Instant::now() + Duration::from_secs(60);
    while consumer.lag() != 1_500 {
        assert!(Instant::now() < patience, "lag {}", consumer.lag());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_needs_no_broker() {
    let mut broker = Broker::start();
    broker.create_topic("posts", 2);
    fill(&broker, "posts", 2, 10);
    let (consumer, mut messages) = Consumer::start(&options(&broker, &["posts"]), Offsets::with(&[])).unwrap();
    let message = next(&mut messages).await;
    broker.kill();
    consumer.commit(&[(message.origin.topic.clone(), message.origin.partition, 1)]);
    let started = Instant::now();
    timeout(Duration::from_secs(10), consumer.close())
        .await
        .expect("in time")
        .unwrap();
    eprintln!("closed in {:?}", started.elapsed());
}

fn letter(offset: i64, payload: &[u8]) -> DeadLetter {
    DeadLetter {
        origin: Origin {
            topic: Arc::from("posts"),
            partition: 3,
            offset,
        },
        timestamp: Some(time::macros::datetime!(2026-01-02 03:04:05.006 UTC)),
        key: Some(bytes::Bytes::from_static(b"k\xff")),
        payload: bytes::Bytes::copy_from_slice(payload),
        reason: "not_utf8",
        detail: "invalid byte at 7".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_carry_every_byte_and_where_it_came_from() {
    use rdkafka::Message as _;
    let broker = Broker::start();
    broker.create_topic("posts.dead-letter", 1);
    let letters = DeadLetters::new(&options(&broker, &["posts"])).unwrap();
    let payloads: [&[u8]; 4] = [b"bad \xff\xfe\x00 bytes", b"", &[b'x'; 2_000_000], b"last"];
    let all: Vec<DeadLetter> = payloads
        .iter()
        .enumerate()
        .map(|(n, payload)| letter(n as i64, payload))
        .collect();
    assert_eq!(letters.send(&all).await.unwrap(), Sent { whole: 4, truncated: 0 });

    let reader: rdkafka::consumer::BaseConsumer = broker.config().set("group.id", "check").create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset("posts.dead-letter", 0, rdkafka::Offset::Offset(0))
        .unwrap();
    rdkafka::consumer::Consumer::assign(&reader, &list).unwrap();
    let mut found = BTreeMap::new();
    while found.len() < 4 {
        let record = reader.poll(PATIENCE).expect("a letter in time").unwrap();
        let headers = broker::header_map(record.headers().unwrap());
        assert_eq!(record.key(), Some(&b"k\xff"[..]));
        assert_eq!(
            (headers["reason"].as_str(), headers["detail"].as_str()),
            ("not_utf8", "invalid byte at 7")
        );
        assert_eq!(
            (headers["origin_topic"].as_str(), headers["origin_partition"].as_str()),
            ("posts", "3")
        );
        assert_eq!(headers["origin_timestamp"], "2026-01-02T03:04:05.006Z");
        assert_eq!(headers["version"], env!("CARGO_PKG_VERSION"));
        assert!(headers.contains_key("timestamp") && !headers.contains_key("truncated"));
        found.insert(
            headers["origin_offset"].parse::<usize>().unwrap(),
            record.payload().unwrap_or_default().to_vec(),
        );
    }
    for (n, payload) in payloads.iter().enumerate() {
        assert!(found[&n] == *payload, "letter {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_the_broker_refuses_by_size_keeps_its_beginning_and_says_so() {
    use rdkafka::{Message as _, mocking::MockCluster, types::RDKafkaApiKey, types::RDKafkaRespErr};
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("posts.dead-letter", 1, 1).unwrap();
    let options = KafkaOptions {
        brokers: mock.bootstrap_servers(),
        topics: vec!["posts".into()],
        ..KafkaOptions::default()
    };
    let letters = DeadLetters::new(&options).unwrap();
    let refuse = |times: usize| {
        mock.request_errors(
            RDKafkaApiKey::Produce,
            &vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; times],
        )
    };

    // Refused together with others, taken alone.
    refuse(1);
    assert_eq!(
        letters.send(&[letter(0, b"small")]).await.unwrap(),
        Sent { whole: 1, truncated: 0 }
    );

    let payload: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    refuse(2);
    assert_eq!(
        letters.send(&[letter(1, &payload)]).await.unwrap(),
        Sent { whole: 0, truncated: 1 }
    );

    let reader: rdkafka::consumer::BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "check")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset("posts.dead-letter", 0, rdkafka::Offset::Offset(1))
        .unwrap();
    rdkafka::consumer::Consumer::assign(&reader, &list).unwrap();
    let record = reader.poll(PATIENCE).expect("a letter in time").unwrap();
    let headers = broker::header_map(record.headers().unwrap());
    assert_eq!(
        (headers["truncated"].as_str(), headers["original_length"].as_str()),
        ("true", "200000")
    );
    assert_eq!(
        headers["original_xxh3"],
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&payload))
    );
    assert_eq!(record.payload().unwrap(), &payload[..65_536]);

    // Nothing fits: its own kind of error.
    refuse(4);
    let error = letters.send(&[letter(2, &payload)]).await.unwrap_err();
    assert!(matches!(error, DeadLetterError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_not_acknowledged_are_an_error() {
    let mut broker = Broker::start();
    let mut options = options(&broker, &["posts"]);
    options.properties = [("message.timeout.ms", "1500")].into_iter().collect();
    broker.kill();
    let letters = DeadLetters::new(&options).unwrap();
    let error = letters.send(&[letter(0, b"a"), letter(1, b"b")]).await.unwrap_err();
    assert!(
        matches!(&error, DeadLetterError::NotAcknowledged { failed: 2, all: 2, .. }),
        "{error}"
    );
}

/// Feeds bytes from a file and gives back what lies in the topic, by partition.
fn feed_bytes(broker: &Broker, options: &FeedOptions, name: &str, bytes: &[u8]) -> Result<FeedSummary, FeedError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let kafka = KafkaOptions {
        brokers: broker.address(),
        ..KafkaOptions::default()
    };
    let key = |line: &[u8]| {
        line.split(|byte| *byte == b' ')
            .next()
            .filter(|key| !key.is_empty())
            .map(|key| String::from_utf8_lossy(key).into_owned())
    };
    feed(
        &kafka,
        options,
        &FeedSource::File(path),
        |line| line.into(),
        key,
        |_| ControlFlow::Continue(()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn feeding_sends_each_line_once_keyed_whatever_the_packing() {
    let broker = Broker::start();
    let text: String = (0..5_000)
        .map(|n| format!("key{} line {n}{}", n % 100, if n % 2 == 0 { "\r\n" } else { "\n" }))
        .collect::<String>()
        + "\n\r\n no key";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    let files = [
        ("plain", text.clone().into_bytes()),
        ("zst", zstd::encode_all(text.as_bytes(), 3).unwrap()),
        ("gz", gzip.finish().unwrap()),
    ];
    for (topic, bytes) in files {
        let feed_options = FeedOptions {
            topic: topic.into(),
            create_partitions: Some(3),
            ..FeedOptions::default()
        };
        let length = bytes.len() as u64;
        let summary =
            tokio::task::block_in_place(|| feed_bytes(&broker, &feed_options, "posts.jsonl", &bytes)).unwrap();
        assert_eq!(
            (
                summary.progress.sent,
                summary.progress.acknowledged,
                summary.without_key,
                summary.interrupted
            ),
            (5_001, 5_001, 1, false)
        );
        assert_eq!(
            (summary.progress.source_length, summary.progress.source_bytes),
            (Some(length), length)
        );

        let mut reading = options(&broker, &[topic]);
        reading.group = format!("check-{topic}");
        let (_consumer, mut messages) = Consumer::start(&reading, Offsets::with(&[])).unwrap();
        let mut numbers = BTreeMap::<i32, Vec<usize>>::new();
        let mut partition_of = HashMap::new();
        for _ in 0..5_001 {
            let message = next(&mut messages).await;
            let line = String::from_utf8(message.payload.to_vec()).unwrap();
            if line == " no key" {
                assert_eq!(message.key, None);
                continue;
            }
            let key = String::from_utf8(message.key.unwrap().to_vec()).unwrap();
            assert!(
                line.starts_with(&format!("{key} ")) && !line.ends_with('\r'),
                "{line:?}"
            );
            assert_eq!(
                *partition_of.entry(key).or_insert(message.origin.partition),
                message.origin.partition,
                "one key, one partition"
            );
            numbers
                .entry(message.origin.partition)
                .or_default()
                .push(line.rsplit(' ').next().unwrap().parse().unwrap());
        }
        assert_eq!(numbers.len(), 3);
        assert!(
            numbers.values().all(|numbers| numbers.is_sorted()),
            "order is kept within partitions"
        );
        let mut all: Vec<usize> = numbers.into_values().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..5_000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn feeding_keeps_its_rate_and_its_promises_about_topics() {
    let broker = Broker::start();
    let lines = "k line\n".repeat(200);
    let mut options = FeedOptions {
        topic: "posts".into(),
        rate: Some(200.0),
        create_partitions: Some(2),
        ..FeedOptions::default()
    };
    let summary = tokio::task::block_in_place(|| feed_bytes(&broker, &options, "posts", lines.as_bytes())).unwrap();
    let seconds = summary.elapsed.as_secs_f64();
    assert!((0.95..3.0).contains(&seconds), "200 records at 200/s took {seconds} s");

    options.create_partitions = Some(3);
    let error = tokio::task::block_in_place(|| feed_bytes(&broker, &options, "posts", b"k a")).unwrap_err();
    assert!(
        matches!(
            &error,
            FeedError::Partitions {
                found: 2,
                wanted: 3,
                ..
            }
        ),
        "{error}"
    );
    options = FeedOptions {
        topic: "absent".into(),
        ..FeedOptions::default()
    };
    let error = tokio::task::block_in_place(|| feed_bytes(&broker, &options, "posts", b"k a")).unwrap_err();
    assert!(
        matches!(&error, FeedError::Kafka(KafkaError::TopicsAbsent { .. })),
        "{error}"
    );
    options = FeedOptions {
        topic: "posts".into(),
        ..FeedOptions::default()
    };
    let packed = zstd::encode_all(&b"k a\nk b\n"[..], 3).unwrap();
    let error = tokio::task::block_in_place(|| feed_bytes(&broker, &options, "posts", &packed[..packed.len() - 4]))
        .unwrap_err();
    assert!(matches!(&error, FeedError::Read { .. }), "{error}");
}
