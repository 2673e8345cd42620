//! The report of a training run: `report.json`, and the loss curve and confusion matrix as SVG.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::evaluate::Figures;
use crate::files::write;

/// One epoch's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Epoch {
    /// Mean training loss.
    pub(crate) loss: f64,
    /// On the validation file.
    pub(crate) valid: Figures,
    /// Seconds, including the evaluation.
    pub(crate) seconds: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) labels: &'a [String],
    pub(crate) train_posts: usize,
    /// Training posts without labels.
    pub(crate) text_posts: usize,
    pub(crate) valid_posts: usize,
    pub(crate) settings: &'a str,
    pub(crate) best_epoch: usize,
    pub(crate) valid: &'a Figures,
    pub(crate) epochs: &'a [Epoch],
}

impl Report<'_> {
    /// Creates `folder` and writes the three files into it.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        write(
            &folder.join("report.json"),
            (serde_json::to_string_pretty(self)? + "\n").as_bytes(),
        )?;
        write(&folder.join("loss.svg"), curve(self.epochs).as_bytes())?;
        if !self.valid.confusion.is_empty() {
            write(
                &folder.join("confusion.svg"),
                matrix(self.labels, &self.valid.confusion).as_bytes(),
            )?;
        }
        Ok(())
    }
}

const FONT: &str = "font-family=\"sans-serif\" font-size=\"12\"";

/// Training loss and validation macro-F1 by epoch.
fn curve(epochs: &[Epoch]) -> String {
    const WIDTH: f64 = 480.0;
    const HEIGHT: f64 = 240.0;
    let top = epochs.iter().map(|epoch| epoch.loss).fold(1.0, f64::max);
    let step = WIDTH / (epochs.len().max(2) - 1) as f64;
    let line = |value: &dyn Fn(&Epoch) -> f64| -> String {
        let points = epochs.iter().enumerate().map(|(index, epoch)| {
            format!(
                "{:.1},{:.1}",
                40.0 + index as f64 * step,
                20.0 + HEIGHT * (1.0 - value(epoch))
            )
        });
        points.collect::<Vec<_>>().join(" ")
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 560 310\" {FONT}>\n\
         <rect width=\"560\" height=\"310\" fill=\"white\"/>\n\
         <rect x=\"40\" y=\"20\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#999\"/>\n\
         <text x=\"36\" y=\"24\" text-anchor=\"end\">1</text><text x=\"36\" y=\"264\" text-anchor=\"end\">0</text>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#c33\" stroke-width=\"2\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#36c\" stroke-width=\"2\"/>\n\
         <text x=\"40\" y=\"290\" fill=\"#c33\">training loss / {top:.3}</text>\n\
         <text x=\"220\" y=\"290\" fill=\"#36c\">validation macro-F1</text>\n</svg>\n",
        line(&|epoch| epoch.loss / top),
        line(&|epoch| epoch.valid.macro_f1),
    )
}

/// The confusion matrix, each row shaded by its shares.
fn matrix(labels: &[String], confusion: &[Vec<u64>]) -> String {
    const CELL: usize = 56;
    const LEFT: usize = 120;
    let side = CELL * labels.len();
    let (width, height) = (LEFT + side + 20, side + 80);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" {FONT}>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"16\">true class (rows), predicted class (columns)</text>\n"
    );
    for (row, (label, counts)) in labels.iter().zip(confusion).enumerate() {
        let (label, y) = (escape(label), 50 + row * CELL);
        let total = counts.iter().sum::<u64>().max(1) as f64;
        // Writing to a string can't fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6,
            y + CELL / 2
        );
        let x = LEFT + row * CELL + CELL / 2;
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"40\" text-anchor=\"middle\" font-size=\"10\">{label}</text>"
        );
        for (column, &count) in counts.iter().enumerate() {
            let (x, share) = (LEFT + column * CELL, count as f64 / total);
            let ink = if share > 0.5 { "white" } else { "black" };
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"#36c\" fill-opacity=\"{share:.3}\" stroke=\"#ccc\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{ink}\">{count}</text>",
                x + CELL / 2,
                y + CELL / 2 + 4
            );
        }
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
