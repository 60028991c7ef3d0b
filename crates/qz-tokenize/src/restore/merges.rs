//! Merges of a SentencePiece vocabulary, from its scores
//! (`generate_merges` in transformers' `convert_slow_tokenizer.py`).

use std::collections::HashMap;

use super::table::Table;
use crate::token_types::NORMAL;

/// Every way to put a piece together from two others: pieces of higher scores
/// first, then of smaller ids, then those with a shorter left part.
///
/// SentencePiece gives a piece one score however it came about, so of two ways to
/// the same piece neither goes before the other there; tokenizers must have an
/// order. transformers goes by ids alone, which in a trained vocabulary is the
/// order of the scores.
pub(super) fn merges_by_score<'a>(table: &Table<'a>) -> Vec<(&'a str, &'a str)> {
    let pieces: HashMap<&str, usize> =
        table.used().filter(|(id, _)| table.types[*id] == NORMAL).map(|(id, t)| (t, id)).collect();
    let mut order: Vec<(usize, &'a str)> =
        table.used().filter(|(id, _)| table.types[*id] == NORMAL).collect();
    if let Some(scores) = table.scores {
        order.sort_by(|(a, _), (b, _)| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    }
    let ways = |(_, piece): (usize, &'a str)| {
        let splits = piece.char_indices().skip(1).map(move |(at, _)| piece.split_at(at));
        splits.filter(|(left, right)| pieces.contains_key(left) && pieces.contains_key(right))
    };
    order.into_iter().flat_map(ways).collect()
}
