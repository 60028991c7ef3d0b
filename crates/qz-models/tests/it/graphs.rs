//! Metadata that asks for something that is not computed, or contradicts itself.

use qz_models::graph::ModelGraph;
use qz_tensor::{Array, Location, Metadata, Value};

/// Keys of a model that is computed, without the name of its architecture.
const LLAMA: &[(&str, u32)] = &[
    ("block_count", 4),
    ("embedding_length", 64),
    ("feed_forward_length", 96),
    ("attention.head_count", 4),
    ("attention.head_count_kv", 2),
];
const MIXED: &[(&str, u32)] = &[
    ("expert_count", 6),
    ("expert_used_count", 2),
    ("expert_feed_forward_length", 32),
    ("attention.kv_lora_rank", 32),
    ("attention.key_length_mla", 48),
    ("attention.value_length_mla", 32),
    ("rope.dimension_count", 16),
    ("leading_dense_block_count", 1),
];

fn read(name: &str, changes: &[(&str, Value)]) -> Result<ModelGraph, String> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", name);
    let more = if name == "deepseek2" { MIXED } else { &[] };
    for (key, value) in LLAMA.iter().chain(more) {
        metadata.set(format!("{name}.{key}"), *value);
    }
    metadata.set(format!("{name}.attention.layer_norm_rms_epsilon"), 1e-6f32);
    for (key, value) in changes {
        metadata.set(format!("{name}.{key}"), value.clone());
    }
    let graph = ModelGraph::read(&metadata, None, &Location::file("model.gguf"));
    graph.map(|(_, graph)| graph).map_err(|error| error.to_string())
}

#[test]
fn what_is_not_computed_is_refused() {
    let check = |name: &str, key: &str, value: Value, problem: &str| {
        let window = ("attention.sliding_window", Value::from(16u32));
        let changes: &[_] =
            if name == "gemma3" { &[window, (key, value)] } else { &[(key, value)] };
        let error = read(name, changes).expect_err("refused");
        assert!(error.contains(&format!("{name}.{key}")), "{error}");
        assert!(error.contains(problem), "{error}");
    };
    let changes = "changes what the model computes";
    check("llama", "attn_logit_softcapping", 50.0f32.into(), changes);
    check("llama", "leading_dense_block_count", 1u32.into(), changes);
    check("llama", "attention.scale", 0.5f32.into(), changes);
    check("llama", "attention.causal", false.into(), "both directions");
    check("llama", "rope.dimension_count", 18u32.into(), "more than a head has");
    check("llama", "rope.dimension_count", 7u32.into(), "odd");
    check("llama", "attention.head_count_kv", 3u32.into(), "does not divide");
    check("gemma2", "logit_scale", 2.0f32.into(), changes);
    let flags = Value::Array(Array::Bool(vec![true; 3]));
    check("gemma3", "attention.sliding_window_pattern", flags, "no list of 4 flags");
    check("deepseek2", "expert_group_count", 4u32.into(), "does not divide the experts");
    check("deepseek2", "expert_gating_func", 4u32.into(), "not supported");
    check("deepseek2", "rope.dimension_count", 48u32.into(), "key_length_mla");
    check("deepseek2", "leading_dense_block_count", 5u32.into(), "layers without experts");
}

#[test]
fn layers_see_windows_as_the_file_says() {
    let windows = |changes: &[(&str, Value)]| -> Vec<bool> {
        let graph = read("gemma3", changes).expect("a graph");
        graph.layers.iter().map(|layer| layer.sees_window()).collect()
    };
    let window = ("attention.sliding_window", Value::from(16u32));
    assert_eq!(windows(&[]), [false; 4]);
    assert_eq!(windows(std::slice::from_ref(&window)), [true; 4]);
    let pattern = |value: Value| ("attention.sliding_window_pattern", value);
    let period = pattern(2u32.into());
    assert_eq!(windows(&[window.clone(), period]), [true, false, true, false]);
    let flags = pattern(Value::Array(Array::Bool(vec![false, true, true, false])));
    assert_eq!(windows(&[window, flags]), [false, true, true, false]);
}
