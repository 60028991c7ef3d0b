//! A model's sizes and switches, as the reference sees them: `config.json` with
//! the gaps filled the way transformers' configuration class of its
//! `model_type` fills them.

use serde_json::Value;

use crate::architecture::{Architecture, Contradiction};
use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow, JsonObject, shown};
use crate::error::Error;
use crate::rope::{FACTORS_NAME, Rope, RopeScaling};
use crate::rules::{Dimension, LayerIndex};
use crate::settings::{LARGEST_SIZE, Settings};

/// More layers than any model has, few enough to list their tensors.
const MOST_LAYERS: u64 = 10_000;
/// The most experts that llama.cpp takes (`LLAMA_MAX_EXPERTS`).
const MOST_EXPERTS: u64 = 1024;

/// The sizes and switches of a decoder model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Decoder layers.
    pub layers: u32,
    /// Layers behind these that only predict further tokens, as far as they are there.
    pub further: u32,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width inside the feed-forward network.
    pub intermediate: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: u64,
    /// Whether the configuration states `key_value_heads`.
    pub key_value_heads_stated: bool,
    /// Elements of one head.
    pub head_size: u64,
    /// Whether the configuration states `head_size`.
    pub head_size_stated: bool,
    /// Tokens, padding included.
    pub vocabulary: u64,
    /// Positions the model was trained for.
    pub context: Option<u64>,
    /// Epsilon of the root mean square norms.
    pub rms_epsilon: Option<f64>,
    /// Epsilon of layer norms, if the configuration has one.
    pub layer_norm_epsilon: Option<f64>,
    /// Whether the output weights are the token embeddings.
    pub tied_embeddings: bool,
    /// False for a model that attends in both directions.
    pub causal: bool,
    /// Experts of a layer, if the configuration says; at most 1024, and 0 for an
    /// architecture without.
    pub experts: Option<u64>,
    /// How many of them a token is given to, if the configuration says.
    pub experts_used: Option<u64>,
    /// How many positions back a token sees, itself among them, if that is limited.
    /// GGUF files of these architectures do not say so.
    pub sliding_window: Option<u64>,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Booleans that rules ask for, as far as the configuration states them.
    switches: Vec<(&'static str, bool)>,
    /// The values of the family's own keys.
    settings: Settings,
}

/// Booleans of `config.json` that decide which tensors there are.
const SWITCHES: &[&str] = &["tie_word_embeddings", "attention_bias", "mlp_bias"];

impl ModelConfig {
    /// Reads the configuration. `defaults` are those of its `model_type`; without
    /// them only what the file states counts, as in the reference.
    pub(crate) fn read(
        config: &JsonObject,
        defaults: Option<&ConfigDefaults>,
        architecture: &dyn Architecture,
    ) -> Result<Self, Error> {
        let mut config = config.clone();
        let attends = architecture.has_attention();
        let rope = match defaults {
            Some(defaults) => {
                fill_gaps(&mut config, defaults, attends)?;
                standard_rope(&config, defaults)?
            }
            None => stated_rope(&config)?,
        };
        let (experts, experts_used) = match architecture.mixes_experts() {
            true => read_experts(&config)?,
            false => refuse_experts(&config)?,
        };
        let size = |key| config.required_integer(key, 1..=LARGEST_SIZE);
        let size_of_attention = |key| if attends { size(key) } else { Ok(0) };
        let layers = config.required_integer("num_hidden_layers", 1..=MOST_LAYERS)?;
        let layers =
            u32::try_from(layers).map_err(|_| config.fault("num_hidden_layers", "is too large"))?;
        let hidden = size("hidden_size")?;
        let heads = size_of_attention("num_attention_heads")?;
        let key_value_heads = config.integer("num_key_value_heads", 1..=LARGEST_SIZE)?;
        let head_size = config.integer("head_dim", 1..=LARGEST_SIZE)?;
        let switches = SWITCHES
            .iter()
            .filter_map(|key| config.boolean(key).map(|value| Some((*key, value?))).transpose())
            .collect::<Result<Vec<_>, Error>>()?;
        let model = Self {
            layers,
            further: 0,
            hidden,
            intermediate: match architecture.has_dense_network() {
                true => size_of_attention("intermediate_size")?,
                false => config.integer("intermediate_size", 0..=LARGEST_SIZE)?.unwrap_or(0),
            },
            heads,
            key_value_heads: key_value_heads.unwrap_or(heads),
            key_value_heads_stated: key_value_heads.is_some(),
            head_size: match head_size {
                Some(size) => size,
                None if !attends => 0,
                None => quotient_head_size(&config, hidden, heads)?,
            },
            head_size_stated: head_size.is_some(),
            vocabulary: size("vocab_size")?,
            context: config.integer("max_position_embeddings", 1..=u64::from(u32::MAX))?,
            rms_epsilon: config.number("rms_norm_eps")?,
            layer_norm_epsilon: layer_norm_epsilon(&config)?,
            tied_embeddings: config.boolean("tie_word_embeddings")?.unwrap_or(false),
            causal: config.boolean("is_causal")?.unwrap_or(true),
            experts,
            experts_used,
            sliding_window: read_window(&config, defaults)?,
            rope: match attends && architecture.has_rope() {
                true => Rope::read(&config, &rope, architecture.has_long_rope())?,
                false => Rope::default(),
            },
            switches,
            settings: Settings::read(&config, architecture.config_keys(), layers)?,
        };
        if attends {
            model.check_heads(&config, architecture.has_rope())?;
        }
        if let Some(part) = model.rope.part.filter(|part| *part > 1.0) {
            let problem = format!("is {part}: more of a head than there is cannot be turned");
            return Err(config.fault("partial_rotary_factor", problem));
        }
        // The reference writes such a model as if nothing were scaled.
        let is_llama3 = matches!(model.rope.scaling, RopeScaling::Llama3(_));
        if is_llama3 && !architecture.computed_names().contains(&FACTORS_NAME) {
            let problem = "is \"llama3\", and files of this architecture have no place for its \
                           factors";
            return Err(rope.fault("rope_type", problem));
        }
        match architecture.contradiction(&model) {
            Some(Contradiction { key, problem }) => Err(config.fault(key, problem)),
            None => Ok(model),
        }
    }

    /// The boolean `key` of `config.json`, if it is stated.
    pub fn switch(&self, key: &str) -> Option<bool> {
        let stated = self.switches.iter().find(|(known, _)| *known == key);
        stated.map(|(_, value)| *value).or_else(|| self.settings.flag(key))
    }

    /// A size of the family's own, if it is there and the same in all layers.
    pub fn size(&self, key: &str) -> Option<u64> {
        self.settings.size(key)
    }

    /// Sizes of the family's own, one for each layer, if they differ.
    pub fn sizes(&self, key: &str) -> Option<&[u64]> {
        self.settings.sizes(key)
    }

    /// Which layers see a window, if a list says so.
    pub fn flags(&self, key: &str) -> Option<&[bool]> {
        self.settings.flags(key)
    }

    /// A list of sizes of the family's own, if it is there.
    pub fn list(&self, key: &str) -> Option<&[u64]> {
        self.settings.sizes(key)
    }

    /// A number of the family's own, if it is there.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.settings.number(key)
    }

    /// A list of numbers of the family's own, if it is there.
    pub fn numbers(&self, key: &str) -> Option<&[f64]> {
        self.settings.numbers(key)
    }

    /// A boolean of the family's own, if it is there.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.settings.flag(key)
    }

    /// What a list of words of the family's own says of a layer, if it is there.
    pub fn word_in(&self, key: &str, layer: LayerIndex) -> Option<&str> {
        self.settings.words(key)?.get(layer.0 as usize).map(String::as_str)
    }

    /// A list of words of the family's own, one for each layer, if it is there.
    pub fn words(&self, key: &str) -> Option<&[String]> {
        self.settings.words(key)
    }

    /// A word of the family's own, if it is there.
    pub fn word(&self, key: &str) -> Option<&str> {
        self.settings.word(key)
    }

    /// How large a dimension is, the same in all layers.
    pub fn dimension(&self, dimension: Dimension) -> u64 {
        self.dimension_in(dimension, None)
    }

    /// How large a dimension is in a layer. One that is not known is zero, which no shape
    /// may have.
    pub fn dimension_in(&self, dimension: Dimension, layer: Option<LayerIndex>) -> u64 {
        let of = |dimension: &Dimension| self.dimension_in(*dimension, layer);
        match dimension {
            Dimension::Vocabulary => self.vocabulary,
            Dimension::Hidden => self.hidden,
            Dimension::Intermediate => self.intermediate,
            Dimension::HeadSize => self.head_size,
            Dimension::Queries => self.heads * self.head_size,
            Dimension::KeyValues => self.key_value_heads * self.head_size,
            Dimension::Heads => self.heads,
            Dimension::Experts => self.experts.unwrap_or(0),
            Dimension::Layers => u64::from(self.layers),
            Dimension::GateAndUp => 2 * self.intermediate,
            Dimension::Size(key) => self.settings.size_in(key, layer).unwrap_or(0),
            Dimension::Number(number) => number,
            // Shapes that are too large are told of as such.
            Dimension::Sum(parts) => parts.iter().map(of).fold(0, u64::saturating_add),
            Dimension::Quotient(whole, parts) => of(whole) / of(parts).max(1),
            Dimension::Product(parts) => parts.iter().map(of).fold(1, u64::saturating_mul),
        }
    }

    fn check_heads(&self, config: &JsonObject, rotates: bool) -> Result<(), Error> {
        if !self.heads.is_multiple_of(self.key_value_heads) {
            let problem = format!(
                "is {}, which does not divide num_attention_heads {}",
                self.key_value_heads, self.heads
            );
            return Err(config.fault("num_key_value_heads", problem));
        }
        if self.heads * self.head_size > LARGEST_SIZE {
            let problem = format!("is {}, too much for {} heads", self.head_size, self.heads);
            return Err(config.fault("head_dim", problem));
        }
        if rotates && !self.head_size.is_multiple_of(2) {
            let problem =
                format!("is {}, but rotary embedding needs an even number", self.head_size);
            return Err(config.fault("head_dim", problem));
        }
        Ok(())
    }
}

/// The defaults of transformers 5.23.0 (`models/*/configuration_*.py`), and its
/// normal form of the rotary parameters (`modeling_rope_utils.py`).
fn fill_gaps(
    config: &mut JsonObject,
    defaults: &ConfigDefaults,
    attends: bool,
) -> Result<(), Error> {
    // Written as null it means "as many as query heads", left out it may not.
    let written_as_null = config.is_null("num_key_value_heads");
    for (key, number) in defaults.numbers {
        if !(*key == "num_key_value_heads" && written_as_null) {
            config.set_default(key, *number);
        }
    }
    if let Some(epsilon) = defaults.rms_epsilon {
        config.set_default("rms_norm_eps", epsilon);
    }
    if !attends {
        return Ok(());
    }
    let heads = config.required_integer("num_attention_heads", 1..=LARGEST_SIZE)?;
    config.set_default("num_key_value_heads", heads);
    match defaults.head_size {
        DefaultHeadSize::Implied => {}
        DefaultHeadSize::Fixed(size) => config.set_default("head_dim", size),
        DefaultHeadSize::Quotient if config.get("head_dim").is_some() => {}
        DefaultHeadSize::Quotient => {
            let hidden = config.required_integer("hidden_size", 1..=LARGEST_SIZE)?;
            config.set_default("head_dim", quotient_head_size(config, hidden, heads)?);
        }
    }
    Ok(())
}

/// The rotary parameters as they stand: the new form if there is one.
fn stated_rope(config: &JsonObject) -> Result<JsonObject, Error> {
    Ok(match config.object("rope_parameters")? {
        Some(rope) => rope,
        None => {
            config.object("rope_scaling")?.unwrap_or_else(|| config.empty_child("rope_parameters"))
        }
    })
}

/// The rotary parameters in transformers' normal form: the old form goes before
/// the new one, and every gap is filled.
fn standard_rope(config: &JsonObject, defaults: &ConfigDefaults) -> Result<JsonObject, Error> {
    let old_form = config.object("rope_scaling")?.filter(|object| !object.is_empty());
    let mut rope = match old_form {
        Some(rope) => rope,
        None => config
            .object("rope_parameters")?
            .unwrap_or_else(|| config.empty_child("rope_parameters")),
    };
    let theta = config.number("rope_theta")?.unwrap_or(defaults.rope_theta);
    let nested = ["full_attention", "sliding_attention"];
    let is_nested = nested.iter().any(|key| rope.get(key).is_some_and(Value::is_object));
    if !is_nested {
        fill_rope_object(config, &mut rope, theta)?;
        if let Some(default) = defaults.sliding_rope_theta {
            let sliding = config.number("rope_local_base_freq")?.unwrap_or(default);
            rope = rope.of_kinds(sliding);
        }
    } else {
        for key in nested {
            if let Some(mut inner) = rope.object(key)? {
                fill_rope_object(config, &mut inner, theta)?;
                rope.set(key, inner.into_value());
            }
        }
    }
    Ok(rope)
}

fn fill_rope_object(config: &JsonObject, rope: &mut JsonObject, theta: f64) -> Result<(), Error> {
    rope.set_default("rope_theta", theta);
    let kind = rope.string("type")?.unwrap_or("default").to_owned();
    rope.set_default("rope_type", kind);
    let scaled = ["llama3", "yarn", "longrope"];
    if rope.get("rope_type").and_then(Value::as_str).is_some_and(|kind| scaled.contains(&kind))
        && let Some(context) = config.get("max_position_embeddings")
    {
        rope.set_default("original_max_position_embeddings", context.clone());
    }
    Ok(())
}

fn quotient_head_size(config: &JsonObject, hidden: u64, heads: u64) -> Result<u64, Error> {
    if hidden.is_multiple_of(heads) {
        Ok(hidden / heads)
    } else {
        let problem = format!("is {heads}, which does not divide hidden_size {hidden}");
        Err(config.fault("num_attention_heads", problem))
    }
}

/// The sliding window of a model type that has one in all layers. Written as null it is
/// none, left out it is the default.
fn read_window(
    config: &JsonObject,
    defaults: Option<&ConfigDefaults>,
) -> Result<Option<u64>, Error> {
    let key = "sliding_window";
    match defaults.map_or(DefaultWindow::Never, |defaults| defaults.window) {
        DefaultWindow::Never | DefaultWindow::SomeLayers(_) => Ok(None),
        DefaultWindow::Fixed(window) if !config.has(key) => Ok(Some(window)),
        DefaultWindow::None | DefaultWindow::Fixed(_) => {
            Ok(config.integer(key, 0..=LARGEST_SIZE)?.filter(|window| *window > 0))
        }
    }
}

fn layer_norm_epsilon(config: &JsonObject) -> Result<Option<f64>, Error> {
    for key in ["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"] {
        if let Some(epsilon) = config.number(key)? {
            return Ok(Some(epsilon));
        }
    }
    Ok(None)
}

/// Experts of a layer, and how many a token is given to.
type Experts = (Option<u64>, Option<u64>);

/// The keys that may say how many experts a layer has; the first that is there
/// counts, as in the reference.
const EXPERT_KEYS: [&str; 3] = ["num_local_experts", "num_experts", "n_routed_experts"];
const EXPERTS_USED: &str = "num_experts_per_tok";

fn read_experts(config: &JsonObject) -> Result<Experts, Error> {
    let key = EXPERT_KEYS.into_iter().find(|key| config.get(key).is_some());
    // llama.cpp takes one expert for none.
    let experts = config.required_integer(key.unwrap_or(EXPERT_KEYS[0]), 2..=MOST_EXPERTS)?;
    Ok((Some(experts), Some(config.required_integer(EXPERTS_USED, 1..=experts)?)))
}

fn refuse_experts(config: &JsonObject) -> Result<Experts, Error> {
    for key in EXPERT_KEYS {
        match config.get(key) {
            None => {}
            // One expert is a network as others are; tensors show that it is named so.
            Some(value) if matches!(value.as_u64(), Some(0 | 1)) => {}
            Some(value) => {
                let problem = format!(
                    "is {}; this architecture is supported without experts only",
                    shown(value)
                );
                return Err(config.fault(key, problem));
            }
        }
    }
    let is_zero = EXPERT_KEYS.iter().any(|key| config.get(key).is_some());
    let experts = is_zero.then_some(0);
    Ok((experts, config.integer(EXPERTS_USED, 0..=MOST_EXPERTS)?))
}
