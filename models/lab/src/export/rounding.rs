//! Rounds weights to bytes so that the errors of input channels compensate each other: GPTQ (arXiv 2210.17323).
//!
//! Real inputs are correlated, so the error of rounding the weights of one input channel can be compensated in the weights of
//! later ones. This needs the Cholesky factor of the inverse of the inputs' second moments.

use ndarray::{Array1, Array2, Axis};

use super::signed_bytes::{SIGNED_STEPS, quantise_columns};

/// The value added to the diagonal of the second moments, as a share of its mean, so that they can be inverted.
const DAMPING: f32 = 0.01;

/// Quantises `weight` to signed bytes with a scale per column, rounded for inputs like `rows` (`[tokens, inputs]`).
///
/// If the moments of the inputs can't be inverted, the result is the nearest bytes.
pub(crate) fn quantise_for(rows: &Array2<f32>, weight: &Array2<f32>) -> (Array2<i8>, Array1<f32>) {
    let (nearest, scale) = quantise_columns(weight);
    let Some(inverse) = inverse_factor(rows) else {
        return (nearest, scale);
    };
    let channels = weight.nrows();
    let mut rest = weight / &scale;
    let mut bytes = nearest;
    for k in 0..channels {
        // The factor has the channels in reverse order: its lower triangle, read backwards, is the upper triangle here.
        let factors = inverse.row(channels - 1 - k);
        let (mut row, mut later) = rest.view_mut().split_at(Axis(0), k + 1);
        let mut row = row.row_mut(k);
        let rounded = row.mapv(|x| x.round_ties_even().clamp(-SIGNED_STEPS, SIGNED_STEPS));
        bytes.row_mut(k).assign(&rounded.mapv(|x| x as i8));
        row -= &rounded;
        row /= factors[channels - 1 - k];
        for (offset, mut next) in later.rows_mut().into_iter().enumerate() {
            next.scaled_add(-factors[channels - 2 - k - offset], &row);
        }
    }
    (bytes, scale)
}

/// The inverse of the Cholesky factor of the inputs' second moments, with the channels in reverse order.
fn inverse_factor(rows: &Array2<f32>) -> Option<Array2<f32>> {
    let mut moments = rows.t().dot(rows);
    moments.invert_axis(Axis(0));
    moments.invert_axis(Axis(1));
    let mut moments = moments.as_standard_layout().into_owned();
    let damping = DAMPING * moments.diag().mean()?;
    moments.diag_mut().mapv_inplace(|x| x + damping);
    let factor = cholesky(moments)?;
    Some(invert_lower(&factor))
}

/// The lower Cholesky factor of a symmetric matrix; `None` if it is not positive definite.
fn cholesky(mut a: Array2<f32>) -> Option<Array2<f32>> {
    for i in 0..a.nrows() {
        let (done, mut rest) = a.view_mut().split_at(Axis(0), i);
        let mut row = rest.row_mut(0);
        for j in 0..i {
            let above = done.row(j);
            let known = row
                .slice_axis(Axis(0), (..j).into())
                .dot(&above.slice_axis(Axis(0), (..j).into()));
            row[j] = (row[j] - known) / above[j];
        }
        let head = row.slice_axis(Axis(0), (..i).into());
        let square = row[i] - head.dot(&head);
        if !(square.is_finite() && square > 0.0) {
            return None;
        }
        row[i] = square.sqrt();
        row.slice_axis_mut(Axis(0), (i + 1..).into()).fill(0.0);
    }
    Some(a)
}

/// The inverse of a lower triangular matrix.
fn invert_lower(l: &Array2<f32>) -> Array2<f32> {
    let mut inverse = Array2::zeros(l.raw_dim());
    for i in 0..l.nrows() {
        let (done, mut rest) = inverse.view_mut().split_at(Axis(0), i);
        let mut row = rest.row_mut(0);
        for m in 0..i {
            let mut head = row.slice_axis_mut(Axis(0), (..=m).into());
            head.scaled_add(-l[(i, m)] / l[(i, i)], &done.row(m).slice_axis(Axis(0), (..=m).into()));
        }
        row[i] = 1.0 / l[(i, i)];
    }
    inverse
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn random(rows: usize, columns: usize, rng: &mut StdRng) -> Array2<f32> {
        Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0..1.0))
    }

    #[test]
    fn the_product_of_factor_and_inverse_is_the_identity() {
        let mut rng = StdRng::seed_from_u64(3);
        let rows = random(64, 12, &mut rng);
        let moments = rows.t().dot(&rows);
        let factor = cholesky(moments.clone()).unwrap();
        assert!((factor.dot(&factor.t()) - &moments).iter().all(|x| x.abs() < 1e-3));
        let unit = invert_lower(&factor).dot(&factor);
        assert!((unit - Array2::<f32>::eye(12)).iter().all(|x| x.abs() < 1e-4));
        assert!(cholesky(Array2::zeros((3, 3))).is_none());
    }

    #[test]
    fn the_error_on_correlated_inputs_is_less_than_with_the_nearest_bytes() {
        let mut rng = StdRng::seed_from_u64(5);
        // Sixteen channels that depend on three random variables.
        let rows = random(256, 3, &mut rng).dot(&random(3, 16, &mut rng)) + random(256, 16, &mut rng) * 0.1;
        let weight = random(16, 8, &mut rng);
        let error = |(bytes, scale): (Array2<i8>, Array1<f32>)| {
            let difference = rows.dot(&(bytes.mapv(f32::from) * &scale - &weight));
            difference.iter().map(|x| x * x).sum::<f32>()
        };
        let (nearest, chosen) = (error(quantise_columns(&weight)), error(quantise_for(&rows, &weight)));
        assert!(chosen < nearest * 0.7, "{chosen} against {nearest}");
    }
}
