//! int8 for the CPU: `u8` activations with one scale a token, `s8` weights with one scale an output channel.
//!
//! A token's scale comes from its own values alone, at run time, so a post's scores can't depend on what shares its
//! batch. What is left to lose is the few channels that are far larger than the rest: before quantising, each
//! input channel is divided by a factor that the weights are multiplied by (SmoothQuant, arXiv 2211.10438), with the
//! exponent of the trade searched for each product on real texts, and what error stays in the mean is put into the bias.

use ndarray::{Array1, Array2, Axis};

use super::checkpoint::Linear;
use super::forward::column_maxima;

/// Steps of a signed byte on each side of zero.
pub(crate) const SIGNED_STEPS: f32 = 127.0;
/// Steps of an unsigned byte from zero up.
pub(crate) const UNSIGNED_STEPS: f32 = 255.0;
/// GELU's least value is -0.16997: with this added, its result is never negative and takes all of an unsigned byte.
pub(crate) const GELU_SHIFT: f32 = 0.17;
/// The exponents of the smoothing search, in tenths; none at all is tried besides.
const EXPONENTS: std::ops::RangeInclusive<u8> = 1..=9;
/// Keeps a row of zeros, or a channel that no text reached, from dividing by zero.
pub(crate) const LEAST_SCALE: f32 = 1e-6;

/// How a product's input becomes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// By the largest magnitude of the row, around a zero point in the middle.
    Symmetric,
    /// Shifted by [`GELU_SHIFT`] first, then by the largest value of the row, from zero up.
    ShiftedGelu,
}

/// A product ready for bytes.
#[derive(Debug, Clone)]
pub(crate) struct QuantisedLinear {
    /// `[inputs, outputs]`
    pub(crate) weight: Array2<i8>,
    /// What one step of a weight is worth, an output channel each.
    pub(crate) scale: Array1<f32>,
    pub(crate) bias: Array1<f32>,
    /// What each input channel is divided by before it becomes bytes; the weights hold the same factor.
    pub(crate) smoothing: Option<Array1<f32>>,
    pub(crate) coding: Coding,
    /// The chosen exponent, in tenths; 0 where smoothing does not help.
    pub(crate) exponent: u8,
    /// Error over signal of the product on the calibration rows, both as sums of squares.
    pub(crate) noise: f32,
}

impl QuantisedLinear {
    /// Quantises without having seen any text: no smoothing, no correction of the bias beyond the shift's.
    pub(crate) fn blind(linear: &Linear, coding: Coding) -> Self {
        let (weight, scale) = quantise_columns(&linear.weight);
        let bias = shifted_bias(linear, &dequantise(&weight, &scale), coding);
        Self { weight, scale, bias, smoothing: None, coding, exponent: 0, noise: f32::NAN }
    }

    /// Quantises so that the product errs least on `rows`, inputs that real texts led to (one token a row).
    pub(crate) fn calibrated(linear: &Linear, coding: Coding, rows: &Array2<f32>) -> Self {
        let exact = rows.dot(&linear.weight);
        let signal = exact.fold(0.0, |sum, &x| sum + f64::from(x) * f64::from(x)).max(f64::MIN_POSITIVE);
        let mut best = Candidate::judge(linear, coding, rows, &exact, 0);
        if coding == Coding::Symmetric {
            for exponent in EXPONENTS {
                let candidate = Candidate::judge(linear, coding, rows, &exact, exponent);
                if candidate.error < best.error {
                    best = candidate;
                }
            }
        }
        let restored = dequantise(&best.weight, &best.scale);
        let bias = shifted_bias(linear, &restored, coding) + &best.mean_error;
        Self {
            weight: best.weight,
            scale: best.scale,
            bias,
            smoothing: best.smoothing,
            coding,
            exponent: best.exponent,
            noise: (best.error / signal) as f32,
        }
    }
}

struct Candidate {
    weight: Array2<i8>,
    scale: Array1<f32>,
    smoothing: Option<Array1<f32>>,
    exponent: u8,
    /// Exact less quantised, the mean over the rows.
    mean_error: Array1<f32>,
    /// Sum of squares of what the corrected bias leaves.
    error: f64,
}

impl Candidate {
    fn judge(linear: &Linear, coding: Coding, rows: &Array2<f32>, exact: &Array2<f32>, exponent: u8) -> Self {
        let smoothing = (exponent > 0).then(|| smoothing(rows, &linear.weight, f32::from(exponent) / 10.0));
        let (mut input, mut smoothed) = (rows.clone(), linear.weight.clone());
        if let Some(factors) = &smoothing {
            input /= factors;
            smoothed *= &factors.view().insert_axis(Axis(1));
        }
        let (weight, scale) = quantise_columns(&smoothed);
        round_rows(&mut input, coding);
        let mut difference = exact - &input.dot(&dequantise(&weight, &scale));
        let mean_error = difference.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(scale.len()));
        difference -= &mean_error;
        let error = difference.fold(0.0, |sum, &x| sum + f64::from(x) * f64::from(x));
        Self { weight, scale, smoothing, exponent, mean_error, error }
    }
}

/// SmoothQuant's factors: `max|x|^a / max|w|^(1-a)` of each input channel, with 1 as their geometric mean.
fn smoothing(rows: &Array2<f32>, weight: &Array2<f32>, exponent: f32) -> Array1<f32> {
    let inputs = column_maxima(rows);
    let weights = weight.fold_axis(Axis(1), 0.0_f32, |top, w| top.max(w.abs()));
    let mut logs = Array1::zeros(inputs.len());
    ndarray::Zip::from(&mut logs).and(&inputs).and(&weights).for_each(|log, x, w| {
        *log = exponent * x.max(LEAST_SCALE).ln() - (1.0 - exponent) * w.max(LEAST_SCALE).ln();
    });
    logs -= logs.mean().unwrap_or(0.0);
    logs.mapv_into(f32::exp)
}

/// Each column as signed bytes by its largest magnitude.
pub(crate) fn quantise_columns(weight: &Array2<f32>) -> (Array2<i8>, Array1<f32>) {
    let scale = column_maxima(weight).mapv_into(|top| top.max(LEAST_SCALE) / SIGNED_STEPS);
    let bytes = (weight / &scale).mapv(|x| x.round_ties_even().clamp(-SIGNED_STEPS, SIGNED_STEPS) as i8);
    (bytes, scale)
}

/// Each row as signed bytes by its largest magnitude: an embedding table.
pub(crate) fn quantise_rows(table: &Array2<f32>) -> (Array2<i8>, Array1<f32>) {
    let (bytes, scale) = quantise_columns(&table.t().as_standard_layout().into_owned());
    (bytes.t().as_standard_layout().into_owned(), scale)
}

fn dequantise(weight: &Array2<i8>, scale: &Array1<f32>) -> Array2<f32> {
    weight.mapv(f32::from) * scale
}

/// Rounds each row to what its bytes can say, as the graph does.
fn round_rows(rows: &mut Array2<f32>, coding: Coding) {
    for mut row in rows.rows_mut() {
        match coding {
            Coding::Symmetric => {
                let top = row.fold(0.0_f32, |top, x| top.max(x.abs())).max(LEAST_SCALE);
                let step = top / SIGNED_STEPS;
                row.mapv_inplace(|x| (x / step).round_ties_even() * step);
            }
            Coding::ShiftedGelu => {
                let step = (row.fold(0.0_f32, |top, &x| top.max(x)) + GELU_SHIFT) / UNSIGNED_STEPS;
                row.mapv_inplace(|x| ((x + GELU_SHIFT) / step).round_ties_even() * step - GELU_SHIFT);
            }
        }
    }
}

/// The bias, less what the shift of the input adds to each output.
fn shifted_bias(linear: &Linear, restored: &Array2<f32>, coding: Coding) -> Array1<f32> {
    match coding {
        Coding::Symmetric => linear.bias.clone(),
        Coding::ShiftedGelu => &linear.bias - &(restored.sum_axis(Axis(0)) * GELU_SHIFT),
    }
}
