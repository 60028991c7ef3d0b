//! SentencePiece's unigram model: of all ways to write a text in tokens the one
//! with the best sum of scores (`llm_tokenizer_ugm_session` in
//! `src/llama-vocab.cpp`).

use super::charsmap::CharsMap;
use super::prefixes::Prefixes;
use super::space::SPACE;
use super::tokens::{Kinds, Tokens};
use crate::tokenizer_file::TokenId;

/// What the unigram model needs beside the tokens.
pub(super) struct Unigram {
    pub(super) adds_space: bool,
    pub(super) merges_spaces: bool,
    pub(super) unknown: TokenId,
    map: Option<CharsMap>,
    tokens: Prefixes<(TokenId, f64)>,
    /// Texts that are not normalized.
    kept: Prefixes<()>,
    unknown_score: f64,
}

/// How a text can end at a place.
#[derive(Clone, Copy)]
struct Best {
    token: TokenId,
    /// The token's bytes.
    length: u32,
    score: f64,
}

impl Unigram {
    pub(super) fn new(tokens: &Tokens, map: Option<CharsMap>, unknown: TokenId) -> Self {
        const UNKNOWN_PENALTY: f32 = 10.0;
        let of_kinds = |kinds: Kinds| tokens.ids().filter(move |id| tokens.kinds(*id).is(kinds));
        let matched = Kinds::NORMAL.or(Kinds::USER_DEFINED).or(Kinds::UNUSED);
        let score = |id: TokenId| tokens.scores[id.0 as usize];
        let lowest = of_kinds(Kinds::NORMAL).map(score).fold(f32::MAX, f32::min);
        let value = |id: TokenId| {
            let is_user_defined = tokens.kinds(id).is(Kinds::USER_DEFINED);
            (id, if is_user_defined { 0.0 } else { f64::from(score(id)) })
        };
        Self {
            adds_space: false,
            merges_spaces: false,
            unknown,
            map,
            tokens: Prefixes::new(of_kinds(matched).map(|id| (tokens.text(id), value(id)))),
            kept: Prefixes::new(of_kinds(Kinds::USER_DEFINED).map(|id| (tokens.text(id), ()))),
            unknown_score: f64::from(lowest - UNKNOWN_PENALTY),
        }
    }

    /// Adds the tokens of `text`.
    pub(super) fn encode(&self, text: &str, output: &mut Vec<TokenId>) {
        let text = self.normalize(text);
        let best = self.best(&text);
        let start_of_text = output.len();
        let mut end = text.len();
        let mut after = None;
        while end > 0 {
            let Best { token, length, .. } = best[end];
            // Unknown letters side by side are one unknown token.
            if token != self.unknown || after != Some(token) {
                output.push(token);
            }
            after = Some(token);
            end -= length as usize;
        }
        output[start_of_text..].reverse();
    }

    /// The best way to every place of the text.
    fn best(&self, text: &str) -> Vec<Best> {
        let nothing = Best { token: self.unknown, length: 0, score: f64::MIN };
        let mut best = vec![nothing; text.len() + 1];
        best[0].score = 0.0;
        for (start, letter) in text.char_indices() {
            let score = best[start].score;
            let next = start + letter.len_utf8();
            let mut offer = |token: TokenId, end: usize, score: f64| {
                if score > best[end].score {
                    best[end] = Best { token, length: (end - start) as u32, score };
                }
            };
            let mut walk = self.tokens.walk();
            let mut has_letter = false;
            for (end, byte) in (start + 1..).zip(text[start..].bytes()) {
                if !walk.step(byte) {
                    break;
                }
                if let Some((token, own)) = walk.value() {
                    has_letter |= end == next;
                    offer(token, end, score + own);
                }
            }
            if !has_letter {
                offer(self.unknown, next, score + self.unknown_score);
            }
        }
        best
    }

    /// The text as the model wants it: letters replaced by the map, spaces
    /// written as U+2581 or dropped.
    fn normalize(&self, text: &str) -> String {
        let mut normal = String::with_capacity(text.len() * 2);
        let mut is_prepended = false;
        let mut is_in_word = false;
        let mut rest = text;
        while !rest.is_empty() {
            let (part, length) = self.normal_part(rest);
            for letter in part.chars() {
                if letter != ' ' {
                    let wants_space = self.adds_space && !is_prepended;
                    if !is_in_word && (wants_space || self.merges_spaces) {
                        normal.push_str(SPACE);
                        is_prepended = true;
                    }
                    normal.push(letter);
                } else if !self.merges_spaces {
                    normal.push_str(SPACE);
                }
                is_in_word = letter != ' ';
            }
            rest = &rest[length..];
        }
        normal
    }

    /// What the beginning of a text becomes, and how many bytes that beginning
    /// has.
    fn normal_part<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        let mut walk = self.kept.walk();
        // The beginning of a kept text is kept, too.
        let kept = text.bytes().take_while(|byte| walk.step(*byte)).count();
        let kept = text.floor_char_boundary(kept);
        if kept > 0 {
            return (&text[..kept], kept);
        }
        let replaced = self.map.as_ref().and_then(|map| map.replace(text));
        replaced.unwrap_or_else(|| {
            let length = text.chars().next().map_or(0, char::len_utf8);
            (&text[..length], length)
        })
    }
}
