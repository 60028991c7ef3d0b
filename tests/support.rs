//! Runs the binary, finds fixtures, bends checkpoints.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use qz_gguf::{GgufFile, GgufSink};
use qz_tensor::{
    DataType, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex, TensorSink, TensorSource,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What came of a run.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// `quantize` with these arguments.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantize"));
    command.args(arguments);
    command
}

/// As [`command`], with signals as they are by default: whoever runs the tests may ignore
/// them (`nohup`, a shell's job in the background), and the program leaves ignored ones so.
pub(crate) fn interruptible(arguments: &[&str]) -> Command {
    if !cfg!(target_os = "linux") {
        return command(arguments);
    }
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,HUP,TERM", env!("CARGO_BIN_EXE_quantize")]);
    command.args(arguments);
    command
}

pub(crate) fn quantize(arguments: &[&str]) -> Run {
    finish(command(arguments).output().expect("the binary runs"))
}

/// Kills the run once it has written down that one tensor is done, and once that some are. Each
/// time the next run goes on with them, and says so; `check` looks at what is there then.
pub(crate) fn survives_kills(arguments: &[&str], output: &Path, check: &dyn Fn()) {
    for records in [1, 5] {
        leave_unfinished(arguments, output, records);
        let run = quantize(arguments).expect_success();
        assert!(run.stderr.contains("continuing, "), "{records}: {}", run.stderr);
        check();
    }
}

/// Kills the run once its journal has so many records. What it leaves is an unfinished output.
pub(crate) fn leave_unfinished(arguments: &[&str], output: &Path, records: usize) {
    stop(arguments, output, records, &|child| child.kill().expect("killed"));
}

/// Runs the job until its journal has so many records, and stops it then: how it ended.
pub(crate) fn stop(
    arguments: &[&str],
    output: &Path,
    records: usize,
    stop: &dyn Fn(&mut Child),
) -> ExitStatus {
    let partial = PathBuf::from(format!("{}.partial", text(output)));
    let journal = partial.join("journal");
    let is_recorded = || {
        // The first line is the journal's title.
        fs::read_to_string(&journal).is_ok_and(|text| text.matches('\n').count() > records)
    };
    // A run may come to its end before it is stopped.
    for _ in 0..50 {
        remove(output);
        let mut child = interruptible(arguments)
            .args(["--journal-every", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let is_running = |child: &mut Child| child.try_wait().expect("asked").is_none();
        while !is_recorded() && is_running(&mut child) {
            thread::sleep(Duration::from_millis(1));
        }
        if is_running(&mut child) {
            stop(&mut child);
        }
        let status = child.wait().expect("waited");
        // A kill may come when all files are in place, and the journal not yet gone.
        if !status.success() && is_recorded() && has_files(&partial.join("data")) {
            return status;
        }
        // What this run left would be taken for the next one's.
        if partial.exists() {
            fs::remove_dir_all(&partial).expect("removed");
        }
    }
    panic!("no run was stopped in time");
}

fn has_files(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

fn remove(output: &Path) {
    match output.is_dir() {
        true => fs::remove_dir_all(output).expect("removed"),
        false => drop(fs::remove_file(output)),
    }
}

pub(crate) fn finish(output: Output) -> Run {
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The committed checkpoints: the trained one and the tiny ones.
pub(crate) fn checkpoints() -> Vec<PathBuf> {
    let tiny = fs::read_dir(fixtures().join("tiny")).expect("fixtures/tiny");
    let mut folders: Vec<PathBuf> = tiny.map(|entry| entry.expect("an entry").path()).collect();
    folders.sort();
    folders.push(fixtures().join("demo-llama"));
    folders
}

/// True for a checkpoint whose tokenizer is a `tokenizer.json` with byte tokens.
pub(crate) fn has_byte_tokens(checkpoint: &Path) -> bool {
    let definition = fs::read_to_string(checkpoint.join("tokenizer.json")).unwrap_or_default();
    definition.contains("\"byte_fallback\": true")
}

/// Gives the GGUF file of such a checkpoint the vocabulary that the reference writes: the
/// same score for every token, and `<unk>` without a part to play where no key names it.
pub(crate) fn forget_merges(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    edit_words(&mut bytes, "tokenizer.ggml.scores", |_, score| {
        let is_padding = f32::from_le_bytes(score) == -10_000.0;
        if is_padding { score } else { (-1000.0f32).to_le_bytes() }
    });
    edit_words(&mut bytes, "tokenizer.ggml.token_type", |id, kind| {
        if id == 0 { 1i32.to_le_bytes() } else { kind }
    });
    fs::write(path, bytes).expect("written");
}

/// Changes the elements of a list in a GGUF file's metadata, each four bytes long.
fn edit_words(bytes: &mut [u8], key: &str, edit: impl Fn(usize, [u8; 4]) -> [u8; 4]) {
    let found = bytes.windows(key.len()).position(|window| window == key.as_bytes());
    // Behind the key stand two types of four bytes and the count.
    let header = found.expect("the key") + key.len() + 8;
    let (count, words) = bytes[header..].split_first_chunk_mut::<8>().expect("a count");
    let count = u64::from_le_bytes(*count) as usize;
    let words = words.as_chunks_mut::<4>().0;
    for (id, word) in words[..count].iter_mut().enumerate() {
        *word = edit(id, *word);
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// A folder that goes away with the value.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("listed");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("UTF-8")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// A copy of a committed checkpoint, to be bent.
pub(crate) fn copy_of(fixture: &str, into: &Path) -> PathBuf {
    let from = fixtures().join(fixture);
    let to = into.join("checkpoint");
    fs::create_dir(&to).expect("created");
    for name in names(&from) {
        if from.join(&name).is_file() {
            fs::copy(from.join(&name), to.join(&name)).expect("copied");
        }
    }
    to
}

/// Changes a JSON file in place.
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON");
    edit(&mut value);
    fs::write(path, value.to_string()).expect("written");
}

/// A safetensors file taken apart: header and data.
pub(crate) struct Safetensors {
    pub(crate) header: Value,
    pub(crate) data: Vec<u8>,
}

impl Safetensors {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("read");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        Self { header, data: bytes[8 + length..].to_vec() }
    }

    pub(crate) fn write(&self, path: &Path) {
        let header = self.header.to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(&self.data);
        fs::write(path, bytes).expect("written");
    }

    /// Adds a tensor behind the others.
    pub(crate) fn add(&mut self, tensor: &str, data_type: &str, shape: &[usize], bytes: &[u8]) {
        let begin = self.data.len();
        self.data.extend_from_slice(bytes);
        self.header[tensor] =
            json!({"dtype": data_type, "shape": shape, "data_offsets": [begin, self.data.len()]});
    }

    /// The tensor's first byte in `data`.
    pub(crate) fn start(&self, tensor: &str) -> usize {
        self.header[tensor]["data_offsets"][0].as_u64().expect("an offset") as usize
    }
}

/// A GGUF file of f32 tensors: name, dimensions outermost first, values.
pub(crate) fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[(&str, &[u64], &[f32])]) {
    let infos: Vec<SinkTensor> = tensors
        .iter()
        .map(|(name, dimensions, _)| SinkTensor {
            name: (*name).into(),
            data_type: DataType::F32,
            shape: Shape::new(*dimensions).expect("fits"),
        })
        .collect();
    let mut sink = GgufSink::create(path, metadata, &infos, "test", OutputOptions::default())
        .expect("created");
    for (position, (.., values)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        sink.put(TensorIndex(position), 0, &bytes).expect("put");
    }
    sink.finish().expect("finished");
}

/// A tensor's type and bytes in a GGUF file.
pub(crate) fn tensor(path: &Path, name: &str) -> (DataType, Vec<u8>) {
    let file = GgufFile::open(path).expect("opens");
    let position = file.tensors().iter().position(|info| info.name == name).expect("a tensor");
    let info = &file.tensors()[position];
    let mut bytes = vec![0; usize::try_from(info.bytes).expect("small")];
    file.read(TensorIndex(position), 0, &mut bytes).expect("read");
    (info.data_type, bytes)
}
