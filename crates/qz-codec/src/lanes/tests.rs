//! The lanes against the searches of one sub-block, bit for bit.

#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../golden/inputs.rs"]
mod inputs;

use super::{Lanes, affine, descent, positive, signed, transpose};
use crate::number::nearest_integer;
use crate::search;
use crate::search::affine::AffineSearch;
use inputs::{IMPORTANCE, WEIGHTS, find, values};

const LANES: usize = 16;

/// Runs a check on sub-blocks of every kind of values, with every kind of weights:
/// those kinds of importance, and the values' own squares.
fn on_every_kind<const LENGTH: usize>(
    mut check: impl FnMut(&str, &[[f32; LENGTH]; LANES], &[[f32; LENGTH]; LANES]),
) {
    for (seed, kind) in (100..).zip(WEIGHTS) {
        for round in 0..8 {
            let count = LENGTH * LANES;
            let x = values(kind, seed << 8 | round, count);
            let squares: Vec<f32> = x.iter().map(|x| x * x).collect();
            let sub_blocks = |values: &[f32]| *values.as_chunks().0.first_chunk().expect("16");
            check(kind.0, &sub_blocks(&x), &sub_blocks(&squares));
            for importance in IMPORTANCE {
                let weights = values(importance, seed << 8 | round | 128, count);
                let label = format!("{} {}", kind.0, importance.0);
                check(&label, &sub_blocks(&x), &sub_blocks(&weights));
            }
        }
    }
}

#[track_caller]
fn assert_same(label: &str, lane: usize, ours: f32, expected: f32) {
    // Rust leaves the sign of a NaN to the machine.
    if !(ours.is_nan() && expected.is_nan()) {
        assert_eq!(ours.to_bits(), expected.to_bits(), "{label}, lane {lane}: {ours} {expected}");
    }
}

fn check_affine<const LENGTH: usize>(wanted: AffineSearch) {
    on_every_kind::<LENGTH>(|label, x, weights| {
        let fit =
            affine::search(&wanted, &transpose(&x.each_ref()), &transpose(&weights.each_ref()));
        for lane in 0..LANES {
            let mut levels = [0; LENGTH];
            let expected = search::affine::search(&wanted, &x[lane], &weights[lane], &mut levels);
            assert_same(label, lane, fit.scale.0[lane], expected.scale);
            assert_same(label, lane, fit.minimum.0[lane], expected.minimum);
        }
    });
}

#[test]
fn affine() {
    let plain = AffineSearch { top: 15, first: -1.0, step: 0.1, last: 20, absolute: false };
    check_affine::<32>(plain);
    check_affine::<32>(AffineSearch { top: 31, ..plain });
    let few = AffineSearch { top: 3, first: -0.5, step: 0.1, last: 15, absolute: true };
    check_affine::<16>(few);
    check_affine::<16>(AffineSearch { absolute: false, ..few });
}

#[test]
fn signed() {
    for half in [4, 32] {
        on_every_kind::<16>(|label, x, weights| {
            let rows = transpose(&x.each_ref());
            let fit = signed::search(half, &rows, &transpose(&weights.each_ref()));
            let fit_levels = fit.levels(half, &rows);
            for lane in 0..LANES {
                let mut levels = [0; 16];
                let expected = search::signed::search(half, &x[lane], &weights[lane], &mut levels);
                assert_same(label, lane, fit.scale.0[lane], expected);
                let ours = fit_levels.map(|level| level.0[lane] as u8);
                assert_eq!(ours, levels, "{label}, lane {lane}");
            }
        });
    }
}

#[test]
fn descent() {
    on_every_kind::<16>(|label, x, _| {
        let scale = descent::search(4, &transpose(&x.each_ref()));
        for (lane, x) in x.iter().enumerate() {
            let expected = search::descent::search(4, x, &mut [0; 16]);
            assert_same(label, lane, scale.0[lane], expected);
        }
    });
}

fn check_positive<const LENGTH: usize>(top: u8) {
    on_every_kind::<LENGTH>(|label, x, weights| {
        let (scale, levels) =
            positive::search(top, &transpose(&x.each_ref()), &transpose(&weights.each_ref()));
        for lane in 0..LANES {
            let mut expected_levels = [0; LENGTH];
            let expected =
                search::positive::search(top, &x[lane], &weights[lane], &mut expected_levels);
            assert_same(label, lane, scale.0[lane], expected);
            let levels = levels.map(|level| level.0[lane] as u8);
            assert_eq!(levels, expected_levels, "{label}, lane {lane}");
        }
    });
}

#[test]
fn positive() {
    check_positive::<8>(63);
    check_positive::<16>(15);
}

#[test]
fn rounding() {
    // Every exponent, both signs, several mantissas.
    for upper in 0..=u32::from(u16::MAX) {
        let bits = [0, 1, 0x0fff, 0x8000, 0xffff].map(|lower| upper << 16 | lower);
        let rounded = Lanes(bits.map(f32::from_bits)).nearest_integer();
        let bytes = rounded.lowest_byte();
        for (lane, bits) in bits.into_iter().enumerate() {
            let expected = nearest_integer(f32::from_bits(bits));
            assert_eq!(rounded.0[lane], expected as f32, "{bits:#010x}");
            assert_eq!(bytes.0[lane], f32::from(expected as u8), "{bits:#010x}");
        }
    }
}

#[test]
fn kinds_are_found() {
    assert!(find(WEIGHTS, "bell").is_some());
    assert!(find(WEIGHTS, "none").is_none());
}
