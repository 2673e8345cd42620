//! Over-sampling of rows.

use rand::Rng as _;

use crate::prepare;

/// How many rows of each class a model is trained on. Over-sampling happens separately in each training part, also in the
/// inner folds of tuning, so that no model is evaluated on a copy of a row that it was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Balance {
    /// All rows, once.
    AsIs,
    /// As many as the largest class has: rows of other classes are drawn at random and repeated.
    OverSampled,
}

impl Balance {
    /// The positions of the rows to train on: first each once, then the repeated ones.
    pub(super) fn positions(self, truth: &[usize], classes: usize, seed: u64) -> Vec<usize> {
        let mut positions: Vec<usize> = (0..truth.len()).collect();
        if self == Self::AsIs {
            return positions;
        }
        let mut random = prepare::random(seed, 48);
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); classes];
        truth
            .iter()
            .enumerate()
            .for_each(|(at, &class)| members[class].push(at));
        let largest = members.iter().map(Vec::len).max().unwrap_or(0);
        for of_class in members.iter().filter(|of_class| !of_class.is_empty()) {
            positions.extend((of_class.len()..largest).map(|_| of_class[random.random_range(0..of_class.len())]));
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_gets_as_many_rows_as_the_largest() {
        let truth = [0, 1, 0, 0, 3, 1];
        let positions = Balance::OverSampled.positions(&truth, 4, 1);
        assert_eq!(positions[..6], [0, 1, 2, 3, 4, 5]);
        let count = |class| positions.iter().filter(|&&at| truth[at] == class).count();
        assert_eq!([0, 1, 2, 3].map(count), [3, 3, 0, 3]);
        assert_eq!(Balance::AsIs.positions(&truth, 4, 1), [0, 1, 2, 3, 4, 5]);
    }
}
