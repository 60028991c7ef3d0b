use qz_gguf::GgufSink;
use qz_tensor::{
    DataType, Diagnose, FaultClass, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex,
    TensorSink, Value,
};

use super::*;

type Tensor<'a> = (&'a str, &'a [u64], &'a [f32]);

fn metadata() -> Metadata {
    [
        ("general.type", Value::from("imatrix")),
        ("imatrix.datasets", vec!["a.txt".to_owned(), "b.txt".to_owned()].into()),
        ("imatrix.chunk_count", 7u32.into()),
        ("imatrix.chunk_size", 512u32.into()),
    ]
    .into_iter()
    .collect()
}

/// A file of the newer kind; dimensions outermost first.
fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[Tensor<'_>]) {
    let infos: Vec<SinkTensor> = tensors
        .iter()
        .map(|(name, dimensions, _)| SinkTensor {
            name: (*name).into(),
            data_type: DataType::F32,
            shape: Shape::new(*dimensions).expect("fits"),
        })
        .collect();
    let mut sink = GgufSink::create(path, metadata, &infos, "test", OutputOptions::default())
        .expect("created");
    for (position, (.., values)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        sink.put(TensorIndex(position), 0, &bytes).expect("put");
    }
    sink.finish().expect("finished");
}

fn legacy(entries: &[(&str, i32, &[f32])], trailer: &[u8]) -> Vec<u8> {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    }
    bytes.extend(trailer);
    bytes
}

fn values(matrix: &ImportanceMatrix, name: &str) -> Vec<f32> {
    let entry = matrix.entry(name).expect("an entry");
    let mut values = vec![0.0; entry.len() as usize];
    matrix.read(entry, 0, &mut values).expect("read");
    values
}

#[test]
fn sums_are_divided_by_their_experts_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imatrix.gguf");
    let sums = [3.0, 6.0, 5.0, 7.0, 1.0, 0.0];
    let tensors: &[Tensor<'_>] = &[
        ("blk.0.ffn_up_exps.weight.in_sum2", &[3, 2], &sums),
        // Of the second expert nothing was counted; counts are rounded.
        ("blk.0.ffn_up_exps.weight.counts", &[3, 1], &[2.6, 0.0, 4.0]),
        ("b.in_sum2", &[1, 2], &[1.0, 2.0]),
        ("b.counts", &[1, 1], &[3.0]),
    ];
    write_gguf(&path, &metadata(), tensors);
    let matrix = ImportanceMatrix::open(&path).expect("opens");
    assert_eq!(values(&matrix, "blk.0.ffn_up_exps.weight"), [1.0, 2.0, 1.0, 1.0, 0.25, 0.0]);
    assert_eq!(values(&matrix, "b"), [1.0 / 3.0, 2.0 / 3.0]);
    assert_eq!(matrix.datasets(), ["a.txt", "b.txt"]);
    assert_eq!((matrix.chunks(), matrix.len()), (7, 2));
    // From the middle of one expert into the next.
    let mut middle = [0.0; 3];
    let entry = matrix.entry("blk.0.ffn_up_exps.weight").expect("an entry");
    matrix.read(entry, 1, &mut middle).expect("read");
    assert_eq!(middle, [2.0, 1.0, 1.0]);
}

#[test]
fn legacy_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imatrix.dat");
    let entries: &[(&str, i32, &[f32])] = &[("a", 2, &[1.0, 3.0]), ("b", 0, &[5.0])];
    let check = |trailer: &[u8], chunks: u32, datasets: &[&str]| {
        std::fs::write(&path, legacy(entries, trailer)).expect("written");
        let matrix = ImportanceMatrix::open(&path).expect("opens");
        assert_eq!(values(&matrix, "a"), [0.5, 1.5]);
        assert_eq!(values(&matrix, "b"), [5.0]);
        assert_eq!((matrix.chunks(), matrix.datasets()), (chunks, &*strings(datasets)));
    };
    check(b"", 0, &[]);
    check(&9i32.to_le_bytes(), 9, &[]);
    check(&[&9i32.to_le_bytes()[..], &[3, 0, 0, 0], b"wik"].concat(), 9, &["wik"]);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn bad_gguf_files_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imatrix.gguf");
    let check = |metadata: &Metadata, tensors: &[Tensor<'_>], rule: &str, tensor: Option<&str>| {
        write_gguf(&path, metadata, tensors);
        let error = ImportanceMatrix::open(&path).expect_err("refused");
        let diagnosis = error.diagnosis();
        assert_eq!((diagnosis.rule, diagnosis.location.tensor.as_deref()), (rule, tensor));
        assert_eq!(diagnosis.location.file.as_deref(), Some(&*path));
        std::fs::remove_file(&path).expect("removed");
        error
    };
    let sums: Tensor<'_> = ("a.in_sum2", &[1, 2], &[1.0, 2.0]);
    let counts: Tensor<'_> = ("a.counts", &[1, 1], &[2.0]);
    check(&metadata(), &[sums], "importance-unpaired", Some("a"));
    check(&metadata(), &[counts], "importance-unpaired", Some("a"));
    let three: Tensor<'_> = ("a.counts", &[3], &[2.0; 3]);
    check(&metadata(), &[sums, three], "importance-counts", Some("a"));
    let infinite: Tensor<'_> = ("a.in_sum2", &[1, 2], &[1.0, f32::INFINITY]);
    let error = check(&metadata(), &[infinite, counts], "non-finite-importance", Some("a"));
    assert_eq!(error.diagnosis().class, FaultClass::Numeric);
    assert!(error.to_string().contains("importance 1 is inf"), "{error}");
    let negative: Tensor<'_> = ("a.in_sum2", &[1, 2], &[-1.0, 1.0]);
    check(&metadata(), &[negative, counts], "negative-importance", Some("a"));
    let endless: Tensor<'_> = ("a.counts", &[1], &[f32::NAN]);
    check(&metadata(), &[sums, endless], "non-finite-importance", Some("a"));
    // Sums of such counts would wrap.
    let many: Tensor<'_> = ("a.counts", &[1], &[(1u64 << 49) as f32]);
    check(&metadata(), &[sums, many], "non-finite-importance", Some("a"));
    let key = "imatrix.chunk_count";
    let mut without = metadata();
    without.remove(key);
    check(&without, &[sums, counts], "importance-key", Some(key));
    let model: Metadata = [("general.type", Value::from("model"))].into_iter().collect();
    let weights: Tensor<'_> = ("blk.0.attn_q.weight", &[1, 2], &[1.0, 2.0]);
    check(&model, &[weights], "not-an-importance-matrix", None);
}

#[test]
fn bad_legacy_files_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imatrix.dat");
    let check = |bytes: &[u8], rule: &str| {
        std::fs::write(&path, bytes).expect("written");
        let error = ImportanceMatrix::open(&path).expect_err("refused");
        assert_eq!(error.diagnosis().rule, rule, "{error}");
    };
    let good = legacy(&[("a", 1, &[1.0, 2.0])], b"");
    for length in 0..good.len() {
        check(&good[..length], "truncated");
    }
    check(&legacy(&[], b""), "importance-length");
    check(&legacy(&[("", 1, &[1.0])], b""), "importance-length");
    check(&legacy(&[("a", 1, &[])], b""), "importance-length");
    check(&legacy(&[("a", 1, &[f32::NAN])], b""), "non-finite-importance");
    check(b"\xff\xff\xff\x7fxxxxyyyyzzzz", "importance-length");
}
