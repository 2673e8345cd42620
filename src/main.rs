//! The `moodstream` binary.

use std::process::ExitCode;

use clap::Parser as _;
use moodstream::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
