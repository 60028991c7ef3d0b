//! Speeds: how the figures are written. The figures themselves are the machine's.

use crate::support::{Run, fixtures, quantize, text};

/// Output with each number as `#`.
fn masked(run: &Run, path: &str) -> String {
    let mut shown = String::new();
    for character in run.stdout.replace(path, "MODEL").chars() {
        let is_number = character.is_ascii_digit() || character == '.';
        match (is_number, shown.ends_with('#')) {
            (true, true) => {}
            (true, false) => shown.push('#'),
            (false, _) => shown.push(character),
        }
    }
    // Instruction sets that have a number, and those that have none.
    shown.replace("avx#", "baseline")
}

fn check(name: &str, arguments: &[&str]) {
    let run = quantize(&[&["bench", "--threads", "2"][..], arguments].concat()).expect_success();
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, masked(&run, arguments[0]));
    });
}

#[test]
fn codecs() {
    for (format, types) in [("md", "q4_k,f16"), ("csv", "q8_0"), ("json", "q8_0")] {
        check(&format!("bench-codecs-{format}"), &["--types", types, "--format", format]);
    }
}

/// Roofs are what a processor can do, in every profile: work that a compiler saw through
/// would take no time.
#[test]
fn roofs_are_within_reason() {
    let run = quantize(&["bench", "--threads", "2", "--types", "q8_0", "--json"]);
    let report = run.expect_success().json();
    let machine = &report["machine"];
    // Two units of 16 lanes with a product and a sum each, on two threads, past any clock.
    let most = 2.0 * 2.0 * 16.0 * 2.0 * 8e9;
    let speed = machine["f32_operations_per_second"].as_f64().expect("a number");
    assert!((1e8..most).contains(&speed), "{speed:e} operations per second");
    let matmul = report["codecs"][0]["matmul_operations_per_second"].as_f64().expect("a number");
    assert!(matmul > 0.001 * speed, "{matmul:e} of {speed:e}");
}

#[test]
fn a_model() {
    let model = fixtures().join("tiny/qwen2");
    let tests = [text(&model), "-p", "9", "-n", "3", "-r", "2"];
    for format in ["md", "csv", "json"] {
        check(&format!("bench-model-{format}"), &[&tests[..], &["--format", format]].concat());
    }
}

#[test]
fn figures_are_there() {
    let model = fixtures().join("demo-llama");
    let run = |arguments: &[&str]| {
        let common = ["bench", text(&model), "-r", "2", "--json"];
        quantize(&[&common, arguments].concat()).expect_success().json()
    };
    let report = run(&["-p", "6", "-n", "4"]);
    assert_eq!(report["tests"][0]["test"], "pp6");
    assert_eq!(report["tests"][1]["test"], "tg4");
    assert_eq!(report["weights"], 2_951_424);
    for test in report["tests"].as_array().expect("tests") {
        assert!(test["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
        assert_eq!(test["samples"].as_array().map(Vec::len), Some(2));
    }
    assert_eq!(run(&["-p", "0", "-n", "2"])["tests"].as_array().map(Vec::len), Some(1));
    assert_eq!(quantize(&["bench", "-p", "4"]).code, 2, "a prompt needs a model");
    assert_eq!(quantize(&["bench", "--types", "q9_9"]).code, 2);
}
