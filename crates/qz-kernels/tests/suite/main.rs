//! Codecs and backend on every instruction set that the machine has. Here, not beside what
//! they test: the library's own tests would compile every codec for every set once more.

mod backend;
mod codecs;
mod small;

use qz_kernels::Workers;
use qz_kernels::backend::CpuBackend;

/// The processor, with so many threads.
fn on(threads: usize) -> CpuBackend {
    CpuBackend::new(&Workers::new(threads).expect("threads"))
}
