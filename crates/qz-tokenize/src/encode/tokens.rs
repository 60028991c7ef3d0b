//! The tokens of a vocabulary: text, score, and what kind of token each is.

use foldhash::fast::RandomState;
use indexmap::IndexSet;

use super::metadata::{Entries, fault};
use crate::error::Error;
use crate::token_types;
use crate::tokenizer_file::TokenId;

/// What kind of token it is, as a set: a rule by name can add to what the file
/// says (`llama_token_attr` in `include/llama.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub(super) const NONE: Self = Self(0);
    pub(super) const UNKNOWN: Self = Self(1);
    pub(super) const UNUSED: Self = Self(1 << 1);
    pub(super) const NORMAL: Self = Self(1 << 2);
    pub(super) const CONTROL: Self = Self(1 << 3);
    pub(super) const USER_DEFINED: Self = Self(1 << 4);
    pub(super) const BYTE: Self = Self(1 << 5);
    /// White space before it is dropped.
    pub(super) const STRIPS_LEFT: Self = Self(1 << 6);
    /// White space after it is dropped.
    pub(super) const STRIPS_RIGHT: Self = Self(1 << 7);

    fn of_type(number: i32) -> Self {
        match number {
            token_types::NORMAL => Self::NORMAL,
            token_types::UNKNOWN => Self::UNKNOWN,
            token_types::CONTROL => Self::CONTROL,
            token_types::USER_DEFINED => Self::USER_DEFINED,
            token_types::UNUSED => Self::UNUSED,
            token_types::BYTE => Self::BYTE,
            _ => Self::NONE,
        }
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if it is one of `wanted`.
    pub(super) fn is(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }
}

/// The tokens in the order of their ids. Behind them stand texts that are no
/// tokens but parts of some: the numbers below are of both, ids only of tokens.
pub(super) struct Tokens {
    texts: IndexSet<String, RandomState>,
    count: usize,
    longest: usize,
    pub(super) kinds: Vec<Kinds>,
    pub(super) scores: Vec<f32>,
}

impl Tokens {
    pub(super) fn read(entries: Entries<'_>) -> Result<Self, Error> {
        let tokens = entries.tokens()?;
        let count = tokens.len();
        let mut texts = IndexSet::with_capacity_and_hasher(count, RandomState::default());
        for (id, token) in tokens.iter().enumerate() {
            // As the reference calls it.
            let text = if token.is_empty() { format!("[EMPTY_{id}]") } else { token.to_owned() };
            let (first, is_new) = texts.insert_full(text);
            if !is_new {
                let problem = format!("{token:?} has two ids, {first} and {id}");
                return Err(fault("tokenizer.ggml.tokens", problem));
            }
        }
        let long_enough = |key: &str, length: usize| match length >= count {
            true => Ok(()),
            false => Err(fault(key, format!("has {length} entries for {count} tokens"))),
        };
        let key = "tokenizer.ggml.token_type";
        let kinds = match entries.integers(key)? {
            Some(types) => {
                long_enough(key, types.len())?;
                types[..count].iter().map(|number| Kinds::of_type(*number)).collect()
            }
            None => vec![Kinds::NORMAL; count],
        };
        let key = "tokenizer.ggml.scores";
        let scores = match entries.floats(key)? {
            Some(scores) => {
                long_enough(key, scores.len())?;
                scores
            }
            None => vec![0.0; count],
        };
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        Ok(Self { texts, count, longest, kinds, scores })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// How many bytes the longest token has.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Every id. There are fewer than 2^24.
    pub(super) fn ids(&self) -> impl Iterator<Item = TokenId> + use<> {
        (0..self.count as u32).map(TokenId)
    }

    pub(super) fn text(&self, id: TokenId) -> &str {
        &self.texts[id.0 as usize]
    }

    pub(super) fn kinds(&self, id: TokenId) -> Kinds {
        self.kinds[id.0 as usize]
    }

    /// The token with this text.
    pub(super) fn find(&self, text: &str) -> Option<TokenId> {
        self.number(text).and_then(|number| self.token(number))
    }

    /// The token for a byte: `<0xAB>`.
    pub(super) fn find_byte(&self, byte: u8) -> Option<TokenId> {
        self.find(&format!("<0x{byte:02X}>"))
    }

    /// The number of this text, if it is a token or a part of one.
    pub(super) fn number(&self, text: &str) -> Option<u32> {
        self.texts.get_index_of(text).and_then(|number| u32::try_from(number).ok())
    }

    /// The number of a part of tokens.
    pub(super) fn add_part(&mut self, text: &str) -> Option<u32> {
        let number = match self.texts.get_index_of(text) {
            Some(number) => number,
            None => self.texts.insert_full(text.to_owned()).0,
        };
        u32::try_from(number).ok()
    }

    /// The token that has this number.
    pub(super) fn token(&self, number: u32) -> Option<TokenId> {
        ((number as usize) < self.count).then_some(TokenId(number))
    }

    /// The text that has this number.
    pub(super) fn part(&self, number: u32) -> &str {
        self.texts.get_index(number as usize).map_or("", String::as_str)
    }

    /// Every token's text.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().take(self.count).map(String::as_str)
    }
}
