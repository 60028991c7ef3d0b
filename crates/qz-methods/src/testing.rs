//! Sums on the processor, for tests.

use std::sync::LazyLock;

use qz_kernels::Workers;
use qz_kernels::backend::{Backend, CpuBackend};
use qz_linalg::{CrossGram, CrossMean, Gram, Symmetric};

/// Where tests factor matrices.
pub(crate) static DEVICE: LazyLock<CpuBackend> =
    LazyLock::new(|| CpuBackend::new(&Workers::new(2).expect("threads")));

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
