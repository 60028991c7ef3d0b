//! Keys of `config.json` that change what a model computes, and those that do not.

use qz_tensor::Diagnose;
use serde_json::{Value, json};

use crate::support::Checkpoint;

/// The checkpoint of `name` with these keys.
fn with(name: &str, keys: &Value) -> Checkpoint {
    Checkpoint::load(name).edit("config.json", |config| {
        for (key, value) in keys.as_object().expect("an object") {
            config[key] = value.clone();
        }
    })
}

const LLAMA: &str = "Tiny-Llama-3-8B-Instruct-v1.1";

#[test]
fn computations_that_are_not_ours_are_refused() {
    let check = |name: &str, keys: Value, key: &str| {
        let error = with(name, &keys).describe().err().unwrap_or_else(|| panic!("{keys} passed"));
        assert_eq!(error.diagnosis().rule, "bad-config-value", "{error}");
        assert!(error.to_string().starts_with(&format!("config.json: {key}: ")), "{error}");
    };
    for act in ["relu", "gelu", "gelu_pytorch_tanh", "relu2", "SiLU"] {
        check(LLAMA, json!({"hidden_act": act}), "hidden_act");
        check("mistral", json!({"hidden_act": act}), "hidden_act");
        check("Mixtral-tiny-v0.1", json!({"hidden_act": act}), "hidden_act");
        check("Qwen2-tiny", json!({"hidden_act": act}), "hidden_act");
        check("qwen3", json!({"hidden_act": act}), "hidden_act");
    }
    for (key, value) in [
        ("hidden_act", json!(3)),
        ("hidden_activation", json!("gelu")),
        ("attn_logit_softcapping", json!(50.0)),
        ("final_logit_softcapping", json!(30.0)),
        ("clip_qkv", json!(8.0)),
        ("query_pre_attn_scalar", json!(256)),
        ("attention_multiplier", json!(0.0078125)),
        ("residual_multiplier", json!(0.22)),
        ("embedding_multiplier", json!(12.0)),
        ("logits_scaling", json!(8.0)),
        ("scale_depth", json!(1.4)),
        ("partial_rotary_factor", json!(0.5)),
        ("rotary_pct", json!(0.25)),
        ("no_rope_layers", json!([1, 1, 1, 0])),
        ("use_parallel_residual", json!(true)),
        ("attention_chunk_size", json!(8192)),
        ("use_bidirectional_attention", json!(true)),
        ("value_multiplier", json!(2.0)),
        ("mlp_softcap", json!(30)),
        ("logit_softcap", json!(1.0)),
        ("rope_interleave", json!(true)),
        ("scale_embeddings_by_sqrt_dim", json!(true)),
        ("sandwich_norm", json!(true)),
        ("attn_output_gate", json!(true)),
        ("rope_style", json!("2d")),
        ("use_rope", json!(false)),
        ("nope_layers", json!([0])),
        ("swiglu_limit", json!(7.0)),
        ("lm_head_bias", json!(true)),
        ("normalize_embedding", json!(true)),
        ("qk_norm", json!(true)),
        ("use_qk_norm", json!(true)),
        ("layer_types", json!(["linear_attention", "full_attention"])),
        ("layer_types", json!("full_attention")),
        ("layer_types", json!(["full_attention"])),
    ] {
        check(LLAMA, json!({ key: value }), key);
    }
    let rope = |parameters: Value| json!({"rope_scaling": null, "rope_parameters": parameters});
    for (key, value) in [
        ("rope_type", json!("longrope")),
        ("rope_type", json!("proportional")),
        ("partial_rotary_factor", json!(0.5)),
        ("llama_4_scaling_beta", json!(0.1)),
    ] {
        check(LLAMA, rope(json!({ key: value })), &format!("rope_parameters.{key}"));
    }
    check(LLAMA, rope(json!({"type": "own"})), "rope_parameters.rope_type");
    let yarn = |key: &str, value: Value| {
        let mut parameters = json!({"rope_type": "yarn", "factor": 4.0});
        parameters[key] = value;
        check(LLAMA, rope(parameters), &format!("rope_parameters.{key}"));
    };
    yarn("mscale", json!(0.707));
    yarn("truncate", json!(false));
    let experts = "Mixtral-tiny-v0.1";
    check(experts, json!({"norm_topk_prob": false}), "norm_topk_prob");
    check(experts, json!({"scoring_func": "sigmoid"}), "scoring_func");
    check(experts, json!({"routed_scaling_factor": 2.5}), "routed_scaling_factor");
    check("Qwen2-tiny", json!({"o_bias": true}), "o_bias");
}

/// Norms and biases that an architecture has tensors for show in these.
#[test]
fn switches_of_an_architecture_s_own_tensors_are_read() {
    let check = |name: &str, keys: Value| {
        let described = with(name, &keys).describe();
        assert!(described.is_ok(), "{name}, {keys}: {:?}", described.err());
    };
    check("qwen3", json!({"qk_norm": true, "use_qk_norm": true}));
    check(LLAMA, json!({"o_bias": true}));
}

#[test]
fn windows_of_some_layers_are_refused() {
    let window = |extra: Value| {
        let mut keys = json!({
            "use_sliding_window": true, "sliding_window": 64, "max_position_embeddings": 1024,
            "max_window_layers": 1, "layer_types": null, "num_hidden_layers": 2,
        });
        let map = keys.as_object_mut().expect("an object");
        map.extend(extra.as_object().expect("an object").clone());
        with("Qwen2-tiny", &keys).describe().err().map(|error| error.to_string())
    };
    let refused = |extra: Value, key: &str| {
        let error = window(extra).expect("refused");
        assert!(error.starts_with(&format!("config.json: {key}: some layers see")), "{error}");
    };
    let read = |extra: Value| {
        if let Some(error) = window(extra) {
            assert!(!error.contains("some layers"), "{error}");
        }
    };
    refused(json!({}), "use_sliding_window");
    refused(json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types");
    read(json!({"use_sliding_window": false}));
    read(json!({"sliding_window": null}));
    read(json!({"sliding_window": 1024}));
    read(json!({"max_window_layers": 28}));
    read(json!({"layer_types": ["full_attention", "full_attention"]}));
}

#[test]
fn neutral_and_foreign_keys_are_no_reason_to_stop() {
    let check = |keys: Value, warned: &[&str]| {
        let warnings = with(LLAMA, &keys).describe().expect("described").warnings;
        let found: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
        let expected: Vec<String> = warned
            .iter()
            .map(|keys| format!("keys that are not known are passed over: {keys}"))
            .collect();
        assert_eq!(found, expected, "{keys}");
    };
    check(json!({"hidden_act": "swish"}), &[]);
    check(json!({"hidden_act": null}), &[]);
    check(
        json!({
            "final_logit_softcapping": null, "attn_logit_softcapping": 0.0, "logit_scale": 1.0,
            "partial_rotary_factor": 1, "residual_multiplier": 1.0, "use_parallel_residual": false,
            "query_pre_attn_scalar": 8, "attention_multiplier": 0.353_553_39,
            "rope_interleaved": false, "value_multiplier": 1.0, "mlp_softcap": null,
        }),
        &[],
    );
    check(json!({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}), &[]);
    // A switch that is off may stand for what is computed.
    check(json!({"use_bar_norm": false, "pre_norm": false}), &["use_bar_norm, pre_norm"]);
    check(
        json!({
            "use_rope": true, "nope_layers": [], "swiglu_limit": null, "lm_head_bias": false,
            "normalize_embedding": false, "qk_norm": false, "qk_layernorm": null,
        }),
        &[],
    );
    check(json!({"rope_scaling": {"rope_type": "default", "foo": 2}}), &["foo"]);
    check(json!({"my_run": "x", "my_trainer": {"lr": 1}}), &["my_run, my_trainer"]);
    check(json!({"max_grad_norm": 1.5, "lora_scaling": 16}), &["max_grad_norm, lora_scaling"]);
    check(json!({"time_step_limit": [0.0, {"__float__": "Infinity"}]}), &["time_step_limit"]);
}

/// The configurations of well-known models, as they are published, but for the sizes,
/// which are those of the tensors at hand.
#[test]
fn known_families_are_read() {
    let check = |name: &str, keys: Value| {
        let warnings = with(name, &keys).describe().expect("described").warnings;
        let unknown = warnings.iter().find(|warning| warning.rule == "unknown-config-keys");
        assert!(unknown.is_none(), "{keys}: {unknown:?}");
    };
    // Llama 1 (huggyllama), with the keys of its time.
    check(
        LLAMA,
        json!({"max_sequence_length": 2048, "model_type": "llama", "pad_token_id": 0,
               "initializer_range": 0.02, "transformers_version": "4.27.0.dev0",
               "use_cache": true, "_name_or_path": "llama-7b"}),
    );
    // Llama 2, Vicuna.
    check(
        LLAMA,
        json!({"pretraining_tp": 1, "rope_scaling": null, "attention_dropout": 0.0,
               "max_length": 4096, "temperature": 0.9, "top_p": 0.6, "do_sample": false}),
    );
    // Llama 3.1 to 3.3.
    check(
        LLAMA,
        json!({"rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192, "rope_type": "llama3"},
               "mlp_bias": false, "attention_bias": false, "head_dim": 8}),
    );
    // SmolLM2.
    check(
        LLAMA,
        json!({"is_llama_config": true, "rope_interleaved": false, "rope_scaling": null,
               "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}}),
    );
    // TinyLlama, Yi, DeepSeek's and Unsloth's fine-tunes.
    check(
        LLAMA,
        json!({"unsloth_fixed": true, "unsloth_version": "2025.1", "attention_bias": false,
               "rope_scaling": {"factor": 4.0, "type": "linear"}, "tie_word_embeddings": false}),
    );
    // Yarn fine-tunes.
    check(
        LLAMA,
        json!({"rope_scaling": {"factor": 16.0, "original_max_position_embeddings": 4096,
               "type": "yarn", "finetuned": true}}),
    );
    // Mistral 7B v0.1 and v0.3, Nemo.
    check("mistral", json!({"sliding_window": 4096, "attention_dropout": 0.0}));
    check("mistral", json!({"sliding_window": null, "hidden_act": "silu"}));
    // Mixtral 8x7B.
    check(
        "Mixtral-tiny-v0.1",
        json!({"output_router_logits": false, "router_aux_loss_coef": 0.02,
               "sliding_window": null, "router_jitter_noise": 0.0}),
    );
    // Qwen 2 and 2.5, with and without the kinds of layers of transformers 5.
    check(
        "Qwen2-tiny",
        json!({"use_sliding_window": false, "sliding_window": 131_072, "max_window_layers": 28,
               "use_mrope": false, "attention_dropout": 0.0}),
    );
    // Qwen 3.
    check(
        "qwen3",
        json!({"use_sliding_window": false, "sliding_window": null, "max_window_layers": 36,
               "attention_bias": false, "rope_scaling": null}),
    );
}
