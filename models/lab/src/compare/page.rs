//! The figures as an HTML page: bars with intervals, and confusion matrices side by side.

use std::fmt::Write as _;

use super::report::{Difference, Interval, ModelReport, Report};

/// In pixels: the length of a full bar, the height of a line, and the space on the left.
const BAR: f64 = 480.0;
const LINE: usize = 34;
const LEFT: usize = 260;

/// A matrix with at most this many labels shows the counts as numbers.
const NUMBERED: usize = 16;

/// The page as one HTML file without scripts.
pub(super) fn page(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Models compared on {}</title>\n<style>\n\
         body {{ font: 14px sans-serif; margin: 2em; max-width: 80em; }}\n\
         .matrices {{ display: flex; flex-wrap: wrap; gap: 2em; }}\n\
         figure {{ margin: 0; }}\nfigcaption {{ font-weight: bold; margin-bottom: .5em; }}\nsvg text {{ font: 11px sans-serif; }}\n\
         </style>\n</head>\n<body>\n<h1>Models compared on {}</h1>\n",
        escape(&report.data.train.join(", ")),
        escape(&report.data.train.join(", "))
    );
    let _ = writeln!(
        out,
        "<p>{} training posts, {} test posts, {} labels. The bars show the macro-F1 on the test part, with the 95 % interval \
         of the bootstrap; the mark below shows mean and standard deviation over the folds of the training part. A grey \
         bar means that the model does not differ significantly from the best, {} (paired bootstrap, 5 % over all comparisons).</p>",
        report.data.train_posts,
        report.data.test_posts,
        report.data.labels.len(),
        escape(&report.best)
    );
    bars(&report.models, &mut out);
    out.push_str("<h2>Confusion matrices</h2>\n<p>Rows: true label; columns: predicted label; shades: share of the row.</p>\n<div class=\"matrices\">\n");
    for model in &report.models {
        matrix(model, &mut out);
    }
    out.push_str("</div>\n</body>\n</html>\n");
    out
}

fn bars(models: &[ModelReport], out: &mut String) {
    let (width, height) = (LEFT + BAR as usize + 120, LINE * models.len() + 30);
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"Macro-F1 by model\">"
    );
    for tenth in 0..=10 {
        let x = LEFT as f64 + BAR * f64::from(tenth) / 10.0;
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"0\" y2=\"{0}\" stroke=\"#ddd\"/><text x=\"{x}\" y=\"{1}\" text-anchor=\"middle\">{2:.1}</text>",
            height - 25,
            height - 8,
            f64::from(tenth) / 10.0
        );
    }
    for (at, model) in models.iter().enumerate() {
        let y = at * LINE + 6;
        let Interval { low, high } = model.test.macro_f1_interval;
        let (f1, x) = (model.test.macro_f1, |value: f64| LEFT as f64 + BAR * value);
        let may_be_chance = matches!(model.against_best, Some(Difference { differs: false, .. }));
        let fill = if may_be_chance { "#999" } else { "#36c" };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" fill=\"{fill}\"/>",
            LEFT - 8,
            y + 12,
            escape(&model.name),
            BAR * f1
        );
        whisker(out, (x(low), x(high)), y as f64 + 7.0, "#000");
        if let Some(cv) = &model.cv {
            let middle = y as f64 + 20.0;
            whisker(out, (x((cv.mean - cv.sd).max(0.0)), x(cv.mean + cv.sd)), middle, "#c33");
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"2.5\" fill=\"#c33\"/>",
                x(cv.mean)
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\">{f1:.4}</text>",
            x(high.max(f1)) + 8.0,
            y + 12
        );
    }
    out.push_str("</svg>\n");
}

fn whisker(out: &mut String, (from, to): (f64, f64), y: f64, colour: &str) {
    let _ = writeln!(
        out,
        "<path d=\"M{from:.1} {y}H{to:.1}M{from:.1} {0}v6M{to:.1} {0}v6\" stroke=\"{colour}\" fill=\"none\"/>",
        y - 3.0
    );
}

fn matrix(model: &ModelReport, out: &mut String) {
    let labels: Vec<String> = model.test.classes.iter().map(|class| escape(&class.label)).collect();
    let cell = if labels.len() <= NUMBERED {
        34
    } else {
        (600 / labels.len()).max(2)
    };
    let named = cell >= 10;
    let (left, top) = if named { (100, 80) } else { (4, 4) };
    let (width, height) = (left + cell * labels.len() + 4, top + cell * labels.len() + 4);
    let _ = writeln!(
        out,
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">",
        escape(&model.name)
    );
    for (row, counts) in model.test.confusion.iter().enumerate() {
        let y = top + row * cell;
        if named {
            let x = left + row * cell + cell / 2;
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text><text transform=\"translate({x},{}) rotate(-60)\">{label}</text>",
                left - 6,
                y + cell / 2 + 4,
                top - 6,
                label = labels[row]
            );
        }
        let all = counts.iter().sum::<u64>().max(1) as f64;
        for (column, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (x, share) = (left + column * cell, count as f64 / all);
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{cell}\" height=\"{cell}\" fill=\"#36c\" fill-opacity=\"{share:.3}\"/>"
            );
            if labels.len() <= NUMBERED {
                let _ = writeln!(
                    out,
                    "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{}\">{count}</text>",
                    x + cell / 2,
                    y + cell / 2 + 4,
                    if share > 0.5 { "#fff" } else { "#000" }
                );
            }
        }
    }
    let side = cell * labels.len();
    let _ = writeln!(
        out,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{side}\" height=\"{side}\" fill=\"none\" stroke=\"#999\"/></svg></figure>"
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
