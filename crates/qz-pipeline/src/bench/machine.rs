//! What the machine can do at best: the roofs under which codecs and products work.

use qz_kernels::{Isa, Workers, roof};
use rayon::prelude::*;

use super::timing::fastest;

/// Roofs, measured on all threads together.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Machine {
    /// Threads that worked.
    pub threads: usize,
    /// The instruction set in use.
    pub instructions: &'static str,
    /// Bytes that are read from memory in a second.
    pub read_bytes_per_second: f64,
    /// Products and sums of f32 numbers in registers in a second.
    pub f32_operations_per_second: f64,
}

/// Past any processor's last cache, where that is not shared by dozens of cores.
const READ_BYTES: usize = 512 << 20;

/// Some thousandths of a second: short enough that a busy machine leaves some runs alone.
const ROUNDS: usize = 500_000;

impl Machine {
    pub(super) fn measure(workers: &Workers, threads: usize) -> Self {
        let isa = Isa::chosen();
        Self {
            threads,
            instructions: isa.name(),
            read_bytes_per_second: read(workers),
            f32_operations_per_second: multiply_add(workers, isa, threads),
        }
    }
}

fn read(workers: &Workers) -> f64 {
    // Numbers that are written: untouched memory is one page of zeros for all.
    let numbers: Vec<u64> = (0..(READ_BYTES / 8) as u64).collect();
    let sum = |part: &[u64]| part.iter().fold(0u64, |sum, number| sum.wrapping_add(*number));
    let all = || numbers.par_chunks(1 << 17).map(sum).reduce(|| 0, u64::wrapping_add);
    let seconds = fastest(|_| {
        std::hint::black_box(workers.install(all));
    });
    READ_BYTES as f64 / seconds
}

fn multiply_add(workers: &Workers, isa: Isa, threads: usize) -> f64 {
    let mut operations = 0;
    let seconds = fastest(|_| {
        let each = |_| roof::multiply_add(isa, ROUNDS);
        operations = workers.install(|| (0..threads).into_par_iter().map(each).sum());
    });
    operations as f64 / seconds
}
