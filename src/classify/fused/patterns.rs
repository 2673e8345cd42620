//! Finds what the lab's int8 graphs compute between two products of bytes, and puts one operator in its place.

use moodstream_kernels::BLOCK;

use super::{
    graph::{Graph, attribute, input},
    operators::{self, Fused, attribute as names},
};
use crate::model::onnx::{AttributeProto, ElementType, NodeProto, TensorProto, attribute_type};

/// ONNX Runtime's product of bytes and weights, scaled to floats.
const PRODUCT: &str = "MatMulIntegerToFloat";
/// The index of its bias.
const BIAS: usize = 6;

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
            .or_else(|| quantize.only(graph));
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
                let steps = input(graph.producer(step, "Reshape")?, 0);
                let product = graph.producer(steps, "Mul")?;
                let factor = graph.float(input(product, 1))?;
                let bounded = graph.producer(input(product, 0), "Max")?;
                let minimum = graph.float(input(bounded, 1))?;
                let reduce = graph.producer(input(bounded, 0), "ReduceMax")?;
                let magnitude = graph.producer(input(reduce, 0), "Abs");
                let of = magnitude.map_or(input(reduce, 0), |abs| input(abs, 0));
                // Rows are matrices, so both are the last axis.
                let axes = graph.integers(input(reduce, 1))?;
                if of != rows || (axes != [-1] && axes != [1]) {
                    return None;
                }
                let user = magnitude.unwrap_or(reduce).output.first()?.clone();
                let zero_point = graph.producer(zero_point, "Expand")?;
                (
                    steps.to_owned(),
                    vec![bytes.clone(), user],
                    [0.0, minimum, factor],
                    magnitude.is_some(),
                    graph.byte(input(zero_point, 0))?,
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
            .filter(|product| graph.floats(input(product, 1)).is_some_and(|factors| factors.len() > 1));
        let (source, smoothing) = match smoothed {
            Some(product) => (input(product, 0).to_owned(), Some(input(product, 1).to_owned())),
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
    fn only(&self, graph: &Graph) -> Option<Vec<NodeProto>> {
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
        let known = |product: &str| graph.producer(product, PRODUCT).map(|_| product.to_owned());
        if let Some(product) = known(value) {
            return Some(Self {
                product,
                row_scales: None,
                offset: None,
            });
        }
        let difference = graph.producer(value, "Sub")?;
        let scaled = graph.producer(input(difference, 0), "Mul")?;
        has_blocks(graph, input(difference, 1)).then_some(())?;
        Some(Self {
            product: known(input(scaled, 0))?,
            row_scales: Some(input(scaled, 1).to_owned()),
            offset: Some(input(difference, 1).to_owned()),
        })
    }

    fn optional_inputs(&self) -> [String; 2] {
        [&self.row_scales, &self.offset].map(|input| input.clone().unwrap_or_default())
    }
}

/// `quantize(layer_norm(residual - linear))`.
fn layer_norm(graph: &Graph, quantize: &Quantize) -> Option<Vec<NodeProto>> {
    let norm = graph.producer(&quantize.source, "LayerNormalization")?;
    let [sum, scale, shift] = &norm.input[..] else {
        return None;
    };
    let epsilon = attribute(norm, "epsilon")?.f?;
    let difference = graph.producer(sum, "Sub")?;
    let linear = Linear::of(graph, input(difference, 1))?;
    if !has_blocks(graph, scale) || attribute(norm, "axis")?.i != Some(-1) {
        return None;
    }
    let [row_scales, offset] = linear.optional_inputs();
    let inputs = vec![
        linear.product,
        input(difference, 0).to_owned(),
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
    let linear = Linear::of(graph, input(gelu, 0))?;
    // With a fixed step the product adds the bias itself.
    let product = graph.producer(&linear.product, PRODUCT)?;
    let bias = linear.offset.as_deref().unwrap_or(input(product, BIAS));
    has_blocks(graph, bias).then_some(())?;
    let [row_scales, offset] = linear.optional_inputs();
    let inputs = vec![linear.product, row_scales, offset];
    Some(vec![quantize.node(Fused::GeluQuantize, inputs, Vec::new(), Vec::new())])
}

/// `quantize(attention(query, key, value))`, whose three products become one.
fn attention(graph: &mut Graph, quantize: &Quantize) -> Option<Vec<NodeProto>> {
    let heads_first = [0, 2, 1, 3];
    let rows = graph.producer(&quantize.source, "Reshape")?;
    let context = transposed(graph, input(rows, 0), heads_first)?;
    let context_product = graph.producer(context, "MatMul")?;
    let softmax = graph.producer(input(context_product, 0), "Softmax")?;
    let masked = graph.producer(input(softmax, 0), "Add")?;
    let scores = graph.producer(input(masked, 0), "MatMul")?;
    let parts = [
        transposed(graph, input(scores, 0), heads_first)?,
        transposed(graph, input(scores, 1), [0, 2, 3, 1])?,
        transposed(graph, input(context_product, 1), heads_first)?,
    ];
    let mut products = Vec::new();
    let mut linears = Vec::new();
    let mut split_shapes = Vec::new();
    for part in parts {
        let split = graph.producer(part, "Reshape")?;
        split_shapes.push(input(split, 1));
        let linear = Linear::of(graph, input(split, 0))?;
        products.push(graph.producer(&linear.product, PRODUCT)?.clone());
        linears.push(linear);
    }
    // Posts, tokens, heads, columns of a head.
    let shape = graph.producer(split_shapes[0], "Concat")?;
    let &[heads, head_width] = &graph.integers(input(shape, 1))?[..] else {
        return None;
    };
    let is_known = split_shapes.iter().all(|other| *other == split_shapes[0])
        && (head_width as usize).is_multiple_of(BLOCK)
        && head_width > 0
        && quantize.smoothing.is_none();
    let same_rows = linears.iter().all(|linear| linear.row_scales == linears[0].row_scales);
    if !is_known || !same_rows {
        return None;
    }
    let mask = padding_mask(graph, input(masked, 1))?.to_owned();
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
    let shifted = graph.producer(input(scaled, 0), "Sub")?;
    let cast = graph.producer(input(shifted, 0), "Cast")?;
    let unsqueezed = graph.producer(input(cast, 0), "Unsqueeze")?;
    let is_scalar = |node: &NodeProto| graph.float(input(node, 1)).is_some();
    let is_mask = is_scalar(scaled)
        && is_scalar(shifted)
        && input(unsqueezed, 0) == "attention_mask"
        && graph.integers(input(unsqueezed, 1))? == [1, 2];
    is_mask.then_some(value)
}

/// Returns the input of a transposition.
fn transposed<'g>(graph: &'g Graph, value: &str, order: [i64; 4]) -> Option<&'g str> {
    let node = graph.producer(value, "Transpose")?;
    (attribute(node, "perm")?.ints == order).then(|| input(node, 0))
}

/// Returns one product for several of the same bytes, and its constants. Inputs of `MatMulIntegerToFloat`: bytes, weights,
/// scale of the bytes, scales of the weights, zero points of both, bias.
fn one_product(graph: &Graph, scope: &str, products: &[NodeProto]) -> Option<(NodeProto, Vec<TensorProto>)> {
    let first = products.first()?;
    for other in products {
        let same_scale = graph.float(input(other, 2))? == graph.float(input(first, 2))?;
        let same_zero_point = graph.byte(input(other, 4))? == graph.byte(input(first, 4))?;
        let has_weight_zero_point = !input(other, 5).is_empty();
        if input(other, 0) != input(first, 0) || !same_scale || !same_zero_point || has_weight_zero_point {
            return None;
        }
    }
    let of_all = |index: usize| -> Vec<&str> { products.iter().map(|node| input(node, index)).collect() };
    let weights = of_all(1)
        .into_iter()
        .map(|name| graph.constant(name, ElementType::Int8));
    let weights = columns_joined(&format!("{scope}/weights"), &weights.collect::<Option<Vec<_>>>()?)?;
    let scales = joined(graph, &format!("{scope}/scales"), &of_all(3))?;
    let [bytes, scale, zero_point] = [0, 2, 4].map(|index| input(first, index).to_owned());
    let mut inputs = vec![bytes, weights.name.clone(), scale, scales.name.clone(), zero_point];
    let mut constants = vec![weights, scales];
    if of_all(BIAS).iter().any(|bias| !bias.is_empty()) {
        let bias = joined(graph, &format!("{scope}/bias"), &of_all(BIAS))?;
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
    let mut widths = Vec::new();
    for matrix in matrices {
        match matrix.dims[..] {
            [same, width] if same == rows => widths.push(usize::try_from(width).ok()?),
            _ => return None,
        }
    }
    let columns = i64::try_from(widths.iter().sum::<usize>()).ok()?;
    let mut raw_data = Vec::new();
    for row in 0..usize::try_from(rows).ok()? {
        for (matrix, width) in matrices.iter().zip(&widths) {
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
