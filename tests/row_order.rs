//! Rows stay the rows they were, whatever the sizes of a checkpoint: heads, tiles, groups
//! and words end where they like. A row in another's place is as wrong as weights can be,
//! and no sum over a matrix shows it.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use qz_codec::codec_for;
use qz_tensor::DataType;

use crate::shapes::{Sizes, checkpoint, convert, verified};
use crate::support::{Safetensors, quantize, scratch, text};

/// Weights of the tile that the engine holds; a matrix of more rows is cut.
const TILE: usize = 1 << 19;

/// What a restored row has to be.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// The values that this type has for the source's row.
    Values(DataType),
    /// As near to the source's row as a grid of few bits is; another row is √2 away.
    Near,
}

/// A target of each kind of order: plain rows, blocks of a row, words down the inputs, along
/// the outputs and along the inputs, scales of rows, of blocks of rows and of whole tensors.
const TARGETS: [(&str, Expected); 16] = [
    ("bf16", Expected::Values(DataType::BF16)),
    ("q8_0", Expected::Values(DataType::Q8_0)),
    ("q4_0", Expected::Values(DataType::Q4_0)),
    ("safetensors:f16", Expected::Values(DataType::F16)),
    ("gptq:w4g32", Expected::Near),
    ("gptq:w3g32+v2+asym", Expected::Near),
    ("awq:w4g32", Expected::Near),
    ("ct:w5a16+asym+g32", Expected::Near),
    ("ct:w8a8", Expected::Near),
    ("ct:nvfp4", Expected::Near),
    ("ct:mxfp4+hadamard32", Expected::Near),
    ("ct:mxfp6a16", Expected::Near),
    ("fp8:block128", Expected::Near),
    ("fp8:tensor", Expected::Near),
    ("bnb:nf4", Expected::Near),
    ("mlx:w4g32", Expected::Near),
];

/// Decoders whose queries do not fit one tile; whether keys and values fit is left to chance.
fn sizes() -> impl Strategy<Value = Sizes> {
    let heads = (1..=5usize, prop_oneof![Just(32), Just(64), Just(96), Just(160)]);
    (heads, 10..=28usize, 2..=20usize, 0..=3usize).prop_map(
        |((kv_heads, head), hidden, inner, more)| {
            let (hidden, inner) = (hidden * 32, inner * 32);
            let for_each = TILE / hidden / (kv_heads * head) + 1;
            let heads = kv_heads * (for_each + more);
            Sizes { hidden, heads, kv_heads, head, inner, experts: 0 }
        },
    )
}

/// A tensor's rows, as f32.
fn rows(folder: &Path, tensor: &str) -> Vec<Vec<f32>> {
    let file = Safetensors::read(&folder.join("model.safetensors"));
    let header = &file.header[tensor];
    let data_type = match header["dtype"].as_str().expect("a type") {
        "BF16" => DataType::BF16,
        "F16" => DataType::F16,
        "F32" => DataType::F32,
        other => panic!("{other}"),
    };
    let columns = header["shape"][1].as_u64().expect("a matrix") as usize;
    let end = header["data_offsets"][1].as_u64().expect("an offset") as usize;
    let bytes = &file.data[file.start(tensor)..end];
    let row_bytes = data_type.byte_size(columns as u64).expect("whole rows") as usize;
    let row = |bytes: &[u8]| {
        let mut row = vec![0.0; columns];
        codec_for(data_type).expect("a number type").decode(bytes, &mut row);
        row
    };
    bytes.chunks(row_bytes).map(row).collect()
}

/// The row as this type holds it.
fn rounded(row: &[f32], data_type: DataType) -> Vec<f32> {
    let codec = codec_for(data_type).expect("a codec");
    let size = data_type.byte_size(row.len() as u64).expect("whole blocks") as usize;
    let mut bytes = vec![0; size];
    codec.encode(row, row.len(), None, &mut bytes);
    let mut values = vec![0.0; row.len()];
    codec.decode(&bytes, &mut values);
    values
}

fn is_as_expected(found: &[f32], source: &[f32], expected: Expected) -> bool {
    match expected {
        Expected::Values(data_type) => found == rounded(source, data_type),
        Expected::Near => {
            let energy = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
            let distance = energy(&mut found.iter().zip(source).map(|(a, b)| a - b));
            found.len() == source.len() && distance < 0.1 * energy(&mut source.iter().copied())
        }
    }
}

/// Written straight from the checkpoint and from a GGUF file of it, whose queries and keys
/// have another order, then restored: every row is where it was.
fn check(sizes: Sizes, target: &str, expected: Expected) -> Result<(), TestCaseError> {
    let folder = scratch();
    let source = checkpoint(sizes, folder.path());
    let plain = folder.path().join("plain.gguf");
    convert(&source, "bf16", &plain);
    for (from, name) in [(&source, "direct"), (&plain, "again")] {
        let suffix = if target.contains(':') { "" } else { ".gguf" };
        let artifact = folder.path().join(format!("{name}{suffix}"));
        // Where bytes of a row lie apart, tiles are the smaller the more threads there are.
        let arguments = ["convert", text(from), "--to", target, "-o", text(&artifact)];
        quantize(&[&arguments[..], &["--threads", "8"]].concat()).expect_success();
        verified(&artifact, &source);
        let restored = folder.path().join(format!("restored-{name}"));
        convert(&artifact, "safetensors:f32", &restored);
        for (tensor, _) in
            sizes.tensors(0).iter().filter(|(name, _)| name.ends_with("_proj.weight"))
        {
            let (found, wanted) = (rows(&restored, tensor), rows(&source, tensor));
            prop_assert_eq!(found.len(), wanted.len(), "{} {}", name, tensor);
            let wrong = found
                .iter()
                .zip(&wanted)
                .position(|(found, wanted)| !is_as_expected(found, wanted, expected));
            prop_assert_eq!(wrong, None, "{}, {}: {}", name, target, tensor);
        }
    }
    Ok(())
}

/// One draw of sizes for each target; `PROPTEST_CASES` for more.
#[test]
fn rows_keep_their_places() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(1),
        failure_persistence: None,
        max_shrink_iters: 16,
        ..Config::default()
    };
    for (number, (target, expected)) in TARGETS.into_iter().enumerate() {
        // A runner counts over all its runs, so each target has its own.
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[number as u8; 32]);
        let mut runner = TestRunner::new_with_rng(config.clone(), random);
        if let Err(error) = runner.run(&sizes(), |sizes| check(sizes, target, expected)) {
            panic!("{target}: {error}");
        }
    }
}

/// What the property would not see if it could not fail: a row that is another's neighbour.
#[test]
fn a_row_in_another_s_place_is_not_near() {
    let folder = scratch();
    let sizes = Sizes { hidden: 64, heads: 2, kv_heads: 1, head: 32, inner: 32, experts: 0 };
    let source = rows(&checkpoint(sizes, folder.path()), "model.layers.0.self_attn.q_proj.weight");
    let pairs = source.windows(2).filter(|pair| {
        is_as_expected(&pair[0], &pair[1], Expected::Near)
            || is_as_expected(&pair[0], &pair[1], Expected::Values(DataType::Q4_0))
    });
    assert_eq!(pairs.count(), 0);
}
