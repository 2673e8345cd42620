//! Finds the best temperature or threshold.

/// The lowest and highest temperature, and the lowest and highest factor on a previous one.
const BOUNDS: (f64, f64) = (0.05, 20.0);
/// Rounds of the golden-section search: each reduces the interval to 0.62 of its length, 60 to 10⁻¹².
const ROUNDS: usize = 60;
/// Scores are multiples of 2⁻²⁰, so a score of 0 means anything below half of that.
const LEAST_SCORE: f64 = 1.0 / (1 << 21) as f64;

/// The temperature that makes the true labels most likely, given scores that were computed with the temperature `before`.
/// If all posts are predicted right, the best temperature is 0, so the result is limited to the bounds.
pub(super) fn temperature(before: f64, scores: &[Vec<f64>], truth: &[usize]) -> f64 {
    (before * temperature_ratio(scores, truth)).clamp(BOUNDS.0, BOUNDS.1)
}

/// The temperature with which the softmax of these logits makes the true labels most likely.
pub(crate) fn temperature_of_logits(logits: &[Vec<f64>], truth: &[usize]) -> f64 {
    let loss = |ln_temperature: f64| log_loss(logits, truth, ln_temperature.exp());
    golden_section(BOUNDS.0.ln(), BOUNDS.1.ln(), loss).exp()
}

/// The factor on the temperature that makes the true labels most likely. `scores` are softmax probabilities, `truth` is the
/// position of each post's label.
fn temperature_ratio(scores: &[Vec<f64>], truth: &[usize]) -> f64 {
    let logits: Vec<Vec<f64>> = scores
        .iter()
        .map(|scores| scores.iter().map(|score| score.max(LEAST_SCORE).ln()).collect())
        .collect();
    temperature_of_logits(&logits, truth)
}

/// The mean negative log-likelihood of the true labels with the logits divided by `ratio`.
fn log_loss(logits: &[Vec<f64>], truth: &[usize], ratio: f64) -> f64 {
    let mut sum = 0.0;
    for (logits, &truth) in logits.iter().zip(truth) {
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let all: f64 = logits.iter().map(|logit| ((logit - highest) / ratio).exp()).sum();
        sum += all.ln() - (logits[truth] - highest) / ratio;
    }
    sum / truth.len().max(1) as f64
}

fn golden_section(mut low: f64, mut high: f64, loss: impl Fn(f64) -> f64) -> f64 {
    let share = (5.0_f64.sqrt() - 1.0) / 2.0;
    for _ in 0..ROUNDS {
        let left = high - share * (high - low);
        let right = low + share * (high - low);
        if loss(left) <= loss(right) {
            high = right;
        } else {
            low = left;
        }
    }
    f64::midpoint(low, high)
}

/// The threshold on one label's scores with the best F1; of several, the one nearest to 0.5, so that labels with few posts
/// don't get an extreme threshold. 0.5 for a label without posts.
pub(super) fn best_threshold(scores: &[f64], has_label: &[bool]) -> f64 {
    let mut pairs: Vec<(f64, bool)> = scores.iter().copied().zip(has_label.iter().copied()).collect();
    pairs.sort_by(|one, other| other.0.total_cmp(&one.0));
    let positives = has_label.iter().filter(|&&label| label).count();
    if positives == 0 {
        return 0.5;
    }
    let (mut hits, mut best, mut threshold) = (0, 0.0, 0.5_f64);
    for (at, &(score, label)) in pairs.iter().enumerate() {
        hits += usize::from(label);
        let next = pairs.get(at + 1).map(|pair| pair.0);
        if next == Some(score) {
            continue;
        }
        // With the threshold between this score and the next, this post and all before it get the label.
        let f1 = 2.0 * hits as f64 / (at + 1 + positives) as f64;
        let middle = f64::midpoint(score, next.unwrap_or(0.0));
        if f1 > best || (f1 == best && (middle - 0.5).abs() < (threshold - 0.5).abs()) {
            best = f1;
            threshold = middle;
        }
    }
    threshold
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
        let all: f64 = logits.iter().map(|logit| (logit / temperature).exp()).sum();
        logits.iter().map(|logit| (logit / temperature).exp() / all).collect()
    }

    #[test]
    fn the_confidence_of_an_overconfident_model_becomes_its_accuracy() {
        // The confidence is 0.99, and three of four are right.
        let scores = vec![vec![0.99, 0.01]; 400];
        let truth: Vec<usize> = (0..400).map(|at| usize::from(at % 4 == 0)).collect();
        let ratio = temperature_ratio(&scores, &truth);
        let confidence = softmax(&[0.99_f64.ln(), 0.01_f64.ln()], ratio)[0];
        assert!((confidence - 0.75).abs() < 1e-6, "{confidence}");
    }

    #[test]
    fn the_ratio_is_bounded() {
        let ratio = temperature_ratio(&[vec![0.9, 0.1], vec![0.9, 0.1]], &[0, 0]);
        assert!((0.049..0.051).contains(&ratio), "{ratio}");
        assert!((temperature_ratio(&[vec![0.9, 0.1]], &[1]) - 20.0).abs() < 0.1);
    }

    #[test]
    fn the_temperature_stays_above_zero_when_all_posts_are_right() {
        let mut fitted = 1.0;
        for _ in 0..9 {
            fitted = temperature(fitted, &[vec![0.9, 0.1], vec![0.9, 0.1]], &[0, 0]);
        }
        assert!((0.05..0.06).contains(&fitted), "{fitted}");
    }

    #[test]
    fn the_threshold_separates_posts_with_the_label_from_others() {
        let threshold = best_threshold(&[0.1, 0.2, 0.3, 0.35], &[false, false, true, true]);
        assert!((threshold - 0.25).abs() < 1e-12);
        assert!((best_threshold(&[0.9], &[false]) - 0.5).abs() < 1e-12);
    }

    fn f1(scores: &[f64], has_label: &[bool], threshold: f64) -> f64 {
        let given: Vec<bool> = scores.iter().map(|&score| score >= threshold).collect();
        let hits = given
            .iter()
            .zip(has_label)
            .filter(|(given, label)| **given && **label)
            .count();
        let all = given.iter().filter(|&&given| given).count() + has_label.iter().filter(|&&label| label).count();
        if all == 0 { 0.0 } else { 2.0 * hits as f64 / all as f64 }
    }

    proptest! {
        #[test]
        fn no_threshold_is_better(pairs in prop::collection::vec((0_u32..20, any::<bool>()), 1..40)) {
            let scores: Vec<f64> = pairs.iter().map(|pair| f64::from(pair.0) / 20.0).collect();
            let labels: Vec<bool> = pairs.iter().map(|pair| pair.1).collect();
            prop_assume!(labels.contains(&true));
            let best = best_threshold(&scores, &labels);
            for step in 0..=40 {
                let other = f64::from(step) / 40.0;
                prop_assert!(f1(&scores, &labels, best) >= f1(&scores, &labels, other) - 1e-12, "{} beats {}", other, best);
            }
        }
    }
}
