//! Weight codecs: which values a weight may take in an element type, how a block
//! of them is packed, and the reference program's own search for them.
//!
//! An encoder gives llama.cpp's bytes on x86-64 (`ggml_quantize_chunk`), bit for
//! bit, whatever the machine: no fused multiply-add, the reference's order of
//! every sum, C's float-to-integer casts.
//!
//! | where | what |
//! |---|---|
//! | [`CODECS`] | every codec |
//! | `codecs/` | a file per codec: its blocks' layout, how they are made and read |
//! | [`search`] | the searches for scales, one sub-block at a time: the definition |
//! | [`lanes`] | the same searches on sixteen sub-blocks: what the encoders run |
//! | [`number`], [`small_float`] | rounding and number formats, down to what overflows do |
//! | [`activations`] | what engines round the inputs of matrices to |
//! | [`body`] | encoders and decoders to compile for more instructions |
//! | `golden/` | what the reference library wrote, and the inputs it was given |
//!
//! Tests hold the encoders to the goldens and the lanes to the searches; `cargo
//! xtask parity` compares millions of blocks with the library itself.
//!
//! What does not belong here: instructions that not every machine has
//! (`qz-kernels`), files, threads, which tensor gets which codec (`qz-plan`).
//!
//! [`grid`] is the other view of the same values: for methods that choose among them
//! themselves, instead of running the reference's search.
//!
//! Layer 1: depends on `qz-tensor` only. A new codec is one file and one line in
//! [`CODECS`]; its grid is one more in [`grid::GRIDS`].

#![forbid(unsafe_code)]

pub mod activations;
mod affine_fits;
mod block;
mod codebook;
mod codec;
mod codecs;
mod four_bit_float;
pub mod grid;
mod integers;
pub mod lanes;
pub mod number;
pub mod pack;
pub mod search;
mod short_block;
mod six_bit;
pub mod small_float;
mod ternary;
mod three_levels;
mod words;

pub use codec::{Codec, CodecSpec, ImportanceUse};
pub use integers::{Integers, Unit};

use qz_tensor::DataType;

/// The bodies of the codecs' functions, to be compiled for more instructions than
/// the ones here, and for other [`lanes`]: each is `#[inline(always)]`, and its
/// results do not depend on either.
pub mod body {
    pub use crate::codecs::{
        bf16, f16, f32, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs,
        mxfp4, nvfp4, q1_0, q2_0, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, q8_1,
        q8_k, tq1_0, tq2_0,
    };
}

/// Every codec whose encoder is the reference's. Tests, tables and the command line
/// walk this list.
pub static CODECS: &[&dyn Codec] = &[
    &codecs::f32::F32,
    &codecs::f16::F16,
    &codecs::bf16::Bf16,
    &codecs::q8_0::Q8_0,
    &codecs::q6_k::Q6K,
    &codecs::q5_k::Q5K,
    &codecs::q4_k::Q4K,
    &codecs::q3_k::Q3K,
    &codecs::q2_k::Q2K,
    &codecs::q4_0::Q4_0,
    &codecs::q4_1::Q4_1,
    &codecs::q5_0::Q5_0,
    &codecs::q5_1::Q5_1,
    &codecs::iq4_nl::Iq4Nl,
    &codecs::iq4_xs::Iq4Xs,
    &codecs::iq3_s::Iq3S,
    &codecs::iq3_xxs::Iq3Xxs,
    &codecs::iq2_s::Iq2S,
    &codecs::iq2_xs::Iq2Xs,
    &codecs::iq2_xxs::Iq2Xxs,
    &codecs::tq1_0::Tq1_0,
    &codecs::tq2_0::Tq2_0,
    &codecs::mxfp4::Mxfp4,
    &codecs::nvfp4::Nvfp4,
    &codecs::q8_1::Q8_1,
    &codecs::q8_k::Q8K,
    &codecs::q1_0::Q1_0,
    &codecs::q2_0::Q2_0,
    &codecs::iq1_s::Iq1S,
    &codecs::iq1_m::Iq1M,
];

/// The codecs of numbers that no weights become: to read, report and copy.
pub static NUMBERS: &[&dyn Codec] = &[
    &codecs::numbers::F64,
    &codecs::numbers::I8,
    &codecs::numbers::I16,
    &codecs::numbers::I32,
    &codecs::numbers::I64,
];

/// The codec that reads an element type, if there is one.
pub fn codec_for(data_type: DataType) -> Option<&'static dyn Codec> {
    let codecs = CODECS.iter().chain(NUMBERS).copied();
    codecs.into_iter().find(|codec| codec.spec().data_type == data_type)
}

/// The codec that weights are encoded with, if the reference encodes them to this type.
pub fn encoder_for(data_type: DataType) -> Option<&'static dyn Codec> {
    CODECS.iter().copied().find(|codec| codec.spec().data_type == data_type)
}
