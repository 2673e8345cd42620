//! The schema and this program's version side by side: see `docs/upgrades.md`.

use std::time::Duration;

use crate::{
    config::Settings,
    store::{Schema, Store, schema_version},
    telemetry::health::{Health, Part},
};

/// Between two looks at a schema that somebody else is to migrate.
const WAIT: Duration = Duration::from_secs(2);
/// Between two looks at whether a newer program has migrated it.
const WATCH: Duration = Duration::from_secs(60);

/// What to do about a schema that is older than this program.
pub(super) fn behind() -> String {
    format!(
        "the schema is older than this program, which needs version {}: run this version's `moodstream migrate`, then its members",
        schema_version()
    )
}

/// Waits until a schema that is older than this program is migrated, where that is somebody else's to do. Meanwhile the
/// service is not ready, for this reason, and older members go on.
///
/// # Errors
/// The database can't be asked, or its schema is one that this program must not write to.
pub(super) async fn migrated(settings: &Settings, health: &Health) -> anyhow::Result<()> {
    if settings.store.migrate {
        return Ok(());
    }
    let store = Store::connect(&settings.database).await?;
    let mut told = false;
    while store.schema().await? == Schema::Behind {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("{}; waiting for it", behind());
        }
        health.fault(Part::Database, behind());
        tokio::time::sleep(WAIT).await;
    }
    store.close().await;
    Ok(())
}

/// Notes when a newer program has migrated the schema and lets this one go on: it is to be replaced.
pub(super) async fn watch(store: Store, health: Health) {
    let mut ticks = tokio::time::interval(WATCH);
    let mut told = None;
    loop {
        ticks.tick().await;
        match store.schema().await {
            Ok(Schema::Ahead { version }) => {
                let note = format!(
                    "the schema is at version {version}, newer than this program's {}, and lets it go on: replace this member by the \
                     version that migrated it",
                    schema_version()
                );
                if told.replace(version) != Some(version) {
                    tracing::info!("{note}");
                }
                health.note(Part::Database, Some(note));
            }
            Ok(Schema::Current | Schema::Behind) => health.note(Part::Database, None),
            // The next flush ends a member that must not go on, or says that the database is away.
            Err(error) => tracing::debug!(%error, "can't look at the schema"),
        }
    }
}
