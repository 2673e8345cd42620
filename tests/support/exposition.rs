//! Parses `/metrics`: the parts of Prometheus's text format that this service uses.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>
//!
//! Uses only the standard library, so that tests, benches and the demo can include it by path.
#![allow(dead_code, unreachable_pub)]

use std::{borrow::Cow, collections::BTreeMap};

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The name; for a histogram, including `_bucket`, `_sum` or `_count`.
    pub name: &'a str,
    /// Its labels, in order.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// Its value.
    pub value: f64,
}

impl Sample<'_> {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(label, _)| *label == name)
            .map(|(_, value)| value.as_ref())
    }
}

/// The samples of a page, in order. Comments and invalid lines are skipped.
pub fn samples(page: &str) -> impl Iterator<Item = Sample<'_>> {
    page.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let named = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(named);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A timestamp may follow the value.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    (!name.is_empty()).then_some(Sample { name, labels, value })
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// Parses `a="x",b="y"} 1`: returns the labels and the text after the brace.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, value) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = value.bytes().position(|byte| {
            let quote = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            quote
        })?;
        labels.push((name, unescape(&value[..end])));
        rest = &value[end + 1..];
    }
}

fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            other => plain.push(other),
        }
    }
    Cow::Owned(plain)
}

/// The sum of a metric over all its labels; 0 if it is absent.
#[must_use]
pub fn total(page: &str, name: &str) -> f64 {
    samples(page)
        .filter(|sample| sample.name == name)
        .map(|sample| sample.value)
        .sum()
}

/// A metric by the values of one label, summed over the others.
#[must_use]
pub fn by_label(page: &str, name: &str, label: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    for sample in samples(page).filter(|sample| sample.name == name) {
        if let Some(value) = sample.label(label) {
            *values.entry(value.to_owned()).or_default() += sample.value;
        }
    }
    values
}
