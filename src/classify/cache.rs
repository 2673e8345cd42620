//! The prediction cache, the texts in flight, and the windows that wait for them.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, OnceLock},
};

use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{fault::ModelFault, stats::Counters};
use crate::{model::Prediction, sync::lock};

/// The answer to one text.
pub(super) type Answer = Result<Prediction, ModelFault>;

/// A text's identity: 128 bits of a hash seeded anew in each process, so that no one can prepare
/// two posts that share an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

/// The texts of one call, and the answers so far.
#[derive(Debug)]
pub(super) struct Window {
    state: Mutex<WindowState>,
    /// Held until the window is dropped everywhere, even if its caller is gone earlier.
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct WindowState {
    answers: Vec<Option<Answer>>,
    /// Answers that are not there yet, and holds.
    missing: usize,
    done: Option<oneshot::Sender<Vec<Answer>>>,
}

impl Window {
    /// A window of that many texts, and where its answers will come out.
    pub(super) fn new(
        texts: usize,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (Arc<Self>, oneshot::Receiver<Vec<Answer>>) {
        let (done, answers) = oneshot::channel();
        let state = WindowState {
            answers: vec![None; texts],
            missing: texts,
            done: Some(done),
        };
        (
            Arc::new(Self {
                state: Mutex::new(state),
                _permit: permit,
            }),
            answers,
        )
    }

    /// Sets the answer of one text. The last one completes the window.
    pub(super) fn answer(&self, text: usize, answer: Answer) {
        let mut state = lock(&self.state);
        match state.answers.get_mut(text) {
            Some(slot) if slot.is_none() => *slot = Some(answer),
            _ => return,
        }
        state.one_less();
    }

    /// While it lives the window isn't completed, even if all answers are there: it is counted before its caller goes on.
    pub(super) fn hold(&self) -> Hold<'_> {
        lock(&self.state).missing += 1;
        Hold(self)
    }
}

/// See [`Window::hold`].
pub(super) struct Hold<'a>(&'a Window);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).one_less();
    }
}

impl WindowState {
    fn one_less(&mut self) {
        self.missing -= 1;
        if self.missing == 0
            && let Some(done) = self.done.take()
        {
            let answers = self.answers.drain(..).flatten().collect();
            // The caller may have gone; the cache has the answers all the same.
            let _ = done.send(answers);
        }
    }
}

/// The texts of a window that wait for one answer.
#[derive(Debug)]
struct Waiter {
    window: Arc<Window>,
    text: usize,
}

/// What to do with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Nothing: it was in the cache.
    Cached,
    /// Nothing: an equal text is being classified.
    Repeated,
    /// Classify it, then [`PredictionCache::answer`].
    New,
}

/// The cache and the texts in flight.
pub(super) struct PredictionCache {
    seed: u64,
    cache: Option<Cache<Key, Prediction>>,
    in_flight: Mutex<HashMap<Key, Vec<Waiter>>>,
    stopped: OnceLock<Arc<str>>,
    pub(super) counters: Counters,
}

impl PredictionCache {
    pub(super) fn new(cache_entries: usize) -> Self {
        Self {
            seed: RandomState::new().hash_one(0),
            cache: (cache_entries > 0).then(|| Cache::new(cache_entries)),
            in_flight: Mutex::default(),
            stopped: OnceLock::new(),
            counters: Counters::default(),
        }
    }

    pub(super) fn key(&self, text: &str) -> Key {
        Key(xxh3_128_with_seed(text.as_bytes(), self.seed))
    }

    /// Answers a text from the cache, or notes that the window waits for it.
    pub(super) fn look_up(&self, key: Key, window: &Arc<Window>, text: usize) -> Lookup {
        let waiter = |window: &Arc<Window>| Waiter {
            window: Arc::clone(window),
            text,
        };
        // In this order and under the lock: a settled text is in the cache before it leaves the map,
        // so it is seen in one of them.
        let mut in_flight = lock(&self.in_flight);
        match in_flight.entry(key) {
            Entry::Occupied(mut waiters) => {
                waiters.get_mut().push(waiter(window));
                Lookup::Repeated
            }
            Entry::Vacant(place) => {
                if let Some(prediction) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
                    drop(in_flight);
                    window.answer(text, Ok(prediction));
                    return Lookup::Cached;
                }
                place.insert(vec![waiter(window)]);
                Lookup::New
            }
        }
    }

    /// Passes a text's answer to all windows that wait for it.
    pub(super) fn answer(&self, key: Key, answer: Answer) {
        if let (Ok(prediction), Some(cache)) = (&answer, &self.cache) {
            cache.insert(key, prediction.clone());
        }
        let Some(waiters) = lock(&self.in_flight).remove(&key) else {
            return;
        };
        for Waiter { window, text } in waiters {
            if answer.as_ref().is_err_and(ModelFault::is_of_the_text) {
                self.counters.fault();
            }
            window.answer(text, answer.clone());
        }
    }

    /// Why the classifier has stopped, if it has.
    pub(super) fn stopped(&self) -> Option<ModelFault> {
        self.stopped.get().map(|reason| ModelFault::Stopped(Arc::clone(reason)))
    }

    /// The classifier stops, for the first reason given.
    pub(super) fn stop(&self, reason: &str) -> ModelFault {
        let reason = self.stopped.get_or_init(|| {
            tracing::error!(reason, "the classifier stops");
            reason.into()
        });
        ModelFault::Stopped(Arc::clone(reason))
    }
}
