//! The best split of a node.

/// Values closer together than this are not split, as in scikit-learn.
pub(super) const CLOSEST: f32 = 1e-7;

/// A row's value of a feature that is considered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) value: f32,
    pub(super) class: u32,
    pub(super) weight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Split {
    pub(super) feature: u32,
    pub(super) threshold: f32,
    /// What is maximised: the sum of the squared class weights divided by the weight, summed over both sides.
    pub(super) purity: f64,
}

/// The best split of a node of `rows` rows with the class weights `counts`, by features and the entries of each.
pub(super) fn best_split(rows: usize, counts: &[f64], entries: &mut [Vec<Entry>], features: &[u32]) -> Option<Split> {
    let all: f64 = counts.iter().sum();
    let mut best: Option<Split> = None;
    let mut right = vec![0.0; counts.len()];
    let mut left = vec![0.0; counts.len()];
    for (entries, &feature) in entries.iter_mut().zip(features) {
        if entries.is_empty() {
            continue;
        }
        entries.sort_unstable_by(|one, other| one.value.total_cmp(&other.value));
        right.fill(0.0);
        for entry in &*entries {
            right[entry.class as usize] += entry.weight;
        }
        let mut right_all: f64 = right.iter().sum();
        for ((left, right), count) in left.iter_mut().zip(&right).zip(counts) {
            *left = count - right;
        }
        let mut squares = (square(&left), square(&right));
        // The rows without the feature have the value 0.
        let mut value = 0.0;
        let mut split_here = entries.len() < rows;
        for entry in &*entries {
            if split_here && entry.value - value > CLOSEST {
                let purity = squares.0 / (all - right_all) + squares.1 / right_all;
                if best.is_none_or(|best| purity > best.purity) {
                    let middle = 0.5 * (value + entry.value);
                    best = Some(Split {
                        feature,
                        threshold: if middle < entry.value { middle } else { value },
                        purity,
                    });
                }
            }
            split_here = true;
            value = entry.value;
            let (class, weight) = (entry.class as usize, entry.weight);
            squares.0 += weight * (2.0 * left[class] + weight);
            squares.1 -= weight * (2.0 * right[class] - weight);
            left[class] += weight;
            right[class] -= weight;
            right_all -= weight;
        }
    }
    best
}

fn square(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum()
}
