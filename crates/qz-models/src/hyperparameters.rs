//! A model's sizes and switches, as the reference sees them: `config.json` with
//! the gaps filled the way transformers' configuration class of its
//! `model_type` fills them.

use serde_json::Value;

use crate::config::{ConfigDefaults, DefaultHeadSize, DefaultWindow, JsonObject, shown};
use crate::error::Error;
use crate::rope::Rope;
use crate::rules::Dimension;

/// More layers than any model has, few enough to list their tensors.
const MOST_LAYERS: u64 = 10_000;
/// The most experts that llama.cpp takes (`LLAMA_MAX_EXPERTS`).
const MOST_EXPERTS: u64 = 1024;
/// Sizes fit llama.cpp's 32-bit hyperparameters with their sign.
const LARGEST_SIZE: u64 = i32::MAX as u64;

/// The sizes and switches of a decoder model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Decoder layers.
    pub layers: u32,
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
}

/// Booleans of `config.json` that decide which tensors there are.
const SWITCHES: &[&str] = &["tie_word_embeddings", "attention_bias", "mlp_bias"];

impl ModelConfig {
    /// Reads the configuration. `defaults` are those of its `model_type`; without
    /// them only what the file states counts, as in the reference. `mixes_experts`
    /// tells whether the architecture has experts.
    pub(crate) fn read(
        config: &JsonObject,
        defaults: Option<&ConfigDefaults>,
        mixes_experts: bool,
    ) -> Result<Self, Error> {
        let mut config = config.clone();
        let rope = match defaults {
            Some(defaults) => {
                fill_gaps(&mut config, defaults)?;
                standard_rope(&config, defaults)?
            }
            None => stated_rope(&config)?,
        };
        let (experts, experts_used) =
            if mixes_experts { read_experts(&config)? } else { refuse_experts(&config)? };
        let size = |key| config.required_integer(key, 1..=LARGEST_SIZE);
        let layers = config.required_integer("num_hidden_layers", 1..=MOST_LAYERS)?;
        let hidden = size("hidden_size")?;
        let heads = size("num_attention_heads")?;
        let key_value_heads = config.integer("num_key_value_heads", 1..=LARGEST_SIZE)?;
        let head_size = config.integer("head_dim", 1..=LARGEST_SIZE)?;
        let switches = SWITCHES
            .iter()
            .filter_map(|key| config.boolean(key).map(|value| Some((*key, value?))).transpose())
            .collect::<Result<Vec<_>, Error>>()?;
        let model = Self {
            layers: u32::try_from(layers)
                .map_err(|_| config.fault("num_hidden_layers", "is too large"))?,
            hidden,
            intermediate: size("intermediate_size")?,
            heads,
            key_value_heads: key_value_heads.unwrap_or(heads),
            key_value_heads_stated: key_value_heads.is_some(),
            head_size: match head_size {
                Some(size) => size,
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
            rope: Rope::read(&config, &rope)?,
            switches,
        };
        model.check_heads(&config)?;
        Ok(model)
    }

    /// The boolean `key` of `config.json`, if it is stated.
    pub fn switch(&self, key: &str) -> Option<bool> {
        self.switches.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// How large a dimension is: below 2^32.
    pub fn dimension(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Vocabulary => self.vocabulary,
            Dimension::Hidden => self.hidden,
            Dimension::Intermediate => self.intermediate,
            Dimension::HeadSize => self.head_size,
            Dimension::Queries => self.heads * self.head_size,
            Dimension::KeyValues => self.key_value_heads * self.head_size,
            Dimension::Experts => self.experts.unwrap_or(0),
            Dimension::GateAndUp => 2 * self.intermediate,
        }
    }

    fn check_heads(&self, config: &JsonObject) -> Result<(), Error> {
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
        if !self.head_size.is_multiple_of(2) {
            let problem =
                format!("is {}, but rotary embedding needs an even number", self.head_size);
            return Err(config.fault("head_dim", problem));
        }
        Ok(())
    }
}

/// The defaults of transformers 5.23.0 (`models/*/configuration_*.py`), and its
/// normal form of the rotary parameters (`modeling_rope_utils.py`).
fn fill_gaps(config: &mut JsonObject, defaults: &ConfigDefaults) -> Result<(), Error> {
    // Written as null it means "as many as query heads", left out it may not.
    let written_as_null = config.is_null("num_key_value_heads");
    for (key, number) in defaults.numbers {
        if !(*key == "num_key_value_heads" && written_as_null) {
            config.set_default(key, *number);
        }
    }
    config.set_default("rms_norm_eps", defaults.rms_epsilon);
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
            Some(value) if value.as_u64() == Some(0) => {}
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
