//! Gives the binary an identity: a digest of all that decides about what it writes. A run that
//! was interrupted is continued by the same build only; a version number would not tell two
//! builds between releases apart. The same sources give the same digest in any folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use sha2::{Digest, Sha256};

/// What is compiled into the binary, relative to the repository.
const SOURCES: [&str; 5] = ["Cargo.lock", "Cargo.toml", "calibration-data", "crates", "formats"];

/// What the compiler is told, as cargo says it.
const SETTINGS: [&str; 4] = ["TARGET", "PROFILE", "OPT_LEVEL", "CARGO_ENCODED_RUSTFLAGS"];

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut digest = Sha256::new();
    for setting in SETTINGS {
        digest.update(format!("{setting}={}\n", env::var(setting).unwrap_or_default()));
    }
    let compiler = Command::new(env::var("RUSTC").unwrap_or_default()).arg("-vV").output()?;
    digest.update(compiler.stdout);
    for source in SOURCES {
        let mut files = Vec::new();
        collect(&root.join(source), &mut files)?;
        files.sort();
        for file in files {
            println!("cargo::rerun-if-changed={}", file.display());
            let content = fs::read(&file)?;
            let name = file.strip_prefix(&root).unwrap_or(&file);
            // Paths as they are written everywhere.
            let name = name.to_string_lossy().replace('\\', "/");
            digest.update(format!("{name} {}\n", content.len()));
            digest.update(content);
        }
    }
    println!("cargo::rustc-env=BUILD_ID={:x}", digest.finalize());
    Ok(())
}

/// All files in a folder but those of tests; the path itself if it is a file.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.file_name().is_some_and(|name| name != "tests" && name != "golden") {
            collect(&entry, files)?;
        }
    }
    Ok(())
}
