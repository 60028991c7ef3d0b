//! What the parts of one text share: words that were encoded before, and buffers.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::RandomState;
use qz_tensor::stop;

use super::merge::Merger;
use crate::tokenizer_file::TokenId;

/// One call's memory.
#[derive(Default)]
pub(super) struct Session<'a> {
    pub(super) words: Words<'a>,
    pub(super) merger: Merger,
}

/// Where in the output each word's tokens stand.
#[derive(Default)]
pub(super) struct Words<'a>(HashMap<&'a str, Range<usize>, RandomState>);

impl<'a> Words<'a> {
    /// Adds the tokens of `word`: those it had before, or what `encode` adds.
    pub(super) fn encode(
        &mut self,
        word: &'a str,
        output: &mut Vec<TokenId>,
        encode: impl FnOnce(&mut Vec<TokenId>),
    ) {
        // Texts have millions of words.
        if stop::is_requested() {
            return;
        }
        if let Some(known) = self.0.get(word) {
            output.extend_from_within(known.clone());
            return;
        }
        let start = output.len();
        encode(output);
        self.0.insert(word, start..output.len());
    }
}
