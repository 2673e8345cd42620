//! Finds what the lab's int8 graphs compute between two products of bytes, and puts one operator in its place.

use moodstream_kernels::BLOCK;

use super::{
    graph::{Graph, attribute},
    operators::{self, Fused, attribute as names},
};
use crate::model::onnx::{AttributeProto, ElementType, NodeProto, TensorProto, attribute_type};

/// Replaces each quantisation with what comes before it, and returns how many there were.
pub(super) fn rewrite(graph: &mut Graph) -> usize {
    let found: Vec<NodeProto> = graph
        .nodes()
        .iter()
        .filter(|node| node.op_type == "QuantizeLinear")
        .cloned()
        .collect();
    let mut replaced = 0;
    for node in found {
        let Some(quantize) = Quantize::of(graph, &node) else {
            continue;
        };
        let fused = attention(graph, &quantize)
            .or_else(|| layer_norm(graph, &quantize))
            .or_else(|| gelu(graph, &quantize))
            .or_else(|| quantize.alone(graph));
        if let Some(nodes) = fused {
            replaced += 1;
            for node in nodes {
                graph.put(node);
            }
        }
    }
    replaced
}

/// A quantisation of rows.
struct Quantize {
    /// The rows before smoothing.
    source: String,
    smoothing: Option<String>,
    /// What uses the rows in this quantisation.
    users: Vec<String>,
    bytes: String,
    /// The value with the steps, `[tokens, 1]`. Fixed steps have none in the graph.
    steps: String,
    attributes: Vec<AttributeProto>,
}

impl Quantize {
    fn of(graph: &Graph, node: &NodeProto) -> Option<Self> {
        let [rows, step, zero_point] = &node.input[..] else {
            return None;
        };
        let bytes = node.output.first()?.clone();
        let (steps, users, [step, minimum, factor], magnitude, zero_point) = match graph.float(step) {
            Some(fixed) if fixed > 0.0 => {
                let zero_point = graph.byte(zero_point)?;
                (
                    format!("{bytes}/steps"),
                    vec![bytes.clone()],
                    [fixed, 0.0, 0.0],
                    false,
                    zero_point,
                )
            }
            _ => {
                if attribute(node, "axis")?.i != Some(0) {
                    return None;
                }
                // step = max(reduce_max(abs?(rows)), minimum) * factor
                let steps = &graph.producer(step, "Reshape")?.input[0];
                let product = graph.producer(steps, "Mul")?;
                let factor = graph.float(&product.input[1])?;
                let bounded = graph.producer(&product.input[0], "Max")?;
                let minimum = graph.float(&bounded.input[1])?;
                let reduce = graph.producer(&bounded.input[0], "ReduceMax")?;
                let magnitude = graph.producer(&reduce.input[0], "Abs");
                let of = magnitude.map_or(&reduce.input[0], |abs| &abs.input[0]);
                // Rows are matrices, so both are the last axis.
                let axes = graph.integers(reduce.input.get(1)?)?;
                if of != rows || (axes != [-1] && axes != [1]) {
                    return None;
                }
                let user = magnitude.unwrap_or(reduce).output[0].clone();
                let zero_point = graph.producer(zero_point, "Expand")?;
                (
                    steps.clone(),
                    vec![bytes.clone(), user],
                    [0.0, minimum, factor],
                    magnitude.is_some(),
                    graph.byte(&zero_point.input[0])?,
                )
            }
        };
        let attributes = vec![
            integer(names::ZERO_POINT, zero_point.into()),
            float(names::STEP, step),
            float(names::MINIMUM, minimum),
            float(names::FACTOR, factor),
            integer(names::MAGNITUDE, magnitude.into()),
        ];
        let smoothed = graph
            .producer(rows, "Mul")
            .filter(|product| graph.floats(&product.input[1]).is_some_and(|factors| factors.len() > 1));
        let (source, smoothing) = match smoothed {
            Some(product) => (product.input[0].clone(), Some(product.input[1].clone())),
            None => (rows.clone(), None),
        };
        Some(Self {
            source,
            smoothing,
            users,
            bytes,
            steps,
            attributes,
        })
    }

    /// Returns the node that only quantises, if the width is known to be a multiple of [`BLOCK`].
    fn alone(&self, graph: &Graph) -> Option<Vec<NodeProto>> {
        let smoothing = self.smoothing.clone()?;
        has_blocks(graph, &smoothing).then(|| {
            let inputs = vec![self.source.clone(), smoothing];
            vec![self.node(Fused::QuantizeRows, inputs, Vec::new(), Vec::new())]
        })
    }

    /// Returns a node that ends in this quantisation.
    fn node(
        &self,
        operator: Fused,
        inputs: Vec<String>,
        first_outputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) -> NodeProto {
        let outputs = [self.bytes.clone(), self.steps.clone()];
        NodeProto {
            input: inputs,
            output: first_outputs.into_iter().chain(outputs).collect(),
            name: format!("{}/{}", self.bytes, operator.name()),
            op_type: operator.name().to_owned(),
            attribute: self.attributes.iter().cloned().chain(attributes).collect(),
            domain: operators::DOMAIN.to_owned(),
        }
    }
}

/// A product of bytes, with the multiplication by row scales and the subtraction of an offset that may follow.
struct Linear {
    /// The output of `MatMulIntegerToFloat`.
    product: String,
    row_scales: Option<String>,
    offset: Option<String>,
}

impl Linear {
    fn of(graph: &Graph, value: &str) -> Option<Self> {
        const PRODUCT: &str = "MatMulIntegerToFloat";
        let known = |product: &str| graph.producer(product, PRODUCT).map(|_| product.to_owned());
        if let Some(product) = known(value) {
            return Some(Self {
                product,
                row_scales: None,
                offset: None,
            });
        }
        let difference = graph.producer(value, "Sub")?;
        let scaled = graph.producer(&difference.input[0], "Mul")?;
        has_blocks(graph, &difference.input[1]).then_some(())?;
        Some(Self {
            product: known(&scaled.input[0])?,
            row_scales: Some(scaled.input[1].clone()),
            offset: Some(difference.input[1].clone()),
        })
    }

    fn optional_inputs(&self) -> [String; 2] {
        [&self.row_scales, &self.offset].map(|input| input.clone().unwrap_or_default())
    }
}

/// `quantize(layer_norm(residual - linear))`.
fn layer_norm(graph: &Graph, quantize: &Quantize) -> Option<Vec<NodeProto>> {
    let norm = graph.producer(&quantize.source, "LayerNormalization")?;
    let [input, scale, shift] = &norm.input[..] else {
        return None;
    };
    let epsilon = attribute(norm, "epsilon")?.f?;
    let difference = graph.producer(input, "Sub")?;
    let linear = Linear::of(graph, &difference.input[1])?;
    if !has_blocks(graph, scale) || attribute(norm, "axis")?.i != Some(-1) {
        return None;
    }
    let [row_scales, offset] = linear.optional_inputs();
    let inputs = vec![
        linear.product,
        difference.input[0].clone(),
        scale.clone(),
        shift.clone(),
        row_scales,
        offset,
        quantize.smoothing.clone().unwrap_or_default(),
    ];
    let normed = vec![quantize.source.clone()];
    let attributes = vec![float(names::EPSILON, epsilon)];
    Some(vec![quantize.node(
        Fused::LayerNormQuantize,
        inputs,
        normed,
        attributes,
    )])
}

/// `quantize(gelu(linear))`.
fn gelu(graph: &Graph, quantize: &Quantize) -> Option<Vec<NodeProto>> {
    let gelu = graph.producer(&quantize.source, "Gelu")?;
    let users: Vec<&str> = quantize.users.iter().map(String::as_str).collect();
    if quantize.smoothing.is_some() || !graph.is_used_only_for(&quantize.source, &users) {
        return None;
    }
    let linear = Linear::of(graph, &gelu.input[0])?;
    has_blocks(graph, linear.offset.as_deref()?).then_some(())?;
    let [row_scales, offset] = linear.optional_inputs();
    let inputs = vec![linear.product, row_scales, offset];
    Some(vec![quantize.node(Fused::GeluQuantize, inputs, Vec::new(), Vec::new())])
}

/// `quantize(attention(query, key, value))`, whose three products become one.
fn attention(graph: &mut Graph, quantize: &Quantize) -> Option<Vec<NodeProto>> {
    let heads_first = [0, 2, 1, 3];
    let rows = graph.producer(&quantize.source, "Reshape")?;
    let context = transposed(graph, &rows.input[0], heads_first)?;
    let weighed = graph.producer(context, "MatMul")?;
    let softmax = graph.producer(&weighed.input[0], "Softmax")?;
    let masked = graph.producer(&softmax.input[0], "Add")?;
    let scores = graph.producer(&masked.input[0], "MatMul")?;
    let parts = [
        transposed(graph, &scores.input[0], heads_first)?,
        transposed(graph, &scores.input[1], [0, 2, 3, 1])?,
        transposed(graph, &weighed.input[1], heads_first)?,
    ];
    let mut products = Vec::new();
    let mut linears = Vec::new();
    let mut frames = Vec::new();
    for part in parts {
        let split = graph.producer(part, "Reshape")?;
        frames.push(&split.input[1]);
        let linear = Linear::of(graph, &split.input[0])?;
        products.push(graph.producer(&linear.product, "MatMulIntegerToFloat")?.clone());
        linears.push(linear);
    }
    // The frame is posts, tokens, heads, columns of a head.
    let frame = graph.producer(frames[0], "Concat")?;
    let &[heads, head_width] = &graph.integers(frame.input.get(1)?)?[..] else {
        return None;
    };
    let is_known = frames.iter().all(|other| *other == frames[0])
        && (head_width as usize).is_multiple_of(BLOCK)
        && head_width > 0
        && quantize.smoothing.is_none();
    let same_rows = linears.iter().all(|linear| linear.row_scales == linears[0].row_scales);
    if !is_known || !same_rows {
        return None;
    }
    let mask = padding_mask(graph, &masked.input[1])?.to_owned();
    let row_scales = linears[0].row_scales.clone().unwrap_or_default();
    let offsets: Vec<&str> = linears.iter().filter_map(|linear| linear.offset.as_deref()).collect();
    let (product, mut constants) = one_product(graph, &quantize.bytes, &products)?;
    let mut inputs = vec![product.output[0].clone(), mask, row_scales];
    match offsets.len() {
        0 => {}
        3 => {
            let offset = joined(graph, &format!("{}/offset", quantize.bytes), &offsets)?;
            inputs.push(offset.name.clone());
            constants.push(offset);
        }
        _ => return None,
    }
    for tensor in constants {
        graph.put_constant(tensor);
    }
    let attributes = vec![integer(names::HEADS, heads)];
    let attention = quantize.node(Fused::AttentionQuantize, inputs, Vec::new(), attributes);
    Some(vec![product, attention])
}

/// Returns a value if it depends only on the padding, so that it has the shape `[posts, 1, 1, tokens]`.
fn padding_mask<'v>(graph: &Graph, value: &'v str) -> Option<&'v str> {
    let scaled = graph.producer(value, "Mul")?;
    let shifted = graph.producer(&scaled.input[0], "Sub")?;
    let cast = graph.producer(&shifted.input[0], "Cast")?;
    let unsqueezed = graph.producer(&cast.input[0], "Unsqueeze")?;
    let is_scalar = |node: &NodeProto| graph.float(&node.input[1]).is_some();
    let is_mask = is_scalar(scaled)
        && is_scalar(shifted)
        && unsqueezed.input[0] == "attention_mask"
        && graph.integers(&unsqueezed.input[1])? == [1, 2];
    is_mask.then_some(value)
}

/// Returns the input of a transposition.
fn transposed<'g>(graph: &'g Graph, value: &str, order: [i64; 4]) -> Option<&'g str> {
    let node = graph.producer(value, "Transpose")?;
    (attribute(node, "perm")?.ints == order).then(|| node.input[0].as_str())
}

/// Returns one product for several of the same bytes, and its constants. Inputs of `MatMulIntegerToFloat`: bytes, weights,
/// scale of the bytes, scales of the weights, zero points of both, bias.
fn one_product(graph: &Graph, scope: &str, products: &[NodeProto]) -> Option<(NodeProto, Vec<TensorProto>)> {
    let input = |node: &NodeProto, index: usize| node.input.get(index).cloned().unwrap_or_default();
    let first = &products[0];
    for other in products {
        let same_scale = graph.float(&input(other, 2))? == graph.float(&input(first, 2))?;
        let same_zero_point = graph.byte(&input(other, 4))? == graph.byte(&input(first, 4))?;
        let has_weight_zero_point = !input(other, 5).is_empty();
        if input(other, 0) != input(first, 0) || !same_scale || !same_zero_point || has_weight_zero_point {
            return None;
        }
    }
    let of_all = |index: usize| -> Vec<String> { products.iter().map(|node| input(node, index)).collect() };
    let weights: Option<Vec<&TensorProto>> = of_all(1)
        .iter()
        .map(|name| graph.constant(name, ElementType::Int8))
        .collect();
    let weights = columns_joined(&format!("{scope}/weights"), &weights?)?;
    let scales = of_all(3);
    let scales: Vec<&str> = scales.iter().map(String::as_str).collect();
    let scales = joined(graph, &format!("{scope}/scales"), &scales)?;
    let mut inputs = vec![
        input(first, 0),
        weights.name.clone(),
        input(first, 2),
        scales.name.clone(),
        input(first, 4),
    ];
    let mut constants = vec![weights, scales];
    let biases = of_all(6);
    if biases.iter().any(|bias| !bias.is_empty()) {
        let biases: Vec<&str> = biases.iter().map(String::as_str).collect();
        let bias = joined(graph, &format!("{scope}/bias"), &biases)?;
        inputs.extend([String::new(), bias.name.clone()]);
        constants.push(bias);
    }
    let node = NodeProto {
        input: inputs,
        output: vec![format!("{scope}/product")],
        name: format!("{scope}/product"),
        ..first.clone()
    };
    Some((node, constants))
}

/// Joins vectors of floats.
fn joined(graph: &Graph, name: &str, vectors: &[&str]) -> Option<TensorProto> {
    let mut raw_data = Vec::new();
    for vector in vectors {
        let tensor = graph.constant(vector, ElementType::Float32)?;
        (tensor.dims.len() == 1).then_some(())?;
        raw_data.extend_from_slice(&tensor.raw_data);
    }
    Some(TensorProto {
        dims: vec![(raw_data.len() / 4) as i64],
        data_type: ElementType::Float32 as i32,
        name: name.to_owned(),
        raw_data,
    })
}

/// Joins matrices of bytes side by side.
fn columns_joined(name: &str, matrices: &[&TensorProto]) -> Option<TensorProto> {
    let &[rows, _] = &matrices.first()?.dims[..] else {
        return None;
    };
    let mut columns = 0;
    for matrix in matrices {
        match matrix.dims[..] {
            [same, width] if same == rows && width > 0 => columns += width,
            _ => return None,
        }
    }
    let mut raw_data = Vec::with_capacity((rows * columns) as usize);
    for row in 0..rows as usize {
        for matrix in matrices {
            let width = matrix.dims[1] as usize;
            raw_data.extend_from_slice(matrix.raw_data.get(row * width..(row + 1) * width)?);
        }
    }
    Some(TensorProto {
        dims: vec![rows, columns],
        data_type: matrices.first()?.data_type,
        name: name.to_owned(),
        raw_data,
    })
}

/// Whether a constant is a vector of whole blocks.
fn has_blocks(graph: &Graph, vector: &str) -> bool {
    graph
        .floats(vector)
        .is_some_and(|floats| !floats.is_empty() && floats.len().is_multiple_of(BLOCK))
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f: Some(value),
        r#type: attribute_type::FLOAT,
        ..AttributeProto::default()
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: attribute_type::INT,
        ..AttributeProto::default()
    }
}
