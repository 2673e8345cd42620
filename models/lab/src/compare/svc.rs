//! The linear support vector machine, one class against all others, equivalent to scikit-learn's `LinearSVC`.
//!
//! For each class it minimises `½ |w|² + C Σ max(0, 1 - y (w·x))²`, where `y` is 1 for the class's rows and -1 for others and
//! the intercept is the weight of a further feature that is always 1. The solver is dual coordinate descent with shrinking:
//! C.-J. Hsieh et al., *A Dual Coordinate Descent Method for Large-scale Linear SVM*, ICML 2008, algorithm 3, as in
//! LIBLINEAR (`solve_l2r_l1l2_svc`, L2 loss). Eight classes are solved together, since they read the same features; each has
//! its own set of active rows and its own stopping criterion.

use pulp::Arch;
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    lanes::{LANES, Lane, add, dot},
    linear::Linear,
    sparse::Rows,
};

/// A class has converged when the range of its projected gradients is at most this; scikit-learn's default.
pub(super) const TOLERANCE: f64 = 1e-4;
/// The most passes over the rows; scikit-learn's default.
const MAX_PASSES: usize = 1_000;

/// The settings of training.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How much an error costs: large values fit the rows more closely.
    pub(crate) c: f64,
    /// The range of projected gradients at which a class has converged.
    pub(crate) tolerance: f64,
    /// The most passes over the rows.
    pub(crate) passes: usize,
    /// The seed of the order of rows.
    pub(crate) seed: u64,
}

impl Settings {
    /// `c` with the other defaults of scikit-learn.
    pub(crate) const fn new(c: f64) -> Self {
        Self {
            c,
            tolerance: TOLERANCE,
            passes: MAX_PASSES,
            seed: 1,
        }
    }
}

/// Trains a classifier on rows of the classes `truth`, each below `classes`.
pub(crate) fn train(rows: &Rows, truth: &[usize], classes: usize, settings: Settings) -> Linear {
    let mut linear = Linear::zeros(classes, rows.width());
    let blocks = linear.weights.par_iter_mut().zip(&mut linear.intercepts);
    blocks.enumerate().for_each(|(block, (weights, intercept))| {
        let first = block * LANES;
        let mut problem = Problem::new(rows, truth, first, LANES.min(classes - first), settings);
        Arch::new().dispatch(
            #[inline(always)]
            || problem.solve(weights, intercept),
        );
    });
    linear
}

/// The dual problems of up to eight classes.
struct Problem<'a> {
    rows: &'a Rows,
    truth: &'a [usize],
    /// The class of the first lane.
    first: usize,
    settings: Settings,
    /// The coefficient of the square of a dual variable in the objective, `1 / 2C`.
    diagonal: f64,
    /// The second derivative with respect to each row's variable.
    curvature: Vec<f64>,
    alpha: Vec<Lane>,
    /// For each row, a bit for each class for which it is active.
    active: Vec<u8>,
    /// Rows that are active for at least one class.
    order: Vec<u32>,
    lanes: [State; LANES],
}

/// The progress of one class.
#[derive(Debug, Clone, Copy)]
struct State {
    done: bool,
    active: usize,
    /// The bound on the projected gradient from the last pass: rows beyond it are shrunk.
    high: f64,
    /// The largest and the smallest projected gradient of this pass.
    largest: f64,
    smallest: f64,
}

impl<'a> Problem<'a> {
    fn new(rows: &'a Rows, truth: &'a [usize], first: usize, lanes: usize, settings: Settings) -> Self {
        let diagonal = 0.5 / settings.c;
        let state = |lane| State {
            done: lane >= lanes,
            active: rows.len(),
            high: f64::INFINITY,
            largest: f64::NEG_INFINITY,
            smallest: f64::INFINITY,
        };
        let all = ((1_u16 << lanes) - 1) as u8;
        Self {
            rows,
            truth,
            first,
            settings,
            diagonal,
            // The feature that is always 1 adds 1.
            curvature: rows.iter().map(|row| row.square() + 1.0 + diagonal).collect(),
            alpha: vec![[0.0; LANES]; rows.len()],
            active: vec![all; rows.len()],
            order: (0..rows.len() as u32).collect(),
            lanes: std::array::from_fn(state),
        }
    }

    #[inline(always)]
    fn solve(&mut self, weights: &mut [Lane], intercept: &mut Lane) {
        let mut random = ChaCha8Rng::seed_from_u64(self.settings.seed);
        for _ in 0..self.settings.passes {
            if self.lanes.iter().all(|state| state.done) {
                break;
            }
            // A new order in each pass converges in fewer passes than the same order from another start.
            self.order.shuffle(&mut random);
            for state in &mut self.lanes {
                (state.largest, state.smallest) = (f64::NEG_INFINITY, f64::INFINITY);
            }
            for place in 0..self.order.len() {
                self.visit(self.order[place] as usize, weights, intercept);
            }
            self.end_pass();
        }
    }

    /// Minimises the objective over the variables of one row.
    #[inline(always)]
    fn visit(&mut self, at: usize, weights: &mut [Lane], intercept: &mut Lane) {
        let row = self.rows.row(at);
        let scores = dot(*intercept, row, weights);
        let own = self.truth[at].wrapping_sub(self.first);
        let alpha = &mut self.alpha[at];
        let mut step = [0.0; LANES];
        let mut moved = false;
        for lane in 0..LANES {
            if self.active[at] & (1 << lane) == 0 {
                continue;
            }
            let sign = if lane == own { 1.0 } else { -1.0 };
            let gradient = sign * scores[lane] - 1.0 + alpha[lane] * self.diagonal;
            let state = &mut self.lanes[lane];
            let projected = if alpha[lane] == 0.0 {
                if gradient > state.high {
                    self.active[at] &= !(1 << lane);
                    state.active -= 1;
                    continue;
                }
                gradient.min(0.0)
            } else {
                gradient
            };
            state.largest = state.largest.max(projected);
            state.smallest = state.smallest.min(projected);
            if projected.abs() > 1e-12 {
                let next = (alpha[lane] - gradient / self.curvature[at]).max(0.0);
                step[lane] = (next - alpha[lane]) * sign;
                alpha[lane] = next;
                moved = true;
            }
        }
        if moved {
            add(weights, row, &step);
            for lane in 0..LANES {
                intercept[lane] += step[lane];
            }
        }
    }

    /// Marks classes that have converged on all rows as done. A class that has converged on its active rows gets all rows
    /// back.
    fn end_pass(&mut self) {
        let mut again = 0_u8;
        let mut ended = 0_u8;
        for (lane, state) in self.lanes.iter_mut().enumerate().filter(|(_, state)| !state.done) {
            if state.largest - state.smallest <= self.settings.tolerance {
                if state.active == self.rows.len() {
                    state.done = true;
                    ended |= 1 << lane;
                } else {
                    state.active = self.rows.len();
                    state.high = f64::INFINITY;
                    again |= 1 << lane;
                }
            } else {
                state.high = if state.largest > 0.0 {
                    state.largest
                } else {
                    f64::INFINITY
                };
            }
        }
        if again > 0 || ended > 0 {
            for active in &mut self.active {
                *active = (*active | again) & !ended;
            }
        }
        if again > 0 {
            self.order = (0..self.rows.len() as u32).collect();
        }
        let active = &self.active;
        self.order.retain(|&at| active[at as usize] != 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compare::testing::random_rows;

    /// The gradient of the primal objective by the weights and the intercept of a class.
    fn gradient(rows: &Rows, truth: &[usize], linear: &Linear, class: usize, c: f64) -> Vec<f64> {
        let mut gradient: Vec<f64> = (0..rows.width()).map(|feature| linear.weight(feature, class)).collect();
        gradient.push(linear.intercept(class));
        for ((row, scores), &truth) in rows.iter().zip(linear.all_scores(rows)).zip(truth) {
            let sign = if truth == class { 1.0 } else { -1.0 };
            let slack = (1.0 - sign * scores[class]).max(0.0);
            for (column, value) in row.iter() {
                gradient[column as usize] -= 2.0 * c * sign * slack * f64::from(value);
            }
            gradient[rows.width()] -= 2.0 * c * sign * slack;
        }
        gradient
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The objective is convex and differentiable, so its gradient is zero at the minimum.
        #[test]
        fn the_gradient_is_zero_at_the_optimum(seed in any::<u64>(), classes in 2_usize..20, c in prop::sample::select(vec![0.03, 1.0, 10.0])) {
            let (rows, truth) = random_rows(seed, 80, 40, classes);
            let settings = Settings { tolerance: 1e-10, passes: 1_000_000, ..Settings::new(c) };
            let linear = train(&rows, &truth, classes, settings);
            for class in 0..classes {
                let largest = gradient(&rows, &truth, &linear, class, c).into_iter().map(f64::abs).fold(0.0, f64::max);
                prop_assert!(largest < 1e-6 * c.max(1.0), "class {class}: {largest}");
            }
        }

        #[test]
        fn classes_that_are_solved_together_have_the_same_solutions_as_alone(seed in any::<u64>()) {
            let (rows, truth) = random_rows(seed, 60, 30, 11);
            let settings = Settings { tolerance: 1e-10, passes: 1_000_000, ..Settings::new(1.0) };
            let together = train(&rows, &truth, 11, settings);
            for class in 0..11 {
                let binary: Vec<usize> = truth.iter().map(|&truth| usize::from(truth != class)).collect();
                let alone = train(&rows, &binary, 2, settings);
                for feature in 0..rows.width() {
                    let difference = together.weight(feature, class) - alone.weight(feature, 0);
                    prop_assert!(difference.abs() < 1e-6, "class {class}, feature {feature}: {difference}");
                }
            }
        }
    }
}
