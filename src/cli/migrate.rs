//! `moodstream migrate`

use std::process::ExitCode;

use super::SettingsArgs;
use crate::pipeline;

/// Arguments of `moodstream migrate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut settings = args.settings.merge()?;
    settings.store.migrate = true;
    pipeline::open_store(&settings).await?;
    println!("the schema is up to date");
    Ok(ExitCode::SUCCESS)
}
