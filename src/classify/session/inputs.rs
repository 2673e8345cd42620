//! The values of a graph's inputs for a batch.

use ort::{
    memory::Allocator,
    value::{DynTensor, TensorElementType},
};

use crate::classify::{
    backend::Padded,
    graph::{Input, InputTensor},
};

/// The values of the inputs that do not depend on the texts, kept between batches.
#[derive(Debug)]
pub(super) struct InputValues {
    /// The position of the first token.
    first_position: i64,
    zeros: Vec<i64>,
    positions: Vec<i64>,
}

impl InputValues {
    pub(super) fn new(first_position: i64) -> Self {
        Self {
            first_position,
            zeros: Vec::new(),
            positions: Vec::new(),
        }
    }

    /// Computes the values that `inputs` need besides ids and mask.
    pub(super) fn prepare(&mut self, inputs: &[InputTensor], batch: &Padded) {
        for tensor in inputs {
            match tensor.input {
                Input::Ids | Input::Mask => {}
                Input::TokenTypes => self.zeros.resize(batch.rows * batch.columns, 0),
                Input::Positions => {
                    self.positions.clear();
                    for _ in 0..batch.rows {
                        self.positions.extend((self.first_position..).take(batch.columns));
                    }
                }
            }
        }
    }

    /// Returns an input's values, `[rows, columns]`.
    pub(super) fn of<'a>(&'a self, input: Input, batch: &'a Padded) -> &'a [i64] {
        match input {
            Input::Ids => &batch.ids,
            Input::Mask => &batch.mask,
            Input::TokenTypes => &self.zeros,
            Input::Positions => &self.positions,
        }
    }
}

/// Allocates a tensor for an input, `[rows, columns]`.
pub(super) fn allocate(allocator: &Allocator, input: InputTensor, batch: &Padded) -> ort::Result<DynTensor> {
    let element = match input.is_i32 {
        true => TensorElementType::Int32,
        false => TensorElementType::Int64,
    };
    DynTensor::new(allocator, element, [batch.rows, batch.columns])
}

/// Copies an input's values into a tensor in memory that the CPU can access.
pub(super) fn write(tensor: &mut DynTensor, input: InputTensor, values: &[i64]) -> ort::Result<()> {
    if input.is_i32 {
        let (_, data) = tensor.try_extract_tensor_mut::<i32>()?;
        data.iter_mut().zip(values).for_each(|(to, &from)| *to = narrowed(from));
    } else {
        let (_, data) = tensor.try_extract_tensor_mut::<i64>()?;
        data.iter_mut().zip(values).for_each(|(to, &from)| *to = from);
    }
    Ok(())
}

/// Converts an id or a position, which are far below 2³¹.
pub(super) fn narrowed(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(0)
}
