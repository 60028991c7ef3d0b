//! What a model architecture has to say for itself.

use qz_tensor::{Metadata, SideFiles, Warning};
use qz_tokenize::VocabularyRules;
use serde_json::{Map, Value};

use crate::config::ConfigDefaults;
use crate::error::Error;
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::layer_numbers::LayerNumber;
use crate::rules::{LayerIndex, Part, Role, TensorRule};
use crate::settings::{ConfigKey, GgufKeys, MetadataKey, STANDARD_METADATA};

/// A tensor that no checkpoint stores.
#[derive(Clone, Debug, PartialEq)]
pub struct ComputedTensor {
    /// Its name in GGUF.
    pub name: &'static str,
    /// What it does.
    pub role: Role,
    /// Its values; it is a vector.
    pub values: Vec<f32>,
}

/// A key of `config.json` that another one contradicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// The function between a feed-forward network's two products, in the words of
/// `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The key that names it.
    pub key: &'static str,
    /// What it is called there; the first is what we write.
    pub words: &'static [&'static str],
}

impl Activation {
    /// x times the logistic function of x.
    pub const SILU: Self = Self { key: "hidden_act", words: &["silu", "swish"] };
    /// The square of what is above zero.
    pub const RELU_SQUARED: Self = Self { key: "hidden_act", words: &["relu2"] };
}

/// A key of `config.json` that a family calls otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelling {
    /// The family's name.
    pub own: &'static str,
    /// That of most.
    pub common: &'static str,
}

/// A part of tensors' names that is read as another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// At the beginning.
    Prefix(&'static str, &'static str),
    /// At the end.
    Suffix(&'static str, &'static str),
}

/// A model under conversion.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// Its sizes.
    pub config: &'a ModelConfig,
    /// The files beside its weights.
    pub files: &'a dyn SideFiles,
}

/// A decoder architecture. The provided methods are what the reference does for
/// every text model; an architecture says where it differs.
pub trait Architecture: Send + Sync {
    /// The classes that `architectures` in `config.json` may name.
    fn class_names(&self) -> &'static [&'static str];

    /// `general.architecture`, and the prefix of the model's metadata keys.
    fn gguf_name(&self) -> &'static str;

    /// True if a GGUF file that names [`Architecture::gguf_name`] holds this one:
    /// several share a name.
    fn is_in(&self, _metadata: &Metadata) -> bool {
        true
    }

    /// True if a configuration that names one of its classes is of this one: several share a
    /// class.
    fn is_of(&self, _config: &Map<String, Value>) -> bool {
        true
    }

    /// What transformers assumes where `config.json` is silent.
    fn defaults(&self) -> &'static ConfigDefaults;

    /// The `model_type` of larger models that it is the part of which reads and writes text.
    fn outer_model_types(&self) -> &'static [&'static str] {
        &[]
    }

    /// Its tensors.
    fn tensor_rules(&self) -> &'static [TensorRule];

    /// Its tensors in other layouts that checkpoints have.
    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[]
    }

    /// The key of `config.json` that says how many experts a layer has.
    fn expert_key(&self) -> &'static str {
        "num_local_experts"
    }

    /// True if its heads are described by keys of the family's own.
    fn has_own_heads(&self) -> bool {
        false
    }

    /// Its tensors as `qz-packed` shows those of a packed form, where a checkpoint of plain
    /// numbers has others.
    fn shown_layout(&self) -> Option<&'static [TensorRule]> {
        None
    }

    /// True if its layers are mixtures of experts.
    fn mixes_experts(&self) -> bool {
        false
    }

    /// False for a model whose layers have no feed-forward network but experts.
    fn has_dense_network(&self) -> bool {
        true
    }

    /// False for a model without attention and without a feed-forward network.
    fn has_attention(&self) -> bool {
        true
    }

    /// True if its attention turns queries and keys by their position.
    fn has_rope(&self) -> bool {
        true
    }

    /// True if its files have lists of factors for the frequencies.
    fn has_long_rope(&self) -> bool {
        false
    }

    /// Its activation.
    fn activation(&self) -> Activation {
        Activation::SILU
    }

    /// Of so many layers the last sees all positions and the others a window, in the
    /// order in which its graph has them.
    fn window_pattern(&self) -> Option<u32> {
        None
    }

    /// Keys of `config.json` that other families call otherwise, with their names.
    fn spellings(&self) -> &'static [Spelling] {
        &[]
    }

    /// Fills gaps that follow from other keys. Those of [`Architecture::spellings`] have the
    /// common names.
    fn fill_config(&self, _config: &mut Map<String, Value>) {}

    /// Keys of `config.json` that it reads beside those of every decoder.
    fn config_keys(&self) -> &'static [ConfigKey] {
        &[]
    }

    /// Keys of the object of rotary parameters that it reads, likewise.
    fn rope_keys(&self) -> &'static [&'static str] {
        &[]
    }

    /// What two keys that contradict each other say, if some do.
    fn contradiction(&self, _config: &ModelConfig) -> Option<Contradiction> {
        None
    }

    /// Other spellings of its tensors' names.
    fn renames(&self) -> &'static [Rename] {
        &[]
    }

    /// How the names of tensors begin that belong to other parts of a larger model, as
    /// those that see.
    fn towers(&self) -> &'static [&'static str] {
        &[]
    }

    /// True for the name of a tensor that belongs to other parts.
    fn is_apart(&self, name: &str) -> bool {
        self.towers().iter().any(|tower| name.starts_with(tower))
    }

    /// Layers behind the last that only predict further tokens.
    fn further_layers(&self, _config: &ModelConfig) -> u32 {
        0
    }

    /// What checkpoints call the tensors of such layers, if GGUF files have them.
    fn further_names(&self) -> Option<FurtherNames> {
        None
    }

    /// The metadata of its configuration, in the reference's order.
    fn metadata(&self) -> &'static [MetadataKey] {
        STANDARD_METADATA
    }

    /// What comes before all other metadata of the model, even its name.
    fn first_metadata(&self) -> &'static [MetadataKey] {
        &[]
    }

    /// What comes after these.
    fn own_metadata(&self) -> &'static [MetadataKey] {
        &[]
    }

    /// What a configuration of it has beside what its metadata says.
    fn complete_config(&self, _keys: GgufKeys<'_>, _config: &mut Map<String, Value>) {}

    /// Tensors that follow from the configuration alone, in the reference's order.
    fn computed_tensors(&self, _config: &ModelConfig) -> Vec<ComputedTensor> {
        Vec::new()
    }

    /// The names of those tensors.
    fn computed_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Numbers that checkpoints have in a tensor of each layer, and files in lists, in the order in
    /// which these come before all other metadata.
    fn layer_numbers(&self) -> &'static [LayerNumber] {
        &[]
    }

    /// Metadata keys after those, of what stands in other files.
    ///
    /// # Errors
    /// If a side file that has a say in them is broken.
    fn write_own_metadata(
        &self,
        _model: &Model<'_>,
        _metadata: &mut Metadata,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// What a person should know about this model's conversion.
    ///
    /// # Errors
    /// If a side file that has a say in it cannot be read.
    fn warnings(&self, _model: &Model<'_>) -> Result<Vec<Warning>, Error> {
        Ok(Vec::new())
    }

    /// How many kinds of tokens there are, where the vocabulary's keys say it.
    fn token_types(&self, _config: &ModelConfig) -> Option<u32> {
        None
    }

    /// Keys of the vocabulary that come before the others.
    fn begin_vocabulary(&self, _config: &ModelConfig, _metadata: &mut Metadata) {}

    /// How its vocabulary is looked for.
    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Common
    }

    /// Changes to the vocabulary's keys once they are there.
    ///
    /// # Errors
    /// If a side file that has a say in them is broken.
    fn adjust_vocabulary(&self, _model: &Model<'_>, _metadata: &mut Metadata) -> Result<(), Error> {
        Ok(())
    }
}

impl dyn Architecture {
    /// What the tensor that GGUF calls `name` is.
    pub fn identity(&self, name: &str) -> Option<(Role, Part, Option<LayerIndex>)> {
        let matched = |rule: &TensorRule| {
            let numbers = rule.gguf.matches(name)?;
            Some((rule.role, rule.part, numbers.layer))
        };
        self.tensor_rules().iter().find_map(matched)
    }
}
