//! Loads a model's sessions, which share its weights on a CPU.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::PathBuf, thread};

use moodstream_kernels::is_vectorised;
use ort::{
    environment::Environment,
    ep,
    logging::LogLevel,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};
use tempfile::TempDir;

use super::{
    OrtSession,
    builder::{builder, load_error, refused},
};
use crate::{
    classify::{
        error::{GraphError, one_line},
        fused::{domain, fuse},
        graph_error,
        options::{ClassifyError, ClassifyOptions, Optimization},
        runtime::environment,
    },
    model::{ModelFolder, Precision, Provider},
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
            .map(|_| scope.spawn(|| OrtSession::load(&environment, folder, options, &graph)))
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

/// Loads the first session, from a shared graph if there will be several on a CPU. Returns the graph for the others.
fn load_first(
    environment: &Environment,
    folder: &ModelFolder,
    options: &ClassifyOptions,
) -> Result<(OrtSession, Graph), ClassifyError> {
    let graph = Graph::read(folder, options)?;
    if options.sessions >= 2 && !folder.info().provider.is_gpu() {
        let shared = private_folder()
            .map_err(|error| format!("no temporary folder: {error}"))
            .and_then(|into| {
                load_shared(environment, folder, options, &graph, into).map_err(|error| error.to_string())
            });
        match shared {
            Ok(shared) => return Ok(shared),
            Err(reason) => {
                let alone = load_alone(environment, folder, options, graph)?;
                tracing::warn!(reason, "sessions can't share the weights, so each keeps its own copy");
                return Ok(alone);
            }
        }
    }
    load_alone(environment, folder, options, graph)
}

/// Loads a session with its own weights, without fused operators if ONNX Runtime refuses the graph with them.
fn load_alone(
    environment: &Environment,
    folder: &ModelFolder,
    options: &ClassifyOptions,
    graph: Graph,
) -> Result<(OrtSession, Graph), ClassifyError> {
    match OrtSession::load(environment, folder, options, &graph) {
        Err(error) if graph.has_fused_operators => {
            let plain = Graph::plain(folder);
            let session = OrtSession::load(environment, folder, options, &plain)?;
            tracing::warn!(%error, "the graph can't be loaded with fused operators, so it runs without them");
            Ok((session, plain))
        }
        loaded => Ok((loaded?, graph)),
    }
}

/// Creates a temporary folder that only this user can read: a graph is as dangerous as code, and models may be private.
fn private_folder() -> io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("moodstream-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
}

fn load_shared(
    environment: &Environment,
    folder: &ModelFolder,
    options: &ClassifyOptions,
    graph: &Graph,
    into: TempDir,
) -> Result<(OrtSession, Graph), ClassifyError> {
    // In a thread of its own: its malloc arena is empty afterwards, so its pages are returned to the system.
    let shared = thread::scope(|scope| {
        let write = scope.spawn(|| graph.write_shared(environment, folder, options, into));
        write
            .join()
            .unwrap_or_else(|_| Err(graph_error(folder, GraphError::Panic)))
    })?;
    let session = OrtSession::load(environment, folder, options, &shared)?;
    Ok((session, shared))
}

/// The graph that sessions run.
pub(super) struct Graph {
    place: Place,
    has_fused_operators: bool,
}

enum Place {
    /// The folder's file.
    File(PathBuf),
    /// The bytes of an ONNX file.
    Memory(Vec<u8>),
    /// An optimised graph in a temporary folder, next to a file of its weights. Sessions map that file into memory, so a weight
    /// is in memory only once, and stays there when the folder is deleted.
    Shared(TempDir),
}

impl Graph {
    /// Returns the folder's graph, with fused operators if it can have them and is faster with them here.
    fn read(folder: &ModelFolder, options: &ClassifyOptions) -> Result<Self, ClassifyError> {
        let (file, info) = (folder.weights().file(), folder.info());
        let may_be_fused = options.fused_operators
            && options.optimization == Optimization::All
            && options.intra_threads <= 1
            && info.provider == Provider::Cpu
            && info.precision == Precision::Int8
            && is_vectorised();
        let fused = match may_be_fused {
            true => fuse(fs::read(file).map_err(|error| load_error(folder, &error.to_string()))?),
            false => None,
        };
        Ok(match fused {
            Some(bytes) => Self {
                place: Place::Memory(bytes),
                has_fused_operators: true,
            },
            None => Self::plain(folder),
        })
    }

    /// Returns the folder's graph as it is.
    fn plain(folder: &ModelFolder) -> Self {
        Self {
            place: Place::File(folder.weights().file().to_owned()),
            has_fused_operators: false,
        }
    }

    /// Optimises the graph as the options say, and writes it into a folder.
    fn write_shared(
        &self,
        environment: &Environment,
        folder: &ModelFolder,
        options: &ClassifyOptions,
        into: TempDir,
    ) -> Result<Self, ClassifyError> {
        let mut builder = builder(environment, folder, options)?
            .with_optimized_model_path(shared_file(&into))
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
        self.session(builder)?.map_err(|error| ClassifyError::Setting {
            setting: "to write the optimised graph".to_owned(),
            reason: one_line(error.message()),
        })?;
        Ok(Self {
            place: Place::Shared(into),
            ..*self
        })
    }

    /// Loads the graph. The inner error is about the graph.
    pub(super) fn session(&self, mut builder: SessionBuilder) -> Result<ort::Result<Session>, ClassifyError> {
        if self.has_fused_operators {
            let operators = domain().map_err(|error| ClassifyError::Setting {
                setting: "fused_operators".to_owned(),
                reason: one_line(error.message()),
            })?;
            builder = builder.with_operators(operators).map_err(refused("fused_operators"))?;
        }
        Ok(match &self.place {
            Place::File(file) => builder.commit_from_file(file),
            Place::Memory(bytes) => builder.commit_from_memory(bytes),
            // It is loaded as it is.
            Place::Shared(folder) => builder
                .with_optimization_level(GraphOptimizationLevel::Disable)
                .map_err(refused("optimization"))?
                .commit_from_file(shared_file(folder)),
        })
    }
}

fn shared_file(folder: &TempDir) -> PathBuf {
    folder.path().join("graph.onnx")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;
    use crate::model::ModelOptions;

    #[test]
    fn a_graph_that_is_refused_with_fused_operators_is_loaded_without_them() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-roberta");
        let folder = ModelFolder::open(fixture, &ModelOptions::default()).unwrap();
        let options = ClassifyOptions::default().resolved(Provider::Cpu);
        let refused = Graph {
            place: Place::Memory(b"no ONNX".to_vec()),
            has_fused_operators: true,
        };
        let environment = environment(&options).unwrap();
        let (_, loaded) = load_alone(&environment, &folder, &options, refused).unwrap();
        assert!(!loaded.has_fused_operators);
    }

    #[test]
    fn only_this_user_can_read_the_folder_of_shared_weights() {
        let folder = private_folder().unwrap();
        let mode = fs::metadata(folder.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
