//! Numbers, and sums of them on the processor, for tests.

use std::sync::LazyLock;

use qz_kernels::Workers;
use qz_kernels::backend::{Backend, CpuBackend};
use qz_linalg::{CrossGram, CrossMean, Gram, Symmetric};

/// Where tests factor matrices.
pub(crate) static DEVICE: LazyLock<CpuBackend> =
    LazyLock::new(|| CpuBackend::new(&Workers::new(2).expect("threads")));

/// Numbers that look drawn, from -1 to 1.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The mean of `x xᵀ`.
pub(crate) fn gram_of(columns: usize, inputs: &[f32]) -> Symmetric {
    let inputs = DEVICE.buffer(columns, inputs).expect("whole rows");
    let mut gram = Gram::of_rows(&*DEVICE, columns, 0..columns).expect("room");
    gram.add(&*DEVICE, &inputs).expect("added");
    gram.finish(&*DEVICE).expect("finished")
}

/// The mean of `(r̃ − r) xᵀ`, of `rows` numbers that differ.
pub(crate) fn cross_of(rows: usize, full: &[f32], quantized: &[f32], inputs: &[f32]) -> CrossMean {
    let columns = inputs.len() * rows / full.len();
    let buffer = |width, numbers| DEVICE.buffer(width, numbers).expect("whole rows");
    let [full, quantized] = [full, quantized].map(|numbers| buffer(rows, numbers));
    let mut cross = CrossGram::new(&*DEVICE, rows, columns, true).expect("room");
    cross.add(&*DEVICE, &full, &quantized, &buffer(columns, inputs)).expect("added");
    cross.finish(&*DEVICE).expect("finished")
}
