//! Finds the ONNX Runtime library and loads it once.

use std::{
    env,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
};

use ort::{environment::Environment, logging::LogLevel};

use super::{
    error::LibraryError,
    options::{ClassifyError, ClassifyOptions},
};
use crate::{sync::lock, telemetry::log_limiter::LogLimiter};

/// The loaded library. It is never unloaded.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// Loads ONNX Runtime, or returns the environment if it is already loaded. A process can have only one environment, so code that
/// runs its own sessions next to a classifier gets it from here.
///
/// # Errors
/// Returns an error if the library can't be loaded, or a different one is already loaded.
pub fn environment(options: &ClassifyOptions) -> Result<Environment, ClassifyError> {
    let asked = library_path(options);
    // The loader resolves a relative path against the executable's folder, and searches the providers' libraries next to
    // the file itself rather than next to a symlink.
    let path = asked.canonicalize().map_err(|error| ClassifyError::Library {
        path: asked,
        error: LibraryError::Path(error),
    })?;
    let mut loaded = lock(&LOADED);
    if let Some((loaded, environment)) = &*loaded {
        if *loaded != path {
            return Err(ClassifyError::SecondLibrary {
                loaded: loaded.clone(),
                asked: path,
            });
        }
        return Ok(environment.clone());
    }
    let environment = load(&path).map_err(|error| ClassifyError::Library {
        path: path.clone(),
        error,
    })?;
    *loaded = Some((path, environment.clone()));
    Ok(environment)
}

fn load(path: &Path) -> Result<Environment, LibraryError> {
    ort::init_from(path)
        .map_err(LibraryError::Load)?
        .with_name("moodstream")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, _, id, location, message| {
            log(level, id, location, message);
        }))
        .build()
        .map_err(LibraryError::Environment)
}

/// Forwards ONNX Runtime's log messages. One poisoned text can make several batches fail, each with a message, so warnings
/// and errors are rate limited per code location.
fn log(level: LogLevel, id: &str, location: &str, message: &str) {
    static LIMITER: LazyLock<LogLimiter> = LazyLock::new(LogLimiter::default);
    match level {
        LogLevel::Verbose => tracing::trace!(target: "ort", id, location, "{message}"),
        LogLevel::Info => tracing::info!(target: "ort", id, location, "{message}"),
        LogLevel::Warning => {
            if let Some(more) = LIMITER.allow(location) {
                tracing::warn!(target: "ort", id, location, more, "{message}");
            }
        }
        LogLevel::Error | LogLevel::Fatal => {
            if let Some(more) = LIMITER.allow(location) {
                tracing::error!(target: "ort", id, location, more, "{message}");
            }
        }
    }
}

fn library_path(options: &ClassifyOptions) -> PathBuf {
    if let Some(path) = &options.onnxruntime {
        return path.clone();
    }
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let runtime = env::var_os("MOODSTREAM_RUNTIME").filter(|path| !path.is_empty());
    runtime
        .map_or_else(|| PathBuf::from(".runtime"), PathBuf::from)
        .join("lib")
        .join("libonnxruntime.so")
}
