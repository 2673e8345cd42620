//! The arithmetic of the encoder: matrix products and fused row operations.
//!
//! Matrices are row-major `f32` slices. Products use `ndarray`; everything else is plain loops. [`pulp`] compiles them for
//! several vector widths and selects one at run time, so a portable build also uses AVX-512.

use moodstream_kernels::{Normal, exp};
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder, linalg::general_mat_mul};
use pulp::Arch;

/// A view of a matrix of `rows` x `columns` elements with strides.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    strides: (usize, usize),
}

impl<'a> View<'a> {
    /// The first `rows * columns` elements of `data`.
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// A block of a wider matrix; `data` starts at the block's first element.
    pub(super) fn strided(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self {
            data: &data[..span(rows, columns, stride)],
            rows,
            columns,
            strides: (stride, 1),
        }
    }

    pub(super) fn transposed(self) -> Self {
        let (row, column) = self.strides;
        Self {
            rows: self.columns,
            columns: self.rows,
            strides: (column, row),
            ..self
        }
    }

    fn array(self) -> Option<ArrayView2<'a, f32>> {
        ArrayView2::from_shape((self.rows, self.columns).strides(self.strides), self.data).ok()
    }
}

/// Whether a product replaces its destination or is added to it.
#[derive(Clone, Copy)]
pub(super) enum Write {
    Replace,
    Add,
}

fn span(rows: usize, columns: usize, stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + columns }
}

/// `out = a b` or `out += a b`.
pub(super) fn product(out: &mut [f32], write: Write, a: View<'_>, b: View<'_>) {
    product_strided(out, b.columns, write, 1.0, a, b);
}

/// [`product`] multiplied by `scale`, into a block of a matrix whose rows are `stride` apart.
pub(super) fn product_strided(out: &mut [f32], stride: usize, write: Write, scale: f32, a: View<'_>, b: View<'_>) {
    let (rows, columns) = (a.rows, b.columns);
    if rows == 0 || columns == 0 {
        return;
    }
    let out = &mut out[..span(rows, columns, stride)];
    let out = ArrayViewMut2::from_shape((rows, columns).strides((stride, 1)), out);
    let (Ok(mut out), Some(a), Some(b)) = (out, a.array(), b.array()) else {
        // The slices have the right lengths, so this is not reached.
        debug_assert!(false, "a view's length does not fit its shape");
        return;
    };
    let keep = match write {
        Write::Replace => 0.0,
        Write::Add => 1.0,
    };
    general_mat_mul(scale, &a, &b, keep, &mut out);
}

/// `out = x w^T + bias` for `w` of `width_out` x `width_in`.
pub(super) fn linear(out: &mut [f32], x: &[f32], w: &[f32], bias: &[f32], rows: usize) {
    let (width_in, width_out) = (w.len() / bias.len(), bias.len());
    repeat_row(&mut out[..rows * width_out], bias);
    product(
        out,
        Write::Add,
        View::new(x, rows, width_in),
        View::new(w, width_out, width_in).transposed(),
    );
}

/// The gradients of [`linear`]: adds to those of `w` and `bias`, and writes or adds that of `x`.
pub(super) struct LinearBackward<'a> {
    pub(super) d_out: &'a [f32],
    pub(super) x: &'a [f32],
    pub(super) w: &'a [f32],
    pub(super) rows: usize,
}

impl LinearBackward<'_> {
    pub(super) fn weights(&self, d_w: &mut [f32], d_bias: &mut [f32]) {
        let (width_in, width_out) = (d_w.len() / d_bias.len(), d_bias.len());
        add_columns(d_bias, &self.d_out[..self.rows * width_out]);
        let d_out = View::new(self.d_out, self.rows, width_out);
        product(
            d_w,
            Write::Add,
            d_out.transposed(),
            View::new(self.x, self.rows, width_in),
        );
    }

    pub(super) fn input(&self, d_x: &mut [f32], write: Write, width_out: usize) {
        let width_in = self.w.len() / width_out;
        product(
            d_x,
            write,
            View::new(self.d_out, self.rows, width_out),
            View::new(self.w, width_out, width_in),
        );
    }
}

pub(super) fn repeat_row(out: &mut [f32], row: &[f32]) {
    for line in out.chunks_exact_mut(row.len()) {
        line.copy_from_slice(row);
    }
}

/// Adds the column sums of `matrix` to `sums`.
pub(super) fn add_columns(sums: &mut [f32], matrix: &[f32]) {
    Arch::new().dispatch(|| {
        for line in matrix.chunks_exact(sums.len()) {
            add_lanes(sums, line);
        }
    });
}

/// `a += b`.
pub(super) fn add(a: &mut [f32], b: &[f32]) {
    Arch::new().dispatch(|| add_lanes(a, b));
}

#[inline(always)]
fn add_lanes(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

/// The sum of `f(i)` in sixteen lanes. The compiler may not reorder floating-point sums, so it can't vectorise a plain one.
#[inline(always)]
fn lanes(length: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0_f32; 16];
    let whole = length / 16 * 16;
    for start in (0..whole).step_by(16) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    let mut total: f32 = sums.iter().sum();
    for i in whole..length {
        total += f(i);
    }
    total
}

/// A layer norm's weights.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) epsilon: f32,
}

/// Normalises each row of `x` in place, keeping the normalised rows and reciprocal deviations for
/// the backward pass, and writes the scaled and shifted rows to `out`.
pub(super) fn layer_norm(out: &mut [f32], x: &mut [f32], reciprocals: &mut [f32], norm: Norm<'_>) {
    let width = norm.scale.len();
    Arch::new().dispatch(|| {
        for ((out, x), reciprocal) in out
            .chunks_exact_mut(width)
            .zip(x.chunks_exact_mut(width))
            .zip(reciprocals)
        {
            let (scale, shift) = (&norm.scale[..width], &norm.shift[..width]);
            let mean = {
                let x = &*x;
                lanes(width, |i| x[i]) / width as f32
            };
            let variance = {
                let x = &*x;
                lanes(width, |i| (x[i] - mean) * (x[i] - mean)) / width as f32
            };
            *reciprocal = 1.0 / (variance + norm.epsilon).sqrt();
            for i in 0..width {
                x[i] = (x[i] - mean) * *reciprocal;
                out[i] = x[i] * scale[i] + shift[i];
            }
        }
    });
}

/// The backward pass of [`layer_norm`]: turns `d_out` into the gradient of its input, in place.
pub(super) fn layer_norm_backward(
    d_out: &mut [f32],
    normal: &[f32],
    reciprocals: &[f32],
    scale: &[f32],
    d_scale: &mut [f32],
    d_shift: &mut [f32],
) {
    let width = scale.len();
    Arch::new().dispatch(|| {
        let rows = d_out
            .chunks_exact_mut(width)
            .zip(normal.chunks_exact(width))
            .zip(reciprocals);
        for ((d, normal), &reciprocal) in rows {
            let (scale, d_scale, d_shift) = (&scale[..width], &mut d_scale[..width], &mut d_shift[..width]);
            for i in 0..width {
                d_scale[i] += d[i] * normal[i];
                d_shift[i] += d[i];
                d[i] *= scale[i];
            }
            let (mean, slope) = {
                let d = &*d;
                (
                    lanes(width, |i| d[i]) / width as f32,
                    lanes(width, |i| d[i] * normal[i]) / width as f32,
                )
            };
            for i in 0..width {
                d[i] = reciprocal * (d[i] - mean - normal[i] * slope);
            }
        }
    });
}

/// GELU by the error function: writes `gelu(x)` to `out` and replaces `x` with the derivative.
pub(super) fn gelu(out: &mut [f32], x: &mut [f32]) {
    Arch::new().dispatch(|| {
        for (out, x) in out.iter_mut().zip(x) {
            let u = *x;
            let Normal { cumulative, bell } = Normal::at(u);
            *out = u * cumulative;
            *x = cumulative + u * bell * 0.398_942_3;
        }
    });
}

/// `a *= b`.
pub(super) fn scale_by(a: &mut [f32], b: &[f32]) {
    Arch::new().dispatch(|| {
        for (a, b) in a.iter_mut().zip(b) {
            *a *= b;
        }
    });
}

/// Softmax of each row of `width` scores, in place.
pub(super) fn softmax(scores: &mut [f32], width: usize) {
    Arch::new().dispatch(|| {
        for row in scores.chunks_exact_mut(width) {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for score in row.iter_mut() {
                *score = exp(*score - top);
            }
            let total = {
                let row = &*row;
                lanes(width, |i| row[i])
            };
            let reciprocal = 1.0 / total;
            for score in row.iter_mut() {
                *score *= reciprocal;
            }
        }
    });
}

/// The backward pass of [`softmax`]: turns the gradient of the result into that of the scores.
pub(super) fn softmax_backward(d: &mut [f32], probabilities: &[f32], width: usize) {
    Arch::new().dispatch(|| {
        for (d, probabilities) in d.chunks_exact_mut(width).zip(probabilities.chunks_exact(width)) {
            let mean = {
                let d = &*d;
                lanes(width, |i| d[i] * probabilities[i])
            };
            for (d, probability) in d.iter_mut().zip(probabilities) {
                *d = probability * (*d - mean);
            }
        }
    });
}
