//! Preparing labelled sets.

/// What the command line says.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the step.
///
/// # Errors
///
/// When the input is unfit or the output can't be written.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built in")
}
