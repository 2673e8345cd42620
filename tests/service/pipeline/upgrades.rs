//! Rolling upgrades: `/ready` says what to do, in which order. See docs/upgrades.md.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn ready_reports_an_older_schema_and_the_member_continues_after_the_migration() {
    let bench = Bench::start();
    bench.feed(&synthetic_stream(20), "older", 1);
    let settings = bench.write("older.toml", "[store]\nmigrate = false\n");
    let service = bench.service("older").with_config(&settings);
    let mut child = service.command().spawn().unwrap();
    let ready = || service.get("/ready").unwrap_or_default();
    wait_for("/ready to report the older schema", || {
        let ready = ready();
        ready.starts_with("HTTP/1.1 503")
            && ready.contains("the schema is older than this program")
            && ready.contains("run this version's `moodstream migrate`")
    });
    // With `--until-caught-up` it fails instead of waiting.
    let output = service
        .another_member()
        .command()
        .arg("--until-caught-up")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("run this version's `moodstream migrate`"));

    assert!(
        service
            .command_of("migrate")
            .env_remove("MOODSTREAM_HTTP__LISTEN")
            .status()
            .unwrap()
            .success()
    );
    wait_for("readiness", || ready().starts_with("HTTP/1.1 200"));
    wait_for("posts", || number_now(&service.url, "SELECT count(*) FROM post") > 0);
    assert!(!ready().contains("note:"), "a note about a schema of the same version");
    terminate(&child);
    assert!(end_of(&mut child).success());

    // Later a newer version migrates the schema and lets this one continue.
    let mut connection = PgConnection::connect(&service.url).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9001, 'later', true, '', 0); INSERT INTO schema_compat (version, min_writer) VALUES (9001, 1)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let mut child = service.command().spawn().unwrap();
    wait_for("/ready to report the newer schema", || {
        let ready = ready();
        ready.starts_with("HTTP/1.1 200")
            && ready.contains("note: database: the schema is at version 9001, newer than this program's")
            && ready.contains("replace this member")
    });
    terminate(&child);
    assert!(end_of(&mut child).success());
}

#[test]
fn a_member_that_waits_for_a_migration_stops_on_sigterm() {
    let bench = Bench::start();
    let settings = bench.write("waits.toml", "[store]\nmigrate = false\n");
    let service = bench.service("waits").with_config(&settings);
    let mut child = service.command().spawn().unwrap();
    wait_for("/ready to report the older schema", || {
        service
            .get("/ready")
            .is_some_and(|ready| ready.contains("the schema is older"))
    });
    terminate(&child);
    assert!(end_of(&mut child).success());
}
