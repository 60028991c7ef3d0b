//! Gives targets mutants, and watches panics, time and memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::mutate::{Random, mutant};
use crate::scratch::Scratch;
use crate::targets::Target;

/// What a mutant may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time. A slower mutant is tried twice more: machines are busy.
    pub time: Duration,
    /// Memory that is allocated at the same time, in bytes.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(1), memory: 256 << 20 }
    }
}

/// The program's allocator, which counts.
pub trait Memory {
    /// Bytes that are allocated.
    fn current(&self) -> usize;
    /// The most bytes that were allocated since [`Self::reset_peak`].
    fn peak(&self) -> usize;
    /// Forgets the most bytes.
    fn reset_peak(&self);
}

impl Memory for peak_alloc::PeakAlloc {
    fn current(&self) -> usize {
        self.current_usage()
    }

    fn peak(&self) -> usize {
        self.peak_usage()
    }

    fn reset_peak(&self) {
        self.reset_peak_usage();
    }
}

/// What a target did with its mutants.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many there were.
    pub mutants: u64,
    /// How many were read without an error: seeds that are still good reach further.
    pub accepted: u64,
    /// The slowest.
    pub slowest: Duration,
    /// The most memory.
    pub memory: usize,
}

/// A mutant that breaks a promise.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{target}, mutant {number} of seed {seed}: {problem}")]
pub struct Finding {
    /// The target.
    pub target: &'static str,
    /// The seed of all mutants.
    pub seed: u64,
    /// The mutant's number.
    pub number: u64,
    /// What happened.
    pub problem: String,
    /// The mutant.
    pub bytes: Vec<u8>,
}

/// Tries the mutants of these numbers.
///
/// # Errors
/// The first mutant that breaks a promise.
///
/// # Panics
/// If there is no room for a scratch file.
pub fn run(
    target: &'static Target,
    seed: u64,
    numbers: std::ops::Range<u64>,
    limits: Limits,
    memory: &dyn Memory,
) -> Result<Report, Box<Finding>> {
    let scratch = Scratch::new().expect("a scratch folder");
    let seeds = (target.seeds)(&scratch);
    let mut report = Report { mutants: 0, accepted: 0, slowest: Duration::ZERO, memory: 0 };
    let mut bytes = Vec::new();
    // What a target keeps from its first run is not a mutant's.
    for seed in &seeds {
        let _ = catch_unwind(AssertUnwindSafe(|| (target.read)(seed, &scratch)));
    }
    for number in numbers {
        let random = &mut random_of(target, seed, number);
        mutant(random, &seeds, target.words, target.structure, &mut bytes);
        let (before, start) = (memory.current(), Instant::now());
        memory.reset_peak();
        let read = catch_unwind(AssertUnwindSafe(|| (target.read)(&bytes, &scratch)));
        let mut time = start.elapsed();
        let taken = memory.peak().saturating_sub(before);
        for _ in 0..2 {
            if time > limits.time && read.is_ok() {
                let start = Instant::now();
                let _ = catch_unwind(AssertUnwindSafe(|| (target.read)(&bytes, &scratch)));
                time = time.min(start.elapsed());
            }
        }
        let problem = match read {
            Err(panic) => Some(format!("a panic: {}", said(&*panic))),
            Ok(_) if time > limits.time => Some(format!("{time:?}")),
            Ok(_) if taken > limits.memory => Some(format!("{taken} bytes of memory")),
            Ok(accepted) => {
                report.accepted += u64::from(accepted);
                None
            }
        };
        if let Some(problem) = problem {
            let target = target.name;
            return Err(Box::new(Finding { target, seed, number, problem, bytes }));
        }
        report.mutants += 1;
        report.slowest = report.slowest.max(time);
        report.memory = report.memory.max(taken);
    }
    Ok(report)
}

fn random_of(target: &Target, seed: u64, number: u64) -> Random {
    let name = target
        .name
        .bytes()
        .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    Random::new(name.rotate_left(32) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}
