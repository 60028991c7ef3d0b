//! Every codec, compiled for every instruction set that this machine has: the
//! reference's bytes and values, and those of the codec's own body on whatever else.

#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../../qz-codec/golden/encoding.rs"]
mod encoding;
#[path = "../../../qz-codec/golden/inputs.rs"]
mod inputs;
#[path = "../../../qz-codec/golden/records.rs"]
mod records;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qz_codec::{CODECS, Codec};
use qz_kernels::Isa;

use encoding::encode;
use inputs::{IMPORTANCE, Kind, Random, WEIGHTS};
use records::{ABORTS, digest, goldens};

/// The instruction sets that differ from what the codecs are without them.
fn instruction_sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.iter().copied().filter(|isa| *isa != Isa::Baseline && isa.is_supported())
}

fn decode(codec: &dyn Codec, bytes: &[u8]) -> Vec<f32> {
    let data_type = codec.spec().data_type;
    let blocks = bytes.len() / data_type.block_bytes();
    let mut values = vec![f32::NAN; blocks * data_type.block_elements()];
    codec.decode(bytes, &mut values);
    values
}

/// Which of two NaNs comes out of an operation is the compiler's choice.
fn are_same(a: &[f32], b: &[f32]) -> bool {
    let bits = |value: &f32| if value.is_nan() { u32::MAX } else { value.to_bits() };
    a.iter().map(bits).eq(b.iter().map(bits))
}

/// One that is missing in the list of codecs would run as it is.
#[test]
#[cfg(target_arch = "x86_64")]
fn every_codec_is_compiled() {
    on_every_codec(|name, codec, plain| assert!(!std::ptr::addr_eq(codec, plain), "{name}"));
}

/// Runs a check on every codec of every instruction set, beside the codec's own body.
fn on_every_codec(check: impl Fn(&str, &dyn Codec, &dyn Codec)) {
    for isa in instruction_sets() {
        for (codec, plain) in isa.codecs().iter().zip(CODECS) {
            let data_type = codec.spec().data_type;
            assert_eq!(data_type, plain.spec().data_type);
            check(&format!("{data_type} {isa}"), *codec, *plain);
        }
    }
}

#[test]
fn goldens_hold() {
    for isa in instruction_sets() {
        for (label, golden) in goldens().filter(|(_, golden)| golden.bytes != ABORTS) {
            let codec = isa.codec_for(golden.data_type).expect("a codec");
            let importance = golden.importance.as_deref();
            let bytes = encode(codec, &golden.weights, golden.columns, importance);
            let stored = golden.stored();
            assert!(bytes == stored, "{isa} {label}");
            assert_eq!(digest(&decode(codec, &stored)), golden.digest, "{isa} {label}");
        }
    }
}

#[test]
fn every_kind_of_input_gives_the_same_bytes() {
    on_every_codec(|label, codec, plain| {
        let blocks = 9;
        let columns = plain.spec().data_type.block_elements() * blocks;
        let importances = std::iter::once(None).chain(IMPORTANCE.iter().map(Some));
        for (number, importance) in (0..).zip(importances) {
            let matrix = importance.map(|kind: &Kind| inputs::values(kind, number, columns));
            for kind in WEIGHTS {
                let weights = inputs::values(kind, 1000 + number, 3 * columns);
                let expected = encode(plain, &weights, columns, matrix.as_deref());
                let bytes = encode(codec, &weights, columns, matrix.as_deref());
                let importance = importance.map_or("none", |kind| kind.0);
                assert!(bytes == expected, "{label} {} {importance}", kind.0);
                assert!(are_same(&decode(codec, &bytes), &decode(plain, &bytes)), "{label}");
            }
        }
    });
}

#[test]
fn any_bytes_give_the_same_values() {
    on_every_codec(|label, codec, plain| {
        let mut random = Random::new(7);
        let bytes = plain.spec().data_type.block_bytes() * 1003;
        let bytes: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
        assert!(are_same(&decode(codec, &bytes), &decode(plain, &bytes)), "{label}");
    });
}

/// Any weights that are finite, the small numbers of models more often.
fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -1.0f32..1.0,
        1 => (-8i8..8).prop_map(|eighths| f32::from(eighths) / 8.0),
        1 => any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |x| x.abs() < 1e18),
    ]
}

#[test]
fn any_weights_give_the_same_bytes() {
    on_every_codec(|label, codec, plain| {
        let columns = plain.spec().data_type.block_elements().max(32) * 2;
        let cases = Config { cases: 24, ..Config::default() };
        let rows = (vec(weight(), 5 * columns), vec(0.0f32..8.0, columns), any::<bool>());
        let run = TestRunner::new(cases).run(&rows, |(weights, importance, weighed)| {
            let importance = weighed.then_some(&importance[..]);
            let expected = encode(plain, &weights, columns, importance);
            prop_assert!(encode(codec, &weights, columns, importance) == expected, "{}", label);
            Ok(())
        });
        run.unwrap_or_else(|error| panic!("{label}: {error}"));
    });
}

#[test]
fn an_unsupported_set_is_refused() {
    for isa in Isa::ALL.iter().copied().filter(|isa| !isa.is_supported()) {
        assert_eq!(isa.choose(), Err(qz_kernels::Error::Unsupported(isa)));
    }
}
