//! Configurations and names as published checkpoints have them: written by older versions of
//! transformers or by a family's own code, with keys that today's classes do not read.

use qz_models::ModelDescription;
use qz_tensor::{Diagnose, Value as Entry};
use serde_json::{Value, json};

use crate::support::Checkpoint;

/// The fixture of `name` with these keys; `null` takes a key away.
fn with(name: &str, keys: &Value) -> Checkpoint {
    Checkpoint::fixture(name).edit("config.json", |config| {
        let config = config.as_object_mut().expect("an object");
        for (key, value) in keys.as_object().expect("an object") {
            match value {
                Value::Null => _ = config.remove(key),
                value => _ = config.insert(key.clone(), value.clone()),
            }
        }
    })
}

/// What a file of the model says, without what is said of the file itself.
fn content(description: &ModelDescription) -> (Vec<(String, Entry)>, Vec<String>) {
    let metadata = description.metadata.iter();
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let mut names: Vec<String> =
        description.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    names.sort();
    (metadata, names)
}

fn described(checkpoint: &Checkpoint, what: &str) -> ModelDescription {
    checkpoint.describe().unwrap_or_else(|error| panic!("{what}: {error}"))
}

#[test]
fn keys_that_change_nothing_are_passed_over() {
    let check = |name: &str, keys: Value| {
        let plain = described(&Checkpoint::fixture(name), name);
        let published = described(&with(name, &keys), &format!("{name}, {keys}"));
        assert_eq!(content(&published), content(&plain), "{name}, {keys}");
        assert_eq!(published.warnings, plain.warnings, "{name}, {keys}");
    };
    check("qwen35", json!({"output_gate_type": "swish", "mamba_ssm_dtype": "float32"}));
    check("ernie4-5", json!({"fuse_attn_ffn": false, "fuse_rope": false}));
    check("hunyuan-dense", json!({"use_rotary_pos_emb": true}));
    check(
        "starcoder2",
        json!({"activation_function": "gelu", "norm_type": "layer_norm", "mlp_type": "default"}),
    );
    check("nemotron", json!({"rope_percent": 0.5, "kv_channels": 16}));
    check("mamba", json!({"rms_norm": true, "fused_add_norm": false}));
    check("falcon-mamba", json!({"rms_norm": true}));
    check(
        "nomic-bert-moe",
        json!({"ffn_div": 1, "moe_impl": "megablocks", "moe_resid_pdrop": 0.0}),
    );
    check(
        "jina-v2",
        json!({
            "attn_implementation": "torch", "emb_pooler": "mean", "model_max_length": 8192,
            "gradient_checkpointing": false, "classifier_dropout": null,
        }),
    );
    check(
        "jina-v3",
        json!({
            "use_flash_attn": true, "matryoshka_dimensions": [32, 64], "truncate_dim": null,
            "load_trained_adapters": true, "lora_dropout_p": 0.0, "output_past": true,
            "lora_main_params_trainable": false, "use_reg_tokens": false,
            "task_instructions": {"retrieval.query": "Query: ", "text-matching": ""},
        }),
    );
    check(
        "t5",
        json!({
            "task_specific_params": {"summarization": {"num_beams": 4}}, "output_past": true,
            "relative_attention_max_distance": 128,
        }),
    );
    check("dots1", json!({"scoring_func": "noaux_tc", "topk_method": "noaux_tc"}));
    // Kimi K2's own class of configurations is DeepSeek 3's.
    check(
        "kimi-k2",
        json!({
            "model_type": "kimi_k2", "moe_layer_freq": 1, "topk_method": "noaux_tc", "seq_aux": true,
            "aux_loss_alpha": 0.001, "ep_size": 1,
        }),
    );
    check("glm4flash", json!({"partial_rotary_factor": 1.0, "topk_method": "noaux_tc"}));
    check(
        "ernie4-5-moe",
        json!({"moe_gate": "topk", "moe_capacity": [64, 64, 64], "moe_use_aux_free": true}),
    );
    check("hunyuan-moe", json!({"use_mixed_mlp_moe": true, "use_qk_norm": true, "use_cla": false}));
    check(
        "minimax-m2",
        json!({
            "layernorm_full_attention_beta": 1.0, "layernorm_linear_attention_beta": 1.0,
            "layernorm_mlp_beta": 1.0, "shared_moe_mode": "sigmoid", "qk_norm_type": "per_layer",
            "attn_type_list": [1, 1],
        }),
    );
    check(
        "lfm2",
        json!({
            "block_norm_eps": 1e-5, "block_use_swiglu": true, "block_use_xavier_init": true,
            "block_mlp_init_scale": 1.0, "block_out_init_scale": 1.0, "block_dim": 32,
            "conv_dim": 32, "conv_dim_out": 32, "conv_use_xavier_init": true, "num_heads": 2,
            "use_pos_enc": true, "tie_embedding": true,
        }),
    );
}

#[test]
fn what_those_keys_could_ask_for_is_refused() {
    let check = |name: &str, keys: Value, key: &str| {
        let error = with(name, &keys).describe().err().unwrap_or_else(|| panic!("{keys} passed"));
        assert!(error.to_string().starts_with(&format!("config.json: {key}: ")), "{error}");
    };
    check("qwen35", json!({"output_gate_type": "sigmoid"}), "output_gate_type");
    check("mamba", json!({"rms_norm": false}), "rms_norm");
    check("minimax-m2", json!({"layernorm_mlp_beta": 2.0}), "layernorm_mlp_beta");
    check("lfm2", json!({"block_use_swiglu": false}), "block_use_swiglu");
    check("starcoder2", json!({"norm_type": "rms_norm"}), "norm_type");
    check("hunyuan-dense", json!({"num_experts": 2}), "num_experts");
}

/// Mistral 4 is published as the part of a model that sees.
#[test]
fn text_parts_are_told_by_their_own_type() {
    let plain = described(&Checkpoint::fixture("mistral4"), "mistral4");
    let nested = Checkpoint::fixture("mistral4").edit("config.json", |config| {
        let text = std::mem::take(config);
        *config = json!({
            "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
            "text_config": text, "vision_config": {"model_type": "pixtral"},
        });
    });
    let nested = described(&nested, "nested");
    assert_eq!(content(&nested), content(&plain));
    let lost = plain.warnings.iter().find(|warning| warning.rule == "query-growth-lost");
    assert!(lost.is_some_and(|lost| lost.message.contains("up to position 256")));
}

/// One expert is a network as others are.
#[test]
fn one_expert_is_none() {
    let plain = described(&Checkpoint::fixture("hunyuan-dense"), "plain");
    let one = json!({"num_experts": 1, "vit_norm_type": "fused"});
    let published = described(&with("hunyuan-dense", &one), "published");
    assert_eq!(content(&published).1, content(&plain).1);
    assert_eq!(published.metadata.unsigned("hunyuan-dense.expert_count"), Some(0));
}

/// Older files say the same under other names.
#[test]
fn older_spellings_are_read() {
    let check = |name: &str, keys: Value| {
        let plain = described(&Checkpoint::fixture(name), name);
        let published = described(&with(name, &keys), &format!("{name}, {keys}"));
        assert_eq!(content(&published), content(&plain), "{name}, {keys}");
    };
    let theta = json!({"rope_theta": 10000.0, "rope_type": "default"});
    let part = |key: &str, value: Value| json!({ key: value, "rope_parameters": theta.clone() });
    check("hunyuan-moe", json!({"moe_topk": 2, "num_shared_expert": 1}));
    check("ernie4-5-moe", json!({"moe_layer_end_index": -1}));
    check("glm4flash", json!({"first_k_dense_replace": null}));
    check("stablelm", part("rope_pct", json!(0.5)));
    check("stablelm", json!({"norm_eps": 1e-5, "layer_norm_eps": null}));
    check("nemotron", part("rope_percent", json!(0.5)));
    let interval = json!({"layer_types": null, "full_attention_interval": 2});
    let recurrent = described(&with("qwen3next", &interval), "qwen3next").metadata;
    let kinds = "qwen3next.attention.recurrent_layers";
    let plain = described(&Checkpoint::fixture("qwen3next"), "qwen3next").metadata;
    assert!(recurrent.get(kinds).is_some());
    assert_eq!(recurrent.get(kinds), plain.get(kinds));
    check("lfm2", json!({"layer_types": null, "full_attn_idxs": [1]}));
    // By layer, or of all layers of a kind.
    let by_layer = json!({"1": {"head_dim": 64, "num_key_value_heads": 1}});
    check(
        "gemma4-experts",
        json!({
            "per_layer_config": by_layer, "global_head_dim": null,
            "num_global_key_value_heads": null,
        }),
    );
    check("gemma4", json!({"per_layer_config": null, "global_head_dim": 64}));
    let kinds = json!(["linear_attention", "full_attention", "mlp"]);
    check("nemotron-h", json!({"hybrid_override_pattern": null, "layers_block_type": kinds}));
    check("granite-hybrid", json!({"layer_types": ["linear_attention", "full_attention"]}));
    // Of the code beside the weights, without transformers' own keys.
    check(
        "nomic-bert",
        json!({
            "hidden_size": null, "intermediate_size": null, "num_hidden_layers": null,
            "num_attention_heads": null, "max_position_embeddings": null, "layer_norm_eps": null,
            "rope_parameters": null, "head_dim": null, "hidden_act": null,
        }),
    );
    check(
        "modernbert",
        json!({
            "rope_parameters": null, "layer_types": null, "layer_norm_eps": null,
            "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0,
        }),
    );
    let own = json!({
        "model_type": "RefinedWeb", "new_decoder_architecture": null, "num_kv_heads": null,
        "num_attention_heads": null, "num_hidden_layers": null, "n_head": 4, "n_head_kv": 2,
        "n_layer": 2,
    });
    check("falcon-groups", own);
    check(
        "gemma3n",
        json!({
            "rope_parameters": null, "rope_theta": 1e6, "rope_local_base_freq": 10_000.0,
            "rope_scaling": null, "query_pre_attn_scalar": 16,
        }),
    );
    check("t5", json!({"is_gated_act": null, "dense_act_fn": null, "n_positions": 64}));
}

/// YaRN goes by `mscale` beside `mscale_all_dim`; alone, 1 is what it assumes.
#[test]
fn a_factor_of_yarn_alone_changes_nothing() {
    let yarn = |more: Value| {
        let mut rope = Checkpoint::fixture("arcee").json("config.json")["rope_parameters"].clone();
        let more = more.as_object().expect("an object").clone();
        rope.as_object_mut().expect("an object").extend(more);
        with("arcee", &json!({ "rope_parameters": rope }))
    };
    let plain = described(&Checkpoint::fixture("arcee"), "plain");
    let alone = described(&yarn(json!({"mscale": 1.0})), "alone");
    assert_eq!(content(&alone), content(&plain));
    let both = yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0})).describe();
    assert_eq!(both.err().expect("refused").diagnosis().rule, "bad-config-value");
}

/// Output weights beside embeddings that are said to be the same are written, as the
/// reference does, whatever a family calls its embeddings.
#[test]
fn output_weights_of_tied_models_are_kept() {
    for (name, sizes) in [("gpt2", [300, 32]), ("falcon", [300, 32]), ("mamba", [304, 32])] {
        let plain = described(&Checkpoint::fixture(name), name);
        let mut published = Checkpoint::fixture(name);
        published.tensors.push(("lm_head.weight".to_owned(), sizes.to_vec()));
        let (_, mut names) = content(&described(&published, name));
        names.retain(|name| name != "output.weight");
        assert_eq!(names.len(), plain.tensors.len(), "{name}");
        assert_eq!(names, content(&plain).1, "{name}");
    }
}

/// `null` in the part of a larger model counts: configuration classes assume a window.
#[test]
fn no_window_of_a_part_is_none() {
    let text = |window: Option<Value>| {
        Checkpoint::fixture("ministral3").edit("config.json", |config| {
            let mut text = config.take();
            let keys = text.as_object_mut().expect("an object");
            keys.remove("sliding_window");
            keys.insert("model_type".to_owned(), json!("mistral"));
            keys.insert("max_position_embeddings".to_owned(), json!(131_072));
            keys.insert("rope_parameters".to_owned(), json!({"rope_theta": 1e6}));
            keys.extend(window.map(|window| ("sliding_window".to_owned(), window)));
            *config = json!({
                "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
                "text_config": text, "vision_config": {"hidden_size": 32},
            });
        })
    };
    let windows = |window: Option<Value>| {
        let description = described(&text(window), "mistral3");
        let warnings = description.warnings.iter().chain(&description.unsaid);
        warnings.filter(|warning| warning.message.contains("4096")).count()
    };
    assert_eq!((windows(Some(Value::Null)), windows(Some(json!(4096)))), (0, 1));
}
