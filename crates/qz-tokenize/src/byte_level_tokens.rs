//! The tokens of a byte-level BPE vocabulary (`_set_vocab_gpt2` and
//! `get_vocab_base` in `conversion/base.py`).

use std::collections::HashMap;

use qz_tensor::{SideFiles, Warning};
use serde_json::Value;

use crate::added_tokens::{AddedToken, AddedTokens};
use crate::byte_level::decode_token;
use crate::definition::cuts::byte_level_cuts;
use crate::definition::normalizer::normalizers;
use crate::definition::{unsaid, unsaid_texts, warn_of_unknown};
use crate::error::Error;
use crate::json::Settings;
use crate::pre_tokenizer::{self, Evidence};
use crate::token_types::{
    CONTROL, NORMAL, UNUSED, USER_DEFINED, looks_special, padding, with_spaces,
};
use crate::tokenizer_file::TokenizerFile;
use crate::vocabulary::{TokenTable, VocabularyOptions, size_of};

/// The table for `file`, which holds a byte-level vocabulary.
pub(crate) fn byte_level_tokens(
    files: &dyn SideFiles,
    file: TokenizerFile,
    settings: &Settings,
    options: VocabularyOptions<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<TokenTable, Error> {
    let added = AddedTokens::gather(files, &file, settings, options.size, warnings)?;
    let size = size_of(files, &file, &added, options.size)?;
    let name = match options.pre_tokenizer {
        Some(name) => Ok(name),
        None => pre_tokenizer::identify(files, &file, &Evidence::new(&file, &added)),
    };
    let (pre_tokenizer, unnamed) = match name {
        Ok(name) => (Some(name.to_owned()), None),
        Err(unnamed) if is_carried_out(&file) => (None, Some(unnamed)),
        Err(unnamed) => return Err(unnamed.into()),
    };
    warn_of_unknown(files, &file, true, warnings);
    let mut unsaid = unsaid(files, &file, &added, true);
    let texts = added.iter().map(|token| {
        let (text, _) = added_entry(token, &file.decoder);
        (token.content.as_str(), text)
    });
    unsaid.extend(unsaid_texts(files, texts));
    let (tokens, types) = contents_and_types(&file, &added, size);
    Ok(TokenTable {
        model: "gpt2",
        pre_tokenizer,
        unnamed,
        tokens,
        scores: None,
        types,
        merges: Some(file.model.merges.lines),
        space_prefix: None,
        normalizer: None,
        surroundings: file.surroundings,
        unsaid,
    })
}

/// True if every step is known by which the tokenizers library cuts text.
fn is_carried_out(file: &TokenizerFile) -> bool {
    byte_level_cuts(&file.pre_tokenizer).is_some()
        && normalizers(&file.surroundings.normalizer).unknown.is_empty()
}

/// Content and type of every id.
fn contents_and_types(
    file: &TokenizerFile,
    added: &AddedTokens,
    size: u64,
) -> (Vec<String>, Vec<i32>) {
    let mut by_id: HashMap<u64, &str> = HashMap::with_capacity(file.model.vocab.ids.len());
    by_id.extend(file.model.vocab.ids.iter().map(|(token, id)| (id.0.into(), token.as_str())));
    by_id.extend(added.iter().map(|token| (token.id.0.into(), token.content.as_str())));
    let entry = |id: u64| match by_id.get(&id) {
        None => (padding(id), UNUSED),
        Some(content) => match added.get(content) {
            None => ((*content).to_owned(), NORMAL),
            Some(token) => added_entry(token, &file.decoder),
        },
    };
    (0..size).map(entry).unzip()
}

/// llama.cpp looks for added tokens in the text as it stands, so a token that is
/// matched before normalization is written as it decodes.
fn added_entry(token: &AddedToken, decoder: &Value) -> (String, i32) {
    let text = if token.normalized || !decodes_bytes(decoder) {
        token.content.clone()
    } else {
        decode_token(&token.content)
    };
    if token.special || looks_special(&text) {
        (text, CONTROL)
    } else {
        (with_spaces(&text), USER_DEFINED)
    }
}

fn decodes_bytes(decoder: &Value) -> bool {
    match decoder.get("type").and_then(Value::as_str) {
        Some("ByteLevel") => true,
        Some("Sequence") => decoder
            .get("decoders")
            .and_then(Value::as_array)
            .is_some_and(|decoders| decoders.iter().any(decodes_bytes)),
        _ => false,
    }
}
