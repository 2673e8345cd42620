//! `moodstream migrate`

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::SettingsArgs;
use crate::{
    config::{Settings, SettingsError},
    pipeline,
    store::{Schema, Store, StoreError, StoreErrorKind, schema_version},
};

/// Arguments of `moodstream migrate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The role that `moodstream run` connects as. It is granted what it needs, but no rights on the schema.
    #[arg(long, value_name = "ROLE")]
    service_role: Option<String>,
    /// The role of dashboards, which is granted read access.
    #[arg(long, value_name = "ROLE")]
    read_role: Option<String>,
    /// Seconds to wait for a database that is not reachable yet.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait_seconds: u32,
}

/// The delay between attempts to reach the database.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut settings = args.settings.merge()?;
    settings.store.service_role = args.service_role.or(settings.store.service_role);
    settings.store.read_role = args.read_role.or(settings.store.read_role);
    settings.database.check().map_err(SettingsError::Database)?;
    let deadline = Instant::now() + Duration::from_secs(args.wait_seconds.into());
    let mut waits = false;
    let found = loop {
        match migrate(&settings).await {
            Ok(found) => break found,
            Err(error) if error.kind != StoreErrorKind::Unreachable || Instant::now() >= deadline => {
                return Err(error.into());
            }
            Err(error) => {
                if !std::mem::replace(&mut waits, true) {
                    eprintln!("waiting for the database: {error}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    match found {
        Schema::Ahead { version } => println!(
            "the schema is at version {version}, newer than this program's {}, and was left unchanged",
            schema_version()
        ),
        Schema::Behind | Schema::Current => println!("the schema is up to date"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn migrate(settings: &Settings) -> Result<Schema, StoreError> {
    let store = Store::connect(&settings.database).await?;
    let found = pipeline::migrate(&store, &settings.store).await?;
    let now = OffsetDateTime::now_utc();
    store.ensure_partitions(now, settings.store.partitions_ahead).await?;
    Ok(found)
}
