//! Scales of cached keys and values in a packed folder: which tensors they are.

use qz_models::{LayerIndex, Part, Role};
use qz_packed::{CachePart, CacheScales};
use qz_tensor::{Array, DataType, Shape, Value};

use super::checkpoint::Checkpoint;
use super::{Cached, Destination, Measured, StoredNumber};
use crate::error::Error;
use crate::model::{Model, ModelTensor};

/// What has the keys of a layer among its rows.
const KEYS: &[Role] = &[Role::AttentionKey, Role::AttentionQueryKeyValue];

/// What latent attention keeps instead of keys and values.
const LATENT: &[Role] = &[Role::LatentKeyValue, Role::LatentKeyValueUp, Role::LatentKeyUp];

/// A scale of an output: its name, how it is stored, and what it is finished with.
pub(super) struct CacheScale {
    pub(super) name: String,
    pub(super) data_type: DataType,
    pub(super) shape: Shape,
    pub(super) position: usize,
    pub(super) of: Cached,
}

impl CacheScale {
    pub(super) fn number(&self, tensor: qz_tensor::TensorIndex) -> StoredNumber {
        StoredNumber { tensor, position: self.position, of: Measured::Cache(self.of) }
    }
}

/// The scales of all layers that keep keys and values.
///
/// # Errors
/// If the scheme has no such tensors, or the family keeps something else.
pub(super) fn of_model(
    model: &Model,
    checkpoint: &Checkpoint,
    target: &str,
    part: Option<CachePart>,
    (kind, model_type): (CacheScales, DataType),
) -> Result<Vec<CacheScale>, Error> {
    let family = model.metadata.string("general.architecture").unwrap_or("this family");
    let refused = |why: String| Error::NoCacheScales { target: target.into(), why: why.into() };
    let is_of = |tensor: &ModelTensor, roles: &[Role]| {
        tensor.part == Part::Weight && tensor.role.is_some_and(|role| roles.contains(&role))
    };
    if model.tensors.iter().any(|tensor| is_of(tensor, LATENT)) {
        return Err(refused(format!(
            "{family} has latent attention, and keeps no keys and values"
        )));
    }
    let mut scales = Vec::new();
    for (position, tensor) in model.tensors.iter().enumerate() {
        let Some(layer) = tensor.layer.filter(|_| is_of(tensor, KEYS)) else { continue };
        let module = module(checkpoint, position)
            .ok_or_else(|| refused(format!("no module of the checkpoint has {}", tensor.name)))?;
        let heads = match kind {
            CacheScales::Tensor => None,
            CacheScales::Head => Some(key_value_heads(model, layer)?),
        };
        let stored = part.and_then(|part| part(model_type, heads));
        let (data_type, shape) = stored.ok_or_else(|| {
            let what = match kind {
                CacheScales::Tensor => "scales of keys and values",
                CacheScales::Head => "a scale of each head",
            };
            refused(format!("its configuration has no place for {what}"))
        })?;
        for (is_of_values, name) in [(false, "k_scale"), (true, "v_scale")] {
            scales.push(CacheScale {
                name: format!("{module}.{name}"),
                data_type,
                shape: shape.clone(),
                position,
                of: Cached { layer, is_of_values, heads, data_type },
            });
        }
    }
    match scales.is_empty() {
        true => Err(refused(format!("{family} keeps no keys and values"))),
        false => Ok(scales),
    }
}

/// The module of attention that a layer's keys are made in.
fn module(checkpoint: &Checkpoint, position: usize) -> Option<String> {
    let Destination::Runs(runs) = &checkpoint.places[position].as_ref()?.destination else {
        return None;
    };
    let (name, _) = checkpoint.tensors.get(runs.slices().first()?.tensor.0)?;
    let (attention, _) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    Some(attention.to_owned())
}

fn key_value_heads(model: &Model, layer: LayerIndex) -> Result<u64, Error> {
    let architecture = model.metadata.string("general.architecture").unwrap_or_default();
    let key = format!("{architecture}.attention.head_count_kv");
    let of_layer = match model.metadata.get(&key) {
        Some(Value::Array(Array::I32(heads))) => {
            heads.get(layer.0 as usize).and_then(|heads| u64::try_from(*heads).ok())
        }
        _ => model.metadata.unsigned(&key),
    };
    of_layer
        .filter(|heads| *heads > 0)
        .ok_or_else(|| qz_models::Error::MissingKey { path: model.path.clone(), key }.into())
}
