//! A training run on disk, so that a killed one goes on where it was.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::{average::Average, judge::Figures, report::Epoch};
use crate::{
    checkpoint::{le_bytes, write, write_tensors},
    encoder::Encoder,
    optim::AdamW,
};

/// How far a run has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// What the run was asked for, to refuse going on with other settings.
    pub(crate) settings: String,
    /// The epoch in which it is, from 0.
    pub(crate) epoch: usize,
    /// Batches of that epoch that are done.
    pub(crate) batch: usize,
    /// Steps of AdamW in all.
    pub(crate) steps: u64,
    /// Loss and weight summed over the epoch so far.
    pub(crate) loss: (f64, f64),
    /// Steps whose weights are averaged.
    #[serde(default)]
    pub(crate) averaged: u64,
    /// Figures of finished epochs.
    pub(crate) epochs: Vec<Epoch>,
    /// The epoch with the best validation macro-F1, and its figures.
    pub(crate) best: Option<(usize, Figures)>,
}

const PROGRESS: &str = "progress.json";

fn tensors_file(steps: u64) -> String {
    format!("state-{steps}.safetensors")
}

/// What a run changes, beside its progress.
pub(crate) struct State<'a> {
    pub(crate) encoder: &'a mut Encoder,
    pub(crate) optimiser: &'a mut AdamW,
    pub(crate) average: &'a mut Average,
}

impl State<'_> {
    /// Every buffer under its name on disk; those of an average that has not begun are empty.
    fn buffers(&mut self) -> [(&'static str, &mut Vec<f32>); 8] {
        let Self {
            encoder,
            optimiser,
            average,
        } = self;
        [
            ("weights.dense", &mut encoder.weights.dense),
            ("weights.words", &mut encoder.weights.words),
            ("first.dense", &mut optimiser.dense.first),
            ("first.words", &mut optimiser.words.first),
            ("second.dense", &mut optimiser.dense.second),
            ("second.words", &mut optimiser.words.second),
            ("average.dense", &mut average.weights.dense),
            ("average.words", &mut average.weights.words),
        ]
    }
}

/// Saves weights, moments and progress. The progress names the tensor file, so that a kill between
/// the two writes leaves the state before.
pub(crate) fn save(folder: &Path, progress: &Progress, mut state: State<'_>) -> Result<()> {
    let tensors: Vec<_> = state
        .buffers()
        .into_iter()
        .map(|(name, b)| (name.to_owned(), vec![b.len()], le_bytes(b)))
        .collect();
    let file = folder.join(tensors_file(progress.steps));
    write_tensors(&tensors, &file)?;
    let before = read_progress(folder)?;
    write(&folder.join(PROGRESS), &serde_json::to_vec_pretty(progress)?)?;
    if let Some(before) = before.filter(|before| before.steps != progress.steps) {
        // An old state left behind costs only space.
        let _ = fs::remove_file(folder.join(tensors_file(before.steps)));
    }
    Ok(())
}

pub(crate) fn read_progress(folder: &Path) -> Result<Option<Progress>> {
    let path = folder.join(PROGRESS);
    let Ok(text) = fs::read(&path) else { return Ok(None) };
    let progress = serde_json::from_slice(&text);
    progress
        .map(Some)
        .with_context(|| format!("{}: damaged; remove {} to begin anew", path.display(), folder.display()))
}

/// Puts saved weights and moments back.
pub(crate) fn restore(folder: &Path, progress: &Progress, mut state: State<'_>) -> Result<()> {
    let path = folder.join(tensors_file(progress.steps));
    let bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("{}: damaged", path.display()))?;
    state.average.steps = progress.averaged;
    if progress.averaged > 0 {
        state.average.weights.clone_from(&state.encoder.weights);
    }
    for (name, buffer) in state.buffers() {
        let tensor = tensors
            .tensor(name)
            .ok()
            .with_context(|| format!("{}: tensor {name} is absent", path.display()))?;
        ensure!(
            tensor.shape() == [buffer.len()],
            "{}: tensor {name} is of another model",
            path.display()
        );
        for (value, bytes) in buffer.iter_mut().zip(tensor.data().chunks_exact(4)) {
            *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    state.optimiser.steps = progress.steps;
    Ok(())
}
