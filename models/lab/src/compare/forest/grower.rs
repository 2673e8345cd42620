//! Grows trees.

use super::{
    super::sparse::Rows,
    Random,
    split::{CLOSEST, Entry, Split, best_split},
    tree::{LEAF, Node, Tree},
};

/// The cost of searching a row for a feature, in values read.
const SEARCH: usize = 8;

/// Grows trees on the same rows.
pub(super) struct Grower<'a> {
    rows: &'a Rows,
    columns: &'a Rows,
    truth: &'a [usize],
    classes: usize,
    depth: Option<usize>,
    cuts: &'a [usize],
    /// The number of features that a node considers.
    tried: usize,
    /// The mean cost of collecting a column's values in a node of up to `2^i` rows, in values read.
    column_costs: Vec<usize>,
}

/// Buffers that are reused between trees.
pub(super) struct Scratch {
    /// By row: the node that it is in.
    node: Vec<u32>,
    /// By row: whether it goes right.
    right: Vec<bool>,
    /// By feature: the number of the node (`visit`) in which it was seen last, and in how many of the node's rows.
    seen: Vec<(u32, u32)>,
    visit: u32,
    /// By feature: its position among those that are considered.
    slot: Vec<u32>,
    features: Vec<u32>,
    entries: Vec<Vec<Entry>>,
}

/// A node that is to be made.
struct PendingNode {
    from: usize,
    to: usize,
    depth: usize,
    seed: u64,
    parent: Option<(usize, bool)>,
}

impl<'a> Grower<'a> {
    pub(super) fn new(
        rows: &'a Rows,
        columns: &'a Rows,
        truth: &'a [usize],
        classes: usize,
        depth: Option<usize>,
        cuts: &'a [usize],
    ) -> Self {
        let mean = |members: usize| {
            let costs = columns.iter().map(|column| column.columns.len().min(SEARCH * members));
            costs.sum::<usize>() / columns.len().max(1) + 1
        };
        Self {
            rows,
            columns,
            truth,
            classes,
            depth,
            cuts,
            column_costs: (0..=rows.len().max(1).ilog2() + 1)
                .map(|power| mean(1 << power))
                .collect(),
            tried: (rows.width() as f64).sqrt().max(1.0) as usize,
        }
    }

    pub(super) fn scratch(&self) -> Scratch {
        Scratch {
            node: vec![u32::MAX; self.rows.len()],
            right: vec![false; self.rows.len()],
            seen: vec![(0, 0); self.rows.width()],
            visit: 0,
            slot: vec![u32::MAX; self.rows.width()],
            features: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Grows a tree on the rows of `bag`, which has the count of each row.
    pub(super) fn grow(&self, bag: &[u32], seed: u64, scratch: &mut Scratch) -> Tree {
        let mut tree = Tree::default();
        let mut order: Vec<u32> = (0..bag.len() as u32).filter(|&at| bag[at as usize] > 0).collect();
        scratch.node.fill(u32::MAX);
        let mut pending = vec![PendingNode {
            from: 0,
            to: order.len(),
            depth: 0,
            seed,
            parent: None,
        }];
        let mut counts = vec![0.0; self.classes];
        while let Some(PendingNode {
            from,
            to,
            depth,
            seed,
            parent,
        }) = pending.pop()
        {
            let place = tree.nodes.len();
            if let Some((parent, is_left)) = parent {
                let parent = &mut tree.nodes[parent];
                *(if is_left { &mut parent.left } else { &mut parent.right }) = place as u32;
            }
            let members = &mut order[from..to];
            counts.fill(0.0);
            for &at in &*members {
                counts[self.truth[at as usize]] += f64::from(bag[at as usize]);
            }
            let pure = counts.iter().filter(|&&count| count > 0.0).count() < 2;
            let mut random = Random::new(seed);
            let seeds = (random.next(), random.next());
            let split = match pure || self.depth.is_some_and(|most| depth >= most) {
                true => None,
                false => self.split(members, place as u32, bag, &counts, &mut random, scratch),
            };
            let mut shares = (0, 0);
            if split.is_none() || self.cuts.contains(&depth) {
                let all: f64 = counts.iter().sum();
                let start = tree.shares.len() as u32;
                let present = (0..).zip(&counts).filter(|(_, count)| **count > 0.0);
                tree.shares
                    .extend(present.map(|(class, count)| (class, (count / all) as f32)));
                shares = (start, tree.shares.len() as u32);
            }
            let Some(split) = split else {
                tree.nodes.push(Node {
                    feature: LEAF,
                    threshold: 0.0,
                    left: 0,
                    right: 0,
                    shares,
                });
                continue;
            };
            let middle = from + self.partition(members, split, scratch);
            tree.nodes.push(Node {
                feature: split.feature,
                threshold: split.threshold,
                left: 0,
                right: 0,
                shares,
            });
            for (from, to, seed, is_left) in [(middle, to, seeds.1, false), (from, middle, seeds.0, true)] {
                pending.push(PendingNode {
                    from,
                    to,
                    depth: depth + 1,
                    seed,
                    parent: Some((place, is_left)),
                });
            }
        }
        tree
    }

    fn value(&self, at: u32, feature: u32) -> f32 {
        let row = self.rows.row(at as usize);
        row.columns
            .binary_search(&feature)
            .map_or(0.0, |place| row.values[place])
    }

    /// Moves the rows that go left to the front and returns their number. A threshold is never below 0, the value of rows
    /// without the feature.
    fn partition(&self, members: &mut [u32], split: Split, scratch: &mut Scratch) -> usize {
        let column = self.columns.row(split.feature as usize);
        for (at, value) in column.iter() {
            scratch.right[at as usize] = value > split.threshold;
        }
        let mut left = 0;
        for at in 0..members.len() {
            if !scratch.right[members[at] as usize] {
                members.swap(at, left);
                left += 1;
            }
        }
        for &at in column.columns {
            scratch.right[at as usize] = false;
        }
        left
    }

    /// The best split by features drawn at random; `None` if all rows are equal.
    fn split(
        &self,
        members: &[u32],
        node: u32,
        bag: &[u32],
        counts: &[f64],
        random: &mut Random,
        scratch: &mut Scratch,
    ) -> Option<Split> {
        let values: usize = members.iter().map(|&at| self.rows.row(at as usize).columns.len()).sum();
        // Reads the drawn columns, or each row twice, whichever is less.
        let cost = self.column_costs[members.len().max(1).ilog2() as usize + 1];
        if 2 * values > self.tried * cost {
            self.draw(random, scratch);
            self.collect_by_columns(members, node, bag, scratch);
            if let Some(split) = best_split(members.len(), counts, &mut scratch.entries, &scratch.features) {
                return Some(split);
            }
        }
        // All drawn features have the same value in all rows, or there are few rows.
        self.choose_present(members, random, scratch)?;
        self.collect_by_rows(members, bag, scratch);
        best_split(members.len(), counts, &mut scratch.entries, &scratch.features)
    }

    /// Draws features without replacement.
    fn draw(&self, random: &mut Random, scratch: &mut Scratch) {
        scratch.visit += 1;
        scratch.features.clear();
        while scratch.features.len() < self.tried.min(self.rows.width()) {
            let feature = random.below(self.rows.width());
            if scratch.seen[feature].0 != scratch.visit {
                scratch.seen[feature].0 = scratch.visit;
                scratch.features.push(feature as u32);
            }
        }
    }

    fn collect_by_columns(&self, members: &[u32], node: u32, bag: &[u32], scratch: &mut Scratch) {
        for &at in members {
            scratch.node[at as usize] = node;
        }
        let entries = emptied(&mut scratch.entries, scratch.features.len());
        for (entries, &feature) in entries.iter_mut().zip(&scratch.features) {
            let column = self.columns.row(feature as usize);
            if column.columns.len() > SEARCH * members.len() {
                for &at in members {
                    let value = self.value(at, feature);
                    if value != 0.0 {
                        entries.push(self.entry(at, value, bag));
                    }
                }
                continue;
            }
            for (at, value) in column.iter() {
                if scratch.node[at as usize] == node {
                    entries.push(self.entry(at, value, bag));
                }
            }
        }
    }

    /// Draws from the features that differ between the rows as if drawing from all features, but at least one, since
    /// scikit-learn continues to draw until one differs. `None` if none does.
    fn choose_present(&self, members: &[u32], random: &mut Random, scratch: &mut Scratch) -> Option<()> {
        scratch.visit += 1;
        scratch.features.clear();
        for &at in members {
            for &column in self.rows.row(at as usize).columns {
                let seen = &mut scratch.seen[column as usize];
                if seen.0 != scratch.visit {
                    *seen = (scratch.visit, 0);
                    scratch.features.push(column);
                }
                seen.1 += 1;
            }
        }
        let differs = |feature: u32| {
            if (scratch.seen[feature as usize].1 as usize) < members.len() {
                return true;
            }
            let own = self.value(members[0], feature);
            members
                .iter()
                .any(|&at| (self.value(at, feature) - own).abs() > CLOSEST)
        };
        scratch.features.retain(|&feature| differs(feature));
        let present = scratch.features.len();
        if present == 0 {
            return None;
        }
        // Selection sampling (Knuth, The Art of Computer Programming 3.4.2 S) over all features, those that differ first.
        let (mut wanted, mut left) = (self.tried, self.rows.width());
        let fallback = scratch.features[random.below(present)];
        scratch.features.retain(|_| {
            let taken = random.unit() * (left as f64) < wanted as f64;
            left -= 1;
            wanted -= usize::from(taken);
            taken
        });
        if scratch.features.is_empty() {
            scratch.features.push(fallback);
        }
        Some(())
    }

    fn collect_by_rows(&self, members: &[u32], bag: &[u32], scratch: &mut Scratch) {
        let entries = emptied(&mut scratch.entries, scratch.features.len());
        for (slot, &feature) in (0..).zip(&scratch.features) {
            scratch.slot[feature as usize] = slot;
        }
        for &at in members {
            for (column, value) in self.rows.row(at as usize).iter() {
                let slot = scratch.slot[column as usize];
                if slot != u32::MAX {
                    entries[slot as usize].push(self.entry(at, value, bag));
                }
            }
        }
        for &feature in &scratch.features {
            scratch.slot[feature as usize] = u32::MAX;
        }
    }

    fn entry(&self, at: u32, value: f32, bag: &[u32]) -> Entry {
        Entry {
            value,
            class: self.truth[at as usize] as u32,
            weight: f64::from(bag[at as usize]),
        }
    }

    /// Compares the splits of both ways to collect values.
    #[cfg(test)]
    pub(super) fn check_both_ways(&self, seed: u64) {
        let mut scratch = self.scratch();
        let bag = vec![1; self.rows.len()];
        for size in [2, 5, 40, 200] {
            let members: Vec<u32> = (0..size).collect();
            let mut counts = vec![0.0; self.classes];
            members.iter().for_each(|&at| counts[self.truth[at as usize]] += 1.0);
            self.draw(&mut Random::new(seed), &mut scratch);
            self.collect_by_columns(&members, size, &bag, &mut scratch);
            let by_columns = best_split(members.len(), &counts, &mut scratch.entries, &scratch.features);
            self.collect_by_rows(&members, &bag, &mut scratch);
            let by_rows = best_split(members.len(), &counts, &mut scratch.entries, &scratch.features);
            assert_eq!(by_columns, by_rows);
            assert!(size < 40 || by_rows.is_some());
        }
    }
}

fn emptied(entries: &mut Vec<Vec<Entry>>, count: usize) -> &mut [Vec<Entry>] {
    if entries.len() < count {
        entries.resize_with(count, Vec::new);
    }
    let entries = &mut entries[..count];
    entries.iter_mut().for_each(Vec::clear);
    entries
}
