//! A classifier as a graph of floating-point operators; what int8 shares with it.

use ndarray::Array1;

use super::checkpoint::{Classifier, Family, HeadActivation, Layer, LayerNorm, Linear};
use super::graph::{Attr, Dim, FloatType, GraphBuilder, Op, Value};
use super::proto::ElementType;

/// Which operators a graph is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Those of the ONNX standard alone: any runtime reads it.
    Plain,
    /// ONNX Runtime's own for attention, skip connections and GELU.
    Fused,
}

/// What is added to the attention scores of padding: its weight after softmax is exactly 0, and half precision holds it.
const MASKED: f32 = 10_000.0;

/// The inputs of a graph, and what each layer needs of them.
pub(crate) struct Inputs {
    ids: Value,
    types: Option<Value>,
    mask: Value,
}

/// How padding is told to the attention operator.
pub(crate) enum Padding {
    /// `[batch, 1, 1, tokens]`, added to the scores.
    Added(Value),
    /// What ONNX Runtime's operators take: `[batch, tokens]` of ones and zeros, or `[batch]` of lengths.
    Mask(Value),
}

/// Writes the parts of a classifier into a graph.
pub(crate) struct Writer<'a> {
    pub(crate) g: GraphBuilder,
    pub(crate) model: &'a Classifier,
}

/// The whole model in floating point.
pub(crate) fn float_graph(model: &Classifier, float: FloatType, style: Style) -> GraphBuilder {
    let mut writer = Writer::new(model, float);
    let inputs = writer.inputs();
    let padding = match (style, float) {
        (Style::Plain, _) => writer.added_padding(&inputs),
        (Style::Fused, FloatType::Single) => writer.mask_padding(&inputs),
        // The GPU's fast attention kernels take lengths, not masks; the service pads on the right.
        (Style::Fused, FloatType::Half) => writer.length_padding(&inputs),
    };
    let words = writer.word_embeddings(&inputs);
    let mut hidden = writer.embeddings(&inputs, &words, style);
    for (index, layer) in model.layers.iter().enumerate() {
        hidden = writer.layer(index, layer, &hidden, &padding, style);
    }
    writer.head(&hidden);
    writer.g
}

impl<'a> Writer<'a> {
    pub(crate) fn new(model: &'a Classifier, float: FloatType) -> Self {
        Self { g: GraphBuilder::new("classifier", float), model }
    }

    /// Declares the inputs that exporters of this family declare.
    pub(crate) fn inputs(&mut self) -> Inputs {
        let dims = [Dim::Named("batch_size"), Dim::Named("sequence_length")];
        let ids = self.g.input("input_ids", ElementType::Int64, &dims);
        let mask = self.g.input("attention_mask", ElementType::Int64, &dims);
        let types =
            self.model.type_embeddings.is_some().then(|| self.g.input("token_type_ids", ElementType::Int64, &dims));
        Inputs { ids, types, mask }
    }

    fn added_padding(&mut self, inputs: &Inputs) -> Padding {
        self.g.scope("padding");
        let float = self.g.float().element_type();
        let axes = self.g.int64(&[2], &[1, 2]);
        let mask = self.g.call(Op::Onnx("Unsqueeze"), &[&inputs.mask, &axes], &[]);
        let mask = self.g.cast(&mask, float);
        let (one, masked) = (self.g.float_scalar(1.0), self.g.float_scalar(MASKED));
        let below = self.g.call(Op::Onnx("Sub"), &[&mask, &one], &[]);
        Padding::Added(self.g.call(Op::Onnx("Mul"), &[&below, &masked], &[]))
    }

    pub(crate) fn mask_padding(&mut self, inputs: &Inputs) -> Padding {
        self.g.scope("padding");
        Padding::Mask(self.g.cast(&inputs.mask, ElementType::Int32))
    }

    fn length_padding(&mut self, inputs: &Inputs) -> Padding {
        self.g.scope("padding");
        let mask = self.g.cast(&inputs.mask, ElementType::Int32);
        let axis = self.g.int64(&[1], &[1]);
        Padding::Mask(self.g.call(Op::Onnx("ReduceSum"), &[&mask, &axis], &[("keepdims", Attr::Int(0))]))
    }

    fn word_embeddings(&mut self, inputs: &Inputs) -> Value {
        self.g.scope("embeddings");
        let table = self.table("word_embeddings", &self.model.word_embeddings);
        self.g.call(Op::Onnx("Gather"), &[&table, &inputs.ids], &[])
    }

    /// As [`Self::word_embeddings`], from a table of signed bytes with one scale a word.
    pub(crate) fn quantised_word_embeddings(&mut self, inputs: &Inputs) -> Value {
        self.g.scope("embeddings");
        let (bytes, scale) = super::quantise::quantise_rows(&self.model.word_embeddings);
        let table = self.g.int8("word_embeddings", &[bytes.nrows(), bytes.ncols()], &bytes.into_raw_vec_and_offset().0);
        let scales = self.g.weight("word_embeddings_scale", &[scale.len(), 1], &scale.to_vec());
        let steps = self.g.call(Op::Onnx("Gather"), &[&table, &inputs.ids], &[]);
        let steps = self.g.cast(&steps, ElementType::Float32);
        let scale = self.g.call(Op::Onnx("Gather"), &[&scales, &inputs.ids], &[]);
        self.g.call(Op::Onnx("Mul"), &[&steps, &scale], &[])
    }

    /// Adds positions and types to `words` and normalises.
    pub(crate) fn embeddings(&mut self, inputs: &Inputs, words: &Value, style: Style) -> Value {
        self.g.scope("embeddings");
        let positions = self.position_ids(inputs);
        let table = self.table("position_embeddings", &self.model.position_embeddings);
        let positions = self.g.call(Op::Onnx("Gather"), &[&table, &positions], &[]);
        let (sum, other) = match (&inputs.types, &self.model.type_embeddings) {
            (Some(types), Some(rows)) => {
                let table = self.table("token_type_embeddings", rows);
                let types = self.g.call(Op::Onnx("Gather"), &[&table, types], &[]);
                (self.g.call(Op::Onnx("Add"), &[words, &positions], &[]), types)
            }
            _ => (words.clone(), positions),
        };
        // Positions that are the same in every text have no batch axis, which the fused operator would need.
        let style = if self.model.family == Family::DistilBert { Style::Plain } else { style };
        self.skip_norm(&sum, &other, None, &self.model.embedding_norm, style)
    }

    fn position_ids(&mut self, inputs: &Inputs) -> Value {
        if self.model.family != Family::Roberta {
            let shape = self.g.call(Op::Onnx("Shape"), &[&inputs.ids], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
            let scalar = self.g.int64(&[0], &[]);
            let tokens = self.g.call(Op::Onnx("Reshape"), &[&shape, &scalar], &[]);
            let (zero, one) = (self.g.int64(&[], &[0]), self.g.int64(&[], &[1]));
            return self.g.call(Op::Onnx("Range"), &[&zero, &tokens, &one], &[]);
        }
        let pad = self.g.int64(&[], &[self.model.pad_token_id]);
        let is_pad = self.g.call(Op::Onnx("Equal"), &[&inputs.ids, &pad], &[]);
        let is_token = self.g.call(Op::Onnx("Not"), &[&is_pad], &[]);
        let is_token = self.g.cast(&is_token, ElementType::Int64);
        let axis = self.g.int64(&[], &[1]);
        let count = self.g.call(Op::Onnx("CumSum"), &[&is_token, &axis], &[]);
        let count = self.g.call(Op::Onnx("Mul"), &[&count, &is_token], &[]);
        self.g.call(Op::Onnx("Add"), &[&count, &pad], &[])
    }

    fn layer(&mut self, index: usize, layer: &Layer, hidden: &Value, padding: &Padding, style: Style) -> Value {
        self.g.scope(format!("layer.{index}/attention"));
        let context = self.attention(layer, hidden, padding);
        self.g.scope(format!("layer.{index}/attention/output"));
        let mixed = self.product(&layer.attention_output, &context);
        let bias = self.vector("bias", &layer.attention_output.bias);
        let hidden = self.skip_norm(&mixed, hidden, Some(&bias), &layer.attention_norm, style);
        self.g.scope(format!("layer.{index}/intermediate"));
        let inner = self.product(&layer.intermediate, &hidden);
        let inner = self.bias_gelu(&inner, &layer.intermediate.bias, style);
        self.g.scope(format!("layer.{index}/output"));
        let out = self.product(&layer.output, &inner);
        let bias = self.vector("bias", &layer.output.bias);
        self.skip_norm(&out, &hidden, Some(&bias), &layer.output_norm, style)
    }

    fn attention(&mut self, layer: &Layer, hidden: &Value, padding: &Padding) -> Value {
        match padding {
            Padding::Mask(mask) => {
                let joined = layer.query_key_value();
                let weight = self.table("query_key_value", &joined.weight);
                let bias = self.vector("query_key_value_bias", &joined.bias);
                let heads = ("num_heads", Attr::Int(self.model.heads as i64));
                self.g.call(Op::Runtime("Attention"), &[hidden, &weight, &bias, mask], &[heads])
            }
            Padding::Added(added) => self.plain_attention(layer, hidden, added),
        }
    }

    fn plain_attention(&mut self, layer: &Layer, hidden: &Value, added: &Value) -> Value {
        let (heads, width) = (self.model.heads, self.model.width());
        let split = self.g.int64(&[4], &[0, 0, heads as i64, (width / heads) as i64]);
        let joined = self.g.int64(&[3], &[0, 0, width as i64]);
        let split_heads = |writer: &mut Self, linear: &Linear, order: &'static [i64]| {
            let product = writer.product(linear, hidden);
            let bias = writer.vector("bias", &linear.bias);
            let sum = writer.g.call(Op::Onnx("Add"), &[&product, &bias], &[]);
            let split = writer.g.call(Op::Onnx("Reshape"), &[&sum, &split], &[]);
            writer.g.call(Op::Onnx("Transpose"), &[&split], &[("perm", Attr::Ints(order))])
        };
        let query = split_heads(self, &layer.query, &[0, 2, 1, 3]);
        let key = split_heads(self, &layer.key, &[0, 2, 3, 1]);
        let value = split_heads(self, &layer.value, &[0, 2, 1, 3]);
        let scores = self.g.call(Op::Onnx("MatMul"), &[&query, &key], &[]);
        let scale = self.g.float_scalar(1.0 / ((width / heads) as f32).sqrt());
        let scores = self.g.call(Op::Onnx("Mul"), &[&scores, &scale], &[]);
        let scores = self.g.call(Op::Onnx("Add"), &[&scores, added], &[]);
        let weights = self.g.call(Op::Onnx("Softmax"), &[&scores], &[("axis", Attr::Int(-1))]);
        let context = self.g.call(Op::Onnx("MatMul"), &[&weights, &value], &[]);
        let context = self.g.call(Op::Onnx("Transpose"), &[&context], &[("perm", Attr::Ints(&[0, 2, 1, 3]))]);
        self.g.call(Op::Onnx("Reshape"), &[&context, &joined], &[])
    }

    /// `norm(x + skip + bias)`
    pub(crate) fn skip_norm(&mut self, x: &Value, skip: &Value, bias: Option<&Value>, norm: &LayerNorm, style: Style) -> Value {
        let gain = self.vector("norm", &norm.gain);
        let offset = self.vector("norm_bias", &norm.offset);
        let epsilon = ("epsilon", Attr::Float(self.model.norm_epsilon));
        if style == Style::Fused {
            let inputs = [Some(x), Some(skip), Some(&gain), Some(&offset), bias];
            let used = if bias.is_some() { 5 } else { 4 };
            return self.g.call_with_optional(Op::Runtime("SkipLayerNormalization"), &inputs[..used], &[epsilon]);
        }
        let x = match bias {
            Some(bias) => self.g.call(Op::Onnx("Add"), &[x, bias], &[]),
            None => x.clone(),
        };
        let sum = self.g.call(Op::Onnx("Add"), &[&x, skip], &[]);
        self.g.call(Op::Onnx("LayerNormalization"), &[&sum, &gain, &offset], &[("axis", Attr::Int(-1)), epsilon])
    }

    /// `gelu(x + bias)`, by the error function.
    pub(crate) fn bias_gelu(&mut self, x: &Value, bias: &Array1<f32>, style: Style) -> Value {
        let bias = self.vector("bias", bias);
        if style == Style::Fused {
            return self.g.call(Op::Runtime("BiasGelu"), &[x, &bias], &[]);
        }
        let (root, one, half) =
            (self.g.float_scalar(std::f32::consts::SQRT_2), self.g.float_scalar(1.0), self.g.float_scalar(0.5));
        let x = self.g.call(Op::Onnx("Add"), &[x, &bias], &[]);
        let scaled = self.g.call(Op::Onnx("Div"), &[&x, &root], &[]);
        let erf = self.g.call(Op::Onnx("Erf"), &[&scaled], &[]);
        let erf = self.g.call(Op::Onnx("Add"), &[&erf, &one], &[]);
        let gated = self.g.call(Op::Onnx("Mul"), &[&x, &erf], &[]);
        self.g.call(Op::Onnx("Mul"), &[&gated, &half], &[])
    }

    /// The logits from the first token of each text, declared the output.
    pub(crate) fn head(&mut self, hidden: &Value) {
        self.g.scope("head");
        let zero = self.g.int64(&[], &[0]);
        let first = self.g.call(Op::Onnx("Gather"), &[hidden, &zero], &[("axis", Attr::Int(1))]);
        let dense = self.gemm(&self.model.head_dense, &first);
        let kind = match self.model.head_activation {
            HeadActivation::Tanh => "Tanh",
            HeadActivation::Relu => "Relu",
        };
        let pooled = self.g.call(Op::Onnx(kind), &[&dense], &[]);
        let mut logits = self.gemm(&self.model.head_output, &pooled);
        if self.g.float() == FloatType::Half {
            logits = self.g.cast(&logits, ElementType::Float32);
        }
        let dims = [Dim::Named("batch_size"), Dim::Fixed(self.model.labels())];
        self.g.output("logits", &logits, ElementType::Float32, &dims);
    }

    /// `x W`, the bias left to who follows.
    fn product(&mut self, linear: &Linear, x: &Value) -> Value {
        let weight = self.table("weight", &linear.weight);
        self.g.call(Op::Onnx("MatMul"), &[x, &weight], &[])
    }

    fn gemm(&mut self, linear: &Linear, x: &Value) -> Value {
        let weight = self.table("weight", &linear.weight);
        let bias = self.vector("bias", &linear.bias);
        self.g.call(Op::Onnx("Gemm"), &[x, &weight, &bias], &[])
    }

    pub(crate) fn vector(&mut self, name: &str, values: &Array1<f32>) -> Value {
        self.g.weight(name, &[values.len()], &values.to_vec())
    }

    fn table(&mut self, name: &str, values: &ndarray::Array2<f32>) -> Value {
        let data = values.as_standard_layout();
        self.g.weight(name, &[values.nrows(), values.ncols()], data.as_slice().unwrap_or_default())
    }
}
