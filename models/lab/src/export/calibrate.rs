//! Chooses how each product of each layer is quantised, by its inputs on real texts.

use std::collections::BTreeMap;

use ndarray::{Array2, Axis, Slice};
use rayon::prelude::*;

use super::classifier::Classifier;
use super::quantise::{Coding, QuantisedLinear};
use super::writer::Reach;
use crate::encoder::{Packed, Pass, Product};

/// The number of tokens for calibration: enough to see every channel's outliers, few enough to take seconds.
const ROWS: usize = 3_072;
/// Texts of one pass.
const CHUNK: usize = 64;

/// The four products of a layer.
#[derive(Debug, Clone)]
pub(crate) struct QuantisedLayer {
    /// Queries, keys and values side by side.
    pub(crate) query_key_value: QuantisedLinear,
    /// The products after attention. They are not quantised in the last layer if only the first token of each text is
    /// computed there: that costs little time, and rounding errors would affect the logits directly.
    pub(crate) rest: Option<QuantisedRest>,
}

/// The products after attention.
#[derive(Debug, Clone)]
pub(crate) struct QuantisedRest {
    pub(crate) attention_output: QuantisedLinear,
    pub(crate) intermediate: QuantisedLinear,
    pub(crate) output: QuantisedLinear,
}

/// Quantises every layer. `texts` are token ids with special tokens, none longer than the model supports.
///
/// Without texts, nothing is smoothed or corrected.
pub(crate) fn quantise_layers(model: &Classifier, texts: &[Vec<u32>]) -> Vec<QuantisedLayer> {
    let samples = sample(model, texts);
    let jobs: Vec<(usize, Product)> = (0..model.layers())
        .flat_map(|layer| PRODUCTS.map(|product| (layer, product)))
        .filter(|&(layer, product)| Reach::of(layer, model) == Reach::All || product == Product::QueryKeyValue)
        .collect();
    let mut products: BTreeMap<(usize, Product), QuantisedLinear> = jobs
        .into_par_iter()
        .map(|(layer, product)| {
            let linear = model.layer(layer).product(product);
            let coding = if product == Product::Output {
                Coding::Gelu
            } else {
                Coding::Symmetric
            };
            // Normalised inputs have no outlying rows; attention's context and GELU's results have.
            let static_too = matches!(product, Product::QueryKeyValue | Product::Intermediate);
            let quantised = match samples.get(&(layer, product)) {
                Some(rows) => QuantisedLinear::calibrated(&linear, coding, static_too, rows),
                None => QuantisedLinear::blind(&linear, coding),
            };
            ((layer, product), quantised)
        })
        .collect();
    (0..model.layers())
        .filter_map(|layer| {
            let query_key_value = products.remove(&(layer, Product::QueryKeyValue))?;
            let mut rest = |product| products.remove(&(layer, product));
            let rest = match (
                rest(Product::AttentionOutput),
                rest(Product::Intermediate),
                rest(Product::Output),
            ) {
                (Some(attention_output), Some(intermediate), Some(output)) => Some(QuantisedRest {
                    attention_output,
                    intermediate,
                    output,
                }),
                _ => None,
            };
            let mut layer = QuantisedLayer { query_key_value, rest };
            layer.fold_context_smoothing();
            layer.fold_score_scale(model.width() / model.heads());
            Some(layer)
        })
        .collect()
}

impl QuantisedLayer {
    /// Moves the smoothing of the context into the values, which is possible because attention never mixes channels.
    fn fold_context_smoothing(&mut self) {
        let Some(factors) = self
            .rest
            .as_mut()
            .and_then(|rest| rest.attention_output.smoothing.take())
        else {
            return;
        };
        let values = Slice::from(2 * factors.len()..);
        for outputs in [&mut self.query_key_value.scale, &mut self.query_key_value.bias] {
            let mut outputs = outputs.slice_axis_mut(Axis(0), values);
            outputs /= &factors;
        }
    }

    /// Divides the queries by the square root of a head's width, instead of the scores.
    fn fold_score_scale(&mut self, head_width: usize) {
        let scale = 1.0 / (head_width as f32).sqrt();
        let width = self.query_key_value.bias.len() / 3;
        for outputs in [&mut self.query_key_value.scale, &mut self.query_key_value.bias] {
            let mut outputs = outputs.slice_axis_mut(Axis(0), Slice::from(..width));
            outputs *= scale;
        }
    }
}

const PRODUCTS: [Product; 4] = [
    Product::QueryKeyValue,
    Product::AttentionOutput,
    Product::Intermediate,
    Product::Output,
];

/// The inputs of each product for about [`ROWS`] tokens, evenly from all texts.
fn sample(model: &Classifier, texts: &[Vec<u32>]) -> BTreeMap<(usize, Product), Array2<f32>> {
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let stride = tokens.div_ceil(ROWS).max(1);
    let mut samples: BTreeMap<(usize, Product), Vec<f32>> = BTreeMap::new();
    let mut pass = Pass::default();
    for chunk in texts.chunks(CHUNK) {
        let posts: Packed = chunk.iter().map(Vec::as_slice).collect();
        pass.infer(&model.encoder, &posts, |layer, inputs| {
            for product in PRODUCTS {
                let values = samples.entry((layer, product)).or_default();
                (0..posts.len())
                    .step_by(stride)
                    .for_each(|token| inputs.append(product, token, values));
            }
        });
    }
    let width = |product| match product {
        Product::Output => model.encoder.shape.intermediate,
        _ => model.width(),
    };
    samples
        .into_iter()
        .filter_map(|(key, values)| {
            let width = width(key.1);
            let rows = Array2::from_shape_vec((values.len() / width, width), values);
            rows.ok().map(|rows| (key, rows))
        })
        .collect()
}

/// The chosen quantisation of each product, one line each.
pub(crate) fn describe(layers: &[QuantisedLayer]) -> impl Iterator<Item = String> + '_ {
    layers.iter().enumerate().flat_map(|(index, layer)| {
        let mut parts = vec![("query_key_value", &layer.query_key_value)];
        if let Some(rest) = &layer.rest {
            parts.push(("attention_output", &rest.attention_output));
            parts.push(("intermediate", &rest.intermediate));
            parts.push(("output", &rest.output));
        }
        parts.into_iter().map(move |(name, product)| {
            let exponent = f32::from(product.exponent) / 10.0;
            format!(
                "layer {index} {name}: {}, smoothing {exponent:.1}, noise {:.2e}",
                product.coding.as_str(),
                product.noise
            )
        })
    })
}
