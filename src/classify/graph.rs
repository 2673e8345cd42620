//! Checks that a graph's inputs and outputs are those of a sequence classifier.

use ort::{
    session::Session,
    value::{TensorElementType, ValueType},
};

use super::error::GraphError;

/// The meaning of a graph input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Ids,
    Mask,
    TokenTypes,
    Positions,
}

impl Input {
    /// The input's name in the graph.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::TokenTypes => "token_type_ids",
            Self::Positions => "position_ids",
        }
    }
}

/// An input of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InputTensor {
    pub(super) input: Input,
    /// Whether elements are 32-bit instead of 64-bit integers, as TensorFlow and OpenVINO exporters write them.
    pub(super) is_i32: bool,
}

/// Returns the inputs if they are those of an encoder.
pub(super) fn inputs(session: &Session) -> Result<Vec<InputTensor>, GraphError> {
    let mut inputs = Vec::new();
    for outlet in session.inputs() {
        let known = [Input::Ids, Input::Mask, Input::TokenTypes, Input::Positions];
        let input = known
            .into_iter()
            .find(|input| input.name() == outlet.name())
            .ok_or_else(|| GraphError::Input(outlet.name().to_owned()))?;
        match outlet.dtype() {
            ValueType::Tensor {
                ty: ty @ (TensorElementType::Int64 | TensorElementType::Int32),
                ..
            } => inputs.push(InputTensor {
                input,
                is_i32: *ty == TensorElementType::Int32,
            }),
            other => {
                return Err(GraphError::InputType {
                    name: outlet.name().to_owned(),
                    found: other.to_string(),
                });
            }
        }
    }
    for input in [Input::Ids, Input::Mask] {
        if !inputs.iter().any(|tensor| tensor.input == input) {
            return Err(GraphError::NoInput(input.name()));
        }
    }
    Ok(inputs)
}

/// Returns the output's name, and whether it is fp16.
pub(super) fn output(session: &Session, labels: usize) -> Result<(String, bool), GraphError> {
    let outputs = session.outputs();
    let outlet = match outputs {
        [only] => only,
        several => several.iter().find(|outlet| outlet.name() == "logits").ok_or_else(|| {
            let names: Vec<&str> = several.iter().map(ort::value::Outlet::name).collect();
            GraphError::NoLogits(names.join(", "))
        })?,
    };
    let name = outlet.name();
    let (half, shape) = match outlet.dtype() {
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            ..
        } => (false, shape),
        ValueType::Tensor {
            ty: TensorElementType::Float16,
            shape,
            ..
        } => (true, shape),
        other => {
            return Err(GraphError::OutputType {
                name: name.to_owned(),
                found: other.to_string(),
            });
        }
    };
    match shape[..] {
        [] => Ok((name.to_owned(), half)),
        [_, last] if last < 0 || last == labels as i64 => Ok((name.to_owned(), half)),
        [_, last] => Err(GraphError::Labels {
            name: name.to_owned(),
            found: last,
            labels,
        }),
        ref other => Err(GraphError::Shape {
            name: name.to_owned(),
            found: format!("{other:?}"),
        }),
    }
}
