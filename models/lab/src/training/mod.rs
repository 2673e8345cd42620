//! What `train` and `pretrain` share: steps on several threads, the schedule of the learning rate, progress messages, and
//! state on disk from which a killed run resumes.

mod args;
mod average;
mod state;

pub(crate) use args::{Common, contents, share};
pub(crate) use average::Average;
pub(crate) use state::Progress;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Serialize, de::DeserializeOwned};

use self::state::Model;
use crate::{
    encoder::{Encoder, Gradient, Rates, Shape},
    optim::Settings,
};

/// How often the state is saved: the most that a kill can lose.
const SAVE_EVERY: Duration = Duration::from_secs(180);

/// How often a run without a terminal reports its progress.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// A training run. `J` is what the caller records about finished epochs.
pub(crate) struct Training<'a, J> {
    args: &'a Common,
    work: PathBuf,
    pub(crate) model: Model,
    pub(crate) progress: Progress<J>,
    /// The share of the run, at its end, over which weights are averaged.
    average: f32,
    gradients: Vec<Gradient>,
    /// Time up to here is part of the progress already.
    started: Instant,
    saved: Instant,
    reported: Instant,
}

/// What one thread needs to know about a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadStep {
    /// The thread's number, from 0, and the number of threads.
    pub(crate) index: usize,
    pub(crate) threads: usize,
    pub(crate) rates: Rates,
    /// The seed of the dropout masks.
    pub(crate) seed: u64,
}

impl<'a, J: Default + Serialize + DeserializeOwned> Training<'a, J> {
    /// Starts a run, or resumes one with the same `settings` that was killed. The weights are averaged over the last part of
    /// the run, `average` of it.
    pub(crate) fn new(
        args: &'a Common,
        settings: String,
        encoder: Encoder,
        optimiser: Settings,
        average: f32,
    ) -> Result<Self> {
        let work = args.out.with_added_extension("work");
        fs::create_dir_all(&work).with_context(|| format!("can't make {}", work.display()))?;
        let mut model = Model::new(encoder, optimiser);
        let progress = match Progress::<J>::read(&work)? {
            Some(progress) if progress.settings != settings => bail!(
                "{} holds a run with other settings ({}): remove it, or name another --out",
                work.display(),
                progress.settings
            ),
            Some(progress) => {
                model.restore(&work, &progress)?;
                eprintln!(
                    "resuming in epoch {} after {} steps",
                    progress.epoch + 1,
                    progress.steps
                );
                progress
            }
            None => Progress {
                settings,
                ..Progress::default()
            },
        };
        let (shape, layout) = (&model.encoder.shape, &model.encoder.layout);
        let gradient = || Gradient::new(shape, layout).freezing(optimiser.frozen);
        Ok(Self {
            args,
            work,
            gradients: (0..args.threads).map(|_| gradient()).collect(),
            model,
            progress,
            average,
            started: Instant::now(),
            saved: Instant::now(),
            reported: Instant::now(),
        })
    }

    /// The folder of the run's state.
    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// Removes the run's state once it is finished.
    pub(crate) fn remove_state(self) {
        let _ = fs::remove_dir_all(&self.work);
    }

    /// Saves the state.
    pub(crate) fn save(&mut self) -> Result<()> {
        let now = Instant::now();
        self.progress.seconds += (now - self.started).as_secs_f32();
        self.started = now;
        self.model.save(&self.work, &self.progress)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Whether the time limit is reached.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.spent() >= 1.0
    }

    /// The share of the time limit that is spent, including the time before a kill.
    fn spent(&self) -> f32 {
        let minutes = (self.progress.seconds + self.started.elapsed().as_secs_f32()) / 60.0;
        self.args.minutes.map_or(0.0, |allowed| minutes / allowed)
    }

    /// Trains on the remaining batches of the epoch, until the time limit, and returns the epoch's mean loss. `step` takes a
    /// batch and a learning rate, and returns the summed loss and weight.
    pub(crate) fn epoch<B>(
        &mut self,
        batches: &[B],
        mut step: impl FnMut(&mut Self, &B, f32) -> Result<(f64, f64)>,
    ) -> Result<f64> {
        let total = batches.len() * self.args.epochs;
        let bar = bar(batches.len(), self.progress.epoch + 1, self.args.epochs);
        bar.set_position(self.progress.batch as u64);
        for batch in batches.iter().skip(self.progress.batch) {
            let done = (self.progress.steps as f32 + 1.0) / (total as f32 + 1.0);
            let done = done.max(self.spent());
            if done >= 1.0 {
                break;
            }
            self.advance(batch, done, &mut step)?;
            let loss = self.progress.loss.0 / self.progress.loss.1.max(1e-9);
            bar.inc(1);
            bar.set_message(format!("{loss:.4}"));
            if bar.is_hidden() && self.reported.elapsed() > REPORT_EVERY {
                eprintln!(
                    "step {}: loss {loss:.4}, {:.0} % done",
                    self.progress.steps,
                    100.0 * done
                );
                self.reported = Instant::now();
            }
            if self.saved.elapsed() > SAVE_EVERY {
                self.save()?;
            }
        }
        bar.finish_and_clear();
        self.progress.epoch += 1;
        self.progress.batch = 0;
        let (sum, weight) = std::mem::take(&mut self.progress.loss);
        Ok(sum / weight.max(1e-9))
    }

    /// Takes one step when the share `done` of the run is over, and updates the progress.
    pub(crate) fn advance<B>(
        &mut self,
        batch: &B,
        done: f32,
        step: &mut impl FnMut(&mut Self, &B, f32) -> Result<(f64, f64)>,
    ) -> Result<()> {
        let rate = self.args.lr * schedule(done, self.args.warmup);
        let (loss, weight) = step(self, batch, rate)?;
        if done > 1.0 - self.average {
            self.model.average.add(&self.model.encoder.weights);
            self.progress.averaged = self.model.average.steps;
        }
        self.progress.loss.0 += loss;
        self.progress.loss.1 += weight;
        self.progress.batch += 1;
        self.progress.steps += 1;
        Ok(())
    }

    /// The seed of the current step.
    pub(crate) fn seed(&self) -> u64 {
        self.args
            .seed
            .wrapping_mul(0x1_0000_0001)
            .wrapping_add(self.progress.steps)
    }

    /// Takes one step of the optimiser: each worker, on its own thread, adds the gradient of its part of the batch to a
    /// gradient of zeros and returns the loss. Returns the sum of the losses.
    pub(crate) fn learn<W: Send>(
        &mut self,
        workers: &mut [W],
        rate: f32,
        learn: impl Fn(&mut W, ThreadStep, &Encoder, &mut Gradient) -> f64 + Sync,
    ) -> Result<f64> {
        let (seed, threads) = (self.seed(), workers.len());
        let rates = Rates {
            hidden: self.args.dropout,
            attention: self.args.dropout,
        };
        let (encoder, learn) = (&self.model.encoder, &learn);
        let losses = std::thread::scope(|scope| {
            let parts = workers.iter_mut().zip(&mut self.gradients).enumerate();
            let threads: Vec<_> = parts
                .map(|(index, (worker, gradient))| {
                    let part = ThreadStep {
                        index,
                        threads,
                        rates,
                        seed: seed.wrapping_mul(257).wrapping_add(index as u64),
                    };
                    scope.spawn(move || {
                        gradient.clear();
                        learn(worker, part, encoder, gradient)
                    })
                })
                .collect();
            // Every thread is joined here, since the scope would panic if it joined one that panicked.
            let losses: Vec<_> = threads.into_iter().map(|thread| thread.join().ok()).collect();
            losses.into_iter().collect::<Option<Vec<f64>>>()
        });
        let Some(losses) = losses else {
            bail!(
                "a thread panicked in step {} (see above): this is a bug of the lab",
                self.progress.steps + 1
            );
        };
        let loss: f64 = losses.iter().sum();
        let norm = self
            .model
            .optimiser
            .step(&mut self.model.encoder, &mut self.gradients, rate);
        if !loss.is_finite() || !norm.is_finite() {
            bail!(
                "the loss is not a finite number after {} steps: try a lower --lr",
                self.progress.steps
            );
        }
        Ok(loss)
    }
}

/// Refuses token ids for which the model in `base` has no embeddings.
pub(crate) fn ensure_known<'i>(ids: impl Iterator<Item = &'i u32>, shape: &Shape, base: &Path) -> Result<()> {
    ensure_known_id(u64::from(ids.max().copied().unwrap_or(0)), shape.vocabulary, base)
}

/// Refuses a tokenizer with the largest id `largest` for a model with `known` embeddings.
pub(crate) fn ensure_known_id(largest: u64, known: usize, base: &Path) -> Result<()> {
    ensure!(
        largest < known as u64,
        "{}: tokenizer.json has the id {largest}, but the model has {known} embeddings: they don't belong together",
        base.display()
    );
    Ok(())
}

/// The learning rate as a share of its peak when the share `done` of the run is over: it rises linearly over the first
/// `warmup` of the run, then falls to 0.
fn schedule(done: f32, warmup: f32) -> f32 {
    (done / warmup.max(f32::MIN_POSITIVE))
        .min((1.0 - done) / (1.0 - warmup))
        .clamp(0.0, 1.0)
}

fn bar(length: usize, epoch: usize, epochs: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} {eta} loss {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(format!("epoch {epoch}/{epochs}"));
    bar
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{arguments, tiny};

    #[test]
    fn a_thread_that_panics_is_reported_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out").into_os_string();
        let args: Common = arguments(["--base".into(), "base".into(), "--out".into(), out]).unwrap();
        let mut training = Training::<()>::new(&args, String::new(), tiny(), Settings::default(), 0.0).unwrap();
        let nothing: [f64; 0] = [];
        let error = training.learn(&mut [()], 1.0, |(), part, _, _| nothing[part.index]);
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("a thread panicked in step 1"), "{error}");
    }

    #[test]
    fn time_before_a_kill_counts() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out").into_os_string();
        let words = [
            "--base".into(),
            "base".into(),
            "--minutes".into(),
            "1".into(),
            "--out".into(),
            out,
        ];
        let args: Common = arguments(words).unwrap();
        let training = || Training::<()>::new(&args, String::new(), tiny(), Settings::default(), 0.0).unwrap();
        let mut killed = training();
        killed.started = killed.started.checked_sub(Duration::from_secs(45)).unwrap();
        killed.save().unwrap();
        let spent = training().spent();
        assert!((0.75..1.0).contains(&spent), "{spent}");
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        assert!(schedule(0.05, 0.1) > 0.49 && schedule(0.05, 0.1) < 0.51);
        assert!((schedule(0.1, 0.1) - 1.0).abs() < 1e-6);
        assert!(schedule(0.999, 0.1) < 0.01);
        assert_eq!(schedule(1.0, 0.0), 0.0);
    }
}
