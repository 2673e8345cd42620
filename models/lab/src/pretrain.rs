//! Adaptation to raw posts, which wins back what a vocabulary transfer costs.
//!
//! Two objectives, alone or together: masked-language-model training, which fills in tokens taken
//! out of posts, and distillation from a teacher, the encoder that a carried one was made of, whose
//! states of the same posts the pupil's should point like.

mod args;
mod hide;
mod teacher;

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

pub use args::Args;

use self::{
    args::check,
    hide::Hider,
    teacher::{Lesson, Teacher},
};
use crate::{
    carry,
    checkpoint::{Checkpoint, Staging},
    encoder::{Encoder, Gradient, Masked, MaskedHead, Packed, Pass, Rates},
    optim::{AdamW, Settings},
    tokenizer::Tokenizer,
    train::{
        SAVE_EVERY, TELL_EVERY,
        average::Average,
        bar, schedule,
        state::{self, Progress, State},
        work_folder,
    },
};

/// Runs the step.
///
/// # Errors
///
/// When the input is unfit or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    check(&args)?;
    let base = Checkpoint::read(&args.base)?;
    let tokenizer = Tokenizer::read(&args.base)?;
    let hider = Hider::read(&args.base, base.encoder.shape.vocabulary, args.mask, args.emoji)?;
    let teacher = args
        .teacher
        .as_deref()
        .map(|folder| Teacher::read(folder, &base.encoder.shape))
        .transpose()?;
    let longest = args.max_tokens.min(base.encoder.shape.longest());
    let posts = carry::read_texts(&args.text)?
        .iter()
        .map(|text| {
            let text = args.profile.clean(text);
            let teacher = teacher
                .as_ref()
                .map(|teacher| teacher.encode(&text, longest))
                .transpose()?;
            Ok(Post {
                ids: tokenizer.encode(&text, longest)?,
                teacher_ids: teacher.unwrap_or_default(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let known = base.encoder.shape.vocabulary;
    let largest = posts.iter().flat_map(|post| &post.ids).max().copied().unwrap_or(0);
    ensure!(
        (largest as usize) < known,
        "{}: tokenizer.json gives id {largest}, but the model has {known} embeddings: they don't belong together",
        args.base.display()
    );

    let staging = Staging::new(&args.out)?;
    let mut run = Run::new(&args, base.encoder, hider, teacher)?;
    run.go(&posts)?;
    // The head was the masked tokens'; a classifier draws its own anew.
    Checkpoint {
        encoder: run.encoder.without_head(),
        labels: Vec::new(),
        loss: None,
    }
    .write(staging.path())?;
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

/// A post as the pupil reads it, and as the teacher does.
struct Post {
    ids: Vec<u32>,
    teacher_ids: Vec<u32>,
}

struct Run<'a> {
    args: &'a Args,
    hider: Hider,
    teacher: Option<Teacher>,
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
    lesson: Lesson,
    d: Vec<f32>,
}

/// One thread's part of a batch.
struct Share {
    posts: Packed,
    masked: Vec<Masked>,
    teacher_posts: Packed,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, encoder: Encoder, hider: Hider, teacher: Option<Teacher>) -> Result<Self> {
        let mut encoder = encoder.with_masked_head();
        let settings = Settings {
            head_factor: HEAD_FACTOR,
            words_factor: args.words_lr_factor,
            ..Settings::default()
        };
        let mut optimiser = AdamW::new(&encoder, settings);
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
                let state = State {
                    encoder: &mut encoder,
                    optimiser: &mut optimiser,
                    average: &mut Average::default(),
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
                settings,
                ..Progress::default()
            },
        };
        Ok(Self {
            args,
            hider,
            teacher,
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

    fn go(&mut self, posts: &[Post]) -> Result<()> {
        let total = posts.len().div_ceil(self.args.batch) * self.args.epochs;
        while self.progress.epoch < self.args.epochs {
            let mut order: Vec<&Post> = posts.iter().collect();
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
                    let state = State {
                        encoder: &mut self.encoder,
                        optimiser: &mut self.optimiser,
                        average: &mut Average::default(),
                    };
                    state::save(&self.work, &self.progress, state)?;
                    self.saved = Instant::now();
                }
            }
            bar.finish_and_clear();
            let (loss, count) = std::mem::take(&mut self.progress.loss);
            eprintln!("epoch {}: loss {:.4}", self.progress.epoch + 1, loss / count.max(1.0));
            self.progress.epoch += 1;
            self.progress.batch = 0;
        }
        Ok(())
    }

    /// One step: its loss and 1, for the mean over the steps.
    fn step(&mut self, batch: &[&Post], rate: f32) -> Result<(f64, f64)> {
        let seed = self
            .args
            .seed
            .wrapping_mul(0x1_0000_0001)
            .wrapping_add(self.progress.steps);
        let mut rng = StdRng::seed_from_u64(seed);
        let threads = self.workers.len();
        let shares: Vec<Share> = (0..threads)
            .map(|worker| {
                let mine = || batch.iter().skip(worker).step_by(threads);
                let (posts, masked) = self.hider.hide(mine().map(|post| post.ids.as_slice()), &mut rng);
                let teacher_posts = mine().map(|post| post.teacher_ids.as_slice()).collect();
                Share {
                    posts,
                    masked,
                    teacher_posts,
                }
            })
            .collect();
        let masked: usize = shares.iter().map(|share| share.masked.len()).sum();
        let of_masked = 1.0 / masked.max(1) as f32;
        let of_teacher = self.args.teacher_weight / batch.len().max(1) as f32;
        let rates = Rates {
            hidden: self.args.dropout,
            attention: self.args.dropout,
        };
        let (encoder, teacher) = (&self.encoder, self.teacher.as_ref());
        let losses: Vec<f64> = std::thread::scope(|scope| {
            let parts = self
                .workers
                .iter_mut()
                .zip(&mut self.gradients)
                .zip(&shares)
                .enumerate();
            let workers: Vec<_> = parts
                .map(|(index, ((worker, gradient), share))| {
                    let seed = seed.wrapping_mul(257).wrapping_add(index as u64);
                    scope.spawn(move || {
                        worker.learn(
                            encoder,
                            teacher,
                            share,
                            (of_masked, of_teacher),
                            (rates, seed),
                            gradient,
                        )
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or(f64::NAN))
                .collect()
        });
        let loss: f64 = losses.iter().sum();
        let norm = self.optimiser.step(&mut self.encoder, &mut self.gradients, rate);
        if !loss.is_finite() || !norm.is_finite() {
            bail!(
                "the loss is no number after {} steps: try a lower --lr",
                self.progress.steps
            );
        }
        Ok((loss, 1.0))
    }
}

impl Worker {
    /// Adds the gradient of one share of a batch and returns its part of the mean loss.
    fn learn(
        &mut self,
        encoder: &Encoder,
        teacher: Option<&Teacher>,
        share: &Share,
        (of_masked, of_teacher): (f32, f32),
        (rates, seed): (Rates, u64),
        gradient: &mut Gradient,
    ) -> f64 {
        gradient.clear();
        if share.posts.is_empty() {
            return 0.0;
        }
        self.pass.forward(encoder, &share.posts, rates, seed);
        self.d.clear();
        self.d.resize(self.pass.states().len(), 0.0);
        let mut loss = 0.0;
        if !share.masked.is_empty() {
            let (pass, d) = (&self.pass, &mut self.d);
            loss += f64::from(of_masked) * self.head.learn(encoder, pass, &share.masked, of_masked, d, gradient);
        }
        if let Some(teacher) = teacher {
            let states = self.pass.states();
            let posts = (&share.posts, &share.teacher_posts);
            loss += self.lesson.learn(teacher, posts, states, of_teacher, &mut self.d);
        }
        self.pass.backward(encoder, &share.posts, &mut self.d, gradient);
        loss
    }
}

/// The masked head, which begins as good as empty, learns so much faster than the encoder.
const HEAD_FACTOR: f32 = 10.0;

fn describe(args: &Args) -> String {
    let texts: Vec<String> = args.text.iter().map(|path| path.display().to_string()).collect();
    format!(
        "base {} text {} epochs {} lr {} batch {} warmup {} words-lr-factor {} mask {} emoji {} \
         teacher {} {} seed {} dropout {} max-tokens {} profile {}",
        args.base.display(),
        texts.join(","),
        args.epochs,
        args.lr,
        args.batch,
        args.warmup,
        args.words_lr_factor,
        args.mask,
        args.emoji,
        args.teacher
            .as_deref()
            .map_or("none".into(), |path| path.to_string_lossy()),
        args.teacher_weight,
        args.seed,
        args.dropout,
        args.max_tokens,
        args.profile,
    )
}
