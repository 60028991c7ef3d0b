//! Weights that a target cannot hold are told of, whatever the target.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Run, Safetensors, copy_of, leave_unfinished, quantize, scratch, text};

const WEIGHTS: usize = 256 * 256;

/// Of every kind of block, and of every packed family.
const TARGETS: &[&str] = &[
    "f16",
    "q8_0",
    "q4_0",
    "q4_1",
    "q5_1",
    "q4_k_m",
    "q2_k",
    "q3_k_s",
    "q5_k_s",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    "iq3_s",
    "tq1_0",
    "tq2_0",
    "q1_0",
    "q2_0",
    "safetensors:f16",
    "gptq:w4g128",
    "gptq:w4g128+v2+asym",
    "gptq:w8",
    "awq:w4g64",
    "ct:w4a16",
    "ct:w8a8",
    "ct:fp8",
    "ct:nvfp4",
    "ct:mxfp4",
    "ct:mxfp6a16",
    "ct:mxfp8",
    "fp8:block128",
    "fp8:block128+ue8m0",
    "fp8:tensor",
    "modelopt:nvfp4a16",
    "modelopt:fp8+channel",
    "modelopt:mxfp8",
    "bnb:nf4",
    "bnb:nf4+double",
    "bnb:int8",
    "mlx:w4g64",
];

/// A checkpoint with one matrix of these f32 weights.
fn checkpoint(folder: &Path, weight: impl Fn(usize) -> f32) -> PathBuf {
    checkpoint_with(folder, "mlp.up_proj", 256, weight)
}

/// The same with another matrix of the only layer.
fn checkpoint_with(
    folder: &Path,
    module: &str,
    rows: usize,
    weight: impl Fn(usize) -> f32,
) -> PathBuf {
    let tensor = format!("model.layers.0.{module}.weight");
    let path = copy_of("tiny/llama-tied", folder);
    let weights = path.join("model.safetensors");
    let mut file = Safetensors::read(&weights);
    // What stood there becomes a buffer that no model needs.
    let old = std::mem::take(&mut file.header[&tensor]);
    file.header["model.layers.0.attention.bias"] = old;
    let bytes: Vec<u8> = (0..rows * 256).flat_map(|at| weight(at).to_le_bytes()).collect();
    file.add(&tensor, "F32", &[rows, 256], &bytes);
    file.write(&weights);
    path
}

fn run(command: &str, model: &Path, target: &str, output: &Path, more: &[&str]) -> Run {
    // No folder takes a file's place.
    let _ = std::fs::remove_dir_all(output);
    let _ = std::fs::remove_file(output);
    let fixed = [command, text(model), "--to", target, "-o", text(output), "--force"];
    quantize(&[&fixed[..], more].concat())
}

/// True if a warning names the matrix and so many of its weights.
fn is_told(run: &Run, weights: usize) -> bool {
    let count = format!("ffn_up.weight ({weights} of {WEIGHTS})");
    run.stderr.lines().any(|line| line.starts_with("warning: ") && line.contains(&count))
}

fn verified(output: &Path, model: &Path) -> (i32, Value) {
    let run = quantize(&["verify", text(output), "--source", text(model), "--json"]);
    (run.code, run.json())
}

#[test]
fn weights_that_vanish_are_told_of_or_held() {
    let folder = scratch();
    let output = folder.path().join("out");
    let model = checkpoint(folder.path(), |at| 1e-42 * (1 + at % 7) as f32);
    let mut held = Vec::new();
    for target in TARGETS {
        let run = run("convert", &model, target, &output, &[]);
        if run.code == 6 {
            continue;
        }
        assert_eq!(run.code, 0, "{target}: {}", run.stderr);
        let (code, report) = verified(&output, &model);
        let finding = report["findings"].to_string();
        match is_told(&run, WEIGHTS) {
            true => assert!(code == 1 && finding.contains("lost-weights"), "{target}: {finding}"),
            false => {
                assert!(!finding.contains("lost-weights"), "{target}: {finding}");
                held.push(*target);
            }
        }
    }
    // Scales of 32 bits.
    assert!(held.iter().all(|target| target.contains("bnb") || target.contains("fp8")), "{held:?}");
}

/// What is too little for a finding is said all the same, and what holds it by its layout's name.
#[test]
fn few_lost_weights_are_reported() {
    let weight =
        |faint: usize| move |at: usize| if at < faint { 1e-9 } else { 0.1 * libm::sinf(at as f32) };
    let check = |faint: usize, lost: u64| {
        let folder = scratch();
        let output = folder.path().join("out");
        let model = checkpoint(folder.path(), weight(faint));
        run("convert", &model, "gptq:w4g128", &output, &[]).expect_success();
        let report = quantize(&["verify", text(&output), "--source", text(&model)]);
        let row = format!(
            "warning: weights in blocks of which more than half is lost: blk.0.ffn_up.weight ({lost}) "
        );
        let is_told = report.stdout.lines().any(|line| line.starts_with(&row));
        assert_eq!((report.code, is_told), (0, lost > 0), "{}", report.stdout);
        let (_, report) = verified(&output, &model);
        let checks = report["tensors"].as_array().expect("tensors");
        let own = checks.iter().find(|check| check["name"] == "blk.0.ffn_up.weight");
        assert_eq!(own.map(|check| &check["lost"]), Some(&lost.into()));
    };
    check(0, 0);
    check(256, 256);

    // Too few bits for a finding.
    let folder = scratch();
    let output = folder.path().join("out");
    let model = checkpoint(folder.path(), |at| 0.05 + 0.3 * libm::sinf(at as f32).abs());
    let written = run("convert", &model, "gptq:w2g64", &output, &[]).expect_success();
    let report = quantize(&["verify", text(&output), "--source", text(&model)]);
    let told = |text: &str| text.contains("blk.0.ffn_up.weight (") && text.contains("lost");
    assert_eq!((told(&written.stderr), told(&report.stdout)), (true, true), "{}", report.stdout);

    let folder = scratch();
    let output = folder.path().join("out");
    let model = checkpoint(folder.path(), |at| 1e-12 * (1 + at % 7) as f32);
    run("convert", &model, "gptq:w4g128", &output, &[]).expect_success();
    let (code, report) = verified(&output, &model);
    let findings = report["findings"].to_string();
    let expected = "is lost: GPTQ 4-bit";
    assert!(code == 1 && findings.contains(expected), "{findings}");
}

#[test]
fn tiny_and_constant_weights() {
    let folder = scratch();
    let output = folder.path().join("out");
    let tiny = folder.path().join("tiny");
    std::fs::create_dir(&tiny).expect("created");
    let model = checkpoint(&tiny, |at| 1e-12 * (at % 15) as f32 - 7e-12);
    // One in fifteen is zero, but for rounding.
    let zeros = (0..WEIGHTS).filter(|at| 1e-12 * (at % 15) as f32 - 7e-12 == 0.0).count();
    for target in ["q8_0", "q4_k_m", "tq2_0", "q1_0", "gptq:w4g128", "awq:w4g64"] {
        let run = run("convert", &model, target, &output, &[]);
        assert!(run.code == 0 && is_told(&run, WEIGHTS - zeros), "{target}: {}", run.stderr);
    }
    let model = checkpoint(folder.path(), |_| 0.5);
    let run = run("convert", &model, "awq:w4g64", &output, &[]);
    assert!(is_told(&run, WEIGHTS), "{}", run.stderr);
}

/// GPTQ's symmetric groups reach less far above zero than below: what is cut is told of, and so
/// are scales that are subnormal numbers.
#[test]
fn cut_groups_and_coarse_scales() {
    let check = |target: &str, weight: &dyn Fn(usize) -> f32| {
        let folder = scratch();
        let output = folder.path().join("out");
        let model = checkpoint(folder.path(), weight);
        let run = run("convert", &model, target, &output, &[]).expect_success();
        let warnings = run.stderr.lines().filter(|line| line.contains("ffn_up.weight"));
        let told = warnings.filter(|line| line.contains("cannot hold")).count();
        let (code, report) = verified(&output, &model);
        let is_found = report["findings"].to_string().contains("lost-weights");
        assert_eq!((told, code, is_found), (1, 1, true), "{target}: {} {report}", run.stderr);
    };
    let positive = |at: usize| 0.3 + 0.1 * libm::sinf(at as f32);
    for target in ["gptq:w4g128", "gptq:w8", "gptq:w3g128"] {
        check(target, &positive);
    }
    check("awq:w4g64", &|at| -0.5 + 1e-3 * libm::sinf(at as f32));
    for (target, size) in
        [("gptq:w4g128", 1e-7), ("q8_0", 1e-6), ("q2_k", 3e-7), ("q6_k", 3e-5), ("iq4_xs", 5e-5)]
    {
        check(target, &|at| size * libm::sinf(at as f32));
    }
}

#[test]
fn methods_tell_it_too() {
    let folder = scratch();
    let output = folder.path().join("out");
    let model = checkpoint(folder.path(), |at| 1e-12 * (1 + at % 7) as f32);
    for target in ["q4_k_m", "gptq:w4g128"] {
        let more = ["--data", "default", "--chunks", "2", "--ctx", "64"];
        let run = run("quantize", &model, target, &output, &more).expect_success();
        assert!(is_told(&run, WEIGHTS), "{target}: {}", run.stderr);
    }
}

#[test]
fn numbers_that_become_infinite_are_an_error() {
    let folder = scratch();
    let output = folder.path().join("out");
    let weight = |at| if at == 500 { f32::MAX } else { 0.02 * libm::sinf(at as f32) };
    let model = checkpoint(folder.path(), weight);
    for target in ["ct:mxfp4", "ct:nvfp4", "fp8:block128", "q8_0", "bf16"] {
        let run = run("convert", &model, target, &output, &[]);
        assert_eq!(run.code, 6, "{target}: {}", run.stderr);
        assert!(run.stderr.contains("up_proj"), "{target}: {}", run.stderr);
        assert!(!output.exists(), "{target}");
    }
}

/// Types that no file type has as its base.
#[test]
fn other_types_tell_it_too() {
    let folder = scratch();
    let output = folder.path().join("out");
    let model = checkpoint(folder.path(), |at| 1e-42 * (1 + at % 7) as f32);
    for data_type in ["mxfp4", "nvfp4", "q5_0", "iq3_s"] {
        let wish = format!("ffn_up={data_type}");
        let run = run("convert", &model, "q8_0", &output, &["--tensor-type", &wish]);
        assert!(run.code == 0 && is_told(&run, WEIGHTS), "{data_type}: {}", run.stderr);
    }
}

#[test]
fn a_continued_run_tells_of_what_the_killed_one_lost() {
    let folder = scratch();
    let rows = |at: usize| if at < 32 * 256 { 1e-9 } else { 0.5 };
    let model = checkpoint_with(folder.path(), "self_attn.k_proj", 64, rows);
    let output = folder.path().join("out.gguf");
    let arguments =
        ["convert", text(&model), "--to", "q8_0", "-o", text(&output), "--threads", "1"];
    // The matrix is the third of the file.
    leave_unfinished(&arguments, &output, 4);
    let run = quantize(&arguments).expect_success();
    assert!(run.stderr.contains("continuing, "), "{}", run.stderr);
    assert!(run.stderr.contains("attn_k.weight (8192 of 16384)"), "{}", run.stderr);
}

/// A few odd rows are no fault of the artifact.
#[test]
fn ordinary_weights_are_not_warned_of() {
    let folder = scratch();
    let output = folder.path().join("out");
    let weight = |at| if at < 256 { 1e-30 } else { 0.02 * libm::sinf(at as f32 * 0.7) };
    let model = checkpoint(folder.path(), weight);
    for target in ["q8_0", "tq2_0", "iq3_s", "gptq:w4g128", "ct:mxfp4", "fp8:tensor"] {
        let run = run("convert", &model, target, &output, &[]).expect_success();
        assert!(is_told(&run, 256) || target == "ct:mxfp4", "{target}: {}", run.stderr);
        let (_, report) = verified(&output, &model);
        assert!(!report["findings"].to_string().contains("lost-weights"), "{target}: {report}");
    }
    let run = run("convert", &crate::support::fixtures().join("demo-llama"), "tq1_0", &output, &[]);
    assert!(!run.stderr.contains("cannot hold"), "{}", run.stderr);
}
