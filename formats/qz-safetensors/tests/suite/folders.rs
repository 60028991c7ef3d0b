//! Model folders: which files are opened, and what index and shards must agree on.

use std::fs;
use std::path::Path;

use qz_safetensors::{Error, SafetensorsModel};
use qz_tensor::{Diagnose, FaultClass, TensorSource, Value};

use crate::support::{bytes_named, contents, file, names, write};

const INDEX: &str = "model.safetensors.index.json";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// An index of these tensors and shards.
fn index(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> =
        entries.iter().map(|(tensor, shard)| format!("{tensor:?}:{shard:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, entries.join(","))
}

/// Opening fails with `rule`; returns the message.
#[track_caller]
fn check_class(path: &Path, rule: &str, class: FaultClass) -> String {
    let error = SafetensorsModel::open_path(path).expect_err(rule);
    let diagnosis = error.diagnosis();
    let message = error.to_string();
    assert_eq!((diagnosis.rule, diagnosis.class), (rule, class), "{message}");
    assert!(diagnosis.location.file.is_some(), "{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

#[track_caller]
fn check(path: &Path, rule: &str) -> String {
    check_class(path, rule, FaultClass::BadInput)
}

#[track_caller]
fn check_refused(path: &Path) -> String {
    check_class(path, "outside-folder", FaultClass::Refused)
}

/// Opening a folder with this index fails with `rule`.
#[track_caller]
fn check_index(text: &str, rule: &str) -> String {
    let folder = folder();
    write(folder.path(), INDEX, text);
    write(folder.path(), "x.safetensors", bytes_named(&[("a", 1), ("b", 2)]));
    check(folder.path(), rule)
}

#[test]
fn shards_come_by_name_and_tensors_by_place() {
    let folder = folder();
    let shards = [("b", "2.safetensors"), ("d", "1.safetensors"), ("a", "2.safetensors")];
    write(folder.path(), INDEX, index(&[&shards[..], &[("c", "1.safetensors")]].concat()));
    let metadata = r#""__metadata__":{"format":"pt","part":"1"}"#;
    let entry = crate::support::entry;
    let first = format!(
        "{{{metadata},{},{}}}",
        entry("d", "U8", "[2]", 0, 2),
        entry("c", "U8", "[1]", 2, 3)
    );
    write(folder.path(), "1.safetensors", file(first, 3));
    write(folder.path(), "2.safetensors", bytes_named(&[("b", 1), ("a", 3)]));
    let check = |path: &Path| {
        let model = SafetensorsModel::open_path(path).expect("the model is valid");
        assert_eq!(names(&model), ["d", "c", "b", "a"]);
        assert_eq!(contents(&model, 1), [2]);
        assert_eq!(contents(&model, 3), [1, 2, 3]);
        assert_eq!(model.metadata().get("part"), Some(&Value::String("1".to_owned())));
        let files: Vec<&Path> = model.files().map(|file| file.path().as_ref()).collect();
        assert!(files[0].ends_with("1.safetensors") && files[1].ends_with("2.safetensors"));
        assert_eq!(model.tensors()[3].file.as_ref(), files[1]);
    };
    check(folder.path());
    check(&folder.path().join(INDEX));
}

#[test]
fn one_file_is_a_model() {
    let folder = folder();
    let path = write(folder.path(), "model.safetensors", bytes_named(&[("a", 1)]));
    for path in [folder.path(), &path] {
        let model = SafetensorsModel::open_path(path).expect("the model is valid");
        assert_eq!(names(&model), ["a"]);
    }
    let other = write(folder.path(), "weights.bin", bytes_named(&[("b", 1)]));
    let model = SafetensorsModel::open_path(other).expect("the name does not matter");
    assert_eq!(names(&model), ["b"]);
}

#[test]
fn folders_without_weights() {
    let folder = folder();
    check(folder.path(), "no-weights");
    check(&folder.path().join("absent"), "file-missing");
    let path = write(folder.path(), "pytorch_model.bin", "PK");
    check(folder.path(), "no-weights");
    check(&path, "truncated-header");
    let error = SafetensorsModel::open_folder(&path).expect_err("no folder");
    assert_eq!(error.diagnosis().rule, "not-a-folder");
}

#[test]
fn two_sets_of_weights() {
    let folder = folder();
    write(folder.path(), INDEX, index(&[("a", "x.safetensors")]));
    write(folder.path(), "x.safetensors", bytes_named(&[("a", 1)]));
    let single = write(folder.path(), "model.safetensors", bytes_named(&[("b", 1)]));
    let open = |path: &Path| {
        let model = SafetensorsModel::open_path(path).expect("the choice is clear");
        names(&model).join(" ")
    };
    let model = SafetensorsModel::open_folder(folder.path()).expect("the index decides");
    assert_eq!(names(&model), ["a"]);
    assert!(model.notes()[0].contains("two sets of weights"), "{:?}", model.notes());
    assert_eq!(open(&single), "b");
    assert_eq!(open(&folder.path().join(INDEX)), "a");
    // An index of one shard.
    write(folder.path(), INDEX, index(&[("b", "model.safetensors")]));
    assert_eq!(open(folder.path()), "b");
}

#[test]
fn shards_without_an_index() {
    let folder = folder();
    let shard = |number: u32| format!("model-0000{number}-of-00002.safetensors");
    let first = write(folder.path(), &shard(1), bytes_named(&[("b", 1)]));
    let message = check(folder.path(), "missing-shards");
    assert!(message.contains(&shard(2)), "{message}");
    check(&first, "missing-shards");
    let second = write(folder.path(), &shard(2), bytes_named(&[("a", 1)]));
    for path in [folder.path(), &first, &second] {
        let model = SafetensorsModel::open_path(path).expect("the set is whole");
        assert_eq!(names(&model), ["b", "a"]);
    }
    write(folder.path(), "other.safetensors", bytes_named(&[("c", 1)]));
    let model = SafetensorsModel::open_folder(folder.path()).expect("the set is whole");
    assert_eq!(names(&model), ["b", "a"]);
    write(folder.path(), &shard(2), bytes_named(&[("b", 1)]));
    check(folder.path(), "tensor-in-two-shards");
}

#[test]
fn files_of_other_names() {
    let folder = folder();
    let own = write(folder.path(), "own.safetensors", bytes_named(&[("a", 1)]));
    write(folder.path(), "adapter_model.safetensors", bytes_named(&[("lora", 1)]));
    for path in [folder.path(), &own] {
        let model = SafetensorsModel::open_path(path).expect("there is one only");
        assert_eq!(names(&model), ["a"]);
    }
    write(folder.path(), "second.safetensors", bytes_named(&[("b", 1)]));
    let message = check(folder.path(), "ambiguous-weights");
    assert!(message.contains("own.safetensors, second.safetensors"), "{message}");
    let model = SafetensorsModel::open_path(&own).expect("named");
    assert_eq!(names(&model), ["a"]);
}

#[test]
fn an_index_is_read_as_python_writes_it() {
    let folder = folder();
    write(folder.path(), "x.safetensors", bytes_named(&[("a", 1)]));
    let text = index(&[("a", "x.safetensors")]).replace("{\"total_size\":1}", "{\"size\":NaN}");
    write(folder.path(), INDEX, format!("\u{feff}{text}"));
    let model = SafetensorsModel::open_folder(folder.path()).expect("read");
    assert_eq!(names(&model), ["a"]);
}

#[test]
fn shards_in_a_subfolder() {
    let folder = folder();
    write(folder.path(), INDEX, format!("\u{feff}{}", index(&[("a", "weights/x.safetensors")])));
    let message = check_refused(folder.path());
    assert!(message.contains("\"weights/x.safetensors\" is in a subfolder"), "{message}");
}

#[test]
fn files_that_are_joined() {
    let folder = folder();
    let both = [bytes_named(&[("a", 1)]), bytes_named(&[("b", 1)])].concat();
    let message = check(&write(folder.path(), "model.safetensors", both), "joined-files");
    assert!(message.contains("a second safetensors file"), "{message}");
}

#[test]
fn indexes_that_are_none() {
    check_index("", "invalid-json");
    check_index("{", "invalid-json");
    check_index("[]", "invalid-field");
    check_index("{}", "invalid-field");
    check_index(r#"{"weight_map":null}"#, "invalid-field");
    check_index(r#"{"weight_map":["x.safetensors"]}"#, "invalid-field");
    check_index(r#"{"weight_map":{"a":1}}"#, "invalid-field");
    check_index(r#"{"weight_map":{"a":["x.safetensors"]}}"#, "invalid-field");
    check_index(r#"{"weight_map":{},"weight_map":{}}"#, "duplicate-field");
    check_index(&index(&[("a", "x.safetensors"), ("a", "x.safetensors")]), "duplicate-tensor");
    check_index(&format!(r#"{{"x":{}"#, "[".repeat(100_000)), "json-too-deep");
    let message = check_index("version https://git-lfs.github.com/spec/v1\n", "not-an-index");
    assert!(message.contains("Git LFS") && message.contains(INDEX), "{message}");
    check_index("<!DOCTYPE html>", "not-an-index");
}

#[test]
fn a_fault_in_an_index_has_a_place() {
    let folder = folder();
    let text = index(&[("a", "x.safetensors"), ("b", "../x.safetensors")]);
    write(folder.path(), INDEX, &text);
    let error = SafetensorsModel::open_folder(folder.path()).expect_err("refused");
    let location = error.diagnosis().location;
    assert_eq!(location.tensor.as_deref(), Some("b"));
    // The parser knows where the value ends, give or take a bracket.
    let offset = location.offset.expect("the message says where") as usize;
    let value_end = text.trim_end_matches('}').len();
    assert!((value_end - 1..=value_end + 1).contains(&offset), "{offset} for {value_end}");
}

#[test]
fn shards_outside_the_folder() {
    let root = folder();
    let inside = root.path().join("model");
    fs::create_dir_all(inside.join("sub")).expect("created");
    let secret = write(root.path(), "secret.safetensors", bytes_named(&[("a", 1)]));
    write(&inside.join("sub"), "x.safetensors", bytes_named(&[("a", 1)]));
    let absolute = secret.to_str().expect("the path is UTF-8");
    for shard in [
        "../secret.safetensors",
        absolute,
        "sub/x.safetensors",
        "./x.safetensors",
        "C:\\x.safetensors",
        "\\\\host\\x.safetensors",
        "a\\..\\b",
        "sub\\x.safetensors",
        "..",
        ".",
        "",
        "x.safetensors\0",
        "CON",
    ] {
        write(&inside, INDEX, index(&[("a", shard)]).replace("\\0", "\\u0000"));
        check_refused(&inside);
    }
}

#[test]
fn too_many_shards() {
    let shards: Vec<(String, String)> =
        (0..5000).map(|number| (format!("t{number}"), format!("{number}.safetensors"))).collect();
    let entries: Vec<(&str, &str)> =
        shards.iter().map(|(tensor, shard)| (tensor.as_str(), shard.as_str())).collect();
    check_index(&index(&entries), "too-many-shards");
}

#[test]
fn missing_shards_are_listed() {
    let absent: Vec<String> = (0..12).map(|number| format!("{number:02}.safetensors")).collect();
    let entries: Vec<(&str, &str)> =
        absent.iter().map(|shard| (shard.as_str(), shard.as_str())).collect();
    let message = check_index(&index(&entries), "missing-shards");
    assert!(message.contains("00.safetensors, 01.safetensors"), "{message}");
    assert!(message.ends_with("09.safetensors and 2 more"), "{message}");
    assert!(message.contains(INDEX), "{message}");
}

#[test]
fn index_and_shards_that_disagree() {
    let message = check_index(&index(&[("a", "x.safetensors")]), "index-mismatch");
    assert!(message.contains("in their shard: none;"), "{message}");
    assert!(message.ends_with("not named for it: b (x.safetensors)"), "{message}");

    let both = [("a", "x.safetensors"), ("b", "x.safetensors"), ("c", "x.safetensors")];
    let message = check_index(&index(&both), "index-mismatch");
    assert!(message.contains("in their shard: c (x.safetensors);"), "{message}");

    // Each tensor is somewhere, but not where the index says.
    let folder = folder();
    write(folder.path(), INDEX, index(&[("a", "1.safetensors"), ("b", "2.safetensors")]));
    write(folder.path(), "1.safetensors", bytes_named(&[("b", 1)]));
    write(folder.path(), "2.safetensors", bytes_named(&[("a", 1)]));
    let message = check(folder.path(), "index-mismatch");
    assert!(message.contains("a (1.safetensors), b (2.safetensors)"), "{message}");
}

#[test]
fn tensors_of_one_name() {
    let folder = folder();
    // The index names the second's for one, the first's for the other.
    write(folder.path(), INDEX, index(&[("a", "2.safetensors"), ("b", "1.safetensors")]));
    write(folder.path(), "1.safetensors", bytes_named(&[("a", 1), ("b", 2), ("c", 3)]));
    write(folder.path(), "2.safetensors", bytes_named(&[("b", 4), ("a", 5)]));
    check(folder.path(), "index-mismatch");
    write(folder.path(), "1.safetensors", bytes_named(&[("a", 1), ("b", 2)]));
    let model = SafetensorsModel::open_folder(folder.path()).expect("the index decides");
    assert_eq!(names(&model), ["b", "a"]);
    assert_eq!(model.tensors().iter().map(|tensor| tensor.bytes).collect::<Vec<_>>(), [2, 5]);
    assert!(model.notes()[0].contains("in two shards"), "{:?}", model.notes());

    write(folder.path(), INDEX, index(&[("a", "1.safetensors"), ("A", "2.safetensors")]));
    write(folder.path(), "2.safetensors", bytes_named(&[("A", 1)]));
    check(folder.path(), "alike-names");
    let single = write(folder.path(), "single.safetensors", bytes_named(&[("w", 1), ("W", 1)]));
    check(&single, "alike-names");
}

#[test]
fn shards_that_are_no_shards() {
    let folder = folder();
    write(folder.path(), INDEX, index(&[("a", "x.safetensors")]));
    let shard =
        write(folder.path(), "x.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    let message = check(folder.path(), "not-safetensors");
    assert!(message.contains("x.safetensors: ") && message.contains("Git LFS"), "{message}");
    write(folder.path(), "x.safetensors", "<!DOCTYPE html><html></html>");
    check(folder.path(), "not-safetensors");
    fs::remove_file(&shard).expect("removed");
    fs::create_dir(&shard).expect("created");
    check(folder.path(), "not-a-regular-file");
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A link, with what it leads to in place of its name.
    fn link(target: impl AsRef<Path>, path: &Path) {
        let _ = fs::remove_file(path);
        symlink(target, path).expect("linked");
    }

    fn open(path: &Path) -> Result<SafetensorsModel, Error> {
        SafetensorsModel::open_folder(path)
    }

    #[test]
    fn links_out_of_the_folder() {
        let root = folder();
        let inside = root.path().join("model");
        fs::create_dir(&inside).expect("created");
        let secret = write(root.path(), "secret.safetensors", bytes_named(&[("a", 1)]));
        let single = inside.join("model.safetensors");
        for target in [&secret, Path::new("../secret.safetensors")] {
            link(target, &single);
            let message = check_refused(&inside);
            assert!(message.contains("secret.safetensors"), "{message}");
        }
        // The same for the index and its shards.
        fs::remove_file(&single).expect("removed");
        write(root.path(), "index.json", index(&[("a", "x.safetensors")]));
        link("../index.json", &inside.join(INDEX));
        check_refused(&inside);
        fs::remove_file(inside.join(INDEX)).expect("removed");
        write(&inside, INDEX, index(&[("a", "x.safetensors")]));
        link(&secret, &inside.join("x.safetensors"));
        check_refused(&inside);
        // A folder that is a link itself, and links within, are the user's.
        write(&inside, "y.safetensors", bytes_named(&[("a", 1)]));
        link("y.safetensors", &inside.join("x.safetensors"));
        link(&inside, &root.path().join("other"));
        assert!(open(&root.path().join("other")).is_ok());
        // A link to nothing.
        link("nowhere", &inside.join("x.safetensors"));
        check(&inside, "missing-shards");
    }

    #[test]
    fn the_hub_cache() {
        let cache = folder();
        let repository = cache.path().join("models--org--name");
        let snapshot = repository.join("snapshots/0123abcd");
        let stores = [
            repository.join("blobs"),
            cache.path().join("blobs/ab"),
            cache.path().join("models--org--other/blobs"),
            cache.path().join("elsewhere"),
        ];
        for folder in stores.iter().chain([&snapshot]) {
            fs::create_dir_all(folder).expect("created");
        }
        for store in &stores {
            write(store, "hash", bytes_named(&[("a", 1)]));
        }
        let single = snapshot.join("model.safetensors");
        let blob = repository.join("blobs/link");
        link("../../blobs/hash", &single);
        assert!(open(&snapshot).is_ok());
        // Two steps, into the store that all repositories share.
        link("../../blobs/link", &single);
        link("../../blobs/ab/hash", &blob);
        assert!(open(&snapshot).is_ok());
        // Other places of the cache are not for this model.
        link("../../models--org--other/blobs/hash", &blob);
        check_refused(&snapshot);
        link("../../elsewhere/hash", &blob);
        check_refused(&snapshot);
        link("../../../elsewhere/hash", &single);
        check_refused(&snapshot);
    }

    #[test]
    fn a_folder_that_looks_like_the_cache() {
        let root = folder();
        let repository = root.path().join("unpacked");
        let snapshot = repository.join("snapshots/0123abcd");
        for folder in [&snapshot, &root.path().join("blobs"), &root.path().join("secret")] {
            fs::create_dir_all(folder).expect("created");
        }
        write(&root.path().join("blobs"), "hash", bytes_named(&[("a", 1)]));
        write(&root.path().join("secret"), "hash", bytes_named(&[("a", 1)]));
        let single = snapshot.join("model.safetensors");
        link("../../../blobs/hash", &single);
        check_refused(&snapshot);
        // Its own `blobs` must be a folder, not a way out.
        link(root.path().join("secret"), &repository.join("blobs"));
        link("../../blobs/hash", &single);
        check_refused(&snapshot);
    }

    #[test]
    fn a_pipe_does_not_block() {
        let folder = folder();
        let path = folder.path().join("model.safetensors");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if made.is_ok_and(|status| status.success()) {
            check(folder.path(), "not-a-regular-file");
        }
    }
}
