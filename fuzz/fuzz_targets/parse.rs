//! Any parser of the list, with bytes that coverage leads to:
//! `QZ_TARGET=gguf cargo +nightly fuzz run parse corpus/gguf -- -rss_limit_mb=512 -timeout=2`.
//! An empty corpus folder is filled with the target's seeds.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use qz_fuzz::{Scratch, TARGETS, Target};

struct Job {
    target: &'static Target,
    scratch: Scratch,
}

static JOB: OnceLock<Job> = OnceLock::new();

fn job() -> Job {
    let name = std::env::var("QZ_TARGET").expect("QZ_TARGET names a parser");
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("no parser {name:?}"));
    let scratch = Scratch::new().expect("a scratch folder");
    let corpus = std::path::Path::new("corpus").join(&name);
    for (number, seed) in (target.seeds)(&scratch).iter().enumerate() {
        if corpus.is_dir() {
            std::fs::write(corpus.join(format!("seed-{number}")), seed).expect("a seed is written");
        }
    }
    Job { target, scratch }
}

fuzz_target!(|bytes: &[u8]| {
    let job = JOB.get_or_init(job);
    (job.target.read)(bytes, &job.scratch);
});
