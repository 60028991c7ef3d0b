//! What a model is called, and where the Hugging Face hub's cache keeps it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use qz_models::is_generic_name;

/// The id of a model on the Hugging Face hub, with the revision that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    organization: String,
    name: String,
    revision: Option<String>,
    /// A file inside.
    file: Option<PathBuf>,
}

const HUB: &str = "huggingface.co";
/// The folders of one model in the cache begin so.
const FOLDER_PREFIX: &str = "models--";
const FOLDER_SEPARATOR: &str = "--";

impl HubId {
    /// The id that `text` names: `organization/name`, or an address of the hub.
    pub fn parse(text: &str) -> Option<Self> {
        let address = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .map(|rest| rest.strip_prefix("www.").unwrap_or(rest))
            .map(|rest| rest.strip_prefix(HUB).or_else(|| rest.strip_prefix("hf.co")));
        let path = match address {
            Some(rest) => rest?.strip_prefix('/')?,
            None => text.strip_prefix("hf://").unwrap_or(text),
        };
        let path = path.split(['?', '#']).next()?.trim_end_matches('/');
        let is_bare = address.is_none() && path.len() == text.len();
        let mut parts = path.split('/');
        let organization = parts.next()?;
        let (name, revision) = match parts.next()?.split_once('@') {
            Some((name, revision)) if !is_bare => (name, Some(revision)),
            Some(_) => return None,
            None => (path.split('/').nth(1)?, None),
        };
        let rest: Vec<&str> = parts.collect();
        let (revision, file) = match rest.as_slice() {
            [] => (revision, None),
            // What is in front of a revision on the hub's pages.
            ["tree" | "blob" | "resolve", revision, file @ ..] if !is_bare => {
                (Some(*revision), (!file.is_empty()).then(|| file.iter().collect()))
            }
            _ => return None,
        };
        let is_plain =
            |file: &PathBuf| file.components().all(|c| matches!(c, Component::Normal(_)));
        let is_known = [organization, name].iter().all(|part| is_id(part))
            && revision.is_none_or(is_id)
            && file.as_ref().is_none_or(is_plain);
        is_known.then(|| Self {
            organization: organization.to_owned(),
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
            file,
        })
    }

    /// `organization/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.organization, self.name)
    }

    /// Where the model lies in a cache folder of the hub, if it does.
    pub fn in_cache(&self, cache: &Path) -> Option<PathBuf> {
        let Self { organization, name, .. } = self;
        let separator = FOLDER_SEPARATOR;
        let folder = cache.join(format!("{FOLDER_PREFIX}{organization}{separator}{name}"));
        let snapshot = snapshot(&folder, self.revision.as_deref())?;
        match &self.file {
            None => Some(snapshot),
            Some(file) => Some(snapshot.join(file)).filter(|path| path.exists()),
        }
    }
}

/// The words that ids and revisions are made of.
fn is_id(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && !text.starts_with('.') && text.chars().all(plain)
}

/// The snapshot of a revision in a model's folder of the cache. Without one it is that
/// of `main`, or the only one.
pub(super) fn snapshot(folder: &Path, revision: Option<&str>) -> Option<PathBuf> {
    let snapshots = folder.join("snapshots");
    let name = revision.unwrap_or("main");
    let referred = fs::read_to_string(folder.join("refs").join(name)).ok();
    let commit = referred.as_deref().map_or(name, str::trim);
    if is_id(commit) && snapshots.join(commit).is_dir() {
        return Some(snapshots.join(commit));
    }
    let mut entries = fs::read_dir(&snapshots).ok().filter(|_| revision.is_none())?.flatten();
    let only = entries.next()?;
    entries.next().is_none().then(|| only.path())
}

/// True for a model's folder in the hub's cache.
pub(super) fn is_cache_folder(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(FOLDER_PREFIX) && path.join("snapshots").is_dir()
}

/// What the model at `path`, a folder or a file, is called by its place: its id, if it
/// lies in the hub's cache, else the name of the nearest folder that is not called as
/// any could be.
pub(crate) fn name_of(path: &Path) -> Option<String> {
    // `.` and `..` have a name only once resolved.
    let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // A link in a snapshot leads to `blobs`; the place is where the link is.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    [&resolved, &absolute].into_iter().find_map(|path| cached_id(path)).or_else(|| {
        let parts = resolved.ancestors().take(MOST_FOLDERS).filter_map(Path::file_name);
        let names = parts.map(|name| name.to_string_lossy().into_owned());
        names.into_iter().find(|name| !is_generic_name(name))
    })
}

/// What files made of the model at `path` are called: as its folder is, or as the file
/// without its ending and its place in a set.
pub fn stem_of(path: &Path) -> String {
    // A link's own name says more than that of a blob in the hub's cache.
    let file = path.file_name().filter(|_| !path.is_dir()).map(|name| name.to_string_lossy());
    let stem = file.as_deref().map(|name| {
        let ends = [".index.json", ".safetensors", ".bin", ".pt", ".pth"];
        let name = ends.iter().fold(name, |name, end| name.strip_suffix(end).unwrap_or(name));
        qz_gguf::base_name(name)
    });
    let is_telling = |stem: &&str| !is_generic_name(stem) && *stem != "pytorch_model";
    if let Some(stem) = stem.filter(is_telling) {
        return stem.to_owned();
    }
    let folder = if stem.is_some() { path.parent() } else { Some(path) };
    let name = folder
        .and_then(|folder| name_of(if folder == Path::new("") { Path::new(".") } else { folder }));
    match name.as_deref().and_then(|name| name.rsplit('/').next()) {
        Some(name) => name.to_owned(),
        None => stem.unwrap_or("model").to_owned(),
    }
}

/// How far up a name is looked for.
const MOST_FOLDERS: usize = 3;

/// `organization/name` of a path inside the hub's cache.
fn cached_id(path: &Path) -> Option<String> {
    let snapshots = path.ancestors().find(|part| part.ends_with("snapshots"));
    let folder = snapshots.and_then(Path::parent).unwrap_or(path);
    let name = folder.file_name()?.to_str()?.strip_prefix(FOLDER_PREFIX)?;
    Some(name.replacen(FOLDER_SEPARATOR, "/", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let check = |text: &str, expected: Option<(&str, Option<&str>, Option<&str>)>| {
            let found = HubId::parse(text);
            let found = found.as_ref().map(|id| {
                (id.id(), id.revision.as_deref(), id.file.as_ref().and_then(|file| file.to_str()))
            });
            let expected = expected.map(|(id, revision, file)| (id.to_owned(), revision, file));
            assert_eq!(found, expected, "{text}");
        };
        check("HuggingFaceTB/SmolLM2-135M", Some(("HuggingFaceTB/SmolLM2-135M", None, None)));
        check("hf://a/b", Some(("a/b", None, None)));
        check("hf://a/b@v1.0", Some(("a/b", Some("v1.0"), None)));
        check("https://huggingface.co/a/b", Some(("a/b", None, None)));
        check("https://huggingface.co/a/b/", Some(("a/b", None, None)));
        check("https://hf.co/a/b?x=1", Some(("a/b", None, None)));
        check("https://huggingface.co/a/b/tree/main", Some(("a/b", Some("main"), None)));
        check(
            "https://huggingface.co/a/b/blob/main/sub/c.gguf",
            Some(("a/b", Some("main"), Some("sub/c.gguf"))),
        );
        check("https://example.com/a/b", None);
        check("https://huggingface.co/a", None);
        check("https://huggingface.co/a/b/blob/main/../c", None);
        check("a/b/c", None);
        check("./a", None);
        check("../a", None);
        check("/a/b", None);
        check("a/b@c", None);
        check("a", None);
        check("a/", None);
        check("a b/c", None);
    }

    #[test]
    fn names_say_which_model_it_is() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(name_of(Path::new(path)).as_deref(), expected, "{path}");
        };
        let hash = "93efa2f0".repeat(5);
        check(&format!("/x/hub/models--org--some--name/snapshots/{hash}"), Some("org/some--name"));
        check("/x/Llama-9", Some("Llama-9"));
        check("/x/Llama-9/hf", Some("Llama-9"));
        check("/x/Llama-9/checkpoint-500", Some("Llama-9"));
        check("/x/Llama-9/out/step_20", Some("Llama-9"));
        check(&format!("/x/Llama-9/{hash}"), Some("Llama-9"));
        check("/mnt/out/model", None);
        check("/", None);
    }

    #[test]
    fn stems() {
        let check = |path: &str, expected: &str| assert_eq!(stem_of(Path::new(path)), expected);
        check("/x/a.gguf", "a");
        check("/x/a-00002-of-00003.gguf", "a");
        check("/x/own.safetensors", "own");
        check("/x/Llama-9/model.safetensors", "Llama-9");
        check("/x/Llama-9/model.safetensors.index.json", "Llama-9");
        check("/x/Llama-9/model-00001-of-00002.safetensors", "Llama-9");
        check("/x/Llama-9/pytorch_model.bin", "Llama-9");
        check("/mnt/model.gguf", "model");
        check("/", "model");
    }

    #[test]
    fn the_cache_is_looked_through() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let folder = cache.path().join("models--a--b");
        let find = |text: &str| HubId::parse(text).expect("an id").in_cache(cache.path());
        assert_eq!(find("a/b"), None);
        fs::create_dir_all(folder.join("snapshots/11")).expect("made");
        assert_eq!(find("a/b"), Some(folder.join("snapshots/11")));
        fs::create_dir_all(folder.join("snapshots/22")).expect("made");
        assert_eq!(find("a/b"), None);
        fs::create_dir_all(folder.join("refs")).expect("made");
        fs::write(folder.join("refs/main"), "22\n").expect("written");
        assert_eq!(find("a/b"), Some(folder.join("snapshots/22")));
        assert_eq!(find("hf://a/b@11"), Some(folder.join("snapshots/11")));
        assert_eq!(find("hf://a/b@33"), None);
        assert_eq!(find("a/c"), None);
        fs::write(folder.join("refs/main"), "../../..").expect("written");
        assert_eq!(find("a/b"), None);
    }
}
