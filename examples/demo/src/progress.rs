//! Shows the demo's progress: a bar on a terminal, plain lines elsewhere.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::{plot::Screen, terminal::print};

/// Shows the current step and the number of committed records.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    plain: std::cell::Cell<u64>,
}

impl Progress {
    pub(super) fn new(screen: Screen) -> Self {
        print(&format!("\n  {}\n\n", screen.bold("moodstream demo"))).ok();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Self {
            bar,
            plain: std::cell::Cell::new(0),
        }
    }

    pub(super) fn say(&self, what: &'static str) {
        match &self.bar {
            Some(bar) => bar.set_message(what),
            None => eprintln!("demo: {what}"),
        }
    }

    pub(super) fn committed(&self, committed: u64, all: u64) {
        let Some(bar) = &self.bar else {
            // One line per tenth is enough for a log.
            let tenth = committed * 10 / all.max(1);
            if tenth > self.plain.replace(tenth) {
                eprintln!("demo: {committed} of {all} records are committed");
            }
            return;
        };
        if bar.length().is_none() {
            bar.set_length(all);
            let template = "  {spinner} classifying {wide_bar:.cyan/238} {human_pos}/{human_len}  {per_sec:>14}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
        }
        bar.set_position(committed);
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
