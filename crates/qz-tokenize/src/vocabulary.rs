//! The vocabulary as metadata.

use std::collections::HashMap;

use qz_tensor::{Array, Metadata, SideFiles, Warning};
use serde_json::Value;

use crate::added_tokens::{AddedToken, AddedTokens};
use crate::byte_level::decode_token;
use crate::chat_template::write_chat_templates;
use crate::error::Error;
use crate::json::{Settings, fault, read_object};
use crate::pre_tokenizer::{self, Evidence};
use crate::special_tokens::SpecialTokens;
use crate::tokenizer_file::{self, MOST_TOKENS, TokenizerFile};

/// What the caller knows beside the tokenizer's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct VocabularyOptions<'a> {
    /// How many tokens the model has room for (`vocab_size` of `config.json`).
    pub size: Option<u64>,
    /// The pre-tokenizer's name, decided by a person.
    pub pre_tokenizer: Option<&'a str>,
    /// Write `add_prefix_space` of `tokenizer_config.json` as a key of its own.
    pub write_add_space_prefix: bool,
}

/// A vocabulary as a GGUF file stores it.
#[derive(Debug)]
pub struct Vocabulary {
    /// The `tokenizer.*` keys in the reference's order.
    pub metadata: Metadata,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// Token types of GGUF (`TokenType` in `gguf-py/gguf/constants.py`).
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Reads a byte-level BPE vocabulary.
///
/// # Errors
/// If a file is missing, broken, contradicts another one, or describes a
/// tokenizer that llama.cpp does not know.
pub fn vocabulary(
    files: &dyn SideFiles,
    options: VocabularyOptions<'_>,
) -> Result<Vocabulary, Error> {
    if let Some(name) = options.pre_tokenizer {
        pre_tokenizer::check_name(name)?;
    }
    let file = TokenizerFile::read(files)?;
    let settings = Settings {
        tokenizer: read_object(files, "tokenizer_config.json")?.unwrap_or_default(),
        model: read_object(files, "config.json")?.unwrap_or_default(),
    };
    let mut warnings = Vec::new();
    let added = AddedTokens::gather(files, &file, &settings, options.size, &mut warnings)?;
    let size = size(files, &file, &added, options.size)?;

    let pre_tokenizer = match options.pre_tokenizer {
        Some(name) => name,
        None => pre_tokenizer::identify(files, &file, &Evidence::new(&file, &added))?,
    };
    let special = SpecialTokens::find(files, &file, &settings, size, &mut warnings)?;
    let normalizer = file.normalizer.clone();
    let (tokens, types) = token_table(&file, &added, size);

    let mut metadata = Metadata::new();
    if options.write_add_space_prefix
        && let Some(Value::Bool(add)) = settings.tokenizer.get("add_prefix_space")
    {
        metadata.set("tokenizer.ggml.add_space_prefix", *add);
    }
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", pre_tokenizer);
    metadata.set("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.set("tokenizer.ggml.token_type", Array::I32(types));
    metadata.set("tokenizer.ggml.merges", Array::String(file.model.merges.lines));
    special.write(&mut metadata);
    if !settings.tokenizer.is_empty() {
        write_chat_templates(files, &settings.tokenizer, &mut metadata, &mut warnings)?;
    }
    write_normalizer(&normalizer, &mut metadata);
    Ok(Vocabulary { metadata, warnings })
}

/// How many tokens there are: as many as the model has room for, and no token's
/// id is past them.
fn size(
    files: &dyn SideFiles,
    file: &TokenizerFile,
    added: &AddedTokens,
    stated: Option<u64>,
) -> Result<u64, Error> {
    let vocab = &file.model.vocab.ids;
    let further = || added.iter().filter(|token| !vocab.contains_key(&token.content));
    let mut last = vocab.iter().map(|(token, id)| (*id, token.as_str())).max();
    let last_of_model = last;
    let mut count = vocab.len() as u64;
    for token in further() {
        // Only a vocabulary with gaps can have its ids given away again.
        if last_of_model.is_some_and(|(id, _)| token.id <= id)
            && let Some((other, _)) = vocab.iter().find(|(_, id)| **id == token.id)
        {
            let problem =
                format!("{other:?} and {:?} have the same id {}", token.content, token.id.0);
            return Err(fault(files, tokenizer_file::NAME, "added_tokens", problem));
        }
        count += 1;
        last = last.max(Some((token.id, token.content.as_str())));
    }
    let size = stated.unwrap_or(count);
    if size > MOST_TOKENS {
        let problem =
            format!("is {size}, more than the {MOST_TOKENS} tokens a vocabulary may have");
        return Err(fault(files, "config.json", "vocab_size", problem));
    }
    match last {
        Some((id, token)) if u64::from(id.0) >= size => {
            let problem = format!(
                "the token {token:?} has id {}, but the model has {size} tokens (vocab_size)",
                id.0
            );
            Err(fault(files, tokenizer_file::NAME, "model.vocab", problem))
        }
        _ => Ok(size),
    }
}

/// Content and type of every id, as `get_vocab_base` in `conversion/base.py`
/// makes them.
fn token_table(file: &TokenizerFile, added: &AddedTokens, size: u64) -> (Vec<String>, Vec<i32>) {
    let mut by_id: HashMap<u32, &str> = HashMap::with_capacity(file.model.vocab.ids.len());
    by_id.extend(file.model.vocab.ids.iter().map(|(token, id)| (id.0, token.as_str())));
    by_id.extend(added.iter().map(|token| (token.id.0, token.content.as_str())));
    let (mut tokens, mut types) = (Vec::new(), Vec::new());
    for id in 0..u32::try_from(size).unwrap_or(u32::MAX) {
        let (token, kind) = match by_id.get(&id) {
            None => (format!("[PAD{id}]"), UNUSED),
            Some(content) => match added.get(content) {
                None => ((*content).to_owned(), NORMAL),
                Some(token) => added_entry(token, &file.decoder),
            },
        };
        tokens.push(token);
        types.push(kind);
    }
    (tokens, types)
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
        (text.replace('\u{2581}', " "), USER_DEFINED)
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

/// Tokens that checkpoints forget to mark as special
/// (`does_token_look_special` in `conversion/base.py`).
fn looks_special(token: &str) -> bool {
    let between = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// Normalizers that llama.cpp has a key for.
fn write_normalizer(normalizer: &Value, metadata: &mut Metadata) {
    let (mut lowercase, mut strip_accents) = (None, None);
    read_normalizer(normalizer, &mut lowercase, &mut strip_accents);
    for (key, value) in [("lowercase", lowercase), ("strip_accents", strip_accents)] {
        if let Some(value) = value {
            metadata.set(format!("tokenizer.ggml.normalizer.{key}"), value);
        }
    }
}

fn read_normalizer(normalizer: &Value, lowercase: &mut Option<bool>, accents: &mut Option<bool>) {
    let flag = |key: &str, old: Option<bool>| match normalizer.get(key) {
        Some(value) => value.as_bool(),
        None => old,
    };
    match normalizer.get("type").and_then(Value::as_str) {
        Some("Lowercase") => *lowercase = Some(true),
        Some("StripAccents") => *accents = Some(true),
        Some("BertNormalizer") => {
            *lowercase = flag("lowercase", *lowercase);
            *accents = flag("strip_accents", *accents);
        }
        Some("Sequence") => {
            let steps = normalizer.get("normalizers").and_then(Value::as_array);
            for step in steps.into_iter().flatten() {
                read_normalizer(step, lowercase, accents);
            }
        }
        _ => {}
    }
}
