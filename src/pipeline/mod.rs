//! Connects the stages, runs them and shuts them down.
//!
//! ```text
//! consumer thread -> decode (parse, filter, clean) -> window -> classify -> commit (Postgres, then Kafka)
//! ```
//!
//! Every arrow is a bounded channel. Windows being classified are sent as task handles, in the order in which
//! they were closed, so several are classified at once and offsets still advance in order. A shutdown follows
//! the data: the consumer stops, its channel closes, and each stage finishes its records and closes the next channel.

mod caught_up;
mod classified;
mod commit;
mod commit_set;
mod counts;
mod decode;
mod group_offsets;
mod preflight;
mod schema;
mod stored_offsets;
mod summary;
mod window;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinError, JoinHandle},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::{caught_up::Target, commit::Committer, group_offsets::GroupOffsets};
pub use self::{
    decode::{Content, Decoded, Decoder, FutureTimes},
    preflight::Preflight,
    stored_offsets::OffsetsReport,
    summary::{Summary, Totals},
};
use crate::{
    classify::Classifier,
    clean::Profile,
    config::{Settings, SettingsError, StoreSettings},
    kafka::{Assignment, Cause, Consumer, DeadLetters, KafkaError, Partition},
    model::ModelFolder,
    store::{LateBefore, Schema, Store, StoreError},
    telemetry::{
        health::{Health, Part},
        metric,
    },
};

/// When the run ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Never; it runs until it is told to stop.
    Stopped,
    /// When all records that were in the topics at the start are committed.
    CaughtUp,
}

/// Opens the model and starts its sessions.
///
/// # Errors
/// The model folder can't be used, or the execution provider isn't available.
pub fn start_classifier(settings: &Settings) -> anyhow::Result<(ModelFolder, Classifier)> {
    let folder = ModelFolder::open(&settings.model.path, &settings.model.options())?;
    let classifier = Classifier::start(&folder, &settings.classify)?;
    metrics::gauge!(metric::MODEL_INFO,
        "model_id" => folder.info().id.to_string(),
        "provider" => folder.info().provider.as_str(),
        "precision" => folder.info().precision.as_str())
    .set(1.0);
    Ok((folder, classifier))
}

/// Returns the cleaning profile: the model's, unless the settings name another.
///
/// # Errors
/// There is no profile of that name.
pub fn profile(settings: &Settings, folder: &ModelFolder) -> Result<Profile, SettingsError> {
    let name = settings.model.profile.as_deref().unwrap_or(&folder.info().profile);
    Profile::from_name(name).map_err(SettingsError::Profile)
}

/// Connects, and ensures that the schema is current and the partitions exist.
///
/// # Errors
/// The database is unreachable, denies permission, or its schema doesn't fit.
pub async fn open_store(settings: &Settings) -> anyhow::Result<Store> {
    let store = Store::connect(&settings.database)
        .await?
        .keeping(settings.store.retention());
    // Checked first, since a role without permissions on the schema suffices if there is nothing to migrate.
    match store.schema().await? {
        Schema::Current | Schema::Ahead { .. } => {}
        Schema::Behind => {
            anyhow::ensure!(settings.store.migrate, schema::behind());
            migrate(&store, &settings.store).await?;
        }
    }
    let now = OffsetDateTime::now_utc();
    store.ensure_partitions(now, settings.store.partitions_ahead).await?;
    Ok(store)
}

/// Migrates the schema and grants the roles what they need. Leaves a newer schema and its grants unchanged, since only
/// the newer program knows what its members need.
///
/// # Errors
/// The database denies permission, its schema belongs to another program, or a configured role is invalid.
pub async fn migrate(store: &Store, settings: &StoreSettings) -> Result<Schema, StoreError> {
    let found = store.migrate().await?;
    if !matches!(found, Schema::Ahead { .. }) {
        store.grant(&settings.roles()).await?;
    }
    Ok(found)
}

/// Creates the coming days' partitions, applies retention and merges the shards of closed days.
async fn maintain(store: &Store, settings: &StoreSettings) -> Result<(), StoreError> {
    let now = OffsetDateTime::now_utc();
    store.ensure_partitions(now, settings.partitions_ahead).await?;
    let retired = store.apply_retention(&settings.retention(), now).await?;
    metrics::counter!(metric::STORE_PARTITIONS_DROPPED).increment(retired.days.len() as u64);
    if let Some(before) = settings.unseen_deletions_before(now) {
        store.forget_unseen_deletions(before).await?;
    }
    store.merge_shards(now).await?;
    Ok(())
}

/// Runs the service until `stop` resolves or, with [`Until::CaughtUp`], until it has caught up.
///
/// # Errors
/// An error that no retry can fix: of the settings, the model, the schema or the consumer.
pub async fn run(
    settings: &Settings,
    until: Until,
    health: Health,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Summary> {
    let (folder, classifier) = tokio::task::block_in_place(|| start_classifier(settings))?;
    run_with(settings, &folder, classifier, until, health, stop).await
}

/// Like [`run`], with a classifier that has already been started.
///
/// # Errors
/// See [`run`].
pub async fn run_with(
    settings: &Settings,
    folder: &ModelFolder,
    classifier: Classifier,
    until: Until,
    health: Health,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Summary> {
    // Before connecting to the database, so that an invalid setting is reported at once.
    let (filter, profile) = (settings.post_filter()?, profile(settings, folder)?);
    health.clear_fault(Part::Model);
    health
        .status()
        .update(|status| status.model = Some(folder.info().id.to_string()));
    let mut stop = std::pin::pin!(stop);
    if until == Until::Stopped {
        tokio::select! {
            migrated = schema::migrated(settings, &health) => migrated?,
            () = &mut stop => return Ok(summarise(Totals::default(), &folder.info().id, Duration::ZERO, &classifier)),
        }
    }
    let store = open_store(settings).await?;
    store.keep_groups(folder.info()).await?;
    store.keep_languages(folder.info()).await?;
    let decoder = Decoder {
        parsing: settings.posts.parsing(),
        filter,
        profile,
        future: FutureTimes {
            most: time::Duration::seconds(settings.posts.max_future_seconds.into()),
            policy: settings.posts.future,
        },
        detect_language: settings.posts.detect_language,
        retention: settings.store.retention(),
        retired: LateBefore(store.retired_until().await?),
    };
    health.clear_fault(Part::Database);

    let group: Arc<str> = settings.kafka.group.as_str().into();
    let target = match until {
        Until::Stopped => None,
        Until::CaughtUp => Some(Target::find(&settings.kafka, &store, &group).await?),
    };
    let classifier = Arc::new(classifier);
    let mut stages = Stages::start(settings, folder, &store, &group, decoder, &classifier, &health)?;
    tracing::info!(model = %folder.info().id, topics = ?settings.kafka.topics, group = %group, "running");

    let caught_up = caught_up(target, &store, &group, &mut stages);
    let ended_early = tokio::select! {
        () = stop => { tracing::info!("stopping: finishing the records in flight"); None }
        reached = caught_up => { reached?; None }
        ended = &mut stages.committing => Some(ended),
    };
    health.set_fault(Part::Running, "stopping");
    let deadline = Duration::from_secs(settings.shutdown.deadline_seconds);
    let (totals, worked) = match ended_early {
        Some(ended) => return Err(stages.failed(ended).await),
        None => stages.stop(deadline).await?,
    };
    Ok(summarise(totals, &folder.info().id, worked, &classifier))
}

/// Resolves once all records that were in the topics at the start are committed and the first maintenance is done; never
/// resolves without a target. Fails if only quarantined partitions are left.
fn caught_up(
    target: Option<Target>,
    store: &Store,
    group: &Arc<str>,
    stages: &mut Stages,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let (store, group, totals) = (store.clone(), Arc::clone(group), stages.totals.clone());
    let assignment = stages.consumer.assignment();
    let first_maintenance = stages.first_maintenance.take();
    async move {
        let (Some(target), Some(first_maintenance)) = (target, first_maintenance) else {
            return std::future::pending().await;
        };
        let reached = target.reached(&store, &group, totals, &assignment).await;
        // Otherwise short runs would never apply retention. Errors are logged where they occur.
        let _ = first_maintenance.await;
        reached
    }
}

/// The running stages.
struct Stages {
    consumer: Arc<Consumer>,
    gathering: JoinHandle<anyhow::Result<()>>,
    committing: JoinHandle<anyhow::Result<()>>,
    /// Tasks that end with the stages: readiness, maintenance, preflight checks and the schema watch.
    background: Vec<JoinHandle<()>>,
    /// Makes the committer give up uncommitted records.
    abandon: CancellationToken,
    totals: watch::Receiver<Totals>,
    first_record: Arc<OnceLock<Instant>>,
    /// Resolves after the first maintenance.
    first_maintenance: Option<oneshot::Receiver<()>>,
}

impl Stages {
    fn start(
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
            tokio::spawn(readiness(assignment, health.clone())),
            tokio::spawn(maintenance(store.clone(), settings.store.clone(), maintained)),
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
    async fn failed(self, ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Error {
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
    async fn stop(self, deadline: Duration) -> anyhow::Result<(Totals, Duration)> {
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

/// Reports whether partitions are assigned to this member, their lag, and which of them are quarantined. Retries quarantined
/// partitions on demand.
async fn readiness(assignment: Assignment, health: Health) {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = health.retry_asked_for() => assignment.retry_quarantined(),
        }
        let quarantined = assignment.quarantined();
        health.set_quarantined(quarantined.into_iter().map(describe_quarantined).collect());
        let (partitions, lag) = assignment.totals();
        health
            .status()
            .update(|status| (status.partitions, status.lag) = (partitions, lag));
        let complaint = assignment.complaint();
        if assignment.settled() {
            health.clear_fault(Part::Kafka);
            // Without partitions this is no fault: there may be more members than partitions, or the topic may be gone.
            health.set_note(Part::Kafka, complaint);
        } else {
            let why = complaint.map(|complaint| format!(": {complaint}")).unwrap_or_default();
            health.set_fault(Part::Kafka, format!("waiting for the group's assignment{why}"));
        }
    }
}

fn describe_quarantined(((topic, partition), cause): (Partition, Cause)) -> String {
    format!("{topic}/{partition}: {}: {}", cause.reason.as_str(), cause.detail)
}

/// Maintains the tables, at once and then at intervals. The start doesn't wait for it, since partitions to drop may be in use
/// and there may be many keys to delete. `maintained` resolves after the first round.
async fn maintenance(store: Store, settings: StoreSettings, maintained: oneshot::Sender<()>) {
    let mut maintained = Some(maintained);
    let mut ticks = tokio::time::interval(Duration::from_secs(settings.maintenance_interval_seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = maintain(&store, &settings).await {
            tracing::warn!(%error, "maintenance of the tables failed; retrying at the next interval");
        }
        if let Some(maintained) = maintained.take() {
            let _ = maintained.send(());
        }
    }
}

fn summarise(totals: Totals, model_id: &str, elapsed: Duration, classifier: &Classifier) -> Summary {
    let stats = classifier.stats();
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let all_tokens = stats.tokens + stats.padding;
    let posts = totals.inserted + totals.duplicates;
    Summary {
        model_id: model_id.to_owned(),
        seconds,
        records_per_second: totals.records as f64 / seconds,
        posts_per_second: posts as f64 / seconds,
        texts: stats.texts,
        texts_cached: stats.cached,
        tokens: stats.tokens,
        padding_share: if all_tokens == 0 {
            0.0
        } else {
            stats.padding as f64 / all_tokens as f64
        },
        batches: stats.batches,
        totals,
    }
}
