//! Bytes and decoded values against `golden/encodings.txt`, which llama.cpp's own
//! library wrote (see `golden/make.py`).

#[allow(dead_code, reason = "shared with other programs")]
#[path = "../golden/inputs.rs"]
mod inputs;

use qz_codec::{CODECS, Codec, codec_for};
use qz_tensor::DataType;

/// The bytes of a case on which the reference ended the process. Ours have to be
/// known for useless.
const ABORTS: &str = "aborts";

/// A line of the golden file.
struct Golden<'a> {
    codec: &'static dyn Codec,
    weights: Vec<f32>,
    importance: Option<Vec<f32>>,
    columns: usize,
    bytes: &'a str,
    digest: &'a str,
}

fn parse(line: &str) -> Golden<'_> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [name, kind, importance, seed, rows, columns, bytes, digest] = fields[..] else {
        panic!("eight fields: {line}")
    };
    let seed: u64 = seed.parse().expect("a seed");
    let rows: usize = rows.parse().expect("a count");
    let columns: usize = columns.parse().expect("a count");
    let weights = inputs::find(inputs::WEIGHTS, kind).expect("a kind of weights");
    Golden {
        codec: DataType::from_name(name).and_then(codec_for).expect("a codec"),
        weights: inputs::values(weights, seed, rows * columns),
        importance: inputs::find(inputs::IMPORTANCE, importance)
            .map(|kind| inputs::values(kind, seed + 1, columns)),
        columns,
        bytes,
        digest,
    }
}

fn goldens() -> impl Iterator<Item = (&'static str, Golden<'static>)> {
    let lines = include_str!("../golden/encodings.txt").lines();
    let label = |line: &'static str| line.split_at(line.len().min(60)).0;
    lines.filter(|line| !line.starts_with('#')).map(move |line| (label(line), parse(line)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().as_chunks::<2>().0.iter();
    digits
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("digits");
            u8::from_str_radix(pair, 16).expect("digits")
        })
        .collect()
}

/// 64-bit FNV-1a over the values' little-endian bytes.
fn digest(values: &[f32]) -> String {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[test]
fn encodes_the_reference_bytes() {
    for (label, golden) in goldens() {
        let data_type = golden.codec.spec().data_type;
        let blocks = golden.weights.len() / data_type.block_elements();
        let mut bytes = vec![0xa5; blocks * data_type.block_bytes()];
        golden.codec.encode(
            &golden.weights,
            golden.columns,
            golden.importance.as_deref(),
            &mut bytes,
        );
        if golden.bytes == ABORTS {
            assert!(golden.codec.first_non_finite_block(&bytes).is_some(), "{label}");
        } else {
            assert_eq!(hex(&bytes), golden.bytes, "{label}");
        }
    }
}

#[test]
fn decodes_the_reference_values() {
    for (label, golden) in goldens().filter(|(_, golden)| golden.bytes != ABORTS) {
        let mut values = vec![f32::NAN; golden.weights.len()];
        golden.codec.decode(&from_hex(golden.bytes), &mut values);
        assert_eq!(digest(&values), golden.digest, "{label}");
    }
}

#[test]
fn every_codec_has_goldens() {
    for codec in CODECS {
        let data_type = codec.spec().data_type;
        let count = goldens().filter(|(_, g)| g.codec.spec().data_type == data_type).count();
        assert!(count >= inputs::WEIGHTS.len(), "{data_type}: {count}");
    }
}

/// Types whose scales hold large numbers, or hold a bound in their place.
const LARGE_EXPONENTS: [DataType; 5] =
    [DataType::F32, DataType::BF16, DataType::MXFP4, DataType::NVFP4, DataType::Q8_K];

#[test]
fn finds_blocks_that_are_not_finite() {
    let bell = inputs::find(inputs::WEIGHTS, "bell").expect("a kind of weights");
    for codec in CODECS {
        let data_type = codec.spec().data_type;
        let elements = data_type.block_elements() * 4;
        let mut bytes = vec![0; data_type.block_bytes() * 4];
        let mut check = |factor: f32, expected: Option<usize>| {
            let mut weights = inputs::values(bell, 1, elements);
            for weight in &mut weights[elements / 2..] {
                *weight *= factor;
            }
            codec.encode(&weights, elements, None, &mut bytes);
            assert_eq!(codec.first_non_finite_block(&bytes), expected, "{data_type}");
        };
        check(1.0, None);
        let has_small_exponent = !LARGE_EXPONENTS.contains(&data_type);
        check(1e9, has_small_exponent.then_some(2));
    }
}
