//! The same sessions fed with batches prepared in advance: the upper bound for any batching. For benchmarks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    backend::{Backend, Padded},
    batching::{arrival_plan, plan},
    graph_error, limits, load_sessions,
    options::{ClassifyError, ClassifyOptions},
    session::OrtSession,
};
use crate::model::ModelFolder;

/// How texts were ordered before they were cut into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In arrival order.
    Arrival,
    /// By token count, as the classifier does.
    Length,
}

/// Sessions, and batches already tokenised, cut and padded.
pub struct PreparedBatches {
    folder: ModelFolder,
    sessions: Vec<OrtSession>,
    batches: Vec<Padded>,
    texts: usize,
    tokens: usize,
}

/// One pass over the prepared batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreparedRun {
    /// From the first batch's start to the last one's end.
    pub elapsed: Duration,
    /// Texts classified.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
    /// The tokens computed, padding included.
    pub padded: usize,
}

impl PreparedBatches {
    /// Loads sessions and makes the batches of the texts, taken as windows of `window` texts.
    ///
    /// # Errors
    /// As [`Classifier::start`](super::Classifier::start); a text that can't be tokenised is an error too.
    pub fn prepare(
        folder: &ModelFolder,
        options: &ClassifyOptions,
        texts: &[Arc<str>],
        window: usize,
        order: Order,
    ) -> Result<Self, ClassifyError> {
        let options = options.resolved(folder.info().provider);
        let limits = limits(folder, &options)?;
        let ids = texts
            .iter()
            .map(|text| folder.tokenizer().encode(text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| graph_error(folder, error.to_string()))?;
        let mut batches = Vec::new();
        for window in ids.chunks(window.max(1)) {
            let lengths: Vec<usize> = window.iter().map(Vec::len).collect();
            let plan = match order {
                Order::Arrival => arrival_plan(&lengths, &limits),
                Order::Length => plan(&lengths, &limits),
            };
            for batch in plan.batches {
                let places = &plan.order[batch];
                let longest = places.iter().map(|&place| lengths[place]).max().unwrap_or(0);
                let mut padded = Padded::default();
                padded.fill(
                    places.iter().map(|&place| &window[place][..]),
                    limits.padded(longest),
                    folder.pad_id(),
                );
                batches.push(padded);
            }
        }
        Ok(Self {
            folder: folder.clone(),
            sessions: load_sessions(folder, &options)?,
            texts: texts.len(),
            tokens: ids.iter().map(Vec::len).sum(),
            batches,
        })
    }

    /// Runs all batches once, over all sessions.
    ///
    /// # Errors
    /// A session fails on a batch.
    pub fn run(&mut self) -> Result<PreparedRun, ClassifyError> {
        let next = AtomicUsize::new(0);
        let (batches, folder) = (&self.batches, &self.folder);
        let start = Instant::now();
        thread::scope(|scope| {
            let passes: Vec<_> = self
                .sessions
                .iter_mut()
                .map(|session| {
                    scope.spawn(|| {
                        let mut logits = Vec::new();
                        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                            logits.clear();
                            session.run(batch, &mut logits)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            passes
                .into_iter()
                .try_for_each(|pass| pass.join().unwrap_or_else(|_| Err("its thread panicked".to_owned())))
        })
        .map_err(|reason| graph_error(folder, reason))?;
        Ok(PreparedRun {
            elapsed: start.elapsed(),
            texts: self.texts,
            tokens: self.tokens,
            padded: self.batches.iter().map(|batch| batch.rows * batch.columns).sum(),
        })
    }
}
