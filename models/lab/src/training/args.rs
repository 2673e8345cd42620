//! The settings that `train` and `pretrain` share.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use moodstream::clean::Profile;
use xxhash_rust::xxh3::Xxh3Default;

/// The command line arguments of both; `pretrain` has other defaults for some.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Checkpoint folder to start from: made by `carry`, `pretrain` or `train`, or a RoBERTa from Hugging Face
    #[arg(long)]
    pub(crate) base: PathBuf,
    /// Folder to write; a run that was killed resumes from OUT.work
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Passes over the posts
    #[arg(long, default_value_t = 4)]
    pub(crate) epochs: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 5e-5)]
    pub(crate) lr: f32,
    /// Posts of a step
    #[arg(long, default_value_t = 32)]
    pub(crate) batch: usize,
    /// Share of the steps during which the learning rate rises
    #[arg(long, default_value_t = 0.1)]
    pub(crate) warmup: f32,
    /// Seed of the head, the order of posts, masks and dropout
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Dropout rate of states and attention
    #[arg(long, default_value_t = 0.1)]
    pub(crate) dropout: f32,
    /// Longest post in tokens; longer ones are truncated
    #[arg(long, default_value_t = 128)]
    pub(crate) max_tokens: usize,
    /// Stop after this many minutes; the learning rate reaches 0 by then
    #[arg(long)]
    pub(crate) minutes: Option<f32>,
    /// Cleaning profile of the texts, which the service will use as well
    #[arg(long, default_value_t = Profile::TwitterRoberta)]
    pub(crate) profile: Profile,
    /// Threads
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    pub(crate) threads: usize,
}

impl Common {
    /// Checks the settings.
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

    /// The settings that determine the result: a run with other settings can't resume from its state. The number of threads
    /// is among them, because each thread draws its own dropout masks for its share of a step.
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

/// The path of a file or a checkpoint folder with a hash of its content, so that a run doesn't resume with other data of
/// the same name.
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

/// Checks that a value is a share below 1.
pub(crate) fn share(name: &str, value: f32) -> Result<()> {
    ensure!(
        (0.0..1.0).contains(&value),
        "--{name} {value}: must be from 0 to below 1"
    );
    Ok(())
}
