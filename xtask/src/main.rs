//! Development tasks: `cargo xtask <task>`.

mod parity_codec;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compare the codecs with llama.cpp's own library, bit for bit.
    Parity {
        /// A release build of libggml-base for x86-64.
        #[arg(long)]
        library: PathBuf,
        /// How many different seeds.
        #[arg(long, default_value_t = 1)]
        rounds: u64,
    },
    /// Time the codecs beside llama.cpp's own, on one thread.
    CodecSpeed {
        /// A release build of libggml-base for x86-64.
        #[arg(long)]
        library: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Parity { library, rounds } => parity_codec::run(&library, rounds),
        Task::CodecSpeed { library } => parity_codec::speed(&library),
    }
}
