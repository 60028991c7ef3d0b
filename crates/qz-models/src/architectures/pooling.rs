//! How an embedding model makes one vector of a text: `modules.json` of
//! sentence-transformers (`_try_set_pooling_type` in `conversion/base.py`).

use qz_tensor::Metadata;
use serde_json::Value;

use crate::architecture::Model;
use crate::config::{JsonObject, shown};
use crate::error::Error;

const MODULES: &str = "modules.json";

/// Keys of the pooling module's configuration with GGUF's number for the kind
/// (`PoolingType` in `gguf-py/gguf/constants.py`).
const BY_FLAG: &[(&str, u32)] = &[
    ("pooling_mode_mean_tokens", 1),
    ("pooling_mode_cls_token", 2),
    ("pooling_mode_lasttoken", 3),
];
pub(super) const BY_NAME: &[(&str, u32)] = &[("mean", 1), ("cls", 2), ("lasttoken", 3)];

/// Adds `pooling_type` if the checkpoint has a pooling module.
pub(super) fn write_pooling_type(
    architecture: &str,
    model: &Model<'_>,
    metadata: &mut Metadata,
) -> Result<(), Error> {
    let Some(folder) = folders(model, "Pooling")?.into_iter().next() else { return Ok(()) };
    let name = format!("{folder}/config.json");
    let path = model.files.path(&name);
    let Some(bytes) = model.files.read(&name)? else { return Err(Error::MissingFile(path)) };
    let config = JsonObject::parse(path, &bytes)?;
    for (key, number) in BY_FLAG {
        if config.boolean(key)? == Some(true) {
            metadata.set(format!("{architecture}.pooling_type"), *number);
            return Ok(());
        }
    }
    let mode = config.string("pooling_mode")?;
    let Some((_, number)) = BY_NAME.iter().find(|(name, _)| mode == Some(name)) else {
        return Err(config.fault("pooling_mode", "is none of mean, cls and last token"));
    };
    metadata.set(format!("{architecture}.pooling_type"), *number);
    Ok(())
}

/// The folders of modules whose type ends like this.
pub(super) fn folders(model: &Model<'_>, kind: &str) -> Result<Vec<String>, Error> {
    let Some(bytes) = model.files.read(MODULES)? else { return Ok(Vec::new()) };
    let path = model.files.path(MODULES);
    let modules: Value = qz_shards::json::settings(&bytes)
        .map_err(|source| Error::Json { path: path.clone(), source })?;
    let is_meant = |module: &&Value| {
        module.get("type").and_then(Value::as_str).is_some_and(|own| own.ends_with(kind))
    };
    // Whoever reads side files refuses names that leave the folder; the error
    // is better where the name comes from.
    let is_name = |folder: &&str| {
        !folder.is_empty() && !folder.contains(['/', '\\', ':']) && !folder.starts_with('.')
    };
    let folder = |module: &Value| match module.get("path").and_then(Value::as_str).filter(is_name) {
        Some(folder) => Ok(folder.to_owned()),
        None => Err(Error::Key {
            path: path.clone(),
            key: "path".to_owned(),
            problem: format!("is {}, expected a folder's name", shown(&module["path"])),
        }),
    };
    modules.as_array().into_iter().flatten().filter(is_meant).map(folder).collect()
}
