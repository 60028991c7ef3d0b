//! `calibrate`, from the command line: the reference's values, files added to each other,
//! what can be wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qz_gguf::GgufFile;
use qz_tensor::{TensorIndex, TensorSource};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{
    copy_of, edit_json, fixtures, forget_merges, has_byte_tokens, quantize, scratch, text,
    write_gguf,
};

fn prose() -> PathBuf {
    fixtures().join("../calibration-data/prose.txt")
}

/// Every tensor's numbers, in the file's order.
fn tensors(path: &Path) -> Vec<(String, Vec<f32>)> {
    let file = GgufFile::open(path).expect("a GGUF file");
    let numbers = |(position, info): (usize, &qz_tensor::TensorInfo)| {
        let mut bytes = vec![0; info.bytes as usize];
        file.read(TensorIndex(position), 0, &mut bytes).expect("read");
        let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        (info.name.to_string(), numbers.collect())
    };
    file.tensors().iter().enumerate().map(numbers).collect()
}

fn digest(path: &Path) -> String {
    format!("{:x}", Sha256::digest(std::fs::read(path).expect("a file")))
}

fn golden(checkpoint: &str) -> Value {
    let path = fixtures().join(checkpoint).join("golden-calibration.json");
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

const EXACT: [&str; 8] =
    ["--ctx", "128", "--chunks", "8", "--activations", "f32", "--expert-prior", "0"];

/// `calibrate` on the bundled prose.
fn calibrate(model: &Path, output: &Path, options: &[&str]) -> crate::support::Run {
    let data = prose();
    let common = ["calibrate", text(model), "--data", text(&data), "-o", text(output), "--json"];
    quantize(&[&common, options].concat())
}

/// The model, or where the reference cuts text otherwise the file that it would make.
fn as_the_reference_reads_it(model: &Path, folder: &Path) -> PathBuf {
    if !has_byte_tokens(model) {
        return model.to_owned();
    }
    let file = folder.join("model.gguf");
    quantize(&["convert", text(model), "--to", "f32", "-o", text(&file)]).expect_success();
    forget_merges(&file);
    file
}

#[test]
fn sums_are_the_references() {
    for name in ["demo-llama", "tiny/mixtral"] {
        let (folder, model) = (scratch(), fixtures().join(name));
        let output = folder.path().join("m.gguf");
        let options = [&EXACT[..], &["--process-output"]].concat();
        let seen = as_the_reference_reads_it(&model, folder.path());
        let report = calibrate(&seen, &output, &options).expect_success().json();
        assert_eq!((&report["chunks"], &report["chunks_in_all"]), (&json!(8), &json!(8)));
        let expected = tensors(&model.join("golden-calibration.gguf"));
        let found = tensors(&output);
        let names =
            |all: &[(String, Vec<f32>)]| all.iter().map(|one| one.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{name}");
        for ((tensor, found), (_, expected)) in found.iter().zip(&expected) {
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs();
            assert!(found.iter().zip(expected).all(near), "{name}: {tensor}");
            assert_eq!(found.len(), expected.len());
        }
        let keys = |path: &Path| {
            let file = GgufFile::open(path).expect("a GGUF file");
            let all = file.metadata().iter().filter(|(key, _)| *key != "imatrix.datasets");
            all.map(|(key, value)| format!("{key} {value:?}")).collect::<Vec<_>>()
        };
        assert_eq!(keys(&output), keys(&model.join("golden-calibration.gguf")));
    }
}

/// What the reference makes of a file alone has the same bytes.
#[test]
fn files_are_added_and_rewritten_as_by_the_reference() {
    for name in ["demo-llama", "tiny/mixtral"] {
        let (folder, golden) = (scratch(), golden(name));
        let matrix = fixtures().join(name).join("golden-calibration.gguf");
        let check = |files: usize, output: &str, expected: &Value| {
            let output = folder.path().join(output);
            let inputs = ["--in-file", text(&matrix)].repeat(files);
            let arguments = ["calibrate", "--ctx", "128", "-o", text(&output)];
            quantize(&[&arguments[..], &inputs].concat()).expect_success();
            assert_eq!(&json!(digest(&output)), expected, "{name}");
        };
        check(2, "merged.gguf", &golden["merged"]);
        check(1, "legacy.dat", &golden["legacy"]);
    }
}

#[test]
fn statistics_are_the_references() {
    let matrix = fixtures().join("demo-llama/golden-calibration.gguf");
    let report = quantize(&["calibrate", "--show-statistics", text(&matrix), "--json"]);
    let report = report.expect_success().json();
    let found = report["tensors"].as_array().expect("tensors");
    let golden = golden("demo-llama");
    let expected = golden["statistics"].as_array().expect("rows");
    assert!(!expected.is_empty() && found.len() == expected.len());
    for (found, row) in found.iter().zip(expected) {
        let cell = |cell: usize| row[cell].as_str().expect("text").trim_end_matches('%');
        let name = found["name"].as_str().expect("a name");
        assert!(name.contains(&format!("{}.", cell(1))), "{name}: {row}");
        let near = |key: &str, scale: f64, column: usize| {
            let expected: f64 = cell(column).parse().expect("a number");
            let digits = cell(column).split_once('.').map_or(0, |(_, digits)| digits.len());
            let rounding = 0.51 * 10f64.powi(-(digits as i32));
            let found = scale * found[key].as_f64().expect("a number");
            let within = rounding + 1e-5 * expected.abs();
            assert!((found - expected).abs() <= within, "{name} {key}: {found}, {expected}");
        };
        for (key, scale, column) in [
            ("sum", 1.0, 2),
            ("min", 1.0, 3),
            ("max", 1.0, 4),
            ("mean", 1.0, 5),
            ("standard_deviation", 1.0, 6),
            ("active", 100.0, 7),
            ("columns", 1.0, 8),
            ("entropy", 1.0, 9),
            ("relative_entropy", 100.0, 10),
            ("outstanding", 100.0, 11),
            ("cosine_to_layer_before", 1.0, 12),
        ] {
            near(key, scale, column);
        }
    }
    let shown =
        quantize(&["calibrate", "--show-statistics", text(&matrix)]).expect_success().stdout;
    assert!(shown.contains("blk.3.attn_k.weight") && shown.contains("mean cosine"), "{shown}");
}

/// Neither threads, nor memory, nor how often one begins again.
#[test]
fn how_it_is_collected_changes_nothing() {
    let check = |name: &str, common: &[&str], others: &[[&str; 2]]| {
        let folder = scratch();
        let output = folder.path().join("m.gguf");
        let model = fixtures().join("tiny").join(name);
        let run = |options: &[&str]| {
            let fixed = ["--ctx", "32", "--force", "--collect", "magnitudes,grams,tokens"];
            calibrate(&model, &output, &[&fixed, common, options].concat()).expect_success();
            tensors(&output)
        };
        let expected = run(&[]);
        for options in others {
            // No assert_eq: it would print every number.
            assert!(run(options) == expected, "{name}, {options:?}");
        }
    };
    let (one, little, least) =
        (["--threads", "1"], ["--max-memory", "40K"], ["--max-memory", "1K"]);
    check("llama-tied", &["--chunks", "6"], &[one, little, least]);
    // Several passes, for the experts and for the mean of all.
    check("mixtral", &["--chunks", "6"], &[one, ["--max-memory", "300K"]]);
    // A row of a matrix in each pass.
    check("mixtral", &["--chunks", "2", "--expert-prior", "0"], &[little]);
}

/// A Gram matrix's diagonal is the sums of squares; its trace of magnitudes is smaller
/// than what Cauchy and Schwarz allow.
#[test]
fn statistics_agree_with_each_other() {
    let folder = scratch();
    // Gram matrices of experts are mixed with their layer's mean, unless nothing of it is added.
    for (name, prior) in [("llama-tied", "64"), ("mixtral", "0")] {
        let output = folder.path().join(format!("{name}-{prior}.gguf"));
        let model = fixtures().join("tiny").join(name);
        let options = [
            "--ctx",
            "32",
            "--chunks",
            "6",
            "--collect",
            "grams,magnitudes,tokens",
            "--expert-prior",
            prior,
        ];
        calibrate(&model, &output, &options).expect_success();
        let all: BTreeMap<String, Vec<f32>> = tensors(&output).into_iter().collect();
        let mut grams = 0;
        for (tensor, gram) in all.iter().filter(|(name, _)| name.ends_with(".gram")) {
            let matrix = tensor.trim_end_matches(".gram");
            let (squares, counts) =
                (&all[&format!("{matrix}.in_sum2")], &all[&format!("{matrix}.counts")]);
            let (experts, width) = (counts.len(), squares.len() / counts.len());
            let packed = width * (width + 1) / 2;
            assert_eq!(gram.len(), experts * packed);
            for expert in 0..experts {
                for column in 0..width {
                    let start = column * width - column * column.saturating_sub(1) / 2;
                    let (found, sum) =
                        (gram[expert * packed + start], squares[expert * width + column]);
                    assert!((found - sum).abs() <= 1e-5 * sum, "{tensor}: {found}, {sum}");
                }
            }
            grams += 1;
        }
        assert_eq!(
            grams,
            4 * all.keys().filter(|name| name.ends_with("attn_q.weight.counts")).count()
        );
        for (tensor, magnitudes) in all.iter().filter(|(name, _)| name.ends_with(".in_abs")) {
            let matrix = tensor.trim_end_matches(".in_abs");
            let (squares, counts) =
                (&all[&format!("{matrix}.in_sum2")], &all[&format!("{matrix}.counts")]);
            let width = squares.len() / counts.len();
            for (column, (magnitude, square)) in magnitudes.iter().zip(squares).enumerate() {
                let limit = (square * counts[column / width]).sqrt();
                assert!(*magnitude <= limit * 1.0001 && *magnitude >= square.sqrt() * 0.9999);
            }
        }
        let tokens: f32 = all["token_embd.weight.token_counts"].iter().sum();
        assert_eq!(tokens, 6.0 * 32.0);
    }
}

#[test]
fn a_run_goes_on_where_another_ended() {
    let (folder, model) = (scratch(), fixtures().join("tiny/mixtral"));
    let at = |name: &str| folder.path().join(name);
    let options = |chunks| ["--ctx", "32", "--expert-prior", "0", "--chunks", chunks];
    calibrate(&model, &at("whole.gguf"), &options("6")).expect_success();
    calibrate(&model, &at("parts.gguf"), &options("2")).expect_success();
    let resume = [&options("4")[..], &["--resume"]].concat();
    let report = calibrate(&model, &at("parts.gguf"), &resume).expect_success().json();
    assert_eq!((&report["chunks"], &report["chunks_in_all"]), (&json!(4), &json!(6)));
    for ((name, whole), (_, parts)) in
        tensors(&at("whole.gguf")).iter().zip(tensors(&at("parts.gguf")))
    {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * a.abs();
        assert!(whole.iter().zip(&parts).all(near), "{name}");
    }
    // In a legacy file, too; and the sums of another file.
    calibrate(&model, &at("parts.dat"), &options("2")).expect_success();
    let report = calibrate(&model, &at("parts.dat"), &resume).expect_success().json();
    assert_eq!(report["chunks_in_all"], 6);
    let whole = at("whole.gguf");
    let others = [&options("1")[..], &["--in-file", text(&whole)]].concat();
    let report = calibrate(&model, &at("more.gguf"), &others).expect_success().json();
    assert_eq!(report["chunks_in_all"], 7);
}

#[test]
fn experts_are_covered() {
    let (folder, model) = (scratch(), fixtures().join("tiny/mixtral"));
    let at = |name: &str| folder.path().join(name);
    let run = |name: &str, options: &[&str]| {
        let common = ["--ctx", "8", "--chunks", "1"];
        calibrate(&model, &at(name), &[&common, options].concat()).expect_success().json()
    };
    // Sixteen places for eight tokens among eight experts: some get few.
    let report = run("few.gguf", &["--expert-prior", "5"]);
    let layers = report["experts"].as_array().expect("layers");
    for layer in layers {
        let tokens = layer["tokens"].as_array().expect("experts");
        assert_eq!(tokens.iter().map(|one| one.as_u64().expect("a count")).sum::<u64>(), 16);
    }
    let warnings = report["warnings"].to_string();
    assert!(
        warnings.contains("layer 0: experts ") && warnings.contains("the layer's mean"),
        "{warnings}"
    );
    let counts = |name: &str| {
        let all = tensors(&at(name)).into_iter();
        let counts = all.filter(|(name, _)| name.contains("_exps") && name.ends_with(".counts"));
        counts.flat_map(|(_, counts)| counts).collect::<Vec<f32>>()
    };
    assert!(counts("few.gguf").iter().all(|count| *count >= 5.0));
    run("raw.gguf", &["--expert-prior", "0"]);
    assert!(counts("raw.gguf").iter().any(|count| *count < 5.0));
    run("all.gguf", &["--all-experts"]);
    assert!(counts("all.gguf").iter().all(|count| *count == 64.0 || *count == 8.0));
}

/// What was collected is of use to `convert`.
#[test]
fn the_file_weighs_a_conversion() {
    let (folder, model) = (scratch(), fixtures().join("demo-llama"));
    let at = |name: &str| folder.path().join(name);
    let grams = ["--ctx", "64", "--chunks", "4", "--collect", "grams,tokens"];
    calibrate(&model, &at("m.gguf"), &grams).expect_success();
    let (matrix, output) = (at("m.gguf"), at("out.gguf"));
    let arguments = ["convert", text(&model), "--to", "iq2_xs", "--imatrix", text(&matrix), "-o"];
    quantize(&[&arguments[..], &[text(&output)]].concat()).expect_success();
}

const TEMPLATE: &str = "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}{{ eos_token }}";

/// A copy of the trained checkpoint with a chat template.
fn with_template(template: &str) -> (TempDir, PathBuf) {
    let folder = scratch();
    let copy = copy_of("demo-llama", folder.path());
    edit_json(&copy.join("tokenizer_config.json"), |config| {
        config["chat_template"] = json!(template);
    });
    (folder, copy)
}

#[test]
fn documents_and_conversations() {
    let folder = scratch();
    let (data, output) = (folder.path().join("d.jsonl"), folder.path().join("m.gguf"));
    let messages = json!({"messages": [{"role": "user", "content": "How are weights rounded?"}]});
    let document = json!({"text": "A plain document about numbers and how they are rounded."});
    let lines = format!("{messages}\n{document}\n\n").repeat(8);
    std::fs::write(&data, lines).expect("written");
    let plain = fixtures().join("demo-llama");
    let (_folder, template) = with_template(TEMPLATE);
    let run = |model: &Path, options: &[&str]| {
        let common =
            ["calibrate", text(model), "--data", text(&data), "--ctx", "16", "-o", text(&output)];
        quantize(&[&common[..], &["--json", "--force"], options].concat())
    };
    let tokens = |model: &Path, options: &[&str]| {
        let report = run(model, options).expect_success().json();
        assert_eq!(report["data"][0]["documents"], 16);
        report["data"][0]["tokens"].as_u64().expect("a number")
    };
    let contents = tokens(&plain, &["--chat", "plain"]);
    // The template adds the roles' names.
    assert!(tokens(&template, &[]) > contents);
    assert_eq!(tokens(&template, &["--chat", "plain"]), contents);
    edit_json(&template.join("tokenizer_config.json"), |config| {
        config["chat_template"] = json!(null)
    });
    assert_eq!(tokens(&template, &[]), contents);
    let run = run(&template, &["--chat", "template"]);
    assert!(run.code == 3 && run.stderr.contains("no chat template"), "{}", run.stderr);
}

#[test]
fn documents_in_parquet() {
    let folder = scratch();
    let (data, output) = (fixtures().join("documents.parquet"), folder.path().join("m.gguf"));
    let model = fixtures().join("demo-llama");
    let arguments = ["calibrate", text(&model), "--data", text(&data), "--ctx", "16"];
    let rest = ["-o", text(&output), "--json"];
    let report = quantize(&[&arguments[..], &rest].concat()).expect_success().json();
    assert_eq!(report["data"][0]["documents"], 16);
    assert!(report["data"][0]["tokens"].as_u64().expect("a number") > 16 * 8);
}

#[test]
fn the_bundled_text_is_mixed() {
    let folder = scratch();
    let output = folder.path().join("m.gguf");
    let model = fixtures().join("tiny/llama-tied");
    let arguments =
        ["calibrate", text(&model), "--data", "default", "--ctx", "64", "--chunks", "20"];
    let rest = ["-o", text(&output), "--json"];
    let report = quantize(&[&arguments[..], &rest].concat()).expect_success().json();
    assert_eq!(
        (&report["chunks"], report["data"].as_array().map(Vec::len)),
        (&json!(20), Some(11))
    );
    let file = GgufFile::open(&output).expect("a file");
    let datasets = format!("{:?}", file.metadata().get("imatrix.datasets"));
    assert!(datasets.contains("\"default\""), "{datasets}");
}

#[test]
fn bad_data() {
    let folder = scratch();
    let output = folder.path().join("m.gguf");
    let (_folder, template) = with_template(TEMPLATE);
    let (_other, endless) = with_template(
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
    );
    let plain = fixtures().join("demo-llama");
    let check = |model: &Path, name: &str, content: &[u8], expected: &str| {
        let data = folder.path().join(name);
        std::fs::write(&data, content).expect("written");
        let arguments = ["calibrate", text(model), "--data", text(&data), "-o", text(&output)];
        let run = quantize(&arguments);
        assert_eq!(run.code, 3, "{name}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{name}: {}", run.stderr);
        assert!(!output.exists());
    };
    check(&plain, "short.txt", b"Too short.", "it needs 1024, two chunks of 512");
    check(&plain, "empty.txt", b"", "there is no text in it");
    check(&plain, "empty.jsonl", b"\n\n", "there is no text in it");
    check(&plain, "text.txt", b"no \xff text", "the text is not UTF-8");
    check(&plain, "line.jsonl", b"{\"text\": \"one\"}\n{\"text\": \n", "byte 16");
    check(&plain, "other.jsonl", b"{\"content\": \"one\"}\n", "neither a \"text\" nor");
    check(&plain, "some.parquet", b"PAR1", "some.parquet: ");
    let whole = std::fs::read(fixtures().join("documents.parquet")).expect("a file");
    check(&plain, "cut.parquet", &whole[..whole.len() / 2], "cut.parquet: ");
    // What the file says of a page's size and of a dictionary's values, without the bytes.
    let with = |part: &[u8], other: &[u8]| {
        let at = whole.windows(part.len()).position(|bytes| bytes == part).expect("there");
        let mut bytes = whole.clone();
        bytes[at..at + part.len()].copy_from_slice(other);
        bytes
    };
    let page = with(b"\x15\x80\x02\x15\x96\x01\x4c", b"\x15\xfe\x7f\x15\x96\x01\x4c");
    check(&plain, "page.parquet", &page, "a page of 8191 bytes in 75 bytes");
    let values = with(b"\x15\x2a\x15\x2e\x4c\x15\x04", b"\x15\x2a\x15\x2e\x4c\x15\x7e");
    check(&plain, "values.parquet", &values, "a dictionary of 63 values in 21 bytes");
    // Of each column its codec, which is snappy, and the field that follows.
    let snappy = [0x15, 0x02, 0x16];
    for (codec, name) in [(0x04, "gzip"), (0x0c, "zstd"), (0x08, "brotli"), (0x0e, "lz4")] {
        let mut compressed = whole.clone();
        let footer = whole.len() - 8 - 1231;
        let columns = (footer..whole.len()).filter(|at| whole[*at..].starts_with(&snappy));
        columns.for_each(|at| compressed[at + 1] = codec);
        let expected = format!("it is compressed with {name}, which this program does not read");
        check(&plain, &format!("{name}.parquet"), &compressed, &expected);
    }
    let panicked = quantize(&[
        "calibrate",
        text(&plain),
        "--data",
        text(&folder.path().join("cut.parquet")),
        "-o",
        text(&output),
    ]);
    assert!(!panicked.stderr.contains("panicked"), "{}", panicked.stderr);
    let mut broken = whole;
    let middle = broken.len() / 4;
    broken[8..middle].fill(0xff);
    check(&plain, "broken.parquet", &broken, "broken.parquet: ");
    let refused = b"{\"messages\": [{\"role\": \"tool\", \"content\": \"x\"}]}";
    check(&template, "refused.jsonl", refused, "no tools");
    check(&endless, "endless.jsonl", refused, "does not come to an end");
}

/// A model with the matrices of some names rounded.
fn rounded(model: &Path, output: &Path, names: &str) {
    let wish = format!("{names}=q4_0");
    let given = ["convert", text(model), "--to", "q4_0", "-o", text(output)];
    let types = ["--tensor-type", &wish, "--tensor-type", ".=f32"];
    quantize(&[&given[..], &types].concat()).expect_success();
}

/// Where the sums of what is lacking are not zero: of layers and groups, in order.
fn lacking(path: &Path) -> Vec<String> {
    let is_cross = |name: &str| name.ends_with(".in_cross") || name.ends_with(".out_cross");
    let all = tensors(path).into_iter().filter(|(name, _)| is_cross(name));
    all.filter(|(_, sums)| sums.iter().any(|sum| *sum != 0.0)).map(|(name, _)| name).collect()
}

/// What a quantized model lacks begins behind the first matrix that is rounded, whose own
/// error is none of it: what a target makes of that matrix is another one.
#[test]
fn what_a_quantized_model_lacks_is_told_behind_its_first_error() {
    let check = |name: &str, matrix: &str, expected: &[&str]| {
        let folder = scratch();
        let at = |name: &str| folder.path().join(name);
        let (model, quantized, stats) =
            (fixtures().join("tiny").join(name), at("q.gguf"), at("s.gguf"));
        rounded(&model, &quantized, matrix);
        let beside = ["--beside", text(&quantized), "--collect", "grams", "--expert-prior", "0"];
        let more = ["--ctx", "64", "--chunks", "24"];
        calibrate(&model, &stats, &[&beside[..], &more].concat()).expect_success();
        assert_eq!(lacking(&stats), expected, "{name}, {matrix}");
    };
    let layer = [
        "blk.1.attn_q.weight.in_cross",
        "blk.1.attn_output.weight.out_cross",
        "blk.1.ffn_gate.weight.in_cross",
        "blk.1.ffn_down.weight.out_cross",
    ];
    check("llama-spm", r"blk\.0\.ffn_down", &layer);
    check("llama-spm", r"blk\.1\.attn_q", &layer[1..]);
    check("llama-spm", r"blk\.1\.attn_output", &layer[2..]);
    check("llama-spm", r"blk\.1\.ffn_down", &[]);
    let mixture = ["blk.1.ffn_gate_exps.weight.in_cross", "blk.1.ffn_down_exps.weight.out_cross"];
    let last = ["output.weight.in_cross"];
    check("mixtral", r"blk\.1\.attn_output", &[&mixture[..], &last].concat());
    check("mixtral", r"blk\.1\.ffn_down", &last);
}

/// Of an expert with too few tokens nothing is known to be lacking: its sums are zeros.
#[test]
fn experts_that_are_short_of_tokens_lack_nothing() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let (model, quantized, stats) = (fixtures().join("tiny/mixtral"), at("q.gguf"), at("s.gguf"));
    rounded(&model, &quantized, r"blk\.0\.attn_q");
    let beside = ["--beside", text(&quantized), "--collect", "grams"];
    let more = ["--ctx", "64", "--chunks", "6"];
    let run = calibrate(&model, &stats, &[&beside[..], &more].concat()).expect_success();
    let coverage = &run.json()["experts"][0]["tokens"];
    let tokens: Vec<u64> = serde_json::from_value(coverage.clone()).expect("tokens of experts");
    let name = "blk.0.ffn_gate_exps.weight.in_cross";
    let (_, sums) = tensors(&stats).into_iter().find(|own| own.0 == name).expect("sums");
    let of_experts = sums.chunks(sums.len() / tokens.len());
    let is_lacking: Vec<bool> = of_experts.map(|own| own.iter().any(|sum| *sum != 0.0)).collect();
    let has_enough: Vec<bool> = tokens.iter().map(|count| *count >= 64).collect();
    assert_eq!(is_lacking, has_enough, "{tokens:?}");
    assert!(has_enough.contains(&true) && has_enough.contains(&false), "{tokens:?}");
}

#[test]
fn bad_statistics() {
    let (folder, model) = (scratch(), fixtures().join("tiny/mixtral"));
    let at = |name: &str| folder.path().join(name);
    let other = fixtures().join("demo-llama/golden-calibration.gguf");
    let own = fixtures().join("tiny/mixtral/golden-calibration.gguf");
    let check = |options: &[&str], code: i32, expected: &str| {
        let run = calibrate(
            &model,
            &at("m.gguf"),
            &[&["--ctx", "32", "--chunks", "1"], options].concat(),
        );
        let told = format!("{}{}", run.stdout, run.stderr);
        assert!(run.code == code && told.contains(expected), "{options:?}: {} {told}", run.code);
    };
    check(&["--in-file", text(&other)], 3, "another shape");
    check(&["--resume"], 3, "no such file");
    check(&["--collect", "grams", "--in-file", text(&own)], 5, "one run");
    check(&["--collect", "grams", "--output-format", "dat"], 5, "legacy");
    check(&["--beside", text(&model)], 2, "--collect grams");
    let demo = fixtures().join("demo-llama");
    check(&["--beside", text(&demo), "--collect", "grams"], 3, "vocabulary");
    let run = quantize(&[
        "calibrate",
        "--in-file",
        text(&own),
        "--in-file",
        text(&other),
        "-o",
        text(&at("x")),
    ]);
    assert!(run.code == 3 && run.stderr.contains("different models"), "{}", run.stderr);
    write_gguf(&at("grams.gguf"), &Default::default(), &[("a.weight.gram", &[3], &[1.0; 3])]);
    let grams = at("grams.gguf");
    check(&["--in-file", text(&grams)], 5, "one run");
    let run = quantize(&["calibrate", "--in-file", text(&grams), "-o", text(&at("x"))]);
    assert!(run.code == 5 && run.stderr.contains("one run"), "{}", run.stderr);
    write_gguf(&at("model.gguf"), &Default::default(), &[("a.weight", &[2], &[1.0, 2.0])]);
    let run = quantize(&["calibrate", "--show-statistics", text(&at("model.gguf"))]);
    assert!(run.code == 3 && run.stderr.contains("no importance entries"), "{}", run.stderr);
    assert_eq!(quantize(&["calibrate", text(&model), "-o", text(&at("y"))]).code, 2);
    assert_eq!(quantize(&["calibrate", "--in-file", text(&own)]).code, 2);
}
