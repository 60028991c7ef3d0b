//! Where outputs go: paths from `-o`, default names, and the folders that they need.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use qz_pipeline::{Model, OpenOptions, Output, PlanOptions, Target, stem_of, unknown_targets};

use crate::cli::{Recipe, Written};
use crate::exit::UsageError;
use crate::messages::warning;

/// A model, and what it is to become.
pub(super) struct Job {
    pub(super) model: Model,
    pub(super) targets: Vec<Target>,
}

/// Opens the source and finds the targets: those that do not exist are reported together, with
/// those that do not fit the source.
pub(super) fn open(
    recipe: &Recipe,
    read: &OpenOptions,
    options: &PlanOptions,
) -> anyhow::Result<Job> {
    let (mut targets, mut unknown) = (Vec::new(), Vec::new());
    for name in &recipe.to {
        match name.parse::<Target>() {
            Ok(target) => targets.push(target),
            Err(error) => unknown.push(error),
        }
    }
    idle_options(recipe, &targets).for_each(|text| warning(&text));
    let model = Model::open(&recipe.source, read);
    match unknown_targets(unknown, &targets, model.as_ref().ok(), options) {
        Some(error) => Err(error.into()),
        None => Ok(Job { model: model?, targets }),
    }
}

/// What is said of options that only other kinds of targets have a use for.
fn idle_options<'a>(
    recipe: &'a Recipe,
    targets: &'a [Target],
) -> impl Iterator<Item = String> + 'a {
    let has_folder = targets.iter().any(Target::is_folder);
    let has_file = targets.iter().any(|target| !target.is_folder());
    let has_packed = targets.iter().any(Target::is_packed);
    let options = [
        ("--rounding", recipe.rounding.is_some() && !has_packed, "packed layouts"),
        ("--shard-size", recipe.shard_size.is_some() && !has_folder, "safetensors files"),
        (
            "--split-max-size or --split-max-tensors",
            recipe.split.is_set() && !has_file,
            "GGUF files",
        ),
    ];
    let is_idle = |(_, is_idle, _): &(&str, bool, &str)| *is_idle && !targets.is_empty();
    let text =
        |(option, _, of): (&str, bool, &str)| format!("{option} has no effect: it is for {of}");
    options.into_iter().filter(is_idle).map(text)
}

/// The path of each target's artifact.
///
/// One target: the path as given. A folder that is there, a path that ends in a slash, and
/// several targets: files and folders of default names in it. No path: these names, here. `prefix`
/// stands before default names.
pub(super) fn outputs(
    source: &Path,
    prefix: &str,
    targets: &[Target],
    written: &Written,
) -> anyhow::Result<Vec<Output>> {
    let mut names: Vec<String> = targets.iter().map(Target::to_string).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return usage(format!("target {} is given twice", pair[0]));
    }
    let output = written.output.as_deref();
    if output == Some(Path::new("-")) {
        return usage("-o -: an output is not written to standard output; name a file".to_owned());
    }
    let is_folder = |path: &Path| path.is_dir() || ends_in_slash(path);
    let folder = match (targets, output) {
        (_, None) => PathBuf::new(),
        ([target], Some(path)) if target.is_folder() || !is_folder(path) => {
            warn_of_extension(target, path);
            return Ok(vec![Output { target: target.clone(), path: path.to_owned() }]);
        }
        ([_], Some(path)) => path.to_owned(),
        (_, Some(path)) => {
            let is_file = path.is_file();
            if is_file || (has_extension(path) && !is_folder(path)) {
                let why = if is_file { "is a file" } else { "names a file" };
                let path = path.display();
                return usage(format!(
                    "several targets need a folder, and -o {path} {why}; try -o {path}/"
                ));
            }
            path.to_owned()
        }
    };
    let stem = stem_of(source);
    let path = |target: &Target| folder.join(format!("{prefix}{}", target.artifact_name(&stem)));
    Ok(targets.iter().map(|target| Output { target: target.clone(), path: path(target) }).collect())
}

fn usage<T>(message: String) -> anyhow::Result<T> {
    Err(UsageError(message).into())
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
}

fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn warn_of_extension(target: &Target, path: &Path) {
    if !target.is_folder() && !has_extension(path) {
        warning(&format!(
            "{}: a GGUF file whose name does not end in .gguf; most programs look for that",
            path.display()
        ));
    }
}

/// Folders that were made for outputs. Those that are empty in the end go away again.
pub(super) struct Folders {
    made: Vec<PathBuf>,
}

impl Folders {
    /// Makes the folders that outputs lie in.
    pub(super) fn make(outputs: &[Output]) -> anyhow::Result<Self> {
        let mut folders = Self { made: Vec::new() };
        for output in outputs {
            let parent = output.path.components().as_path().parent();
            folders.make_one(parent.unwrap_or(Path::new("")))?;
        }
        Ok(folders)
    }

    fn make_one(&mut self, folder: &Path) -> anyhow::Result<()> {
        if folder.as_os_str().is_empty() {
            return Ok(());
        }
        match fs::metadata(folder) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) => return usage(format!("{}: not a folder", folder.display())),
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {}
            Err(error) => return Err(anyhow::anyhow!("{}: {error}", folder.display())),
        }
        self.make_one(folder.parent().unwrap_or(Path::new("")))?;
        match fs::create_dir(folder) {
            Ok(()) => self.made.push(folder.to_owned()),
            Err(_) if folder.is_dir() => {}
            Err(error) => {
                let folder = folder.display();
                return Err(anyhow::anyhow!("{folder}: cannot make the folder: {error}"));
            }
        }
        Ok(())
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        for folder in self.made.iter().rev() {
            // Does nothing to a folder that holds something.
            let _ = fs::remove_dir(folder);
        }
    }
}
