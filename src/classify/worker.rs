//! The threads that run batches, one for each session.

use std::{sync::Arc, time::Instant};

use super::{
    backend::{Backend, Padded},
    batching::BatchLimits,
    cache::PredictionCache,
    fault::ModelFault,
    queue::Queue,
    tokenizer_thread::Batch,
};
use crate::model::{Decoder, Prediction};

/// What a session's thread works with.
pub(super) struct Worker<B> {
    pub(super) backend: B,
    pub(super) cache: Arc<PredictionCache>,
    pub(super) queue: Arc<Queue<Batch>>,
    pub(super) decoder: Decoder,
    pub(super) limits: BatchLimits,
    pub(super) pad_id: u32,
    /// The tokens of a plain text, which a healthy session always answers.
    pub(super) probe: Vec<u32>,
    pub(super) buffers: Buffers,
}

/// Memory reused from batch to batch.
#[derive(Default)]
pub(super) struct Buffers {
    padded: Padded,
    logits: Vec<f32>,
}

/// A batch without predictions.
#[derive(Debug)]
enum Trouble {
    Failed(String),
    NotFinite(String),
}

impl From<Trouble> for ModelFault {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Failed(reason) => Self::Inference(reason.into()),
            Trouble::NotFinite(reason) => Self::NotFinite(reason.into()),
        }
    }
}

impl<B: Backend> Worker<B> {
    /// Runs batches until the queue closes.
    pub(super) fn run(&mut self) {
        while let Some(batch) = self.queue.pop() {
            self.classify(batch);
        }
    }

    /// Checks that the session answers a plain text.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let columns = self.limits.padded(self.probe.len());
        let probe = std::mem::take(&mut self.probe);
        let result = self.predictions(&[&probe], columns);
        self.probe = probe;
        match result {
            Ok(_) => Ok(()),
            Err(Trouble::Failed(reason) | Trouble::NotFinite(reason)) => Err(reason),
        }
    }

    /// Runs a batch; one that fails is halved until the texts that fail stand alone.
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
                Err(trouble) => {
                    // Is it the text or the session? After a lost device every text would fail, and each would go to the
                    // dead letters.
                    if let Err(reason) = self.check() {
                        self.cache.stop(&format!("a session no longer answers: {reason}"));
                        self.queue.close();
                        return;
                    }
                    let fault = ModelFault::from(trouble);
                    for item in part.items.drain(..) {
                        self.cache.answer(item.key, Err(fault.clone()));
                    }
                }
            }
        }
    }

    fn run_batch(&mut self, batch: &Batch) -> Result<Vec<Prediction>, Trouble> {
        let texts: Vec<&[u32]> = batch.items.iter().map(|item| &item.ids[..]).collect();
        let columns = self.limits.padded(batch.columns());
        let start = Instant::now();
        let predictions = self.predictions(&texts, columns)?;
        let tokens = texts.iter().map(|text| text.len()).sum();
        self.cache
            .counters
            .batch(texts.len(), tokens, columns * texts.len(), start.elapsed());
        Ok(predictions)
    }

    fn predictions(&mut self, texts: &[&[u32]], columns: usize) -> Result<Vec<Prediction>, Trouble> {
        let Buffers { padded, logits } = &mut self.buffers;
        padded.fill(texts.iter().copied(), columns, self.pad_id);
        logits.clear();
        self.backend.run(padded, logits).map_err(Trouble::Failed)?;
        let labels = self.decoder.labels();
        if logits.len() != texts.len() * labels {
            return Err(Trouble::Failed(format!(
                "{} logits for {} texts of {labels} labels",
                logits.len(),
                texts.len()
            )));
        }
        logits
            .chunks_exact(labels)
            .map(|row| {
                self.decoder
                    .decode(row)
                    .map_err(|error| Trouble::NotFinite(error.to_string()))
            })
            .collect()
    }
}
