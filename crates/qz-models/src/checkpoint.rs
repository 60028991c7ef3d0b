//! A checkpoint's tensors against an architecture's rules.

use std::collections::{BTreeMap, HashSet};

use qz_tensor::{Location, Shape, TensorIndex, TensorInfo, Warning};

use crate::architecture::Architecture;
use crate::canonical::{Canonical, canonical_names};
use crate::config::JsonObject;
use crate::describe::ConvertOptions;
use crate::error::{Error, TensorFault, TensorFaults};
use crate::experts::FoundExperts;
use crate::further;
use crate::hyperparameters::ModelConfig;
use crate::larger_models;
use crate::layer_numbers::{FoundNumbers, LayerNumber, StoredNumbers};
use crate::recipe::{RowSlice, StackedRows, TensorOrigin, TensorRecipe};
use crate::rules::{
    Dimension, ExpertIndex, LayerIndex, NameNumbers, NamePattern, Presence, Rows, TensorRule,
};
use crate::tensor_map::TensorMap;

/// Buffers that old checkpoints store and no model needs: rotary frequencies and
/// attention masks (`ModelBase.prepare_tensors` in `conversion/base.py`).
const IGNORED: &[&str] = &[
    ".attention.masked_bias",
    ".attention.bias",
    ".attn.masked_bias",
    ".attn.bias",
    ".rotary_emb.inv_freq",
];

/// What becomes of a checkpoint's tensors.
pub(crate) struct MatchedTensors {
    pub(crate) recipes: Vec<TensorRecipe>,
    pub(crate) ignored: Vec<String>,
    /// Those that belong to the checkpoint and have no place in GGUF.
    pub(crate) beside: Vec<TensorIndex>,
    /// Those of them that GGUF has the numbers of.
    pub(crate) numbers: Vec<StoredNumbers>,
    /// What is said of these.
    pub(crate) unsaid: Vec<Warning>,
    /// True if they are a packed form's, as it is shown.
    pub(crate) is_shown: bool,
    /// What the checkpoint's tensors are called without what was put around the model.
    pub(crate) names: Vec<String>,
}

/// Matches every tensor with a rule and every rule with a tensor.
pub(crate) fn match_tensors(
    architecture: &dyn Architecture,
    config: &mut ModelConfig,
    json: &JsonObject,
    tensors: &[TensorInfo],
    options: &ConvertOptions,
    warnings: &mut Vec<Warning>,
) -> Result<MatchedTensors, Error> {
    let prefix = options.strip_prefix.as_deref();
    let Canonical { mut names, own, is_outside } =
        canonical_names(architecture, tensors, json, config.tied_embeddings, prefix, warnings)?;
    let further = further::find(architecture, config, &mut names);
    let keeps_further = architecture.further_names().is_some() && !options.drops_further_layers;
    config.further = if keeps_further { further } else { 0 };
    let (config, names) = (&*config, &names);
    let rules = layout_of(architecture, config, tensors, names);
    let mut matcher = Matcher {
        rules,
        config,
        json,
        tensors,
        names,
        seen: HashSet::new(),
        experts: FoundExperts::new(rules, config.dimension(Dimension::Experts)),
        stacks: BTreeMap::new(),
        faults: Vec::new(),
        fault_count: 0,
    };
    let mut matched = MatchedTensors {
        recipes: Vec::new(),
        ignored: Vec::new(),
        beside: Vec::new(),
        numbers: Vec::new(),
        unsaid: Vec::new(),
        is_shown: architecture.shown_layout().is_some_and(|shown| std::ptr::eq(shown, rules)),
        names: own,
    };
    // Of a model under the prefix and one beside it the first is meant.
    let inside: HashSet<&str> = names
        .iter()
        .zip(&is_outside)
        .filter_map(|(name, outside)| (!outside).then_some(&**name))
        .collect();
    let mut others = Others { left_out: further - config.further, ..Others::default() };
    let mut left_out: Vec<usize> = Vec::new();
    let mut numbers = FoundNumbers::new(architecture, config.layers);
    for position in reference_order(tensors) {
        let tensor = &tensors[position];
        let is_buffer = IGNORED.iter().any(|ending| tensor.name.ends_with(ending));
        let is_outside = is_outside[position]
            && (!matcher.has_place(position) || inside.contains(&*names[position]));
        let is_spare = options.spare.contains(&*tensor.name) && !matcher.has_place(position);
        if is_outside {
            left_out.push(position);
        }
        let is_unwanted = options.drops_further_layers
            && further::is_further(&names[position], config.layers, others.left_out);
        if is_unwanted {
            matched.ignored.push(tensor.name.to_string());
        } else if let Some(number) = numbers.take(&names[position], TensorIndex(position)) {
            matcher.check_number(number, tensor);
            matched.beside.push(TensorIndex(position));
        } else if !is_outside && others.has(architecture, json, config, tensor, &names[position]) {
            matched.beside.push(TensorIndex(position));
        } else if is_buffer || is_outside || is_spare || matcher.is_tied_copy(position) {
            matched.ignored.push(tensor.name.to_string());
        } else {
            matcher.place(TensorIndex(position), &mut matched.recipes)?;
        }
    }
    matcher.find_missing()?;
    matcher.find_missing_numbers(&numbers);
    if let (Some(first), Some(prefix)) = (left_out.first(), prefix) {
        let (count, tensor) = (left_out.len(), &tensors[*first]);
        warnings.push(Warning {
            location: Location::file(tensor.file.as_ref()).tensor(&tensor.name),
            rule: "strip-prefix",
            message: match count {
                1 => format!("is not under `{prefix}`, and left out"),
                _ => format!("is not under `{prefix}`, and left out, as {} more", count - 1),
            },
        });
    }
    if matcher.faults.is_empty() {
        matched.unsaid = others.warnings(json);
        matched.numbers = numbers.finish();
        return Ok(matched);
    }
    Err(Error::Tensors(Box::new(TensorFaults {
        config: json.path().to_owned(),
        architecture: architecture.gguf_name(),
        faults: matcher.faults,
        total: matcher.fault_count,
    })))
}

/// Tensors of other parts of a larger model, and of layers behind its last.
#[derive(Default)]
struct Others {
    /// How many layers behind the last are left out.
    left_out: u32,
    /// The first, how many there are, and their bytes.
    towers: Option<(String, usize, u64)>,
    later: Option<(String, usize, u64)>,
}

impl Others {
    /// True for such a tensor, which is then counted.
    fn has(
        &mut self,
        architecture: &dyn Architecture,
        json: &JsonObject,
        config: &ModelConfig,
        tensor: &TensorInfo,
        name: &str,
    ) -> bool {
        let kind = if larger_models::is_apart(architecture, json, name) {
            &mut self.towers
        } else if further::is_further(name, config.layers, self.left_out) {
            &mut self.later
        } else {
            return false;
        };
        let (_, count, bytes) = kind.get_or_insert_with(|| (tensor.name.to_string(), 0, 0));
        (*count, *bytes) = (*count + 1, *bytes + tensor.bytes);
        true
    }

    fn warnings(&self, json: &JsonObject) -> Vec<Warning> {
        let told = |rule, of: &str, found: &Option<(String, usize, u64)>| {
            found.as_ref().map(|(first, count, bytes)| Warning {
                location: Location::file(json.path()),
                rule,
                message: format!(
                    "{count} tensors of {of} ({first} and so on, {bytes} bytes) have no place in a \
                     GGUF file of this architecture and are left out"
                ),
            })
        };
        let towers = told("towers-left-out", "other parts of the model", &self.towers);
        let later = told("later-layers-left-out", "layers behind the last", &self.later);
        towers.into_iter().chain(later).collect()
    }
}

/// The rules of the layout that knows most of the tensors, and of those that know as many the
/// one that has most in their shapes.
fn layout_of(
    architecture: &dyn Architecture,
    config: &ModelConfig,
    tensors: &[TensorInfo],
    names: &[String],
) -> &'static [TensorRule] {
    let known = |rules: &[TensorRule]| {
        let rule_of = |name: &String| {
            rules.iter().find_map(|rule| Some((rule, rule.hugging_face.matches(name)?)))
        };
        let (mut known, mut fitting) = (0, 0);
        for (name, tensor) in names.iter().zip(tensors) {
            let Some((rule, numbers)) = rule_of(name) else { continue };
            known += 1;
            let stored = rule.sizes(config, numbers.layer).stored;
            fitting += usize::from(tensor.shape.dimensions() == stored);
        }
        (known, fitting)
    };
    let mut best = architecture.tensor_rules();
    let others: Vec<_> =
        architecture.other_layouts().iter().copied().chain(architecture.shown_layout()).collect();
    if others.is_empty() {
        return best;
    }
    let mut most = known(best);
    for rules in others {
        let own = known(rules);
        if own > most {
            (best, most) = (rules, own);
        }
    }
    best
}

/// The reference writes files in order of their names, and tensors of a file in
/// order of theirs (`SafetensorsLocal` in `gguf-py/gguf/utility.py`).
pub(crate) fn reference_order(tensors: &[TensorInfo]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&tensors[*a], &tensors[*b]);
        (&a.file, &a.name).cmp(&(&b.file, &b.name))
    });
    order
}

struct Matcher<'a> {
    rules: &'static [TensorRule],
    config: &'a ModelConfig,
    json: &'a JsonObject,
    tensors: &'a [TensorInfo],
    /// Their names as the rules have them.
    names: &'a [String],
    /// Those that were placed.
    seen: HashSet<String>,
    experts: FoundExperts,
    /// By rule, the matrices of stacks outside of layers.
    stacks: BTreeMap<usize, BTreeMap<ExpertIndex, TensorIndex>>,
    faults: Vec<TensorFault>,
    fault_count: u64,
}

impl Matcher<'_> {
    /// Adds what becomes of a tensor to `recipes`.
    fn place(&mut self, index: TensorIndex, recipes: &mut Vec<TensorRecipe>) -> Result<(), Error> {
        let (tensor, name) = (&self.tensors[index.0], &self.names[index.0]);
        if !self.seen.insert(name.clone()) {
            self.fault(|| TensorFault::Duplicate { name: tensor.name.to_string() });
            return Ok(());
        }
        let (mut is_known, mut denied) = (false, None);
        for (position, rule) in self.rules.iter().enumerate() {
            let Some(numbers) = rule.hugging_face.matches(name) else { continue };
            if !rule.applies(self.config, numbers.layer) {
                denied = rule.condition.map(|condition| format!("{} denies it", condition.key));
                continue;
            }
            let was_known = std::mem::replace(&mut is_known, true);
            if self.fits(rule, numbers, tensor, was_known)? {
                self.use_rule(position, numbers, index, recipes)?;
            } else if let (Some(layer), Some(expert)) = (numbers.layer, numbers.expert) {
                self.experts.refuse(position, layer, expert);
            }
        }
        if !is_known {
            self.unknown(tensor, denied);
        }
        Ok(())
    }

    /// A number has one element, with whatever dimensions.
    fn check_number(&mut self, number: &LayerNumber, tensor: &TensorInfo) {
        if tensor.shape.elements() != 1 {
            self.fault(|| TensorFault::Shape {
                name: tensor.name.to_string(),
                found: tensor.shape.clone(),
                expected: number.shape(),
                keys: number.key.to_owned(),
            });
        }
    }

    fn find_missing_numbers(&mut self, numbers: &FoundNumbers) {
        for (name, expected) in numbers.missing() {
            let keys = "num_hidden_layers".to_owned();
            self.fault(|| TensorFault::Missing { name, expected, keys });
        }
    }

    /// True for output weights that are the token embeddings under another name,
    /// with their very bytes, as PyTorch files have them: they are written once. A
    /// configuration that denies it is believed.
    fn is_tied_copy(&self, position: usize) -> bool {
        let (tensor, name) = (&self.tensors[position], &self.names[position]);
        let may_be_tied = self.rules.iter().any(|rule| {
            matches!(rule.presence, Presence::WhenFalse(key) if self.config.switch(key) != Some(false))
                && rule.hugging_face.matches(name).is_some()
        });
        let place = |tensor: &TensorInfo| (tensor.offset, tensor.bytes, tensor.data_type);
        may_be_tied
            && self.tensors.iter().any(|other| {
                other.name != tensor.name
                    && place(other) == place(tensor)
                    && (&other.file, &other.shape) == (&tensor.file, &tensor.shape)
            })
    }

    /// True if there is a rule for a tensor, and the configuration does not deny it.
    fn has_place(&self, position: usize) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| match rule.hugging_face.matches(&self.names[position]) {
            Some(numbers) => {
                rule.applies(self.config, numbers.layer)
                    && self.contradiction(rule, numbers).is_none()
            }
            None => false,
        })
    }

    /// True if the configuration allows the tensor, in its shape. Faults are
    /// told once, for the first rule.
    fn fits(
        &mut self,
        rule: &TensorRule,
        numbers: NameNumbers,
        tensor: &TensorInfo,
        is_told: bool,
    ) -> Result<bool, Error> {
        if let Some(reason) = self.contradiction(rule, numbers) {
            if !is_told {
                self.unknown(tensor, Some(reason));
            }
            return Ok(false);
        }
        let expected = self.shape(rule, numbers.layer)?;
        if tensor.shape == expected {
            return Ok(true);
        }
        if !is_told {
            self.fault(|| TensorFault::Shape {
                name: tensor.name.to_string(),
                found: tensor.shape.clone(),
                expected,
                keys: shape_keys(rule),
            });
        }
        Ok(false)
    }

    /// Adds what a rule makes of a tensor that fits it.
    fn use_rule(
        &mut self,
        position: usize,
        numbers: NameNumbers,
        index: TensorIndex,
        recipes: &mut Vec<TensorRecipe>,
    ) -> Result<(), Error> {
        let rule = &self.rules[position];
        if rule.presence == Presence::Dropped {
            return Ok(());
        }
        if let (Rows::StackExperts, Some(layer), Some(expert)) =
            (rule.transform.rows, numbers.layer, numbers.expert)
        {
            let Some(stacks) = self.experts.add(position, layer, expert, index) else {
                return Ok(());
            };
            for (position, stack) in stacks {
                recipes.extend(self.stack(&self.rules[position], Some(layer), &stack)?);
                self.check_types(&stack);
            }
            return Ok(());
        }
        if let (Rows::Stack(count), Some(number)) = (rule.transform.rows, numbers.expert) {
            let stack = self.stacks.entry(position).or_default();
            stack.insert(number, index);
            if stack.len() as u64 == count {
                let stack: Vec<TensorIndex> = stack.values().copied().collect();
                recipes.extend(self.stack(rule, None, &stack)?);
                self.check_types(&stack);
            }
            return Ok(());
        }
        let sizes = rule.sizes(self.config, numbers.layer);
        let stored = rule.stored_rows(self.config, numbers.layer, &sizes.stored, index);
        let change = rule.change(self.config, &sizes.gguf);
        let shape = self.checked_shape(rule, sizes.gguf)?;
        recipes.extend(stored.map(|rows| {
            let origin = TensorOrigin::Mapped(TensorMap::changed(rows, change));
            recipe(rule, numbers.layer, shape, origin)
        }));
        Ok(())
    }

    /// The tensor that a layer's experts, or the matrices of a stack, make together.
    fn stack(
        &self,
        rule: &TensorRule,
        layer: Option<LayerIndex>,
        stack: &[TensorIndex],
    ) -> Result<Option<TensorRecipe>, Error> {
        let sizes = rule.sizes(self.config, layer);
        let shape = self.checked_shape(rule, sizes.gguf)?;
        let slices = stack.iter().map(|tensor| RowSlice { tensor: *tensor, first_row: 0 });
        let rows = sizes.stored.first().copied().unwrap_or(1);
        let stacked = StackedRows::new(rows, slices.collect()).map(TensorMap::of);
        Ok(stacked.map(|map| recipe(rule, layer, shape, TensorOrigin::Mapped(map))))
    }

    /// The parts of a stack are read as one tensor, so they have one type.
    fn check_types(&mut self, stack: &[TensorIndex]) {
        let tensors = self.tensors;
        let mut types = stack.iter().map(|tensor| &tensors[tensor.0]);
        let Some(first) = types.next() else { return };
        for other in types.filter(|other| other.data_type != first.data_type) {
            self.fault(|| TensorFault::Type {
                name: other.name.to_string(),
                found: other.data_type,
                expected: first.data_type,
            });
        }
    }

    fn find_missing(&mut self) -> Result<(), Error> {
        let mut told: HashSet<(NamePattern, Option<LayerIndex>)> = HashSet::new();
        for (position, rule) in self.rules.iter().enumerate() {
            let wanted = match rule.presence {
                Presence::Required => true,
                Presence::WhenTrue(key) | Presence::BehindFirstWhenTrue(key) => {
                    self.config.switch(key) == Some(true)
                }
                Presence::Optional | Presence::AllowedWhenTrue(_) | Presence::Dropped => false,
                Presence::WhenFalse(key) => self.config.switch(key) == Some(false),
            };
            if !wanted {
                continue;
            }
            let layers = if rule.hugging_face.has_layer() { self.config.all_layers() } else { 1 };
            for layer in 0..layers {
                let layer = rule.hugging_face.has_layer().then_some(LayerIndex(layer));
                // Several tensors may come from one.
                if !rule.applies(self.config, layer) || !told.insert((rule.hugging_face, layer)) {
                    continue;
                }
                let expected = self.shape(rule, layer)?;
                match (rule.transform.rows, layer) {
                    (Rows::StackExperts, Some(layer)) => {
                        self.find_missing_experts(position, layer, &expected);
                    }
                    (Rows::Stack(count), None) => {
                        self.find_missing_of_stack(position, count, &expected);
                    }
                    _ => self.find_missing_tensor(rule, layer, &expected),
                }
            }
        }
        Ok(())
    }

    fn find_missing_tensor(
        &mut self,
        rule: &TensorRule,
        layer: Option<LayerIndex>,
        expected: &Shape,
    ) {
        let name = rule.hugging_face.name(layer);
        if self.seen.contains(&name) {
            return;
        }
        let layers = self.config.layers;
        self.fault(|| {
            let keys = match rule.presence {
                Presence::WhenTrue(key) | Presence::BehindFirstWhenTrue(key) => {
                    format!("{key} is true")
                }
                Presence::WhenFalse(key) => format!("{key} is false"),
                _ if rule.hugging_face.has_layer() => format!("num_hidden_layers is {layers}"),
                _ => shape_keys(rule),
            };
            TensorFault::Missing { name, expected: expected.clone(), keys }
        });
    }

    fn find_missing_experts(&mut self, position: usize, layer: LayerIndex, expected: &Shape) {
        let pattern = self.rules[position].hugging_face;
        let experts = self.config.dimension(Dimension::Experts);
        let missing: Vec<ExpertIndex> = self.experts.missing(position, layer).collect();
        for expert in missing {
            self.fault(|| TensorFault::Missing {
                name: pattern.name_of_expert(Some(layer), expert),
                expected: expected.clone(),
                keys: format!("num_local_experts is {experts}"),
            });
        }
    }

    fn find_missing_of_stack(&mut self, position: usize, count: u64, expected: &Shape) {
        let pattern = self.rules[position].hugging_face;
        let name = |number: u64| pattern.name_of_expert(None, ExpertIndex(number as u32));
        let missing: Vec<String> =
            (0..count).map(name).filter(|name| !self.seen.contains(name)).collect();
        for name in missing {
            let (expected, keys) = (expected.clone(), format!("{count} of them"));
            self.fault(|| TensorFault::Missing { name, expected, keys });
        }
    }

    /// Why the configuration does not allow a tensor that the rules know.
    fn contradiction(&self, rule: &TensorRule, numbers: NameNumbers) -> Option<String> {
        let (stacked, counted) = match rule.transform.rows {
            Rows::Stack(count) => (count, format!("there are {count}")),
            _ => {
                let experts = self.config.dimension(Dimension::Experts);
                (experts, format!("num_local_experts is {experts}"))
            }
        };
        if numbers.layer.is_some_and(|layer| layer.0 >= self.config.all_layers()) {
            return Some(format!("num_hidden_layers is {}", self.config.layers));
        }
        if numbers.expert.is_some_and(|expert| u64::from(expert.0) >= stacked) {
            return Some(counted);
        }
        match rule.presence {
            Presence::WhenTrue(key)
            | Presence::BehindFirstWhenTrue(key)
            | Presence::AllowedWhenTrue(key) => {
                (self.config.switch(key) == Some(false)).then(|| format!("{key} is false"))
            }
            Presence::Required
            | Presence::Optional
            | Presence::WhenFalse(_)
            | Presence::Dropped => None,
        }
    }

    /// The shape a rule asks for.
    fn shape(&self, rule: &TensorRule, layer: Option<LayerIndex>) -> Result<Shape, Error> {
        self.checked_shape(rule, rule.sizes(self.config, layer).stored)
    }

    fn checked_shape(&self, rule: &TensorRule, sizes: Vec<u64>) -> Result<Shape, Error> {
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
        self.fault_count += 1;
        if self.faults.len() < TensorFaults::KEPT {
            self.faults.push(fault());
        }
    }
}

fn recipe(
    rule: &TensorRule,
    layer: Option<LayerIndex>,
    shape: Shape,
    origin: TensorOrigin,
) -> TensorRecipe {
    let name = rule.gguf.name(layer);
    TensorRecipe { name, role: rule.role, part: rule.part, layer, shape, origin }
}

fn shape_keys(rule: &TensorRule) -> String {
    let keys: Vec<String> = rule.shape.iter().map(|dimension| dimension.keys()).collect();
    keys.join(", ")
}
