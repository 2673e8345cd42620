//! Fine-tuning: a checkpoint learns to classify labelled posts.

mod args;
pub(crate) mod average;
mod bias;
mod data;
mod judge;
pub(crate) mod report;
pub(crate) mod state;

pub use args::{Args, ClassWeights, HeadKind};
pub use judge::Figures;

use std::{
    fs,
    iter::repeat_n,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, rngs::StdRng};

use self::{
    args::check,
    average::Average,
    data::Example,
    report::{Epoch, Report},
    state::{Progress, State},
};
use crate::{
    checkpoint::{Checkpoint, Staging},
    encoder::{Encoder, Gradient, Head, Loss, Packed, Pass, Rates, Target},
    optim::{AdamW, Settings},
    tokenizer::Tokenizer,
};

/// How long a kill may set a run back.
pub(crate) const SAVE_EVERY: Duration = Duration::from_secs(180);

/// How often a run without a terminal says where it is.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(30);

/// Runs the step.
///
/// # Errors
///
/// When the input is unfit or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    check(&args)?;
    let base = Checkpoint::read(&args.base)?.encoder;
    let tokenizer = Tokenizer::read(&args.base)?;
    let train_rows = data::read(&args.train, args.profile)?;
    let valid_rows = data::read(&args.valid, args.profile)?;
    let labels = data::label_names(&train_rows);
    ensure!(
        labels.len() > 1,
        "{}: one label alone, `{}`",
        args.train.display(),
        labels[0]
    );
    let longest = args.max_tokens.min(base.shape.longest());
    let train = data::examples(&train_rows, &labels, &tokenizer, longest, &args.train)?;
    let valid = data::examples(&valid_rows, &labels, &tokenizer, longest, &args.valid)?;
    let known = base.shape.vocabulary;
    let largest = train
        .iter()
        .chain(&valid)
        .flat_map(|example| &example.ids)
        .max()
        .copied()
        .unwrap_or(0);
    ensure!(
        (largest as usize) < known,
        "{}: tokenizer.json gives id {largest}, but the model has {known} embeddings: they don't belong together",
        args.base.display()
    );

    let staging = Staging::new(&args.out)?;
    let mut run = Run::new(&args, base, &labels, &train)?;
    run.go(&train, &valid)?;
    let (best_epoch, mut figures) = run.progress.best.clone().context("no epoch was finished")?;
    let best = run.best_folder();
    if args.fit_bias {
        figures = fit_bias(&best, &valid, args.threads)?;
    }
    for file in ["config.json", "model.safetensors"] {
        fs::copy(best.join(file), staging.path().join(file)).with_context(|| format!("can't copy {file}"))?;
    }
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = args.base.join(file);
        if from.exists() {
            fs::copy(&from, staging.path().join(file)).with_context(|| format!("can't copy {}", from.display()))?;
        }
    }
    let report = Report {
        labels: &labels,
        train_posts: train.len(),
        valid_posts: valid.len(),
        settings: &run.progress.settings,
        best_epoch: best_epoch + 1,
        valid: &figures,
        epochs: &run.progress.epochs,
    };
    report.write(&staging.path().join("report"))?;
    staging.finish()?;
    // What is left of the run is of no more use.
    let _ = fs::remove_dir_all(&run.work);
    println!(
        "{}: epoch {}, validation macro-F1 {:.4}",
        args.out.display(),
        best_epoch + 1,
        figures.macro_f1
    );
    Ok(())
}

/// Moves the biases of the checkpoint in `folder` to what is best for the posts, and judges it anew.
fn fit_bias(folder: &Path, valid: &[Example], threads: usize) -> Result<Figures> {
    let mut model = Checkpoint::read(folder)?;
    let classes = model.labels.len();
    let mut posts = judge::score(&model.encoder, valid, threads);
    let offsets = bias::fit(&posts, classes);
    let place = model.encoder.layout.out_bias.clone();
    for (bias, offset) in model.encoder.weights.dense[place].iter_mut().zip(&offsets) {
        *bias += offset;
    }
    for (logit, offset) in posts.iter_mut().flat_map(|post| post.logits.iter_mut().zip(&offsets)) {
        *logit += offset;
    }
    let moved: Vec<String> = model
        .labels
        .iter()
        .zip(&offsets)
        .map(|(label, offset)| format!("{label} {offset:+.2}"))
        .collect();
    eprintln!("biases moved: {}", moved.join(", "));
    model.write(folder)?;
    Ok(judge::judge(&posts, classes, Loss::Softmax))
}

/// A training run under way.
struct Run<'a> {
    args: &'a Args,
    labels: &'a [String],
    loss: Loss,
    work: PathBuf,
    encoder: Encoder,
    optimiser: AdamW,
    average: Average,
    progress: Progress,
    class_weights: Vec<f32>,
    workers: Vec<Worker>,
    gradients: Vec<Gradient>,
    started: Instant,
    saved: Instant,
    told: Instant,
}

/// One thread's buffers.
#[derive(Default)]
struct Worker {
    pass: Pass,
    head: Head,
    d: Vec<f32>,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, base: Encoder, labels: &'a [String], train: &[Example]) -> Result<Self> {
        let loss = match args.head {
            HeadKind::Softmax => Loss::Softmax,
            HeadKind::Sigmoid => Loss::Sigmoid,
        };
        let mut rng = StdRng::seed_from_u64(args.seed);
        let mut encoder = base.with_head(labels.len(), &mut rng);
        let counts = counts(train, labels.len());
        if loss == Loss::Sigmoid {
            // A head that begins at the labels' frequencies need not first learn that most are rare.
            let place = encoder.layout.out_bias.clone();
            for (bias, &count) in encoder.weights.dense[place].iter_mut().zip(&counts) {
                let share = ((count as f32 + 0.5) / (train.len() as f32 + 1.0)).clamp(1e-4, 1.0 - 1e-4);
                *bias = (share / (1.0 - share)).ln();
            }
        }
        let settings = Settings {
            weight_decay: args.weight_decay,
            clip: args.clip,
            head_factor: args.head_lr_factor,
            layer_decay: args.layer_decay,
            ..Settings::default()
        };
        let mut optimiser = AdamW::new(&encoder, settings);
        let mut average = Average::default();

        let work = work_folder(&args.out);
        fs::create_dir_all(&work).with_context(|| format!("can't make {}", work.display()))?;
        let described = describe(args);
        let progress = match state::read_progress(&work)? {
            Some(progress) if progress.settings != described => bail!(
                "{} holds a run with other settings ({}): remove it, or name another --out",
                work.display(),
                progress.settings
            ),
            Some(progress) => {
                let state = State {
                    encoder: &mut encoder,
                    optimiser: &mut optimiser,
                    average: &mut average,
                };
                state::restore(&work, &progress, state)?;
                eprintln!(
                    "going on in epoch {} after {} steps",
                    progress.epoch + 1,
                    progress.steps
                );
                progress
            }
            None => Progress {
                settings: described,
                ..Progress::default()
            },
        };
        let gradients = (0..args.threads)
            .map(|_| Gradient::new(&encoder.shape, &encoder.layout))
            .collect();
        Ok(Self {
            class_weights: class_weights(args.class_weights, &counts),
            workers: (0..args.threads).map(|_| Worker::default()).collect(),
            gradients,
            args,
            labels,
            loss,
            work,
            encoder,
            optimiser,
            average,
            progress,
            started: Instant::now(),
            saved: Instant::now(),
            told: Instant::now(),
        })
    }

    fn best_folder(&self) -> PathBuf {
        self.work.join("best")
    }

    fn go(&mut self, train: &[Example], valid: &[Example]) -> Result<()> {
        while self.progress.epoch < self.args.epochs {
            let started = Instant::now();
            self.epoch(train)?;
            let judged = self.average.of(&self.encoder);
            let valid = judge::judge(
                &judge::score(&judged, valid, self.args.threads),
                self.labels.len(),
                self.loss,
            );
            let (sum, weight) = std::mem::take(&mut self.progress.loss);
            let loss = sum / weight.max(1e-9);
            let epoch = self.progress.epoch;
            let seconds = started.elapsed().as_secs_f64();
            eprintln!(
                "epoch {}: loss {loss:.4}, validation macro-F1 {:.4}, accuracy {:.4}, {seconds:.0} s",
                epoch + 1,
                valid.macro_f1,
                valid.accuracy
            );
            self.progress.epochs.push(Epoch {
                loss,
                valid: valid.clone(),
                seconds,
            });
            self.progress.epoch += 1;
            self.progress.batch = 0;
            if self
                .progress
                .best
                .as_ref()
                .is_none_or(|(_, best)| valid.macro_f1 > best.macro_f1)
            {
                self.keep_best(judged)?;
                self.progress.best = Some((epoch, valid));
            }
            self.save()?;
            let best = self.progress.best.as_ref().map_or(0, |(best, _)| *best);
            if epoch - best >= self.args.patience || self.spent() >= 1.0 {
                break;
            }
        }
        Ok(())
    }

    fn keep_best(&self, encoder: Encoder) -> Result<()> {
        let folder = self.best_folder();
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let (labels, loss) = (self.labels.to_vec(), Some(self.loss));
        Checkpoint { encoder, labels, loss }.write(&folder)
    }

    fn save(&mut self) -> Result<()> {
        let state = State {
            encoder: &mut self.encoder,
            optimiser: &mut self.optimiser,
            average: &mut self.average,
        };
        state::save(&self.work, &self.progress, state)?;
        self.saved = Instant::now();
        Ok(())
    }

    fn epoch(&mut self, train: &[Example]) -> Result<()> {
        let batches = data::batches(train, self.args.batch, self.args.seed, self.progress.epoch);
        let total = batches.len() * self.args.epochs;
        let bar = bar(batches.len(), self.progress.epoch + 1, self.args.epochs);
        bar.set_position(self.progress.batch as u64);
        for batch in &batches[self.progress.batch.min(batches.len())..] {
            let done = (self.progress.steps as f32 + 1.0) / (total as f32 + 1.0);
            let done = done.max(self.spent());
            if done >= 1.0 {
                break;
            }
            let batch: Vec<&Example> = batch.iter().map(|&index| &train[index]).collect();
            self.advance(&batch, done)?;
            bar.inc(1);
            bar.set_message(format!("{:.4}", self.progress.loss.0 / self.progress.loss.1.max(1e-9)));
            if bar.is_hidden() && self.told.elapsed() > TELL_EVERY {
                let loss = self.progress.loss.0 / self.progress.loss.1.max(1e-9);
                eprintln!(
                    "step {}: loss {loss:.4}, {:.0} % done",
                    self.progress.steps,
                    100.0 * done
                );
                self.told = Instant::now();
            }
            if self.saved.elapsed() > SAVE_EVERY {
                self.save()?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// One step when `done` of the run is over, and what is noted of it.
    fn advance(&mut self, batch: &[&Example], done: f32) -> Result<()> {
        let rate = self.args.lr * schedule(done, self.args.warmup);
        let (loss, weight) = self.step(batch, rate)?;
        if done > 1.0 - self.args.average {
            self.average.add(&self.encoder.weights);
            self.progress.averaged = self.average.steps;
        }
        self.progress.loss.0 += loss;
        self.progress.loss.1 += weight;
        self.progress.batch += 1;
        self.progress.steps += 1;
        Ok(())
    }

    /// The share of the minutes allowed that is gone.
    fn spent(&self) -> f32 {
        let minutes = self.started.elapsed().as_secs_f32() / 60.0;
        self.args.minutes.map_or(0.0, |allowed| minutes / allowed)
    }

    /// One step over a batch: the summed loss and weight of its posts.
    fn step(&mut self, batch: &[&Example], rate: f32) -> Result<(f64, f64)> {
        let (args, loss, encoder) = (self.args, self.loss, &self.encoder);
        let r_drop = args.r_drop;
        let looks = if r_drop > 0.0 { 2 } else { 1 };
        let targets: Vec<(Vec<f32>, f32)> = batch.iter().map(|example| self.target(example)).collect();
        let weight: f64 = targets.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let share = (1.0 / weight.max(1e-9)) as f32;
        let seed = args.seed.wrapping_mul(0x1_0000_0001).wrapping_add(self.progress.steps);
        let rates = Rates {
            hidden: args.dropout,
            attention: args.dropout,
        };
        let threads = self.workers.len();
        let targets = &targets;
        let losses: Vec<f64> = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .workers
                .iter_mut()
                .zip(&mut self.gradients)
                .enumerate()
                .map(|(index, (worker, gradient))| {
                    scope.spawn(move || {
                        // A batch is ordered by length: dealt out like this, all have as much to do.
                        let mine = || {
                            (index..batch.len())
                                .step_by(threads)
                                .flat_map(|post| repeat_n(post, looks))
                        };
                        let posts: Packed = mine().map(|post| batch[post].ids.as_slice()).collect();
                        let targets = mine().map(|post| Target {
                            shares: &targets[post].0,
                            weight: targets[post].1,
                        });
                        let seed = seed.wrapping_mul(257).wrapping_add(index as u64);
                        worker.learn(encoder, &posts, targets, (loss, r_drop, share), (rates, seed), gradient)
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or(f64::NAN))
                .collect()
        });
        let sum: f64 = losses.iter().sum();
        let norm = self.optimiser.step(&mut self.encoder, &mut self.gradients, rate);
        if !sum.is_finite() || !norm.is_finite() {
            bail!(
                "the loss is no number after {} steps: try a lower --lr",
                self.progress.steps
            );
        }
        Ok((sum, weight))
    }

    fn target(&self, example: &Example) -> (Vec<f32>, f32) {
        let classes = self.labels.len();
        let smoothing = self.args.label_smoothing;
        let (mass, floor) = match self.loss {
            Loss::Softmax => (1.0 / example.labels.len() as f32, smoothing / classes as f32),
            Loss::Sigmoid => (1.0, smoothing / 2.0),
        };
        let mut shares = vec![floor; classes];
        for &label in &example.labels {
            shares[label] += mass * (1.0 - smoothing);
        }
        let weights = example
            .labels
            .iter()
            .map(|&label| self.class_weights[label])
            .sum::<f32>();
        (shares, weights / example.labels.len() as f32)
    }
}

impl Worker {
    fn learn<'t>(
        &mut self,
        encoder: &Encoder,
        posts: &Packed,
        targets: impl Iterator<Item = Target<'t>>,
        (loss, r_drop, share): (Loss, f32, f32),
        (rates, seed): (Rates, u64),
        gradient: &mut Gradient,
    ) -> f64 {
        gradient.clear();
        if posts.is_empty() {
            return 0.0;
        }
        self.pass.forward(encoder, posts, rates, seed);
        self.head.forward(encoder, posts, &self.pass);
        let sum = if r_drop > 0.0 {
            // A post's two looks share its weight.
            0.5 * self.head.loss(loss, targets, 0.5 * share) + self.head.divergence(encoder.shape.labels, r_drop, share)
        } else {
            self.head.loss(loss, targets, share)
        };
        self.head.backward(encoder, posts, &self.pass, &mut self.d, gradient);
        self.pass.backward(encoder, posts, &mut self.d, gradient);
        sum
    }
}

/// Where a run lives until it is done.
pub(crate) fn work_folder(out: &Path) -> PathBuf {
    let mut work = out.as_os_str().to_owned();
    work.push(".work");
    PathBuf::from(work)
}

/// What fixes the course of a run: one with other settings can't go on from its state.
fn describe(args: &Args) -> String {
    format!(
        "base {} train {} valid {} epochs {} lr {} head-lr-factor {} layer-decay {} average {} r-drop {} batch {} warmup {} \
         weight-decay {} label-smoothing {} class-weights {:?} head {:?} seed {} dropout {} max-tokens {} clip {} profile {}",
        args.base.display(),
        args.train.display(),
        args.valid.display(),
        args.epochs,
        args.lr,
        args.head_lr_factor,
        args.layer_decay,
        args.average,
        args.r_drop,
        args.batch,
        args.warmup,
        args.weight_decay,
        args.label_smoothing,
        args.class_weights,
        args.head,
        args.seed,
        args.dropout,
        args.max_tokens,
        args.clip,
        args.profile,
    )
}

fn counts(examples: &[Example], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for label in examples.iter().flat_map(|example| &example.labels) {
        counts[*label] += 1;
    }
    counts
}

/// Weights of the classes whose mean over the posts is 1.
fn class_weights(kind: ClassWeights, counts: &[usize]) -> Vec<f32> {
    let raw: Vec<f32> = counts
        .iter()
        .map(|&count| match kind {
            ClassWeights::None => 1.0,
            ClassWeights::Inverse => 1.0 / count.max(1) as f32,
            ClassWeights::Sqrt => 1.0 / (count.max(1) as f32).sqrt(),
        })
        .collect();
    let total: f32 = raw
        .iter()
        .zip(counts)
        .map(|(weight, &count)| weight * count as f32)
        .sum();
    let scale = counts.iter().sum::<usize>() as f32 / total.max(f32::MIN_POSITIVE);
    raw.into_iter().map(|weight| weight * scale).collect()
}

/// The share of the highest learning rate when `done` of the run is over: up in the first `warmup`
/// of it, then down to 0.
pub(crate) fn schedule(done: f32, warmup: f32) -> f32 {
    (done / warmup.max(f32::MIN_POSITIVE))
        .min((1.0 - done) / (1.0 - warmup))
        .clamp(0.0, 1.0)
}

pub(crate) fn bar(length: usize, epoch: usize, epochs: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} {eta} loss {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(format!("epoch {epoch}/{epochs}"));
    bar
}

#[cfg(test)]
mod tests;
