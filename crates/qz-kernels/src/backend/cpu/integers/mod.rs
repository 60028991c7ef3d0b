//! Products of quantized weights with quantized activations, as sums of integers.
//!
//! | where | what |
//! |---|---|
//! | `dwords.rs` | the instructions: registers of 32-bit groups of bytes or pairs |
//! | `formats.rs` | weight types as unsigned levels, integer scales and minimums |
//! | `split.rs` | every other type as 16-bit integers and a scale |
//! | `quantized.rs` | activations as ggml rounds them |
//! | `panels.rs` | what many tokens are multiplied with: both operands interleaved |
//! | `levels.rs`, `words.rs` | the register tiles over panels of bytes, and of pairs |
//! | `dots.rs` | one token, or few: straight from the weights' bytes |
//! | `single.rs` | one token with AVX2, for the types most models have |
//!
//! The numbers are ggml's: integers within a block are summed exactly, then multiplied
//! with the weights' and the activations' scales; only the order in which blocks are
//! added is another.
//!
//! With many tokens lanes are tokens: a register holds the same columns of eight or
//! sixteen tokens, a weight is broadcast to all of them, and nothing has to be summed
//! across lanes. Weights are unpacked once for all tokens.

mod dots;
mod dwords;
mod formats;
mod levels;
mod panels;
mod quantized;
#[cfg(target_arch = "x86_64")]
mod single;
mod split;
mod words;

pub(super) use dots::{FEW, multiply_few};
pub(super) use panels::{PanelKind, multiply_many};
pub(super) use quantized::Quantized;
