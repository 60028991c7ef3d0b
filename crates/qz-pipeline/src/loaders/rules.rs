//! The rules of configurations, and the list of all.

use qz_packed::GONE_FORMATS;
use serde_json::Value;

use super::facts::Facts;
use super::input_rules::{
    global_scales_of_inputs, integers_and_inputs, static_scales, transformed_inputs,
};
use super::layout_rules::{
    act_order_tensor, alignment, awq_alignment, block_divides, fused_alike, fused_in_order,
    fused_rules, global_scales, group_divides, groups_in_order, ignored, integer_bits,
    integer_group, missing_parts, packed_ignored, part_types, scale_name, zero_points_version,
    zero_points_wrap,
};
use super::{Engine, Findings, LoaderRule};

use Engine::{LlamaCpp, Mlx, Sglang, Transformers, Vllm};

const GPTQ: &[&str] = &["gptq"];
const AWQ: &[&str] = &["awq"];
const CT: &[&str] = &["compressed-tensors"];
const FP8: &[&str] = &["fp8"];
const MODELOPT: &[&str] = &["modelopt"];
const WORDS: &[&str] = &["gptq", "awq"];
/// Integers of a group: vLLM chooses a kernel for both in one place.
const INTEGERS: &[&str] = &["gptq", "compressed-tensors"];

const fn rule(
    name: &'static str,
    engines: &'static [Engine],
    methods: &'static [&'static str],
    check: fn(&Facts<'_>, &mut Findings<'_>),
) -> LoaderRule {
    LoaderRule { name, engines, methods, check }
}

/// Every rule.
pub static LOADER_RULES: &[LoaderRule] = &[
    rule("engine-method", &[Vllm, Sglang, Transformers, LlamaCpp, Mlx], &[], engine_method),
    rule("missing-part", &[], &[], missing_parts),
    rule("part-type", &[], &[], part_types),
    rule("group-divides", &[], WORDS, group_divides),
    rule("zero-points-version", &[], GPTQ, zero_points_version),
    rule("zero-points-wrap", &[], GPTQ, zero_points_wrap),
    rule("config-copies", &[], GPTQ, config_copies),
    rule("gptq-keys", &[Vllm, Sglang], GPTQ, gptq_keys),
    rule("gptq-bits", &[Vllm, Sglang], GPTQ, gptq_bits),
    rule("ct-bits", &[Vllm, Sglang], CT, integer_bits),
    rule("gptq-group", &[Vllm, Sglang], GPTQ, integer_group),
    rule("ct-group", &[Vllm, Sglang], CT, integer_group),
    rule("act-order", &[Vllm], GPTQ, act_order),
    rule("act-order", &[Vllm, Sglang], GPTQ, groups_in_order),
    rule("act-order", &[Sglang], GPTQ, fused_in_order),
    rule("alignment", &[Sglang], INTEGERS, alignment),
    rule("awq-bits", &[Vllm, Sglang, Transformers], AWQ, awq_bits),
    rule("awq-zero-point", &[Vllm, Sglang], AWQ, awq_zero_point),
    rule("awq-version", &[Vllm, Sglang], AWQ, awq_version),
    rule("alignment", &[], AWQ, awq_alignment),
    rule("actorder-channel", &[], CT, actorder_channel),
    rule("act-order", &[Vllm], CT, actorder_group),
    rule("act-order", &[Vllm, Sglang], CT, act_order_tensor),
    rule("unknown-key", &[], CT, unknown_keys),
    rule("format", &[], CT, known_format),
    rule("ct-floats", &[Vllm, Sglang], CT, group_floats),
    rule("transformed-inputs", &[Vllm, Sglang, Transformers], CT, transformed_inputs),
    rule("ct-inputs", &[Vllm, Sglang], CT, integers_and_inputs),
    rule("global-scale", &[Vllm, Sglang], CT, global_scales),
    rule("global-scale", &[Vllm, Sglang], CT, global_scales_of_inputs),
    rule("missing-part", &[], FP8, static_scales),
    rule("static-blocks", &[Vllm, Sglang], FP8, static_blocks),
    rule("block-divides", &[Vllm, Sglang], FP8, block_divides),
    rule("scale-name", &[Transformers], FP8, scale_name),
    rule("global-scale", &[Vllm, Sglang], MODELOPT, global_scales),
    rule("modelopt-algorithm", &[Vllm, Sglang], MODELOPT, modelopt_algorithm),
    rule("modelopt-keys", &[Vllm, Sglang], MODELOPT, modelopt_keys),
    rule("fused-alike", &[Vllm, Sglang], &[], fused_alike),
    rule("fused-rule", &[Vllm, Sglang], GPTQ, fused_rules),
    rule("ignore", &[], &["compressed-tensors", "awq", "bitsandbytes", "fp8", "modelopt"], ignored),
    rule("ignore", &[Vllm, Sglang, Transformers], GPTQ, ignored),
    rule("packed-ignored", &[], &[], packed_ignored),
    rule("bitsandbytes-keys", &[Transformers], &["bitsandbytes"], bitsandbytes_keys),
    rule("mlx-keys", &[Mlx], &["mlx"], mlx_keys),
];

/// What each engine reads without a plugin.
pub(super) fn methods_of(engine: Engine) -> &'static [&'static str] {
    match engine {
        Vllm => &["gptq", "awq", "compressed-tensors", "fp8", "modelopt", "mxfp4", "auto-round"],
        Sglang => &[
            "gptq",
            "awq",
            "compressed-tensors",
            "fp8",
            "modelopt",
            "mxfp4",
            "bitsandbytes",
            "auto-round",
        ],
        Transformers => &[
            "gptq",
            "awq",
            "compressed-tensors",
            "fp8",
            "mxfp4",
            "bitsandbytes",
            "aqlm",
            "auto-round",
        ],
        LlamaCpp => &[],
        Mlx => &["mlx"],
    }
}

/// The engine reads the method.
fn engine_method(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let Some(engine) = facts.engine else { return };
    let read = methods_of(engine);
    if read.contains(&&*facts.method) {
        return;
    }
    let version = engine.version();
    let message = match (engine, &*facts.method) {
        // vLLM pull request 43529.
        (Vllm, "bitsandbytes") => format!(
            "{version} loads bitsandbytes with the plugin vllm-bnb-plugin alone; vLLM up to 0.27 \
             loads it without"
        ),
        (LlamaCpp, _) => format!("{version} does not load {}; it loads GGUF alone", facts.method),
        (_, method) => {
            format!("{version} does not load {method}; it loads {}", read.join(", "))
        }
    };
    find("quantization_config.quant_method", message);
}

/// `quantization_config` and `quantize_config.json` say the same.
fn config_copies(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let Some(copy) = &facts.quantize_config else { return };
    for key in ["bits", "group_size", "desc_act", "sym", "checkpoint_format"] {
        let (here, there) = (facts.config.get(key), copy.get(key));
        if here.is_some() && there.is_some() && here != there {
            let shown = |value: Option<&Value>| value.map(Value::to_string).unwrap_or_default();
            let message = format!("{key} is {} here and {} there", shown(here), shown(there));
            find("quantize_config.json", message);
        }
    }
}

fn gptq_keys(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for key in ["bits", "group_size", "desc_act", "sym"] {
        if !facts.config.contains_key(key) {
            find(&format!("quantization_config.{key}"), "is missing".to_owned());
        }
    }
}

/// vLLM `auto_gptq.py`: symmetric codes of 4 or 8 bits.
fn gptq_bits(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let mut check = |place: &str, bits: Option<i64>, symmetric: Option<bool>| {
        let (Some(bits), Some(symmetric)) = (bits, symmetric) else { return };
        if !matches!((bits, symmetric), (4 | 8, true)) {
            let kind = if symmetric { "symmetric" } else { "asymmetric" };
            let message = format!(
                "{bits} bits, {kind}: GPTQ is loaded with 4 or 8 bits, symmetric; \
                 compressed-tensors takes any"
            );
            find(place, message);
        }
    };
    let (all, symmetric) = (facts.number("bits"), facts.flag("sym"));
    check("quantization_config.bits", all, symmetric);
    let rules = facts.config.get("dynamic").and_then(Value::as_object).into_iter().flatten();
    for (rule, values) in rules.filter(|(rule, _)| !rule.starts_with("-:")) {
        let own = values.get("bits").and_then(Value::as_i64);
        let own_symmetric = values.get("sym").and_then(Value::as_bool);
        if own.is_some() || own_symmetric.is_some() {
            let place = format!("quantization_config.dynamic[{rule}]");
            check(&place, own.or(all), own_symmetric.or(symmetric));
        }
    }
}

/// vLLM 0.33 has no group act-order any more (pull request 54809).
fn act_order(facts: &Facts<'_>, find: &mut Findings<'_>) {
    if facts.flag("desc_act") == Some(true) && facts.number("group_size") != Some(-1) {
        let message = "act-order with groups is refused, and `g_idx` not read".to_owned();
        find("quantization_config.desc_act", message);
    }
}

fn awq_bits(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let bits = facts.number("bits").or_else(|| facts.number("w_bit"));
    if let Some(bits) = bits.filter(|bits| *bits != 4) {
        find("quantization_config.bits", format!("{bits} bits; AWQ has 4"));
    }
}

fn awq_zero_point(facts: &Facts<'_>, find: &mut Findings<'_>) {
    if facts.flag("zero_point") == Some(false) {
        let message = "AWQ without zero points is not loaded".to_owned();
        find("quantization_config.zero_point", message);
    }
}

/// vLLM does not look at the version, and fails on shapes.
fn awq_version(facts: &Facts<'_>, find: &mut Findings<'_>) {
    if let Some(version) = facts.text("version")
        && !version.eq_ignore_ascii_case("gemm")
    {
        find("quantization_config.version", format!("{version}; only gemm is loaded"));
    }
}

/// What a group says of its weights.
fn weights(group: &serde_json::Map<String, Value>) -> Option<&serde_json::Map<String, Value>> {
    group.get("weights")?.as_object()
}

/// The package refuses an order of activations where there are no groups
/// (llm-compressor issue 2805).
fn actorder_channel(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for (name, group) in facts.groups() {
        let Some(weights) = weights(group) else { continue };
        let strategy = weights.get("strategy").and_then(Value::as_str).unwrap_or_default();
        let has_order = weights.get("actorder").is_some_and(|order| !order.is_null());
        if has_order && strategy != "group" {
            let key = format!("config_groups.{name}.weights.actorder");
            find(&key, format!("an order of activations with the strategy {strategy}"));
        }
    }
}

fn actorder_group(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for (name, group) in facts.groups() {
        let order = weights(group).and_then(|weights| weights.get("actorder")?.as_str());
        if order == Some("group") {
            let key = format!("config_groups.{name}.weights.actorder");
            find(&key, "act-order with groups is refused; `static` needs none".to_owned());
        }
    }
}

/// compressed-tensors refuses keys that it does not know (`quant_args.py`).
fn unknown_keys(facts: &Facts<'_>, find: &mut Findings<'_>) {
    const KNOWN: &[&str] = &[
        "num_bits",
        "type",
        "symmetric",
        "group_size",
        "strategy",
        "block_structure",
        "dynamic",
        "actorder",
        "observer",
        "observer_kwargs",
        "scale_dtype",
        "zp_dtype",
    ];
    for (name, group) in facts.groups() {
        for part in ["weights", "input_activations", "output_activations"] {
            let Some(Value::Object(arguments)) = group.get(part) else { continue };
            for key in arguments.keys().filter(|key| !KNOWN.contains(&&***key)) {
                let place = format!("config_groups.{name}.{part}.{key}");
                find(&place, "the package refuses keys that it does not know".to_owned());
            }
        }
    }
}

fn known_format(facts: &Facts<'_>, find: &mut Findings<'_>) {
    const KNOWN: &[&str] = &[
        "dense",
        "pack-quantized",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "nvfp4-pack-quantized",
        "mxfp4-pack-quantized",
        "mxfp6-pack-quantized",
        "mxfp8-quantized",
        "mixed-precision",
    ];
    match facts.text("format") {
        None => find("quantization_config.format", "is missing".to_owned()),
        Some(format) if GONE_FORMATS.contains(&format) => {
            let message = format!("{format}: compressed-tensors 0.20 has no more than its name");
            find("quantization_config.format", message);
        }
        Some(format) if !KNOWN.contains(&format) => {
            find("quantization_config.format", format!("{format} is no format"));
        }
        Some(_) => {}
    }
    if facts.groups().next().is_none() {
        find("quantization_config.config_groups", "is missing or empty".to_owned());
    }
}

/// Small floats with a scale for a group. vLLM has those of four and eight bits
/// (`compressed_tensors.py`, `_get_scheme_from_parts`); SGLang NVFP4, and MXFP4 of experts alone
/// (`_is_mxfp4_moe`).
fn group_floats(facts: &Facts<'_>, find: &mut Findings<'_>) {
    for (name, group) in facts.groups() {
        let Some(weights) = weights(group) else { continue };
        let is = |key: &str, value: &str| weights.get(key).and_then(Value::as_str) == Some(value);
        let Some(bits) = weights.get("num_bits").and_then(Value::as_u64) else { continue };
        if !is("type", "float") || !is("strategy", "group") {
            continue;
        }
        let of_experts = || facts.packed.iter().all(|module| module.contains(".experts."));
        let message = match facts.engine {
            Some(Vllm) if bits == 6 => "floats of six bits are not loaded".to_owned(),
            Some(Sglang) if bits != 4 || !of_experts() => {
                format!("floats of {bits} bits in groups are not loaded, but of experts those of 4")
            }
            _ => continue,
        };
        find(&format!("config_groups.{name}.weights.num_bits"), message);
    }
}

/// vLLM `fp8.py`.
fn static_blocks(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let has_blocks = facts.config.get("weight_block_size").is_some_and(|size| !size.is_null());
    if has_blocks && facts.text("activation_scheme") == Some("static") {
        let message = "static activations are refused with blocks".to_owned();
        find("quantization_config.activation_scheme", message);
    }
}

/// vLLM `modelopt.py`: the file of its own is checked for all of these, the common
/// configuration for the first.
fn modelopt_keys(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let is_own_file = !facts.model.contains_key("quantization_config");
    let own: &[&str] = &["kv_cache_quant_algo", "group_size", "exclude_modules"];
    let needed = ["quant_algo"].iter().chain(own.iter().filter(|_| is_own_file));
    for key in needed.filter(|key| !facts.config.contains_key(**key)) {
        find(&format!("quantization.{key}"), "is missing".to_owned());
    }
}

/// vLLM `modelopt.py`, `QUANT_ALGOS`; SGLang `modelopt_quant.py`, whose mixtures are those with
/// NVFP4 (`model_config.py`, `_parse_modelopt_quant_config`).
fn modelopt_algorithm(facts: &Facts<'_>, find: &mut Findings<'_>) {
    const BOTH: &[&str] = &["FP8", "NVFP4", "W4A16_NVFP4", "MXFP8"];
    const VLLM: &[&str] = &["FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "MIXED_PRECISION"];
    let Some(algorithm) = facts.text("quant_algo") else { return };
    let layers = facts.config.get("quantized_layers").and_then(Value::as_object);
    let mut of_layers = layers.into_iter().flatten().map(|(_, layer)| layer.get("quant_algo"));
    let has_nvfp4 =
        of_layers.any(|own| own.and_then(Value::as_str).is_some_and(|own| own.ends_with("NVFP4")));
    let is_read = match facts.engine {
        Some(Sglang) if algorithm == "MIXED_PRECISION" => has_nvfp4,
        Some(Sglang) => BOTH.contains(&algorithm),
        _ => BOTH.contains(&algorithm) || VLLM.contains(&algorithm),
    };
    if !is_read {
        find("quantization_config.quant_algo", format!("{algorithm} is not loaded"));
    }
}

fn bitsandbytes_keys(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let four = facts.flag("load_in_4bit") == Some(true);
    let eight = facts.flag("load_in_8bit") == Some(true);
    if four == eight {
        let message = "one of load_in_4bit and load_in_8bit must be true".to_owned();
        find("quantization_config", message);
    }
}

fn mlx_keys(facts: &Facts<'_>, find: &mut Findings<'_>) {
    let own = facts.model.get("quantization");
    for key in ["group_size", "bits"] {
        if own.and_then(|own| own.get(key)).and_then(Value::as_u64).is_none() {
            find(&format!("quantization.{key}"), "is missing".to_owned());
        }
    }
}
