//! Bytes and decoded values against `golden/encodings.txt`, which llama.cpp's own
//! library wrote (see `golden/make.py`).

#[allow(dead_code, reason = "shared with other programs")]
#[path = "../golden/inputs.rs"]
mod inputs;
#[path = "../golden/records.rs"]
mod records;

use qz_codec::{CODECS, codec_for};
use qz_tensor::DataType;

use records::{ABORTS, digest, goldens};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn encodes_the_reference_bytes() {
    for (label, golden) in goldens() {
        let data_type = golden.data_type;
        let codec = codec_for(data_type).expect("a codec");
        let blocks = golden.weights.len() / data_type.block_elements();
        let mut bytes = vec![0xa5; blocks * data_type.block_bytes()];
        codec.encode(&golden.weights, golden.columns, golden.importance.as_deref(), &mut bytes);
        if golden.bytes == ABORTS {
            assert!(codec.first_non_finite_block(&bytes).is_some(), "{label}");
        } else {
            assert_eq!(hex(&bytes), golden.bytes, "{label}");
        }
    }
}

#[test]
fn decodes_the_reference_values() {
    for (label, golden) in goldens().filter(|(_, golden)| golden.bytes != ABORTS) {
        let mut values = vec![f32::NAN; golden.weights.len()];
        codec_for(golden.data_type).expect("a codec").decode(&golden.stored(), &mut values);
        assert_eq!(digest(&values), golden.digest, "{label}");
    }
}

#[test]
fn every_codec_has_goldens() {
    for codec in CODECS {
        let data_type = codec.spec().data_type;
        let count = goldens().filter(|(_, g)| g.data_type == data_type).count();
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
