//! A decoder's sizes and switches as a GGUF file states them, with llama.cpp's values
//! where it is silent (`load_hparams` in llama-model.cpp).

use qz_tensor::{Location, Metadata, Value};

use super::capture::LinearGroup;
use super::rotary::Rotary;
use crate::architecture::Architecture;
use crate::architectures::ARCHITECTURES;
use crate::error::Error;
use crate::rules::Role;

/// Sizes past any model's; they keep products of sizes in range.
const LARGEST: u64 = 1 << 24;

/// What a forward pass has to know about a model, apart from its weights.
#[derive(Clone)]
pub struct DecoderShape {
    /// What the model is.
    pub architecture: &'static dyn Architecture,
    /// Decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward network.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Elements of one head.
    pub head_size: usize,
    /// Epsilon of the root mean square norms.
    pub rms_epsilon: f32,
    /// Experts of a layer, and how many a token is given to; none for a dense model.
    pub experts: Option<(usize, usize)>,
    /// How many positions back a token sees, itself among them; all if none.
    pub window: Option<usize>,
    pub(super) rotary: Rotary,
}

impl DecoderShape {
    /// Rows and columns of a layer's matrix, of one expert's where each has its own.
    ///
    /// # Panics
    /// If it is no matrix of a layer.
    pub fn matrix(&self, role: Role) -> (usize, usize) {
        let queries = self.heads * self.head_size;
        match role {
            Role::AttentionQuery => (queries, self.hidden),
            Role::AttentionKey | Role::AttentionValue => {
                (self.key_value_heads * self.head_size, self.hidden)
            }
            Role::AttentionOutput => (self.hidden, queries),
            Role::FeedForwardGate | Role::FeedForwardUp => (self.intermediate, self.hidden),
            Role::FeedForwardDown => (self.hidden, self.intermediate),
            Role::ExpertRouter => (self.experts.map_or(0, |(experts, _)| experts), self.hidden),
            _ => panic!("{role:?} is no matrix of a layer"),
        }
    }

    /// Numbers of a row of a group's inputs.
    pub fn width(&self, group: LinearGroup) -> usize {
        self.matrix(group.roles()[0]).1
    }

    /// Reads it from a model's GGUF metadata. `window` is the sliding window that a
    /// checkpoint's configuration states; GGUF files of these architectures have none,
    /// but one in the metadata is taken.
    ///
    /// # Errors
    /// If the architecture is not known, or sizes are missing or contradict each other.
    pub fn read(
        metadata: &Metadata,
        window: Option<u64>,
        location: &Location,
    ) -> Result<Self, Error> {
        let name = metadata.string("general.architecture").unwrap_or_default();
        let keys = Keys { metadata, prefix: name, location };
        let experts = match keys.size("expert_count")? {
            None | Some(0) => None,
            Some(experts) => Some((experts, keys.required("expert_used_count")?)),
        };
        let known = |one: &&&dyn Architecture| one.gguf_name() == name && one.is_computed();
        let architecture = ARCHITECTURES
            .iter()
            .filter(known)
            .find(|one| one.mixes_experts() == experts.is_some())
            .copied()
            .ok_or_else(|| keys.unknown_architecture())?;
        let hidden = keys.required("embedding_length")?;
        let heads = keys.required("attention.head_count")?;
        let implied = hidden / heads.max(1);
        let head_size = keys.size("attention.key_length")?.unwrap_or(implied);
        if head_size == 0 {
            return Err(keys.fault("attention.key_length", "is zero, or implied to be"));
        }
        let key_value_heads = keys.size("attention.head_count_kv")?.unwrap_or(heads);
        let window = match window {
            Some(window) => usize::try_from(window).ok(),
            None => keys.size("attention.sliding_window")?.filter(|window| *window > 0),
        };
        let shape = Self {
            architecture,
            layers: keys.required("block_count")? as u32,
            hidden,
            intermediate: keys.required("feed_forward_length")?,
            heads,
            key_value_heads,
            head_size,
            rms_epsilon: keys
                .number("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| keys.fault("attention.layer_norm_rms_epsilon", "is missing"))?,
            experts,
            window,
            rotary: Rotary::read(&keys, head_size)?,
        };
        shape.check(&keys)?;
        Ok(shape)
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), Error> {
        self.check_uncomputed(keys)?;
        if !self.heads.is_multiple_of(self.key_value_heads) {
            return Err(keys.fault("attention.head_count_kv", "does not divide the heads"));
        }
        if keys.size("attention.value_length")?.is_some_and(|size| size != self.head_size) {
            let problem = "differs from the keys' length, which is not supported";
            return Err(keys.fault("attention.value_length", problem));
        }
        if keys.size("rope.dimension_count")?.is_some_and(|size| size != self.head_size) {
            let problem = "differs from the heads' size, which is not supported";
            return Err(keys.fault("rope.dimension_count", problem));
        }
        if !self.head_size.is_multiple_of(2) {
            return Err(keys.fault("attention.key_length", "is odd"));
        }
        if self.experts.is_some_and(|(experts, used)| used > experts) {
            return Err(keys.fault("expert_used_count", "is more than there are experts"));
        }
        Ok(())
    }
}

/// Factors and caps that llama.cpp's graphs of some architectures know, and the number
/// besides 0 with which they change nothing.
const UNCOMPUTED: &[(&str, f64)] = &[
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.temperature_scale", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("expert_shared_count", 0.0),
    ("expert_weights_scale", 1.0),
    ("final_logit_softcapping", 0.0),
    ("interleave_moe_layer_step", 1.0),
    ("leading_dense_block_count", 0.0),
    ("logit_scale", 1.0),
    ("residual_scale", 1.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("use_parallel_residual", 0.0),
];

impl DecoderShape {
    /// Refuses keys with which the model computes something else.
    fn check_uncomputed(&self, keys: &Keys<'_>) -> Result<(), Error> {
        let score_scale = ("attention.scale", (self.head_size as f64).sqrt().recip());
        for (key, neutral) in UNCOMPUTED.iter().chain([&score_scale]) {
            let number = match keys.get(key) {
                None => continue,
                Some(Value::F32(number)) => f64::from(*number),
                Some(Value::F64(number)) => *number,
                Some(Value::Bool(value)) => f64::from(u8::from(*value)),
                Some(_) => keys.metadata.unsigned(&keys.full(key)).map_or(f64::NAN, |n| n as f64),
            };
            // Equal as 32-bit floats are.
            let is_neutral = number == 0.0 || ((number - neutral) / neutral).abs() < 1e-6;
            if !is_neutral {
                return Err(
                    keys.fault(key, "changes what the model computes, which is not supported")
                );
            }
        }
        if keys.get("attention.causal") == Some(&Value::Bool(false)) {
            let problem = "is false: models that attend in both directions are not evaluated";
            return Err(keys.fault("attention.causal", problem));
        }
        Ok(())
    }
}

/// A model's own metadata keys.
pub(super) struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
    location: &'a Location,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&self.full(key))
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    /// A size between 1 and a limit that is past any model's; zero where it says so.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        if self.get(key).is_none() {
            return Ok(None);
        }
        let found = self.metadata.unsigned(&format!("{}.{key}", self.prefix));
        match found.filter(|size| *size <= LARGEST).map(usize::try_from) {
            Some(Ok(size)) => Ok(Some(size)),
            _ => Err(self.fault(key, "is no size, or one for each layer, which is not supported")),
        }
    }

    pub(super) fn required(&self, key: &str) -> Result<usize, Error> {
        match self.size(key)? {
            Some(0) => Err(self.fault(key, "is zero")),
            Some(size) => Ok(size),
            None => Err(self.fault(key, "is missing")),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f32>, Error> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::F32(number)) => *number,
            Some(Value::F64(number)) => *number as f32,
            Some(_) => return Err(self.fault(key, "is no number")),
        };
        if !number.is_finite() || number < 0.0 {
            return Err(self.fault(key, "is negative or not finite"));
        }
        Ok(Some(number))
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.metadata.string(&format!("{}.{key}", self.prefix))
    }

    pub(super) fn fault(&self, key: &str, problem: &str) -> Error {
        Error::Hyperparameter {
            location: self.location.clone().tensor(format!("{}.{key}", self.prefix)),
            problem: problem.to_owned(),
        }
    }

    fn unknown_architecture(&self) -> Error {
        let computed = ARCHITECTURES.iter().filter(|one| one.is_computed());
        let mut known: Vec<&str> = computed.map(|one| one.gguf_name()).collect();
        known.dedup();
        Error::NoForwardPass {
            location: self.location.clone().tensor("general.architecture"),
            name: self.prefix.to_owned(),
            known: known.join(", "),
        }
    }
}
