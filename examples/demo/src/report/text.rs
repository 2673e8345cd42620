//! The summary as text.

use std::fmt::Write;

use console::truncate_str;
use moodstream_demo::Counts;

use super::{Example, Report, Tally, Timing};
use crate::plot::{Screen, colour_of, render, thousands};

impl Report {
    pub(crate) fn render(&self, fed: &Counts, timing: &Timing, screen: Screen) -> String {
        let mut out = String::new();
        self.plot(&mut out, screen);
        self.posts(&mut out, screen);
        self.accounts(&mut out, fed, timing, screen);
        out
    }

    fn plot(&self, out: &mut String, screen: Screen) {
        let _ = writeln!(out, "\n{}\n", screen.bold("  Emotions by minute, in posts"));
        out.push_str(&render(&self.trend, screen));
    }

    fn posts(&self, out: &mut String, screen: Screen) {
        let name = |emotion: &str| screen.paint(colour_of(emotion), &format!("{:<14}", truncate_str(emotion, 14, "…")));
        let line = |text: String| truncate_str(&text, screen.width, "…").into_owned();
        let _ = writeln!(out, "\n{}", screen.bold("  Hashtags"));
        for (emotion, tags) in self.hashtags.iter().take(8) {
            let tags: Vec<String> = tags
                .iter()
                .map(|(tag, posts)| format!("#{tag} {}", screen.dim(&posts.to_string())))
                .collect();
            let _ = writeln!(out, "{}", line(format!("  {} {}", name(emotion), tags.join("  "))));
        }
        let _ = writeln!(out, "\n{}", screen.bold("  Posts with the highest scores"));
        for Example {
            emotion,
            score,
            lang,
            text,
        } in &self.examples
        {
            let text = one_line(text);
            let _ = writeln!(
                out,
                "{}",
                line(format!("  {} {score:.2}  {}  {text}", name(emotion), screen.dim(lang)))
            );
        }
        let shares = |of: &[(String, u64)]| {
            let all = self.rows.max(1) as f64;
            of.iter()
                .map(|(name, posts)| format!("{name} {:.0} %", 100.0 * *posts as f64 / all))
                .collect::<Vec<_>>()
                .join(" · ")
        };
        let _ = writeln!(
            out,
            "\n{}",
            line(format!("  {}  {}", screen.bold("Sources  "), shares(&self.sources)))
        );
        let _ = writeln!(
            out,
            "{}",
            line(format!("  {}  {}", screen.bold("Languages"), shares(&self.languages)))
        );
        let percent = |&(right, all): &(u64, u64)| 100.0 * right as f64 / all.max(1) as f64;
        let total = self
            .agreement
            .values()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let each = self
            .agreement
            .iter()
            .map(|(lang, one)| format!("{lang} {:.0} %", percent(one)));
        let _ = writeln!(
            out,
            "  {}  {:.0} % of the posts got the emotion that they were written to express\n             {}",
            screen.bold("Agreement"),
            percent(&total),
            each.collect::<Vec<_>>().join(" · ")
        );
    }

    fn accounts(&self, out: &mut String, fed: &Counts, timing: &Timing, screen: Screen) {
        let Tally {
            records,
            inserted,
            duplicates,
            deletions,
            filtered,
            late,
            rejected,
            removed,
        } = self.tally;
        let seconds = timing.catch_up.as_secs_f64();
        let _ = writeln!(out, "\n{}", screen.bold("  Every record accounted for"));
        let _ = writeln!(
            out,
            "  fed        {} records\n             {} posts · {} reposts · {} quotes, {} of these late\n             \
             {} duplicates · {} deletions · {} damaged",
            thousands(fed.records() as u64),
            thousands(fed.posts as u64),
            fed.reposts,
            fed.quotes,
            fed.late,
            fed.duplicates,
            fed.deletions,
            fed.damaged,
        );
        let _ = writeln!(
            out,
            "  committed  {} records\n             {} inserted · {duplicates} duplicates · {deletions} deletions · \
             {filtered} filtered · {late} too late · {rejected} rejected",
            thousands(records),
            thousands(inserted),
        );
        let _ = writeln!(
            out,
            "  stored     {} rows in post: inserted minus {removed} that deletions removed",
            thousands(self.rows),
        );
        let mut reasons: Vec<_> = self.rejects.iter().collect();
        reasons.sort_by_key(|(reason, posts)| (std::cmp::Reverse(**posts), (*reason).clone()));
        let reasons: Vec<String> = reasons
            .iter()
            .map(|(reason, posts)| format!("{reason} {posts}"))
            .collect();
        let _ = writeln!(
            out,
            "  rejected   {}\n             {} are in the dead-letter topic, each with its reason and origin in its headers",
            if reasons.is_empty() {
                "none".to_owned()
            } else {
                reasons.join(" · ")
            },
            self.dead_letters,
        );
        let _ = writeln!(
            out,
            "  speed      {} records in {seconds:.1} s ({} per second); first results {:.1} s after the start",
            thousands(records),
            thousands((records as f64 / seconds.max(0.001)) as u64),
            timing.first_results.as_secs_f64(),
        );
        if !self.model.is_empty() {
            let _ = writeln!(out, "  model      {}", self.model);
        }
    }
}

/// Returns the text without line breaks and other control characters.
pub(super) fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_removed_from_texts() {
        assert_eq!(one_line("a\x1b[2Jb\n\n c\r\td\u{7}"), "a [2Jb c d");
    }
}
