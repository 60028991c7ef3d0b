//! The class of each error, where it lies, and the stable name of the rule that was broken.

use qz_tensor::{Diagnose, Diagnosis, FaultClass, Location};

use super::Error;

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let (class, location, rule) = match self {
            Self::File(error) => return error.diagnosis(),
            Self::Gguf(error) => return error.diagnosis(),
            Self::Folder(error) => return error.diagnosis(),
            Self::Safetensors(error) => return error.diagnosis(),
            Self::Pickle(error) => return error.diagnosis(),
            Self::Packed(error) => return error.diagnosis(),
            Self::Unfit { location, .. } => {
                (FaultClass::Usage, Location::clone(location), "unfit-shape")
            }
            Self::Mixed { location, .. } => {
                (FaultClass::Usage, Location::clone(location), "mixed-schemes")
            }
            Self::UnknownTarget(_) => (FaultClass::Usage, Location::default(), "unknown-target"),
            // They end the run together: the command line has to change.
            Self::Targets(_) => (FaultClass::Usage, Location::default(), "targets"),
            Self::Model(error) => return error.diagnosis(),
            Self::Plan(error) => return error.diagnosis(),
            Self::Calibration(error) => return error.diagnosis(),
            Self::Evaluation(error) => return error.diagnosis(),
            Self::Device(error) => return error.diagnosis(),
            Self::TextEncoding { location } => {
                (FaultClass::BadInput, location.clone(), "not-utf-8")
            }
            Self::NoText
            | Self::NoCalibration(_)
            | Self::StaticWithoutText(_)
            | Self::TransformWithoutText(_) => (FaultClass::Usage, Location::default(), "no-text"),
            Self::UnknownInputs { path, tensor, .. } => {
                (FaultClass::Refused, Location::file(path).tensor(&**tensor), "unknown-inputs")
            }
            Self::UnseenMatrix { tensor, .. } => {
                (FaultClass::BadInput, Location::default().tensor(&**tensor), "unseen-matrix")
            }
            Self::NoCacheScales { .. } => {
                (FaultClass::Usage, Location::default(), "no-cache-scales")
            }
            Self::FoldedIsOutput { folded, .. } => {
                (FaultClass::Usage, Location::file(folded), "folded-models")
            }
            Self::FoldedModels(_) | Self::NothingFolded => {
                (FaultClass::Usage, Location::default(), "folded-models")
            }
            Self::Encoder { path, .. } => (FaultClass::Usage, Location::file(path), "encoder"),
            Self::Decoder(path) => (FaultClass::Usage, Location::file(path), "encoder"),
            Self::NoEncoder { path, .. } => (FaultClass::BadInput, Location::file(path), "encoder"),
            Self::EmbeddingWidth { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "embedding-width")
            }
            Self::Pooling { path, .. } => (FaultClass::BadInput, Location::file(path), "pooling"),
            Self::FewTasks { location, .. } => {
                (FaultClass::BadInput, location.clone(), "few-tasks")
            }
            Self::Prompt { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "prompt-length")
            }
            Self::Vocabulary { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "vocabulary-mismatch")
            }
            Self::Tokens { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "vocabulary-mismatch")
            }
            Self::TokenId { location, .. } => (FaultClass::BadInput, location.clone(), "token-id"),
            Self::TaskTooLong { location, .. } => {
                (FaultClass::BadInput, location.clone(), "task-too-long")
            }
            Self::MethodFormat { .. } | Self::ActivationsStay { .. } | Self::ColumnsMix { .. } => {
                (FaultClass::Refused, Location::default(), "method-target")
            }
            Self::MissingStatistics { location, .. } => {
                (FaultClass::BadInput, location.clone(), "missing-statistics")
            }
            Self::Pruning { path, .. } => {
                (FaultClass::Refused, Location::file(path), "pruned-layers")
            }
            Self::PrunedFolder(path) => {
                (FaultClass::Refused, Location::file(path), "pruned-folder")
            }
            Self::BesideWithoutGrams => (FaultClass::Usage, Location::default(), "no-grams"),
            Self::OtherLayers { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "other-layers")
            }
            Self::PropagationWithoutText => {
                (FaultClass::Refused, Location::default(), "propagation-without-text")
            }
            Self::Method { tensor, source } => {
                let diagnosis = source.diagnosis();
                let location = diagnosis.location.tensor(tensor);
                return Diagnosis { location, ..diagnosis };
            }
            Self::Document { location, .. } => {
                (FaultClass::BadInput, location.clone(), "calibration-document")
            }
            Self::EmptyData(location) => (FaultClass::BadInput, location.clone(), "empty-data"),
            Self::Parquet { path, .. } => (FaultClass::BadInput, Location::file(path), "parquet"),
            Self::NoChatTemplate(path) => {
                (FaultClass::BadInput, Location::file(path), "chat-template")
            }
            Self::NoChunksLeft { .. } => {
                (FaultClass::BadInput, Location::default(), "no-chunks-left")
            }
            Self::LegacyFormat(path) => {
                (FaultClass::Refused, Location::file(path), "legacy-format")
            }
            Self::GramsInParts(path) => {
                (FaultClass::Refused, Location::file(path), "grams-in-parts")
            }
            Self::Output(error) => return error.diagnosis(),
            Self::UnknownContainer { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "unknown-container")
            }
            Self::NotFetched { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "file-missing")
            }
            Self::NoWeights { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "no-weights")
            }
            Self::NonFiniteWeight { location, .. } => {
                (FaultClass::Numeric, location.clone(), "non-finite-weight")
            }
            Self::NonFiniteBlock { location, .. } => {
                (FaultClass::Numeric, location.clone(), "non-finite-block")
            }
            Self::Overflow { location, .. } => (FaultClass::Numeric, location.clone(), "overflow"),
            Self::EditOfBlocks { location, .. } => {
                (FaultClass::Refused, location.clone(), "edit-of-blocks")
            }
            Self::Adapter { location, .. } => (FaultClass::BadInput, location.clone(), "adapter"),
            Self::Uneditable { location, .. } => {
                (FaultClass::Refused, location.clone(), "uneditable")
            }
            Self::NoCodec { location, .. } => (FaultClass::BadInput, location.clone(), "no-codec"),
            Self::NoCodecToMeasure(_) => (FaultClass::BadInput, Location::default(), "no-codec"),
            Self::Requantize { location, .. } => {
                (FaultClass::Refused, location.clone(), "requantize")
            }
            Self::MissingImportance(uncovered) => {
                let location = Location::default();
                let first = uncovered.first();
                let location =
                    first.map_or(location.clone(), |first| location.tensor(&first.tensor));
                (FaultClass::BadInput, location, "missing-importance")
            }
            Self::ImportanceWidth { location, .. } => {
                (FaultClass::BadInput, location.clone(), "importance-width")
            }
            Self::UnknownArchitecture { path, .. } => {
                let location = Location::file(path).tensor("general.architecture");
                (FaultClass::BadInput, location, "unknown-architecture")
            }
            Self::NoGgufNames(path) => {
                (FaultClass::BadInput, Location::file(path), "unsupported-architecture")
            }
            Self::NoKnownClass(path) => {
                (FaultClass::BadInput, Location::file(path), "unsupported-architecture")
            }
            Self::NoProjector(path) => (FaultClass::BadInput, Location::file(path), "no-projector"),
            Self::ProjectorType(path) => {
                (FaultClass::Usage, Location::file(path), "projector-type")
            }
            Self::CopyOfCheckpoint(path) => {
                (FaultClass::Refused, Location::file(path), "copy-of-checkpoint")
            }
            Self::OutputIsInput { output, .. } => {
                (FaultClass::Refused, Location::file(output), "output-is-input")
            }
            Self::InputChanged(path) => {
                (FaultClass::Environment, Location::file(path), "input-changed")
            }
            Self::Interrupted => (FaultClass::Environment, Location::default(), "interrupted"),
        };
        Diagnosis { class, location, rule }
    }
}
