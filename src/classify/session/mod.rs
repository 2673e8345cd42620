//! An ONNX Runtime session as a [`Backend`].

mod bound;
mod builder;
mod inputs;
mod load;

use ort::{
    environment::Environment,
    session::{Session, SessionInputValue},
    value::{DynValue, TensorElementType, TensorRef},
};

pub(super) use self::{bound::FIXED_COLUMNS, load::load_sessions};
use self::{
    bound::{BoundInputs, DeviceMemory, FixedShapes},
    builder::{builder, load_error},
    inputs::{InputValues, narrowed},
    load::Graph,
};
use super::{
    backend::{Backend, Padded},
    error::{BackendError, one_line},
    graph::{InputTensor, inputs, output},
    options::{ClassifyError, ClassifyOptions},
};
use crate::model::ModelFolder;

/// A session with the buffers for a batch.
pub(super) struct OrtSession {
    session: Session,
    inputs: Vec<InputTensor>,
    values: InputValues,
    transfer: Transfer,
    reader: LogitReader,
}

/// How a batch reaches the session's device.
enum Transfer {
    /// ONNX Runtime copies inputs from, and outputs to, ordinary memory. The buffers hold inputs of 32-bit integers.
    Copied(Vec<Vec<i32>>),
    Bound(Box<BoundInputs>),
    FixedShapes(Box<FixedShapes>),
}

/// Reads logits from the output.
struct LogitReader {
    output: String,
    half: bool,
    labels: usize,
    /// Whether the graph ends in softmax, so that its outputs are probabilities.
    outputs_are_probabilities: bool,
}

impl OrtSession {
    /// Loads the graph of a folder's ONNX file, and checks that its inputs and outputs are those of a sequence classifier.
    fn load(
        environment: &Environment,
        folder: &ModelFolder,
        options: &ClassifyOptions,
        graph: &Graph,
    ) -> Result<Self, ClassifyError> {
        let file = folder.weights().file();
        let session = graph
            .session(builder(environment, folder, options)?)?
            .map_err(|error| load_error(folder, error.message()))?;
        let unsuitable = |fault| ClassifyError::Graph {
            path: file.to_owned(),
            fault,
        };
        let labels = folder.info().labels.len();
        let inputs = inputs(&session).map_err(unsuitable)?;
        let (output, half) = output(&session, labels).map_err(unsuitable)?;
        let reader = LogitReader {
            output,
            half,
            labels,
            outputs_are_probabilities: false,
        };
        let transfer =
            Transfer::choose(&session, folder, options, &reader).map_err(|error| ClassifyError::Setting {
                setting: "io_binding or cuda_graphs".to_owned(),
                reason: one_line(error.message()),
            })?;
        Ok(Self {
            session,
            inputs,
            values: InputValues::new(folder.first_position().into()),
            transfer,
            reader,
        })
    }

    /// From now on reads the outputs as probabilities, converting them to logits with the same softmax.
    pub(super) fn read_outputs_as_probabilities(&mut self) {
        self.reader.outputs_are_probabilities = true;
    }

    fn try_run(&mut self, batch: &Padded, logits: &mut Vec<f32>) -> ort::Result<()> {
        let Self {
            session,
            inputs,
            values,
            transfer,
            reader,
        } = self;
        values.prepare(inputs, batch);
        match transfer {
            Transfer::Copied(narrow) => {
                let values = copied_inputs(inputs, values, batch, narrow)?;
                let outputs = session.run(&values[..])?;
                reader.read(outputs.get(&reader.output), batch.rows, batch.rows, logits)
            }
            Transfer::Bound(bound) => {
                let binding = bound.bind(inputs, values, batch)?;
                let outputs = session.run_binding(binding)?;
                reader.read(outputs.get(&reader.output), batch.rows, batch.rows, logits)
            }
            Transfer::FixedShapes(shapes) => shapes.run(session, inputs, values, batch, |output, rows| {
                reader.read(output, rows, batch.rows, logits)
            }),
        }
    }
}

impl Transfer {
    fn choose(
        session: &Session,
        folder: &ModelFolder,
        options: &ClassifyOptions,
        reader: &LogitReader,
    ) -> ort::Result<Self> {
        if !options.io_binding && !options.cuda_graphs {
            return Ok(Self::Copied(Vec::new()));
        }
        let memory = DeviceMemory::of(session, folder.info().provider, options.device_id)?;
        if !options.cuda_graphs {
            let bound = BoundInputs::new(session, memory, &reader.output)?;
            return Ok(Self::Bound(Box::new(bound)));
        }
        let element = match reader.half {
            true => TensorElementType::Float16,
            false => TensorElementType::Float32,
        };
        Ok(Self::FixedShapes(Box::new(FixedShapes::new(
            memory,
            (reader.output.clone(), element),
            reader.labels,
            folder.pad_id(),
            folder.tokenizer().max_tokens(),
        ))))
    }
}

/// Returns views of the inputs.
fn copied_inputs<'a>(
    inputs: &[InputTensor],
    values: &'a InputValues,
    batch: &'a Padded,
    narrow: &'a mut Vec<Vec<i32>>,
) -> ort::Result<Vec<SessionInputValue<'a>>> {
    let shape = [batch.rows, batch.columns];
    narrow.resize_with(inputs.len(), Vec::new);
    inputs
        .iter()
        .zip(narrow)
        .map(|(tensor, narrow)| {
            let data = &values.of(tensor.input, batch)[..batch.rows * batch.columns];
            if tensor.is_i32 {
                narrow.clear();
                narrow.extend(data.iter().copied().map(narrowed));
                Ok(TensorRef::from_array_view((shape, narrow.as_slice()))?.into())
            } else {
                Ok(TensorRef::from_array_view((shape, data))?.into())
            }
        })
        .collect()
}

impl LogitReader {
    /// Appends the logits of the first `texts` rows of an output with `rows` rows.
    fn read(&self, output: Option<&DynValue>, rows: usize, texts: usize, logits: &mut Vec<f32>) -> ort::Result<()> {
        let output = output.ok_or_else(|| ort::Error::new(format!("it has no output {:?}", self.output)))?;
        let first = logits.len();
        let shape = if self.half {
            let (shape, data) = output.try_extract_tensor::<half::f16>()?;
            logits.extend(data.iter().map(|&logit| f32::from(logit)));
            shape
        } else {
            let (shape, data) = output.try_extract_tensor::<f32>()?;
            logits.extend_from_slice(data);
            shape
        };
        if shape[..] != [rows as i64, self.labels as i64] {
            return Err(ort::Error::new(format!(
                "the output {:?} has the shape {:?}, but {rows} rows and {} labels need [{rows}, {}]",
                self.output,
                &shape[..],
                self.labels,
                self.labels
            )));
        }
        logits.truncate(first + texts * self.labels);
        if self.outputs_are_probabilities {
            for value in logits.iter_mut() {
                *value = value.max(f32::MIN_POSITIVE).ln();
            }
        }
        Ok(())
    }
}

impl Backend for OrtSession {
    fn run(&mut self, batch: &Padded, logits: &mut Vec<f32>) -> Result<(), BackendError> {
        self.try_run(batch, logits).map_err(BackendError::Runtime)
    }

    fn computed_tokens(&self, batch: &Padded) -> usize {
        match &self.transfer {
            Transfer::FixedShapes(shapes) => shapes.shape(batch).into_iter().product(),
            Transfer::Copied(_) | Transfer::Bound(_) => batch.rows * batch.columns,
        }
    }
}
