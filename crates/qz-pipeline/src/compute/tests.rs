//! Jobs on other backends than the processor: one that computes as the operations are defined,
//! and one whose device is lost on the way.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qz_kernels::backend::Rounding;
use qz_kernels::backend::failing::Failing;
use qz_kernels::backend::reference::ReferenceBackend;
use qz_tensor::{DataType, Diagnose, FaultClass, OutputOptions};

use super::ComputeOptions;
use crate::{
    CalibrateOptions, CalibrationData, Cancel, Collect, CompareOptions, Conversations,
    ConvertOptions, DataOptions, Error, EvalData, EvalOptions, ExpertOptions, Figures, Model,
    ModelBenchOptions, OpenOptions, Output, PlanOptions, Propagation, QuantizeOptions,
    SampleOptions, SamplingOptions, SaveOptions, Silent, StatisticsFormat, Target, TaskOptions,
    TextOptions, Thresholds, bench_model, calibrate, compare, eval, eval_tasks, quantize, sample,
};

type TestBackend = Failing<ReferenceBackend>;

thread_local! {
    /// What jobs of this thread compute on, if it is not the processor.
    static CHOSEN: RefCell<Option<Arc<TestBackend>>> = const { RefCell::new(None) };
}

pub(super) fn chosen() -> Option<Arc<TestBackend>> {
    CHOSEN.with_borrow(Option::clone)
}

/// Runs `job` on the definitions, whose device is lost after so many operations.
fn on_definitions<T>(operations: usize, job: impl FnOnce() -> T) -> (T, usize) {
    let backend = Arc::new(Failing::after(operations, ReferenceBackend));
    CHOSEN.set(Some(Arc::clone(&backend)));
    let outcome = job();
    CHOSEN.set(None);
    (outcome, backend.asked())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn model() -> PathBuf {
    root().join("fixtures/tiny/mixtral")
}

fn compute() -> ComputeOptions {
    ComputeOptions {
        rounds_inputs: false,
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: 1 << 30,
        spill_folder: std::env::temp_dir(),
        threads: 1,
    }
}

fn data() -> DataOptions {
    DataOptions {
        data: vec![CalibrationData::File(root().join("calibration-data/drama.txt"))],
        context: 16,
        chunks: Some(1),
        parse_special: false,
        conversations: Conversations::Either,
    }
}

fn text() -> TextOptions {
    let data = EvalData::Text(root().join("calibration-data/drama.txt"));
    TextOptions { data, context: 16, chunks: Some(2), stride: None }
}

fn eval_options(save: Option<SaveOptions>) -> EvalOptions {
    EvalOptions {
        open: OpenOptions::default(),
        text: Some(text()),
        reference: None,
        save,
        replace: false,
        compute: compute(),
        thresholds: Thresholds::default(),
    }
}

/// A job's name, and what runs it with outputs in a folder.
type Job = (&'static str, fn(&Path) -> Result<(), Error>);

/// Every job that computes with a model.
fn jobs() -> Vec<Job> {
    vec![
        ("eval", |to| {
            let save = SaveOptions::Logits(to.join("logits"));
            let options = eval_options(Some(save));
            eval(&model(), &options, &Cancel::default(), &mut Silent).map(drop)
        }),
        ("tasks", |to| {
            let file = to.with_extension("jsonl");
            let line = r#"{"question": "To be, or not?", "choices": ["no", "yes"], "answer": 1}"#;
            fs::write(&file, line).expect("written");
            let (open, compute) = (OpenOptions::default(), compute());
            let options = TaskOptions { open, file, limit: None, few_shot: None, compute };
            eval_tasks(&model(), &options, &Cancel::default(), &mut Silent).map(drop)
        }),
        ("compare", |_| {
            let (open, compute) = (OpenOptions::default(), compute());
            let options = CompareOptions { open, text: text(), compute };
            compare(&model(), &[model()], &options, &Cancel::default(), &mut Silent).map(drop)
        }),
        ("sample", |_| {
            let options = SampleOptions {
                open: OpenOptions::default(),
                prompt: "To be".to_owned(),
                tokens: 2,
                sampling: SamplingOptions {
                    temperature: 0.0,
                    top_k: None,
                    top_p: None,
                    min_p: None,
                    seed: 0,
                },
                compute: compute(),
            };
            sample(&model(), &options, &Cancel::default(), &mut Silent).map(drop)
        }),
        ("bench", |_| {
            let options = ModelBenchOptions {
                open: OpenOptions::default(),
                prompt: 3,
                generated: 2,
                repetitions: 1,
                compute: compute(),
            };
            bench_model(&model(), &options, &Cancel::default(), &mut Silent).map(drop)
        }),
        ("calibrate", |to| {
            let options = CalibrateOptions {
                open: OpenOptions::default(),
                data: data(),
                compute: compute(),
                collect: Collect { magnitudes: true, grams: true, tokens: true },
                beside: None,
                output_matrix: true,
                experts: ExpertOptions::default(),
                add: Vec::new(),
                resume: false,
                format: StatisticsFormat::Gguf,
                output: OutputOptions::default(),
            };
            let output = to.join("statistics.gguf");
            calibrate(&model(), &output, &options, &Cancel::default(), &mut Silent).map(drop)
        }),
        ("quantize", |to| {
            let options = QuantizeOptions {
                convert: ConvertOptions {
                    threads: 1,
                    output: OutputOptions::default(),
                    plan: PlanOptions::default(),
                },
                transform: None,
                save_folded: None,
                method: qz_methods::method_named("imatrix").expect("a method"),
                options: qz_methods::Options::default(),
                text: Some(data()),
                statistics: None,
                propagation: Propagation::default(),
                experts: ExpertOptions::default(),
                compute: compute(),
            };
            let target: Target = "q4_0".parse().expect("a target");
            let output = Output { path: to.join("model.gguf"), target };
            let model = Model::open(&model(), &OpenOptions::default())?;
            quantize(&model, &[output], &options, &Cancel::default(), &mut Silent).map(drop)
        }),
    ]
}

#[test]
fn a_lost_device_ends_every_job_without_an_output() {
    for (name, job) in jobs() {
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("out");
        let empty = || {
            let _ = fs::remove_dir_all(&to);
            fs::create_dir(&to).expect("a folder");
        };
        empty();
        let (outcome, operations) = on_definitions(usize::MAX, || job(&to));
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        for lost_after in [0, 1, operations / 3, operations / 2, operations - 1] {
            empty();
            let (outcome, _) = on_definitions(lost_after, || job(&to));
            let error = outcome.expect_err("the device is lost");
            let what = format!("{name}, lost after {lost_after} of {operations}: {error}");
            let diagnosis = error.diagnosis();
            assert_eq!(
                (diagnosis.class, diagnosis.rule),
                (FaultClass::Environment, "device"),
                "{what}"
            );
            assert!(error.to_string().contains("the device failed in the operation"), "{what}");
            let left = fs::read_dir(&to).expect("a folder").count();
            assert_eq!(left, 0, "{what}: files are left");
        }
    }
}

/// The processor's figures are those of the definitions.
#[test]
fn figures_do_not_depend_on_the_backend() {
    let perplexity = || {
        let found = eval(&model(), &eval_options(None), &Cancel::default(), &mut Silent);
        match found.expect("figures").figures {
            Figures::Alone(found) => found.perplexity.value,
            other => panic!("there is no reference: {other:?}"),
        }
    };
    let (defined, operations) = on_definitions(usize::MAX, perplexity);
    assert!(operations > 0, "the definitions have computed");
    let found = perplexity();
    assert!((found / defined - 1.0).abs() < 1e-5, "{found}, not {defined}");
}
