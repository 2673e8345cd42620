//! Loads a model's sessions, which share its weights on a CPU.

use std::{path::PathBuf, thread};

use ort::{
    environment::Environment,
    ep,
    logging::LogLevel,
    session::builder::{GraphOptimizationLevel, SessionBuilder},
};
use tempfile::TempDir;

use super::{
    OrtSession,
    builder::{builder, refused},
};
use crate::{
    classify::{
        error::{GraphError, one_line},
        graph_error,
        options::{ClassifyError, ClassifyOptions},
        runtime::environment,
    },
    model::ModelFolder,
};

/// The setting with the name of the file with the optimised graph's weights, relative to the graph.
const WEIGHTS_FILE: &str = "session.optimized_model_external_initializers_file_name";

/// The setting that also writes the weights that the kernels have repacked for their products.
const WITH_REPACKED: &str = "session.save_external_prepacked_constant_initializers";

/// Loads as many sessions as the resolved options specify.
pub(in crate::classify) fn load_sessions(
    folder: &ModelFolder,
    options: &ClassifyOptions,
) -> Result<Vec<OrtSession>, ClassifyError> {
    let environment = environment(options)?;
    // The first one is loaded alone, so that a faulty model is reported once. The others load in parallel.
    let (first, graph) = load_first(&environment, folder, options)?;
    let mut sessions = vec![first];
    let rest: Vec<Result<OrtSession, ClassifyError>> = thread::scope(|scope| {
        let loads: Vec<_> = (1..options.sessions)
            .map(|_| scope.spawn(|| OrtSession::load(&environment, folder, options, graph.as_ref())))
            .collect();
        loads
            .into_iter()
            .map(|load| {
                load.join()
                    .unwrap_or_else(|_| Err(graph_error(folder, GraphError::Panic)))
            })
            .collect()
    });
    for session in rest {
        sessions.push(session?);
    }
    Ok(sessions)
}

/// Loads the first session, from a shared graph if there will be several on a CPU.
fn load_first(
    environment: &Environment,
    folder: &ModelFolder,
    options: &ClassifyOptions,
) -> Result<(OrtSession, Option<SharedGraph>), ClassifyError> {
    let load_alone = || OrtSession::load(environment, folder, options, None);
    if options.sessions < 2 || folder.info().provider.is_gpu() {
        return Ok((load_alone()?, None));
    }
    let shared = tempfile::tempdir()
        .map_err(|error| format!("no temporary folder: {error}"))
        .and_then(|into| load_shared(environment, folder, options, into).map_err(|error| error.to_string()));
    match shared {
        Ok((first, graph)) => Ok((first, Some(graph))),
        Err(reason) => {
            let first = load_alone()?;
            tracing::warn!(reason, "sessions can't share the weights, so each keeps its own copy");
            Ok((first, None))
        }
    }
}

fn load_shared(
    environment: &Environment,
    folder: &ModelFolder,
    options: &ClassifyOptions,
    into: TempDir,
) -> Result<(OrtSession, SharedGraph), ClassifyError> {
    // In a thread of its own, whose heap is returned to the system when it has ended.
    let graph = thread::scope(|scope| {
        let write = scope.spawn(|| SharedGraph::write(environment, folder, options, into));
        write
            .join()
            .unwrap_or_else(|_| Err(graph_error(folder, GraphError::Panic)))
    })?;
    let session = OrtSession::load(environment, folder, options, Some(&graph))?;
    Ok((session, graph))
}

/// A model's optimised graph in a temporary folder, next to a file of its weights. Sessions map that file into memory, so a
/// weight is in memory only once, and stays there when the folder is deleted.
pub(super) struct SharedGraph {
    folder: TempDir,
}

impl SharedGraph {
    /// Optimises the graph as the options say, and writes it.
    fn write(
        environment: &Environment,
        folder: &ModelFolder,
        options: &ClassifyOptions,
        into: TempDir,
    ) -> Result<Self, ClassifyError> {
        let graph = Self { folder: into };
        let mut builder = builder(environment, folder, options)?
            .with_optimized_model_path(graph.file())
            .map_err(refused("an optimised model's path"))?
            // It would warn that the graph is only for this processor.
            .with_log_level(LogLevel::Error)
            .map_err(refused("a log level"))?
            // Otherwise the freed memory would remain in the heap, in pieces of the arena's size.
            .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])
            .map_err(refused("no arena"))?;
        for (key, value) in [(WEIGHTS_FILE, "weights"), (WITH_REPACKED, "1")] {
            builder = builder.with_config_entry(key, value).map_err(refused(key))?;
        }
        builder
            .commit_from_file(folder.weights().file())
            .map_err(|error| ClassifyError::Setting {
                setting: "to write the optimised graph".to_owned(),
                reason: one_line(error.message()),
            })?;
        Ok(graph)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("graph.onnx")
    }

    /// Makes a builder load the graph as it is.
    pub(super) fn unchanged(builder: SessionBuilder) -> Result<SessionBuilder, ClassifyError> {
        builder
            .with_optimization_level(GraphOptimizationLevel::Disable)
            .map_err(refused("optimization"))
    }
}
