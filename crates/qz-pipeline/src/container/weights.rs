//! A checkpoint's weights: which files they are, or what is there instead.

use std::path::{Path, PathBuf};

use qz_pickle::TorchModel;
use qz_safetensors::SafetensorsModel;
use qz_tensor::{FileError, Presence, SideFiles, TensorSource};
use serde_json::Value;

use crate::error::Error;
use crate::folder::Folder;

/// The formats of weights that a path can name, by what their files end with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Safetensors,
    PyTorch,
}

const ENDINGS: &[(&str, Format)] = &[
    (".safetensors", Format::Safetensors),
    (".safetensors.index.json", Format::Safetensors),
    (".bin", Format::PyTorch),
    (".bin.index.json", Format::PyTorch),
    (".pt", Format::PyTorch),
    (".pth", Format::PyTorch),
];

fn format_of(file: &Path) -> Option<Format> {
    let name = file.file_name()?.to_string_lossy();
    ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format)
}

/// The folder of the checkpoint that `path` names: itself, or that of the weights.
pub(crate) fn folder_of(path: &Path) -> Result<Option<PathBuf>, FileError> {
    if Presence::of(path)? == Presence::Folder {
        return Ok(Some(path.to_owned()));
    }
    Ok(format_of(path).map(|_| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }))
}

type Weights = (Box<dyn TensorSource>, Vec<String>);

/// Opens the weights that `path` names: a folder's, or those of a file or an index.
pub(crate) fn open_weights(path: &Path) -> Result<Weights, Error> {
    if is_adapter(path) {
        let folder = folder_of(path)?.unwrap_or_else(|| path.to_owned());
        let detail = adapter(&folder).unwrap_or_else(|| ADAPTER.to_owned());
        return Err(Error::NoWeights { path: path.to_owned(), detail });
    }
    let is_folder = Presence::of(path)? == Presence::Folder;
    match format_of(path).filter(|_| !is_folder) {
        Some(Format::Safetensors) => Ok(safetensors(SafetensorsModel::open_path(path)?)),
        Some(Format::PyTorch) => Ok(pytorch(TorchModel::open_path(path)?)),
        None => open_folder(path),
    }
}

/// Where weights of both formats are, the safetensors are read, as transformers does,
/// and a warning says so. Files under other names count where there are no usual ones.
fn open_folder(path: &Path) -> Result<Weights, Error> {
    let has_pytorch = TorchModel::is_in(path)?;
    if SafetensorsModel::is_in(path)? {
        let (source, mut warnings) = safetensors(SafetensorsModel::open_folder(path)?);
        if has_pytorch {
            let path = path.display();
            warnings.push(format!(
                "{path}: both safetensors and PyTorch weights are here; the safetensors are read"
            ));
        }
        Ok((source, warnings))
    } else if has_pytorch {
        Ok(pytorch(TorchModel::open_folder(path)?))
    } else if SafetensorsModel::may_be_in(path)? {
        Ok(safetensors(SafetensorsModel::open_folder(path)?))
    } else if TorchModel::may_be_in(path)? {
        Ok(pytorch(TorchModel::open_folder(path)?))
    } else {
        Err(Error::NoWeights { path: path.to_owned(), detail: missing(path)? })
    }
}

fn safetensors(model: SafetensorsModel) -> Weights {
    let notes = model.notes().to_vec();
    (Box::new(model), notes)
}

fn pytorch(model: TorchModel) -> Weights {
    let notes = model.notes().to_vec();
    (Box::new(model), notes)
}

/// True for an adapter's own file.
fn is_adapter(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("adapter_model.") && format_of(path).is_some()
}

/// What a folder without weights has instead.
fn missing(path: &Path) -> Result<String, FileError> {
    if let Some(adapter) = adapter(path) {
        return Ok(adapter);
    }
    let has = |name: &str| Presence::of(&path.join(name)).map(Presence::is_there);
    let detail = if has("consolidated.00.pth")? {
        "weights in Meta's own layout (`consolidated.*.pth`); convert them to Hugging Face's first"
    } else if has("consolidated.safetensors")? {
        "weights in Mistral's own layout (`consolidated.safetensors`); convert them to Hugging \
         Face's first"
    } else {
        "no weights here: no safetensors (`model.safetensors` or its index) and no PyTorch files \
         (`pytorch_model.bin` or its index)"
    };
    Ok(detail.to_owned())
}

/// What to say of a folder without a configuration, if something known is in it.
pub(super) fn unknown_folder(path: &Path) -> Option<String> {
    let is_gguf = |name: &String| name.ends_with(".gguf");
    let adapted = adapter(path);
    adapted.or_else(|| {
        let names = Folder::new(path).ok()?.list("").ok()?;
        let first = names.iter().find(|name| is_gguf(name))?;
        Some(format!("a folder of GGUF files; give the path of one, as `{first}`"))
    })
}

const ADAPTER: &str = "an adapter, not a model";

/// What to say of a folder that holds an adapter.
pub(super) fn adapter(path: &Path) -> Option<String> {
    const CONFIG: &str = "adapter_config.json";
    const FILES: [&str; 3] = [CONFIG, "adapter_model.safetensors", "adapter_model.bin"];
    if !FILES.iter().any(|name| path.join(name).exists()) {
        return None;
    }
    let bytes = Folder::new(path).ok()?.read(CONFIG).ok().flatten().unwrap_or_default();
    let config: Value = qz_shards::json::settings(&bytes).unwrap_or_default();
    let text = |key: &str| config.get(key).and_then(Value::as_str).map(qz_shards::shown);
    let kind = match text("peft_type").as_deref() {
        Some("LORA") => "a LoRA adapter".to_owned(),
        Some(kind) => format!("an adapter ({kind})"),
        None => "an adapter".to_owned(),
    };
    let base =
        text("base_model_name_or_path").map_or_else(String::new, |base| format!(" of {base}"));
    Some(format!(
        "{kind}{base}, not a model: merge it into its base (`--merge-lora`), or write it alone \
         beside that (`--base`)"
    ))
}
