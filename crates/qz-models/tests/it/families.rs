//! What families beside Llama read of their configurations, and what they refuse.

use qz_tensor::{Diagnose, Value as Entry};
use serde_json::{Value, json};

use crate::support::Checkpoint;

/// The fixture of `name` with these keys.
fn with(name: &str, keys: &Value) -> Checkpoint {
    Checkpoint::fixture(name).edit("config.json", |config| {
        for (key, value) in keys.as_object().expect("an object") {
            config[key] = value.clone();
        }
    })
}

#[test]
fn contradictions_name_the_key() {
    let check = |name: &str, keys: Value, key: &str, problem: &str| {
        let error = with(name, &keys).describe().err().unwrap_or_else(|| panic!("{keys} passed"));
        assert_eq!(error.diagnosis().rule, "bad-config-value", "{error}");
        assert!(error.to_string().starts_with(&format!("config.json: {key}: ")), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    };
    let kinds = |kinds: &[&str]| json!({ "layer_types": kinds });
    let (full, sliding) = ("full_attention", "sliding_attention");
    check("gemma2", kinds(&[sliding]), "layer_types", "has 1 kinds for 2 layers");
    check("gemma2", kinds(&[full, sliding]), "layer_types", "layer 0 is");
    check("gemma2", kinds(&[sliding, "chunked_attention"]), "layer_types", "layer 1 is");
    check("gemma3", json!({"_sliding_window_pattern": 4}), "_sliding_window_pattern", "with 6");
    check("gemma2", json!({"query_pre_attn_scalar": 100}), "query_pre_attn_scalar", "with 32");
    check("gemma2", json!({"hidden_activation": "silu"}), "hidden_activation", "gelu");
    check("gemma", json!({"rope_parameters": {"rope_theta": 1e6}}), "rope_theta", "mean 10000");
    let rope = |name: &str, key: &str, value: Value| {
        let mut rope = Checkpoint::fixture(name).json("config.json")["rope_parameters"].clone();
        rope[key] = value;
        json!({ "rope_parameters": rope })
    };
    let llama3 = json!({"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    }});
    for name in ["qwen2", "qwen3", "lfm2", "minimax-m2"] {
        check(name, llama3.clone(), "rope_parameters.rope_type", "no place for its factors");
    }
    let yarn = |more: Value| {
        let mut rope = json!({
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
            "original_max_position_embeddings": 16,
        });
        for (key, value) in more.as_object().expect("an object") {
            rope[key] = value.clone();
        }
        json!({ "rope_parameters": rope })
    };
    for name in ["nemotron", "cohere", "cohere2", "exaone-moe"] {
        check(name, yarn(json!({})), "rope_scaling", "files of this architecture cannot say");
    }
    let growths = yarn(json!({"mscale": 0.7, "mscale_all_dim": 1.3}));
    check("deepseek3", growths, "rope_parameters.mscale", "is 0.7");
    check("minimax-m2", json!({"rotary_dim": 2}), "rotary_dim", "partial_rotary_factor means");
    let growth = rope("phi3", "attention_factor", json!(1.7));
    check("phi3", growth, "rope_parameters.attention_factor", "is 1.7");
    let original = rope("phi3", "original_max_position_embeddings", json!(17));
    check("phi3", original, "rope_parameters.original_max_position_embeddings", "outside of it");
    let part = rope("phi3", "partial_rotary_factor", json!(0.5));
    check("phi3", part, "rope_scaling.long_factor", "has 12 numbers for 8 frequencies");
    let part = rope("phi4", "partial_rotary_factor", json!(1.5));
    check("phi4", part, "partial_rotary_factor", "more of a head than there is");
    let factors = rope("phi3", "short_factor", json!([1.0]));
    let key = "rope_parameters.short_factor";
    check("phi3", factors, key, "has 1 numbers, but long_factor 12");
    check("deepseek3", json!({"n_group": 3}), "n_group", "does not divide 4 experts");
    check("deepseek3", json!({"topk_group": 3}), "topk_group", "is 3 of 2 groups");
    let chosen = json!({"num_experts_per_tok": 3});
    check("deepseek3", chosen, "num_experts_per_tok", "1 groups have 2 experts");
    check("deepseek3", json!({"scoring_func": "relu"}), "scoring_func", "softmax, sigmoid only");
    check("deepseek3", json!({"rope_interleave": false}), "rope_interleave", "is false");
    check("qwen3moe", json!({"norm_topk_prob": false}), "norm_topk_prob", "as with true");
    check("qwen2moe", json!({"norm_topk_prob": true}), "norm_topk_prob", "as with false");
    check("qwen2moe", json!({"mlp_only_layers": [0]}), "mlp_only_layers", "");
    check("gpt-oss", json!({"swiglu_limit": 8.0}), "swiglu_limit", "computes with 7");
    check("mamba2", json!({"expand": 3}), "expand", "128 of all heads");
    check("mamba2", json!({"n_groups": 3}), "n_groups", "does not divide");
    let (linear, delta) = ("linear_attention", "qwen35");
    check(delta, kinds(&[linear]), "layer_types", "has 1 words for 2 layers");
    check(delta, kinds(&[linear, "mamba"]), "layer_types", "linear_attention, full_attention only");
    check(delta, json!({"linear_num_key_heads": 3}), "linear_num_key_heads", "does not divide");
    check(delta, json!({"attn_output_gate": false}), "attn_output_gate", "has a gate");
    check("qwen3next", json!({"norm_topk_prob": false}), "norm_topk_prob", "as with true");
    check("lfm2", kinds(&["conv"]), "layer_types", "has 1 words for 2 layers");
    check("dots1", json!({"n_group": 3}), "n_group", "does not divide 4 experts");
    check("dots1", json!({"sliding_window": 16}), "sliding_window", "whose layers see all");
    check("olmoe", json!({"rms_norm_eps": 1e-6}), "rms_norm_eps", "is not 1e-5");
    check("mamba", json!({"expand": 3}), "expand", "as with 2");
    check("gemma4", json!({"num_kv_shared_layers": 4}), "num_kv_shared_layers", "leaves no layer");
    check("gemma4", json!({"num_kv_shared_layers": 3}), "num_kv_shared_layers", "of a kind");
    let tokens = json!({"vocab_size_per_layer_input": 10});
    check("gemma4", tokens, "vocab_size_per_layer_input", "is not vocab_size");
    check("gemma3n", json!({"altup_num_inputs": 2}), "altup_num_inputs", "is not 4");
    check("gemma3n", json!({"altup_active_idx": 1}), "altup_active_idx", "is not 0");
    check("gemma3n", json!({"laurel_rank": 32}), "laurel_rank", "is not 64");
    check("gemma3n", json!({"num_kv_shared_layers": 3}), "num_kv_shared_layers", "of a kind");
    let sparsity = "activation_sparsity_pattern";
    check("gemma3n", json!({ sparsity: [0.95] }), sparsity, "a list of 4 numbers");
    check("gemma3n", json!({ sparsity: [1.0, 0.0, 0.0, 0.0] }), sparsity, "between 0 and 1");
    check("gemma4", json!({"attention_k_eq_v": true}), "attention_k_eq_v", "both are stated");
    let both_ways = json!({"use_bidirectional_attention": "all"});
    check("gemma4", both_ways, "use_bidirectional_attention", "vision only");
    let factor = json!({"full_attention": {
        "rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 8.0,
    }});
    check(
        "gemma4",
        json!({"rope_parameters": factor}),
        "rope_parameters.full_attention.rope_type",
        "",
    );
    check("nemotron-h", json!({"mlp_bias": true}), "mlp_bias", "not supported");
    let both = json!({"hybrid_override_pattern": "ME-"});
    check("nemotron-h-experts", both, "layers_block_type", "one only");
    let first = json!({"mamba_norm_before_gate": true});
    check("falcon-h1", first, "mamba_norm_before_gate", "the gate first");
    check("falcon-h1", json!({"projectors_bias": true}), "projectors_bias", "not supported");
    check("falcon-h1", json!({"mamba_d_ssm": 32}), "mamba_d_ssm", "mamba_n_heads x mamba_d_head");
    check("falcon-h1", json!({"tie_word_embeddings": true}), "tie_word_embeddings", "differ");
    check("falcon-h1", json!({"ssm_multipliers": [1.0]}), "ssm_multipliers", "a list of 5 numbers");
    let scaled = json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}});
    check("falcon-h1", scaled, "rope_scaling", "cannot say");
    check("stablelm", json!({"qk_layernorm": true}), "qk_layernorm", "not supported");
    let kimi = "kimi-linear";
    let own = |key: &str, value: Value| {
        let mut own = Checkpoint::fixture(kimi).json("config.json")["linear_attn_config"].clone();
        own[key] = value;
        json!({ "linear_attn_config": own })
    };
    check(kimi, own("kda_layers", json!([])), "layer_types", "layer 1, which is not in one");
    check(kimi, own("num_heads", json!(4)), "linear_num_heads", "files say one number");
    check(kimi, json!({"mla_use_nope": false}), "mla_use_nope", "nothing turns");
    check(kimi, json!({"q_lora_rank": 32}), "q_lora_rank", "have none");
    check(kimi, json!({"num_expert_group": 2}), "num_expert_group", "cannot say");
    check(kimi, json!({"moe_renormalize": false}), "moe_renormalize", "as with true");
    let softmax = json!({"moe_router_activation_func": "softmax"});
    check(kimi, softmax, "moe_router_activation_func", "are sigmoids");
    let mimo = "mimo2";
    check(mimo, json!({"sliding_window_size": 9}), "sliding_window_size", "is not sliding_window");
    check(mimo, json!({"sliding_window_size": null}), "sliding_window_size", "is missing");
    check(mimo, json!({"swa_head_dim": 16}), "swa_head_dim", "is not head_dim 32");
    check(mimo, json!({"moe_layer_freq": [1, 1]}), "moe_layer_freq", "one layer without experts");
    check(mimo, json!({"hybrid_layer_pattern": [0, 2]}), "layer_types", "has 2");
    let sinks = "add_full_attention_sink_bias";
    check(mimo, json!({ sinks: true }), sinks, "have no sinks");
    check(mimo, json!({"routed_scaling_factor": 2.5}), "routed_scaling_factor", "computes with 1");
    let turning = json!({"position_embedding_type": "rope"});
    check("granite-hybrid", turning, "position_embedding_type", "nothing turns");
    let still = json!({"position_embedding_type": null});
    check("granite-hybrid-attention", still, "position_embedding_type", "heads turn");
    let wider = json!({"shared_intermediate_size": 64});
    check("granite-hybrid-dense", wider, "intermediate_size", "files say one");
    let end = "moe_layer_end_index";
    check("ernie4-5-moe", json!({ end: 0 }), end, "without experts at the end");
    check("ernie4-5-moe", json!({"moe_k": 5}), "moe_k", "from 1 to 4");
    check("granitemoe", json!({"residual_multiplier": 0.0}), "residual_multiplier", "means none");
    check("hunyuan-moe", json!({"moe_topk": [1, 2]}), "moe_topk", "expected an integer");
    let shared = "num_shared_expert";
    check("hunyuan-moe", json!({ shared: [1, 2] }), shared, "differs from layer to layer");
    check("hunyuan-moe", json!({ shared: [2, 2] }), shared, "mean one");
    let periods = json!({"prefix_dense_sliding_window_pattern": 4});
    check("cohere2moe", periods, "prefix_dense_sliding_window_pattern", "is not 1");
    let plain = json!({"expert_selection_fn": "softmax", "norm_topk_prob": false});
    check("cohere2moe", plain, "norm_topk_prob", "has the sum 1");
    let width = "prefix_dense_intermediate_size";
    check("cohere2moe", json!({ width: null }), width, "is missing");
    check("exaone-moe", json!({"sliding_window": null}), "sliding_window", "always have a window");
    check("bailingmoe", json!({"norm_head": true}), "norm_head", "is not supported");
    check("bailingmoe", json!({"first_k_dense_replace": 1}), "first_k_dense_replace", "everywhere");
    check("bailingmoe2", json!({"n_group": 3}), "n_group", "does not divide 4 experts");
    check("llama4", json!({"attention_chunk_size": 16}), "attention_chunk_size", "with 8192");
    check("llama4", json!({"use_qk_norm": false}), "use_qk_norm", "unless there are 128");
    check("llama4", json!({"no_rope_layers": [1, 0, 1, 1]}), "no_rope_layers", "");
    check("qwen3vlmoe", json!({"norm_topk_prob": false}), "norm_topk_prob", "as with true");
    let positions = json!({"position_embedding_type": "relative_key"});
    check("bert", positions.clone(), "position_embedding_type", "absolute only");
    check("roberta", positions.clone(), "position_embedding_type", "absolute only");
    check("jina-v2", positions, "position_embedding_type", "alibi only");
    check("jina-v2", json!({"feed_forward_type": "original"}), "feed_forward_type", "geglu only");
    let registers = json!({"use_reg_tokens": true});
    check("jina-v3", registers, "use_reg_tokens", "not supported");
    let buckets = "relative_attention_num_buckets";
    check("t5", json!({ buckets: 30 }), buckets, "half of a half");
    let distance = "relative_attention_max_distance";
    check("umt5", json!({ distance: 64 }), distance, "with 128");
    check("t5", json!({"feed_forward_proj": "gated-silu"}), "feed_forward_proj", "gated-gelu");
    check("modernbert", json!({"global_attn_every_n_layers": 2}), "layer_types", "of layer 2");
    check("modernbert", json!({"hidden_activation": "relu"}), "hidden_activation", "gelu, silu");
    check("nomic-bert", json!({"prenorm": true}), "prenorm", "does not compute");
    let weights = "moe_normalize_expert_weights";
    check("nomic-bert-moe", json!({ weights: true }), weights, "does not compute");
    check(
        "nomic-bert-moe",
        json!({"activation_function": "swiglu"}),
        "activation_function",
        "gelu",
    );
    check("nomic-bert-moe", json!({"num_shared_experts": 1}), "num_shared_experts", "");
    check("nomic-bert", json!({"rotary_emb_fraction": 0.5}), "rotary_emb_fraction", "with 1");
    let one_side = json!({"use_bidirectional_attention": false});
    check("gemma-embedding", one_side, "use_bidirectional_attention", "see both sides");
    check("apertus", json!({"post_norm": true}), "post_norm", "stand in front");
    check("phimoe", json!({"num_experts_per_tok": 1}), "num_experts_per_tok", "is not 2");
    check("phimoe", json!({"router_jitter_noise": 0.1}), "router_jitter_noise", "with 0.01");
    let growth = rope("phimoe", "long_mscale", json!(2.0));
    check("phimoe", growth, "long_mscale", "one number for both");
    check("openelm", json!({"num_kv_heads": [1, 2, 3]}), "num_kv_heads", "does not divide");
    check("openelm", json!({"num_kv_heads": [1, 2]}), "num_kv_heads", "has 2 numbers");
    check("openelm", json!({"ffn_with_glu": false}), "ffn_with_glu", "cannot say");
    check("minicpm", json!({"scale_depth": 0.0}), "scale_depth", "not above zero");
    check("minicpm", json!({"max_position_embeddings": 128}), "rope_scaling", "is 64");
}

/// A reranker's layers behind the encoder, as the reference names them.
#[test]
fn rerankers_have_their_classifier() {
    let mut checkpoint = with(
        "roberta",
        &json!({"architectures": ["RobertaForSequenceClassification"], "id2label": {"0": "yes"}}),
    );
    for (name, _) in &mut checkpoint.tensors {
        name.insert_str(0, "roberta.");
    }
    let classifier: [(&str, &[u64]); 4] = [
        ("classifier.dense.weight", &[32, 32]),
        ("classifier.dense.bias", &[32]),
        ("classifier.out_proj.weight", &[1, 32]),
        ("classifier.out_proj.bias", &[1]),
    ];
    checkpoint.tensors.extend(classifier.map(|(name, sizes)| (name.to_owned(), sizes.to_vec())));
    let described = checkpoint.describe().expect("a reranker");
    let mut found: Vec<&str> = described.tensors.iter().map(|tensor| &*tensor.name).collect();
    found.retain(|name| name.starts_with("cls."));
    found.sort_unstable();
    assert_eq!(found, ["cls.bias", "cls.output.bias", "cls.output.weight", "cls.weight"]);
    let labels = described.metadata.get("bert.classifier.output_labels");
    assert_eq!(labels, Some(&Entry::from(vec!["yes".to_owned()])));
}

#[test]
fn tensors_belong_to_layers() {
    let dense = with("deepseek3", &json!({"first_k_dense_replace": 2})).describe();
    let error = dense.err().expect("refused").to_string();
    assert!(error.contains("(first_k_dense_replace denies it)"), "{error}");
    assert!(error.contains("model.layers.1.mlp.up_proj.weight is missing"), "{error}");
}

#[test]
fn queries_need_no_narrow_vector() {
    let mut plain = with("deepseek2", &json!({"q_lora_rank": null}));
    plain.tensors.retain(|(name, _)| !name.contains("q_a_") && !name.contains("q_b_"));
    for layer in 0..2 {
        let name = format!("model.layers.{layer}.self_attn.q_proj.weight");
        plain.tensors.push((name, vec![96, 64]));
    }
    let description = plain.describe().expect("described");
    let has = |name: &str| description.tensors.iter().any(|tensor| tensor.name == name);
    assert!(has("blk.1.attn_q.weight") && !has("blk.1.attn_q_a.weight"));
    assert!(description.metadata.get("deepseek2.attention.q_lora_rank").is_none());
}

#[test]
fn layers_that_predict_further_tokens_are_told_of() {
    let mut more = with("deepseek3", &json!({"num_nextn_predict_layers": 1}));
    let name = "model.layers.2.eh_proj.weight";
    more.tensors.push((name.to_owned(), vec![64, 128]));
    let description = more.describe().expect("described");
    assert_eq!(more.names_of(&description.beside), [name]);
    let rules: Vec<&str> = description.unsaid.iter().map(|warning| warning.rule).collect();
    assert!(rules.contains(&"later-layers-left-out"), "{rules:?}");
    more.tensors.push(("model.layers.3.eh_proj.weight".to_owned(), vec![64, 128]));
    assert_eq!(more.describe().err().expect("refused").diagnosis().rule, "unknown-tensor");
}

/// A layer that predicts further tokens is one more, unless it is not wished, or not there.
#[test]
fn layers_that_predict_further_tokens_are_kept() {
    let check = |checkpoint: &Checkpoint, drops_further_layers: bool, expected: u32| {
        let options = qz_models::ConvertOptions { drops_further_layers, ..Default::default() };
        let description = checkpoint.describe_with(&options).expect("described");
        let further = description.metadata.unsigned("qwen35.nextn_predict_layers").unwrap_or(0);
        assert_eq!(further, u64::from(expected));
        let layers = description.metadata.unsigned("qwen35.block_count");
        assert_eq!(layers, Some(2 + u64::from(expected)));
        let names = description.tensors.iter().map(|tensor| tensor.name.as_str());
        let joins = names.filter(|name| name.ends_with("nextn.eh_proj.weight"));
        assert_eq!(joins.count(), expected as usize);
    };
    let mut checkpoint = Checkpoint::fixture("qwen35");
    check(&checkpoint, false, 1);
    check(&checkpoint, true, 0);
    checkpoint.tensors.retain(|(name, _)| name != "mtp.fc.weight");
    let error = checkpoint.describe().err().expect("refused").to_string();
    assert!(error.contains("eh_proj.weight is missing"), "{error}");
    checkpoint.tensors.retain(|(name, _)| !name.starts_with("mtp."));
    check(&checkpoint, false, 0);
}

/// Of a model that sees, the part that reads and writes text is what it would be alone.
#[test]
fn a_part_of_a_larger_model_is_read() {
    let alone = Checkpoint::fixture("gemma3").describe().expect("described");
    for prefix in ["language_model.model.", "model.language_model."] {
        let mut whole = Checkpoint::fixture("gemma3").edit("config.json", |config| {
            let text = config.take();
            *config = json!({
                "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                "text_config": text, "vision_config": {"hidden_size": 32},
                "mm_tokens_per_image": 16,
            });
        });
        for (name, _) in &mut whole.tensors {
            *name = name.replace("model.", prefix);
        }
        whole.tensors.push(("vision_tower.post_layernorm.weight".to_owned(), vec![32]));
        let description = whole.describe().expect("described");
        let names = |tensors: &[qz_models::TensorRecipe]| {
            let mut names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&description.tensors), names(&alone.tensors), "{prefix}");
        let own = |metadata: &qz_tensor::Metadata| -> Vec<(String, Entry)> {
            let own = metadata.iter().filter(|(key, _)| key.starts_with("gemma3."));
            own.map(|(key, value)| (key.to_owned(), value.clone())).collect()
        };
        assert_eq!(own(&description.metadata), own(&alone.metadata), "{prefix}");
        let beside = whole.names_of(&description.beside);
        assert_eq!(beside, ["vision_tower.post_layernorm.weight"]);
        let rules: Vec<&str> = description.unsaid.iter().map(|warning| warning.rule).collect();
        assert!(rules.contains(&"towers-left-out"), "{rules:?}");
    }
}

/// The same where the class of the whole is not known by its text.
#[test]
fn the_text_of_a_larger_class_is_read() {
    let check = |name: &str, class: &str, key: &str, prefix: [&str; 2], tower: &str| {
        let alone = Checkpoint::fixture(name).describe().expect("described");
        let mut whole = Checkpoint::fixture(name).edit("config.json", |config| {
            let mut text = config.take();
            text.as_object_mut().expect("an object").remove("architectures");
            *config = json!({
                "architectures": [class], "model_type": "larger", "projector_scale": 3.0,
                key: text, "vision_config": {"hidden_size": 32},
            });
        });
        for (name, _) in &mut whole.tensors {
            *name = match name.strip_prefix("model.") {
                Some(rest) => format!("{}{rest}", prefix[0]),
                None => format!("{}{name}", prefix[1]),
            };
        }
        whole.tensors.push((tower.to_owned(), vec![32]));
        let context = format!("{name} in {class}");
        let described = whole.describe().unwrap_or_else(|error| panic!("{context}: {error}"));
        let mut names: Vec<&str> =
            described.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let mut of_alone: Vec<&str> =
            alone.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        names.sort_unstable();
        of_alone.sort_unstable();
        assert_eq!(names, of_alone, "{context}");
        let entries = |metadata: &qz_tensor::Metadata| -> Vec<(String, Entry)> {
            metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
        };
        assert_eq!(entries(&described.metadata), entries(&alone.metadata), "{context}");
        assert_eq!(whole.names_of(&described.beside), [tower], "{context}");
    };
    let old = ["language_model.model.", "language_model."];
    let new = ["model.language_model.", ""];
    let text = "text_config";
    check("llama3-rope", "LlavaForConditionalGeneration", text, old, "vision_tower.ln_pre.weight");
    check(
        "mistral",
        "LlavaForConditionalGeneration",
        text,
        new,
        "model.vision_tower.ln_pre.weight",
    );
    check(
        "llama-tied",
        "VoxtralForConditionalGeneration",
        text,
        old,
        "audio_tower.layer_norm.weight",
    );
    check("qwen2", "Qwen2AudioForConditionalGeneration", text, old, "audio_tower.layer_norm.bias");
    check(
        "qwen3",
        "InternVLForConditionalGeneration",
        text,
        old,
        "vision_tower.embeddings.cls_token",
    );
    check("qwen2", "InternVLChatModel", "llm_config", old, "mlp1.0.weight");
    check(
        "lfm2",
        "Lfm2VlForConditionalGeneration",
        text,
        new,
        "model.vision_tower.post_layernorm.bias",
    );
    let smol = ["model.text_model.", ""];
    check(
        "llama-tied",
        "SmolVLMForConditionalGeneration",
        text,
        smol,
        "model.connector.proj.weight",
    );

    let unknown = Checkpoint::fixture("qwen2").edit("config.json", |config| {
        *config =
            json!({"architectures": ["InternVLChatModel"], "llm_config": {"model_type": "x"}});
    });
    let error = unknown.describe().err().expect("refused").to_string();
    assert!(error.contains("llm_config.model_type") && error.contains("\"x\""), "{error}");
}

#[test]
fn fused_experts_are_the_same_tensors() {
    for name in ["qwen2moe", "qwen3moe"] {
        let apart = Checkpoint::fixture(name).describe().expect("described");
        let mut fused = Checkpoint::fixture(name);
        fused.tensors.retain(|(name, _)| !name.contains(".experts."));
        for layer in 0..2 {
            let module = format!("model.layers.{layer}.mlp.experts");
            fused.tensors.push((format!("{module}.gate_up_proj"), vec![4, 64, 64]));
            fused.tensors.push((format!("{module}.down_proj"), vec![4, 64, 32]));
        }
        let fused = fused.describe().expect("described");
        let shapes = |tensors: &[qz_models::TensorRecipe]| {
            let shape = |tensor: &qz_models::TensorRecipe| {
                (tensor.name.clone(), tensor.shape.dimensions().to_vec())
            };
            let mut shapes: Vec<_> = tensors.iter().map(shape).collect();
            shapes.sort();
            shapes
        };
        assert_eq!(shapes(&fused.tensors), shapes(&apart.tensors), "{name}");
    }
}

/// Published checkpoints have inputs as rows, those of transformers 5 outputs; the shapes tell.
#[test]
fn experts_by_input_are_the_same_tensors() {
    let shapes = |checkpoint: &Checkpoint| {
        let description = checkpoint.describe().expect("described");
        let shape = |tensor: &qz_models::TensorRecipe| {
            (tensor.name.clone(), tensor.shape.dimensions().to_vec())
        };
        description.tensors.iter().map(shape).collect::<Vec<_>>()
    };
    let published = Checkpoint::fixture("qwen3vlmoe");
    let mut turned = Checkpoint::fixture("qwen3vlmoe");
    for (name, shape) in &mut turned.tensors {
        if name.contains(".experts.") {
            shape.swap(1, 2);
        }
    }
    assert_ne!(published.tensors, turned.tensors);
    assert_eq!(shapes(&published), shapes(&turned));
}

/// Of experts in every second layer only.
#[test]
fn layers_with_experts_may_take_turns() {
    let step = json!({"moe_layer_interval": 2, "moe_layer_start_index": 0});
    let described = with("ernie4-5-moe", &step).describe().expect("described");
    let key = "ernie4_5-moe.interleave_moe_layer_step";
    assert_eq!(described.metadata.unsigned(key), Some(2));
    let three = json!({"moe_layer_interval": 3});
    let error = with("ernie4-5-moe", &three).describe().err().expect("refused").to_string();
    assert!(error.contains("model.layers.1.mlp.up_proj.weight is missing"), "{error}");
}

#[test]
fn a_classifier_s_labels_are_kept() {
    let check = |labels: Value, expected: Option<&[&str]>| {
        let description = with("bert", &json!({ "id2label": labels })).describe();
        let metadata = description.expect("described").metadata;
        let found = match metadata.get("bert.classifier.output_labels") {
            Some(Entry::Array(qz_tensor::Array::String(labels))) => Some(labels.iter().collect()),
            _ => None,
        };
        assert_eq!(found, expected.map(<[&str]>::to_vec));
    };
    check(json!({"0": "LABEL_0", "1": "LABEL_1"}), None);
    check(json!({"0": "LABEL_0"}), Some(&["LABEL_0"]));
    check(json!({"10": "c", "2": "b", "1": "a"}), Some(&["a", "b", "c"]));
}

/// Experts of MXFP4 are seen under other names than a checkpoint of plain numbers has.
#[test]
fn a_packed_checkpoint_has_a_plain_form() {
    let plain = Checkpoint::fixture("gpt-oss");
    assert!(plain.describe().expect("described").plain.is_none());
    let mut packed = Checkpoint::fixture("gpt-oss");
    let is_matrix = |name: &str| name.contains(".experts.") && !name.ends_with("_bias");
    packed.tensors.retain(|(name, _)| !is_matrix(name));
    for layer in 0..2 {
        for (name, shape) in [("gate", [4, 32, 64]), ("up", [4, 32, 64]), ("down", [4, 64, 32])] {
            let name = format!("model.layers.{layer}.mlp.experts.{name}_proj.weight");
            packed.tensors.push((name, shape.to_vec()));
        }
    }
    let form = packed.describe().expect("described").plain.expect("a plain form");
    let sorted = |mut tensors: Vec<(String, Vec<u64>)>| {
        tensors.sort();
        tensors
    };
    let restored = form.restored.tensors.into_iter();
    let restored = restored.map(|tensor| (tensor.name, tensor.shape.dimensions().to_vec()));
    assert_eq!(sorted(restored.collect()), sorted(plain.tensors));
}
