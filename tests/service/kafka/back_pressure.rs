//! Readers that are slower than the broker.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_reader_holds_bounded_bytes_and_loses_no_record() {
    let broker = Broker::start();
    broker.create_topic("posts", 2);
    let value = vec![b'x'; 10_000];
    broker.produce("posts", (0..1_000).map(|n| (n % 2, value.as_slice())));
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_bytes = 100_000;
    let (consumer, mut records) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    wait_until("the limit is reached", || consumer.in_flight().1 > 89_000).await;
    // Longer than the session timeout: a member that did not poll would lose its place in the group.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let (in_flight, bytes) = consumer.in_flight();
    assert!(in_flight == 9 && bytes <= 100_000, "{in_flight} records, {bytes} bytes");
    let epochs: Vec<u64> = consumer.assignment().current().iter().map(|held| held.epoch).collect();
    assert_eq!(epochs.len(), 2, "the member lost its place in the group");

    // The limit on records in flight holds back the rest, not only the channel.
    let held = take(&mut records, 9).await;
    assert_no_record(&mut records, Duration::from_millis(300)).await;
    let mut seen: Vec<(i32, i64)> = held
        .iter()
        .map(|record| (record.origin.partition, record.origin.offset))
        .collect();
    drop(held);
    for _ in 9..1_000 {
        let record = next(&mut records).await;
        assert!(epochs.contains(&record.epoch));
        seen.push((record.origin.partition, record.origin.offset));
    }
    seen.sort_unstable();
    let all: Vec<(i32, i64)> = (0..2)
        .flat_map(|partition| (0..500).map(move |offset| (partition, offset)))
        .collect();
    assert_eq!(seen, all);
    wait_until("nothing is in flight", || consumer.in_flight() == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_the_byte_limit_is_delivered_alone() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    let (small, huge) = (vec![b's'; 10], vec![b'h'; 3_000_000]);
    broker.produce(
        "posts",
        [(0, small.as_slice()), (0, huge.as_slice()), (0, small.as_slice())],
    );
    let mut options = options(&broker, &["posts"]);
    options.max_in_flight_bytes = 1_000;
    let (_consumer, mut records) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    for length in [10, 3_000_000, 10] {
        assert_eq!(next(&mut records).await.value.unwrap().len(), length);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_stays_correct_while_nothing_is_fetched() {
    let broker = Broker::start();
    broker.create_topic("posts", 1);
    let value = vec![b'x'; 10_000];
    broker.produce("posts", (0..1_000).map(|_| (0, value.as_slice())));
    let mut options = options(&broker, &["posts"]);
    (options.max_in_flight_records, options.prefetch_kib) = (1, 1);
    let (consumer, _messages) = Consumer::start(&options, Offsets::with(&[])).unwrap();
    let lag = || consumer.assignment().totals().1;
    wait_until("the first watermark is known", || lag() == 1_000).await;
    broker.produce("posts", (0..500).map(|_| (0, value.as_slice())));
    let patience = Instant::now() + Duration::from_secs(60);
    while lag() != 1_500 {
        assert!(Instant::now() < patience, "lag {}", lag());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
