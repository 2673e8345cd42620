//! `moodstream check`

use std::{fmt::Display, io::Write as _, process::ExitCode};

use super::SettingsArgs;
use crate::{
    config::Settings,
    kafka::BrokerReport,
    pipeline::{self, OffsetsReport, Preflight},
    store::{Schema, Store, schema_version},
};

/// How long to wait for the broker.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Arguments of `moodstream check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = match args.settings.load() {
        Ok(settings) => settings,
        Err(error) => {
            line("settings", Err(anyhow::Error::new(error)));
            return Ok(ExitCode::from(2));
        }
    };
    line(
        "settings",
        Ok::<_, anyhow::Error>(&format!("ok{}", listed(&settings.deprecations))),
    );
    let model =
        tokio::task::block_in_place(|| pipeline::start_classifier(&settings)).and_then(|(folder, _classifier)| {
            pipeline::profile(&settings, &folder)?;
            let info = folder.info();
            Ok(format!(
                "ok: {} ({}, {}), labels {}",
                info.id,
                info.precision,
                info.provider,
                info.labels.join(", ")
            ))
        });
    line("model", model.as_ref());
    let database = check_database(&settings).await;
    let store = database.as_ref().ok().and_then(|(_, store)| store.as_ref());
    let found = Preflight::run(&settings, store, TIMEOUT, true).await;
    let broker = found.broker.as_ref().map(|(report, warnings)| {
        let counted_only = (!settings.dead_letter.enabled).then(|| "dead letters are counted only".to_owned());
        let warnings: Vec<String> = warnings.iter().cloned().chain(counted_only).collect();
        describe(report, &warnings)
    });
    line("broker", broker.as_ref());
    let database = database.and_then(
        |(text, _)| match (&found.missing_privileges, found.privileges_warning()) {
            (Some(Err(error)), _) => Err(anyhow::anyhow!("{error:#}")),
            (_, Some(warning)) => Err(anyhow::anyhow!(warning)),
            _ => Ok(text),
        },
    );
    line("database", database.as_ref());
    let mut well = model.is_ok() && broker.is_ok() && database.is_ok();
    if let (Ok(_), Some(offsets)) = (&database, &found.offsets) {
        let offsets = describe_offsets(offsets);
        line("offsets", offsets.as_ref());
        well &= offsets.is_ok();
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the store if its schema lets this program write.
async fn check_database(settings: &Settings) -> anyhow::Result<(String, Option<Store>)> {
    let store = Store::connect(&settings.database).await?;
    let text = match store.schema().await? {
        Schema::Current => "ok: schema up to date".to_owned(),
        Schema::Ahead { version } => format!(
            "ok: the schema is at version {version}, this program at {}; it may write to it",
            schema_version()
        ),
        Schema::Behind => {
            anyhow::ensure!(
                settings.store.migrate,
                "the schema is older than this program: run `moodstream migrate`"
            );
            let text = "ok: the schema is older than this program; `run` applies the migrations";
            return Ok((text.to_owned(), None));
        }
    };
    Ok((text, Some(store)))
}

fn describe_offsets(offsets: &anyhow::Result<OffsetsReport>) -> anyhow::Result<String> {
    let report = offsets.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    anyhow::ensure!(
        report.faults.is_empty(),
        "would be quarantined (docs/quarantine.md): {}",
        report.faults.join("; ")
    );
    Ok(format!(
        "ok: {} partitions have an offset, {} records behind{}",
        report.known,
        report.lag,
        listed(&report.warnings)
    ))
}

/// Describes the broker and the topics.
fn describe(report: &BrokerReport, warnings: &[String]) -> String {
    let topics: Vec<String> = report
        .topics
        .iter()
        .map(|(topic, partitions)| format!("{topic} ({partitions} partitions)"))
        .collect();
    format!(
        "ok: {}; topics {}{}",
        report.brokers.join(", "),
        topics.join(", "),
        listed(warnings)
    )
}

/// Formats warnings as the end of a line.
fn listed(warnings: &[String]) -> String {
    warnings.iter().map(|warning| format!("; {warning}")).collect()
}

/// Writes what was found, or the error with its causes, in one line.
fn line(what: &str, result: Result<&String, impl Display>) {
    let (mark, text) = match result {
        Ok(text) => ("+", text.clone()),
        Err(error) => ("!", format!("{error:#}")),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // The reader (`head`, for example) may have exited already.
    let _ = writeln!(std::io::stdout(), "{mark} {what:<9} {text}");
}
