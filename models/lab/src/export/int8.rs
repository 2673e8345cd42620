//! A classifier as a graph of byte products, for the CPU.

use ndarray::{Array1, Array2, Axis, Slice};

use super::calibrate::QuantisedLayer;
use super::checkpoint::{Classifier, Layer};
use super::graph::{Attr, FloatType, GraphBuilder, Op, Value};
use super::quantise::{Coding, GELU_SHIFT, LEAST_SCALE, QuantisedLinear, SIGNED_STEPS, UNSIGNED_STEPS};
use super::writer::{Padding, Style, Writer};

/// The byte that stands for zero where values have either sign.
const ZERO_POINT: u8 = 128;

/// The whole model: bytes in the layers' products and the word embeddings, floats elsewhere.
pub(crate) fn int8_graph(model: &Classifier, layers: &[QuantisedLayer]) -> GraphBuilder {
    let mut writer = Writer::new(model, FloatType::Single);
    let inputs = writer.inputs();
    let padding = writer.mask_padding(&inputs);
    let words = writer.quantised_word_embeddings(&inputs);
    let mut hidden = writer.embeddings(&inputs, &words, Style::Fused);
    for (index, (layer, quantised)) in model.layers.iter().zip(layers).enumerate() {
        hidden = writer.quantised_layer(index, layer, quantised, &hidden, &padding);
    }
    writer.head(&hidden);
    writer.g
}

/// A product's input as bytes, and what one step of each row is worth in units of the static scale.
struct Coded {
    bytes: Value,
    /// `[batch, tokens, 1]`
    rows: Value,
    step: f32,
    zero_point: u8,
}

impl Writer<'_> {
    fn quantised_layer(&mut self, index: usize, layer: &Layer, quantised: &QuantisedLayer, hidden: &Value, padding: &Padding) -> Value {
        self.g.scope(format!("layer.{index}/attention"));
        let context = self.quantised_attention(quantised, hidden, padding);
        self.g.scope(format!("layer.{index}/attention/output"));
        let mixed = self.quantised_product(&quantised.attention_output, &context);
        let bias = self.vector("bias", &quantised.attention_output.bias);
        let hidden = self.skip_norm(&mixed, hidden, Some(&bias), &layer.attention_norm, Style::Fused);
        self.g.scope(format!("layer.{index}/intermediate"));
        let inner = self.quantised_product(&quantised.intermediate, &hidden);
        let inner = self.bias_gelu(&inner, &quantised.intermediate.bias, Style::Fused);
        self.g.scope(format!("layer.{index}/output"));
        let out = self.quantised_product(&quantised.output, &inner);
        let bias = self.vector("bias", &quantised.output.bias);
        self.skip_norm(&out, &hidden, Some(&bias), &layer.output_norm, Style::Fused)
    }

    /// Queries, keys and values come of the same bytes; the attention operator adds the biases.
    ///
    /// The smoothing of the context needs no operator: a channel of it is a mix of that same channel of the values,
    /// so it is in their scale and bias already.
    fn quantised_attention(&mut self, layer: &QuantisedLayer, hidden: &Value, padding: &Padding) -> Value {
        let joined = &layer.query_key_value;
        let coded = self.code(joined, hidden);
        let width = self.model.width();
        let mut part = |index: usize| {
            let columns = Slice::from(index * width..(index + 1) * width);
            let weight = joined.weight.slice_axis(Axis(1), columns).to_owned();
            let scale = joined.scale.slice_axis(Axis(0), columns).to_owned();
            self.byte_product(&coded, &weight, &scale)
        };
        let (query, key, value) = (part(0), part(1), part(2));
        let bias = self.vector("query_key_value_bias", &joined.bias);
        let mask = match padding {
            Padding::Mask(mask) | Padding::Added(mask) => mask,
        };
        let heads = ("num_heads", Attr::Int(self.model.heads as i64));
        self.g.call(Op::Runtime("MultiHeadAttention"), &[&query, &key, &value, &bias, mask], &[heads])
    }

    /// `x W`, the bias left to who follows.
    fn quantised_product(&mut self, linear: &QuantisedLinear, x: &Value) -> Value {
        let coded = self.code(linear, x);
        self.byte_product(&coded, &linear.weight, &linear.scale)
    }

    fn byte_product(&mut self, coded: &Coded, weight: &Array2<i8>, scale: &Array1<f32>) -> Value {
        let bytes = weight.as_standard_layout();
        let weight = self.g.int8("weight", &[weight.nrows(), weight.ncols()], bytes.as_slice().unwrap_or_default());
        let scale = self.vector("weight_scale", scale);
        let step = self.g.float_scalar(coded.step);
        let zero_point = self.g.uint8_scalar(coded.zero_point);
        let product = self.g.call(
            Op::Runtime("MatMulIntegerToFloat"),
            &[&coded.bytes, &weight, &step, &scale, &zero_point],
            &[],
        );
        self.g.call(Op::Onnx("Mul"), &[&product, &coded.rows], &[])
    }

    fn code(&mut self, linear: &QuantisedLinear, x: &Value) -> Coded {
        let mut x = x.clone();
        if let Some(factors) = &linear.smoothing {
            let inverse = self.vector("smoothing", &factors.mapv(f32::recip));
            x = self.g.call(Op::Onnx("Mul"), &[&x, &inverse], &[]);
        }
        let (x, magnitudes, steps, zero_point) = match linear.coding {
            Coding::Symmetric => (x.clone(), self.g.call(Op::Onnx("Abs"), &[&x], &[]), SIGNED_STEPS, ZERO_POINT),
            Coding::ShiftedGelu => {
                let shift = self.g.float_scalar(GELU_SHIFT);
                let shifted = self.g.call(Op::Onnx("Add"), &[&x, &shift], &[]);
                (shifted.clone(), shifted, UNSIGNED_STEPS, 0)
            }
        };
        let last = self.g.int64(&[1], &[-1]);
        let top = self.g.call(Op::Onnx("ReduceMax"), &[&magnitudes, &last], &[]);
        let least = self.g.float_scalar(LEAST_SCALE);
        let rows = self.g.call(Op::Onnx("Max"), &[&top, &least], &[]);
        let unit = self.g.call(Op::Onnx("Div"), &[&x, &rows], &[]);
        let step = self.g.float_scalar(1.0 / steps);
        let zero = self.g.uint8_scalar(zero_point);
        let bytes = self.g.call(Op::Onnx("QuantizeLinear"), &[&unit, &step, &zero], &[]);
        Coded { bytes, rows, step: 1.0 / steps, zero_point }
    }
}
