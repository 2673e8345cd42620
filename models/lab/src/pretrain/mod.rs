//! Adaptation to raw posts, which wins back what a vocabulary transfer costs.
//!
//! Two objectives, alone or together: masked-language-model training, which fills in tokens taken
//! out of posts, and distillation from a teacher, the encoder that a carried one was made of, whose
//! states of the same posts the pupil's should point like.

mod args;
mod hide;
mod teacher;

use anyhow::Result;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

pub use args::Args;

use self::{
    hide::Hider,
    teacher::{Lesson, Teacher},
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

/// The masked head, which begins as good as empty, learns so much faster than the encoder.
const HEAD_FACTOR: f32 = 10.0;

/// Runs the step.
///
/// # Errors
///
/// When the input is unfit or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    args.check()?;
    let common = &args.common;
    let Checkpoint {
        encoder: base, family, ..
    } = Checkpoint::read(&common.base)?;
    let tokenizer = tokenizer::read(&common.base)?;
    let hider = Hider::read(&common.base, base.shape.vocabulary, args.mask, args.emoji)?;
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
    let mut adapter = Adapter {
        hider,
        teacher,
        teacher_weight: args.teacher_weight,
        workers: (0..common.threads).map(|_| Worker::default()).collect(),
    };
    while training.progress.epoch < common.epochs && !training.is_out_of_time() {
        let epoch = training.progress.epoch;
        let mut order: Vec<&Post> = posts.iter().collect();
        order.shuffle(&mut StdRng::seed_from_u64(common.seed.wrapping_add(epoch as u64)));
        let batches: Vec<&[&Post]> = order.chunks(common.batch).collect();
        let loss = training.epoch(&batches, |training, batch, rate| adapter.step(training, batch, rate))?;
        eprintln!("epoch {}: loss {loss:.4}", epoch + 1);
        training.save()?;
    }
    // The head was the masked tokens'; a classifier draws its own anew.
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
    training.forget();
    Ok(())
}

/// A post as the pupil reads it, and as the teacher does.
struct Post {
    ids: Vec<u32>,
    teacher_ids: Vec<u32>,
}

/// What steps are made of, beside the weights.
struct Adapter {
    hider: Hider,
    teacher: Option<Teacher>,
    teacher_weight: f32,
    workers: Vec<Worker>,
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

impl Adapter {
    /// One step: its loss and 1, for the mean over the steps.
    fn step(&mut self, training: &mut Training<'_, ()>, batch: &[&Post], rate: f32) -> Result<(f64, f64)> {
        let mut rng = StdRng::seed_from_u64(training.seed());
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
        let of_teacher = self.teacher_weight / batch.len().max(1) as f32;
        let teacher = self.teacher.as_ref();
        let loss = training.learn(&mut self.workers, rate, |worker, part, encoder, gradient| {
            let (share, dropout) = (&shares[part.index], (part.rates, part.seed));
            worker.learn(encoder, teacher, share, (of_masked, of_teacher), dropout, gradient)
        })?;
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
