//! Files built by hand, so that every rule can be broken alone.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use qz_safetensors::{Error, SafetensorsFile};
use qz_tensor::{TensorIndex, TensorSource};

/// A file with this header and `data` bytes of data: 0, 1, 2, …
pub(crate) fn file(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.extend((0..data).map(|byte| byte as u8));
    out
}

/// A header's entry.
pub(crate) fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

/// A header of these entries.
pub(crate) fn header(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

/// A file of U8 vectors with these names and lengths.
pub(crate) fn bytes_named(tensors: &[(&str, u64)]) -> Vec<u8> {
    let mut end = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, length)| {
            let begin = end;
            end += length;
            entry(name, "U8", &format!("[{length}]"), begin, end)
        })
        .collect();
    file(header(&entries), end as usize)
}

/// Opens `bytes` as a file.
pub(crate) fn open(bytes: &[u8]) -> Result<SafetensorsFile, Error> {
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
        let path = folder.path().join("model.safetensors");
        let file = File::create(&path).expect("created");
        Self { path, file, _folder: folder }
    }

    /// Opens `bytes` as a file.
    pub(crate) fn open(&self, bytes: &[u8]) -> Result<SafetensorsFile, Error> {
        let mut file = &self.file;
        file.rewind().and_then(|()| file.write_all(bytes)).expect("written");
        file.set_len(bytes.len() as u64).expect("cut");
        SafetensorsFile::open(&self.path)
    }
}

/// Writes a file and returns its path.
pub(crate) fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// All bytes of one tensor.
pub(crate) fn contents(source: &dyn TensorSource, index: usize) -> Vec<u8> {
    let mut out = vec![0; source.tensors()[index].bytes as usize];
    source.read(TensorIndex(index), 0, &mut out).expect("the tensor is readable");
    out
}

/// The names of a source's tensors, in order.
pub(crate) fn names(source: &dyn TensorSource) -> Vec<&str> {
    source.tensors().iter().map(|tensor| tensor.name.as_str()).collect()
}
