//! How long every codec takes, beside llama.cpp's own library in this process.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use qz_codec::Codec;
use qz_kernels::Isa;
use qz_tensor::DataType;

use crate::inputs::{self, Kind, WEIGHTS};
use crate::parity_codec::importance_kinds;
use crate::reference::{Dequantize, Reference};

/// Times encoders and decoders in turns with the library's, so that a machine
/// whose speed drifts slows both.
///
/// # Errors
/// If the library cannot be loaded.
pub(crate) fn run(library: &Path, isa: Isa, only: &str) -> anyhow::Result<()> {
    ensure!(!cfg!(debug_assertions), "only a release build has a speed: cargo run --release");
    let reference = Reference::load(library)?;
    println!("type   work               Mweights/s  reference  ratio");
    for codec in isa.codecs().iter().copied() {
        let data_type = codec.spec().data_type;
        if !data_type.name().contains(only) {
            continue;
        }
        let mut encoded = Vec::new();
        for importance in importance_kinds(codec).into_iter().take(2) {
            let pairs = time_encoders(&reference, codec, importance, &mut encoded)?;
            let importance = importance.map_or("none", |kind| kind.0);
            print_pairs(data_type, &format!("encode, {importance}"), &pairs);
        }
        if let Some(decoder) = reference.decoder(data_type)? {
            print_pairs(data_type, "decode", &time_decoders(codec, decoder, &encoded));
        }
    }
    Ok(())
}

fn print_pairs(data_type: DataType, work: &str, pairs: &[(Duration, Duration)]) {
    let rate = |time: Duration| (ROWS * COLUMNS) as f64 / time.as_secs_f64() * 1e-6;
    let ours = median(pairs.iter().map(|pair| rate(pair.0)));
    let theirs = median(pairs.iter().map(|pair| rate(pair.1)));
    let ratio = median(pairs.iter().map(|(a, b)| b.as_secs_f64() / a.as_secs_f64()));
    println!("{data_type:<6} {work:<17} {ours:>11.1} {theirs:>10.1} {ratio:>6.2}");
}

/// Few enough that a run seldom loses its core: it would look slow.
const ROWS: usize = 8;
const COLUMNS: usize = 4096;

fn time_encoders(
    reference: &Reference,
    codec: &dyn Codec,
    importance: Option<&Kind>,
    out: &mut Vec<u8>,
) -> anyhow::Result<Vec<(Duration, Duration)>> {
    let data_type = codec.spec().data_type;
    let id = data_type.spec().ggml.context("a type without a GGUF id")?;
    let bell = inputs::find(WEIGHTS, "bell").context("a kind of input")?;
    let weights = inputs::values(bell, 1, ROWS * COLUMNS);
    let importance = importance.map(|kind| inputs::values(kind, 2, COLUMNS));
    let importance = importance.as_deref();
    out.resize(weights.len() / data_type.block_elements() * data_type.block_bytes(), 0);
    let mut theirs = out.clone();
    Ok(time_pairs(
        || codec.encode(&weights, COLUMNS, importance, out),
        || reference.encode(id, &weights, COLUMNS, importance, &mut theirs),
    ))
}

fn time_decoders(
    codec: &dyn Codec,
    decoder: Dequantize,
    bytes: &[u8],
) -> Vec<(Duration, Duration)> {
    let (mut ours, mut theirs) = (vec![0.0; ROWS * COLUMNS], vec![0.0; ROWS * COLUMNS]);
    time_pairs(
        || codec.decode(bytes, &mut ours),
        || {
            // SAFETY: `bytes` holds the encoded blocks of as many elements as
            // `theirs` has.
            unsafe {
                decoder(bytes.as_ptr().cast(), theirs.as_mut_ptr(), (ROWS * COLUMNS) as i64);
            }
        },
    )
}

/// The times of two pieces of work, in turns.
fn time_pairs(mut ours: impl FnMut(), mut theirs: impl FnMut()) -> Vec<(Duration, Duration)> {
    let time = |work: &mut dyn FnMut()| {
        let start = thread_time();
        work();
        thread_time() - start
    };
    let mut pairs = Vec::new();
    let start = Instant::now();
    while pairs.len() < 5 || (start.elapsed().as_secs_f64() < 1.0 && pairs.len() < 1001) {
        pairs.push((time(&mut ours), time(&mut theirs)));
    }
    pairs
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
