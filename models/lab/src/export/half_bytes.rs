//! Word embeddings in 4 bits per weight, with a scale for every 32 weights: half the size of signed bytes.
//!
//! This is llama.cpp's `Q4_0`: a weight is its half byte minus 8, times the scale, and the weight with the largest magnitude in
//! a block has the half byte 0. A table that was quantised like this before is reproduced exactly.

use ndarray::Array2;

/// Weights with one scale.
pub(crate) const BLOCK: usize = 32;
/// The half byte of zero.
const ZERO: f32 = 8.0;

/// A table in half bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct HalfBytes {
    /// `[rows, width / 2]`: weights at even positions are in the low half.
    pub(crate) bytes: Vec<u8>,
    /// `[rows, width / BLOCK]`
    pub(crate) scales: Vec<f32>,
}

/// Quantises each row in blocks; the width is a multiple of [`BLOCK`].
pub(crate) fn quantise_blocks(table: &Array2<f32>) -> HalfBytes {
    let table = table.as_standard_layout();
    let blocks = table.as_slice().unwrap_or_default().as_chunks::<BLOCK>().0;
    let mut bytes = Vec::with_capacity(blocks.len() * BLOCK / 2);
    let mut scales = Vec::with_capacity(blocks.len());
    for block in blocks {
        let largest = block
            .iter()
            .copied()
            .fold(0.0_f32, |most, x| if x.abs() > most.abs() { x } else { most });
        let scale = largest / -ZERO;
        let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
        let half = |x: f32| (x * inverse + ZERO).round_ties_even().clamp(0.0, 15.0) as u8;
        bytes.extend(
            block
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&[low, high]| half(low) | half(high) << 4),
        );
        scales.push(scale);
    }
    HalfBytes { bytes, scales }
}

impl HalfBytes {
    /// The weights, row-major.
    pub(crate) fn values(&self) -> Vec<f32> {
        let halves = self.bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
        let scales = self.scales.iter().flat_map(|&scale| [scale; BLOCK]);
        halves
            .zip(scales)
            .map(|(half, scale)| (f32::from(half) - ZERO) * scale)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_quantised_before_is_reproduced() {
        let halves = |row: usize, at: usize| ((row * 7 + at * 5) % 16) as u8;
        let scale = |row: usize, block: usize| [0.125, -0.5, 0.0, 0.003_173_828][(row + block) % 4];
        let table = Array2::from_shape_fn((6, 64), |(row, at)| {
            (f32::from(halves(row, at)) - ZERO) * scale(row, at / BLOCK)
        });
        let quantised = quantise_blocks(&table);
        assert_eq!((quantised.bytes.len(), quantised.scales.len()), (6 * 32, 6 * 2));
        let again = quantised.values();
        assert_eq!(again.len(), table.len());
        for (((row, at), &value), again) in table.indexed_iter().zip(again) {
            assert!((again - value).abs() <= 1e-7, "{row} {at}: {again} {value}");
        }
    }

    #[test]
    fn errors_are_at_most_half_a_step_except_at_the_end_of_the_range() {
        let table = Array2::from_shape_fn((1, 32), |(_, at)| (at as f32 * 0.7).sin());
        let HalfBytes { bytes, scales } = quantise_blocks(&table);
        for (at, &value) in table.iter().enumerate() {
            let half = if at % 2 == 0 {
                bytes[at / 2] & 15
            } else {
                bytes[at / 2] >> 4
            };
            let error = ((f32::from(half) - ZERO) * scales[0] - value).abs() / scales[0].abs();
            assert!(
                error <= 0.5 + 1e-5 || half == 15 && error <= 1.0 + 1e-5,
                "{at}: {error}"
            );
        }
    }
}
