//! How long every codec takes, beside llama.cpp's own library in this process.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qz_codec::{Codec, ImportanceUse};
use qz_kernels::Isa;
use qz_tensor::{DataType, GgmlTypeId};

use crate::inputs::{self, IMPORTANCE, WEIGHTS};
use crate::reference::{Dequantize, Reference};

/// What a codec does, and on what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    Encode { weighed: bool },
    Decode,
}

impl Task {
    const ALL: [Self; 3] =
        [Self::Encode { weighed: false }, Self::Encode { weighed: true }, Self::Decode];

    fn name(self) -> &'static str {
        match self {
            Self::Encode { weighed: false } => "encode",
            Self::Encode { weighed: true } => "encode-weighed",
            Self::Decode => "decode",
        }
    }

    /// False where a type does not know the difference, or the library has no function.
    fn is_done_by(self, codec: &dyn Codec) -> bool {
        let importance = codec.spec().importance;
        match self {
            Self::Encode { weighed: false } => importance != ImportanceUse::Required,
            Self::Encode { weighed: true } => importance != ImportanceUse::Ignored,
            Self::Decode => codec.spec().data_type != DataType::F32,
        }
    }
}

/// Few enough weights that a run seldom loses its core, and stays in its cache.
const ROWS: usize = 8;
const COLUMNS: usize = 4096;

/// A codec's task, with its input.
struct Work<'a> {
    reference: &'a Reference,
    codec: &'static dyn Codec,
    id: GgmlTypeId,
    decoder: Option<Dequantize>,
    task: Task,
    weights: Vec<f32>,
    importance: Option<Vec<f32>>,
    bytes: Vec<u8>,
}

impl<'a> Work<'a> {
    fn new(reference: &'a Reference, codec: &'static dyn Codec, task: Task) -> Result<Self> {
        let data_type = codec.spec().data_type;
        let id = data_type.spec().ggml.context("a type without a GGUF id")?;
        let bell = inputs::find(WEIGHTS, "bell").context("a kind of input")?;
        let positive = inputs::find(IMPORTANCE, "positive").context("a kind of importance")?;
        let weights = inputs::values(bell, 1, ROWS * COLUMNS);
        let importance = inputs::values(positive, 2, COLUMNS);
        let size = weights.len() / data_type.block_elements() * data_type.block_bytes();
        let mut bytes = vec![0; size];
        if task == Task::Decode {
            codec.encode(&weights, COLUMNS, Some(&importance), &mut bytes);
        }
        let importance = (task == Task::Encode { weighed: true }).then_some(importance);
        let decoder = reference.decoder(data_type)?;
        Ok(Self { reference, codec, id, decoder, task, weights, importance, bytes })
    }

    /// What is counted under valgrind, which knows it by its name.
    #[inline(never)]
    fn counted_work(&mut self, side: Side) {
        match (self.task, side) {
            (Task::Encode { .. }, Side::Ours) => {
                let importance = self.importance.as_deref();
                self.codec.encode(&self.weights, COLUMNS, importance, &mut self.bytes);
            }
            (Task::Encode { .. }, Side::Theirs) => {
                let importance = self.importance.as_deref();
                let (id, weights) = (self.id, &self.weights);
                self.reference.encode(id, weights, COLUMNS, importance, &mut self.bytes);
            }
            (Task::Decode, Side::Ours) => self.codec.decode(&self.bytes, &mut self.weights),
            (Task::Decode, Side::Theirs) => {
                let Some(decoder) = self.decoder else { return };
                let count = self.weights.len() as i64;
                // SAFETY: `bytes` holds the encoded blocks of as many elements as
                // `weights` has.
                unsafe { decoder(self.bytes.as_ptr().cast(), self.weights.as_mut_ptr(), count) };
            }
        }
    }

    fn time(&mut self, side: Side) -> Duration {
        let start = thread_time();
        self.counted_work(side);
        thread_time() - start
    }
}

/// Whose code is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    Ours,
    Theirs,
}

/// Times encoders and decoders in turns with the library's, so that a machine whose
/// speed drifts slows both; with `count`, instructions are counted, too.
///
/// # Errors
/// If the library cannot be loaded, or valgrind not be run.
pub(crate) fn run(library: &Path, isa: Isa, only: &str, count: bool) -> Result<()> {
    ensure!(!cfg!(debug_assertions), "only a release build has a speed: cargo run --release");
    let reference = Reference::load(library)?;
    let memory = memory_bandwidth();
    println!("memory bandwidth: {memory:.1} GB/s, read and written");
    println!(
        "type    work           Mweights/s  reference  ratio of memory{}",
        match count {
            true => "  instructions per weight  reference  ratio",
            false => "",
        }
    );
    for codec in isa.codecs().iter().copied() {
        let name = codec.spec().data_type.name();
        if !only.is_empty() && only != name {
            continue;
        }
        for task in Task::ALL.into_iter().filter(|task| task.is_done_by(codec)) {
            let mut work = Work::new(&reference, codec, task)?;
            let pairs = pairs(&mut work);
            let rate = |time: Duration| (ROWS * COLUMNS) as f64 / time.as_secs_f64() * 1e-6;
            let ours = median(pairs.iter().map(|pair| rate(pair.0)));
            let theirs = median(pairs.iter().map(|pair| rate(pair.1)));
            let ratio = median(pairs.iter().map(|(a, b)| b.as_secs_f64() / a.as_secs_f64()));
            print!("{name:<7} {:<14} {ours:>10.1} {theirs:>10.1} {ratio:>6.2}", task.name());
            match task {
                Task::Decode => print!(" {:>7.0} %", 100.0 * decode_from_memory(&work) / memory),
                Task::Encode { .. } => print!("{:>10}", ""),
            }
            if count {
                let ours = count_instructions(library, name, task, isa, Side::Ours)?;
                let theirs = count_instructions(library, name, task, isa, Side::Theirs)?;
                print!(" {ours:>24.2} {theirs:>10.2} {:>6.2}", theirs / ours);
            }
            println!();
        }
    }
    Ok(())
}

/// Does one task once: what `count_instructions` runs.
///
/// # Errors
/// If the library cannot be loaded, or there is no such task.
pub(crate) fn run_once(library: &Path, isa: Isa, name: &str, task: &str, side: Side) -> Result<()> {
    let reference = Reference::load(library)?;
    let data_type = DataType::from_name(name).context("no such type")?;
    let codec = isa.codec_for(data_type).context("a type without a codec")?;
    let task = Task::ALL.into_iter().find(|known| known.name() == task).context("no such task")?;
    Work::new(&reference, codec, task)?.counted_work(side);
    Ok(())
}

/// Instructions per weight, as valgrind's callgrind counts them. It knows no AVX-512.
fn count_instructions(library: &Path, name: &str, task: Task, isa: Isa, side: Side) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg("--toggle-collect=*counted_work*").arg(std::env::current_exe()?);
    command.arg("run-codec").arg("--library").arg(library).args(["--isa", isa.name()]);
    command.args([name, task.name(), if side == Side::Ours { "ours" } else { "theirs" }]);
    let output = command.output().context("cannot run valgrind")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} {} failed under valgrind: {log}", task.name());
    let count = log.lines().find_map(|line| line.split_once("Collected : "));
    let count: f64 = count.context("valgrind counted nothing")?.1.trim().parse()?;
    Ok(count / (ROWS * COLUMNS) as f64)
}

/// The times of both sides, in turns.
fn pairs(work: &mut Work<'_>) -> Vec<(Duration, Duration)> {
    let mut pairs = Vec::new();
    let start = Instant::now();
    while pairs.len() < 5 || (start.elapsed().as_secs_f64() < 1.0 && pairs.len() < 1001) {
        pairs.push((work.time(Side::Ours), work.time(Side::Theirs)));
    }
    pairs
}

/// Weights whose f32 form fits into no cache.
const MANY: usize = 32 << 20;

/// Gigabytes per second that this thread copies, read and written, in buffers that fit
/// into no cache: a bound for decoders.
fn memory_bandwidth() -> f64 {
    let source = vec![1.0f32; MANY];
    let mut out = vec![0.0f32; MANY];
    let time = fastest(|| {
        out.copy_from_slice(std::hint::black_box(&source));
        std::hint::black_box(&mut out);
    });
    (2 * size_of_val(&source[..])) as f64 / time * 1e-9
}

/// Gigabytes per second that our decoder reads and writes in such buffers.
fn decode_from_memory(work: &Work<'_>) -> f64 {
    let bytes = work.bytes.repeat(MANY / (ROWS * COLUMNS));
    let mut out = vec![0.0f32; MANY];
    let time = fastest(|| work.codec.decode(&bytes, &mut out));
    (bytes.len() + size_of_val(&out[..])) as f64 / time * 1e-9
}

/// Seconds of the fastest of some rounds.
fn fastest(mut work: impl FnMut()) -> f64 {
    let times = (0..7).map(|_| {
        let start = thread_time();
        work();
        (thread_time() - start).as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// How long this thread has been on a core: what else the machine does is not counted.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the type that is filled.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
