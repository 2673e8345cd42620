//! A proxy on loopback in front of Postgres or the broker, into which tests inject faults.

// Each test binary includes this module and uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What happens to the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    Never,
    /// The connection is closed before the commit reaches the server.
    Before,
    /// The connection is closed after the commit, and its response is lost.
    After,
    /// The commit does not reach the server. From then on nothing is forwarded on any connection, and none is closed.
    SilentBefore,
    /// The same, but the commit reaches the server.
    SilentAfter,
    /// The same, but the commit's response also reaches the client.
    SilentAnswered,
}

pub struct Proxy {
    pub port: u16,
    faults: Arc<Faults>,
}

struct Faults {
    server: AtomicU16,
    cut: AtomicU8,
    delay_ms: AtomicU64,
    /// Whether the service's Produce requests to Kafka close their connection.
    no_produce: AtomicBool,
    /// Whether all bytes are discarded silently.
    silent: watch::Sender<bool>,
    /// How many times something was discarded.
    swallowed: AtomicU64,
}

impl Faults {
    fn swallow(&self) -> bool {
        let silent = *self.silent.borrow();
        self.swallowed.fetch_add(u64::from(silent), Ordering::SeqCst);
        silent
    }

    /// While the proxy is silent, a connection closed on one side stays open on the other.
    async fn keep_open(&self) {
        let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
    }
}

impl Proxy {
    /// Listens in front of the server at this port. Must be called within a tokio runtime.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults {
            server: AtomicU16::new(server),
            cut: AtomicU8::new(Cut::Never as u8),
            delay_ms: AtomicU64::new(0),
            no_produce: AtomicBool::new(false),
            silent: watch::Sender::new(false),
            swallowed: AtomicU64::new(0),
        });
        tokio::spawn(accept(listener, Arc::clone(&faults)));
        Self { port, faults }
    }

    /// Forwards new connections to another port.
    pub fn lead_to(&self, server: u16) {
        self.faults.server.store(server, Ordering::SeqCst);
    }

    /// Sets what happens to the next COMMIT.
    pub fn cut(&self, cut: Cut) {
        self.faults.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// Whether a cut is still to come.
    pub fn cuts(&self) -> bool {
        self.faults.cut.load(Ordering::SeqCst) != Cut::Never as u8
    }

    /// Whether the proxy has been silent and has discarded something.
    pub fn has_swallowed(&self) -> bool {
        self.faults.swallowed.load(Ordering::SeqCst) > 0
    }

    /// Ends a silence: bytes are forwarded again. Discarded bytes are lost.
    pub fn speak(&self) {
        self.faults.silent.send_replace(false);
    }

    /// Delays everything that is forwarded by this much.
    pub fn delay(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap();
        self.faults.delay_ms.store(millis, Ordering::SeqCst);
    }

    /// Refuses the service's Produce requests to Kafka, or accepts them again.
    pub fn refuse_produce(&self, refuse: bool) {
        self.faults.no_produce.store(refuse, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, faults: Arc<Faults>) {
    while let Ok((client, _)) = listener.accept().await {
        let faults = Arc::clone(&faults);
        tokio::spawn(async move {
            let server = ("127.0.0.1", faults.server.load(Ordering::SeqCst));
            let Ok(server) = TcpStream::connect(server).await else {
                return;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            relay(client, server, &faults).await;
        });
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, faults: &Faults) {
    let (mut from_client, mut from_server) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut requests = Requests::default();
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(n @ 1..) = read else { return faults.keep_open().await };
                if faults.swallow() {
                    continue;
                }
                slow(faults).await;
                let produces = requests.produce_among(&from_client[..n]);
                if produces && faults.no_produce.load(Ordering::SeqCst) {
                    return;
                }
                let commit = from_client[..n].windows(6).any(|window| window == b"COMMIT");
                let armed = if commit { faults.cut.swap(Cut::Never as u8, Ordering::SeqCst) } else { Cut::Never as u8 };
                if armed == Cut::Before as u8 {
                    return;
                }
                if armed == Cut::SilentBefore as u8 {
                    faults.silent.send_replace(true);
                    continue;
                }
                if server.write_all(&from_client[..n]).await.is_err() {
                    return;
                }
                if armed == Cut::After as u8 {
                    // Waits for the response, which shows that the commit is done, and drops it.
                    let _ = server.read(&mut from_server).await;
                    return;
                }
                if armed == Cut::SilentAnswered as u8 {
                    let Ok(n @ 1..) = server.read(&mut from_server).await else { return };
                    // Set before the response is forwarded, because nothing after it may pass.
                    faults.silent.send_replace(true);
                    let _ = client.write_all(&from_server[..n]).await;
                } else if armed == Cut::SilentAfter as u8 {
                    faults.silent.send_replace(true);
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(n @ 1..) = read else { return faults.keep_open().await };
                if faults.swallow() {
                    continue;
                }
                slow(faults).await;
                if client.write_all(&from_server[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Injects the delay.
async fn slow(faults: &Faults) {
    let delay = faults.delay_ms.load(Ordering::SeqCst);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
}

/// Finds the service's Produce requests in a stream of Kafka requests. A Postgres stream has none.
///
/// A request is its length (4 bytes), API key (2), version (2), correlation id (4) and client id (length of 2, text).
#[derive(Default)]
struct Requests {
    head: Vec<u8>,
    /// Bytes of the request that are still to come.
    rest: usize,
}

impl Requests {
    const CLIENT: &'static [u8] = b"moodstream";

    fn produce_among(&mut self, mut bytes: &[u8]) -> bool {
        const PRODUCE: [u8; 2] = [0, 0];
        const HEAD: usize = 14;
        let mut found = false;
        while let Some((&first, others)) = bytes.split_first() {
            if self.rest > 0 {
                let passed = self.rest.min(bytes.len());
                self.rest -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.head.push(first);
            bytes = others;
            if self.head.len() < HEAD {
                continue;
            }
            let name = usize::try_from(i16::from_be_bytes([self.head[12], self.head[13]])).unwrap_or(0);
            let length = u32::from_be_bytes([self.head[0], self.head[1], self.head[2], self.head[3]]);
            let whole = 4 + length as usize;
            if self.head.len() < (HEAD + name).min(whole) {
                continue;
            }
            found |= self.head[4..6] == PRODUCE && self.head[HEAD..] == *Self::CLIENT;
            self.rest = whole.saturating_sub(self.head.len());
            self.head.clear();
        }
        found
    }
}
