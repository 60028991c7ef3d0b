//! The numbers of a model that the rules ask for.

use qz_tensor::{Array, Metadata, Value};

use crate::order::layer_of;

/// More layers than any model has; rules multiply the number.
const MAX_LAYERS: usize = 1 << 20;

/// The numbers of a model that the rules ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads that share one key head (of the first layer).
    pub heads_per_key_head: u64,
    /// Experts of a mixture-of-experts model; 0 in a dense one.
    pub experts: u64,
    /// The shape that llama.cpp calls type 70B and treats specially.
    pub is_seventy_billion: bool,
    /// Nothing is known but names and shapes: what cannot be told to be a matrix
    /// of weights is left alone.
    pub is_generic: bool,
}

/// Architectures and layer counts that llama.cpp calls type 70B
/// (`load_arch_hparams` of each).
const SEVENTY_BILLION: &[(&str, u64)] =
    &[("llama", 80), ("qwen2", 80), ("deci", 80), ("olmo", 80), ("jais2", 68)];

impl ModelFacts {
    /// Reads the numbers from GGUF metadata; missing ones count as in llama.cpp.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        let number = |key: &str| first_unsigned(metadata, &format!("{architecture}.{key}"));
        let layers = number("block_count").unwrap_or(0);
        let heads = number("attention.head_count").unwrap_or(0);
        let key_heads = number("attention.head_count_kv").unwrap_or(heads);
        // A llama of this depth without grouped queries is the older 65B.
        let is_older = architecture == "llama" && heads == key_heads;
        Self {
            architecture: architecture.to_owned(),
            layers: usize::try_from(layers).unwrap_or(usize::MAX).min(MAX_LAYERS),
            heads_per_key_head: heads.checked_div(key_heads).unwrap_or(0),
            experts: number("expert_count").unwrap_or(0),
            is_seventy_billion: SEVENTY_BILLION.contains(&(architecture, layers)) && !is_older,
            is_generic: false,
        }
    }

    /// What the names of its tensors say about a model of an architecture that
    /// nobody here knows: how many layers it has, if they are called `blk.N.`.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let last = names.into_iter().filter_map(layer_of).max();
        let layers = last.map_or(0, |last| usize::try_from(last).unwrap_or(usize::MAX));
        Self {
            layers: layers.saturating_add(last.is_some().into()).min(MAX_LAYERS),
            is_generic: true,
            ..Self::default()
        }
    }
}

/// A number, or the first of an array of numbers (one per layer).
fn first_unsigned(metadata: &Metadata, key: &str) -> Option<u64> {
    match metadata.get(key)? {
        Value::Array(Array::U32(values)) => values.first().map(|value| u64::from(*value)),
        Value::Array(Array::I32(values)) => u64::try_from(*values.first()?).ok(),
        _ => metadata.unsigned(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_from_metadata() {
        let check = |architecture: &str, layers: u32, key_heads: u32, seventy: bool| {
            let key = |name: &str| format!("{architecture}.{name}");
            let metadata: Metadata = [
                ("general.architecture".to_owned(), Value::from(architecture)),
                (key("block_count"), layers.into()),
                (key("attention.head_count"), 64u32.into()),
                (key("attention.head_count_kv"), vec![key_heads, 1].into()),
            ]
            .into_iter()
            .collect();
            let expected = ModelFacts {
                architecture: architecture.into(),
                layers: layers as usize,
                heads_per_key_head: u64::from(64u32.checked_div(key_heads).unwrap_or(0)),
                experts: 0,
                is_seventy_billion: seventy,
                is_generic: false,
            };
            assert_eq!(ModelFacts::from_metadata(&metadata), expected);
        };
        check("llama", 80, 8, true);
        check("llama", 80, 64, false);
        check("llama", 32, 8, false);
        check("qwen2", 80, 64, true);
        check("qwen3", 80, 8, false);
        check("nemotron_h", 52, 0, false);
    }

    #[test]
    fn facts_come_from_names() {
        let check = |names: &[&str], layers: usize| {
            let facts = ModelFacts::from_names(names.iter().copied());
            assert_eq!((facts.layers, facts.is_generic), (layers, true), "{names:?}");
        };
        check(&[], 0);
        check(&["double_blocks.3.img_attn.qkv.weight"], 0);
        check(&["blk.0.attn_q.weight", "blk.11.attn_q.weight"], 12);
        check(&["blk.4294967295.x"], MAX_LAYERS);
    }
}
