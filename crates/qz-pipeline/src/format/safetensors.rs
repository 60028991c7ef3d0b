//! Hugging Face folders: safetensors files under a checkpoint's names, with
//! configuration and tokenizer beside them.

use std::path::PathBuf;

use qz_models::{CheckpointFiles, RowOrder, StackedRows, TensorOrigin};
use qz_plan::{Assignment, Reason};
use qz_safetensors::{SafetensorsLayout, SafetensorsSink};
use qz_tensor::{DataType, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex, Warning};

use super::{Format, Layout, Placement, Sink, TargetPlan};
use crate::error::Error;
use crate::model::{Model, ModelTensor};
use crate::planning::{PlanOptions, check_codecs};

pub(super) static SAFETENSORS: Format = Format {
    name: "safetensors",
    schemes: || SCHEMES.iter().map(|scheme| scheme.name).collect(),
    scheme: |name| find(name).map(|scheme| scheme.name),
    artifact_name: |stem, scheme| format!("{stem}-safetensors-{scheme}"),
    plan,
    layout: |path, plan, options| {
        let files = plan.files.clone();
        Ok(Box::new(SafetensorsLayout::new(path, &plan.tensors, files, options.shard_size)?))
    },
};

/// One type for every tensor.
struct Scheme {
    name: &'static str,
    data_type: DataType,
    /// The type's name in `config.json`.
    torch_name: &'static str,
}

static SCHEMES: &[Scheme] = &[
    Scheme { name: "f32", data_type: DataType::F32, torch_name: "float32" },
    Scheme { name: "f16", data_type: DataType::F16, torch_name: "float16" },
    Scheme { name: "bf16", data_type: DataType::BF16, torch_name: "bfloat16" },
];

fn find(name: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|scheme| scheme.name.eq_ignore_ascii_case(name))
}

impl Layout for SafetensorsLayout {
    fn paths(&self) -> Vec<PathBuf> {
        SafetensorsLayout::paths(self)
    }

    fn size(&self) -> u64 {
        SafetensorsLayout::size(self)
    }

    fn begin(
        self: Box<Self>,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Box<dyn Sink>, Error> {
        Ok(Box::new(SafetensorsSink::begin(*self, fingerprint, options)?))
    }
}

/// The tensors of a checkpoint, and where those of the model go.
struct Checkpoint {
    tensors: Vec<(String, Shape)>,
    places: Vec<Option<Placement>>,
    files: CheckpointFiles,
    warnings: Vec<Warning>,
}

fn plan(model: &Model, scheme: &str, options: &PlanOptions) -> Result<TargetPlan, Error> {
    // Targets are made of schemes that were found.
    let scheme = find(scheme).unwrap_or(&SCHEMES[0]);
    let Checkpoint { tensors, places, files, warnings } = match &model.folder {
        Some(folder) => as_it_was(model, folder)?,
        None => restored(model)?,
    };
    let sink_tensor = |(name, shape)| SinkTensor { name, data_type: scheme.data_type, shape };
    let assignment = |(tensor, place): (&ModelTensor, &Option<Placement>)| Assignment {
        data_type: if place.is_some() { scheme.data_type } else { tensor.source_type },
        reason: Reason::Base,
        fallback_from: None,
        requires_importance: false,
    };
    let mut sources = vec![0; tensors.len()];
    for (position, (tensor, place)) in model.tensors.iter().zip(&places).enumerate() {
        let Some(place) = place else { continue };
        check_codecs(model, tensor, scheme.data_type)?;
        place.tensors().for_each(|tensor| sources[tensor.0] = position);
    }
    let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    if !options.metadata.is_empty() {
        warnings.push("--override-kv has no effect on safetensors".to_owned());
    }
    Ok(TargetPlan {
        assignments: model.tensors.iter().zip(&places).map(assignment).collect(),
        tensors: tensors.into_iter().map(sink_tensor).collect(),
        sources,
        places,
        metadata: Metadata::new(),
        files: files.with_type(scheme.torch_name),
        warnings,
    })
}

/// A checkpoint's own tensors, under their own names; rows go where they were read.
fn as_it_was(model: &Model, folder: &dyn qz_tensor::SideFiles) -> Result<Checkpoint, Error> {
    let mut warnings = Vec::new();
    let files = CheckpointFiles::read(folder, &mut warnings)?;
    let source = model.source.tensors();
    let mut numbers: Vec<Option<TensorIndex>> = vec![None; source.len()];
    let mut tensors = Vec::new();
    let mut number = |tensor: TensorIndex| {
        *numbers[tensor.0].get_or_insert_with(|| {
            let info = &source[tensor.0];
            tensors.push((info.name.clone(), info.shape.clone()));
            TensorIndex(tensors.len() - 1)
        })
    };
    let place = |tensor: &ModelTensor| match &tensor.origin {
        TensorOrigin::Source { tensor, .. } => {
            Some(Placement::whole(number(*tensor), RowOrder::AsStored))
        }
        TensorOrigin::Stacked(stack) => Some(Placement::runs(stack.renumbered(&mut number))),
        TensorOrigin::Computed(_) => None,
    };
    let places = model.tensors.iter().map(place).collect();
    Ok(Checkpoint { tensors, places, files, warnings })
}

/// The tensors and files of the checkpoint that a GGUF file could have been made
/// from.
fn restored(model: &Model) -> Result<Checkpoint, Error> {
    let options = qz_models::RestoreOptions { pre_tokenizer: model.pre_tokenizer.clone() };
    let restored = qz_models::restore(&model.path, &*model.source, &options)?;
    let mut places: Vec<Option<Placement>> = vec![None; model.tensors.len()];
    let mut of_source: Vec<Option<usize>> = vec![None; model.source.tensors().len()];
    for (position, tensor) in model.tensors.iter().enumerate() {
        if let TensorOrigin::Source { tensor, .. } = &tensor.origin {
            of_source[tensor.0] = Some(position);
        }
    }
    let mut stacks: Vec<Vec<TensorIndex>> = vec![Vec::new(); model.tensors.len()];
    let mut tensors = Vec::with_capacity(restored.tensors.len());
    for (place, tensor) in restored.tensors.into_iter().enumerate() {
        // The model has every tensor of its file.
        let Some(position) = of_source[tensor.tensor.0] else { continue };
        stacks[position].push(TensorIndex(place));
        let stack = stacks[position].as_slice();
        places[position] = match stack {
            [only] => Some(Placement::whole(*only, tensor.row_order)),
            several => StackedRows::of_tensors(tensor.shape.rows(), several).map(Placement::runs),
        };
        tensors.push((tensor.name, tensor.shape));
    }
    Ok(Checkpoint { tensors, places, files: restored.files, warnings: restored.warnings })
}
