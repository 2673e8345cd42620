//! Connects the stages, runs them and shuts them down.
//!
//! ```text
//! consumer thread -> decode (parse, filter, clean) -> window -> classify -> commit (Postgres, then Kafka)
//! ```
//!
//! The first arrow and the one to `commit` are bounded channels; decoding and classification are tasks that `window`
//! starts. Windows being classified are sent as task handles, in the order in which they were closed, so several are
//! classified at once and offsets still advance in order. A shutdown follows the data: the consumer stops, its channel
//! closes, and each stage finishes its records and closes the next channel.

mod caught_up;
mod classified;
mod commit;
mod commit_set;
mod counts;
mod decode;
mod group_offsets;
mod maintenance;
mod preflight;
mod readiness;
mod schema;
mod stages;
mod stored_offsets;
mod summary;
mod window;

use std::{future::Future, sync::Arc, time::Duration};

use time::OffsetDateTime;

use self::{caught_up::Target, stages::Stages};
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
    filter::PostFilter,
    model::ModelFolder,
    store::{RetentionCutoff, Schema, Store, StoreError},
    telemetry::{
        health::{Component, Health},
        metric,
    },
};

/// When the run ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunUntil {
    /// Never; it runs until it is stopped.
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
        .with_retention(settings.store.retention());
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

/// Runs the service until `stop` resolves or, with [`RunUntil::CaughtUp`], until it has caught up.
///
/// # Errors
/// An error that no retry can fix: of the settings, the model, the schema or the consumer.
pub async fn run(
    settings: &Settings,
    until: RunUntil,
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
    until: RunUntil,
    health: Health,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Summary> {
    // Before connecting to the database, so that an invalid setting is reported at once.
    let (filter, profile) = (settings.post_filter()?, profile(settings, folder)?);
    health.clear_fault(Component::Model);
    health
        .status()
        .update(|status| status.model = Some(folder.info().id.to_string()));
    let mut stop = std::pin::pin!(stop);
    if until == RunUntil::Stopped {
        tokio::select! {
            migrated = schema::migrated(settings, &health) => migrated?,
            () = &mut stop => return Ok(summarise(Totals::default(), &folder.info().id, Duration::ZERO, &classifier)),
        }
    }
    let store = open_store(settings).await?;
    store.replace_emotion_groups(folder.info()).await?;
    store.replace_model_languages(folder.info()).await?;
    let decoder = decoder(settings, filter, profile, store.retention_mark().await?);
    health.clear_fault(Component::Database);

    let group: Arc<str> = settings.kafka.group.as_str().into();
    let target = match until {
        RunUntil::Stopped => None,
        RunUntil::CaughtUp => Some(Target::find(&settings.kafka, &store, &group).await?),
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
    health.set_fault(Component::Running, "stopping");
    let deadline = Duration::from_secs(settings.shutdown.deadline_seconds);
    let (totals, worked) = match ended_early {
        Some(ended) => return Err(stages.failed(ended).await),
        None => stages.stop(deadline).await?,
    };
    Ok(summarise(totals, &folder.info().id, worked, &classifier))
}

fn decoder(settings: &Settings, filter: PostFilter, profile: Profile, retention_mark: RetentionCutoff) -> Decoder {
    Decoder {
        parsing: settings.posts.parsing(),
        filter,
        profile,
        future: FutureTimes {
            max_ahead: time::Duration::seconds(settings.posts.max_future_seconds.into()),
            policy: settings.posts.future,
        },
        detect_language: settings.posts.detect_language,
        retention: settings.store.retention(),
        retention_mark,
    }
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

fn summarise(totals: Totals, model_id: &str, elapsed: Duration, classifier: &Classifier) -> Summary {
    let stats = classifier.stats();
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let all_tokens = stats.tokens + stats.padding;
    let posts = totals.tally.inserted + totals.tally.duplicates;
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
