//! Distillation: the states of the student should have the directions of the teacher's.
//!
//! Both have their own vocabulary, so their tokens differ. The distance is computed from the two states that represent a whole
//! post: the mean over its tokens, which sentence encoders are trained on, and the first token's, which a classifier uses.

use std::path::Path;

use anyhow::{Result, ensure};
use moodstream::model::Subwords;

use crate::{
    checkpoint::Checkpoint,
    encoder::{Encoder, Packed, Pass, Rates, Shape},
    tokenizer,
};

/// An encoder to learn from, with its tokenizer.
pub(super) struct Teacher {
    encoder: Encoder,
    tokenizer: Subwords,
}

impl Teacher {
    pub(super) fn read(folder: &Path, student: &Shape) -> Result<Self> {
        let encoder = Checkpoint::read(folder)?.encoder;
        ensure!(
            encoder.shape.hidden == student.hidden,
            "{}: a teacher {} wide can't teach a checkpoint {} wide",
            folder.display(),
            encoder.shape.hidden,
            student.hidden
        );
        Ok(Self {
            tokenizer: tokenizer::read(folder)?,
            encoder,
        })
    }

    pub(super) fn encode(&self, text: &str, longest: usize) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(text, longest.min(self.encoder.shape.longest()))?;
        let known = self.encoder.shape.vocabulary;
        ensure!(
            ids.iter().all(|&id| (id as usize) < known),
            "the teacher's tokenizer.json has ids beyond its {known} embeddings: they don't belong together"
        );
        Ok(ids)
    }
}

/// One thread's buffers.
#[derive(Default)]
pub(super) struct Distillation {
    pass: Pass,
}

impl Distillation {
    /// Adds to `d` the gradient of the distance between the student's `states` and the teacher's, and returns the distance,
    /// both multiplied by `weight`. A post's distance is 1 less the cosine, averaged over its two states: from 0 for the same
    /// direction to 2 for the opposite one.
    pub(super) fn learn(
        &mut self,
        teacher: &Teacher,
        (posts, teacher_posts): (&Packed, &Packed),
        states: &[f32],
        weight: f32,
        d: &mut [f32],
    ) -> f64 {
        let hidden = teacher.encoder.shape.hidden;
        let truth = self.pass.forward(&teacher.encoder, teacher_posts, Rates::default(), 0);
        let mut distance = 0.0;
        for (post, teacher_post) in posts.posts().zip(teacher_posts.posts()) {
            let place = post.start * hidden..post.end * hidden;
            let truth = &truth[teacher_post.start * hidden..teacher_post.end * hidden];
            let (states, d) = (&states[place.clone()], &mut d[place]);
            let (whole, slope) = cosine_distance(&mean(states, hidden), &mean(truth, hidden));
            let share = 0.5 * weight / post.len() as f32;
            for d in d.chunks_exact_mut(hidden) {
                add_scaled(d, &slope, share);
            }
            let (first, slope) = cosine_distance(&states[..hidden], &truth[..hidden]);
            add_scaled(&mut d[..hidden], &slope, 0.5 * weight);
            distance += 0.5 * f64::from(weight) * f64::from(whole + first);
        }
        distance
    }
}

fn add_scaled(sum: &mut [f32], values: &[f32], scale: f32) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += scale * value;
    }
}

fn mean(states: &[f32], hidden: usize) -> Vec<f32> {
    let share = hidden as f32 / states.len().max(1) as f32;
    let mut mean = vec![0.0; hidden];
    for state in states.chunks_exact(hidden) {
        add_scaled(&mut mean, state, share);
    }
    mean
}

/// 1 less the cosine of `a` and `b`, and its gradient with respect to `a`.
fn cosine_distance(a: &[f32], b: &[f32]) -> (f32, Vec<f32>) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let (length, other) = (dot(a, a).sqrt().max(1e-12), dot(b, b).sqrt().max(1e-12));
    let cosine = dot(a, b) / (length * other);
    let slope = |(a, b): (&f32, &f32)| (cosine * a / length - b / other) / length;
    (1.0 - cosine, a.iter().zip(b).map(slope).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_agrees_with_finite_differences() {
        let (a, b) = ([0.3, -1.2, 0.7], [1.0, 0.1, 0.4]);
        let (_, slope) = cosine_distance(&a, &b);
        for place in 0..3 {
            let moved = |by: f32| {
                let mut a = a;
                a[place] += by;
                cosine_distance(&a, &b).0
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!(
                (difference - slope[place]).abs() < 1e-3,
                "{difference} {}",
                slope[place]
            );
        }
        assert!(cosine_distance(&b, &b).0.abs() < 1e-6);
    }
}
