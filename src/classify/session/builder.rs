//! Session settings and execution providers.

use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider, cuda::AttentionBackend},
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};

use crate::{
    classify::{
        error::one_line,
        options::{ClassifyError, ClassifyOptions, Optimization},
    },
    model::{ModelFolder, Precision, Provider},
};

/// The setting with the names of optimisers to disable. Without its `SkipLayerNormFusion`, ONNX Runtime 1.32 runs
/// dynamically quantised encoders 16 % faster on a CPU, because that fusion prevents others.
const DISABLED_OPTIMIZERS: &str = "optimization.disable_specified_optimizers";

/// Exact products of unsigned and signed bytes. Processors with AVX2 or AVX-512 but without VNNI add pairs of products in
/// saturating 16-bit arithmetic. With this setting, ONNX Runtime uses unsigned bytes for both, which is slower but exact.
/// According to its documentation it does so only on such processors (`onnxruntime_session_options_config_keys.h`), but version
/// 1.32 also does it on those with VNNI and without AMX, where it gives the same scores in twice the time.
const EXACT_BYTE_PRODUCTS: &str = "session.x64quantprecision";

/// Returns a builder with the settings for a folder's model.
pub(super) fn builder(
    environment: &Environment,
    folder: &ModelFolder,
    options: &ClassifyOptions,
) -> Result<SessionBuilder, ClassifyError> {
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
        for (key, value) in int8_settings(has_exact_byte_products()) {
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

/// Returns the conversion of ONNX Runtime's error about a setting.
pub(super) fn refused(setting: &str) -> impl FnOnce(ort::Error<SessionBuilder>) -> ClassifyError {
    let setting = setting.to_owned();
    move |error| ClassifyError::Setting {
        setting,
        reason: one_line(error.message()),
    }
}

/// Returns the session settings of int8 models on a CPU.
fn int8_settings(has_exact_byte_products: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    let unsigned = (!has_exact_byte_products).then_some((EXACT_BYTE_PRODUCTS, "1"));
    [(DISABLED_OPTIMIZERS, "SkipLayerNormFusion")]
        .into_iter()
        .chain(unsigned)
}

/// Whether the processor's products of unsigned and signed bytes are exact.
fn has_exact_byte_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vnni") || std::arch::is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        true
    }
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
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        // The kernels that ONNX Runtime would choose for the lab's graphs at up to 512 tokens, except cuDNN's, which it prefers from
        // compute capability 9.0 on: cuDNN builds a plan for every new shape, and that takes longer than a batch.
        .with_attention_backend(
            AttentionBackend::EFFICIENT_ATTENTION
                | AttentionBackend::TRT_FUSED_ATTENTION
                | AttentionBackend::TRT_FLASH_ATTENTION
                | AttentionBackend::MATH,
        )
        .with_cuda_graph(options.cuda_graphs);
    if options.device_memory_bytes > 0 {
        cuda = cuda.with_memory_limit(options.device_memory_bytes);
    }
    let mut providers = vec![cuda.build().error_on_failure()];
    if provider == Provider::TensorRt {
        let tensorrt = ep::TensorRT::default()
            .with_device_id(options.device_id)
            .with_fp16(true)
            .with_cuda_graph(options.cuda_graphs);
        providers.insert(0, tensorrt.build().error_on_failure());
    }
    builder
        .with_execution_providers(providers)
        .map_err(|error| unavailable(one_line(error.message())))
}

/// Returns the error for a folder's file that can't be loaded, given the message of ONNX Runtime or of the system.
pub(super) fn load_error(folder: &ModelFolder, message: &str) -> ClassifyError {
    let reason = match message.contains("Protobuf parsing failed") || message.contains("No graph was found") {
        true => "it is not an ONNX file, or it is damaged: fetch or export it again".to_owned(),
        false => one_line(message),
    };
    ClassifyError::Load {
        path: folder.weights().file().to_owned(),
        precision: folder.info().precision,
        reason,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn processors_with_vnni_keep_signed_weights() {
        let is_set = |has_exact| int8_settings(has_exact).any(|(key, _)| key == EXACT_BYTE_PRODUCTS);
        assert!(!is_set(true) && is_set(false));
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn byte_products_are_exact_on_processors_with_vnni() {
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap();
        let has_vnni = flags
            .split_whitespace()
            .any(|flag| ["avx512_vnni", "avx_vnni"].contains(&flag));
        assert_eq!(has_exact_byte_products(), has_vnni);
    }
}
