//! One query a tick for all clients together, and none without clients.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    frame::{Figures, Frame, Memory, Process},
    source::Page,
};
use crate::store::{
    StoreErrorKind,
    live_page::{LivePageQuery, LivePageReader},
};

/// The shortest time from one frame to the next.
const TICK: Duration = Duration::from_secs(1);
/// At most this fraction (one in so many) of the time is spent in queries for the page: after a slow one, also one that was given
/// up, the next frame comes later.
const SHARE: u32 = 10;
/// The longest time from one frame to the next.
const LONGEST_TICK: Duration = Duration::from_secs(30);
/// The shortest time before another attempt while the database is away.
const RETRY: Duration = Duration::from_secs(2);
/// A client that takes no frame for this long is disconnected.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many minutes are shown, including the current one.
pub(super) const MINUTES: u16 = 30;
/// How many of the newest posts are shown.
pub(super) const POSTS: u16 = 20;
/// Most clients at once.
pub(super) const MAX_WATCHERS: usize = 32;

/// A frame as it is sent.
pub(super) type Line = Arc<str>;

/// Hands the newest frame to every client.
#[derive(Debug, Clone)]
pub(super) struct Broadcast {
    /// The newest frame. Slow clients skip frames.
    frames: watch::Sender<Option<Line>>,
    places: Arc<Semaphore>,
    arrived: Arc<Notify>,
    patience: Duration,
    stop: CancellationToken,
}

impl Broadcast {
    /// Starts the task that makes frames; it ends with `stop`.
    pub(super) fn start(page: Page, stop: CancellationToken) -> Self {
        let broadcast = Self {
            frames: watch::Sender::new(None),
            places: Arc::new(Semaphore::new(MAX_WATCHERS)),
            arrived: Arc::default(),
            patience: PATIENCE,
            stop,
        };
        tokio::spawn(broadcast.clone().run(page));
        broadcast
    }

    /// Frames from now on, until the receiver is dropped or the service stops. `None` if there are [`MAX_WATCHERS`] already.
    pub(super) fn watch(&self) -> Option<mpsc::Receiver<Line>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let (sender, receiver) = mpsc::channel(1);
        let frames = self.frames.subscribe();
        tokio::spawn(deliver(frames, sender, self.patience, place, self.stop.clone()));
        self.arrived.notify_one();
        Some(receiver)
    }

    async fn run(self, page: Page) {
        let mut maker = Maker::new(page);
        while !self.stop.is_cancelled() {
            if self.frames.receiver_count() == 0 {
                maker.rest().await;
                // The next client must not get a frame from long ago.
                self.frames.send_replace(None);
                tokio::select! {
                    () = self.arrived.notified() => continue,
                    () = self.stop.cancelled() => return,
                }
            }
            let (line, pause) = maker.make().await;
            self.frames.send_replace(Some(line));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

/// Sends frames to one client: the newest one each time it can take one.
async fn deliver(
    mut frames: watch::Receiver<Option<Line>>,
    sender: mpsc::Sender<Line>,
    patience: Duration,
    place: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    let delivering = async {
        loop {
            let newest = frames.borrow_and_update().clone();
            if let Some(line) = newest
                && sender.send_timeout(line, patience).await.is_err()
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
    drop(place);
}

/// Makes frames.
struct Maker {
    page: Page,
    ask: LivePageQuery,
    reader: LivePageReader,
    memory: Memory,
    /// The fault that was logged last.
    known: Option<StoreErrorKind>,
}

impl Maker {
    fn new(page: Page) -> Self {
        Self {
            ask: LivePageQuery {
                group: page.group.clone(),
                minutes: MINUTES,
                posts: if page.shows.posts() { POSTS } else { 0 },
            },
            reader: LivePageReader::new(&page.database),
            memory: Memory::default(),
            known: None,
            page,
        }
    }

    /// The next frame, and how long to wait after it.
    async fn make(&mut self) -> (Line, Duration) {
        let begun = Instant::now();
        let read = self.reader.read(&self.ask).await;
        let rest = begun.elapsed() * (SHARE - 1);
        let (figures, fault, pause) = match read {
            Ok(recent) => {
                if self.known.take().is_some() {
                    tracing::info!("the live page reads the database again");
                }
                let figures = Figures::new(&self.page.group, recent, &mut self.memory);
                (Some(figures), None, rest.clamp(TICK, LONGEST_TICK))
            }
            Err(error) => {
                // Once for each kind, not every tick.
                if self.known.replace(error.kind) != Some(error.kind) {
                    tracing::warn!(%error, "the live page can't read the database; it keeps trying while there are clients");
                }
                (None, Some(words(error.kind)), rest.clamp(RETRY, LONGEST_TICK))
            }
        };
        let process = Process::new(
            self.page.health.status().snapshot(),
            self.page.health.report(),
            &mut self.memory,
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

    async fn rest(&mut self) {
        self.reader.rest().await;
    }
}

/// What the page says about a fault. Addresses and names stay in the log.
const fn words(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::Unreachable => "the database does not answer",
        StoreErrorKind::Busy | StoreErrorKind::Slow => "the database is too busy to answer in time",
        StoreErrorKind::Denied => "the database refuses this user",
        StoreErrorKind::Schema => "the tables are not there yet",
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
            places: Arc::new(Semaphore::new(2)),
            arrived: Arc::default(),
            patience,
            stop: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_slow_watcher_misses_frames_and_holds_nobody_up() {
        let broadcast = broadcast(PATIENCE);
        let (mut slow, mut quick) = (broadcast.watch().unwrap(), broadcast.watch().unwrap());
        assert!(broadcast.watch().is_none(), "all places are taken");
        for number in 0..20 {
            broadcast.frames.send_replace(Some(number.to_string().into()));
            assert_eq!(quick.recv().await.as_deref(), Some(&*number.to_string()));
        }
        // The frame on its way when it stopped reading, then the newest.
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some("19") {
            seen.push(slow.recv().await.unwrap().to_string());
        }
        assert!(seen.len() <= 4, "{seen:?}");
    }

    #[tokio::test]
    async fn who_takes_nothing_loses_the_place() {
        let broadcast = broadcast(Duration::from_millis(10));
        let _stuck = (broadcast.watch().unwrap(), broadcast.watch().unwrap());
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let free = async {
            while broadcast.watch().is_none() {
                broadcast.frames.send_replace(Some("frame".into()));
                looks.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.unwrap();
    }

    #[tokio::test]
    async fn watchers_end_when_the_service_stops() {
        let broadcast = broadcast(PATIENCE);
        let mut watcher = broadcast.watch().unwrap();
        broadcast.stop.cancel();
        assert_eq!(watcher.recv().await, None);
    }
}
