//! All statements go through a pooled connection that is closed when the server falls silent.
//!
//! The server's own timeouts don't help once it disappears without closing the connection: its host lost power, or a
//! firewall dropped the connection. What was sent is acknowledged, so TCP has nothing to retransmit and never notices,
//! and the driver would wait for an answer forever.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::task::AtomicWaker;
use sqlx::{PgConnection, Postgres, pool::PoolConnection};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::{
    Store,
    error::{StoreError, StoreErrorKind},
};

impl Store {
    /// Runs `work` on a connection of the pool; see [`Self::with`].
    pub(super) async fn run<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.with(doing, work).await?.map_err(StoreError::when(doing))
    }

    /// Runs `work` on a connection of the pool. All statements except those of migrations and grants go through here.
    ///
    /// # Errors
    /// If the server is silent for longer than [`super::StoreOptions::patience`], the work is dropped, its connection is
    /// closed, and an error of the kind [`StoreErrorKind::Unreachable`] is returned. As with any broken connection, it is then not
    /// known whether a commit took place.
    pub(super) async fn with<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> T,
    ) -> Result<T, StoreError> {
        let patience = self.options.patience();
        let mut bounded = BoundedConnection {
            connection: self.pool.acquire().await.map_err(StoreError::when(doing))?,
            patience,
            broken: false,
        };
        if let Some(done) = unless_silent(patience, work(&mut bounded.connection)).await {
            return Ok(done);
        }
        bounded.broken = true;
        let seconds = patience.unwrap_or_default().as_secs();
        let why = format!("the server has been silent for {seconds} s: closing the connection");
        Err(StoreError::new(StoreErrorKind::Unreachable, doing, why))
    }
}

/// A connection that is returned to the pool when dropped, or closed if it is broken.
struct BoundedConnection {
    connection: PoolConnection<Postgres>,
    patience: Option<Duration>,
    broken: bool,
}

impl Drop for BoundedConnection {
    fn drop(&mut self) {
        if self.broken {
            self.connection.close_on_drop();
        } else if let Ok(runtime) = Handle::try_current() {
            // Its own drop would ping the server first, without a timeout: a server that falls silent at that moment would
            // take a slot of the pool forever.
            runtime.spawn(unless_silent(self.patience, self.connection.return_to_pool()));
        }
    }
}

/// The output of `work`, or `None` if nothing woke it for this long. Such work waits only for its connection, so each wake
/// means that bytes came from the server or went out to it.
async fn unless_silent<F: Future>(patience: Option<Duration>, work: F) -> Option<F::Output> {
    let Some(patience) = patience else {
        return Some(work.await);
    };
    let stir = Arc::new(Stir {
        stirred: AtomicBool::new(true),
        task: AtomicWaker::new(),
    });
    let waker = Waker::from(Arc::clone(&stir));
    let (mut work, mut silence) = (pin!(work), pin!(sleep(patience)));
    poll_fn(|context| {
        stir.task.register(context.waker());
        if stir.stirred.swap(false, Ordering::AcqRel) {
            if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(Some(done));
            }
            silence.as_mut().reset(Instant::now() + patience);
        }
        silence.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// Tells whether the work itself woke the task, or something else that the same task waits for.
struct Stir {
    stirred: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Stir {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.stirred.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn silence_ends_the_work_and_received_bytes_prolong_it() {
        let (mut server, mut client) = duplex(1);
        let begun = Instant::now();
        let server = async move {
            for _ in 0..6 {
                tokio::time::sleep(PATIENCE / 2).await;
                let _ = server.write_u8(0).await;
            }
            server
        };
        let mut heard = 0_u32;
        let (ended, _server) = tokio::join!(
            unless_silent(Some(PATIENCE), async {
                while client.read_u8().await.is_ok() {
                    heard += 1;
                }
            }),
            server
        );
        assert_eq!((ended, heard), (None, 6));
        assert!(begun.elapsed() >= PATIENCE * 4, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn other_wakeups_of_the_task_do_not_count_as_progress() {
        let mut ticks = tokio::time::interval(PATIENCE / 10);
        let mut work = pin!(unless_silent(Some(PATIENCE), std::future::pending::<()>()));
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                _ = ticks.tick() => {}
            }
        };
        assert_eq!(ended, None);
    }

    #[tokio::test]
    async fn finished_work_returns_its_output() {
        assert_eq!(unless_silent(Some(Duration::ZERO), async { 7 }).await, Some(7));
        assert_eq!(unless_silent(None, async { 7 }).await, Some(7));
    }
}
