//! Matrices of signed bytes with a scale a column.

use ndarray::{Array1, Array2};

use super::forward::column_maxima;

/// Steps of a signed byte on each side of zero.
pub(crate) const SIGNED_STEPS: f32 = 127.0;
/// Keeps a row of zeros, or a channel that no text reached, from dividing by zero.
pub(crate) const LEAST_SCALE: f32 = 1e-6;

/// Each column as signed bytes by its largest magnitude.
pub(crate) fn quantise_columns(weight: &Array2<f32>) -> (Array2<i8>, Array1<f32>) {
    let scale = column_maxima(weight).mapv_into(|top| top.max(LEAST_SCALE) / SIGNED_STEPS);
    let bytes = (weight / &scale).mapv(|x| x.round_ties_even().clamp(-SIGNED_STEPS, SIGNED_STEPS) as i8);
    (bytes, scale)
}
