//! Folding changes nothing that a model computes, in any family.

use qz_kernels::backend::Rounding;
use qz_kernels::backend::reference::ReferenceBackend;
use qz_models::forward::{Chunks, ForwardOptions, LinearInputs};
use qz_models::graph::FoldSource;
use qz_models::{LayerIndex, Part, Role};
use qz_tensor::DataType;

use super::*;
use crate::edits::tests::{fixture, logits, relative_error};

/// All folds of a model, with factors that look drawn, and the model with them.
fn folded_all(model: &Model) -> Option<(usize, Model)> {
    let weights = ModelWeights::new(model);
    let options = ForwardOptions {
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: 1 << 30,
        spill_folder: std::env::temp_dir(),
    };
    let forward = model.forward(&ReferenceBackend, &weights, options).ok()?;
    let graph = forward.graph();
    if !graph.predicts_tokens() {
        return None;
    }
    let factor = |channel: usize| 0.3 + ((channel * 7) % 11) as f32 / 3.7;
    let mut folds = Vec::new();
    for (number, layer) in graph.layers.iter().enumerate() {
        for fold in layer.folds() {
            let experts = layer.group(fold.group).experts.filter(|_| fold.of_each_expert);
            let own = |expert: usize| (0..fold.channels).map(|at| factor(at + expert)).collect();
            let factors = (0..experts.unwrap_or(1)).map(own).collect();
            let layer = Some(LayerIndex(number as u32));
            folds.push(Folded { layer, place: FoldPlace::OfLayer(fold), factors });
        }
    }
    if graph.folds_output() && !forward.is_output_tied().ok()? {
        let factors = vec![(0..graph.hidden).map(factor).collect()];
        folds.push(Folded { layer: None, place: FoldPlace::Output, factors });
    }
    let folded = apply::folded(model, &graph.layers, &folds);
    Some((folds.len(), folded.unwrap_or_else(|error| panic!("{error}"))))
}

#[test]
fn every_family_computes_the_same() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny");
    let mut names: Vec<String> = std::fs::read_dir(root)
        .expect("fixtures")
        .map(|entry| entry.expect("a folder").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut tried = 0;
    for name in &names {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny").join(name);
        let Ok(model) = Model::open(&path, &Default::default()) else { continue };
        let Some((count, folded)) = folded_all(&model) else { continue };
        assert_ne!(count, 0, "{name}: what its norms make is read by products");
        tried += 1;
        let (before, after) = (logits(&model), logits(&folded));
        let error = relative_error(&after, &before);
        assert!(error <= 1e-4, "{name}: {error:e} with {count} folds");
        assert_ne!(before, after, "{name}: numbers are other ones in between");
    }
    assert!(tried > 60, "decoders: {tried}");
}

/// Layers that predict further tokens are handed the same by those before them.
#[test]
fn further_layers_compute_the_same() {
    let model = fixture("mimo2");
    let (_, folded) = folded_all(&model).expect("a decoder");
    let handed = |model: &Model| {
        let weights = ModelWeights::new(model);
        let options = ForwardOptions {
            rounding: Rounding::Exact,
            cache_type: DataType::F32,
            max_memory: 1 << 30,
            spill_folder: std::env::temp_dir(),
        };
        let forward = model.forward(&ReferenceBackend, &weights, options).expect("a graph");
        let chunks = Chunks::new((0..40).collect(), 20);
        let (mut stream, mut seen) = (forward.stream(chunks).expect("a stream"), Vec::new());
        while stream.load_next().expect("a layer") {
            let graph = stream.graph();
            let mut visit = |inputs: &LinearInputs<'_, ReferenceBackend>| -> Result<(), Error> {
                let role = graph.group(inputs.group).members[0].role;
                if role == Role::NextTokenProjection {
                    seen.extend_from_slice(inputs.rows);
                }
                Ok(())
            };
            stream.visit_and_advance(&mut visit, &mut |_| Ok(())).expect("a layer");
        }
        seen
    };
    let (before, after) = (handed(&model), handed(&folded));
    assert_eq!(before.len(), 3 * 40 * 64);
    let error = relative_error(&after, &before);
    assert!(error <= 1e-4, "{error:e}");
    assert_ne!(before, after, "numbers are other ones in between");
}

/// Norms stay in the type they are stored in; matrices wait in f32 for a method.
#[test]
fn norms_keep_their_type() {
    let model = fixture("llama-tied");
    let (count, folded) = folded_all(&model).expect("a decoder");
    // Norm, values, norm and up of each layer.
    assert!(count.is_multiple_of(4) && count > 0, "{count}");
    let type_of = |model: &Model, role: Role| {
        let is_it = |tensor: &&crate::model::ModelTensor| {
            tensor.role == Some(role) && tensor.part == Part::Weight
        };
        model.tensors.iter().find(is_it).expect("a tensor").source_type
    };
    for role in [Role::AttentionNorm, Role::OutputNorm, Role::TokenEmbedding] {
        assert_eq!(type_of(&folded, role), type_of(&model, role), "{role:?}");
    }
    assert_eq!(type_of(&folded, Role::AttentionQuery), DataType::F32);
}

#[test]
fn folds_of_values_go_to_all_heads_that_share_them() {
    let model = fixture("llama-tied");
    let weights = ModelWeights::new(&model);
    let options = ForwardOptions {
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: 1 << 30,
        spill_folder: std::env::temp_dir(),
    };
    let forward = model.forward(&ReferenceBackend, &weights, options).expect("a graph");
    let folds = forward.graph().layers[0].folds();
    let of_values = |fold: &&Fold| {
        let FoldSource::Rows { matrix, .. } = fold.source else { return false };
        forward.graph().layers[0].member(matrix).role == Role::AttentionValue
    };
    let fold = folds.iter().find(of_values).expect("a fold of values");
    let columns = forward.graph().layers[0].group(fold.group).columns;
    assert!(columns > fold.channels, "queries share values");
    let mut readers = vec![0; fold.channels];
    (0..columns).for_each(|column| readers[fold.columns.channel(column)] += 1);
    assert!(readers.iter().all(|count| *count == columns / fold.channels), "{readers:?}");
}
