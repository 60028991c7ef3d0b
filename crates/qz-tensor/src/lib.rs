//! The vocabulary every other crate speaks: element types, shapes with checked
//! sizes, typed metadata, named tensors, and files that are read by position
//! and written atomically.
//!
//! What belongs here: facts about bytes and names that hold for every container
//! and every codec. What does not: how any codec packs its bits (`qz-codec`),
//! how any container lays out its header (`formats/*`), what a name means
//! (`qz-models`).
//!
//! Layer 0: depends on nothing of ours; everything may depend on it. It never
//! prints, never reads the environment, and never maps a file.

#![forbid(unsafe_code)]

mod byte_size;
mod data_type;
mod diagnosis;
mod file;
mod memory;
mod metadata;
mod name;
mod output;
mod shape;
mod side_files;
mod signature;
pub mod stop;
mod tensor;
mod texts;

pub use byte_size::ByteSize;
pub use data_type::{DATA_TYPES, DataType, GgmlTypeId, TypeSpec};
pub use diagnosis::{Diagnose, Diagnosis, FaultClass, Location, Warning};
pub use file::{FileError, FileIdentity, FileStates, Presence, SourceFile};
pub use memory::{MemorySource, MemoryTensor};
pub use metadata::{Array, Metadata, Value, ValueKind};
pub use name::Name;
pub use output::{
    Artifact, ArtifactFile, OutputError, OutputOptions, PlacedTensor, StagedArtifact, StagedSink,
    StagedTensors,
};
pub use shape::{MAX_RANK, Shape, SizeError};
pub use side_files::{SideFile, SideFiles};
pub use signature::recognise;
pub use tensor::{SinkTensor, TensorIndex, TensorInfo, TensorSink, TensorSource};
pub use texts::{ByteTexts, Joined, Texts};
