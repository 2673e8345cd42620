//! The random forest: `RandomForestClassifier` of scikit-learn, on sparse rows.
//!
//! L. Breiman, *Random Forests*, Machine Learning 45, 2001. Each tree grows on as many rows as there are, drawn with
//! replacement; each node looks at the square root of the number of features, drawn without replacement, and takes the split
//! that leaves the least Gini impurity. The forest's probabilities are the means of its trees'.
//!
//! A node's random numbers depend on the tree's seed and the node's place alone. So a tree of depth 20 is the upper part of
//! the same tree of any depth, and the first 50 trees of a forest are the forest of 50: one forest is grown, and how many of
//! its trees and how much of their depth is best is judged on the rows that each tree did not see (out of bag).

mod tree;

use rayon::prelude::*;

use self::tree::{Grower, Tree};
use super::sparse::{Row, Rows};
use crate::metrics;

/// Rows that one task handles.
const CHUNK: usize = 64;

/// How large a forest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Trees.
    pub(crate) trees: usize,
    /// Splits from the root to a leaf at most; `None` until leaves are pure.
    pub(crate) depth: Option<usize>,
}

/// A trained forest.
#[derive(Debug, Clone)]
pub(crate) struct Forest {
    trees: Vec<Tree>,
    classes: usize,
    width: usize,
}

/// A forest of the size that is best out of bag.
#[derive(Debug, Clone)]
pub(crate) struct Tuned {
    /// The forest.
    pub(crate) forest: Forest,
    /// Its size.
    pub(crate) size: Size,
    /// Each row's probabilities by the trees that did not see it; empty where all did.
    pub(crate) unseen: Vec<Vec<f32>>,
}

/// What out-of-bag rows say of a forest's size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutOfBag {
    /// The size.
    pub(crate) size: Size,
    /// The macro-F1 on the rows that at least one tree did not see.
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

    /// Grows the forest of the size that is best out of bag: one of `trees` and of `depths`. Each tree's rows are drawn from
    /// those at `positions`, which may name a row more than once.
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
        let (reached, said) = forest.out_of_bag(rows, truth, trees, depths, &bags);
        let scores: Vec<f64> = reached.iter().map(|reached| reached.macro_f1).collect();
        let best = highest(&scores);
        let size = reached.get(best).map_or(largest, |reached| reached.size);
        let unseen = said.into_iter().map(|mut said| said.swap_remove(best)).collect();
        forest.trees.truncate(size.trees);
        if let Some(depth) = size.depth {
            forest.trees.par_iter_mut().for_each(|tree| *tree = tree.cut(depth));
        }
        Tuned { forest, size, unseen }
    }

    /// Grows a tree on each of `bags`, how often it counts each row. Keeps what every node at the depths `cuts` is made of, so
    /// that trees may be cut there.
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

    /// The macro-F1 of every size, on the rows that trees did not see, and each row's probabilities by every size.
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
        // For each row the probabilities by each size; empty where all trees saw the row.
        let said: Vec<Vec<Vec<f32>>> = self.each_row(rows, |at, dense| {
            let mut sums = vec![vec![0.0; self.classes]; depths.len()];
            let mut said = vec![Vec::new(); sizes.len()];
            let mut judges = 0.0;
            for (number, (tree, bag)) in (1..).zip(self.trees.iter().zip(bags)) {
                if bag[at] == 0 {
                    judges += 1.0;
                    for (sum, &depth) in sums.iter_mut().zip(depths) {
                        tree.add_chances(dense, depth, sum);
                    }
                }
                for (said, size) in said.iter_mut().zip(&sizes) {
                    let sum = depths.iter().position(|&depth| depth == size.depth).map(|at| &sums[at]);
                    if let Some(sum) = sum
                        && size.trees == number
                        && judges > 0.0
                    {
                        *said = sum.iter().map(|sum| (sum / judges) as f32).collect();
                    }
                }
            }
            said
        });
        let labels: Vec<String> = (0..self.classes).map(|class| class.to_string()).collect();
        let reached = sizes
            .iter()
            .enumerate()
            .map(|(at, &size)| {
                let judged = said.iter().zip(truth).filter(|(said, _)| !said[at].is_empty());
                let (truth, said): (Vec<usize>, Vec<usize>) =
                    judged.map(|(said, &truth)| (truth, highest(&said[at]))).unzip();
                OutOfBag {
                    size,
                    macro_f1: metrics::single_label(&labels, &truth, &said).macro_f1,
                }
            })
            .collect();
        (reached, said)
    }

    /// The probability of each class, for every row.
    pub(crate) fn chances(&self, rows: &Rows) -> Vec<Vec<f64>> {
        self.each_row(rows, |_, dense| self.row_chances(dense))
    }

    /// The probability of each class, of a row in a dense `buffer` of zeros, as long as there are features; it is zero again
    /// afterwards.
    pub(crate) fn chances_of(&self, row: Row<'_>, buffer: &mut Vec<f32>) -> Vec<f64> {
        buffer.resize(self.width, 0.0);
        scatter(row, buffer);
        let chances = self.row_chances(buffer);
        clear(row, buffer);
        chances
    }

    fn row_chances(&self, dense: &[f32]) -> Vec<f64> {
        let mut chances = vec![0.0; self.classes];
        for tree in &self.trees {
            tree.add_chances(dense, None, &mut chances);
        }
        chances.iter_mut().for_each(|chance| *chance /= self.trees.len() as f64);
        chances
    }

    /// What `of` makes of each row, in a dense form.
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

    /// Bytes of its nodes.
    pub(crate) fn bytes(&self) -> usize {
        self.trees.iter().map(Tree::bytes).sum()
    }
}

/// The position of the highest value, the first of equal ones; 0 of nothing.
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

/// How often each row was drawn, in as many draws as there are `positions`.
fn bag(rows: usize, positions: &[usize], seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    let mut counts = vec![0; rows];
    for _ in positions {
        counts[positions[random.below(positions.len())]] += 1;
    }
    counts
}

/// SplitMix64: a node's random numbers must cost nothing to begin.
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

    /// Leaves are pure: the trees that saw a row know it, so a forest does, where no other row is its equal.
    #[test]
    fn a_full_forest_knows_most_of_its_rows() {
        let (rows, truth) = random_rows(3, 200, 60, 4);
        let forest = Forest::train(&rows, &truth, 4, FULL, 1);
        let right = forest
            .chances(&rows)
            .iter()
            .zip(&truth)
            .filter(|(chances, truth)| highest(chances) == **truth)
            .count();
        assert!(right > 160, "{right} of 200");
    }

    #[test]
    fn columns_and_rows_lead_to_the_same_split() {
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
            for (at, chances) in forest.chances(&rows).into_iter().enumerate() {
                prop_assert!((chances.iter().sum::<f64>() - 1.0).abs() < 1e-5);
                prop_assert_eq!(&chances, &forest.chances_of(rows.row(at), &mut buffer));
            }
            prop_assert!(buffer.iter().all(|&value| value == 0.0));
        }

        /// What tuning keeps of a larger forest is the forest that would have been grown at that size.
        #[test]
        fn a_part_of_a_forest_is_the_smaller_forest(seed in any::<u64>()) {
            let (rows, truth) = random_rows(seed, 80, 30, 3);
            let Tuned { forest: kept, size, unseen } = Forest::tuned(&rows, &truth, 3, &(0..80).collect::<Vec<_>>(), &[3, 6], &[Some(2), Some(5), None], seed);
            prop_assert_eq!(unseen.len(), 80);
            for chances in unseen.iter().filter(|chances| !chances.is_empty()) {
                prop_assert!((chances.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            }
            let grown = Forest::train(&rows, &truth, 3, size, seed);
            prop_assert_eq!(kept.trees.len(), size.trees);
            prop_assert_eq!(kept.chances(&rows), grown.chances(&rows));
        }
    }
}
