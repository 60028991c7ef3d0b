//! Some thousand mutants of every target, and what large headers take. `cargo xtask mutate` and
//! `cargo xtask headers` try more.

mod large;
mod tokenizers;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use peak_alloc::PeakAlloc;
use qz_fuzz::{Limits, TARGETS, run};
use qz_tokenize::Tokenizer;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted over the whole program: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const MUTANTS: u64 = 2000;

#[test]
fn mutants_break_no_promise() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for target in TARGETS {
        // Another range than the longer run begins with.
        let numbers = u64::MAX / 2..u64::MAX / 2 + MUTANTS;
        match run(target, 0, numbers, Limits::default(), &MEMORY) {
            // Where hardly any is read, the seeds are no good files any more.
            Ok(report) => assert!(report.accepted > MUTANTS / 50, "{}: {report:?}", target.name),
            Err(finding) => panic!("{finding}: {}", finding.bytes.escape_ascii()),
        }
    }
}

/// 400 MiB for a header of 96 MB is more than four times the file. The counter knows nothing of what the
/// system's allocator adds; `cargo xtask headers` measures that, too.
#[test]
fn large_headers_are_held_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    for (kind, make) in large::KINDS {
        let size = 4 << 20;
        std::fs::write(&path, make(size)).expect("written");
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let inspection = qz_pipeline::inspect(&path, &Default::default()).expect("legal");
        serde_json::to_writer(std::io::sink(), &inspection).expect("written");
        let taken = MEMORY.peak_usage() - before;
        assert!(taken < size * 17 / 4, "{kind}: {taken} bytes for {size}");
    }
}

/// 256 MiB and a second for a file of 10 MB: five and twenty times the file, and more time here, where
/// nothing is optimized. What is refused is refused before it takes them.
#[test]
fn tokenizer_files_take_little() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const SIZE: usize = 2_000_000;
    for (kind, make) in tokenizers::KINDS {
        let files = tokenizers::Files(make(SIZE).into_bytes());
        assert!(files.0.len() > SIZE / 2, "{kind}");
        MEMORY.reset_peak_usage();
        let (before, start) = (MEMORY.current_usage(), Instant::now());
        let vocabulary = qz_tokenize::vocabulary(&files, Default::default());
        let tokenizer = vocabulary.map(|known| Tokenizer::from_metadata(&known.metadata).is_ok());
        let (taken, time) = (MEMORY.peak_usage() - before, start.elapsed());
        let found = tokenizer.map_err(|error| error.to_string());
        if let Err(error) = &found {
            assert!(error.len() < 4000, "{kind}: {} bytes", error.len());
        }
        assert!(
            taken < SIZE * 25 && time.as_secs() < 4,
            "{kind}: {taken} bytes, {time:?}, {found:?}"
        );
    }
}
