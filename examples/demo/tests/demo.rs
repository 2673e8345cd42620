//! `moodstream-demo` as a new user sees it: on a terminal, and without one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use regex::Regex;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(180);

/// The project's folder.
fn root() -> &'static Path {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    folder.unwrap()
}

/// The demo without this process's settings, and with the ONNX Runtime of `deploy/setup`.
fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moodstream-demo"));
    for (name, _) in std::env::vars() {
        if name.starts_with("MOODSTREAM_") && name.contains("__") {
            command.env_remove(name);
        }
    }
    let library = root().join(".runtime/lib/libonnxruntime.so");
    if std::env::var_os("ORT_DYLIB_PATH").is_none() && library.exists() {
        command.env("ORT_DYLIB_PATH", library);
    }
    // As `make demo` runs it: the links that it shows are relative to this folder.
    command.current_dir(root());
    command
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        pause();
    }
}

#[allow(clippy::disallowed_methods)] // between two checks of a condition
fn pause() {
    thread::sleep(Duration::from_millis(10));
}

fn end_of(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_for("the process to end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// The folder in which `deploy/setup` installed the broker and PostgreSQL.
fn runtime() -> String {
    std::env::var("MOODSTREAM_RUNTIME").unwrap_or_else(|_| root().join(".runtime").display().to_string())
}

#[test]
fn without_a_terminal_it_prints_the_summary_and_exits() {
    let output = demo()
        .args(["--posts", "200", "--runtime", &runtime()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!said.contains('\u{1b}'), "escapes without a terminal");
    for needle in [
        "Emotions by minute",
        "Every record accounted for",
        "SELECT bucket",
        "With your own Kafka and Postgres",
        "MOODSTREAM_DATABASE__URL=",
    ] {
        assert!(said.contains(needle), "{needle:?} is missing in\n{said}");
    }
    assert!(
        !said.contains("live page  http"),
        "a link to a stopped service:\n{said}"
    );
}

/// The demo on a terminal that `script` provides, and its output.
struct Terminal {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    fn start() -> Self {
        let program = demo().get_program().to_string_lossy().into_owned();
        let line = format!("exec '{program}' --posts 300 --runtime '{}'", runtime());
        let mut command = Command::new("script");
        for (name, value) in demo().get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command
            .current_dir(root())
            .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env_remove("CI")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("needs `script` of bsdutils or util-linux");
        let (mut stdout, seen) = (child.stdout.take().unwrap(), Arc::new(Mutex::new(String::new())));
        let into = Arc::clone(&seen);
        thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, seen }
    }

    /// The lines of the output, without colours.
    fn lines(&self) -> Vec<String> {
        let escapes = Regex::new("\u{1b}\\[[0-9;?]*[A-Za-z]").unwrap();
        let seen = self.seen.lock().unwrap();
        let plain = escapes.replace_all(&seen, "");
        plain
            .split(['\r', '\n'])
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(url: &str) -> String {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET /{path} HTTP/1.0\r\nhost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_its_link_and_queries_work() {
    let mut terminal = Terminal::start();
    wait_for("the live posts", || {
        assert!(
            terminal.child.try_wait().unwrap().is_none(),
            "{}",
            terminal.lines().join("\n")
        );
        terminal
            .lines()
            .iter()
            .any(|line| line.starts_with("Posts keep coming"))
    });
    let lines = terminal.lines();
    let after = |label: &str| {
        let line = lines
            .iter()
            .find(|line| line.starts_with(label))
            .unwrap_or_else(|| panic!("no {label}: {lines:#?}"));
        line[label.len()..].trim().to_owned()
    };

    let page = get(&after("live page"));
    assert!(
        page.starts_with("HTTP/1.1 200") || page.starts_with("HTTP/1.0 200"),
        "{page}"
    );
    assert!(
        page.contains("<title>moodstream</title>") && page.contains("page.js"),
        "{page}"
    );

    let psql = after("SQL");
    let (program, url) = psql.rsplit_once(' ').unwrap();
    assert!(
        root().join(program).exists() || std::path::Path::new(program).exists(),
        "{program}"
    );
    let mut connection = PgConnection::connect(url).await.unwrap();
    let questions: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("SELECT ") && line.ends_with(';'))
        .collect();
    assert_eq!(questions.len(), 3, "{lines:#?}");
    for question in questions {
        let rows = sqlx::raw_sql(AssertSqlSafe(question.clone()))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        assert!(!rows.is_empty() && !rows[0].is_empty(), "no answer to {question}");
    }
    connection.close().await.unwrap();

    // Ctrl-C, as the terminal sends it.
    terminal.child.stdin.take().unwrap().write_all(b"\x03").unwrap();
    assert!(end_of(&mut terminal.child).success(), "{:#?}", terminal.lines());
    assert!(
        terminal.lines().last().is_some_and(|line| line.starts_with("Stopped")),
        "{:#?}",
        terminal.lines()
    );
}
