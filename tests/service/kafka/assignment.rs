//! Assignment of partitions to members, restarts and draining.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn records_of_each_partition_arrive_in_order() {
    let broker = Broker::start();
    broker.create_topic("posts", 4);
    fill(&broker, "posts", 4, 500);
    let offsets = Offsets::with(&[]);
    let (consumer, mut records) = Consumer::start(&options(&broker, &["posts"]), offsets.clone()).unwrap();
    let taken = take(&mut records, 2_000).await;

    let mut next_of = BTreeMap::new();
    for record in &taken {
        let partition = record.origin.partition;
        let number = next_of.entry(partition).or_insert(0i64);
        assert_eq!(record.origin.offset, *number);
        assert_eq!(*record.value.as_ref().unwrap(), format!("{partition}:{number}"));
        assert_eq!(&*record.origin.topic, "posts");
        assert!(
            consumer
                .assignment()
                .holds(&record.origin.topic, partition, record.epoch)
        );
        assert!(record.timestamp.is_some());
        *number += 1;
    }
    assert_eq!(next_of, BTreeMap::from([(0, 500), (1, 500), (2, 500), (3, 500)]));
    // The start was resolved to an actual offset and stored.
    let mut inserted = offsets.inserted.lock().unwrap().clone();
    inserted.sort_unstable();
    assert_eq!(inserted, [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_no_record(&mut records, Duration::from_millis(200)).await;
    consumer.close().await.unwrap();
    assert!(records.recv().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_again_from_the_stored_offset_under_a_new_epoch() {
    let broker = Broker::start();
    broker.create_topic("posts", 2);
    fill(&broker, "posts", 2, 1_000);
    let offsets = Offsets::with(&[("posts", 0, 0), ("posts", 1, 0)]);
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_records = 100;
    let (consumer, mut records) = Consumer::start(&options, offsets.clone()).unwrap();
    let fenced = loop {
        let record = next(&mut records).await;
        if record.origin.partition == 0 && record.origin.offset >= 300 {
            break record;
        }
    };
    offsets.set("posts", 0, 123);
    let topic = fenced.origin.topic.clone();
    consumer.restart(&topic, 0, fenced.epoch);
    assert!(
        !consumer.assignment().holds(&topic, 0, fenced.epoch),
        "its records must be stale at once"
    );
    // A second restart of the same epoch has no effect.
    consumer.restart(&topic, 0, fenced.epoch);

    let mut reread = Vec::new();
    let mut epochs = std::collections::BTreeSet::new();
    let mut other = 0;
    while reread.len() < 877 {
        let record = next(&mut records).await;
        if record.origin.partition == 1 {
            other += 1;
        } else if record.epoch != fenced.epoch {
            assert!(consumer.assignment().holds(&topic, 0, record.epoch));
            epochs.insert(record.epoch);
            reread.push(record.origin.offset);
        }
    }
    assert_eq!(reread, (123..1_000).collect::<Vec<_>>());
    assert_eq!(epochs.len(), 1);
    assert!(other <= 1_000, "the other partition was read twice");
}

/// A group member that works like the pipeline: it keeps records of the current epoch, then advances the offset.
struct Member {
    consumer: Consumer,
    records: Receiver<Record>,
}

impl Member {
    fn join(options: &KafkaOptions, offsets: &Arc<Offsets>) -> Self {
        let (consumer, records) = Consumer::start(options, offsets.clone()).unwrap();
        Self { consumer, records }
    }

    /// Commits one record, if there is one. Returns whether there was.
    fn step(&mut self, offsets: &Offsets, seen: &mut BTreeMap<(i32, i64), usize>) -> bool {
        let Ok(record) = self.records.try_recv() else {
            return false;
        };
        let Record { origin, epoch, .. } = record;
        if !self.consumer.assignment().holds(&origin.topic, origin.partition, epoch) {
            return true;
        }
        // The fence: only a record at the stored offset may advance it.
        let mut rows = offsets.rows.lock().unwrap();
        let row = rows.get_mut(&(origin.topic.to_string(), origin.partition)).unwrap();
        if row.next != origin.offset {
            drop(rows);
            self.consumer.restart(&origin.topic, origin.partition, epoch);
            return true;
        }
        row.next += 1;
        drop(rows);
        *seen.entry((origin.partition, origin.offset)).or_default() += 1;
        self.consumer
            .commit(&[(origin.topic, origin.partition, origin.offset + 1)]);
        true
    }

    fn held(&self) -> Vec<i32> {
        self.consumer
            .assignment()
            .current()
            .iter()
            .map(|held| held.partition)
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_counted_once_while_members_join_and_leave() {
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
    // A second member takes over some partitions, while the first keeps reading the others.
    let before: BTreeMap<i32, u64> = first
        .consumer
        .assignment()
        .current()
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
    for held in first.consumer.assignment().current() {
        assert_eq!(
            before[&held.partition], held.epoch,
            "a partition that it kept has a new epoch"
        );
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
        .expect("closing timed out")
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
    wait_until("the lag is 0", || {
        let held = second.consumer.assignment().current();
        held.len() == 4 && held.iter().all(|held| held.end == Some(held.committed))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_codec_is_read() {
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
    let (_consumer, mut records) = Consumer::start(&options(&broker, &["posts"]), Offsets::with(&[])).unwrap();
    for codec in codecs {
        assert_eq!(next(&mut records).await.value.unwrap(), text);
        assert_eq!(next(&mut records).await.value.unwrap(), codec);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_ends_the_records_but_keeps_the_partitions() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    fill(&broker, "posts", 1, 1_000);
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_records = 10;
    let (consumer, mut records) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    let first = next(&mut records).await;
    consumer.drain();
    let mut rest = 0;
    while timeout(PATIENCE, records.recv())
        .await
        .expect("the records did not end in time")
        .is_some()
    {
        rest += 1;
    }
    assert!(rest < 999, "draining had no effect");
    assert!(consumer.assignment().holds(&first.origin.topic, 0, first.epoch));
    consumer.commit(&[(first.origin.topic.clone(), 0, 1)]);
    let group = options.group.clone();
    consumer.close().await.unwrap();
    let client: rdkafka::consumer::BaseConsumer = broker.config().set("group.id", group).create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition("posts", 0);
    let committed = rdkafka::consumer::Consumer::committed_offsets(&client, list, PATIENCE).unwrap();
    assert_eq!(
        committed.find_partition("posts", 0).unwrap().offset(),
        rdkafka::Offset::Offset(1),
        "the last commit was not sent before leaving"
    );
}
