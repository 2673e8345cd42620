//! An ONNX Runtime session as a [`Backend`].

use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider},
    session::{
        Session, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::TensorRef,
};

use super::{
    backend::{Backend, Padded},
    error::{BackendError, one_line},
    graph::{Input, InputTensor, inputs, output},
    options::{ClassifyError, ClassifyOptions, Optimization},
};
use crate::model::{ModelFolder, Precision, Provider};

/// The setting with the names of optimisers to disable. Without its `SkipLayerNormFusion`, ONNX Runtime 1.32 runs
/// dynamically quantised encoders 16 % faster on a CPU, because that fusion prevents others.
const DISABLED_OPTIMIZERS: &str = "optimization.disable_specified_optimizers";

/// Exact products of unsigned and signed bytes. Processors with AVX2 or AVX-512 but without VNNI add pairs of products in
/// saturating 16-bit arithmetic. With this setting, ONNX Runtime uses unsigned bytes for both on such processors, which is
/// slower but exact. It has no effect on other processors (`onnxruntime_session_options_config_keys.h`).
const EXACT_BYTE_PRODUCTS: &str = "session.x64quantprecision";

/// A session with the buffers for a batch.
pub(super) struct OrtSession {
    session: Session,
    inputs: Vec<InputTensor>,
    output: String,
    half: bool,
    labels: usize,
    first_position: i64,
    zeros: Vec<i64>,
    positions: Vec<i64>,
    narrow: Vec<Vec<i32>>,
    /// Whether the graph ends in softmax, so that its outputs are probabilities.
    outputs_are_probabilities: bool,
}

impl OrtSession {
    /// Loads a folder's ONNX file, and checks that its inputs and outputs are those of a sequence classifier.
    pub(super) fn load(
        environment: &Environment,
        folder: &ModelFolder,
        options: &ClassifyOptions,
    ) -> Result<Self, ClassifyError> {
        let file = folder.weights().file();
        let session = builder(environment, folder, options)?
            .commit_from_file(file)
            .map_err(|error| ClassifyError::Load {
                path: file.to_owned(),
                precision: folder.info().precision,
                reason: load_reason(&error.to_string()),
            })?;
        let graph = |fault| ClassifyError::Graph {
            path: file.to_owned(),
            fault,
        };
        let labels = folder.info().labels.len();
        let inputs = inputs(&session).map_err(graph)?;
        let (output, half) = output(&session, labels).map_err(graph)?;
        Ok(Self {
            session,
            inputs,
            output,
            half,
            labels,
            first_position: i64::from(folder.first_position()),
            zeros: Vec::new(),
            positions: Vec::new(),
            narrow: Vec::new(),
            outputs_are_probabilities: false,
        })
    }

    /// From now on reads the outputs as probabilities, converting them to logits with the same softmax.
    pub(super) fn read_outputs_as_probabilities(&mut self) {
        self.outputs_are_probabilities = true;
    }

    fn try_run(&mut self, batch: &Padded, logits: &mut Vec<f32>) -> ort::Result<()> {
        let size = batch.rows * batch.columns;
        let takes = |input| self.inputs.iter().any(|tensor| tensor.input == input);
        if takes(Input::TokenTypes) {
            self.zeros.resize(size, 0);
        }
        if takes(Input::Positions) {
            self.positions.clear();
            for _ in 0..batch.rows {
                self.positions.extend((self.first_position..).take(batch.columns));
            }
        }
        let shape = [batch.rows, batch.columns];
        let mut values: Vec<SessionInputValue<'_>> = Vec::with_capacity(self.inputs.len());
        self.narrow.resize_with(self.inputs.len(), Vec::new);
        for (tensor, narrow) in self.inputs.iter().zip(&mut self.narrow) {
            let data: &[i64] = match tensor.input {
                Input::Ids => &batch.ids,
                Input::Mask => &batch.mask,
                Input::TokenTypes => &self.zeros[..size],
                Input::Positions => &self.positions,
            };
            if tensor.is_i32 {
                narrow.clear();
                // Ids and positions are far below 2³¹.
                narrow.extend(data.iter().map(|&value| i32::try_from(value).unwrap_or(0)));
                values.push(TensorRef::from_array_view((shape, narrow.as_slice()))?.into());
            } else {
                values.push(TensorRef::from_array_view((shape, data))?.into());
            }
        }
        let outputs = self.session.run(&values[..])?;
        let output = outputs
            .get(&self.output)
            .ok_or_else(|| ort::Error::new(format!("it has no output {:?}", self.output)))?;
        let shape = if self.half {
            let (shape, data) = output.try_extract_tensor::<half::f16>()?;
            logits.extend(data.iter().map(|&logit| f32::from(logit)));
            shape
        } else {
            let (shape, data) = output.try_extract_tensor::<f32>()?;
            logits.extend_from_slice(data);
            shape
        };
        if shape[..] != [batch.rows as i64, self.labels as i64] {
            return Err(ort::Error::new(format!(
                "the output {:?} has the shape {:?}, but {} texts and {} labels need [{}, {}]",
                self.output,
                &shape[..],
                batch.rows,
                self.labels,
                batch.rows,
                self.labels
            )));
        }
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
}

fn builder(
    environment: &Environment,
    folder: &ModelFolder,
    options: &ClassifyOptions,
) -> Result<SessionBuilder, ClassifyError> {
    let refused = |setting: &str| {
        let setting = setting.to_owned();
        move |error: ort::Error<SessionBuilder>| ClassifyError::Setting {
            setting,
            reason: one_line(error.message()),
        }
    };
    let level = match options.optimization {
        Optimization::None => GraphOptimizationLevel::Disable,
        Optimization::Basic => GraphOptimizationLevel::Level1,
        Optimization::Extended => GraphOptimizationLevel::Level2,
        Optimization::All => GraphOptimizationLevel::All,
    };
    let mut builder = Session::builder(environment)
        .map_err(|error| ClassifyError::Setting {
            setting: "a new session".to_owned(),
            reason: one_line(error.message()),
        })?
        .with_optimization_level(level)
        .map_err(refused("optimization"))?
        .with_intra_threads(options.intra_threads)
        .map_err(refused("intra_threads"))?
        .with_inter_threads(1)
        .map_err(refused("inter_threads"))?
        // Memory patterns apply to a single shape, but shapes vary from batch to batch.
        .with_memory_pattern(false)
        .map_err(refused("memory_pattern"))?;
    let info = folder.info();
    if info.provider == Provider::Cpu && info.precision == Precision::Int8 {
        for (key, value) in [(DISABLED_OPTIMIZERS, "SkipLayerNormFusion"), (EXACT_BYTE_PRODUCTS, "1")] {
            if !options.session_config.contains_key(key) {
                builder = builder.with_config_entry(key, value).map_err(refused(key))?;
            }
        }
    }
    for (key, value) in &options.session_config {
        builder = builder
            .with_config_entry(key, value)
            .map_err(refused(&format!("session_config {key:?}")))?;
    }
    if info.provider.is_gpu() && options.all_nodes_on_device {
        builder = builder
            .with_disable_cpu_fallback()
            .map_err(refused("all_nodes_on_device"))?;
    }
    register(builder, info.provider, options)
}

/// Registers the requested provider, or returns why it is not available.
fn register(
    builder: SessionBuilder,
    provider: Provider,
    options: &ClassifyOptions,
) -> Result<SessionBuilder, ClassifyError> {
    if provider == Provider::Cpu {
        return Ok(builder);
    }
    let unavailable = |reason: String| ClassifyError::Provider { provider, reason };
    let built_in = match provider {
        Provider::TensorRt => ep::TensorRT::is_available(),
        Provider::Cuda | Provider::Cpu => ep::CUDA::is_available(),
    };
    if !built_in.map_err(|error| unavailable(one_line(error.message())))? {
        return Err(unavailable("this ONNX Runtime library was built without it".to_owned()));
    }
    let mut cuda = ep::CUDA::default()
        .with_device_id(options.device_id)
        // Shapes vary from batch to batch. The default strategy, doubling, would take the whole device.
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
    if options.device_memory_bytes > 0 {
        cuda = cuda.with_memory_limit(options.device_memory_bytes);
    }
    let mut providers = vec![cuda.build().error_on_failure()];
    if provider == Provider::TensorRt {
        let tensorrt = ep::TensorRT::default()
            .with_device_id(options.device_id)
            .with_fp16(true);
        providers.insert(0, tensorrt.build().error_on_failure());
    }
    builder
        .with_execution_providers(providers)
        .map_err(|error| unavailable(one_line(error.message())))
}

/// Returns why a file can't be loaded, given ONNX Runtime's message.
fn load_reason(message: &str) -> String {
    match message.contains("Protobuf parsing failed") || message.contains("No graph was found") {
        true => "it is not an ONNX file, or it is damaged: fetch or export it again".to_owned(),
        false => one_line(message),
    }
}
