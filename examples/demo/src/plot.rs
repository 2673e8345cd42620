//! Emotions over time as text: a stacked plot, and a sparkline per emotion.

use std::fmt::Write;

use console::{pad_str, truncate_str};
use time::{Duration, OffsetDateTime, macros::format_description};

/// How many emotions get their own colour and row; the others are combined.
const SHOWN: usize = 9;
/// Rows of the stacked plot.
const HEIGHT: usize = 10;
/// The width left of the plot, for a number and the axis.
const AXIS: usize = 7;
/// Shown right of the last time.
const UNIT: &str = " UTC";

/// What the terminal can show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    pub(super) width: usize,
    pub(super) colour: bool,
}

impl Screen {
    pub(super) fn paint(self, colour: u8, text: &str) -> String {
        if self.colour {
            format!("\x1b[38;5;{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        if self.colour {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint(244, text)
    }
}

/// Posts of one emotion, minute by minute.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) emotion: String,
    pub(super) by_minute: Vec<u64>,
    pub(super) mean_score: f64,
}

impl Series {
    pub(super) fn posts(&self) -> u64 {
        self.by_minute.iter().sum()
    }
}

/// All emotions over the same minutes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trend {
    /// The first minute.
    pub(super) start: OffsetDateTime,
    /// The most frequent first. All have the same length.
    pub(super) series: Vec<Series>,
}

impl Trend {
    /// Combines the series that would not get a row.
    fn shown(&self) -> Vec<Series> {
        let mut shown = self.series.clone();
        if shown.len() > SHOWN {
            let rest = shown.split_off(SHOWN - 1);
            let posts: u64 = rest.iter().map(Series::posts).sum();
            let score_sum: f64 = rest
                .iter()
                .map(|series| series.mean_score * series.posts() as f64)
                .sum();
            let by_minute = (0..self.minutes()).map(|minute| rest.iter().map(|series| series.by_minute[minute]).sum());
            shown.push(Series {
                emotion: format!("{} others", rest.len()),
                by_minute: by_minute.collect(),
                mean_score: score_sum / posts.max(1) as f64,
            });
        }
        shown
    }

    fn minutes(&self) -> usize {
        self.series.first().map_or(0, |series| series.by_minute.len())
    }
}

/// Renders the stacked plot and the rows under it; empty without posts.
pub(super) fn render(trend: &Trend, screen: Screen) -> String {
    let series = trend.shown();
    let minutes = trend.minutes();
    if minutes == 0 {
        return String::new();
    }
    let room = screen.width.saturating_sub(AXIS + UNIT.len()).max(8);
    // Narrow: several minutes per column. Wide: several columns per minute.
    let minutes_per_column = minutes.div_ceil(room);
    let columns = minutes.div_ceil(minutes_per_column);
    let column_width = (room / columns).clamp(1, 3);
    let grouped: Vec<Vec<u64>> = series
        .iter()
        .map(|series| {
            series
                .by_minute
                .chunks(minutes_per_column)
                .map(|chunk| chunk.iter().sum())
                .collect()
        })
        .collect();
    let mut out = String::new();
    stacked(&mut out, &series, &grouped, column_width, screen);
    time_axis(&mut out, trend.start, minutes, columns * column_width, screen);
    out.push('\n');
    rows(&mut out, &series, screen);
    out
}

fn stacked(out: &mut String, series: &[Series], grouped: &[Vec<u64>], column_width: usize, screen: Screen) {
    let columns = grouped[0].len();
    let totals: Vec<u64> = (0..columns)
        .map(|column| grouped.iter().map(|counts| counts[column]).sum())
        .collect();
    let most = totals.iter().copied().max().unwrap_or(0).max(1);
    // With colours, the halves of a row can differ, so half a row is the smallest step.
    let steps = if screen.colour { HEIGHT * 2 } else { HEIGHT };
    let at = |column: usize, step: usize| -> Option<usize> {
        let wanted = (step as f64 + 0.5) / steps as f64 * most as f64;
        let mut sum = 0;
        grouped.iter().position(|counts| {
            sum += counts[column];
            sum as f64 > wanted
        })
    };
    for row in (0..HEIGHT).rev() {
        let label = match row {
            _ if row == HEIGHT - 1 => most.to_string(),
            _ if row == HEIGHT / 2 => (most * (HEIGHT as u64 / 2) / HEIGHT as u64).to_string(),
            _ => String::new(),
        };
        let _ = write!(out, "{}", screen.dim(&format!("{label:>width$} ┤", width = AXIS - 2)));
        for column in 0..columns {
            let cell = if screen.colour {
                let (upper, lower) = (at(column, row * 2 + 1), at(column, row * 2));
                let colour = |index: usize| colour_of(&series[index].emotion);
                match (upper, lower) {
                    (None, None) => " ".repeat(column_width),
                    (None, Some(lower)) => screen.paint(colour(lower), &"▄".repeat(column_width)),
                    // Does not occur: steps are filled from below.
                    (Some(upper), None) => screen.paint(colour(upper), &"▀".repeat(column_width)),
                    (Some(upper), Some(lower)) if upper == lower => {
                        screen.paint(colour(upper), &"█".repeat(column_width))
                    }
                    (Some(upper), Some(lower)) => format!(
                        "\x1b[38;5;{}m\x1b[48;5;{}m{}\x1b[0m",
                        colour(upper),
                        colour(lower),
                        "▀".repeat(column_width)
                    ),
                }
            } else {
                at(column, row).map_or(' ', letter).to_string().repeat(column_width)
            };
            out.push_str(&cell);
        }
        out.push('\n');
    }
}

fn time_axis(out: &mut String, start: OffsetDateTime, minutes: usize, width: usize, screen: Screen) {
    let clock = |minute: usize| {
        let at = start + Duration::minutes(i64::try_from(minute).unwrap_or(0));
        at.format(format_description!("[hour]:[minute]")).unwrap_or_default()
    };
    let line = format!("{:>axis$}└{}", "", "─".repeat(width), axis = AXIS - 1);
    let _ = writeln!(out, "{}", screen.dim(&line));
    let (first, middle, last) = (clock(0), clock(minutes / 2), clock(minutes.saturating_sub(1)));
    let mut labels = format!("{:>axis$}{first}", "", axis = AXIS);
    if width >= 20 {
        let gap = (width / 2).saturating_sub(first.len() + middle.len() / 2);
        let _ = write!(labels, "{:gap$}{middle}", "");
    }
    let end = AXIS + width;
    let gap = end.saturating_sub(labels.chars().count() + last.len());
    let _ = write!(labels, "{:gap$}{last}{UNIT}", "");
    let _ = writeln!(out, "{}", screen.dim(&labels));
}

fn rows(out: &mut String, series: &[Series], screen: Screen) {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let all: u64 = series.iter().map(Series::posts).sum();
    let name_width = series
        .iter()
        .map(|series| series.emotion.chars().count())
        .max()
        .unwrap_or(0)
        .clamp(4, 16);
    // "  ■ name  sparkline  12,345  12.3 %  mean 0.71"
    let room = screen.width.saturating_sub(name_width + 35).max(8);
    for (index, one) in series.iter().enumerate() {
        let group = one.by_minute.len().div_ceil(room).max(1);
        let counts: Vec<u64> = one.by_minute.chunks(group).map(|chunk| chunk.iter().sum()).collect();
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let sparkline: String = counts
            .iter()
            .map(|&count| {
                if count == 0 {
                    ' '
                } else {
                    BARS[((count * 8).div_ceil(most) - 1).min(7) as usize]
                }
            })
            .collect();
        let colour = colour_of(&one.emotion);
        let mark = if screen.colour { '■' } else { letter(index) };
        let name = truncate_str(&one.emotion, name_width, "…");
        let _ = writeln!(
            out,
            "  {} {}  {}  {:>7}  {:>5.1} %  {}",
            screen.paint(colour, &mark.to_string()),
            pad_str(&name, name_width, console::Alignment::Left, None),
            screen.paint(colour, &sparkline),
            thousands(one.posts()),
            100.0 * one.posts() as f64 / all.max(1) as f64,
            screen.dim(&format!("mean {:.2}", one.mean_score)),
        );
    }
}

/// The letter for a series in a plot without colours.
fn letter(index: usize) -> char {
    char::from(b'a' + u8::try_from(index).unwrap_or(25).min(25))
}

/// `1,234,567`
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// One of the 256 terminal colours for an emotion. Unknown labels get one derived from their bytes.
pub(super) fn colour_of(emotion: &str) -> u8 {
    const SPARE: [u8; 8] = [109, 139, 143, 67, 174, 72, 137, 104];
    match emotion.to_lowercase().as_str() {
        "joy" | "happiness" | "happy" => 220,
        "love" => 205,
        "optimism" | "hope" | "trust" => 114,
        "amusement" | "fun" => 214,
        "gratitude" => 150,
        "admiration" => 186,
        "approval" | "positive" => 108,
        "caring" => 211,
        "excitement" | "enthusiasm" => 208,
        "desire" | "anticipation" => 180,
        "pride" => 178,
        "relief" => 116,
        "curiosity" => 80,
        "realization" => 110,
        "surprise" => 51,
        "confusion" => 103,
        "anger" | "hate" => 196,
        "annoyance" => 167,
        "disapproval" | "negative" => 131,
        "disgust" => 64,
        "sadness" => 33,
        "grief" => 25,
        "disappointment" => 68,
        "remorse" => 97,
        "embarrassment" => 175,
        "fear" => 141,
        "nervousness" | "worry" => 147,
        "neutral" | "others" => 247,
        other if other.ends_with(" others") => 240,
        other => SPARE[other.bytes().map(usize::from).sum::<usize>() % SPARE.len()],
    }
}

#[cfg(test)]
mod tests {
    use console::{measure_text_width, strip_ansi_codes};
    use time::macros::datetime;

    use super::*;

    fn trend(emotions: usize, minutes: usize) -> Trend {
        let series = (0..emotions).map(|emotion| Series {
            emotion: format!("emotion-{emotion}"),
            by_minute: (0..minutes)
                .map(|minute| ((minute * 7 + emotion * 3) % 23) as u64)
                .collect(),
            mean_score: 0.5,
        });
        Trend {
            start: datetime!(2026-03-01 11:30 UTC),
            series: series.collect(),
        }
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        for (minutes, width) in [(31, 60), (31, 80), (31, 200), (180, 80), (1, 60)] {
            for colour in [false, true] {
                let plot = render(&trend(5, minutes), Screen { width, colour });
                for line in plot.lines() {
                    assert!(measure_text_width(line) <= width, "{width}: {line}");
                }
            }
        }
    }

    #[test]
    fn without_colour_there_are_no_escapes_and_each_series_has_its_letter() {
        let plot = render(
            &trend(3, 31),
            Screen {
                width: 80,
                colour: false,
            },
        );
        assert_eq!(strip_ansi_codes(&plot), plot);
        for needle in ["a emotion-0", "b emotion-1", "c emotion-2", "aa", "11:30", "12:00 UTC"] {
            assert!(plot.contains(needle), "{needle} is missing in\n{plot}");
        }
    }

    #[test]
    fn rare_emotions_are_combined() {
        let trend = trend(28, 10);
        let shown = trend.shown();
        assert_eq!(shown.len(), SHOWN);
        assert_eq!(shown[SHOWN - 1].emotion, "20 others");
        assert_eq!(
            shown.iter().map(Series::posts).sum::<u64>(),
            trend.series.iter().map(Series::posts).sum::<u64>(),
        );
    }

    #[test]
    fn an_empty_trend_renders_as_nothing() {
        assert_eq!(
            render(
                &trend(0, 0),
                Screen {
                    width: 80,
                    colour: true
                }
            ),
            ""
        );
    }

    #[test]
    fn digits_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
