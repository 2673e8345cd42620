//! Records that can't be processed, and the replay of their dead letters.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use rdkafka::producer::Producer as _;
use serde_json::Value;

use super::{lines, number};
use crate::support::service::{Bench, moodstream};

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_processed_become_dead_letters_and_the_rest_is_stored() {
    let bench = Bench::start();
    let at = "\"created_at\":\"2026-03-01T12:00:00Z\"";
    let stream: Vec<(Vec<u8>, Option<&str>)> = vec![
        (format!("{{\"id\":\"1\",\"text\":\"fine\",{at}}}").into_bytes(), None),
        (vec![b'x'; 5 << 20], Some("too_large")),
        ([vec![b'['; 5_000], vec![b']'; 5_000]].concat(), Some("too_deep")),
        (b"\xff\xfe\xfd".to_vec(), Some("not_utf8")),
        (
            format!("{{\"id\":\"2\",\"text\":\"half a \\ud83d pair\",{at}}}").into_bytes(),
            None,
        ),
        (
            b"{\"id\":\"3\",\"text\":\"when?\",\"created_at\":\"9999-99-99\"}".to_vec(),
            Some("bad_time"),
        ),
        (
            format!("{{\"id\":\"4\",\"text\":\"{}\",{at}}}", "w".repeat(10_000)).into_bytes(),
            None,
        ),
        (
            format!("{{\"id\":\"5\",\"text\":\"nul \\u0000 in it\",{at}}}").into_bytes(),
            None,
        ),
        (
            format!(
                "{{\"did\":\"{0}\",\"time_us\":1790000000000000,\"kind\":\"commit\",\"commit\":{{\"operation\":\"delete\",\
                 \"collection\":\"app.bsky.feed.post\",\"rkey\":\"{0}\"}}}}",
                "d".repeat(400)
            )
            .into_bytes(),
            Some("bad_field"),
        ),
        (
            b"{\"id\":\"6\",\"text\":\"so far ahead\",\"created_at\":\"2199-01-01T00:00:00Z\"}".to_vec(),
            Some("future_time"),
        ),
        (
            format!("{{\"id\":\"7\",\"text\":\"no such language\",\"lang\":\"qzxwvk\",{at}}}").into_bytes(),
            None,
        ),
    ];
    bench.broker.create_topic("poison", 1);
    bench.broker.produce_with(
        &[("message.max.bytes", "20000000")],
        "poison",
        stream.iter().map(|(record, _)| (0, record.as_slice())),
    );
    // A tombstone of a compacted topic is counted but does not become a dead letter.
    let producer: rdkafka::producer::BaseProducer = bench.broker.config().create().unwrap();
    producer
        .send(
            rdkafka::producer::BaseRecord::<_, [u8]>::to("poison")
                .partition(0)
                .key("5"),
        )
        .unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
    let service = bench.service("poison");
    let summary = service.run_until_caught_up();
    let mut reasons: BTreeMap<&str, u64> = [("tombstone", 1)].into();
    for reason in stream.iter().filter_map(|(_, reason)| *reason) {
        *reasons.entry(reason).or_default() += 1;
    }
    assert_eq!(summary["rejected_by_reason"], serde_json::to_value(&reasons).unwrap());
    assert_eq!(number(&service.url, "SELECT count(*) FROM post").await, 5);
    assert_eq!(
        number(
            &service.url,
            "SELECT count(*) FROM post WHERE lang = 'und' OR lang_identified"
        )
        .await,
        5
    );
    assert_eq!(
        number(&service.url, "SELECT count(*) FROM post WHERE created_at > now()").await,
        0
    );

    let mut wanted: Vec<&[u8]> = stream
        .iter()
        .filter(|(_, reason)| reason.is_some())
        .map(|(record, _)| &**record)
        .collect();
    let letters = bench.letters("poison.dead-letter", wanted.len());
    let mut bytes: Vec<&[u8]> = letters.iter().map(|letter| &*letter.payload).collect();
    bytes.sort_unstable();
    wanted.sort_unstable();
    assert!(bytes == wanted, "the dead letters differ from the rejected records");
    for letter in &letters {
        assert!(
            reasons.contains_key(letter.headers["reason"].as_str()),
            "{:?}",
            letter.headers
        );
        assert_eq!(letter.headers["origin_topic"], "poison");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_replayed_to_their_origin() {
    let bench = Bench::start();
    let records: [&[u8]; 4] = [
        b"{\"broken",
        br#"{"id":"1","text":"so happy","created_at":"27/11/2026"}"#,
        br#"{"id":"2","text":"so happy","created_at":"2026-03-01T12:00:00Z"}"#,
        b"}",
    ];
    bench.broker.create_topic("letters", 2);
    bench
        .broker
        .produce("letters", records.iter().map(|record| (1, *record)));
    let service = bench.service("letters");
    let summary = service.run_until_caught_up();
    assert_eq!(summary["rejected"], 3, "{summary}");

    let dead_letters = |arguments: &[&str]| {
        let output = moodstream()
            .arg("dead-letters")
            .args(arguments)
            .env("MOODSTREAM_KAFKA__BROKERS", bench.broker.address())
            .env("MOODSTREAM_KAFKA__TOPICS", "letters")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, said)
    };
    let (all, _) = dead_letters(&["list"]);
    assert_eq!(all.len(), 3);
    let (bad_times, _) = dead_letters(&["list", "--reason", "bad_time", "--max-chars", "9"]);
    assert_eq!(bad_times.len(), 1);
    assert_eq!(
        (
            &bad_times[0]["origin"],
            &bad_times[0]["value"],
            &bad_times[0]["value_bytes"]
        ),
        (&"letters/1/1".into(), &r#"{"id":"1""#.into(), &records[1].len().into())
    );
    assert!(dead_letters(&["list", "--since", "2100-01-01T00:00:00Z"]).0.is_empty());
    assert_eq!(dead_letters(&["list", "--limit", "2"]).0.len(), 2);

    // A dry run sends nothing. Read again as text, the two records that are not JSON become posts, in their original partition.
    // They arrive in the order of the dead-letter topic's partitions.
    let chosen = ["--reason", "not_json", "--reason", "unknown_format"];
    let (_, said) = dead_letters(&[&["replay", "--dry-run"], &chosen[..]].concat());
    assert!(said.starts_with("would send 2 records back"), "{said}");
    let (_, said) = dead_letters(&[&["replay"], &chosen[..]].concat());
    assert!(said.starts_with("sent 2 records back"), "{said}");
    let output = service
        .command()
        .arg("--until-caught-up")
        .env("MOODSTREAM_POSTS__FORMAT", "text")
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(
        lines(
            &service.url,
            "SELECT concat_ws('|', text, kafka_partition) FROM post WHERE kafka_offset > 3 ORDER BY text COLLATE \"C\""
        )
        .await,
        ["{\"broken|1", "}|1"]
    );
}
