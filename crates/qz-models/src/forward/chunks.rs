//! The tokens of a forward pass: sequences that know nothing of each other, and branches
//! that share their beginning.

use std::ops::Range;

/// Tokens at consecutive positions of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Its tokens, as rows of a batch.
    pub(super) rows: Range<usize>,
    /// The first token's position. What stands before it is the sequence of the spans
    /// before, as far as it goes.
    pub(super) position: usize,
}

/// Sequences, each independent of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    /// The first span of each chunk.
    first_spans: Vec<usize>,
    /// Positions of the longest.
    length: usize,
}

/// A beginning, and what may follow it: each branch sees the beginning and itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branches {
    /// The tokens that all have in common.
    pub beginning: Vec<u32>,
    /// The tokens of each branch; there may be none in one.
    pub branches: Vec<Vec<u32>>,
}

impl Chunks {
    /// Chunks of `length` tokens each, one behind the other; what is left at the end is
    /// dropped.
    pub fn new(mut tokens: Vec<u32>, length: usize) -> Self {
        let length = length.max(1);
        let count = tokens.len() / length;
        tokens.truncate(count * length);
        let span = |chunk| Span { rows: chunk * length..(chunk + 1) * length, position: 0 };
        let spans = (0..count).map(span).collect();
        Self { tokens, spans, first_spans: (0..count).collect(), length }
    }

    /// Chunks that branch. Their tokens' rows are those of the beginning, then those of
    /// each branch.
    pub fn branching(chunks: &[Branches]) -> Self {
        let (mut tokens, mut spans, mut first_spans, mut length) =
            (Vec::new(), Vec::new(), Vec::new(), 0);
        for Branches { beginning, branches } in chunks {
            first_spans.push(spans.len());
            let parts = branches.iter().map(|branch| (branch, beginning.len()));
            for (part, position) in [(beginning, 0)].into_iter().chain(parts) {
                if part.is_empty() {
                    continue;
                }
                let start = tokens.len();
                tokens.extend_from_slice(part);
                spans.push(Span { rows: start..tokens.len(), position });
                length = length.max(position + part.len());
            }
        }
        Self { tokens, spans, first_spans, length }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.first_spans.len()
    }

    /// Positions of the longest.
    pub fn length(&self) -> usize {
        self.length
    }

    /// All tokens, chunk by chunk.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The tokens of a chunk, as rows counted over all chunks.
    pub fn rows(&self, chunk: usize) -> Range<usize> {
        self.row(chunk)..self.row(chunk + 1)
    }

    /// Where a chunk's tokens begin.
    fn row(&self, chunk: usize) -> usize {
        let span = self.first_spans.get(chunk).and_then(|span| self.spans.get(*span));
        span.map_or(self.tokens.len(), |span| span.rows.start)
    }

    /// The spans of some chunks, with rows counted from the first of them.
    pub(super) fn spans(&self, chunks: Range<usize>) -> Vec<Span> {
        let first = self.row(chunks.start);
        let span = |chunk: usize| self.first_spans.get(chunk).copied().unwrap_or(self.spans.len());
        let spans = &self.spans[span(chunks.start)..span(chunks.end)];
        let moved = |Span { rows, position }: &Span| Span {
            rows: rows.start - first..rows.end - first,
            position: *position,
        };
        spans.iter().map(moved).collect()
    }

    /// Consecutive chunks with at most so many tokens together, or one that has more.
    pub(super) fn batches(&self, tokens: usize) -> Vec<Range<usize>> {
        let mut batches: Vec<Range<usize>> = Vec::new();
        for chunk in 0..self.count() {
            let end = self.row(chunk + 1);
            match batches.last_mut() {
                Some(batch) if end - self.row(batch.start) <= tokens => batch.end = chunk + 1,
                _ => batches.push(chunk..chunk + 1),
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branches(beginning: &[u32], branches: &[&[u32]]) -> Branches {
        let branches = branches.iter().map(|branch| branch.to_vec()).collect();
        Branches { beginning: beginning.to_vec(), branches }
    }

    #[test]
    fn chunks_of_one_length() {
        let chunks = Chunks::new((0..11).collect(), 3);
        assert_eq!((chunks.count(), chunks.length(), chunks.rows(1)), (3, 3, 3..6));
        let second = Span { rows: 3..6, position: 0 };
        assert_eq!(chunks.spans(1..3), [Span { rows: 0..3, position: 0 }, second]);
    }

    #[test]
    fn branches_follow_their_beginning() {
        let first = branches(&[1, 2], &[&[3], &[], &[4, 5]]);
        let chunks = Chunks::branching(&[first, branches(&[], &[&[6], &[7]])]);
        assert_eq!(chunks.tokens(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((chunks.count(), chunks.length()), (2, 4));
        assert_eq!((chunks.rows(0), chunks.rows(1)), (0..5, 5..7));
        let span = |rows, position| Span { rows, position };
        assert_eq!(chunks.spans(0..1), [span(0..2, 0), span(2..3, 2), span(3..5, 2)]);
        assert_eq!(chunks.spans(1..2), [span(0..1, 0), span(1..2, 0)]);
    }

    #[test]
    fn batches_hold_whole_chunks() {
        let check = |tokens: usize, expected: &[Range<usize>]| {
            let chunk = |length: u32| branches(&(0..length).collect::<Vec<u32>>(), &[]);
            let chunks = Chunks::branching(&[chunk(2), chunk(3), chunk(9), chunk(1), chunk(1)]);
            assert_eq!(chunks.batches(tokens), expected);
        };
        check(5, &[0..2, 2..3, 3..5]);
        check(4, &[0..1, 1..2, 2..3, 3..5]);
        check(0, &[0..1, 1..2, 2..3, 3..4, 4..5]);
    }
}
