//! Files built by hand, byte by byte, so that every rule can be broken alone.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use qz_gguf::{Error, GgufFile, GgufSink};
use qz_tensor::{
    DataType, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex, TensorSink, TensorSource,
};

/// A string as the format stores it.
pub(crate) fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&(value.len() as u64).to_le_bytes()[..], value].concat()
}

/// A key-value pair.
pub(crate) fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

/// An entry of the tensor list; dimensions innermost first.
pub(crate) fn tensor(name: &str, dimensions: &[u64], data_type: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dimensions.len() as u32).to_le_bytes());
    dimensions.iter().for_each(|dimension| out.extend(dimension.to_le_bytes()));
    out.extend(data_type.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// Magic, version and counts.
pub(crate) fn start(version: u32, tensors: u64, pairs: u64) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend(tensors.to_le_bytes());
    out.extend(pairs.to_le_bytes());
    out
}

/// A file of these pairs and tensors with `data` zero bytes of data.
pub(crate) fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    file_aligned(32, pairs, tensors, data)
}

/// [`file`] with another alignment.
pub(crate) fn file_aligned(
    alignment: usize,
    pairs: &[Vec<u8>],
    tensors: &[Vec<u8>],
    data: usize,
) -> Vec<u8> {
    let mut out = start(3, tensors.len() as u64, pairs.len() as u64);
    out.extend(pairs.concat());
    out.extend(tensors.concat());
    out.resize(out.len().next_multiple_of(alignment), 0);
    out.resize(out.len() + data, 0);
    out
}

/// A small valid file with a pair of every kind and three tensors.
pub(crate) fn valid() -> Vec<u8> {
    let list = |kind: u32, count: u64, bytes: &[u8]| {
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat()
    };
    let pairs = [
        pair("general.architecture", 8, &text("llama")),
        pair("flag", 7, &[1]),
        pair("number", 4, &7u32.to_le_bytes()),
        pair("names", 9, &list(8, 2, &[text("a"), text("bc")].concat())),
        pair("flags", 9, &list(7, 3, &[0, 1, 1])),
        pair("scores", 9, &list(6, 2, &[0; 8])),
    ];
    let tensors =
        [tensor("a", &[3], 0, 0), tensor("b", &[32, 2], 8, 32), tensor("c", &[0, 4], 1, 128)];
    file(&pairs, &tensors, 32 + 96)
}

/// Opens `bytes` as a file.
pub(crate) fn open(bytes: &[u8]) -> Result<GgufFile, Error> {
    Scratch::new().open(bytes)
}

/// One file for many contents. Written over in place: making and removing a file
/// for each of thousands takes most of a test's time.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
    file: File,
    _folder: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.gguf");
        let file = File::create(&path).expect("created");
        Self { path, file, _folder: folder }
    }

    /// Opens `bytes` as a file.
    pub(crate) fn open(&self, bytes: &[u8]) -> Result<GgufFile, Error> {
        let mut file = &self.file;
        file.rewind().and_then(|()| file.write_all(bytes)).expect("written");
        file.set_len(bytes.len() as u64).expect("cut");
        GgufFile::open(&self.path)
    }
}

/// All bytes of one tensor.
pub(crate) fn contents(source: &dyn TensorSource, index: usize) -> Vec<u8> {
    let mut out = vec![0; source.tensors()[index].bytes as usize];
    source.read(TensorIndex(index), 0, &mut out).expect("the tensor is readable");
    out
}

/// The tensors of `source` as a sink wants them.
pub(crate) fn plan(source: &dyn TensorSource) -> Vec<SinkTensor> {
    let same = |info: &qz_tensor::TensorInfo| SinkTensor {
        name: info.name.to_string(),
        data_type: info.data_type,
        shape: info.shape.clone(),
    };
    source.tensors().iter().map(same).collect()
}

/// A sink's tensor; dimensions outermost first.
pub(crate) fn sink_tensor(name: &str, data_type: DataType, dimensions: &[u64]) -> SinkTensor {
    let shape = Shape::new(dimensions).expect("the shape is small");
    SinkTensor { name: name.to_owned(), data_type, shape }
}

/// Begins a file for job "job".
pub(crate) fn create(
    target: &Path,
    metadata: &Metadata,
    tensors: &[SinkTensor],
) -> Result<GgufSink, Error> {
    GgufSink::create(target, metadata, tensors, "job", OutputOptions::default())
}

/// Writes everything in `source` to `target`.
pub(crate) fn copy(source: &dyn TensorSource, target: &Path) {
    let mut sink =
        create(target, source.metadata(), &plan(source)).expect("the output can be made");
    for index in 0..source.tensors().len() {
        sink.put(TensorIndex(index), 0, &contents(source, index)).expect("put");
    }
    sink.finish().expect("finished");
}
