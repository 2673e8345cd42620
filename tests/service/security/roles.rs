//! The database roles: owner, service and reader.

use std::process::Output;

use moodstream::store::{SERVICE_FUNCTIONS, SERVICE_PRIVILEGES};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::support::service::{Bench, end_of, moodstream, terminate, wait_for};

/// Creates the three roles, and a database that belongs to the first. Returns its URL as superuser.
fn roles(bench: &Bench) -> String {
    for role in ["moodstream_owner", "moodstream_service", "moodstream_read"] {
        bench.postgres.execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
    }
    let url = bench.postgres.database().unwrap();
    let name = url.rsplit('/').next().unwrap();
    bench
        .postgres
        .execute(&format!("ALTER DATABASE {name} OWNER TO moodstream_owner"))
        .unwrap();
    url
}

fn url_as(url: &str, role: &str) -> String {
    url.replace("postgres@", &format!("{role}@"))
}

fn migrate(url: &str, arguments: &[&str]) -> Output {
    moodstream()
        .arg("migrate")
        .args(arguments)
        .env("MOODSTREAM_DATABASE__URL", url)
        .output()
        .unwrap()
}

fn migrate_as_owner(url: &str) {
    let arguments = ["--service-role", "moodstream_service", "--read-role", "moodstream_read"];
    let output = migrate(&url_as(url, "moodstream_owner"), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn connect(url: &str, role: &str) -> PgConnection {
    PgConnection::connect(&url_as(url, role)).await.unwrap()
}

/// Executes a statement and rolls it back. Returns the SQLSTATE if it fails.
pub(super) async fn refused(connection: &mut PgConnection, sql: &str) -> Option<String> {
    let mut tx = connection.begin().await.unwrap();
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await;
    tx.rollback().await.unwrap();
    match done {
        Ok(_) => None,
        Err(sqlx::Error::Database(error)) => Some(error.code().unwrap_or_default().into_owned()),
        Err(other) => panic!("{sql}: {other}"),
    }
}

pub(super) const DENIED: &str = "42501";

/// Statements that alter the schema or exceed the service's rights.
pub(super) const ALTERATIONS: &[&str] = &[
    "CREATE TABLE mine (a int)",
    "CREATE VIEW mine AS SELECT 1 AS a",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "ALTER TABLE post ADD COLUMN a int",
    "ALTER TABLE post OWNER TO moodstream_service",
    "ALTER TABLE post_key DISABLE TRIGGER ALL",
    "DROP TABLE post",
    "DROP TABLE consumer_offset",
    "DROP VIEW emotion_by_minute",
    "DROP FUNCTION add_partition",
    "ALTER FUNCTION add_partition RESET search_path",
    "CREATE INDEX ON post (lang)",
    "CREATE TRIGGER t BEFORE INSERT ON post FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE r AS ON INSERT TO post_key DO INSTEAD NOTHING",
    "TRUNCATE post",
    "TRUNCATE consumer_tally",
    "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, '', true, '', 0)",
    "DELETE FROM _sqlx_migrations",
    "UPDATE post SET text = ''",
    "DELETE FROM consumer_offset",
    "SET ROLE moodstream_owner",
    "COPY post TO PROGRAM 'cat'",
    "SELECT pg_read_file('postgresql.conf')",
];

pub(super) fn feed_days(bench: &Bench, topic: &str) -> usize {
    let record = |(n, day): (usize, &str)| {
        format!("{{\"id\":\"{n}\",\"text\":\"what a happy day\",\"lang\":\"en\",\"created_at\":\"{day}T12:00:00Z\"}}")
    };
    // Days long past, which have no partitions yet.
    let days = ["2019-07-01", "2019-07-02", "2020-02-29", "2021-12-31"];
    let records: Vec<Vec<u8>> = days
        .into_iter()
        .enumerate()
        .map(|post| record(post).into_bytes())
        .collect();
    bench.feed(&records, topic, 2);
    records.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_works_without_rights_to_alter_the_schema() {
    let bench = Bench::start();
    let url = roles(&bench);
    migrate_as_owner(&url);
    let posts = feed_days(&bench, "least");
    let service = bench.service("least").with_url(&url_as(&url, "moodstream_service"));
    let summary = service.run_until_caught_up();
    assert_eq!(summary["inserted"].as_u64(), Some(posts as u64), "{summary}");

    let made: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relname IN ('post_2019', 'emotion_rollup_2019', 'post_2021')",
    )
    .fetch_one(&mut connect(&url, "moodstream_owner").await)
    .await
    .unwrap();
    assert_eq!(made, 3);

    // Retention drops those days and their keys.
    let config = bench.write("retention.toml", "[store]\nmigrate = false\nretention_days = 2\n");
    service.with_config(&config).run_until_caught_up();
    let mut owner = connect(&url, "moodstream_owner").await;
    let left: i64 = sqlx::query_scalar("SELECT (SELECT count(*) FROM post) + (SELECT count(*) FROM post_key)")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(left, 0);
    let old: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relname IN ('post_2019', 'emotion_rollup_2019', 'post_2021')",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert_eq!(old, 0);

    let mut connection = connect(&url, "moodstream_service").await;
    for alteration in ALTERATIONS {
        let code = refused(&mut connection, alteration).await;
        assert_eq!(code.as_deref(), Some(DENIED), "{alteration}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_s_functions_only_create_and_drop_partitions() {
    let bench = Bench::start();
    let url = roles(&bench);
    migrate_as_owner(&url);
    let mut service = connect(&url, "moodstream_service").await;
    for misuse in [
        "SELECT add_partition('post', '2019; DROP TABLE post', '2019-07-01', '2019-07-02')",
        "SELECT add_partition('post', NULL, '2019-07-01', '2019-07-02')",
        "SELECT add_partition('post_key', '20190701', '2019-07-01', '2019-07-02')",
        "SELECT add_partition('pg_class', '20190701', '2019-07-01', '2019-07-02')",
        "SELECT add_partition('post', '20190701', '2019-07-02', '2019-07-01')",
        "SELECT add_partition('post', '20190701', '-infinity', 'infinity')",
        "SELECT add_partition('post', '20190701', NULL, '2019-07-02')",
        "SELECT add_partition('post', '20190701', '2019-07-01', '2019-07-02', 0)",
    ] {
        assert_eq!(
            refused(&mut service, misuse).await.as_deref(),
            Some("22023"),
            "{misuse}"
        );
    }
    for nothing in [
        "SELECT drop_partition('post', 'key')",
        "SELECT drop_partition('consumer', 'offset')",
        "SELECT drop_partition('emotion', 'rollup')",
        "SELECT drop_partition('post', '19000101')",
        "SELECT drop_partition(NULL, NULL)",
    ] {
        let dropped: bool = sqlx::query_scalar(nothing).fetch_one(&mut service).await.unwrap();
        assert!(!dropped, "{nothing}");
    }
    // The function ignores the caller's own table, although it comes first in the caller's search_path.
    sqlx::raw_sql("CREATE TEMPORARY TABLE post (created_at timestamptz) PARTITION BY RANGE (created_at)")
        .execute(&mut service)
        .await
        .unwrap();
    let made: bool = sqlx::query_scalar("SELECT add_partition('post', '20190701', '2019-07-01', '2019-07-02')")
        .fetch_one(&mut service)
        .await
        .unwrap();
    let parent: String = sqlx::query_scalar(
        "SELECT inhparent::regclass::text || ' ' || c.relowner::regrole FROM pg_inherits
         JOIN pg_class c ON c.oid = inhrelid WHERE c.relname = 'post_20190701'",
    )
    .fetch_one(&mut connect(&url, "moodstream_owner").await)
    .await
    .unwrap();
    assert!(made);
    assert_eq!(parent, "post moodstream_owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_role_reads_everything_and_changes_nothing() {
    let bench = Bench::start();
    let url = roles(&bench);
    migrate_as_owner(&url);
    feed_days(&bench, "read");
    let service = bench.service("read").with_url(&url_as(&url, "moodstream_service"));
    service.run_until_caught_up();

    let mut read = connect(&url, "moodstream_read").await;
    let relations: Vec<String> = sqlx::query_scalar(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
         AND relkind IN ('r', 'p', 'v', 'm')",
    )
    .fetch_all(&mut read)
    .await
    .unwrap();
    assert!(relations.iter().any(|name| name == "post_2019"), "{relations:?}");
    for relation in &relations {
        assert_eq!(
            refused(&mut read, &format!("SELECT * FROM {relation} LIMIT 1")).await,
            None,
            "{relation}"
        );
        for change in [
            format!("DELETE FROM {relation}"),
            format!("INSERT INTO {relation} DEFAULT VALUES"),
        ] {
            let code = refused(&mut read, &change).await;
            // An aggregating view refuses changes before rights are checked.
            assert!(matches!(code.as_deref(), Some(DENIED | "55000")), "{change}: {code:?}");
        }
    }
    for alteration in ALTERATIONS.iter().chain(&[
        "SELECT add_partition('post', '20190703', '2019-07-03', '2019-07-04')",
        "SELECT drop_partition('post', '20190701')",
        "SELECT * FROM post FOR UPDATE",
    ]) {
        let code = refused(&mut read, alteration).await;
        assert_eq!(code.as_deref(), Some(DENIED), "{alteration}");
    }
    // Tables of later migrations are readable at once.
    let mut owner = connect(&url, "moodstream_owner").await;
    sqlx::raw_sql("CREATE TABLE later (a int)")
        .execute(&mut owner)
        .await
        .unwrap();
    assert_eq!(refused(&mut read, "SELECT * FROM later").await, None);
}

/// Like `check`, but the service keeps running, since rights can be granted meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_logged_at_startup() {
    let bench = Bench::start();
    let url = roles(&bench);
    migrate_as_owner(&url);
    feed_days(&bench, "lacks");
    let mut owner = connect(&url, "moodstream_owner").await;
    sqlx::raw_sql("REVOKE DELETE ON post FROM moodstream_service")
        .execute(&mut owner)
        .await
        .unwrap();
    let config = bench.write("lacks.toml", "[store]\nmigrate = false\n");
    let log = bench.write("lacks.log", "");
    let service = bench
        .service("lacks")
        .with_url(&url_as(&url, "moodstream_service"))
        .with_config(&config);
    let mut child = service
        .command()
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    wait_for("the warning", || {
        let said = std::fs::read_to_string(&log).unwrap();
        said.contains("the role lacks DELETE on post: grant it by `moodstream migrate --service-role`")
    });
    terminate(&child);
    assert!(end_of(&mut child).success());
}

/// Checks the two roles' rights on every table, view and function, including those that later migrations add.
#[tokio::test(flavor = "multi_thread")]
async fn the_roles_have_exactly_the_intended_rights() {
    let bench = Bench::start();
    let url = roles(&bench);
    migrate_as_owner(&url);
    let mut owner = connect(&url, "moodstream_owner").await;
    let rights: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT c.relname::text, r.rolname::text,
                coalesce((SELECT string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type)
                          FROM aclexplode(c.relacl) a WHERE a.grantee = r.oid), '')
         FROM pg_class c CROSS JOIN pg_roles r
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
           AND r.rolname IN ('moodstream_service', 'moodstream_read') ORDER BY 1, 2",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(rights.len() >= 2 * SERVICE_PRIVILEGES.len());
    for (relation, role, granted) in &rights {
        let writes = SERVICE_PRIVILEGES
            .iter()
            .find(|(name, _)| name == relation)
            .map_or("", |(_, rights)| rights);
        let mut intended: Vec<&str> = writes.split(", ").filter(|right| !right.is_empty()).collect();
        if role == "moodstream_read" {
            intended.clear();
        }
        intended.push("SELECT");
        intended.sort_unstable();
        assert_eq!(*granted, intended.join(", "), "{role} on {relation}");
    }
    for (name, _) in SERVICE_PRIVILEGES {
        assert!(
            rights.iter().any(|(relation, ..)| relation == name),
            "{name} is not a table"
        );
    }
    let functions: Vec<(String, bool, bool, bool, bool)> = sqlx::query_as(
        "SELECT p.proname::text, p.prosecdef, EXISTS (SELECT FROM unnest(p.proconfig) s WHERE s LIKE 'search_path=%, pg_temp'),
                has_function_privilege('moodstream_service', p.oid, 'EXECUTE'),
                has_function_privilege('moodstream_read', p.oid, 'EXECUTE')
         FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    for (name, definer, fixed_path, service, read) in functions {
        let for_service = SERVICE_FUNCTIONS.contains(&name.as_str());
        assert_eq!(definer, for_service, "SECURITY DEFINER of {name}");
        assert!(
            !definer || fixed_path,
            "{name} runs with the owner's rights under the caller's search_path"
        );
        assert!(service && read != for_service, "{name}: service {service}, read {read}");
    }
}

#[test]
fn a_role_that_cannot_be_limited_is_refused() {
    let bench = Bench::start();
    let url = roles(&bench);
    let owner = url_as(&url, "moodstream_owner");
    for (role, words) in [
        ("moodstream_nobody", "there is no role"),
        ("postgres", "superuser"),
        ("moodstream_owner", "owns the tables"),
        ("x'; DROP TABLE post; --", "there is no role"),
    ] {
        let output = migrate(&owner, &["--service-role", role]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(words) && error.lines().count() == 1, "{error}");
    }
    bench
        .postgres
        .execute("GRANT moodstream_owner TO moodstream_service")
        .unwrap();
    let output = migrate(&owner, &["--service-role", "moodstream_service"]);
    assert_eq!(output.status.code(), Some(1));
}
