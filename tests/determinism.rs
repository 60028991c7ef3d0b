//! The same job gives the same bytes: whatever the threads, the instruction set, the locale, the
//! order of the shards, and how often it is run.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{command, copy_of, edit_json, finish, fixtures, names, scratch, text};

/// What `target` of `source` is, with these options and this locale; `None` where this machine
/// lacks the instruction set.
fn made(source: &Path, target: &str, options: &[&str], locale: &str) -> Option<Vec<Vec<u8>>> {
    let folder = scratch();
    let output = folder.path().join("out");
    let fixed = ["convert", text(source), "--to", target, "--model-name", "one", "-o"];
    let mut command = command(&[&fixed[..], &[text(&output)], options].concat());
    let run = finish(command.env("LC_ALL", locale).output().expect("the binary runs"));
    if options.first() == Some(&"--isa") && run.stderr.contains("this machine does not have") {
        return None;
    }
    run.expect_success();
    let read = |name: &String| fs::read(output.join(name)).expect("read");
    match output.is_dir() {
        true => Some(names(&output).iter().map(read).collect()),
        false => Some(vec![fs::read(&output).expect("read")]),
    }
}

#[test]
fn nothing_around_a_job_changes_its_bytes() {
    let source = fixtures().join("tiny/llama-tied");
    let check = |target: &str| {
        let expected = made(&source, target, &[], "C").expect("made");
        let same = |options: &[&str], locale: &str| {
            if let Some(found) = made(&source, target, options, locale) {
                assert!(found == expected, "{target} {options:?} {locale}");
            }
        };
        (0..3).for_each(|_| same(&[], "C"));
        ["1", "2", "3", "7"].iter().for_each(|threads| same(&["--threads", threads], "C"));
        ["baseline", "avx2", "avx512"].iter().for_each(|isa| same(&["--isa", isa], "C"));
        ["de_DE.UTF-8", "tr_TR.UTF-8", "ja_JP.eucJP"].iter().for_each(|locale| same(&[], locale));
    };
    check("q4_k_m");
    check("iq4_xs");
    check("ct:w4a16");
}

#[test]
fn shards_may_come_in_any_order() {
    const INDEX: &str = "model.safetensors.index.json";
    let folder = scratch();
    let turned = copy_of("tiny/sharded", folder.path());
    let shard = |number: usize| format!("model-{:05}-of-00003.safetensors", number % 3 + 1);
    // Each file gets the next one's name.
    let contents: Vec<Vec<u8>> =
        (0..3).map(|number| fs::read(turned.join(shard(number))).expect("read")).collect();
    for (number, content) in contents.iter().enumerate() {
        fs::write(turned.join(shard(number + 1)), content).expect("written");
    }
    let next: HashMap<String, String> =
        (0..3).map(|number| (shard(number), shard(number + 1))).collect();
    edit_json(&turned.join(INDEX), |index| {
        for file in index["weight_map"].as_object_mut().expect("an object").values_mut() {
            *file = json!(next[file.as_str().expect("a name")]);
        }
    });
    let source = fixtures().join("tiny/sharded");
    for target in ["q8_0", "safetensors:f16"] {
        let [one, other] = [&source, &turned].map(|source| made(source, target, &[], "C"));
        assert!(one == other, "{target}");
    }
}
