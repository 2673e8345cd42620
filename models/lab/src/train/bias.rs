//! Fitting the head's biases to macro-F1, once the rest is trained.
//!
//! Cross-entropy asks for the labels' true frequencies, under which rare labels are given too
//! seldom for a figure that counts all labels alike. A constant added to a class's logit ("logit
//! adjustment") moves that balance and nothing else.

use std::path::Path;

use anyhow::Result;

use super::{
    data::Example,
    judge::{self, Figures, Scored},
};
use crate::{checkpoint::Checkpoint, encoder::Loss};

/// Offsets that are tried, in logits.
const STEP: f32 = 0.05;
const STEPS: i32 = 40;

/// What a change must bring: less is chance.
const LEAST: f64 = 5e-4;

/// Times through the classes.
const ROUNDS: usize = 10;

/// Moves the biases of the checkpoint in `folder` to what is best for the posts, and judges it anew.
pub(super) fn fit_checkpoint(folder: &Path, valid: &[Example], threads: usize) -> Result<Figures> {
    let mut model = Checkpoint::read(folder)?;
    let classes = model.labels.len();
    let mut posts = judge::score(&model.encoder, valid, threads)?;
    let offsets = fit(&posts, classes);
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

/// Offsets for the logits of `classes` classes that are good for the macro-F1 of the posts: each in
/// turn, until none brings more.
fn fit(posts: &[Scored], classes: usize) -> Vec<f32> {
    let mut offsets = vec![0.0; classes];
    let mut best = macro_f1(posts, &offsets);
    for _ in 0..ROUNDS {
        let before = best;
        for class in 0..classes {
            let mut tried = offsets.clone();
            for step in -STEPS..=STEPS {
                tried[class] = step as f32 * STEP;
                let f1 = macro_f1(posts, &tried);
                if f1 > best + LEAST {
                    best = f1;
                    offsets[class] = tried[class];
                }
            }
        }
        if best == before {
            break;
        }
    }
    offsets
}

/// Macro-F1 of the classes with the largest sum of logit and offset, counted as
/// [`judge`](super::judge::judge) does.
fn macro_f1(posts: &[Scored], offsets: &[f32]) -> f64 {
    let classes = offsets.len();
    let (mut hits, mut marks) = (vec![0_u32; classes], vec![0_u32; classes]);
    for post in posts {
        let mut top = 0;
        for class in 1..classes {
            if post.logits[class] + offsets[class] > post.logits[top] + offsets[top] {
                top = class;
            }
        }
        let truth = if post.labels.contains(&top) {
            top
        } else {
            post.labels[0]
        };
        hits[top] += u32::from(truth == top);
        marks[top] += 1;
        marks[truth] += 1;
    }
    let sum: f64 = hits
        .iter()
        .zip(&marks)
        .map(|(&hits, &marks)| 2.0 * f64::from(hits) / f64::from(marks.max(1)))
        .sum();
    sum / classes.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_is_given_too_seldom_is_helped() {
        // Class 1 is right wherever its logit is above -0.5, but class 0 has 0.
        let posts: Vec<Scored> = (0..40)
            .map(|at| {
                let logit = -0.025 * at as f32;
                Scored {
                    labels: vec![usize::from(logit > -0.5)],
                    unknown: Vec::new(),
                    logits: vec![0.0, logit - 0.01],
                }
            })
            .collect();
        let offsets = fit(&posts, 2);
        assert!(macro_f1(&posts, &[0.0, 0.0]) < 0.5);
        assert!(macro_f1(&posts, &offsets) > 0.97, "{offsets:?}");
    }

    #[test]
    fn what_is_right_stays() {
        let posts: Vec<Scored> = (0..9)
            .map(|at| Scored {
                labels: vec![at % 3],
                unknown: Vec::new(),
                logits: (0..3).map(|class| if class == at % 3 { 0.3 } else { 0.0 }).collect(),
            })
            .collect();
        assert!(fit(&posts, 3).iter().all(|&offset| offset == 0.0));
    }
}
