//! Quarantine: a partition with an error stops, and the others continue.

use super::{starts::mock, *};

/// Two partitions with ten records each; `stored` is the first one's stored offset.
fn two_partitions(stored: StartOffset) -> (Broker, KafkaOptions, Arc<Offsets>) {
    let broker = Broker::start();
    broker.create_topic("posts", 2);
    fill(&broker, "posts", 2, 10);
    let options = KafkaOptions {
        quarantine_retry_seconds: 1,
        ..options(&broker, &["posts"])
    };
    let offsets = Offsets::with(&[("posts", 1, 0)]);
    offsets.put("posts", 0, stored);
    (broker, options, offsets)
}

fn at(next: i64) -> StartOffset {
    StartOffset {
        next,
        ..StartOffset::default()
    }
}

/// Why the first partition is in quarantine: the reason and its details.
fn cause(consumer: &Consumer) -> Option<(QuarantineReason, String)> {
    let list = consumer.assignment().quarantined();
    let (partition, cause) = list.into_iter().next()?;
    assert_eq!(partition, ("posts".into(), 0));
    Some((cause.reason, cause.detail))
}

/// Waits until the first partition is in quarantine and returns the details.
async fn wait_for_quarantine(consumer: &Consumer, reason: QuarantineReason) -> String {
    wait_until("the partition is in quarantine", || cause(consumer).is_some()).await;
    let (found, detail) = cause(consumer).unwrap();
    assert_eq!(found, reason, "{detail}");
    assert!(consumer.assignment().is_ready(), "the assignment is not complete");
    detail
}

/// Takes all records of the second partition.
async fn take_second_partition(records: &mut Receiver<Record>) {
    for (offset, record) in take(records, 10).await.iter().enumerate() {
        assert_eq!(record.origin.partition, 1);
        assert_eq!(record.origin.offset, i64::try_from(offset).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_out_of_range_stops_only_its_partition() {
    let (broker, options, offsets) = two_partitions(at(5_000));
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    take_second_partition(&mut records).await;
    let words = wait_for_quarantine(&consumer, QuarantineReason::OffsetOutOfRange).await;
    for expected in ["offset 5000 of posts/0", "0 up to 10", "kafka.on_offset_out_of_range"] {
        assert!(words.contains(expected), "{words}");
    }
    assert_eq!(offsets.get("posts", 0), Some(5_000), "the stored offset was changed");

    // Failed attempts change nothing. Once the offset is corrected, reading continues and the quarantine ends.
    assert_no_record(&mut records, Duration::from_secs(3)).await;
    assert!(cause(&consumer).is_some());
    offsets.set("posts", 0, 7);
    let taken = take(&mut records, 3).await;
    assert_eq!(taken[0].origin.topic_partition(), ("posts".into(), 0));
    assert_eq!(taken[0].origin.offset, 7);
    assert_eq!(cause(&consumer), None);
    fill(&broker, "posts", 2, 1);
    take(&mut records, 2).await;
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_automatic_retries_a_refused_offset_is_tried_again_only_at_the_next_start() {
    let (_mock, options) = mock();
    let options = KafkaOptions {
        quarantine_retry_seconds: 0,
        ..options
    };
    let offsets = Offsets::with(&[("posts", 0, 5_000)]);
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    wait_for_quarantine(&consumer, QuarantineReason::OffsetOutOfRange).await;
    offsets.set("posts", 0, 0);
    assert_no_record(&mut records, Duration::from_secs(2)).await;
    consumer.close().await.unwrap();

    let (_consumer, mut records) = Consumer::start(&options, offsets).unwrap();
    assert_eq!(
        next(&mut records).await.origin.offset,
        0,
        "the next start did not try again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_partition_is_retried_on_request_without_automatic_retries() {
    let (_broker, options, offsets) = two_partitions(at(5_000));
    let options = KafkaOptions {
        quarantine_retry_seconds: 0,
        ..options
    };
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    take_second_partition(&mut records).await;
    wait_for_quarantine(&consumer, QuarantineReason::OffsetOutOfRange).await;
    // A failed attempt leaves it in quarantine and does not affect the other partition.
    consumer.assignment().retry_quarantined();
    assert_no_record(&mut records, Duration::from_secs(3)).await;
    wait_for_quarantine(&consumer, QuarantineReason::OffsetOutOfRange).await;
    offsets.set("posts", 0, 7);
    assert_no_record(&mut records, Duration::from_secs(2)).await;
    consumer.assignment().retry_quarantined();
    let taken = take(&mut records, 3).await;
    assert_eq!((taken[0].origin.partition, taken[0].origin.offset), (0, 7));
    assert_eq!(cause(&consumer), None);
    consumer.close().await.unwrap();
}

/// The fingerprint of the record at this offset of the first partition.
async fn fingerprint(options: &KafkaOptions, offset: i64) -> Fingerprint {
    let options = KafkaOptions {
        group: "looking".into(),
        ..options.clone()
    };
    let offsets = Offsets::with(&[("posts", 0, offset), ("posts", 1, 10)]);
    let (consumer, mut records) = Consumer::start(&options, offsets).unwrap();
    let fingerprint = next(&mut records).await.fingerprint;
    consumer.close().await.unwrap();
    fingerprint
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_that_is_longer_than_the_stored_offset_is_detected() {
    let (_broker, options, offsets) = two_partitions(at(0));
    let seventh = fingerprint(&options, 6).await;
    let stored = |last| StartOffset {
        last: Some(last),
        ..at(7)
    };
    // The same topic: reading continues, and the record that was compared is not delivered again.
    offsets.put("posts", 0, stored(seventh));
    offsets.set("posts", 1, 10);
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    assert_eq!(next(&mut records).await.origin.offset, 7);
    assert_eq!(cause(&consumer), None);
    consumer.close().await.unwrap();

    let other = Fingerprint {
        hash: seventh.hash ^ 1,
        ..seventh
    };
    offsets.put("posts", 0, stored(other));
    offsets.set("posts", 1, 0);
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    take_second_partition(&mut records).await;
    let words = wait_for_quarantine(&consumer, QuarantineReason::TopicChanged).await;
    for expected in ["offset 6 of posts/0", "recreated", "kafka.on_topic_changed"] {
        assert!(words.contains(expected), "{words}");
    }
    assert_no_record(&mut records, Duration::from_secs(3)).await;
    assert!(
        cause(&consumer).is_some(),
        "further attempts must not end the quarantine"
    );
    let untouched = offsets.stored("posts", 0).unwrap();
    assert_eq!((untouched.next, untouched.last), (7, Some(other)));
    consumer.close().await.unwrap();

    let restart = KafkaOptions {
        on_topic_changed: OnTopicChanged::Restart,
        ..options
    };
    let (consumer, mut records) = Consumer::start(&restart, offsets.clone()).unwrap();
    let taken = take(&mut records, 20).await;
    let first = taken.iter().find(|record| record.origin.partition == 0).unwrap();
    assert_eq!((first.origin.offset, offsets.get("posts", 0)), (0, Some(0)));
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_of_another_cluster_is_used_only_if_the_settings_say_so() {
    let foreign = StartOffset {
        cluster: Some("the-one-that-failed".into()),
        ..at(7)
    };
    let (_broker, options, offsets) = two_partitions(foreign.clone());
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    take_second_partition(&mut records).await;
    let words = wait_for_quarantine(&consumer, QuarantineReason::TopicChanged).await;
    assert!(
        words.contains("the-one-that-failed") && words.contains("kafka.on_topic_changed"),
        "{words}"
    );
    assert_eq!(
        offsets.stored("posts", 0),
        Some(foreign.clone()),
        "the stored offset was changed"
    );
    let ours = offsets.stored("posts", 1).unwrap().cluster;
    assert!(ours.is_some(), "the offset without a cluster did not get this one's id");
    consumer.close().await.unwrap();

    for (policy, expected) in [(OnTopicChanged::Restart, 0), (OnTopicChanged::Continue, 7)] {
        offsets.put("posts", 0, foreign.clone());
        offsets.set("posts", 1, 10);
        let options = KafkaOptions {
            on_topic_changed: policy,
            ..options.clone()
        };
        let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
        assert_eq!(next(&mut records).await.origin.offset, expected, "{policy:?}");
        assert_eq!(offsets.stored("posts", 0).unwrap().cluster, ours);
        consumer.close().await.unwrap();
    }
}

/// `continue` is meant for a mirror with the same offsets. If the record before the offset differs, the offsets do too.
#[tokio::test(flavor = "multi_thread")]
async fn continue_refuses_a_cluster_with_other_records() {
    let (_broker, options, offsets) = two_partitions(StartOffset {
        cluster: Some("elsewhere".into()),
        last: Some(Fingerprint::of(None, None, Some(b"another record"))),
        ..at(7)
    });
    let options = KafkaOptions {
        on_topic_changed: OnTopicChanged::Continue,
        ..options
    };
    let (consumer, mut records) = Consumer::start(&options, offsets).unwrap();
    take_second_partition(&mut records).await;
    wait_for_quarantine(&consumer, QuarantineReason::TopicChanged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_with_a_record_that_cannot_be_stored_stops_until_it_is_retried() {
    let (_broker, options, offsets) = two_partitions(at(0));
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    let taken = take(&mut records, 20).await;
    let faulty = taken.iter().find(|record| record.origin.partition == 0).unwrap();
    let topic = faulty.origin.topic.clone();
    consumer.quarantine(&topic, 0, faulty.epoch, "the record at offset 0 can't be stored: why");
    assert!(
        !consumer.assignment().holds(&topic, 0, faulty.epoch),
        "its records must be stale at once"
    );
    let words = wait_for_quarantine(&consumer, QuarantineReason::RecordRefused).await;
    assert!(words.contains("offset 0"));
    let again = next(&mut records).await;
    assert_eq!((again.origin.partition, again.origin.offset), (0, 0));
    assert!(
        cause(&consumer).is_some(),
        "reading the record again ended the quarantine"
    );
    consumer.quarantine(&topic, 0, faulty.epoch, "an old epoch");
    consumer.commit(&[(topic, 0, 1)]);
    wait_until("the quarantine is over", || cause(&consumer).is_none()).await;
}
