//! One tree of a forest.

/// The feature of a leaf.
pub(super) const LEAF: u32 = u32::MAX;

/// A node: a split, or a leaf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) feature: u32,
    /// Rows whose value is at most this go left.
    pub(super) threshold: f32,
    pub(super) left: u32,
    pub(super) right: u32,
    /// The range of its class shares in the tree: for leaves, and for nodes at which the tree can be cut.
    pub(super) shares: (u32, u32),
}

/// A grown tree.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    /// Classes and their shares of the rows of a node.
    pub(super) shares: Vec<(u32, f32)>,
}

impl Tree {
    /// Adds the probabilities of the node that a dense row reaches: a leaf, or a node at `depth`, which must be one of the
    /// depths at which the tree can be cut.
    pub(super) fn add_probabilities(&self, row: &[f32], depth: Option<usize>, probabilities: &mut [f64]) {
        let mut left = depth.unwrap_or(usize::MAX);
        let mut node = &self.nodes[0];
        while node.feature != LEAF && left > 0 {
            let next = if row[node.feature as usize] <= node.threshold {
                node.left
            } else {
                node.right
            };
            node = &self.nodes[next as usize];
            left -= 1;
        }
        let (from, to) = node.shares;
        for &(class, share) in &self.shares[from as usize..to as usize] {
            probabilities[class as usize] += f64::from(share);
        }
    }

    /// The tree without the nodes below `depth`, which must be one of the depths at which it can be cut.
    pub(super) fn cut(&self, depth: usize) -> Self {
        let mut cut = Self::default();
        let mut open = vec![(0_u32, 0_usize, None::<(usize, bool)>)];
        while let Some((at, level, parent)) = open.pop() {
            let mut node = self.nodes[at as usize];
            let place = cut.nodes.len();
            if let Some((parent, is_left)) = parent {
                let parent: &mut Node = &mut cut.nodes[parent];
                *(if is_left { &mut parent.left } else { &mut parent.right }) = place as u32;
            }
            if node.feature != LEAF && level < depth {
                open.push((node.right, level + 1, Some((place, false))));
                open.push((node.left, level + 1, Some((place, true))));
                node.shares = (0, 0);
            } else {
                let (from, to) = node.shares;
                let start = cut.shares.len() as u32;
                cut.shares.extend_from_slice(&self.shares[from as usize..to as usize]);
                node.shares = (start, cut.shares.len() as u32);
                node.feature = LEAF;
            }
            cut.nodes.push(node);
        }
        cut
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.shares)
    }
}
