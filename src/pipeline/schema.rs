//! Handles schemas that are older or newer than this program: see `docs/upgrades.md`.

use std::time::Duration;

use crate::{
    config::Settings,
    store::{Schema, Store, schema_version},
    telemetry::health::{Component, Health},
};

/// The pause between two checks while waiting for someone else to migrate the schema.
const WAIT: Duration = Duration::from_secs(2);
/// The pause between two checks whether a newer program has migrated the schema.
const WATCH: Duration = Duration::from_secs(60);

/// The message for a schema that is older than this program.
pub(super) fn behind() -> String {
    format!(
        "the schema is older than this program, which needs version {}: run this version's `moodstream migrate`, then start its members",
        schema_version()
    )
}

/// If this program doesn't migrate the schema itself, waits until a schema that is older than it has been migrated. Meanwhile
/// the service is not ready, and older members continue.
///
/// # Errors
/// The database can't be queried, or this program must not write to its schema.
pub(super) async fn migrated(settings: &Settings, health: &Health) -> anyhow::Result<()> {
    if settings.store.migrate {
        return Ok(());
    }
    let store = Store::connect(&settings.database).await?;
    let mut logged = false;
    while store.schema().await? == Schema::Behind {
        if !std::mem::replace(&mut logged, true) {
            tracing::warn!("{}; waiting until then", behind());
        }
        health.set_fault(Component::Database, behind());
        tokio::time::sleep(WAIT).await;
    }
    store.close().await;
    Ok(())
}

/// Notes that this member should be replaced, when a newer program has migrated the schema and this one may continue.
pub(super) async fn watch(store: Store, health: Health) {
    let mut ticks = tokio::time::interval(WATCH);
    let mut logged = None;
    loop {
        ticks.tick().await;
        match store.schema().await {
            Ok(Schema::Ahead { version }) => {
                let note = format!(
                    "the schema is at version {version}, newer than this program's {}; this program may continue, but replace this \
                     member with the version that migrated the schema",
                    schema_version()
                );
                if logged.replace(version) != Some(version) {
                    tracing::info!("{note}");
                }
                health.set_note(Component::Database, Some(note));
            }
            Ok(Schema::Current | Schema::Behind) => health.set_note(Component::Database, None),
            // The next flush ends a member that must not continue, or reports that the database is down.
            Err(error) => tracing::debug!(%error, "can't check the schema"),
        }
    }
}
