//! What people read, word for word. After a deliberate change run the tests with
//! `INSTA_UPDATE=always` and read the difference.

use crate::support::{Run, copy_of, edit_json, fixtures, quantize, scratch, text};

/// Compares a run's code, output and messages, with folders made neutral.
fn check(name: &str, run: &Run, folders: &[(&str, &str)]) {
    let mut shown =
        format!("exit code {}\n--- stdout\n{}--- stderr\n{}", run.code, run.stdout, run.stderr);
    for (path, stand_in) in folders {
        shown = shown.replace(path, stand_in);
    }
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, shown);
    });
}

#[test]
fn a_conversion_and_its_verification() {
    let folder = scratch();
    let source = fixtures().join("tiny/llama-tied");
    let output = folder.path().join("out.gguf");
    let folders = [(text(folder.path()), "DIR"), (text(&source), "SRC")];
    let converted = quantize(&["convert", text(&source), "--to", "q4_k_m", "-o", text(&output)]);
    check("convert", &converted, &folders);
    check(
        "convert-again",
        &quantize(&["convert", text(&source), "--to", "f16", "-o", text(&output)]),
        &folders,
    );
    check("inspect", &quantize(&["inspect", text(&output), "--tensors"]), &folders);
    check(
        "verify",
        &quantize(&["verify", text(&output), "--source", text(&source), "--verbose"]),
        &folders,
    );
    check("verify-structure", &quantize(&["verify", text(&output), "--quiet"]), &folders);
}

#[test]
fn an_error() {
    let folder = scratch();
    let checkpoint = copy_of("tiny/llama-tied", folder.path());
    edit_json(&checkpoint.join("config.json"), |config| config["intermediate_size"] = 512.into());
    let output = folder.path().join("out.gguf");
    let arguments = ["convert", text(&checkpoint), "--to", "q4_k_m", "-o", text(&output)];
    let folders = [(text(folder.path()), "DIR")];
    check("error", &quantize(&arguments), &folders);
    check("error-json", &quantize(&[&arguments[..], &["--json"]].concat()), &folders);
}

#[test]
fn the_help() {
    check("help", &quantize(&["--help"]), &[]);
    check("help-convert", &quantize(&["convert", "--help"]), &[]);
}
