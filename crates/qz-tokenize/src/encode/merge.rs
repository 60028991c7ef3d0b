//! Merging neighbours, the best pair first: what byte-pair and SentencePiece
//! vocabularies share.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use qz_tensor::stop;

/// Says which neighbours merge.
pub(super) trait Merges {
    /// How well `left` and `right` merge, smaller is better, and into what.
    /// They stand side by side in `text`.
    fn merge(&self, text: &[u8], left: &Node, right: &Node) -> Option<(u32, u32)>;
}

/// A part of a word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// Which text this is; [`NO_SYMBOL`] if it is none that the vocabulary has.
    pub(super) symbol: u32,
    start: u32,
    end: u32,
    previous: u32,
    next: u32,
}

impl Node {
    /// The node's bytes.
    pub(super) fn bytes(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A letter that no token has.
pub(super) const NO_SYMBOL: u32 = u32::MAX;
/// A node that became part of the one before it.
const MERGED: u32 = u32::MAX - 1;
const NO_NODE: u32 = u32::MAX;
/// Nodes have four bytes at most, and their places 32 bits. A longer word is
/// merged in parts.
const MOST_NODES: usize = (u32::MAX / 4) as usize;

/// Two neighbours that may merge. Better ones are smaller, of equal ones the
/// one further left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u32,
    left: u32,
    right: u32,
    /// What they become.
    merged: u32,
    /// Where the right one ended. The left one cannot have grown but by taking
    /// the right one.
    end: u32,
}

/// Buffers for one word after the other.
#[derive(Default)]
pub(super) struct Merger {
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Merges `symbols`, which are parts of `text` with their lengths of one to
    /// four bytes, as long as any neighbours merge, and hands out what is left.
    /// For n symbols there are at most 3n candidates.
    pub(super) fn merge<'t>(
        &mut self,
        mut text: &'t [u8],
        mut symbols: impl Iterator<Item = (u32, usize)>,
        merges: &impl Merges,
        mut output: impl FnMut(&Node, &'t [u8]),
    ) {
        while self.take_nodes(&mut symbols) {
            self.run(text, merges);
            for node in self.nodes.iter().filter(|node| node.symbol != MERGED) {
                output(node, &text[node.bytes()]);
            }
            let end = self.nodes.last().map_or(0, |last| last.bytes().end);
            text = &text[end..];
        }
    }

    fn take_nodes(&mut self, symbols: &mut impl Iterator<Item = (u32, usize)>) -> bool {
        self.nodes.clear();
        let mut start = 0;
        for (place, (symbol, length)) in (0..).zip(symbols.take(MOST_NODES)) {
            let end = start + length as u32;
            let previous = if place == 0 { NO_NODE } else { place - 1 };
            self.nodes.push(Node { symbol, start, end, previous, next: place + 1 });
            start = end;
        }
        if let Some(last) = self.nodes.last_mut() {
            last.next = NO_NODE;
        }
        !self.nodes.is_empty()
    }

    fn run(&mut self, text: &[u8], merges: &impl Merges) {
        self.queue.clear();
        for left in 0..self.nodes.len() as u32 {
            self.propose(text, left, self.nodes[left as usize].next, merges);
        }
        while let Some(Reverse(best)) = self.queue.pop() {
            // A text without spaces is one word.
            if stop::is_requested() {
                return;
            }
            let (left, right) = (self.nodes[best.left as usize], self.nodes[best.right as usize]);
            if left.symbol == MERGED || right.symbol == MERGED || right.end != best.end {
                continue;
            }
            self.nodes[best.right as usize].symbol = MERGED;
            let grown = &mut self.nodes[best.left as usize];
            (grown.symbol, grown.end, grown.next) = (best.merged, right.end, right.next);
            if right.next != NO_NODE {
                self.nodes[right.next as usize].previous = best.left;
            }
            self.propose(text, left.previous, best.left, merges);
            self.propose(text, best.left, right.next, merges);
        }
    }

    fn propose(&mut self, text: &[u8], left: u32, right: u32, merges: &impl Merges) {
        if left == NO_NODE || right == NO_NODE {
            return;
        }
        let (from, to) = (&self.nodes[left as usize], &self.nodes[right as usize]);
        if let Some((priority, merged)) = merges.merge(text, from, to) {
            self.queue.push(Reverse(Candidate { priority, left, right, merged, end: to.end }));
        }
    }
}
