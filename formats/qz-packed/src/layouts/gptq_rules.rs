//! What GPTQ's `dynamic` says of single modules: those that stay as they are, and those with a scheme
//! of their own. Sources: GPTQModel 7.7 (`quantization/config.py`), vLLM 0.33
//! (`layers/quantization/utils/gptq_utils.py`).

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value, json};

use crate::exceptions::{fused_name, patterns_of};
use crate::scheme::{OtherScheme, Quantized};

/// All rules.
pub(super) fn rules(quantized: &Quantized<'_>) -> Map<String, Value> {
    // Every module that stays as it is, as GPTQModel leaves modules out. Engines
    // know of the output matrix by `lm_head`.
    let rule = |module: &str| (format!("-:^{}$", module.replace('.', "\\.")), json!({}));
    let left = quantized.left.iter().map(String::as_str).filter(|module| *module != "lm_head");
    let fused = fused_left(quantized);
    let left = left.chain(fused.iter().map(|name| &**name)).map(rule);
    let others = quantized.others.iter().flat_map(|other| own_rules(other, quantized));
    left.chain(others).collect()
}

/// The rules for modules with a scheme of their own: by their names, and by those of what engines
/// make of several, since they hold rules to these alone.
fn own_rules<'a>(
    other: &'a OtherScheme,
    quantized: &Quantized<'a>,
) -> impl Iterator<Item = (String, Value)> + use<'a> {
    let (left, packed) = (quantized.left, quantized.modules);
    let known: HashSet<&str> = left.iter().chain(packed).map(String::as_str).collect();
    let fused = |module: &'a String| fused_name(module, |name| known.contains(name)).into_owned();
    let fused: BTreeSet<String> = other.modules.iter().map(fused).collect();
    let fused = fused.into_iter().filter(|name| !known.contains(&**name));
    let names: Vec<String> = other.modules.iter().cloned().chain(fused).collect();
    let rule = |pattern: String| (format!("+:{pattern}"), other.entry.clone());
    patterns_of(&names).into_iter().map(rule)
}

/// What engines call modules that are several of the checkpoint, where all of these stay as they
/// are: they hold rules to that name alone.
fn fused_left<'a>(quantized: &Quantized<'a>) -> BTreeSet<Cow<'a, str>> {
    let (left, packed) = (quantized.left, quantized.modules);
    let known: HashSet<&str> = left.iter().chain(packed).map(String::as_str).collect();
    let names = |modules: &'a [String]| {
        let name = |module: &'a String| fused_name(module, |name| known.contains(name));
        modules.iter().map(name).collect::<BTreeSet<_>>()
    };
    let mut fused = names(left);
    let packed = names(packed);
    fused.retain(|name| !packed.contains(name) && !known.contains(&**name));
    fused
}
