//! A checkpoint's `model.safetensors`: reads tensors by name, checks their shapes, and converts them to finite `f32`.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// A tensor that is not valid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}: tensor {name} {fault}", path.display())]
pub struct TensorError {
    /// The file.
    pub path: PathBuf,
    /// The tensor.
    pub name: String,
    /// What is wrong with it.
    pub fault: TensorFault,
}

/// What is wrong with a tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFault {
    /// The file does not have it.
    #[error("is absent")]
    Absent,
    /// It has no rows.
    #[error("is empty")]
    Empty,
    /// Its shape does not agree with the sizes in `config.json`.
    #[error("is {found:?}, but config.json says {expected:?}")]
    Shape {
        /// Its shape.
        found: Vec<usize>,
        /// The shape by these sizes.
        expected: Vec<usize>,
    },
    /// Its numbers are of another type.
    #[error("is {0:?}, not F32, F16 or BF16")]
    Type(Dtype),
    /// One of its numbers is NaN or infinite.
    #[error("holds {value} at element {at}")]
    NotFinite {
        /// The number.
        value: f32,
        /// Its position.
        at: usize,
    },
}

/// A safetensors file with its path for error messages.
pub(crate) struct File<'a> {
    pub(crate) path: &'a Path,
    pub(crate) tensors: &'a SafeTensors<'a>,
}

impl File<'_> {
    fn error(&self, name: &str, fault: TensorFault) -> TensorError {
        TensorError {
            path: self.path.to_owned(),
            name: name.to_owned(),
            fault,
        }
    }

    fn find(&self, name: &str) -> Result<TensorView<'_>, TensorError> {
        let tensor = self.tensors.tensor(name);
        tensor.map_err(|_| self.error(name, TensorFault::Absent))
    }

    /// The first dimension of a tensor, for sizes that `config.json` does not have.
    pub(crate) fn rows(&self, name: &str) -> Result<usize, TensorError> {
        match self.find(name)?.shape().first() {
            Some(&rows) if rows > 0 => Ok(rows),
            _ => Err(self.error(name, TensorFault::Empty)),
        }
    }

    /// The tensor `name`, which must have that shape.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, TensorError> {
        let tensor = self.find(name)?;
        if tensor.shape() != shape {
            let (found, expected) = (tensor.shape().to_vec(), shape.to_vec());
            return Err(self.error(name, TensorFault::Shape { found, expected }));
        }
        match tensor.dtype() {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(tensor),
            other => Err(self.error(name, TensorFault::Type(other))),
        }
    }

    /// The numbers of the tensor `name`, which must have that shape.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let tensor = self.tensor(name, shape)?;
        let data = tensor.data();
        let halves = data.as_chunks().0.iter();
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F16 => halves.map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
            Dtype::BF16 => halves.map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
            _ => data
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect(),
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.error(name, TensorFault::NotFinite { value: values[at], at })),
            None => Ok(values),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn half_precision_is_read_and_other_types_refused() {
        let half: Vec<u8> = [1.5, -2.0]
            .into_iter()
            .flat_map(|x| f16::from_f32(x).to_le_bytes())
            .collect();
        let brain: Vec<u8> = [1.5, f32::NAN]
            .into_iter()
            .flat_map(|x| bf16::from_f32(x).to_le_bytes())
            .collect();
        let whole = 7_i32.to_le_bytes();
        let tensors = [
            ("half", TensorView::new(Dtype::F16, vec![2], &half).unwrap()),
            ("brain", TensorView::new(Dtype::BF16, vec![2], &brain).unwrap()),
            ("whole", TensorView::new(Dtype::I32, vec![1], &whole).unwrap()),
        ];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let file = File {
            path: Path::new("model.safetensors"),
            tensors: &tensors,
        };
        let fault = |name, shape: &[usize]| file.values(name, shape).unwrap_err().fault;
        assert_eq!(file.values("half", &[2]).unwrap(), [1.5, -2.0]);
        assert!(matches!(fault("brain", &[2]), TensorFault::NotFinite { at: 1, .. }));
        assert_eq!(fault("whole", &[1]), TensorFault::Type(Dtype::I32));
        assert!(matches!(fault("half", &[1, 2]), TensorFault::Shape { .. }));
        assert_eq!(fault("none", &[2]), TensorFault::Absent);
    }
}
