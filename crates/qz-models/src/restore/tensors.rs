//! The tensors of a GGUF file against an architecture's rules.

use std::collections::HashSet;

use qz_tensor::{Shape, TensorIndex, TensorInfo};

use super::keys::Keys;
use crate::architecture::Architecture;
use crate::config::JsonObject;
use crate::error::{Error, TensorFault, TensorFaults};
use crate::hyperparameters::ModelConfig;
use crate::row_order::RowOrder;
use crate::rules::{
    Dimension, ExpertIndex, LayerIndex, Part, Presence, Role, TensorRule, Transform,
};

/// A tensor of the checkpoint: a run of rows of one tensor of the GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoredTensor {
    /// Its name.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Whether it is the role's weight or its bias.
    pub part: Part,
    /// Its dimensions, outermost first.
    pub shape: Shape,
    /// The tensor of the GGUF file.
    pub tensor: TensorIndex,
    /// The first of its rows there.
    pub first_row: u64,
    /// In which order the rows are written.
    pub row_order: RowOrder,
}

/// Rows of the token embedding.
pub(super) fn rows_of_embedding(
    architecture: &dyn Architecture,
    keys: &Keys<'_>,
    tensors: &[TensorInfo],
) -> Result<u64, Error> {
    let rules = architecture.tensor_rules().iter();
    let embedding = rules.filter(|rule| rule.role == Role::TokenEmbedding);
    let name = embedding.map(|rule| rule.gguf.name(None)).next().unwrap_or_default();
    let tensor = tensors.iter().find(|tensor| tensor.name == name);
    let tensor = tensor.ok_or_else(|| keys.fault(&name, "there is no such tensor"))?;
    Ok(tensor.shape.rows())
}

/// The booleans of `config.json` that say which tensors there are.
pub(super) fn switches(
    architecture: &dyn Architecture,
    tensors: &[TensorInfo],
) -> Vec<(&'static str, bool)> {
    let mut switches: Vec<(&'static str, bool)> = Vec::new();
    for rule in architecture.tensor_rules() {
        let is_there = tensors.iter().any(|tensor| rule.gguf.matches(&tensor.name).is_some());
        let (key, value) = match rule.presence {
            Presence::WhenTrue(key) => (key, is_there),
            Presence::WhenFalse(key) => (key, !is_there),
            Presence::Required | Presence::AllowedWhenTrue(_) => continue,
        };
        match switches.iter_mut().find(|(known, _)| *known == key) {
            // One that is missing will be told of by its name.
            Some((_, known)) => *known |= value,
            None => switches.push((key, value)),
        }
    }
    switches
}

/// Every tensor of the checkpoint.
pub(super) fn restore_tensors(
    architecture: &dyn Architecture,
    config: &ModelConfig,
    json: &JsonObject,
    tensors: &[TensorInfo],
) -> Result<Vec<RestoredTensor>, Error> {
    let rules = architecture.tensor_rules();
    let mut matcher =
        Matcher { rules, config, json, seen: HashSet::new(), faults: Vec::new(), total: 0 };
    let computed = architecture.computed_names();
    let mut restored = Vec::new();
    for (position, tensor) in tensors.iter().enumerate() {
        if !computed.contains(&&*tensor.name) {
            matcher.place(tensor, TensorIndex(position), &mut restored)?;
        }
    }
    matcher.find_missing()?;
    if matcher.faults.is_empty() {
        return Ok(restored);
    }
    Err(Error::Tensors(Box::new(TensorFaults {
        config: json.path().to_owned(),
        architecture: architecture.gguf_name(),
        faults: matcher.faults,
        total: matcher.total,
    })))
}

struct Matcher<'a> {
    rules: &'static [TensorRule],
    config: &'a ModelConfig,
    json: &'a JsonObject,
    /// Names in the GGUF file that a rule has taken.
    seen: HashSet<String>,
    faults: Vec<TensorFault>,
    total: u64,
}

impl Matcher<'_> {
    fn place(
        &mut self,
        tensor: &TensorInfo,
        index: TensorIndex,
        restored: &mut Vec<RestoredTensor>,
    ) -> Result<(), Error> {
        let matched =
            self.rules.iter().find_map(|rule| Some((rule, rule.gguf.matches(&tensor.name)?)));
        let Some((rule, numbers)) = matched else {
            self.unknown(tensor, None);
            return Ok(());
        };
        let layers = self.config.layers;
        if numbers.layer.is_some_and(|layer| layer.0 >= layers) {
            self.unknown(tensor, Some(format!("block_count is {layers}")));
            return Ok(());
        }
        self.seen.insert(tensor.name.to_string());
        let expected = self.shape_in_gguf(rule)?;
        if tensor.shape != expected {
            self.fault(|| TensorFault::Shape {
                name: tensor.name.to_string(),
                found: tensor.shape.clone(),
                expected,
                keys: shape_keys(rule),
            });
            return Ok(());
        }
        let shape = self.shape(rule)?;
        match (rule.transform, numbers.layer) {
            (Transform::StackExperts, Some(layer)) => {
                let rows = shape.rows();
                restored.extend((0..self.experts()).map(|expert| RestoredTensor {
                    name: rule.hugging_face.name_of_expert(Some(layer), ExpertIndex(expert)),
                    first_row: u64::from(expert) * rows,
                    ..whole(rule, Some(layer), &shape, index, RowOrder::AsStored)
                }));
            }
            (_, layer) => {
                let row_order = rule.row_order(self.config).inverse();
                restored.push(whole(rule, layer, &shape, index, row_order));
            }
        }
        Ok(())
    }

    /// At most 1024.
    fn experts(&self) -> u32 {
        u32::try_from(self.config.dimension(Dimension::Experts)).unwrap_or(0)
    }

    fn find_missing(&mut self) -> Result<(), Error> {
        for rule in self.rules {
            let is_wanted = match rule.presence {
                Presence::Required => true,
                Presence::WhenTrue(key) => self.config.switch(key) == Some(true),
                Presence::AllowedWhenTrue(_) => false,
                Presence::WhenFalse(key) => self.config.switch(key) == Some(false),
            };
            if !is_wanted {
                continue;
            }
            let expected = self.shape_in_gguf(rule)?;
            let layers = if rule.gguf.has_layer() { self.config.layers } else { 1 };
            for layer in 0..layers {
                let name = rule.gguf.name(rule.gguf.has_layer().then_some(LayerIndex(layer)));
                if !self.seen.contains(&name) {
                    let expected = expected.clone();
                    self.fault(|| TensorFault::Missing { name, expected, keys: shape_keys(rule) });
                }
            }
        }
        Ok(())
    }

    fn sizes(&self, rule: &TensorRule) -> Vec<u64> {
        rule.shape.iter().map(|dimension| self.config.dimension(*dimension)).collect()
    }

    fn shape(&self, rule: &TensorRule) -> Result<Shape, Error> {
        self.checked(rule, self.sizes(rule))
    }

    fn shape_in_gguf(&self, rule: &TensorRule) -> Result<Shape, Error> {
        let mut sizes = self.sizes(rule);
        if rule.transform == Transform::StackExperts {
            sizes.insert(0, self.config.dimension(Dimension::Experts));
        }
        self.checked(rule, sizes)
    }

    fn checked(&self, rule: &TensorRule, sizes: Vec<u64>) -> Result<Shape, Error> {
        Shape::new(sizes).map_err(|error| self.json.fault(&shape_keys(rule), error.to_string()))
    }

    fn unknown(&mut self, tensor: &TensorInfo, reason: Option<String>) {
        self.fault(|| TensorFault::Unknown {
            name: tensor.name.to_string(),
            shape: tensor.shape.clone(),
            reason,
        });
    }

    fn fault(&mut self, fault: impl FnOnce() -> TensorFault) {
        self.total += 1;
        if self.faults.len() < TensorFaults::KEPT {
            self.faults.push(fault());
        }
    }
}

fn whole(
    rule: &TensorRule,
    layer: Option<LayerIndex>,
    shape: &Shape,
    tensor: TensorIndex,
    row_order: RowOrder,
) -> RestoredTensor {
    RestoredTensor {
        name: rule.hugging_face.name(layer),
        role: rule.role,
        part: rule.part,
        shape: shape.clone(),
        tensor,
        first_row: 0,
        row_order,
    }
}

fn shape_keys(rule: &TensorRule) -> String {
    let keys: Vec<&str> = rule.shape.iter().map(|dimension| dimension.keys()).collect();
    keys.join(", ")
}
