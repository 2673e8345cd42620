//! The weights of an int8 graph in floating point.
//!
//! The graph has some factors inside its weights and biases, and inverts some signs (see `export::int8`). Each product is
//! therefore read together with the nodes around it: the factors before it, and what is subtracted after it.

use ndarray::{Array1, Array2, Axis};

use super::error::DequantizeError;
use super::graph::{Graph, attribute};
use crate::encoder::{Encoder, Pooling, Shape, bucket};
use crate::export::classifier::{Layer, LayerNorm, Linear};
use crate::export::half_bytes::{BLOCK, HalfBytes};
use moodstream::model::onnx::{ElementType, NodeProto};

const INTEGER_PRODUCT: &str = "MatMulIntegerToFloat";

/// Reads an encoder with its head. The shape has the number of labels.
pub(super) fn encoder(graph: &Graph<'_>, shape: &Shape) -> Result<Encoder, DequantizeError> {
    Reader { graph, shape }.encoder()
}

struct Reader<'a> {
    graph: &'a Graph<'a>,
    shape: &'a Shape,
}

impl Reader<'_> {
    /// All sizes are those of the file's constants before memory of these sizes is allocated.
    fn encoder(&self) -> Result<Encoder, DequantizeError> {
        let Self { graph, shape } = self;
        let words = self.words()?;
        let positions = self.positions()?;
        let [norm] = graph.nodes("embeddings", "LayerNormalization", is_norm)?;
        let norm = self.norm(norm)?;
        let relative = self.relative()?;
        let layers: Vec<Layer> = (0..shape.layers)
            .map(|index| self.layer(index))
            .collect::<Result<_, _>>()?;
        if graph
            .scope(&format!("layer.{}/attention", shape.layers))
            .next()
            .is_some()
        {
            return Err(graph.invalid(format!("it has more layers than config.json says, {}", shape.layers)));
        }
        let (dense, out) = self.head()?;

        let mut encoder = Encoder::zeros((*shape).clone());
        encoder.weights.words = words;
        let layout = &encoder.layout;
        let weights = &mut encoder.weights.dense;
        let mut put = |place: &std::ops::Range<usize>, values: &mut dyn Iterator<Item = &f32>| {
            weights[place.clone()]
                .iter_mut()
                .zip(values)
                .for_each(|(weight, &value)| *weight = value);
        };
        put(&layout.positions, &mut positions.iter());
        put(&layout.scale, &mut norm.gain.iter());
        put(&layout.shift, &mut norm.offset.iter());
        put(&layout.relative, &mut relative.iter());
        for (place, layer) in layout.layers.iter().zip(&layers) {
            for (matrix, bias, linear) in [
                (&place.query, &place.query_bias, &layer.query),
                (&place.key, &place.key_bias, &layer.key),
                (&place.value, &place.value_bias, &layer.value),
                (
                    &place.attention_output,
                    &place.attention_output_bias,
                    &layer.attention_output,
                ),
                (&place.up, &place.up_bias, &layer.intermediate),
            ] {
                put(matrix, &mut linear.weight.t().iter());
                put(bias, &mut linear.bias.iter());
            }
            // The encoder holds this one as `[inputs, outputs]`.
            put(&place.down, &mut layer.output.weight.iter());
            put(&place.down_bias, &mut layer.output.bias.iter());
            put(&place.attention_norm_scale, &mut layer.attention_norm.gain.iter());
            put(&place.attention_norm_shift, &mut layer.attention_norm.offset.iter());
            put(&place.scale, &mut layer.output_norm.gain.iter());
            put(&place.shift, &mut layer.output_norm.offset.iter());
        }
        put(&layout.dense, &mut dense.weight.t().iter());
        put(&layout.dense_bias, &mut dense.bias.iter());
        put(&layout.out, &mut out.weight.t().iter());
        put(&layout.out_bias, &mut out.bias.iter());
        Ok(encoder)
    }

    /// The word embeddings, from bytes with a scale per word or half bytes with a scale per block.
    fn words(&self) -> Result<Vec<f32>, DequantizeError> {
        let graph = self.graph;
        let (rows, width) = (self.shape.vocabulary, self.shape.hidden);
        let table = graph.named("embeddings", "word_embeddings")?;
        let scales = &graph.named("embeddings", "word_embeddings_scale")?.name;
        if table.data_type == ElementType::Int8 as i32 {
            let mut words = graph.numbers(&table.name, &[rows, width])?;
            let scales = graph.numbers(scales, &[rows, 1])?;
            for (row, scale) in words.chunks_exact_mut(width).zip(scales) {
                row.iter_mut().for_each(|weight| *weight *= scale);
            }
            return Ok(words);
        }
        let gather = graph.reader(&table.name)?;
        let size = |name| attribute(gather, name).and_then(|attribute| attribute.i);
        if table.data_type != ElementType::Uint8 as i32
            || size("bits") != Some(4)
            || size("block_size") != Some(BLOCK as i64)
            || !width.is_multiple_of(BLOCK)
        {
            return Err(graph.invalid("its word embeddings are neither in bytes nor in half bytes".to_owned()));
        }
        graph.check_shape(table, &[rows, width / 2], table.raw_data.len())?;
        let halves = HalfBytes {
            bytes: table.raw_data.clone(),
            scales: graph.numbers(scales, &[rows, width / BLOCK])?,
        };
        Ok(halves.values())
    }

    /// `[positions, width]`
    fn positions(&self) -> Result<Array2<f32>, DequantizeError> {
        let table = &self.graph.named("embeddings", "position_embeddings")?.name;
        let values = self.matrix(table, self.shape.positions, self.shape.hidden)?;
        let rows = self.graph.output(self.graph.reader(table)?)?;
        let sum = self.graph.reader(rows)?;
        match sum.op_type == "Sub" && self.graph.input(sum, 1)? == rows {
            true => Ok(-values),
            false => Err(self.unexpected(sum)),
        }
    }

    /// The bias of attention by distance, `[buckets, heads]`. Buckets of longer distances than the model's stay 0.
    fn relative(&self) -> Result<Array2<f32>, DequantizeError> {
        let Shape {
            heads,
            relative_buckets: buckets,
            ..
        } = *self.shape;
        let mut table = Array2::zeros((buckets, heads));
        if buckets > 0 {
            let gains = &self.graph.named("relative_positions", "gains")?.name;
            let longest = self.shape.longest();
            let gains = self.matrix(gains, heads, 2 * longest - 1)?;
            for (gains, distance) in gains.columns().into_iter().zip(1 - longest.cast_signed()..) {
                table.row_mut(bucket(distance, buckets)).assign(&gains);
            }
        }
        Ok(table)
    }

    fn layer(&self, index: usize) -> Result<Layer, DequantizeError> {
        let (width, inner) = (self.shape.hidden, self.shape.intermediate);
        let scope = |part: &str| format!("layer.{index}/{part}");
        let [query, key, value] = self.graph.nodes(&scope("attention"), INTEGER_PRODUCT, |node| {
            node.op_type == INTEGER_PRODUCT
        })?;
        let part = |node| {
            let (linear, after) = self.product(node, width, width)?;
            self.expect(after, "Reshape")?;
            Ok::<_, DequantizeError>((linear, after))
        };
        let (mut query, split) = part(query)?;
        self.check_heads(split)?;
        let head_width = width / self.shape.heads;
        // The scores are not scaled in the graph; the queries are.
        let scale = (head_width as f32).sqrt();
        query.weight *= scale;
        query.bias *= scale;
        let (attention_output, attention_norm) = self.residual(&scope("attention/output"), width)?;
        let (intermediate, gelu) = self.product(self.only_product(&scope("intermediate"))?, width, inner)?;
        self.expect(gelu, "Gelu")?;
        let (output, output_norm) = self.residual(&scope("output"), inner)?;
        Ok(Layer {
            query,
            key: part(key)?.0,
            value: part(value)?.0,
            attention_output,
            attention_norm,
            intermediate,
            output,
            output_norm,
        })
    }

    /// Checks that the graph splits queries into as many heads as the shape has.
    fn check_heads(&self, split: &NodeProto) -> Result<(), DequantizeError> {
        let graph = self.graph;
        let sizes = [self.shape.heads, self.shape.hidden / self.shape.heads];
        let expected: Vec<u8> = sizes.iter().flat_map(|&size| (size as i64).to_le_bytes()).collect();
        let shape = graph.producer(graph.input(split, 1)?, "Concat")?;
        let inner = graph.constant(graph.input(shape, 1)?);
        match inner.is_some_and(|inner| inner.raw_data == expected) {
            true => Ok(()),
            false => Err(graph.invalid(format!("its heads are not {} as config.json says", self.shape.heads))),
        }
    }

    /// The product and the norm of `norm(skip + x W + b)`.
    fn residual(&self, scope: &str, inputs: usize) -> Result<(Linear, LayerNorm), DequantizeError> {
        let (linear, norm) = self.product(self.only_product(scope)?, inputs, self.shape.hidden)?;
        self.expect(norm, "LayerNormalization")?;
        Ok((linear, self.norm(norm)?))
    }

    /// The scope's product with constant weights.
    fn only_product(&self, scope: &str) -> Result<&NodeProto, DequantizeError> {
        let [product] = self.graph.nodes(scope, "with weights", |node| {
            [INTEGER_PRODUCT, "MatMul"].contains(&node.op_type.as_str())
        })?;
        Ok(product)
    }

    /// `x W + b` of a product and the nodes around it, and the node after these.
    ///
    /// The product is in integers or, after the attention of the last layer, in floating point. `skip - product` stands for a
    /// residual, so the signs of weights and bias are inverted there; other biases are subtracted.
    fn product(
        &self,
        product: &NodeProto,
        inputs: usize,
        outputs: usize,
    ) -> Result<(Linear, &NodeProto), DequantizeError> {
        let graph = self.graph;
        let mut weight = self.matrix(graph.input(product, 1)?, inputs, outputs)?;
        let mut bias = Array1::zeros(outputs);
        let mut rows = None;
        if product.op_type == INTEGER_PRODUCT {
            self.expect_one(graph.input(product, 2)?)?;
            weight *= &self.vector(graph.input(product, 3)?, outputs)?;
            let coded = graph.producer(graph.input(product, 0)?, "QuantizeLinear")?;
            if let Some(inverse) = self.smoothing(graph.input(coded, 0)?, inputs)? {
                weight *= &inverse.insert_axis(Axis(1));
            }
            let step = graph.input(coded, 1)?;
            if graph.constant(step).is_some() {
                self.expect_one(step)?;
                bias = self.vector(graph.input(product, 6)?, outputs)?;
            } else {
                rows = Some(graph.input(graph.producer(step, "Reshape")?, 0)?);
            }
        }
        let mut value = graph.output(product)?;
        // A step per row, a bias, a residual, and the node after them.
        for _ in 0..4 {
            let node = graph.reader(value)?;
            match (node.op_type.as_str(), node.input.as_slice()) {
                ("Mul", [left, steps]) if left == value && rows == Some(steps) => rows = None,
                ("Sub", [left, constant]) if left == value && graph.constant(constant).is_some() => {
                    bias -= &self.vector(constant, outputs)?;
                }
                ("Sub", [_, right]) if right == value => {
                    weight = -weight;
                    bias = -bias;
                }
                _ if rows.is_some() => return Err(self.unexpected(node)),
                _ => return Ok((Linear { weight, bias }, node)),
            }
            value = graph.output(node)?;
        }
        Err(self.unexpected(product))
    }

    /// The inverse factors of smoothing, if `coded`, the input of a quantisation, is smoothed.
    fn smoothing(&self, coded: &str, inputs: usize) -> Result<Option<Array1<f32>>, DequantizeError> {
        let Ok(smoothed) = self.graph.producer(coded, "Mul") else {
            return Ok(None);
        };
        self.vector(self.graph.input(smoothed, 1)?, inputs).map(Some)
    }

    /// The head's two products. Its first node shows which states it uses.
    fn head(&self) -> Result<(Linear, Linear), DequantizeError> {
        let graph = self.graph;
        let [dense, out] = graph.nodes("head", "Gemm", |node| node.op_type == "Gemm")?;
        let pooling = match self.shape.pooling {
            Pooling::Cls => "Gather",
            Pooling::Mean => "Squeeze",
        };
        graph.producer(graph.input(dense, 0)?, pooling)?;
        let linear = |node, outputs| {
            Ok::<_, DequantizeError>(Linear {
                weight: self.matrix(graph.input(node, 1)?, self.shape.hidden, outputs)?,
                bias: self.vector(graph.input(node, 2)?, outputs)?,
            })
        };
        Ok((linear(dense, self.shape.hidden)?, linear(out, self.shape.labels)?))
    }

    fn norm(&self, node: &NodeProto) -> Result<LayerNorm, DequantizeError> {
        let epsilon = attribute(node, "epsilon").and_then(|attribute| attribute.f);
        if epsilon != Some(self.shape.epsilon) {
            return Err(self.graph.invalid(format!(
                "node {} has epsilon {epsilon:?}, but config.json says {}",
                node.name, self.shape.epsilon
            )));
        }
        let vector = |index| self.vector(self.graph.input(node, index)?, self.shape.hidden);
        Ok(LayerNorm {
            gain: vector(1)?,
            offset: vector(2)?,
        })
    }

    fn vector(&self, value: &str, length: usize) -> Result<Array1<f32>, DequantizeError> {
        Ok(self.graph.numbers(value, &[length])?.into())
    }

    fn matrix(&self, value: &str, rows: usize, columns: usize) -> Result<Array2<f32>, DequantizeError> {
        let values = self.graph.numbers(value, &[rows, columns])?;
        // There are as many values as the shape says, so this can't fail.
        Ok(Array2::from_shape_vec((rows, columns), values).unwrap_or_default())
    }

    /// Checks that a scale is 1: the factors that it stands for are inside the weights.
    fn expect_one(&self, value: &str) -> Result<(), DequantizeError> {
        match self.graph.numbers(value, &[])? == [1.0] {
            true => Ok(()),
            false => Err(self.graph.invalid(format!("constant {value} is not 1"))),
        }
    }

    fn expect(&self, node: &NodeProto, kind: &str) -> Result<(), DequantizeError> {
        match node.op_type == kind {
            true => Ok(()),
            false => Err(self.unexpected(node)),
        }
    }

    fn unexpected(&self, node: &NodeProto) -> DequantizeError {
        let kind = &node.op_type;
        self.graph
            .invalid(format!("node {} is an unexpected {kind}", node.name))
    }
}

fn is_norm(node: &NodeProto) -> bool {
    node.op_type == "LayerNormalization"
}
