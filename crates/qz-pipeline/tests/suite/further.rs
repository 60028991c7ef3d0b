//! Layers that only predict further tokens: what they multiply, against transformers' layers
//! joined to the model by `fixtures/make/golden_further.py`; and what is made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use qz_calib::{INPUT_CROSS, StatisticsFile};
use qz_kernels::Workers;
use qz_kernels::backend::{CpuBackend, Rounding, Shaped};
use qz_models::Role;
use qz_models::forward::{
    Chunks, Forward, ForwardOptions, LinearInputs, StoredTensor, WeightSource,
};
use qz_models::graph::LayerGraph;
use qz_pipeline::qz_methods::method_named;
use qz_pipeline::{
    CalibrateOptions, Cancel, Error, Event, Model, ModelWeights, Observer, OpenOptions, Output,
    QuantizeOptions, QuantizeReport, Silent, calibrate, quantize,
};
use qz_tensor::{DataType, Location};
use serde_json::{Map, Value, json};

use super::families::{collecting, options};

/// What is recorded of a checkpoint.
#[derive(serde::Deserialize)]
struct Golden {
    /// Layers that are made up.
    made: usize,
    tokens: Vec<u32>,
    positions: Vec<usize>,
    /// Of each layer rows at these positions, by what they are.
    layers: Vec<BTreeMap<String, Vec<Vec<f32>>>>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny").join(name)
}

/// The tensors of a safetensors file, without those of a name's beginning: their entries, and
/// their bytes.
fn tensors(path: &Path, without: &str) -> (Map<String, Value>, Vec<u8>) {
    let file = fs::read(path).expect("weights");
    let size = u64::from_le_bytes(file[..8].try_into().expect("a size")) as usize;
    let mut header: Map<String, Value> =
        serde_json::from_slice(&file[8..8 + size]).expect("a header");
    header.retain(|key, _| key != "__metadata__" && !key.starts_with(without));
    let mut data = Vec::new();
    for entry in header.values_mut() {
        let place = &mut entry["data_offsets"];
        let [start, end]: [usize; 2] = serde_json::from_value(place.clone()).expect("a place");
        let own = &file[8 + size..][start..end];
        *place = json!([data.len(), data.len() + own.len()]);
        data.extend_from_slice(own);
    }
    (header, data)
}

/// A tensor by its name alone, as in `golden_further.py`.
fn made(name: &str, shape: &[usize]) -> Vec<u8> {
    let seed: usize = name.bytes().map(usize::from).sum();
    let number = |index: usize| match shape.len() {
        1 => 0.5 + ((index * 37 + seed) % 64) as f32 / 128.0,
        _ => (((index * 7919 + seed) % 509) as f32 - 254.0) / 2048.0,
    };
    let numbers = (0..shape.iter().product()).map(number);
    numbers.flat_map(|number: f32| [number.to_le_bytes()[2], number.to_le_bytes()[3]]).collect()
}

/// A copy of a checkpoint whose layers behind the last are so many that are made up, like the
/// last.
fn with_made_layers(name: &str, count: usize, folder: &Path) {
    let from = fixture(name);
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(from.join(file), folder.join(file)).expect("copied");
    }
    let config = fs::read(from.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    config["num_nextn_predict_layers"] = json!(count);
    fs::write(folder.join("config.json"), config.to_string()).expect("written");

    let layers = config["num_hidden_layers"].as_u64().expect("layers") as usize;
    let own = format!("model.layers.{layers}.");
    let (mut header, mut data) = tensors(&from.join("model.safetensors"), &own);
    let like = format!("model.layers.{}.", layers - 1);
    let shape = |entry: &Value| serde_json::from_value::<Vec<usize>>(entry["shape"].clone());
    let mut shapes: BTreeMap<String, Vec<usize>> = header
        .iter()
        .filter_map(|(key, entry)| {
            Some((key.strip_prefix(&like)?.to_owned(), shape(entry).expect("a shape")))
        })
        .collect();
    let hidden = shape(&header["model.norm.weight"]).expect("a shape")[0];
    for norm in ["enorm", "hnorm", "shared_head.norm"] {
        shapes.insert(format!("{norm}.weight"), vec![hidden]);
    }
    shapes.insert("eh_proj.weight".to_owned(), vec![hidden, 2 * hidden]);
    for layer in layers..layers + count {
        for (rest, shape) in &shapes {
            let key = format!("model.layers.{layer}.{rest}");
            let bytes = made(&key, shape);
            let place = [data.len(), data.len() + bytes.len()];
            data.extend(bytes);
            let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": place});
            header.insert(key, entry);
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    fs::write(folder.join("model.safetensors"), file).expect("written");
}

/// What a group's inputs are called in a record.
fn kind(graph: &LayerGraph, group: qz_models::graph::GroupIndex) -> Option<&'static str> {
    let own = graph.group(group);
    match own.members[0].role {
        Role::NextTokenProjection => Some("joined"),
        Role::AttentionQuery | Role::AttentionQueryKeyValue | Role::LatentQuery => {
            Some("attention")
        }
        Role::AttentionOutput => Some("attended"),
        Role::ExpertRouter => Some("fed"),
        Role::FeedForwardGate if own.experts.is_none() => Some("fed"),
        _ => None,
    }
}

fn check(name: &str) {
    let golden = fs::read(fixture(name).join("golden-further.json")).expect("a record");
    let golden: Golden = serde_json::from_slice(&golden).expect("a record");
    let scratch = tempfile::tempdir().expect("a folder");
    let folder = match golden.made {
        0 => fixture(name),
        count => {
            with_made_layers(name, count, scratch.path());
            scratch.path().to_owned()
        }
    };
    let model = Model::open(&folder, &OpenOptions::default()).expect("a model");
    let backend = CpuBackend::new(&Workers::new(2).expect("threads"));
    let weights = ModelWeights::new(&model);
    // With and without room for hidden states in memory.
    for max_memory in [0, 1 << 30] {
        let options = ForwardOptions {
            rounding: Rounding::Exact,
            cache_type: DataType::F32,
            max_memory,
            spill_folder: std::env::temp_dir(),
        };
        let window = model.sliding_window();
        let forward = Forward::new(&backend, &weights, model.metadata(), window, options);
        let forward = forward.expect("a forward pass");
        let first = forward.graph().layers_to_output();
        assert_eq!(forward.graph().layer_count() as usize, first as usize + golden.layers.len());
        // The chunk's own first tokens follow its last, whatever is beside it.
        let length = golden.tokens.len();
        let tokens = [&golden.tokens[..], &vec![7; length]].concat();
        let mut stream = forward.stream(Chunks::new(tokens, length)).expect("a stream");
        while stream.load_next().expect("a layer") {
            let (layer, graph) = (stream.layer().0, stream.graph());
            assert_eq!(graph.is_further(), layer >= first);
            let mut seen = BTreeMap::new();
            let mut visit = |inputs: &LinearInputs<'_, CpuBackend>| -> Result<(), Error> {
                let rows = inputs.rows.chunks_exact(inputs.rows.columns()).map(<[f32]>::to_vec);
                if let Some(kind) = kind(graph, inputs.group).filter(|_| inputs.token(0) == 0) {
                    seen.insert(kind.to_owned(), rows.collect::<Vec<_>>());
                }
                Ok(())
            };
            stream.visit_and_advance(&mut visit, &mut |_| Ok(())).expect("a layer");
            let Some(depth) = layer.checked_sub(first) else { continue };
            let expected = &golden.layers[depth as usize];
            assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (kind, rows) in expected {
                for (position, row) in golden.positions.iter().zip(rows) {
                    let found = &seen[kind][*position];
                    assert_eq!(found.len(), row.len(), "{name}, {depth}, {kind}");
                    let size = row.iter().fold(1.0, |size: f32, own| size.max(own.abs()));
                    let apart = found.iter().zip(row).map(|(one, other)| (one - other).abs());
                    let most = apart.fold(0.0, f32::max);
                    assert!(most <= 1e-4 * size, "{name}, {depth}, {kind}, {position}: {most}");
                }
            }
        }
    }
}

#[test]
fn what_they_multiply_is_what_the_published_layers_do() {
    for name in [
        "qwen35",
        "qwen35moe",
        "qwen3next",
        "glm4moe",
        "glm4flash",
        "bailingmoe2",
        "cohere2moe",
        "mimo2",
    ] {
        check(name);
    }
}

/// A model without the tensors of layers that only predict further tokens.
struct Without<'a>(ModelWeights<'a>);

impl WeightSource for Without<'_> {
    type Error = Error;

    fn find(&self, name: &str) -> Option<StoredTensor> {
        self.0.find(name).filter(|_| !name.contains("nextn"))
    }

    fn read(&self, name: &str, rows: std::ops::Range<u64>, out: &mut [u8]) -> Result<(), Error> {
        self.0.read(name, rows, out)
    }

    fn location(&self, name: &str) -> Location {
        self.0.location(name)
    }
}

/// Files count such layers also where these are in another file.
#[test]
fn layers_that_are_counted_and_not_there_are_not_computed() {
    let model = Model::open(&fixture("qwen35"), &OpenOptions::default()).expect("a model");
    let backend = CpuBackend::new(&Workers::new(1).expect("threads"));
    let options = ForwardOptions {
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: 1 << 30,
        spill_folder: std::env::temp_dir(),
    };
    let source = Without(ModelWeights::new(&model));
    let forward = Forward::new(&backend, &source, model.metadata(), None, options);
    assert_eq!(forward.expect("a forward pass").graph().layer_count(), 2);
}

/// Collects warnings.
#[derive(Default)]
struct Warnings(Vec<String>);

impl Observer for Warnings {
    fn observe(&mut self, event: Event<'_>) {
        if let Event::Warning(warning) = event {
            self.0.push(warning.to_owned());
        }
    }
}

fn opened(name: &str, drops_further_layers: bool) -> Model {
    let open = OpenOptions { drops_further_layers, ..OpenOptions::default() };
    Model::open(&fixture(name), &open).expect("a model")
}

fn quantized(
    model: &Model,
    output: PathBuf,
    options: &QuantizeOptions,
) -> (QuantizeReport, Vec<String>) {
    let output = Output { target: "gguf:q4_0".parse().expect("a target"), path: output };
    let mut warnings = Warnings::default();
    let outputs = std::slice::from_ref(&output);
    let reports = quantize(model, outputs, options, &Cancel::default(), &mut warnings);
    (reports.expect("a file").remove(0), warnings.0)
}

/// What such a layer takes of memory is told before.
#[test]
fn they_are_counted_in_the_memory_that_a_run_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let bound = |drops: bool| {
        let output = folder.path().join(format!("{drops}.gguf"));
        let (report, warnings) = quantized(&opened("glm4moe", drops), output, &options(None));
        assert!(!warnings.iter().any(|warning| warning.contains("predict")), "{warnings:?}");
        report.memory_bound_bytes
    };
    assert!(bound(false) > bound(true));
}

/// A family of which files do not say enough: its layer is rounded, and named.
#[test]
fn what_is_not_known_is_rounded_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let statistics = folder.path().join("statistics.gguf");
    let collect = collected(false);
    let (cancel, path) = (Cancel::default(), fixture("exaone-moe"));
    let calibration = calibrate(&path, &statistics, &collect, &cancel, &mut Silent);
    let warnings = calibration.expect("statistics").warnings;
    let is_told = |warnings: &[String]| {
        let said = |own: &String| own.contains("blk.2 only predict") && own.contains("exaone-moe");
        warnings.iter().any(said)
    };
    assert!(is_told(&warnings), "{warnings:?}");
    let output = folder.path().join("out.gguf");
    let (report, warnings) = quantized(&opened("exaone-moe", false), output, &options(None));
    assert!(is_told(&warnings), "{warnings:?}");
    assert!(!report.methods.iter().any(|own| own.tensor.starts_with("blk.2.")));
}

/// Statistics of programs that do not run such layers, as those of llama-imatrix are.
#[test]
fn statistics_without_them_leave_them_to_rounding() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = opened("qwen35", false);
    for (drops, is_seen) in [(true, false), (false, true)] {
        let statistics = folder.path().join(format!("{drops}.statistics.gguf"));
        let (cancel, path) = (Cancel::default(), fixture("qwen35"));
        let collect = collected(drops);
        calibrate(&path, &statistics, &collect, &cancel, &mut Silent).expect("statistics");
        for method in ["gptq", "imatrix"] {
            let options = QuantizeOptions {
                method: method_named(method).expect("a method"),
                ..options(Some(statistics.clone()))
            };
            let output = folder.path().join(format!("{drops}.{method}.gguf"));
            let (report, warnings) = quantized(&model, output, &options);
            let is_told = warnings.iter().any(|warning| warning.contains("blk.2 only predict"));
            assert_eq!(is_told, !is_seen, "{warnings:?}");
            let is_further = |name: &str| name == "blk.2.nextn.eh_proj.weight";
            let found = report.methods.iter().any(|own| is_further(&own.tensor));
            assert_eq!(found, is_seen, "{method}");
        }
    }
}

/// What a quantized model lacks is told of these layers, too, and experts that saw few tokens
/// lack nothing.
#[test]
fn what_a_quantized_model_lacks_goes_through_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let model = opened("glm4moe", false);
    quantized(&model, at("first.gguf"), &options(None));
    let collect = CalibrateOptions { beside: Some(at("first.gguf")), ..collected(false) };
    let (path, statistics, cancel) = (fixture("glm4moe"), at("s.gguf"), Cancel::default());
    calibrate(&path, &statistics, &collect, &cancel, &mut Silent).expect("statistics");
    let file = StatisticsFile::open(&statistics).expect("statistics");
    let lacks = |name: &str, columns: usize| {
        let entry = file.cross(name, INPUT_CROSS, (columns, columns)).expect("sums");
        let entry = entry.unwrap_or_else(|| panic!("{name}"));
        let is_told = |expert: usize| {
            let sums = file.read_cross(entry, expert).expect("sums");
            sums.iter().any(|sum| *sum != 0.0)
        };
        (0..entry.experts).map(is_told).collect::<Vec<_>>()
    };
    assert_eq!(lacks("blk.2.nextn.eh_proj.weight", 64), [true]);
    assert_eq!(lacks("blk.2.attn_q.weight", 32), [true]);
    let experts = lacks("blk.2.ffn_gate_exps.weight", 32);
    assert!(experts.contains(&true) && experts.contains(&false), "{experts:?}");
    let (report, _) = quantized(&model, at("second.gguf"), &options(Some(statistics)));
    assert!(report.methods.iter().any(|own| own.tensor == "blk.2.nextn.eh_proj.weight"));
}

fn collected(drops_further_layers: bool) -> CalibrateOptions {
    let open = OpenOptions { drops_further_layers, ..OpenOptions::default() };
    CalibrateOptions { open, ..collecting() }
}
