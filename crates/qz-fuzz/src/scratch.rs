//! A folder for mutants of formats that are read from files.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder in memory, where the system has one, with a file that is written over again and
/// again: making and removing files would take most of the time.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    path: PathBuf,
    file: File,
}

impl Scratch {
    /// An empty folder.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn new() -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = match tempfile::tempdir_in(memory) {
            Ok(folder) => folder,
            Err(_) => tempfile::tempdir()?,
        };
        let path = folder.path().join("mutant");
        Ok(Self { file: File::create(&path)?, folder, path })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with these bytes.
    ///
    /// # Panics
    /// If the disk refuses.
    pub fn file(&self, bytes: &[u8]) -> &Path {
        let mut file = &self.file;
        file.rewind().and_then(|()| file.write_all(bytes)).expect("the scratch file is written");
        file.set_len(bytes.len() as u64).expect("the scratch file is cut");
        &self.path
    }

    /// Another file of this folder with these bytes.
    ///
    /// # Panics
    /// If the disk refuses.
    pub fn named(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("a scratch file is written");
        path
    }
}
