//! Runs the sessions on batches prepared in advance: an upper bound for any batching, used by benchmarks.

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
    error::GraphError,
    graph_error, limits, load_sessions,
    options::{ClassifyError, ClassifyOptions},
    session::OrtSession,
};
use crate::model::ModelFolder;

/// How texts are sorted before they are divided into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In arrival order.
    Arrival,
    /// By token count, as the classifier does.
    Length,
}

/// Sessions with batches that are already tokenised and padded.
pub struct PreparedBatches {
    folder: ModelFolder,
    sessions: Vec<OrtSession>,
    batches: Vec<Padded>,
    texts: usize,
    tokens: usize,
}

/// The measurements of one pass over the prepared batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreparedRun {
    /// The time from the start of the first batch to the end of the last.
    pub elapsed: Duration,
    /// The number of texts classified.
    pub texts: usize,
    /// The number of their tokens.
    pub tokens: usize,
    /// The number of tokens computed, including padding.
    pub padded: usize,
}

impl PreparedBatches {
    /// Loads sessions and prepares batches from windows of `window` texts each.
    ///
    /// # Errors
    /// Returns the errors of [`Classifier::start`](super::Classifier::start), or an error if a text can't be tokenised.
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
            .map_err(|error| graph_error(folder, GraphError::Tokenizer(error)))?;
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

    /// Runs all batches once, distributed over the sessions.
    ///
    /// # Errors
    /// Returns an error if a session fails on a batch.
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
                            session.run(batch, &mut logits).map_err(GraphError::Run)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            passes
                .into_iter()
                .try_for_each(|pass| pass.join().unwrap_or(Err(GraphError::Thread)))
        })
        .map_err(|fault| graph_error(folder, fault))?;
        Ok(PreparedRun {
            elapsed: start.elapsed(),
            texts: self.texts,
            tokens: self.tokens,
            padded: self.batches.iter().map(|batch| batch.rows * batch.columns).sum(),
        })
    }
}
