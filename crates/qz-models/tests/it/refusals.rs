//! Broken checkpoints, the errors they give and the warnings of odd ones.

use qz_models::ConvertOptions;
use qz_tensor::{Diagnose, FaultClass};
use serde_json::{Value, json};

use crate::support::Checkpoint;

/// The checkpoint gives this error, under this rule.
#[track_caller]
fn refused(checkpoint: &Checkpoint, rule: &str, message: &str) {
    match checkpoint.describe() {
        Ok(_) => panic!("accepted, expected {message:?}"),
        Err(error) => {
            let diagnosis = error.diagnosis();
            assert_eq!((diagnosis.class, diagnosis.rule), (FaultClass::BadInput, rule), "{error}");
            assert!(error.to_string().contains(message), "{error}\nexpected {message:?}");
        }
    }
}

fn llama() -> Checkpoint {
    Checkpoint::load("Tiny-Llama-3-8B-Instruct-v1.1")
}

fn with(key: &str, value: Value) -> Checkpoint {
    llama().edit("config.json", |config| config[key] = value)
}

#[test]
fn config_numbers_have_ranges() {
    let check = |key: &str, value: Value, message: &str| {
        refused(&with(key, value), "bad-config-value", &format!("config.json: {key}: {message}"));
    };
    for key in ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"] {
        for value in [json!(0), json!(-1), json!(2.0), json!("2"), json!(1u64 << 63), json!([2])] {
            check(key, value.clone(), &format!("is {value}, expected an integer from 1"));
        }
    }
    check("num_hidden_layers", json!(1_000_000_000), "is 1000000000, expected an integer from 1");
    check("num_attention_heads", json!(3), "is 3, which does not divide hidden_size 16");
    check("num_key_value_heads", json!(4), "is 4, which does not divide num_attention_heads 2");
    check("head_dim", json!(7), "is 7, but rotary embedding needs an even number");
    check("head_dim", json!(2_000_000_000), "is 2000000000, too much for 2 heads");
    check("rms_norm_eps", json!("x"), "is \"x\", expected a finite number");
    check("rms_norm_eps", json!(1e300), "is 1e+300, expected a finite number");
    check("max_position_embeddings", json!(0), "is 0, expected an integer from 1");
    check("attention_bias", json!("no"), "is \"no\", expected true or false");
    check(
        "num_local_experts",
        json!(8),
        "is 8; this architecture is supported without experts only",
    );
    check("rope_scaling", json!(3), "is 3, expected an object");
    check("architectures", json!([]), "names no class");
    check("architectures", json!("Llama"), "is \"Llama\", expected a list of class names");
}

#[test]
fn rope_numbers_have_ranges() {
    let check = |rope: Value, message: &str| {
        refused(&with("rope_scaling", rope), "bad-config-value", message);
    };
    check(json!({"type": "linear"}), "rope_scaling.factor: is missing");
    check(json!({"type": "linear", "factor": 0}), "rope_scaling.factor: is 0, expected");
    check(json!({"type": 7}), "rope_scaling.type: is 7, expected a string");
    check(
        json!({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1.5}),
        "rope_scaling.original_max_position_embeddings: is 1.5, expected an integer",
    );
    check(
        json!({"rope_type": "llama3", "low_freq_factor": 4.0, "high_freq_factor": 3.0}),
        "rope_scaling.high_freq_factor: is 3, expected at least low_freq_factor 4",
    );
}

#[test]
fn files_that_are_missing_or_broken() {
    refused(&llama().without("config.json"), "file-missing", "config.json: no such file");
    refused(&llama().write("config.json", "{"), "invalid-json", "config.json: not valid JSON");
    refused(&llama().write("config.json", "[]"), "bad-config-value", "is not a JSON object");
    refused(&llama().without("tokenizer.json"), "file-missing", "tokenizer.json: no such file");
    let deep = "[".repeat(100_000);
    refused(&llama().write("config.json", deep), "invalid-json", "recursion limit");
    refused(
        &with("quantization_config", json!({"quant_method": "gptq"})),
        "quantized-checkpoint",
        "weights quantized by \"gptq\" are not supported",
    );
    refused(
        &with("architectures", json!(["WhisperForAudioClassification"])),
        "unsupported-architecture",
        "\"WhisperForAudioClassification\" is not supported; no known class is called like it",
    );
    refused(
        &with("architectures", json!(["Starcoder3ForCausalLM"])),
        "unsupported-architecture",
        "the nearest known are Starcoder2ForCausalLM",
    );
}

#[test]
fn tensors_are_checked_against_the_configuration() {
    let mut missing = llama();
    missing.tensors.retain(|(name, _)| !name.contains("layers.1.mlp"));
    refused(
        &missing,
        "missing-tensor",
        "model.layers.1.mlp.gate_proj.weight is missing, expected [24, 16] (num_hidden_layers is 2); \
         model.layers.1.mlp.up_proj.weight is missing",
    );

    let mut unknown = llama();
    unknown.tensors.push(("model.layers.2.input_layernorm.weight".to_owned(), vec![16]));
    unknown.tensors.push(("model.layers.0.self_attn.q_proj.bias".to_owned(), vec![16]));
    unknown.tensors.push(("visual.patch".to_owned(), vec![3, 3]));
    for message in [
        "model.layers.2.input_layernorm.weight [16] is unknown (num_hidden_layers is 2)",
        "model.layers.0.self_attn.q_proj.bias [16] is unknown (attention_bias is false)",
        "visual.patch [3, 3] is unknown",
    ] {
        refused(&unknown, "unknown-tensor", message);
    }

    refused(
        &with("vocab_size", json!(17)),
        "tensor-shape",
        "model.embed_tokens.weight is [16, 16], expected [17, 16] (vocab_size, hidden_size)",
    );
    refused(&with("intermediate_size", json!(32)), "tensor-shape", "expected [16, 32]");

    let mut twice = llama();
    twice.tensors.push(("model.norm.weight".to_owned(), vec![16]));
    refused(&twice, "duplicate-tensor", "model.norm.weight is there twice");

    let mut untied = Checkpoint::load("Qwen2-tiny")
        .edit("config.json", |config| config["tie_word_embeddings"] = json!(false));
    refused(
        &untied,
        "missing-tensor",
        "lm_head.weight is missing, expected [16, 16] (tie_word_embeddings is false)",
    );
    untied = untied.edit("config.json", |config| config["tie_word_embeddings"] = Value::Null);
    let warnings = untied.describe().expect("described").warnings;
    assert_eq!(warnings[0].rule, "output-weights-assumed-tied");
}

#[test]
fn long_lists_of_faults_are_cut() {
    let mut checkpoint = with("num_hidden_layers", json!(10_000));
    checkpoint.tensors.extend((0..50).map(|n| (format!("extra.{n:02}"), vec![1])));
    let message = checkpoint.describe().err().expect("refused").to_string();
    assert!(message.len() < 10_000, "{} characters", message.len());
    assert!(message.contains("extra.02") && !message.contains("extra.03"), "{message}");
    // 9 998 layers of 9 tensors, 50 unknown ones, 6 listed.
    assert!(message.ends_with("and 90026 more"), "{message}");
}

#[test]
fn oddities_are_told() {
    let check = |checkpoint: &Checkpoint, rule: &str| {
        let warnings = checkpoint.describe().expect("described").warnings;
        let rules: Vec<&str> = warnings.iter().map(|warning| warning.rule).collect();
        assert_eq!(rules, [rule]);
    };
    check(&with("auto_map", json!({"AutoModel": "modeling.Model"})), "auto-map-ignored");
    check(
        &llama().edit("tokenizer_config.json", |config| config["auto_map"] = json!({})),
        "auto-map-ignored",
    );
    check(&llama().write("README.md", "---\na: [\n---"), "model-card-unreadable");
    check(&llama().write("generation_config.json", "{"), "generation-config-unreadable");
    check(&with("pad_token_id", json!(-1)), "special-token-ignored");
    let mut reranker = Checkpoint::load("qwen3");
    reranker.name = Some("Qwen3-Reranker-0.6B".to_owned());
    check(&reranker, "reranker-as-language-model");
}

/// Nothing is wrong with such a checkpoint: only a GGUF file of it lacks something.
#[test]
fn a_scaling_without_a_key_is_unsaid() {
    let checkpoint = with("rope_scaling", json!({"type": "dynamic", "factor": 2}));
    let description = checkpoint.describe().expect("described");
    let rules: Vec<&str> = description.unsaid.iter().map(|warning| warning.rule).collect();
    assert!(rules.contains(&"rope-scaling-lost"), "{rules:?}");
    assert!(description.warnings.is_empty());
}

#[test]
fn pooling_modules_stay_in_the_folder() {
    let path = |path: &str| {
        let module = json!([{"type": "sentence_transformers.models.Pooling", "path": path}]);
        Checkpoint::load("qwen3").write("modules.json", module.to_string())
    };
    for name in ["../other", "/etc", "a/b", "", ".", "C:x"] {
        refused(&path(name), "bad-config-value", "expected a folder's name");
    }
    refused(&path("2_Pooling"), "file-missing", "2_Pooling/config.json: no such file");
}

#[test]
fn a_pre_tokenizer_can_be_given() {
    let give = |name: &str| ConvertOptions {
        pre_tokenizer: Some(name.to_owned()),
        ..ConvertOptions::default()
    };
    let unknown = llama().edit("tokenizer.json", |file| {
        file["pre_tokenizer"] = json!({"type": "Whitespace"});
    });
    refused(&unknown, "unknown-pre-tokenizer", "--pre-tokenizer NAME");
    let description = unknown.describe_with(&give("qwen2")).expect("described");
    assert_eq!(description.metadata.string("tokenizer.ggml.pre"), Some("qwen2"));
    let error = unknown.describe_with(&give("qwen9")).err().expect("refused");
    assert_eq!(error.diagnosis().rule, "unknown-pre-tokenizer-name");
}

#[test]
fn spare_tensors_are_left_out_where_there_is_no_place() {
    let bias = "model.layers.0.mlp.up_proj.bias";
    let options = ConvertOptions {
        spare: [bias, "model.norm.weight"].map(str::to_owned).into(),
        ..ConvertOptions::default()
    };
    let mut checkpoint = llama();
    checkpoint.tensors.push((bias.to_owned(), vec![16]));
    refused(&checkpoint, "unknown-tensor", "model.layers.0.mlp.up_proj.bias [16] is unknown");
    let description = checkpoint.describe_with(&options).expect("described");
    assert_eq!(description.ignored, [bias]);
    assert!(description.tensors.iter().any(|tensor| tensor.name == "output_norm.weight"));
}
