//! An ONNX Runtime session as a [`Backend`].

use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider},
    session::{
        Session, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{TensorElementType, TensorRef, ValueType},
};

use super::{
    backend::{Backend, Padded},
    options::{ClassifyError, ClassifyOptions, Optimization},
};
use crate::model::{ModelFolder, Precision, Provider};

/// Names of optimisers to leave out. Without its `SkipLayerNormFusion` ONNX Runtime 1.32 runs dynamically
/// quantised encoders 16 % faster on the processor: the fused kernel keeps others from fusing.
const DISABLED_OPTIMIZERS: &str = "optimization.disable_specified_optimizers";

/// Exact products of unsigned by signed bytes. Processors with AVX2 or AVX-512 but without VNNI add pairs of them in 16 bits,
/// where they saturate; with this ONNX Runtime computes with unsigned bytes there instead, which is slower and right. On
/// all other processors it has no effect (`onnxruntime_session_options_config_keys.h`).
const EXACT_BYTE_PRODUCTS: &str = "session.x64quantprecision";

/// What the graph takes, in its own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Ids,
    Mask,
    TokenTypes,
    Positions,
}

/// An input of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InputTensor {
    input: Input,
    /// Elements have 32 bits instead of 64, as exporters of TensorFlow and OpenVINO write them.
    is_i32: bool,
}

/// A session and what it needs at hand for a batch.
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
    /// The graph ends in softmax: what it gives are probabilities.
    gives_probabilities: bool,
}

impl OrtSession {
    /// Loads the ONNX file of a folder, and checks that it takes and gives what a sequence classifier does.
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
        let graph = |detail: String| ClassifyError::Graph {
            path: file.to_owned(),
            detail,
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
            gives_probabilities: false,
        })
    }

    /// Takes what the graph gives for probabilities from now on, and turns them into logits with the same softmax.
    pub(super) fn take_for_probabilities(&mut self) {
        self.gives_probabilities = true;
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
            .ok_or_else(|| ort::Error::new(format!("it gave no output {:?}", self.output)))?;
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
        if self.gives_probabilities {
            for value in logits.iter_mut() {
                *value = value.max(f32::MIN_POSITIVE).ln();
            }
        }
        Ok(())
    }
}

impl Backend for OrtSession {
    fn run(&mut self, batch: &Padded, logits: &mut Vec<f32>) -> Result<(), String> {
        self.try_run(batch, logits)
            .map_err(|error| one_line(&error.to_string()))
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
        // A memory plan is made for one shape, and here each batch has its own.
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

/// Registers the provider asked for, or says why it can't be had.
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
        // Shapes change from batch to batch: doubling at each new one would take the whole device.
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

fn inputs(session: &Session) -> Result<Vec<InputTensor>, String> {
    let mut inputs = Vec::new();
    for outlet in session.inputs() {
        let input = match outlet.name() {
            "input_ids" => Input::Ids,
            "attention_mask" => Input::Mask,
            "token_type_ids" => Input::TokenTypes,
            "position_ids" => Input::Positions,
            other => {
                return Err(format!(
                    "the graph takes an input {other:?}; an encoder takes input_ids, attention_mask and perhaps token_type_ids and position_ids: export it for text-classification"
                ));
            }
        };
        match outlet.dtype() {
            ValueType::Tensor {
                ty: ty @ (TensorElementType::Int64 | TensorElementType::Int32),
                ..
            } => inputs.push(InputTensor {
                input,
                is_i32: *ty == TensorElementType::Int32,
            }),
            other => {
                return Err(format!(
                    "the input {:?} is {other}, not a tensor of int64 or int32: export it again",
                    outlet.name()
                ));
            }
        }
    }
    for (input, name) in [(Input::Ids, "input_ids"), (Input::Mask, "attention_mask")] {
        if !inputs.iter().any(|tensor| tensor.input == input) {
            return Err(format!(
                "the graph has no input {name:?}: export it for text-classification"
            ));
        }
    }
    Ok(inputs)
}

/// The output's name, and whether it is fp16.
fn output(session: &Session, labels: usize) -> Result<(String, bool), String> {
    let outputs = session.outputs();
    let outlet = match outputs {
        [only] => only,
        several => several.iter().find(|outlet| outlet.name() == "logits").ok_or_else(|| {
            let names: Vec<&str> = several.iter().map(ort::value::Outlet::name).collect();
            format!(
                "none of the graph's outputs ({}) is called \"logits\": export it for text-classification",
                names.join(", ")
            )
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
        other => return Err(format!("the output {name:?} is {other}, not a tensor of floats")),
    };
    match shape[..] {
        [] => Ok((name.to_owned(), half)),
        [_, last] if last < 0 || last == labels as i64 => Ok((name.to_owned(), half)),
        [_, last] => Err(format!(
            "the output {name:?} has {last} logits a text, but id2label in config.json names {labels} labels"
        )),
        ref other => Err(format!(
            "the output {name:?} has the shape {other:?}, not [texts, labels]: export it for text-classification"
        )),
    }
}

/// Why a file can't be loaded.
fn load_reason(message: &str) -> String {
    match message.contains("Protobuf parsing failed") || message.contains("No graph was found") {
        true => "it is no ONNX file, or a damaged one: fetch or export it again".to_owned(),
        false => one_line(message),
    }
}

/// ONNX Runtime's messages run over lines and pages.
fn one_line(message: &str) -> String {
    const MOST: usize = 400;
    let mut line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MOST {
        line.truncate(line.floor_char_boundary(MOST));
        line.push_str(" ...");
    }
    line
}
