//! Vectorised arithmetic between the byte products of an int8 encoder: each kernel takes a product, and what normalisation, GELU
//! or attention make of it, to the bytes of the next product in one pass. [`pulp`] compiles them for several vector widths and
//! selects one at run time.
//!
//! It is a crate of its own so that development builds optimise it too.
//!
//! A row is computed alone, so a post's scores do not depend on the other posts of its batch. In attention, the padding of a
//! post has a weight of 0.
//!
//! Loops over elements are plain loops that the compiler vectorises. It may not reorder floating-point sums, so sums and
//! maxima are written with vectors.

mod attention;
#[cfg(test)]
mod tests;
mod vector;

use pulp::{Arch, Simd, WithSimd};

pub use self::attention::{AttentionQuantize, AttentionScratch, AttentionShape};
pub use self::vector::{Normal, exp};
use self::vector::{gelu, normalize, quantize_row, smooth};

/// Widths are multiples of this number of floats: a vector of AVX-512, two of AVX2, four of NEON.
pub const BLOCK: usize = 16;

/// How a row of floats becomes unsigned bytes: `round(x / step) + zero_point`, limited to 0..=255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    /// The byte of 0.
    pub zero_point: f32,
    /// What a byte more means.
    pub step: Step,
}

/// The step between two bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// The same for all rows.
    Fixed(f32),
    /// A row's largest value, at least `minimum`, times `factor`.
    Largest {
        /// The least value to calculate with.
        minimum: f32,
        /// The reciprocal of the number of bytes for that value.
        factor: f32,
    },
    /// The same with the largest magnitude.
    LargestMagnitude {
        /// The least magnitude to calculate with.
        minimum: f32,
        /// The reciprocal of the number of bytes for that magnitude.
        factor: f32,
    },
}

/// A product of bytes with its scales: the element in row `r` and column `c` is `product[r, c] * row_scales[r] - offset[c]`.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// The elements, row by row.
    pub values: &'a [f32],
    /// A factor for each row; all 1 if absent.
    pub row_scales: Option<&'a [f32]>,
    /// What is subtracted from each column; all 0 if absent.
    pub offset: Option<&'a [f32]>,
}

/// The output of a kernel.
pub struct Quantized<'a> {
    /// The bytes, row by row.
    pub bytes: &'a mut [u8],
    /// The step of each row.
    pub steps: &'a mut [f32],
}

/// The weights of a layer normalisation.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// The factor of each column; the length is the width of the rows.
    pub scale: &'a [f32],
    /// What is added to each column.
    pub shift: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

/// Quantises rows of `width` floats, after multiplying each column by `smoothing`.
pub struct QuantizeRows<'a> {
    /// The elements, row by row.
    pub rows: &'a [f32],
    /// The length of a row.
    pub width: usize,
    /// A factor for each column.
    pub smoothing: Option<&'a [f32]>,
    /// How the rows become bytes.
    pub quantization: Quantization,
    /// The bytes.
    pub out: Quantized<'a>,
}

/// Writes `layer_norm(residual - product)` to `normed`, and quantises it as [`QuantizeRows`] does.
pub struct LayerNormQuantize<'a> {
    /// The product that is subtracted from the residual.
    pub product: Product<'a>,
    /// The residual's elements, row by row.
    pub residual: &'a [f32],
    /// The weights of the normalisation.
    pub norm: Norm<'a>,
    /// A factor for each column, which `normed` is without.
    pub smoothing: Option<&'a [f32]>,
    /// How the rows become bytes.
    pub quantization: Quantization,
    /// The normalised rows.
    pub normed: &'a mut [f32],
    /// The bytes.
    pub out: Quantized<'a>,
}

/// Quantises `gelu(product)`, whose rows have `width` columns. GELU is the exact one, by the error function.
pub struct GeluQuantize<'a> {
    /// The argument of GELU.
    pub product: Product<'a>,
    /// The length of a row.
    pub width: usize,
    /// How the rows become bytes.
    pub quantization: Quantization,
    /// The bytes.
    pub out: Quantized<'a>,
}

/// Gives kernels a method that runs them with the widest vectors of this processor.
macro_rules! run {
    ($($kernel:ident),*) => {$(
        impl $kernel<'_> {
            /// Runs the kernel. Slices of other lengths than described lead to a panic or to unwritten rows.
            pub fn run(self) {
                Arch::new().dispatch(self);
            }
        }
    )*};
}

run!(QuantizeRows, LayerNormQuantize, GeluQuantize, AttentionQuantize);

/// Whether the kernels are vectorised on this processor. Without vectors and fused multiply-add they are slow.
#[must_use]
pub fn is_vectorised() -> bool {
    !matches!(Arch::new(), Arch::Scalar)
}

// `pulp` compiles `with_simd` for each kind of vectors, and everything that is inlined into it: all of it must be
// `#[inline(always)]`, and there must be no large closures, which are not inlined.

impl WithSimd for QuantizeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            rows,
            width,
            smoothing,
            quantization,
            out,
        } = self;
        let mut scratch = vec![0.0; width];
        let outputs = out.bytes.chunks_exact_mut(width).zip(out.steps);
        for (row, (bytes, step)) in rows.chunks_exact(width).zip(outputs) {
            let smoothed = smooth(row, smoothing, &mut scratch);
            *step = quantize_row(simd, smoothed, quantization, bytes);
        }
    }
}

impl WithSimd for LayerNormQuantize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            product,
            norm,
            smoothing,
            quantization,
            ..
        } = self;
        let width = norm.scale.len();
        let mut scratch = vec![0.0; width];
        let inputs = self.residual.chunks_exact(width);
        let outputs = self
            .normed
            .chunks_exact_mut(width)
            .zip(self.out.bytes.chunks_exact_mut(width))
            .zip(self.out.steps);
        for (index, (residual, ((normed, bytes), step))) in inputs.zip(outputs).enumerate() {
            product.row(index, normed);
            normalize(simd, residual, norm, normed);
            let smoothed = smooth(normed, smoothing, &mut scratch);
            *step = quantize_row(simd, smoothed, quantization, bytes);
        }
    }
}

impl WithSimd for GeluQuantize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut scratch = vec![0.0; self.width];
        let outputs = self.out.bytes.chunks_exact_mut(self.width).zip(self.out.steps);
        for (index, (bytes, step)) in outputs.enumerate() {
            self.product.row(index, &mut scratch);
            for value in &mut scratch {
                *value = gelu(*value);
            }
            *step = quantize_row(simd, &scratch, self.quantization, bytes);
        }
    }
}

impl Product<'_> {
    /// Writes a row to `out`, whose length is the product's width.
    #[inline(always)]
    fn row(&self, row: usize, out: &mut [f32]) {
        let width = out.len();
        let values = &self.values[row * width..][..width];
        let scale = match self.row_scales {
            Some(scales) => scales[row],
            None => 1.0,
        };
        match self.offset {
            Some(offset) => {
                for ((out, value), offset) in out.iter_mut().zip(values).zip(offset) {
                    *out = value * scale - offset;
                }
            }
            None => {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = value * scale;
                }
            }
        }
    }
}
