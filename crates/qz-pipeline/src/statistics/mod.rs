//! What the matrices of a model multiply while it reads a text, summed, and what a quantized
//! model lacks beside the full one: for `quantize`, which uses the sums, and for `calibrate`,
//! which keeps them.
//!
//! A `Statistic` is summed over the tokens of one matrix, or of one expert's. [`Collector`]
//! plans which of them fit memory at a time, and puts the text through the layer for them.

mod collector;
mod lacking;
mod maxima;
mod mean_of_experts;
mod passes;
mod samples;
mod statistic;
mod streams;
mod sums;

pub(crate) use collector::{Collected, Collector};
pub(crate) use lacking::{Lacking, LackingKind};
pub(crate) use maxima::Maxima;
pub(crate) use mean_of_experts::MeanOfExperts;
pub(crate) use passes::Item;
pub(crate) use samples::Samples;
pub(crate) use streams::{Stream, Streams};
pub(crate) use sums::{Sums, WantedSums};
