//! What a checkpoint's files mean: which architecture it is, which tensors it
//! must have and what they are called in GGUF, how their rows are ordered there,
//! and the metadata that a GGUF file of it carries; the way back; and what the model
//! computes ([`forward`]).
//!
//! What belongs here: everything llama.cpp's `convert_hf_to_gguf.py` knows about
//! a model apart from its vocabulary (`qz-tokenize`). What does not: opening
//! files or containers (the caller hands over the side files and the tensor
//! list), element types (`qz-plan`), weights (`qz-pipeline`).
//!
//! Layer 3. A new architecture is one file under `architectures/` and one line
//! in [`ARCHITECTURES`].
//!
//! Invariants:
//! - Nothing from a checkpoint is executed or rendered; templates are copied.
//! - Every tensor of the checkpoint ends in [`ModelDescription::tensors`], in
//!   [`ModelDescription::beside`], in [`ModelDescription::ignored`], or in an error.
//! - The reference is llama.cpp at commit 0c1e57098 (llama-cpp-python 0.3.36)
//!   with transformers 5.23.0; where we differ on purpose, a comment says so.

#![forbid(unsafe_code)]

mod architecture;
mod architectures;
mod canonical;
mod checkpoint;
mod config;
mod config_keys;
mod describe;
mod error;
mod experts;
mod files;
pub mod forward;
mod further;
mod general;
mod gguf_keys;
pub mod graph;
mod hyperparameters;
mod larger_models;
mod layer_numbers;
mod linear_layers;
mod lists;
mod name_pattern;
pub mod projector;
mod recipe;
mod restore;
mod role;
mod rope;
mod row_order;
mod rules;
mod settings;
mod tensor_map;

pub use architecture::{
    Activation, Architecture, ComputedTensor, Contradiction, Model, Rename, Spelling,
};
pub use architectures::ARCHITECTURES;
pub use config::{ConfigDefaults, DefaultHeadSize, DefaultWindow};
pub use describe::{ConvertOptions, ModelDescription, PlainForm, describe, describe_adapter};
pub use error::{Error, TensorFault, TensorFaults};
pub use files::CheckpointFiles;
pub use further::FurtherNames;
pub use general::is_generic_name;
pub use hyperparameters::ModelConfig;
pub use larger_models::LARGER_CLASSES;
pub use layer_numbers::{LayerNumber, RestoredNumber, StoredNumbers, restored_numbers};
pub use linear_layers::{fused_module, is_linear_layer};
pub use qz_tensor::SideFiles;
pub use qz_tokenize::VocabularyRules;
pub use recipe::{PickedColumns, RowSlice, StackedRows, TensorOrigin, TensorRecipe};
pub use restore::{
    RestoreOptions, RestoredCheckpoint, RestoredPlace, RestoredTensor, RestoredTensors,
    architecture_of, restore,
};
pub use rope::{Llama3Scaling, LongScaling, Rope, RopeScaling, YarnScaling};
pub use row_order::RowOrder;
pub use rules::{
    Columns, Condition, Dimension, ExpertIndex, FactorKey, LayerIndex, NameNumbers, NamePattern,
    Part, Presence, Role, Rows, Scaling, TensorRule, Transform,
};
pub use settings::{ConfigKey, GgufKeys, MetadataKey, STANDARD_METADATA, SettingKind};
pub use tensor_map::{Change, RowFactors, TensorMap, Transposed, TurnedColumns, ValueChange};
