//! Dead letters and feeding.

use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

use super::*;

fn letter(offset: i64, value: &[u8]) -> DeadLetter {
    DeadLetter {
        origin: Origin {
            topic: Arc::from("posts"),
            partition: 3,
            offset,
        },
        timestamp: Some(time::macros::datetime!(2026-01-02 03:04:05.006 UTC)),
        key: Some(bytes::Bytes::from_static(b"k\xff")),
        value: Some(bytes::Bytes::copy_from_slice(value)),
        headers: None,
        reason: "not_utf8",
        detail: "invalid byte at 7".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_keeps_the_record_s_own_headers_and_a_null_value() {
    use rdkafka::{
        Message as _,
        message::{Header, Headers as _, OwnedHeaders},
    };
    let broker = Broker::start();
    broker.create_topic("posts.dead-letter", 1);
    let letters = DeadLetters::new(&options(&broker, &["posts"])).unwrap();
    let own = OwnedHeaders::new()
        .insert(Header {
            key: "trace",
            value: Some(&b"\xff1"[..]),
        })
        .insert(Header {
            key: "reason",
            value: Some("of its own"),
        });
    let tombstone = DeadLetter {
        value: None,
        headers: Some(own),
        ..letter(7, b"")
    };
    letters.send(&[tombstone]).await.unwrap();
    let reader = dead_letter_reader(&broker.address(), 0);
    let record = reader.poll(PATIENCE).expect("no dead letter in time").unwrap();
    assert_eq!(record.payload(), None);
    let headers = record.headers().unwrap();
    assert_eq!(
        (headers.get(0).key, headers.get(0).value),
        ("trace", Some(&b"\xff1"[..]))
    );
    // Of headers with the same name the last counts: clients' `lastHeader` returns the dead letter's own.
    let reasons: Vec<Option<&[u8]>> = headers
        .iter()
        .filter(|header| header.key == "reason")
        .map(|h| h.value)
        .collect();
    assert_eq!(reasons, [Some(&b"of its own"[..]), Some(&b"not_utf8"[..])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_keep_every_byte_and_name_their_origin() {
    use rdkafka::Message as _;
    let broker = Broker::start();
    broker.create_topic("posts.dead-letter", 1);
    let letters = DeadLetters::new(&options(&broker, &["posts"])).unwrap();
    let payloads: [&[u8]; 4] = [b"bad \xff\xfe\x00 bytes", b"", &[b'x'; 2_000_000], b"last"];
    let all: Vec<DeadLetter> = payloads
        .iter()
        .enumerate()
        .map(|(n, value)| letter(n as i64, value))
        .collect();
    assert_eq!(
        letters.send(&all).await.unwrap(),
        DeadLetterCounts { whole: 4, truncated: 0 }
    );

    let reader = dead_letter_reader(&broker.address(), 0);
    let mut found = BTreeMap::new();
    while found.len() < 4 {
        let record = reader.poll(PATIENCE).expect("no dead letter in time").unwrap();
        let headers = crate::support::broker::header_map(record.headers().unwrap());
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
    for (n, value) in payloads.iter().enumerate() {
        assert!(found[&n] == *value, "letter {n}");
    }
}

/// Returns a consumer of the dead letters from the offset `from` on.
fn dead_letter_reader(brokers: &str, from: i64) -> rdkafka::consumer::BaseConsumer {
    let reader: rdkafka::consumer::BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "check")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset("posts.dead-letter", 0, rdkafka::Offset::Offset(from))
        .unwrap();
    rdkafka::consumer::Consumer::assign(&reader, &list).unwrap();
    reader
}

/// Returns a mock cluster with a dead-letter topic, and a producer for it.
fn mock_dead_letters() -> (MockCluster<'static, DefaultProducerContext>, DeadLetters) {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("posts.dead-letter", 1, 1).unwrap();
    let options = KafkaOptions {
        brokers: mock.bootstrap_servers(),
        topics: vec!["posts".into()],
        ..KafkaOptions::default()
    };
    let letters = DeadLetters::new(&options).unwrap();
    (mock, letters)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_too_large_for_the_broker_is_truncated_and_marked() {
    use rdkafka::{Message as _, types::RDKafkaApiKey, types::RDKafkaRespErr};
    let (mock, letters) = mock_dead_letters();
    let refuse = |times: usize| {
        mock.request_errors(
            RDKafkaApiKey::Produce,
            &vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; times],
        );
    };

    // Refused once, accepted at the second attempt.
    refuse(1);
    assert_eq!(
        letters.send(&[letter(0, b"small")]).await.unwrap(),
        DeadLetterCounts { whole: 1, truncated: 0 }
    );

    let value: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    refuse(2);
    assert_eq!(
        letters.send(&[letter(1, &value)]).await.unwrap(),
        DeadLetterCounts { whole: 0, truncated: 1 }
    );

    let reader = dead_letter_reader(&mock.bootstrap_servers(), 1);
    let record = reader.poll(PATIENCE).expect("no dead letter in time").unwrap();
    let headers = crate::support::broker::header_map(record.headers().unwrap());
    assert_eq!(
        (headers["truncated"].as_str(), headers["original_length"].as_str()),
        ("true", "200000")
    );
    assert_eq!(
        headers["original_xxh3"],
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&value))
    );
    assert_eq!(record.payload().unwrap(), &value[..65_536]);

    // Even the truncated dead letter is refused, which has its own error.
    refuse(6);
    let error = letters.send(&[letter(2, &value)]).await.unwrap_err();
    assert!(matches!(error, DeadLetterError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_too_large_for_the_broker_is_omitted_and_marked() {
    use rdkafka::Message as _;
    let broker = Broker::start();
    broker.create_topic("posts.dead-letter", 1);
    let mut options = options(&broker, &["posts"]);
    options.properties = [("message.max.bytes", "1000000")].into_iter().collect();
    let letters = DeadLetters::new(&options).unwrap();
    let key = bytes::Bytes::from(vec![b'k'; 2_000_000]);
    let keyed = |offset, value: &[u8]| DeadLetter {
        key: Some(key.clone()),
        ..letter(offset, value)
    };
    // The value stays whole if only the key is too large; otherwise it is truncated as usual.
    let (short, long) = (b"bad \xff bytes".to_vec(), vec![b'x'; 3_000_000]);
    let sent = letters
        .send(&[keyed(0, &short), letter(1, b"last"), keyed(2, &long)])
        .await;
    assert_eq!(sent.unwrap(), DeadLetterCounts { whole: 1, truncated: 2 });

    let reader = dead_letter_reader(&broker.address(), 0);
    let mut found = BTreeMap::new();
    while found.len() < 3 {
        let record = reader.poll(PATIENCE).expect("no dead letter in time").unwrap();
        let headers = crate::support::broker::header_map(record.headers().unwrap());
        let header = |name: &str| headers.get(name).cloned();
        let number: usize = headers["origin_offset"].parse().unwrap();
        let (omitted, length, xxh3) = (
            header("key_omitted"),
            header("original_key_length"),
            header("original_key_xxh3"),
        );
        if number == 1 {
            assert_eq!((omitted, length, xxh3), (None, None, None));
            assert_eq!(record.key(), Some(&b"k\xff"[..]));
        } else {
            let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&key));
            assert_eq!(
                (omitted, length, xxh3),
                (Some("true".into()), Some("2000000".into()), Some(hash))
            );
            assert_eq!(record.key(), None);
        }
        assert_eq!(header("truncated").is_some(), number == 2);
        found.insert(number, record.payload().unwrap_or_default().to_vec());
    }
    assert_eq!(found[&0], short);
    assert_eq!(found[&2], long[..65_536]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_or_failed_dead_letter_producer_is_replaced() {
    use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as E};
    // The third and the last two are fatal errors, after which librdkafka's producer never writes again.
    for (api, error) in [
        (Api::Produce, E::RD_KAFKA_RESP_ERR_PRODUCER_FENCED),
        (Api::Produce, E::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH),
        (Api::Produce, E::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER),
        (Api::InitProducerId, E::RD_KAFKA_RESP_ERR_PRODUCER_FENCED),
        (Api::InitProducerId, E::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED),
    ] {
        let (mock, letters) = mock_dead_letters();
        if api == Api::Produce {
            letters.send(&[letter(0, b"before")]).await.unwrap();
        }
        mock.request_errors(api, &[error]);
        let again = [letter(1, b"x")];
        let refused = letters.send(&again).await.unwrap_err();
        assert!(
            matches!(refused, DeadLetterError::NotAcknowledged { failed: 1, .. }),
            "{error:?}: {refused}"
        );
        let sent = letters.send(&again).await;
        assert_eq!(
            sent.unwrap(),
            DeadLetterCounts { whole: 1, truncated: 0 },
            "after {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unacknowledged_dead_letters_are_an_error() {
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

/// Feeds a file with these bytes; the first word of a line is its key.
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
    feed::feed(
        &kafka,
        options,
        &FeedInput::File(path),
        |line| line.into(),
        key,
        |_| ControlFlow::Continue(()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_sends_each_line_once_with_its_key_from_any_compression() {
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
            (summary.progress.input_length, summary.progress.input_bytes),
            (Some(length), length)
        );

        let mut reading = options(&broker, &[topic]);
        reading.group = format!("check-{topic}");
        let (_consumer, mut records) = Consumer::start(&reading, Offsets::with(&[])).unwrap();
        let mut numbers = BTreeMap::<i32, Vec<usize>>::new();
        let mut partition_of = HashMap::new();
        for _ in 0..5_001 {
            let record = next(&mut records).await;
            let line = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            if line == " no key" {
                assert_eq!(record.key, None);
                continue;
            }
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            assert!(
                line.starts_with(&format!("{key} ")) && !line.ends_with('\r'),
                "{line:?}"
            );
            assert_eq!(
                *partition_of.entry(key).or_insert(record.origin.partition),
                record.origin.partition,
                "a key went to two partitions"
            );
            numbers
                .entry(record.origin.partition)
                .or_default()
                .push(line.rsplit(' ').next().unwrap().parse().unwrap());
        }
        assert_eq!(numbers.len(), 3);
        assert!(
            numbers.values().all(|numbers| numbers.is_sorted()),
            "the order within a partition changed"
        );
        let mut all: Vec<usize> = numbers.into_values().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..5_000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_keeps_its_rate_and_refuses_unsuitable_topics_and_damaged_files() {
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
