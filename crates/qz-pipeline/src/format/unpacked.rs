//! What is said of matrices that a packed folder leaves as they are, or cannot hold.

use qz_packed::Scheme;
use qz_plan::TensorOverride;
use qz_tensor::{DataType, Location};

use super::{Format, safetensors};
use crate::error::Error;
use crate::model::{Model, ModelTensor};
use crate::planning::PlanOptions;

/// The error of a model that has no experts as a scheme stores them.
pub(super) fn not_stacked(format: &Format, scheme: &dyn Scheme, model: &Model) -> Error {
    let class = model.architecture.map_or("this model", |known| known.gguf_name());
    Error::Unfit {
        location: Box::new(Location::file(&model.path)),
        target: format!("{}:{}", format.name, scheme.name()).into(),
        why: format!("{class} has no experts that share tensors so; ct:mxfp4 packs any matrix")
            .into(),
        name: class.into(),
        fitting: Vec::new(),
        leaving: None,
    }
}

/// Kinds of matrices that are left as they are at most where the others fit.
const FEW: usize = 4;

/// The value of `--tensor-type` with which all matrices fit, where those that do not are of few
/// kinds, and less than half of the weights. `first` is the first that does not.
pub(super) fn leaving(
    model: &Model,
    options: &PlanOptions,
    first: &str,
    model_type: DataType,
    again: &dyn Fn(&PlanOptions) -> Result<(), Error>,
) -> Option<String> {
    let mut tried = options.clone();
    let (mut kinds, mut name) = (Vec::new(), first.to_owned());
    while kinds.len() < FEW {
        let (_, kind) = name.strip_prefix("blk.")?.split_once('.')?;
        kinds.push(kind.strip_suffix(".weight")?.to_owned());
        let text = format!(r"\.({})\.={}", kinds.join("|"), model_type.name().to_lowercase());
        let wish: TensorOverride = text.parse().ok()?;
        let is_left = |tensor: &&ModelTensor| wish.matches(&tensor.name);
        let left: u64 = model.tensors.iter().filter(is_left).map(|own| own.shape.elements()).sum();
        if left >= model.weights() / 2 {
            return None;
        }
        tried.overrides.tensors.clone_from(&options.overrides.tensors);
        tried.overrides.tensors.push(wish);
        name = match again(&tried) {
            Ok(()) => return Some(text),
            Err(Error::Unfit { name, .. }) => name.into(),
            Err(_) => return None,
        };
    }
    None
}

/// What a person should know of matrices that no module has for itself.
///
/// # Errors
/// If there are no others.
pub(super) fn left_as_is(
    format: &Format,
    scheme: String,
    model: &Model,
    modules: &[String],
    no_modules: &[usize],
) -> Result<Option<String>, Error> {
    let Some(first) = no_modules.first().map(|position| &model.tensors[*position]) else {
        return Ok(None);
    };
    let target = format!("{}:{scheme}", format.name);
    if modules.is_empty() {
        return Err(Error::Unfit {
            location: Box::new(Location { offset: None, ..model.location(first, 0) }),
            target: target.into(),
            why: "the checkpoint's class has no linear layer with its rows in their order, nor \
                  for any other matrix"
                .into(),
            name: first.name.as_str().into(),
            fitting: Vec::new(),
            leaving: None,
        });
    }
    Ok(Some(format!(
        "{target}: {} of {} matrices are not packed ({} and so on): the checkpoint's class has \
         no linear layers with their rows in their order",
        no_modules.len(),
        no_modules.len() + modules.len(),
        first.name
    )))
}

/// The types that a person wants for two tensors, where a packed folder cannot hold them.
pub(super) fn idle_types(format: &Format, options: &PlanOptions) -> Vec<String> {
    let overrides = &options.overrides;
    let wishes = [
        ("--token-embedding-type", overrides.token_embedding),
        ("--output-tensor-type", overrides.output),
    ];
    let idle = |(option, wish): (&str, Option<DataType>)| {
        let data_type = wish.filter(|wish| safetensors::torch_name(*wish).is_none())?;
        Some(format!("{option} {data_type} has no effect on {}", format.name))
    };
    wishes.into_iter().filter_map(idle).collect()
}
