//! int8 for the CPU: `u8` activations with one scale per token, `s8` weights with one scale per output channel.
//!
//! A token's scale is computed from its own values at run time, so a post's scores don't depend on its batch. The largest
//! errors come from the few channels with far larger values than the others. So before quantising, each input channel is
//! divided by a factor, and its weights are multiplied by it (SmoothQuant, arXiv 2211.10438). The exponent of the factors
//! is chosen for each product on real texts, and the mean of the remaining error is subtracted in the bias.

use ndarray::{Array1, Array2, Axis};

use super::classifier::Linear;
use super::{
    rounding::quantise_for,
    signed_bytes::{LEAST_SCALE, SIGNED_STEPS, column_maxima, quantise_columns},
};

/// A lower bound of GELU.
const GELU_LEAST: f32 = -0.17;
/// The zero point of GELU's results, which are mostly positive, so most byte values stand for positive numbers.
const GELU_ZERO: u8 = 24;
/// The exponents of smoothing that are tried, in tenths, besides no smoothing.
const EXPONENTS: std::ops::RangeInclusive<u8> = 1..=9;
/// The largest error with one step for all rows, as a factor on the error with a step per row. One step saves five passes
/// over the input and output of the product, in total a tenth of the model's time.
const STATIC_COST: f64 = 1.5;

/// How a product's input is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// One step for all rows, chosen by calibration and included in the smoothing; the zero point is in the middle.
    Static,
    /// A step per row from its largest magnitude; the zero point is in the middle.
    Symmetric,
    /// A step per row from its largest value; the zero point leaves room for GELU's negative results.
    Gelu,
}

impl Coding {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Static => "one step",
            Self::Symmetric | Self::Gelu => "a step per row",
        }
    }

    /// The byte of zero.
    pub(crate) const fn zero_point(self) -> u8 {
        match self {
            Self::Static | Self::Symmetric => 128,
            Self::Gelu => GELU_ZERO,
        }
    }

    /// Steps from zero to the largest value of a row.
    pub(crate) fn steps(self) -> f32 {
        match self {
            Self::Static | Self::Symmetric => SIGNED_STEPS,
            Self::Gelu => f32::from(u8::MAX - GELU_ZERO),
        }
    }

    /// A lower bound for the largest value of a row.
    pub(crate) fn least(self) -> f32 {
        match self {
            Self::Static | Self::Symmetric => LEAST_SCALE,
            // With a smaller step, GELU's negative results would not fit.
            Self::Gelu => -GELU_LEAST * self.steps() / f32::from(GELU_ZERO),
        }
    }
}

/// A quantised product.
#[derive(Debug, Clone)]
pub(crate) struct QuantisedLinear {
    /// `[inputs, outputs]`
    pub(crate) weight: Array2<i8>,
    /// The step of the weights of each output channel.
    pub(crate) scale: Array1<f32>,
    pub(crate) bias: Array1<f32>,
    /// The factor that each input channel is divided by before it is quantised; the weights are multiplied by it.
    pub(crate) smoothing: Option<Array1<f32>>,
    pub(crate) coding: Coding,
    /// The chosen exponent in tenths; 0 without smoothing.
    pub(crate) exponent: u8,
    /// The squared error divided by the squared result, summed over the calibration rows.
    pub(crate) noise: f32,
}

impl QuantisedLinear {
    /// Quantises without calibration: no smoothing, no correction of the bias.
    pub(crate) fn blind(linear: &Linear, coding: Coding) -> Self {
        let (weight, scale) = quantise_columns(&linear.weight);
        Self {
            weight,
            scale,
            bias: linear.bias.clone(),
            smoothing: None,
            coding,
            exponent: 0,
            noise: f32::NAN,
        }
    }

    /// Quantises with the least error on `rows`, the inputs of real texts (one token per row).
    ///
    /// With `static_too`, one step for all rows is used if it adds little error.
    pub(crate) fn calibrated(linear: &Linear, coding: Coding, static_too: bool, rows: &Array2<f32>) -> Self {
        let exact = rows.dot(&linear.weight);
        let signal = exact
            .fold(0.0, |sum, &x| sum + f64::from(x) * f64::from(x))
            .max(f64::MIN_POSITIVE);
        let task = Task { linear, rows, exact };
        let mut best = task.search(coding);
        if static_too {
            let fixed = task.search(Coding::Static);
            if fixed.error <= best.error * STATIC_COST {
                best = fixed;
            }
        }
        let rounded = task.round_weights(&best);
        if rounded.error < best.error {
            best = rounded;
        }
        Self {
            weight: best.weight,
            scale: best.scale,
            bias: &linear.bias + &best.mean_error,
            smoothing: best.smoothing,
            coding: best.coding,
            exponent: best.exponent,
            noise: (best.error / signal) as f32,
        }
    }
}

/// A product to quantise, with inputs and their exact results.
struct Task<'a> {
    linear: &'a Linear,
    rows: &'a Array2<f32>,
    exact: Array2<f32>,
}

/// One way to quantise a product, and its error.
struct Candidate {
    weight: Array2<i8>,
    scale: Array1<f32>,
    coding: Coding,
    smoothing: Option<Array1<f32>>,
    exponent: u8,
    /// The mean over the rows of the exact minus the quantised result.
    mean_error: Array1<f32>,
    /// The sum of squared errors after correcting the bias.
    error: f64,
}

impl Task<'_> {
    /// The best smoothing exponent for a coding, with weights rounded to the nearest bytes.
    fn search(&self, coding: Coding) -> Candidate {
        let mut best = self.try_exponent(coding, 0);
        // After GELU there is no product into which the smoothing could be folded.
        if coding != Coding::Gelu {
            for exponent in EXPONENTS {
                let candidate = self.try_exponent(coding, exponent);
                if candidate.error < best.error {
                    best = candidate;
                }
            }
        }
        best
    }

    fn try_exponent(&self, coding: Coding, exponent: u8) -> Candidate {
        let mut factors = (exponent > 0).then(|| smoothing(self.rows, &self.linear.weight, f32::from(exponent) / 10.0));
        if coding == Coding::Static {
            let plain = factors.take().unwrap_or_else(|| Array1::ones(self.rows.ncols()));
            let top = (column_maxima(self.rows) / &plain).fold(LEAST_SCALE, |top, &x| top.max(x));
            factors = Some(plain * (top / SIGNED_STEPS));
        }
        let (input, smoothed) = self.smoothed(coding, factors.as_ref());
        let (weight, scale) = quantise_columns(&smoothed);
        let (mean_error, error) = self.errors(&input, &weight, &scale);
        Candidate {
            weight,
            scale,
            coding,
            smoothing: factors,
            exponent,
            mean_error,
            error,
        }
    }

    /// The candidate with its weights rounded for the inputs, not to the nearest bytes.
    fn round_weights(&self, candidate: &Candidate) -> Candidate {
        let smoothing = candidate.smoothing.clone();
        let (input, smoothed) = self.smoothed(candidate.coding, smoothing.as_ref());
        let (weight, scale) = quantise_for(&input, &smoothed);
        let (mean_error, error) = self.errors(&input, &weight, &scale);
        Candidate {
            weight,
            scale,
            smoothing,
            mean_error,
            error,
            ..*candidate
        }
    }

    /// The inputs after quantisation, and the weights after smoothing.
    fn smoothed(&self, coding: Coding, factors: Option<&Array1<f32>>) -> (Array2<f32>, Array2<f32>) {
        let (mut input, mut weight) = (self.rows.clone(), self.linear.weight.clone());
        if let Some(factors) = factors {
            input /= factors;
            weight *= &factors.view().insert_axis(Axis(1));
        }
        round_rows(&mut input, coding);
        (input, weight)
    }

    fn errors(&self, input: &Array2<f32>, weight: &Array2<i8>, scale: &Array1<f32>) -> (Array1<f32>, f64) {
        let mut difference = &self.exact - &input.dot(&(weight.mapv(f32::from) * scale));
        let mean_error = difference
            .mean_axis(Axis(0))
            .unwrap_or_else(|| Array1::zeros(scale.len()));
        difference -= &mean_error;
        let error = difference.fold(0.0, |sum, &x| sum + f64::from(x) * f64::from(x));
        (mean_error, error)
    }
}

/// SmoothQuant's factors: `max|x|^a / max|w|^(1-a)` of each input channel, with 1 as their geometric mean.
fn smoothing(rows: &Array2<f32>, weight: &Array2<f32>, exponent: f32) -> Array1<f32> {
    let inputs = column_maxima(rows);
    let weights = weight.fold_axis(Axis(1), 0.0_f32, |top, w| top.max(w.abs()));
    let mut logs = Array1::zeros(inputs.len());
    ndarray::Zip::from(&mut logs)
        .and(&inputs)
        .and(&weights)
        .for_each(|log, x, w| {
            *log = exponent * x.max(LEAST_SCALE).ln() - (1.0 - exponent) * w.max(LEAST_SCALE).ln();
        });
    logs -= logs.mean().unwrap_or(0.0);
    logs.mapv_into(f32::exp)
}

/// Quantises each row of an embedding table to signed bytes by its largest magnitude.
pub(crate) fn quantise_rows(table: &Array2<f32>) -> (Array2<i8>, Array1<f32>) {
    let (bytes, scale) = quantise_columns(&table.t().as_standard_layout().into_owned());
    (bytes.t().as_standard_layout().into_owned(), scale)
}

/// Rounds each row to values that its bytes can represent, as the graph does.
fn round_rows(rows: &mut Array2<f32>, coding: Coding) {
    let (least, zero_point) = (coding.least(), f32::from(coding.zero_point()));
    for mut row in rows.rows_mut() {
        let top = match coding {
            Coding::Static => SIGNED_STEPS,
            Coding::Symmetric => row.fold(least, |top, x| top.max(x.abs())),
            Coding::Gelu => row.fold(least, |top, &x| top.max(x)),
        };
        let step = top / coding.steps();
        row.mapv_inplace(|x| (x / step).round_ties_even().clamp(-zero_point, 255.0 - zero_point) * step);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::array;
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    /// Random weights, and inputs with two channels that are thirty times as large as the others.
    fn outliers() -> (Array2<f32>, Linear) {
        let mut rng = StdRng::seed_from_u64(9);
        let mut rows = Array2::from_shape_simple_fn((256, 24), || rng.random_range(-1.0..1.0_f32));
        rows.column_mut(3).mapv_inplace(|x| x * 30.0);
        rows.column_mut(17).mapv_inplace(|x| x * 30.0);
        let weight = Array2::from_shape_simple_fn((24, 12), || rng.random_range(-1.0..1.0_f32));
        (
            rows,
            Linear {
                weight,
                bias: Array1::zeros(12),
            },
        )
    }

    fn error(linear: &Linear, quantised: &QuantisedLinear, rows: &Array2<f32>) -> f32 {
        let mut input = rows.clone();
        if let Some(factors) = &quantised.smoothing {
            input /= factors;
        }
        round_rows(&mut input, quantised.coding);
        let output = input.dot(&(quantised.weight.mapv(f32::from) * &quantised.scale)) + &quantised.bias;
        (rows.dot(&linear.weight) + &linear.bias - output)
            .iter()
            .map(|x| x * x)
            .sum()
    }

    #[test]
    fn calibration_reduces_the_error_of_outlying_channels() {
        let (rows, linear) = outliers();
        let blind = QuantisedLinear::blind(&linear, Coding::Symmetric);
        let calibrated = QuantisedLinear::calibrated(&linear, Coding::Symmetric, false, &rows);
        assert!(calibrated.exponent > 0);
        let (blind, calibrated) = (error(&linear, &blind, &rows), error(&linear, &calibrated, &rows));
        assert!(calibrated < blind / 4.0, "{calibrated} against {blind}");
    }

    #[test]
    fn one_step_for_all_rows_is_not_used_if_rows_differ_much() {
        let (mut rows, linear) = outliers();
        // With the same largest value in every row, one step for all rows is as good as one per row.
        rows.column_mut(3).mapv_inplace(|x| 30.0_f32.copysign(x));
        assert_eq!(
            QuantisedLinear::calibrated(&linear, Coding::Symmetric, true, &rows).coding,
            Coding::Static
        );
        rows.row_mut(0).mapv_inplace(|x| x * 500.0);
        assert_eq!(
            QuantisedLinear::calibrated(&linear, Coding::Symmetric, true, &rows).coding,
            Coding::Symmetric
        );
    }

    #[test]
    fn gelu_s_least_value_fits_for_rows_of_any_size() {
        for top in [0.0, 0.5, 2.0, 40.0] {
            let mut rows = array![[GELU_LEAST + 1e-4, 0.0, top]];
            let exact = rows.clone();
            round_rows(&mut rows, Coding::Gelu);
            let step = Coding::Gelu.least().max(top) / Coding::Gelu.steps();
            assert!(
                (&rows - &exact).iter().all(|x| x.abs() <= step / 2.0 + 1e-6),
                "{rows} for {exact}"
            );
        }
    }

    #[test]
    fn a_row_or_column_of_zeros_stays_zero() {
        let (bytes, scale) = quantise_columns(&array![[0.0, 2.0], [0.0, -1.0]]);
        assert_eq!(bytes, array![[0, 127], [0, -64]]);
        assert!(scale.iter().all(|scale| *scale > 0.0));
        let mut rows = array![[0.0, 0.0], [1.0, -2.0]];
        round_rows(&mut rows, Coding::Symmetric);
        assert_eq!(rows.row(0), array![0.0, 0.0]);
        assert!((rows[(1, 1)] + 2.0).abs() < 1e-6);
    }
}
