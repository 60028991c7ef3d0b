//! Edits on stored tensors, and on whole models: what scales one tensor and its inverse in
//! those that read it leaves logits as they were.

use std::path::Path;
use std::sync::Arc;

use qz_kernels::backend::Rounding;
use qz_kernels::backend::reference::ReferenceBackend;
use qz_models::forward::{Chunks, ForwardOptions};
use qz_tensor::{DataType, Diagnose, MemorySource, TensorIndex, TensorSource};

use super::*;
use crate::{Model, ModelWeights, OpenOptions};

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * 2];
    let codec = qz_kernels::codec_for(DataType::BF16).expect("a codec");
    codec.encode(values, values.len(), None, &mut bytes);
    bytes
}

/// Tensor 0 with one edit.
fn edited(
    inner: MemorySource,
    result: EditedType,
    edits: Vec<Edit>,
) -> Result<EditedSource, crate::Error> {
    let mut all = Edits::new(result);
    edits.into_iter().for_each(|edit| all.push(TensorIndex(0), edit));
    EditedSource::new(Arc::new(inner), all, &[])
}

fn all_bytes(source: &EditedSource) -> Vec<u8> {
    let mut bytes = vec![0; source.tensors()[0].bytes as usize];
    source.read(TensorIndex(0), 0, &mut bytes).expect("read");
    bytes
}

fn matrix(dimensions: &[u64], values: &[f32]) -> MemorySource {
    MemorySource::new(vec![("w", DataType::F32, dimensions, f32_bytes(values))]).expect("a source")
}

fn operand(dimensions: &[u64], values: &[f32]) -> Operand {
    Operand { source: Arc::new(matrix(dimensions, values)), tensor: TensorIndex(0) }
}

/// Numbers of a tensor, in a source of their own.
fn factor(dimensions: &[u64], values: &[f32], strides: FactorStrides) -> Factor {
    Factor { operand: operand(dimensions, values), strides }
}

const SIX: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

#[test]
fn operations_change_their_rows_and_columns() {
    let check = |dimensions: &[u64], rows, columns, operation, expected: &[f32]| {
        let edit = Edit { rows, columns, operation };
        let source = edited(matrix(dimensions, &SIX), EditedType::AsStored, vec![edit]);
        assert_eq!(all_bytes(&source.expect("edits")), f32_bytes(expected), "{dimensions:?}");
    };
    let rows = |factors: &[f32], offset| Operation::ScaleRows { factors: factors.into(), offset };
    let columns = |factors: &[f32]| Operation::ScaleColumns { factors: factors.into() };
    let second = EditedColumns { first: 1, step: 2, ..EditedColumns::ALL };
    let all = EditedColumns::ALL;
    check(&[2, 3], 0..2, all, rows(&[2.0, 0.5], 0.0), &[2.0, 4.0, 6.0, 2.0, 2.5, 3.0]);
    check(&[2, 3], 1..2, all, rows(&[2.0], 0.0), &[1.0, 2.0, 3.0, 8.0, 10.0, 12.0]);
    check(&[2, 3], 0..2, second, rows(&[2.0, 3.0], 0.0), &[1.0, 4.0, 3.0, 4.0, 15.0, 6.0]);
    check(&[2, 3], 0..2, all, columns(&[1.0, 2.0, 3.0]), &[1.0, 4.0, 9.0, 4.0, 10.0, 18.0]);
    check(&[2, 3], 1..2, second, columns(&[2.0]), &[1.0, 2.0, 3.0, 4.0, 10.0, 6.0]);
    let one = EditedColumns { first: 1, step: 1, count: 1 };
    check(&[2, 3], 0..2, one, rows(&[2.0, 3.0], 0.0), &[1.0, 4.0, 3.0, 4.0, 15.0, 6.0]);
    let other = operand(&[2, 3], &[9.0, 8.0, 7.0, 6.0, 5.0, 4.0]);
    check(&[2, 3], 1..2, all, Operation::Set(other), &[1.0, 2.0, 3.0, 6.0, 5.0, 4.0]);
    let lengths = Operation::SetLengths { lengths: [10.0, 2.5].into() };
    let of_lengths = |expected: &[f32]| {
        let edit = Edit { rows: 0..2, columns: all, operation: lengths.clone() };
        let inner = matrix(&[2, 2], &[3.0, 4.0, 0.0, 5.0]);
        let source = edited(inner, EditedType::AsStored, vec![edit]).expect("edits");
        assert_eq!(all_bytes(&source), f32_bytes(expected));
    };
    of_lengths(&[6.0, 8.0, 0.0, 2.5]);
    // A vector's elements are rows. (w + 1) f − 1.
    check(&[6], 0..2, all, rows(&[2.0, 3.0], 1.0), &[3.0, 8.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn products_of_thin_matrices_are_added() {
    let check = |dimensions: &[u64], rows: Factor, columns: Factor, expected: &[f32]| {
        let added = LowRank { rows, columns, rank: 2, scale: 0.5, is_rounded: false };
        let operation = Operation::AddLowRank(added);
        let edit = Edit { rows: 0..u64::MAX, columns: EditedColumns::ALL, operation };
        let source = edited(matrix(dimensions, &SIX), EditedType::AsStored, vec![edit]);
        assert_eq!(all_bytes(&source.expect("edits")), f32_bytes(expected), "{dimensions:?}");
    };
    // L = [[1, 2], [3, 4]], R = [[2, 0, 4], [0, 2, 4]]: half of L R is [[1, 2, 6], [3, 4, 14]].
    let left = |strides| factor(&[2, 2], &[1.0, 2.0, 3.0, 4.0], strides);
    let right = |strides| factor(&[2, 3], &[2.0, 0.0, 4.0, 0.0, 2.0, 4.0], strides);
    let dense = FactorStrides { first: 0, matrix: 0, item: 2, rank: 1 };
    let across = FactorStrides { item: 1, rank: 3, ..dense };
    check(&[2, 3], left(dense), right(across), &[2.0, 4.0, 9.0, 7.0, 9.0, 20.0]);
    // L's columns are stored as rows.
    let turned =
        factor(&[2, 2], &[1.0, 3.0, 2.0, 4.0], FactorStrides { item: 1, rank: 2, ..dense });
    check(&[2, 3], turned, right(across), &[2.0, 4.0, 9.0, 7.0, 9.0, 20.0]);
    // Two matrices of one row: each has its own R, here of one column of three.
    let left = left(FactorStrides { matrix: 2, ..dense });
    let stacked: Vec<f32> = (0..12).map(|number| number as f32).collect();
    let right = factor(&[2, 2, 3], &stacked, FactorStrides { matrix: 6, ..across });
    check(&[2, 1, 3], left, right, &[4.0, 6.5, 9.0, 31.0, 35.5, 40.0]);
}

#[test]
fn parts_of_a_tensor_are_those_of_the_whole() {
    let operation = Operation::ScaleColumns { factors: [3.0, 5.0, 7.0].into() };
    let edit = Edit { rows: 0..2, columns: EditedColumns::ALL, operation };
    let source = edited(matrix(&[2, 3], &SIX), EditedType::AsStored, vec![edit]).expect("edits");
    let whole = all_bytes(&source);
    for range in [0..4, 2..9, 11..13, 12..24, 23..24, 5..5] {
        let mut part = vec![0; range.len()];
        source.read(TensorIndex(0), range.start as u64, &mut part).expect("read");
        assert_eq!(part, whole[range.clone()], "{range:?}");
    }
}

/// 1 + 2⁻⁸ lies between two bf16 numbers.
#[test]
fn values_are_rounded_once() {
    let scale = |factor: f32| {
        let operation = Operation::ScaleRows { factors: [factor].into(), offset: 0.0 };
        Edit { rows: 0..1, columns: EditedColumns::ALL, operation }
    };
    let between = 1.0 + 1.0 / 256.0;
    let bf16 = || MemorySource::new(vec![("w", DataType::BF16, &[1], bf16_bytes(&[1.0]))]);
    let check = |result, edits, data_type: DataType, expected| {
        let source = edited(bf16().expect("a source"), result, edits).expect("edits");
        let found = &source.tensors()[0];
        assert_eq!((found.data_type, found.bytes), (data_type, data_type.block_bytes() as u64));
        assert_eq!(all_bytes(&source), expected);
    };
    check(EditedType::AsStored, vec![scale(between)], DataType::BF16, bf16_bytes(&[1.0]));
    let twice = vec![scale(between), scale(3.0)];
    check(EditedType::AsStored, twice, DataType::BF16, bf16_bytes(&[3.0 * between]));
    check(EditedType::F32, vec![scale(between)], DataType::F32, f32_bytes(&[between]));
}

#[test]
fn blocks_are_refused_or_decoded() {
    // A Q8_0 block: scale 1, codes 0 to 31.
    let block: Vec<u8> = [0x00, 0x3c].into_iter().chain(0..32).collect();
    let source = || MemorySource::new(vec![("w", DataType::Q8_0, &[1, 32], block.clone())]);
    let edit = || {
        let operation = Operation::ScaleRows { factors: [2.0].into(), offset: 0.0 };
        vec![Edit { rows: 0..1, columns: EditedColumns::ALL, operation }]
    };
    let refused = edited(source().expect("a source"), EditedType::AsStored, edit());
    let error = refused.err().expect("an error");
    assert_eq!(error.diagnosis().rule, "edit-of-blocks");
    for result in [EditedType::AsStoredOrDecoded, EditedType::F32] {
        let source = edited(source().expect("a source"), result, edit()).expect("edits");
        let doubled: Vec<f32> = (0..32).map(|code| 2.0 * code as f32).collect();
        assert_eq!(source.tensors()[0].data_type, DataType::F32);
        assert_eq!(all_bytes(&source), f32_bytes(&doubled));
        assert_eq!(source.location(TensorIndex(0), 31 * 4).offset, Some(0));
    }
}

pub(crate) fn fixture(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny").join(name);
    Model::open(&folder, &OpenOptions::default()).expect("a model")
}

pub(crate) fn logits(model: &Model) -> Vec<f32> {
    let weights = ModelWeights::new(model);
    let options = ForwardOptions {
        rounding: Rounding::Exact,
        cache_type: DataType::F32,
        max_memory: 1 << 30,
        spill_folder: std::env::temp_dir(),
    };
    let forward = model.forward(&ReferenceBackend, &weights, options).expect("a graph");
    let tokens: Vec<u32> = (1..=12).collect();
    let length = tokens.len();
    let end = forward.run(&Chunks::new(tokens, length), &mut |_| Ok(())).expect("a run");
    let mut logits = end.logits().expect("logits");
    let mut values = Vec::new();
    let visit = logits.visit(0..length, |tile| -> Result<(), crate::Error> {
        values.extend_from_slice(&tile.values);
        Ok(())
    });
    visit.expect("logits");
    values
}

/// Where a factor goes: to rows as it is, to columns as its inverse.
type Place = (&'static str, Axis);

const FOLDS_OF_DENSE_LAYERS: &[&[Place]] = &[
    &[
        ("attn_norm.weight", Axis::Rows),
        ("attn_q.weight", Axis::Columns),
        ("attn_k.weight", Axis::Columns),
        ("attn_v.weight", Axis::Columns),
    ],
    &[
        ("ffn_norm.weight", Axis::Rows),
        ("ffn_gate.weight", Axis::Columns),
        ("ffn_up.weight", Axis::Columns),
    ],
    &[("ffn_up.weight", Axis::Rows), ("ffn_down.weight", Axis::Columns)],
];

const FOLDS_OF_FUSED_LAYERS: &[&[Place]] = &[
    &[("attn_norm.weight", Axis::Rows), ("attn_qkv.weight", Axis::Columns)],
    &[("ffn_norm.weight", Axis::Rows), ("ffn_up.weight", Axis::Columns)],
];

const FOLDS_OF_EXPERTS: &[&[Place]] = &[
    &[
        ("ffn_norm.weight", Axis::Rows),
        ("ffn_gate_inp.weight", Axis::Columns),
        ("ffn_gate_exps.weight", Axis::Columns),
        ("ffn_up_exps.weight", Axis::Columns),
    ],
    // Each expert's rows have factors of their own.
    &[("ffn_up_exps.weight", Axis::Rows), ("ffn_down_exps.weight", Axis::Columns)],
];

const FOLDS_OF_GPT_OSS: &[&[Place]] = &[&[
    ("post_attention_norm.weight", Axis::Rows),
    ("ffn_gate_inp.weight", Axis::Columns),
    ("ffn_gate_exps.weight", Axis::Columns),
    ("ffn_up_exps.weight", Axis::Columns),
]];

/// Folds a factor for each channel, which is one of the first place's rows.
fn folded(model: Model, folds: &[&[Place]], result: EditedType, factor: fn(u64) -> f32) -> Model {
    let mut edits = Edits::new(result);
    let layers = model.tensors().iter().filter_map(|tensor| tensor.layer).max();
    for layer in 0..=layers.expect("layers").0 {
        for fold in folds {
            let tensor = |name: &str| {
                let name = format!("blk.{layer}.{name}");
                model.tensors().iter().find(|tensor| *tensor.name == *name)
            };
            let (first, _) = fold[0];
            let (channels, _) = tensor(first).expect("the first tensor").grid();
            let factors: Vec<f32> = (0..channels).map(factor).collect();
            let inverse: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
            for (name, axis) in *fold {
                let tensor = tensor(name).expect("a tensor");
                let factors = if *axis == Axis::Rows { &factors } else { &inverse };
                edits.scale(&model, tensor, *axis, factors).expect("an edit");
            }
        }
    }
    model.edited(edits).expect("edits")
}

pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let length: f64 = expected.iter().copied().map(square).sum();
    (difference / length).sqrt()
}

#[test]
fn folds_leave_logits_as_they_were() {
    let check = |name: &str, folds: &[&[Place]]| {
        let before = logits(&fixture(name));
        let factor = |channel| 0.5 + ((channel * 7) % 11) as f32 / 4.0;
        let after = logits(&folded(fixture(name), folds, EditedType::F32, factor));
        let error = relative_error(&after, &before);
        assert!(error <= 1e-5, "{name}: {error:e}");
        assert_ne!(after, before, "{name}: numbers are other ones in between");
    };
    check("llama-tied", FOLDS_OF_DENSE_LAYERS);
    check("gemma", FOLDS_OF_DENSE_LAYERS);
    check("phi3", FOLDS_OF_FUSED_LAYERS);
    check("mixtral", FOLDS_OF_EXPERTS);
    check("qwen3moe", FOLDS_OF_EXPERTS);
    check("gpt-oss", FOLDS_OF_GPT_OSS);
}

/// Powers of two are exact in every type.
#[test]
fn folded_powers_of_two_change_no_bit_of_the_logits() {
    let factor = |channel| if channel % 3 == 0 { 2.0 } else { 0.25 };
    let model = folded(fixture("llama-tied"), FOLDS_OF_DENSE_LAYERS, EditedType::AsStored, factor);
    assert!(model.tensors().iter().all(|tensor| tensor.source_type != DataType::F32));
    assert_eq!(logits(&model), logits(&fixture("llama-tied")));
}

/// The rows of a head change places on the way to GGUF; its edits do so on the way back.
#[test]
fn rows_of_a_model_are_scaled_where_they_are_stored() {
    let model = fixture("llama-tied");
    let position = |model: &Model| {
        let tensors = model.tensors().iter();
        tensors.clone().position(|tensor| &*tensor.name == "blk.0.attn_q.weight").expect("q")
    };
    let read = |model: &Model| {
        let tensor = &model.tensors()[position(model)];
        let (rows, columns) = tensor.grid();
        let mut bytes = vec![0; rows as usize * tensor.row_bytes(tensor.source_type)];
        model.read_ordered_rows(tensor, 0..rows, &mut bytes).expect("read");
        let mut values = vec![0.0; (rows * columns) as usize];
        qz_kernels::codec_for(tensor.source_type).expect("a codec").decode(&bytes, &mut values);
        (values, columns as usize)
    };
    let (before, columns) = read(&model);
    let rows = before.len() / columns;
    let factors: Vec<f32> = (0..rows).map(|row| row as f32).collect();
    let mut edits = Edits::new(EditedType::F32);
    let tensor = &model.tensors()[position(&model)];
    edits.scale(&model, tensor, Axis::Rows, &factors).expect("an edit");
    let (after, _) = read(&model.edited(edits).expect("edits"));
    for (row, factor) in factors.iter().enumerate() {
        let part = row * columns..(row + 1) * columns;
        let expected: Vec<f32> = before[part.clone()].iter().map(|value| value * factor).collect();
        assert_eq!(after[part], expected, "row {row}");
    }
}

#[test]
fn edits_of_another_size_are_refused() {
    let model = fixture("llama-tied");
    let norm = model.tensors().iter().find(|it| &*it.name == "output_norm.weight").expect("norm");
    let mut edits = Edits::new(EditedType::F32);
    let error = edits.scale(&model, norm, Axis::Rows, &[1.0; 3]).expect_err("another size");
    assert_eq!(error.diagnosis().rule, "uneditable");
    assert!(edits.is_empty());
}

#[test]
fn edits_are_part_of_what_a_model_is() {
    let factor = |factor: f32| {
        let model = fixture("llama-tied");
        let name = "output_norm.weight";
        let norm = model.tensors().iter().find(|tensor| &*tensor.name == name).expect("a norm");
        let mut edits = Edits::new(EditedType::F32);
        let factors = vec![factor; norm.shape.elements() as usize];
        edits.scale(&model, norm, Axis::Rows, &factors).expect("an edit");
        model.edited(edits).expect("edits").identity()
    };
    assert_eq!(factor(2.0), factor(2.0));
    assert_ne!(factor(2.0), factor(3.0));
    let plain = fixture("llama-tied");
    let same = fixture("llama-tied").edited(Edits::new(EditedType::F32)).expect("no edits");
    assert_eq!(plain.identity(), same.identity());
}
