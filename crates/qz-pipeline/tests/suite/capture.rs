//! The layer-by-layer run with stops: what it shows, and that it computes what the plain
//! run does.

use std::collections::BTreeMap;
use std::path::Path;

use qz_kernels::Workers;
use qz_kernels::backend::{CpuBackend, Rounding, Shaped};
use qz_models::Role;
use qz_models::forward::{
    Chunks, Forward, ForwardOptions, LayerStream, LinearInputs, Logits, Routing,
};
use qz_models::graph::{GroupIndex, Stage};
use qz_pipeline::{Error, Model, ModelWeights, OpenOptions};
use qz_tensor::DataType;

type Stream<'a> = LayerStream<'a, CpuBackend, ModelWeights<'a>>;

/// Layer, group, expert: numbers of all rows, with each row's token and weight.
type Seen = BTreeMap<(u32, GroupIndex, Option<usize>), Vec<(usize, f32, Vec<f32>)>>;

const LENGTH: usize = 12;
const COUNT: usize = 5;

fn chunks() -> Chunks {
    Chunks::new((0..(LENGTH * COUNT) as u32).map(|i| i * 7 % 250).collect(), LENGTH)
}

fn with<T>(
    name: &str,
    memory: u64,
    work: impl FnOnce(&Forward<'_, CpuBackend, ModelWeights<'_>>) -> T,
) -> T {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny").join(name);
    let model = Model::open(&folder, &OpenOptions::default()).expect("a model");
    let backend = CpuBackend::new(&Workers::new(2).expect("threads"));
    let weights = ModelWeights::new(&model);
    let options = ForwardOptions {
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: memory,
        spill_folder: std::env::temp_dir(),
    };
    let window = model.sliding_window();
    let forward = Forward::new(&backend, &weights, model.metadata(), window, options);
    work(&forward.expect("a forward pass"))
}

fn numbers(mut logits: Logits<'_, CpuBackend, ModelWeights<'_>>) -> Vec<f32> {
    let mut all = Vec::new();
    let take = |tile: &qz_models::forward::LogitsTile| {
        all.extend_from_slice(&tile.values);
        Ok(())
    };
    logits.visit(0..LENGTH, take).expect("logits");
    all
}

fn plain(name: &str) -> Vec<f32> {
    with(name, 1 << 30, |forward| {
        let end = forward.run(&chunks(), &mut |_| Ok(())).expect("a run");
        numbers(end.logits().expect("logits"))
    })
}

fn note(seen: &mut Seen, inputs: &LinearInputs<'_, CpuBackend>) {
    let rows = seen.entry((inputs.layer.0, inputs.group, inputs.expert)).or_default();
    for (row, numbers) in inputs.rows.chunks_exact(inputs.rows.columns()).enumerate() {
        rows.push((inputs.token(row), inputs.weight(row), numbers.to_vec()));
    }
}

/// Everything that is seen in one go, and the logits.
fn in_one_go(name: &str, memory: u64, routing: Routing) -> (Seen, Vec<f32>) {
    with(name, memory, |forward| {
        let mut seen = Seen::new();
        let mut stream = forward.stream(chunks()).expect("a stream");
        stream.set_routing(routing);
        while stream.load_next().expect("a layer") {
            let mut visit = |inputs: &LinearInputs<'_, CpuBackend>| -> Result<(), Error> {
                note(&mut seen, inputs);
                Ok(())
            };
            stream.visit_and_advance(&mut visit, &mut |_| Ok(())).expect("a layer");
        }
        (seen, numbers(stream.finish().expect("logits")))
    })
}

/// The same, stage by stage, with `between` after each stage.
fn in_stages(
    name: &str,
    memory: u64,
    between: impl Fn(&mut Stream<'_>, Stage),
) -> (Seen, Vec<f32>) {
    with(name, memory, |forward| {
        let mut seen = Seen::new();
        let mut stream = forward.stream(chunks()).expect("a stream");
        while stream.load_next().expect("a layer") {
            for stage in stream.graph().stages() {
                let mut visit = |inputs: &LinearInputs<'_, CpuBackend>| -> Result<(), Error> {
                    note(&mut seen, inputs);
                    Ok(())
                };
                stream.visit(stage, &mut visit).expect("a stage");
                between(&mut stream, stage);
            }
            stream.advance(&mut |_| Ok(())).expect("a layer");
        }
        (seen, numbers(stream.finish().expect("logits")))
    })
}

/// Gives every matrix of a stage the weights that it has, times `scale`.
fn replace(stream: &mut Stream<'_>, stage: Stage, scale: f32) {
    let graph = stream.graph();
    for (index, group) in graph.numbered().filter(|(_, group)| group.stage == stage) {
        for matrix in graph.matrices(index) {
            for expert in 0..group.experts.unwrap_or(1) {
                let expert = group.experts.map(|_| expert);
                let weights = stream.weights(matrix, expert).expect("weights");
                let bytes = weights.iter().flat_map(|weight| (weight * scale).to_le_bytes());
                stream.replace(matrix, expert, DataType::F32, bytes.collect()).expect("replaced");
            }
        }
    }
}

/// The group of a matrix in a model's first layer.
fn group_of(name: &str, role: Role) -> GroupIndex {
    with(name, 1 << 30, |forward| {
        let mut groups = forward.graph().layers[0].numbered();
        let has = |group: &qz_models::graph::LinearGroup| {
            group.members.iter().any(|member| member.role == role)
        };
        groups.find(|(_, group)| has(group)).expect("the matrix").0
    })
}

const MODELS: &[&str] = &[
    "llama-tied",
    "qwen2",
    "qwen3",
    "mixtral",
    "gemma2",
    "gemma3",
    "gemma4",
    "gemma4-experts",
    "gemma3n",
    "phi3",
    "gpt-oss",
    "qwen2moe",
    "qwen3moe",
    "deepseek2",
    "deepseek3",
    "mamba2",
    "qwen35",
    "qwen3next",
    "dots1",
    "glm4moe",
    "glm4flash",
    "granitemoe-shared",
    "hunyuan-moe",
    "cohere2moe",
    "llama4",
    "lfm2moe",
    "falcon-mamba",
    "nemotron-h-experts",
    "nemotron-h-latent",
    "granite-hybrid",
    "phimoe",
    "falcon-h1",
    "mistral4",
    "kimi-linear",
    "mimo2",
    "smollm3",
    "apertus",
    "openelm",
    "granite",
    "minicpm3",
    "olmo3",
    "hunyuan-dense",
    "cohere2",
    "stablelm-parallel",
    "gptneox",
    "gpt2",
    "falcon-groups",
];

#[test]
fn stops_change_nothing() {
    for name in MODELS {
        let expected = plain(name);
        let (all, logits) = in_one_go(name, 1 << 30, Routing::Chosen);
        assert_eq!(logits, expected, "{name}");
        for memory in [0, 1 << 30] {
            let (seen, logits) = in_stages(name, memory, |_, _| {});
            assert_eq!(logits, expected, "{name} in {memory} bytes");
            assert_eq!(seen, all, "{name} in {memory} bytes");
            let (_, logits) = in_stages(name, memory, |stream, stage| replace(stream, stage, 1.0));
            assert_eq!(logits, expected, "{name} with its own weights");
        }
    }
}

#[test]
fn every_token_is_seen_at_every_group() {
    let check = |name: &str, groups: usize| {
        let (seen, _) = in_one_go(name, 1 << 30, Routing::Chosen);
        let layers = seen.keys().map(|key| key.0).max().expect("layers") + 1;
        assert_eq!(seen.len(), layers as usize * groups);
        for ((_, group, expert), rows) in &seen {
            assert!(group.0 < groups && expert.is_none());
            let tokens: Vec<usize> = rows.iter().map(|row| row.0).collect();
            assert!(tokens.into_iter().eq(0..LENGTH * COUNT), "{name}, {group:?}");
            assert!(rows.iter().all(|row| row.1 == 1.0));
        }
    };
    check("llama-tied", 4);
    check("qwen2", 4);
}

#[test]
fn experts_see_the_tokens_they_were_given() {
    let (seen, logits) = in_one_go("mixtral", 1 << 30, Routing::Chosen);
    let (everyone, same) = in_one_go("mixtral", 1 << 30, Routing::All);
    assert_eq!(logits, same);
    let gate = group_of("mixtral", Role::FeedForwardGate);
    let mut given = 0;
    for ((layer, group, expert), rows) in &everyone {
        if expert.is_none() {
            assert_eq!(seen[&(*layer, *group, *expert)], *rows);
            continue;
        }
        assert_eq!(rows.len(), LENGTH * COUNT);
        let own: Vec<_> = rows.iter().filter(|row| row.1 > 0.0).cloned().collect();
        let expected = seen.get(&(*layer, *group, *expert)).cloned().unwrap_or_default();
        assert_eq!(own.len(), expected.len());
        for (own, expected) in own.iter().zip(&expected) {
            assert_eq!((own.0, own.1), (expected.0, expected.1));
            let near = own.2.iter().zip(&expected.2).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near, "layer {layer}, {group:?}, expert {expert:?}");
        }
        given += if *group == gate { own.len() } else { 0 };
    }
    let layers = seen.keys().map(|key| key.0).max().expect("layers") as usize + 1;
    // Two experts for each token.
    assert_eq!(given, layers * 2 * LENGTH * COUNT);
}

#[test]
fn later_stages_see_replaced_weights() {
    let (plain, _) = in_one_go("llama-tied", 1 << 30, Routing::Chosen);
    let (seen, _) = in_stages("llama-tied", 1 << 30, |stream, stage| {
        if stage == Stage(0) && stream.layer().0 == 0 {
            replace(stream, stage, 2.0);
        }
    });
    let rows = |seen: &Seen, group| seen[&(0, group, None)].clone();
    let of_role = |role| group_of("llama-tied", role);
    let query = of_role(Role::AttentionQuery);
    assert_eq!(rows(&seen, query), rows(&plain, query));
    // Values of twice the size, and sharper attention: where a token sees only itself,
    // the latter makes no difference.
    let output = of_role(Role::AttentionOutput);
    let (before, after) = (rows(&plain, output), rows(&seen, output));
    for chunk in 0..COUNT {
        let (before, after) = (&before[chunk * LENGTH].2, &after[chunk * LENGTH].2);
        let doubled: Vec<f32> = before.iter().map(|number| number * 2.0).collect();
        assert_eq!(*after, doubled);
    }
    let gate = of_role(Role::FeedForwardGate);
    assert_ne!(rows(&seen, gate), rows(&plain, gate));
}

#[test]
fn a_visitors_error_ends_the_run() {
    with("mixtral", 1 << 30, |forward| {
        let mut stream = forward.stream(chunks()).expect("a stream");
        assert!(stream.load_next().expect("a layer"));
        let mut calls = 0;
        let mut visit = |_: &LinearInputs<'_, CpuBackend>| {
            calls += 1;
            if calls == 3 { Err(Error::Interrupted) } else { Ok(()) }
        };
        let last = stream.graph().stages().last().expect("stages");
        let result = stream.visit(last, &mut visit);
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(calls, 3);
    });
}

/// What products are added up to is the same for a stream that stops there and for one that
/// goes past it; both end where the plain run does.
#[test]
fn results_are_those_of_the_run() {
    for name in ["llama-tied", "qwen2", "qwen3", "mixtral", "qwen3moe"] {
        let expected = plain(name);
        for memory in [0, 1 << 30] {
            with(name, memory, |forward| {
                let [mut stopping, mut passing] =
                    [(); 2].map(|()| forward.stream(chunks()).expect("a stream"));
                while stopping.load_next().expect("a layer") {
                    passing.load_next().expect("a layer");
                    let groups = stopping.graph().numbered().filter(|(_, group)| group.is_added);
                    let added: Vec<GroupIndex> = groups.map(|(index, _)| index).collect();
                    assert_eq!(added.len(), 2);
                    for (group, batch) in
                        added.into_iter().flat_map(|group| (0..2).map(move |batch| (group, batch)))
                    {
                        if batch >= stopping.batches() {
                            continue;
                        }
                        let mut shown = Vec::new();
                        let mut visit =
                            |inputs: &LinearInputs<'_, CpuBackend>| -> Result<(), Error> {
                                let rows = 0..inputs.count();
                                shown.extend(rows.map(|row| (inputs.group, inputs.token(row))));
                                Ok(())
                            };
                        let results = stopping.visit_results(group, batch, &mut visit);
                        let results = results.expect("results");
                        let width = stopping.hidden_width();
                        // A token is shown once, or to each of its experts.
                        shown.sort_unstable();
                        shown.dedup();
                        let tokens = stopping.tokens_of(batch);
                        assert_eq!((results.rows(), results.columns()), (tokens.len(), width));
                        assert!(shown.into_iter().eq(tokens.map(|token| (group, token))));
                        let passed = passing.pass_results(group, batch).expect("results");
                        assert_eq!(results, passed, "{name}, {group:?}");
                    }
                    stopping.advance(&mut |_| Ok(())).expect("a layer");
                    passing.advance(&mut |_| Ok(())).expect("a layer");
                }
                for stream in [stopping, passing] {
                    assert_eq!(numbers(stream.finish().expect("logits")), expected, "{name}");
                }
            });
        }
    }
}
