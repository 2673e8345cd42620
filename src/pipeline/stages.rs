//! The stages as tasks: started together, and ended in order.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinError, JoinHandle},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    commit::{self, Committer},
    decode::Decoder,
    group_offsets::GroupOffsets,
    maintenance, preflight, readiness, schema,
    summary::Totals,
    window,
};
use crate::{
    classify::Classifier,
    config::Settings,
    kafka::{Consumer, DeadLetters, KafkaError},
    model::ModelFolder,
    store::Store,
    telemetry::health::Health,
};

/// The running stages.
pub(super) struct Stages {
    pub(super) consumer: Arc<Consumer>,
    gathering: JoinHandle<anyhow::Result<()>>,
    pub(super) committing: JoinHandle<anyhow::Result<()>>,
    /// Tasks that end with the stages: readiness, maintenance, preflight checks and the schema watch.
    background: Vec<JoinHandle<()>>,
    /// Makes the committer give up uncommitted records.
    abandon: CancellationToken,
    pub(super) totals: watch::Receiver<Totals>,
    first_record: Arc<OnceLock<Instant>>,
    /// Resolves after the first maintenance.
    pub(super) first_maintenance: Option<oneshot::Receiver<()>>,
}

impl Stages {
    pub(super) fn start(
        settings: &Settings,
        folder: &ModelFolder,
        store: &Store,
        group: &Arc<str>,
        decoder: Decoder,
        classifier: &Arc<Classifier>,
        health: &Health,
    ) -> anyhow::Result<Self> {
        let offsets = Arc::new(GroupOffsets {
            store: store.clone(),
            group: Arc::clone(group),
        });
        let (consumer, records) = Consumer::start(&settings.kafka, offsets)?;
        let consumer = Arc::new(consumer);
        let assignment = consumer.assignment();
        let dead_letters = settings
            .dead_letter
            .enabled
            .then(|| DeadLetters::new(&settings.kafka))
            .transpose()?;
        // Every window has at least one record in flight, so the channel is never full.
        let (windows, pending) = mpsc::channel(settings.kafka.max_in_flight_records);
        let (committed, totals) = watch::channel(Totals::default());
        let first_record = Arc::new(OnceLock::new());
        let gathering = tokio::spawn(window::gather(
            records,
            Arc::new(decoder),
            Arc::clone(classifier),
            settings.model.unsupported_languages,
            settings.window.clone(),
            windows,
            Arc::clone(&first_record),
        ));
        let abandon = CancellationToken::new();
        let committer = Committer {
            store: store.clone(),
            consumer: Arc::clone(&consumer),
            assignment: assignment.clone(),
            dead_letters,
            dead_letters_of_tombstones: settings.dead_letter.tombstones,
            group: Arc::clone(group),
            model: Arc::new(folder.info().clone()),
            max_flush_records: settings.store.max_flush_records,
            health: health.clone(),
            abandon: abandon.clone(),
            totals: committed,
            positions: commit::Positions::default(),
        };
        let (maintained, first_maintenance) = oneshot::channel();
        let background = vec![
            tokio::spawn(readiness::report(assignment, health.clone())),
            tokio::spawn(maintenance::run(store.clone(), settings.store.clone(), maintained)),
            tokio::spawn(preflight::warn(settings.clone(), store.clone(), health.clone())),
            tokio::spawn(schema::watch(store.clone(), health.clone())),
        ];
        Ok(Self {
            consumer,
            gathering,
            committing: tokio::spawn(committer.run(pending)),
            background,
            abandon,
            totals,
            first_record,
            first_maintenance: Some(first_maintenance),
        })
    }

    /// Returns why the stages ended without a shutdown.
    pub(super) async fn failed(self, ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Error {
        self.background.iter().for_each(JoinHandle::abort);
        // The reason comes from the last stage or from one before it.
        let reason = async {
            ended.context("the committing stage ended")??;
            self.gathering.await.context("the gathering stage ended")??;
            close(self.consumer).await?;
            anyhow::Ok(())
        };
        match reason.await {
            Ok(()) => anyhow::anyhow!("the consumer ended unexpectedly"),
            Err(error) => error,
        }
    }

    /// Finishes the records in flight and leaves the group. Returns what was committed, and the time from the first record to
    /// the last commit, which excludes joining the group and waiting at the end of the topics.
    pub(super) async fn stop(self, deadline: Duration) -> anyhow::Result<(Totals, Duration)> {
        self.background.iter().for_each(JoinHandle::abort);
        self.consumer.drain();
        finish(self.committing, deadline, &self.abandon).await?;
        self.gathering.abort();
        if let Err(error) = close(self.consumer).await {
            tracing::warn!(%error, "leaving the group failed; the offsets are in the database");
        }
        let totals = self.totals.borrow().clone();
        let worked = match (self.first_record.get(), totals.last_commit) {
            (Some(first), Some(last)) => last.saturating_duration_since(*first),
            _ => Duration::ZERO,
        };
        Ok((totals, worked))
    }
}

async fn close(consumer: Arc<Consumer>) -> Result<(), KafkaError> {
    match Arc::into_inner(consumer) {
        Some(consumer) => consumer.close().await,
        // A stage that was abandoned at the deadline still holds it; it ends with the process.
        None => Ok(()),
    }
}

/// Waits for the last commit. At the deadline gives up uncommitted records, which the next start reads again.
async fn finish(
    mut committing: JoinHandle<anyhow::Result<()>>,
    deadline: Duration,
    abandon: &CancellationToken,
) -> anyhow::Result<()> {
    if let Ok(ended) = tokio::time::timeout(deadline, &mut committing).await {
        return ended.context("the committing stage ended")?;
    }
    tracing::warn!(
        seconds = deadline.as_secs(),
        "the shutdown deadline has passed: uncommitted records will be read again at the next start"
    );
    abandon.cancel();
    // A statement in progress may run until its own timeout; it is aborted when the process ends.
    if let Ok(ended) = tokio::time::timeout(Duration::from_secs(1), committing).await {
        return ended.context("the committing stage ended")?;
    }
    Ok(())
}
