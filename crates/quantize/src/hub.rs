//! Models by their ids on the Hugging Face hub, from the caches of this machine. Nothing
//! is fetched.

use std::env;
use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use qz_pipeline::HubId;

/// What reads a model's path on the command line.
pub(crate) fn models() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(model_path)
}

/// What is no path but an id of the hub (`organization/name`, `hf://...`, an address) is
/// the path of its snapshot in the cache, if it lies there; else the path stays as it is,
/// and whoever opens it says so.
pub(crate) fn model_path(path: PathBuf) -> PathBuf {
    // A path that is there, or that cannot be looked at, is a path.
    if !matches!(path.try_exists(), Ok(false)) {
        return path;
    }
    let id = path.to_str().and_then(HubId::parse);
    let cached = id.and_then(|id| caches().into_iter().find_map(|cache| id.in_cache(&cache)));
    cached.unwrap_or(path)
}

/// The folders that huggingface_hub keeps models in (`HF_HUB_CACHE` in its
/// `constants.py`): the first that is set counts.
fn caches() -> Vec<PathBuf> {
    let folder = |key: &str| env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let direct = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
    let home = || {
        let own = folder("HF_HOME");
        let shared = || folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface"));
        let user = || folder("HOME").map(|home| home.join(".cache/huggingface"));
        own.or_else(shared).or_else(user).map(|home| home.join("hub"))
    };
    let transformers = folder("TRANSFORMERS_CACHE");
    direct.or_else(home).into_iter().chain(transformers).collect()
}
