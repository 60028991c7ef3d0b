//! A method's run onto packed layouts: interrupted, it goes on with the same bytes, which
//! needs that what was written is read back as the very values that the method chose.

mod interrupted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qz_pipeline::qz_methods::{Options, method_named};
use qz_pipeline::{
    CalibrationData, Cancel, ComputeOptions, Conversations, ConvertOptions, DataOptions, Error,
    Event, ExpertOptions, Model, Observer, OpenOptions, Output, PlanOptions, QuantizeOptions,
    Rounding, Silent, quantize,
};
use qz_tensor::{DataType, OutputOptions};

use interrupted::Stopper;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn options(threads: usize) -> QuantizeOptions {
    let mut options = Options::default();
    options.gptq.cycles = 1;
    QuantizeOptions {
        convert: ConvertOptions {
            threads,
            output: OutputOptions::default(),
            plan: PlanOptions::default(),
        },
        method: method_named("gptq").expect("a method"),
        options,
        text: Some(DataOptions {
            data: vec![CalibrationData::File(root().join("calibration-data/drama.txt"))],
            context: 64,
            chunks: Some(2),
            parse_special: false,
            conversations: Conversations::Either,
        }),
        statistics: None,
        experts: ExpertOptions::default(),
        compute: ComputeOptions {
            rounding: Rounding::Exact,
            cache_type: DataType::F32,
            max_memory: 1 << 30,
            spill_folder: std::env::temp_dir(),
            threads,
        },
    }
}

/// The files of a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| {
            let bytes = std::fs::read(&path).expect("a file");
            (path.strip_prefix(folder).expect("within").to_owned(), bytes)
        })
        .collect()
}

#[test]
fn packed_floats_are_finished_with_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = root().join("fixtures/demo-llama");
    let model = Model::open(&model, &OpenOptions::default()).expect("a model");
    let targets = ["bnb:nf4+double", "ct:nvfp4", "fp8:block128"];
    for (number, target) in targets.into_iter().enumerate() {
        let output = |name: &str| Output {
            target: target.parse().expect("a target"),
            path: folder.path().join(format!("{number}-{name}")),
        };
        let run = |output: &Output, threads, cancel: &Cancel, observer: &mut dyn Observer| {
            let outputs = std::slice::from_ref(output);
            quantize(&model, outputs, &options(threads), cancel, observer)
        };
        let (whole, parts) = (output("whole"), output("parts"));
        run(&whole, 2, &Cancel::default(), &mut Silent).expect("a folder");
        let mut resumed = Vec::new();
        for _ in 0..20 {
            let cancel = Cancel::default();
            let mut stopper = Stopper {
                is_step: |event| matches!(event, Event::TensorDone { .. }),
                cancel: &cancel,
                left: 24,
                resumed: 0,
            };
            // Another number of threads, too.
            let result = run(&parts, 1, &cancel, &mut stopper);
            resumed.push(stopper.resumed);
            match result {
                Err(Error::Interrupted) => assert!(!parts.path.exists()),
                other => {
                    other.expect("a folder");
                    break;
                }
            }
        }
        assert!(files(&whole.path) == files(&parts.path), "{target}");
        assert!(resumed.is_sorted() && resumed.last() > Some(&23), "{target}: {resumed:?}");
    }
}
