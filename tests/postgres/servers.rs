//! Servers that the service refuses to work with, and poolers that it accepts or refuses.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use moodstream::store::{Schema, Store, StoreErrorKind};

use crate::support::{
    postgres::Postgres,
    store::{cluster, options},
};

async fn refused(url: &str) -> String {
    let error = Store::connect(&options(url)).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Settings, "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_read_only_database_is_refused() {
    let url = cluster().database().unwrap();
    let name = url.rsplit('/').next().unwrap();
    cluster()
        .execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .unwrap();
    assert!(refused(&url).await.contains("default_transaction_read_only"));
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    cluster()
        .execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        .unwrap();
    let error = refused(&cluster().url("latin")).await;
    assert!(error.contains("LATIN1") && error.contains("ENCODING 'UTF8'"), "{error}");
}

#[tokio::test]
async fn a_standby_is_refused() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    Store::connect(&options(&url)).await.unwrap().close().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let data: String = sqlx::query_scalar("SHOW data_directory")
        .fetch_one(&pool)
        .await
        .unwrap();
    pool.close().await;
    postgres.crash().unwrap();
    let signal = Path::new(&data).join("standby.signal");
    fs::write(&signal, "").unwrap();
    postgres.give(&signal).unwrap();
    postgres.come_back().unwrap();
    assert!(refused(&url).await.contains("a standby"));
}

/// A PgBouncer in front of the cluster; killed when dropped.
struct Pooler {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Pooler {
    /// Starts it; `None` if PgBouncer is not installed.
    fn start(settings: &str) -> Option<Self> {
        let runtime = env::var_os("MOODSTREAM_RUNTIME")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime"), PathBuf::from);
        let unpacked = runtime.join("pgbouncer/usr/sbin/pgbouncer");
        let on_path = env::split_paths(&env::var_os("PATH")?)
            .chain(["/usr/sbin".into()])
            .map(|folder| folder.join("pgbouncer"))
            .find(|path| path.is_file());
        let Some(binary) = unpacked.is_file().then_some(unpacked).or(on_path) else {
            println!("skipped: there is no pgbouncer; deploy/setup --tests fetches it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        // If started as root, it switches to another user, who must be able to read its files.
        cluster().give(folder.path()).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = folder.path().join("pgbouncer.ini");
        let user = if rustix::process::getuid().is_root() {
            "user = nobody"
        } else {
            ""
        };
        fs::write(
            &config,
            format!(
                "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = any\n{user}\n{settings}\n",
                cluster().port(),
            ),
        )
        .unwrap();
        let libraries: Vec<PathBuf> = fs::read_dir(runtime.join("pgbouncer/usr/lib"))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        let process = Command::new(binary)
            .arg("-q")
            .arg(&config)
            .env("LD_LIBRARY_PATH", env::join_paths(libraries).unwrap())
            .spawn()
            .unwrap();
        let pooler = Self {
            process,
            port,
            _folder: folder,
        };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "PgBouncer is not listening");
            thread::yield_now();
        }
        Some(pooler)
    }

    fn url(&self) -> String {
        let direct = cluster().database().unwrap();
        direct.replace(&format!(":{}/", cluster().port()), &format!(":{}/", self.port))
    }
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_is_refused() {
    for pool in [
        "default_pool_size = 2",
        "default_pool_size = 1",
        "default_pool_size = 5\nserver_round_robin = 1",
    ] {
        let Some(pooler) = Pooler::start(&format!("pool_mode = transaction\n{pool}")) else {
            return;
        };
        let url = pooler.url();
        for _ in 0..3 {
            let error = refused(&url).await;
            assert!(error.contains("pool_mode = session"), "{pool}: {error}");
        }
    }
}

#[tokio::test]
async fn a_pooler_that_keeps_sessions_is_accepted() {
    let Some(pooler) = Pooler::start("pool_mode = session\ndefault_pool_size = 20") else {
        return;
    };
    let store = Store::connect(&options(&pooler.url())).await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.schema().await.unwrap(), Schema::Current);
}
