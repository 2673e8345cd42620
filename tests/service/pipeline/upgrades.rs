//! A new version is rolled out: `/ready` says what is to be done, in which order. See docs/upgrades.md.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn ready_says_that_the_schema_is_older_and_the_member_goes_on_once_it_is_migrated() {
    let bench = Bench::start();
    bench.feed(&own_stream(20), "older", 1);
    let settings = bench.write("older.toml", "[store]\nmigrate = false\n");
    let service = bench.service("older").with_config(&settings);
    let mut child = service.command().spawn().unwrap();
    let ready = || service.get("/ready").unwrap_or_default();
    wait_for("the word that the schema is older", || {
        let ready = ready();
        ready.starts_with("HTTP/1.1 503")
            && ready.contains("the schema is older than this program")
            && ready.contains("run this version's `moodstream migrate`")
    });
    // One that ends by itself waits for nobody.
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
    assert!(!ready().contains("note:"), "the schema is its own");
    terminate(&child);
    assert!(end_of(&mut child).success());

    // Later a newer version migrates, and lets this one go on.
    let mut connection = PgConnection::connect(&service.url).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9001, 'later', true, '', 0); INSERT INTO schema_compat (version, min_writer) VALUES (9001, 1)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let mut child = service.command().spawn().unwrap();
    wait_for("the word that the schema is newer", || {
        let ready = ready();
        ready.starts_with("HTTP/1.1 200")
            && ready.contains("note: database: the schema is at version 9001, newer than this program's")
            && ready.contains("replace this member")
    });
    terminate(&child);
    assert!(end_of(&mut child).success());
}

/// It waits for somebody, but not for ever.
#[test]
fn a_member_that_waits_for_a_migration_ends_when_it_is_told_to() {
    let bench = Bench::start();
    let settings = bench.write("waits.toml", "[store]\nmigrate = false\n");
    let service = bench.service("waits").with_config(&settings);
    let mut child = service.command().spawn().unwrap();
    wait_for("the word that the schema is older", || {
        service
            .get("/ready")
            .is_some_and(|ready| ready.contains("the schema is older"))
    });
    terminate(&child);
    assert!(end_of(&mut child).success());
}
