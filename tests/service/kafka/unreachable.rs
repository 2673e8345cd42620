//! Brokers, topics and databases that are missing or unreachable, and refused properties.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn missing_topics_and_unreachable_brokers_are_named() {
    let mut broker = Broker::start();
    broker.create_topic("posts", 2);
    let mut options = options(&broker, &["posts", "nowhere", "^none-.*"]);
    let error = watermarks(&options, PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, KafkaError::TopicsAbsent { topics } if topics == &["nowhere", "^none-.*"]),
        "{error}"
    );
    options.topics = vec!["^po.ts$".into()];
    let report = check_broker(&options, PATIENCE).await.unwrap();
    assert_eq!(report.topics, [("posts".to_owned(), 2)]);
    assert_eq!(report.brokers, [broker.address()]);
    let dead_letters = options.dead_letter_topic();
    assert!(
        matches!(&report.dead_letters, DeadLetterTopic::Absent { name, .. } if *name == dead_letters),
        "{report:?}"
    );
    let warnings = prepare_dead_letter_topic(&options, &report, PATIENCE, false)
        .await
        .unwrap();
    assert!(
        warnings[0].contains(&dead_letters) && warnings[0].contains("created"),
        "{warnings:?}"
    );
    let report = check_broker(&options, PATIENCE).await.unwrap();
    assert!(matches!(&report.dead_letters, DeadLetterTopic::Present { name, .. } if *name == dead_letters));
    let nothing = prepare_dead_letter_topic(&options, &report, PATIENCE, false).await;
    assert!(nothing.is_ok(), "{nothing:?}");

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
async fn the_error_for_a_refused_property_shows_no_secret() {
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
async fn an_unavailable_database_delays_the_start_and_loses_no_record() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 10);
    let offsets = Offsets::with(&[]);
    offsets.unavailable.store(true, Ordering::SeqCst);
    let (consumer, mut records) = Consumer::start(&options(&broker, &["posts"]), offsets.clone()).unwrap();
    wait_until("the offsets were requested again", || {
        offsets.refused.load(Ordering::SeqCst) >= 3
    })
    .await;
    assert!(!consumer.assignment().is_ready());
    assert!(records.try_recv().is_err());
    offsets.unavailable.store(false, Ordering::SeqCst);
    assert_eq!(take(&mut records, 10).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_recovers_from_a_broker_outage_without_a_restart() {
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
    let (_consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    assert_eq!(next(&mut records).await.value.unwrap(), "before");
    offsets.set("posts", 0, 1);
    // Longer than the session timeout.
    mock.broker_down(1).unwrap();
    assert_no_record(&mut records, Duration::from_secs(8)).await;
    mock.broker_up(1).unwrap();
    produce("after");
    let record = next(&mut records).await;
    assert_eq!(
        (record.value.as_deref(), record.origin.offset),
        (Some(&b"after"[..]), 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_can_start_before_its_broker() {
    let mut broker = Broker::start();
    broker.kill();
    let offsets = Offsets::with(&[]);
    let (_consumer, mut records) = Consumer::start(&options(&broker, &["posts"]), offsets).unwrap();
    assert_no_record(&mut records, Duration::from_millis(500)).await;
    broker.restart();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 3);
    assert_eq!(take(&mut records, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_needs_no_broker() {
    let mut broker = Broker::start();
    broker.create_topic("posts", 2);
    fill(&broker, "posts", 2, 10);
    let (consumer, mut records) = Consumer::start(&options(&broker, &["posts"]), Offsets::with(&[])).unwrap();
    let record = next(&mut records).await;
    broker.kill();
    consumer.commit(&[(record.origin.topic.clone(), record.origin.partition, 1)]);
    // librdkafka may take arbitrarily long, but the consumer bounds the wait.
    let closed = timeout(Consumer::LEAVE_TIMEOUT + Duration::from_secs(5), consumer.close())
        .await
        .expect("closing timed out");
    if let Err(error) = closed {
        assert!(error.to_string().starts_with("kafka: leaving the group: "), "{error}");
    }
}
