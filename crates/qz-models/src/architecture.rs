//! What a model architecture has to say for itself.

use qz_kernels::backend::RotaryPairs;
use qz_tensor::{Metadata, SideFiles, Warning};
use qz_tokenize::VocabularyRules;

use crate::config::ConfigDefaults;
use crate::error::Error;
use crate::hyperparameters::ModelConfig;
use crate::row_order::RowOrder;
use crate::rules::{Dimension, Role, TensorRule, Transform};

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

    /// What transformers assumes where `config.json` is silent.
    fn defaults(&self) -> &'static ConfigDefaults;

    /// Its tensors.
    fn tensor_rules(&self) -> &'static [TensorRule];

    /// Its tensors in other layouts that checkpoints have.
    fn other_layouts(&self) -> &'static [&'static [TensorRule]] {
        &[]
    }

    /// True if its layers are mixtures of experts.
    fn mixes_experts(&self) -> bool {
        false
    }

    /// Which elements of a head its graph turns together.
    fn rotary_pairs(&self) -> RotaryPairs {
        RotaryPairs::Adjacent
    }

    /// Tensors that follow from the configuration alone, in the reference's order.
    fn computed_tensors(&self, _config: &ModelConfig) -> Vec<ComputedTensor> {
        Vec::new()
    }

    /// The names of those tensors.
    fn computed_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Metadata keys after `general.file_type`.
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

    /// How its vocabulary is looked for.
    fn vocabulary_rules(&self) -> VocabularyRules {
        VocabularyRules::Common
    }

    /// Changes to the vocabulary's keys once they are there.
    fn adjust_vocabulary(&self, _config: &ModelConfig, _metadata: &mut Metadata) {}
}

impl TensorRule {
    /// The order of the tensor's rows in GGUF.
    pub fn row_order(&self, config: &ModelConfig) -> RowOrder {
        match self.transform {
            Transform::Keep | Transform::StackExperts | Transform::TakeHalf(_) => {
                RowOrder::AsStored
            }
            Transform::PairRotaryHalves => {
                RowOrder::InterleavedHalves { head_rows: config.dimension(Dimension::HeadSize) }
            }
        }
    }
}
