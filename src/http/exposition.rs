//! Reading what `/metrics` says: the text format of Prometheus, as far as this service writes it.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::{borrow::Cow, collections::BTreeMap};

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The name: of a histogram with `_bucket`, `_sum` or `_count`.
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

/// The samples of a page, in its order; comments and lines that are none are passed over.
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

/// `a="x",b="y"} 1`: the labels, and what follows the brace.
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

/// The sum of a metric over all its labels; 0 where it is absent.
#[must_use]
pub fn total(page: &str, name: &str) -> f64 {
    samples(page)
        .filter(|sample| sample.name == name)
        .map(|sample| sample.value)
        .sum()
}

/// A metric by the values of one label, added up over the others.
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

/// The cumulative counts of a histogram: pairs of an upper bound and how many observations lie at or below it,
/// added up over its labels, in order of the bounds, the last of which is infinite.
#[must_use]
pub fn buckets(page: &str, name: &str) -> Vec<(f64, f64)> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    let found = samples(page).filter(|sample| sample.name.strip_suffix("_bucket") == Some(name));
    for sample in found {
        // Rust reads "+Inf" as well.
        let Some(bound) = sample.label("le").and_then(|bound| bound.parse::<f64>().ok()) else {
            continue;
        };
        match buckets.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, count)) => *count += sample.value,
            None => buckets.push((bound, sample.value)),
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets
}

/// The `q`-quantile of a histogram, 0 <= `q` <= 1, as PromQL's `histogram_quantile` estimates it: evenly spread within a
/// bucket. `None` without observations; the highest finite bound for what lies above it.
#[must_use]
pub fn quantile(q: f64, buckets: &[(f64, f64)]) -> Option<f64> {
    let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let rank = q.clamp(0.0, 1.0) * all;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && *count > below {
            if bound.is_infinite() {
                return Some(lower);
            }
            return Some(lower + (bound - lower) * ((rank - below) / (count - below)).clamp(0.0, 1.0));
        }
        (lower, below) = (if bound.is_infinite() { lower } else { *bound }, *count);
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP rejects_total Rejected records by reason.\n\
        # TYPE rejects_total counter\n\
        rejects_total{reason=\"not_json\"} 12\n\
        rejects_total{topic=\"a\",reason=\"no_text\"} 3\n\
        rejects_total{reason=\"a \\\"b\\\\\\n,c}\"} 1\n\
        rejects_total_other{reason=\"x\"} 9\n\
        letters_total 15 1700000000000\n\
        broken{reason=\"x\n\
        delay_bucket{le=\"1\"} 2\n\
        delay_bucket{le=\"2\"} 6\n\
        delay_bucket{le=\"+Inf\"} 8\n";

    #[test]
    fn samples_are_read_by_label_and_in_all() {
        let rejects = by_label(PAGE, "rejects_total", "reason");
        let expected = [("a \"b\\\n,c}", 1.0), ("no_text", 3.0), ("not_json", 12.0)];
        assert_eq!(rejects, expected.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(total(PAGE, "letters_total"), 15.0);
        assert_eq!(total(PAGE, "rejects_total"), 16.0);
        assert_eq!(total(PAGE, "absent_total"), 0.0);
    }

    #[test]
    fn quantiles_are_spread_within_a_bucket() {
        let buckets = buckets(PAGE, "delay");
        assert_eq!(buckets, [(1.0, 2.0), (2.0, 6.0), (f64::INFINITY, 8.0)]);
        assert_eq!(quantile(0.125, &buckets), Some(0.5));
        assert_eq!(quantile(0.5, &buckets), Some(1.5));
        assert_eq!(quantile(0.99, &buckets), Some(2.0), "above the highest finite bound");
        assert_eq!(quantile(0.5, &[]), None);
        assert_eq!(quantile(0.5, &[(1.0, 0.0), (f64::INFINITY, 0.0)]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_page_is_read(page in ".{0,300}") {
            let _ = samples(&page).count();
        }

        #[test]
        fn any_label_comes_back(value in "[^\r\n]{0,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            let page = format!("m{{a=\"{escaped}\",b=\"1\"}} 4\n");
            let read: Vec<_> = samples(&page).collect();
            // Other line breaks than \n end no line of the format, but do one of str::lines: only \r\n and \n.
            proptest::prop_assert_eq!(read.len(), 1);
            proptest::prop_assert_eq!(read[0].label("a"), Some(value.as_str()));
        }
    }
}
