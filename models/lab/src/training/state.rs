//! A training run on disk, so that a killed one goes on where it was.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::average::Average;
use crate::{
    checkpoint::{le_bytes, write_tensors},
    encoder::Encoder,
    files,
    optim::{AdamW, Settings},
};

/// How far a run has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Progress<J> {
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
    /// How long it has taken so far.
    pub(crate) seconds: f32,
    /// Steps whose weights are averaged.
    pub(crate) averaged: u64,
    /// What is noted of finished epochs.
    pub(crate) journal: J,
}

impl<J: DeserializeOwned> Progress<J> {
    /// What `folder` says, if there is a run in it.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(PROGRESS);
        let Ok(text) = fs::read(&path) else { return Ok(None) };
        let progress = serde_json::from_slice(&text);
        progress
            .map(Some)
            .with_context(|| format!("{}: damaged; remove {} to begin anew", path.display(), folder.display()))
    }
}

const PROGRESS: &str = "progress.json";

fn tensors_file(steps: u64) -> String {
    format!("state-{steps}.safetensors")
}

/// What a run changes, beside its progress.
pub(crate) struct Model {
    pub(crate) encoder: Encoder,
    pub(super) optimiser: AdamW,
    pub(crate) average: Average,
}

/// What the buffers of a [`Model`] are called on disk.
const NAMES: [&str; 8] = [
    "weights.dense",
    "weights.words",
    "first.dense",
    "first.words",
    "second.dense",
    "second.words",
    "average.dense",
    "average.words",
];

impl Model {
    pub(super) fn new(encoder: Encoder, settings: Settings) -> Self {
        Self {
            optimiser: AdamW::new(&encoder, settings),
            encoder,
            average: Average::default(),
        }
    }

    /// The encoder as it is to be judged and written: the mean of its last steps where that is kept.
    pub(crate) fn averaged(&self) -> Encoder {
        self.average.of(&self.encoder)
    }

    /// Every buffer, in the order of [`NAMES`]; those of an average that has not begun are empty.
    fn buffers(&mut self) -> [&mut Vec<f32>; 8] {
        let (weights, average) = (&mut self.encoder.weights, &mut self.average.weights);
        let AdamW { dense, words, .. } = &mut self.optimiser;
        [
            &mut weights.dense,
            &mut weights.words,
            &mut dense.first,
            &mut words.first,
            &mut dense.second,
            &mut words.second,
            &mut average.dense,
            &mut average.words,
        ]
    }

    /// Saves weights, moments and progress. The progress names the tensor file, so that a kill between
    /// the two writes leaves the state before.
    pub(super) fn save<J: Serialize + DeserializeOwned>(
        &mut self,
        folder: &Path,
        progress: &Progress<J>,
    ) -> Result<()> {
        let tensors: Vec<_> = NAMES
            .iter()
            .zip(self.buffers())
            .map(|(name, buffer)| ((*name).to_owned(), vec![buffer.len()], le_bytes(buffer)))
            .collect();
        let file = folder.join(tensors_file(progress.steps));
        write_tensors(&tensors, &file)?;
        let before = Progress::<J>::read(folder)?;
        files::write(&folder.join(PROGRESS), &serde_json::to_vec_pretty(progress)?)?;
        if let Some(before) = before.filter(|before| before.steps != progress.steps) {
            // An old state left behind costs only space.
            let _ = fs::remove_file(folder.join(tensors_file(before.steps)));
        }
        Ok(())
    }

    /// Puts saved weights and moments back.
    pub(super) fn restore<J>(&mut self, folder: &Path, progress: &Progress<J>) -> Result<()> {
        let path = folder.join(tensors_file(progress.steps));
        let bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("{}: damaged", path.display()))?;
        self.average.steps = progress.averaged;
        if progress.averaged > 0 {
            self.average.weights.clone_from(&self.encoder.weights);
        }
        for (name, buffer) in NAMES.iter().zip(self.buffers()) {
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
        self.optimiser.steps = progress.steps;
        Ok(())
    }
}
