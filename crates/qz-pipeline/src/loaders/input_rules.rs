//! The rules of inputs that engines round, too.

use serde_json::{Map, Value};

use super::facts::Facts;
use super::{Engine, Findings};

/// What engines have products of integers and rounded inputs for. vLLM has bytes of eight and of
/// four bits beside inputs of eight, and packed integers of any bits (`compressed_tensors.py`,
/// `_get_scheme_from_parts`); SGLang eight beside eight.
pub(super) fn integers_and_inputs(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let whole = facts.text("format");
    for (name, group) in facts.groups() {
        let of = |key: &str| group.get(key).and_then(Value::as_object);
        let (Some(weights), Some(inputs)) = (of("weights"), of("input_activations")) else {
            continue;
        };
        let number = |of: &Map<String, Value>| of.get("num_bits").and_then(Value::as_u64);
        let is_float = |of: &Map<String, Value>| of.get("type").is_some_and(|kind| kind == "float");
        let (Some(bits), Some(input_bits)) = (number(weights), number(inputs)) else { continue };
        if is_float(weights) {
            continue;
        }
        let format = group.get("format").and_then(Value::as_str).or(whole).unwrap_or_default();
        let is_packed = format == "pack-quantized";
        let is_loaded = match (facts.engine, is_float(inputs)) {
            (Some(Engine::Vllm), true) => is_packed && (bits, input_bits) == (4, 8),
            (Some(Engine::Vllm), false) => is_packed || (matches!(bits, 4 | 8) && input_bits == 8),
            _ => !is_packed && !is_float(inputs) && (bits, input_bits) == (8, 8),
        };
        if !is_loaded {
            let kind = if is_float(inputs) { "floats" } else { "integers" };
            let message = format!(
                "{format} of {bits} bits beside inputs that become {kind} of {input_bits} bits is \
                 not loaded"
            );
            find(&format!("config_groups.{name}.input_activations"), message);
        }
    }
}

/// NVFP4: what is multiplied as one matrix has one number for its inputs (vLLM
/// `compressed_tensors_w4a4_nvfp4.py`: a warning, and the largest for all).
pub(super) fn global_scales_of_inputs(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for group in facts.fused() {
        let scale = |module: &str| facts.bytes(module, "input_global_scale", 4);
        let first = scale(group[0]);
        if let Some(other) = group.iter().find(|module| scale(module) != first) {
            let message = format!(
                "has another global scale of inputs than {}: they are one matrix",
                group[0]
            );
            find(other, message);
        }
    }
}

/// A static scheme's scale of inputs is beside every matrix.
pub(super) fn static_scales(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let has_blocks = facts.config.get("weight_block_size").is_some_and(|size| !size.is_null());
    if facts.text("activation_scheme") != Some("static") || has_blocks {
        return;
    }
    for module in &facts.packed {
        if facts.tensor(module, "input_scale").is_none() {
            find(module, "has no `input_scale`, and activations are static".to_owned());
        }
    }
}

/// Inputs that are multiplied by a matrix while the model runs. vLLM does that in linear layers
/// (`transform/linear.py`, `apply`), none of experts; SGLang and transformers know no such thing.
pub(super) fn transformed_inputs(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let Some(engine) = facts.engine else { return };
    let transforms = facts.config.get("transform_config");
    let groups = transforms.and_then(|all| all.get("config_groups")?.as_object());
    for (name, group) in groups.into_iter().flatten() {
        let places = group.get("apply").and_then(Value::as_array).into_iter().flatten();
        let mut locations = places.filter_map(|place| place.get("location")?.as_str());
        if !locations.any(|location| !location.starts_with("weight_")) {
            continue;
        }
        if engine != Engine::Vllm {
            let version = engine.version();
            let message =
                format!("{version} passes over transforms of inputs and computes garbage");
            find(&format!("transform_config.config_groups.{name}"), message);
            continue;
        }
        for module in &facts.packed {
            if module.contains(".experts.") {
                find(module, "is of experts, whose inputs are not transformed".to_owned());
            } else if facts.tensor(module, "bias").is_some() {
                let message = "has a bias, which is refused where inputs are transformed";
                find(module, message.to_owned());
            }
        }
    }
}
