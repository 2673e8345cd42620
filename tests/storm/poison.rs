//! Records that can't be handled: each found, each kept, none at the cost of another.

use crate::{
    feed::{Line, Meaning},
    shutdown::{ALL_AT_ONCE, post},
    storm::Storm,
    support::service::moodstream,
};

/// A post whose text has a word that the test model fails on: POISON is a token beyond its embedding, NANNAN's row is
/// of NaN.
fn marked(number: usize, word: &str) -> Line {
    let mut line = post(number, 0);
    let Meaning::Post(post) = &line.meaning else {
        return line;
    };
    line.payload = String::from_utf8(line.payload)
        .unwrap()
        .replace(&post.text, &format!("{} {word}", post.text))
        .into_bytes();
    line.meaning = Meaning::Rejected("model");
    line
}

#[test]
fn a_text_that_the_model_fails_on_is_rejected_alone() {
    let mut storm = Storm::calm(31);
    // One window, batches of eight: poisoned ones are among the others, some side by side.
    let lines: Vec<Line> = (0..400)
        .map(|number| match number % 50 {
            7 | 8 => marked(number, "POISON"),
            23 => marked(number, "NANNAN"),
            _ => post(number, 0),
        })
        .collect();
    storm.send(lines);
    storm.join_with(&ALL_AT_ONCE);
    let summary = storm.drain_and_check();
    assert!(
        summary.contains("376 posts of which 376 stand") && summary.contains("24 rejected"),
        "{summary}"
    );
}

/// The offset waits for the letter, however long.
#[test]
fn dead_letters_that_cannot_be_written_hold_the_offset_back() {
    let mut storm = Storm::calm(32);
    storm.join();
    storm.feed(50);
    storm.wait("the first records", Storm::is_drained);
    storm.to_broker.refuse_produce(true);
    // Rejected records and posts behind them, all in one partition.
    let settled = storm.settled();
    storm.send(
        (0..40)
            .map(|n| if n < 5 { marked(n, "POISON") } else { post(n, 0) })
            .collect(),
    );
    storm.wait("the letters to fail twice", |storm| {
        storm.members[0]
            .metric("moodstream_retries_total{what=\"dead_letter\"}")
            .unwrap_or(0.0)
            >= 2.0
    });
    assert_eq!(
        storm.settled(),
        settled,
        "nothing may pass the records whose letters are not written"
    );
    assert!(
        storm.members[0].complains_of("dead letters"),
        "{:?}",
        storm.members[0].get("/ready")
    );
    storm.to_broker.refuse_produce(false);
    storm.drain_and_check();
}

/// What the stream's reckoning takes for granted: the model answers the other texts.
#[test]
fn the_test_model_fails_on_its_two_words_alone() {
    let model = crate::support::service::root().join("tests/fixtures/tiny-roberta");
    let output = moodstream()
        .args(["classify", "--model"])
        .arg(model)
        .args(["fine", "POISON", "NANNAN", "fine too"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scored: Vec<bool> = answers
        .iter()
        .map(|answer| answer.get("scores").is_some_and(|s| !s.is_null()))
        .collect();
    assert_eq!(
        scored,
        [true, false, false, true],
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
