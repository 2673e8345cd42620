//! Sends frames to all clients. A frame takes one query, however many clients there are; without clients there is none.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    frame::{Figures, Frame, History, Process},
    source::Page,
};
use crate::store::{
    StoreErrorKind,
    live_page::{LivePageQuery, LivePageReader},
};

/// The shortest time from one frame to the next.
const TICK: Duration = Duration::from_secs(1);
/// At most one part in so many of the time is spent in queries for the page: after a slow query, even one that failed, the
/// next frame comes later.
const SHARE: u32 = 10;
/// The longest time from one frame to the next.
const LONGEST_TICK: Duration = Duration::from_secs(30);
/// The shortest pause between attempts while the database fails.
const RETRY: Duration = Duration::from_secs(2);
/// A client that reads no frame for this long is disconnected.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many minutes are shown, including the current one.
pub(super) const MINUTES: u16 = 30;
/// How many of the newest posts are shown.
pub(super) const POSTS: u16 = 20;
/// The maximum number of clients.
pub(super) const MAX_CLIENTS: usize = 32;

/// A frame as JSON.
pub(super) type EncodedFrame = Arc<str>;

/// Sends the newest frame to every client.
#[derive(Debug, Clone)]
pub(super) struct Broadcast {
    /// The newest frame. Slow clients skip frames.
    frames: watch::Sender<Option<EncodedFrame>>,
    slots: Arc<Semaphore>,
    /// Notified when a client connects.
    connected: Arc<Notify>,
    patience: Duration,
    stop: CancellationToken,
}

impl Broadcast {
    /// Starts the task that builds frames; it ends with `stop`.
    pub(super) fn start(page: Page, stop: CancellationToken) -> Self {
        let broadcast = Self {
            frames: watch::Sender::new(None),
            slots: Arc::new(Semaphore::new(MAX_CLIENTS)),
            connected: Arc::default(),
            patience: PATIENCE,
            stop,
        };
        tokio::spawn(broadcast.clone().run(page));
        broadcast
    }

    /// Frames for a client, until the receiver is dropped or the service stops. `None` if there are [`MAX_CLIENTS`] already.
    pub(super) fn subscribe(&self) -> Option<mpsc::Receiver<EncodedFrame>> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let (sender, receiver) = mpsc::channel(1);
        let frames = self.frames.subscribe();
        tokio::spawn(deliver(frames, sender, self.patience, slot, self.stop.clone()));
        self.connected.notify_one();
        Some(receiver)
    }

    async fn run(self, page: Page) {
        let mut builder = FrameBuilder::new(page);
        while !self.stop.is_cancelled() {
            if self.frames.receiver_count() == 0 {
                builder.reader.disconnect().await;
                // The next client must not get a frame from long ago.
                self.frames.send_replace(None);
                tokio::select! {
                    () = self.connected.notified() => continue,
                    () = self.stop.cancelled() => return,
                }
            }
            let (frame, pause) = builder.build().await;
            self.frames.send_replace(Some(frame));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

/// Sends frames to one client: the newest one whenever it is ready for one.
async fn deliver(
    mut frames: watch::Receiver<Option<EncodedFrame>>,
    sender: mpsc::Sender<EncodedFrame>,
    patience: Duration,
    slot: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    let delivering = async {
        loop {
            let newest = frames.borrow_and_update().clone();
            if let Some(frame) = newest
                && sender.send_timeout(frame, patience).await.is_err()
            {
                return;
            }
            if frames.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = delivering => {}
        () = sender.closed() => {}
        () = stop.cancelled() => {}
    }
    drop(slot);
}

/// Builds frames.
struct FrameBuilder {
    page: Page,
    query: LivePageQuery,
    reader: LivePageReader,
    history: History,
    /// The fault that was logged last.
    logged: Option<StoreErrorKind>,
}

impl FrameBuilder {
    fn new(page: Page) -> Self {
        Self {
            query: LivePageQuery {
                group: page.group.clone(),
                minutes: MINUTES,
                posts: if page.shows.posts() { POSTS } else { 0 },
            },
            reader: LivePageReader::new(&page.database),
            history: History::default(),
            logged: None,
            page,
        }
    }

    /// Returns the next frame, and the pause after it.
    async fn build(&mut self) -> (EncodedFrame, Duration) {
        let begun = Instant::now();
        let read = self.reader.read(&self.query).await;
        let rest = begun.elapsed() * (SHARE - 1);
        let (figures, fault, pause) = match read {
            Ok(data) => {
                if self.logged.take().is_some() {
                    tracing::info!("the live page can read the database again");
                }
                let figures = Figures::new(&self.page.group, data, &mut self.history);
                (Some(figures), None, rest.clamp(TICK, LONGEST_TICK))
            }
            Err(error) => {
                // Once for each kind, not at every attempt.
                if self.logged.replace(error.kind) != Some(error.kind) {
                    tracing::warn!(%error, "the live page can't read the database; retrying while it has clients");
                }
                (None, Some(describe(error.kind)), rest.clamp(RETRY, LONGEST_TICK))
            }
        };
        let process = Process::new(
            self.page.health.status().snapshot(),
            self.page.health.faults(),
            &mut self.history,
        );
        let frame = Frame {
            version: env!("CARGO_PKG_VERSION"),
            at: OffsetDateTime::now_utc().unix_timestamp(),
            figures,
            fault,
            process,
        };
        // It can't fail: a frame has only strings, numbers, lists and maps with string keys.
        (serde_json::to_string(&frame).unwrap_or_default().into(), pause)
    }
}

/// The page's message for a fault. Only the log has addresses and names.
const fn describe(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::Unreachable => "the database does not answer",
        StoreErrorKind::Busy | StoreErrorKind::Slow => "the database is too busy to answer in time",
        StoreErrorKind::Denied => "the database refuses this user",
        StoreErrorKind::Schema => "the tables do not exist yet",
        _ => "the database can't be read",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn broadcast(patience: Duration) -> Broadcast {
        Broadcast {
            frames: watch::Sender::new(None),
            slots: Arc::new(Semaphore::new(2)),
            connected: Arc::default(),
            patience,
            stop: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_slow_client_skips_frames_and_delays_no_other() {
        let broadcast = broadcast(PATIENCE);
        let (mut slow, mut quick) = (broadcast.subscribe().unwrap(), broadcast.subscribe().unwrap());
        assert!(broadcast.subscribe().is_none(), "no slot is free");
        for number in 0..20 {
            broadcast.frames.send_replace(Some(number.to_string().into()));
            assert_eq!(quick.recv().await.as_deref(), Some(&*number.to_string()));
        }
        // Those that were in its channel when it stopped reading, then the newest.
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some("19") {
            seen.push(slow.recv().await.unwrap().to_string());
        }
        assert!(seen.len() <= 4, "{seen:?}");
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_disconnected() {
        let broadcast = broadcast(Duration::from_millis(10));
        let _stuck = (broadcast.subscribe().unwrap(), broadcast.subscribe().unwrap());
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let free = async {
            while broadcast.subscribe().is_none() {
                broadcast.frames.send_replace(Some("frame".into()));
                ticks.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.unwrap();
    }

    #[tokio::test]
    async fn clients_are_disconnected_when_the_service_stops() {
        let broadcast = broadcast(PATIENCE);
        let mut client = broadcast.subscribe().unwrap();
        broadcast.stop.cancel();
        assert_eq!(client.recv().await, None);
    }
}
