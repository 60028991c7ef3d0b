//! The rules of tensors.

use std::collections::HashMap;

use qz_packed::Exception;
use qz_tensor::DataType;
use serde_json::{Map, Value};

use super::facts::Facts;
use super::{Engine, Findings};

/// For each tensor that marks a module, what must be beside it.
const BESIDE: &[(&str, &str, &[&str])] = &[
    ("gptq", "qweight", &["qzeros", "scales"]),
    ("gptq", "scales", &["qweight"]),
    ("awq", "qweight", &["qzeros", "scales"]),
    ("awq", "scales", &["qweight"]),
    ("compressed-tensors", "weight_packed", &["weight_scale"]),
    ("compressed-tensors", "weight_global_scale", &["weight_packed"]),
    ("fp8", "weight_scale_inv", &["weight"]),
    ("fp8", "weight_scale", &["weight"]),
    ("modelopt", "weight_scale", &["weight"]),
    ("modelopt", "weight_scale_2", &["weight", "weight_scale"]),
    ("bitsandbytes", "weight.absmax", &["weight", "weight.quant_map"]),
    ("bitsandbytes", "SCB", &["weight"]),
    ("mlx", "scales", &["weight"]),
];

pub(super) fn missing_parts(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for module in &facts.packed {
        for (_, marker, others) in BESIDE.iter().filter(|(method, ..)| *method == facts.method) {
            if facts.tensor(module, marker).is_none() {
                continue;
            }
            for part in others.iter().filter(|part| facts.tensor(module, part).is_none()) {
                find(module, format!("has `{marker}` and no `{part}`"));
            }
        }
        let is_integer =
            facts.tensor(module, "weight_packed").is_some_and(|it| it.data_type == DataType::I32);
        if is_integer && facts.tensor(module, "weight_shape").is_none() {
            find(module, "has `weight_packed` and no `weight_shape`".to_owned());
        }
    }
}

/// The types that parts may have.
const TYPES: &[(&str, &[DataType])] = &[
    ("qweight", &[DataType::I32]),
    ("qzeros", &[DataType::I32]),
    ("g_idx", &[DataType::I32]),
    ("scales", &[DataType::F16, DataType::BF16, DataType::F32]),
    ("weight_packed", &[DataType::I32, DataType::U8]),
    ("weight_shape", &[DataType::I64, DataType::I32]),
    // Not packed in older versions of the package; vLLM issue 17862.
    ("weight_zero_point", &[DataType::I32]),
    ("weight_global_scale", &[DataType::F32]),
    ("weight_scale_inv", &[DataType::F32, DataType::BF16, DataType::F8_E8M0]),
    ("SCB", &[DataType::F32]),
];

pub(super) fn part_types(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for module in &facts.packed {
        for (part, types) in TYPES {
            let Some(info) = facts.tensor(module, part) else { continue };
            // MLX has scales of the model's type beside words of 32 bits.
            if !types.contains(&info.data_type) && facts.method != "mlx" {
                let wanted: Vec<&str> = types.iter().map(|known| known.name()).collect();
                let message =
                    format!("`{part}` is {}, expected {}", info.data_type, wanted.join(" or "));
                find(module, message);
            }
        }
    }
}

/// Inputs and outputs of a GPTQ module.
fn gptq_size(facts: &Facts<'_>, module: &str) -> Option<(u64, u64)> {
    let bits = facts.number_of(module, "bits")?;
    let bits = u64::try_from(bits).ok().filter(|bits| *bits > 0)?;
    let [words, outputs] = facts.matrix(module, "qweight")?;
    Some((words * 32 / bits, outputs))
}

pub(super) fn group_divides(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for module in &facts.packed {
        let group = facts.number_of(module, "group_size");
        let Some(group) = group.and_then(|group| u64::try_from(group).ok()) else { continue };
        let inputs = match &*facts.method {
            "awq" => facts.matrix(module, "qweight").map(|[inputs, _]| inputs),
            _ => gptq_size(facts, module).map(|(inputs, _)| inputs),
        };
        let Some(inputs) = inputs else { continue };
        if group == 0 || inputs % group != 0 {
            find(module, format!("{inputs} inputs are not a multiple of the group {group}"));
        } else if let Some([groups, _]) = facts.matrix(module, "scales")
            && groups != inputs / group
        {
            let expected = inputs / group;
            find(module, format!("{groups} groups of scales, the configuration makes {expected}"));
        }
    }
}

/// What a configuration says of integers in groups: one for GPTQ, one for each group of
/// compressed-tensors' `pack-quantized`.
struct Integers<'a> {
    /// The key in front of those of its numbers.
    place: String,
    bits: Option<u64>,
    /// Inputs of a group; none if a scale is that of all.
    group: Option<i64>,
    symmetric: Option<bool>,
    targets: Option<&'a Vec<Value>>,
}

fn integers<'a>(facts: &'a Facts<'_>) -> Vec<Integers<'a>> {
    if facts.method == "gptq" {
        let bits = facts.number("bits").and_then(|bits| u64::try_from(bits).ok());
        let group = facts.number("group_size").filter(|group| *group != -1);
        let place = "quantization_config".to_owned();
        let symmetric = facts.flag("sym");
        let all = Integers { place, bits, group, symmetric, targets: None };
        let rules = facts.config.get("dynamic").and_then(Value::as_object).into_iter().flatten();
        let exception = |(rule, values): (&String, &'a Value)| {
            let group = values.get("group_size")?.as_i64().filter(|group| *group != -1);
            let place = format!("quantization_config.dynamic[{rule}]");
            Some(Integers { place, bits, group, symmetric, targets: None })
        };
        let exceptions = rules.filter(|(rule, _)| !rule.starts_with("-:")).filter_map(exception);
        return std::iter::once(all).chain(exceptions).collect();
    }
    let whole = facts.text("format");
    let of_group = |(name, group): (&str, &'a Map<String, Value>)| {
        let weights = group.get("weights")?.as_object()?;
        let format = group.get("format").and_then(Value::as_str).or(whole)?;
        let is_integer = weights.get("type").and_then(Value::as_str) != Some("float");
        (format == "pack-quantized" && is_integer).then(|| Integers {
            place: format!("config_groups.{name}.weights"),
            bits: weights.get("num_bits").and_then(Value::as_u64),
            group: weights.get("group_size").and_then(Value::as_i64).filter(|group| *group != -1),
            symmetric: weights.get("symmetric").and_then(Value::as_bool),
            targets: group.get("targets").and_then(Value::as_array),
        })
    };
    facts.groups().filter_map(of_group).collect()
}

/// compressed-tensors' codes: vLLM has kernels for 2 to 8 bits, with zero points for 4 and 8;
/// SGLang for 4 and 8.
pub(super) fn integer_bits(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for Integers { place, bits, symmetric, .. } in integers(facts) {
        let Some(bits) = bits else { continue };
        let few = facts.engine == Some(Engine::Sglang) || symmetric == Some(false);
        if few && !matches!(bits, 4 | 8) {
            let kind = if symmetric == Some(false) { "asymmetric" } else { "symmetric" };
            find(&format!("{place}.num_bits"), format!("{bits} bits, {kind}; there are 4 and 8"));
        }
    }
}

/// Groups that Marlin's kernels have.
pub(super) fn integer_group(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for Integers { place, group, .. } in integers(facts) {
        if let Some(group) = group
            && ![32, 64, 128].contains(&group)
        {
            let message = format!("groups of {group}; there are -1, 32, 64 and 128");
            find(&format!("{place}.group_size"), message);
        }
    }
}

/// Inputs and outputs of a module of packed integers.
fn integer_size(facts: &Facts<'_>, module: &str) -> Option<[u64; 2]> {
    if facts.method == "gptq" {
        return gptq_size(facts, module).map(|(inputs, outputs)| [inputs, outputs]);
    }
    let [outputs, words] = facts.matrix(module, "weight_packed")?;
    let known = integers(facts);
    let about = |integers: &&Integers<'_>| {
        known.len() == 1
            || integers.targets.is_some_and(|targets| targets.iter().any(|name| name == module))
    };
    let bits = known.iter().find(about)?.bits.filter(|bits| *bits > 0)?;
    Some([words * 32 / bits, outputs])
}

/// SGLang's Marlin kernels; vLLM fills up with zeros (pull requests 45295 and 45703).
pub(super) fn alignment(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let outputs_of = |module: &str| integer_size(facts, module).map(|[_, outputs]| outputs);
    let mut fused: HashMap<&str, u64> = HashMap::new();
    for group in facts.fused() {
        let together: u64 = group.iter().filter_map(|module| outputs_of(module)).sum();
        fused.extend(group.into_iter().map(|module| (module, together)));
    }
    for module in &facts.packed {
        let Some([inputs, own]) = integer_size(facts, module) else { continue };
        if inputs % 128 != 0 {
            find(module, format!("{inputs} inputs are not a multiple of 128"));
        }
        let outputs = fused.get(&**module).copied().unwrap_or(own);
        if outputs % 64 != 0 {
            let whole = if outputs == own { "" } else { " of the fused matrix" };
            find(module, format!("{outputs} outputs{whole} are not a multiple of 64"));
        }
    }
}

pub(super) fn awq_alignment(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for module in &facts.packed {
        let weight = facts.matrix(module, "qweight");
        let scales = facts.matrix(module, "scales");
        let (Some([_, words]), Some([_, outputs])) = (weight, scales) else { continue };
        if words * 8 != outputs {
            find(module, format!("{words} words in a row do not hold {outputs} outputs"));
        }
    }
}

/// Zero points looked at of each module.
const LOOKED_AT: u64 = 64 << 10;

fn zero_words(facts: &Facts<'_>, module: &str) -> Vec<u32> {
    let bytes = facts.bytes(module, "qzeros", LOOKED_AT).unwrap_or_default();
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// Three words, after which fields of 2, 3, 4 or 8 bits begin a word again, with every field
/// the same.
fn repeated(field: u32, bits: u32) -> [u32; 3] {
    let fields =
        (0..96 / bits).fold(0, |words, position| words | u128::from(field) << (position * bits));
    [0, 32, 64].map(|start| (fields >> start) as u32)
}

/// Symmetric zero points are all the same, so a version that is not the one named shows
/// (vLLM pull request 38966: garbage without an error).
pub(super) fn zero_points_version(facts: &Facts<'_>, find: &mut Findings<'_>) {
    if facts.flag("sym") != Some(true) {
        return;
    }
    let format = facts.text("checkpoint_format").or_else(|| facts.text("format"));
    let format = format.unwrap_or("gptq");
    let is_v2 = format == "gptq_v2";
    for module in &facts.packed {
        let Some(bits @ (2 | 3 | 4 | 8)) = facts.number_of(module, "bits") else { continue };
        let bits = bits as u32;
        let [v1, v2] = [(1 << (bits - 1)) - 1, 1 << (bits - 1)].map(|zero| repeated(zero, bits));
        let (own, other) = if is_v2 { (v2, v1) } else { (v1, v2) };
        let words = zero_words(facts, module);
        let all = |expected: [u32; 3]| {
            words.iter().zip(expected.iter().cycle()).all(|(word, expected)| word == expected)
        };
        if words.is_empty() || all(own) {
            continue;
        }
        let message = if all(other) {
            let found = if is_v2 { "v1" } else { "v2" };
            format!("zero points of {found}, the configuration says {format}: loads as garbage")
        } else {
            "zero points that are not in the middle, the configuration says symmetric".to_owned()
        };
        find(module, message);
    }
}

/// v1 stores one less, and zero has none: the writer borrowed from a neighbour, or
/// stored the highest (AutoGPTQ pull request 640).
pub(super) fn zero_points_wrap(facts: &Facts<'_>, find: &mut Findings<'_>) {
    if facts.flag("sym") != Some(false) {
        return;
    }
    let format = facts.text("checkpoint_format").or_else(|| facts.text("format"));
    if format == Some("gptq_v2") {
        return;
    }
    for module in &facts.packed {
        let Some(bits @ (2 | 4 | 8)) = facts.number_of(module, "bits") else { continue };
        let (bits, top) = (bits as u32, u32::MAX >> (32 - bits as u32));
        let words = zero_words(facts, module);
        let field = |word: &u32, position: u32| word >> (position * bits) & top;
        let wraps = |word: &&u32| (0..32 / bits).any(|position| field(word, position) == top);
        let count = words.iter().filter(wraps).count();
        if count > 0 {
            let message = format!(
                "{count} words with a zero point of zero, which v1 cannot hold: some loaders read \
                 {} there",
                top + 1
            );
            find(module, message);
        }
    }
}

/// Old checkpoints of compressed-tensors; SGLang makes room for the tensor where the
/// configuration says so (`compressed_tensors_wNa16.py`).
pub(super) fn act_order_tensor(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let is_stated = facts.groups().any(|(_, group)| {
        group.get("weights").and_then(|weights| weights.get("actorder")?.as_str()) == Some("group")
    });
    if facts.engine == Some(Engine::Sglang) && is_stated {
        return;
    }
    for module in &facts.packed {
        if facts.tensor(module, "weight_g_idx").is_some() {
            find(module, "act-order with groups: `weight_g_idx` is not read".to_owned());
        }
    }
}

/// True if SGLang reads `g_idx`: as the configuration says (`gptq/schemes/gptq_marlin.py`,
/// `has_g_idx`).
fn reads_order(facts: &Facts<'_>) -> bool {
    facts.engine == Some(Engine::Sglang) && facts.flag("desc_act") == Some(true)
}

/// SGLang has one order for matrices that it multiplies by together: that of the last one.
pub(super) fn fused_in_order(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for group in facts.fused().into_iter().filter(|_| reads_order(facts)) {
        let order = |module: &str| facts.bytes(module, "g_idx", LOOKED_AT);
        let first = order(group[0]);
        if let Some(other) = group.iter().find(|module| order(module) != first) {
            let message = format!("has another `g_idx` than {}: they are one matrix", group[0]);
            find(other, message);
        }
    }
}

/// An engine that does not read `g_idx` takes groups one after the other.
pub(super) fn groups_in_order(facts: &Facts<'_>, find: &mut Findings<'_>) {
    if reads_order(facts) {
        return;
    }
    for module in &facts.packed {
        let group = facts.number_of(module, "group_size").filter(|group| *group > 0);
        let Some(group) = group else { continue };
        let bytes = facts.bytes(module, "g_idx", LOOKED_AT).unwrap_or_default();
        let groups = bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
        // Some writers leave zeros where the order is plain.
        let is_other =
            |(column, own): (usize, i32)| own != 0 && i64::from(own) != column as i64 / group;
        if groups.enumerate().any(is_other) {
            let message = "`g_idx` has another order than the groups' own, and is not read: loads \
                           as garbage"
                .to_owned();
            find(module, message);
        }
    }
}

/// An engine stores fused modules in one matrix: all packed alike, or none.
pub(super) fn fused_alike(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for group in facts.fused() {
        let packed = group.iter().filter(|module| facts.packed.contains(**module)).count();
        if packed == 0 {
            continue;
        }
        if packed < group.len() {
            let plain = group.iter().find(|module| !facts.packed.contains(**module));
            let names = group.join(", ");
            let message = format!("is not packed, others of {names} are: they are one matrix");
            find(plain.unwrap_or(&group[0]), message);
            continue;
        }
        let kind = |module: &str| {
            let parts = ["qweight", "weight_packed", "weight"];
            let info = parts.iter().find_map(|part| facts.tensor(module, part))?;
            // Along the inputs, where all of a fused group are the same. They are the rows of
            // `qweight`, whatever the method is called.
            let is_transposed = facts.tensor(module, "qweight").is_some();
            let along = match is_transposed {
                true => info.shape.dimensions().first().copied(),
                false => info.shape.dimensions().last().copied(),
            };
            Some((info.data_type.name(), along))
        };
        let first = kind(group[0]);
        if let Some(other) = group.iter().find(|module| kind(module) != first) {
            let message = format!("is packed otherwise than {}: they are one matrix", group[0]);
            find(other, message);
        }
    }
}

/// vLLM takes the largest, and loses accuracy where they differ.
pub(super) fn global_scales(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for group in facts.fused() {
        let part =
            if facts.method == "modelopt" { "weight_scale_2" } else { "weight_global_scale" };
        let scale = |module: &str| facts.bytes(module, part, 4);
        let first = scale(group[0]);
        if let Some(other) = group.iter().find(|module| scale(module) != first) {
            let message =
                format!("has another global scale than {}: they are one matrix", group[0]);
            find(other, message);
        }
    }
}

/// A module's name within its own.
fn last(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// A plain matrix that the configuration does not name: engines wait for its packed
/// tensors.
pub(super) fn ignored(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for module in facts.plain.iter().filter(|module| !facts.is_ignored(module)) {
        let name = facts.rule_name(module, facts.engine);
        if facts.method == "gptq"
            && name != *module
            && facts.exception(module) == Exception::Plain
            && let Some(engine) = facts.engine
        {
            let message = format!(
                "is plain by a rule for its own name, but {} holds rules to that of {} alone, and \
                 waits for packed tensors",
                engine.version(),
                last(&name)
            );
            find(module, message);
            continue;
        }
        let message = "is a plain matrix, and the configuration does not say so: engines wait \
                       for its packed tensors";
        find(module, message.to_owned());
    }
}

/// GPTQ's rules for a packed matrix, where an engine holds them to another name than its own.
pub(super) fn fused_rules(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let Some(engine) = facts.engine else { return };
    for module in &facts.packed {
        let name = facts.rule_name(module, facts.engine);
        let (own, fused) = (facts.exception(module), facts.exception(&name));
        if [own, fused].iter().any(|it| matches!(it, Exception::Unknown | Exception::Plain)) {
            continue;
        }
        for key in ["bits", "group_size"] {
            let [own, fused] = [own, fused].map(|it| it.number(&facts.config, key));
            if let (Some(own), Some(fused)) = (own, fused)
                && own != fused
            {
                let message = format!(
                    "{key} is {own} by its own name, but {} holds rules to that of {} alone, where \
                     it is {fused}",
                    engine.version(),
                    last(&name)
                );
                find(module, message);
            }
        }
    }
}

/// A packed matrix that the configuration calls plain: engines make room for a plain one,
/// and find none, or read garbage.
pub(super) fn packed_ignored(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for module in facts.packed.iter().filter(|module| facts.is_surely_ignored(module)) {
        let message = "is packed, and the configuration says that it is not: engines look for a \
                       plain matrix";
        find(module, message.to_owned());
    }
}

/// transformers' `FP8Linear` has its scales under this name, even one of a whole tensor; it
/// passes over others, and multiplies by the codes.
pub(super) fn scale_name(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let has = |module: &str, part: &str| facts.tensor(module, part).is_some();
    for module in &facts.packed {
        if has(module, "weight_scale") && !has(module, "weight_scale_inv") {
            find(module, "`weight_scale` is not read, but `weight_scale_inv`".to_owned());
        }
    }
}

/// vLLM `fp8.py`, `validate_block_quant_shapes`: what is multiplied together has its outputs
/// in whole blocks, since the scales of several matrices are put one after the other.
pub(super) fn block_divides(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let sides = facts.config.get("weight_block_size").and_then(Value::as_array);
    let Some(rows) = sides.and_then(|sides| sides.first()?.as_u64()).filter(|rows| *rows > 0)
    else {
        return;
    };
    for module in facts.fused().into_iter().filter(|group| group.len() > 1).flatten() {
        let Some([outputs, _]) = facts.matrix(module, "weight") else { continue };
        if facts.packed.contains(module) && outputs % rows != 0 {
            let message = format!(
                "{outputs} outputs of a fused matrix are not a multiple of the block {rows}"
            );
            find(module, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_equal_fields() {
        let check = |field: u32, bits: u32, expected: [u32; 3]| {
            assert_eq!(repeated(field, bits), expected, "{field} of {bits} bits");
        };
        check(8, 4, [0x8888_8888; 3]);
        check(0x7f, 8, [0x7f7f_7f7f; 3]);
        check(2, 2, [0xaaaa_aaaa; 3]);
        // Fields go on from word to word.
        check(4, 3, [0x2492_4924, 0x4924_9249, 0x9249_2492]);
        check(7, 3, [u32::MAX; 3]);
    }
}
