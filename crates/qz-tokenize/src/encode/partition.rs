//! Special tokens in a text, found before anything else is done with it
//! (`tokenizer_st_partition` in `src/llama-vocab.cpp`).

use aho_corasick::{AhoCorasick, MatchKind};

use super::finder::finder;
use super::metadata::fault;
use super::special::is_special;
use super::tokens::{Kinds, Tokens};
use crate::error::Error;
use crate::tokenizer_file::TokenId;

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<T> {
    Token(TokenId),
    Text(T),
}

/// The special tokens of a vocabulary.
pub(super) struct Partition {
    /// Longer ones first. Where the reference's order is its sort's accident,
    /// smaller ids first.
    order: Vec<TokenId>,
    /// Which of `order` are in a text.
    finder: AhoCorasick,
}

impl Partition {
    pub(super) fn new(tokens: &Tokens) -> Result<Self, Error> {
        let mut order: Vec<TokenId> =
            tokens.ids().filter(|id| is_special(tokens.kinds(*id))).collect();
        order.sort_by_key(|id| std::cmp::Reverse(tokens.text(*id).len()));
        let texts: Vec<&str> = order.iter().map(|id| tokens.text(*id)).collect();
        let finder = finder(&texts, MatchKind::Standard)
            .map_err(|problem| fault("tokenizer.ggml.tokens", problem))?;
        Ok(Self { order, finder })
    }

    /// Cuts `text` at special tokens: each in turn takes its places, from the
    /// left, in what those before it left. Control tokens are only looked for if
    /// `parse_special` is set.
    pub(super) fn split<'a>(
        &self,
        tokens: &Tokens,
        text: &'a str,
        parse_special: bool,
    ) -> Vec<Fragment<&'a str>> {
        let mut fragments = Vec::new();
        fragments.extend((!text.is_empty()).then_some(Fragment::Text(text)));
        let hidden = Kinds::CONTROL.or(Kinds::UNKNOWN);
        for id in self.present(text) {
            if parse_special || !tokens.kinds(id).is(hidden) {
                fragments = cut(fragments, id, tokens.text(id), tokens.kinds(id));
            }
        }
        fragments
    }

    /// The tokens that are in `text` at all. Vocabularies have thousands of
    /// them, texts a few.
    fn present(&self, text: &str) -> Vec<TokenId> {
        let mut is_present = vec![false; self.order.len()];
        let mut missing = self.order.len();
        for found in self.finder.find_overlapping_iter(text) {
            let seen = &mut is_present[found.pattern().as_usize()];
            missing -= usize::from(!std::mem::replace(seen, true));
            if missing == 0 {
                break;
            }
        }
        let pairs = self.order.iter().zip(is_present);
        pairs.filter(|(_, is_present)| *is_present).map(|(id, _)| *id).collect()
    }
}

fn cut<'a>(
    fragments: Vec<Fragment<&'a str>>,
    id: TokenId,
    token: &str,
    kinds: Kinds,
) -> Vec<Fragment<&'a str>> {
    let mut parts = Vec::with_capacity(fragments.len());
    for fragment in fragments {
        let Fragment::Text(mut rest) = fragment else {
            parts.push(fragment);
            continue;
        };
        while let Some((before, after)) = rest.split_once(token) {
            let strips_left = kinds.is(Kinds::STRIPS_LEFT);
            let before = if strips_left { before.trim_end_matches(is_space) } else { before };
            let strips_right = kinds.is(Kinds::STRIPS_RIGHT);
            rest = if strips_right { after.trim_start_matches(is_space) } else { after };
            parts.extend((!before.is_empty()).then_some(Fragment::Text(before)));
            parts.push(Fragment::Token(id));
        }
        parts.extend((!rest.is_empty()).then_some(Fragment::Text(rest)));
    }
    parts
}

/// C's `isspace`.
fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t'..='\r')
}
