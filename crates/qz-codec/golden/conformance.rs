//! What every type of lanes has to do, checked against the searches of one
//! sub-block, bit for bit. Included by path where there is such a type.

use qz_codec::lanes::{
    LANES, Lanes, Mask, affine, descent, nonlinear, positive, signed, transpose,
};
use qz_codec::number::{f32_from_f16, nearest_integer, truncate_to_i8};
use qz_codec::search;
use qz_codec::search::affine::AffineSearch;

use super::inputs::{IMPORTANCE, WEIGHTS, values};

/// Runs all checks on lanes of type `L`.
pub(crate) fn check<L: Lanes>() {
    check_arithmetic::<L>();
    check_comparisons::<L>();
    check_rounding::<L>();
    check_patterns::<L>();
    check_transposing::<L>();
    check_bytes::<L>();
    check_ranges::<L>();
    let plain = AffineSearch { top: 15, first: -1.0, step: 0.1, last: 20, absolute: false };
    check_affine::<L, 32>(plain);
    check_affine::<L, 32>(AffineSearch { top: 31, ..plain });
    let few = AffineSearch { top: 3, first: -0.5, step: 0.1, last: 15, absolute: true };
    check_affine::<L, 16>(few);
    check_affine::<L, 16>(AffineSearch { absolute: false, ..few });
    check_affine::<L, 32>(AffineSearch { first: -0.9, step: 0.05, last: 36, ..plain });
    check_signed::<L, 16, true>(4);
    check_signed::<L, 16, true>(32);
    check_signed::<L, 16, false>(32);
    check_signed::<L, 32, false>(8);
    check_signed::<L, 32, false>(16);
    check_descent::<L>();
    check_nonlinear::<L>();
    check_positive::<L, 8>(63);
    check_positive::<L, 16>(15);
}

/// Numbers on which operations tend to differ; as many as there are lanes.
const NUMBERS: [f32; LANES] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    0.1,
    2.5,
    1e-45,
    -1e-39,
    f32::MIN_POSITIVE,
    1e30,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    12_582_912.0,
];

#[track_caller]
fn assert_same(label: &str, ours: f32, expected: f32) {
    // Rust leaves the sign of a NaN to the machine.
    if !(ours.is_nan() && expected.is_nan()) {
        assert_eq!(ours.to_bits(), expected.to_bits(), "{label}: {ours:e} {expected:e}");
    }
}

fn check_one<L: Lanes>(label: &str, lanes: impl Fn(L) -> L, one: impl Fn(f32) -> f32) {
    let ours = lanes(L::load(&NUMBERS)).store();
    for (number, ours) in NUMBERS.into_iter().zip(ours) {
        assert_same(&format!("{label} of {number:e}"), ours, one(number));
    }
}

fn check_two<L: Lanes>(label: &str, lanes: impl Fn(L, L) -> L, one: impl Fn(f32, f32) -> f32) {
    for b in NUMBERS {
        let ours = lanes(L::load(&NUMBERS), L::splat(b)).store();
        for (a, ours) in NUMBERS.into_iter().zip(ours) {
            assert_same(&format!("{a:e} {label} {b:e}"), ours, one(a, b));
        }
    }
}

fn check_arithmetic<L: Lanes>() {
    check_two::<L>("+", |a, b| a + b, |a, b| a + b);
    check_two::<L>("-", |a, b| a - b, |a, b| a - b);
    check_two::<L>("*", |a, b| a * b, |a, b| a * b);
    check_two::<L>("/", |a, b| a / b, |a, b| a / b);
    check_two::<L>("min", L::min, |a, b| if a < b { a } else { b });
    check_two::<L>("max", L::max, |a, b| if a > b { a } else { b });
    check_one::<L>("minus", |a| -a, |a| -a);
    check_one::<L>("magnitude", L::abs, f32::abs);
}

fn check_comparisons<L: Lanes>() {
    let chosen = |mask: L::Mask| mask.select(L::splat(1.0), L::zero());
    let number = |decision: bool| f32::from(u8::from(decision));
    check_two::<L>("<", |a, b| chosen(a.less(b)), |a, b| number(a < b));
    check_two::<L>(">", |a, b| chosen(a.greater(b)), |a, b| number(a > b));
    check_two::<L>("==", |a, b| chosen(a.equal(b)), |a, b| number(a == b));
    check_two::<L>("!=", |a, b| chosen(a.unequal(b)), |a, b| number(a != b));
    let both = |a: L, b: L| chosen(a.less(b) & a.greater(L::zero()));
    check_two::<L>("both", both, |a, b| number(a < b && a > 0.0));
    let either = |a: L, b: L| chosen(a.less(b) | a.greater(L::zero()));
    check_two::<L>("either", either, |a, b| number(a < b || a > 0.0));
    for lane in 0..LANES {
        let mut numbers = [1.0; LANES];
        assert!(!L::load(&numbers).less(L::splat(0.5)).any());
        numbers[lane] = 0.0;
        assert!(L::load(&numbers).less(L::splat(0.5)).any(), "lane {lane}");
    }
}

fn check_patterns<L: Lanes>() {
    for (shift, mask) in [(0, 7), (2, 3), (9, 7), (14, 3), (0, 0xffff)] {
        let bits = |number: f32| (number.to_bits() >> shift & mask) as f32;
        check_one::<L>("bits", |a| a.pattern_bits(shift, mask), bits);
    }
    for lane in 0..LANES {
        let mut numbers = [2.0; LANES];
        numbers[lane] = 1.0;
        assert_eq!(L::load(&numbers).first_least(), (1.0, lane));
        numbers[LANES - 1] = 1.0;
        assert_eq!(L::load(&numbers).first_least(), (1.0, lane));
        assert_eq!(L::load(&numbers.map(|n| n * f32::MAX)).first_least().1, lane);
    }
    assert_eq!(L::splat(f32::MAX).first_least(), (f32::MAX, 0));
}

fn check_rounding<L: Lanes>() {
    // Every exponent, both signs, several mantissas.
    for upper in 0..=u32::from(u16::MAX) {
        let lower = std::array::from_fn::<u32, LANES, _>(|lane| [0, 1, 0x8000, 0xffff][lane % 4]);
        let numbers = lower.map(|lower| f32::from_bits(upper << 16 | lower));
        let rounded = L::load(&numbers).nearest_integer();
        let expected = numbers.map(nearest_integer);
        assert_eq!(rounded.store(), expected.map(|integer| integer as f32), "{upper:#x}");
        let lowest = expected.map(|integer| integer as u8);
        assert_eq!(rounded.lowest_byte().store(), lowest.map(f32::from), "{upper:#x}");
        assert_eq!(rounded.to_bytes(), lowest, "{upper:#x}");
        let cut = numbers.map(|number| truncate_to_i8(number) as u8);
        assert_eq!(L::load(&numbers).to_truncated_bytes(), cut, "{upper:#x}");
    }
}

fn check_bytes<L: Lanes>() {
    for first in 0..=u8::MAX {
        let bytes: [u8; LANES] =
            std::array::from_fn(|lane| first.wrapping_add((lane as u8).wrapping_mul(37)));
        assert_eq!(L::from_bytes(&bytes).store(), bytes.map(f32::from));
        let signed = bytes.map(|byte| byte as i8);
        assert_eq!(L::from_signed_bytes(&signed).store(), signed.map(f32::from));
        let top = (0..LANES).map(|lane| u16::from(bytes[lane] >> 7) << lane).sum();
        assert_eq!(L::top_bits(&bytes), top);
        let numbers = bytes.map(|byte| byte & 15);
        let table = signed;
        let found = numbers.map(|number| table[usize::from(number)]);
        assert_eq!(L::look_up(&table, &numbers), found);
        let levels = bytes.map(|byte| byte & 127);
        let cut = levels.map(|level| f32::from(level) + 0.75);
        assert_eq!(L::load(&cut).to_levels(), levels);
    }
    for nothing in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(L::splat(nothing).to_levels(), [0; LANES]);
    }
    for half in 0..=u16::MAX {
        let expected = f32_from_f16(half).to_bits();
        assert_eq!(L::splat_half(half).store().map(f32::to_bits), [expected; LANES], "{half:#06x}");
    }
}

fn check_ranges<L: Lanes>() {
    for (seed, kind) in (0..).zip(WEIGHTS) {
        let numbers = values(kind, seed, 2 * LANES * LANES);
        let blocks: [[f32; 2 * LANES]; LANES] = *numbers.as_chunks().0.first_chunk().expect("all");
        let (least, greatest) = L::ranges(&blocks.each_ref());
        for (block, (least, greatest)) in
            blocks.iter().zip(least.store().into_iter().zip(greatest.store()))
        {
            assert_eq!(least, block.iter().copied().fold(f32::INFINITY, f32::min));
            assert_eq!(greatest, block.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}

fn check_transposing<L: Lanes>() {
    let square: [[u8; LANES]; LANES] =
        std::array::from_fn(|row| std::array::from_fn(|column| (row * LANES + column) as u8));
    let transposed: [[u8; LANES]; LANES] =
        std::array::from_fn(|row| std::array::from_fn(|column| square[column][row]));
    assert_eq!(L::transpose_bytes(&square), transposed);
    let numbers = square.map(|row| row.map(f32::from));
    let rows = L::transpose_square(&numbers.each_ref()).map(L::store);
    assert_eq!(rows, transposed.map(|row| row.map(f32::from)));
}

/// Runs a check on sub-blocks of every kind of values, with every kind of weights:
/// those kinds of importance, and the values' own squares.
fn on_every_kind<const LENGTH: usize>(
    mut check: impl FnMut(&str, &[[f32; LENGTH]; LANES], &[[f32; LENGTH]; LANES]),
) {
    for (seed, kind) in (100..).zip(WEIGHTS) {
        for round in 0..4 {
            let count = LENGTH * LANES;
            let x = values(kind, seed << 8 | round, count);
            let squares: Vec<f32> = x.iter().map(|x| x * x).collect();
            let sub_blocks = |values: &[f32]| *values.as_chunks().0.first_chunk().expect("all");
            check(kind.0, &sub_blocks(&x), &sub_blocks(&squares));
            for importance in IMPORTANCE {
                let weights = values(importance, seed << 8 | round | 128, count);
                let label = format!("{} {}", kind.0, importance.0);
                check(&label, &sub_blocks(&x), &sub_blocks(&weights));
            }
        }
    }
}

fn rows<L: Lanes, const LENGTH: usize>(sub_blocks: &[[f32; LENGTH]; LANES]) -> [L; LENGTH] {
    transpose(&sub_blocks.each_ref())
}

fn check_affine<L: Lanes, const LENGTH: usize>(wanted: AffineSearch) {
    on_every_kind::<LENGTH>(|label, x, weights| {
        let rows_of_x = rows(x);
        let fit = affine::search::<L, LENGTH>(&wanted, &rows_of_x, &rows(weights));
        let (scale, minimum) = (fit.scale.store(), fit.minimum.store());
        let levels = fit.levels(wanted.top, &rows_of_x).map(L::store);
        for lane in 0..LANES {
            let mut expected_levels = [0; LENGTH];
            let expected =
                search::affine::search(&wanted, &x[lane], &weights[lane], &mut expected_levels);
            assert_same(label, scale[lane], expected.scale);
            assert_same(label, minimum[lane], expected.minimum);
            assert_eq!(levels.map(|level| level[lane] as u8), expected_levels, "{label}");
        }
    });
}

fn check_signed<L: Lanes, const LENGTH: usize, const FINITE: bool>(half: u8) {
    on_every_kind::<LENGTH>(|label, x, weights| {
        let rows_of_x = rows(x);
        let fit = signed::search::<L, LENGTH, FINITE>(half, &rows_of_x, &rows(weights));
        let scale = fit.scale.store();
        let levels = fit.levels(half, &rows_of_x).map(L::store);
        for lane in 0..LANES {
            let mut expected_levels = [0; LENGTH];
            let expected =
                search::signed::search(half, &x[lane], &weights[lane], &mut expected_levels);
            assert_same(label, scale[lane], expected);
            assert_eq!(levels.map(|level| level[lane] as u8), expected_levels, "{label}");
        }
    });
}

fn check_descent<L: Lanes>() {
    on_every_kind::<16>(|label, x, y| {
        let scales = descent::search::<L, 16, 2>(4, &[rows(x), rows(y)]).map(L::store);
        for (scale, x) in scales.into_iter().flatten().zip(x.iter().chain(y)) {
            assert_same(label, scale, search::descent::search(4, x, &mut [0; 16]));
        }
    });
}

fn check_nonlinear<L: Lanes>() {
    on_every_kind::<32>(|label, x, weights| {
        let scale = nonlinear::search::<L, 32>(&rows(x), &rows(weights)).store();
        for lane in 0..LANES {
            let expected = search::nonlinear::search(&x[lane], &weights[lane]);
            assert_same(label, scale[lane], expected);
        }
    });
}

fn check_positive<L: Lanes, const LENGTH: usize>(top: u8) {
    on_every_kind::<LENGTH>(|label, x, weights| {
        let (scale, levels) = positive::search::<L, LENGTH>(top, &rows(x), &rows(weights));
        let (scale, levels) = (scale.store(), levels.map(L::store));
        for lane in 0..LANES {
            let mut expected_levels = [0; LENGTH];
            let expected =
                search::positive::search(top, &x[lane], &weights[lane], &mut expected_levels);
            assert_same(label, scale[lane], expected);
            assert_eq!(levels.map(|level| level[lane] as u8), expected_levels, "{label}");
        }
    });
}
