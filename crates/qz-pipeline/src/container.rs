//! The containers a model can come in, as a list to walk.

mod place;
mod weights;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qz_gguf::GgufModel;
use qz_kernels::backend::reference;
use qz_models::{ModelDescription, StoredNumbers};
use qz_packed::{PackedSource, Repack};
use qz_tensor::{
    Array, FileError, Location, Metadata, Presence, SideFiles, SourceFile, TensorSource,
};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::folder::Folder;
use crate::model::{Model, OpenOptions, to_usize};
use qz_models::projector::describe_projector;

pub(crate) use place::name_of;
pub use place::{HubId, stem_of};
pub(crate) use weights::{folder_of, open_weights};

/// A kind of model on disk.
pub struct Container {
    /// Its name in reports.
    pub name: &'static str,
    /// What a person would look for, for the message when nothing fits.
    pub looks_like: &'static str,
    detect: fn(&Path) -> Result<bool, FileError>,
    open: fn(&Path, &OpenOptions) -> Result<Model, Error>,
}

/// Every container that can be read. The first that recognises a path opens it.
pub static CONTAINERS: &[Container] = &[
    Container { name: "gguf", looks_like: "a .gguf file", detect: is_gguf, open: open_gguf },
    Container {
        name: "huggingface",
        looks_like: "a folder with config.json and safetensors or PyTorch files",
        detect: |path| match folder_of(path)? {
            Some(folder) if folder == path => Ok(Presence::of(&path.join(CONFIG))?.is_there()),
            folder => Ok(folder.is_some()),
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
        match Presence::of(path)? {
            Presence::Absent => return Err(absent(path)),
            Presence::DanglingLink => return Err(FileError::DanglingLink(path.to_owned()).into()),
            _ => {}
        }
        if place::is_cache_folder(path)
            && let Some(snapshot) = place::snapshot(path, None)
        {
            return Self::open_any(&snapshot, options);
        }
        for container in CONTAINERS {
            if (container.detect)(path)? {
                return (container.open)(path, options);
            }
        }
        match path {
            // A file that claims to be GGUF by name gets GGUF's own complaint.
            _ if path.extension().is_some_and(|extension| extension == "gguf") => {
                open_gguf(path, options)
            }
            _ => Err(Error::UnknownContainer {
                path: path.to_owned(),
                detail: weights::unknown_folder(path)
                    .unwrap_or_else(|| format!("not a model; expected {}", known())),
            }),
        }
    }
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

/// True for a file that begins as GGUF files do.
pub(crate) fn is_gguf(path: &Path) -> Result<bool, FileError> {
    Ok(Presence::of(path)? == Presence::File && starts_with(path, b"GGUF")?)
}

fn known() -> String {
    let kinds: Vec<&str> = CONTAINERS.iter().map(|container| container.looks_like).collect();
    kinds.join(" or ")
}

fn starts_with(path: &Path, magic: &[u8; 4]) -> Result<bool, FileError> {
    let mut head = [0; 4];
    match SourceFile::open(path)?.read_exact_at(0, &mut head) {
        Err(FileError::Truncated { .. }) => Ok(false),
        read => read.map(|()| head == *magic),
    }
}

fn open_gguf(path: &Path, options: &OpenOptions) -> Result<Model, Error> {
    let mut source = GgufModel::open(path)?;
    let (metadata, notes) = (source.take_metadata(), source.notes().to_vec());
    let mut model = Model::from_gguf(path, metadata, Box::new(source), options);
    if options.projector && !model.is_projector() {
        return Err(Error::NoProjector(path.to_owned()));
    }
    model.warnings.extend(notes);
    if options.drops_further_layers && has_further_layers(&model.metadata) {
        model.warnings.push(format!(
            "{}: layers that predict further tokens are left out of checkpoints alone, not of \
             GGUF files: they stay",
            path.display()
        ));
    }
    Ok(model)
}

/// If a GGUF file has layers that predict further tokens.
fn has_further_layers(metadata: &Metadata) -> bool {
    let architecture = metadata.string("general.architecture").unwrap_or_default();
    metadata
        .unsigned(&format!("{architecture}.nextn_predict_layers"))
        .is_some_and(|count| count > 0)
}

fn open_hugging_face(path: &Path, options: &OpenOptions) -> Result<Model, Error> {
    let (source, mut notes) = open_weights(path)?;
    let folder = Folder::new(&folder_of(path)?.unwrap_or_else(|| path.to_owned()))?;
    let mut rounded = (0, 0.0);
    let (mut spare, mut stated, mut inputs) = (HashSet::new(), None, HashMap::new());
    let (source, unpacked): (Box<dyn TensorSource>, _) = match quantization(&folder, &*source)? {
        Some(QuantizationConfig { config, path }) => {
            stated = Some(config.clone());
            let repack = if options.repack { Repack::Nearest } else { Repack::Exact };
            let source = PackedSource::open_as(source, &config, &path, repack)?;
            rounded = source.rounded();
            notes.extend_from_slice(source.warnings());
            spare.clone_from(source.zero_biases());
            inputs = source.inputs().map(|(tensor, own)| (tensor, own.clone())).collect();
            let packed = source.packed_sizes().collect();
            (Box::new(source), Some(packed))
        }
        None => (source, None),
    };
    let convert = qz_models::ConvertOptions {
        pre_tokenizer: options.pre_tokenizer.clone(),
        model_name: options.model_name.clone(),
        is_unpacked: unpacked.is_some(),
        spare,
        strip_prefix: options.strip_prefix.clone(),
        drops_further_layers: options.drops_further_layers,
    };
    let unpacked = unpacked.unwrap_or_default();
    if options.projector {
        let described = describe_projector(&folder, source.tensors(), &convert)?;
        return Ok(Model::of_projector(path, source, folder, described));
    }
    let described = qz_models::describe(&folder, source.tensors(), &convert);
    let mut model = match described {
        Err(qz_models::Error::UnsupportedArchitecture { .. }) if options.generic => {
            Model::of_unknown_class(path, source, folder, &unpacked)
        }
        described => {
            let mut description = described?;
            read_numbers(&*source, &mut description)?;
            let mut model = Model::from_description(path, source, folder, description, &unpacked);
            model.drops_further_layers = options.drops_further_layers;
            model
        }
    };
    model.quantization = stated;
    model.inputs = Arc::new(inputs);
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

/// Sets the metadata that tensors have the numbers of.
fn read_numbers(
    source: &dyn TensorSource,
    description: &mut ModelDescription,
) -> Result<(), Error> {
    for StoredNumbers { key, tensors } in &description.numbers {
        let mut numbers = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let info = &source.tensors()[tensor.0];
            let mut bytes = vec![0; to_usize(info.bytes)];
            source.read(*tensor, 0, &mut bytes)?;
            numbers.extend(reference::decode(info.data_type, &bytes)?);
        }
        description.metadata.set(*key, Array::F32(numbers));
    }
    Ok(())
}

const CONFIG: &str = "config.json";

/// What a checkpoint says of how its weights are quantized.
pub(crate) struct QuantizationConfig {
    /// With the method's name in it.
    pub(crate) config: Map<String, Value>,
    /// The file that says it.
    pub(crate) path: PathBuf,
}

/// Where a configuration is looked for: the file, the key, and the method of one that names
/// none. MLX writes an object of its own, early compressed-tensors had another key, ModelOpt
/// wrote a file of its own.
const PLACES: &[(&str, &str, &str)] = &[
    (CONFIG, "quantization_config", ""),
    (CONFIG, "quantization", "mlx"),
    (CONFIG, "compression_config", "compressed-tensors"),
    ("hf_quant_config.json", "quantization", "modelopt"),
];

/// Files of AutoGPTQ, of llm-awq and early AutoAWQ, and of auto-round. They lie beside other
/// configurations, and stay where weights are plain again.
const BESIDE: &[&str] = &["quantize_config.json", "quant_config.json", "quantization_config.json"];

/// What a checkpoint's own configuration says of how its weights are quantized.
pub(crate) fn stated_quantization(
    folder: &dyn SideFiles,
) -> Result<Option<QuantizationConfig>, Error> {
    let object = |name: &str| -> Result<Map<String, Value>, Error> {
        let bytes = folder.read(name)?.unwrap_or_default();
        // Whoever needs a broken file reports it.
        Ok(qz_shards::json::settings(&bytes).unwrap_or_default())
    };
    // MLX repeats its own object under the common name.
    let is_mlx = object(CONFIG)?.contains_key("quantization");
    for (file, key, method) in PLACES {
        let Some(Value::Object(mut config)) = object(file)?.remove(*key) else { continue };
        let method = if is_mlx { "mlx" } else { method };
        config.entry("quant_method").or_insert_with(|| (*method).into());
        return Ok(Some(QuantizationConfig { config, path: folder.path(file) }));
    }
    Ok(None)
}

/// Finds what a checkpoint says of how its weights are quantized.
///
/// # Errors
/// If nothing does, and the tensors look packed.
pub(crate) fn quantization(
    folder: &Folder,
    source: &dyn TensorSource,
) -> Result<Option<QuantizationConfig>, Error> {
    if let Some(stated) = stated_quantization(folder)? {
        return Ok(Some(stated));
    }
    let Some((method, tensor)) = qz_packed::recognise(source) else { return Ok(None) };
    for file in BESIDE {
        let Some(bytes) = folder.read(file)? else { continue };
        let path = folder.path(file);
        let mut config: Map<String, Value> =
            qz_shards::json::settings(&bytes).map_err(|error| {
                let fault = qz_packed::Fault::Configuration(format!("is no JSON object: {error}"));
                let location = Location::file(&path);
                qz_packed::Error::Malformed { location, fault: Box::new(fault) }
            })?;
        config.entry("quant_method").or_insert_with(|| method.name.into());
        return Ok(Some(QuantizationConfig { config, path }));
    }
    let fault = qz_packed::Fault::Unconfigured {
        method: method.name,
        looks_like: method.looks_like,
        looked_in: ["quantization_config in config.json", "hf_quant_config.json"]
            .into_iter()
            .chain(BESIDE.iter().copied())
            .collect(),
    };
    let location = source.location(tensor, 0);
    Err(qz_packed::Error::Malformed { location, fault: Box::new(fault) }.into())
}
