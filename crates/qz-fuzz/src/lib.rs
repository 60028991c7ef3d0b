//! What reads a stranger's bytes, as a list, and a harness that gives it mutated files: no
//! panic, no more than a second, no more than 256 MiB, whatever the bytes.
//!
//! What belongs here: targets with their seeds, mutations, the harness. What does not: tests
//! of what is read rightly.
//!
//! Layer 7: uses everything, nothing uses it but `xtask` and the fuzzers in `fuzz/`.
//!
//! `cargo test -p qz-fuzz` tries some thousand mutants of each target, `cargo xtask mutate`
//! as many as one wants. A mutant follows from the target's name, its number and the seed, so
//! every finding can be made again.

#![forbid(unsafe_code)]

mod harness;
mod mutate;
mod protobuf;
mod scratch;
mod seeds;
mod structured;
mod targets;

pub use harness::{Finding, Limits, Memory, Report, run};
pub use scratch::Scratch;
pub use structured::Structure;
pub use targets::{TARGETS, Target};
