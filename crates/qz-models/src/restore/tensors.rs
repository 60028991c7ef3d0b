//! The tensors of a GGUF file against an architecture's rules.

use std::collections::{HashMap, HashSet};

use qz_tensor::{Shape, TensorIndex, TensorInfo};

use super::keys::Keys;
use crate::architecture::Architecture;
use crate::config::JsonObject;
use crate::error::{Error, TensorFault, TensorFaults};
use crate::further::FurtherNames;
use crate::hyperparameters::ModelConfig;
use crate::recipe::StackedRows;
use crate::rules::{
    Dimension, ExpertIndex, LayerIndex, NameNumbers, Part, Presence, Role, Rows, TensorRule,
};
use crate::tensor_map::Change;

/// A tensor of the checkpoint.
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
}

/// Where a tensor of the GGUF file goes.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoredPlace {
    /// The tensor of the GGUF file.
    pub tensor: TensorIndex,
    /// What becomes of its rows.
    pub change: Change,
    /// The rows of the checkpoint's tensors that they are then.
    pub rows: StackedRows,
}

/// A checkpoint's tensors, and where those of a GGUF file go.
#[derive(Debug, Default)]
pub struct RestoredTensors {
    /// The checkpoint's.
    pub tensors: Vec<RestoredTensor>,
    /// Where the GGUF file's go, but for those that are computed.
    pub places: Vec<RestoredPlace>,
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
        let is_behind_first = |tensor: &TensorInfo| {
            let numbers = rule.gguf.matches(&tensor.name);
            numbers.and_then(|numbers| numbers.layer).is_some_and(|layer| layer.0 > 0)
        };
        let (key, value) = match rule.presence {
            Presence::WhenTrue(key) => (key, is_there),
            Presence::BehindFirstWhenTrue(key) => (key, tensors.iter().any(is_behind_first)),
            Presence::WhenFalse(key) => (key, !is_there),
            Presence::Required
            | Presence::Optional
            | Presence::AllowedWhenTrue(_)
            | Presence::Dropped => continue,
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
pub(crate) fn restore_tensors(
    architecture: &dyn Architecture,
    config: &ModelConfig,
    json: &JsonObject,
    tensors: &[TensorInfo],
) -> Result<RestoredTensors, Error> {
    let rules = architecture.tensor_rules();
    let mut matcher = Matcher {
        further: architecture.further_names().unwrap_or(FurtherNames::Numbered),
        rules,
        config,
        json,
        seen: HashSet::new(),
        numbers: HashMap::new(),
        faults: Vec::new(),
        total: 0,
    };
    let computed = architecture.computed_names();
    let mut restored = RestoredTensors::default();
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
    further: FurtherNames,
    rules: &'static [TensorRule],
    config: &'a ModelConfig,
    json: &'a JsonObject,
    /// Names in the GGUF file that a rule has taken.
    seen: HashSet<String>,
    /// Numbers of the checkpoint's tensors.
    numbers: HashMap<String, TensorIndex>,
    faults: Vec<TensorFault>,
    total: u64,
}

/// True for equal shapes, but for outer dimensions of 1: ggml forgets them when it writes a
/// file again.
fn is_same(found: &Shape, expected: &Shape) -> bool {
    let without_ones = |shape: &Shape| -> Vec<u64> {
        shape.dimensions().iter().copied().skip_while(|size| *size == 1).collect()
    };
    without_ones(found) == without_ones(expected)
}

impl Matcher<'_> {
    fn place(
        &mut self,
        tensor: &TensorInfo,
        index: TensorIndex,
        restored: &mut RestoredTensors,
    ) -> Result<(), Error> {
        let matched = |rule: &'static TensorRule| Some((rule, rule.gguf.matches(&tensor.name)?));
        let mut matched = self.rules.iter().filter_map(matched);
        let matched = matched.find(|(rule, numbers)| rule.applies(self.config, numbers.layer));
        let Some((rule, numbers)) = matched else {
            self.unknown(tensor, None);
            return Ok(());
        };
        let layers = self.config.all_layers();
        if numbers.layer.is_some_and(|layer| layer.0 >= layers) {
            self.unknown(tensor, Some(format!("block_count is {layers}")));
            return Ok(());
        }
        self.seen.insert(tensor.name.to_string());
        let sizes = rule.sizes(self.config, numbers.layer);
        let change = rule.change(self.config, &sizes.gguf).inverse();
        let expected = self.checked(rule, sizes.gguf)?;
        if !is_same(&tensor.shape, &expected) {
            self.fault(|| TensorFault::Shape {
                name: tensor.name.to_string(),
                found: tensor.shape.clone(),
                expected,
                keys: shape_keys(rule),
            });
            return Ok(());
        }
        let shape = self.checked(rule, sizes.stored.clone())?;
        let names = self.names(rule, numbers);
        let number = |name: &String| self.number(name, rule, &shape, restored);
        let tensors: Vec<TensorIndex> = names.iter().map(number).collect();
        let rows = match tensors.as_slice() {
            [one] => rule.stored_rows(self.config, numbers.layer, &sizes.stored, *one),
            several => StackedRows::of_tensors(shape.rows(), several),
        };
        restored.places.extend(rows.map(|rows| RestoredPlace { tensor: index, change, rows }));
        Ok(())
    }

    /// The names of the checkpoint's tensors that a tensor of the GGUF file is.
    fn names(&self, rule: &TensorRule, numbers: NameNumbers) -> Vec<String> {
        let layer = numbers.layer;
        let named = |name: String| self.further.stored(name, self.config.layers);
        match rule.transform.rows {
            Rows::StackExperts => {
                let name = |expert| rule.hugging_face.name_of_expert(layer, ExpertIndex(expert));
                (0..self.experts()).map(name).map(named).collect()
            }
            Rows::Stack(count) => {
                let name = |number| rule.hugging_face.name_of_expert(None, ExpertIndex(number));
                (0..count as u32).map(name).collect()
            }
            _ => vec![named(rule.hugging_face.name(layer))],
        }
    }

    /// The number of one of the checkpoint's tensors, which may be there already.
    fn number(
        &mut self,
        name: &str,
        rule: &TensorRule,
        shape: &Shape,
        restored: &mut RestoredTensors,
    ) -> TensorIndex {
        let next = TensorIndex(restored.tensors.len());
        *self.numbers.entry(name.to_owned()).or_insert_with(|| {
            let (name, shape) = (name.to_owned(), shape.clone());
            let (role, part) = (rule.role, rule.part);
            restored.tensors.push(RestoredTensor { name, role, part, shape });
            next
        })
    }

    /// At most 1024.
    fn experts(&self) -> u32 {
        u32::try_from(self.config.dimension(Dimension::Experts)).unwrap_or(0)
    }

    fn find_missing(&mut self) -> Result<(), Error> {
        for rule in self.rules {
            let is_wanted = match rule.presence {
                Presence::Required => true,
                Presence::WhenTrue(key) | Presence::BehindFirstWhenTrue(key) => {
                    self.config.switch(key) == Some(true)
                }
                Presence::Optional | Presence::AllowedWhenTrue(_) | Presence::Dropped => false,
                Presence::WhenFalse(key) => self.config.switch(key) == Some(false),
            };
            if !is_wanted {
                continue;
            }
            let layers = if rule.gguf.has_layer() { self.config.all_layers() } else { 1 };
            for layer in 0..layers {
                let layer = rule.gguf.has_layer().then_some(LayerIndex(layer));
                let name = rule.gguf.name(layer);
                if rule.applies(self.config, layer) && !self.seen.contains(&name) {
                    let expected = self.checked(rule, rule.sizes(self.config, layer).gguf)?;
                    self.fault(|| TensorFault::Missing { name, expected, keys: shape_keys(rule) });
                }
            }
        }
        Ok(())
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

fn shape_keys(rule: &TensorRule) -> String {
    let keys: Vec<String> = rule.shape.iter().map(|dimension| dimension.keys()).collect();
    keys.join(", ")
}
