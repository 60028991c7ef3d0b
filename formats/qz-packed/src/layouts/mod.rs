//! A file per layout, and what several of them share.

pub mod awq;
pub mod compressed;
mod eight_bit_float;
mod float4_groups;
mod float8;
mod float8_rounding;
mod four_bit_float;
pub mod fp8;
pub mod gptq;
mod integers;
pub mod numbers;
mod words;
