//! A model's own metadata keys as a GGUF file states them. What a family does not ask for,
//! and changes what a model computes, is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;

use qz_tensor::{Array, Location, Metadata, Value};

use super::{GRAPHS, ModelGraph};
use crate::architecture::Architecture;
use crate::architectures::ARCHITECTURES;
use crate::error::Error;
use crate::layer_numbers::list_of;

/// Sizes past any model's; they keep products of sizes in range.
const LARGEST: u64 = 1 << 24;

/// Factors and caps that llama.cpp's graphs of some architectures know, and the number
/// besides 0 with which they change nothing.
const COMPUTING: &[(&str, f64)] = &[
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.temperature_scale", 0.0),
    ("attention.value_scale", 1.0),
    ("attn_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("expert_group_count", 1.0),
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

/// A model's own metadata keys.
pub struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
    /// The sliding window that a checkpoint's configuration states: GGUF files of some
    /// architectures have none.
    window: Option<u64>,
    location: &'a Location,
    /// What was asked for.
    asked: RefCell<BTreeSet<String>>,
}

impl ModelGraph {
    /// What the model of a GGUF file computes. `window` is the sliding window that a
    /// checkpoint's configuration states.
    ///
    /// # Errors
    /// If that is not known of its architecture, or keys are missing, contradict each
    /// other, or ask for something that is not computed.
    pub fn read(
        metadata: &Metadata,
        window: Option<u64>,
        location: &Location,
    ) -> Result<(&'static dyn Architecture, Self), Error> {
        let prefix = metadata.string("general.architecture").unwrap_or_default();
        let asked = RefCell::default();
        let keys = Keys { metadata, prefix, window, location, asked };
        let architecture = ARCHITECTURES
            .iter()
            .find(|one| one.gguf_name() == prefix && one.is_in(metadata))
            .ok_or_else(|| keys.unknown_architecture())?;
        let graph = GRAPHS.iter().find(|(name, _)| *name == prefix);
        let (_, graph) = graph.ok_or_else(|| keys.unknown_architecture())?;
        let graph = graph(&keys)?;
        keys.refuse_what_is_not_computed()?;
        Ok((*architecture, graph))
    }
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.metadata.get(&self.full(key))
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    /// The sliding window: the configuration's, or the file's; none if there is none.
    pub(crate) fn window(&self) -> Result<Option<usize>, Error> {
        match self.window {
            Some(window) => Ok(usize::try_from(window).ok()),
            None => Ok(self.size("attention.sliding_window")?.filter(|window| *window > 0)),
        }
    }

    /// A size between 1 and a limit that is past any model's; zero where it says so.
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        let found = match self.get(key) {
            None => return Ok(None),
            // One for each layer, all the same.
            Some(Value::Array(Array::I32(sizes))) => {
                let first = sizes.first().filter(|first| sizes.iter().all(|own| own == *first));
                first.and_then(|first| u64::try_from(*first).ok())
            }
            Some(_) => self.metadata.unsigned(&self.full(key)),
        };
        match found.filter(|size| *size <= LARGEST).map(usize::try_from) {
            Some(Ok(size)) => Ok(Some(size)),
            _ => Err(self.fault(key, "is no size, or one for each layer, which is not supported")),
        }
    }

    pub(crate) fn required(&self, key: &str) -> Result<usize, Error> {
        match self.size(key)? {
            Some(0) => Err(self.fault(key, "is zero")),
            Some(size) => Ok(size),
            None => Err(self.fault(key, "is missing")),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f32>, Error> {
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

    /// For each of `layers` layers a number: as a list says, or the same for all. The key is one that
    /// no architecture's name precedes.
    pub(crate) fn numbers(&self, key: &str, layers: usize) -> Result<Vec<f32>, Error> {
        let numbers = match self.metadata.get(key) {
            Some(Value::F32(number)) => Some(vec![*number; layers]),
            _ => list_of(self.metadata, key).map(<[f32]>::to_vec),
        };
        let fits = |own: &Vec<f32>| own.len() == layers && own.iter().all(|own| own.is_finite());
        numbers.filter(fits).ok_or_else(|| Error::Hyperparameter {
            location: self.location.clone().tensor(key),
            problem: format!("is no list of {layers} numbers, one for each layer"),
        })
    }

    /// Numbers, one for each layer, if the file has them.
    pub(crate) fn list(&self, key: &str) -> Option<&[f32]> {
        self.asked.borrow_mut().insert(key.to_owned());
        list_of(self.metadata, &self.full(key))
    }

    /// A number that is a factor or a cap: none where it is zero, which turns it off.
    pub(crate) fn factor(&self, key: &str) -> Result<Option<f32>, Error> {
        Ok(self.number(key)?.filter(|number| *number != 0.0))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.fault(key, "is neither true nor false")),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.metadata.string(&self.full(key))
    }

    /// The name of the file's pre-tokenizer.
    pub(crate) fn pre_tokenizer(&self) -> Option<&str> {
        self.metadata.string("tokenizer.ggml.pre")
    }

    /// For each of `layers` layers whether it sees a window only: as the file says, for
    /// each layer or with a period whose last layer sees all; the family's period where it
    /// says nothing.
    pub(crate) fn windowed_layers(&self, layers: usize, period: usize) -> Result<Vec<bool>, Error> {
        self.windows(layers, period, |layer, period| layer % period + 1 < period)
    }

    /// The same of a family in which the first layer of a period sees all.
    pub(crate) fn windowed_after_first(
        &self,
        layers: usize,
        period: usize,
    ) -> Result<Vec<bool>, Error> {
        self.windows(layers, period, |layer, period| layer % period > 0)
    }

    fn windows(
        &self,
        layers: usize,
        period: usize,
        is_windowed: fn(usize, usize) -> bool,
    ) -> Result<Vec<bool>, Error> {
        const KEY: &str = "attention.sliding_window_pattern";
        let pattern = |period: usize| (0..layers).map(move |layer| is_windowed(layer, period));
        match self.get(KEY) {
            None => Ok(pattern(period).collect()),
            Some(Value::Array(Array::Bool(flags))) if flags.len() == layers => Ok(flags.clone()),
            Some(Value::Array(_)) => {
                let problem = format!("is no list of {layers} flags, one for each layer");
                Err(self.fault(KEY, &problem))
            }
            Some(_) => Ok(pattern(self.required(KEY)?).collect()),
        }
    }

    /// True if a key has a value for each layer.
    pub(crate) fn is_list(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Value::Array(_)))
    }

    /// For each of `layers` layers a size: as a list says, or the same for all.
    pub(crate) fn sizes(&self, key: &str, layers: usize) -> Result<Vec<usize>, Error> {
        let Some(Value::Array(Array::I32(sizes))) = self.get(key) else {
            return Ok(vec![self.required(key)?; layers]);
        };
        let sizes: Option<Vec<usize>> =
            sizes.iter().take(layers).map(|size| usize::try_from(*size).ok()).collect();
        let fits = |sizes: &Vec<usize>| {
            sizes.len() == layers && sizes.iter().all(|size| *size as u64 <= LARGEST)
        };
        sizes.filter(fits).ok_or_else(|| {
            self.fault(key, &format!("is no list of {layers} sizes, one for each layer"))
        })
    }

    /// For each of `layers` layers a flag, if the file has them.
    pub(crate) fn flags(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Bool(flags))) if flags.len() >= layers => {
                Ok(Some(flags[..layers].to_vec()))
            }
            // As numbers.
            Some(Value::Array(Array::I32(flags)))
                if flags.len() >= layers && flags.iter().all(|flag| matches!(flag, 0 | 1)) =>
            {
                Ok(Some(flags[..layers].iter().map(|flag| *flag == 1).collect()))
            }
            Some(_) => {
                let problem = format!("is no list of {layers} flags, one for each layer");
                Err(self.fault(key, &problem))
            }
        }
    }

    /// The layers that are computed: those behind them only predict further tokens.
    pub(crate) fn computed_layers(&self) -> Result<usize, Error> {
        const KEY: &str = "nextn_predict_layers";
        let (all, further) = (self.layers()?, self.size(KEY)?.unwrap_or(0));
        if further >= all {
            return Err(self.fault(KEY, "is as many as there are layers, or more"));
        }
        Ok(all - further)
    }

    /// The model's layers.
    pub(crate) fn layers(&self) -> Result<usize, Error> {
        self.required("block_count")
    }

    pub(crate) fn fault(&self, key: &str, problem: &str) -> Error {
        Error::Hyperparameter {
            location: self.location.clone().tensor(self.full(key)),
            problem: problem.to_owned(),
        }
    }

    /// What is said of a model that nobody here can compute.
    pub(crate) fn unknown_architecture(&self) -> Error {
        let is_known = |name: &&str| ARCHITECTURES.iter().any(|one| one.gguf_name() == *name);
        let known: Vec<&str> = GRAPHS.iter().map(|(name, _)| *name).filter(is_known).collect();
        Error::NoForwardPass {
            location: self.location.clone().tensor("general.architecture"),
            name: self.prefix.to_owned(),
            known: known.join(", "),
        }
    }

    /// Refuses a key that changes what the model computes.
    fn refuse_unless_neutral(&self, key: &str, neutral: f64) -> Result<(), Error> {
        let number = match self.metadata.get(&self.full(key)) {
            None => return Ok(()),
            Some(Value::F32(number)) => f64::from(*number),
            Some(Value::F64(number)) => *number,
            Some(Value::Bool(value)) => f64::from(u8::from(*value)),
            Some(_) => self.metadata.unsigned(&self.full(key)).map_or(f64::NAN, |n| n as f64),
        };
        // Equal as 32-bit floats are.
        if number == 0.0 || ((number - neutral) / neutral).abs() < 1e-6 {
            return Ok(());
        }
        Err(self.fault(key, "changes what the model computes, which is not supported"))
    }

    /// Refuses keys with which the model computes something else than its graph says:
    /// those that no family asked for.
    fn refuse_what_is_not_computed(&self) -> Result<(), Error> {
        let is_asked = |key: &str| self.asked.borrow().contains(key);
        for (key, neutral) in COMPUTING.iter().filter(|(key, _)| !is_asked(key)) {
            self.refuse_unless_neutral(key, *neutral)?;
        }
        if !is_asked("attention.scale") && self.get("attention.scale").is_some() {
            // As it is without the key.
            let size = self.size("attention.key_length")?.unwrap_or_default();
            let implied = self.size("embedding_length")?.unwrap_or_default()
                / self.size("attention.head_count")?.unwrap_or_default().max(1);
            let size = if size == 0 { implied } else { size };
            self.refuse_unless_neutral("attention.scale", (size as f64).sqrt().recip())?;
        }
        if !is_asked("attention.causal")
            && self.get("attention.causal") == Some(&Value::Bool(false))
        {
            let problem = "is false: models that attend in both directions are not evaluated";
            return Err(self.fault("attention.causal", problem));
        }
        Ok(())
    }
}
