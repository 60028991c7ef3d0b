//! Merges of a SentencePiece vocabulary, from its scores
//! (`generate_merges` in transformers' `convert_slow_tokenizer.py`).

use super::table::{Table, fault};
use crate::error::Error;
use crate::splits::Splits;
use crate::token_types::NORMAL;

/// The most that all merges may take. A vocabulary of 262 144 pieces takes a third
/// of it.
const MOST_BYTES: usize = 1 << 27;
/// What a merge takes beside its text.
const OVERHEAD: usize = 64;

/// Every way to put a piece together from two others: pieces of higher scores
/// first, then of smaller ids, then those with a shorter left part.
///
/// SentencePiece gives a piece one score however it came about, so of two ways to
/// the same piece neither goes before the other there; tokenizers must have an
/// order. transformers goes by ids alone, which in a trained vocabulary is the
/// order of the scores.
pub(super) fn merges_by_score<'a>(table: &Table<'a>) -> Result<Vec<(&'a str, &'a str)>, Error> {
    let (ids, pieces): (Vec<usize>, Vec<&'a str>) =
        table.used().filter(|(id, _)| table.types[*id] == NORMAL).unzip();
    let mut order: Vec<usize> = (0..ids.len()).collect();
    if let Some(scores) = table.scores {
        order.sort_by(|a, b| {
            scores[ids[*b]].total_cmp(&scores[ids[*a]]).then(ids[*a].cmp(&ids[*b]))
        });
    }
    let splits = Splits::of(&pieces);
    let mut left_over = MOST_BYTES;
    let mut merges = Vec::new();
    for piece in order {
        let cost = pieces[piece].len() + OVERHEAD;
        for (left, right) in splits.of_piece(piece) {
            left_over = left_over.checked_sub(cost).ok_or_else(|| {
                let problem = "can be put together of each other in too many ways";
                fault(table.path, "tokenizer.ggml.tokens", problem)
            })?;
            merges.push((pieces[left], pieces[right]));
        }
    }
    Ok(merges)
}
