//! Matrices of calibrated methods: sums of products of inputs, their factors, and what is
//! solved with them.
//!
//! | where | what |
//! |---|---|
//! | [`Gram`] | XᵀX or some of its rows, summed over any number of tokens on a device |
//! | [`CrossGram`], [`CrossMean`] | the cross sums of two models' inputs |
//! | `triangle.rs` | the upper half of a symmetric matrix as files have it |
//! | [`Symmetric`] | the finished matrix of a layer's inputs |
//! | [`Feedback`] | its factor as error feedback uses it |
//! | [`solve`] | small systems in `f64` |
//!
//! What does not belong here: what is rounded to what (`qz-methods`), inner loops
//! (`qz-kernels`).
//!
//! Layer 3: depends on `qz-kernels` and `qz-codec`.
//!
//! Invariant: sums have a fixed order. The number of threads changes no bit; instruction
//! sets differ in the last ones.

#![forbid(unsafe_code)]

mod cross;
mod factor;
mod gram;
mod runs;
mod small;
mod symmetric;
mod triangle;

pub use cross::{CrossGram, CrossMean, cross_bytes};
pub use factor::{Factor, FactorError, Feedback};
pub use gram::{Gram, gram_bytes, gram_parts};
pub use small::solve;
pub use symmetric::Symmetric;
pub use triangle::{packed_len, unpack};

#[cfg(test)]
mod tests {
    //! Sums on the processor.

    use qz_kernels::Workers;
    use qz_kernels::backend::{Backend, CpuBackend, HostBuffer};

    use super::*;

    pub(crate) fn processor(threads: usize) -> CpuBackend {
        CpuBackend::new(&Workers::new(threads).expect("threads"))
    }

    pub(crate) fn buffer(columns: usize, numbers: &[f32]) -> HostBuffer {
        processor(1).buffer(columns, numbers).expect("whole rows")
    }

    /// The sum over inputs that come in parts of so many tokens.
    pub(crate) fn gram_of(
        backend: &CpuBackend,
        columns: usize,
        inputs: &[f32],
        part: usize,
    ) -> Gram<HostBuffer> {
        let mut gram = Gram::of_rows(backend, columns, 0..columns).expect("room");
        for inputs in inputs.chunks(part * columns) {
            gram.add(backend, &buffer(columns, inputs)).expect("added");
        }
        gram
    }

    /// The mean over inputs.
    pub(crate) fn mean_of(columns: usize, inputs: &[f32]) -> Symmetric {
        let backend = processor(2);
        gram_of(&backend, columns, inputs, 512).finish(&backend).expect("finished")
    }
}
