//! Names of integer schemes: `w4a16`, with a group or none, symmetric or not, and what becomes
//! of inputs.

use qz_codec::activations::{Activations, Number};
use qz_tensor::DataType;
use serde_json::{Value, json};

use super::scale_type;
use crate::inputs::InputPart;
use crate::layouts::integers::{Convention, IntegerGroups};
use crate::layouts::numbers::ScaleType;
use crate::schemes::{Words, number};

/// llm-compressor's group where a name says nothing.
const GROUP: u64 = 128;

/// Integers of eight bits that engines multiply as they are.
const BYTES: Activations = Activations::Token(Number::Int(8));

/// An integer scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IntegerScheme {
    pub(super) bits: u32,
    pub(super) activations: Activations,
    pub(super) group: Option<u64>,
    pub(super) symmetric: bool,
    /// Codes lie densely, not in bytes.
    pub(super) packed: bool,
}

impl IntegerScheme {
    /// What a name says; none for one whose parts do not go together.
    pub(super) fn parse(words: &Words) -> Option<Self> {
        let (bits, inputs) = words.head().strip_prefix('w')?.split_once('a')?;
        let bits = number(bits).filter(|bits| (2..=8).contains(bits))? as u32;
        let is_known = |flag: &String| {
            matches!(&**flag, "asym" | "channel" | "static" | "packed") || is_group(flag)
        };
        if !words.flags().iter().all(is_known) {
            return None;
        }
        let activations = match (inputs, bits, words.has("static")) {
            ("16", _, false) => Activations::Full,
            ("8", 8, true) => Activations::Tensor(Number::Int(8)),
            ("8", _, false) => BYTES,
            ("4", ..=4, false) => Activations::Token(Number::Int(4)),
            ("fp8", 4, false) => Activations::Token(Number::E4M3),
            _ => return None,
        };
        let group = match (words.has("channel"), words.group_flag()) {
            (true, Some(_)) => return None,
            (true, None) => None,
            (false, Some(group)) => Some(group),
            (false, None) => usual_group(bits, activations),
        };
        let (symmetric, has_word) = (!words.has("asym"), words.has("packed"));
        let packed = has_word || !activations.rounds();
        let is_plain_byte = bits == 8 && activations.rounds();
        let fits = match activations.rounds() {
            false => !has_word,
            // Engines multiply eight bits with eight row by row.
            true => symmetric && !(is_plain_byte && (group.is_some() || packed)),
        };
        fits.then_some(Self { bits, activations, group, symmetric, packed })
    }

    pub(super) fn name(&self) -> String {
        let Self { bits, activations, group, .. } = *self;
        let inputs = match activations {
            Activations::Token(Number::Int(bits)) | Activations::Tensor(Number::Int(bits)) => {
                bits.to_string()
            }
            Activations::Full => "16".to_owned(),
            _ => "fp8".to_owned(),
        };
        let group = match group {
            own if own == usual_group(bits, activations) => String::new(),
            None => "+channel".to_owned(),
            Some(group) => format!("+g{group}"),
        };
        let asymmetric = if self.symmetric { "" } else { "+asym" };
        let fixed = if activations.is_stored() { "+static" } else { "" };
        let packed = if self.packed && activations.rounds() { "+packed" } else { "" };
        format!("w{bits}a{inputs}{group}{asymmetric}{fixed}{packed}")
    }

    /// The same with another group, where it may have one.
    pub(super) fn with_group(self, group: Option<u64>) -> Option<Self> {
        (self.bits != 8 || !self.activations.rounds()).then_some(Self { group, ..self })
    }

    pub(super) fn integers(&self, scale: ScaleType) -> IntegerGroups {
        IntegerGroups {
            bits: self.bits,
            group: self.group,
            symmetric: self.symmetric,
            least_zero: 0,
            scale,
            convention: Convention::CompressedTensors,
        }
    }

    /// `weights` of the configuration. No `actorder`: channels may not have one.
    pub(super) fn weights(&self) -> Value {
        let mut weights = json!({
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": if self.group.is_some() { "group" } else { "channel" },
            "dynamic": false,
        });
        if let (Some(group), Value::Object(weights)) = (self.group, &mut weights) {
            weights.insert("group_size".to_owned(), json!(group));
        }
        weights
    }
}

/// The group of the package's preset.
fn usual_group(bits: u32, activations: Activations) -> Option<u64> {
    (bits != 8 || !activations.rounds()).then_some(GROUP)
}

fn is_group(flag: &str) -> bool {
    flag.strip_prefix('g').and_then(number).is_some()
}

/// Where a scale of inputs is stored.
pub(super) fn input_scale(activations: Activations, model_type: DataType) -> Option<InputPart> {
    let part = |suffix, scale| InputPart { suffix, scale, rank: 1, is_reciprocal: false };
    match activations {
        Activations::Tensor(_) => Some(part("input_scale", scale_type(model_type))),
        Activations::Nvfp4 => Some(part("input_global_scale", ScaleType::F32)),
        _ => None,
    }
}
