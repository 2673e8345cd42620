//! `moodstream run`

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::{SettingsArgs, stop_signal};
use crate::{
    config::SettingsError,
    http::{self, PageContent, page::Page},
    pipeline::{self, RunUntil},
    telemetry::{self, health::Health},
};

/// Arguments of `moodstream run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Commit everything that was in the topics at startup, print a summary as JSON, and exit with 0.
    #[arg(long)]
    until_caught_up: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = args.settings.load()?;
    telemetry::init_logs(&settings.log).map_err(SettingsError::from)?;
    for deprecation in &settings.deprecations {
        tracing::warn!("{deprecation}");
    }
    let metrics = telemetry::install_metrics()?;
    let health = Health::starting();
    let ended = CancellationToken::new();
    if settings.http.enabled {
        let page = (settings.http.page != PageContent::Off).then(|| Page {
            shows: settings.http.page,
            database: settings.database.clone(),
            group: settings.kafka.group.clone(),
            health: health.clone(),
        });
        let (address, _task) = http::server::serve(
            settings.http.listen,
            metrics,
            health.clone(),
            std::time::Duration::from_secs(settings.http.stall_seconds.into()),
            page,
            ended.clone(),
        )
        .await?;
        tracing::info!("serving http://{address}/ with /metrics, /ready and /live");
    }
    let until = if args.until_caught_up {
        RunUntil::CaughtUp
    } else {
        RunUntil::Stopped
    };
    // Registered before work starts, so that a signal during startup does not kill the process midway.
    let stop = tokio::spawn(stop_signal());
    let outcome = pipeline::run(&settings, until, health, async {
        let _ = stop.await;
    })
    .await;
    ended.cancel();
    let summary = outcome?;
    if args.until_caught_up {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        tracing::info!(
            records = summary.totals.records,
            inserted = summary.totals.tally.inserted,
            "stopped"
        );
    }
    Ok(ExitCode::SUCCESS)
}
