//! A file per layout, and what several of them share.

pub mod aqlm;
pub mod auto_round;
pub mod awq;
mod awq_fast;
mod awq_gemv;
mod batches;
pub mod bitsandbytes;
pub mod compressed;
mod eight_bit_float;
mod float4;
mod float4_groups;
mod float8;
mod float8_rounding;
mod four_bit_float;
pub mod fp8;
pub mod gpt_oss;
pub mod gptq;
mod gptq_rules;
pub mod hqq;
mod integer_layout;
mod integers;
mod microscaling;
pub mod mlx;
pub mod modelopt;
pub mod numbers;
mod six_bit_float;
mod words;
