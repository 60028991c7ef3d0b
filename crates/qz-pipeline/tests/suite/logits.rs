//! Logits of every architecture, beside those of transformers (`golden-logits.json` in
//! the checkpoints, made by `fixtures/make/golden_logits.py`).

use std::fs;
use std::path::{Path, PathBuf};

use qz_kernels::Workers;
use qz_kernels::backend::{CpuBackend, Rounding};
use qz_models::forward::{Branches, Chunks, Forward, ForwardOptions, Session};
use qz_pipeline::{Error, Model, ModelWeights, OpenOptions};
use qz_tensor::{DataType, Diagnose};
use serde_json::Value;
use tempfile::TempDir;

/// The error of a row's logits, relative to their length.
const TOLERANCE: f64 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny").join(name)
}

/// A copy of a checkpoint whose config.json is changed.
fn changed(folder: &Path, changes: &Value) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(folder).expect("a checkpoint") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, copy.path().join(name)).expect("copied");
    }
    let path = copy.path().join("config.json");
    let mut config: Value = json(&path);
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).expect("written");
    copy
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// Logits at these positions of each chunk of tokens.
fn logits(
    model: &Model,
    tokens: &[u32],
    length: usize,
    positions: &[usize],
    max_memory: u64,
) -> Result<Vec<Vec<f32>>, Error> {
    let backend = CpuBackend::new(&Workers::new(2).expect("threads"));
    let weights = ModelWeights::new(model);
    let options = ForwardOptions {
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory,
        spill_folder: std::env::temp_dir(),
    };
    let window = model.sliding_window();
    let forward = Forward::new(&backend, &weights, model.metadata(), window, options)?;
    let chunks = Chunks::new(tokens.to_vec(), length);
    let mut logits = forward.run(&chunks, &mut |_| Ok(()))?.logits()?;
    let mut rows = vec![Vec::new(); chunks.count() * length];
    let vocabulary = logits.vocabulary();
    logits.visit(0..length, |tile| {
        for (row, values) in tile.rows.clone().zip(tile.values.chunks_exact(vocabulary)) {
            rows[row] = values.to_vec();
        }
        Ok(())
    })?;
    let wanted =
        (0..chunks.count()).flat_map(|chunk| positions.iter().map(move |p| chunk * length + p));
    Ok(wanted.map(|row| std::mem::take(&mut rows[row])).collect())
}

/// `‖found − expected‖ / ‖expected‖`.
fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |value: f64| value * value;
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f64::from(*f) - e)).sum();
    let length: f64 = expected.iter().copied().map(square).sum();
    (difference / length).sqrt()
}

fn numbers<T>(value: &Value, convert: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let list = value.as_array().expect("a list");
    list.iter().map(|value| convert(value).expect("a number")).collect()
}

fn check(name: &str) {
    let folder = fixture(name);
    let golden = json(&folder.join("golden-logits.json"));
    let tokens = numbers(&golden["tokens"], |value| u32::try_from(value.as_u64()?).ok());
    let positions = numbers(&golden["positions"], |value| usize::try_from(value.as_u64()?).ok());
    for case in golden["cases"].as_array().expect("cases") {
        let copy = changed(&folder, &case["config"]);
        let model = Model::open(copy.path(), &OpenOptions::default()).expect("a model");
        let rows = logits(&model, &tokens, tokens.len(), &positions, 1 << 30).expect("logits");
        for (row, expected) in rows.iter().zip(case["logits"].as_array().expect("rows")) {
            let expected = numbers(expected, Value::as_f64);
            let error = relative_error(row, &expected);
            assert!(error <= TOLERANCE, "{name}, {}: relative error {error:e}", case["name"]);
        }
    }
}

#[test]
fn llama() {
    check("llama-tied");
    check("llama-spm");
    check("llama3-rope");
}

#[test]
fn mistral() {
    check("mistral");
}

#[test]
fn mixtral() {
    check("mixtral");
}

#[test]
fn qwen2() {
    check("qwen2");
}

#[test]
fn qwen3() {
    check("qwen3");
}

#[test]
fn gemma() {
    check("gemma");
    check("gemma2");
    check("gemma3");
    check("gemma4");
    check("gemma3n");
    check("gemma4-experts");
}

#[test]
fn phi() {
    check("phi3");
    check("phi4");
}

#[test]
fn gpt_oss() {
    check("gpt-oss");
}

#[test]
fn qwen_with_experts() {
    check("qwen2moe");
    check("qwen3moe");
}

#[test]
fn qwen_with_the_delta_rule() {
    check("qwen35");
    check("qwen35moe");
    check("qwen3next");
}

#[test]
fn experts_in_later_layers() {
    check("dots1");
    check("glm4moe");
    check("ernie4-5-moe");
    check("exaone-moe");
    check("bailingmoe2");
    check("llama4");
}

#[test]
fn experts_in_all_layers() {
    check("qwen3vlmoe");
    check("granitemoe");
    check("granitemoe-shared");
    check("hunyuan-moe");
    check("bailingmoe");
    check("phimoe");
}

#[test]
fn norms_of_all_heads_together() {
    check("olmoe");
    check("minimax-m2");
}

#[test]
fn short_convolutions() {
    check("lfm2");
    check("lfm2moe");
}

#[test]
fn deepseek() {
    check("deepseek2");
    check("deepseek3");
    check("kimi-k2");
    check("glm4flash");
    check("mistral4");
}

#[test]
fn relatives_of_llama() {
    check("smollm3");
    check("seed-oss");
    check("arcee");
    check("apertus");
    check("openelm");
    check("granite");
    check("ernie4-5");
    check("exaone");
    check("internlm2");
    check("internlm3");
    check("minicpm");
    check("minicpm3");
    check("hunyuan-dense");
    check("ministral3");
    check("glm4");
    check("qwen2vl");
    check("qwen3vl");
}

#[test]
fn norms_behind() {
    check("olmo2");
    check("olmo3");
    check("exaone4");
}

#[test]
fn norms_that_take_the_mean_away() {
    check("cohere");
    check("cohere-norms");
    check("cohere2");
    check("cohere2moe");
    check("stablelm");
    check("stablelm-parallel");
    check("nemotron");
    check("phi2");
    check("gptneox");
    check("gptneox-serial");
    check("gpt2");
    check("starcoder");
    check("starcoder2");
    check("falcon");
    check("falcon-groups");
    check("olmo");
}

#[test]
fn layers_of_one_part() {
    check("nemotron-h");
    check("nemotron-h-experts");
    check("nemotron-h-latent");
}

#[test]
fn state_spaces_beside_attention() {
    check("granite-hybrid");
    check("granite-hybrid-dense");
    check("granite-hybrid-attention");
    check("falcon-h1");
}

/// Decays of each number, and attention in which nothing turns.
#[test]
fn kimi_linear() {
    check("kimi-linear");
}

/// Layers with a window have more heads of keys and sinks, and values are short.
#[test]
fn mimo() {
    check("mimo2");
}

#[test]
fn mamba() {
    check("mamba");
    check("falcon-mamba");
    check("mamba2");
}

/// Little memory means hidden states on disk, small batches, an output matrix that is
/// read again and again, and the same logits to the last bit.
#[test]
fn memory_changes_nothing() {
    for name in ["llama-tied", "mixtral", "gemma4", "gemma3n"] {
        let model = Model::open(&fixture(name), &OpenOptions::default()).expect("a model");
        let tokens: Vec<u32> = (0..60).map(|i| i * 7 % 250).collect();
        let run = |memory| logits(&model, &tokens, 12, &[0, 5, 11], memory).expect("logits");
        let expected = run(1 << 30);
        assert_eq!(expected.len(), 15);
        for memory in [0, 4000, 100_000] {
            assert_eq!(run(memory), expected, "{name} in {memory} bytes");
        }
    }
}

#[test]
fn a_token_the_model_does_not_have() {
    let model = Model::open(&fixture("qwen2"), &OpenOptions::default()).expect("a model");
    let error = logits(&model, &[1, 2, 99_999], 3, &[2], 1 << 30).expect_err("refused");
    assert_eq!(error.diagnosis().rule, "token-out-of-range");
    assert_eq!(error.diagnosis().location.tensor.as_deref(), Some("model.embed_tokens.weight"));
}

/// Logits of a sequence that comes in steps, behind each step's last token.
fn stepwise(model: &Model, tokens: &[u32], steps: &[usize]) -> Vec<Vec<f32>> {
    let backend = CpuBackend::new(&Workers::new(2).expect("threads"));
    let weights = ModelWeights::new(model);
    let options = ForwardOptions {
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: 0,
        spill_folder: std::env::temp_dir(),
    };
    let window = model.sliding_window();
    let forward =
        Forward::new(&backend, &weights, model.metadata(), window, options).expect("a model");
    let mut session = Session::new(&forward, tokens.len(), &mut || Ok(())).expect("a session");
    let mut rows = Vec::new();
    let mut rest = tokens;
    for step in steps {
        let (now, later) = rest.split_at(*step);
        let mut logits = Vec::new();
        // What is taken back leaves nothing.
        let before = session.length();
        session.append(&vec![7; now.len()], &mut logits).expect("logits");
        session.truncate(before);
        session.append(now, &mut logits).expect("logits");
        rows.push(logits);
        rest = later;
    }
    assert_eq!((rest, session.length()), (&[][..], tokens.len()));
    assert!(session.append(&[0], &mut Vec::new()).is_err(), "there is no more room");
    rows
}

#[test]
fn steps_give_the_logits_of_the_whole() {
    let check = |name: &str, changes: &Value, steps: &[usize]| {
        let copy = changed(&fixture(name), changes);
        let model = Model::open(copy.path(), &OpenOptions::default()).expect("a model");
        let count: usize = steps.iter().sum();
        let tokens: Vec<u32> = (0..).map(|i| i * 7 % 250).take(count).collect();
        let ends: Vec<usize> = steps
            .iter()
            .scan(0, |end, step| {
                *end += step;
                Some(*end - 1)
            })
            .collect();
        let whole = logits(&model, &tokens, count, &ends, 1 << 30).expect("logits");
        let found = stepwise(&model, &tokens, steps);
        for (found, expected) in found.iter().zip(&whole) {
            let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
            let error = relative_error(found, &expected);
            assert!(error <= 1e-6, "{name} in steps of {steps:?}: relative error {error:e}");
        }
    };
    let none = serde_json::json!({});
    for name in ["llama-tied", "llama3-rope", "mixtral", "qwen2", "qwen3"] {
        check(name, &none, &[1; 12]);
        check(name, &none, &[12]);
        check(name, &none, &[5, 1, 4, 2]);
    }
    for name in [
        "gemma3",
        "gemma4",
        "gemma3n",
        "gpt-oss",
        "deepseek3",
        "mamba2",
        "phi3",
        "qwen35",
        "qwen3next",
        "mamba",
        "lfm2",
        "falcon-h1",
        "kimi-linear",
        "mimo2",
    ] {
        check(name, &none, &[5, 1, 4, 2]);
    }
    // A window that has been left behind.
    check("mistral", &serde_json::json!({ "sliding_window": 4 }), &[3, 1, 1, 6, 1, 9]);
}

#[test]
fn branches_give_the_logits_of_whole_sequences() {
    for (name, max_memory) in
        [("llama-tied", 1 << 30), ("mixtral", 0), ("mamba2", 1 << 30), ("qwen35", 0), ("gemma4", 0)]
    {
        let model = Model::open(&fixture(name), &OpenOptions::default()).expect("a model");
        let chunks = [
            (vec![3, 1, 4], vec![vec![1, 5], vec![], vec![9, 2, 6]]),
            (vec![], vec![vec![5, 3], vec![5]]),
            (vec![8, 9], vec![vec![7]]),
        ];
        let backend = CpuBackend::new(&Workers::new(2).expect("threads"));
        let weights = ModelWeights::new(&model);
        let options = ForwardOptions {
            rounding: Rounding::Exact,
            cache_type: DataType::F32,
            max_memory,
            spill_folder: std::env::temp_dir(),
        };
        let forward = Forward::new(&backend, &weights, model.metadata(), None, options);
        let forward = forward.expect("a model");
        let branching: Vec<Branches> = chunks
            .iter()
            .cloned()
            .map(|(beginning, branches)| Branches { beginning, branches })
            .collect();
        let mut found = Vec::new();
        let together = Chunks::branching(&branching);
        let end = forward.run(&together, &mut |_| Ok(())).expect("a pass");
        let mut end = end.logits().expect("logits");
        let rows: Vec<usize> = (0..together.tokens().len()).collect();
        end.of_tokens(&rows, &mut found).expect("logits");
        let mut found = found.chunks_exact(end.vocabulary());
        for (beginning, branches) in &chunks {
            let none = Vec::new();
            let parts = [&none].into_iter().chain(branches);
            for (number, branch) in parts.enumerate() {
                let own = [&beginning[..], branch].concat();
                let skipped = if number == 0 { 0 } else { beginning.len() };
                let positions: Vec<usize> = (skipped..own.len()).collect();
                if own.is_empty() {
                    continue;
                }
                let expected = logits(&model, &own, own.len(), &positions, 1 << 30);
                for expected in expected.expect("logits") {
                    assert_eq!(found.next().expect("a row"), expected, "{name}, {own:?}");
                }
            }
        }
        assert_eq!(found.next(), None);
    }
}

#[test]
fn encoders() {
    check_encoder("bert");
    check_encoder("roberta");
    check_encoder("xlm-roberta");
    check_encoder("xlm-roberta-fast");
    check_encoder("nomic-bert");
    check_encoder("nomic-bert-moe");
    check_encoder("modernbert");
    check_encoder("eurobert");
    check_encoder("gemma-embedding");
    check_encoder("t5-encoder");
    check_encoder("jina-v2");
    check_encoder("jina-v3");
}

/// What an encoder makes of a text: its last hidden states.
fn check_encoder(name: &str) {
    let golden = json(&fixture(name).join("golden-logits.json"));
    let tokens = numbers(&golden["tokens"], |value| u32::try_from(value.as_u64()?).ok());
    let positions = numbers(&golden["positions"], |value| usize::try_from(value.as_u64()?).ok());
    let model = Model::open(&fixture(name), &OpenOptions::default()).expect("a model");
    let backend = CpuBackend::new(&Workers::new(2).expect("threads"));
    let weights = ModelWeights::new(&model);
    let options = ForwardOptions {
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: 1 << 30,
        spill_folder: std::env::temp_dir(),
    };
    let forward = Forward::new(&backend, &weights, model.metadata(), None, options);
    let forward = forward.expect("a forward pass");
    // The same text twice: each has positions of its own.
    let twice = Chunks::new([&tokens[..], &tokens].concat(), tokens.len());
    let mut stream = forward.stream(twice).expect("a stream");
    while stream.load_next().expect("a layer") {
        stream.advance(&mut |_| Ok(())).expect("a layer");
    }
    let mut states = Vec::new();
    let mut visit = |rows: &[f32]| -> Result<(), Error> {
        states.extend_from_slice(rows);
        Ok(())
    };
    stream.visit_output(&mut visit).expect("hidden states");
    let width = stream.hidden_width();
    let (first, second) = states.split_at(tokens.len() * width);
    assert_eq!(first, second);
    let rows = golden["cases"][0]["logits"].as_array().expect("rows");
    for (position, expected) in positions.iter().zip(rows) {
        let expected = numbers(expected, Value::as_f64);
        let error = relative_error(&states[position * width..][..width], &expected);
        assert!(error <= TOLERANCE, "{name}: relative error {error:e}");
    }
    let plain = forward.run(&Chunks::new(tokens.clone(), tokens.len()), &mut |_| Ok(()));
    let mut result = Vec::new();
    plain.expect("a run").read(0..tokens.len(), &mut result).expect("hidden states");
    assert_eq!(result, first, "{name}");
    let logits = stream.finish();
    assert_eq!(logits.err().expect("refused").diagnosis().rule, "no-logits");
}
