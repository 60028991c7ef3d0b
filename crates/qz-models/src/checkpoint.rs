//! A checkpoint's tensors against an architecture's rules.

use std::borrow::Cow;
use std::collections::HashSet;

use qz_tensor::{Shape, TensorIndex, TensorInfo};

use crate::architecture::Architecture;
use crate::config::JsonObject;
use crate::describe::{TensorOrigin, TensorRecipe};
use crate::error::{Error, TensorFault, TensorFaults};
use crate::hyperparameters::ModelConfig;
use crate::rules::{LayerIndex, Presence, TensorRule};

/// Buffers that old checkpoints store and no model needs: rotary frequencies and
/// attention masks (`ModelBase.prepare_tensors` in `conversion/base.py`).
const IGNORED: &[&str] = &[".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq"];

/// What rules start with and checkpoints of a bare decoder leave out.
const DECODER_PREFIX: &str = "model.";

/// What becomes of a checkpoint's tensors.
pub(crate) struct MatchedTensors {
    pub(crate) recipes: Vec<TensorRecipe>,
    pub(crate) ignored: Vec<String>,
}

/// Matches every tensor with a rule and every rule with a tensor.
pub(crate) fn match_tensors(
    architecture: &dyn Architecture,
    config: &ModelConfig,
    json: &JsonObject,
    tensors: &[TensorInfo],
) -> Result<MatchedTensors, Error> {
    let mut matcher = Matcher {
        rules: architecture.tensor_rules(),
        config,
        json,
        bare: is_bare(tensors),
        seen: HashSet::new(),
        faults: Vec::new(),
        fault_count: 0,
    };
    let mut matched = MatchedTensors { recipes: Vec::new(), ignored: Vec::new() };
    for position in reference_order(tensors) {
        let tensor = &tensors[position];
        if IGNORED.iter().any(|ending| tensor.name.ends_with(ending)) {
            matched.ignored.push(tensor.name.clone());
        } else {
            matched.recipes.extend(matcher.place(tensor, TensorIndex(position))?);
        }
    }
    matcher.find_missing()?;
    if matcher.faults.is_empty() {
        return Ok(matched);
    }
    Err(Error::Tensors(Box::new(TensorFaults {
        config: json.path().to_owned(),
        architecture: architecture.gguf_name(),
        faults: matcher.faults,
        total: matcher.fault_count,
    })))
}

/// The reference writes files in order of their names, and tensors of a file in
/// order of theirs (`SafetensorsLocal` in `gguf-py/gguf/utility.py`).
fn reference_order(tensors: &[TensorInfo]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&tensors[*a], &tensors[*b]);
        (&a.file, &a.name).cmp(&(&b.file, &b.name))
    });
    order
}

/// True for a decoder saved without the model around it: `layers.0...` instead
/// of `model.layers.0...`, as Qwen3-Embedding is.
fn is_bare(tensors: &[TensorInfo]) -> bool {
    !tensors.is_empty()
        && !tensors.iter().any(|tensor| tensor.name.starts_with(DECODER_PREFIX))
        && tensors.iter().any(|tensor| tensor.name == "embed_tokens.weight")
}

struct Matcher<'a> {
    rules: &'static [TensorRule],
    config: &'a ModelConfig,
    json: &'a JsonObject,
    bare: bool,
    /// Names as the rules have them.
    seen: HashSet<String>,
    faults: Vec<TensorFault>,
    fault_count: u64,
}

impl Matcher<'_> {
    fn place(
        &mut self,
        tensor: &TensorInfo,
        index: TensorIndex,
    ) -> Result<Option<TensorRecipe>, Error> {
        let name = self.rule_name(&tensor.name).into_owned();
        if !self.seen.insert(name.clone()) {
            self.fault(TensorFault::Duplicate { name: tensor.name.clone() });
            return Ok(None);
        }
        let found =
            self.rules.iter().find_map(|rule| Some((rule, rule.hugging_face.matches(&name)?)));
        let Some((rule, layer)) = found else {
            self.fault(TensorFault::Unknown {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                reason: None,
            });
            return Ok(None);
        };
        if let Some(reason) = self.contradiction(rule, layer) {
            self.fault(TensorFault::Unknown {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                reason: Some(reason),
            });
            return Ok(None);
        }
        let expected = self.shape(rule)?;
        if tensor.shape != expected {
            self.fault(TensorFault::Shape {
                name: tensor.name.clone(),
                found: tensor.shape.clone(),
                expected,
                keys: shape_keys(rule),
            });
            return Ok(None);
        }
        Ok(Some(TensorRecipe {
            name: rule.gguf.name(layer),
            role: rule.role,
            part: rule.part,
            layer,
            shape: tensor.shape.clone(),
            origin: TensorOrigin::Source { tensor: index, row_order: rule.row_order(self.config) },
        }))
    }

    fn find_missing(&mut self) -> Result<(), Error> {
        for rule in self.rules {
            let wanted = match rule.presence {
                Presence::Required => true,
                Presence::WhenTrue(key) => self.config.switch(key) == Some(true),
                Presence::AllowedWhenTrue(_) => false,
                Presence::WhenFalse(key) => self.config.switch(key) == Some(false),
            };
            if !wanted {
                continue;
            }
            let layers = if rule.hugging_face.has_layer() { self.config.layers } else { 1 };
            for layer in 0..layers {
                let layer = rule.hugging_face.has_layer().then_some(LayerIndex(layer));
                let name = rule.hugging_face.name(layer);
                if !self.seen.contains(&name) {
                    self.missing(rule, name)?;
                }
            }
        }
        Ok(())
    }

    fn missing(&mut self, rule: &TensorRule, name: String) -> Result<(), Error> {
        let keys = match rule.presence {
            Presence::WhenTrue(key) => format!("{key} is true"),
            Presence::WhenFalse(key) => format!("{key} is false"),
            _ if rule.hugging_face.has_layer() => {
                format!("num_hidden_layers is {}", self.config.layers)
            }
            _ => shape_keys(rule),
        };
        let expected = self.shape(rule)?;
        self.fault(TensorFault::Missing { name, expected, keys });
        Ok(())
    }

    /// Why the configuration does not allow a tensor that the rules know.
    fn contradiction(&self, rule: &TensorRule, layer: Option<LayerIndex>) -> Option<String> {
        if let Some(layer) = layer
            && layer.0 >= self.config.layers
        {
            return Some(format!("num_hidden_layers is {}", self.config.layers));
        }
        match rule.presence {
            Presence::WhenTrue(key) | Presence::AllowedWhenTrue(key) => {
                (self.config.switch(key) == Some(false)).then(|| format!("{key} is false"))
            }
            Presence::Required | Presence::WhenFalse(_) => None,
        }
    }

    /// The shape a rule asks for.
    fn shape(&self, rule: &TensorRule) -> Result<Shape, Error> {
        let sizes: Vec<u64> =
            rule.shape.iter().map(|dimension| self.config.dimension(*dimension)).collect();
        Shape::new(sizes).map_err(|error| self.json.fault(&shape_keys(rule), error.to_string()))
    }

    fn rule_name<'n>(&self, name: &'n str) -> Cow<'n, str> {
        if self.bare && !name.starts_with("lm_head.") {
            Cow::Owned(format!("{DECODER_PREFIX}{name}"))
        } else {
            Cow::Borrowed(name)
        }
    }

    fn fault(&mut self, fault: TensorFault) {
        self.fault_count += 1;
        if self.faults.len() < TensorFaults::KEPT {
            self.faults.push(fault);
        }
    }
}

fn shape_keys(rule: &TensorRule) -> String {
    let keys: Vec<&str> = rule.shape.iter().map(|dimension| dimension.keys()).collect();
    keys.join(", ")
}
