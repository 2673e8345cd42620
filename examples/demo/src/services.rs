//! The throwaway broker and PostgreSQL, on free loopback ports.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use sqlx::{Connection, PgConnection};
use tokio::net::TcpStream;

use super::process::{Job, Running, Scratch};

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(40);

/// A loopback address that was free a moment ago.
pub(super) fn free_address() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("no free port on 127.0.0.1")
}

/// Starts the broker, which keeps its topics in memory.
pub(super) async fn start_broker(runtime: &Path, scratch: &Scratch) -> Result<(Running, SocketAddr)> {
    let address = free_address()?;
    let url = format!("tcp://{address}");
    let mut broker = Job::new("broker", runtime.join("bin/tansu"))
        .args([
            "broker",
            "--storage-engine",
            "memory://tansu/",
            "--listener-url",
            &url,
            "--advertised-listener-url",
            &url,
        ])
        .start(scratch)?;
    let started = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        broker.check()?;
        if started.elapsed() > START_LIMIT {
            bail!(
                "the broker does not answer on {address} after {} s",
                START_LIMIT.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
    Ok((broker, address))
}

/// Creates and starts a cluster with one database. The returned URL contains the password.
pub(super) async fn start_postgres(runtime: &Path, scratch: &Scratch) -> Result<(Running, String)> {
    // The link may be in a folder that only root can enter; `deploy/setup` makes sure that its target is not.
    let install = runtime
        .join("pg")
        .canonicalize()
        .with_context(|| format!("there is no PostgreSQL in {}: run `make setup`", runtime.display()))?;
    let data = scratch.unprivileged_folder("postgres")?;
    // A password is needed, as other users of this machine can reach the port too.
    let password = format!("{:016x}", RandomState::new().hash_one("password"));
    let password_file = scratch.unprivileged_secret("postgres.password", &password)?;
    let cluster = data.join("cluster");
    Job::new("initdb", install.join("bin/initdb"))
        .unprivileged()
        .args([
            "--username=moodstream",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-sync",
        ])
        .args(["--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8"])
        .arg_path("--pwfile", &password_file)
        .arg_path("--pgdata", &cluster)
        .run(scratch)
        .await?;
    fs::remove_file(&password_file).context("the password file can't be removed")?;

    let address = free_address()?;
    let mut postgres = Job::new("postgres", install.join("bin/postgres"))
        .unprivileged()
        .stops_on_interrupt()
        .arg_path("-D", &cluster)
        // The data is discarded with the demo, so it need not survive a power cut.
        .args(["-c", "fsync=off", "-c", "full_page_writes=off"])
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
        .args(["-c".to_owned(), format!("port={}", address.port())])
        .start(scratch)?;

    let server = format!("postgres://moodstream:{password}@{address}");
    let started = Instant::now();
    let mut connection = loop {
        match PgConnection::connect(&format!("{server}/postgres")).await {
            Ok(connection) => break connection,
            Err(error) => {
                postgres.check()?;
                if started.elapsed() > START_LIMIT {
                    return Err(error).context(format!("PostgreSQL does not answer on {address}"));
                }
            }
        }
        tokio::time::sleep(POLL).await;
    };
    sqlx::query("CREATE DATABASE moodstream")
        .execute(&mut connection)
        .await
        .context("the database can't be created")?;
    connection
        .close()
        .await
        .context("the connection to PostgreSQL failed")?;
    Ok((postgres, format!("{server}/moodstream")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_servers_start_and_leave_nothing_behind() {
        let runtime = std::env::var_os("MOODSTREAM_RUNTIME").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime"),
            std::path::PathBuf::from,
        );
        let scratch = Scratch::new().unwrap();
        let folder = scratch.path("");
        let (broker, brokers) = start_broker(&runtime, &scratch).await.unwrap();
        let (postgres, url) = start_postgres(&runtime, &scratch).await.unwrap();

        let mut connection = PgConnection::connect(&url).await.unwrap();
        let sorted: Vec<String> = sqlx::query_scalar("SELECT t FROM unnest(ARRAY['é', 'z', 'A']) t ORDER BY t")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        assert_eq!(
            sorted,
            ["A", "z", "é"],
            "the order must be by code point on every machine"
        );
        let wrong = url.replacen("moodstream:", "moodstream:x", 1);
        assert!(
            PgConnection::connect(&wrong).await.is_err(),
            "a wrong password was accepted"
        );

        // A connected client does not delay the shutdown.
        postgres.stop(START_LIMIT).await;
        broker.stop(START_LIMIT).await;
        assert!(sqlx::query("SELECT 1").execute(&mut connection).await.is_err());
        assert!(TcpStream::connect(brokers).is_err());
        scratch.close().unwrap();
        assert!(!folder.exists());
    }
}
