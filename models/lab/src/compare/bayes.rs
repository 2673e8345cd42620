//! Multinomial naive Bayes, equivalent to scikit-learn's `MultinomialNB`.

use super::{lanes::LANES, linear::Linear, sparse::Rows};

/// Trains a classifier on rows of the classes `truth`, each below `classes`. `smoothing` (above 0) is added to the sum of
/// each feature in each class. Scores are the logarithms of the joint probabilities.
pub(crate) fn train(rows: &Rows, truth: &[usize], classes: usize, smoothing: f64) -> Linear {
    let mut linear = Linear::zeros(classes, rows.width());
    let mut counts = vec![0_usize; classes];
    for (row, &class) in rows.iter().zip(truth) {
        counts[class] += 1;
        for (column, value) in row.iter() {
            linear.weights[class / LANES][column as usize][class % LANES] += f64::from(value);
        }
    }
    for (class, &count) in counts.iter().enumerate() {
        let (block, lane) = (class / LANES, class % LANES);
        let weights = &mut linear.weights[block];
        let all: f64 = weights.iter().map(|weight| weight[lane] + smoothing).sum();
        for weight in weights {
            weight[lane] = ((weight[lane] + smoothing) / all).ln();
        }
        linear.intercepts[block][lane] = (count as f64 / rows.len() as f64).ln();
    }
    linear
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: [f64; 6] = [
        -2.608_718_339_724_54,
        -7.690_286_020_676_768,
        -0.857_450_231_851_221_2,
        -3.295_836_866_004_329,
        -7.599_150_926_503_277,
        -1.852_555_573_510_828,
    ];

    /// The expected values are those of `MultinomialNB(alpha=0.5)` of scikit-learn 1.9.1.
    #[test]
    fn joint_probabilities_are_those_of_scikit_learn() {
        let mut rows = Rows::new(3);
        rows.push([(0, 1.0), (1, 2.0)]);
        rows.push([(1, 1.0)]);
        rows.push([(2, 3.0)]);
        let linear = train(&rows, &[0, 0, 1], 2, 0.5);
        let scores = linear.all_scores(&rows);
        for (found, expected) in scores.concat().iter().zip(EXPECTED) {
            assert!((found - expected).abs() < 1e-6, "{scores:?}");
        }
    }
}
