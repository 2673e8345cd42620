//! Puts a secret into every setting that may contain one, and searches all output for it.

use std::fs::{self, File};

use crate::support::service::{Bench, end_of, model, moodstream, terminate, wait_for};

const SECRET: &str = "hunter2hunter2";

#[test]
fn no_command_prints_a_secret() {
    let url = format!("postgres://me:{SECRET}@127.0.0.1:1/moods");
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.toml");
    std::fs::write(&broken, format!("[database]\nurl = \"postgres://me:{SECRET}@db\n")).unwrap();
    let broken = broken.to_str().unwrap();
    for arguments in [
        vec!["--help"],
        vec!["run", "--help"],
        vec!["migrate", "--help"],
        vec!["check"],
        vec!["run"],
        vec!["run", "--until-caught-up"],
        vec!["migrate"],
        vec!["run", "--config", broken],
    ] {
        let output = moodstream()
            .args(&arguments)
            .env("MOODSTREAM_KAFKA__TOPICS", "posts")
            .env("MOODSTREAM_KAFKA__BROKERS", "127.0.0.1:1")
            .env("MOODSTREAM_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "sasl_plaintext")
            .env("MOODSTREAM_KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN")
            .env("MOODSTREAM_KAFKA__PROPERTIES__SASL_USERNAME", "me")
            .env("MOODSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD", SECRET)
            .env("MOODSTREAM_DATABASE__URL", &url)
            .env("MOODSTREAM_MODEL__PATH", model())
            .env("MOODSTREAM_HTTP__LISTEN", "127.0.0.1:0")
            .env("MOODSTREAM_LOG__LEVEL", "trace")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!said.is_empty(), "{arguments:?} prints nothing");
        assert!(!said.contains(SECRET), "{arguments:?} prints a secret");
    }
}

#[test]
fn no_page_or_log_of_the_service_contains_a_secret() {
    let bench = Bench::start();
    bench.broker.create_topic("secrets", 1);
    let service = bench.service("secrets");
    let service = service.with_url(&service.url.replace("postgres@", &format!("postgres:{SECRET}@")));
    let log = bench.write("log", "");
    let mut child = service
        .command()
        .env("MOODSTREAM_KAFKA__PROPERTIES__SASL_USERNAME", "me")
        .env("MOODSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD", SECRET)
        .env("MOODSTREAM_HTTP__PAGE", "posts")
        .env("MOODSTREAM_LOG__LEVEL", "trace")
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut seen = Vec::new();
    let mut check_pages = |readiness: &str| {
        wait_for(readiness, || {
            service.get("/ready").is_some_and(|page| page.contains(readiness))
        });
        for path in ["/metrics", "/ready", "/live", "/"] {
            let page = service.get(path).unwrap();
            assert!(
                !page.contains(SECRET),
                "{path} shows a secret when {readiness:?}: {page}"
            );
            seen.push(page);
        }
    };
    check_pages("HTTP/1.1 200");
    // Without its database the service reports the error at the next flush.
    bench.postgres.crash().unwrap();
    let record = r#"{"id":"1","text":"what a happy day","created_at":"2026-03-01T12:00:00Z"}"#;
    bench.broker.produce("secrets", [(0, record.as_bytes())]);
    check_pages("database: ");
    bench.postgres.come_back().unwrap();
    check_pages("HTTP/1.1 200");
    terminate(&child);
    assert!(end_of(&mut child).success());
    assert!(seen.iter().any(|page| page.contains("moodstream_build_info")));
    let said = fs::read_to_string(log).unwrap();
    assert!(said.contains("TRACE") && !said.contains(SECRET));
}
