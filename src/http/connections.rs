//! Serves connections within limits, so that idle, slow and too many clients cost a bounded number of sockets and a bounded amount
//! of memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use hyper::{server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::sync::lock;

/// The maximum number of connections. A further one replaces the oldest that has sent no request yet, so that idle clients can't
/// block probes and scrapes; if there is none, it is closed. The live page uses at most 32 of them.
pub const MAX_CONNECTIONS: usize = 128;
/// How long a request's head may take. A connection serves one request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may read nothing of a response.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum size of a request's head, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
/// The maximum number of a request's header fields.
pub const MAX_HEADERS: usize = 64;

/// The connections that have sent no request yet, the oldest first.
#[derive(Clone, Default)]
struct IdleConnections(Arc<Mutex<BTreeMap<u64, CancellationToken>>>);

impl IdleConnections {
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<u64, CancellationToken>) -> T) -> T {
        change(&mut lock(&self.0))
    }

    /// Ends the oldest connection. Returns whether there was one.
    fn end_oldest(&self) -> bool {
        self.change(|idle| idle.pop_first().map(|(_, ended)| ended.cancel()).is_some())
    }
}

/// Serves until `stop`, and then finishes the current responses. A client that reads nothing for longer than `stall` is
/// disconnected.
pub(super) async fn serve(listener: TcpListener, router: Router, stall: Duration, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let idle = IdleConnections::default();
    for number in 0_u64.. {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                // Out of file descriptors, most likely: the loop must not spin until one is free.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let slot = match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) => slot,
            // The connection that was ended frees its slot at once.
            Err(_) if idle.end_oldest() => match Arc::clone(&slots).acquire_owned().await {
                Ok(slot) => slot,
                Err(_) => break,
            },
            Err(_) => continue,
        };
        let ended = CancellationToken::new();
        idle.change(|idle| idle.insert(number, ended.clone()));
        let (router, stop, idle) = (router.clone(), stop.clone(), idle.clone());
        connections.spawn(async move {
            let requested = {
                let idle = idle.clone();
                move || drop(idle.change(|idle| idle.remove(&number)))
            };
            tokio::select! {
                served = serve_connection(socket, router, requested, stall, stop) => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection ended early");
                    }
                }
                () = ended.cancelled() => {}
            }
            idle.change(|idle| idle.remove(&number));
            drop(slot);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(
    socket: TcpStream,
    router: Router,
    requested: impl Fn() + Send + 'static,
    stall: Duration,
    stop: CancellationToken,
) -> Result<(), hyper::Error> {
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(stall));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |request| {
        requested();
        router.call(request)
    });
    let connection = http.serve_connection(TokioIo::new(Box::pin(socket)), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{convert::Infallible, net::SocketAddr, time::Instant};

    use axum::{body::Body, routing::get};
    use futures::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const STALL: Duration = Duration::from_millis(300);

    /// Serves an endless response. Each response that is being sent holds a clone of the second value.
    async fn endless(stall: Duration) -> (SocketAddr, Arc<()>, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answered, stop) = (Arc::new(()), CancellationToken::new());
        let held = Arc::clone(&answered);
        let answer = move || {
            let held = Arc::clone(&held);
            async move {
                Body::from_stream(stream::repeat_with(move || {
                    let _ = &held;
                    Ok::<_, Infallible>(bytes::Bytes::from_static(&[b'x'; 1 << 14]))
                }))
            }
        };
        let router = Router::new().route("/", get(answer));
        tokio::spawn(serve(listener, router, stall, stop.clone()));
        (address, answered, stop)
    }

    async fn ask(address: SocketAddr) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // The response has begun.
        client.read_u8().await.unwrap();
        client
    }

    #[tokio::test]
    async fn idle_clients_can_not_keep_others_out() {
        let (address, _answered, _stop) = endless(WRITE_TIMEOUT).await;
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        // Those that have sent a request keep their connections.
        let mut served = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            served.push(ask(address).await);
        }
        let mut more = TcpStream::connect(address).await.unwrap();
        let _ = more.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(more.read_u8().await.is_err());
        for client in &mut served {
            client.read_u8().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_disconnected() {
        let (address, answered, _stop) = endless(STALL).await;
        let begun = Instant::now();
        // The route has one, each response another.
        let client = ask(address).await;
        assert_eq!(Arc::strong_count(&answered), 3);
        while Arc::strong_count(&answered) > 2 {
            assert!(begun.elapsed() < Duration::from_secs(20), "still connected");
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() >= STALL, "{:?}", begun.elapsed());
        drop(client);
    }

    #[tokio::test]
    async fn a_client_that_continues_to_read_is_served_for_longer_than_the_write_timeout() {
        let (address, answered, _stop) = endless(STALL).await;
        let (mut client, begun) = (ask(address).await, Instant::now());
        let mut buffer = [0; 4_096];
        while begun.elapsed() < 3 * STALL {
            client.read_exact(&mut buffer).await.unwrap();
        }
        assert_eq!(Arc::strong_count(&answered), 3);
    }
}
