//! What the reference wrote is what we describe: every key, its type, its value
//! and its place; every tensor, its shape and the order of its rows.

use qz_models::{TensorOrigin, TensorRecipe};
use qz_tensor::{Array, Value};
use serde_json::{Value as Json, json};

use crate::support::Checkpoint;

fn check(name: &str) {
    let checkpoint = Checkpoint::load(name);
    let expected = checkpoint.json("expected.json");
    let description = checkpoint.describe().unwrap_or_else(|error| panic!("{name}: {error}"));
    let metadata: Vec<Json> = description
        .metadata
        .iter()
        .map(|(key, value)| {
            let (kind, value) = shown(value);
            json!([key, kind, value])
        })
        .collect();
    for (position, expected) in entries(&expected["metadata"]).iter().enumerate() {
        assert_eq!(metadata.get(position), Some(expected), "{name}: entry {position}");
    }
    assert_eq!(metadata.len(), entries(&expected["metadata"]).len(), "{name}");
    let tensors: Vec<Json> = description.tensors.iter().map(tensor).collect();
    for (position, expected) in entries(&expected["tensors"]).iter().enumerate() {
        assert_eq!(tensors.get(position), Some(expected), "{name}: tensor {position}");
    }
    assert_eq!(tensors.len(), entries(&expected["tensors"]).len(), "{name}");
    let rules: Vec<&str> = description.unsaid.iter().map(|warning| warning.rule).collect();
    assert_eq!(rules, told_of(name), "{name}");
    assert!(description.warnings.is_empty(), "{name}");
}

/// What of a checkpoint GGUF cannot say, as far as there is such.
fn told_of(name: &str) -> &'static [&'static str] {
    match name {
        "Mixtral-tiny-v0.1" => &["byte-tokens-missing", "merges-lost"],
        "mistral" => &["sliding-window-lost"],
        // Added tokens with letters that stand for a space.
        "Tiny-Llama-3-8B-Instruct-v1.1" => &["token-text-changed"],
        // NFC.
        "Qwen2-tiny" | "qwen3" => &["tokenizer-part-lost"],
        _ => &[],
    }
}

fn entries(list: &Json) -> &[Json] {
    list.as_array().expect("a list")
}

fn shown(value: &Value) -> (&'static str, Json) {
    match value {
        Value::U32(value) => ("uint32", json!(value)),
        Value::I32(value) => ("int32", json!(value)),
        Value::F32(value) => ("float32", json!(f64::from(*value))),
        Value::Bool(value) => ("bool", json!(value)),
        Value::String(value) => ("string", json!(value)),
        Value::Array(Array::String(values)) => {
            ("array of string", json!(values.iter().collect::<Vec<_>>()))
        }
        Value::Array(Array::F32(values)) => {
            let values: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
            ("array of float32", json!(values))
        }
        Value::Array(Array::I32(values)) => ("array of int32", json!(values)),
        other => panic!("unexpected {:?}", other.kind()),
    }
}

/// Name, shape and first column, where the source's elements are row numbers.
fn tensor(recipe: &TensorRecipe) -> Json {
    let dimensions = recipe.shape.dimensions();
    let column: Vec<f64> = match &recipe.origin {
        TensorOrigin::Computed(values) => values.iter().map(|value| f64::from(*value)).collect(),
        TensorOrigin::Mapped(map) => {
            let rows = dimensions[..dimensions.len().max(2) - 1].iter().product();
            let stored = |row| map.rows.locate(map.change().order.source_row(row)).0.first_row;
            (0..rows).map(|row| stored(row) as f64).collect()
        }
    };
    json!([recipe.name, dimensions, column])
}

#[test]
fn llama_3() {
    check("Tiny-Llama-3-8B-Instruct-v1.1");
}

#[test]
fn mistral() {
    check("mistral");
}

#[test]
fn mixtral_with_six_experts() {
    check("Mixtral-tiny-v0.1");
}

#[test]
fn qwen_2() {
    check("Qwen2-tiny");
}

#[test]
fn qwen_3() {
    check("qwen3");
}

/// The tensors that a stack takes rows from, with the first row of each run.
fn slices(tensors: &[TensorRecipe], name: &str) -> Vec<(usize, u64)> {
    let recipe = tensors.iter().find(|tensor| tensor.name == name).expect("a tensor");
    match &recipe.origin {
        TensorOrigin::Mapped(map) => {
            map.rows.slices().iter().map(|slice| (slice.tensor.0, slice.first_row)).collect()
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn experts_come_from_their_own_tensors() {
    let checkpoint = Checkpoint::load("Mixtral-tiny-v0.1");
    let description = checkpoint.describe().expect("described");
    for (gguf, hugging_face) in [("gate", "w1"), ("down", "w2"), ("up", "w3")] {
        let found = slices(&description.tensors, &format!("blk.0.ffn_{gguf}_exps.weight"));
        let names: Vec<&str> =
            found.iter().map(|(tensor, _)| checkpoint.tensors[*tensor].0.as_str()).collect();
        let expected: Vec<String> = (0..6)
            .map(|expert| {
                format!("model.layers.0.block_sparse_moe.experts.{expert}.{hugging_face}.weight")
            })
            .collect();
        assert_eq!(names, expected);
        assert!(found.iter().all(|(_, first_row)| *first_row == 0));
    }
}

#[test]
fn fused_experts_are_cut_in_halves() {
    let mut checkpoint = Checkpoint::load("Mixtral-tiny-v0.1");
    checkpoint.tensors.retain(|(name, _)| !name.contains("block_sparse_moe"));
    let fused = checkpoint.tensors.len();
    for (name, shape) in [
        ("experts.gate_up_proj", vec![6, 16, 16]),
        ("experts.down_proj", vec![6, 16, 8]),
        ("gate.weight", vec![6, 16]),
    ] {
        checkpoint.tensors.push((format!("model.layers.0.mlp.{name}"), shape));
    }
    let description = checkpoint.describe().expect("described");
    let runs = |skipped: u64| (0..6).map(|expert| (fused, expert * 16 + skipped)).collect();
    let halves: [Vec<(usize, u64)>; 2] = [runs(0), runs(8)];
    assert_eq!(slices(&description.tensors, "blk.0.ffn_gate_exps.weight"), halves[0]);
    assert_eq!(slices(&description.tensors, "blk.0.ffn_up_exps.weight"), halves[1]);
    let names = |description: &qz_models::ModelDescription| {
        let mut names: Vec<(String, Vec<u64>)> = description
            .tensors
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.shape.dimensions().to_vec()))
            .collect();
        names.sort();
        names
    };
    let plain = Checkpoint::load("Mixtral-tiny-v0.1").describe().expect("described");
    assert_eq!(names(&description), names(&plain));
}

#[test]
fn configuration_of_an_unknown_kind() {
    check("unknown-model-type");
}

#[test]
fn names_of_a_bare_decoder_mean_the_same() {
    let checkpoint = Checkpoint::load("qwen3");
    let whole = checkpoint.describe().expect("described");
    let mut bare = Checkpoint::load("qwen3");
    for (name, _) in &mut bare.tensors {
        *name = name.trim_start_matches("model.").to_owned();
    }
    let bare = bare.describe().expect("described");
    let names = |tensors: &[TensorRecipe]| {
        let mut names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&bare.tensors), names(&whole.tensors));
}

#[test]
fn buffers_are_ignored() {
    let mut checkpoint = Checkpoint::load("mistral");
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    checkpoint.tensors.push((name.to_owned(), vec![4]));
    assert_eq!(checkpoint.describe().expect("described").ignored, [name]);
}

#[test]
fn a_model_name_can_be_given() {
    let options =
        qz_models::ConvertOptions { model_name: Some("Mine".to_owned()), ..Default::default() };
    let description = Checkpoint::load("mistral").describe_with(&options).expect("described");
    assert_eq!(description.metadata.string("general.name"), Some("Mine"));
}
