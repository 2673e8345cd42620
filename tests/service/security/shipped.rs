//! The files in `deploy/` grant least privilege: the tests run their script, arguments and URLs with a real Postgres.

use std::{fs, process::Output};

use sqlx::{Connection as _, PgConnection};

use super::roles::{ALTERATIONS, DENIED, feed_days, refused};
use crate::support::service::{Bench, moodstream, root};

const PASSWORDS: [(&str, &str); 3] = [
    ("MOODSTREAM_OWNER_PASSWORD", "of-the-owner"),
    ("MOODSTREAM_SERVICE_PASSWORD", "of-the-service"),
    ("MOODSTREAM_READ_PASSWORD", "of-who-reads"),
];

fn deploy(file: &str) -> String {
    fs::read_to_string(root().join("deploy").join(file)).unwrap()
}

/// Runs the script that creates the roles, as the Postgres image runs its init scripts.
fn make_roles(bench: &Bench, passwords: &[(&str, &str)]) -> Output {
    let mut psql = bench.postgres.client("psql").unwrap();
    psql.args([
        "--set",
        "ON_ERROR_STOP=1",
        "--no-password",
        "--no-psqlrc",
        "--dbname",
        "postgres",
    ])
    .arg("--file")
    .arg(root().join("deploy/postgres/roles.sql"))
    .envs(passwords.iter().copied())
    .output()
    .unwrap()
}

/// Makes the cluster require passwords of the three roles.
async fn require_passwords(bench: &Bench) {
    let hba = "COPY (VALUES ('host all moodstream_owner,moodstream_service,moodstream_read all scram-sha-256'),
                            ('host all all all trust')) TO PROGRAM 'cat > pg_hba.conf'";
    bench.postgres.execute(hba).unwrap();
    bench.postgres.execute("SELECT pg_reload_conf()").unwrap();
    let without = bench
        .postgres
        .url("moodstream")
        .replace("postgres@", "moodstream_read@");
    while PgConnection::connect(&without).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// Returns the values of a key in the compose file, in order, with the variables from [`PASSWORDS`] and the address of the
/// bench's Postgres filled in.
fn values(bench: &Bench, name: &str) -> Vec<String> {
    let text = deploy("compose.yaml");
    let found = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    found
        .map(|value| {
            let at = format!("@127.0.0.1:{}/", bench.postgres.port());
            PASSWORDS
                .iter()
                .fold(value.replace("@postgres:5432/", &at), |value, (name, password)| {
                    value.replace(&format!("${{{name}:?set {name}}}"), password)
                })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_migrates_serves_and_reads_as_three_roles() {
    let bench = Bench::start();
    let output = make_roles(&bench, &PASSWORDS);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    require_passwords(&bench).await;

    let commands = values(&bench, "command");
    let command = commands
        .iter()
        .find(|command| command.starts_with("[migrate,"))
        .unwrap();
    let arguments: Vec<&str> = command.trim_matches(['[', ']']).split(", ").collect();
    let urls = values(&bench, "MOODSTREAM_DATABASE__URL");
    let [owner, service] = &urls[..] else {
        panic!("expected one URL to migrate and one to serve: {urls:?}");
    };
    let output = moodstream()
        .args(&arguments)
        .env("MOODSTREAM_DATABASE__URL", owner)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let posts = feed_days(&bench, "compose");
    let config = bench.write("compose.toml", "[store]\nmigrate = false\n");
    let summary = bench
        .service("compose")
        .with_url(service)
        .with_config(&config)
        .run_until_caught_up();
    assert_eq!(summary["inserted"].as_u64(), Some(posts as u64), "{summary}");

    let user = &values(&bench, "MOODSTREAM_POSTGRES_USER")[0];
    let password = &values(&bench, "MOODSTREAM_POSTGRES_PASSWORD")[0];
    let as_user = |password: &str| {
        let url = bench.postgres.url("moodstream");
        url.replace("postgres@", &format!("{user}:{password}@"))
    };
    let mut read = PgConnection::connect(&as_user(password)).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM post")
        .fetch_one(&mut read)
        .await
        .unwrap();
    assert_eq!(seen, posts as i64);
    let mut serving = PgConnection::connect(service).await.unwrap();
    for alteration in ALTERATIONS {
        for connection in [&mut read, &mut serving] {
            let code = refused(connection, alteration).await;
            assert_eq!(code.as_deref(), Some(DENIED), "{alteration}");
        }
    }
    for (_, other) in PASSWORDS.iter().filter(|(_, other)| other != password) {
        assert!(PgConnection::connect(&as_user(other)).await.is_err());
    }
    let too_much: Vec<String> = sqlx::query_scalar(
        "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'moodstream%'
         AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)",
    )
    .fetch_all(&mut read)
    .await
    .unwrap();
    assert_eq!(too_much, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_job_migrates_for_the_service() {
    let bench = Bench::start();
    assert!(make_roles(&bench, &PASSWORDS).status.success());
    // The settings in the ConfigMap.
    let manifest = deploy("kubernetes/moodstream.yaml");
    let settings: Vec<&str> = manifest
        .lines()
        .skip_while(|line| line.trim() != "moodstream.toml: |")
        .skip(1)
        .map_while(|line| line.strip_prefix("    "))
        .collect();
    let config = bench.write("moodstream.toml", settings.join("\n"));
    let url = |role: &str| {
        bench
            .postgres
            .url("moodstream")
            .replace("postgres@", &format!("{role}@"))
    };
    let migrate = |role: &str| {
        moodstream()
            .args(["migrate", "--config"])
            .arg(&config)
            .env("MOODSTREAM_DATABASE__URL", url(role))
            .output()
            .unwrap()
    };
    let output = migrate("moodstream_service");
    assert_eq!(
        output.status.code(),
        Some(1),
        "the service's role must not create tables"
    );
    let output = migrate("moodstream_owner");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let posts = feed_days(&bench, "kubernetes");
    let service = bench.service("kubernetes").with_url(&url("moodstream_service"));
    let summary = service.with_config(&config).run_until_caught_up();
    assert_eq!(summary["inserted"].as_u64(), Some(posts as u64), "{summary}");
}

/// Runs the lines at the top of the compose file that create the passwords.
#[test]
fn compose_passwords_are_created_once_and_survive_a_new_shell() {
    let compose = deploy("compose.yaml");
    let lines = compose.lines().map_while(|line| line.strip_prefix('#'));
    let script: Vec<&str> = lines
        .skip_while(|line| !line.contains("deploy/.env ]"))
        .take_while(|line| !line.contains("docker compose"))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("deploy")).unwrap();
    let file = folder.path().join("deploy/.env");
    let mut made = Vec::new();
    for _ in 0..2 {
        let shell = std::process::Command::new("sh")
            .args(["-euc", &script.join("\n")])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
        made.push(fs::read_to_string(&file).unwrap());
    }
    assert_eq!(made[0], made[1], "the second shell changed the passwords");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    for part in compose.split("${").skip(1) {
        let Some((name, _)) = part.split_once(":?") else {
            continue;
        };
        let value = made[0].lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        assert_eq!(value.map(str::len), Some(32), "{name}");
    }
}

/// Like the manifest's Job when Postgres starts after it.
#[test]
fn migrate_waits_for_postgres_up_to_wait_seconds() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let migrate = |seconds: &str| {
        let mut command = moodstream();
        command
            .args(["migrate", "--wait-seconds", seconds])
            .env(
                "MOODSTREAM_DATABASE__URL",
                format!("postgres://postgres@127.0.0.1:{port}/moodstream"),
            )
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let output = migrate("0").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "without waiting it must fail at once");

    let waiting = migrate("120");
    let bench = Bench::start();
    bench.postgres.execute("CREATE DATABASE moodstream").unwrap();
    let address = ("127.0.0.1", bench.postgres.port());
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        // The port that refused connections now leads to Postgres.
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, std::net::TcpStream::connect(address)) else {
                return;
            };
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    let output = waiting.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert!(words.starts_with("waiting for the database"), "{words}");
}

#[test]
fn no_role_is_created_without_its_password() {
    let bench = Bench::start();
    for (absent, _) in PASSWORDS {
        let passwords: Vec<_> = PASSWORDS.into_iter().filter(|(name, _)| *name != absent).collect();
        let output = make_roles(&bench, &passwords);
        assert!(!output.status.success(), "without {absent}");
        let drop = "DROP ROLE IF EXISTS moodstream_owner, moodstream_service, moodstream_read";
        bench.postgres.execute(drop).unwrap();
    }
}
