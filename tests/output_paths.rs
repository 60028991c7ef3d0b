//! Where outputs go.

use std::fs;
use std::path::Path;

use crate::support::{command, finish, fixtures, names, quantize, scratch, text};

const NAME: &str = "llama-tied-Q8_0.gguf";

fn convert(options: &[&str]) -> crate::support::Run {
    let source = fixtures().join("tiny/llama-tied");
    quantize(&[&["convert", text(&source)], options].concat())
}

#[test]
fn folders_get_default_names() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("there")).expect("created");
    let slash = format!("{}/", at("new/sub").display());
    for output in [text(&at("there")), &slash] {
        convert(&["--to", "q8_0", "-o", output]).expect_success();
        assert_eq!(names(Path::new(output)), [NAME]);
    }
    convert(&["--to", "q8_0", "-o", text(&at("a/b/c.gguf"))]).expect_success();
    assert_eq!(names(&at("a/b")), ["c.gguf"]);
    // A folder's artifact is the folder itself.
    convert(&["--to", "safetensors:bf16", "-o", &format!("{}/", at("d/hf").display())])
        .expect_success();
    assert!(at("d/hf/config.json").exists());
}

#[test]
fn without_a_path_outputs_are_written_here() {
    let folder = scratch();
    let source = fs::canonicalize(fixtures().join("tiny/llama-tied")).expect("there");
    let mut run = command(&["convert", text(&source), "--to", "q8_0,safetensors:bf16"]);
    finish(run.current_dir(folder.path()).output().expect("the binary runs")).expect_success();
    assert_eq!(names(folder.path()), [NAME, "llama-tied-safetensors-bf16"]);
}

#[test]
fn paths_that_make_no_sense() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("file"), "mine").expect("written");
    fs::create_dir(at("docs")).expect("created");
    fs::write(at("docs/letter.txt"), "mine").expect("written");
    let check = |targets: &str, output: &str, code: i32, expected: &str| {
        let run = convert(&["--to", targets, "-o", output]);
        assert_eq!(run.code, code, "{}", run.stderr);
        assert!(run.stderr.contains(expected), "{expected} is not in {}", run.stderr);
        assert!(!run.stderr.contains("--force"), "{}", run.stderr);
        assert_eq!(names(folder.path()), ["docs", "file"]);
    };
    check("q8_0,q4_0", &at("a.gguf"), 2, "several targets need a folder");
    check("q8_0,q4_0", &at("file"), 2, "is a file; try");
    check("q8_0", "-", 2, "not written to standard output");
    check("q8_0", &at("file/x.gguf"), 2, "file: not a folder");
    check("safetensors:bf16", &at("docs"), 5, "docs: cannot be replaced: it holds files, but not");
    check("safetensors:bf16", &at("file"), 5, "it is a file, and the output is a folder");
}

#[test]
fn folders_that_were_made_for_nothing_go_away() {
    let folder = scratch();
    let output = folder.path().join("a/b/x.gguf");
    let run = convert(&["--to", "q2_k_s", "-o", text(&output)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_gguf_file_of_another_name_is_a_warning() {
    let folder = scratch();
    let run = convert(&["--to", "q8_0", "-o", text(&folder.path().join("outq8"))]);
    let run = run.expect_success();
    assert!(run.stderr.contains("does not end in .gguf"), "{}", run.stderr);
}
