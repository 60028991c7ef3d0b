//! A model without some of its layers: what is left moves up, and is numbered anew.
//!
//! Facts about layers are of their numbers: lists with an entry for each, how many come first that
//! are dense, patterns that repeat. Lists lose entries. Whether the rest still holds is what the
//! model's graph says: each layer that is left has to compute what it computed.

use std::collections::BTreeMap;

use qz_models::LayerIndex;
use qz_models::graph::ModelGraph;
use qz_tensor::{Array, Location, Metadata, Name, Value};

use crate::error::Error;
use crate::model::{Model, ModelTensor};

/// Keys that count layers from the first on.
const OF_FIRST: [&str; 1] = ["leading_dense_block_count"];

impl Model {
    /// The model without these layers, by their numbers from 0 on.
    ///
    /// # Errors
    /// If there are no such layers, none are left, or one of the others would compute something
    /// else in its new place.
    pub fn without_layers(mut self, layers: &[u32]) -> Result<Self, Error> {
        if layers.is_empty() {
            return Ok(self);
        }
        let location = Location::file(&self.path);
        let family = self.metadata.string("general.architecture").unwrap_or_default().to_owned();
        let (_, whole) = ModelGraph::read(&self.metadata, self.sliding_window, &location)?;
        let places = places(layers, whole.layers_to_output(), whole.layer_count())
            .ok_or_else(|| self.no_such_layers(layers, whole.layers_to_output()))?;
        let metadata = renumbered(&self.metadata, &family, &places, whole.layer_count());
        let (_, pruned) = ModelGraph::read(&metadata, self.sliding_window, &location)?;
        for (old, new) in &places {
            if pruned.layer(LayerIndex(*new)) != whole.layer(LayerIndex(*old)) {
                return Err(self.other_layer(&family, *old, *new));
            }
        }
        let is_elsewhere = |tensor: &&ModelTensor| {
            tensor.layer.is_some_and(|layer| !tensor.name.starts_with(&prefix(layer.0)))
        };
        if let Some(other) = self.tensors.iter().find(is_elsewhere) {
            let detail = format!(
                "{} is in a layer of another kind, and those are not counted anew",
                other.name
            );
            return Err(Error::Pruning { path: self.path.clone(), detail: detail.into() });
        }
        self.metadata = metadata;
        self.tensors.retain_mut(|tensor| {
            let Some(layer) = tensor.layer else { return true };
            let Some(new) = places.get(&layer.0) else { return false };
            if let Some(rest) = tensor.name.strip_prefix(&prefix(layer.0)) {
                let name = Name::from(prefix(*new) + rest);
                tensor.unpruned = Some(Box::new(std::mem::replace(&mut tensor.name, name)));
            }
            tensor.layer = Some(LayerIndex(*new));
            true
        });
        let list: Vec<String> = layers.iter().map(u32::to_string).collect();
        let pruned = format!("without layers {}", list.join(","));
        self.edits =
            Some(self.edits.map_or(pruned.clone(), |earlier| format!("{earlier} {pruned}")));
        self.is_pruned = true;
        Ok(self)
    }

    fn no_such_layers(&self, layers: &[u32], count: u32) -> Error {
        let unknown = layers.iter().find(|layer| **layer >= count);
        let detail = match unknown {
            Some(layer) => {
                format!("there is no layer {layer} to leave out: it has {count}, from 0 on")
            }
            None => format!("none of its {count} layers would be left"),
        };
        Error::Pruning { path: self.path.clone(), detail: detail.into() }
    }

    fn other_layer(&self, family: &str, old: u32, new: u32) -> Error {
        let detail = format!(
            "layer {old} would become layer {new}, where {family} computes something else (a \
             pattern of layers repeats, or layers share what others computed)"
        );
        Error::Pruning { path: self.path.clone(), detail: detail.into() }
    }
}

/// What the names of a layer's tensors begin with.
fn prefix(layer: u32) -> String {
    format!("blk.{layer}.")
}

/// Where each layer that is left goes; those behind the output's are all left. Nothing if a layer
/// is not there, or none is left.
fn places(pruned: &[u32], to_output: u32, count: u32) -> Option<BTreeMap<u32, u32>> {
    let is_left = |layer: &u32| !pruned.contains(layer);
    let places: BTreeMap<u32, u32> = (0..count).filter(is_left).zip(0..).collect();
    let is_sound =
        pruned.iter().all(|layer| *layer < to_output) && (0..to_output).any(|own| is_left(&own));
    is_sound.then_some(places)
}

/// Metadata of the layers that are left.
fn renumbered(
    metadata: &Metadata,
    family: &str,
    places: &BTreeMap<u32, u32>,
    count: u32,
) -> Metadata {
    let mut pruned = metadata.clone();
    let family_prefix = format!("{family}.");
    for (key, value) in metadata.iter() {
        let Some(fact) = key.strip_prefix(&family_prefix) else { continue };
        match value {
            Value::Array(array) if array.len() == count as usize => {
                pruned.set(key, Value::Array(kept(array, places)));
            }
            _ if OF_FIRST.contains(&fact) => {
                let Some(first) = metadata.unsigned(key) else { continue };
                let left = places.keys().filter(|layer| u64::from(**layer) < first).count();
                pruned.set(key, Value::U32(left as u32));
            }
            _ => {}
        }
    }
    pruned.set(format!("{family}.block_count"), Value::U32(places.len() as u32));
    pruned
}

/// The elements of the layers that are left.
fn kept(array: &Array, places: &BTreeMap<u32, u32>) -> Array {
    macro_rules! kept {
        ($($kind:ident),*) => {
            match array {
                $(Array::$kind(all) => {
                    Array::$kind(places.keys().map(|layer| all[*layer as usize]).collect())
                })*
                // No fact about layers is a text.
                Array::String(_) | Array::Bytes(_) => array.clone(),
            }
        };
    }
    kept!(U8, I8, U16, I16, U32, I32, F32, Bool, U64, I64, F64)
}
