//! Rows of floats, and functions of one float.

use pulp::Simd;

use super::{Norm, Quantization, Step};

/// Replaces `row` with `layer_norm(residual - row)`.
#[inline(always)]
pub(super) fn normalize<S: Simd>(simd: S, residual: &[f32], norm: Norm<'_>, row: &mut [f32]) {
    let width = row.len() as f32;
    for (value, residual) in row.iter_mut().zip(residual) {
        *value = residual - *value;
    }
    let mean = sum(simd, row) / width;
    for value in row.iter_mut() {
        *value -= mean;
    }
    let reciprocal = 1.0 / (sum_of_squares(simd, row) / width + norm.epsilon).sqrt();
    for ((value, scale), shift) in row.iter_mut().zip(norm.scale).zip(norm.shift) {
        *value = (*value * reciprocal).mul_add(*scale, *shift);
    }
}

/// Returns the row, multiplied by `smoothing` in `scratch`.
#[inline(always)]
pub(super) fn smooth<'a>(row: &'a [f32], smoothing: Option<&[f32]>, scratch: &'a mut [f32]) -> &'a [f32] {
    let Some(smoothing) = smoothing else {
        return row;
    };
    for ((out, value), factor) in scratch.iter_mut().zip(row).zip(smoothing) {
        *out = value * factor;
    }
    scratch
}

/// Writes a row's bytes, and returns its step.
#[inline(always)]
pub(super) fn quantize_row<S: Simd>(simd: S, row: &[f32], quantization: Quantization, bytes: &mut [u8]) -> f32 {
    let step = match quantization.step {
        Step::Fixed(step) => step,
        Step::Largest { minimum, factor } => larger(largest(simd, row), minimum) * factor,
        Step::LargestMagnitude { minimum, factor } => larger(largest_magnitude(simd, row), minimum) * factor,
    };
    // Bytes can't represent NaN and infinity: the step does.
    let step = step + zero_unless_not_finite(simd, row);
    let reciprocal = 1.0 / step;
    for (byte, value) in bytes.iter_mut().zip(row) {
        let place = value.mul_add(reciprocal, quantization.zero_point).clamp(0.0, 255.0);
        *byte = (place + ROUND).to_bits() as u8;
    }
    step
}

/// Returns 0, or NaN if an element is NaN or infinite.
#[inline(always)]
fn zero_unless_not_finite<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let zero = simd.splat_f32s(0.0);
    let mut sum = zero;
    for vector in S::as_simd_f32s(row).0 {
        sum = simd.mul_add_f32s(*vector, zero, sum);
    }
    simd.reduce_sum_f32s(sum)
}

/// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the lowest bits.
const ROUND: f32 = 12_582_912.0;

#[inline(always)]
pub(super) fn largest<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let mut largest = simd.splat_f32s(f32::MIN);
    for vector in S::as_simd_f32s(row).0 {
        largest = simd.max_f32s(largest, *vector);
    }
    simd.reduce_max_f32s(largest)
}

#[inline(always)]
fn largest_magnitude<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let mut largest = simd.splat_f32s(0.0);
    for vector in S::as_simd_f32s(row).0 {
        largest = simd.max_f32s(largest, simd.abs_f32s(*vector));
    }
    simd.reduce_max_f32s(largest)
}

#[inline(always)]
pub(super) fn sum<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let mut sum = simd.splat_f32s(0.0);
    for vector in S::as_simd_f32s(row).0 {
        sum = simd.add_f32s(sum, *vector);
    }
    simd.reduce_sum_f32s(sum)
}

#[inline(always)]
fn sum_of_squares<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let mut sum = simd.splat_f32s(0.0);
    for vector in S::as_simd_f32s(row).0 {
        sum = simd.mul_add_f32s(*vector, *vector, sum);
    }
    simd.reduce_sum_f32s(sum)
}

/// The larger of two numbers. Unlike [`f32::max`], it is one instruction.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `x * (1 + erf(x / sqrt(2))) / 2`.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    x * Normal::at(x).cumulative
}

/// The standard normal distribution at a point.
#[derive(Debug, Clone, Copy)]
pub struct Normal {
    /// `(1 + erf(x / sqrt(2))) / 2`. The error function is Abramowitz and Stegun's 7.1.26, within 1.5e-7.
    pub cumulative: f32,
    /// `e^(-x² / 2)`, the density without its factor.
    pub bell: f32,
}

impl Normal {
    /// The distribution at `x`, without branches. In code that is not compiled for fused multiply-add it is slow.
    #[inline(always)]
    #[must_use]
    pub fn at(x: f32) -> Self {
        let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let bell = exp(-z * z);
        let t = 1.0 / z.mul_add(0.327_591_1, 1.0);
        let mut sum = 1.061_405_4_f32;
        for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
            sum = sum.mul_add(t, coefficient);
        }
        let erf = (1.0 - sum * t * bell).copysign(x);
        Self {
            cumulative: 0.5 * (1.0 + erf),
            bell,
        }
    }
}

/// `e^x` to about one unit in the last place, without branches; 0 below -87.3, finite for very large `x`. In code that is
/// not compiled for fused multiply-add it is slow.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    let is_zero = x < LOWEST;
    let x = x.clamp(LOWEST, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = rounded - ROUND;
    // ln 2 in two parts, so that the remainder is exact.
    let rest = whole.mul_add(2.121_944_4e-4, whole.mul_add(-0.693_359_4, x));
    let mut sum = 1.987_569_1e-4_f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1] {
        sum = sum.mul_add(rest, coefficient);
    }
    let fraction = (sum * rest).mul_add(rest, rest) + 1.0;
    // The lowest bits of `rounded` are the integer: shifted into the exponent, they make a power of two.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if is_zero { 0.0 } else { fraction * power }
}
