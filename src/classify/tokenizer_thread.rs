//! The thread that turns windows into batches while the sessions run.

use std::{
    sync::{Arc, mpsc},
    time::Instant,
};

use super::{
    batching::{BatchLimits, plan},
    cache::{Answers, Key, Lookup, PredictionCache},
    fault::ModelFault,
    queue::Queue,
    workload::WorkUnit,
};
use crate::model::Tokenizer;

/// One call of `classify`.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) texts: Vec<Arc<str>>,
    pub(super) answers: Arc<Answers>,
    pub(super) unit: WorkUnit,
}

/// A text that waits for classification.
#[derive(Debug)]
pub(super) struct PendingText {
    pub(super) key: Key,
    pub(super) ids: Vec<u32>,
}

/// Texts on their way to a session, longest first. Every text gets an answer: those left in a batch when it is dropped get
/// [`ModelFault::Stopped`].
pub(super) struct Batch {
    pub(super) items: Vec<PendingText>,
    pub(super) cache: Arc<PredictionCache>,
    pub(super) unit: WorkUnit,
}

impl Batch {
    /// Returns the token count of the longest text.
    pub(super) fn columns(&self) -> usize {
        self.items.iter().map(|item| item.ids.len()).max().unwrap_or(0)
    }

    /// Splits off the second half.
    pub(super) fn split_half(&mut self) -> Self {
        Self {
            items: self.items.split_off(self.items.len() / 2),
            cache: Arc::clone(&self.cache),
            unit: self.unit.another(),
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.items.is_empty() {
            return;
        }
        let reason = if std::thread::panicking() {
            "its thread panicked"
        } else {
            "it was shut down"
        };
        let fault = self
            .cache
            .stopped()
            .unwrap_or_else(|| ModelFault::Stopped(reason.into()));
        for item in self.items.drain(..) {
            self.cache.answer(item.key, Err(fault.clone()));
        }
    }
}

/// The state of the tokenizer thread.
pub(super) struct TokenizerThread {
    pub(super) cache: Arc<PredictionCache>,
    pub(super) queue: Arc<Queue<Batch>>,
    pub(super) tokenizer: Tokenizer,
    pub(super) limits: BatchLimits,
}

impl TokenizerThread {
    /// Processes windows in order until their channel closes.
    pub(super) fn run(&self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            self.handle(job);
        }
    }

    fn handle(&self, Job { texts, answers, unit }: Job) {
        if let Some(fault) = self.cache.stopped() {
            for text in 0..texts.len() {
                answers.set(text, Err(fault.clone()));
            }
            return;
        }
        let start = Instant::now();
        // Texts that are cached or in flight may be answered before all of this window's texts are looked up.
        let held = answers.hold();
        let (mut cached, mut repeated) = (0, 0);
        let mut new = Batch {
            items: Vec::with_capacity(texts.len()),
            cache: Arc::clone(&self.cache),
            unit: unit.another(),
        };
        for (place, text) in texts.iter().enumerate() {
            let key = self.cache.key(text);
            match self.cache.look_up(key, &answers, place) {
                Lookup::Cached => cached += 1,
                Lookup::Repeated => repeated += 1,
                Lookup::New => self.tokenize(key, text, &mut new),
            }
        }
        let lengths: Vec<usize> = new.items.iter().map(|item| item.ids.len()).collect();
        let plan = plan(&lengths, &self.limits);
        let mut items: Vec<Option<PendingText>> = std::mem::take(&mut new.items).into_iter().map(Some).collect();
        let batches: Vec<Batch> = plan
            .batches
            .iter()
            .map(|batch| Batch {
                items: plan.order[batch.clone()]
                    .iter()
                    .filter_map(|&text| items[text].take())
                    .collect(),
                cache: Arc::clone(&self.cache),
                unit: unit.another(),
            })
            .collect();
        self.cache.counters.window(texts.len(), cached, repeated);
        self.cache.counters.tokenized(start.elapsed());
        drop(held);
        drop(answers);
        self.queue.push_all(batches);
    }

    fn tokenize(&self, key: Key, text: &str, new: &mut Batch) {
        // Added to the batch before the tokenizer runs, so that the text is answered even if the tokenizer panics.
        new.items.push(PendingText { key, ids: Vec::new() });
        match self.tokenizer.encode(text) {
            Ok(ids) => {
                if let Some(item) = new.items.last_mut() {
                    item.ids = ids;
                }
            }
            Err(error) => {
                new.items.pop();
                self.cache
                    .answer(key, Err(ModelFault::Tokenizer(error.to_string().into())));
            }
        }
    }
}
