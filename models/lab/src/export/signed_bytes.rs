//! Matrices of signed bytes with a scale per column.

use ndarray::{Array1, Array2, Axis};

/// Steps of a signed byte on each side of zero.
pub(crate) const SIGNED_STEPS: f32 = 127.0;
/// A lower bound of scales, against division by zero for rows or channels of zeros.
pub(crate) const LEAST_SCALE: f32 = 1e-6;

/// The largest magnitude of each column.
pub(crate) fn column_maxima(x: &Array2<f32>) -> Array1<f32> {
    x.fold_axis(Axis(0), 0.0_f32, |top, value| top.max(value.abs()))
}

/// Quantises each column to signed bytes by its largest magnitude.
pub(crate) fn quantise_columns(weight: &Array2<f32>) -> (Array2<i8>, Array1<f32>) {
    let scale = column_maxima(weight).mapv_into(|top| top.max(LEAST_SCALE) / SIGNED_STEPS);
    let bytes = (weight / &scale).mapv(|x| x.round_ties_even().clamp(-SIGNED_STEPS, SIGNED_STEPS) as i8);
    (bytes, scale)
}
