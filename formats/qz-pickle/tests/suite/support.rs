//! Files built by hand, so that every rule can be broken alone.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use qz_pickle::{Error, TorchFile};
use qz_tensor::{Diagnose, Diagnosis, FaultClass, TensorIndex, TensorSource};

/// What a bad file gives.
#[track_caller]
pub(crate) fn check(bytes: &[u8], rule: &str) -> (Diagnosis, String) {
    check_class(bytes, rule, FaultClass::BadInput)
}

/// The same for what is refused by policy.
#[track_caller]
pub(crate) fn check_refused(bytes: &[u8], rule: &str) -> (Diagnosis, String) {
    check_class(bytes, rule, FaultClass::Refused)
}

/// The same for a fault of the tensor `w`.
#[track_caller]
pub(crate) fn check_tensor(bytes: &[u8], rule: &str) -> String {
    let (diagnosis, message) = check(bytes, rule);
    assert_eq!(diagnosis.location.tensor.as_deref(), Some("w"), "{message}");
    message
}

#[track_caller]
fn check_class(bytes: &[u8], rule: &str, class: FaultClass) -> (Diagnosis, String) {
    let error = open(bytes).err().unwrap_or_else(|| panic!("accepted, expected {rule}"));
    let diagnosis = error.diagnosis();
    let message = error.to_string();
    assert_eq!((diagnosis.rule, diagnosis.class), (rule, class), "{message}");
    assert!(message.contains("pytorch_model.bin: "), "{message}");
    assert!(!message.contains('\n'), "{message}");
    let offset = diagnosis.location.offset.expect("the message says where");
    assert!(offset <= bytes.len() as u64, "{message}");
    (diagnosis, message)
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
        let path = folder.path().join("pytorch_model.bin");
        let file = File::create(&path).expect("created");
        Self { path, file, _folder: folder }
    }

    /// Opens `bytes` as a file.
    pub(crate) fn open(&self, bytes: &[u8]) -> Result<TorchFile, Error> {
        let mut file = &self.file;
        file.rewind().and_then(|()| file.write_all(bytes)).expect("written");
        file.set_len(bytes.len() as u64).expect("cut");
        TorchFile::open(&self.path)
    }
}

/// Opens `bytes` as a file, which the next call in the same test writes over.
pub(crate) fn open(bytes: &[u8]) -> Result<TorchFile, Error> {
    thread_local!(static SCRATCH: Scratch = Scratch::new());
    SCRATCH.with(|scratch| scratch.open(bytes))
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

/// The golden file `name`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// A zip entry, with everything that can be wrong about it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) checksum: u32,
}

pub(crate) fn entry(name: &str, data: impl AsRef<[u8]>) -> Entry {
    let data = data.as_ref().to_vec();
    let checksum = crc32fast::hash(&data);
    Entry { name: name.to_owned(), data, flags: 0, method: 0, checksum }
}

impl Entry {
    /// The fields that its own header and the directory share.
    fn fields(&self) -> Vec<u8> {
        let size = self.data.len() as u32;
        let numbers = [self.checksum, size, size];
        let shorts = [self.flags, self.method, 0, 0];
        let mut out: Vec<u8> = shorts.iter().flat_map(|number| number.to_le_bytes()).collect();
        out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        out.extend((self.name.len() as u16).to_le_bytes());
        out
    }

    /// Its header and data.
    pub(crate) fn local(&self) -> Vec<u8> {
        let mut out = b"PK\x03\x04\0\0".to_vec();
        out.extend(self.fields());
        out.extend([0; 2]);
        out.extend(self.name.as_bytes());
        out.extend(&self.data);
        out
    }

    /// Its description in the directory.
    pub(crate) fn central(&self, header: u32) -> Vec<u8> {
        let mut out = b"PK\x01\x02\0\0\0\0".to_vec();
        out.extend(self.fields());
        out.extend([0; 12]);
        out.extend(header.to_le_bytes());
        out.extend(self.name.as_bytes());
        out
    }
}

/// An archive of these headers with data, and these descriptions.
pub(crate) fn archive(locals: &[Vec<u8>], centrals: &[Vec<u8>]) -> Vec<u8> {
    let mut out = locals.concat();
    let start = out.len() as u32;
    out.extend(centrals.concat());
    let bytes = out.len() as u32 - start;
    let count = centrals.len() as u16;
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    out.extend([bytes.to_le_bytes(), start.to_le_bytes()].concat());
    out.extend([0; 2]);
    out
}

/// An archive of these entries.
pub(crate) fn zip(entries: &[Entry]) -> Vec<u8> {
    let locals: Vec<Vec<u8>> = entries.iter().map(Entry::local).collect();
    let mut at = 0;
    let centrals = entries.iter().zip(&locals).map(|(entry, local)| {
        let header = at;
        at += local.len() as u32;
        entry.central(header)
    });
    let centrals: Vec<Vec<u8>> = centrals.collect();
    archive(&locals, &centrals)
}

/// A checkpoint with this pickle and, as storage `0`, 16 bytes: 0, 1, 2, …
pub(crate) fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    let storage: Vec<u8> = (0..16).collect();
    zip(&[entry("m/data.pkl", pickle), entry("m/data/0", storage)])
}

/// A pickle's bytes, put together from opcodes.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

pub(crate) fn number(number: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &number.to_le_bytes()].concat()
}

pub(crate) fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

pub(crate) fn numbers(all: &[i64]) -> Vec<u8> {
    tuple(&all.iter().map(|one| number(*one)).collect::<Vec<_>>())
}

pub(crate) fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// A tensor, with everything that can be wrong about it.
pub(crate) struct Tensor<'a> {
    pub(crate) class: (&'a str, &'a str),
    pub(crate) key: &'a str,
    pub(crate) elements: i64,
    pub(crate) offset: i64,
    pub(crate) shape: &'a [i64],
    pub(crate) strides: &'a [i64],
}

/// Two rows of two, all of storage `0`.
pub(crate) const VALID: Tensor<'_> = Tensor {
    class: ("torch", "FloatStorage"),
    key: "0",
    elements: 4,
    offset: 0,
    shape: &[2, 2],
    strides: &[2, 1],
};

impl Tensor<'_> {
    pub(crate) fn storage(&self) -> Vec<u8> {
        let reference = tuple(&[
            text("storage"),
            global(self.class.0, self.class.1),
            text(self.key),
            text("cpu"),
            number(self.elements),
        ]);
        [reference, b"Q".to_vec()].concat()
    }

    pub(crate) fn pickled(&self) -> Vec<u8> {
        let arguments = tuple(&[
            self.storage(),
            number(self.offset),
            numbers(self.shape),
            numbers(self.strides),
            b"\x89".to_vec(),
            ordered_dict(),
        ]);
        [global("torch._utils", "_rebuild_tensor_v2"), arguments, b"R".to_vec()].concat()
    }
}

pub(crate) fn ordered_dict() -> Vec<u8> {
    [global("collections", "OrderedDict"), b")R".to_vec()].concat()
}

/// A pickle of protocol 2 with this program, up to its STOP.
pub(crate) fn program(parts: &[&[u8]]) -> Vec<u8> {
    [b"\x80\x02".as_slice(), &parts.concat(), b"."].concat()
}

/// A pickle of a dictionary with these entries.
pub(crate) fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<Vec<u8>> =
        entries.iter().map(|(key, value)| [text(key), value.clone()].concat()).collect();
    program(&[b"}(", &items.concat(), b"u"])
}

/// A checkpoint of the one tensor `w`.
pub(crate) fn one(tensor: &Tensor<'_>) -> Vec<u8> {
    checkpoint(&dict(&[("w", tensor.pickled())]))
}
