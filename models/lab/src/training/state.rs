//! The state of a training run on disk, from which a killed run resumes.

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
    /// The settings of the run: it doesn't resume with others.
    pub(crate) settings: String,
    /// The current epoch, from 0.
    pub(crate) epoch: usize,
    /// Finished batches of that epoch.
    pub(crate) batch: usize,
    /// Steps of AdamW in all.
    pub(crate) steps: u64,
    /// Loss and weight summed over the epoch so far.
    pub(crate) loss: (f64, f64),
    /// Seconds of training so far.
    pub(crate) seconds: f32,
    /// Steps in the average.
    pub(crate) averaged: u64,
    /// What the caller records about finished epochs.
    pub(crate) journal: J,
}

impl<J: DeserializeOwned> Progress<J> {
    /// Reads the progress of the run in `folder`, if there is one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(PROGRESS);
        let Ok(text) = fs::read(&path) else { return Ok(None) };
        let progress = serde_json::from_slice(&text);
        progress
            .map(Some)
            .with_context(|| format!("{}: damaged; remove {} to start over", path.display(), folder.display()))
    }
}

const PROGRESS: &str = "progress.json";

fn tensors_file(steps: u64) -> String {
    format!("state-{steps}.safetensors")
}

/// What a run changes besides its progress.
pub(crate) struct Model {
    pub(crate) encoder: Encoder,
    pub(super) optimiser: AdamW,
    pub(crate) average: Average,
}

/// The names of the buffers of a [`Model`] on disk.
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

    /// The encoder to evaluate and write: the mean of its last steps if they are averaged.
    pub(crate) fn averaged(&self) -> Encoder {
        self.average.of(&self.encoder)
    }

    /// Every buffer, in the order of [`NAMES`]; those of an average without steps are empty.
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

    /// Saves weights, moments and progress. The progress determines the name of the tensor file, so a kill between the two
    /// writes leaves the previous state valid.
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
            // An old state that stays costs only space.
            let _ = fs::remove_file(folder.join(tensors_file(before.steps)));
        }
        Ok(())
    }

    /// Restores the saved weights and moments.
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
