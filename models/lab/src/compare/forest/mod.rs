//! The random forest, equivalent to scikit-learn's `RandomForestClassifier`, on sparse rows.
//!
//! L. Breiman, *Random Forests*, Machine Learning 45, 2001. Each tree is grown on a bootstrap sample of the rows. Each node
//! considers the square root of the number of features, drawn without replacement, and uses the split with the least Gini
//! impurity. The forest's probabilities are the means of its trees'.
//!
//! A node's random numbers depend only on the tree's seed and the node's place. So a tree of depth 20 is the upper part of
//! the same tree of a greater depth, and the first 50 trees of a forest are the forest of 50. Therefore one forest is grown,
//! and the best number of trees and depth are chosen by the out-of-bag rows.

mod grower;
mod split;
mod tree;

use rayon::prelude::*;

use self::{grower::Grower, tree::Tree};
use super::sparse::{Row, Rows};
use crate::metrics;

/// Rows that one task handles.
const CHUNK: usize = 64;

/// The size of a forest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Trees.
    pub(crate) trees: usize,
    /// The most splits from the root to a leaf; `None` for no limit.
    pub(crate) depth: Option<usize>,
}

/// A trained forest.
#[derive(Debug, Clone)]
pub(crate) struct Forest {
    trees: Vec<Tree>,
    classes: usize,
    width: usize,
}

/// A forest of the size with the best out-of-bag figure.
#[derive(Debug, Clone)]
pub(crate) struct Tuned {
    /// The forest.
    pub(crate) forest: Forest,
    /// Its size.
    pub(crate) size: Size,
    /// Each row's out-of-bag probabilities; empty for a row in the bag of every tree.
    pub(crate) out_of_bag: Vec<Vec<f32>>,
}

/// The out-of-bag figure of a size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutOfBag {
    /// The size.
    pub(crate) size: Size,
    /// The macro-F1 on the rows that are out of bag for at least one tree.
    pub(crate) macro_f1: f64,
}

impl Forest {
    /// Grows a forest of this size on rows of the classes `truth`, each below `classes`.
    #[cfg(test)]
    pub(crate) fn train(rows: &Rows, truth: &[usize], classes: usize, size: Size, seed: u64) -> Self {
        let positions: Vec<usize> = (0..rows.len()).collect();
        let bags: Vec<Vec<u32>> = (0..size.trees)
            .map(|tree| bag(rows.len(), &positions, tree_seed(seed, tree)))
            .collect();
        Self::grow(rows, truth, classes, size, &[], &bags, seed)
    }

    /// Grows the forest of the size with the best out-of-bag figure, out of `trees` and `depths`. Each tree's rows are drawn
    /// from `positions`, which may contain a row more than once.
    pub(crate) fn tuned(
        rows: &Rows,
        truth: &[usize],
        classes: usize,
        positions: &[usize],
        trees: &[usize],
        depths: &[Option<usize>],
        seed: u64,
    ) -> Tuned {
        let largest = Size {
            trees: trees.iter().copied().max().unwrap_or(1),
            // An unlimited depth, where there is one, is the largest.
            depth: depths
                .iter()
                .copied()
                .max_by_key(|depth| depth.unwrap_or(usize::MAX))
                .flatten(),
        };
        let cuts: Vec<usize> = depths.iter().copied().flatten().collect();
        let bags: Vec<Vec<u32>> = (0..largest.trees)
            .into_par_iter()
            .map(|tree| bag(rows.len(), positions, tree_seed(seed, tree)))
            .collect();
        let mut forest = Self::grow(rows, truth, classes, largest, &cuts, &bags, seed);
        let (reached, predicted) = forest.out_of_bag(rows, truth, trees, depths, &bags);
        let scores: Vec<f64> = reached.iter().map(|reached| reached.macro_f1).collect();
        let best = highest(&scores);
        let size = reached.get(best).map_or(largest, |reached| reached.size);
        let out_of_bag = predicted
            .into_iter()
            .map(|mut predicted| predicted.swap_remove(best))
            .collect();
        forest.trees.truncate(size.trees);
        if let Some(depth) = size.depth {
            forest.trees.par_iter_mut().for_each(|tree| *tree = tree.cut(depth));
        }
        Tuned {
            forest,
            size,
            out_of_bag,
        }
    }

    /// Grows a tree on each of `bags`, which have the count of each row. Nodes at the depths `cuts` keep their class shares, so
    /// that trees can be cut there.
    fn grow(
        rows: &Rows,
        truth: &[usize],
        classes: usize,
        size: Size,
        cuts: &[usize],
        bags: &[Vec<u32>],
        seed: u64,
    ) -> Self {
        let columns = rows.transposed();
        let grower = Grower::new(rows, &columns, truth, classes, size.depth, cuts);
        let trees = bags
            .par_iter()
            .enumerate()
            .map_init(
                || grower.scratch(),
                |scratch, (tree, bag)| grower.grow(bag, tree_seed(seed, tree), scratch),
            )
            .collect();
        Self {
            trees,
            classes,
            width: rows.width(),
        }
    }

    /// The out-of-bag macro-F1 of every size, and each row's out-of-bag probabilities by every size.
    fn out_of_bag(
        &self,
        rows: &Rows,
        truth: &[usize],
        trees: &[usize],
        depths: &[Option<usize>],
        bags: &[Vec<u32>],
    ) -> (Vec<OutOfBag>, Vec<Vec<Vec<f32>>>) {
        let sizes: Vec<Size> = trees
            .iter()
            .flat_map(|&trees| depths.iter().map(move |&depth| Size { trees, depth }))
            .collect();
        // For each row the probabilities by each size; empty if the row is in the bag of all its trees.
        let predicted: Vec<Vec<Vec<f32>>> = self.each_row(rows, |at, dense| {
            let mut sums = vec![vec![0.0; self.classes]; depths.len()];
            let mut predicted = vec![Vec::new(); sizes.len()];
            let mut voters = 0.0;
            for (number, (tree, bag)) in (1..).zip(self.trees.iter().zip(bags)) {
                if bag[at] == 0 {
                    voters += 1.0;
                    for (sum, &depth) in sums.iter_mut().zip(depths) {
                        tree.add_probabilities(dense, depth, sum);
                    }
                }
                for (predicted, size) in predicted.iter_mut().zip(&sizes) {
                    let sum = depths.iter().position(|&depth| depth == size.depth).map(|at| &sums[at]);
                    if let Some(sum) = sum
                        && size.trees == number
                        && voters > 0.0
                    {
                        *predicted = sum.iter().map(|sum| (sum / voters) as f32).collect();
                    }
                }
            }
            predicted
        });
        let labels: Vec<String> = (0..self.classes).map(|class| class.to_string()).collect();
        let reached = sizes
            .iter()
            .enumerate()
            .map(|(at, &size)| {
                let out_of_bag = predicted
                    .iter()
                    .zip(truth)
                    .filter(|(predicted, _)| !predicted[at].is_empty());
                let (truth, predicted): (Vec<usize>, Vec<usize>) = out_of_bag
                    .map(|(predicted, &truth)| (truth, highest(&predicted[at])))
                    .unzip();
                OutOfBag {
                    size,
                    macro_f1: metrics::single_label(&labels, &truth, &predicted).macro_f1,
                }
            })
            .collect();
        (reached, predicted)
    }

    /// The probability of each class, for every row.
    pub(crate) fn probabilities(&self, rows: &Rows) -> Vec<Vec<f64>> {
        self.each_row(rows, |_, dense| self.row_probabilities(dense))
    }

    /// The probability of each class for one row. `buffer` has a value for each feature and is all zero before and after.
    pub(crate) fn probabilities_of(&self, row: Row<'_>, buffer: &mut Vec<f32>) -> Vec<f64> {
        buffer.resize(self.width, 0.0);
        scatter(row, buffer);
        let probabilities = self.row_probabilities(buffer);
        clear(row, buffer);
        probabilities
    }

    fn row_probabilities(&self, dense: &[f32]) -> Vec<f64> {
        let mut probabilities = vec![0.0; self.classes];
        for tree in &self.trees {
            tree.add_probabilities(dense, None, &mut probabilities);
        }
        probabilities
            .iter_mut()
            .for_each(|chance| *chance /= self.trees.len() as f64);
        probabilities
    }

    /// Calls `of` with each row in dense form.
    fn each_row<T: Send>(&self, rows: &Rows, of: impl Fn(usize, &[f32]) -> T + Sync) -> Vec<T> {
        let chunks: Vec<usize> = (0..rows.len()).step_by(CHUNK).collect();
        let made: Vec<Vec<T>> = chunks
            .into_par_iter()
            .map_init(
                || vec![0.0; self.width],
                |dense, start| {
                    (start..rows.len().min(start + CHUNK))
                        .map(|at| {
                            let row = rows.row(at);
                            scatter(row, dense);
                            let made = of(at, dense);
                            clear(row, dense);
                            made
                        })
                        .collect()
                },
            )
            .collect();
        made.into_iter().flatten().collect()
    }

    /// The size of its nodes in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.trees.iter().map(Tree::bytes).sum()
    }
}

/// The position of the highest value, the first of several; 0 if there are none.
pub(crate) fn highest<T: PartialOrd>(values: &[T]) -> usize {
    let mut best = 0;
    for (at, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = at;
        }
    }
    best
}

fn scatter(row: Row<'_>, dense: &mut [f32]) {
    for (column, value) in row.iter() {
        dense[column as usize] = value;
    }
}

fn clear(row: Row<'_>, dense: &mut [f32]) {
    for &column in row.columns {
        dense[column as usize] = 0.0;
    }
}

fn tree_seed(seed: u64, tree: usize) -> u64 {
    Random::new(seed ^ (tree as u64).wrapping_mul(0xD129_0C4A_4E5A_4D35)).next()
}

/// A bootstrap sample: how often each row was drawn from `positions`.
fn bag(rows: usize, positions: &[usize], seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    let mut counts = vec![0; rows];
    for _ in positions {
        counts[positions[random.below(positions.len())]] += 1;
    }
    counts
}

/// SplitMix64, which costs nothing to seed for each node.
#[derive(Debug, Clone, Copy)]
struct Random(u64);

impl Random {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let value = self.0;
        let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    /// A number below `bound`, by the high bits of a product; the bias is below 2^-32 for any bound here.
    const fn below(&mut self, bound: usize) -> usize {
        ((self.next() as u128 * bound as u128) >> 64) as usize
    }

    /// A number in `0..1`.
    const fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compare::testing::random_rows;

    const FULL: Size = Size { trees: 12, depth: None };

    /// Leaves are pure, so a tree is right about the rows in its bag, unless equal rows have different classes.
    #[test]
    fn a_full_forest_is_right_about_most_training_rows() {
        let (rows, truth) = random_rows(3, 200, 60, 4);
        let forest = Forest::train(&rows, &truth, 4, FULL, 1);
        let right = forest
            .probabilities(&rows)
            .iter()
            .zip(&truth)
            .filter(|(probabilities, truth)| highest(probabilities) == **truth)
            .count();
        assert!(right > 160, "{right} of 200");
    }

    #[test]
    fn collecting_by_columns_and_by_rows_gives_the_same_split() {
        let (rows, truth) = random_rows(5, 300, 25, 3);
        let columns = rows.transposed();
        let grower = Grower::new(&rows, &columns, &truth, 3, None, &[]);
        grower.check_both_ways(7);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn chances_add_up_to_one(seed in any::<u64>(), depth in prop::sample::select(vec![Some(0), Some(3), None])) {
            let (rows, truth) = random_rows(seed, 60, 20, 5);
            let forest = Forest::train(&rows, &truth, 5, Size { trees: 5, depth }, seed);
            let mut buffer = Vec::new();
            for (at, probabilities) in forest.probabilities(&rows).into_iter().enumerate() {
                prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5);
                prop_assert_eq!(&probabilities, &forest.probabilities_of(rows.row(at), &mut buffer));
            }
            prop_assert!(buffer.iter().all(|&value| value == 0.0));
        }

        #[test]
        fn a_forest_cut_to_a_size_equals_one_grown_at_that_size(seed in any::<u64>()) {
            let (rows, truth) = random_rows(seed, 80, 30, 3);
            let Tuned { forest: kept, size, out_of_bag } = Forest::tuned(&rows, &truth, 3, &(0..80).collect::<Vec<_>>(), &[3, 6], &[Some(2), Some(5), None], seed);
            prop_assert_eq!(out_of_bag.len(), 80);
            for probabilities in out_of_bag.iter().filter(|probabilities| !probabilities.is_empty()) {
                prop_assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            }
            let grown = Forest::train(&rows, &truth, 3, size, seed);
            prop_assert_eq!(kept.trees.len(), size.trees);
            prop_assert_eq!(kept.probabilities(&rows), grown.probabilities(&rows));
        }
    }
}
