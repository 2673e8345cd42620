//! Compares the kernels with exact arithmetic.

#![allow(clippy::unwrap_used)]

use proptest::{collection::vec, prelude::*};
use pulp::Scalar;

use super::{vector::exp, *};

/// GELU's values from tables of the normal distribution.
#[test]
fn gelu_and_exp_are_within_their_tolerances() {
    for (x, expected) in [
        (0.0, 0.0),
        (0.5, 0.345_731_23),
        (1.0, 0.841_344_8),
        (2.0, 1.954_499_7),
        (-0.5, -0.154_268_77),
        (-1.0, -0.158_655_26),
        (-3.0, -0.004_049_694),
        (9.0, 9.0),
        (-40.0, 0.0),
    ] {
        assert!(
            (gelu(x) - expected).abs() < 5e-7,
            "{x}: {} instead of {expected}",
            gelu(x)
        );
    }
    for step in -870..=880 {
        let x = step as f32 / 10.0 + 0.0123;
        let (found, expected) = (f64::from(exp(x)), f64::from(x.min(88.0)).exp());
        assert!(
            (found / expected - 1.0).abs() < 3e-7,
            "{x}: {found} instead of {expected}"
        );
    }
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert!(exp(f32::NAN).is_nan());
    assert!(exp(f32::INFINITY).is_finite());
}

#[test]
fn rows_that_are_not_finite_have_no_finite_step() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 17, 63] {
            for step in [
                Step::Fixed(0.1),
                Step::LargestMagnitude {
                    minimum: 1e-6,
                    factor: 0.01,
                },
            ] {
                let mut row = [1.0; 4 * BLOCK];
                row[place] = value;
                let quantization = Quantization {
                    zero_point: 128.0,
                    step,
                };
                let found = both(1, row.len(), |out, scalar| {
                    let kernel = QuantizeRows {
                        rows: &row,
                        width: row.len(),
                        smoothing: None,
                        quantization,
                        out,
                    };
                    run_on(kernel, scalar);
                });
                assert!(
                    found.iter().all(|(_, steps)| !steps[0].is_finite()),
                    "{value} at {place}"
                );
            }
        }
    }
}

/// Runs a kernel with this processor's vectors and without any, and returns both outputs.
fn both(rows: usize, width: usize, run_on: impl Fn(Quantized<'_>, bool)) -> [(Vec<u8>, Vec<f32>); 2] {
    [false, true].map(|scalar| {
        let (mut bytes, mut steps) = (vec![0; rows * width], vec![0.0; rows]);
        let out = Quantized {
            bytes: &mut bytes,
            steps: &mut steps,
        };
        run_on(out, scalar);
        (bytes, steps)
    })
}

fn run_on<K: WithSimd<Output = ()>>(kernel: K, scalar: bool) {
    match scalar {
        true => kernel.with_simd(Scalar::new()),
        false => Arch::new().dispatch(kernel),
    }
}

/// Checks bytes and steps against rows of exact values.
fn check(found: &[(Vec<u8>, Vec<f32>); 2], exact: &[Vec<f64>], quantization: Quantization) {
    for (bytes, steps) in found {
        for (row, (bytes, &step)) in exact.iter().zip(bytes.chunks(exact[0].len()).zip(steps)) {
            let expected = match quantization.step {
                Step::Fixed(step) => f64::from(step),
                Step::Largest { minimum, factor } => {
                    row.iter().fold(f64::from(minimum), |a, &b| a.max(b)) * f64::from(factor)
                }
                Step::LargestMagnitude { minimum, factor } => {
                    row.iter().fold(f64::from(minimum), |a, &b| a.max(b.abs())) * f64::from(factor)
                }
            };
            assert!(
                (f64::from(step) / expected - 1.0).abs() < 1e-4,
                "{step} instead of {expected}"
            );
            for (&byte, value) in bytes.iter().zip(row) {
                let place = (value / expected + f64::from(quantization.zero_point)).clamp(0.0, 255.0);
                assert!((f64::from(byte) - place).abs() < 0.52, "{byte} instead of {place}");
            }
        }
    }
}

fn quantizations() -> impl Strategy<Value = Quantization> {
    let steps = prop_oneof![
        Just(Step::Fixed(0.02)),
        Just(Step::Largest {
            minimum: 1.6,
            factor: 1.0 / 231.0
        }),
        Just(Step::LargestMagnitude {
            minimum: 1e-6,
            factor: 1.0 / 127.0
        }),
    ];
    (steps, prop_oneof![Just(24.0), Just(128.0)]).prop_map(|(step, zero_point)| Quantization { zero_point, step })
}

fn floats(length: usize) -> impl Strategy<Value = Vec<f32>> {
    vec(-4.0_f32..4.0, length)
}

/// The exact rows of a product with row scales and an offset.
fn exact(product: Product<'_>, width: usize) -> Vec<Vec<f64>> {
    let rows = product.values.chunks(width).enumerate();
    rows.map(|(row, values)| {
        let scale = product.row_scales.map_or(1.0, |scales| scales[row]);
        let columns = values.iter().enumerate();
        columns
            .map(|(column, value)| {
                let offset = product.offset.map_or(0.0, |offset| offset[column]);
                f64::from(*value) * f64::from(scale) - f64::from(offset)
            })
            .collect()
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_layer_norm_of_rows_is_quantised(
        (rows, width) in (1_usize..5, (1_usize..6).prop_map(|blocks| blocks * BLOCK)),
        seed in floats(5 * 6 * BLOCK),
        quantization in quantizations(),
        (has_scales, has_smoothing) in any::<(bool, bool)>(),
    ) {
        let part = |first: usize, length: usize| -> Vec<f32> {
            (0..length).map(|place| seed[(first * 7 + place) % seed.len()]).collect()
        };
        let (values, residual) = (part(0, rows * width), part(3, rows * width));
        let (scales, offset) = (part(5, rows), part(11, width));
        let (scale, shift, smoothing) = (part(13, width), part(17, width), part(19, width));
        let norm = Norm { scale: &scale, shift: &shift, epsilon: 1e-5 };
        let product = Product {
            values: &values,
            row_scales: has_scales.then_some(&scales),
            offset: has_scales.then_some(&offset),
        };
        let smoothing = has_smoothing.then_some(&smoothing[..]);
        let exact: Vec<Vec<f64>> = exact(product, width).iter().zip(residual.chunks(width)).map(|(row, residual)| {
            let row: Vec<f64> = row.iter().zip(residual).map(|(value, &residual)| f64::from(residual) - value).collect();
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / width as f64;
            let columns = row.iter().enumerate();
            columns.map(|(column, value)| {
                let normal = (value - mean) / (variance + 1e-5).sqrt();
                let normed = normal * f64::from(scale[column]) + f64::from(shift[column]);
                normed * smoothing.map_or(1.0, |factors| f64::from(factors[column]))
            }).collect()
        }).collect();
        let found = both(rows, width, |out, scalar| {
            let mut normed = vec![0.0; rows * width];
            run_on(LayerNormQuantize { product, residual: &residual, norm, smoothing, quantization, normed: &mut normed, out }, scalar);
        });
        check(&found, &exact, quantization);
    }

    #[test]
    fn rows_and_their_gelu_are_quantised(
        (rows, width) in (1_usize..5, (1_usize..6).prop_map(|blocks| blocks * BLOCK)),
        values in floats(5 * 6 * BLOCK),
        quantization in quantizations(),
        is_scaled in any::<bool>(),
    ) {
        let (scales, offset) = (values[..rows].to_vec(), values[..width].to_vec());
        let values = &values[..rows * width];
        let product = Product {
            values,
            row_scales: is_scaled.then_some(&scales),
            offset: is_scaled.then_some(&offset),
        };
        let smoothing = is_scaled.then_some(&offset[..]);
        let smoothed: Vec<Vec<f64>> = values.chunks(width).map(|row| {
            let columns = row.iter().enumerate();
            columns.map(|(column, &value)| f64::from(value) * smoothing.map_or(1.0, |factors| f64::from(factors[column]))).collect()
        }).collect();
        let found = both(rows, width, |out, scalar| {
            run_on(QuantizeRows { rows: values, width, smoothing, quantization, out }, scalar);
        });
        check(&found, &smoothed, quantization);
        let mut activated = exact(product, width);
        for value in activated.iter_mut().flatten() {
            *value = f64::from(gelu(*value as f32));
        }
        let found = both(rows, width, |out, scalar| {
            run_on(GeluQuantize { product, width, quantization, out }, scalar);
        });
        check(&found, &activated, quantization);
    }

    #[test]
    fn the_context_of_attention_is_quantised(
        (posts, tokens, heads, blocks) in (1_usize..4, 1_usize..38, 1_usize..4, 1_usize..4),
        values in floats(3 * 37 * 9 * BLOCK),
        padding in 0_usize..37,
        quantization in quantizations(),
    ) {
        let head_width = blocks * BLOCK;
        let (width, rows) = (heads * head_width, posts * tokens);
        let values: Vec<f32> = (0..rows * 3 * width).map(|place| values[place % values.len()] / 3.0).collect();
        let product = Product { values: &values, row_scales: None, offset: None };
        let is_padding = |row: usize| row % tokens >= tokens.saturating_sub(padding).max(1);
        let mask: Vec<f32> = (0..rows).map(|row| if is_padding(row) { f32::MIN } else { 0.0 }).collect();
        let at = |row: usize, part: usize, column: usize| f64::from(values[row * 3 * width + part * width + column]);
        let exact: Vec<Vec<f64>> = (0..rows).map(|row| {
            let post = row / tokens * tokens..(row / tokens + 1) * tokens;
            let columns = 0..width;
            columns.map(|column| {
                let head = column / head_width * head_width..(column / head_width + 1) * head_width;
                let (mut sum, mut weights) = (0.0, 0.0);
                for other in post.clone().filter(|&other| !is_padding(other)) {
                    let score: f64 = head.clone().map(|c| at(row, 0, c) * at(other, 1, c)).sum();
                    sum += score.exp() * at(other, 2, column);
                    weights += score.exp();
                }
                sum / weights
            }).collect()
        }).collect();
        let shape = AttentionShape { posts, tokens, heads, head_width };
        let found = both(rows, width, |out, scalar| {
            let mut scratch = AttentionScratch::default();
            run_on(AttentionQuantize { product, mask: &mask, shape, quantization, scratch: &mut scratch, out }, scalar);
        });
        check(&found, &exact, quantization);
    }
}
