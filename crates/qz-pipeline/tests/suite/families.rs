//! Families whose layers compute something else than Llama's: what is calibrated of them, and
//! what a method makes of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use qz_pipeline::qz_methods::{Options, method_named};
use qz_pipeline::{
    CalibrateOptions, CalibrationData, Cancel, Collect, ComputeOptions, Conversations,
    ConvertOptions, DataOptions, ExpertOptions, Model, OpenOptions, Output, PlanOptions,
    Propagation, QuantizeOptions, Rounding, Silent, StatisticsFormat, calibrate, quantize,
};
use qz_tensor::{DataType, OutputOptions};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn data() -> DataOptions {
    DataOptions {
        data: vec![CalibrationData::File(root().join("calibration-data/drama.txt"))],
        context: 32,
        chunks: Some(8),
        parse_special: false,
        conversations: Conversations::Either,
    }
}

fn compute() -> ComputeOptions {
    ComputeOptions {
        rounds_inputs: false,
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: 1 << 30,
        spill_folder: std::env::temp_dir(),
        threads: 2,
    }
}

/// Error feedback with these statistics, or those of a text on the way.
pub(super) fn options(statistics: Option<PathBuf>) -> QuantizeOptions {
    let mut options = Options::default();
    options.gptq.cycles = 1;
    QuantizeOptions {
        convert: ConvertOptions {
            threads: 2,
            output: OutputOptions::default(),
            plan: PlanOptions::default(),
        },
        transform: None,
        save_folded: None,
        method: method_named("gptq").expect("a method"),
        options,
        text: statistics.is_none().then(data),
        statistics,
        propagation: Propagation::default(),
        experts: ExpertOptions::default(),
        compute: compute(),
    }
}

/// Everything that error feedback needs.
pub(super) fn collecting() -> CalibrateOptions {
    CalibrateOptions {
        open: OpenOptions::default(),
        data: data(),
        compute: compute(),
        collect: Collect { magnitudes: false, grams: true, tokens: false },
        beside: None,
        output_matrix: false,
        experts: ExpertOptions::default(),
        add: Vec::new(),
        resume: false,
        format: StatisticsFormat::Gguf,
        output: OutputOptions::default(),
    }
}

fn calibrated(model: &Path, output: &Path) {
    calibrate(model, output, &collecting(), &Cancel::default(), &mut Silent).expect("statistics");
}

/// Error feedback on all of a model's matrices in layers, with a text and with statistics
/// that were collected before: so many tensors, of which each matrix loses less than by
/// rounding.
fn check(name: &str, tensors: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = root().join("fixtures/tiny").join(name);
    let model = Model::open(&path, &OpenOptions::default()).expect("a model");
    let statistics = folder.path().join("statistics.gguf");
    calibrated(&path, &statistics);
    for statistics in [None, Some(statistics)] {
        let target = "gguf:q4_0".parse().expect("a target");
        let kind = if statistics.is_none() { "text" } else { "statistics" };
        let output = Output { target, path: folder.path().join(format!("{kind}.q4_0.gguf")) };
        let outputs = std::slice::from_ref(&output);
        let options = options(statistics);
        let reports = quantize(&model, outputs, &options, &Cancel::default(), &mut Silent);
        let report = &reports.expect("a file")[0];
        let in_layers = || report.methods.iter().filter(|own| own.tensor.contains("blk."));
        let named: BTreeSet<&str> = in_layers().map(|own| own.tensor.as_str()).collect();
        assert_eq!(named.len(), tensors, "{name}, {kind}: {named:?}");
        for own in in_layers() {
            let losses = own.report.losses.expect("inputs are known");
            let (tensor, expert) = (&own.tensor, own.expert);
            let is_less = losses.result < losses.rounding;
            assert!(is_less, "{name}, {kind}, {tensor}, {expert:?}: {losses:?}");
        }
        let quantized = Model::open(&output.path, &OpenOptions::default()).expect("a model");
        assert_eq!(quantized.tensors().len(), model.tensors().len());
    }
}

#[test]
fn error_feedback_loses_less_than_rounding() {
    check("gemma", 7);
    check("gemma2", 14);
    check("gemma3", 42);
    check("gemma4", 32);
    check("gemma4-experts", 17);
    check("gemma3n", 32);
    check("phi3", 8);
    check("gpt-oss", 14);
    check("qwen2moe", 20);
    check("qwen3moe", 14);
    check("deepseek2", 21);
    check("deepseek3", 21);
    check("mamba2", 4);
    check("qwen35", 23);
    check("qwen35moe", 32);
    check("qwen3next", 31);
    check("dots1", 17);
    check("glm4moe", 28);
    check("glm4flash", 34);
    check("ernie4-5-moe", 17);
    check("granitemoe-shared", 20);
    check("hunyuan-moe", 20);
    check("exaone-moe", 17);
    check("cohere2moe", 27);
    check("bailingmoe2", 13);
    check("llama4", 34);
    check("olmoe", 14);
    check("phimoe", 14);
    check("minimax-m2", 14);
    check("lfm2", 12);
    check("lfm2moe", 12);
    check("mamba", 8);
    check("falcon-mamba", 8);
    check("nemotron-h", 8);
    check("nemotron-h-latent", 10);
    check("granite-hybrid", 18);
    check("falcon-h1", 18);
    check("mistral4", 22);
    check("kimi-linear", 21);
    check("mimo2", 38);
    check("bert", 12);
    check("nomic-bert", 10);
    check("nomic-bert-moe", 8);
    check("t5-encoder", 14);
    check("jina-v2", 2);
    check("modernbert", 16);
    check("gemma-embedding", 42);
}

/// Families with blocks of their own.
#[test]
fn error_feedback_on_other_blocks() {
    check("granite", 14);
    check("minicpm", 14);
    check("minicpm3", 16);
    check("internlm2", 14);
    check("apertus", 12);
    check("openelm", 15);
    check("olmo3", 28);
    check("glm4", 12);
    check("cohere2", 28);
    check("stablelm-parallel", 14);
    check("nemotron", 12);
    check("gptneox", 8);
    check("gpt2", 8);
    check("falcon-groups", 8);
}
