//! Bit for bit what the packages write: GPTQModel 7.7.0, compressed-tensors 0.19.0
//! (`golden/make.py`).

use std::collections::BTreeSet;

use qz_packed::{Matrix, Rounding};
use qz_tensor::DataType;
use safetensors::SafeTensors;

use crate::support::{Parts, decoded, packed, scheme};

static GOLDEN: &[u8] = include_bytes!("../../golden/packed.safetensors");

fn numbers(bytes: &[u8]) -> Vec<f32> {
    let halves = bytes.as_chunks::<2>().0.iter();
    halves.map(|half| f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16)).collect()
}

/// The matrix, and the schemes that it was packed in.
fn golden() -> (SafeTensors<'static>, Matrix, Vec<f32>, Vec<String>) {
    let golden = SafeTensors::deserialize(GOLDEN).expect("safetensors");
    let weight = golden.tensor("weight").expect("the matrix");
    let matrix = Matrix { rows: weight.shape()[0] as u64, columns: weight.shape()[1] as u64 };
    let weights = numbers(weight.data());
    let names = golden.names();
    let schemes: BTreeSet<String> =
        names.iter().filter_map(|name| Some(name.rsplit_once('/')?.0.to_owned())).collect();
    assert!(schemes.len() >= 30, "{schemes:?}");
    (golden, matrix, weights, schemes.into_iter().collect())
}

#[test]
fn parts_are_the_packages() {
    let (golden, matrix, weights, schemes) = golden();
    let mut faults = Vec::new();
    for name in schemes {
        let (model_type, target) = match name.split_once('/') {
            Some((_, target)) => (DataType::BF16, target),
            None => (DataType::F32, &*name),
        };
        let layout = scheme(target).layout(model_type);
        let parts = packed(&*layout, matrix, &weights, Rounding::Nearest);
        for (position, part) in layout.parts(matrix).expect("fits").iter().enumerate() {
            let expected = golden.tensor(&format!("{name}/{}", part.suffix)).expect("a part");
            let shape: Vec<u64> = expected.shape().iter().map(|size| *size as u64).collect();
            assert_eq!(part.shape.dimensions(), shape, "{name} {}", part.suffix);
            let found = format!("{:?}", expected.dtype());
            assert_eq!(part.data_type.name(), found, "{name} {}", part.suffix);
            let bytes = parts.bytes(position);
            let differ = bytes.iter().zip(expected.data()).filter(|(a, b)| a != b).count();
            if differ > 0 {
                faults.push(format!("{name} {}: {differ} of {} bytes", part.suffix, bytes.len()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn weights_are_the_packages() {
    let (golden, matrix, _, schemes) = golden();
    let mut compared = 0;
    for name in schemes {
        let Ok(expected) = golden.tensor(&format!("{name}/decoded")) else { continue };
        let expected: Vec<f32> =
            expected.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let layout = scheme(&name).layout(DataType::F32);
        let part = |part: &qz_packed::Part| {
            golden.tensor(&format!("{name}/{}", part.suffix)).expect("a part").data().to_vec()
        };
        let parts = layout.parts(matrix).expect("fits").iter().map(part).collect();
        assert_eq!(decoded(&*layout, matrix, &Parts::from_bytes(parts)), expected, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 3);
}
