//! Tests whether the difference between two models is significant.
//!
//! The paired bootstrap draws samples of the test posts with replacement and computes the difference of the macro-F1 of both
//! models on each (B. Efron and R. Tibshirani, *An Introduction to the Bootstrap*, 1993; for language
//! processing: T. Berg-Kirkpatrick, D. Burkett and D. Klein, *An Empirical Investigation of Statistical Significance in NLP*,
//! EMNLP 2012). With several comparisons, S. Holm's step-down correction keeps the chance of one false difference at 5 %.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Number of samples.
const ROUNDS: usize = 2_000;
/// The significance level.
const LEVEL: f64 = 0.05;

/// A figure and its 95 % interval, or a difference of two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bootstrap {
    /// On all posts.
    pub(super) value: f64,
    /// The 2.5 % quantile of the samples.
    pub(super) low: f64,
    /// The 97.5 % quantile.
    pub(super) high: f64,
    /// The p-value of a difference: twice the share of samples on the other side of 0.
    pub(super) p: f64,
}

/// The macro-F1 of `predicted`; all positions are below `labels`.
pub(super) fn macro_f1(truth: &[usize], predicted: &[usize], labels: usize, seed: u64) -> Bootstrap {
    bootstrap(truth.len(), seed, |draw| f1(truth, predicted, labels, draw))
}

/// The macro-F1 of `one` less that of `other` on the same posts.
pub(super) fn difference(truth: &[usize], one: &[usize], other: &[usize], labels: usize, seed: u64) -> Bootstrap {
    bootstrap(truth.len(), seed, |draw| {
        f1(truth, one, labels, draw) - f1(truth, other, labels, draw)
    })
}

fn bootstrap(posts: usize, seed: u64, figure: impl Fn(&[usize]) -> f64 + Sync) -> Bootstrap {
    let mut values: Vec<f64> = (0..ROUNDS as u64)
        .into_par_iter()
        .map(|round| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(round);
            let drawn: Vec<usize> = (0..posts).map(|_| random.random_range(0..posts)).collect();
            figure(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let at = |quantile: f64| values[((ROUNDS - 1) as f64 * quantile).round() as usize];
    let share = |of: &dyn Fn(f64) -> bool| values.iter().filter(|&&value| of(value)).count() as f64 / ROUNDS as f64;
    let p = 2.0 * share(&|value| value <= 0.0).min(share(&|value| value >= 0.0));
    Bootstrap {
        value: figure(&(0..posts).collect::<Vec<usize>>()),
        low: at(0.025),
        high: at(0.975),
        // With no sample on the other side, p is below one over the number of samples.
        p: p.clamp(1.0 / ROUNDS as f64, 1.0),
    }
}

/// The macro-F1 on a sample, over the labels that occur in it.
fn f1(truth: &[usize], predicted: &[usize], labels: usize, draw: &[usize]) -> f64 {
    let mut counts = vec![(0_u32, 0_u32, 0_u32); labels];
    for &at in draw {
        counts[truth[at]].0 += 1;
        counts[predicted[at]].1 += 1;
        counts[truth[at]].2 += u32::from(truth[at] == predicted[at]);
    }
    let occurring = counts.iter().filter(|(members, ..)| *members > 0);
    let (sum, count) = occurring.fold((0.0, 0.0), |(sum, count), &(members, given, hits)| {
        (sum + 2.0 * f64::from(hits) / f64::from(members + given), count + 1.0)
    });
    if count > 0.0 { sum / count } else { 0.0 }
}

/// Which p-values are significant after Holm's correction.
pub(super) fn holm(p: &[f64]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&one, &other| p[one].total_cmp(&p[other]));
    let mut differ = vec![false; p.len()];
    for (rank, at) in order.into_iter().enumerate() {
        if p[at] > LEVEL / (p.len() - rank) as f64 {
            break;
        }
        differ[at] = true;
    }
    differ
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    /// 400 posts of three classes; `wrong` of every 20 predictions are wrong.
    fn answers(wrong: usize, shift: usize) -> (Vec<usize>, Vec<usize>) {
        let truth: Vec<usize> = (0..400).map(|at| at % 3).collect();
        let predicted = (0..400)
            .map(|at| {
                if (at + shift) % 20 < wrong {
                    (at + 1) % 3
                } else {
                    at % 3
                }
            })
            .collect();
        (truth, predicted)
    }

    #[test]
    fn the_macro_f1_equals_that_of_the_metrics_and_is_in_its_interval() {
        let (truth, predicted) = answers(6, 0);
        let found = macro_f1(&truth, &predicted, 3, 1);
        let report = metrics::single_label(&["a", "b", "c"], &truth, &predicted);
        assert!((found.value - report.macro_f1).abs() < 1e-12);
        assert!(found.low < found.value && found.value < found.high);
        // The standard error of a share of 0.7 of 400 posts is 0.023.
        assert!((found.high - found.low - 4.0 * 0.023).abs() < 0.02, "{found:?}");
        assert_eq!(found, macro_f1(&truth, &predicted, 3, 1));
    }

    #[test]
    fn large_differences_are_significant_and_small_ones_are_not() {
        let (truth, good) = answers(2, 0);
        let (_, bad) = answers(8, 0);
        let (_, as_good) = answers(2, 7);
        let clear = difference(&truth, &good, &bad, 3, 1);
        assert!(clear.p < 0.01 && clear.low > 0.0, "{clear:?}");
        let none = difference(&truth, &good, &as_good, 3, 1);
        assert!(none.p > 0.5 && none.low < 0.0 && none.high > 0.0, "{none:?}");
        let same = difference(&truth, &good, &good, 3, 1);
        assert_eq!((same.value, same.p), (0.0, 1.0));
    }

    #[test]
    fn holm_compares_the_least_p_value_with_the_strictest_level() {
        assert_eq!(holm(&[0.03, 0.01, 0.02]), [true, true, true]);
        assert_eq!(holm(&[0.03, 0.02, 0.04]), [false, false, false]);
        assert_eq!(holm(&[0.9, 0.01]), [false, true]);
        assert!(holm(&[]).is_empty());
    }
}
