//! Names of integer schemes: `w4a16`, with a group or none, symmetric or not.

use serde_json::{Value, json};

use crate::layouts::integers::{Convention, IntegerGroups};
use crate::layouts::numbers::ScaleType;
use crate::schemes::{Words, number};

/// llm-compressor's group where a name says nothing.
const GROUP: u64 = 128;

/// An integer scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IntegerScheme {
    pub(super) bits: u32,
    /// Bits of activations: 8, or 16 for none.
    pub(super) activations: u64,
    pub(super) group: Option<u64>,
    pub(super) symmetric: bool,
}

impl IntegerScheme {
    pub(super) fn parse(words: &Words) -> Option<Self> {
        let (bits, activations) = words.head().strip_prefix('w')?.split_once('a')?;
        let (bits, activations) = (number(bits)?, number(activations)?);
        let is_known = |flag: &String| matches!(&**flag, "asym" | "channel") || is_group(flag);
        if !(2..=8).contains(&bits) || !words.flags().iter().all(is_known) {
            return None;
        }
        let group = match (words.has("channel"), words.group_flag()) {
            (true, Some(_)) => return None,
            (true, None) => None,
            (false, Some(group)) => Some(group),
            // Engines multiply 8-bit weights and activations channel by channel.
            (false, None) => (activations == 16).then_some(GROUP),
        };
        let symmetric = !words.has("asym");
        Some(Self { bits: bits as u32, activations, group, symmetric })
    }

    pub(super) fn name(&self) -> String {
        let group = match (self.group, self.activations) {
            (None, 16) => "+channel".to_owned(),
            (None, _) | (Some(GROUP), 16) => String::new(),
            (Some(group), _) => format!("+g{group}"),
        };
        let asymmetric = if self.symmetric { "" } else { "+asym" };
        format!("w{}a{}{group}{asymmetric}", self.bits, self.activations)
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

fn is_group(flag: &str) -> bool {
    flag.strip_prefix('g').and_then(number).is_some()
}
