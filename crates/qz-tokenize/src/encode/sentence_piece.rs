//! SentencePiece's merging: neighbours merge if that makes a token, the best
//! score first (`llm_tokenizer_spm_session` in `src/llama-vocab.cpp`).

use super::merge::{Merger, Merges, NO_SYMBOL, Node};
use super::session::Session;
use super::space::{SPACE, Spaces};
use super::tokens::Tokens;
use crate::tokenizer_file::TokenId;

/// What SentencePiece's merging needs beside the tokens.
pub(super) struct SentencePiece {
    /// Text after a special token begins with a space.
    pub(super) adds_space: bool,
    spaces: Spaces,
}

struct ByScore<'a>(&'a Tokens);

impl Merges for ByScore<'_> {
    fn merge(&self, text: &[u8], left: &Node, right: &Node) -> Option<(u32, u32)> {
        let bytes = left.bytes().start..right.bytes().end;
        if bytes.len() > self.0.longest() {
            return None;
        }
        let token = self.0.find(str::from_utf8(&text[bytes]).ok()?)?;
        Some((rank_of(self.0.scores[token.0 as usize]), token.0))
    }
}

/// Numbers in the order of scores, the highest first.
fn rank_of(score: f32) -> u32 {
    // Zero has one sign here.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

impl SentencePiece {
    pub(super) fn new(tokens: &Tokens, adds_space: bool) -> Self {
        Self { adds_space, spaces: Spaces::of(tokens.texts()) }
    }

    /// The text with U+2581 for spaces, and one in front if it begins everything
    /// or follows a special token.
    pub(super) fn prepare(&self, text: &str, is_start: bool) -> String {
        let mut escaped = String::with_capacity(text.len() * 3 / 2);
        if self.adds_space && is_start {
            escaped.push_str(SPACE);
        }
        escaped.push_str(&text.replace(' ', SPACE));
        escaped
    }

    /// Adds the tokens of `text`, which was prepared.
    pub(super) fn encode<'a>(
        &self,
        tokens: &Tokens,
        text: &'a str,
        unknown: Option<TokenId>,
        session: &mut Session<'a>,
        output: &mut Vec<TokenId>,
    ) {
        for word in self.spaces.words(text) {
            session.words.encode(word, output, |output| {
                encode_word(tokens, word, unknown, &mut session.merger, output);
            });
        }
    }
}

fn encode_word(
    tokens: &Tokens,
    word: &str,
    unknown: Option<TokenId>,
    merger: &mut Merger,
    output: &mut Vec<TokenId>,
) {
    let symbols = word.char_indices().map(|(start, letter)| {
        let length = letter.len_utf8();
        (tokens.number(&word[start..start + length]).unwrap_or(NO_SYMBOL), length)
    });
    merger.merge(word.as_bytes(), symbols, &ByScore(tokens), |node, part| {
        match tokens.token(node.symbol) {
            Some(token) => output.push(token),
            // Where there is no token for a byte the reference ends.
            None => {
                output.extend(part.iter().filter_map(|byte| tokens.find_byte(*byte).or(unknown)));
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_have_smaller_ranks() {
        let scores = [f32::INFINITY, 2.5, 1.0, 0.0, -0.5, -1000.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| rank_of(pair[0]) < rank_of(pair[1])));
        assert_eq!(rank_of(0.0), rank_of(-0.0));
    }
}
