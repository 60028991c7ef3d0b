//! `quantize quantize`: what a method makes of a model, and that nothing about the run but
//! its inputs can be seen in the file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::support::{Run, command, fixtures, names, quantize, scratch, text};

fn demo() -> PathBuf {
    fixtures().join("demo-llama")
}

/// Text that the demo model can be calibrated on.
fn prose(folder: &Path) -> PathBuf {
    let path = folder.join("prose.txt");
    let line = "The clerk had counted the barrels twice, and twice had found one barrel more \
                than the book allowed; so he closed the book, and went to look for its owner.\n";
    let lines: String = (0..40).map(|number| format!("{number}. {line}")).collect();
    fs::write(&path, lines).expect("written");
    path
}

fn arguments<'a>(source: &'a Path, data: &'a Path, output: &'a Path) -> Vec<&'a str> {
    let fixed = ["--ctx", "64", "--chunks", "12", "--json"];
    let given = ["quantize", text(source), "--data", text(data), "-o", text(output)];
    [&given[..], &fixed].concat()
}

fn run(source: &Path, output: &Path, more: &[&str]) -> Run {
    let folder = scratch();
    let data = prose(folder.path());
    quantize(&[&arguments(source, &data, output)[..], more].concat())
}

#[test]
fn feedback_loses_less_than_rounding() {
    let folder = scratch();
    let output = folder.path().join("out.gguf");
    let run = run(&demo(), &output, &["--to", "q4_k_m"]).expect_success();
    let report = run.json();
    let tensors = report["outputs"][0]["methods"].as_array().expect("a list").clone();
    let layers = tensors.iter().filter(|tensor| tensor["damping"].is_number());
    assert!(layers.count() >= 7, "{report}");
    for tensor in &tensors {
        let Some(rounding) = tensor["losses"]["rounding"].as_f64() else { continue };
        let result = tensor["losses"]["result"].as_f64().expect("a number");
        assert!(result < rounding, "{tensor}");
    }
    quantize(&["verify", text(&output), "--source", text(&demo())]).expect_success();
}

#[test]
fn packed_floats_lose_less_than_rounding() {
    for target in ["bnb:nf4", "bnb:fp4+double", "ct:nvfp4", "ct:mxfp4", "fp8:block128", "mlx:w4g64"]
    {
        let folder = scratch();
        let output = folder.path().join("out");
        let report = run(&demo(), &output, &["--to", target]).expect_success().json();
        let tensors = report["outputs"][0]["methods"].as_array().expect("a list").clone();
        assert_eq!(tensors.len(), 28, "{target}: {report}");
        for tensor in &tensors {
            let loss = |of: &str| tensor["losses"][of].as_f64().expect("a number");
            assert!(tensor["damping"].is_number(), "{target}: {tensor}");
            assert!(loss("result") < loss("rounding"), "{target}: {tensor}");
        }
        // What was written is read, and is near the source.
        quantize(&["verify", text(&output), "--source", text(&demo())]).expect_success();
    }
}

#[test]
fn threads_change_no_byte() {
    let folder = scratch();
    let file = |threads: &str| {
        let output = folder.path().join(format!("{threads}.gguf"));
        run(&demo(), &output, &["--to", "q3_k_s", "--threads", threads]).expect_success();
        fs::read(output).expect("read")
    };
    assert!(file("1") == file("3"));
}

#[test]
fn a_killed_run_is_finished_by_the_next() {
    let folder = scratch();
    let data = prose(folder.path());
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let arguments = [&arguments(&source, &data, &output)[..], &["--to", "q5_k_s"]].concat();
    quantize(&arguments).expect_success();
    let expected = fs::read(&output).expect("read");
    fs::remove_file(&output).expect("removed");
    for milliseconds in [50, 100, 200, 400, 800] {
        let mut child = command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        thread::sleep(Duration::from_millis(milliseconds));
        let _ = child.kill();
        child.wait().expect("waited");
        if output.exists() {
            assert!(fs::read(&output).expect("read") == expected, "after {milliseconds} ms");
            fs::remove_file(&output).expect("removed");
        }
    }
    quantize(&arguments).expect_success();
    assert!(fs::read(&output).expect("read") == expected);
    assert_eq!(names(folder.path()), ["out.gguf", "prose.txt"]);
}

#[test]
fn plain_rounding_is_what_convert_does() {
    let folder = scratch();
    let [method, converted] =
        ["method.gguf", "converted.gguf"].map(|name| folder.path().join(name));
    let source = demo();
    let to = ["--to", "q4_k_m"];
    let by_method = ["quantize", text(&source), "--method", "rtn", "-o", text(&method)];
    quantize(&[&by_method[..], &to].concat()).expect_success();
    let by_convert = ["convert", text(&source), "-o", text(&converted)];
    quantize(&[&by_convert[..], &to].concat()).expect_success();
    assert!(fs::read(method).expect("read") == fs::read(converted).expect("read"));
}

#[test]
fn experts_and_several_targets() {
    let folder = scratch();
    let output = folder.path().join("out");
    let source = fixtures().join("tiny/mixtral");
    let data = folder.path().join("tokens.txt");
    let tokens: Vec<String> = (0..600).map(|token| (token * 7 % 250).to_string()).collect();
    fs::write(&data, tokens.join(" ")).expect("written");
    let given = ["quantize", text(&source), "--tokens", text(&data), "--ctx", "32", "--json"];
    let rest = ["--to", "q4_0,iq4_nl", "-o", text(&output)];
    let report = quantize(&[&given[..], &rest].concat()).expect_success().json();
    for target in 0..2 {
        let tensors = report["outputs"][target]["methods"].as_array().expect("a list");
        let experts = tensors.iter().filter(|tensor| tensor["expert"].is_number()).count();
        assert!(experts > 0 && experts.is_multiple_of(3), "{report}");
    }
    assert_eq!(names(&output), ["mixtral-IQ4_NL.gguf", "mixtral-Q4_0.gguf"]);
}

#[test]
fn refusals() {
    let folder = scratch();
    let source = demo();
    let output = folder.path().join("out.gguf");
    let check = |arguments: &[&str], code: i32, expected: &str| {
        let given = ["quantize", text(&source), "-o", text(&output)];
        let run = quantize(&[&given[..], arguments].concat());
        assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{arguments:?}: {}", run.stderr);
        assert!(names(folder.path()).iter().all(|name| name != "out.gguf"), "{arguments:?}");
    };
    let short = folder.path().join("short.txt");
    fs::write(&short, "Too short.").expect("written");
    check(&["--to", "q4_k_m"], 3, "no text");
    check(&["--to", "q4_k_m", "--data", text(&short)], 3, "tokens");
    check(&["--to", "safetensors:f16", "--data", text(&short)], 5, "safetensors:f16");
    check(&["--to", "bnb:int8", "--data", text(&short)], 5, "bnb:int8 has no values");
    check(&["--to", "q4_k_m", "--method", "magic"], 2, "rtn, imatrix, gptq");
}
