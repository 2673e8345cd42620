//! The prediction cache, the texts in flight, and the answers waiting for them.

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

/// The identity of a text: a 128-bit hash with a random seed per process, so that nobody can craft two posts with the
/// same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

/// The answers to the texts of one call, as far as they are known.
#[derive(Debug)]
pub(super) struct Answers {
    state: Mutex<AnswersState>,
    /// Held until the last reference to the answers is dropped, even if the caller is gone.
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct AnswersState {
    answers: Vec<Option<Answer>>,
    /// The number of outstanding answers and holds.
    missing: usize,
    done: Option<oneshot::Sender<Vec<Answer>>>,
}

impl Answers {
    /// Creates the answers to `texts` texts, with the receiver that gets them once they are complete.
    pub(super) fn new(
        texts: usize,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (Arc<Self>, oneshot::Receiver<Vec<Answer>>) {
        let (done, answers) = oneshot::channel();
        let state = AnswersState {
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

    /// Sets the answer of one text. The last one completes the answers.
    pub(super) fn set(&self, text: usize, answer: Answer) {
        let mut state = lock(&self.state);
        match state.answers.get_mut(text) {
            Some(slot) if slot.is_none() => *slot = Some(answer),
            _ => return,
        }
        state.complete_one();
    }

    /// Delays completion until the hold is dropped, so that the texts are counted before their caller continues.
    pub(super) fn hold(&self) -> Hold<'_> {
        lock(&self.state).missing += 1;
        Hold(self)
    }
}

/// See [`Answers::hold`].
pub(super) struct Hold<'a>(&'a Answers);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).complete_one();
    }
}

impl AnswersState {
    fn complete_one(&mut self) {
        self.missing -= 1;
        if self.missing == 0
            && let Some(done) = self.done.take()
        {
            let answers = self.answers.drain(..).flatten().collect();
            // The caller may be gone. The answers are in the cache anyway.
            let _ = done.send(answers);
        }
    }
}

/// A text that waits for the answer of an equal one.
#[derive(Debug)]
struct Waiter {
    answers: Arc<Answers>,
    text: usize,
}

/// The result of looking up a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The text was in the cache.
    Cached,
    /// An equal text is already being classified.
    Repeated,
    /// The text must be classified and passed to [`PredictionCache::answer`].
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

    /// Answers a text from the cache, or registers these answers as waiting for it.
    pub(super) fn look_up(&self, key: Key, answers: &Arc<Answers>, text: usize) -> Lookup {
        let waiter = |answers: &Arc<Answers>| Waiter {
            answers: Arc::clone(answers),
            text,
        };
        // Both lookups happen under the lock, in this order. A text enters the cache before it leaves the map, so it is
        // always found in one of them.
        let mut in_flight = lock(&self.in_flight);
        match in_flight.entry(key) {
            Entry::Occupied(mut waiters) => {
                waiters.get_mut().push(waiter(answers));
                Lookup::Repeated
            }
            Entry::Vacant(place) => {
                if let Some(prediction) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
                    drop(in_flight);
                    answers.set(text, Ok(prediction));
                    return Lookup::Cached;
                }
                place.insert(vec![waiter(answers)]);
                Lookup::New
            }
        }
    }

    /// Passes a text's answer to everything that waits for it.
    pub(super) fn answer(&self, key: Key, answer: Answer) {
        if let (Ok(prediction), Some(cache)) = (&answer, &self.cache) {
            cache.insert(key, prediction.clone());
        }
        let Some(waiters) = lock(&self.in_flight).remove(&key) else {
            return;
        };
        for Waiter { answers, text } in waiters {
            if answer.as_ref().is_err_and(ModelFault::is_of_the_text) {
                self.counters.fault();
            }
            answers.set(text, answer.clone());
        }
    }

    /// Returns why the classifier has stopped, or `None` while it runs.
    pub(super) fn stopped(&self) -> Option<ModelFault> {
        self.stopped.get().map(|reason| ModelFault::Stopped(Arc::clone(reason)))
    }

    /// Stops the classifier. The first reason given is kept.
    pub(super) fn stop(&self, reason: &str) -> ModelFault {
        let reason = self.stopped.get_or_init(|| {
            tracing::error!(reason, "the classifier stops");
            reason.into()
        });
        ModelFault::Stopped(Arc::clone(reason))
    }
}
