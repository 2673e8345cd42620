//! Inputs and outputs bound to memory of the session's device: `classify.io_binding` and `classify.cuda_graphs`.

use std::collections::{HashMap, hash_map::Entry};

use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{IoBinding, RunOptions, Session},
    value::{DynTensor, DynValue, TensorElementType},
};

use super::inputs::{InputValues, allocate, write};
use crate::{
    classify::{backend::Padded, graph::InputTensor},
    model::Provider,
};

/// The memory of a session's device, and the host memory that it copies from fastest.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    /// On a GPU, pinned memory.
    host: Allocator,
    device: Allocator,
    /// Whether the host's memory is the device's.
    is_host: bool,
}

impl DeviceMemory {
    pub(super) fn of(session: &Session, provider: Provider, device_id: i32) -> ort::Result<Self> {
        if !provider.is_gpu() {
            return Ok(Self {
                host: Allocator::default(),
                device: Allocator::default(),
                is_host: true,
            });
        }
        let allocator = |device, memory_type| {
            let memory = MemoryInfo::new(device, device_id, AllocatorType::Device, memory_type)?;
            Allocator::new(session, memory)
        };
        Ok(Self {
            host: allocator(AllocationDevice::CUDA_PINNED, MemoryType::CPUInput)?,
            device: allocator(AllocationDevice::CUDA, MemoryType::Default)?,
            is_host: false,
        })
    }
}

/// Inputs in pinned memory, bound for each batch. ONNX Runtime copies them to the device without staging them first.
#[derive(Debug)]
pub(super) struct BoundInputs {
    memory: DeviceMemory,
    binding: IoBinding,
    output: String,
    output_memory: MemoryInfo<'static>,
}

impl BoundInputs {
    pub(super) fn new(session: &Session, memory: DeviceMemory, output: &str) -> ort::Result<Self> {
        Ok(Self {
            memory,
            binding: session.create_binding()?,
            output: output.to_owned(),
            output_memory: MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)?,
        })
    }

    /// Binds a batch's inputs, and the output anew, because a bound output keeps the shape of its first batch.
    pub(super) fn bind(
        &mut self,
        inputs: &[InputTensor],
        values: &InputValues,
        batch: &Padded,
    ) -> ort::Result<&IoBinding> {
        for &input in inputs {
            let mut tensor = allocate(&self.memory.host, input, batch)?;
            write(&mut tensor, input, values.of(input.input, batch))?;
            self.binding.bind_input(input.input.name(), &tensor)?;
        }
        self.binding
            .bind_output_to_device(self.output.as_str(), &self.output_memory)?;
        self.binding.synchronize_inputs()?;
        Ok(&self.binding)
    }
}

/// Batches of few fixed shapes, whose work a GPU records once as a CUDA graph and then repeats as a whole, so that the CPU does
/// not launch every kernel. On a CPU the shapes are the same, but nothing is recorded.
///
/// A recorded graph reads and writes fixed addresses, so each shape has tensors of its own on the device.
pub(super) struct FixedShapes {
    memory: DeviceMemory,
    output: (String, TensorElementType),
    labels: usize,
    pad_id: u32,
    /// A batch is not padded beyond this, which may be the number of the model's positions.
    max_columns: usize,
    padded: Padded,
    shapes: HashMap<[usize; 2], FixedShape>,
}

/// The tensors of one shape.
struct FixedShape {
    binding: IoBinding,
    options: RunOptions,
    staged: Vec<DynTensor>,
    /// Empty if the host's memory is the device's.
    on_device: Vec<DynTensor>,
    output: DynTensor,
}

impl FixedShapes {
    pub(super) fn new(
        memory: DeviceMemory,
        output: (String, TensorElementType),
        labels: usize,
        pad_id: u32,
        max_columns: usize,
    ) -> Self {
        Self {
            memory,
            output,
            labels,
            pad_id,
            max_columns,
            padded: Padded::default(),
            shapes: HashMap::new(),
        }
    }

    /// The rows and columns of the smallest fixed shape that holds a batch.
    pub(super) fn shape(&self, batch: &Padded) -> [usize; 2] {
        let columns = fixed_columns(batch.columns).min(self.max_columns.max(batch.columns));
        [fixed_rows(batch.rows), columns]
    }

    /// Runs a batch in the smallest fixed shape that holds it, and calls `read` with the output and its number of rows.
    pub(super) fn run(
        &mut self,
        session: &mut Session,
        inputs: &[InputTensor],
        values: &mut InputValues,
        batch: &Padded,
        read: impl FnOnce(Option<&DynValue>, usize) -> ort::Result<()>,
    ) -> ort::Result<()> {
        let [rows, columns] = self.shape(batch);
        self.padded.copy_padded(batch, rows, columns, self.pad_id);
        let padded = &self.padded;
        values.prepare(inputs, padded);
        let number = self.shapes.len() + 1;
        let shape = match self.shapes.entry([rows, columns]) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let shape = FixedShape::new(session, &self.memory, inputs, padded, &self.output, self.labels, number)?;
                new.insert(shape)
            }
        };
        for (place, &input) in inputs.iter().enumerate() {
            write(&mut shape.staged[place], input, values.of(input.input, padded))?;
            if let Some(on_device) = shape.on_device.get_mut(place) {
                shape.staged[place].copy_into(on_device)?;
            }
        }
        let outputs = session.run_binding_with_options(&shape.binding, &shape.options)?;
        if self.memory.is_host {
            return read(outputs.get(&self.output.0), rows);
        }
        drop(outputs);
        read(Some(&shape.output.to(AllocationDevice::CPU, 0)?.into_dyn()), rows)
    }
}

impl FixedShape {
    fn new(
        session: &Session,
        memory: &DeviceMemory,
        inputs: &[InputTensor],
        padded: &Padded,
        (output_name, output_type): &(String, TensorElementType),
        labels: usize,
        number: usize,
    ) -> ort::Result<Self> {
        let tensors = |allocator: &Allocator| -> ort::Result<Vec<DynTensor>> {
            inputs.iter().map(|&input| allocate(allocator, input, padded)).collect()
        };
        let staged = tensors(&memory.host)?;
        let on_device = match memory.is_host {
            true => Vec::new(),
            false => tensors(&memory.device)?,
        };
        let mut output = DynTensor::new(&memory.device, *output_type, [padded.rows, labels])?;
        let mut binding = session.create_binding()?;
        let bound = if memory.is_host { &staged } else { &on_device };
        for (input, tensor) in inputs.iter().zip(bound) {
            binding.bind_input(input.input.name(), tensor)?;
        }
        binding.bind_output(output_name.as_str(), &mut output)?;
        let mut options = RunOptions::new()?;
        // Every shape is recorded as a graph of its own (`onnxruntime_run_options_config_keys.h`).
        options.set("gpu_graph_id", number.to_string())?;
        Ok(Self {
            binding,
            options,
            staged,
            on_device,
            output,
        })
    }
}

/// The numbers of columns of fixed shapes are multiples of this.
pub(in crate::classify) const FIXED_COLUMNS: usize = 16;

/// Rounds a number of texts up to one of four steps between powers of two: 10, 12, 14, 16, 20, 24, 28, 32 ...
fn fixed_rows(rows: usize) -> usize {
    rows.next_multiple_of((rows.next_power_of_two() / 8).max(1))
}

/// Rounds a number of tokens up to a multiple of [`FIXED_COLUMNS`].
fn fixed_columns(columns: usize) -> usize {
    columns.next_multiple_of(FIXED_COLUMNS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_a_quarter_of_a_fixed_shape_is_padding_rows() {
        let mut shapes = Vec::new();
        for rows in 1..=512 {
            let fixed = fixed_rows(rows);
            assert!(fixed >= rows && fixed * 4 <= rows * 5, "{rows}: {fixed}");
            shapes.push(fixed);
        }
        shapes.dedup();
        assert_eq!(shapes.len(), 32);
        assert_eq!((fixed_columns(1), fixed_columns(16), fixed_columns(17)), (16, 16, 32));
    }
}
