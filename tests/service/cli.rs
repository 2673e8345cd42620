//! The command line as a black box: output, exit codes, and one clear line for each error.

use std::{
    io::Write as _,
    process::{Output, Stdio},
};

use crate::support::{
    postgres::Postgres,
    service::{Bench, model, moodstream},
};
use serde_json::Value;

fn run(settings: &[(&str, &str)]) -> Output {
    let mut command = moodstream();
    command
        .arg("run")
        .env("MOODSTREAM_KAFKA__TOPICS", "posts")
        .env("MOODSTREAM_KAFKA__BROKERS", "127.0.0.1:1")
        .env("MOODSTREAM_MODEL__PATH", model())
        .env("MOODSTREAM_HTTP__LISTEN", "127.0.0.1:0")
        .env("MOODSTREAM_LOG__LEVEL", "off");
    for (name, value) in settings {
        command.env(name, value);
    }
    command.output().unwrap()
}

/// Asserts that standard error is one line that contains all of `words`, and checks the exit code.
fn assert_fails(output: &Output, code: i32, words: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    assert_eq!(output.status.code(), Some(code), "{error}");
}

#[test]
fn an_invalid_setting_is_named_and_exits_with_2() {
    assert_fails(
        &run(&[("MOODSTREAM_KAFKA__GRUOP", "x")]),
        2,
        &["MOODSTREAM_KAFKA__GRUOP", "MOODSTREAM_KAFKA__GROUP"],
    );
    assert_fails(
        &run(&[("MOODSTREAM_DATABASE_URL", "postgres://x")]),
        2,
        &["did you mean MOODSTREAM_DATABASE__URL?"],
    );
    assert_fails(
        &run(&[("MOODSTREAM_WINDOW__MAX_POSTS", "0")]),
        2,
        &["window.max_posts", "0"],
    );
    assert_fails(&run(&[("MOODSTREAM_MODEL__PROVIDER", "tpu")]), 2, &["tpu"]);
    assert_fails(
        &run(&[("MOODSTREAM_KAFKA__PROPERTIES__ENABLE_AUTO_COMMIT", "true")]),
        2,
        &["enable.auto.commit"],
    );
    let output = moodstream()
        .args(["run", "--config", "/nowhere.toml"])
        .output()
        .unwrap();
    assert_fails(&output, 2, &["/nowhere.toml"]);
}

#[test]
fn settings_that_only_librdkafka_refuses_exit_with_2() {
    let protocol = ("MOODSTREAM_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "tls");
    assert_fails(&run(&[protocol]), 2, &["security.protocol", "tls"]);
    let authority = ("MOODSTREAM_KAFKA__PROPERTIES__SSL_CA_LOCATION", "/nowhere");
    let protocol_ssl = ("MOODSTREAM_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "ssl");
    assert_fails(
        &run(&[authority, protocol_ssl]),
        2,
        &["ssl.ca.location", "does the file exist"],
    );
    let output = moodstream()
        .args(["feed", "/dev/null", "--topic", "posts"])
        .env(protocol.0, protocol.1)
        .output()
        .unwrap();
    assert_fails(&output, 2, &["security.protocol"]);
    let output = moodstream()
        .args(["check", "--topics", "posts"])
        .env(protocol.0, protocol.1)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.starts_with("! settings  model.path") || text.contains("security.protocol"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_missing_model_is_named() {
    let output = run(&[("MOODSTREAM_MODEL__PATH", "/nowhere")]);
    assert_fails(&output, 1, &["/nowhere"]);
}

#[test]
fn an_unavailable_provider_is_an_error_without_fallback() {
    assert_fails(&run(&[("MOODSTREAM_MODEL__PROVIDER", "cuda")]), 1, &["cuda"]);
}

#[test]
fn database_errors_name_the_cause_without_the_password() {
    let unreachable = run(&[(
        "MOODSTREAM_DATABASE__URL",
        "postgres://someone:hunter2@127.0.0.1:1/moods",
    )]);
    assert_fails(&unreachable, 1, &["database"]);
    assert!(!String::from_utf8_lossy(&unreachable.stderr).contains("hunter2"));

    let postgres = Postgres::start().unwrap();
    let database = postgres.database().unwrap();
    postgres.execute("CREATE ROLE nobody_much LOGIN").unwrap();
    let denied = database.replace("postgres@", "nobody_much@");
    assert_fails(
        &run(&[("MOODSTREAM_DATABASE__URL", &denied)]),
        1,
        &["permission denied"],
    );
}

#[test]
fn until_caught_up_names_an_unreachable_broker() {
    let postgres = Postgres::start().unwrap();
    let output = moodstream()
        .args([
            "run",
            "--until-caught-up",
            "--topics",
            "posts",
            "--brokers",
            "127.0.0.1:1",
            "--log-level",
            "off",
            "--listen",
            "127.0.0.1:0",
        ])
        .env("MOODSTREAM_MODEL__PATH", model())
        .env("MOODSTREAM_DATABASE__URL", postgres.database().unwrap())
        .output()
        .unwrap();
    assert_fails(&output, 1, &["127.0.0.1:1"]);
}

#[test]
fn check_prints_a_line_for_each_component() {
    let postgres = Postgres::start().unwrap();
    let output = moodstream()
        .args(["check", "--topics", "posts", "--brokers", "127.0.0.1:1"])
        .env("MOODSTREAM_MODEL__PATH", model())
        .env("MOODSTREAM_DATABASE__URL", postgres.database().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[0].starts_with("+ settings") && lines[1].starts_with("+ model"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("! broker") && lines[3].starts_with("+ database"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// `check` reports what would stall the service later.
#[test]
fn check_reports_missing_rights_and_offsets_that_would_be_quarantined() {
    let mut bench = Bench::start();
    let texts = |count: usize| -> Vec<Vec<u8>> { (0..count).map(|n| format!("the sea {n}").into_bytes()).collect() };
    bench.feed(&texts(10), "posts", 1);
    let service = bench.service("posts");
    service.run_until_caught_up();
    let check = |url: &str| {
        let mut command = service.command_of("check");
        command
            .env_remove("MOODSTREAM_HTTP__LISTEN")
            .env("MOODSTREAM_DATABASE__URL", url);
        let output = command.stdout(Stdio::piped()).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, text) = check(&service.url);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("+ offsets   ok: 1 partitions have an offset, 0 records behind"),
        "{text}"
    );

    let database = service.url.rsplit('/').next().unwrap();
    let mut psql = bench.postgres.client("psql").unwrap();
    let made = psql
        .args(["--username", "postgres", "--dbname", database, "--command"])
        .arg(
            "CREATE ROLE weak LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO weak; GRANT INSERT ON post TO weak",
        )
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (code, text) = check(&service.url.replace("postgres@", "weak@"));
    assert_eq!(code, Some(1), "{text}");
    let line = text.lines().find(|line| line.starts_with("! database")).unwrap();
    assert!(
        line.contains("DELETE on post") && line.contains("UPDATE on consumer_offset"),
        "{line}"
    );
    assert!(!line.contains("INSERT on post,"), "{line}");

    bench.broker.restart();
    bench.feed(&texts(3), "posts", 1);
    let (code, text) = check(&service.url);
    assert_eq!(code, Some(1), "{text}");
    let line = text.lines().find(|line| line.starts_with("! offsets")).unwrap();
    assert!(
        line.contains("posts/0: the offset 10 is beyond the last record, 3"),
        "{line}"
    );
}

#[test]
fn classifies_texts_from_arguments_and_from_standard_input() {
    let output = moodstream()
        .args(["classify", "i am so happy today!", "--log-level", "off"])
        .env("MOODSTREAM_MODEL__PATH", model())
        .output()
        .unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["emotion"], "joy", "{line}");
    let sum: f64 = line["scores"]
        .as_object()
        .unwrap()
        .values()
        .map(|score| score.as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-4, "{line}");

    let mut child = moodstream()
        .args(["classify", "-"])
        .env("MOODSTREAM_MODEL__PATH", model())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"this makes me furious\nwhat a day\n\xff\xfe\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .count(),
        3
    );
}

#[test]
fn migrating_twice_succeeds() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    for _ in 0..2 {
        let output = moodstream()
            .arg("migrate")
            .env("MOODSTREAM_DATABASE__URL", &url)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Returns what `moodstream COMMAND` writes to standard output and standard error, and its exit code.
fn output_of(command: &[&str], url: &str) -> (String, Option<i32>) {
    let output = moodstream()
        .args(command)
        .env("MOODSTREAM_DATABASE__URL", url)
        .env("MOODSTREAM_MODEL__PATH", model())
        .env("MOODSTREAM_KAFKA__BROKERS", "127.0.0.1:1")
        .env("MOODSTREAM_KAFKA__TOPICS", "posts")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    (text.concat(), output.status.code())
}

#[test]
fn a_newer_schema_is_left_unchanged_or_refused() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    assert_eq!(output_of(&["migrate"], &url).1, Some(0));
    let sql = |sql: &str| {
        let psql = postgres
            .client("psql")
            .unwrap()
            .args(["-qc", sql, &url])
            .output()
            .unwrap();
        assert!(psql.status.success(), "{}", String::from_utf8_lossy(&psql.stderr));
    };
    sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9001, 'later', true, '', 0);
         INSERT INTO schema_compat (version, min_writer) VALUES (9001, 1)");
    let (text, code) = output_of(&["migrate"], &url);
    assert!(
        code == Some(0) && text.contains("at version 9001, newer than this program's"),
        "{text}"
    );
    let (text, _) = output_of(&["check"], &url);
    assert!(
        text.contains("+ database  ok: the schema is at version 9001") && text.contains("it may write to it"),
        "{text}"
    );

    sql("UPDATE schema_compat SET min_writer = 9001 WHERE version = 9001");
    for command in ["migrate", "check", "run"] {
        let (text, code) = output_of(&[command], &url);
        assert!(
            code == Some(1) && text.contains("the schema requires programs of schema version 9001 or later"),
            "{command}: {text}"
        );
    }
}
