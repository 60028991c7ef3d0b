//! Development tasks: `cargo xtask <task>`. What runs here needs programs that a
//! newcomer does not have (an installed llama.cpp), or enforces the architecture;
//! nothing of the product depends on it.

#![allow(clippy::print_stdout, missing_docs)]

mod bench;
mod codec_speed;
mod families;
mod faults;
mod headers;
#[path = "../../crates/qz-codec/golden/inputs.rs"]
mod inputs;
#[path = "../../crates/qz-fuzz/tests/large/mod.rs"]
mod large;
mod new_architecture;
mod parity_calibration;
mod parity_codec;
mod parity_eval;
mod parity_files;
mod parity_tokens;
mod quality;
mod reference;
mod snapshots;
mod tidy;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use qz_kernels::Isa;

use crate::bench::Inputs;
use crate::parity_files::{Checkpoint, Programs, Settings};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check layers, unsafe code and file sizes
    Tidy,
    /// Write docs/families.md: what is known of each family, and what shows it
    Families,
    /// Begin a family of models: its file, and its line in each list
    NewArchitecture {
        /// Its name in GGUF, such as gpt-oss
        name: String,
    },
    /// Let calls of the system fail, processes die, inputs change and disks fill, and check what
    /// is left
    Faults {
        /// Our binary
        #[arg(long, default_value = "target/release/quantize")]
        quantize: PathBuf,
        /// Some points of each kind: about a minute
        #[arg(long)]
        short: bool,
        /// Only jobs and kinds whose name contains this ("file KILL at fsync", "writers")
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Inspect the worst legal GGUF headers of 96 MB: no more than 400 MiB and 10 s
    Headers {
        /// Our binary
        #[arg(long, default_value = "target/release/quantize")]
        quantize: PathBuf,
    },
    /// Give every parser mutated files: no panic, no more than a second and 256 MiB
    Mutate {
        /// Mutants of each target
        #[arg(long, default_value_t = 10_000_000)]
        mutants: u64,
        /// Another seed gives other mutants
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Targets [default: all]
        targets: Vec<String>,
    },
    /// Compare the codecs with llama.cpp's own library, bit for bit
    Parity {
        /// A release build of libggml-base for x86-64
        #[arg(long)]
        library: PathBuf,
        /// How many different seeds
        #[arg(long, default_value_t = 1)]
        rounds: u64,
        /// The instruction set of our codecs: baseline, avx2 or avx512
        #[arg(long, default_value_t = Isa::best())]
        isa: Isa,
    },
    /// Compare the file types' rules with llama.cpp's own record of its choices
    Snapshots {
        /// llama.cpp's source tree
        #[arg(long)]
        source: PathBuf,
    },
    /// Make files with several methods and compare them with their models on held-out texts:
    /// the tables of QUALITY.md
    Quality {
        /// Our binary
        #[arg(long, default_value = "target/release/quantize")]
        quantize: PathBuf,
        /// A full model as NAME=FOLDER; repeatable
        #[arg(long, required = true)]
        model: Vec<quality::Named>,
        /// A held-out text as NAME=FILE; repeatable
        #[arg(long, required = true)]
        text: Vec<quality::Named>,
        /// Options of a method as NAME=OPTIONS; the others are compared with the first
        #[arg(long, default_values = ["imatrix=--method imatrix", "gptq=--method gptq"])]
        #[arg(allow_hyphen_values = true)]
        method: Vec<quality::Named>,
        /// Options of all methods, in one string ("--data text.txt --chunks 32")
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        options: String,
        #[arg(long, default_value_t = 32)]
        chunks: u32,
        #[arg(long, default_value_t = 512)]
        context: u32,
        /// A folder for the files; those that are there are taken as they are
        #[arg(long)]
        scratch: PathBuf,
        /// Targets of --to
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Compare perplexities with llama-perplexity's
    ParityEval {
        /// Folder with llama-perplexity
        #[arg(long)]
        binaries: PathBuf,
        /// Our binary
        #[arg(long, default_value = "target/release/quantize")]
        quantize: PathBuf,
        /// The text
        #[arg(long)]
        text: PathBuf,
        #[arg(long, default_value_t = 64)]
        chunks: u32,
        #[arg(long, default_value_t = 512)]
        context: u32,
        /// Checkpoints [default: fixtures/demo-llama]
        models: Vec<PathBuf>,
    },
    /// Compare importance matrices with llama-imatrix's
    ParityCalibration {
        /// Folder with llama-imatrix
        #[arg(long)]
        binaries: PathBuf,
        /// Our binary
        #[arg(long, default_value = "target/release/quantize")]
        quantize: PathBuf,
        /// The text [default: the bundled prose]
        #[arg(long)]
        text: Option<PathBuf>,
        #[arg(long, default_value_t = 16)]
        chunks: u32,
        #[arg(long, default_value_t = 512)]
        context: u32,
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Checkpoints [default: fixtures/demo-llama]
        models: Vec<PathBuf>,
    },
    /// Compare whole files with llama.cpp's converter and quantizer
    ParityFiles {
        #[command(flatten)]
        programs: ProgramArguments,
        /// Compare perplexities on this text, too
        #[arg(long)]
        text: Option<PathBuf>,
        /// Options for both quantizers, in one string ("--pure --tensor-type attn_v=q8_0")
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        options: String,
        /// Checkpoints as FOLDER=PRE_TOKENIZER[=IMATRIX] or FILE.gguf[==IMATRIX] [default: all
        /// with a golden.json in fixtures]
        checkpoints: Vec<String>,
    },
    /// Compare token ids with llama.cpp's test sets, and with llama-tokenize on whole texts
    ParityTokens {
        /// llama.cpp's source tree
        #[arg(long)]
        source: PathBuf,
        /// Folder with llama-tokenize
        #[arg(long)]
        binaries: Option<PathBuf>,
        /// A text to compare for every vocabulary; repeatable
        #[arg(long)]
        text: Vec<PathBuf>,
        /// GGUF files with further vocabularies
        vocabularies: Vec<PathBuf>,
    },
    /// Time the codecs beside llama.cpp's own, on one thread
    CodecSpeed {
        /// A release build of libggml-base for x86-64
        #[arg(long)]
        library: PathBuf,
        /// The instruction set of our codecs: baseline, avx2 or avx512
        #[arg(long, default_value_t = Isa::best())]
        isa: Isa,
        /// Only this type
        #[arg(long, default_value = "")]
        only: String,
        /// Count instructions, too, with valgrind (not for avx512)
        #[arg(long)]
        count: bool,
    },
    /// Let a codec, or llama.cpp's, do one task once: what `codec-speed` counts
    #[command(hide = true)]
    RunCodec {
        #[arg(long)]
        library: PathBuf,
        #[arg(long)]
        isa: Isa,
        data_type: String,
        task: String,
        side: codec_speed::Side,
    },
    /// Time whole conversions beside llama.cpp's, in pairs
    Bench {
        #[command(flatten)]
        programs: ProgramArguments,
        /// A Hugging Face folder (fixtures/make/big_random.py makes one)
        #[arg(long)]
        checkpoint: PathBuf,
        /// The same weights as a bf16 GGUF file
        #[arg(long)]
        gguf: PathBuf,
        /// The checkpoint's pre-tokenizer, for the reference converter
        #[arg(long, default_value = "llama-bpe")]
        pre_tokenizer: String,
        /// A folder with room for the outputs
        #[arg(long)]
        scratch: PathBuf,
        #[arg(long, default_value_t = 2)]
        threads: usize,
        #[arg(long, default_value_t = 5)]
        pairs: usize,
        /// Only cases whose name contains this
        #[arg(long, default_value = "")]
        only: String,
    },
}

#[derive(Args)]
struct ProgramArguments {
    /// Folder with llama-quantize and llama-perplexity
    #[arg(long)]
    binaries: PathBuf,
    /// llama.cpp's source tree
    #[arg(long)]
    source: PathBuf,
    /// A Python with torch, transformers and what else the converter needs
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Our binary
    #[arg(long, default_value = "target/release/quantize")]
    quantize: PathBuf,
}

impl From<ProgramArguments> for Programs {
    fn from(arguments: ProgramArguments) -> Self {
        let ProgramArguments { binaries, source, python, quantize } = arguments;
        Self { binaries, source, python, quantize }
    }
}

/// The workspace's root.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Tidy => tidy::check(workspace()),
        Task::Families => families::write(workspace()),
        Task::NewArchitecture { name } => new_architecture::run(workspace(), &name),
        Task::Faults { quantize, short, only } => {
            faults::run(&faults::Settings { quantize, short, only })
        }
        Task::Headers { quantize } => headers::run(&quantize),
        Task::Mutate { mutants, seed, targets } => mutate(mutants, seed, &targets),
        Task::Parity { library, rounds, isa } => parity_codec::run(&library, rounds, isa),
        Task::Snapshots { source } => snapshots::run(&source),
        Task::CodecSpeed { library, isa, only, count } => {
            codec_speed::run(&library, isa, &only, count)
        }
        Task::RunCodec { library, isa, data_type, task, side } => {
            codec_speed::run_once(&library, isa, &data_type, &task, side)
        }
        Task::ParityTokens { source, binaries, text, vocabularies } => {
            parity_tokens::run(&source, binaries.as_deref(), &text, &vocabularies)
        }
        Task::ParityEval { binaries, quantize, text, chunks, context, mut models } => {
            if models.is_empty() {
                models.push(workspace().join("fixtures/demo-llama"));
            }
            let settings = parity_eval::Settings { binaries, quantize, text, chunks, context };
            parity_eval::run(&settings, &models)
        }
        Task::ParityCalibration {
            binaries,
            quantize,
            text,
            chunks,
            context,
            threads,
            mut models,
        } => {
            if models.is_empty() {
                models.push(workspace().join("fixtures/demo-llama"));
            }
            let text = text.unwrap_or_else(|| workspace().join("calibration-data/prose.txt"));
            let settings =
                parity_calibration::Settings { binaries, quantize, text, chunks, context, threads };
            parity_calibration::run(&settings, &models)
        }
        Task::Quality {
            quantize,
            model: models,
            text: texts,
            method: methods,
            options,
            chunks,
            context,
            scratch,
            targets,
        } => {
            let options = options.split_whitespace().map(str::to_owned).collect();
            quality::run(&quality::Settings {
                quantize,
                models,
                texts,
                targets,
                methods,
                options,
                chunks,
                context,
                scratch,
            })
        }
        Task::ParityFiles { programs, text, options, checkpoints } => {
            let checkpoints = match checkpoints.is_empty() {
                true => fixtures()?,
                false => checkpoints.iter().map(|text| parse(text)).collect::<Result<_>>()?,
            };
            let options = options.split_whitespace().map(str::to_owned).collect();
            parity_files::run(&programs.into(), &checkpoints, &Settings { text, options })
        }
        Task::Bench {
            programs,
            checkpoint,
            gguf,
            pre_tokenizer,
            scratch,
            threads,
            pairs,
            only,
        } => {
            let inputs = Inputs { checkpoint, gguf, pre_tokenizer, scratch, threads, pairs, only };
            bench::run(&programs.into(), &inputs)
        }
    }
}

fn parse(text: &str) -> Result<Checkpoint> {
    let mut parts = text.splitn(3, '=');
    let path = PathBuf::from(parts.next().unwrap_or_default());
    let pre_tokenizer = parts.next().unwrap_or_default().to_owned();
    let importance = parts.next().map(PathBuf::from);
    let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
    anyhow::ensure!(is_gguf || !pre_tokenizer.is_empty(), "{text}: expected FOLDER=PRE_TOKENIZER");
    Ok(Checkpoint { path, pre_tokenizer, importance })
}

/// The committed checkpoints; their goldens name their pre-tokenizers.
fn fixtures() -> Result<Vec<Checkpoint>> {
    let root = workspace().join("fixtures");
    let mut folders: Vec<PathBuf> = Vec::new();
    for parent in [root.clone(), root.join("tiny")] {
        for entry in std::fs::read_dir(parent)? {
            folders.push(entry?.path());
        }
    }
    folders.sort();
    let with_golden = folders.into_iter().filter(|folder| folder.join("golden.json").exists());
    with_golden
        .map(|folder| {
            let golden: serde_json::Value =
                serde_json::from_slice(&std::fs::read(folder.join("golden.json"))?)?;
            let pre = golden["pre_tokenizer"].as_str().context("no pre_tokenizer")?.to_owned();
            Ok(Checkpoint { path: folder, pre_tokenizer: pre, importance: None })
        })
        .collect()
}

/// Runs the harness as a release build: it counts memory over its whole process.
fn mutate(mutants: u64, seed: u64, targets: &[String]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["run", "--release", "--quiet", "-p", "qz-fuzz", "--example", "mutate", "--"])
        .args(["--mutants", &mutants.to_string(), "--seed", &seed.to_string()])
        .args(targets)
        .status()
        .context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "some mutants break a promise");
    Ok(())
}
