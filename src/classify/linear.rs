//! A linear model as a [`Backend`].

use std::sync::Arc;

use super::{
    backend::{Backend, Padded},
    error::BackendError,
};
use crate::model::linear::{LinearModel, Sums};

/// A linear model shared by all threads, with the buffers of one thread. Padding is not computed.
pub(super) struct LinearBackend {
    model: Arc<LinearModel>,
    columns: Vec<u32>,
    sums: Sums,
}

impl LinearBackend {
    pub(super) fn new(model: Arc<LinearModel>) -> Self {
        Self {
            model,
            columns: Vec::new(),
            sums: Sums::default(),
        }
    }
}

impl Backend for LinearBackend {
    fn run(&mut self, batch: &Padded, logits: &mut Vec<f32>) -> Result<(), BackendError> {
        let Self { model, columns, sums } = self;
        let features = model.vectorizer().features().len();
        for row in 0..batch.rows {
            let row = row * batch.columns..(row + 1) * batch.columns;
            let tokens = batch.ids[row.clone()].iter().zip(&batch.mask[row]);
            columns.clear();
            columns.extend(tokens.filter(|(_, mask)| **mask == 1).map(|(&id, _)| id as u32));
            if columns.iter().any(|&column| column as usize >= features) {
                return Err(BackendError::Ngram { features });
            }
            model.logits(columns, sums, logits);
        }
        Ok(())
    }
}
