//! What an encoder makes of a row does not depend on the rows beside it.

#[path = "../golden/encoding.rs"]
mod encoding;
#[allow(dead_code, reason = "shared with other programs")]
#[path = "../golden/inputs.rs"]
mod inputs;

use encoding::encode;
use qz_codec::{CODECS, ImportanceUse, codec_for};
use qz_tensor::DATA_TYPES;

const ROWS: usize = 7;

fn values(kinds: &[inputs::Kind], name: &str, count: usize) -> Vec<f32> {
    inputs::values(inputs::find(kinds, name).expect("a kind"), 1, count)
}

#[test]
fn every_type_of_gguf_can_be_read() {
    for data_type in DATA_TYPES.iter().filter(|data_type| data_type.spec().ggml.is_some()) {
        assert!(codec_for(*data_type).is_some(), "{data_type}");
    }
}

#[test]
fn rows_are_encoded_alone() {
    for codec in CODECS {
        for blocks in [1, 3, 8, 9] {
            let columns = codec.spec().data_type.block_elements() * blocks;
            let weights = values(inputs::WEIGHTS, "heavy", columns * ROWS);
            let matrix = values(inputs::IMPORTANCE, "positive", columns);
            for importance in [None, Some(&matrix[..])] {
                let together = encode(*codec, &weights, columns, importance);
                let alone = weights.chunks(columns);
                let alone = alone.flat_map(|row| encode(*codec, row, columns, importance));
                assert!(together.iter().copied().eq(alone), "{:?}, {blocks}", codec.spec());
            }
        }
    }
}

#[test]
fn importance_matters_only_where_it_is_said_to() {
    for codec in CODECS {
        let columns = codec.spec().data_type.block_elements() * 4;
        let weights = values(inputs::WEIGHTS, "bell", columns);
        let matrix = values(inputs::IMPORTANCE, "heavy", columns);
        let same = encode(*codec, &weights, columns, None)
            == encode(*codec, &weights, columns, Some(&matrix));
        assert_eq!(same, codec.spec().importance == ImportanceUse::Ignored, "{:?}", codec.spec());
    }
}

#[test]
fn nothing_is_encoded_as_nothing() {
    for codec in CODECS {
        let columns = codec.spec().data_type.block_elements();
        assert!(encode(*codec, &[], columns, None).is_empty());
    }
}
