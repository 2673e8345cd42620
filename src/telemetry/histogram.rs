//! A histogram that this process can read, unlike those of the metrics recorder.

/// Counts of observations by bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds of the buckets, inclusive, in order.
    bounds: &'static [f64],
    /// One more than there are bounds: the last is for observations above all of them.
    counts: Vec<u64>,
}

impl Histogram {
    /// Creates a histogram without observations; `bounds` must be in order.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
        }
    }

    /// Counts an observation.
    pub fn record(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
    }

    /// The number of observations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The observations since `earlier`, a previous state of this histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts);
        Self {
            bounds: self.bounds,
            counts: counts.map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    /// The `q`-quantile, 0 <= `q` <= 1, as estimated by PromQL's `histogram_quantile`, which assumes an even distribution within
    /// a bucket. `None` without observations; the highest bound if it lies above that.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // counts stay far below 2⁵³
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(lower + (bound - lower) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            (lower, below) = (*bound, below + count);
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated_within_a_bucket() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        assert_eq!(histogram.quantile(0.5), None);
        for value in [0.3, 1.0, 1.1, 1.2, 1.9, 2.0, 7.0, f64::INFINITY] {
            histogram.record(value);
        }
        assert_eq!(histogram.total(), 8);
        assert_eq!(histogram.quantile(0.125), Some(0.5));
        assert_eq!(histogram.quantile(0.5), Some(1.5));
        assert_eq!(histogram.quantile(0.99), Some(2.0), "above the highest bound");
    }

    #[test]
    fn earlier_observations_are_subtracted() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        histogram.record(5.0);
        let earlier = histogram.clone();
        assert_eq!(histogram.since(&earlier).quantile(0.5), None);
        histogram.record(0.5);
        assert_eq!(histogram.since(&earlier).quantile(1.0), Some(1.0));
    }
}
