//! The way back: a checkpoint's files and tensors from a GGUF file.
//!
//! Names and row orders are those of the architecture's [`TensorRule`]s, read from
//! right to left; sizes come from the metadata, switches from the tensors that are
//! there.
//!
//! [`TensorRule`]: crate::TensorRule

mod config;
mod keys;
mod rope;
mod tensors;

use std::path::Path;

use qz_tensor::{Location, Metadata, SideFile, TensorSource, Value, Warning};
use qz_tokenize::RestoredTokenizer;
use serde_json::{Map, json};

use crate::architecture::Architecture;
use crate::architectures::ARCHITECTURES;
use crate::config::JsonObject;
use crate::error::Error;
use crate::files::{CheckpointFiles, pretty};
use crate::general::sampling_of;
use crate::hyperparameters::ModelConfig;
use crate::layer_numbers::list_of;

use keys::Keys;
pub(crate) use tensors::restore_tensors;
pub use tensors::{RestoredPlace, RestoredTensor, RestoredTensors};

/// What a person may decide instead of the file.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// The pre-tokenizer's GGUF name.
    pub pre_tokenizer: Option<String>,
}

/// Everything a checkpoint of a GGUF file says, and where its tensors come from.
pub struct RestoredCheckpoint {
    /// What the model is.
    pub architecture: &'static dyn Architecture,
    /// Its sizes.
    pub config: ModelConfig,
    /// The files beside the weights.
    pub files: CheckpointFiles,
    /// The tensors, in the order of the GGUF file.
    pub tensors: Vec<RestoredTensor>,
    /// Where those of the GGUF file go.
    pub places: Vec<RestoredPlace>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// Restores the checkpoint of a GGUF file with this metadata.
///
/// # Errors
/// If the file lacks what a checkpoint needs, contradicts itself, or is of an
/// architecture or has a tokenizer whose files are not known.
pub fn restore(
    path: &Path,
    metadata: &Metadata,
    source: &dyn TensorSource,
    options: &RestoreOptions,
) -> Result<RestoredCheckpoint, Error> {
    let metadata = &*metadata.as_text();
    let keys = Keys { metadata, path };
    let architecture = known_architecture(&keys)?;
    let tokens = tensors::rows_of_embedding(architecture, &keys, source.tensors())?;
    let values = config::config_of(architecture, &keys, source, tokens)?;
    let json = JsonObject::new(path.to_owned(), values.clone()).filled(architecture);
    let defaults = Some(architecture.defaults());
    let mut config = ModelConfig::read(&json, defaults, architecture)?;
    config.further = config::further_layers(architecture, &keys)?;
    let RestoredTensors { tensors, places } =
        tensors::restore_tensors(architecture, &config, &json, source.tensors())?;
    for number in architecture.layer_numbers() {
        let layers = config.layers as usize;
        if list_of(metadata, number.key).is_none_or(|list| list.len() != layers) {
            return Err(keys.fault(number.key, format!("expected a list of {layers} floats")));
        }
    }
    let tokenizer = qz_tokenize::restore_tokenizer(
        metadata,
        qz_tokenize::RestoreOptions {
            path,
            size: tokens,
            context: config.context,
            pre_tokenizer: options.pre_tokenizer.as_deref(),
        },
    )?;
    let mut warnings = Vec::new();
    warn_of_pooling(&keys, architecture, &mut warnings);
    let files = files(spelled(values, architecture), tokenizer, &keys, &mut warnings);
    Ok(RestoredCheckpoint { architecture, config, files, tensors, places, warnings })
}

/// The architecture of a GGUF file with this metadata, if it is one of ours.
pub fn architecture_of(metadata: &Metadata) -> Option<&'static dyn Architecture> {
    let name = metadata.string("general.architecture")?;
    let mut known = ARCHITECTURES.iter().copied();
    known.find(|architecture| architecture.gguf_name() == name && architecture.is_in(metadata))
}

fn known_architecture(keys: &Keys<'_>) -> Result<&'static dyn Architecture, Error> {
    let name = keys.required_string("general.architecture")?;
    architecture_of(keys.metadata).ok_or_else(|| {
        let mut known: Vec<&str> =
            ARCHITECTURES.iter().map(|architecture| architecture.gguf_name()).collect();
        known.dedup();
        Error::UnknownCheckpoint {
            path: keys.path.to_owned(),
            name: name.to_owned(),
            known: known.join(", "),
        }
    })
}

/// The same with keys as the family calls them.
fn spelled(
    config: Map<String, serde_json::Value>,
    architecture: &dyn Architecture,
) -> Map<String, serde_json::Value> {
    let own = |key: String| {
        let mut spellings = architecture.spellings().iter();
        let found = spellings.find(|spelling| spelling.common == key);
        found.map_or(key, |spelling| spelling.own.to_owned())
    };
    config.into_iter().map(|(key, value)| (own(key), value)).collect()
}

/// `config.json` with the tokens that have a job, and the files around it.
fn files(
    mut config: Map<String, serde_json::Value>,
    tokenizer: RestoredTokenizer,
    keys: &Keys<'_>,
    warnings: &mut Vec<Warning>,
) -> CheckpointFiles {
    let RestoredTokenizer { files, beginning, ends, padding, warnings: told } = tokenizer;
    warnings.extend(told);
    config.insert("bos_token_id".to_owned(), json!(beginning));
    config.insert("eos_token_id".to_owned(), json!(ends.first()));
    config.insert("pad_token_id".to_owned(), json!(padding));
    let mut generation = Map::new();
    generation.extend(beginning.map(|id| ("bos_token_id".to_owned(), json!(id))));
    match ends.as_slice() {
        [] => {}
        [end] => _ = generation.insert("eos_token_id".to_owned(), json!(end)),
        ends => _ = generation.insert("eos_token_id".to_owned(), json!(ends)),
    }
    generation.extend(padding.map(|id| ("pad_token_id".to_owned(), json!(id))));
    let sampling: Vec<_> = sampling_of(keys.metadata).collect();
    if !sampling.is_empty() {
        generation.insert("do_sample".to_owned(), json!(true));
    }
    generation.extend(sampling.into_iter().map(|(key, value)| (key.to_owned(), value)));
    let mut others =
        vec![SideFile { name: "generation_config.json".to_owned(), content: pretty(&generation) }];
    others.extend(files);
    CheckpointFiles { config, others }
}

/// How an embedding model makes one vector of a text is in files of
/// sentence-transformers, which are not rebuilt.
fn warn_of_pooling(keys: &Keys<'_>, architecture: &dyn Architecture, warnings: &mut Vec<Warning>) {
    let key = format!("{}.pooling_type", architecture.gguf_name());
    if keys.metadata.get(&key).is_some_and(|value| !matches!(value, Value::U32(0))) {
        warnings.push(Warning {
            location: Location::file(keys.path).tensor(key),
            rule: "pooling-lost",
            message: "modules.json of sentence-transformers is not rebuilt".to_owned(),
        });
    }
}
