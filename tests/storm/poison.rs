//! Records that can't be processed: each is found and rejected, and none affects another record.

use std::{
    io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    feed::{Line, Meaning},
    shutdown::{ALL_AT_ONCE, post},
    storm::Storm,
    support::service::{end_of, moodstream, root, wait_for},
};

/// A post whose text has a word that the test model fails on: the token POISON is beyond its embedding, and the embedding of
/// NANNAN is NaN.
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
    // One window, in batches of eight: failing texts are among the others, some next to each other.
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
        summary.contains("376 posts of which 376 are stored") && summary.contains("24 rejected"),
        "{summary}"
    );
}

#[test]
fn dead_letters_that_cannot_be_written_hold_the_offset_back() {
    let mut storm = Storm::calm(32);
    storm.join();
    storm.feed(50);
    storm.wait("the first records", Storm::is_drained);
    storm.to_broker.refuse_produce(true);
    // Rejected records followed by posts, all in one partition.
    let committed = storm.committed();
    storm.send(
        (0..40)
            .map(|n| if n < 5 { marked(n, "POISON") } else { post(n, 0) })
            .collect(),
    );
    storm.wait("writing dead letters to fail twice", |storm| {
        storm.members[0]
            .metric("moodstream_retries_total{what=\"dead_letter\"}")
            .unwrap_or(0.0)
            >= 2.0
    });
    assert_eq!(
        storm.committed(),
        committed,
        "the offset must not pass records whose dead letters are not written"
    );
    assert!(
        storm.members[0].complains_of("dead letters"),
        "{:?}",
        storm.members[0].get("/ready")
    );
    storm.to_broker.refuse_produce(false);
    storm.drain_and_check();
}

/// The oracle assumes that the model classifies every other text.
#[test]
fn the_test_model_fails_only_on_its_two_words() {
    let model = root().join("tests/fixtures/tiny-roberta");
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

/// ONNX Runtime logs an error for each batch that fails, and for each half of it.
#[test]
fn many_failing_texts_make_few_log_lines_with_the_number_suppressed() {
    /// As many lines as `classify` processes at once.
    const WINDOW: usize = 1_024;
    let mut log = tempfile::tempfile().unwrap();
    let begun = Instant::now();
    let mut child = moodstream()
        .args(["classify", "--model"])
        .arg(root().join("tests/fixtures/tiny-roberta"))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut number = 0;
    // Classifies a window with this many failing texts; returns the log lines about failures.
    let mut complaints = |poisoned: usize| {
        let texts: String = (0..WINDOW)
            .map(|place| {
                number += 1;
                let word = if place < poisoned {
                    format!("POISON {number}")
                } else {
                    "fine".to_owned()
                };
                word + "\n"
            })
            .collect();
        input.write_all(texts.as_bytes()).unwrap();
        let failed = answers
            .by_ref()
            .take(WINDOW)
            .filter(|answer| answer.as_ref().unwrap().contains("the model failed on this text"));
        assert_eq!(failed.count(), poisoned);
        let mut said = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut said).unwrap();
        let lines = said.lines().filter(|line| line.contains("Non-zero status code"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complaints(WINDOW).len(), 1);
    // The next such line comes after ten seconds, with the number of suppressed ones.
    let mut said = Vec::new();
    wait_for("a second log line", || {
        said = complaints(1);
        said.len() > 1
    });
    assert!(begun.elapsed() >= Duration::from_secs(10), "{said:#?}");
    let more = said[1]
        .split("more=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let more: usize = more.unwrap().parse().unwrap();
    assert!(more >= WINDOW, "each text must fail at least once: {more}");
    drop(input);
    assert!(end_of(&mut child).success());
}
