//! The settings that every training has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use moodstream::clean::Profile;
use xxhash_rust::xxh3::Xxh3Default;

/// What the command line says of any training; a step with other defaults puts its own in their place.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Checkpoint folder to start from, made by `carry`, `pretrain` or `train`, or a RoBERTa of Hugging Face's
    #[arg(long)]
    pub(crate) base: PathBuf,
    /// Folder to make; a killed run goes on from OUT.work
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Times through the posts
    #[arg(long, default_value_t = 4)]
    pub(crate) epochs: usize,
    /// Highest learning rate
    #[arg(long, default_value_t = 5e-5)]
    pub(crate) lr: f32,
    /// Posts a step
    #[arg(long, default_value_t = 32)]
    pub(crate) batch: usize,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.1)]
    pub(crate) warmup: f32,
    /// Seed of all that is drawn: head, order, masks, dropout
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Dropout rate of states and attention
    #[arg(long, default_value_t = 0.1)]
    pub(crate) dropout: f32,
    /// Tokens of a post that are looked at
    #[arg(long, default_value_t = 128)]
    pub(crate) max_tokens: usize,
    /// Minutes after which to stop; the learning rate falls to 0 by then
    #[arg(long)]
    pub(crate) minutes: Option<f32>,
    /// How the texts are cleaned: as the service will do it
    #[arg(long, default_value_t = Profile::TwitterRoberta)]
    pub(crate) profile: Profile,
    /// Threads
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    pub(crate) threads: usize,
}

impl Common {
    /// Refuses settings that make no training.
    pub(crate) fn check(&self) -> Result<()> {
        share("dropout", self.dropout)?;
        share("warmup", self.warmup)?;
        ensure!(
            self.lr.is_finite() && self.lr > 0.0,
            "--lr {}: must be above 0",
            self.lr
        );
        ensure!(
            self.epochs > 0 && self.batch > 0 && self.max_tokens > 2,
            "--epochs, --batch and --max-tokens: too small"
        );
        ensure!(
            (1..=256).contains(&self.threads),
            "--threads {}: must be from 1 to 256",
            self.threads
        );
        Ok(())
    }

    /// What of it fixes the course of a run: one with other settings can't go on from its state. The threads are of it
    /// because they share the posts of a step, each with dropout masks of its own.
    ///
    /// # Errors
    ///
    /// When a file of the checkpoint can't be read.
    pub(crate) fn describe(&self) -> Result<String> {
        Ok(format!(
            "base {} epochs {} lr {} batch {} warmup {} seed {} dropout {} max-tokens {} profile {} threads {}",
            contents(&self.base)?,
            self.epochs,
            self.lr,
            self.batch,
            self.warmup,
            self.seed,
            self.dropout,
            self.max_tokens,
            self.profile,
            self.threads,
        ))
    }
}

/// A file, or the files of a checkpoint's folder, as settings name them: with a hash, so that a run doesn't go on with
/// other data of the same name.
///
/// # Errors
///
/// When a file can't be read.
pub(crate) fn contents(path: &Path) -> Result<String> {
    let files = match path.is_dir() {
        true => ["config.json", "model.safetensors", "tokenizer.json"]
            .map(|file| path.join(file))
            .to_vec(),
        false => vec![path.to_owned()],
    };
    let mut hash = Xxh3Default::new();
    for file in files {
        hash.update(&fs::read(&file).with_context(|| format!("can't read {}", file.display()))?);
    }
    Ok(format!("{} (xxh3 {:016x})", path.display(), hash.digest()))
}

/// Refuses a share that is none.
pub(crate) fn share(name: &str, value: f32) -> Result<()> {
    ensure!(
        (0.0..1.0).contains(&value),
        "--{name} {value}: must be from 0 to below 1"
    );
    Ok(())
}
