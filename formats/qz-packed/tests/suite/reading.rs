//! Checkpoints of others, and broken ones.

use std::path::Path;

use qz_codec::number::{f16_from_f32, f32_from_f16};
use qz_packed::{PackedSource, Repack};
use qz_tensor::{DataType, Diagnose, MemorySource, MemoryTensor, TensorIndex, TensorSource};
use serde_json::{Value, json};

type Tensors = Vec<MemoryTensor<'static>>;

fn open(
    tensors: Tensors,
    config: &Value,
    repack: Repack,
) -> Result<PackedSource, qz_packed::Error> {
    let Value::Object(config) = config else { panic!("an object") };
    let source = MemorySource::new(tensors).expect("sizes");
    PackedSource::open_as(Box::new(source), config, Path::new("config.json"), repack)
}

/// The weights of the only packed matrix.
fn weights(source: &PackedSource) -> Vec<f32> {
    let position = source.tensors().iter().position(|info| info.name == "m.weight");
    let index = TensorIndex(position.expect("the matrix"));
    let info = &source.tensors()[index.0];
    let mut bytes = vec![0; info.bytes as usize];
    source.read(index, 0, &mut bytes).expect("in memory");
    let codec = qz_codec::codec_for(info.data_type).expect("a codec");
    let mut weights = vec![0.0; info.shape.elements() as usize];
    codec.decode(&bytes, &mut weights);
    weights
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| f16_from_f32(*value).to_le_bytes()).collect()
}

const INPUTS: usize = 64;
const OUTPUTS: usize = 8;

/// Code of an input and an output.
fn code(input: usize, output: usize) -> u32 {
    ((input * 7 + output * 3) % 16) as u32
}

/// Words of four bits down the inputs.
fn qweight() -> Vec<u8> {
    let word = |row: usize, output: usize| {
        (0..8).fold(0, |word, field| word | code(row * 8 + field, output) << (4 * field))
    };
    let rows = (0..INPUTS / 8).flat_map(|row| (0..OUTPUTS).map(move |output| word(row, output)));
    words(&rows.collect::<Vec<_>>())
}

fn scale(group: usize, output: usize) -> f32 {
    let magnitude = 0.11 * (1 + group) as f32 + 0.07 * output as f32;
    let magnitude = f32_from_f16(f16_from_f32(magnitude));
    // auto-round writes scales below zero.
    if output == 2 { -magnitude } else { magnitude }
}

/// A GPTQ matrix with two groups; `index` says which group an input is of.
fn gptq(index: Option<&[i32]>, zeros: [u32; 2]) -> Tensors {
    let scales: Vec<f32> =
        (0..2).flat_map(|group| (0..OUTPUTS).map(move |output| scale(group, output))).collect();
    let mut tensors = vec![
        ("m.qweight", DataType::I32, &[8, 8][..], qweight()),
        ("m.qzeros", DataType::I32, &[2, 1][..], words(&zeros)),
        ("m.scales", DataType::F16, &[2, 8][..], halves(&scales)),
        ("norm.weight", DataType::F16, &[8][..], halves(&[1.0; 8])),
    ];
    if let Some(index) = index {
        let bytes = index.iter().flat_map(|group| group.to_le_bytes()).collect();
        tensors.push(("m.g_idx", DataType::I32, &[64][..], bytes));
    }
    tensors
}

fn config(format: &str) -> Value {
    json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": format})
}

fn expected(group: impl Fn(usize) -> usize, zero: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let weight = |output: usize, input: usize| {
        let group = group(input);
        (code(input, output) as f32 - zero(group, output)) * scale(group, output)
    };
    (0..OUTPUTS)
        .flat_map(|output| (0..INPUTS).map(|input| weight(output, input)).collect::<Vec<_>>())
        .collect()
}

#[test]
fn versions_differ_by_one() {
    let middle = expected(|input| input / 32, |_, _| 8.0);
    let check = |format: &str, zeros: u32, expected: &[f32]| {
        let source = open(gptq(None, [zeros; 2]), &config(format), Repack::Exact).expect("opens");
        assert_eq!(source.tensors()[0].data_type, DataType::Q4_0, "{format}");
        assert_eq!(weights(&source), expected, "{format}");
        assert!(source.tensors().iter().any(|info| info.name == "norm.weight"));
        assert_eq!(source.tensors().len(), 2);
    };
    check("gptq", 0x7777_7777, &middle);
    check("gptq_v2", 0x8888_8888, &middle);
}

#[test]
fn a_zero_of_v1_is_brought_back_from_the_borrow() {
    // Zero points 0, 1, ..., 7, stored by a subtraction of the whole word.
    let stored = 0x7654_3210u32.wrapping_sub(0x1111_1111);
    let source = open(gptq(None, [stored; 2]), &config("gptq"), Repack::Exact).expect("opens");
    assert_eq!(source.tensors()[0].data_type, DataType::F32);
    assert_eq!(weights(&source), expected(|input| input / 32, |_, output| output as f32));
}

#[test]
fn inputs_may_be_of_any_group() {
    let permuted: Vec<i32> = (0..INPUTS as i32).map(|input| (input * 5 / 3) % 2).collect();
    let zeros = [0x7777_7777; 2];
    let source = open(gptq(Some(&permuted), zeros), &config("gptq"), Repack::Exact).expect("opens");
    // No block has two scales.
    assert_eq!(source.tensors()[0].data_type, DataType::F32);
    assert_eq!(weights(&source), expected(|input| permuted[input] as usize, |_, _| 8.0));
    let in_order: Vec<i32> = (0..INPUTS as i32).map(|input| input / 32).collect();
    let source = open(gptq(Some(&in_order), zeros), &config("gptq"), Repack::Exact).expect("opens");
    assert_eq!(source.tensors()[0].data_type, DataType::Q4_0);
}

/// Four bits with zero points, in the nearest blocks: codes are kept, values move by
/// what the offset's rounding moves them.
#[test]
fn zero_points_go_into_offsets() {
    let stored = [0x7654_3210u32; 2];
    let exact = open(gptq(None, stored), &config("gptq_v2"), Repack::Exact).expect("opens");
    let nearest = open(gptq(None, stored), &config("gptq_v2"), Repack::Nearest).expect("opens");
    assert_eq!(nearest.tensors()[0].data_type, DataType::Q4_1);
    let (_, steps) = nearest.rounded();
    assert!(steps < 0.01, "{steps}");
    for (position, (a, b)) in weights(&exact).iter().zip(weights(&nearest)).enumerate() {
        let scale = scale(position % INPUTS / 32, position / INPUTS).abs();
        assert!((a - b).abs() <= steps as f32 * scale * 1.001 + 1e-6, "{position}: {a} {b}");
    }
}

#[test]
fn what_is_broken_is_told() {
    let check = |source: Tensors, config: Value, rule: &str, expected: &str| {
        let Err(error) = open(source, &config, Repack::Exact) else { panic!("opened: {expected}") };
        assert_eq!(error.diagnosis().rule, rule, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let sound = || gptq(None, [0x7777_7777; 2]);
    let config = || config("gptq");
    let without = |name: &str| {
        let mut source = sound();
        source.retain(|tensor| tensor.0 != name);
        source
    };
    check(without("m.scales"), config(), "missing-part", "m: has no tensor `scales`");
    check(without("m.qzeros"), config(), "missing-part", "m: has no tensor `qzeros`");
    let mut wrong = sound();
    wrong[1].2 = &[1, 2];
    check(
        wrong,
        config(),
        "part-mismatch",
        "m.qzeros: at byte 0: is I32 [1, 2], expected I32 [2, 1]",
    );
    let mut wrong = sound();
    wrong[2].1 = DataType::I16;
    check(wrong, config(), "part-mismatch", "is I16, expected F16, BF16 or F32");
    let mut index = [0; INPUTS];
    index[9] = 2;
    check(
        gptq(Some(&index), [0; 2]),
        config(),
        "group-index",
        "column 9 is of group 2, there are 2",
    );
    index[9] = -1;
    check(gptq(Some(&index), [0; 2]), config(), "group-index", "column 9 is of group -1");
    let with = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        config
    };
    check(
        sound(),
        with("quant_method", json!("x")),
        "unknown-quantization",
        "by x are not supported",
    );
    check(sound(), with("checkpoint_format", json!("marlin")), "quantization-config", "marlin");
    check(sound(), with("bits", json!(5)), "quantization-config", "codes of 5 bits");
    check(sound(), json!({"quant_method": "gptq"}), "quantization-config", "bits: is missing");
    let mut twice = sound();
    twice.push(("m.weight", DataType::F16, &[8], vec![0; 16]));
    check(twice, config(), "packed-and-plain", "both packed and plain");
}
