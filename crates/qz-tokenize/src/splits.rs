//! The ways to cut pieces of a vocabulary in two that are pieces, too. Time and
//! memory grow with the text of the pieces, however long single ones are.

use std::cmp::Ordering;

const NO_PIECE: u32 = u32::MAX;

/// What each piece begins and ends with.
pub(crate) struct Splits<'a> {
    pieces: &'a [&'a str],
    /// By piece the longest other one that it begins with.
    prefixes: Vec<u32>,
    /// By piece the longest other one that it ends with.
    suffixes: Vec<u32>,
}

impl<'a> Splits<'a> {
    /// For pieces that are there once each. There are fewer than 2^32.
    pub(crate) fn of(pieces: &'a [&'a str]) -> Self {
        let forwards = |a: &str, b: &str| a.cmp(b);
        let backwards = |a: &str, b: &str| a.bytes().rev().cmp(b.bytes().rev());
        Self {
            pieces,
            prefixes: parents(pieces, forwards, |piece, part| piece.starts_with(part)),
            suffixes: parents(pieces, backwards, |piece, part| piece.ends_with(part)),
        }
    }

    /// The splits of a piece, those with a shorter left part first: the places of
    /// both parts.
    pub(crate) fn of_piece(&self, piece: usize) -> impl Iterator<Item = (usize, usize)> {
        let length = self.pieces[piece].len();
        let mut lefts: Vec<usize> = chain(&self.prefixes, piece).collect();
        chain(&self.suffixes, piece).filter_map(move |right| {
            let wanted = length - self.pieces[right].len();
            // Right parts become shorter, so left ones that were too short stay so.
            while lefts.last().is_some_and(|left| self.pieces[*left].len() < wanted) {
                lefts.pop();
            }
            let left = *lefts.last()?;
            (self.pieces[left].len() == wanted).then_some((left, right))
        })
    }
}

/// By piece the longest other one that is a part of it, where all that have a part
/// stand behind it in this order, with only such between.
fn parents(
    pieces: &[&str],
    order: impl Fn(&str, &str) -> Ordering,
    has_part: impl Fn(&str, &str) -> bool,
) -> Vec<u32> {
    let mut sorted: Vec<u32> = (0..pieces.len() as u32).collect();
    sorted.sort_unstable_by(|a, b| order(pieces[*a as usize], pieces[*b as usize]));
    let mut parents = vec![NO_PIECE; pieces.len()];
    let mut open: Vec<u32> = Vec::new();
    for piece in sorted {
        let text = pieces[piece as usize];
        while open.last().is_some_and(|part| !has_part(text, pieces[*part as usize])) {
            open.pop();
        }
        parents[piece as usize] = open.last().copied().unwrap_or(NO_PIECE);
        open.push(piece);
    }
    parents
}

/// The parts of a piece, the longest first.
fn chain(parents: &[u32], piece: usize) -> impl Iterator<Item = usize> {
    let next = |piece: usize| (parents[piece] != NO_PIECE).then_some(parents[piece] as usize);
    std::iter::successors(next(piece), move |piece| next(*piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fall_into_pieces() {
        let check = |pieces: &[&str], expected: &[(&str, &str)]| {
            let splits = Splits::of(pieces);
            let found: Vec<(&str, &str)> =
                splits.of_piece(0).map(|(left, right)| (pieces[left], pieces[right])).collect();
            assert_eq!(found, expected, "{pieces:?}");
        };
        check(&["abc", "a", "ab", "bc", "c", "b"], &[("a", "bc"), ("ab", "c")]);
        check(&["aaaa", "a", "aaa"], &[("a", "aaa"), ("aaa", "a")]);
        check(&["aa", "a"], &[("a", "a")]);
        check(&["\u{e9}\u{e9}", "\u{e9}", "x"], &[("\u{e9}", "\u{e9}")]);
        check(&["abcd", "ab", "bcd", ""], &[]);
        check(&["a"], &[]);
    }
}
