//! The containers a model can come in, as a list to walk.

mod place;
mod weights;

use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use qz_gguf::GgufModel;
use qz_packed::{PackedSource, Repack};
use qz_tensor::{FileError, SideFiles, SourceFile, TensorSource};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::model::{Model, OpenOptions};

pub(crate) use place::name_of;
pub use place::{HubId, stem_of};
pub(crate) use weights::{folder_of, open_weights};

/// A kind of model on disk.
pub struct Container {
    /// Its name in reports.
    pub name: &'static str,
    /// What a person would look for, for the message when nothing fits.
    pub looks_like: &'static str,
    detect: fn(&Path) -> bool,
    open: fn(&Path, &OpenOptions) -> Result<Model, Error>,
}

/// Every container that can be read. The first that recognises a path opens it.
pub static CONTAINERS: &[Container] = &[
    Container {
        name: "gguf",
        looks_like: "a .gguf file",
        detect: |path| path.is_file() && starts_with(path, b"GGUF"),
        open: open_gguf,
    },
    Container {
        name: "huggingface",
        looks_like: "a folder with config.json and safetensors or PyTorch files",
        detect: |path| match folder_of(path) {
            Some(folder) => !path.is_dir() || folder.join(CONFIG).symlink_metadata().is_ok(),
            None => false,
        },
        open: open_hugging_face,
    },
];

impl Container {
    /// Opens the model at `path`, whatever its container.
    ///
    /// # Errors
    /// If nothing is there, nothing recognises it, or it is malformed.
    pub fn open_any(path: &Path, options: &OpenOptions) -> Result<Model, Error> {
        check_readable(path)?;
        if place::is_cache_folder(path)
            && let Some(snapshot) = place::snapshot(path, None)
        {
            return Self::open_any(&snapshot, options);
        }
        match CONTAINERS.iter().find(|container| (container.detect)(path)) {
            Some(container) => (container.open)(path, options),
            // A file that claims to be GGUF by name gets GGUF's own complaint.
            None if path.extension().is_some_and(|extension| extension == "gguf") => {
                open_gguf(path, options)
            }
            None => Err(Error::UnknownContainer {
                path: path.to_owned(),
                detail: weights::unknown_folder(path)
                    .unwrap_or_else(|| format!("not a model; expected {}", known())),
            }),
        }
    }
}

/// Tells a path that cannot be read from one that is not there. Of a folder it is the
/// configuration that is looked for.
fn check_readable(path: &Path) -> Result<(), Error> {
    let fail =
        |path: &Path, source| FileError::Io { path: path.to_owned(), action: "open", source };
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if is_absent(&error) => return Err(absent(path)),
        Err(error) => return Err(fail(path, error).into()),
    };
    if found.is_file() {
        SourceFile::open(path)?;
        return Ok(());
    }
    match path.join(CONFIG).symlink_metadata() {
        Err(error) if !is_absent(&error) => Err(fail(path, error).into()),
        _ => Ok(()),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The error that nothing is at `path`, which may be meant for a model of the hub.
fn absent(path: &Path) -> Error {
    let missing = || FileError::Missing(path.to_owned()).into();
    let Some(id) = path.to_str().and_then(HubId::parse) else { return missing() };
    let is_address = path.to_string_lossy().contains("://");
    let is_folder_there = path.parent().is_some_and(Path::exists);
    let is_file = ["gguf", "safetensors", "bin", "json", "pt"]
        .iter()
        .any(|extension| path.extension().is_some_and(|found| found == *extension));
    if !is_address && (is_folder_there || is_file) {
        return missing();
    }
    Error::NotFetched { path: path.to_owned(), id: id.id() }
}

fn known() -> String {
    let kinds: Vec<&str> = CONTAINERS.iter().map(|container| container.looks_like).collect();
    kinds.join(" or ")
}

fn starts_with(path: &Path, magic: &[u8; 4]) -> bool {
    let mut head = [0; 4];
    SourceFile::open(path).is_ok_and(|file| file.read_exact_at(0, &mut head).is_ok())
        && head == *magic
}

fn open_gguf(path: &Path, options: &OpenOptions) -> Result<Model, Error> {
    let source = GgufModel::open(path)?;
    let notes = source.notes().to_vec();
    let mut model = Model::from_gguf(path, Box::new(source), options);
    model.warnings.extend(notes);
    Ok(model)
}

fn open_hugging_face(path: &Path, options: &OpenOptions) -> Result<Model, Error> {
    let (source, notes) = open_weights(path)?;
    let folder_path = folder_of(path).unwrap_or_else(|| path.to_owned());
    let folder = Folder::new(&folder_path);
    let mut rounded = (0, 0.0);
    let (source, unpacked): (Box<dyn TensorSource>, _) = match quantization(&folder)? {
        Some(config) => {
            let repack = if options.repack { Repack::Nearest } else { Repack::Exact };
            let source = PackedSource::open_as(source, &config, &folder_path.join(CONFIG), repack)?;
            rounded = source.rounded();
            let packed = source.packed_bytes().collect();
            (Box::new(source), Some(packed))
        }
        None => (source, None),
    };
    let convert = qz_models::ConvertOptions {
        pre_tokenizer: options.pre_tokenizer.clone(),
        model_name: options.model_name.clone(),
        is_unpacked: unpacked.is_some(),
    };
    let description = qz_models::describe(&folder, source.tensors(), &convert)?;
    let unpacked = unpacked.unwrap_or_default();
    let mut model = Model::from_description(path, source, folder, description, &unpacked);
    model.warnings.extend(notes);
    if let (count @ 1.., steps) = rounded {
        model.warnings.push(format!(
            "{}: {count} matrices are read with offsets rounded to binary16, which moves weights \
             by at most {steps:.4} steps of their scale",
            path.display()
        ));
    }
    Ok(model)
}

const CONFIG: &str = "config.json";

/// What a checkpoint says of how its weights are quantized, with the method's name in
/// it. MLX writes an object of its own, ModelOpt wrote a file of its own.
pub(crate) fn quantization(folder: &Folder) -> Result<Option<Map<String, Value>>, Error> {
    let object = |name: &str| -> Result<Map<String, Value>, Error> {
        let bytes = folder.read(name)?.unwrap_or_default();
        // A broken file is told of by whoever needs it.
        Ok(qz_shards::json::from_slice(&bytes).unwrap_or_default())
    };
    let named = |value: Option<Value>, method: &str| match value {
        Some(Value::Object(mut config)) => {
            config.entry("quant_method").or_insert_with(|| method.into());
            Some(config)
        }
        _ => None,
    };
    let mut config = object(CONFIG)?;
    // MLX repeats its own object under the common name.
    let is_mlx = config.contains_key("quantization");
    let method = if is_mlx { "mlx" } else { "" };
    let found = named(config.remove("quantization_config"), method);
    if let Some(found) = found.or_else(|| named(config.remove("quantization"), "mlx")) {
        return Ok(Some(found));
    }
    Ok(named(object("hf_quant_config.json")?.remove("quantization"), "modelopt"))
}

/// A checkpoint folder's small files.
pub(crate) struct Folder {
    path: PathBuf,
    name: Option<String>,
}

/// No configuration or tokenizer comes near this; a larger one is not read.
const SIDE_FILE_LIMIT: u64 = 256 << 20;

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), name: name_of(path) }
    }

    /// Names come from our own code, but one day one may not.
    fn join(&self, name: &str) -> Option<PathBuf> {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        inside.then(|| self.path.join(name))
    }
}

impl SideFiles for Folder {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        let Some(path) = self.join(name) else { return Ok(None) };
        let file = match SourceFile::open(&path) {
            Err(FileError::Missing(_)) => return Ok(None),
            file => file?,
        };
        if file.len() > SIDE_FILE_LIMIT {
            return Err(FileError::TooLarge { path, length: file.len(), limit: SIDE_FILE_LIMIT });
        }
        let mut bytes = vec![0; usize::try_from(file.len()).unwrap_or(usize::MAX)];
        file.read_exact_at(0, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, FileError> {
        let Some(path) = self.join(folder) else { return Ok(Vec::new()) };
        let listing = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listing => listing,
        };
        let names = listing.and_then(|entries| {
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                if entry.path().is_file() {
                    names.extend(entry.file_name().into_string());
                }
            }
            names.sort_unstable();
            Ok(names)
        });
        names.map_err(|source| FileError::Io { path, action: "list", source })
    }

    fn folder_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}
