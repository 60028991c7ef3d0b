//! Perplexity, from the command line.

use std::path::Path;

use crate::support::{Safetensors, copy_of, edit_json, fixtures, quantize, scratch, text};

/// Text enough for a few chunks of the tiny vocabularies.
fn write_text(folder: &Path, words: usize) -> std::path::PathBuf {
    let path = folder.join("text.txt");
    std::fs::write(&path, "The weights are numbers, and we round them. ".repeat(words))
        .expect("written");
    path
}

#[test]
fn a_trained_model_foretells_better_than_chance() {
    let folder = scratch();
    let data = write_text(folder.path(), 60);
    let model = fixtures().join("demo-llama");
    let run = |arguments: &[&str]| {
        let common = ["eval", text(&model), "--data", text(&data), "--ctx", "64", "--json"];
        quantize(&[&common, arguments].concat())
    };
    let report = run(&["--chunks", "4"]).expect_success().json();
    let perplexity = report["perplexity"]["value"].as_f64().expect("a number");
    // A repeated sentence, by a model with 1152 tokens.
    assert!((1.0..500.0).contains(&perplexity), "{perplexity}");
    assert_eq!(report["tokens"], 4 * 31);
    assert_eq!(report["chunks"], 4);
    assert_eq!(report["schema_version"], 1);

    // The same whatever the threads and the memory.
    for arguments in
        [&["--chunks", "4", "--threads", "1"][..], &["--chunks", "4", "--max-memory", "1K"]]
    {
        assert_eq!(run(arguments).expect_success().json(), report, "{arguments:?}");
    }
    // What the engine rounds costs little, and something.
    let exact = run(&["--chunks", "4", "--activations", "f32"]).expect_success().json();
    let exact = exact["perplexity"]["value"].as_f64().expect("a number");
    assert!(exact != perplexity && (exact / perplexity - 1.0).abs() < 0.05, "{exact}");

    assert_eq!(run(&["--chunks", "4", "--max-ppl", "1.5"]).code, 1);
    assert_eq!(run(&["--chunks", "4", "--max-ppl", "100000"]).code, 0);
    assert_eq!(run(&["--stride", "16", "--chunks", "4"]).expect_success().json()["tokens"], 64);
    for kv_type in ["f32", "q8_0", "q4_0"] {
        run(&["--chunks", "2", "--kv-type", kv_type]).expect_success();
    }
}

#[test]
fn every_container_and_type_is_evaluated() {
    let folder = scratch();
    let data = write_text(folder.path(), 8);
    for name in ["llama-tied", "llama-spm", "mistral", "mixtral", "qwen2", "qwen3", "sharded"] {
        let source = fixtures().join("tiny").join(name);
        let file = folder.path().join("model.gguf");
        let convert = ["convert", text(&source), "--to", "f32", "-o", text(&file), "--force"];
        quantize(&convert).expect_success();
        let perplexity = |model: &Path| {
            let arguments = ["eval", text(model), "--data", text(&data), "--ctx", "24", "--json"];
            let exact = ["--activations", "f32"];
            let report = quantize(&[&arguments[..], &exact].concat()).expect_success().json();
            report["perplexity"]["value"].as_f64().expect("a number")
        };
        // Sums over the same numbers in the same order.
        assert_eq!(perplexity(&source), perplexity(&file), "{name}");
    }
}

fn fails(arguments: &[&str], code: i32, rule: &str, tensor: Option<&str>) {
    let run = quantize(&[arguments, &["--json"]].concat());
    assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
    let error = &run.json()["error"];
    assert_eq!(error["rule"], rule, "{}", run.stderr);
    assert_eq!(error["tensor"].as_str(), tensor);
}

#[test]
fn a_text_too_short() {
    let folder = scratch();
    let data = write_text(folder.path(), 1);
    let model = fixtures().join("demo-llama");
    let arguments = ["eval", text(&model), "--data", text(&data)];
    fails(&arguments, 3, "text-too-short", None);
    fails(&[&arguments[..], &["--ctx", "2"]].concat(), 3, "context-too-short", None);
    std::fs::write(&data, b"caf\xe9").expect("written");
    fails(&arguments, 3, "not-utf-8", None);
}

#[test]
fn token_ids_that_are_none() {
    let folder = scratch();
    let model = fixtures().join("demo-llama");
    let ids = folder.path().join("ids");
    let arguments = ["eval", text(&model), "--tokens", text(&ids), "--ctx", "4"];
    std::fs::write(&ids, "[1, 2, 3, 4, 5, 6, 7, 99999999999]").expect("written");
    fails(&arguments, 3, "token-id", None);
    std::fs::write(&ids, "[1, 2, 3, 4, 5, 6, 7, 1152]").expect("written");
    fails(&arguments, 3, "token-out-of-range", Some("model.embed_tokens.weight"));
    std::fs::write(&ids, "1 2 3 4 5 6 7 8").expect("written");
    quantize(&arguments).expect_success();
}

#[test]
fn a_number_that_is_none_is_traced_to_its_tensor() {
    let folder = scratch();
    let data = write_text(folder.path(), 8);
    let model = copy_of("tiny/llama-tied", folder.path());
    let weights = model.join("model.safetensors");
    let mut file = Safetensors::read(&weights);
    let name = "model.layers.0.mlp.up_proj.weight";
    let start = file.start(name);
    file.data[start..start + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    file.write(&weights);
    let arguments = ["eval", text(&model), "--data", text(&data), "--ctx", "24"];
    fails(&arguments, 6, "non-finite-activation", Some(name));
}

#[test]
fn a_shape_that_contradicts_the_metadata() {
    let folder = scratch();
    let data = write_text(folder.path(), 8);
    let model = copy_of("tiny/qwen2", folder.path());
    edit_json(&model.join("config.json"), |config| config["num_hidden_layers"] = 2.into());
    let run = quantize(&["eval", text(&model), "--data", text(&data), "--ctx", "24"]);
    assert_eq!(run.code, 3, "{}", run.stderr);
}
