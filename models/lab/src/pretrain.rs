//! Masked-language-model adaptation: a checkpoint reads raw posts and learns to fill in tokens
//! taken out of them, which wins back what a vocabulary transfer costs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use moodstream::clean::Profile;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    carry,
    checkpoint::{Checkpoint, Staging},
    encoder::{Encoder, Gradient, Masked, MaskedHead, Packed, Pass, Rates},
    optim::{AdamW, Settings},
    tokenizer::Tokenizer,
    train::{
        SAVE_EVERY, TELL_EVERY, bar, schedule,
        state::{self, Progress},
        work_folder,
    },
};

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Checkpoint folder to start from
    #[arg(long)]
    base: PathBuf,
    /// Raw text: the first column of TSV, or whole lines; .zst too (may be repeated)
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Folder to make; a killed run goes on from OUT.work
    #[arg(long)]
    out: PathBuf,
    /// Times through the text
    #[arg(long, default_value_t = 1)]
    epochs: usize,
    /// Highest learning rate
    #[arg(long, default_value_t = 2e-4)]
    lr: f32,
    /// Posts a step
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.06)]
    warmup: f32,
    /// Share of the tokens taken out
    #[arg(long, default_value_t = 0.15)]
    mask: f32,
    /// Seed of order, masks and dropout
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Dropout rate of states and attention
    #[arg(long, default_value_t = 0.0)]
    dropout: f32,
    /// Tokens of a post that are looked at
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// Minutes after which to stop; the learning rate falls to 0 by then
    #[arg(long)]
    minutes: Option<f32>,
    /// How the texts are cleaned
    #[arg(long, default_value_t = Profile::TwitterRoberta)]
    profile: Profile,
    /// Threads
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    threads: usize,
}

/// Runs the step.
///
/// # Errors
///
/// When the input is unfit or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    ensure!(
        args.mask > 0.0 && args.mask < 1.0,
        "--mask {}: must be between 0 and 1",
        args.mask
    );
    ensure!(
        (0.0..1.0).contains(&args.dropout),
        "--dropout {}: must be from 0 to below 1",
        args.dropout
    );
    ensure!(
        (0.0..1.0).contains(&args.warmup),
        "--warmup {}: must be from 0 to below 1",
        args.warmup
    );
    ensure!(
        args.lr.is_finite() && args.lr > 0.0,
        "--lr {}: must be above 0",
        args.lr
    );
    ensure!(
        args.epochs > 0 && args.batch > 0 && args.max_tokens > 2,
        "--epochs, --batch and --max-tokens: too small"
    );
    ensure!(
        (1..=256).contains(&args.threads),
        "--threads {}: must be from 1 to 256",
        args.threads
    );
    let base = Checkpoint::read(&args.base)?;
    let tokenizer = Tokenizer::read(&args.base)?;
    let mask = mask_id(&args.base)?;
    let longest = args.max_tokens.min(base.encoder.shape.longest());
    let posts = carry::read_texts(&args.text)?
        .iter()
        .map(|text| tokenizer.encode(&args.profile.clean(text), longest))
        .collect::<Result<Vec<_>>>()?;
    let known = base.encoder.shape.vocabulary;
    let largest = posts.iter().flatten().max().copied().unwrap_or(0).max(mask);
    ensure!(
        (largest as usize) < known,
        "{}: tokenizer.json gives id {largest}, but the model has {known} embeddings: they don't belong together",
        args.base.display()
    );

    let staging = Staging::new(&args.out)?;
    let mut run = Run::new(&args, base.encoder, mask)?;
    run.go(&posts)?;
    let (encoder, labels, loss) = (run.encoder, base.labels, base.loss);
    Checkpoint { encoder, labels, loss }.write(staging.path())?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = args.base.join(file);
        if from.exists() {
            fs::copy(&from, staging.path().join(file)).with_context(|| format!("can't copy {}", from.display()))?;
        }
    }
    staging.finish()?;
    let _ = fs::remove_dir_all(&run.work);
    println!(
        "{}: {} posts read, {} steps",
        args.out.display(),
        posts.len(),
        run.progress.steps
    );
    Ok(())
}

/// The id of `<mask>` in a tokenizer.
fn mask_id(folder: &Path) -> Result<u32> {
    let path = folder.join("tokenizer.json");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
    let added = json.get("added_tokens").and_then(serde_json::Value::as_array);
    added
        .into_iter()
        .flatten()
        .find(|token| token.get("content").is_some_and(|content| content == "<mask>"))
        .and_then(|token| u32::try_from(token.get("id")?.as_u64()?).ok())
        .with_context(|| format!("{}: no token <mask>", path.display()))
}

struct Run<'a> {
    args: &'a Args,
    mask: u32,
    work: PathBuf,
    encoder: Encoder,
    optimiser: AdamW,
    progress: Progress,
    workers: Vec<Worker>,
    gradients: Vec<Gradient>,
    started: Instant,
    saved: Instant,
    told: Instant,
}

#[derive(Default)]
struct Worker {
    pass: Pass,
    head: MaskedHead,
    d: Vec<f32>,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, mut encoder: Encoder, mask: u32) -> Result<Self> {
        let mut optimiser = AdamW::new(&encoder, Settings::default());
        let work = work_folder(&args.out);
        fs::create_dir_all(&work).with_context(|| format!("can't make {}", work.display()))?;
        let settings = describe(args);
        let progress = match state::read_progress(&work)? {
            Some(progress) if progress.settings != settings => bail!(
                "{} holds a run with other settings ({}): remove it, or name another --out",
                work.display(),
                progress.settings
            ),
            Some(progress) => {
                state::restore(&work, &progress, &mut encoder, &mut optimiser)?;
                eprintln!(
                    "going on in epoch {} after {} steps",
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
        Ok(Self {
            args,
            mask,
            work,
            gradients: (0..args.threads)
                .map(|_| Gradient::new(&encoder.shape, &encoder.layout))
                .collect(),
            encoder,
            optimiser,
            progress,
            workers: (0..args.threads).map(|_| Worker::default()).collect(),
            started: Instant::now(),
            saved: Instant::now(),
            told: Instant::now(),
        })
    }

    fn spent(&self) -> f32 {
        let minutes = self.started.elapsed().as_secs_f32() / 60.0;
        self.args.minutes.map_or(0.0, |allowed| minutes / allowed)
    }

    fn go(&mut self, posts: &[Vec<u32>]) -> Result<()> {
        let total = posts.len().div_ceil(self.args.batch) * self.args.epochs;
        while self.progress.epoch < self.args.epochs {
            let mut order: Vec<&[u32]> = posts.iter().map(Vec::as_slice).collect();
            order.shuffle(&mut StdRng::seed_from_u64(
                self.args.seed.wrapping_add(self.progress.epoch as u64),
            ));
            let bar = bar(
                order.len().div_ceil(self.args.batch),
                self.progress.epoch + 1,
                self.args.epochs,
            );
            bar.set_position(self.progress.batch as u64);
            for batch in order.chunks(self.args.batch).skip(self.progress.batch) {
                let done = ((self.progress.steps as f32 + 1.0) / (total as f32 + 1.0)).max(self.spent());
                if done >= 1.0 {
                    return Ok(());
                }
                let (loss, count) = self.step(batch, self.args.lr * schedule(done, self.args.warmup))?;
                let sums = &mut self.progress.loss;
                *sums = (sums.0 + loss, sums.1 + count);
                self.progress.batch += 1;
                self.progress.steps += 1;
                let mean = sums.0 / sums.1.max(1.0);
                bar.inc(1);
                bar.set_message(format!("{mean:.4}"));
                if bar.is_hidden() && self.told.elapsed() > TELL_EVERY {
                    eprintln!(
                        "step {}: loss {mean:.4}, {:.0} % done",
                        self.progress.steps,
                        100.0 * done
                    );
                    self.told = Instant::now();
                }
                if self.saved.elapsed() > SAVE_EVERY {
                    state::save(&self.work, &self.progress, &self.encoder, &self.optimiser)?;
                    self.saved = Instant::now();
                }
            }
            bar.finish_and_clear();
            let (loss, count) = std::mem::take(&mut self.progress.loss);
            eprintln!(
                "epoch {}: loss {:.4} a masked token",
                self.progress.epoch + 1,
                loss / count.max(1.0)
            );
            self.progress.epoch += 1;
            self.progress.batch = 0;
        }
        Ok(())
    }

    /// One step: the summed loss and the number of masked tokens.
    fn step(&mut self, batch: &[&[u32]], rate: f32) -> Result<(f64, f64)> {
        let seed = self
            .args
            .seed
            .wrapping_mul(0x1_0000_0001)
            .wrapping_add(self.progress.steps);
        let mut rng = StdRng::seed_from_u64(seed);
        let shares: Vec<(Packed, Vec<Masked>)> = (0..self.workers.len())
            .map(|worker| self.hide(batch.iter().skip(worker).step_by(self.workers.len()), &mut rng))
            .collect();
        let count: usize = shares.iter().map(|(_, masked)| masked.len()).sum();
        let share = 1.0 / count.max(1) as f32;
        let (encoder, rates) = (
            &self.encoder,
            Rates {
                hidden: self.args.dropout,
                attention: self.args.dropout,
            },
        );
        let losses: Vec<f64> = std::thread::scope(|scope| {
            let parts = self
                .workers
                .iter_mut()
                .zip(&mut self.gradients)
                .zip(&shares)
                .enumerate();
            let workers: Vec<_> = parts
                .map(|(index, ((worker, gradient), (posts, masked)))| {
                    scope.spawn(move || {
                        gradient.clear();
                        if masked.is_empty() {
                            return 0.0;
                        }
                        worker
                            .pass
                            .forward(encoder, posts, rates, seed.wrapping_mul(257).wrapping_add(index as u64));
                        let loss = worker
                            .head
                            .learn(encoder, &worker.pass, masked, share, &mut worker.d, gradient);
                        worker.pass.backward(encoder, posts, &mut worker.d, gradient);
                        loss
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
        Ok((sum, count as f64))
    }

    /// Takes tokens out of posts as BERT did: of those chosen, 80 % become `<mask>`, 10 % any
    /// token, 10 % stay. The frame's special tokens are left alone.
    fn hide<'p>(&self, posts: impl Iterator<Item = &'p &'p [u32]>, rng: &mut StdRng) -> (Packed, Vec<Masked>) {
        let (mut packed, mut masked) = (Packed::default(), Vec::new());
        let vocabulary = self.encoder.shape.vocabulary as u32;
        for post in posts {
            let start = packed.len();
            let mut ids = post.to_vec();
            let last = ids.len().saturating_sub(1);
            for (place, id) in ids.iter_mut().enumerate().take(last).skip(1) {
                if rng.random::<f32>() >= self.args.mask {
                    continue;
                }
                masked.push(Masked {
                    at: start + place,
                    id: *id,
                });
                *id = match rng.random_range(0..10) {
                    0 => *id,
                    1 => rng.random_range(0..vocabulary),
                    _ => self.mask,
                };
            }
            packed.push(&ids);
        }
        (packed, masked)
    }
}

fn describe(args: &Args) -> String {
    let texts: Vec<String> = args.text.iter().map(|path| path.display().to_string()).collect();
    format!(
        "base {} text {} epochs {} lr {} batch {} warmup {} mask {} seed {} dropout {} max-tokens {} profile {}",
        args.base.display(),
        texts.join(","),
        args.epochs,
        args.lr,
        args.batch,
        args.warmup,
        args.mask,
        args.seed,
        args.dropout,
        args.max_tokens,
        args.profile,
    )
}
