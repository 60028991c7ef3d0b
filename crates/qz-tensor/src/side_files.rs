//! The small files beside a checkpoint's weights.

use std::path::PathBuf;

use crate::file::FileError;

/// The small files of a checkpoint folder (`config.json`, `tokenizer.json`,
/// `README.md`, ...), read by name. Names are relative, with `/` between folder
/// and file. Whoever implements it bounds the size of what it reads and keeps
/// inside the folder; whoever calls it never learns where the bytes came from.
pub trait SideFiles {
    /// The whole file, or `None` if there is no such file.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError>;

    /// Names of the regular files directly in `folder`, sorted; none if there is
    /// no such folder.
    ///
    /// # Errors
    /// If the folder is there and cannot be listed.
    fn list(&self, folder: &str) -> Result<Vec<String>, FileError>;

    /// The checkpoint's own name, if its place tells one: that of its folder, or its id
    /// (`organization/name`) on the hub.
    fn folder_name(&self) -> Option<&str>;

    /// Where `name` lies, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// A small file that is to lie beside a checkpoint's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// Its name, relative to the folder.
    pub name: String,
    /// All of it.
    pub content: Vec<u8>,
}
