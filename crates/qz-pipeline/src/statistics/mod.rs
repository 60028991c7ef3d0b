//! What the matrices of a model multiply while it reads a text, summed, and what a quantized
//! model lacks beside the full one: for `quantize`, which uses the sums, and for `calibrate`,
//! which keeps them.

mod collector;
mod streams;
mod sums;

pub(crate) use collector::{Collected, Collector, GroupExperts};
pub(crate) use streams::{Stream, Streams};
pub(crate) use sums::{LackingKind, Sums, Wanted};
