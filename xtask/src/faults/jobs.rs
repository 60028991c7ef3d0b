//! The jobs that faults happen to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Result, ensure};

use super::Ended;
use crate::workspace;

/// A job, and what it makes.
pub(crate) struct Job {
    pub(crate) name: &'static str,
    quantize: PathBuf,
    /// The arguments but for the output.
    arguments: Vec<String>,
    /// The output's name.
    output: &'static str,
    /// What is at the output's path when it ends well.
    pub(crate) expected: State,
    /// What an earlier job of its kind left there.
    pub(crate) old: State,
}

/// All files of a folder by their names, but staging folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State(BTreeMap<PathBuf, Vec<u8>>);

/// The first of a set, without which nothing opens the others.
const FIRST_OF_SET: &str = "-00001-of-";

impl Job {
    /// All jobs, each run once to see what it makes.
    pub(crate) fn all(quantize: &Path, scratch: &Path) -> Result<Vec<Self>> {
        let model = scratch.join("model");
        copy(&workspace().join("fixtures/tiny/llama-tied"), &model)?;
        let text = scratch.join("text.txt");
        let line = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n";
        fs::write(&text, line.repeat(40))?;
        let (model, text) = (display(&model), display(&text));
        let read = ["--data", &text, "--ctx", "32", "--chunks", "2"];
        let [convert, quantized, calibrate] = ["convert", "quantize", "calibrate"];
        let set = ["--split-max-tensors", "4"];
        let new = |name, command: &str, output, to: &str, old: &str, more: &[&str]| {
            let arguments = |to: &str| {
                let to = if to.is_empty() { vec![] } else { vec!["--to", to] };
                let all = [&[command, &model][..], &to, more, &["--threads", "1", "--force"]];
                all.concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
            };
            Self::new(name, quantize, scratch, output, (arguments(to), arguments(old)))
        };
        Ok(vec![
            new("file", convert, "out.gguf", "q8_0", "f16", &[])?,
            new("folder", convert, "out", "safetensors:f16", "safetensors:f32", &[])?,
            new("set", convert, "out.gguf", "q8_0", "f16", &set)?,
            new("packed", convert, "out", "gptq:w4g32", "safetensors:f16", &[])?,
            new("quantize", quantized, "out.gguf", "q4_0", "q8_0", &read)?,
            new("calibrate", calibrate, "out.gguf", "", "", &read)?,
        ])
    }

    fn new(
        name: &'static str,
        quantize: &Path,
        scratch: &Path,
        output: &'static str,
        (arguments, old): (Vec<String>, Vec<String>),
    ) -> Result<Self> {
        let (expected, quantize) = (State::default(), quantize.to_owned());
        let mut job =
            Self { name, quantize, arguments: old, output, expected, old: State::default() };
        job.old = job.made(&scratch.join("once"))?;
        job.arguments = arguments;
        job.expected = job.made(&scratch.join("once"))?;
        Ok(job)
    }

    /// What a run makes that nothing happens to.
    fn made(&self, folder: &Path) -> Result<State> {
        fs::create_dir(folder)?;
        let ended = self.run(folder)?;
        ensure!(ended.code == Some(0), "{}: {}", self.name, ended.stderr);
        let state = State::of(folder)?;
        fs::remove_dir_all(folder)?;
        Ok(state)
    }

    /// Whether what it makes is a set of files.
    pub(crate) fn is_set(&self) -> bool {
        self.expected.has_first_of_set()
    }

    /// The same with another model.
    pub(crate) fn with_model(&self, model: &Path) -> Self {
        let mut arguments = self.arguments.clone();
        arguments[1] = display(model);
        Self {
            name: self.name,
            quantize: self.quantize.clone(),
            arguments,
            output: self.output,
            expected: self.expected.clone(),
            old: self.old.clone(),
        }
    }

    /// Its model's folder.
    pub(crate) fn model(&self) -> &Path {
        Path::new(&self.arguments[1])
    }

    /// The program and its arguments, writing into `folder`.
    pub(crate) fn words(&self, folder: &Path) -> Vec<String> {
        let output = ["-o".to_owned(), display(&folder.join(self.output))];
        [&[display(&self.quantize)][..], &self.arguments, &output].concat()
    }

    pub(crate) fn run(&self, folder: &Path) -> Result<Ended> {
        ended(&[], &self.words(folder))
    }
}

/// Runs `words` behind `wrapper`.
pub(crate) fn ended(wrapper: &[&str], words: &[String]) -> Result<Ended> {
    let mut command = command(wrapper, words);
    let Output { status, stderr, .. } = command.output()?;
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    Ok(Ended { code: status.code(), signal: status.signal(), stderr })
}

pub(crate) fn command(wrapper: &[&str], words: &[String]) -> Command {
    // Nothing may hang.
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60"]).args(wrapper).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

impl State {
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let mut state = Self::default();
        state.collect(folder, folder)?;
        Ok(state)
    }

    fn collect(&mut self, root: &Path, folder: &Path) -> Result<()> {
        for name in names(folder)? {
            let path = folder.join(&name);
            if name.ends_with(".partial") {
                continue;
            }
            if path.is_dir() {
                self.collect(root, &path)?;
            } else {
                self.0.insert(path.strip_prefix(root)?.to_owned(), fs::read(&path)?);
            }
        }
        Ok(())
    }

    /// Writes it into an empty folder.
    pub(crate) fn put(&self, folder: &Path) -> Result<()> {
        for (name, content) in &self.0 {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, content)?;
        }
        Ok(())
    }

    pub(crate) fn has_first_of_set(&self) -> bool {
        self.0.keys().any(|name| name.to_string_lossy().contains(FIRST_OF_SET))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    pub(crate) fn names(&self) -> String {
        let name = |(name, content): (&PathBuf, &Vec<u8>)| {
            format!("{} ({})", name.display(), content.len())
        };
        self.0.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    fs::read_dir(folder)?.map(name).collect()
}

/// Copies the files of a folder.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for name in names(from)? {
        if from.join(&name).is_file() {
            fs::copy(from.join(&name), to.join(&name))?;
        }
    }
    Ok(())
}

pub(crate) fn display(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
