//! What the tensors of an adapter are, by their names.

use std::collections::BTreeMap;

use qz_tensor::TensorIndex;

use super::Adapter;
use crate::error::Error;

/// What PEFT puts before the base's own names.
const PREFIX: &str = "base_model.model.";

/// Both factors of an adapted module, and how long the rows of the result are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Factors {
    pub(super) a: Option<TensorIndex>,
    pub(super) b: Option<TensorIndex>,
    /// DoRA's vector of norms.
    pub(super) magnitude: Option<TensorIndex>,
    /// True if the module is an embedding: its rows are looked up, not multiplied.
    pub(super) is_embedding: bool,
}

/// An adapter's tensors.
#[derive(Debug, Default)]
pub(super) struct AdapterTensors {
    /// By the module's name in the base.
    pub(super) factors: BTreeMap<String, Factors>,
    /// Tensors that take the place of the base's, by their names there: biases, modules that
    /// were trained as a whole.
    pub(super) whole: BTreeMap<String, TensorIndex>,
}

impl AdapterTensors {
    pub(super) fn of(adapter: &Adapter) -> Result<Self, Error> {
        let mut tensors = Self::default();
        for (position, info) in adapter.source.tensors().iter().enumerate() {
            let index = TensorIndex(position);
            let name = info.name.strip_prefix(PREFIX).unwrap_or(&info.name);
            tensors.add(adapter, name, index)?;
        }
        Ok(tensors)
    }

    fn add(&mut self, adapter: &Adapter, name: &str, index: TensorIndex) -> Result<(), Error> {
        let Some((module, part)) = name.split_once(".lora_") else {
            if name.contains("trainable_tokens") {
                let problem = "replaces rows of single tokens, which is not understood";
                return Err(adapter.fault(index, problem));
            }
            let name = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".");
            self.whole.insert(name, index);
            return Ok(());
        };
        let factors = self.factors.entry(module.to_owned()).or_default();
        let place = match part {
            "A.weight" => &mut factors.a,
            "B.weight" => &mut factors.b,
            "embedding_A" | "embedding_B" => {
                factors.is_embedding = true;
                if part == "embedding_A" { &mut factors.a } else { &mut factors.b }
            }
            "magnitude_vector" | "magnitude_vector.weight" => &mut factors.magnitude,
            _ => return Err(adapter.fault(index, "is a part of an adapter that is not understood")),
        };
        *place = Some(index);
        Ok(())
    }
}

impl Factors {
    /// Both factors.
    pub(super) fn both(self, adapter: &Adapter) -> Result<[TensorIndex; 2], Error> {
        match (self.a, self.b) {
            (Some(a), Some(b)) => Ok([a, b]),
            (Some(one), None) | (None, Some(one)) => {
                let missing = if self.a.is_some() { "lora_B" } else { "lora_A" };
                Err(adapter.fault(one, format!("has no {missing} beside it")))
            }
            (None, None) => {
                let magnitude = self.magnitude.unwrap_or(TensorIndex(0));
                Err(adapter.fault(magnitude, "has neither lora_A nor lora_B beside it"))
            }
        }
    }
}
