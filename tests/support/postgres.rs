//! A throwaway Postgres cluster on a free loopback port, in a temporary folder. It is removed when the process that started
//! it has ended, even if that was killed.
//!
//! Uses only the standard library and `tempfile`, so that tests, benches and examples can include it by path.
#![allow(dead_code, unreachable_pub)]

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long a cluster may take to accept connections, even on a slow machine under load.
const STARTUP: Duration = Duration::from_secs(60);

/// Words in the log that mean that the server will not start.
const FAILED: [&str; 3] = ["initdb: error", "database system is shut down", "not found"];

/// Creates the cluster and runs the server. Its standard input is closed when the process that started it has ended, killed
/// or not; it then stops the server and removes the files.
///
/// SIGQUIT is Postgres's immediate shutdown. SIGTERM to the whole process group ends an `initdb` that still runs, and the
/// traps keep the supervisor itself alive. While a file `down` exists, the server stays down. A file `ended` means that it
/// has exited, which is later than its port closes.
const SUPERVISOR: &str = r#"
bin=$1 folder=$2
shift 2
trap : TERM
{
  trap : TERM
  "$bin/initdb" --auth=trust --username=postgres --encoding=UTF8 --locale=C --no-sync -D "$folder/data" || exit
  until [ -e "$folder/end" ]; do
    rm -f "$folder/ended"
    "$bin/postgres" -D "$folder/data" "$@"
    [ -e "$folder/down" ] || break
    : >"$folder/ended"
    while [ -e "$folder/down" ] && [ ! -e "$folder/end" ]; do sleep 0.02; done
  done
} >"$folder/log" 2>&1 </dev/null &
server=$!
cat >/dev/null
: >"$folder/end"
kill -QUIT $(head -n 1 "$folder/data/postmaster.pid") 2>/dev/null
kill -TERM 0
wait $server
rm -rf "$folder"
"#;

/// A running cluster.
#[derive(Debug)]
pub struct Postgres {
    supervisor: Child,
    folder: PathBuf,
    port: u16,
    databases: AtomicU32,
}

impl Postgres {
    /// Creates a cluster and waits until it accepts connections.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[])
    }

    /// The same with settings for the server, such as `max_connections=20`.
    pub fn start_with(settings: &[&str]) -> io::Result<Self> {
        let bin = find_bin()?;
        // Another process may take the port before the server binds it.
        let mut tries = 0;
        loop {
            match Self::start_at(&bin, free_port()?, settings) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < 5 => tries += 1,
                other => return other,
            }
        }
    }

    fn start_at(bin: &Path, port: u16, more: &[&str]) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("moodstream-pg-").tempdir()?;
        let user = unprivileged_user()?;
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let port_setting = format!("port={port}");
        // The data need not survive a crash of the machine.
        let settings = [
            &port_setting,
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=100",
            "shared_buffers=128MB",
            "max_wal_size=4GB",
            "fsync=off",
            "full_page_writes=off",
        ];
        let folder = folder.keep();
        let supervisor = as_user(Command::new("/bin/sh"), user)
            .args(["-c", SUPERVISOR, "postgres-supervisor"])
            .args([bin, &folder])
            .args(settings.iter().chain(more).flat_map(|setting| ["-c", setting]))
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C in a terminal then reaches only this process, and the supervisor can stop the server cleanly.
            .process_group(0)
            .spawn()?;
        let cluster = Self {
            supervisor,
            folder,
            port,
            databases: AtomicU32::new(0),
        };
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// Stops the server immediately, like a crash, and keeps it down until [`Self::come_back`].
    pub fn crash(&self) -> io::Result<()> {
        fs::write(self.folder.join("down"), "")?;
        let pid = fs::read_to_string(self.folder.join("data/postmaster.pid"))?;
        let pid = pid.lines().next().unwrap_or_default();
        Command::new("kill").args(["-QUIT", pid]).status()?;
        let deadline = Instant::now() + STARTUP;
        while !self.folder.join("ended").exists() {
            if Instant::now() > deadline {
                return Err(io::Error::other("postgres did not stop"));
            }
            pause();
        }
        Ok(())
    }

    /// Starts the server again after [`Self::crash`] and waits until it accepts connections.
    pub fn come_back(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join("down"))?;
        let deadline = Instant::now() + STARTUP;
        while let Err(error) = execute(self.port, "SELECT 1") {
            if Instant::now() > deadline {
                return Err(error);
            }
            pause();
        }
        Ok(())
    }

    fn wait_ready(&self) -> io::Result<()> {
        let log = self.folder.join("log");
        let deadline = Instant::now() + STARTUP;
        loop {
            let Err(error) = execute(self.port, "SELECT 1") else {
                return Ok(());
            };
            let log = fs::read_to_string(&log).unwrap_or_default();
            if log.contains("could not bind") {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process took the port",
                ));
            }
            if Instant::now() > deadline || FAILED.iter().any(|sign| log.contains(sign)) {
                return Err(io::Error::other(format!("postgres did not start: {error}; log: {log}")));
            }
            pause();
        }
    }

    /// Changes the owner of a file or folder to the server's user.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        match unprivileged_user()? {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates an empty database and returns its URL.
    pub fn database(&self) -> io::Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name}"))?;
        Ok(self.url(&name))
    }

    /// The URL of a database in this cluster.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A client program of the same release, such as `psql`, set up to connect to this cluster as superuser.
    pub fn client(&self, program: &str) -> io::Result<Command> {
        let mut command = Command::new(find_bin()?.join(program));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres");
        Ok(command)
    }

    /// Executes one statement as the superuser in the database `postgres`.
    pub fn execute(&self, sql: &str) -> io::Result<()> {
        execute(self.port, sql)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

#[allow(clippy::disallowed_methods)] // between two checks of a condition
fn pause() {
    thread::sleep(Duration::from_millis(20));
}

fn as_user(mut command: Command, user: Option<(u32, u32)>) -> Command {
    // Setting the user also drops root's supplementary groups.
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// The user to run the server as, because Postgres refuses to run as root. `None` if this process is not root.
fn unprivileged_user() -> io::Result<Option<(u32, u32)>> {
    let me = tempfile::tempfile()?;
    if std::os::unix::fs::MetadataExt::uid(&me.metadata()?) != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody")).map(Some).ok_or_else(|| {
        io::Error::other("postgres does not run as root, and /etc/passwd has neither postgres nor nobody")
    })
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The folder with `initdb` and `postgres`.
fn find_bin() -> io::Result<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(bin) = env::var_os("MOODSTREAM_PG_BIN") {
        folders.push(bin.into());
    } else {
        let runtime = env::var_os("MOODSTREAM_RUNTIME")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime"), PathBuf::from);
        folders.push(runtime.join("pg/bin"));
        folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
        // Debian does not put the server's programs on PATH.
        let mut debian: Vec<_> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path().join("bin"))
            .collect();
        debian.sort();
        folders.extend(debian.into_iter().rev());
    }
    let found = folders
        .iter()
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file());
    match found {
        Some(folder) => folder.canonicalize(),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no initdb and postgres in $MOODSTREAM_PG_BIN, .runtime/pg/bin or PATH: run `make setup`",
        )),
    }
}

/// Executes one statement with the wire protocol's simple query, as superuser without a password:
/// <https://www.postgresql.org/docs/current/protocol-flow.html>.
fn execute(port: u16, sql: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(STARTUP))?;
    let startup = b"\x00\x03\x00\x00user\0postgres\0database\0postgres\0\0";
    stream.write_all(&framed(None, startup))?;
    until_ready(&mut stream)?;
    stream.write_all(&framed(Some(b'Q'), format!("{sql}\0").as_bytes()))?;
    until_ready(&mut stream)?;
    stream.write_all(&framed(Some(b'X'), b""))
}

fn framed(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    kind.into_iter()
        .chain(length.to_be_bytes())
        .chain(body.iter().copied())
        .collect()
}

/// Reads messages up to ReadyForQuery; an ErrorResponse is returned as an error.
fn until_ready(stream: &mut TcpStream) -> io::Result<()> {
    let mut failure = None;
    loop {
        let mut head = [0; 5];
        if let Err(error) = stream.read_exact(&mut head) {
            return Err(failure.unwrap_or(error));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]).saturating_sub(4);
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body)?;
        match head[0] {
            b'E' => failure = Some(io::Error::other(String::from_utf8_lossy(&body).replace('\0', " "))),
            b'Z' => return failure.map_or(Ok(()), Err),
            _ => {}
        }
    }
}
