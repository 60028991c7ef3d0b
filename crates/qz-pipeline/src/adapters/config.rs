//! `adapter_config.json`.

use qz_tensor::{Location, SideFiles};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::CONFIG;
use crate::error::Error;
use crate::folder::Folder;

/// What of an adapter's configuration changes what it computes.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    rank: u64,
    pub(super) alpha: f64,
    /// In the file's order: the first that matches counts.
    ranks: Vec<(Regex, u64)>,
    alphas: Vec<(Regex, f64)>,
    is_rank_stabilized: bool,
    pub(super) is_dora: bool,
    /// Adapted modules that store their weight with rows as columns do so in the base.
    pub(super) has_turned: bool,
    /// Parameters that are adapted although no module of their own holds them: fused experts.
    pub(super) target_parameters: Vec<String>,
    /// The base, as the training knew it.
    pub(super) base: Option<String>,
}

/// How large an adapted module's product is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scaling {
    pub(super) rank: u64,
    pub(super) factor: f64,
}

/// Keys that change nothing of what a trained adapter computes: which modules were chosen
/// (its tensors say that), how it was trained, and who made it.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Keys that are read.
const READ: &[&str] = &[
    "alpha_pattern",
    "fan_in_fan_out",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_parameters",
    "use_dora",
    "use_rslora",
];

/// Ways to begin a training that leave the base as it is. The others (`pissa`, `olora`,
/// `corda`, `loftq`, `lora_ga`, `mica`) take something away from it, or depend on it.
const PLAIN_BEGINNINGS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// One for each matrix of the largest models, and not what would fill the memory.
const MOST_PATTERNS: usize = 4096;

/// The most that one may take.
const PATTERN_BYTES: usize = 1 << 17;

impl AdapterConfig {
    pub(super) fn read(folder: &Folder) -> Result<Self, Error> {
        let location = Location::file(folder.path(CONFIG));
        let Some(bytes) = folder.read(CONFIG)? else {
            let problem = "is not there, so this is no adapter of PEFT's".to_owned();
            return Err(Error::Adapter { location, problem });
        };
        let keys: Map<String, Value> = qz_shards::json::settings(&bytes).map_err(|error| {
            let problem = format!("is no JSON object: {error}");
            Error::Adapter { location: location.clone(), problem }
        })?;
        Self::of(&Keys { location, keys })
    }

    fn of(keys: &Keys) -> Result<Self, Error> {
        match keys.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(kind) => {
                let kind = qz_shards::shown(kind);
                return Err(keys.fault("peft_type", format!("is {kind}; LORA alone is merged")));
            }
            None => return Err(keys.fault("peft_type", "names no kind of adapter")),
        }
        keys.refuse_unknown()?;
        match keys.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(kind)) if PLAIN_BEGINNINGS.contains(&&**kind) => {}
            Some(other) => {
                let kind = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                let problem = format!(
                    "is {}: the adapter belongs to a base that this start of its training \
                     changed, not to the base itself",
                    qz_shards::shown(&kind)
                );
                return Err(keys.fault("init_lora_weights", problem));
            }
        }
        Ok(Self {
            rank: keys.number("r", Value::as_u64, Some(8))?,
            alpha: keys.number("lora_alpha", Value::as_f64, Some(8.0))?,
            ranks: keys.patterns("rank_pattern", Value::as_u64)?,
            alphas: keys.patterns("alpha_pattern", Value::as_f64)?,
            is_rank_stabilized: keys.flag("use_rslora")?,
            is_dora: keys.flag("use_dora")?,
            has_turned: keys.flag("fan_in_fan_out")?,
            target_parameters: keys.texts("target_parameters")?,
            base: keys.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
        })
    }

    /// The rank and the factor of a module, by its name in the base.
    pub(super) fn scaling(&self, module: &str) -> Scaling {
        let rank = first_match(&self.ranks, module).unwrap_or(self.rank);
        let alpha = first_match(&self.alphas, module).unwrap_or(self.alpha);
        let divisor = match self.is_rank_stabilized {
            true => (rank as f64).sqrt(),
            false => rank as f64,
        };
        Scaling { rank, factor: alpha / divisor }
    }
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

/// The file's object, for messages.
struct Keys {
    location: Location,
    keys: Map<String, Value>,
}

impl Keys {
    /// A key that says something.
    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn fault(&self, key: &str, problem: impl Into<String>) -> Error {
        let location = self.location.clone().tensor(key);
        Error::Adapter { location, problem: problem.into() }
    }

    /// Every other key must say nothing.
    fn refuse_unknown(&self) -> Result<(), Error> {
        let says_nothing = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(values) => values.is_empty(),
            _ => false,
        };
        for (key, value) in &self.keys {
            if HARMLESS.contains(&&**key) || READ.contains(&&**key) || says_nothing(value) {
                continue;
            }
            let value = qz_shards::shown(&value.to_string());
            let problem =
                format!("is {value}, which changes what the adapter computes in an unknown way");
            return Err(self.fault(key, problem));
        }
        Ok(())
    }

    fn flag(&self, key: &str) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.fault(key, "is neither true nor false")),
        }
    }

    fn number<T>(
        &self,
        key: &str,
        read: fn(&Value) -> Option<T>,
        default: Option<T>,
    ) -> Result<T, Error> {
        let value = match self.get(key) {
            None => default,
            Some(value) => read(value).filter(|_| is_positive(value)),
        };
        value.ok_or_else(|| self.fault(key, "is no positive number"))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, Error> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(text).collect(),
            Some(_) => None,
        }
        .ok_or_else(|| self.fault(key, "is no list of names"))
    }

    /// Patterns as PEFT matches them: the whole name of a module, or what follows a dot in it.
    fn patterns<T>(
        &self,
        key: &str,
        read: fn(&Value) -> Option<T>,
    ) -> Result<Vec<(Regex, T)>, Error> {
        let object = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Object(object)) => object,
            Some(_) => return Err(self.fault(key, "is no object of patterns")),
        };
        if object.len() > MOST_PATTERNS {
            let problem =
                format!("has {} patterns; at most {MOST_PATTERNS} are read", object.len());
            return Err(self.fault(key, problem));
        }
        let pattern = |(pattern, value): (&String, &Value)| {
            let shown = qz_shards::shown(pattern);
            let number = read(value)
                .filter(|_| is_positive(value))
                .ok_or_else(|| self.fault(key, format!("{shown}: no positive number")))?;
            let regex = RegexBuilder::new(&format!(r"^((.*\.)?({pattern})$)"))
                .size_limit(PATTERN_BYTES)
                .build()
                .map_err(|_| {
                    self.fault(key, format!("{shown}: a pattern that is not understood"))
                })?;
            Ok((regex, number))
        };
        object.iter().map(pattern).collect()
    }
}

/// An alpha of 0 is an adapter that does nothing; nobody means that.
fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0 && number.is_finite())
}

#[cfg(test)]
mod tests {
    use qz_tensor::Diagnose;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<AdapterConfig, Error> {
        let Value::Object(mut keys) = value else { panic!("an object") };
        keys.entry("peft_type").or_insert("LORA".into());
        AdapterConfig::of(&Keys { location: Location::file("adapter_config.json"), keys })
    }

    #[test]
    fn scalings_follow_the_first_pattern_that_matches() {
        let config = read(json!({
            "r": 4, "lora_alpha": 8,
            "rank_pattern": {"^model.layers.0.q_proj": 2, "down_proj|up_proj": 16},
            "alpha_pattern": {r"layers\.\d+\.mlp\.down_proj": 4, "down_proj": 2, "k_pro": 1},
        }));
        let config = config.expect("a configuration");
        let check = |module: &str, rank, factor| {
            assert_eq!(config.scaling(module), Scaling { rank, factor }, "{module}");
        };
        check("model.layers.0.q_proj", 2, 4.0);
        check("model.layers.1.q_proj", 4, 2.0);
        // Anchored at its beginning, and no part of a longer name.
        check("outer.model.layers.0.q_proj", 4, 2.0);
        check("model.layers.0.mlp.down_proj", 16, 0.25);
        check("model.down_proj", 16, 0.125);
        check("down_proj", 16, 0.125);
        check("model.layers.0.lay_down_proj", 4, 2.0);
        check("model.layers.0.k_proj", 4, 2.0);
    }

    #[test]
    fn rank_stabilized_adapters_divide_by_the_root() {
        let config = read(json!({"r": 16, "lora_alpha": 8, "use_rslora": true}));
        let expected = Scaling { rank: 16, factor: 2.0 };
        assert_eq!(config.expect("a configuration").scaling("q_proj"), expected);
    }

    #[test]
    fn what_says_nothing_is_no_reason_to_refuse() {
        let keys = json!({"use_qalora": false, "qalora_group_size": 16, "kasa_config": null,
            "loftq_config": {}, "future": [], "lora_dropout": 0.1, "init_lora_weights": "gaussian"});
        assert_eq!(
            read(keys).expect("a configuration").scaling("q"),
            Scaling { rank: 8, factor: 1.0 }
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let check = |value: Value, key: &str, expected: &str| {
            let error = read(value).expect_err("refused");
            assert_eq!(error.diagnosis().location.tensor.as_deref(), Some(key));
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(json!({"peft_type": "IA3"}), "peft_type", "IA3");
        check(json!({"use_qalora": true}), "use_qalora", "true");
        check(json!({"layer_replication": [[0, 4]]}), "layer_replication", "[[0,4]]");
        check(json!({"alora_invocation_tokens": [1]}), "alora_invocation_tokens", "[1]");
        check(json!({"a_new_idea": 3}), "a_new_idea", "3");
        check(
            json!({"init_lora_weights": "pissa_niter_16"}),
            "init_lora_weights",
            "pissa_niter_16",
        );
        check(json!({"r": 0}), "r", "no positive number");
        check(json!({"r": "4"}), "r", "no positive number");
        check(json!({"use_dora": 1}), "use_dora", "neither");
        check(json!({"rank_pattern": {"(?<!x)q": 4}}), "rank_pattern", "(?<!x)q");
        check(json!({"alpha_pattern": {"q": -1}}), "alpha_pattern", "no positive number");
        check(json!({"target_parameters": "x"}), "target_parameters", "no list");
    }
}
