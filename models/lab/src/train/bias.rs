//! Fits the head's biases to the macro-F1 after training.
//!
//! Cross-entropy reproduces the frequencies of the labels, so rare labels are predicted too seldom for macro-F1, which
//! weights all labels alike. Constants added to the logits ("logit adjustment") correct this balance.

use std::path::Path;

use anyhow::Result;

use super::{
    data::Example,
    evaluate::{self, Figures, Scored},
};
use crate::{checkpoint::Checkpoint, encoder::Loss};

/// Offsets that are tried, in logits.
const STEP: f32 = 0.05;
const STEPS: i32 = 40;

/// The least gain in macro-F1 for which an offset is changed: less may be chance.
const LEAST: f64 = 5e-4;

/// Times through the classes.
const ROUNDS: usize = 10;

/// Fits the biases of the checkpoint in `folder` to the posts, and evaluates it again.
pub(super) fn fit_checkpoint(folder: &Path, valid: &[Example], threads: usize) -> Result<Figures> {
    let mut model = Checkpoint::read(folder)?;
    let classes = model.labels.len();
    let mut posts = evaluate::score(&model.encoder, valid, threads)?;
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
    Ok(evaluate::evaluate(&posts, classes, Loss::Softmax))
}

/// Offsets for the logits of `classes` classes that raise the macro-F1 on the posts, by coordinate ascent.
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
/// [`evaluate`](evaluate::evaluate) does.
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
    fn a_class_that_is_predicted_too_seldom_gets_a_higher_bias() {
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
    fn biases_of_a_model_without_errors_stay_zero() {
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
