//! Tokenisation, micro-batching, inference by ONNX sessions or a linear model, and decoding.
//!
//! ```text
//! classify() ─▶ tokenizer thread ──────────────────▶ queue of batches ─▶ one thread per session
//!               cache, equal texts, tokens, batching                     inference, decoding
//!     ▲                                                                       │
//!     └──────────── cache: the windows waiting for a text ◀───────────────────┘
//! ```
//!
//! A window is one call of [`Classifier::classify`]. Windows and their batches are processed in
//! order, so the first window completes first. A window's texts are sorted by token count before they are
//! divided into batches, because a batch is padded to its longest text. While the sessions process one
//! window, the next one is tokenised.

mod backend;
pub mod batching;
mod cache;
mod error;
mod fault;
mod fused;
mod graph;
mod linear;
mod options;
mod prepared_batches;
mod probe;
mod queue;
mod runtime;
mod session;
mod session_thread;
mod stats;
#[cfg(test)]
mod tests;
mod tokenizer_thread;
mod workload;

use std::{
    fmt,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use tokio::sync::Semaphore;

use self::{
    backend::{Backend, Constant},
    batching::BatchLimits,
    cache::{Answers, PredictionCache},
    linear::LinearBackend,
    queue::Queue,
    session::{FIXED_COLUMNS, OrtSession, load_sessions},
    session_thread::{Buffers, SessionThread},
    tokenizer_thread::{Batch, Job, TokenizerThread},
    workload::{WorkUnit, Workload},
};
pub use self::{
    error::{BackendError, BatchError, GraphError, LibraryError},
    fault::ModelFault,
    options::{ClassifyError, ClassifyOptions, Optimization},
    prepared_batches::{Order, PreparedBatches, PreparedRun},
    runtime::environment,
    stats::Stats,
};
use crate::model::{ModelFolder, ModelInfo, Prediction, Provider, Weights};

/// The fixed cost of a batch, in tokens. The figure for CPUs comes from `benches/classify.rs`, where batches of 1, 2 and 4
/// posts take longer by the equivalent of 15 to 27 tokens per batch. The one for GPUs is an estimate: some thousand tokens
/// are needed to saturate a GPU.
const fn overhead_tokens(provider: Provider) -> usize {
    match provider {
        Provider::Cpu => 16,
        Provider::Cuda | Provider::TensorRt => 512,
    }
}

/// Predicts the emotions of texts. Dropping it ends its threads and abandons texts still in flight.
pub struct Classifier {
    info: ModelInfo,
    engine: Engine,
}

enum Engine {
    /// Returns the same prediction for every text.
    Constant(Prediction),
    Running(Running),
}

struct Running {
    cache: Arc<PredictionCache>,
    queue: Arc<Queue<Batch>>,
    sessions: usize,
    workload: Workload,
    windows: Arc<Semaphore>,
    /// `None` only while the classifier is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// A session reserved for a window: it no longer counts as idle.
#[derive(Debug)]
pub struct Reservation(Option<WorkUnit>);

impl Classifier {
    /// Loads the model into its sessions, and runs a first text through each.
    ///
    /// Blocks while loading, for about a second. Don't call it on an async thread.
    ///
    /// # Errors
    /// Returns an error if the ONNX Runtime library, the provider or the model can't be used. An unavailable provider is
    /// never replaced by another one. A linear model needs no library.
    pub fn start(folder: &ModelFolder, options: &ClassifyOptions) -> Result<Self, ClassifyError> {
        let options = options.resolved(folder.info().provider);
        let (classifier, options) = match folder.weights() {
            Weights::Onnx(_) => {
                let (sessions, options) = fit_to_model(load_sessions(folder, &options)?, folder, options)?;
                (Self::with_backends(folder, &options, sessions)?, options)
            }
            Weights::Linear(model, _) => {
                let backend = |_| LinearBackend::new(Arc::clone(model));
                let backends = (0..options.sessions).map(backend).collect();
                (Self::with_backends(folder, &options, backends)?, options)
            }
        };
        tracing::info!(
            model = %folder.info().id,
            provider = %folder.info().provider,
            sessions = options.sessions,
            intra_threads = options.intra_threads,
            max_batch_posts = options.max_batch_posts,
            max_batch_tokens = options.max_batch_tokens,
            "classifier started"
        );
        Ok(classifier)
    }

    /// Like [`Classifier::start`] but without the model: texts are tokenised, batched and decoded, and all logits are
    /// zero. Used to measure everything except inference.
    ///
    /// # Errors
    /// Returns an error if the batch limits are too small or a thread can't be started.
    pub fn start_without_inference(folder: &ModelFolder, options: &ClassifyOptions) -> Result<Self, ClassifyError> {
        let options = options.resolved(folder.info().provider);
        let labels = folder.info().labels.len();
        let sessions = (0..options.sessions).map(|_| Constant { labels }).collect();
        Self::with_backends(folder, &options, sessions)
    }

    /// Returns the first label with the score 1 for every text. Used in tests and to measure other stages.
    #[must_use]
    pub fn constant(info: ModelInfo) -> Self {
        let scores: Arc<[f64]> = (0..info.labels.len())
            .map(|label| if label == 0 { 1.0 } else { 0.0 })
            .collect();
        let emotion = info.labels.first().cloned().unwrap_or_else(|| "none".into());
        Self {
            info,
            engine: Engine::Constant(Prediction {
                emotion,
                score: 1.0,
                scores,
            }),
        }
    }

    fn with_backends<B: Backend + 'static>(
        folder: &ModelFolder,
        options: &ClassifyOptions,
        backends: Vec<B>,
    ) -> Result<Self, ClassifyError> {
        let info = folder.info().clone();
        let limits = limits(folder, options)?;
        let probe = folder
            .tokenizer()
            .encode("good morning")
            .map_err(|error| graph_error(folder, GraphError::Tokenizer(error)))?;
        let cache = Arc::new(PredictionCache::new(options.cache_entries));
        let queue = Arc::new(Queue::new());
        let (jobs, incoming) = mpsc::channel();
        let mut running = Running {
            cache: Arc::clone(&cache),
            queue: Arc::clone(&queue),
            sessions: backends.len(),
            workload: Workload::new(),
            windows: Arc::new(Semaphore::new(options.max_windows)),
            jobs: Some(jobs),
            threads: Vec::with_capacity(backends.len() + 1),
        };
        let tokenizer_thread = TokenizerThread {
            cache: Arc::clone(&cache),
            queue: Arc::clone(&queue),
            tokenizer: folder.tokenizer().clone(),
            limits,
        };
        running.spawn("tokenizer", move || tokenizer_thread.run(&incoming))?;
        let mut session_threads = Vec::with_capacity(backends.len());
        for backend in backends {
            let mut session_thread = SessionThread {
                backend,
                cache: Arc::clone(&cache),
                queue: Arc::clone(&queue),
                postprocessor: folder.postprocessor().clone(),
                limits,
                pad_id: folder.pad_id(),
                probe: probe.clone(),
                buffers: Buffers::default(),
            };
            session_thread
                .check()
                .map_err(|error| graph_error(folder, GraphError::Probe(error)))?;
            session_threads.push(session_thread);
        }
        for (number, mut session_thread) in session_threads.into_iter().enumerate() {
            running.spawn(&format!("session-{number}"), move || session_thread.run())?;
        }
        Ok(Self {
            info,
            engine: Engine::Running(running),
        })
    }

    /// The model's metadata.
    #[must_use]
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Returns the totals since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match &self.engine {
            Engine::Constant(_) => Stats::default(),
            Engine::Running(running) => running.cache.counters.snapshot(),
        }
    }

    /// Classifies a window of cleaned texts. Returns one result per text, in the same order.
    ///
    /// Several windows may be in flight. They complete in the order of submission. Beyond
    /// [`ClassifyOptions::max_windows`], the caller waits. If the model fails on a text, only that text gets a fault.
    /// If the classifier stops, every outstanding text gets [`ModelFault::Stopped`], so the future always completes.
    /// Dropping the future is safe: texts already submitted are still classified and cached.
    pub async fn classify(&self, texts: Vec<Arc<str>>) -> Vec<Result<Prediction, ModelFault>> {
        self.classify_reserved(self.reserve_session(), texts).await
    }

    /// Like [`Classifier::classify`], for a window with a reserved session.
    pub async fn classify_reserved(
        &self,
        Reservation(unit): Reservation,
        texts: Vec<Arc<str>>,
    ) -> Vec<Result<Prediction, ModelFault>> {
        match (&self.engine, unit) {
            (Engine::Running(running), Some(unit)) => running.classify(texts, unit).await,
            (Engine::Running(running), None) => running.classify(texts, running.workload.unit()).await,
            (Engine::Constant(prediction), _) => vec![Ok(prediction.clone()); texts.len()],
        }
    }

    /// Completes once a session is idle and not reserved. Waiting for a larger window then gains nothing.
    pub async fn idle(&self) {
        match &self.engine {
            Engine::Constant(_) => {}
            Engine::Running(running) => running.workload.below(running.sessions).await,
        }
    }

    /// Reserves a session for a window that is about to be classified.
    #[must_use]
    pub fn reserve_session(&self) -> Reservation {
        Reservation(match &self.engine {
            Engine::Constant(_) => None,
            Engine::Running(running) => Some(running.workload.unit()),
        })
    }
}

impl Running {
    async fn classify(&self, texts: Vec<Arc<str>>, unit: WorkUnit) -> Vec<Result<Prediction, ModelFault>> {
        let count = texts.len();
        if count == 0 {
            return Vec::new();
        }
        let permit = Arc::clone(&self.windows).acquire_owned().await.ok();
        let (answers, complete) = Answers::new(count, permit);
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(Job { texts, answers, unit }));
        if let Some(Ok(())) = sent
            && let Ok(answers) = complete.await
        {
            return answers;
        }
        let fault = self
            .cache
            .stopped()
            .unwrap_or_else(|| ModelFault::Stopped("its tokenizer thread has ended".into()));
        vec![Err(fault); count]
    }

    /// Starts a thread. If it panics, the classifier stops, and texts in flight are answered with that reason.
    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ClassifyError> {
        struct StopOnPanic(Arc<PredictionCache>, Arc<Queue<Batch>>, String);
        impl Drop for StopOnPanic {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.stop(&format!("its thread {} panicked", self.2));
                    self.1.close();
                }
            }
        }
        let guard = StopOnPanic(Arc::clone(&self.cache), Arc::clone(&self.queue), name.to_owned());
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Moved in, and dropped after `work` has unwound.
                let _guard = guard;
                work();
            })
            .map_err(ClassifyError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.jobs = None;
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A panic was already reported.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classifier")
            .field("model", &self.info.id)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Returns the batch limits, or an error if the longest text exceeds them.
fn limits(folder: &ModelFolder, options: &ClassifyOptions) -> Result<BatchLimits, ClassifyError> {
    let provider = folder.info().provider;
    let mut limits = BatchLimits {
        max_tokens: options.max_batch_tokens,
        max_posts: options.max_batch_posts,
        // A text that runs alone needs no padding, and some models don't accept any.
        multiple_of: match provider.is_gpu() && options.max_batch_posts > 1 {
            true if options.cuda_graphs => FIXED_COLUMNS,
            true => 8,
            false => 1,
        },
        overhead_tokens: overhead_tokens(provider),
    };
    let max_tokens = limits.padded(folder.tokenizer().max_tokens());
    if matches!(folder.weights(), Weights::Linear(..)) {
        // A text has many more n-grams than an encoder has tokens, and each costs less.
        limits.max_tokens = limits.max_tokens.max(max_tokens);
    } else if max_tokens > limits.max_tokens {
        return Err(ClassifyError::BatchTokens {
            max_batch_tokens: limits.max_tokens,
            max_tokens,
        });
    }
    Ok(limits)
}

/// Determines properties of the model, and adapts sessions and batches to them.
fn fit_to_model(
    mut sessions: Vec<OrtSession>,
    folder: &ModelFolder,
    mut options: ClassifyOptions,
) -> Result<(Vec<OrtSession>, ClassifyOptions), ClassifyError> {
    let Some(first) = sessions.first_mut() else {
        return Ok((sessions, options));
    };
    let mut properties = probe::examine(first, folder)?;
    if properties.outputs_are_probabilities {
        tracing::info!("the graph ends in softmax: its outputs are read as probabilities");
        sessions.iter_mut().for_each(OrtSession::read_outputs_as_probabilities);
        if let Some(first) = sessions.first_mut() {
            properties = probe::examine(first, folder)?;
        }
    }
    if properties.depends_on_batch() {
        tracing::warn!(
            difference = properties.max_difference,
            "a text's scores depend on the others in its batch, so texts are run one at a time, which is slower: the graph \
             ignores attention_mask, expects padding on the left, or is dynamically quantised"
        );
        options.max_batch_posts = 1;
    }
    Ok((sessions, options))
}

fn graph_error(folder: &ModelFolder, fault: GraphError) -> ClassifyError {
    ClassifyError::Graph {
        path: folder.weights().file().to_owned(),
        fault,
    }
}
