//! What a job reads, beside what it writes: no output may be, lie in, or contain an input.
//! One check for every job, before any work and before anything is touched.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use qz_gguf::base_name;
use qz_tensor::{SideFiles, StagedArtifact};

use crate::error::Error;
use crate::model::Model;

/// Everything that a job reads.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Folders of models.
    folders: Vec<PathBuf>,
    files: Vec<Input>,
}

/// A file, by all that tells it from others.
#[derive(Clone, Debug)]
struct Input {
    /// As it was named, and where that leads.
    paths: Vec<PathBuf>,
    identity: Option<Identity>,
}

/// Device and inode: the same for all names of a file.
type Identity = (u64, u64);

/// Folders in folders of a model that are looked into.
const DEPTH: usize = 3;

/// What files of a checkpoint end in.
const CHECKPOINT_ENDINGS: &[&str] =
    &["safetensors", "bin", "pt", "pth", "json", "jinja", "model", "tiktoken", "txt"];

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|own| endings.iter().any(|ending| own == *ending))
}

impl Inputs {
    /// Adds a model, with everything that may be read beside its weights.
    #[must_use]
    pub fn with_model(mut self, path: &Path) -> Self {
        if path.is_dir() {
            self.add_folder(path, DEPTH);
            self.folders.extend(names_of(path));
            return self;
        }
        let own = path.file_name().unwrap_or_default().to_string_lossy();
        let own = base_name(own.strip_suffix(".gguf").unwrap_or(&own));
        // A checkpoint's configuration and tokenizer; other parts of a split GGUF file.
        let is_checkpoint = has_ending(path, CHECKPOINT_ENDINGS);
        let is_read = |other: &Path| match is_checkpoint {
            true => has_ending(other, CHECKPOINT_ENDINGS),
            false => {
                let name = other.file_name().unwrap_or_default().to_string_lossy();
                name.strip_suffix(".gguf").is_some_and(|name| base_name(name) == own)
            }
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten();
        let beside = entries.flatten().map(|entry| entry.path());
        let beside = beside.filter(|path| path.is_file() && is_read(path));
        beside.for_each(|path| self.add_file(&path));
        self.with_file(path)
    }

    /// Adds a model that is open.
    #[must_use]
    pub(crate) fn with_open_model(self, model: &Model) -> Self {
        let mut inputs = self.with_model(&model.path);
        for folder in &model.adapters {
            inputs = inputs.with_model(&folder.path(""));
        }
        model.source.files().iter().for_each(|file| inputs.add_file(file.path()));
        inputs
    }

    /// Adds a file.
    #[must_use]
    pub fn with_file(mut self, path: &Path) -> Self {
        self.add_file(path);
        self
    }

    /// Adds what is to be a file or a folder.
    #[must_use]
    pub(crate) fn with_output(mut self, path: &Path) -> Self {
        self.folders.extend(names_of(path));
        self.with_file(path)
    }

    /// Adds files.
    #[must_use]
    pub fn with_files<'p>(self, paths: impl IntoIterator<Item = &'p Path>) -> Self {
        paths.into_iter().fold(self, Self::with_file)
    }

    fn add_file(&mut self, path: &Path) {
        self.files.push(Input { paths: names_of(path), identity: identity(path) });
    }

    fn add_folder(&mut self, folder: &Path, depth: usize) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                false => self.add_file(&path),
                true if depth > 0 => self.add_folder(&path, depth - 1),
                true => {}
            }
        }
    }

    /// Fails if writing `output` would change an input, or what an input is.
    ///
    /// # Errors
    /// If it is one, lies in one, or contains one, by whatever name.
    pub fn check(&self, output: &Path) -> Result<(), Error> {
        let fault = |relation, input: &Path| {
            let (output, input) = (output.to_owned(), input.to_owned());
            Err(Error::OutputIsInput { output, relation, input })
        };
        let own = identity(output);
        let names = names_of(output);
        let is_own = |input: &&Input| {
            (own.is_some() && input.identity == own)
                || input.paths.iter().any(|path| names.contains(path))
        };
        if let Some(input) = self.files.iter().find(is_own) {
            return fault("is", &input.paths[0]);
        }
        let holds = |folder: &PathBuf| names.iter().any(|name| name.starts_with(folder));
        if let Some(folder) = self.folders.iter().find(|folder| holds(folder)) {
            return fault(if names.contains(folder) { "is" } else { "lies in" }, folder);
        }
        // The folder in which it grows is removed with all that is in it.
        let growing = names_of(&StagedArtifact::folder_beside(output));
        let is_held =
            |path: &PathBuf| names.iter().chain(&growing).any(|output| path.starts_with(output));
        let paths = self.files.iter().flat_map(|input| &input.paths).chain(&self.folders);
        match paths.into_iter().find(|path| is_held(path)) {
            Some(input) => fault("contains", input),
            None => Ok(()),
        }
    }
}

/// A path without links but the last name, and with none at all. What does not exist yet is
/// named after the folder it will be in.
fn names_of(path: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let named = match (absolute.parent(), absolute.file_name()) {
        (Some(folder), Some(name)) => resolved(folder).join(name),
        _ => absolute.clone(),
    };
    let mut names = vec![named];
    names.extend(fs::canonicalize(&absolute).ok().filter(|resolved| *resolved != names[0]));
    names
}

/// A folder without links, as far as it exists.
fn resolved(folder: &Path) -> PathBuf {
    let (mut known, mut rest) = (folder.to_owned(), Vec::<OsString>::new());
    loop {
        if let Ok(resolved) = fs::canonicalize(&known) {
            return rest.iter().rev().fold(resolved, |path, name| path.join(name));
        }
        let Some(name) = known.file_name().map(ToOwned::to_owned) else { return folder.to_owned() };
        rest.push(name);
        known.pop();
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<Identity> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder with a model's folder, a split GGUF file, a text, and links to them.
    fn files() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("hf/sub")).expect("made");
        let names = ["hf/config.json", "hf/sub/t.jinja", "text", "x.partial/in", "alone.gguf"];
        let names = names.iter().chain(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
        fs::create_dir_all(at("x.partial")).expect("made");
        names.for_each(|name| fs::write(at(name), name).expect("written"));
        fs::hard_link(at("text"), at("hard")).expect("linked");
        symlink(at("text"), at("soft")).expect("linked");
        symlink(at("hf"), at("folder-link")).expect("linked");
        symlink(folder.path(), at("here")).expect("linked");
        folder
    }

    #[test]
    fn outputs_are_no_inputs() {
        let folder = files();
        let at = |name: &str| folder.path().join(name);
        let inputs = Inputs::default()
            .with_model(&at("folder-link"))
            .with_model(&at("m-00001-of-00002.gguf"))
            .with_files([at("soft").as_path(), &at("x.partial/in")]);
        let check = |output: &str, expected: Option<&str>| {
            let found = match inputs.check(&at(output)) {
                Err(Error::OutputIsInput { relation, .. }) => Some(relation),
                Err(error) => panic!("{error}"),
                Ok(()) => None,
            };
            assert_eq!(found, expected, "{output}");
        };
        for name in ["text", "hard", "soft", "here/text", "hf/../text", "here/here/hard"] {
            check(name, Some("is"));
        }
        check("hf", Some("is"));
        check("folder-link", Some("is"));
        check("hf/config.json", Some("is"));
        check("here/folder-link/sub/t.jinja", Some("is"));
        check("m-00002-of-00002.gguf", Some("is"));
        check("hf/new.gguf", Some("lies in"));
        check("folder-link/a/b/new.gguf", Some("lies in"));
        check("x", Some("contains"));
        check("here", Some("contains"));
        check("x.partial", Some("contains"));
        for name in ["new", "a/b/new", "hf.gguf", "m.gguf", "alone.gguf", "x.gguf"] {
            check(name, None);
        }
    }

    #[test]
    fn files_beside_weights_that_are_named_are_read() {
        let folder = files();
        let weights = folder.path().join("hf/model.safetensors");
        fs::write(&weights, "").expect("written");
        let inputs = Inputs::default().with_model(&weights);
        assert!(inputs.check(&folder.path().join("hf/config.json")).is_err());
        assert!(inputs.check(&folder.path().join("hf/new.gguf")).is_ok());
    }
}
