//! WordPiece: words without accents and capitals, each as the longest tokens
//! that fit from its left (`llm_tokenizer_wpm_session` in
//! `src/llama-vocab.cpp`).

use super::session::Words;
use super::space::SPACE;
use super::tokens::Tokens;
use super::unicode::{Class, base_letter, lowercase};
use crate::tokenizer_file::TokenId;

/// What WordPiece needs beside the tokens.
pub(super) struct WordPiece {
    pub(super) lowercase: bool,
    pub(super) strips_accents: bool,
    /// What stands for a word that no tokens make up.
    pub(super) unknown: TokenId,
}

impl WordPiece {
    /// Adds the tokens of `text`.
    pub(super) fn encode(&self, tokens: &Tokens, text: &str, output: &mut Vec<TokenId>) {
        let list = self.words(text);
        let mut known = Words::default();
        for word in &list {
            known.encode(word, output, |output| self.encode_word(tokens, word, output));
        }
    }

    fn words(&self, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut word = String::from(SPACE);
        let mut end = |word: &mut String| {
            if word.len() > SPACE.len() {
                words.push(std::mem::replace(word, SPACE.to_owned()));
            }
        };
        for letter in text.chars() {
            let letter = if self.strips_accents { base_letter(letter) } else { letter };
            let class = Class::of(letter);
            if class.is(Class::SPACE) {
                end(&mut word);
                continue;
            }
            let is_accent = self.strips_accents && class.is(Class::MARK);
            if matches!(letter, '\0' | '\u{fffd}') || class.is(Class::CONTROL) || is_accent {
                continue;
            }
            let is_ascii_symbol = letter < '\u{7f}' && class.is(Class::SYMBOL);
            let stands_alone =
                class.is(Class::PUNCTUATION) || is_ascii_symbol || is_chinese(letter);
            if stands_alone {
                end(&mut word);
            }
            word.push(if self.lowercase { lowercase(letter) } else { letter });
            if stands_alone {
                end(&mut word);
            }
        }
        end(&mut word);
        words
    }

    fn encode_word(&self, tokens: &Tokens, word: &str, output: &mut Vec<TokenId>) {
        let start_of_word = output.len();
        let mut start = 0;
        while start < word.len() {
            let longest = (start + tokens.longest()).min(word.len());
            let ends = (start + 1..=longest).rev().filter(|end| word.is_char_boundary(*end));
            let mut found = ends.filter_map(|end| Some((tokens.find(&word[start..end])?, end)));
            let Some((token, end)) = found.next() else {
                output.truncate(start_of_word);
                output.push(self.unknown);
                return;
            };
            output.push(token);
            start = end;
        }
    }
}

/// The ideographs that stand alone. One range begins later than Unicode's, as in
/// the reference and its model.
fn is_chinese(letter: char) -> bool {
    matches!(
        letter as u32,
        0x4e00..=0x9fff
            | 0x3400..=0x4dbf
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2b81f
            | 0x2b920..=0x2ceaf
            | 0xf900..=0xfaff
            | 0x2f800..=0x2fa1f
    )
}
