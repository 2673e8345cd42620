//! Tokenising, micro-batching, ONNX sessions and linear models, decoding.
//!
//! ```text
//! classify() ─▶ tokenizer thread ──────────────────▶ queue of batches ─▶ one thread a session
//!               cache, equal texts, tokens, batching                     inference, decoding
//!     ▲                                                                       │
//!     └──────────── cache: which windows wait for a text ◀────────────────────┘
//! ```
//!
//! A window is one call of [`Classifier::classify`]. Windows and their batches run in
//! order, so the first window is done first. A window's texts are ordered by token count before they are
//! cut into batches, since a batch computes all its texts as if they were as long as the longest. While
//! the sessions compute one window, the next is tokenised.

mod backend;
pub mod batching;
mod cache;
mod fault;
mod linear;
mod options;
mod prepared_batches;
mod probe;
mod queue;
mod runtime;
mod session;
mod stats;
#[cfg(test)]
mod tests;
mod tokenizer_thread;
mod worker;
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
    cache::{PredictionCache, Window},
    linear::LinearBackend,
    queue::Queue,
    session::OrtSession,
    tokenizer_thread::{Batch, Job, TokenizerThread},
    worker::{Buffers, Worker},
    workload::{WorkUnit, Workload},
};
pub use self::{
    fault::ModelFault,
    options::{ClassifyError, ClassifyOptions, Optimization},
    prepared_batches::{Order, PreparedBatches, PreparedRun},
    stats::Stats,
};
use crate::model::{ModelFolder, ModelInfo, Prediction, Provider, Weights};

/// What starting a batch costs, in the time of tokens. On the processor from `benches/classify.rs`, where
/// batches of 1, 2 and 4 posts take as much longer as 15 to 27 tokens a batch would make them; for a GPU,
/// which some thousand tokens must fill before it is busy, an estimate.
const fn overhead_tokens(provider: Provider) -> usize {
    match provider {
        Provider::Cpu => 16,
        Provider::Cuda | Provider::TensorRt => 512,
    }
}

/// Predicts the emotions of texts. Dropping it ends its threads; texts still in flight are abandoned.
pub struct Classifier {
    info: ModelInfo,
    engine: Engine,
}

enum Engine {
    /// The same prediction for all.
    Constant(Prediction),
    Running(Running),
}

struct Running {
    cache: Arc<PredictionCache>,
    queue: Arc<Queue<Batch>>,
    sessions: usize,
    workload: Workload,
    windows: Arc<Semaphore>,
    /// Gone only while the classifier is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// A window on its way to the sessions, for which one of them no longer counts as idle.
#[derive(Debug)]
pub struct Announced(Option<WorkUnit>);

impl Classifier {
    /// Loads the model into its sessions, and runs a first text through each.
    ///
    /// It blocks for as long as loading takes (a second or so): call it off the async threads.
    ///
    /// # Errors
    /// The ONNX Runtime library, the provider or the model can't be used; the message says why. A provider
    /// that can't be had is never replaced by another. A linear model needs no library.
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

    /// Everything of [`Classifier::start`] except the model: texts are tokenised, batched and decoded, and all
    /// logits are zero. For measuring everything but inference.
    ///
    /// # Errors
    /// The batch limits don't fit, or a thread can't be started.
    pub fn start_without_inference(folder: &ModelFolder, options: &ClassifyOptions) -> Result<Self, ClassifyError> {
        let options = options.resolved(folder.info().provider);
        let labels = folder.info().labels.len();
        let sessions = (0..options.sessions).map(|_| Constant { labels }).collect();
        Self::with_backends(folder, &options, sessions)
    }

    /// Gives every text the first label with the score 1, at once. For tests and for measuring other stages.
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
            .map_err(|error| graph_error(folder, error.to_string()))?;
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
        let mut workers = Vec::with_capacity(backends.len());
        for backend in backends {
            let mut worker = Worker {
                backend,
                cache: Arc::clone(&cache),
                queue: Arc::clone(&queue),
                decoder: folder.decoder().clone(),
                limits,
                pad_id: folder.pad_id(),
                probe: probe.clone(),
                buffers: Buffers::default(),
            };
            worker
                .check()
                .map_err(|reason| graph_error(folder, format!("it fails on a plain text: {reason}")))?;
            workers.push(worker);
        }
        for (number, mut worker) in workers.into_iter().enumerate() {
            running.spawn(&format!("session-{number}"), move || worker.run())?;
        }
        Ok(Self {
            info,
            engine: Engine::Running(running),
        })
    }

    /// The model that answers.
    #[must_use]
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Totals since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match &self.engine {
            Engine::Constant(_) => Stats::default(),
            Engine::Running(running) => running.cache.counters.snapshot(),
        }
    }

    /// Classifies a window of cleaned texts: one answer for each text, in their order.
    ///
    /// Several windows may be in flight; they are done in the order they were submitted, and beyond
    /// [`ClassifyOptions::max_windows`] the caller waits. A text on which the model fails gets the fault
    /// alone, the others are classified. It never hangs: should the classifier stop, every open answer is
    /// [`ModelFault::Stopped`]. Dropping the future is safe: work already handed over goes on to the cache.
    pub async fn classify(&self, texts: Vec<Arc<str>>) -> Vec<Result<Prediction, ModelFault>> {
        self.classify_announced(self.announce(), texts).await
    }

    /// The same for a window that was announced.
    pub async fn classify_announced(
        &self,
        Announced(unit): Announced,
        texts: Vec<Arc<str>>,
    ) -> Vec<Result<Prediction, ModelFault>> {
        match (&self.engine, unit) {
            (Engine::Running(running), Some(unit)) => running.classify(texts, unit).await,
            (Engine::Running(running), None) => running.classify(texts, running.workload.unit()).await,
            (Engine::Constant(prediction), _) => vec![Ok(prediction.clone()); texts.len()],
        }
    }

    /// Resolves once a session has nothing to do and nothing on its way: then there is nothing to gain by waiting for a
    /// larger window.
    pub async fn idle(&self) {
        match &self.engine {
            Engine::Constant(_) => {}
            Engine::Running(running) => running.workload.below(running.sessions).await,
        }
    }

    /// Takes a session for a window that is classified in a moment.
    #[must_use]
    pub fn announce(&self) -> Announced {
        Announced(match &self.engine {
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
        let (window, answers) = Window::new(count, permit);
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(Job { texts, window, unit }));
        if let Some(Ok(())) = sent
            && let Ok(answers) = answers.await
        {
            return answers;
        }
        let fault = self
            .cache
            .stopped()
            .unwrap_or_else(|| ModelFault::Stopped("its tokenizer thread has ended".into()));
        vec![Err(fault); count]
    }

    /// Starts a thread. If it panics, the classifier stops and answers what is in flight with that.
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
                // Moved in, and dropped after the work's own unwinding.
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
            // A panic was reported when it happened.
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

/// The limits on batches, if the longest text fits them.
fn limits(folder: &ModelFolder, options: &ClassifyOptions) -> Result<BatchLimits, ClassifyError> {
    let provider = folder.info().provider;
    let mut limits = BatchLimits {
        max_tokens: options.max_batch_tokens,
        max_posts: options.max_batch_posts,
        // A text that runs alone needs no padding, and some models take none.
        multiple_of: if provider.is_gpu() && options.max_batch_posts > 1 {
            8
        } else {
            1
        },
        overhead_tokens: overhead_tokens(provider),
    };
    let max_tokens = limits.padded(folder.tokenizer().max_tokens());
    if matches!(folder.weights(), Weights::Linear(..)) {
        // A text's n-grams are many more than an encoder's tokens, and cost less.
        limits.max_tokens = limits.max_tokens.max(max_tokens);
    } else if max_tokens > limits.max_tokens {
        return Err(ClassifyError::BatchTokens {
            max_batch_tokens: limits.max_tokens,
            max_tokens,
        });
    }
    Ok(limits)
}

/// As many sessions as the options, resolved, ask for.
fn load_sessions(folder: &ModelFolder, options: &ClassifyOptions) -> Result<Vec<OrtSession>, ClassifyError> {
    let environment = runtime::environment(options)?;
    // The first one alone, so that a fault of the model is found once; then the others in parallel.
    let mut sessions = vec![OrtSession::load(&environment, folder, options)?];
    let rest: Vec<Result<OrtSession, ClassifyError>> = thread::scope(|scope| {
        let loads: Vec<_> = (1..options.sessions)
            .map(|_| scope.spawn(|| OrtSession::load(&environment, folder, options)))
            .collect();
        loads
            .into_iter()
            .map(|load| {
                load.join()
                    .unwrap_or_else(|_| Err(graph_error(folder, "loading it panics".to_owned())))
            })
            .collect()
    });
    for session in rest {
        sessions.push(session?);
    }
    Ok(sessions)
}

/// Finds out what the model is like, and adapts sessions and batches to it.
fn fit_to_model(
    mut sessions: Vec<OrtSession>,
    folder: &ModelFolder,
    mut options: ClassifyOptions,
) -> Result<(Vec<OrtSession>, ClassifyOptions), ClassifyError> {
    let Some(first) = sessions.first_mut() else {
        return Ok((sessions, options));
    };
    let mut nature = probe::nature(first, folder)?;
    if nature.gives_probabilities {
        tracing::info!("the graph ends in softmax: its outputs are taken for probabilities");
        sessions.iter_mut().for_each(OrtSession::take_for_probabilities);
        if let Some(first) = sessions.first_mut() {
            nature = probe::nature(first, folder)?;
        }
    }
    if nature.depends_on_neighbours() {
        tracing::warn!(
            difference = nature.neighbours,
            "a text's scores depend on the others in its batch, so texts are run one by one, which is slower: the graph \
             ignores attention_mask, expects padding on the left, or is quantised dynamically"
        );
        options.max_batch_posts = 1;
    }
    Ok((sessions, options))
}

fn graph_error(folder: &ModelFolder, detail: String) -> ClassifyError {
    ClassifyError::Graph {
        path: folder.weights().file().to_owned(),
        detail,
    }
}
