//! TLS to Postgres and to Kafka, with the real binary. The servers that `deploy/setup` installs run without TLS, so a proxy
//! terminates it in front of them.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use sqlx::{Connection as _, PgConnection};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::support::{
    broker::Broker,
    service::{Bench, Service, moodstream},
};

pub(super) const SECRET: &str = "hunter2hunter2";

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A proxy that accepts only TLS, with a certificate for 127.0.0.1.
pub(super) struct Proxy {
    /// Bound, but not listening until the server behind it is running.
    socket: TcpSocket,
    acceptor: TlsAcceptor,
    pub(super) ca: String,
}

impl Proxy {
    pub(super) fn bind() -> Self {
        let issuer = authority("the servers' authority");
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self {
            socket,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca: issuer.pem(),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// Forwards each connection to the port `target`, after `greet` and a TLS handshake. Returns the number of handshakes.
    pub(super) fn serve<G>(self, target: u16, greet: fn(TcpStream) -> G) -> Arc<AtomicUsize>
    where
        G: Future<Output = Option<TcpStream>> + Send + 'static,
    {
        let handshakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handshakes);
        let listener = self.socket.listen(64).unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, count) = (self.acceptor.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let socket = greet(socket).await?;
                    let mut client = acceptor.accept(socket).await.ok()?;
                    count.fetch_add(1, Ordering::Relaxed);
                    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await.ok()?;
                    copy_bidirectional(&mut client, &mut server).await.ok()
                });
            }
        });
        handshakes
    }
}

/// Answers Postgres's SSLRequest. Clients that don't send one get the error of `hostnossl all all all reject`:
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>.
async fn ssl_request(mut socket: TcpStream) -> Option<TcpStream> {
    let length = socket.read_u32().await.ok()?;
    let mut body = vec![0; (length as usize).checked_sub(4)?];
    socket.read_exact(&mut body).await.ok()?;
    if body == 80_877_103_u32.to_be_bytes() {
        socket.write_all(b"S").await.ok()?;
        return Some(socket);
    }
    let fields = b"SFATAL\0VFATAL\0C28000\0Mpg_hba.conf rejects connection, no encryption\0\0";
    socket.write_all(b"E").await.ok()?;
    socket.write_u32(fields.len() as u32 + 4).await.ok()?;
    socket.write_all(fields).await.ok()?;
    None
}

pub(super) fn posts() -> Vec<Vec<u8>> {
    let post = |n| {
        format!(
            "{{\"id\":\"{n}\",\"text\":\"what a happy day\",\"lang\":\"en\",\"created_at\":\"2026-03-01T12:00:00Z\"}}"
        )
    };
    (0..5).map(|n| post(n).into_bytes()).collect()
}

/// Runs `moodstream feed` on the file `posts` with the settings in `config`.
pub(super) fn feed(bench: &Bench, topic: &str, config: &Path, posts: &Path) -> Output {
    moodstream()
        .args([
            "feed",
            "--topic",
            topic,
            "--create-partitions",
            "1",
            "--brokers",
            &bench.broker.address(),
        ])
        .arg("--config")
        .arg(config)
        .arg(posts)
        .output()
        .unwrap()
}

/// Runs the service. Returns its output, and the last line of standard error.
pub(super) fn run(service: &Service) -> (Output, String) {
    let output = service
        .command()
        .arg("--until-caught-up")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default().to_owned();
    (output, last)
}

/// Asserts that the program exited with status 1, that `line` is a single line which contains `words` once, and that no
/// output contains the secret.
pub(super) fn assert_refused(output: &Output, line: &[u8], words: &str) {
    let line = String::from_utf8_lossy(line);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert_eq!(
        (line.trim_end().lines().count(), line.matches(words).count()),
        (1, 1),
        "{line}"
    );
    let said = [&*output.stdout, &*output.stderr].concat();
    assert!(!String::from_utf8_lossy(&said).contains(SECRET), "{line}");
}

/// Creates the role `guarded`, which needs a password, and its database. Returns the database's name.
async fn guarded_database(bench: &Bench) -> String {
    let plain = bench.postgres.database().unwrap();
    let name = plain.rsplit('/').next().unwrap();
    let hba = "COPY (VALUES ('host all guarded all scram-sha-256'), ('host all all all trust')) TO PROGRAM 'cat > pg_hba.conf'";
    for sql in [
        &format!("CREATE ROLE guarded LOGIN PASSWORD '{SECRET}'"),
        &format!("ALTER DATABASE {name} OWNER TO guarded"),
        hba,
        "SELECT pg_reload_conf()",
    ] {
        bench.postgres.execute(sql).unwrap();
    }
    let without = plain.replace("postgres@", "guarded@");
    while PgConnection::connect(&without).await.is_ok() {
        tokio::task::yield_now().await;
    }
    name.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_only_used_with_a_valid_certificate() {
    let bench = Bench::start();
    let database = guarded_database(&bench).await;
    let proxy = Proxy::bind();
    let address = format!("127.0.0.1:{}", proxy.port());
    let own = format!("127.0.0.1:{}", bench.postgres.port());
    let ca = bench.write("ca.pem", &proxy.ca);
    let wrong_ca = bench.write("wrong.pem", authority("somebody else").pem());
    let handshakes = proxy.serve(bench.postgres.port(), ssl_request);
    let url = |password: &str, address: &str, query: &str| {
        format!("postgres://guarded:{password}@{address}/{database}?{query}")
    };
    let verified = |ca: &PathBuf| format!("sslmode=verify-full&sslrootcert={}", ca.display());

    bench.feed(&posts(), "tls", 1);
    let service = bench.service("tls").with_url(&url(SECRET, &address, &verified(&ca)));
    let summary = service.run_until_caught_up();
    assert_eq!(summary["inserted"].as_u64(), Some(5), "{summary}");
    assert!(handshakes.load(Ordering::Relaxed) > 0);

    let other_name = address.replace("127.0.0.1", "localhost");
    for (url, words) in [
        (url(SECRET, &address, &verified(&wrong_ca)), "invalid peer certificate"),
        (url(SECRET, &other_name, &verified(&ca)), "invalid peer certificate"),
        (url("wrong", &address, &verified(&ca)), "password authentication failed"),
        (url(SECRET, &address, "sslmode=disable"), "no encryption"),
        // The server without TLS.
        (url(SECRET, &own, "sslmode=require"), "server does not support TLS"),
    ] {
        let mut migrate = moodstream();
        let output = migrate
            .arg("migrate")
            .env("MOODSTREAM_DATABASE__URL", url)
            .output()
            .unwrap();
        assert_refused(&output, &output.stderr, words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_only_used_with_a_valid_certificate() {
    let proxy = Proxy::bind();
    let bench = Bench::with_broker(Broker::start_behind(Some(proxy.port())));
    let ca = bench.write("ca.pem", &proxy.ca);
    let wrong_ca = bench.write("wrong.pem", authority("somebody else").pem());
    let settings = |name: &str, ca: &PathBuf| {
        let properties = format!("\"security.protocol\" = \"ssl\"\n\"ssl.ca.location\" = {ca:?}\n");
        bench.write(name, format!("[kafka.properties]\n{properties}"))
    };
    let (right, wrong) = (settings("right.toml", &ca), settings("wrong.toml", &wrong_ca));
    let handshakes = proxy.serve(bench.broker.port(), |socket| std::future::ready(Some(socket)));
    let posts = bench.write("posts.jsonl", posts().join(&b'\n'));
    let feed = |config: &PathBuf| feed(&bench, "tls", config, &posts);

    let output = feed(&wrong);
    assert_refused(&output, &output.stderr, "certificate verify failed");
    assert_eq!(handshakes.load(Ordering::Relaxed), 0);
    let output = feed(&right);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let service = bench.service("tls");
    let summary = service.with_config(&right).run_until_caught_up();
    assert_eq!(summary["inserted"].as_u64(), Some(5), "{summary}");
    assert!(handshakes.load(Ordering::Relaxed) > 0);

    let (output, last) = run(&service.with_config(&wrong));
    assert_refused(&output, last.as_bytes(), "certificate verify failed");
}
