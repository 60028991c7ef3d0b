//! What an output consists of.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The files that together are one output. They show at their final paths
/// together, or not at all.
#[derive(Clone, Debug)]
pub struct Artifact {
    target: PathBuf,
    kind: Kind,
    files: Vec<ArtifactFile>,
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFile {
    /// Its name, without a folder.
    pub name: String,
    /// Its bytes: exactly this many.
    pub size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One file.
    File,
    /// A folder with files.
    Folder,
    /// Files beside each other. The first one is what makes them an artifact:
    /// without it nothing opens the others.
    Set,
}

impl Artifact {
    /// A file of exactly `size` bytes at `target`.
    pub fn file(target: &Path, size: u64) -> Self {
        let name =
            target.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let files = vec![ArtifactFile { name, size }];
        Self { target: target.to_owned(), kind: Kind::File, files }
    }

    /// A folder at `target` with these files. A folder that is there already is
    /// replaced only if it holds files alone, one of them with the first one's name.
    ///
    /// # Panics
    /// If there are no files, or two have one name, or a name has a folder in it.
    pub fn folder(target: &Path, files: Vec<ArtifactFile>) -> Self {
        Self::of_kind(target, Kind::Folder, files)
    }

    /// Files beside `target`, which itself only names the artifact in messages and
    /// gives its staging folder a name. The first one must be what readers need
    /// to find the others: it is placed last and taken away first.
    ///
    /// # Panics
    /// If there are no files, or two have one name, or a name has a folder in it.
    pub fn set(target: &Path, files: Vec<ArtifactFile>) -> Self {
        Self::of_kind(target, Kind::Set, files)
    }

    fn of_kind(target: &Path, kind: Kind, files: Vec<ArtifactFile>) -> Self {
        let mut names: Vec<&str> = files.iter().map(|file| &*file.name).collect();
        for name in &names {
            assert!(Path::new(name).file_name() == Some(name.as_ref()), "{name:?} is no base name");
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two files of one name");
        assert!(!files.is_empty(), "an artifact without files");
        // Without a final slash, which would stand for what a link points to.
        Self { target: target.components().collect(), kind, files }
    }

    /// The path it is called by.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Its files.
    pub fn files(&self) -> &[ArtifactFile] {
        &self.files
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The final path of a file.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn path_of(&self, file: usize) -> PathBuf {
        let name = &self.files[file].name;
        match self.kind {
            Kind::File => self.target.clone(),
            Kind::Folder => self.target.join(name),
            Kind::Set => self.target.with_file_name(name),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The folder that the artifact shows in.
    pub(super) fn parent(&self) -> &Path {
        match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// One line that tells it from artifacts of other files.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("{:?}", self.kind);
        for ArtifactFile { name, size } in &self.files {
            let _ = write!(text, " {}:{size}", name.escape_default());
        }
        text
    }
}
