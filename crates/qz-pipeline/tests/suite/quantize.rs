//! A method's run onto packed layouts: interrupted, it goes on with the same bytes, which
//! needs that what was written is read back as the very values that the method chose.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qz_pipeline::qz_methods::{Options, method_named};
use qz_pipeline::{
    CalibrationData, Cancel, ComputeOptions, Conversations, ConvertOptions, DataOptions, Error,
    Event, ExpertOptions, Model, Observer, OpenOptions, Output, PlanOptions, Propagation,
    QuantizeOptions, Rounding, Silent, quantize,
};
use qz_tensor::{DataType, OutputOptions};

use crate::interrupted::Stopper;

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
        transform: None,
        save_folded: None,
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
        propagation: Propagation::default(),
        experts: ExpertOptions::default(),
        compute: ComputeOptions {
            rounds_inputs: false,
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

/// Changes a file once the job has begun, and gives it its old modification time.
struct Changes<'a>(&'a Path);

impl Observer for Changes<'_> {
    fn observe(&mut self, event: Event<'_>) {
        if !matches!(event, Event::Started { .. }) {
            return;
        }
        // The clock of the file system's times ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let modified = std::fs::metadata(self.0).and_then(|found| found.modified());
        let mut bytes = std::fs::read(self.0).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(self.0, bytes).expect("written");
        let file = std::fs::OpenOptions::new().write(true).open(self.0).expect("opens");
        file.set_modified(modified.expect("a time")).expect("set back");
    }
}

#[cfg(unix)]
#[test]
fn an_input_that_changes_meanwhile_is_an_error() {
    let fixture = root().join("fixtures/tiny/llama-tied");
    for changed in ["model.safetensors", "config.json", "tokenizer.json", "text.txt"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        std::fs::create_dir(&path).expect("created");
        for (name, content) in files(&fixture) {
            std::fs::write(path.join(name), content).expect("written");
        }
        let text = path.join("text.txt");
        let prose = std::fs::read(root().join("calibration-data/prose.txt")).expect("read");
        std::fs::write(&text, prose).expect("written");
        let model = Model::open(&path, &OpenOptions::default()).expect("a model");
        let path = folder.path().join("out.gguf");
        let outputs = [Output { target: "q4_0".parse().expect("a target"), path: path.clone() }];
        let mut options = options(1);
        if let Some(data) = &mut options.text {
            data.data = vec![CalibrationData::File(text.clone())];
        }
        let (cancel, file) = (Cancel::default(), text.with_file_name(changed));
        let result = quantize(&model, &outputs, &options, &cancel, &mut Changes(&file));
        let Err(Error::InputChanged(found)) = result else { panic!("{changed}: {result:?}") };
        assert_eq!(found, file);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
