//! `quantize demo`: the whole chain on a checkpoint that is part of the binary.

use std::path::{Path, PathBuf};

use anyhow::Context;
use qz_pipeline::{
    Cancel, ConvertOptions, ConvertReport, Event, Fallback, Model, Observer, OpenOptions, Output,
    PlanOptions, Target, Verification, VerifyOptions, convert, verify,
};
use serde::Serialize;

use super::{print_json, print_line};
use crate::cli::{Demo, Global};
use crate::exit::Outcome;
use crate::interrupt;
use crate::progress::Progress;
use crate::render::{bytes, table};

/// A small Llama that was trained on public-domain books; `fixtures/README.md`
/// tells how.
const CHECKPOINT: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../../fixtures/demo-llama/config.json")),
    (
        "generation_config.json",
        include_bytes!("../../../../fixtures/demo-llama/generation_config.json"),
    ),
    ("model.safetensors", include_bytes!("../../../../fixtures/demo-llama/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../../fixtures/demo-llama/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../../../../fixtures/demo-llama/tokenizer_config.json"),
    ),
];

const TARGETS: [&str; 7] = ["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"];

#[derive(Serialize)]
struct Report {
    folder: Option<PathBuf>,
    outputs: Vec<ConvertReport>,
    verifications: Vec<Verification>,
}

pub(crate) fn run(arguments: &Demo, global: &Global) -> anyhow::Result<Outcome> {
    let temporary = tempfile::tempdir().context("cannot create a temporary folder")?;
    let folder = arguments.output.as_deref().unwrap_or(temporary.path());
    let checkpoint = folder.join("demo-llama");
    write_checkpoint(&checkpoint)?;
    let mut progress = Progress::new(global);
    let cancel = interrupt::install()?;
    let outputs = convert_all(&checkpoint, folder, global, &cancel, &mut progress)?;
    let options = VerifyOptions {
        source: Some(checkpoint),
        threads: global.thread_count(),
        ..VerifyOptions::default()
    };
    let count = outputs.len();
    let verifications = outputs
        .iter()
        .zip(1..)
        .map(|(output, number)| {
            progress.observe(Event::Target { name: &output.target, number, count });
            Ok(verify(&output.path, &options, &cancel, &mut progress)?)
        })
        .collect::<anyhow::Result<Vec<Verification>>>()?;
    drop(progress);
    let passed = verifications.iter().all(|verification| verification.passed);
    if arguments.json {
        let folder = arguments.output.clone();
        print_json(&Report { folder, outputs, verifications });
    } else {
        print_line(&summary(&outputs, &verifications));
    }
    Ok(Outcome::of_check(passed))
}

fn write_checkpoint(folder: &Path) -> anyhow::Result<()> {
    let cannot = || format!("{}: cannot write the checkpoint", folder.display());
    std::fs::create_dir_all(folder).with_context(cannot)?;
    for (name, bytes) in CHECKPOINT {
        std::fs::write(folder.join(name), bytes).with_context(cannot)?;
    }
    Ok(())
}

fn convert_all(
    checkpoint: &Path,
    folder: &Path,
    global: &Global,
    cancel: &Cancel,
    progress: &mut dyn Observer,
) -> anyhow::Result<Vec<ConvertReport>> {
    let model = Model::open(checkpoint, &OpenOptions::default())?;
    let outputs = TARGETS
        .iter()
        .map(|name| {
            let target: Target = name.parse()?;
            let path = folder.join(target.artifact_name("demo-llama"));
            Ok(Output { target, path })
        })
        .collect::<anyhow::Result<Vec<Output>>>()?;
    // The demonstration owns its files' names.
    let options = ConvertOptions {
        threads: global.thread_count(),
        output: global.output(true),
        plan: PlanOptions { fallback: Fallback::Refused, ..PlanOptions::default() },
    };
    Ok(convert(&model, &outputs, &options, cancel, progress)?)
}

fn summary(outputs: &[ConvertReport], verifications: &[Verification]) -> String {
    let row = |(output, verification): (&ConvertReport, &Verification)| {
        let errors = verification.tensors.iter().filter_map(|check| check.relative_error);
        vec![
            output.target.clone(),
            bytes(output.bytes),
            format!("{:.3}", output.bits_per_weight),
            format!("{:.5}", errors.fold(0.0, f64::max)),
            if verification.passed { "ok".to_owned() } else { "FAILED".to_owned() },
        ]
    };
    let rows: Vec<Vec<String>> = outputs.iter().zip(verifications).map(row).collect();
    table(&["target", "size", "bits per weight", "largest relative error", "verify"], &rows)
}
