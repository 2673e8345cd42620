//! The threads that run batches, one per session.

use std::{sync::Arc, time::Instant};

use super::{
    backend::{Backend, Padded},
    batching::BatchLimits,
    cache::PredictionCache,
    error::BatchError,
    fault::ModelFault,
    queue::Queue,
    tokenizer_thread::Batch,
};
use crate::model::{Postprocessor, Prediction};

/// The state of a session's thread.
pub(super) struct SessionThread<B> {
    pub(super) backend: B,
    pub(super) cache: Arc<PredictionCache>,
    pub(super) queue: Arc<Queue<Batch>>,
    pub(super) postprocessor: Postprocessor,
    pub(super) limits: BatchLimits,
    pub(super) pad_id: u32,
    /// The tokens of a plain text, which a healthy session can always classify.
    pub(super) probe: Vec<u32>,
    pub(super) buffers: Buffers,
}

/// Buffers reused between batches.
#[derive(Default)]
pub(super) struct Buffers {
    padded: Padded,
    logits: Vec<f32>,
}

impl<B: Backend> SessionThread<B> {
    /// Runs batches until the queue closes.
    pub(super) fn run(&mut self) {
        while let Some(batch) = self.queue.pop() {
            self.classify(batch);
        }
    }

    /// Checks that the session can classify a plain text.
    pub(super) fn check(&mut self) -> Result<(), BatchError> {
        let columns = self.limits.padded(self.probe.len());
        let probe = std::mem::take(&mut self.probe);
        let result = self.predictions(&[&probe], columns);
        self.probe = probe;
        result.map(drop)
    }

    /// Runs a batch. A failing batch is halved repeatedly until each failing text is isolated.
    fn classify(&mut self, batch: Batch) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            match self.run_batch(&part) {
                Ok(predictions) => {
                    for (item, prediction) in part.items.drain(..).zip(predictions) {
                        self.cache.answer(item.key, Ok(prediction));
                    }
                }
                Err(_) if part.items.len() > 1 => {
                    let half = part.split_half();
                    parts.push(half);
                    parts.push(part);
                }
                Err(error) => {
                    // Check whether the session still works. After a lost device every text would fail, and all of them
                    // would become dead letters.
                    if let Err(reason) = self.check() {
                        self.cache.stop(&format!("a session no longer answers: {reason}"));
                        self.queue.close();
                        return;
                    }
                    let fault = ModelFault::from(error);
                    for item in part.items.drain(..) {
                        self.cache.answer(item.key, Err(fault.clone()));
                    }
                }
            }
        }
    }

    fn run_batch(&mut self, batch: &Batch) -> Result<Vec<Prediction>, BatchError> {
        let texts: Vec<&[u32]> = batch.items.iter().map(|item| &item.ids[..]).collect();
        let columns = self.limits.padded(batch.columns());
        let start = Instant::now();
        let predictions = self.predictions(&texts, columns)?;
        let tokens = texts.iter().map(|text| text.len()).sum();
        let computed = self.backend.computed_tokens(&self.buffers.padded);
        self.cache
            .counters
            .batch(texts.len(), tokens, computed, start.elapsed());
        Ok(predictions)
    }

    fn predictions(&mut self, texts: &[&[u32]], columns: usize) -> Result<Vec<Prediction>, BatchError> {
        let Buffers { padded, logits } = &mut self.buffers;
        padded.fill(texts.iter().copied(), columns, self.pad_id);
        logits.clear();
        self.backend.run(padded, logits).map_err(BatchError::Backend)?;
        let labels = self.postprocessor.labels();
        if logits.len() != texts.len() * labels {
            return Err(BatchError::Logits {
                logits: logits.len(),
                texts: texts.len(),
                labels,
            });
        }
        logits
            .chunks_exact(labels)
            .map(|row| self.postprocessor.decode(row).map_err(BatchError::NotFinite))
            .collect()
    }
}
