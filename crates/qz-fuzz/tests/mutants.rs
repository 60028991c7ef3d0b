//! Some thousand mutants of every target. `cargo xtask mutate` tries more.

use peak_alloc::PeakAlloc;
use qz_fuzz::{Limits, TARGETS, run};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MUTANTS: u64 = 2000;

/// One test: memory is counted over the whole program.
#[test]
fn mutants_break_no_promise() {
    for target in TARGETS {
        // Another range than the longer run begins with.
        let numbers = u64::MAX / 2..u64::MAX / 2 + MUTANTS;
        if let Err(finding) = run(target, 0, numbers, Limits::default(), &MEMORY) {
            panic!("{finding}: {}", finding.bytes.escape_ascii());
        }
    }
}
