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

/// Serves until `stop`, and then ends what is under way.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
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
            if let Err(error) = answer(socket, router, stop).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(socket: TcpStream, router: Router, stop: CancellationToken) -> Result<(), hyper::Error> {
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(WRITE_TIMEOUT));
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
