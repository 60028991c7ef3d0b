//! Stages without a pool hear that a job is to stop.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use qz_pipeline::{
    Cancel, ComputeOptions, Error, EvalData, EvalOptions, OpenOptions, Rounding, Silent,
    TextOptions, Thresholds, eval,
};
use qz_tensor::DataType;

/// Millions of words, each another one: many seconds until they are tokens.
#[test]
fn while_text_becomes_tokens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("text.txt");
    let words: Vec<String> = (0..4_000_000u32).map(|word| format!("{word:x}")).collect();
    fs::write(&path, words.join(" ")).expect("written");
    drop(words);
    let options = EvalOptions {
        open: OpenOptions::default(),
        text: Some(TextOptions {
            data: EvalData::Text(path),
            context: 32,
            chunks: None,
            stride: None,
        }),
        reference: None,
        save: None,
        compute: ComputeOptions {
            rounds_inputs: false,
            rounding: Rounding::Engine,
            cache_type: DataType::F16,
            threads: 2,
            max_memory: 1 << 30,
            spill_folder: folder.path().to_owned(),
        },
        thresholds: Thresholds::default(),
        replace: false,
    };
    let cancel = Cancel::default();
    let setter = thread::spawn({
        let cancel = cancel.clone();
        move || {
            thread::sleep(Duration::from_millis(300));
            cancel.store(true, Ordering::Relaxed);
            Instant::now()
        }
    });
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/demo-llama");
    let outcome = eval(&model, &options, &cancel, &mut Silent);
    let ended = Instant::now();
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
    let set = setter.join().expect("no panic");
    // Two seconds are promised; a machine that does much else takes longer.
    assert!(ended.saturating_duration_since(set) < Duration::from_secs(10));
}
