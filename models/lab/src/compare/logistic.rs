//! Multinomial logistic regression, equivalent to scikit-learn's `LogisticRegression`.
//!
//! It minimises `½ |W|² + C Σ -ln p(class of the row)`, where `p` is the softmax of `W x + b`; the intercepts `b` are not
//! penalised. The solver is a truncated Newton method: each step is computed by conjugate gradients with products of the
//! Hessian and vectors, preconditioned with its diagonal, and shortened until the objective decreases. L. Galli and C.-J.
//! Lin, *A Study on Truncated Newton Methods for Linear Classification*, IEEE TNNLS 2022, which LIBLINEAR has since 2.40. With
//! 100,000 features L-BFGS, scikit-learn's default, spends more time on its history of vectors than on the rows.

use pulp::Arch;
use rayon::prelude::*;

use super::{
    lanes::{LANES, Lane, dot},
    linear::Linear,
    sparse::{Row, Rows},
};

/// The solver stops when no derivative of the mean loss is larger; scikit-learn's default.
pub(super) const TOLERANCE: f64 = 1e-4;
/// Newton steps at most.
const MAX_STEPS: usize = 100;
/// Products with the Hessian in one step at most.
const MAX_PRODUCTS: usize = 200;
/// A step must lower the objective by this share of what its slope predicts (Armijo).
const SUFFICIENT: f64 = 1e-4;
/// Rows or features that one task handles.
const CHUNK: usize = 256;

/// The settings of training.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How much an error costs: large values fit the rows more closely.
    pub(crate) c: f64,
    /// The largest derivative of the mean loss at the end. Below about 10⁻⁸ the solver stops earlier, because double precision
    /// can't represent a smaller decrease of the objective.
    pub(crate) tolerance: f64,
}

impl Settings {
    /// `c` with the default tolerance.
    pub(crate) const fn new(c: f64) -> Self {
        Self {
            c,
            tolerance: TOLERANCE,
        }
    }
}

/// Trains a regression on rows of the classes `truth`, each below `classes`, starting from the weights of `start`.
pub(crate) fn train(
    rows: &Rows,
    truth: &[usize],
    classes: usize,
    settings: Settings,
    start: Option<&Linear>,
) -> Linear {
    let problem = Problem {
        rows,
        columns: rows.transposed(),
        truth,
        classes,
        c: settings.c,
    };
    let mut at = match start {
        Some(start) => from_linear(start),
        None => from_linear(&Linear::zeros(classes, rows.width())),
    };
    problem.minimise(&mut at, settings.tolerance * settings.c * rows.len() as f64);
    let mut linear = Linear::zeros(classes, rows.width());
    for (block, mut values) in at.into_iter().enumerate() {
        linear.intercepts[block] = values.pop().unwrap_or_default();
        linear.weights[block] = values;
    }
    linear
}

/// `[block][feature]`, with the intercepts after the last feature.
type Vector = Vec<Vec<Lane>>;

fn from_linear(linear: &Linear) -> Vector {
    let blocks = linear.weights.iter().zip(&linear.intercepts);
    blocks
        .map(|(weights, intercept)| weights.iter().chain([intercept]).copied().collect())
        .collect()
}

struct Problem<'a> {
    rows: &'a Rows,
    columns: Rows,
    truth: &'a [usize],
    classes: usize,
    c: f64,
}

impl Problem<'_> {
    fn minimise(&self, at: &mut Vector, tolerance: f64) {
        let mut scores = self.scores(at);
        let mut value = self.value(&scores, penalised(at, at));
        let mut first_norm = None;
        for _ in 0..MAX_STEPS {
            let probabilities = self.probabilities(&scores);
            let gradient = self.gradient(at, &probabilities);
            let largest = gradient
                .iter()
                .flatten()
                .flatten()
                .fold(0.0, |most: f64, g| most.max(g.abs()));
            if largest <= tolerance {
                return;
            }
            let norm = square(&gradient).sqrt();
            let first_norm = *first_norm.get_or_insert(norm);
            let accuracy = (norm / first_norm).sqrt().min(0.3);
            let step = self.step(&gradient, &probabilities, accuracy);

            let slope = inner(&gradient, &step);
            let moves = self.scores(&step);
            let (own, cross, other) = (penalised(at, at), penalised(at, &step), penalised(&step, &step));
            let mut length = 1.0;
            let taken = loop {
                let moved = combined(&scores, length, &moves);
                let next = self.value(&moved, own + 2.0 * length * cross + length * length * other);
                if next <= value + SUFFICIENT * length * slope {
                    break Some((moved, next));
                }
                length *= 0.5;
                if length < 1e-10 {
                    break None;
                }
            };
            // The objective can't decrease further in double precision.
            let Some((moved, next)) = taken else { return };
            (scores, value) = (moved, next);
            for (at, step) in at.iter_mut().flatten().zip(step.iter().flatten()) {
                for lane in 0..LANES {
                    at[lane] += length * step[lane];
                }
            }
        }
    }

    /// The objective at `scores`, for weights with the sum of squares `penalty`.
    fn value(&self, scores: &[Vec<Lane>], penalty: f64) -> f64 {
        let loss: f64 = (0..self.rows.len())
            .map(|row| {
                let highest = self.each(row, scores).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = self.each(row, scores).map(|score| (score - highest).exp()).sum();
                let class = self.truth[row];
                highest + sum.ln() - scores[class / LANES][row][class % LANES]
            })
            .sum();
        0.5 * penalty + self.c * loss
    }

    fn each<'s>(&self, row: usize, scores: &'s [Vec<Lane>]) -> impl Iterator<Item = f64> + 's {
        scores.iter().flat_map(move |block| block[row]).take(self.classes)
    }

    /// `W x + b` of all rows, `[block][row]`.
    fn scores(&self, weights: &Vector) -> Vec<Vec<Lane>> {
        weights
            .iter()
            .map(|weights| {
                let (features, intercept) = weights.split_at(self.rows.width());
                products(self.rows, intercept[0], features)
            })
            .collect()
    }

    /// Each row's probabilities, `[block][row]`; 0 in unused lanes.
    fn probabilities(&self, scores: &[Vec<Lane>]) -> Vec<Vec<Lane>> {
        let mut probabilities: Vec<Vec<Lane>> = vec![vec![[0.0; LANES]; self.rows.len()]; scores.len()];
        for row in 0..self.rows.len() {
            let highest = self.each(row, scores).fold(f64::NEG_INFINITY, f64::max);
            let mut sum = 0.0;
            for class in 0..self.classes {
                let chance = (scores[class / LANES][row][class % LANES] - highest).exp();
                probabilities[class / LANES][row][class % LANES] = chance;
                sum += chance;
            }
            for block in &mut probabilities {
                block[row].iter_mut().for_each(|chance| *chance /= sum);
            }
        }
        probabilities
    }

    /// `weights + C Xᵀ parts`, where the weights of the intercepts count as 0.
    fn gather(&self, weights: &Vector, parts: &[Vec<Lane>]) -> Vector {
        let width = self.rows.width();
        weights
            .iter()
            .zip(parts)
            .map(|(weights, parts)| {
                let mut sums = products(&self.columns, [0.0; LANES], parts);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    for lane in 0..LANES {
                        sum[lane] = weight[lane] + self.c * sum[lane];
                    }
                }
                debug_assert_eq!(sums.len(), width);
                let mut intercept = [0.0; LANES];
                for part in parts {
                    for lane in 0..LANES {
                        intercept[lane] += self.c * part[lane];
                    }
                }
                sums.push(intercept);
                sums
            })
            .collect()
    }

    fn gradient(&self, at: &Vector, probabilities: &[Vec<Lane>]) -> Vector {
        let mut errors = probabilities.to_vec();
        for (row, &class) in self.truth.iter().enumerate() {
            errors[class / LANES][row][class % LANES] -= 1.0;
        }
        self.gather(at, &errors)
    }

    /// The Hessian times `direction`.
    fn curvature(&self, direction: &Vector, probabilities: &[Vec<Lane>]) -> Vector {
        let mut parts = self.scores(direction);
        for row in 0..self.rows.len() {
            let mut mean = 0.0;
            for (part, chance) in parts.iter().zip(probabilities) {
                for lane in 0..LANES {
                    mean += chance[row][lane] * part[row][lane];
                }
            }
            for (part, chance) in parts.iter_mut().zip(probabilities) {
                for lane in 0..LANES {
                    part[row][lane] = chance[row][lane] * (part[row][lane] - mean);
                }
            }
        }
        self.gather(direction, &parts)
    }

    /// The reciprocals of the Hessian's diagonal.
    fn preconditioner(&self, probabilities: &[Vec<Lane>]) -> Vector {
        let spreads: Vec<Vec<Lane>> = probabilities
            .iter()
            .map(|block| block.iter().map(|chance| chance.map(|p| p * (1.0 - p))).collect())
            .collect();
        spreads
            .iter()
            .map(|spreads| {
                let mut diagonal = squared_products(&self.columns, spreads);
                let mut intercept = [0.0; LANES];
                for spread in spreads {
                    for lane in 0..LANES {
                        intercept[lane] += spread[lane];
                    }
                }
                for sum in &mut diagonal {
                    *sum = sum.map(|sum| (1.0 + self.c * sum).recip());
                }
                // Unused lanes have neither a spread nor a gradient.
                diagonal.push(intercept.map(|sum| (self.c * sum).max(f64::MIN_POSITIVE.sqrt()).recip()));
                diagonal
            })
            .collect()
    }

    /// The Newton step by conjugate gradients, until the residual is at most `accuracy` times the gradient.
    fn step(&self, gradient: &Vector, probabilities: &[Vec<Lane>], accuracy: f64) -> Vector {
        let inverse = self.preconditioner(probabilities);
        let mut step: Vector = gradient.iter().map(|block| vec![[0.0; LANES]; block.len()]).collect();
        let mut residual: Vector = gradient
            .iter()
            .map(|block| block.iter().map(|lane| lane.map(|value| -value)).collect())
            .collect();
        let mut conditioned = times(&inverse, &residual);
        let mut direction = conditioned.clone();
        let mut size = inner(&residual, &conditioned);
        let goal = size * accuracy * accuracy;
        for _ in 0..MAX_PRODUCTS {
            let product = self.curvature(&direction, probabilities);
            let curvature = inner(&direction, &product);
            if curvature <= 0.0 {
                break;
            }
            let length = size / curvature;
            add_scaled(&mut step, length, &direction);
            add_scaled(&mut residual, -length, &product);
            conditioned = times(&inverse, &residual);
            let next = inner(&residual, &conditioned);
            if next <= goal {
                break;
            }
            let share = next / size;
            size = next;
            for (direction, conditioned) in direction.iter_mut().flatten().zip(conditioned.iter().flatten()) {
                for lane in 0..LANES {
                    direction[lane] = conditioned[lane] + share * direction[lane];
                }
            }
        }
        step
    }
}

/// `start + row · weights` of every row.
fn products(rows: &Rows, start: Lane, weights: &[Lane]) -> Vec<Lane> {
    each_row(rows, |row| dot(start, row, weights))
}

/// As [`products`], with the squares of the rows' values.
fn squared_products(rows: &Rows, weights: &[Lane]) -> Vec<Lane> {
    each_row(
        rows,
        #[inline(always)]
        |row| {
            let mut sum = [0.0; LANES];
            for (column, value) in row.iter() {
                let (weights, value) = (&weights[column as usize], f64::from(value).powi(2));
                for lane in 0..LANES {
                    sum[lane] += weights[lane] * value;
                }
            }
            sum
        },
    )
}

fn each_row(rows: &Rows, product: impl Fn(Row<'_>) -> Lane + Sync) -> Vec<Lane> {
    let mut out = vec![[0.0; LANES]; rows.len()];
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (at, out) in out.iter_mut().enumerate() {
                    *out = product(rows.row(chunk * CHUNK + at));
                }
            },
        );
    });
    out
}

fn inner(one: &Vector, other: &Vector) -> f64 {
    let mut sums = [0.0; LANES];
    for (one, other) in one.iter().flatten().zip(other.iter().flatten()) {
        for lane in 0..LANES {
            sums[lane] += one[lane] * other[lane];
        }
    }
    sums.iter().sum()
}

fn square(vector: &Vector) -> f64 {
    inner(vector, vector)
}

/// The inner product without the intercepts.
fn penalised(one: &Vector, other: &Vector) -> f64 {
    let intercepts: f64 = one
        .iter()
        .zip(other)
        .filter_map(|(one, other)| Some((one.last()?, other.last()?)))
        .map(|(one, other)| one.iter().zip(other).map(|(one, other)| one * other).sum::<f64>())
        .sum();
    inner(one, other) - intercepts
}

fn times(one: &Vector, other: &Vector) -> Vector {
    let block = |(one, other): (&Vec<Lane>, &Vec<Lane>)| {
        let lanes = one.iter().zip(other);
        lanes
            .map(|(one, other)| std::array::from_fn(|lane| one[lane] * other[lane]))
            .collect()
    };
    one.iter().zip(other).map(block).collect()
}

fn add_scaled(sum: &mut Vector, scale: f64, other: &Vector) {
    for (sum, other) in sum.iter_mut().flatten().zip(other.iter().flatten()) {
        for lane in 0..LANES {
            sum[lane] += scale * other[lane];
        }
    }
}

fn combined(one: &[Vec<Lane>], scale: f64, other: &[Vec<Lane>]) -> Vec<Vec<Lane>> {
    let mut sum = one.to_vec();
    add_scaled(&mut sum, scale, &other.to_vec());
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compare::testing::random_rows;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The objective is convex and differentiable, so its gradient is zero at the minimum.
        #[test]
        fn the_gradient_is_zero_at_the_optimum(seed in any::<u64>(), classes in 2_usize..20, c in prop::sample::select(vec![0.03, 1.0, 30.0])) {
            let (rows, truth) = random_rows(seed, 80, 40, classes);
            let linear = train(&rows, &truth, classes, Settings { c, tolerance: 1e-7 }, None);
            let mut gradient: Vec<Vec<f64>> = (0..rows.width())
                .map(|feature| (0..classes).map(|class| linear.weight(feature, class)).collect())
                .collect();
            gradient.push(vec![0.0; classes]);
            for ((row, scores), &truth) in rows.iter().zip(linear.all_scores(&rows)).zip(&truth) {
                let sum: f64 = scores.iter().map(|score| score.exp()).sum();
                for class in 0..classes {
                    let error = scores[class].exp() / sum - f64::from(u8::from(class == truth));
                    for (column, value) in row.iter() {
                        gradient[column as usize][class] += c * error * f64::from(value);
                    }
                    gradient[rows.width()][class] += c * error;
                }
            }
            let largest = gradient.into_iter().flatten().map(f64::abs).fold(0.0, f64::max);
            prop_assert!(largest < 1.01e-7 * c * 80.0, "{largest}");
        }

        /// The optimum does not depend on the starting point.
        #[test]
        fn the_start_does_not_matter(seed in any::<u64>()) {
            let (rows, truth) = random_rows(seed, 60, 30, 9);
            let settings = |c| Settings { c, tolerance: 1e-9 };
            let cold = train(&rows, &truth, 9, settings(3.0), None);
            let warm = train(&rows, &truth, 9, settings(3.0), Some(&train(&rows, &truth, 9, settings(0.1), None)));
            for feature in 0..rows.width() {
                for class in 0..9 {
                    prop_assert!((cold.weight(feature, class) - warm.weight(feature, class)).abs() < 1e-5);
                }
            }
        }
    }
}
