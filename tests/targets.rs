//! What can be written, and what is said where it cannot.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{fixtures, names, quantize, scratch, text};

/// `tiny/llama-spm`: 64 inputs.
fn narrow() -> std::path::PathBuf {
    fixtures().join("tiny/llama-spm")
}

#[test]
fn all_targets_that_cannot_be_written_are_reported_at_once() {
    let folder = scratch();
    let output = folder.path().join("new/out");
    for command in [&["convert"][..], &["quantize", "--data", "default"], &["plan"]] {
        let targets = "q4_k_m,gptq:w4g128,ct:w4a16,q4km,awq";
        let source = narrow();
        let mut arguments = [command, &[text(&source), "--to", targets]].concat();
        if command[0] != "plan" {
            arguments.extend(["-o", text(&output)]);
        }
        let run = quantize(&arguments);
        assert_eq!(run.code, 2, "{}", run.stderr);
        for expected in [
            "4 targets cannot be written; nothing was:",
            "gptq:w4g128 cannot hold it: 64 inputs",
            "gptq:w4g32 and gptq:w4 fit this model",
            "ct:w4a16+g32 and ct:w4a16+channel fit this model",
            "no such target: q4km; did you mean q4_k_m?",
            "no such target: awq; awq needs 4 bits and a group: awq:w4g128",
            "awq:w4g32 and awq:w4 fit this model",
        ] {
            assert!(run.stderr.contains(expected), "{expected} is not in:\n{}", run.stderr);
        }
        assert!(run.stderr.lines().count() <= 8, "{}", run.stderr);
        assert!(names(folder.path()).is_empty());
    }
}

#[test]
fn an_unknown_type_is_one_short_message() {
    let folder = scratch();
    let (source, output) = (narrow(), folder.path().join("x.gguf"));
    let check = |arguments: &[&str], expected: &str| {
        let common = ["convert", text(&source), "-o", text(&output)];
        let run = quantize(&[&common[..], arguments].concat());
        assert_eq!(run.code, 2, "{}", run.stderr);
        assert!(run.stderr.contains(expected), "{expected} is not in:\n{}", run.stderr);
        assert!(run.stderr.len() < 500, "{}", run.stderr);
        assert!(names(folder.path()).is_empty());
    };
    check(&["--to", "q4km"], "error: no such target: q4km; did you mean q4_k_m?");
    check(&["--to", "gptq"], "gptq needs bits and group: gptq:w4g128");
    check(&["--to", "q8_0", "--tensor-type", "attn=q4km"], "did you mean q4_k?");
    check(&["--to", "q8_0", "--output-tensor-type", "q6k_"], "did you mean q6_k?");
    check(&["--to", "q8_0", "--token-embedding-type", "q4_k_m"], "its base is q4_k");
    let run = quantize(&["bench", "--types", "q80"]);
    assert!(run.code == 2 && run.stderr.contains("did you mean q8_0?"), "{}", run.stderr);
    // A model that is not there does not hide the typing error.
    let run = quantize(&["convert", "nowhere", "--to", "q9", "--json"]);
    assert_eq!((run.code, &run.json()["error"]["rule"]), (2, &"unknown-target".into()));
}

#[test]
fn targets_are_listed() {
    let shown = quantize(&["targets"]).expect_success().stdout;
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for expected in ["q4_k_m", "4.89", "gptq:w4g128", "128s", "16s, --data", "vllm, sglang"] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    let source = narrow();
    let of_model = quantize(&["targets", text(&source)]).expect_success().stdout;
    for line in of_model.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let words = of_model.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "no (1): blk.0.attn_k.weight: a row of 64 weights",
        "no (2): copy is for GGUF models",
        "no (3): 64 inputs are not a multiple of the group 128",
    ] {
        assert!(words.contains(expected), "{expected} is not in\n{of_model}");
    }
    let of_mlx = quantize(&["targets", "--for", "mlx"]).expect_success().stdout;
    let lists = |name: &str| of_mlx.lines().any(|line| line.starts_with(name));
    assert!(lists("mlx:w4g64") && !lists("gptq"), "{of_mlx}");
}

/// Whoever is listed passes `verify --for` what was written; whoever is not does not.
#[test]
fn who_is_listed_is_who_verify_passes() {
    const ENGINES: [&str; 5] = ["vllm", "sglang", "transformers", "llama.cpp", "mlx"];
    let folder = scratch();
    let check = |source: &Path| {
        let name = source.file_name().and_then(|name| name.to_str()).expect("a name");
        let output = folder.path().join(name);
        let report = quantize(&["targets", text(source), "--json"]).expect_success().json();
        let targets = report["targets"].as_array().expect("a list");
        let is_written = |target: &&Value| {
            let name = target["target"].as_str().expect("a name");
            target["model"]["fits"] == true && (name.contains(':') || name == "q8_0")
        };
        let targets: Vec<&Value> = targets.iter().filter(is_written).collect();
        let names: Vec<&str> = targets.iter().filter_map(|one| one["target"].as_str()).collect();
        let to = names.join(",");
        let tokens = folder.path().join("tokens");
        fs::write(&tokens, "3 1 4 1 5 9").expect("written");
        // Some store what a text tells.
        let reads = ["--tokens", text(&tokens), "--ctx", "3", "--method", "rtn", "--json"];
        let given = ["quantize", text(source), "--to", &to, "-o", text(&output)];
        let written = quantize(&[&given[..], &reads].concat()).expect_success().json();
        let written = written["outputs"].as_array().expect("a list");
        assert_eq!(written.len(), targets.len());
        for (target, written) in targets.iter().zip(written) {
            let path = written["path"].as_str().expect("a path");
            let listed = target["loaded_by"].as_array().expect("a list");
            for engine in ENGINES {
                let run = quantize(&["verify", path, "--for", engine, "--json"]);
                let report = run.json();
                let passes = run.code == 0 && report["engine"]["has_rules"] == true;
                assert_eq!(passes, listed.contains(&engine.into()), "{engine} {target}\n{report}");
            }
        }
    };
    check(&narrow());
    check(&fixtures().join("demo-llama"));
}

#[test]
fn targets_say_what_fits_a_model() {
    let source = narrow();
    let report = quantize(&["targets", text(&source), "--json"]).expect_success().json();
    let check = |target: &str, fits: bool, fallbacks: bool| {
        let all = report["targets"].as_array().expect("a list");
        let found: &Value = all.iter().find(|one| one["target"] == target).expect("listed");
        assert_eq!(found["model"]["fits"], fits, "{found}");
        assert_eq!(found["model"]["fallbacks"].as_u64() > Some(0), fallbacks, "{found}");
        assert_eq!(found["model"]["why_not"].is_null(), fits, "{found}");
    };
    check("gptq:w4g128", false, false);
    check("gptq:w4", true, false);
    check("q8_0", true, false);
    check("q4_k_m", true, true);
}

#[test]
fn fallbacks_are_one_line_for_each_kind() {
    let folder = scratch();
    let (source, output) = (narrow(), folder.path().join("x.gguf"));
    let arguments = ["convert", text(&source), "--to", "q4_k_m", "-o", text(&output)];
    let run = quantize(&arguments).expect_success();
    let lines: Vec<&str> = run.stdout.lines().collect();
    let kinds = lines.iter().filter(|line| line.contains("do not fill"));
    assert!((1..=4).contains(&kinds.count()), "{}", run.stdout);
    assert!(lines.last().is_some_and(|line| line.starts_with("q4_k_m ")), "{}", run.stdout);
    let run = quantize(&[&arguments[..], &["-v", "--force"]].concat()).expect_success();
    assert!(run.stdout.contains("q4_k_m: blk.0.attn_k.weight: rows of 64"), "{}", run.stdout);
    let quiet = quantize(&[&arguments[..], &["-q", "--force"]].concat()).expect_success();
    assert!(quiet.stderr.is_empty() && !quiet.stdout.contains("do not fill"), "{}", quiet.stdout);
}
