//! Sets of files that hold one model.

use std::fs;
use std::path::{Path, PathBuf};

use qz_gguf::{GgufLayout, GgufModel, GgufSink, SplitOptions};
use qz_tensor::{
    DataType, Diagnose, FaultClass, Metadata, OutputOptions, SinkTensor, TensorIndex, TensorSink,
    TensorSource, Value,
};

use crate::support::{contents, file, pair, sink_tensor, tensor};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The keys of a part.
fn keys(number: u16, count: u16, tensors: i32) -> Vec<Vec<u8>> {
    vec![
        pair("split.no", 2, &number.to_le_bytes()),
        pair("split.count", 2, &count.to_le_bytes()),
        pair("split.tensors.count", 5, &tensors.to_le_bytes()),
    ]
}

/// A part with one tensor of one element.
fn part(keys: &[Vec<u8>], name: &str) -> Vec<u8> {
    file(keys, &[tensor(name, &[1], 0, 0)], 32)
}

/// A whole set of three: `m-0000K-of-00003.gguf` with the tensors a, b, c.
fn whole_set(folder: &Path) -> [PathBuf; 3] {
    let write = |number: u16| {
        let path = folder.join(format!("m-{:05}-of-00003.gguf", number + 1));
        let name = ["a", "b", "c"][usize::from(number)];
        fs::write(&path, part(&keys(number, 3, 3), name)).expect("written");
        path
    };
    [0, 1, 2].map(write)
}

#[test]
fn any_part_opens_the_whole_set() {
    let folder = folder();
    for path in whole_set(folder.path()) {
        let model = GgufModel::open(path).expect("the set is whole");
        let names: Vec<&str> = model.tensors().iter().map(|info| &*info.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(model.files().len(), 3);
        assert_eq!(model.metadata().unsigned("split.no"), Some(0));
    }
}

#[test]
fn a_file_alone_is_a_model() {
    let folder = folder();
    let check = |keys: &[Vec<u8>]| {
        let path = folder.path().join("m.gguf");
        fs::write(&path, part(keys, "a")).expect("written");
        assert_eq!(GgufModel::open(path).expect("opens").tensors().len(), 1);
    };
    check(&[]);
    check(&keys(0, 1, 1));
    // A merged file keeps the keys of its first part, with a count of none.
    check(&keys(0, 0, 9));
}

/// A set that breaks one rule: the message names the file and the rule is stable.
#[test]
fn sets_that_are_not_whole() {
    let check = |bend: &dyn Fn(&[PathBuf; 3]), rule: &str, parts: &[&str]| {
        let folder = folder();
        let paths = whole_set(folder.path());
        bend(&paths);
        let error = GgufModel::open(&paths[0]).expect_err("refused");
        let diagnosis = error.diagnosis();
        let message = error.to_string();
        assert_eq!((diagnosis.rule, diagnosis.class), (rule, FaultClass::BadInput), "{message}");
        assert!(diagnosis.location.file.is_some(), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    };
    let remove = |path: &Path| fs::remove_file(path).expect("removed");
    let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).expect("written");

    let missing = &["m-00002-of-00003.gguf", "set of 3 files"];
    check(&|at| remove(&at[1]), "split-part-missing", missing);
    let both = &["m-00002-of-00003.gguf, m-00003-of-00003.gguf"];
    check(&|at| at[1..].iter().for_each(|path| remove(path)), "split-part-missing", both);
    let number = |at: &[PathBuf; 3]| write(&at[1], &part(&keys(2, 3, 3), "b"));
    check(&number, "split-number", &["m-00002-of-00003.gguf: split.no", "2", "1"]);
    let swapped = |at: &[PathBuf; 3]| {
        let [second, third] = [&at[1], &at[2]].map(|path| fs::read(path).expect("read"));
        write(&at[1], &third);
        write(&at[2], &second);
    };
    check(&swapped, "split-number", &["m-00002-of-00003.gguf"]);
    let outside = |at: &[PathBuf; 3]| write(&at[2], &part(&keys(3, 3, 3), "c"));
    check(&outside, "split-number", &["m-00003-of-00003.gguf"]);
    let count = |at: &[PathBuf; 3]| write(&at[2], &part(&keys(2, 4, 3), "c"));
    check(&count, "split-count", &["m-00003-of-00003.gguf: split.count", "4", "3"]);
    let total = |at: &[PathBuf; 3]| write(&at[2], &part(&keys(2, 3, 4), "c"));
    check(&total, "split-tensors", &["m-00003-of-00003.gguf: split.tensors.count"]);
    let fewer = |at: &[PathBuf; 3]| write(&at[2], &file(&keys(2, 3, 3), &[], 0));
    check(&fewer, "split-tensors", &["2 tensors", "3"]);
    let twice = |at: &[PathBuf; 3]| write(&at[2], &part(&keys(2, 3, 3), "a"));
    check(&twice, "duplicate-tensor", &["m-00003-of-00003.gguf: a", "m-00001-of-00003.gguf"]);
    let stranger = |at: &[PathBuf; 3]| write(&at[1], &part(&[], "b"));
    check(&stranger, "split-key", &["m-00002-of-00003.gguf: split.count"]);
    let no_number = |at: &[PathBuf; 3]| write(&at[1], &part(&keys(1, 3, 3)[1..], "b"));
    check(&no_number, "split-key", &["m-00002-of-00003.gguf: split.no"]);
    let text_count = [pair("split.count", 8, &crate::support::text("3"))];
    check(&|at| write(&at[0], &part(&text_count, "a")), "split-key", &["split.count", "String"]);
    let huge = [pair("split.count", 10, &u64::MAX.to_le_bytes())];
    check(&|at| write(&at[0], &part(&huge, "a")), "split-too-large", &["65535"]);
    check(&|at| write(&at[2], b"GGUF"), "truncated-header", &["m-00003-of-00003.gguf"]);
    check(&|at| write(&at[1], b""), "not-gguf", &["m-00002-of-00003.gguf"]);
    let cut = |at: &[PathBuf; 3]| {
        let bytes = fs::read(&at[1]).expect("read");
        write(&at[1], &bytes[..bytes.len() - 30]);
    };
    check(&cut, "data-missing", &["m-00002-of-00003.gguf: b"]);
}

#[test]
fn a_part_by_another_name_is_refused() {
    let folder = folder();
    let [first, ..] = whole_set(folder.path());
    for name in ["m.gguf", "m-00001-of-00004.gguf", "m-00002-of-00003.gguf"] {
        let path = folder.path().join(name);
        fs::copy(&first, &path).expect("copied");
        let error = GgufModel::open(&path).expect_err("refused");
        assert_eq!(error.diagnosis().rule, "split-name", "{error}");
        assert!(error.to_string().contains("-00001-of-00003.gguf"), "{error}");
    }
}

fn three() -> Vec<SinkTensor> {
    ["a", "b", "c"].map(|name| sink_tensor(name, DataType::F32, &[3])).into()
}

fn begin(target: &Path, metadata: &Metadata, split: SplitOptions) -> GgufSink {
    let layout = GgufLayout::new(target, metadata, &three(), Some(&split)).expect("laid out");
    GgufSink::begin(layout, "job", OutputOptions::default()).expect("begun")
}

fn put_all(sink: &mut GgufSink) {
    for index in 0..3 {
        sink.put(TensorIndex(index), 0, &[index as u8; 12]).expect("put");
        sink.record_complete(TensorIndex(index), 0);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("listed");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_set_is_written_and_read() {
    let check = |limit: u32, first_without_tensors: bool, expected: &[usize]| {
        let folder = folder();
        let metadata: Metadata = [("general.name", Value::from("x")), ("split.count", 0u16.into())]
            .into_iter()
            .collect();
        let split = SplitOptions {
            max_tensors: std::num::NonZeroU32::new(limit),
            first_without_tensors,
            ..SplitOptions::default()
        };
        let mut sink = begin(&folder.path().join("m.gguf"), &metadata, split);
        put_all(&mut sink);
        sink.finish().expect("finished");
        let count = expected.len();
        let paths: Vec<String> =
            (1..=count).map(|number| format!("m-{number:05}-of-{count:05}.gguf")).collect();
        assert_eq!(names(folder.path()), paths);
        for (path, expected) in paths.iter().zip(expected) {
            let part = qz_gguf::GgufFile::open(folder.path().join(path)).expect("valid");
            assert_eq!(part.tensors().len(), *expected);
        }
        let model = GgufModel::open(folder.path().join(&paths[0])).expect("whole");
        for index in 0..3 {
            assert_eq!(contents(&model, index), [index as u8; 12]);
        }
        assert_eq!(model.metadata().string("general.name"), Some("x"));
        let keys: Vec<&str> = model.metadata().iter().map(|(key, _)| key).collect();
        assert_eq!(keys[1..], ["split.no", "split.tensors.count", "split.count"]);
    };
    check(1, false, &[1, 1, 1]);
    check(2, false, &[2, 1]);
    check(3, false, &[3]);
    check(2, true, &[0, 2, 1]);
    check(0, true, &[0, 3]);
}

#[test]
fn an_interrupted_set_is_continued() {
    let folder = folder();
    let target = folder.path().join("m.gguf");
    let split =
        SplitOptions { max_tensors: std::num::NonZeroU32::new(1), ..SplitOptions::default() };
    let mut sink = begin(&target, &Metadata::new(), split);
    sink.put(TensorIndex(1), 0, &[1; 12]).expect("put");
    sink.record_complete(TensorIndex(1), 0);
    sink.keep().expect("kept");
    assert_eq!(names(folder.path()), ["m.gguf.partial"]);
    let mut sink = begin(&target, &Metadata::new(), split);
    assert_eq!(sink.completed(), [TensorIndex(1)]);
    for index in [0, 2] {
        sink.put(TensorIndex(index), 0, &[index as u8; 12]).expect("put");
    }
    sink.finish().expect("finished");
    let model = GgufModel::open(folder.path().join("m-00003-of-00003.gguf")).expect("whole");
    assert_eq!([0, 1, 2].map(|index| contents(&model, index)[0]), [0, 1, 2]);
}

#[test]
fn a_name_twice_is_refused_in_two_files_too() {
    let tensors = ["a", "b", "a"].map(|name| sink_tensor(name, DataType::F32, &[3]));
    let split =
        SplitOptions { max_tensors: std::num::NonZeroU32::new(1), ..SplitOptions::default() };
    let error = GgufLayout::new(Path::new("m.gguf"), &Metadata::new(), &tensors, Some(&split));
    assert_eq!(error.expect_err("refused").diagnosis().rule, "duplicate-tensor");
}
