//! Brokers and topics that are unreachable, absent or refused.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_topic_and_an_absent_broker_are_named() {
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
        warnings[0].contains(&dead_letters) && warnings[0].contains("made"),
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
async fn a_database_that_is_away_delays_and_loses_nothing() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 10);
    let offsets = Offsets::with(&[]);
    offsets.away.store(true, Ordering::SeqCst);
    let (consumer, mut records) = Consumer::start(&options(&broker, &["posts"]), offsets.clone()).unwrap();
    until("it has asked again", || offsets.refused.load(Ordering::SeqCst) >= 3).await;
    assert!(!consumer.assignment().settled());
    assert!(records.try_recv().is_err());
    offsets.away.store(false, Ordering::SeqCst);
    assert_eq!(take(&mut records, 10).await.len(), 10);
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
    let (_consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    assert_eq!(next(&mut records).await.value.unwrap(), "before");
    offsets.set("posts", 0, 1);
    // Longer than the session.
    mock.broker_down(1).unwrap();
    nothing_for(&mut records, Duration::from_secs(8)).await;
    mock.broker_up(1).unwrap();
    produce("after");
    let record = next(&mut records).await;
    assert_eq!(
        (record.value.as_deref(), record.origin.offset),
        (Some(&b"after"[..]), 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_may_start_before_its_broker() {
    let mut broker = Broker::start();
    broker.kill();
    let offsets = Offsets::with(&[]);
    let (_consumer, mut records) = Consumer::start(&options(&broker, &["posts"]), offsets).unwrap();
    nothing_for(&mut records, Duration::from_millis(500)).await;
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
    // It can't be said how long librdkafka would take, but for the consumer it is bounded.
    let closed = timeout(Consumer::LEAVING + Duration::from_secs(5), consumer.close())
        .await
        .expect("in time");
    if let Err(error) = closed {
        assert!(error.to_string().starts_with("kafka: leaving the group: "), "{error}");
    }
}
