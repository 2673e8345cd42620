//! Adaptation to raw posts, which makes up for the loss of a vocabulary transfer.
//!
//! It has two objectives, which can be combined: masked language modelling, and distillation from a teacher. The teacher is
//! the encoder that the checkpoint was carried from; the cosine distance between the states of both on the same posts is
//! minimised.

mod args;
mod mask;
mod teacher;

use anyhow::Result;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

pub use args::Args;

use self::{
    mask::Masker,
    teacher::{Distillation, Teacher},
};
use crate::{
    carry,
    checkpoint::Checkpoint,
    encoder::{Encoder, Gradient, Masked, MaskedHead, Packed, Pass, Rates},
    files::Staging,
    optim::Settings,
    tokenizer,
    training::{Training, ensure_known},
};

/// The learning rate of the masked head, which starts almost from zero, as a factor on the encoder's.
const HEAD_FACTOR: f32 = 10.0;

/// Runs the step.
///
/// # Errors
///
/// When the input is invalid or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    args.check()?;
    let common = &args.common;
    let Checkpoint {
        encoder: base, family, ..
    } = Checkpoint::read_to_write(&common.base)?;
    let tokenizer = tokenizer::read(&common.base)?;
    let masker = Masker::read(&common.base, base.shape.vocabulary, args.mask, args.emoji)?;
    let teacher = args
        .teacher
        .as_deref()
        .map(|folder| Teacher::read(folder, &base.shape))
        .transpose()?;
    let longest = common.max_tokens.min(base.shape.longest());
    let posts = carry::read_texts(&args.text)?
        .iter()
        .map(|text| {
            let text = common.profile.clean(text);
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
    ensure_known(posts.iter().flat_map(|post| &post.ids), &base.shape, &common.base)?;

    let staging = Staging::new(&common.out)?;
    let settings = Settings {
        head_factor: HEAD_FACTOR,
        words_factor: args.words_lr_factor,
        ..Settings::default()
    };
    let mut training = Training::new(common, args.describe()?, base.with_masked_head(), settings, 0.0)?;
    let mut pretrainer = Pretrainer {
        masker,
        teacher,
        teacher_weight: args.teacher_weight,
        workers: (0..common.threads).map(|_| PretrainWorker::default()).collect(),
    };
    while training.progress.epoch < common.epochs && !training.is_out_of_time() {
        let epoch = training.progress.epoch;
        let mut order: Vec<&Post> = posts.iter().collect();
        order.shuffle(&mut StdRng::seed_from_u64(common.seed.wrapping_add(epoch as u64)));
        let batches: Vec<&[&Post]> = order.chunks(common.batch).collect();
        let loss = training.epoch(&batches, |training, batch, rate| pretrainer.step(training, batch, rate))?;
        eprintln!("epoch {}: loss {loss:.4}", epoch + 1);
        training.save()?;
    }
    // The masked head is dropped; `train` initialises its own.
    Checkpoint {
        encoder: training.model.averaged().without_head(),
        labels: Vec::new(),
        loss: None,
        family,
    }
    .write(staging.path())?;
    tokenizer::copy(&common.base, staging.path())?;
    staging.finish()?;
    println!(
        "{}: {} posts read, {} steps",
        common.out.display(),
        posts.len(),
        training.progress.steps
    );
    training.remove_state();
    Ok(())
}

/// A post in the tokens of the student and in those of the teacher.
struct Post {
    ids: Vec<u32>,
    teacher_ids: Vec<u32>,
}

/// What a step needs besides the weights.
struct Pretrainer {
    masker: Masker,
    teacher: Option<Teacher>,
    teacher_weight: f32,
    workers: Vec<PretrainWorker>,
}

/// One thread's buffers.
#[derive(Default)]
struct PretrainWorker {
    pass: Pass,
    head: MaskedHead,
    distillation: Distillation,
    d: Vec<f32>,
}

/// One thread's part of a batch.
struct Share {
    posts: Packed,
    masked: Vec<Masked>,
    teacher_posts: Packed,
}

impl Pretrainer {
    /// Takes a step, and returns its loss and the weight 1.
    fn step(&mut self, training: &mut Training<'_, ()>, batch: &[&Post], rate: f32) -> Result<(f64, f64)> {
        let mut rng = StdRng::seed_from_u64(training.seed());
        let threads = self.workers.len();
        let shares: Vec<Share> = (0..threads)
            .map(|worker| {
                let mine = || batch.iter().skip(worker).step_by(threads);
                let (posts, masked) = self.masker.mask(mine().map(|post| post.ids.as_slice()), &mut rng);
                let teacher_posts = mine().map(|post| post.teacher_ids.as_slice()).collect();
                Share {
                    posts,
                    masked,
                    teacher_posts,
                }
            })
            .collect();
        let masked: usize = shares.iter().map(|share| share.masked.len()).sum();
        let masked_weight = 1.0 / masked.max(1) as f32;
        let teacher_weight = self.teacher_weight / batch.len().max(1) as f32;
        let teacher = self.teacher.as_ref();
        let loss = training.learn(&mut self.workers, rate, |worker, part, encoder, gradient| {
            let (share, dropout) = (&shares[part.index], (part.rates, part.seed));
            worker.learn(
                encoder,
                teacher,
                share,
                (masked_weight, teacher_weight),
                dropout,
                gradient,
            )
        })?;
        Ok((loss, 1.0))
    }
}

impl PretrainWorker {
    /// Adds the gradient of one share of a batch and returns its part of the mean loss.
    fn learn(
        &mut self,
        encoder: &Encoder,
        teacher: Option<&Teacher>,
        share: &Share,
        (masked_weight, teacher_weight): (f32, f32),
        (rates, seed): (Rates, u64),
        gradient: &mut Gradient,
    ) -> f64 {
        if share.posts.is_empty() {
            return 0.0;
        }
        self.pass.forward(encoder, &share.posts, rates, seed);
        self.d.clear();
        self.d.resize(self.pass.states().len(), 0.0);
        let mut loss = 0.0;
        if !share.masked.is_empty() {
            let (pass, d) = (&self.pass, &mut self.d);
            loss += f64::from(masked_weight)
                * self
                    .head
                    .learn(encoder, pass, &share.masked, masked_weight, d, gradient);
        }
        if let Some(teacher) = teacher {
            let states = self.pass.states();
            let posts = (&share.posts, &share.teacher_posts);
            loss += self
                .distillation
                .learn(teacher, posts, states, teacher_weight, &mut self.d);
        }
        self.pass.backward(encoder, &share.posts, &mut self.d, gradient);
        loss
    }
}
