//! Byte-pair encoding: pairs merge in the order in which the vocabulary lists
//! them (`llm_tokenizer_bpe_session` in `src/llama-vocab.cpp`).

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use qz_tensor::Texts;

use super::merge::{Merger, Merges, NO_SYMBOL, Node};
use super::metadata::{Entries, fault};
use super::pre_tokenizer::{Alphabet, PreTokenizer, Whole};
use super::session::Session;
use super::space::{SPACE, Spaces};
use super::split::piece_lengths;
use super::tokens::Tokens;
use crate::byte_level::letter_of;
use crate::error::Error;
use crate::pattern::GaveUp;
use crate::tokenizer_file::TokenId;

/// What byte-pair encoding needs beside the tokens.
pub(super) struct BytePair {
    pub(super) pre_tokenizer: &'static PreTokenizer,
    /// Which pieces are not merged.
    pub(super) whole: Whole,
    merges: MergeTable,
    /// The number of each byte's letter in the alphabet.
    bytes: Vec<u32>,
    spaces: Spaces,
}

/// Rank and product of pairs of numbers.
pub(super) struct MergeTable(HashMap<(u32, u32), (u32, u32), RandomState>);

impl Merges for MergeTable {
    fn merge(&self, _: &[u8], left: &Node, right: &Node) -> Option<(u32, u32)> {
        self.0.get(&(left.symbol, right.symbol)).copied()
    }
}

impl MergeTable {
    /// Of pairs of numbers with their ranks and what they become.
    pub(super) fn new(merges: HashMap<(u32, u32), (u32, u32), RandomState>) -> Self {
        Self(merges)
    }

    fn read(entries: Entries<'_>, tokens: &mut Tokens, is_needed: bool) -> Result<Self, Error> {
        const KEY: &str = "tokenizer.ggml.merges";
        let merges = match entries.strings(KEY)? {
            None if is_needed => return Err(fault(KEY, "is missing")),
            merges => merges,
        };
        let mut table =
            HashMap::with_capacity_and_hasher(merges.map_or(0, Texts::len), RandomState::default());
        let mut product = String::new();
        for (rank, merge) in (0u32..).zip(merges.into_iter().flat_map(Texts::iter)) {
            let wrong = || fault(KEY, format!("{merge:?} is not two parts with a space between"));
            // A space in the first place is a part.
            let after_first = merge.chars().next().map_or(0, char::len_utf8);
            let space = merge[after_first..].find(' ').ok_or_else(wrong)? + after_first;
            let (left, right) = (&merge[..space], &merge[space + 1..]);
            let mut number = |text: &str| tokens.add_part(text).ok_or_else(wrong);
            let pair = (number(left)?, number(right)?);
            product.clear();
            product.extend([left, right]);
            table.entry(pair).or_insert((rank, number(&product)?));
        }
        Ok(Self(table))
    }
}

impl BytePair {
    pub(super) fn read(
        entries: Entries<'_>,
        tokens: &mut Tokens,
        pre_tokenizer: &'static PreTokenizer,
    ) -> Result<Self, Error> {
        // Kimi K2 is published without.
        let is_needed = !pre_tokenizer.names.contains(&"kimi-k2");
        let merges = MergeTable::read(entries, tokens, is_needed)?;
        let number = |byte: u8| tokens.number(letter_of(byte).encode_utf8(&mut [0; 4]));
        let bytes = (0..=u8::MAX).map(|byte| number(byte).unwrap_or(NO_SYMBOL)).collect();
        let spaces = Spaces::of(merges.0.values().map(|(_, product)| tokens.part(*product)));
        Ok(Self { pre_tokenizer, whole: pre_tokenizer.whole, merges, bytes, spaces })
    }

    /// The text in the letters of the tokens, but for the alphabet of bytes.
    pub(super) fn prepare<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.pre_tokenizer.alphabet {
            Alphabet::Escaped => text.replace(' ', SPACE).into(),
            Alphabet::Bytes | Alphabet::Plain => text.into(),
        }
    }

    /// Adds the tokens of `text`, which was prepared.
    pub(super) fn encode<'a>(
        &self,
        tokens: &Tokens,
        text: &'a str,
        session: &mut Session<'a>,
        output: &mut Vec<TokenId>,
    ) -> Result<(), GaveUp> {
        let Session { words, merger } = session;
        let mut rest = text;
        for length in piece_lengths(text, self.pre_tokenizer.steps)? {
            let (piece, after) = rest.split_at(length);
            rest = after;
            if self.pre_tokenizer.alphabet == Alphabet::Bytes {
                words.encode(piece, output, |output| {
                    self.encode_bytes(tokens, piece, merger, output);
                });
            } else if let Some(token) = self.whole(tokens, piece) {
                output.push(token);
            } else {
                for word in self.spaces.words(piece) {
                    words.encode(word, output, |output| {
                        self.encode_letters(tokens, word, merger, output);
                    });
                }
            }
        }
        Ok(())
    }

    /// The piece as a token, where such pieces are not merged.
    fn whole(&self, tokens: &Tokens, piece: &str) -> Option<TokenId> {
        let is_whole = match self.whole {
            Whole::Never => false,
            Whole::Always => true,
            Whole::LineBreaks => piece.bytes().all(|byte| byte == b'\n'),
        };
        is_whole.then(|| tokens.find(piece)).flatten()
    }

    /// A piece in the alphabet of bytes.
    fn encode_bytes(
        &self,
        tokens: &Tokens,
        piece: &str,
        merger: &mut Merger,
        output: &mut Vec<TokenId>,
    ) {
        if self.whole != Whole::Never {
            let letters: String = piece.bytes().map(letter_of).collect();
            if let Some(token) = self.whole(tokens, &letters) {
                output.push(token);
                return;
            }
        }
        let symbols = piece.bytes().map(|byte| (self.bytes[usize::from(byte)], 1));
        merger.merge(piece.as_bytes(), symbols, &self.merges, |node, _| {
            match tokens.token(node.symbol) {
                Some(token) => output.push(token),
                None if node.symbol == NO_SYMBOL => {}
                // A part that is no token: what there is of its letters.
                None => {
                    let letters = tokens.part(node.symbol).chars().filter(char::is_ascii);
                    output.extend(letters.filter_map(|c| tokens.find(c.encode_utf8(&mut [0; 4]))));
                }
            }
        });
    }

    /// A piece as it stands.
    fn encode_letters(
        &self,
        tokens: &Tokens,
        word: &str,
        merger: &mut Merger,
        output: &mut Vec<TokenId>,
    ) {
        let symbols = word.char_indices().map(|(start, letter)| {
            let length = letter.len_utf8();
            (tokens.number(&word[start..start + length]).unwrap_or(NO_SYMBOL), length)
        });
        merger.merge(word.as_bytes(), symbols, &self.merges, |node, part| {
            match tokens.token(node.symbol) {
                Some(token) => output.push(token),
                None => output.extend(part.iter().filter_map(|byte| tokens.find_byte(*byte))),
            }
        });
    }
}
