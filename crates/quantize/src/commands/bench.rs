//! `quantize bench`

use qz_pipeline::{
    CodecBench, CodecSpeed, Machine, ModelBench, ModelSpeed, bench_codecs, bench_model,
};

use super::{print_json, print_line, warn};
use crate::cli::{Bench, BenchFormat, Global};
use crate::exit::Outcome;
use crate::interrupt;
use crate::progress::Progress;
use crate::render::{bytes, count, csv, file_name, markdown_table, table};

pub(crate) fn run(arguments: &Bench, global: &Global) -> anyhow::Result<Outcome> {
    let cancel = interrupt::install()?;
    let mut progress = Progress::new(global);
    let format = arguments.format();
    match &arguments.model {
        None => {
            let options = arguments.codec_options(global);
            let report = bench_codecs(&options, &cancel, &mut progress)?;
            drop(progress);
            match format {
                BenchFormat::Json => print_json(&report),
                format => print_line(&codecs(&report, format)),
            }
        }
        Some(model) => {
            let options = arguments.model_options(global);
            let report = bench_model(model, &options, &cancel, &mut progress)?;
            drop(progress);
            warn(&report.warnings);
            match format {
                BenchFormat::Json => print_json(&report),
                format => print_line(&tests(&report, format)),
            }
        }
    }
    Ok(Outcome::Ok)
}

fn codecs(report: &CodecBench, format: BenchFormat) -> String {
    if format == BenchFormat::Csv {
        return codecs_as_csv(report);
    }
    let header = [
        "type",
        "bits/weight",
        "decode, GB/s",
        "dot, GB/s",
        "of memory's",
        "dot, GFLOP/s",
        "matmul, GFLOP/s",
        "of f32's",
        "encode, Mweights/s",
    ];
    let Machine { threads, instructions, read_bytes_per_second, f32_operations_per_second } =
        report.machine;
    let row = |codec: &CodecSpeed| {
        vec![
            codec.data_type.to_owned(),
            format!("{:.4}", codec.bits_per_weight),
            giga(codec.decode_bytes_per_second),
            giga(codec.dot_bytes_per_second),
            percent(codec.dot_bytes_per_second / read_bytes_per_second),
            giga(codec.dot_operations_per_second),
            giga(codec.matmul_operations_per_second),
            percent(codec.matmul_operations_per_second / f32_operations_per_second),
            format!("{:.2}", codec.encode_weights_per_second / 1e6),
        ]
    };
    let rows: Vec<Vec<String>> = report.codecs.iter().map(row).collect();
    format!(
        "{}\n\n{} of memory read, {} of f32 products and sums ({instructions}, threads: {threads})\n\
         dot: a 4096 x 4096 matrix and 1 token; matmul: 1024 x 4096 and 512 tokens; GB: stored bytes",
        draw(format)(&header, &rows),
        giga(read_bytes_per_second) + " GB/s",
        giga(f32_operations_per_second) + " GFLOP/s",
    )
}

fn codecs_as_csv(report: &CodecBench) -> String {
    let header = [
        "type",
        "bits_per_weight",
        "decode_gb_per_second",
        "dot_gb_per_second",
        "dot_gflops",
        "matmul_gflops",
        "encode_mweights_per_second",
        "memory_gb_per_second",
        "f32_gflops",
        "instructions",
        "threads",
    ];
    let machine = &report.machine;
    let row = |codec: &CodecSpeed| {
        vec![
            codec.data_type.to_owned(),
            codec.bits_per_weight.to_string(),
            giga(codec.decode_bytes_per_second),
            giga(codec.dot_bytes_per_second),
            giga(codec.dot_operations_per_second),
            giga(codec.matmul_operations_per_second),
            format!("{:.2}", codec.encode_weights_per_second / 1e6),
            giga(machine.read_bytes_per_second),
            giga(machine.f32_operations_per_second),
            machine.instructions.to_owned(),
            machine.threads.to_string(),
        ]
    };
    csv(&header, &report.codecs.iter().map(row).collect::<Vec<_>>())
}

/// llama-bench's columns.
fn tests(report: &ModelBench, format: BenchFormat) -> String {
    let name = file_name(&report.path);
    if format == BenchFormat::Csv {
        let header = [
            "model",
            "architecture",
            "size_bytes",
            "params",
            "threads",
            "test",
            "n_prompt",
            "n_gen",
            "repetitions",
            "avg_ts",
            "stddev_ts",
        ];
        let row = |test: &ModelSpeed| {
            vec![
                name.clone(),
                report.architecture.clone(),
                report.bytes.to_string(),
                report.weights.to_string(),
                report.threads.to_string(),
                test.test.clone(),
                test.prompt.to_string(),
                test.generated.to_string(),
                test.samples.len().to_string(),
                format!("{:.6}", test.tokens_per_second),
                format!("{:.6}", test.stddev),
            ]
        };
        return csv(&header, &report.tests.iter().map(row).collect::<Vec<_>>());
    }
    let row = |test: &ModelSpeed| {
        vec![
            name.clone(),
            bytes(report.bytes),
            count(report.weights),
            report.threads.to_string(),
            test.test.clone(),
            format!("{:.2} ± {:.2}", test.tokens_per_second, test.stddev),
        ]
    };
    let rows: Vec<Vec<String>> = report.tests.iter().map(row).collect();
    draw(format)(&["model", "size", "params", "threads", "test", "t/s"], &rows)
}

fn draw(format: BenchFormat) -> fn(&[&str], &[Vec<String>]) -> String {
    if format == BenchFormat::Md { markdown_table } else { table }
}

fn giga(number: f64) -> String {
    format!("{:.2}", number / 1e9)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}
