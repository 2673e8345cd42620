//! Records and errors that no well-behaved client or broker produces. None may end the consumer or make it skip a record.

use moodstream::kafka::read_dead_letters;
use rdkafka::{
    message::Headers as _,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::{starts::mock, *};
use crate::support::raw::{self, RawRecord};

/// The client library panics on such a name. This once ended the consumer's thread, at every start and on every member.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_name_that_is_not_utf_8_is_kept_in_the_dead_letter() {
    let (mock, options) = mock();
    mock.create_topic("posts.dead-letter", 1, 1).unwrap();
    let odd = RawRecord {
        value: Some(b"odd"),
        timestamp: 1_790_000_000_000,
        headers: vec![
            (b"first", Some(b"1")),
            (b"\xff\xfe", Some(b"2")),
            (b"", None),
            (b"first", Some(b"")),
        ],
    };
    raw::produce(&options.brokers, "posts", 0, &raw::batch(&odd, false));
    let (consumer, mut records) = Consumer::start(&options, Offsets::with(&[("posts", 0, 10)])).unwrap();
    let record = next(&mut records).await;
    assert_eq!((record.origin.offset, record.value.as_deref()), (10, Some(&b"odd"[..])));
    let headers = record.headers.clone().unwrap();
    assert_eq!(headers.count(), 4);

    let letter = DeadLetter {
        origin: record.origin.clone(),
        timestamp: record.timestamp,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: Some(headers),
        reason: "json",
        detail: "why".into(),
    };
    let letters = DeadLetters::new(&options).unwrap();
    assert_eq!(
        letters.send(&[letter]).await.unwrap(),
        DeadLetterCounts { whole: 1, truncated: 0 }
    );
    consumer.close().await.unwrap();
    let stored = tokio::task::spawn_blocking(move || {
        let mut stored = Vec::new();
        read_dead_letters(&options, "posts.dead-letter", |letter| {
            stored.push(letter);
            ControlFlow::Continue(())
        })
        .unwrap();
        stored
    });
    let stored = stored.await.unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].reason.as_deref(), Some("json"));
    assert_eq!(stored[0].origin, Some(record.origin));
    assert_eq!(
        stored[0].lacks,
        ["a header whose name is not UTF-8"],
        "a replay must report the header that it leaves out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_timestamps_and_values_are_read() {
    let (_mock, options) = mock();
    for (timestamp, value) in [
        (-1, Some(&b""[..])),
        (i64::MAX, None),
        (i64::MIN, Some(b"x")),
        (0, Some(b"\0")),
    ] {
        let record = RawRecord {
            value,
            timestamp,
            headers: Vec::new(),
        };
        raw::produce(&options.brokers, "posts", 0, &raw::batch(&record, false));
    }
    let (_consumer, mut records) = Consumer::start(&options, Offsets::with(&[("posts", 0, 10)])).unwrap();
    let taken = take(&mut records, 4).await;
    let values: Vec<Option<&[u8]>> = taken.iter().map(|record| record.value.as_deref()).collect();
    assert_eq!(values, [Some(&b""[..]), None, Some(b"x"), Some(b"\0")]);
    let times: Vec<bool> = taken.iter().map(|record| record.timestamp.is_some()).collect();
    assert_eq!(times, [false, false, false, true]);
}

/// The client library reports the error and continues with the next batch, so unreadable records were once skipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_batch_quarantines_its_partition_and_no_record_is_skipped() {
    let (_mock, options) = mock();
    let options = KafkaOptions {
        quarantine_retry_seconds: 1,
        ..options
    };
    let record = |value: &'static [u8]| RawRecord {
        value: Some(value),
        timestamp: 1_790_000_000_000,
        headers: Vec::new(),
    };
    raw::produce(&options.brokers, "posts", 0, &raw::batch(&record(b"damaged"), true));
    for _ in 0..5 {
        raw::produce(&options.brokers, "posts", 0, &raw::batch(&record(b"behind it"), false));
    }
    let offsets = Offsets::with(&[("posts", 0, 0)]);
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    let taken = take(&mut records, 10).await;
    let (topic, epoch) = (taken[0].origin.topic.clone(), taken[0].epoch);
    let cause = || {
        consumer
            .assignment()
            .quarantined()
            .into_iter()
            .next()
            .map(|(_, cause)| cause)
    };
    wait_until("the partition is in quarantine", || cause().is_some()).await;
    let found = cause().unwrap();
    assert_eq!(found.reason, QuarantineReason::ConsumerError);
    assert!(found.detail.contains("posts/0 from offset 10"), "{}", found.detail);
    // Committing the records before the batch must not end the quarantine.
    assert!(consumer.assignment().holds(&topic, 0, epoch));
    offsets.set("posts", 0, 10);
    consumer.commit(&[(topic, 0, 10)]);
    assert_no_record(&mut records, Duration::from_secs(3)).await;
    assert!(cause().is_some(), "further attempts must not end the quarantine");
    assert_eq!(offsets.get("posts", 0), Some(10));
    // An operator skips the batch.
    offsets.set("posts", 0, 11);
    let taken = take(&mut records, 5).await;
    assert_eq!(taken[0].origin.offset, 11);
    assert_eq!(cause(), None);
    consumer.close().await.unwrap();
}

/// The client library reports the error only once, and then fetches nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_read_access_is_quarantined_until_access_is_restored() {
    let (mock, options) = mock();
    let options = KafkaOptions {
        quarantine_retry_seconds: 1,
        ..options
    };
    let offsets = Offsets::with(&[("posts", 0, 0)]);
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    take(&mut records, 10).await;
    let denied = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 2_000];
    mock.request_errors(RDKafkaApiKey::Fetch, &denied);
    let cause = || {
        consumer
            .assignment()
            .quarantined()
            .into_iter()
            .next()
            .map(|(_, cause)| cause)
    };
    wait_until("the partition is in quarantine", || cause().is_some()).await;
    let found = cause().unwrap();
    assert!(
        found.reason == QuarantineReason::ConsumerError && found.detail.contains("authorization"),
        "{}",
        found.detail
    );
    offsets.set("posts", 0, 10);
    assert_no_record(&mut records, Duration::from_secs(3)).await;
    assert!(cause().is_some(), "the quarantine ended while reading was denied");
    mock.clear_request_errors(RDKafkaApiKey::Fetch);
    let record = RawRecord {
        value: Some(b"new"),
        timestamp: 0,
        headers: Vec::new(),
    };
    raw::produce(&options.brokers, "posts", 0, &raw::batch(&record, false));
    assert_eq!(next(&mut records).await.origin.offset, 10);
    wait_until("the quarantine is over", || cause().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_to_join_the_group_is_reported() {
    for (error, words) in [
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL,
            "Inconsistent group protocol",
        ),
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
            "Group authorization failed",
        ),
    ] {
        let (mock, options) = mock();
        mock.request_errors(RDKafkaApiKey::JoinGroup, &[error; 200]);
        let (consumer, mut records) = Consumer::start(&options, Offsets::with(&[("posts", 0, 0)])).unwrap();
        let last_error = || consumer.assignment().last_error().unwrap_or_default();
        wait_until(words, || last_error().to_lowercase().contains(&words.to_lowercase())).await;
        mock.clear_request_errors(RDKafkaApiKey::JoinGroup);
        next(&mut records).await;
        assert_eq!(consumer.assignment().last_error(), None);
        consumer.close().await.unwrap();
    }
}

/// Deleting a topic while it is read is not tested: the client library (2.12.1) crashes on the test broker's response to the
/// next fetch, which names a leader of a topic without an id.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_reported_and_read_once_it_exists() {
    let broker = Broker::start();
    let options = options(&broker, &["posts"]);
    let (consumer, mut records) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    let last_error = || consumer.assignment().last_error().unwrap_or_default();
    wait_until("the missing topic is reported", || {
        last_error().contains("Unknown topic")
    })
    .await;
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 1);
    assert_eq!(next(&mut records).await.origin.offset, 0);
    assert_eq!(last_error(), "");
    consumer.close().await.unwrap();
}

/// A partition without a leader once kept a new group from starting on all partitions of its topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_does_not_delay_the_others() {
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
    let mock: rdkafka::mocking::MockCluster<'static, DefaultProducerContext> =
        rdkafka::mocking::MockCluster::new(1).unwrap();
    mock.create_topic("posts", 3, 1).unwrap();
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .create()
        .unwrap();
    for partition in 0..3 {
        producer
            .send(BaseRecord::<(), str>::to("posts").partition(partition).payload("text"))
            .unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    mock.partition_leader("posts", 1, None).unwrap();
    let options = KafkaOptions {
        brokers: mock.bootstrap_servers(),
        topics: vec!["posts".into()],
        ..KafkaOptions::default()
    };
    let (consumer, mut records) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    let mut read: Vec<i32> = take(&mut records, 2)
        .await
        .iter()
        .map(|record| record.origin.partition)
        .collect();
    read.sort_unstable();
    assert_eq!(read, [0, 2]);
    assert!(
        !consumer.assignment().is_ready(),
        "ready while a partition has no leader"
    );
    mock.partition_leader("posts", 1, Some(1)).unwrap();
    assert_eq!(next(&mut records).await.origin.partition, 1);
    consumer.close().await.unwrap();
}
