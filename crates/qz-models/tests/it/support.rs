//! Checkpoints in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qz_models::{ConvertOptions, Error, ModelDescription, describe};
use qz_tensor::{DataType, FileError, Shape, SideFiles, TensorIndex, TensorInfo};
use serde_json::Value;

/// A checkpoint: its side files, and its tensors by name and shape.
pub(crate) struct Checkpoint {
    pub(crate) name: Option<String>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) tensors: Vec<(String, Vec<u64>)>,
}

impl Checkpoint {
    /// The checkpoint of this name under `tests/data`.
    pub(crate) fn load(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        let mut files = BTreeMap::new();
        read_folder(&folder, "", &mut files);
        let tensors = serde_json::from_slice(&files["tensors.json"]).expect("a list of tensors");
        Self { name: Some(name.to_owned()), files, tensors }
    }

    /// A tiny checkpoint of the repository's fixtures.
    pub(crate) fn fixture(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny").join(name);
        let mut files = BTreeMap::new();
        read_folder(&folder, "", &mut files);
        let weights = files.remove("model.safetensors").expect("weights");
        let (length, rest) = weights.split_first_chunk().expect("a length");
        let header = &rest[..u64::from_le_bytes(*length) as usize];
        let header: BTreeMap<String, Value> = serde_json::from_slice(header).expect("a header");
        let dimensions = |info: &Value| serde_json::from_value(info["shape"].clone()).ok();
        let tensor = |(name, info): (&String, &Value)| Some((name.clone(), dimensions(info)?));
        let tensors = header.iter().filter_map(tensor).collect();
        Self { name: Some(name.to_owned()), files, tensors }
    }

    /// A JSON file of the checkpoint.
    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.files[name]).expect("JSON")
    }

    /// The same checkpoint with a JSON file edited.
    pub(crate) fn edit(mut self, name: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let mut value = self.json(name);
        edit(&mut value);
        self.files.insert(name.to_owned(), value.to_string().into_bytes());
        self
    }

    /// The same checkpoint with a file written.
    pub(crate) fn write(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.to_owned(), content.into());
        self
    }

    /// The same checkpoint without a file.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.files.remove(name);
        self
    }

    pub(crate) fn infos(&self) -> Vec<TensorInfo> {
        // One behind the other: what has the same place is the same tensor.
        let mut end = 0;
        let info = |(name, dimensions): &(String, Vec<u64>)| {
            let shape = Shape::new(dimensions).expect("a shape");
            let bytes = shape.byte_size(DataType::F32).expect("fits");
            let offset = end;
            end += bytes;
            TensorInfo {
                name: name.as_str().into(),
                data_type: DataType::F32,
                shape,
                file: Path::new("model.safetensors").into(),
                offset,
                bytes,
            }
        };
        self.tensors.iter().map(info).collect()
    }

    pub(crate) fn names_of(&self, tensors: &[TensorIndex]) -> Vec<&str> {
        tensors.iter().map(|tensor| self.tensors[tensor.0].0.as_str()).collect()
    }

    pub(crate) fn describe(&self) -> Result<ModelDescription, Error> {
        self.describe_with(&ConvertOptions::default())
    }

    pub(crate) fn describe_with(
        &self,
        options: &ConvertOptions,
    ) -> Result<ModelDescription, Error> {
        describe(self, &self.infos(), options)
    }
}

impl SideFiles for Checkpoint {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.files.get(name).cloned())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, FileError> {
        let name = |path: &String| {
            let name = path.strip_prefix(folder)?.strip_prefix('/')?;
            (!name.contains('/')).then(|| name.to_owned())
        };
        Ok(self.files.keys().filter_map(name).collect())
    }

    fn folder_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

fn read_folder(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            read_folder(&path, &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(&path).expect("a file"));
        }
    }
}
