//! The int8 graph of a classifier, for the CPU.
//!
//! The operators are the fastest in ONNX Runtime's CPU provider with one thread and posts of 5 to 60 tokens:
//!
//! - all tokens of a batch are rows of one matrix, `[tokens, width]`, so that `QuantizeLinear` can use a scale per row;
//! - residuals and biases are subtracted, with the sign of the weights' scales inverted, see [`Style::Subtracted`];
//! - attention in plain operators is faster than `MultiHeadAttention`, which mostly copies at such lengths.

use ndarray::{Array1, Array2, Axis, Slice};

use super::calibrate::QuantisedLayer;
use super::classifier::{Classifier, Layer, LayerNorm};
use super::graph::{Attr, FloatType, GraphBuilder, Op, Value};
use super::quantise::{Coding, QuantisedLinear};
use super::writer::{Bias, Inputs, Reach, Style, Writer};

/// The whole model: the layers' products in bytes, the word embeddings in bytes or half bytes, everything else in floats.
pub(crate) fn int8_graph(model: &Classifier, layers: &[QuantisedLayer], half_words: bool) -> GraphBuilder {
    let mut writer = Writer::new(model, FloatType::Single, Style::Subtracted);
    // In single precision, the weights that are not quantised would be most of the file.
    writer.compact = true;
    let inputs = writer.inputs();
    let words = match half_words {
        true => writer.halved_word_embeddings(&inputs),
        false => writer.quantised_word_embeddings(&inputs),
    };
    let embedded = writer.embeddings(&inputs, &words);
    let frame = writer.shared(&inputs, &embedded);
    let mut hidden = writer.g.call(Op::Onnx("Reshape"), &[&embedded, &frame.all.flat], &[]);
    let mut last = Reach::All;
    for (index, quantised) in layers.iter().enumerate() {
        last = Reach::of(index, model);
        hidden = writer.quantised_layer(index, &model.layer(index), quantised, &hidden, &frame, last);
    }
    let last = match last {
        Reach::All => &frame.all,
        Reach::First => &frame.first,
    };
    let hidden = writer.g.call(Op::Onnx("Reshape"), &[&hidden, &last.batched], &[]);
    writer.head(&inputs, &hidden);
    writer.g
}

/// Values that all layers use.
struct Shared {
    bias: Bias,
    all: Rows,
    /// For the first token of each text only.
    first: Rows,
}

/// Shapes and zero points for all tokens, or for the first token of each text.
struct Rows {
    /// Shapes: `[tokens, width]`, `[batch, length, width]`, `[batch, length, heads, width of one]`.
    flat: Value,
    batched: Value,
    heads: Value,
    /// The zero points, repeated as `[tokens]`.
    centre: Value,
    gelu_zero: Value,
}

/// A quantised input of a product; `rows` has the steps, `[tokens, 1]`, if each row has its own.
#[derive(Clone)]
struct Coded {
    bytes: Value,
    rows: Option<Value>,
    zero_point: u8,
}

impl Writer<'_> {
    fn shared(&mut self, inputs: &Inputs, embedded: &Value) -> Shared {
        let bias = self.bias(inputs);
        self.g.scope("frame");
        let part = |start, end| [("start", Attr::Int(start)), ("end", Attr::Int(end))];
        let all = self.g.call(Op::Onnx("Shape"), &[embedded], &part(0, 2));
        let batch = self.g.call(Op::Onnx("Shape"), &[embedded], &part(0, 1));
        let one = self.g.int64(&[1], &[1]);
        let first = self
            .g
            .call(Op::Onnx("Concat"), &[&batch, &one], &[("axis", Attr::Int(0))]);
        Shared {
            bias,
            all: self.rows(&all),
            first: self.rows(&first),
        }
    }

    /// For texts of the shape `[batch, length]`.
    fn rows(&mut self, texts: &Value) -> Rows {
        let (heads, width) = (self.model.heads() as i64, self.model.width() as i64);
        let flat = self.g.int64(&[2], &[-1, width]);
        let mut shape = |inner: &[i64]| {
            let inner = self.g.int64(&[inner.len()], inner);
            self.g
                .call(Op::Onnx("Concat"), &[texts, &inner], &[("axis", Attr::Int(0))])
        };
        let (batched, heads) = (shape(&[width]), shape(&[heads, width / heads]));
        let axis = self.g.int64(&[1], &[0]);
        let tokens = self.g.call(Op::Onnx("ReduceProd"), &[texts, &axis], &[]);
        let mut repeated = |zero_point| {
            let byte = self.g.uint8_scalar(zero_point);
            self.g.call(Op::Onnx("Expand"), &[&byte, &tokens], &[])
        };
        let (centre, gelu_zero) = (
            repeated(Coding::Symmetric.zero_point()),
            repeated(Coding::Gelu.zero_point()),
        );
        Rows {
            flat,
            batched,
            heads,
            centre,
            gelu_zero,
        }
    }

    fn quantised_layer(
        &mut self,
        index: usize,
        layer: &Layer,
        quantised: &QuantisedLayer,
        hidden: &Value,
        frame: &Shared,
        reach: Reach,
    ) -> Value {
        self.g.scope(format!("layer.{index}/attention"));
        let (skip, rows) = match reach {
            Reach::All => (hidden.clone(), &frame.all),
            Reach::First => {
                let batched = self.g.call(Op::Onnx("Reshape"), &[hidden, &frame.all.batched], &[]);
                let first = self.first_token(&batched);
                (
                    self.g.call(Op::Onnx("Reshape"), &[&first, &frame.first.flat], &[]),
                    &frame.first,
                )
            }
        };
        let context = self.quantised_attention(quantised, hidden, &skip, frame, reach);
        let Some(quantised) = &quantised.rest else {
            return self.after_attention(index, layer, &context, &skip);
        };
        self.g.scope(format!("layer.{index}/attention/output"));
        let hidden = self.quantised_residual(
            &quantised.attention_output,
            &context,
            &skip,
            &layer.attention_norm,
            rows,
        );
        self.g.scope(format!("layer.{index}/intermediate"));
        let coded = self.code(&quantised.intermediate, &hidden, rows);
        let inner = self.biased_product(&quantised.intermediate, &coded, 0..quantised.intermediate.bias.len());
        let inner = self.g.call(Op::Runtime("Gelu"), &[&inner], &[]);
        self.g.scope(format!("layer.{index}/output"));
        self.quantised_residual(&quantised.output, &inner, &hidden, &layer.output_norm, rows)
    }

    /// Queries, keys and values have the same quantised input.
    ///
    /// The smoothing of the context and the scale of the scores need no operator: they are included in the scale and bias of
    /// the values and the queries.
    ///
    /// Queries are computed for `asking`, the tokens that `reach` selects, keys and values for all of `hidden`.
    fn quantised_attention(
        &mut self,
        layer: &QuantisedLayer,
        hidden: &Value,
        asking: &Value,
        frame: &Shared,
        reach: Reach,
    ) -> Value {
        let joined = &layer.query_key_value;
        let answers = self.code(joined, hidden, &frame.all);
        let (asks, rows) = match reach {
            Reach::All => (answers.clone(), &frame.all),
            Reach::First => (self.code(joined, asking, &frame.first), &frame.first),
        };
        let width = self.model.width();
        let mut part = |index: usize, coded: &Coded, rows: &Rows, order: &'static [i64]| {
            let product = self.biased_product(joined, coded, index * width..(index + 1) * width);
            let split = self.g.call(Op::Onnx("Reshape"), &[&product, &rows.heads], &[]);
            self.g
                .call(Op::Onnx("Transpose"), &[&split], &[("perm", Attr::Ints(order))])
        };
        let query = part(0, &asks, rows, &[0, 2, 1, 3]);
        let key = part(1, &answers, &frame.all, &[0, 2, 3, 1]);
        let value = part(2, &answers, &frame.all, &[0, 2, 1, 3]);
        let scores = self.g.call(Op::Onnx("MatMul"), &[&query, &key], &[]);
        self.mix(&scores, frame.bias.of(reach), &value, &rows.flat)
    }

    /// `norm(skip + x W + b)`, by subtraction.
    fn quantised_residual(
        &mut self,
        linear: &QuantisedLinear,
        x: &Value,
        skip: &Value,
        norm: &LayerNorm,
        rows: &Rows,
    ) -> Value {
        let coded = self.code(linear, x, rows);
        let negated = QuantisedLinear {
            scale: -&linear.scale,
            bias: -&linear.bias,
            ..linear.clone()
        };
        let product = self.biased_product(&negated, &coded, 0..linear.bias.len());
        let sum = self.g.call(Op::Onnx("Sub"), &[skip, &product], &[]);
        self.norm(&sum, norm)
    }

    /// `x W + b` for the given outputs of a product.
    fn biased_product(&mut self, linear: &QuantisedLinear, coded: &Coded, outputs: std::ops::Range<usize>) -> Value {
        let outputs = Slice::from(outputs);
        let weight: Array2<i8> = linear
            .weight
            .slice_axis(Axis(1), outputs)
            .as_standard_layout()
            .into_owned();
        let scale: Array1<f32> = linear.scale.slice_axis(Axis(0), outputs).to_owned();
        let bias: Array1<f32> = linear.bias.slice_axis(Axis(0), outputs).to_owned();
        let dims = [weight.nrows(), weight.ncols()];
        let weight = self.g.int8("weight", &dims, weight.as_slice().unwrap_or_default());
        let scale = self.vector("weight_scale", &scale);
        let step = self.g.float_scalar(1.0);
        let zero_point = self.g.uint8_scalar(coded.zero_point);
        let product = Op::Runtime("MatMulIntegerToFloat");
        let inputs = [
            Some(&coded.bytes),
            Some(&weight),
            Some(&step),
            Some(&scale),
            Some(&zero_point),
        ];
        match &coded.rows {
            // One step for all rows: the product adds the bias itself.
            None => {
                let bias = self.vector("bias", &bias);
                let [a, b, c, d, e] = inputs;
                self.g
                    .call_with_optional(product, &[a, b, c, d, e, None, Some(&bias)], &[])
            }
            Some(rows) => {
                let product = self.g.call_with_optional(product, &inputs, &[]);
                let scaled = self.g.call(Op::Onnx("Mul"), &[&product, rows], &[]);
                let bias = self.vector("bias", &-bias);
                self.g.call(Op::Onnx("Sub"), &[&scaled, &bias], &[])
            }
        }
    }

    fn code(&mut self, linear: &QuantisedLinear, x: &Value, tokens: &Rows) -> Coded {
        let mut x = x.clone();
        if let Some(factors) = &linear.smoothing {
            let inverse = self.vector("smoothing", &factors.mapv(f32::recip));
            x = self.g.call(Op::Onnx("Mul"), &[&x, &inverse], &[]);
        }
        let zero_point = linear.coding.zero_point();
        let (magnitudes, zero) = match linear.coding {
            Coding::Static => {
                let (step, zero) = (self.g.float_scalar(1.0), self.g.uint8_scalar(zero_point));
                let bytes = self.g.call(Op::Onnx("QuantizeLinear"), &[&x, &step, &zero], &[]);
                return Coded {
                    bytes,
                    rows: None,
                    zero_point,
                };
            }
            Coding::Symmetric => (self.g.call(Op::Onnx("Abs"), &[&x], &[]), &tokens.centre),
            Coding::Gelu => (x.clone(), &tokens.gelu_zero),
        };
        let last = self.g.int64(&[1], &[-1]);
        let top = self.g.call(Op::Onnx("ReduceMax"), &[&magnitudes, &last], &[]);
        let least = self.g.float_scalar(linear.coding.least());
        let top = self.g.call(Op::Onnx("Max"), &[&top, &least], &[]);
        let step = self.g.float_scalar(1.0 / linear.coding.steps());
        let rows = self.g.call(Op::Onnx("Mul"), &[&top, &step], &[]);
        let vector = self.g.int64(&[1], &[-1]);
        let scales = self.g.call(Op::Onnx("Reshape"), &[&rows, &vector], &[]);
        let bytes = self.g.call(
            Op::Onnx("QuantizeLinear"),
            &[&x, &scales, zero],
            &[("axis", Attr::Int(0))],
        );
        Coded {
            bytes,
            rows: Some(rows),
            zero_point,
        }
    }
}
