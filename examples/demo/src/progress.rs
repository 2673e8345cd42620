//! What the demo is doing: a bar on a terminal, plain lines elsewhere.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::{plot::Screen, terminal::print};

/// Shows what is being done.
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

    pub(super) fn settled(&self, settled: u64, all: u64) {
        let Some(bar) = &self.bar else {
            // A line each tenth is enough for a log.
            let tenth = settled * 10 / all.max(1);
            if tenth > self.plain.replace(tenth) {
                eprintln!("demo: {settled} of {all} records are settled");
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
        bar.set_position(settled);
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
