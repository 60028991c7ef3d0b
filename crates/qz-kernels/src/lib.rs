//! The codecs' bodies compiled for the instructions a machine has, chosen at run time,
//! with the same results bit for bit; and the operations of a forward pass.
//!
//! [`codec_for`] gives the fastest codec of an element type. The work of a new codec's
//! author here is one line in `codecs.rs`; without it the codec runs as it is.
//!
//! [`backend`] has the operations of a forward pass. Their sums differ in the last bits
//! between instruction sets, but not with the number of threads. [`gemm`] has products of
//! f32 matrices for everybody's mathematics. [`tile`] has the inner loops of calibrated
//! methods, over one block of columns of many rows.
//!
//! [`roof`] is what they are measured against.
//!
//! [`Workers`] are the threads that all parallel work runs on.
//!
//! What does not belong here: what a codec's bytes mean (`qz-codec`), files.
//!
//! Layer 2: depends on `qz-tensor` and `qz-codec`. The only crate that may hold unsafe
//! code, for vector instructions; every use says why it is sound.

pub mod backend;
#[cfg(target_arch = "x86_64")]
mod codecs;
mod error;
pub mod gemm;
mod isa;
mod memory;
pub mod roof;
pub mod stop;
pub mod tile;
mod vector;
mod workers;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use error::Error;
pub use isa::{Isa, codec_for};
pub use workers::Workers;
