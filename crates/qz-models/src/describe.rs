//! From a checkpoint's files to everything a GGUF file of it says.

use std::collections::HashSet;

use qz_tensor::{
    Array, DataType, FileError, Location, Metadata, Shape, SideFiles, TensorIndex, TensorInfo,
    Warning,
};
use qz_tokenize::{UnknownPreTokenizer, VocabularyOptions};
use serde_json::Value;

use crate::architecture::{Architecture, Model};
use crate::architectures::ARCHITECTURES;
use crate::checkpoint::{MatchedTensors, match_tensors};
use crate::config::{JsonObject, shown};
use crate::config_keys;
use crate::error::Error;
use crate::general::{Authorship, ParameterCount, is_generic_name, read_card, write_sampling};
use crate::hyperparameters::ModelConfig;
use crate::larger_models;
use crate::layer_numbers::StoredNumbers;
use crate::recipe::{TensorOrigin, TensorRecipe};
use crate::restore::{RestoredTensors, restore_tensors};
use crate::rope::RopeScaling;
use crate::rules::{Part, Presence, Role, TensorRule};
use crate::settings::MetadataKey;

/// What a person may decide instead of the checkpoint.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// `tokenizer.ggml.pre`, one of [`qz_tokenize::pre_tokenizer_names`].
    pub pre_tokenizer: Option<String>,
    /// `general.name`.
    pub model_name: Option<String>,
    /// The tensors are those of the model, whatever `quantization_config` says: whoever
    /// opened the checkpoint has seen to that.
    pub is_unpacked: bool,
    /// Tensors that say nothing, such as biases of zeros: left out where the model has no
    /// place for them.
    pub spare: HashSet<String>,
    /// What stands before the names of the model's tensors. Those without it are left out
    /// where the model has no place for them.
    pub strip_prefix: Option<String>,
    /// Layers that only predict further tokens are left out.
    pub drops_further_layers: bool,
}

/// Everything a GGUF file of a checkpoint says, and where its tensors come from.
pub struct ModelDescription {
    /// What the model is.
    pub architecture: &'static dyn Architecture,
    /// Its sizes.
    pub config: ModelConfig,
    /// The metadata in the reference's order. `general.file_type` is there as a
    /// `u32` 0, for the caller to set.
    pub metadata: Metadata,
    /// What the GGUF file will hold, in the reference's order.
    pub tensors: Vec<TensorRecipe>,
    /// Source tensors that are rightly not written.
    pub ignored: Vec<String>,
    /// Source tensors that belong to the checkpoint and have no place in a GGUF file: other
    /// parts of a larger model, layers that only predict further tokens.
    pub beside: Vec<TensorIndex>,
    /// Those of them that the metadata have the numbers of.
    pub numbers: Vec<StoredNumbers>,
    /// The checkpoint of plain numbers, where this one's tensors are named otherwise.
    pub plain: Option<PlainForm>,
    /// What the source's tensors are called without what was put around the model.
    pub names: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// What of its tokenizer the metadata cannot say: to be told where they are written.
    pub unsaid: Vec<Warning>,
    /// There if the metadata are those of no GGUF file, because llama.cpp has no name for how
    /// the tokenizer cuts text.
    pub unnamed_pre_tokenizer: Option<UnknownPreTokenizer>,
}

/// The tensors that a checkpoint of plain numbers has, and where those of GGUF go.
pub struct PlainForm {
    /// The names of GGUF's tensors, in the order of the places.
    pub names: Vec<String>,
    /// The checkpoint's tensors, and places in them.
    pub restored: RestoredTensors,
}

impl PlainForm {
    fn of(
        architecture: &dyn Architecture,
        config: &ModelConfig,
        json: &JsonObject,
        recipes: &[TensorRecipe],
    ) -> Result<Self, Error> {
        let info = |recipe: &TensorRecipe| TensorInfo {
            name: recipe.name.as_str().into(),
            data_type: DataType::F32,
            shape: recipe.shape.clone(),
            file: json.path().into(),
            offset: 0,
            bytes: 0,
        };
        let infos: Vec<TensorInfo> = recipes.iter().map(info).collect();
        let restored = restore_tensors(architecture, config, json, &infos)?;
        let names = restored.places.iter().map(|place| recipes[place.tensor.0].name.clone());
        Ok(Self { names: names.collect(), restored })
    }
}

/// Describes a checkpoint.
///
/// # Errors
/// If its files contradict each other or ask for what this program does not know.
pub fn describe(
    files: &dyn SideFiles,
    tensors: &[TensorInfo],
    options: &ConvertOptions,
) -> Result<ModelDescription, Error> {
    let json = read_object(files, "config.json")?
        .ok_or_else(|| Error::MissingFile(files.path("config.json")))?;
    let json = larger_models::text_config(json)?;
    let mut warnings = Vec::new();
    if !options.is_unpacked {
        refuse_quantized(&json)?;
    }
    warn_of_code(files, &json, &mut warnings)?;
    let architecture = architecture_of(&json)?;
    let json = json.of_architecture(architecture);
    let defaults = config_defaults(&json, architecture)?;
    let mut config = ModelConfig::read(&json, defaults, architecture)?;
    config_keys::check(&json, &config, defaults, architecture, &mut warnings)?;

    let MatchedTensors { recipes, ignored, beside, numbers, unsaid: lost, is_shown, names } =
        match_tensors(architecture, &mut config, &json, tensors, options, &mut warnings)?;
    let plain =
        is_shown.then(|| PlainForm::of(architecture, &config, &json, &recipes)).transpose()?;
    let tensors = with_computed(architecture, &config, recipes)?;
    let parameters = ParameterCount::of(&tensors)
        .ok_or_else(|| json.fault("(root)", "the model has more than 2^64 weights"))?;

    let mut metadata = Metadata::new();
    metadata.set("general.architecture", architecture.gguf_name());
    for number in architecture.layer_numbers() {
        metadata.set(number.key, Array::F32(Vec::new()));
    }
    for key in architecture.first_metadata() {
        write_key(key, architecture.gguf_name(), &config, &mut metadata);
    }
    metadata.set("general.type", "model");
    write_general(files, &json, options, &parameters, &mut metadata, &mut warnings)?;
    let model = Model { config: &config, files };
    write_model(architecture, &model, &mut metadata)?;
    check_scaling(&json, &config, &metadata)?;
    warnings.extend(architecture.warnings(&model)?);
    warn_of_missing_output(architecture, &json, &config, &tensors, &mut warnings);
    let (mut unsaid, unnamed_pre_tokenizer) =
        write_vocabulary(files, architecture, &config, options, &mut metadata, &mut warnings)?;
    unsaid.extend(unsaid_scaling(&json, &config));
    unsaid.extend(unsaid_window(&json, &config));
    unsaid.extend(lost);
    Ok(ModelDescription {
        architecture,
        config,
        metadata,
        tensors,
        ignored,
        beside,
        numbers,
        plain,
        names,
        warnings,
        unsaid,
        unnamed_pre_tokenizer,
    })
}

/// The architecture that `config.json` names: the first of `architectures`, as
/// in the reference.
fn architecture_of(json: &JsonObject) -> Result<&'static dyn Architecture, Error> {
    let name = match json.get("architectures") {
        Some(Value::Array(names)) => match names.first() {
            Some(Value::String(name)) => name,
            _ => return Err(json.fault("architectures", "names no class")),
        },
        Some(value) => {
            let problem = format!("is {}, expected a list of class names", shown(value));
            return Err(json.fault("architectures", problem));
        }
        None => return Err(json.fault("architectures", "is missing")),
    };
    let known = ARCHITECTURES.iter().copied();
    known
        .clone()
        .filter(|architecture| architecture.class_names().contains(&name.as_str()))
        .find(|architecture| json.is_of(*architecture))
        .ok_or_else(|| Error::UnsupportedArchitecture {
            path: json.path().to_owned(),
            name: shown(&Value::String(name.clone())),
            nearest: match nearest_classes(name).as_slice() {
                [] => "no known class is called like it".to_owned(),
                nearest => format!("the nearest known are {}", nearest.join(", ")),
            },
        })
}

/// Known classes whose names begin like this one, those that go along furthest first.
fn nearest_classes(name: &str) -> Vec<&'static str> {
    const MOST: usize = 3;
    // Fewer letters are no likeness.
    const FEWEST: usize = 3;
    let common = |class: &str| {
        let pairs = class.chars().zip(name.chars());
        pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
    };
    let classes = ARCHITECTURES.iter().flat_map(|architecture| architecture.class_names());
    let mut near: Vec<(usize, &str)> = classes.map(|class| (common(class), *class)).collect();
    near.retain(|(common, _)| *common >= FEWEST);
    near.sort_by(|a, b| b.cmp(a));
    near.into_iter().take(MOST).map(|(_, class)| class).collect()
}

/// The defaults of the `model_type`, whatever the architecture; of the
/// architecture if there is no `model_type`; none if it is one we do not know.
fn config_defaults(
    json: &JsonObject,
    architecture: &'static dyn Architecture,
) -> Result<Option<&'static crate::config::ConfigDefaults>, Error> {
    let Some(model_type) = json.string("model_type")? else {
        return Ok(Some(architecture.defaults()));
    };
    if architecture.outer_model_types().contains(&model_type) {
        return Ok(Some(architecture.defaults()));
    }
    Ok(ARCHITECTURES
        .iter()
        .map(|architecture| architecture.defaults())
        .find(|defaults| defaults.model_type == model_type))
}

fn with_computed(
    architecture: &dyn Architecture,
    config: &ModelConfig,
    recipes: Vec<TensorRecipe>,
) -> Result<Vec<TensorRecipe>, Error> {
    let mut tensors = Vec::with_capacity(recipes.len() + 1);
    for computed in architecture.computed_tensors(config) {
        let Ok(shape) = Shape::new([computed.values.len() as u64]) else { continue };
        tensors.push(TensorRecipe {
            name: computed.name.to_owned(),
            role: computed.role,
            part: Part::Weight,
            layer: None,
            shape,
            origin: TensorOrigin::Computed(computed.values),
        });
    }
    tensors.extend(recipes);
    Ok(tensors)
}

pub(crate) fn write_general(
    files: &dyn SideFiles,
    json: &JsonObject,
    options: &ConvertOptions,
    parameters: &ParameterCount,
    metadata: &mut Metadata,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let total = parameters.total;
    let mut authorship = Authorship::default();
    read_readme(files, total, &mut authorship, warnings)?;
    // A path on somebody's machine says nothing; a model id has one slash.
    if let Some(Value::String(id)) = json.get("_name_or_path")
        && id.matches('/').count() <= 1
        && !is_generic_name(id.rsplit('/').next().unwrap_or_default())
    {
        authorship.read_id(id, total);
    }
    if let Some(folder) = files.folder_name() {
        authorship.read_id(folder, total);
    }
    if let Some(name) = &options.model_name {
        authorship.name = Some(name.clone());
    }
    if total > 0 {
        authorship.size_label.get_or_insert_with(|| parameters.label());
    }
    if let Some(generation) = read_generation_config(files, warnings)? {
        write_sampling(&generation, metadata)?;
    }
    authorship.write(metadata);
    Ok(())
}

/// What a model card says, if there is one.
fn read_readme(
    files: &dyn SideFiles,
    parameters: u64,
    authorship: &mut Authorship,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let Some(readme) = files.read("README.md")? else { return Ok(()) };
    match read_card(&readme) {
        Ok(card) => authorship.read_card(&card, parameters),
        Err(problem) => warnings.push(Warning {
            location: Location::file(files.path("README.md")),
            rule: "model-card-unreadable",
            message: format!("the model card is ignored: {problem}"),
        }),
    }
    Ok(())
}

/// The metadata of a GGUF file of a LoRA adapter, in the order of `convert_lora_to_gguf.py`.
/// `files` are the adapter's, `alpha` divided by the rank is what a product is multiplied by.
///
/// # Errors
/// If the model card cannot be read.
pub fn describe_adapter(
    files: &dyn SideFiles,
    architecture: &str,
    model_name: Option<&str>,
    alpha: f32,
    warnings: &mut Vec<Warning>,
) -> Result<Metadata, Error> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", architecture);
    metadata.set("general.type", "adapter");
    metadata.set("adapter.type", "lora");
    let mut authorship = Authorship::default();
    read_readme(files, 0, &mut authorship, warnings)?;
    if let Some(folder) = files.folder_name() {
        authorship.read_id(folder, 0);
    }
    if let Some(name) = model_name {
        authorship.name = Some(name.to_owned());
    }
    authorship.write(&mut metadata);
    metadata.set("adapter.lora.alpha", alpha);
    metadata.set("general.quantization_version", 2u32);
    Ok(metadata)
}

/// Unreadable recommendations are no reason to stop, as in the reference.
fn read_generation_config(
    files: &dyn SideFiles,
    warnings: &mut Vec<Warning>,
) -> Result<Option<JsonObject>, Error> {
    let name = "generation_config.json";
    match read_object(files, name) {
        Err(Error::Json { source, .. }) => {
            warnings.push(Warning {
                location: Location::file(files.path(name)),
                rule: "generation-config-unreadable",
                message: format!("the file is ignored: not valid JSON: {source}"),
            });
            Ok(None)
        }
        result => result,
    }
}

/// The model's own keys, in the order of `TextModel.set_gguf_parameters`
/// (`conversion/base.py`).
fn write_model(
    architecture: &dyn Architecture,
    model: &Model<'_>,
    metadata: &mut Metadata,
) -> Result<(), Error> {
    for key in architecture.metadata().iter().chain(architecture.own_metadata()) {
        write_key(key, architecture.gguf_name(), model.config, metadata);
    }
    architecture.write_own_metadata(model, metadata)?;
    metadata.set("general.quantization_version", 2u32);
    Ok(())
}

/// Adds what one of a family's keys stands for.
fn write_key(key: &MetadataKey, name: &str, config: &ModelConfig, metadata: &mut Metadata) {
    let mut set = |key: &str, value: qz_tensor::Value| metadata.set(format!("{name}.{key}"), value);
    match *key {
        MetadataKey::Layers => set("block_count", config.all_layers().into()),
        MetadataKey::Context => {
            if let Some(context) = config.context {
                set("context_length", (context as u32).into());
            }
        }
        MetadataKey::Hidden => set("embedding_length", (config.hidden as u32).into()),
        MetadataKey::Intermediate if config.intermediate == 0 => {}
        MetadataKey::Intermediate => {
            set("feed_forward_length", (config.intermediate as u32).into());
        }
        MetadataKey::Heads => set("attention.head_count", (config.heads as u32).into()),
        MetadataKey::KeyValueHeads if !config.key_value_heads_stated => {}
        MetadataKey::KeyValueHeads => {
            set("attention.head_count_kv", (config.key_value_heads as u32).into());
        }
        MetadataKey::NotCausal if config.causal => {}
        MetadataKey::NotCausal => set("attention.causal", false.into()),
        MetadataKey::RopeScaling => config.rope.write_scaling(name, metadata),
        MetadataKey::RopeBases => config.rope.write_bases(name, metadata),
        MetadataKey::RmsEpsilon => {
            if let Some(epsilon) = config.rms_epsilon {
                set("attention.layer_norm_rms_epsilon", (epsilon as f32).into());
            }
        }
        MetadataKey::LayerNormEpsilon => {
            if let Some(epsilon) = config.layer_norm_epsilon {
                set("attention.layer_norm_epsilon", (epsilon as f32).into());
            }
        }
        MetadataKey::Experts => {
            if let Some(experts) = config.experts {
                set("expert_count", (experts as u32).into());
            }
        }
        MetadataKey::ExpertsUsed => {
            if let Some(experts) = config.experts_used {
                set("expert_used_count", (experts as u32).into());
            }
        }
        MetadataKey::HeadSize if !config.head_size_stated => {}
        MetadataKey::HeadSize => {
            set("attention.key_length", (config.head_size as u32).into());
            set("attention.value_length", (config.head_size as u32).into());
        }
        MetadataKey::FileType => metadata.set("general.file_type", 0u32),
        MetadataKey::Setting { gguf, key } => {
            if let Some(value) = config.entry(key) {
                set(gguf, value);
            }
        }
        MetadataKey::Computed { gguf, value } => {
            if let Some(value) = value(config) {
                set(gguf, value);
            }
        }
    }
}

/// Gives what the metadata do not say, and what keeps them from a GGUF file.
fn write_vocabulary(
    files: &dyn SideFiles,
    architecture: &dyn Architecture,
    config: &ModelConfig,
    options: &ConvertOptions,
    metadata: &mut Metadata,
    warnings: &mut Vec<Warning>,
) -> Result<(Vec<Warning>, Option<UnknownPreTokenizer>), Error> {
    let options = VocabularyOptions {
        size: Some(config.vocabulary),
        pre_tokenizer: options.pre_tokenizer.as_deref(),
        rules: architecture.vocabulary_rules(),
        token_types: architecture.token_types(config),
    };
    let vocabulary = qz_tokenize::vocabulary(files, options)?;
    warnings.extend(vocabulary.warnings);
    architecture.begin_vocabulary(config, metadata);
    for (key, value) in vocabulary.metadata {
        metadata.set(key, value);
    }
    architecture.adjust_vocabulary(&Model { config, files }, metadata)?;
    Ok((vocabulary.unsaid, vocabulary.unnamed))
}

/// Weights stored quantized have names and shapes of their own; without this
/// they would come out as hundreds of unknown tensors.
fn refuse_quantized(json: &JsonObject) -> Result<(), Error> {
    let Some(quantization) = json.object("quantization_config")? else { return Ok(()) };
    let method =
        quantization.get("quant_method").map_or_else(|| "an unnamed method".to_owned(), shown);
    Err(Error::Quantized { path: json.path().to_owned(), method })
}

/// Code that a checkpoint brings along is never run; that can change what the
/// model computes, so it is said.
fn warn_of_code(
    files: &dyn SideFiles,
    config: &JsonObject,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    if config.has("auto_map") {
        warnings.push(auto_map_warning(files, "config.json"));
    }
    for name in ["tokenizer_config.json", "generation_config.json"] {
        let object = match read_object(files, name) {
            Ok(object) => object,
            Err(Error::Json { .. } | Error::Key { .. }) => None,
            Err(error) => return Err(error),
        };
        if object.is_some_and(|object| object.has("auto_map")) {
            warnings.push(auto_map_warning(files, name));
        }
    }
    Ok(())
}

fn auto_map_warning(files: &dyn SideFiles, name: &str) -> Warning {
    Warning {
        location: Location::file(files.path(name)).tensor("auto_map"),
        rule: "auto-map-ignored",
        message: "names code of the checkpoint's own, which is not run".to_owned(),
    }
}

/// A window that some position of the context is past: GGUF files of these architectures have
/// no key for it, and engines attend to everything.
fn unsaid_window(json: &JsonObject, config: &ModelConfig) -> Option<Warning> {
    let window = config
        .sliding_window
        .filter(|window| *window > 0 && config.context.is_none_or(|context| *window < context))?;
    Some(Warning {
        location: Location::file(json.path()).tensor("sliding_window"),
        rule: "sliding-window-lost",
        message: format!(
            "{window}: GGUF files of this architecture cannot say this; engines attend to all \
             positions before"
        ),
    })
}

/// Refuses scaled positions that the metadata does not say: they would be computed as if nothing
/// were scaled.
fn check_scaling(
    json: &JsonObject,
    config: &ModelConfig,
    metadata: &Metadata,
) -> Result<(), Error> {
    let kind = match config.rope.scaling {
        RopeScaling::Linear { .. } => "linear",
        RopeScaling::Yarn(_) => "yarn",
        _ => return Ok(()),
    };
    let architecture = metadata.string("general.architecture").unwrap_or_default();
    if metadata.string(&format!("{architecture}.rope.scaling.type")) == Some(kind) {
        return Ok(());
    }
    let problem = format!("is {kind:?}, which files of this architecture cannot say");
    Err(json.fault("rope_scaling", problem))
}

fn unsaid_scaling(json: &JsonObject, config: &ModelConfig) -> Option<Warning> {
    let kind = config.rope.lost_in_gguf()?;
    Some(Warning {
        location: Location::file(json.path()).tensor("rope_scaling"),
        rule: "rope-scaling-lost",
        message: format!("{kind}: GGUF files of this architecture cannot say this"),
    })
}

/// A configuration that does not say whether embeddings are tied, and a
/// checkpoint without output weights: llama.cpp will use the embeddings.
fn warn_of_missing_output(
    architecture: &dyn Architecture,
    json: &JsonObject,
    config: &ModelConfig,
    tensors: &[TensorRecipe],
    warnings: &mut Vec<Warning>,
) {
    let key = "tie_word_embeddings";
    let is_output =
        |rule: &TensorRule| rule.role == Role::Output && rule.presence != Presence::Dropped;
    if !architecture.tensor_rules().iter().any(is_output) {
        return;
    }
    if config.switch(key).is_none() && !tensors.iter().any(|tensor| tensor.role == Role::Output) {
        warnings.push(Warning {
            location: Location::file(json.path()).tensor(key),
            rule: "output-weights-assumed-tied",
            message: "is missing, and so are the output weights; the token embeddings take their \
                      place"
                .to_owned(),
        });
    }
}

pub(crate) fn read_object(files: &dyn SideFiles, name: &str) -> Result<Option<JsonObject>, Error> {
    let bytes: Option<Vec<u8>> = files.read(name).map_err(|error: FileError| Error::File(error))?;
    bytes.map(|bytes| JsonObject::parse(files.path(name), &bytes)).transpose()
}
