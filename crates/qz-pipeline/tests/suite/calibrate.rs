//! A calibration that is interrupted, and goes on.

use std::path::{Path, PathBuf};

use qz_pipeline::{
    CalibrateOptions, CalibrationData, Cancel, Collect, ComputeOptions, Conversations, DataOptions,
    Error, Event, ExpertOptions, OpenOptions, Rounding, Silent, StatisticsFormat, calibrate,
};
use qz_tensor::{DataType, OutputOptions};

use crate::interrupted::Stopper;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn options() -> CalibrateOptions {
    CalibrateOptions {
        open: OpenOptions::default(),
        data: DataOptions {
            data: vec![CalibrationData::File(root().join("calibration-data/drama.txt"))],
            context: 32,
            chunks: Some(4),
            parse_special: false,
            conversations: Conversations::Either,
        },
        compute: ComputeOptions {
            rounds_inputs: false,
            rounding: Rounding::Engine,
            cache_type: DataType::F16,
            max_memory: 1 << 30,
            spill_folder: std::env::temp_dir(),
            threads: 2,
        },
        collect: Collect { magnitudes: true, grams: true, tokens: true },
        beside: None,
        output_matrix: true,
        experts: ExpertOptions::default(),
        add: Vec::new(),
        resume: false,
        format: StatisticsFormat::Gguf,
        output: OutputOptions::default(),
    }
}

#[test]
fn an_interrupted_run_is_continued_with_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["llama-spm", "mixtral"] {
        let model = root().join("fixtures/tiny").join(name);
        let at = |output: &str| folder.path().join(format!("{name}-{output}.gguf"));
        let (whole, parts) = (at("whole"), at("parts"));
        let options = options();
        calibrate(&model, &whole, &options, &Cancel::default(), &mut Silent).expect("a file");
        let mut resumed = Vec::new();
        for left in 1..20 {
            let cancel = Cancel::default();
            let mut stopper = Stopper {
                is_step: |event| matches!(event, Event::Advanced { .. }),
                cancel: &cancel,
                left,
                resumed: 0,
            };
            let result = calibrate(&model, &parts, &options, &cancel, &mut stopper);
            resumed.push(stopper.resumed);
            match result {
                Err(Error::Interrupted) => assert!(!parts.exists()),
                other => {
                    other.expect("a file");
                    break;
                }
            }
        }
        let (whole, parts) = (std::fs::read(whole), std::fs::read(parts));
        assert!(whole.expect("a file") == parts.expect("a file"), "{name}");
        assert!(resumed.is_sorted() && resumed.last() > Some(&0), "{name}: {resumed:?}");
    }
}
