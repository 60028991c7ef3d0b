//! Hugging Face folders: safetensors files under a checkpoint's names, with
//! configuration and tokenizer beside them.

use std::path::{Path, PathBuf};

use qz_plan::{Assignment, Reason};
use qz_safetensors::{SafetensorsLayout, SafetensorsSink};
use qz_tensor::{DataType, Metadata, OutputOptions, SinkTensor};

use super::checkpoint::Checkpoint;
use super::{Demand, Format, OutputLayout, Placement, Sink, TargetPlan};
use crate::error::Error;
use crate::model::{Model, ModelTensor};
use crate::planning::{PlanOptions, check_codecs};

pub(super) static SAFETENSORS: Format = Format {
    name: "safetensors",
    form: "a type: safetensors:bf16 (f32, f16 or bf16)",
    family: None,
    schemes: |_| SCHEMES.iter().map(|scheme| scheme.name).collect(),
    scheme: |_, name| find(name).map(|scheme| scheme.name.into()),
    artifact_name: |_, stem, scheme| format!("{stem}-safetensors-{scheme}"),
    fitting: |_, _, _| Vec::new(),
    demand: |_, name| demand(name),
    plan: |_, model, scheme, options| plan(model, scheme, options),
    layout: lay_out,
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

fn demand(name: &str) -> Demand {
    let bits = find(name).map(|scheme| f64::from(scheme.data_type.spec().block_bytes) * 8.0);
    Demand { bits_per_weight: bits, ..Demand::default() }
}

/// A folder of safetensors files.
pub(super) fn lay_out(
    path: &Path,
    plan: &TargetPlan,
    options: &PlanOptions,
) -> Result<Box<dyn OutputLayout>, Error> {
    let files = plan.files.clone();
    Ok(Box::new(SafetensorsLayout::new(path, &plan.tensors, files, options.shard_size)?))
}

/// Torch's name of an element type that a checkpoint's weights may have.
pub(super) fn torch_name(data_type: DataType) -> Option<&'static str> {
    let scheme = SCHEMES.iter().find(|scheme| scheme.data_type == data_type);
    scheme.map(|scheme| scheme.torch_name)
}

/// The element type of torch's name.
pub(super) fn of_torch_name(name: &str) -> Option<DataType> {
    let scheme = SCHEMES.iter().find(|scheme| scheme.torch_name == name);
    scheme.map(|scheme| scheme.data_type)
}

fn find(name: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|scheme| scheme.name.eq_ignore_ascii_case(name))
}

impl OutputLayout for SafetensorsLayout {
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

fn plan(model: &Model, scheme: &str, options: &PlanOptions) -> Result<TargetPlan, Error> {
    // Targets are made of schemes that were found.
    let scheme = find(scheme).unwrap_or(&SCHEMES[0]);
    let Checkpoint { tensors, places, files, warnings, .. } = Checkpoint::of(model)?;
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
        numbers: Vec::new(),
        metadata: Metadata::new(),
        files: files.with_type(scheme.torch_name),
        warnings,
    })
}
