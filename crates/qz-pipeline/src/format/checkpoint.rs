//! The tensors and files of the checkpoint that a model is, or could have been made
//! from.

use qz_models::{Architecture, Change, CheckpointFiles, PlainForm, TensorOrigin};
use qz_tensor::{Shape, TensorIndex, Warning};

use super::Placement;
use crate::error::Error;
use crate::model::{Model, ModelTensor};

/// The tensors of a checkpoint, and where those of the model go.
pub(super) struct Checkpoint {
    pub(super) tensors: Vec<(String, Shape)>,
    /// Of each tensor of the model.
    pub(super) places: Vec<Option<Placement>>,
    pub(super) files: CheckpointFiles,
    pub(super) warnings: Vec<Warning>,
    pub(super) architecture: Option<&'static dyn Architecture>,
}

impl Checkpoint {
    pub(super) fn of(model: &Model) -> Result<Self, Error> {
        if model.is_pruned {
            return Err(Error::PrunedFolder(model.path.clone()));
        }
        match (&model.folder, &model.plain) {
            (Some(folder), Some(plain)) => as_plain(model, &**folder, plain),
            (Some(folder), None) => as_it_was(model, &**folder),
            (None, _) => restored(model),
        }
    }
}

/// A checkpoint's own tensors, under their own names without what was put around the model;
/// rows go where they were read.
fn as_it_was(model: &Model, folder: &dyn qz_tensor::SideFiles) -> Result<Checkpoint, Error> {
    let mut warnings = Vec::new();
    let files = files_of(model, folder, &mut warnings)?;
    let source = model.source.tensors();
    let mut numbers: Vec<Option<TensorIndex>> = vec![None; source.len()];
    let mut tensors = Vec::new();
    let mut number = |tensor: TensorIndex| {
        *numbers[tensor.0].get_or_insert_with(|| {
            tensors.push((model.names[tensor.0].clone(), source[tensor.0].shape.clone()));
            TensorIndex(tensors.len() - 1)
        })
    };
    let place = |tensor: &ModelTensor| {
        let runs = tensor.stored_rows()?.renumbered(&mut number);
        Some(Placement::runs(runs, Change::NONE))
    };
    let places = model.tensors.iter().map(place).collect();
    let architecture = model.architecture;
    Ok(Checkpoint { tensors, places, files, warnings, architecture })
}

/// The files beside the weights, which say what weights there are.
fn files_of(
    model: &Model,
    folder: &dyn qz_tensor::SideFiles,
    warnings: &mut Vec<Warning>,
) -> Result<CheckpointFiles, Error> {
    let files = CheckpointFiles::read(folder, warnings)?;
    Ok(if model.drops_further_layers { files.without_further_layers() } else { files })
}

/// The tensors of plain numbers that a checkpoint has whose packed form is named otherwise.
fn as_plain(
    model: &Model,
    folder: &dyn qz_tensor::SideFiles,
    plain: &PlainForm,
) -> Result<Checkpoint, Error> {
    let mut warnings = Vec::new();
    let files = files_of(model, folder, &mut warnings)?;
    let mut places: Vec<Option<Placement>> = vec![None; model.tensors.len()];
    for (name, place) in plain.names.iter().zip(&plain.restored.places) {
        let is_own = |tensor: &ModelTensor| tensor.name == *name;
        let Some(position) = model.tensors.iter().position(is_own) else { continue };
        places[position] = Some(Placement::runs(place.rows.clone(), place.change));
    }
    let tensors = plain.restored.tensors.iter();
    let tensors = tensors.map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
    let architecture = model.architecture;
    Ok(Checkpoint { tensors, places, files, warnings, architecture })
}

/// The tensors and files of the checkpoint that a GGUF file could have been made
/// from.
fn restored(model: &Model) -> Result<Checkpoint, Error> {
    let options = qz_models::RestoreOptions { pre_tokenizer: model.pre_tokenizer.clone() };
    let restored = qz_models::restore(&model.path, &model.metadata, &*model.source, &options)?;
    let mut places: Vec<Option<Placement>> = vec![None; model.tensors.len()];
    let mut of_source: Vec<Option<usize>> = vec![None; model.source.tensors().len()];
    for (position, tensor) in model.tensors.iter().enumerate() {
        if let TensorOrigin::Mapped(map) = &tensor.origin {
            of_source[map.rows.locate(0).0.tensor.0] = Some(position);
        }
    }
    for place in restored.places {
        // The model has every tensor of its file.
        let Some(position) = of_source[place.tensor.0] else { continue };
        places[position] = Some(Placement::runs(place.rows, place.change));
    }
    let tensors = restored.tensors.into_iter().map(|tensor| (tensor.name, tensor.shape));
    let mut tensors: Vec<(String, Shape)> = tensors.collect();
    for (place, tensor) in places.iter_mut().zip(&model.tensors).filter(|(_, own)| own.is_beside) {
        *place = Some(Placement::whole(TensorIndex(tensors.len()), Change::NONE));
        tensors.push((tensor.name.to_string(), tensor.shape.clone()));
    }
    let (files, warnings) = (restored.files, restored.warnings);
    Ok(Checkpoint { tensors, places, files, warnings, architecture: Some(restored.architecture) })
}
