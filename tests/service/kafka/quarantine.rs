//! Partitions with which something is wrong: they stand still, and the others go on.

use super::{starts::mock, *};

/// Two partitions with ten records each, of which the first one's offset is as given.
fn two(stored: StoredOffset) -> (Broker, KafkaOptions, Arc<Offsets>) {
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

fn at(next: i64) -> StoredOffset {
    StoredOffset {
        next,
        ..StoredOffset::default()
    }
}

/// The reason for which the first partition is in quarantine, and the words.
fn cause(consumer: &Consumer) -> Option<(QuarantineReason, String)> {
    let list = consumer.assignment().quarantined();
    let (partition, cause) = list.into_iter().next()?;
    assert_eq!(partition, ("posts".into(), 0));
    Some((cause.reason, cause.detail))
}

async fn quarantined(consumer: &Consumer, reason: QuarantineReason) -> String {
    until("the partition is in quarantine", || cause(consumer).is_some()).await;
    let (found, detail) = cause(consumer).unwrap();
    assert_eq!(found, reason, "{detail}");
    assert!(consumer.assignment().settled(), "nothing is waited for");
    detail
}

/// All records of the second partition.
async fn others_go_on(records: &mut Receiver<Record>) {
    for (offset, record) in take(records, 10).await.iter().enumerate() {
        assert_eq!(record.origin.partition, 1);
        assert_eq!(record.origin.offset, i64::try_from(offset).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_not_at_the_broker_stops_its_partition_alone_with_clear_words() {
    let (broker, options, offsets) = two(at(5_000));
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    others_go_on(&mut records).await;
    let words = quarantined(&consumer, QuarantineReason::OffsetOutOfRange).await;
    for expected in ["offset 5000 of posts/0", "0 up to 10", "kafka.on_offset_out_of_range"] {
        assert!(words.contains(expected), "{words}");
    }
    assert_eq!(offsets.get("posts", 0), Some(5_000), "untouched");

    // Tries that fail change nothing; somebody who sets the offset right is noticed, and the partition is known to be well.
    nothing_for(&mut records, Duration::from_secs(3)).await;
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
async fn an_offset_that_kafka_refuses_stops_its_partition_too_and_is_tried_again_only_where_asked_for() {
    let (_mock, options) = mock();
    let options = KafkaOptions {
        quarantine_retry_seconds: 0,
        ..options
    };
    let offsets = Offsets::with(&[("posts", 0, 5_000)]);
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    quarantined(&consumer, QuarantineReason::OffsetOutOfRange).await;
    offsets.set("posts", 0, 0);
    nothing_for(&mut records, Duration::from_secs(2)).await;
    consumer.close().await.unwrap();

    let (_consumer, mut records) = Consumer::start(&options, offsets).unwrap();
    assert_eq!(next(&mut records).await.origin.offset, 0, "the next start tries it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_in_quarantine_is_tried_again_on_demand_also_where_it_never_is_by_itself() {
    let (_broker, options, offsets) = two(at(5_000));
    let options = KafkaOptions {
        quarantine_retry_seconds: 0,
        ..options
    };
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    others_go_on(&mut records).await;
    quarantined(&consumer, QuarantineReason::OffsetOutOfRange).await;
    // A try that fails leaves it there, and costs the others nothing.
    consumer.assignment().retry_quarantined();
    nothing_for(&mut records, Duration::from_secs(3)).await;
    quarantined(&consumer, QuarantineReason::OffsetOutOfRange).await;
    offsets.set("posts", 0, 7);
    nothing_for(&mut records, Duration::from_secs(2)).await;
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
async fn a_topic_made_anew_that_reaches_beyond_the_stored_offset_is_not_read_on_as_if_it_were_the_old_one() {
    let (_broker, options, offsets) = two(at(0));
    let seventh = fingerprint(&options, 6).await;
    let stored = |last| StoredOffset {
        last: Some(last),
        ..at(7)
    };
    // The same topic: it goes on, and the record that was looked at is not handed out again.
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
    others_go_on(&mut records).await;
    let words = quarantined(&consumer, QuarantineReason::TopicChanged).await;
    for expected in ["offset 6 of posts/0", "made anew", "kafka.on_topic_changed"] {
        assert!(words.contains(expected), "{words}");
    }
    nothing_for(&mut records, Duration::from_secs(3)).await;
    assert!(cause(&consumer).is_some(), "also after further tries");
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
async fn an_offset_of_another_cluster_is_used_only_where_the_settings_say_so() {
    let foreign = StoredOffset {
        cluster: Some("the-one-that-failed".into()),
        ..at(7)
    };
    let (_broker, options, offsets) = two(foreign.clone());
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    others_go_on(&mut records).await;
    let words = quarantined(&consumer, QuarantineReason::TopicChanged).await;
    assert!(
        words.contains("the-one-that-failed") && words.contains("kafka.on_topic_changed"),
        "{words}"
    );
    assert_eq!(offsets.stored("posts", 0), Some(foreign.clone()), "untouched");
    let ours = offsets.stored("posts", 1).unwrap().cluster;
    assert!(ours.is_some(), "an offset without a cluster gets this one");
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

/// Continuing is for a mirror with the same offsets. One that has others shows in the record before.
#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_with_other_records_is_not_gone_on_with() {
    let (_broker, options, offsets) = two(StoredOffset {
        cluster: Some("elsewhere".into()),
        last: Some(Fingerprint::of(None, None, Some(b"another record"))),
        ..at(7)
    });
    let options = KafkaOptions {
        on_topic_changed: OnTopicChanged::Continue,
        ..options
    };
    let (consumer, mut records) = Consumer::start(&options, offsets).unwrap();
    others_go_on(&mut records).await;
    quarantined(&consumer, QuarantineReason::TopicChanged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_record_can_not_be_stored_stands_still_until_it_is_tried_again() {
    let (_broker, options, offsets) = two(at(0));
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    let taken = take(&mut records, 20).await;
    let faulty = taken.iter().find(|record| record.origin.partition == 0).unwrap();
    let topic = faulty.origin.topic.clone();
    consumer.quarantine(&topic, 0, faulty.epoch, "the record at offset 0 can't be stored: why");
    assert!(
        !consumer.assignment().holds(&topic, 0, faulty.epoch),
        "its records are stale at once"
    );
    let words = quarantined(&consumer, QuarantineReason::RecordRefused).await;
    assert!(words.contains("offset 0"));
    let again = next(&mut records).await;
    assert_eq!((again.origin.partition, again.origin.offset), (0, 0));
    assert!(cause(&consumer).is_some(), "that it is read proves nothing");
    consumer.quarantine(&topic, 0, faulty.epoch, "an epoch that is over");
    consumer.commit(&[(topic, 0, 1)]);
    until("the quarantine is over", || cause(&consumer).is_none()).await;
}
