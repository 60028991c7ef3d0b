//! The way back: the tokenizer files of a checkpoint from the vocabulary metadata
//! of a GGUF file.
//!
//! What GGUF does not say is filled in as the vocabulary's family publishes it
//! (normalizer, decoder) or as llama.cpp treats it (a space in front of every run
//! of text in SentencePiece vocabularies). What cannot be known is an error.

mod merges;
mod model_file;
mod table;
mod tokenizer_file;

use std::path::Path;

use qz_tensor::{Location, Metadata, SideFile, Value, Warning};
use serde_json::{Map, json};

use crate::error::Error;
use crate::tokenizer_file::NAME;
use table::{Kind, SpecialIds, Table};

/// What the caller knows beside the metadata.
#[derive(Clone, Copy, Debug)]
pub struct RestoreOptions<'a> {
    /// The file that the metadata is from, for messages.
    pub path: &'a Path,
    /// Rows of the token embedding.
    pub size: u64,
    /// Positions the model was trained for.
    pub context: Option<u64>,
    /// The pre-tokenizer's name, decided by a person.
    pub pre_tokenizer: Option<&'a str>,
}

/// A checkpoint's tokenizer.
#[derive(Debug)]
pub struct RestoredTokenizer {
    /// `tokenizer.json` and the files around it.
    pub files: Vec<SideFile>,
    /// The token before a text.
    pub beginning: Option<u32>,
    /// The token that ends a text, then those that end a turn or a message.
    pub ends: Vec<u32>,
    /// The token that fills up.
    pub padding: Option<u32>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// Restores the tokenizer files.
///
/// # Errors
/// If the metadata lacks what a tokenizer needs, contradicts itself, or describes
/// a tokenizer whose files are not known.
pub fn restore_tokenizer(
    metadata: &Metadata,
    options: RestoreOptions<'_>,
) -> Result<RestoredTokenizer, Error> {
    let table = Table::read(metadata, options.path, options.size)?;
    let mut warnings = Vec::new();
    let mut files = vec![SideFile {
        name: NAME.to_owned(),
        content: tokenizer_file::write(&table, metadata, options, &mut warnings)?,
    }];
    if table.kind == Kind::SentencePiece {
        files.extend(model_file::write(&table));
        let added = table.declared_by_content();
        files.extend((!added.is_empty()).then(|| json_file("added_tokens.json", &added)));
    }
    files.extend(settings(&table, metadata, options));
    let SpecialIds { beginning, end, end_of_turn, end_of_message, padding, .. } = table.special;
    let mut ends: Vec<u32> = Vec::new();
    for id in [end, end_of_turn, end_of_message].into_iter().flatten() {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    Ok(RestoredTokenizer { files, beginning, ends, padding, warnings })
}

/// `tokenizer_config.json`, and `chat_template.jinja` if there is one template.
fn settings(table: &Table<'_>, metadata: &Metadata, options: RestoreOptions<'_>) -> Vec<SideFile> {
    let mut config = Map::new();
    if table.kind == Kind::SentencePiece {
        for key in ["add_bos_token", "add_eos_token"] {
            if let Some(Value::Bool(add)) = metadata.get(&format!("tokenizer.ggml.{key}")) {
                config.insert(key.to_owned(), json!(add));
            }
        }
        if let Some(Value::Bool(add)) = metadata.get("tokenizer.ggml.add_space_prefix") {
            config.insert("add_prefix_space".to_owned(), json!(add));
        }
        config.insert("added_tokens_decoder".to_owned(), table.declared_by_id());
    }
    let flag = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let is_set = |key: &str| flag(key) == Some(&Value::Bool(true));
    if table.kind == Kind::Unigram {
        config.insert("add_prefix_space".to_owned(), json!(is_set("add_space_prefix")));
    }
    let cleans = table.kind == Kind::Unigram && is_set("remove_extra_whitespaces");
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(cleans));
    for (name, id) in table.special.named() {
        // Written out as null too: some tokenizer classes have defaults.
        config.insert(format!("{name}_token"), json!(id.map(|id| table.text(id))));
    }
    if let Some(context) = options.context {
        config.insert("model_max_length".to_owned(), json!(context));
    }
    // The class that takes tokenizer.json as it stands, by the name that every
    // version of transformers knows.
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));

    let mut files = Vec::new();
    let templates = templates(metadata);
    match templates.as_slice() {
        [] => {}
        [(name, text)] if *name == "default" => files.push(SideFile {
            name: "chat_template.jinja".to_owned(),
            content: text.as_bytes().to_vec(),
        }),
        named => {
            let list = named.iter().map(|(name, text)| json!({"name": name, "template": text}));
            config.insert("chat_template".to_owned(), list.collect());
        }
    }
    files.insert(0, json_file("tokenizer_config.json", &config));
    files
}

/// The chat templates by name, the default one first.
fn templates(metadata: &Metadata) -> Vec<(&str, &str)> {
    const KEY: &str = "tokenizer.chat_template";
    let named = metadata.iter().filter_map(|(key, value)| match value {
        Value::String(text) => Some((key.strip_prefix(KEY)?.strip_prefix('.')?, text.as_str())),
        _ => None,
    });
    metadata.string(KEY).map(|text| ("default", text)).into_iter().chain(named).collect()
}

fn json_file(name: &str, content: &impl serde::Serialize) -> SideFile {
    // Strings, numbers and maps with string keys always serialize.
    let mut content = serde_json::to_vec_pretty(content).unwrap_or_default();
    content.push(b'\n');
    SideFile { name: name.to_owned(), content }
}

fn warning(path: &Path, key: &str, rule: &'static str, message: String) -> Warning {
    Warning { location: Location::file(path).tensor(key), rule, message }
}
