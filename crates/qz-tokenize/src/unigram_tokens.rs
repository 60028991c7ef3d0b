//! The tokens of unigram vocabularies, which llama.cpp calls "t5": SentencePiece's pieces with
//! their scores, and what becomes of a text before they are looked for
//! (`_xlmroberta_set_vocab` in `conversion/bert.py`).

use std::collections::HashMap;

use qz_tensor::{SideFiles, Warning};
use serde_json::Value;

use crate::added_tokens::AddedTokens;
use crate::base64;
use crate::error::Error;
use crate::json::{Settings, fault, read_bytes};
use crate::scored_tokens::{Entries, PADDING_SCORE, add_tokens_file};
use crate::sentencepiece::{self, Normalizer, is_unigram, read_normalizer, read_pieces};
use crate::token_types::{CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::tokenizer_file::{self, Surroundings, TokenizerFile};
use crate::vocabulary::{TokenTable, check_size};

/// What XLM-RoBERTa calls SentencePiece's model.
pub(crate) const XLM_ROBERTA: &str = "sentencepiece.bpe.model";

/// What T5 calls it: older models have the second name.
const T5: [&str; 2] = [sentencepiece::NAME, "spiece.model"];

/// The first tokens of XLM-RoBERTa's vocabulary. SentencePiece's own three stand in another
/// order, and without the one for padding.
const FIRST: &[(&str, i32)] =
    &[("<s>", CONTROL), ("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN)];
/// SentencePiece's tokens in their place.
const REPLACED: usize = 3;

/// The table for `model`, the bytes of [`XLM_ROBERTA`], with ids as XLM-RoBERTa has them. The
/// last id, that of a mask, gets no token, as in the reference.
pub(crate) fn xlm_roberta_tokens(
    files: &dyn SideFiles,
    model: &[u8],
    stated: Option<u64>,
) -> Result<TokenTable, Error> {
    let pieces = read_pieces(files, XLM_ROBERTA, model)?;
    let size = check_size(files, stated.unwrap_or(0).max(pieces.len() as u64))?;
    let mut own = Entries::padded(size);
    for (place, piece) in pieces.iter().enumerate() {
        own.put_piece(place, piece);
    }
    let mut entries = Entries::padded(size);
    for (place, (token, kind)) in FIRST.iter().enumerate() {
        entries.put(place, (*token).to_owned(), 0.0, *kind);
    }
    entries.copy_from(&own, REPLACED, FIRST.len());
    entries.check_unique(files, XLM_ROBERTA)?;
    let normalizer = read_normalizer(files, XLM_ROBERTA, model)?;
    Ok(entries.into_unigram_table(Surroundings::read(files)?, normalizer))
}

/// The table of a T5, with ids as SentencePiece has them and tokens that were added behind them
/// (`T5Model.set_vocab` in `conversion/t5.py`); `None` if there is no unigram model.
pub(crate) fn t5_tokens(
    files: &dyn SideFiles,
    stated: Option<u64>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<TokenTable>, Error> {
    for name in T5 {
        let Some(model) = read_bytes(files, name)? else { continue };
        if !is_unigram(files, name, &model)? {
            return Ok(None);
        }
        let pieces = read_pieces(files, name, &model)?;
        let mut entries = Entries::of_pieces(files, name, &pieces, stated, warnings)?;
        drop(pieces);
        add_tokens_file(files, &mut entries, warnings)?;
        entries.check_unique(files, name)?;
        let normalizer = read_normalizer(files, name, &model)?;
        return Ok(Some(entries.into_unigram_table(Surroundings::read(files)?, normalizer)));
    }
    Ok(None)
}

/// The table for `file`, which holds a unigram vocabulary. Tokens that are not the model's own
/// are written where they stand; the reference leaves them out.
pub(crate) fn unigram_tokens(
    files: &dyn SideFiles,
    file: TokenizerFile,
    settings: &Settings,
    stated: Option<u64>,
    warnings: &mut Vec<Warning>,
) -> Result<TokenTable, Error> {
    let added = AddedTokens::gather(files, &file, settings, stated, warnings)?;
    let scored = &file.model.vocab.scored;
    let size = check_size(files, stated.unwrap_or(0).max(scored.len() as u64))?;
    let unknown = unknown_id(&file, settings, &added);
    let by_id: HashMap<u32, (&str, bool)> =
        added.iter().map(|token| (token.id.0, (&*token.content, token.special))).collect();
    let mut entries = Entries::padded(size);
    for (id, (token, score)) in (0u32..).zip(scored) {
        let kind = match by_id.get(&id) {
            _ if is_padding(token, *score) => UNUSED,
            _ if Some(u64::from(id)) == unknown => UNKNOWN,
            Some((content, special)) if *special || added.is_named(content) => CONTROL,
            Some(_) => USER_DEFINED,
            None if added.is_named(token) => CONTROL,
            None => NORMAL,
        };
        entries.put(id as usize, token.clone(), *score as f32, kind);
    }
    for token in added.iter().filter(|token| token.id.0 as usize >= scored.len()) {
        let kind = if token.special { CONTROL } else { USER_DEFINED };
        entries.put(token.id.0 as usize, token.content.clone(), 0.0, kind);
    }
    entries.check_unique(files, tokenizer_file::NAME)?;
    let normalizer = normalizer_of(files, &file, settings)?;
    Ok(entries.into_unigram_table(file.surroundings, normalizer))
}

/// True for what stands at ids without a token: written so from GGUF.
fn is_padding(token: &str, score: f64) -> bool {
    score as f32 == PADDING_SCORE && token.starts_with("[PAD") && token.ends_with(']')
}

fn unknown_id(file: &TokenizerFile, settings: &Settings, added: &AddedTokens) -> Option<u64> {
    let named = settings.tokenizer.get("unk_token").and_then(crate::json::token_content);
    let named = named.and_then(|content| added.get(content)).map(|token| u64::from(token.id.0));
    named.or(file.model.unk_id)
}

/// What becomes of a text. The file's own steps beyond a map of characters are not looked at, as
/// in the reference, whose switches stand in `tokenizer_config.json`.
fn normalizer_of(
    files: &dyn SideFiles,
    file: &TokenizerFile,
    settings: &Settings,
) -> Result<Normalizer, Error> {
    const KEY: &str = "precompiled_charsmap";
    let stated = |key: &str, default: bool| {
        settings.tokenizer.get(key).and_then(Value::as_bool).unwrap_or(default)
    };
    let map = match file.surroundings.normalizer.get(KEY).and_then(Value::as_str) {
        None => Vec::new(),
        Some(text) => base64::decode(text).ok_or_else(|| {
            fault(files, tokenizer_file::NAME, format!("normalizer.{KEY}"), "is not base64")
        })?,
    };
    Ok(Normalizer {
        map,
        adds_space: stated("add_prefix_space", true),
        merges_spaces: stated("clean_up_tokenization_spaces", false),
    })
}
