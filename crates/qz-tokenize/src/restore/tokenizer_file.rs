//! `tokenizer.json`.

use std::collections::HashSet;

use qz_tensor::{Array, Metadata, Value as Entry, Warning};
use serde_json::{Map, Value, json};

use super::merges::merges_by_score;
use super::table::{Kind, Table, fault};
use super::{RestoreOptions, warning};
use crate::base64;
use crate::error::Error;
use crate::pre_tokenizer::{self, Definition};
use crate::token_types::BYTE;
use crate::word_piece_tokens::CONTINUES;

/// The parts of the file that the kinds of vocabulary differ in.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// Steps of the post-processor in front of the template.
    before_template: Vec<Value>,
    adds_beginning: bool,
    model: Map<String, Value>,
}

/// The whole file.
pub(super) fn write(
    table: &Table<'_>,
    metadata: &Metadata,
    options: RestoreOptions<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<u8>, Error> {
    let Parts { normalizer, pre_tokenizer, decoder, before_template, adds_beginning, model } =
        match table.kind {
            Kind::ByteLevel => byte_level(table, metadata, options)?,
            Kind::SentencePiece => {
                let merges = merges_by_score(table)?;
                pieces(table, metadata, model(vocab(table), &merges), warnings)
            }
            Kind::MergedPieces => {
                let vocab = vocab(table);
                let merges = merges(table, &vocab)?;
                pieces(table, metadata, model(vocab, &merges), warnings)
            }
            Kind::WordPiece => word_piece(table, metadata),
            Kind::Unigram => unigram(table, metadata)?,
        };
    let adds = |kind: &str, default: bool| match metadata
        .get(&format!("tokenizer.ggml.add_{kind}_token"))
    {
        Some(Entry::Bool(add)) => *add,
        _ => default,
    };
    let (beginning, end) = match table.kind {
        Kind::WordPiece => (table.special.classifier, table.special.separator),
        _ => (
            table.special.beginning.filter(|_| adds("bos", adds_beginning)),
            table.special.end.filter(|_| adds("eos", false)),
        ),
    };
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(table),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(table, before_template, beginning, end),
        "decoder": decoder,
        "model": model,
    });
    // A tree of strings and numbers always serializes.
    Ok(serde_json::to_vec_pretty(&file).unwrap_or_default())
}

fn added_tokens(table: &Table<'_>) -> Vec<Value> {
    let entry = |(id, text): (usize, &str)| {
        let special = table.added(id)?;
        Some(json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special,
        }))
    };
    table.tokens.iter().copied().enumerate().filter_map(entry).collect()
}

/// The model's own tokens.
fn vocab(table: &Table<'_>) -> Map<String, Value> {
    let own = table.used().take_while(|(id, _)| *id < table.model_tokens);
    own.map(|(id, text)| (table.own_text(id, text).into_owned(), json!(id))).collect()
}

fn model(vocab: Map<String, Value>, merges: &[(&str, &str)]) -> Map<String, Value> {
    let merges: Vec<Value> = merges.iter().map(|(left, right)| json!([left, right])).collect();
    let fields = [
        ("type", json!("BPE")),
        ("dropout", Value::Null),
        ("unk_token", Value::Null),
        ("continuing_subword_prefix", Value::Null),
        ("end_of_word_suffix", Value::Null),
        ("fuse_unk", json!(false)),
        ("byte_fallback", json!(false)),
        ("ignore_merges", json!(false)),
        ("vocab", Value::Object(vocab)),
        ("merges", Value::Array(merges)),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn byte_level(
    table: &Table<'_>,
    metadata: &Metadata,
    options: RestoreOptions<'_>,
) -> Result<Parts, Error> {
    let stored = metadata.string("tokenizer.ggml.pre");
    let Some(name) = options.pre_tokenizer.or(stored) else {
        return Err(Error::MissingKey { path: table.path.into(), key: "tokenizer.ggml.pre" });
    };
    let Some(definition) = pre_tokenizer::definition_of(name) else {
        return Err(Error::UnknownDefinition {
            path: table.path.into(),
            name: name.to_owned(),
            known: pre_tokenizer::restorable_names().join(", "),
        });
    };
    let Definition { pre_tokenizer, normalizer, ignores_merges, adds_beginning } = definition;
    let vocab = vocab(table);
    let merges = merges(table, &vocab)?;
    let mut model = model(vocab, &merges);
    model.insert("ignore_merges".to_owned(), json!(ignores_merges));
    let byte_level = |trim_offsets: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": trim_offsets,
            "use_regex": true,
        })
    };
    Ok(Parts {
        normalizer: with_stored_steps(normalizer, metadata),
        pre_tokenizer,
        decoder: byte_level(true),
        before_template: vec![byte_level(false)],
        adds_beginning,
        model,
    })
}

/// The normalizer with the steps that GGUF has keys for.
fn with_stored_steps(normalizer: Value, metadata: &Metadata) -> Value {
    let is_set = |key: &str| {
        metadata.get(&format!("tokenizer.ggml.normalizer.{key}")) == Some(&Entry::Bool(true))
    };
    let mut steps: Vec<Value> = Vec::new();
    steps.extend(Some(normalizer).filter(|normalizer| !normalizer.is_null()));
    steps.extend(is_set("lowercase").then(|| json!({"type": "Lowercase"})));
    steps.extend(is_set("strip_accents").then(|| json!({"type": "StripAccents"})));
    match steps.len() {
        0 => Value::Null,
        1 => steps.swap_remove(0),
        _ => json!({"type": "Sequence", "normalizers": steps}),
    }
}

/// The merges as pairs. tokenizers refuses a file where one joins or makes what is
/// no token.
fn merges<'a>(
    table: &Table<'a>,
    vocab: &Map<String, Value>,
) -> Result<Vec<(&'a str, &'a str)>, Error> {
    let pair = |(position, line): (usize, &&'a str)| {
        let wrong = |problem: String| {
            Err(fault(table.path, format!("tokenizer.ggml.merges[{position}]"), problem))
        };
        let Some((left, right)) = line.split_once(' ').filter(|(_, right)| !right.contains(' '))
        else {
            return wrong(format!("{line:?} is not two tokens with a space between"));
        };
        let joined = format!("{left}{right}");
        match [left, right, &joined].into_iter().find(|token| !vocab.contains_key(*token)) {
            Some(token) => wrong(format!("{line:?} needs the token {token:?}, which is missing")),
            None => Ok((left, right)),
        }
    };
    table.merges.iter().enumerate().map(pair).collect()
}

/// A vocabulary of pieces in which U+2581 stands for a space.
fn pieces(
    table: &Table<'_>,
    metadata: &Metadata,
    mut model: Map<String, Value>,
    warnings: &mut Vec<Warning>,
) -> Parts {
    let flag = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let adds_space = flag("add_space_prefix") != Some(&Entry::Bool(false));
    if flag("remove_extra_whitespaces") == Some(&Entry::Bool(true)) {
        warnings.push(warning(
            table.path,
            "tokenizer.ggml.remove_extra_whitespaces",
            "whitespace-kept",
            "runs of spaces are not made one in the rebuilt tokenizer.json".to_owned(),
        ));
    }
    let bytes: HashSet<&str> =
        table.used().filter(|(id, _)| table.types[*id] == BYTE).map(|(_, text)| text).collect();
    model.insert("unk_token".to_owned(), json!(table.unknown().map(|id| &table.tokens[id])));
    model.insert("fuse_unk".to_owned(), json!(true));
    model.insert("byte_fallback".to_owned(), json!(!bytes.is_empty()));
    // llama.cpp puts a space in front of every run of text between special tokens;
    // of the forms that transformers has, this one does the same.
    let mut normalizers = Vec::new();
    normalizers.extend(adds_space.then(|| json!({"type": "Prepend", "prepend": "\u{2581}"})));
    normalizers.push(json!({
        "type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}",
    }));
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    decoders.extend(
        adds_space.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})),
    );
    Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        before_template: Vec::new(),
        adds_beginning: true,
        model,
    }
}

/// A unigram model: its map of characters, words cut at spaces, and scores.
fn unigram(table: &Table<'_>, metadata: &Metadata) -> Result<Parts, Error> {
    const MAP: &str = "tokenizer.ggml.precompiled_charsmap";
    let is_set =
        |key: &str| metadata.get(&format!("tokenizer.ggml.{key}")) == Some(&Entry::Bool(true));
    let normalizer = match metadata.get(MAP) {
        None => Value::Null,
        Some(Entry::Array(Array::U8(map))) => {
            json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(map)})
        }
        Some(_) => return Err(fault(table.path, MAP, "expected a list of bytes")),
    };
    let Some(scores) = table.scores else {
        let key = "tokenizer.ggml.scores";
        return Err(Error::MissingKey { path: table.path.into(), key });
    };
    let own = table.tokens.iter().zip(scores).take(table.model_tokens);
    let vocab: Vec<Value> = own.map(|(token, score)| json!([token, f64::from(*score)])).collect();
    let scheme = if is_set("add_space_prefix") { "always" } else { "never" };
    let metaspace = json!({
        "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true,
    });
    let pre_tokenizer = match is_set("remove_extra_whitespaces") {
        true => json!({
            "type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        }),
        false => metaspace.clone(),
    };
    let fields = [
        ("type", json!("Unigram")),
        ("unk_id", json!(table.unknown())),
        ("vocab", Value::Array(vocab)),
        ("byte_fallback", json!(false)),
    ];
    Ok(Parts {
        normalizer,
        pre_tokenizer,
        decoder: metaspace,
        before_template: Vec::new(),
        adds_beginning: false,
        model: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    })
}

fn word_piece(table: &Table<'_>, metadata: &Metadata) -> Parts {
    let flag = |key: &str| match metadata.get(&format!("tokenizer.ggml.normalizer.{key}")) {
        Some(Entry::Bool(value)) => Some(*value),
        _ => None,
    };
    let fields = [
        ("type", json!("WordPiece")),
        ("unk_token", json!(table.special.unknown.map(|id| table.text(id)))),
        ("continuing_subword_prefix", json!(CONTINUES)),
        ("max_input_chars_per_word", json!(100)),
        ("vocab", Value::Object(vocab(table))),
    ];
    Parts {
        // llama.cpp makes letters small, unless it is told not to.
        normalizer: json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": flag("strip_accents"), "lowercase": flag("lowercase").unwrap_or(true),
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        decoder: json!({"type": "WordPiece", "prefix": CONTINUES, "cleanup": true}),
        before_template: Vec::new(),
        adds_beginning: true,
        model: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

/// What is added to a text: the tokens at its beginning and end.
fn post_processor(
    table: &Table<'_>,
    mut steps: Vec<Value>,
    beginning: Option<u32>,
    end: Option<u32>,
) -> Value {
    let special =
        |id: u32, text: u32| json!({"SpecialToken": {"id": table.text(id), "type_id": text}});
    let text = |name: &str, text: u32| {
        let mut template = Vec::new();
        // WordPiece has its first token in front of the first of two texts alone.
        let is_first = text == 0 || table.kind != Kind::WordPiece;
        template.extend(beginning.filter(|_| is_first).map(|id| special(id, text)));
        template.push(json!({"Sequence": {"id": name, "type_id": text}}));
        template.extend(end.map(|id| special(id, text)));
        template
    };
    let entry = |id: u32| {
        let content = table.text(id);
        (content.to_owned(), json!({"id": content, "ids": [id], "tokens": [content]}))
    };
    let tokens: Map<String, Value> = beginning.into_iter().chain(end).map(entry).collect();
    if !tokens.is_empty() || steps.is_empty() {
        let pair = [text("A", 0), text("B", 1)].concat();
        steps.push(json!({
            "type": "TemplateProcessing",
            "single": text("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }));
    }
    match steps.len() {
        1 => steps.swap_remove(0),
        _ => json!({"type": "Sequence", "processors": steps}),
    }
}
