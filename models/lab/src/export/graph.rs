//! A small builder of ONNX graphs. Nodes are appended in the order of evaluation.

use std::{collections::HashSet, rc::Rc};

use half::f16;
use prost::Message;

use moodstream::model::onnx::{
    AttributeProto, DimensionProto, DimensionValue, ElementType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    PRODUCER, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type,
};

/// The ONNX operator set: `LayerNormalization` needs 17, reductions with axes as an input need 18.
const OPSET: i64 = 18;
/// The IR version of the ONNX release with that operator set.
const IR_VERSION: i64 = 8;
/// The domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// The name of a value in a graph: a node's output, an initializer, or an input.
#[derive(Debug, Clone)]
pub(crate) struct Value(Rc<str>);

/// An operator.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    /// An operator of the ONNX standard.
    Onnx(&'static str),
    /// An operator of ONNX Runtime (`com.microsoft`).
    Runtime(&'static str),
}

/// An attribute of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attr {
    Int(i64),
    Float(f32),
    Ints(&'static [i64]),
}

/// A dimension of an input or an output.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dim {
    Fixed(usize),
    Named(&'static str),
}

/// The precision of floating-point weights and arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatType {
    Single,
    Half,
}

impl FloatType {
    pub(crate) fn element_type(self) -> ElementType {
        match self {
            Self::Single => ElementType::Float32,
            Self::Half => ElementType::Float16,
        }
    }
}

/// A graph that is being built. Names are unique because each ends in an index.
#[derive(Debug)]
pub(crate) struct GraphBuilder {
    graph: GraphProto,
    float: FloatType,
    scope: String,
    uses_runtime_operators: bool,
}

impl GraphBuilder {
    pub(crate) fn new(name: &str, float: FloatType) -> Self {
        let graph = GraphProto {
            name: name.to_owned(),
            ..GraphProto::default()
        };
        Self {
            graph,
            float,
            scope: String::new(),
            uses_runtime_operators: false,
        }
    }

    /// Sets the prefix of the following names, for profilers and viewers.
    pub(crate) fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    pub(crate) fn float(&self) -> FloatType {
        self.float
    }

    pub(crate) fn input(&mut self, name: &str, element: ElementType, dims: &[Dim]) -> Value {
        self.graph.input.push(value_info(name, element, dims));
        Value(name.into())
    }

    /// Declares `value` as an output of the model named `name`.
    pub(crate) fn output(&mut self, name: &str, value: &Value, element: ElementType, dims: &[Dim]) {
        self.push_node(Op::Onnx("Identity"), &[Some(value)], &[], vec![name.to_owned()]);
        self.graph.output.push(value_info(name, element, dims));
    }

    /// Appends a node with one output.
    pub(crate) fn call(&mut self, op: Op, inputs: &[&Value], attrs: &[(&'static str, Attr)]) -> Value {
        let inputs: Vec<Option<&Value>> = inputs.iter().copied().map(Some).collect();
        self.call_with_optional(op, &inputs, attrs)
    }

    /// Appends a node with one output; optional inputs may be `None`.
    pub(crate) fn call_with_optional(
        &mut self,
        op: Op,
        inputs: &[Option<&Value>],
        attrs: &[(&'static str, Attr)],
    ) -> Value {
        let (Op::Onnx(kind) | Op::Runtime(kind)) = op;
        let name: Rc<str> = format!("{}/{kind}_{}", self.scope, self.graph.node.len()).into();
        self.push_node(op, inputs, attrs, vec![name.to_string()]);
        Value(name)
    }

    /// Appends a node with `N` outputs and no attributes.
    pub(crate) fn call_for_several<const N: usize>(&mut self, op: Op, inputs: &[&Value]) -> [Value; N] {
        let (Op::Onnx(kind) | Op::Runtime(kind)) = op;
        let name = format!("{}/{kind}_{}", self.scope, self.graph.node.len());
        let inputs: Vec<Option<&Value>> = inputs.iter().copied().map(Some).collect();
        let outputs: [String; N] = std::array::from_fn(|index| format!("{name}_{index}"));
        self.push_node(op, &inputs, &[], outputs.to_vec());
        outputs.map(|name| Value(name.into()))
    }

    /// A weight of the model, stored in the precision of the graph; `data` is row-major.
    pub(crate) fn weight(&mut self, name: &str, dims: &[usize], data: &[f32]) -> Value {
        let raw = match self.float {
            FloatType::Single => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            FloatType::Half => data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        };
        self.initializer(name, self.float.element_type(), dims, raw)
    }

    /// A weight that is stored in half precision but used in single precision: the runtime converts it once, when loading.
    pub(crate) fn half_weight(&mut self, name: &str, dims: &[usize], data: &[f32]) -> Value {
        let raw = data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let stored = self.initializer(name, ElementType::Float16, dims, raw);
        self.cast(&stored, ElementType::Float32)
    }

    /// A scalar in the precision of the graph.
    pub(crate) fn float_scalar(&mut self, value: f32) -> Value {
        self.weight("scalar", &[], &[value])
    }

    pub(crate) fn int8(&mut self, name: &str, dims: &[usize], data: &[i8]) -> Value {
        let raw = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.initializer(name, ElementType::Int8, dims, raw)
    }

    /// Bytes, row-major.
    pub(crate) fn uint8(&mut self, name: &str, dims: &[usize], data: Vec<u8>) -> Value {
        self.initializer(name, ElementType::Uint8, dims, data)
    }

    pub(crate) fn uint8_scalar(&mut self, value: u8) -> Value {
        self.initializer("zero_point", ElementType::Uint8, &[], vec![value])
    }

    pub(crate) fn int64(&mut self, dims: &[usize], data: &[i64]) -> Value {
        let raw = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.initializer("constant", ElementType::Int64, dims, raw)
    }

    /// Converts `value` to `element`.
    pub(crate) fn cast(&mut self, value: &Value, element: ElementType) -> Value {
        self.call(Op::Onnx("Cast"), &[value], &[("to", Attr::Int(element as i64))])
    }

    /// The finished model as the bytes of an ONNX file; `None` if it exceeds protobuf's limit of 2 GiB.
    pub(crate) fn finish(mut self) -> Option<Vec<u8>> {
        // The runtime would warn about each unused constant.
        let read: HashSet<&str> = self
            .graph
            .node
            .iter()
            .flat_map(|node| &node.input)
            .map(String::as_str)
            .collect();
        self.graph
            .initializer
            .retain(|constant| read.contains(constant.name.as_str()));
        let mut opset_import = vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }];
        if self.uses_runtime_operators {
            opset_import.push(OperatorSetIdProto {
                domain: MICROSOFT.to_owned(),
                version: 1,
            });
        }
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: PRODUCER.to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import,
            metadata_props: Vec::new(),
        };
        (model.encoded_len() < i32::MAX as usize).then(|| model.encode_to_vec())
    }

    fn initializer(&mut self, name: &str, element: ElementType, dims: &[usize], raw_data: Vec<u8>) -> Value {
        let name: Rc<str> = format!("{}/{name}_c{}", self.scope, self.graph.initializer.len()).into();
        self.graph.initializer.push(TensorProto {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: element as i32,
            name: name.to_string(),
            raw_data,
        });
        Value(name)
    }

    fn push_node(&mut self, op: Op, inputs: &[Option<&Value>], attrs: &[(&'static str, Attr)], output: Vec<String>) {
        let (op_type, domain) = match op {
            Op::Onnx(kind) => (kind, ""),
            Op::Runtime(kind) => (kind, MICROSOFT),
        };
        self.uses_runtime_operators |= !domain.is_empty();
        self.graph.node.push(NodeProto {
            input: inputs
                .iter()
                .map(|value| value.map_or_else(String::new, |v| v.0.to_string()))
                .collect(),
            name: output.first().cloned().unwrap_or_default(),
            output,
            op_type: op_type.to_owned(),
            attribute: attrs.iter().map(attribute).collect(),
            domain: domain.to_owned(),
        });
    }
}

fn attribute(&(name, value): &(&'static str, Attr)) -> AttributeProto {
    let empty = AttributeProto {
        name: name.to_owned(),
        ..AttributeProto::default()
    };
    match value {
        Attr::Int(i) => AttributeProto {
            i: Some(i),
            r#type: attribute_type::INT,
            ..empty
        },
        Attr::Float(f) => AttributeProto {
            f: Some(f),
            r#type: attribute_type::FLOAT,
            ..empty
        },
        Attr::Ints(ints) => AttributeProto {
            ints: ints.to_vec(),
            r#type: attribute_type::INTS,
            ..empty
        },
    }
}

fn value_info(name: &str, element: ElementType, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|dim| {
            let value = match *dim {
                Dim::Fixed(size) => DimensionValue::Fixed(size as i64),
                Dim::Named(symbol) => DimensionValue::Symbol(symbol.to_owned()),
            };
            DimensionProto { value: Some(value) }
        })
        .collect();
    let tensor_type = TensorTypeProto {
        elem_type: element as i32,
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor_type),
        }),
    }
}
