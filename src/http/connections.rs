//! The connections of the HTTP server, each within limits: whoever sends nothing, takes nothing or comes in crowds costs
//! a bounded number of sockets and a bounded amount of memory.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
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

/// Connections at once; one more is closed as soon as it is accepted. The live page takes 32 of them at most.
pub const MAX_CONNECTIONS: usize = 128;
/// How long a request's head may take, and how long a connection may wait for the next.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take nothing of what it is sent.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
/// The most header fields of a request.
pub const MAX_HEADERS: usize = 64;

/// Serves until `stop`, and then ends what is under way. A client may take nothing for as long as `stall`.
pub(super) async fn serve(listener: TcpListener, router: Router, stall: Duration, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
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
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            if let Err(error) = answer(socket, router, stall, stop).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(
    socket: TcpStream,
    router: Router,
    stall: Duration,
    stop: CancellationToken,
) -> Result<(), hyper::Error> {
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(stall));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let connection = http.serve_connection(TokioIo::new(Box::pin(socket)), TowerToHyperService::new(router));
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

    /// Serves an answer without end; the second is alone as long as nobody is being answered.
    async fn endless() -> (SocketAddr, Arc<()>, CancellationToken) {
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
        tokio::spawn(serve(listener, router, STALL, stop.clone()));
        (address, answered, stop)
    }

    async fn ask(address: SocketAddr) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // It has begun.
        client.read_u8().await.unwrap();
        client
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_let_go() {
        let (address, answered, _stop) = endless().await;
        let begun = Instant::now();
        // The route has one, each answer another.
        let client = ask(address).await;
        assert_eq!(Arc::strong_count(&answered), 3);
        while Arc::strong_count(&answered) > 2 {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is held for ever");
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() >= STALL, "{:?}", begun.elapsed());
        drop(client);
    }

    #[tokio::test]
    async fn a_client_that_goes_on_taking_is_served_for_longer_than_it_may_take_nothing() {
        let (address, answered, _stop) = endless().await;
        let (mut client, begun) = (ask(address).await, Instant::now());
        let mut taken = [0; 4_096];
        while begun.elapsed() < 3 * STALL {
            client.read_exact(&mut taken).await.unwrap();
        }
        assert_eq!(Arc::strong_count(&answered), 3);
    }
}
