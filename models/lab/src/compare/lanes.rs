//! The weights of eight classes side by side, in one cache line: a row is read once for eight classes, and vector
//! instructions compute them together.

use super::sparse::Row;

/// Classes side by side.
pub(super) const LANES: usize = 8;

/// One value for each of eight classes.
pub(super) type Lane = [f64; LANES];

/// The number of blocks of eight for `classes`.
pub(super) const fn blocks(classes: usize) -> usize {
    classes.div_ceil(LANES)
}

/// `sum + row · weights`.
#[inline(always)]
pub(super) fn dot(mut sum: Lane, row: Row<'_>, weights: &[Lane]) -> Lane {
    for (column, value) in row.iter() {
        let (weights, value) = (&weights[column as usize], f64::from(value));
        for lane in 0..LANES {
            sum[lane] += weights[lane] * value;
        }
    }
    sum
}

/// `weights += row · step`.
#[inline(always)]
pub(super) fn add(weights: &mut [Lane], row: Row<'_>, step: &Lane) {
    for (column, value) in row.iter() {
        let (weights, value) = (&mut weights[column as usize], f64::from(value));
        for lane in 0..LANES {
            weights[lane] += step[lane] * value;
        }
    }
}
