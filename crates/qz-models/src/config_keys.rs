//! Which keys of `config.json` have a say in what a model computes. Weights and biases
//! that are there or not are found by the tensors' names; what is here leaves no trace
//! in them: activations, factors, caps, the kinds of layers.
//!
//! A key is read, or harmless, or may have its neutral value only. One that nobody knows
//! is judged by the words of its name: fine-tunes bring many of their trainers' own keys.

use qz_tensor::{Location, Warning};
use serde_json::Value;

use crate::config::{ConfigDefaults, DefaultWindow, JsonObject, shown};
use crate::error::Error;
use crate::hyperparameters::ModelConfig;

/// The values with which a key changes nothing. `null` always is one.
#[derive(Clone, Copy)]
enum Neutral {
    /// False, zero, or empty.
    Off,
    /// 1 or true.
    One,
    /// One of these words.
    Word(&'static [&'static str]),
    /// As many as a head has elements.
    HeadSize,
    /// What scores are multiplied with anyway: one over the root of the head's size.
    ScoreScale,
}

use Neutral::{HeadSize, Off, One, ScoreScale, Word};

/// Keys that some architectures compute with, and ours do not.
const COMPUTING: &[(&str, Neutral)] = &[
    ("hidden_act", Word(&["silu", "swish"])),
    ("hidden_activation", Word(&["silu", "swish"])),
    ("activation_function", Word(&["silu", "swish"])),
    ("mlp_hidden_act", Word(&["silu", "swish"])),
    // Caps of scores and logits.
    ("attn_logit_softcapping", Off),
    ("attn_logit_softcap", Off),
    ("attention_logit_softcapping", Off),
    ("final_logit_softcapping", Off),
    ("final_logit_softcap", Off),
    ("logit_softcap", Off),
    ("logits_soft_cap", Off),
    ("router_logit_softcapping", Off),
    ("clip_qkv", Off),
    ("qkv_clip", Off),
    // Factors.
    ("query_pre_attn_scalar", HeadSize),
    ("attention_multiplier", ScoreScale),
    ("attn_scale", ScoreScale),
    ("attention_scale", ScoreScale),
    ("softmax_scale", ScoreScale),
    ("embedding_multiplier", One),
    ("embedding_scale", One),
    ("scale_emb", One),
    ("scale_embedding", Off),
    ("scale_embeddings", Off),
    ("residual_multiplier", One),
    ("residual_scale", One),
    ("scale_depth", Off),
    ("dim_model_base", Off),
    ("logits_scaling", One),
    ("logit_scale", One),
    ("lm_head_multiplier", One),
    ("key_multiplier", One),
    ("attention_in_multiplier", One),
    ("attention_out_multiplier", One),
    ("mlp_multipliers", Off),
    ("mup_width_scale", One),
    ("mup_embeddings_multiplier", One),
    ("scale_attn_weights", One),
    ("scale_attn_by_inverse_layer_idx", Off),
    // Positions.
    ("partial_rotary_factor", One),
    ("rotary_pct", One),
    ("rotary_percent", One),
    ("rotary_dim", HeadSize),
    ("rope_dim", HeadSize),
    ("rope_interleaved", Off),
    ("rotary_interleaved", Off),
    ("alibi", Off),
    ("use_alibi", Off),
    ("position_embedding_type", Word(&["rope", "rotary", "rope_llama"])),
    ("no_rope_layers", One),
    ("no_rope_layer_interval", Off),
    ("rope_local_base_freq", Off),
    // Attention and the order of operations.
    ("sliding_window_pattern", Off),
    ("_sliding_window_pattern", Off),
    ("window_size", Off),
    ("attention_window", Off),
    ("attention_window_size", Off),
    ("attention_chunk_size", Off),
    ("attn_temperature_tuning", Off),
    ("use_bidirectional_attention", Off),
    ("num_kv_shared_layers", Off),
    ("cross_attention_layers", Off),
    ("add_cross_attention", Off),
    ("is_encoder_decoder", Off),
    ("attention_sinks", Off),
    ("use_attention_sink", Off),
    ("use_qk_norm_after_rope", Off),
    ("use_l2_norm", Off),
    ("parallel_attn", Off),
    ("use_parallel_residual", Off),
    ("parallel_residual", Off),
    ("apply_residual_connection_post_layernorm", Off),
    ("norm_type", Word(&["rmsnorm", "rms_norm", "RMSNorm"])),
    ("layer_norm_type", Word(&["rmsnorm", "rms_norm", "rms"])),
    ("rms_norm_add_unit_offset", Off),
    ("norm_after", Off),
];

/// Keys that a mixture of experts computes with. Softmax over those chosen, as Mixtral
/// has it, is a normalization of what all experts would get.
const COMPUTING_EXPERTS: &[(&str, Neutral)] = &[
    ("norm_topk_prob", One),
    ("routed_scaling_factor", One),
    ("scoring_func", Word(&["softmax"])),
    ("n_group", One),
    ("topk_group", One),
    ("decoder_sparse_step", One),
    ("moe_layer_freq", One),
    ("mlp_only_layers", Off),
    ("first_k_dense_replace", Off),
    ("n_shared_experts", Off),
    ("num_shared_experts", Off),
    ("shared_expert_intermediate_size", Off),
];

/// Keys of the object of rotary parameters, as those above.
const COMPUTING_ROPE: &[(&str, Neutral)] = &[
    ("partial_rotary_factor", One),
    ("mscale", Off),
    ("mscale_all_dim", Off),
    ("truncate", One),
    ("llama_4_scaling_beta", Off),
];

/// Keys of the object of rotary parameters that are read elsewhere, or say who wrote it.
const READ_ROPE: &[&str] = &[
    "alpha",
    "attention_factor",
    "attn_factor",
    "beta_fast",
    "beta_slow",
    "extrapolation_factor",
    "factor",
    "finetuned",
    "full_attention",
    "high_freq_factor",
    "long_factor",
    "long_mscale",
    "low_freq_factor",
    "mrope_section",
    "original_max_position_embeddings",
    "rope_theta",
    "rope_type",
    "short_factor",
    "short_mscale",
    "sliding_attention",
    "type",
];

/// Keys that are read elsewhere: sizes, switches, names.
const READ: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_bias",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "is_causal",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "n_routed_experts",
    "norm_epsilon",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "pad_token_id",
    "quantization",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "unk_token_id",
    "use_sliding_window",
    "vocab_size",
];

/// Keys that change nothing that is computed from tokens to logits: training,
/// generation, caches, files, engines. Biases and norms show in the tensors.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "_from_model_config",
    "add_bias_linear",
    "add_qkv_bias",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "attn_dropout",
    "aux_loss_alpha",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bias",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dual_chunk_attention_config",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "end_token_id",
    "ep_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "fused_qkv",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "image_token_id",
    "image_token_index",
    "initializer_range",
    "is_composition",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "max_sequence_length",
    "min_length",
    "model_max_length",
    "moe_intermediate_size",
    "mlp_dropout",
    "mtp_num_hidden_layers",
    "neftune_noise_alpha",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_nextn_predict_layers",
    "num_return_sequences",
    "original_max_position_embeddings",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "qk_layernorm",
    "qkv_bias",
    "qk_norm",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "router_z_loss_coef",
    "seq_length",
    "sep_token_id",
    "start_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_bias",
    "use_cache",
    "use_flash_attention",
    "use_flash_attn",
    "use_mrope",
    "use_qk_norm",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
];

/// Words in the name of a key that is about a computation.
const COMPUTING_WORDS: &[&str] = &[
    "act",
    "activation",
    "alibi",
    "attention",
    "attn",
    "cap",
    "clip",
    "clamp",
    "gate",
    "interleave",
    "interleaved",
    "multiplier",
    "multipliers",
    "norm",
    "prenorm",
    "residual",
    "rope",
    "rotary",
    "scale",
    "scaling",
    "softcap",
    "softcapping",
    "softmax",
    "window",
];

/// Words of keys whose value something is multiplied by.
const SCALING_WORDS: &[&str] =
    &["alpha", "factor", "multiplier", "multipliers", "ratio", "scalar", "scale", "scaling"];

/// Words in the name of a key that is about training, or about how engines compute the
/// same.
const HARMLESS_WORDS: &[&str] = &[
    "backend",
    "bias",
    "checkpointing",
    "clipping",
    "coef",
    "dropout",
    "flash",
    "fp16",
    "fp32",
    "fused",
    "grad",
    "gradient",
    "impl",
    "implementation",
    "init",
    "initializer",
    "kernel",
    "lora",
    "loss",
    "lr",
    "mm",
    "optimizer",
    "pdrop",
    "quant",
    "sdpa",
    "std",
    "train",
    "training",
    "version",
    "vision",
    "xformers",
];

/// Refuses keys that ask for a computation that ours is not, and warns of those that
/// nobody knows.
pub(crate) fn check(
    json: &JsonObject,
    config: &ModelConfig,
    defaults: Option<&ConfigDefaults>,
    mixes_experts: bool,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let expert_keys = if mixes_experts { COMPUTING_EXPERTS } else { &[] };
    for (key, neutral) in COMPUTING.iter().chain(expert_keys) {
        refuse(json, key, *neutral, config)?;
    }
    for rope in rope_objects(json)? {
        for (key, neutral) in COMPUTING_ROPE {
            refuse(&rope, key, *neutral, config)?;
        }
    }
    check_layers(json, config, defaults)?;
    let mut unknown = Vec::new();
    for (key, value) in json.entries().filter(|(key, _)| !is_known(key)) {
        // A switch that is off may switch off what is computed here.
        let is_switch_off = *value == Value::Bool(false) && computes(key);
        if is_off(value) && !is_switch_off {
            continue;
        }
        if computes(key) && !is_switch_off {
            if is_number_one(value) && scales(key) {
                continue;
            }
            let problem = format!(
                "is {}; the key is not known, and by its name it changes what the model \
                 computes: remove it from the file if it does not",
                shown(value)
            );
            return Err(json.fault(key, problem));
        }
        unknown.push(key);
    }
    let ropes = rope_objects(json)?;
    let of_ropes = ropes.iter().flat_map(|rope| rope.entries());
    unknown.extend(of_ropes.map(|(key, _)| key).filter(|key| !is_known_of_rope(key)));
    if !unknown.is_empty() {
        warnings.push(Warning {
            location: Location::file(json.path()),
            rule: "unknown-config-keys",
            message: format!("keys that are not known are passed over: {}", listed(&unknown)),
        });
    }
    Ok(())
}

/// The first of many keys: they come from a file.
fn listed(keys: &[&str]) -> String {
    const LISTED: usize = 10;
    let first: Vec<String> = keys.iter().take(LISTED).map(|key| qz_shards::shown(key)).collect();
    match keys.len().saturating_sub(LISTED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn is_known(key: &str) -> bool {
    let tables = [COMPUTING, COMPUTING_EXPERTS];
    READ.contains(&key)
        || HARMLESS.contains(&key)
        || tables.iter().any(|table| table.iter().any(|(known, _)| *known == key))
}

fn is_known_of_rope(key: &str) -> bool {
    READ_ROPE.contains(&key) || COMPUTING_ROPE.iter().any(|(known, _)| *known == key)
}

/// True if an unknown key's words say that something is multiplied by it: one changes
/// nothing.
fn scales(key: &str) -> bool {
    let mut words = key.split(['_', '.', '-']);
    words.any(|word| SCALING_WORDS.iter().any(|one| word.eq_ignore_ascii_case(one)))
}

fn is_number_one(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().all(is_number_one),
        value => value.as_f64() == Some(1.0),
    }
}

/// True if an unknown key's words say that a computation depends on it.
fn computes(key: &str) -> bool {
    let has = |known: &[&str]| {
        key.split(['_', '.', '-'])
            .any(|word| known.iter().any(|one| word.eq_ignore_ascii_case(one)))
    };
    has(COMPUTING_WORDS) && !has(HARMLESS_WORDS)
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().all(is_off),
        Value::Object(values) => values.is_empty(),
    }
}

fn refuse(
    json: &JsonObject,
    key: &str,
    neutral: Neutral,
    config: &ModelConfig,
) -> Result<(), Error> {
    let Some(value) = json.get(key) else { return Ok(()) };
    let head_size = config.head_size as f64;
    let (is_neutral, only) = match neutral {
        Off => (is_off(value), "off".to_owned()),
        One => (is_one(value), "1".to_owned()),
        Word(words) => {
            let known = value.as_str().is_some_and(|text| words.contains(&text));
            (known, words.first().copied().unwrap_or_default().to_owned())
        }
        HeadSize => (is_near(value, head_size), format!("the head's size {head_size}")),
        ScoreScale => {
            let scale = head_size.sqrt().recip();
            (is_near(value, scale), format!("one over the root of the head's size, {scale}"))
        }
    };
    if is_neutral {
        return Ok(());
    }
    let problem = format!(
        "is {}, which changes what the model computes; of this architecture only {only} is \
         supported",
        shown(value)
    );
    Err(json.fault(key, problem))
}

/// One, or a list of ones.
fn is_one(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().all(is_one),
        Value::Bool(value) => *value,
        value => value.as_f64() == Some(1.0),
    }
}

/// Equal in the precision of a 32-bit float.
fn is_near(value: &Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|number| ((number - expected) / expected).abs() < 1e-6)
}

/// The rotary parameters, of both forms, and those of kinds of layers inside them.
fn rope_objects(json: &JsonObject) -> Result<Vec<JsonObject>, Error> {
    let mut objects = Vec::new();
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(outer) = json.object(key)? else { continue };
        for key in ["full_attention", "sliding_attention"] {
            if outer.get(key).is_some_and(Value::is_object) {
                objects.extend(outer.object(key)?);
            }
        }
        objects.push(outer);
    }
    Ok(objects)
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Layers see all positions, or all of them the same window; a window as long as the
/// context is none.
fn check_layers(
    json: &JsonObject,
    config: &ModelConfig,
    defaults: Option<&ConfigDefaults>,
) -> Result<(), Error> {
    let window = match defaults.map(|defaults| defaults.window) {
        Some(DefaultWindow::SomeLayers(window)) => {
            let is_used = json.boolean("use_sliding_window")? == Some(true);
            let stated = json.integer("sliding_window", 0..=u64::MAX)?;
            let window = if json.has("sliding_window") { stated } else { Some(window) };
            window.filter(|_| is_used)
        }
        _ => config.sliding_window,
    };
    let is_limit =
        |window: &u64| *window > 0 && config.context.is_none_or(|context| *window < context);
    let windowed = window.filter(is_limit).is_some();
    match json.get("layer_types") {
        Some(Value::Array(kinds)) => {
            let other = kinds.iter().find(|kind| *kind != FULL && *kind != SLIDING);
            if let Some(kind) = other {
                let problem =
                    format!("has layers of the kind {}; only {FULL} is supported", shown(kind));
                return Err(json.fault("layer_types", problem));
            }
            let sliding = kinds.iter().filter(|kind| *kind == SLIDING).count();
            let all_alike = config.sliding_window.is_some() && sliding == kinds.len();
            if sliding > 0 && windowed && !all_alike {
                return Err(json.fault("layer_types", MIXED_WINDOWS));
            }
        }
        Some(value) => {
            let problem = format!("is {}, expected a list of kinds of layers", shown(value));
            return Err(json.fault("layer_types", problem));
        }
        None if windowed && config.sliding_window.is_none() => {
            // Layers from this one on have the window.
            let first = json.integer("max_window_layers", 0..=u64::MAX)?.unwrap_or(28);
            if first < u64::from(config.layers) {
                return Err(json.fault("use_sliding_window", MIXED_WINDOWS));
            }
        }
        None => {}
    }
    Ok(())
}

const MIXED_WINDOWS: &str = "some layers see only `sliding_window` positions, which is not \
                             supported for this architecture";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_key_twice() {
        let mut keys: Vec<&str> = READ.iter().chain(HARMLESS).copied().collect();
        keys.extend(COMPUTING.iter().chain(COMPUTING_EXPERTS).map(|(key, _)| *key));
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn unknown_keys_are_judged_by_their_words() {
        let check = |key: &str, expected: bool| assert_eq!(computes(key), expected, "{key}");
        check("value_multiplier", true);
        check("qk_softcap", true);
        check("rope_style", true);
        check("mlp_act", true);
        check("my_training_run", false);
        check("attention_probs_dropout", false);
        check("max_grad_norm", false);
        check("norm_init_std", false);
        check("mm_hidden_size", false);
        check("exact", false);
        check("capacity", false);
    }
}
