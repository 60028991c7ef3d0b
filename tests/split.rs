//! Models in several files, read and written: what llama-gguf-split makes of a
//! file is in `fixtures/demo-llama/golden-split.json` (made by
//! `fixtures/make/golden_split.py`).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::support::{
    Run, fixtures, leave_unfinished, names, quantize, scratch, survives_kills, text,
};

fn digest(path: &Path) -> String {
    format!("{:x}", Sha256::digest(fs::read(path).expect("read")))
}

fn convert(source: &Path, target: &str, output: &Path, options: &[&str]) -> Run {
    let arguments = ["convert", text(source), "--to", target, "-o", text(output), "--json"];
    quantize(&[&arguments[..], options].concat())
}

/// The demonstration model as `name.gguf` of this type.
fn demo(folder: &Path, target: &str) -> PathBuf {
    let output = folder.join(format!("{target}.gguf"));
    convert(&fixtures().join("demo-llama"), target, &output, &[]).expect_success();
    output
}

#[test]
fn parts_and_merged_files_equal_the_reference() {
    let folder = scratch();
    let bytes = fs::read(fixtures().join("demo-llama/golden-split.json")).expect("read");
    let golden: Json = serde_json::from_slice(&bytes).expect("JSON");
    let input = demo(folder.path(), "q8_0");
    assert_eq!(digest(&input), golden["input"]);
    for case in golden["cases"].as_array().expect("cases") {
        let options: Vec<&str> =
            case["options"].as_array().expect("options").iter().filter_map(Json::as_str).collect();
        let output = folder.path().join("split");
        fs::create_dir(&output).expect("created");
        let report =
            convert(&input, "copy", &output.join("part"), &options).expect_success().json();
        let parts = case["parts"].as_array().expect("parts");
        let expected: Vec<&str> = parts.iter().filter_map(|part| part["name"].as_str()).collect();
        assert_eq!(names(&output), expected, "{options:?}");
        assert_eq!(report["outputs"][0]["files"].as_array().map(Vec::len), Some(parts.len()));
        for part in parts {
            let name = part["name"].as_str().expect("a name");
            assert_eq!(digest(&output.join(name)), part["sha256"], "{options:?}: {name}");
        }
        let merged = output.join("merged.gguf");
        convert(&output.join(expected[0]), "copy", &merged, &[]).expect_success();
        assert_eq!(digest(&merged), case["merged"], "{options:?}");
        fs::remove_dir_all(output).expect("removed");
    }
}

/// Whichever part is named, and however the model is cut, the result is the same.
#[test]
fn a_set_is_one_model() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let whole = demo(folder.path(), "f16");
    convert(&whole, "q5_k_m", &at("expected.gguf"), &[]).expect_success();
    let cut = ["--split-max-tensors", "16"];
    convert(&whole, "copy", &at("a.gguf"), &cut).expect_success();
    for number in 1..=3 {
        let part = at(&format!("a-{number:05}-of-00003.gguf"));
        let output = at("out.gguf");
        convert(&part, "q5_k_m", &output, &["--force"]).expect_success();
        assert_eq!(digest(&output), digest(&at("expected.gguf")));
        let inspection = quantize(&["inspect", text(&part), "--json"]).expect_success().json();
        assert_eq!(inspection["tensors"].as_array().map(Vec::len), Some(39));
    }
    // Cut while it is quantized, and cut afterwards.
    convert(&whole, "q5_k_m", &at("b.gguf"), &cut).expect_success();
    convert(&at("expected.gguf"), "copy", &at("c.gguf"), &cut).expect_success();
    for number in 1..=3 {
        let part = |name: char| at(&format!("{name}-{number:05}-of-00003.gguf"));
        assert_eq!(digest(&part('b')), digest(&part('c')));
    }
    let part = at("b-00002-of-00003.gguf");
    quantize(&["verify", text(&part), "--source", text(&whole)]).expect_success();
    // Several targets are named after the model, not after its part.
    let (part, several) = (at("a-00002-of-00003.gguf"), at("several"));
    quantize(&["convert", text(&part), "--to", "q8_0,copy", "-o", text(&several)]).expect_success();
    assert_eq!(names(&several), ["a-COPY.gguf", "a-Q8_0.gguf"]);
}

#[test]
fn the_first_file_may_hold_the_metadata_alone() {
    let folder = scratch();
    let whole = demo(folder.path(), "q8_0");
    let options = ["--split-max-size", "2M", "--no-tensor-first-split"];
    convert(&whole, "copy", &folder.path().join("a"), &options).expect_success();
    let parts: Vec<String> =
        names(folder.path()).into_iter().filter(|name| name.starts_with("a-")).collect();
    let first = qz_gguf::GgufFile::open(folder.path().join(&parts[0])).expect("opens");
    use qz_tensor::TensorSource;
    assert!(first.tensors().is_empty() && first.metadata().len() > 10);
    let second = folder.path().join(&parts[1]);
    quantize(&["verify", text(&second), "--source", text(&whole)]).expect_success();
}

#[test]
fn plans_count_the_files() {
    let folder = scratch();
    let whole = demo(folder.path(), "q8_0");
    let options = ["--split-max-size", "1M", "--json"];
    let plan = quantize(&[&["plan", text(&whole), "--to", "copy"][..], &options].concat());
    let plan = plan.expect_success().json();
    let report = convert(&whole, "copy", &folder.path().join("a"), &options[..2]).json();
    let files = report["outputs"][0]["files"].as_array().expect("files").len();
    assert_eq!(plan["outputs"][0]["files"], files);
    assert_eq!(plan["outputs"][0]["bytes"], report["outputs"][0]["bytes"]);
}

/// A part that exists keeps the whole set away, and none is ever an input too.
#[test]
fn parts_are_protected_like_files() {
    let folder = scratch();
    let whole = demo(folder.path(), "q8_0");
    let cut = ["--split-max-tensors", "20"];
    let taken = folder.path().join("a-00002-of-00002.gguf");
    fs::write(&taken, "precious").expect("written");
    let output = folder.path().join("a.gguf");
    let run = convert(&whole, "copy", &output, &cut);
    assert_eq!((run.code, &run.json()["error"]["rule"]), (5, &"output-exists".into()));
    assert!(run.stderr.contains("a-00002-of-00002.gguf"), "{}", run.stderr);
    assert_eq!(names(folder.path()), ["a-00002-of-00002.gguf", "q8_0.gguf"]);
    convert(&whole, "copy", &output, &[&cut[..], &["--force"]].concat()).expect_success();
    let before = digest(&taken);
    let part = folder.path().join("a-00001-of-00002.gguf");
    let run =
        convert(&part, "f32", &output, &[&cut[..], &["--force", "--allow-requantize"]].concat());
    assert_eq!((run.code, &run.json()["error"]["rule"]), (5, &"output-is-input".into()));
    assert_eq!(digest(&taken), before);
}

fn part_of(set: &Path, number: u32) -> PathBuf {
    set.join(format!("a-{number:05}-of-00003.gguf"))
}

/// What is wrong with a set is said of its file, with the code for bad input.
#[test]
fn a_set_that_is_not_whole_is_refused() {
    let folder = scratch();
    let whole = demo(folder.path(), "q8_0");
    let check = |bend: &dyn Fn(&Path), rule: &str, part: &str| {
        let set = folder.path().join("set");
        fs::create_dir(&set).expect("created");
        convert(&whole, "copy", &set.join("a"), &["--split-max-tensors", "13"]).expect_success();
        bend(&set);
        let run = convert(&part_of(&set, 1), "copy", &set.join("out.gguf"), &[]);
        assert_eq!((run.code, &run.json()["error"]["rule"]), (3, &rule.into()), "{}", run.stderr);
        assert!(run.stderr.contains(part), "{}", run.stderr);
        assert!(names(&set).iter().all(|name| name.starts_with("a-")), "something was left");
        fs::remove_dir_all(set).expect("removed");
    };
    let rename = |from: PathBuf, to: PathBuf| fs::rename(from, to).expect("renamed");
    check(
        &|at| fs::remove_file(part_of(at, 3)).expect("removed"),
        "split-part-missing",
        "a-00003-of-00003.gguf",
    );
    check(
        &|at| rename(part_of(at, 2), part_of(at, 3)),
        "split-part-missing",
        "a-00002-of-00003.gguf",
    );
    check(
        &|at| assert!(fs::copy(part_of(at, 2), part_of(at, 3)).is_ok()),
        "split-number",
        "a-00003-of-00003.gguf",
    );
    let cut = |at: &Path| {
        let file = fs::OpenOptions::new().write(true).open(part_of(at, 2)).expect("opened");
        let length = file.metadata().expect("a length").len();
        file.set_len(length - 40_000).expect("cut");
    };
    check(&cut, "data-missing", "a-00002-of-00003.gguf");
}

/// Killed with some of its work written down, a run leaves the old set or none, and is
/// continued to the same one.
#[test]
fn a_killed_run_is_finished_by_the_next() {
    let folder = scratch();
    let whole = demo(folder.path(), "f16");
    let set = folder.path().join("set");
    fs::create_dir(&set).expect("created");
    let output = set.join("a.gguf");
    let arguments = ["convert", text(&whole), "--to", "q6_k", "-o", text(&output)];
    let arguments = [&arguments[..], &["--split-max-tensors", "3"]].concat();
    let digests =
        || names(&set).iter().map(|name| digest(&set.join(name))).collect::<Vec<String>>();
    quantize(&arguments).expect_success();
    let expected = digests();
    assert_eq!(expected.len(), 13);
    // The old set stays in its place meanwhile.
    let forced = [&arguments[..], &["--force"]].concat();
    leave_unfinished(&forced, &output, 3);
    let parts = || names(&set).into_iter().filter(|name| !name.ends_with(".partial"));
    let found: Vec<String> = parts().map(|name| digest(&set.join(name))).collect();
    assert_eq!(found, expected);
    survives_kills(&forced, &output, &|| assert_eq!(digests(), expected));
    fs::remove_dir_all(&set).expect("removed");
    fs::create_dir(&set).expect("created");
    survives_kills(&forced, &output, &|| assert_eq!(digests(), expected));
}
