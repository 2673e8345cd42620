//! Fine-tuning a checkpoint on labelled posts.

mod args;
mod bias;
mod data;
mod evaluate;
mod report;
mod teacher;
mod tune;

pub use args::{Args, ClassWeights, HeadKind};
pub use evaluate::Figures;

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::{
    data::Example,
    report::{Epoch, Report},
    teacher::Teacher,
    tune::FineTuner,
};
use crate::{
    checkpoint::{Checkpoint, Family},
    encoder::{Encoder, Frozen, soften},
    files::{self, Staging},
    optim::Settings,
    tokenizer,
    training::{Training, ensure_known},
};

/// Runs the step.
///
/// # Errors
///
/// When the input is invalid or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    args.check()?;
    let common = &args.common;
    let Checkpoint {
        encoder: mut base,
        family,
        ..
    } = Checkpoint::read_to_write(&common.base)?;
    ensure!(
        args.freeze_layers <= base.shape.layers,
        "--freeze-layers {}: {} has {} layers",
        args.freeze_layers,
        common.base.display(),
        base.shape.layers
    );
    base.shape.pooling = args.pooling.unwrap_or(base.shape.pooling);
    let tokenizer = tokenizer::read(&common.base)?;
    let train_rows = data::read(&args.train, common.profile)?;
    let valid_rows = data::read(&args.valid, common.profile)?;
    let labels = data::label_names(&train_rows);
    ensure!(
        labels.len() > 1,
        "{}: all posts have the same label, `{}`",
        args.train.display(),
        labels[0]
    );
    let teacher = args
        .teacher
        .as_deref()
        .map(|folder| Teacher::start(folder, &labels, args.head.loss(), common.threads))
        .transpose()?;
    let texts = match args.text.is_empty() {
        true => Vec::new(),
        false => data::read_unlabelled(&args.text, common.profile, args.text_posts, &valid_rows)?,
    };
    let longest = common.max_tokens.min(base.shape.longest());
    let mut train = data::examples(&train_rows, &labels, &tokenizer, longest, &args.train)?;
    let valid = data::examples(&valid_rows, &labels, &tokenizer, longest, &args.valid)?;
    if args.head == HeadKind::Softmax {
        data::ensure_labelled(&train, &train_rows, &args.train)?;
        data::ensure_labelled(&valid, &valid_rows, &args.valid)?;
    }
    train.append(&mut data::unlabelled_examples(
        &texts,
        labels.len(),
        &tokenizer,
        longest,
    )?);
    let ids = train.iter().chain(&valid).flat_map(|example| &example.ids);
    ensure_known(ids, &base.shape, &common.base)?;

    let staging = Staging::new(&common.out)?;
    let mut run = Run::new(&args, (base, family), &labels, &train)?;
    if let Some(teacher) = teacher {
        let raw: Vec<&str> = train_rows
            .iter()
            .map(|row| &row.text)
            .chain(&texts)
            .map(|text| text.raw.as_str())
            .collect();
        let scores = teacher.scores(&raw, run.training.work())?;
        for (example, scores) in train.iter_mut().zip(scores) {
            example.soft = soften(&scores, args.head.loss(), args.distill_temperature);
        }
    }
    run.go(&train, &valid)?;
    let best = run.best_folder();
    let Journal { epochs, best: chosen } = &run.training.progress.journal;
    let (best_epoch, mut figures) = chosen.clone().context("no epoch was finished")?;
    for file in ["config.json", "model.safetensors"] {
        fs::copy(best.join(file), staging.path().join(file)).with_context(|| format!("can't copy {file}"))?;
    }
    if args.fit_bias {
        // The copy is changed, so that a run that is resumed continues from the trained weights.
        figures = bias::fit_checkpoint(staging.path(), &valid, common.threads)?;
    }
    tokenizer::copy(&common.base, staging.path())?;
    // `export` copies the manifest, so that the service cleans posts as in training.
    let manifest = format!("profile = \"{}\"\n", common.profile);
    files::write(&staging.path().join("moodstream.toml"), manifest.as_bytes())?;
    let report = Report {
        labels: &labels,
        train_posts: train_rows.len(),
        text_posts: texts.len(),
        valid_posts: valid.len(),
        settings: &run.training.progress.settings,
        best_epoch: best_epoch + 1,
        valid: &figures,
        epochs,
    };
    report.write(&staging.path().join("report"))?;
    staging.finish()?;
    run.training.remove_state();
    println!(
        "{}: epoch {}, validation macro-F1 {:.4}",
        common.out.display(),
        best_epoch + 1,
        figures.macro_f1
    );
    Ok(())
}

/// The finished epochs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Journal {
    epochs: Vec<Epoch>,
    /// The epoch with the best validation macro-F1, from 0, and its figures.
    best: Option<(usize, Figures)>,
}

/// A fine-tuning run.
struct Run<'a> {
    args: &'a Args,
    labels: &'a [String],
    family: Family,
    tuner: FineTuner,
    training: Training<'a, Journal>,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, (base, family): (Encoder, Family), labels: &'a [String], train: &[Example]) -> Result<Self> {
        let (tuner, encoder) = FineTuner::new(args, base, labels.len(), train);
        let settings = Settings {
            weight_decay: args.weight_decay,
            clip: args.clip,
            head_factor: args.head_lr_factor,
            layer_decay: args.layer_decay,
            frozen: Frozen {
                words: args.freeze_words || args.freeze_layers > 0,
                layers: args.freeze_layers,
            },
            ..Settings::default()
        };
        Ok(Self {
            args,
            labels,
            family,
            tuner,
            training: Training::new(&args.common, args.describe()?, encoder, settings, args.average)?,
        })
    }

    fn best_folder(&self) -> PathBuf {
        self.training.work().join("best")
    }

    fn go(&mut self, train: &[Example], valid: &[Example]) -> Result<()> {
        let common = &self.args.common;
        while self.training.progress.epoch < common.epochs && !self.is_over() {
            let started = Instant::now();
            let epoch = self.training.progress.epoch;
            let batches = data::batches(train, common.batch, common.seed, epoch);
            let loss = self.training.epoch(&batches, |training, batch, rate| {
                let batch: Vec<&Example> = batch.iter().map(|&index| &train[index]).collect();
                self.tuner.step(training, &batch, rate)
            })?;
            let encoder = self.training.model.averaged();
            let scored = evaluate::score(&encoder, valid, common.threads)?;
            let valid = evaluate::evaluate(&scored, self.labels.len(), self.tuner.loss);
            let seconds = started.elapsed().as_secs_f64();
            eprintln!(
                "epoch {}: loss {loss:.4}, validation macro-F1 {:.4}, accuracy {:.4}, {seconds:.0} s",
                epoch + 1,
                valid.macro_f1,
                valid.accuracy
            );
            let best = self.training.progress.journal.best.as_ref();
            if best.is_none_or(|(_, best)| valid.macro_f1 > best.macro_f1) {
                self.keep_best(encoder)?;
                self.training.progress.journal.best = Some((epoch, valid.clone()));
            }
            let journal = &mut self.training.progress.journal;
            journal.epochs.push(Epoch { loss, valid, seconds });
            self.training.save()?;
        }
        Ok(())
    }

    /// Whether to stop before the next epoch; an epoch that has begun is always finished.
    fn is_over(&self) -> bool {
        let Journal { epochs, best } = &self.training.progress.journal;
        let Some((best, _)) = best else { return false };
        let is_out_of_patience = epochs.len() > best + self.args.patience;
        self.training.progress.batch == 0 && (is_out_of_patience || self.training.is_out_of_time())
    }

    fn keep_best(&self, encoder: Encoder) -> Result<()> {
        let folder = self.best_folder();
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let (labels, loss) = (self.labels.to_vec(), Some(self.tuner.loss));
        let family = self.family;
        Checkpoint {
            encoder,
            labels,
            loss,
            family,
        }
        .write(&folder)
    }
}

#[cfg(test)]
mod tests;
