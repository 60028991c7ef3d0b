//! The tokens of the vocabularies that llama.cpp calls "llama": SentencePiece's
//! pieces with their scores, from `tokenizer.model`
//! (`_create_vocab_sentencepiece` in `conversion/base.py`), or from a
//! `tokenizer.json` that was made of one (`LlamaHfVocab` in
//! `gguf-py/gguf/vocab.py`).

use std::collections::HashMap;

use qz_tensor::{Location, SideFiles, Warning};
use serde_json::Value;

use crate::added_tokens::{AddedToken, AddedTokens};
use crate::definition::{SPACE, space_prefix, unsaid, unsaid_flags, warn_of_unknown};
use crate::error::Error;
use crate::json::{Settings, fault, read_object, truthy};
use crate::sentencepiece::{self, Normalizer, Piece, PieceKind, byte_of, read_pieces};
use crate::token_types::{
    BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, looks_special, padding, with_spaces,
};
use crate::tokenizer_file::{self, Surroundings, TokenFlags, TokenizerFile};
use crate::vocabulary::{TokenTable, check_size, size_of};

/// The score of an id without a token.
pub(crate) const PADDING_SCORE: f32 = -10_000.0;
/// The score of a token that has none of its own.
const UNSCORED: f32 = -1000.0;

/// Which files say what the tokens are that were added to SentencePiece's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddedFrom {
    /// `added_tokens.json` and `tokenizer_config.json`; what looks like a control token is
    /// one, and spaces are spaces.
    Settings,
    /// These, as they are written, and then `tokenizer.json`.
    AllFiles,
}

/// What stands at each id.
pub(crate) struct Entries {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
}

impl Entries {
    /// `size` ids without a token.
    pub(crate) fn padded(size: u64) -> Self {
        let tokens: Vec<String> = (0..size).map(padding).collect();
        let count = tokens.len();
        Self { tokens, scores: vec![PADDING_SCORE; count], types: vec![UNUSED; count] }
    }

    /// The place of an id; `None` past the end.
    fn place(&self, id: u64) -> Option<usize> {
        usize::try_from(id).ok().filter(|place| *place < self.tokens.len())
    }

    /// The token at a place that has one.
    fn used(&self, place: usize) -> Option<&str> {
        let kind = *self.types.get(place)?;
        self.tokens.get(place).filter(|_| kind != UNUSED).map(String::as_str)
    }

    /// Nothing is put past the end.
    pub(crate) fn put(&mut self, place: usize, token: String, score: f32, kind: i32) {
        self.tokens.get_mut(place).into_iter().for_each(|known| known.clone_from(&token));
        self.scores.get_mut(place).into_iter().for_each(|known| *known = score);
        self.types.get_mut(place).into_iter().for_each(|known| *known = kind);
    }

    pub(crate) fn put_piece(&mut self, place: usize, piece: &Piece<'_>) {
        let kind = match piece.kind {
            // The reference asks for neither, and neither is anything else.
            PieceKind::Normal | PieceKind::UserDefined => NORMAL,
            PieceKind::Unknown => UNKNOWN,
            PieceKind::Control => CONTROL,
            PieceKind::Unused => UNUSED,
            PieceKind::Byte => BYTE,
        };
        self.put(place, piece.text.to_owned(), piece.score, kind);
    }

    /// Pieces at their places, of a model that has room for so many; those past its end are left
    /// out.
    pub(crate) fn of_pieces(
        files: &dyn SideFiles,
        name: &'static str,
        pieces: &[Piece<'_>],
        stated: Option<u64>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Error> {
        let size = check_size(files, stated.unwrap_or(pieces.len() as u64))?;
        let mut entries = Self::padded(size);
        let mut past_end = PastEnd::new(name);
        for (id, piece) in (0u64..).zip(pieces) {
            match entries.place(id) {
                Some(place) => entries.put_piece(place, piece),
                None => past_end.count(id),
            }
        }
        past_end.warn(files, size, warnings);
        Ok(entries)
    }

    /// Puts what stands at `from` and behind it in another table to `to` and behind it.
    pub(crate) fn copy_from(&mut self, other: &Self, from: usize, to: usize) {
        let all = other.tokens.iter().zip(&other.scores).zip(&other.types).skip(from);
        for (place, ((token, score), kind)) in (to..).zip(all) {
            self.put(place, token.clone(), *score, *kind);
        }
    }

    /// Refuses a token that is there twice: llama.cpp ends when it loads one.
    pub(crate) fn check_unique(&self, files: &dyn SideFiles, name: &str) -> Result<(), Error> {
        let mut first_ids: HashMap<&str, usize> = HashMap::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(first) = first_ids.insert(token, id) {
                let problem = format!("{token:?} has two ids, {first} and {id}");
                return Err(fault(files, name, "tokens", problem));
            }
        }
        Ok(())
    }

    fn into_table(
        self,
        surroundings: Surroundings,
        space_prefix: Option<bool>,
        unsaid: Vec<Warning>,
    ) -> TokenTable {
        TokenTable {
            model: "llama",
            pre_tokenizer: Some("default".to_owned()),
            unnamed: None,
            tokens: self.tokens,
            scores: Some(self.scores),
            types: self.types,
            merges: None,
            space_prefix,
            normalizer: None,
            surroundings,
            unsaid,
        }
    }

    /// The same of a unigram model.
    pub(crate) fn into_unigram_table(
        self,
        surroundings: Surroundings,
        normalizer: Normalizer,
    ) -> TokenTable {
        let table = self.into_table(surroundings, None, Vec::new());
        TokenTable { model: "t5", normalizer: Some(normalizer), ..table }
    }
}

/// The table for `model`, the bytes of `tokenizer.model`, and the tokens that
/// the files beside it add. `stated` is the size that the model has room for.
pub(crate) fn sentencepiece_tokens(
    files: &dyn SideFiles,
    model: &[u8],
    settings: &Settings,
    stated: Option<u64>,
    added: AddedFrom,
    warnings: &mut Vec<Warning>,
) -> Result<TokenTable, Error> {
    let pieces = read_pieces(files, sentencepiece::NAME, model)?;
    let mut entries = Entries::of_pieces(files, sentencepiece::NAME, &pieces, stated, warnings)?;
    drop(pieces);
    add_tokens_file(files, &mut entries, warnings)?;
    add_tokens_decoder(files, settings, added, &mut entries, warnings)?;
    let surroundings = Surroundings::read(files)?;
    if added == AddedFrom::AllFiles {
        for token in &surroundings.added_tokens {
            if let Some(place) = entries.place(token.id.0.into()) {
                let kind = if token.special { CONTROL } else { USER_DEFINED };
                entries.put(place, token.content.clone(), UNSCORED, kind);
            }
        }
    }
    entries.check_unique(files, sentencepiece::NAME)?;
    let unsaid = unsaid_declared_flags(files, settings).into_iter().collect();
    Ok(entries.into_table(surroundings, None, unsaid))
}

/// `added_tokens.json`: ids by content.
pub(crate) fn add_tokens_file(
    files: &dyn SideFiles,
    entries: &mut Entries,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let name = "added_tokens.json";
    let mut past_end = PastEnd::new(name);
    let mut owners: HashMap<u64, String> = HashMap::new();
    for (content, id) in read_object(files, name)?.unwrap_or_default() {
        let Some(id) = id.as_u64() else {
            return Err(fault(files, name, content, format!("is {id}, expected a token's id")));
        };
        if let Some(other) = owners.insert(id, content.clone()) {
            let problem = format!("{other:?} has the same id {id}");
            return Err(fault(files, name, content, problem));
        }
        match entries.place(id) {
            Some(place) => entries.put(place, content, UNSCORED, USER_DEFINED),
            None => past_end.count(id),
        }
    }
    past_end.warn(files, entries.tokens.len() as u64, warnings);
    Ok(())
}

/// `added_tokens_decoder` of `tokenizer_config.json`: tokens by id. It has the
/// last word: a piece with another text at the same id is replaced.
fn add_tokens_decoder(
    files: &dyn SideFiles,
    settings: &Settings,
    added: AddedFrom,
    entries: &mut Entries,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let name = "tokenizer_config.json";
    let mut past_end = PastEnd::new(name);
    let decoder = settings.tokenizer.get("added_tokens_decoder").and_then(Value::as_object);
    for (key, token) in decoder.into_iter().flatten() {
        let wrong =
            |problem: &str| fault(files, name, format!("added_tokens_decoder.{key}"), problem);
        let id = key.parse::<u64>().map_err(|_| wrong("is not a token's id"))?;
        let content = token.get("content").and_then(Value::as_str);
        let content =
            content.filter(|text| !text.is_empty()).ok_or_else(|| wrong("has no content"))?;
        let Some(place) = entries.place(id) else {
            past_end.count(id);
            continue;
        };
        if let Some(known) = entries.used(place).filter(|known| *known != content) {
            warnings.push(Warning {
                location: Location::file(files.path(name))
                    .tensor(format!("added_tokens_decoder.{key}")),
                rule: "token-replaced",
                message: format!("{known:?} is replaced by {content:?}"),
            });
        }
        let is_read = added == AddedFrom::Settings;
        let is_special = token.get("special").is_some_and(truthy);
        if is_special || (is_read && looks_special(content)) {
            entries.put(place, content.to_owned(), UNSCORED, CONTROL);
        } else {
            let content = if is_read { with_spaces(content) } else { content.to_owned() };
            entries.put(place, content, UNSCORED, USER_DEFINED);
        }
    }
    past_end.warn(files, entries.tokens.len() as u64, warnings);
    Ok(())
}

/// Flags of `added_tokens_decoder` that a GGUF file cannot say.
fn unsaid_declared_flags(files: &dyn SideFiles, settings: &Settings) -> Option<Warning> {
    let decoder = settings.tokenizer.get("added_tokens_decoder").and_then(Value::as_object);
    let tokens = decoder.into_iter().flatten().filter_map(|(_, token)| {
        Some((token.get("content")?.as_str()?, TokenFlags::of(token), false))
    });
    unsaid_flags(files, "tokenizer_config.json", tokens)
}

/// Tokens of a file that the model has no room for: they are left out, as in the
/// reference, and told of once.
struct PastEnd {
    name: &'static str,
    count: u64,
    first: u64,
}

impl PastEnd {
    fn new(name: &'static str) -> Self {
        Self { name, count: 0, first: u64::MAX }
    }

    fn count(&mut self, id: u64) {
        self.count = self.count.saturating_add(1);
        self.first = self.first.min(id);
    }

    fn warn(&self, files: &dyn SideFiles, size: u64, warnings: &mut Vec<Warning>) {
        if self.count > 0 {
            warnings.push(Warning {
                location: Location::file(files.path(self.name)),
                rule: "token-without-embedding",
                message: format!(
                    "{} tokens from id {} on are left out: the model has {size} tokens (vocab_size)",
                    self.count, self.first
                ),
            });
        }
    }
}

/// The table for `file`, which holds a BPE vocabulary with byte tokens.
///
/// The reference gives all tokens the same score, so that text merges from the left.
/// Here scores are in the order of the merges, which gives the ids that the merges
/// give.
///
/// The reference fails for ids without a token, and writes fewer tokens than the
/// model has rows if `tokenizer.json` has fewer; llama.cpp does not load such a
/// file. Here both get padding.
pub(crate) fn byte_fallback_tokens(
    files: &dyn SideFiles,
    file: TokenizerFile,
    settings: &Settings,
    stated: Option<u64>,
    warnings: &mut Vec<Warning>,
) -> Result<TokenTable, Error> {
    let added = AddedTokens::gather(files, &file, settings, stated, warnings)?;
    let size = size_of(files, &file, &added, stated)?;
    let mut entries = Entries::padded(size);
    let order = file.model.merge_order();
    let unmerged = UNSCORED.min(-(order.len() as f32));
    for (token, id) in &file.model.vocab.ids {
        if let Some(place) = entries.place(id.0.into()) {
            let kind = match (byte_of(token), added.get(token)) {
                (Some(_), _) => BYTE,
                _ if added.is_named(token) => CONTROL,
                (None, Some(token)) => added_kind(token),
                (None, None) => NORMAL,
            };
            let score = order.get(&id.0).map_or(unmerged, |place| 0.0 - *place as f32);
            entries.put(place, token.clone(), score, kind);
        }
    }
    for token in added.iter().filter(|token| !file.model.vocab.ids.contains_key(&token.content)) {
        if let Some(place) = entries.place(token.id.0.into()) {
            let kind = if added.is_named(&token.content) { CONTROL } else { USER_DEFINED };
            entries.put(place, token.content.clone(), UNSCORED, kind);
        }
    }
    check_bytes(files, &entries)?;
    entries.check_unique(files, tokenizer_file::NAME)?;
    warn_of_unknown(files, &file, false, warnings);
    let unsaid = unsaid(files, &file, &added, false);
    let space_prefix = space_prefix(&file);
    Ok(entries.into_table(file.surroundings, space_prefix, unsaid))
}

/// Gemma 4's tokens that its chats have to show, whatever `tokenizer.json` says of them.
const SHOWN: &[&str] = &[
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|\"|>",
];

/// The table of Gemma 4's vocabulary: BPE with byte tokens whose merges the file has, so that
/// all scores are the same.
///
/// As in the reference, a token of the model is a control token only if a key names it as
/// special, and added tokens behind the model's are defined by a user.
pub(crate) fn merged_tokens(
    files: &dyn SideFiles,
    file: TokenizerFile,
    settings: &Settings,
    stated: Option<u64>,
    warnings: &mut Vec<Warning>,
) -> Result<TokenTable, Error> {
    if !file.is_llama_with_byte_tokens() {
        let kind = "what is no BPE with byte tokens".to_owned();
        return Err(Error::Unsupported { path: files.path(tokenizer_file::NAME), kind });
    }
    let added = AddedTokens::gather(files, &file, settings, stated, warnings)?;
    let size = size_of(files, &file, &added, stated)?;
    let mut entries = Entries::padded(size);
    let ids = &file.model.vocab.ids;
    let own = ids.iter().map(|(token, id)| (token, id, NORMAL));
    let others = added.iter().filter(|token| !ids.contains_key(&token.content));
    let others = others.map(|token| (&token.content, &token.id, USER_DEFINED));
    for (token, id, kind) in own.chain(others) {
        if let Some(place) = entries.place(id.0.into()) {
            let kind = match byte_of(token) {
                _ if SHOWN.contains(&token.as_str()) => USER_DEFINED,
                Some(_) => BYTE,
                None if added.is_named(token) => CONTROL,
                None => kind,
            };
            entries.put(place, token.clone(), UNSCORED, kind);
        }
    }
    check_bytes(files, &entries)?;
    entries.check_unique(files, tokenizer_file::NAME)?;
    warn_of_unknown(files, &file, false, warnings);
    let unsaid = unsaid(files, &file, &added, false);
    let table = entries.into_table(file.surroundings, None, unsaid);
    let merges = Some(file.model.merges.lines);
    Ok(TokenTable { model: "gemma4", pre_tokenizer: None, merges, ..table })
}

/// What a token of the model is that is also an added one: found in text before
/// anything merges. One with U+2581 stands for spaces, too, so it has to merge.
fn added_kind(token: &AddedToken) -> i32 {
    match token.special {
        true => CONTROL,
        false if token.content.contains(SPACE) => NORMAL,
        false => USER_DEFINED,
    }
}

/// Refuses two tokens for the same byte, such as `<0xab>` and `<0xAB>`.
fn check_bytes(files: &dyn SideFiles, entries: &Entries) -> Result<(), Error> {
    let mut first = HashMap::new();
    for (token, kind) in entries.tokens.iter().zip(&entries.types) {
        if *kind == BYTE
            && let Some(other) = first.insert(byte_of(token), token)
        {
            let problem = format!("{other:?} and {token:?} are the same byte");
            return Err(fault(files, tokenizer_file::NAME, "model.vocab", problem));
        }
    }
    Ok(())
}
