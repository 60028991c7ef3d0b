//! The containers a model can come in, as a list to walk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use qz_gguf::GgufModel;
use qz_packed::{PackedSource, Repack};
use qz_pickle::TorchModel;
use qz_safetensors::SafetensorsModel;
use qz_tensor::{FileError, Location, Presence, SideFiles, SourceFile, TensorSource};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::folder::Folder;
use crate::model::{Model, OpenOptions};

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
    Container {
        name: "gguf",
        looks_like: "a .gguf file",
        detect: |path| Ok(Presence::of(path)? == Presence::File && starts_with(path, b"GGUF")?),
        open: open_gguf,
    },
    Container {
        name: "huggingface",
        looks_like: "a folder with config.json and safetensors or PyTorch files",
        detect: |path| Ok(Presence::of(&path.join(CONFIG))?.is_there()),
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
            Presence::Absent => return Err(FileError::Missing(path.to_owned()).into()),
            Presence::DanglingLink => return Err(FileError::DanglingLink(path.to_owned()).into()),
            _ => {}
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
                detail: format!("not a model; expected {}", known()),
            }),
        }
    }
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
    let mut model = GgufModel::open(path)?;
    let metadata = model.take_metadata();
    Ok(Model::from_gguf(path, metadata, Box::new(model), options))
}

fn open_hugging_face(path: &Path, options: &OpenOptions) -> Result<Model, Error> {
    let (source, warning) = open_weights(path)?;
    let folder = Folder::new(path)?;
    let mut rounded = (0, 0.0);
    let (mut notes, mut spare, mut stated) = (Vec::new(), HashSet::new(), None);
    let (source, unpacked): (Box<dyn TensorSource>, _) = match quantization(&folder, &*source)? {
        Some(QuantizationConfig { config, path }) => {
            stated = Some(config.clone());
            let repack = if options.repack { Repack::Nearest } else { Repack::Exact };
            let source = PackedSource::open_as(source, &config, &path, repack)?;
            rounded = source.rounded();
            notes.extend_from_slice(source.warnings());
            spare.clone_from(source.zero_biases());
            let packed = source.packed_bytes().collect();
            (Box::new(source), Some(packed))
        }
        None => (source, None),
    };
    let convert = qz_models::ConvertOptions {
        pre_tokenizer: options.pre_tokenizer.clone(),
        model_name: options.model_name.clone(),
        is_unpacked: unpacked.is_some(),
        spare,
    };
    let description = qz_models::describe(&folder, source.tensors(), &convert)?;
    let unpacked = unpacked.unwrap_or_default();
    let mut model = Model::from_description(path, source, folder, description, &unpacked);
    model.quantization = stated;
    model.warnings.extend(warning.into_iter().chain(notes));
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
pub(crate) fn stated_quantization(folder: &dyn SideFiles) -> Result<Option<QuantizationConfig>, Error> {
    let object = |name: &str| -> Result<Map<String, Value>, Error> {
        let bytes = folder.read(name)?.unwrap_or_default();
        // Whoever needs a broken file reports it.
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
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
        let mut config: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| {
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

/// Opens a folder's weights, in the format that is there. Where both are, the
/// safetensors are read, as transformers does, and a warning says so.
pub(crate) fn open_weights(path: &Path) -> Result<(Box<dyn TensorSource>, Option<String>), Error> {
    let has_pytorch = TorchModel::is_in(path)?;
    if SafetensorsModel::is_in(path)? {
        let warning = has_pytorch.then(|| {
            let path = path.display();
            format!(
                "{path}: both safetensors and PyTorch weights are here; the safetensors are read"
            )
        });
        Ok((Box::new(SafetensorsModel::open_folder(path)?), warning))
    } else if has_pytorch {
        Ok((Box::new(TorchModel::open_folder(path)?), None))
    } else {
        Err(Error::NoWeights { path: path.to_owned(), detail: missing_weights(path)? })
    }
}

/// What a folder without weights has instead.
fn missing_weights(path: &Path) -> Result<&'static str, FileError> {
    Ok(if Presence::of(&path.join("consolidated.00.pth"))?.is_there() {
        "weights in Meta's own layout (`consolidated.*.pth`); convert them to Hugging Face's first"
    } else {
        "no weights here: no safetensors (`model.safetensors` or its index) and no PyTorch files \
         (`pytorch_model.bin` or its index)"
    })
}
