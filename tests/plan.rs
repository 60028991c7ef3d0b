//! `plan` says what `convert` does, and writes nothing.

use serde_json::{Value, json};

use crate::support::{fixtures, names, quantize, scratch, text};

#[test]
fn a_plan_is_what_convert_writes() {
    let folder = scratch();
    let source = fixtures().join("demo-llama");
    let importance = source.join("importance.gguf");
    let options = ["--imatrix", text(&importance), "--tensor-type", "attn_v=q8_0"];
    for target in ["bf16", "q8_0", "q4_k_m", "q2_k_s"] {
        let common = [&[text(&source), "--to", target, "--json"], &options[..]].concat();
        let plan = quantize(&[&["plan"], &common[..]].concat()).expect_success().json();
        assert_eq!(plan["schema_version"], 1);
        let planned = &plan["outputs"][0];
        assert!(names(folder.path()).is_empty(), "a plan wrote something");

        let output = folder.path().join("out.gguf");
        let arguments = [&["convert"], &common[..], &["-o", text(&output)]].concat();
        let report = quantize(&arguments).expect_success().json();
        let written = &report["outputs"][0];
        for key in ["target", "bytes", "bits_per_weight", "fallbacks"] {
            assert_eq!(planned[key], written[key], "{target} {key}");
        }
        for key in ["name", "shape", "from", "type", "bytes"] {
            let of = |report: &Value| -> Vec<Value> {
                report["tensors"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|t| t[key].clone())
                    .collect()
            };
            assert_eq!(of(planned), of(written), "{target} {key}");
        }
        std::fs::remove_file(output).expect("removed");
    }
}

#[test]
fn a_plan_says_why() {
    let source = fixtures().join("demo-llama");
    let arguments = ["plan", text(&source), "--to", "q3_k_m", "--tensor-type", "blk.0.*up=q6_k"];
    let plan = quantize(&[&arguments[..], &["--json"]].concat()).expect_success().json();
    let tensors = plan["outputs"][0]["tensors"].as_array().expect("a list");
    let check = |name: &str, data_type: &str, reason: &str, detail: Value| {
        let tensor = tensors.iter().find(|tensor| tensor["name"] == name).expect("a tensor");
        let found = (&tensor["type"], &tensor["reason"], &tensor["detail"]);
        assert_eq!(found, (&json!(data_type), &json!(reason), &detail), "{name}");
    };
    check("output.weight", "Q6_K", "output", Value::Null);
    check("token_embd.weight", "Q3_K", "base", Value::Null);
    check("blk.0.attn_norm.weight", "F32", "kept", Value::Null);
    check("blk.1.attn_v.weight", "Q5_K", "rule", json!("attn_v: first 2"));
    check("blk.2.attn_v.weight", "Q4_K", "rule", json!("attn_v"));
    check("blk.0.ffn_up.weight", "Q6_K", "override", json!("blk.0.*up=Q6_K"));
    assert!(plan["seconds"]["value"].as_f64().expect("a number") > 0.0);
    assert!(plan["peak_memory_bytes"].as_u64().expect("a number") > 1 << 20);
    let shown = quantize(&[&arguments[..], &["-v"]].concat()).expect_success().stdout;
    for expected in ["rule (attn_v: first 2)", "bits per weight", "encoding", "memory"] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
}

#[test]
fn a_plan_lists_what_needs_importance() {
    let source = fixtures().join("demo-llama");
    let plan =
        quantize(&["plan", text(&source), "--to", "q2_k_s", "--json"]).expect_success().json();
    let missing = plan["missing_importance"].as_array().expect("a list");
    assert!(missing.contains(&json!({"tensor": "blk.3.ffn_up.weight", "type": "Q2_K"})));
    let run = quantize(&["plan", text(&source), "--to", "q2_k_s"]).expect_success();
    let expected = format!(" (Q2_K) and {} more\n", missing.len() - 1);
    assert!(run.stdout.contains(&expected), "{}", run.stdout);
    let run = quantize(&["plan", text(&source), "--to", "q2_k_s", "-v"]).expect_success();
    assert!(run.stdout.contains("blk.3.ffn_up.weight (Q2_K)"), "{}", run.stdout);
}
