//! Choosing how each product of each layer is quantised, by what real texts put into it.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2, Axis, Slice};
use rayon::prelude::*;

use super::checkpoint::{Classifier, Linear};
use super::forward::{self, Site, Tokens};
use super::quantise::{Coding, QuantisedLinear};
use super::writer::Reach;

/// How many tokens the search looks at: enough rows for every channel's outliers, few enough for seconds of work.
const ROWS: usize = 3_072;
/// Texts that go through the model at once.
const CHUNK: usize = 64;

/// The four products of a layer.
#[derive(Debug, Clone)]
pub(crate) struct QuantisedLayer {
    /// Queries, keys and values side by side.
    pub(crate) query_key_value: QuantisedLinear,
    /// What follows attention; nothing in the last layer where one token a text goes through it: that costs no time
    /// worth saving, and no rounding stands between it and the logits.
    pub(crate) rest: Option<QuantisedRest>,
}

/// The products after attention.
#[derive(Debug, Clone)]
pub(crate) struct QuantisedRest {
    pub(crate) attention_output: QuantisedLinear,
    pub(crate) intermediate: QuantisedLinear,
    pub(crate) output: QuantisedLinear,
}

/// Quantises every layer; `texts` are token ids with the special tokens, none longer than the model reaches.
///
/// Without texts, nothing is smoothed or corrected.
pub(crate) fn quantise_layers(model: &Classifier, texts: &[Vec<u32>]) -> Vec<QuantisedLayer> {
    let samples = sample(model, texts);
    let jobs: Vec<(usize, Site)> = (0..model.layers.len())
        .flat_map(|layer| SITES.map(|site| (layer, site)))
        .filter(|&(layer, site)| Reach::of(layer, model) == Reach::All || site == Site::Attention)
        .collect();
    let mut products: BTreeMap<(usize, Site), QuantisedLinear> = jobs
        .into_par_iter()
        .map(|(layer, site)| {
            let linear = linear(model, layer, site);
            let coding = if site == Site::Output {
                Coding::Gelu
            } else {
                Coding::Symmetric
            };
            // A normalised input has no outlying rows; what attention mixes and GELU lets through has.
            let static_too = matches!(site, Site::Attention | Site::Intermediate);
            let quantised = match samples.get(&(layer, site)) {
                Some(rows) => QuantisedLinear::calibrated(&linear, coding, static_too, rows),
                None => QuantisedLinear::blind(&linear, coding),
            };
            ((layer, site), quantised)
        })
        .collect();
    (0..model.layers.len())
        .filter_map(|layer| {
            let query_key_value = products.remove(&(layer, Site::Attention))?;
            let mut rest = |site| products.remove(&(layer, site));
            let rest = match (
                rest(Site::AttentionOutput),
                rest(Site::Intermediate),
                rest(Site::Output),
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
            layer.fold_score_scale(model.width() / model.heads);
            Some(layer)
        })
        .collect()
}

impl QuantisedLayer {
    /// Divides the values' outputs by what the context is to be divided by: attention mixes tokens, never channels.
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

    /// Divides the queries by the square root of a head's width, which else the scores would be.
    fn fold_score_scale(&mut self, head_width: usize) {
        let scale = 1.0 / (head_width as f32).sqrt();
        let width = self.query_key_value.bias.len() / 3;
        for outputs in [&mut self.query_key_value.scale, &mut self.query_key_value.bias] {
            let mut outputs = outputs.slice_axis_mut(Axis(0), Slice::from(..width));
            outputs *= scale;
        }
    }
}

const SITES: [Site; 4] = [Site::Attention, Site::AttentionOutput, Site::Intermediate, Site::Output];

fn linear(model: &Classifier, layer: usize, site: Site) -> Linear {
    let layer = &model.layers[layer];
    match site {
        Site::Attention => layer.query_key_value(),
        Site::AttentionOutput => layer.attention_output.clone(),
        Site::Intermediate => layer.intermediate.clone(),
        Site::Output => layer.output.clone(),
    }
}

/// The inputs of each product, about [`ROWS`] tokens evenly from all the texts.
fn sample(model: &Classifier, texts: &[Vec<u32>]) -> BTreeMap<(usize, Site), Array2<f32>> {
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let stride = isize::try_from(tokens.div_ceil(ROWS)).unwrap_or(isize::MAX).max(1);
    let mut parts: BTreeMap<(usize, Site), Vec<Array2<f32>>> = BTreeMap::new();
    for chunk in texts.chunks(CHUNK) {
        let mut batch = Tokens::default();
        chunk.iter().for_each(|ids| batch.push(ids));
        forward::logits(model, &batch, |layer, site, rows| {
            parts
                .entry((layer, site))
                .or_default()
                .push(rows.slice_axis(Axis(0), Slice::new(0, None, stride)).to_owned());
        });
    }
    parts
        .into_iter()
        .filter_map(|(key, parts)| {
            let views: Vec<ArrayView2<'_, f32>> = parts.iter().map(|part| part.view()).collect();
            ndarray::concatenate(Axis(0), &views).ok().map(|rows| (key, rows))
        })
        .collect()
}

/// What the search chose, a line a product: for the log and the report.
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
