//! Links in a model's folder: what they may lead to, for weights and for the files beside them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{copy_of, fixtures, names, quantize, scratch, text};

/// Converts `model`, for the code, the broken rule, and the names of what was written.
fn convert(model: &Path, to: &str) -> (i32, serde_json::Value, Vec<String>, String) {
    let folder = scratch();
    let output = folder.path().join("out");
    let arguments = ["convert", text(model), "--to", to, "-o", text(&output), "--json"];
    let run = quantize(&arguments);
    let rule = run.json()["error"]["rule"].clone();
    (run.code, rule, names(folder.path()), run.stderr)
}

#[test]
fn files_outside_the_folder_get_into_no_artifact() {
    let check = |name: &str, to: &str, content: &str| {
        let folder = scratch();
        let model = copy_of("tiny/llama-tied", folder.path());
        let secret = folder.path().join("secret");
        fs::write(&secret, content).expect("written");
        let _ = fs::remove_file(model.join(name));
        symlink(&secret, model.join(name)).expect("linked");
        let (code, rule, written, stderr) = convert(&model, to);
        assert_eq!((code, rule), (5, json!("outside-folder")), "{name}, {to}: {stderr}");
        assert!(stderr.contains(name), "{stderr}");
        assert_eq!(written, [""; 0]);
    };
    check("chat_template.jinja", "f16", "secret");
    check("README.md", "f16", "---\nlicense: secret\n---\n");
    for name in ["chat_template.jinja", "LICENSE", "notes.txt", "generation_config.json"] {
        check(name, "safetensors:f16", "secret");
    }
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        check(name, "f16", "{}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_named() {
    let check = |name: &str, to: &str| {
        let folder = scratch();
        let model = copy_of("tiny/llama-tied", folder.path());
        let _ = fs::remove_file(model.join(name));
        symlink("nowhere", model.join(name)).expect("linked");
        let (code, rule, written, stderr) = convert(&model, to);
        assert_eq!((code, rule), (3, json!("dangling-link")), "{name}: {stderr}");
        assert!(stderr.contains(name), "{stderr}");
        assert_eq!(written, [""; 0]);
    };
    for name in ["special_tokens_map.json", "LICENSE", "tokenizer.json", "config.json"] {
        check(name, "safetensors:f16");
    }
    check("model.safetensors", "f16");
}

/// A link that is not needed is nobody's concern.
#[test]
fn other_links_are_left_alone() {
    let folder = scratch();
    let model = copy_of("tiny/llama-tied", folder.path());
    fs::create_dir(folder.path().join("elsewhere")).expect("created");
    for (name, end) in [("assets", "../elsewhere"), ("optimizer.bin", "../elsewhere/absent")] {
        symlink(end, model.join(name)).expect("linked");
    }
    fs::rename(model.join("tokenizer.json"), model.join("one.json")).expect("renamed");
    symlink("one.json", model.join("tokenizer.json")).expect("linked");
    let (code, _, written, stderr) = convert(&model, "safetensors:f16");
    assert_eq!((code, written), (0, vec!["out".to_owned()]), "{stderr}");
}

/// The hub's cache keeps files as blobs, of one repository or of all.
#[test]
fn links_of_the_hubs_cache_are_followed() {
    let check = |is_shared: bool| {
        let folder = scratch();
        let repository = folder.path().join("models--a--b");
        let snapshot = repository.join("snapshots/1");
        let [blobs, shared]: [PathBuf; 2] =
            [repository.join("blobs"), folder.path().join("blobs/xx")];
        for path in [&snapshot, &blobs, &shared] {
            fs::create_dir_all(path).expect("created");
        }
        let fixture = fixtures().join("tiny/llama-tied");
        for name in names(&fixture) {
            let content = if is_shared { shared.join(&name) } else { blobs.join(&name) };
            fs::copy(fixture.join(&name), content).expect("copied");
            if is_shared {
                let end = format!("../../blobs/xx/{name}");
                symlink(end, blobs.join(&name)).expect("linked");
            }
            symlink(format!("../../blobs/{name}"), snapshot.join(&name)).expect("linked");
        }
        for to in ["f16", "safetensors:f16"] {
            let (code, _, _, stderr) = convert(&snapshot, to);
            assert_eq!(code, 0, "{to}: {stderr}");
        }
    };
    check(false);
    check(true);
}
