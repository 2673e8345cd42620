//! Where partitions start and end.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn watermarks_cover_all_partitions_including_empty_ones() {
    let broker = Broker::start();
    broker.create_topic("posts", 3);
    broker.create_topic("empty", 2);
    fill(&broker, "posts", 2, 321);
    let extents = watermarks(&options(&broker, &["posts", "empty"]), PATIENCE)
        .await
        .unwrap();
    let ends: Vec<(String, i32, i64, i64)> = extents
        .iter()
        .map(|((topic, partition), watermarks)| (topic.to_string(), *partition, watermarks.low, watermarks.high))
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
async fn partitions_start_at_their_stored_offsets() {
    let broker = Broker::start();
    broker.create_topic("posts", 2);
    fill(&broker, "posts", 2, 100);
    let offsets = Offsets::with(&[("posts", 0, 90), ("posts", 1, 100)]);
    let (consumer, mut records) = Consumer::start(&options(&broker, &["posts"]), offsets).unwrap();
    let taken = take(&mut records, 10).await;
    let read: Vec<(i32, i64)> = taken
        .iter()
        .map(|record| (record.origin.partition, record.origin.offset))
        .collect();
    assert_eq!(read, (90..100).map(|offset| (0, offset)).collect::<Vec<_>>());
    wait_until("the assignment is complete", || consumer.assignment().is_ready()).await;
    fill(&broker, "posts", 2, 1);
    assert_eq!(sorted(&take(&mut records, 2).await), [(0, 100), (1, 100)]);
}

/// Returns the partition and offset of each record, sorted.
fn sorted(records: &[Record]) -> Vec<(i32, i64)> {
    let places = records
        .iter()
        .map(|record| (record.origin.partition, record.origin.offset));
    let mut places: Vec<_> = places.collect();
    places.sort_unstable();
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_skips_no_record_of_a_partition_that_was_added_later() {
    let broker = Broker::start();
    broker.create_topic("posts", 3);
    fill(&broker, "posts", 3, 20);
    let options = KafkaOptions {
        start: StartFrom::Latest,
        ..options(&broker, &["posts"])
    };
    let offsets = Offsets::with(&[]);
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    wait_until("the assignment is complete", || consumer.assignment().is_ready()).await;
    for partition in 0..3 {
        assert_eq!(
            offsets.get("posts", partition),
            Some(20),
            "latest was not stored as an actual offset"
        );
    }
    fill(&broker, "posts", 3, 1);
    assert_eq!(sorted(&take(&mut records, 3).await), [(0, 20), (1, 20), (2, 20)]);
    consumer.close().await.unwrap();

    // The group has already started on the topic; the third partition was added afterwards.
    let offsets = Offsets::with(&[("posts", 0, 21), ("posts", 1, 21)]);
    let (_consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    let taken = take(&mut records, 21).await;
    assert_eq!(sorted(&taken), (0..21).map(|offset| (2, offset)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_skips_no_record_of_a_new_topic_that_matches_the_pattern() {
    let broker = Broker::start();
    for topic in ["posts-a", "posts-b"] {
        broker.create_topic(topic, 1);
        fill(&broker, topic, 1, 5);
    }
    let options = KafkaOptions {
        start: StartFrom::Latest,
        ..options(&broker, &["^posts-.*"])
    };
    // The group started with the pattern before the second topic was created.
    let offsets = Offsets::with(&[("posts-a", 0, 5)]);
    let (_consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    let taken = take(&mut records, 5).await;
    assert!(taken.iter().all(|record| &*record.origin.topic == "posts-b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_offset_stored_for_a_partition_wins() {
    /// Another member stores its start offset first.
    struct Other(Offsets);
    impl OffsetStore for Other {
        fn start_offsets<'a>(
            &'a self,
            partitions: &'a [Partition],
        ) -> BoxFuture<'a, Result<HashMap<Partition, StartOffset>, OffsetStoreError>> {
            self.0.start_offsets(partitions)
        }
        fn topics_with_offsets(&self) -> BoxFuture<'_, Result<Vec<String>, OffsetStoreError>> {
            self.0.topics_with_offsets()
        }
        fn insert_start_offsets<'a>(
            &'a self,
            starts: &'a [(Partition, i64)],
            cluster: Option<&'a str>,
        ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
            self.0.set(&starts[0].0.0, starts[0].0.1, 42);
            self.0.insert_start_offsets(starts, cluster)
        }
        fn reset<'a>(
            &'a self,
            partition: &'a Partition,
            from: &'a StartOffset,
            to: i64,
            cluster: Option<&'a str>,
        ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
            self.0.reset(partition, from, to, cluster)
        }
        fn adopt<'a>(
            &'a self,
            partitions: &'a [Partition],
            cluster: &'a str,
        ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
            self.0.adopt(partitions, cluster)
        }
    }
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 50);
    let (_consumer, mut records) =
        Consumer::start(&options(&broker, &["posts"]), Arc::new(Other(Offsets::default()))).unwrap();
    assert_eq!(next(&mut records).await.origin.offset, 42);
}

/// Returns a mock cluster with ten records, which refuses offsets out of range as Kafka does.
pub(super) fn mock() -> (
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

async fn assert_out_of_range_offsets_are_replaced(options: &KafkaOptions) {
    for (policy, expected) in [(OutOfRange::Earliest, 0), (OutOfRange::Latest, 10)] {
        let options = KafkaOptions {
            on_offset_out_of_range: policy,
            group: format!("{policy:?}"),
            ..options.clone()
        };
        let offsets = Offsets::with(&[("posts", 0, 5_000)]);
        let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
        wait_until("reading continues at the new offset", || {
            consumer
                .assignment()
                .current()
                .iter()
                .any(|held| held.committed == expected)
        })
        .await;
        assert_eq!(offsets.get("posts", 0), Some(expected), "the new offset was not stored");
        if policy == OutOfRange::Earliest {
            assert_eq!(next(&mut records).await.origin.offset, 0);
        }
        consumer.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_out_of_range_is_replaced_if_the_settings_say_so() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 10);
    assert_out_of_range_offsets_are_replaced(&options(&broker, &["posts"])).await;
    let (_mock, options) = mock();
    assert_out_of_range_offsets_are_replaced(&options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_offset_is_reachable_after_a_transaction() {
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
    let mut options = options(&broker, &["posts"]);
    let end = watermarks(&options, PATIENCE)
        .await
        .unwrap()
        .into_values()
        .next()
        .unwrap()
        .high;
    let (_consumer, mut records) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    let taken = take(&mut records, 5).await;
    assert_eq!(taken.last().unwrap().origin.offset + 1, end);

    // The log itself ends one offset later, with the transaction's marker.
    (options.group, options.start) = ("others".into(), StartFrom::Latest);
    let offsets = Offsets::with(&[]);
    let (other, _messages) = Consumer::start(&options, offsets.clone()).unwrap();
    wait_until("the end of the log is stored", || other.assignment().is_ready()).await;
    assert_eq!(
        offsets.get("posts", 0),
        Some(end + 1),
        "the log must end with one marker"
    );
}
