//! The BPE model of the tokenizers library on letters, with a token for every byte
//! of those that have none (`BPE::merge_word` in `src/models/bpe/model.rs`); and what
//! llama.cpp makes of the same vocabulary, with scores for the order of merges.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::byte_pair::MergeTable;
use super::merge::{Merger, Merges, NO_SYMBOL, Node};
use super::session::Session;
use super::space::{SPACE, Spaces};
use crate::tokenizer_file::{Model, TokenId};

/// The model.
pub(crate) struct Letters {
    merges: MergeTable,
    letters: HashMap<char, u32, RandomState>,
    /// The token for each byte, where bytes stand for letters without a token.
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    joins_unknown: bool,
    /// All tokens, where a piece that is one is not merged.
    whole: Option<HashMap<String, u32, RandomState>>,
    /// Where words end, if merging them alone gives the same.
    spaces: Option<Spaces>,
}

impl Letters {
    pub(crate) fn of(model: &Model) -> Self {
        let ids = &model.vocab.ids;
        let id = |token: &str| ids.get(token).map(|id| id.0);
        let mut merges = HashMap::default();
        for (rank, (left, right, product)) in (0..).zip(model.merge_ids()) {
            merges.insert((left, right), (rank, product));
        }
        let falls_back = model.byte_fallback == Some(true);
        let byte = |byte: u8| id(&format!("<0x{byte:02X}>")).filter(|_| falls_back);
        let whole = || ids.iter().map(|(token, id)| (token.clone(), id.0)).collect();
        // A space that is no token joins unknown letters on both sides.
        let cuts = id(SPACE).is_some();
        let products = model.merges.lines.iter().map(|line| line.replace(' ', ""));
        let products: Vec<String> = if cuts { products.collect() } else { Vec::new() };
        Self {
            merges: MergeTable::new(merges),
            letters: ids
                .iter()
                .filter_map(|(token, id)| {
                    let mut letters = token.chars();
                    let letter = letters.next()?;
                    letters.next().is_none().then_some((letter, id.0))
                })
                .collect(),
            bytes: (0..=u8::MAX).map(byte).collect(),
            unknown: model.unk_token.as_deref().and_then(id),
            joins_unknown: model.fuse_unk == Some(true),
            whole: (model.ignore_merges == Some(true)).then(whole),
            spaces: cuts.then(|| Spaces::of(products.iter().map(String::as_str))),
        }
    }

    /// True if pieces that are tokens are not merged.
    pub(crate) fn takes_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// True if every letter of `text` is a token.
    pub(crate) fn knows(&self, text: &str) -> bool {
        text.chars().all(|letter| self.letters.contains_key(&letter))
    }

    /// The ids of a single piece.
    pub(crate) fn ids(&self, piece: &str) -> Vec<TokenId> {
        let mut ids = Vec::new();
        self.encode(piece, &mut Session::default(), &mut ids);
        ids
    }

    /// Adds the tokens of a piece.
    pub(super) fn encode<'a>(
        &self,
        piece: &'a str,
        session: &mut Session<'a>,
        output: &mut Vec<TokenId>,
    ) {
        if let Some(id) = self.whole.as_ref().and_then(|tokens| tokens.get(piece)) {
            output.push(TokenId(*id));
            return;
        }
        let mut encode = |word: &'a str| {
            session.words.encode(word, output, |output| {
                self.encode_word(word, &mut session.merger, output);
            });
        };
        match &self.spaces {
            Some(spaces) => spaces.words(piece).for_each(encode),
            None => encode(piece),
        }
    }

    fn encode_word(&self, word: &str, merger: &mut Merger, output: &mut Vec<TokenId>) {
        let symbols = self.symbols(word);
        // Merges look at symbols alone, so their places in the text do not matter.
        let symbols = symbols.into_iter().map(|symbol| (symbol, 1));
        merger.merge(word.as_bytes(), symbols, &self.merges, |node, _| {
            output.push(TokenId(node.symbol));
        });
    }

    /// The tokens that merging begins with, at most one for each byte.
    fn symbols(&self, word: &str) -> Vec<u32> {
        let mut symbols = Vec::with_capacity(word.len());
        // The unknown token waits for the next letter with a token, even behind
        // the bytes of others.
        let mut waiting = None;
        for letter in word.chars() {
            if let Some(symbol) = self.letters.get(&letter) {
                symbols.extend(waiting.take());
                symbols.push(*symbol);
            } else if !self.push_bytes(letter, &mut symbols) && self.unknown.is_some() {
                symbols.extend(waiting.filter(|_| !self.joins_unknown));
                waiting = self.unknown;
            }
        }
        symbols.extend(waiting);
        symbols
    }

    /// False if there is no token for one of the bytes.
    fn push_bytes(&self, letter: char, symbols: &mut Vec<u32>) -> bool {
        let mut buffer = [0; 4];
        let bytes = letter.encode_utf8(&mut buffer).bytes();
        let before = symbols.len();
        symbols.extend(bytes.clone().filter_map(|byte| self.bytes[usize::from(byte)]));
        let is_whole = symbols.len() == before + bytes.len();
        if !is_whole {
            symbols.truncate(before);
        }
        is_whole
    }
}

/// The same vocabulary as llama.cpp merges it.
pub(crate) struct ScoredLetters<'a> {
    model: &'a Model,
    order: HashMap<u32, u32>,
}

impl<'a> ScoredLetters<'a> {
    pub(crate) fn of(model: &'a Model) -> Self {
        Self { model, order: model.merge_order() }
    }

    /// The ids of a single piece.
    pub(crate) fn ids(&self, piece: &str) -> Vec<TokenId> {
        let ids = &self.model.vocab.ids;
        let symbols = piece.char_indices().map(|(start, letter)| {
            let length = letter.len_utf8();
            (ids.get(&piece[start..start + length]).map_or(NO_SYMBOL, |id| id.0), length)
        });
        let mut output = Vec::new();
        Merger::default().merge(piece.as_bytes(), symbols, self, |node, part| {
            if node.symbol != NO_SYMBOL {
                output.push(TokenId(node.symbol));
            } else {
                let byte = |byte: &u8| ids.get(&format!("<0x{byte:02X}>")).copied();
                output.extend(part.iter().filter_map(byte));
            }
        });
        output
    }
}

impl Merges for ScoredLetters<'_> {
    fn merge(&self, text: &[u8], left: &Node, right: &Node) -> Option<(u32, u32)> {
        let joined = text.get(left.bytes().start..right.bytes().end)?;
        let id = self.model.vocab.ids.get(str::from_utf8(joined).ok()?)?.0;
        Some((self.order.get(&id).copied().unwrap_or(u32::MAX), id))
    }
}
