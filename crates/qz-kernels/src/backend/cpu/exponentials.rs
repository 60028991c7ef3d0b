//! Operations that are mostly exponentials.

use std::sync::LazyLock;

use qz_codec::number::{f16_from_f32, f32_from_f16};

use super::super::Activation;
use super::super::reference::{CLAMPED_SILU, GELU, activate_times};
use crate::vector::{Instructions, Simd, Vector, for_instructions};

for_instructions! {
    /// Exponentials of the distance to the largest, divided by their sum.
    pub(super) fn softmax(scores: &mut [f32]) = softmax_of;
}

for_instructions! {
    /// Gates times what they let through.
    pub(super) fn times<G: Gate>(gate: &mut [f32], up: &[f32]) = times_of;
}

/// [`Activation::GeluErf`], with the error function to 1.5e-7
/// (Abramowitz and Stegun, 7.1.26).
pub(super) fn gelu_erf_times(_: Instructions, gate: &mut [f32], up: &[f32]) {
    const COEFFICIENTS: [f64; 5] =
        [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = f64::from(*gate) * std::f64::consts::FRAC_1_SQRT_2;
        let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
        let sum = COEFFICIENTS.iter().fold(0.0, |sum, coefficient| sum * t + coefficient);
        let erf = (1.0 - sum * t * libm::exp(-x * x)).copysign(x);
        *gate = (0.5 * f64::from(*gate) * (1.0 + erf)) as f32 * up;
    }
}

/// An activation as it is defined: few networks have it.
pub(super) fn defined_times(activation: Activation, gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = activate_times(activation, *gate, *up);
    }
}

/// [`Activation::GeluHalf`] of every binary16 number.
static GELU_OF_HALVES: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let gelu = |half| activate_times(Activation::GeluHalf, f32_from_f16(half), 1.0);
    (0..=u16::MAX).map(gelu).collect()
});

/// [`Activation::GeluHalf`].
pub(super) fn gelu_half_times(_: Instructions, gate: &mut [f32], up: &[f32]) {
    let table = &*GELU_OF_HALVES;
    for (gate, up) in gate.iter_mut().zip(up) {
        let gelu = match *gate {
            // Past binary16, too.
            large if large >= 10.0 => large,
            small if small <= -10.0 => 0.0,
            number => table[usize::from(f16_from_f32(number))],
        };
        *gate = gelu * up;
    }
}

#[inline(always)]
fn softmax_of<S: Simd>(simd: S, scores: &mut [f32]) {
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for scores in scores.chunks_exact(S::LANES) {
        largest = largest.larger(simd.load(scores));
    }
    let whole = scores.len() / S::LANES * S::LANES;
    let largest = scores[whole..].iter().fold(largest.largest(), |a, b| a.max(*b));
    let (distance, one) = (simd.splat(-largest), simd.splat(1.0));
    let mut sum = simd.zero();
    let (vectors, rest) = scores.split_at_mut(whole);
    for scores in vectors.chunks_exact_mut(S::LANES) {
        let power = distance.add_product(one, simd.load(scores)).exp();
        sum = sum.add_product(one, power);
        power.store(scores);
    }
    let mut last = [f32::NEG_INFINITY; 16];
    last[..rest.len()].copy_from_slice(rest);
    distance.add_product(one, simd.load(&last)).exp().store(&mut last);
    rest.copy_from_slice(&last[..rest.len()]);
    let sum = sum.sum() + rest.iter().sum::<f32>();
    let inverse = 1.0 / sum;
    scores.iter_mut().for_each(|score| *score *= inverse);
}

/// A gate and what it lets through.
pub(super) trait Gate {
    fn of<S: Simd>(simd: S, gate: S::Floats, up: S::Floats) -> S::Floats;
}

/// [`Activation::Silu`].
pub(super) struct Silu;
/// [`Activation::GeluTanh`].
pub(super) struct GeluTanh;
/// [`Activation::ClampedSilu`].
pub(super) struct ClampedSilu;
/// [`Activation::Sigmoid`].
pub(super) struct Sigmoid;
/// [`Activation::Identity`].
pub(super) struct Identity;

impl Gate for Silu {
    #[inline(always)]
    fn of<S: Simd>(simd: S, gate: S::Floats, up: S::Floats) -> S::Floats {
        divided_by_sigmoids(simd, gate, simd.splat(-1.0).times(gate)).times(up)
    }
}

impl Gate for GeluTanh {
    /// Half of one and a hyperbolic tangent is a sigmoid of twice its argument.
    #[inline(always)]
    fn of<S: Simd>(simd: S, gate: S::Floats, up: S::Floats) -> S::Floats {
        let square = gate.times(gate);
        let one = simd.splat(1.0);
        let along = gate.times(one.add_product(simd.splat(GELU[1]), square));
        divided_by_sigmoids(simd, gate, simd.splat(-2.0 * GELU[0]).times(along)).times(up)
    }
}

impl Gate for ClampedSilu {
    #[inline(always)]
    fn of<S: Simd>(simd: S, gate: S::Floats, up: S::Floats) -> S::Floats {
        let [limit, slope] = CLAMPED_SILU;
        // What is no number stays none: it is the other one that is given back.
        let gate = simd.splat(limit).smaller(gate);
        let up = simd.splat(limit).smaller(simd.splat(-limit).larger(up));
        let one = simd.splat(1.0);
        let more = up.add_product(one, one);
        divided_by_sigmoids(simd, gate, simd.splat(-slope).times(gate)).times(more)
    }
}

impl Gate for Identity {
    #[inline(always)]
    fn of<S: Simd>(_: S, gate: S::Floats, up: S::Floats) -> S::Floats {
        gate.times(up)
    }
}

impl Gate for Sigmoid {
    #[inline(always)]
    fn of<S: Simd>(simd: S, gate: S::Floats, up: S::Floats) -> S::Floats {
        divided_by_sigmoids(simd, up, simd.splat(-1.0).times(gate))
    }
}

/// `x / (1 + exp(exponent))`.
#[inline(always)]
fn divided_by_sigmoids<S: Simd>(simd: S, x: S::Floats, exponent: S::Floats) -> S::Floats {
    let one = simd.splat(1.0);
    x.divided_by(one.add_product(one, exponent.exp()))
}

#[inline(always)]
fn times_of<S: Simd, G: Gate>(simd: S, gate: &mut [f32], up: &[f32]) {
    let whole = gate.len() / S::LANES * S::LANES;
    let (gates, rest) = gate.split_at_mut(whole);
    for (gate, up) in gates.chunks_exact_mut(S::LANES).zip(up.chunks_exact(S::LANES)) {
        G::of(simd, simd.load(gate), simd.load(up)).store(gate);
    }
    let (mut last, mut last_up) = ([0.0; 16], [0.0; 16]);
    last[..rest.len()].copy_from_slice(rest);
    last_up[..rest.len()].copy_from_slice(&up[whole..whole + rest.len()]);
    G::of(simd, simd.load(&last), simd.load(&last_up)).store(&mut last);
    rest.copy_from_slice(&last[..rest.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both operations on numbers of every size, beside those of f64.
    #[test]
    fn exponentials_of_every_size() {
        let numbers: Vec<f32> = (-4000..4000).map(|i| i as f32 / 37.0).collect();
        let ones = vec![1.0; numbers.len()];
        for instructions in Instructions::available() {
            let mut found = numbers.clone();
            times::<Silu>(instructions, &mut found, &ones);
            for (x, found) in numbers.iter().zip(&found) {
                let x = f64::from(*x);
                let expected = x / (1.0 + libm::exp(-x));
                let near = (f64::from(*found) - expected).abs() <= 3e-7 * expected.abs() + 1e-36;
                assert!(near, "{instructions:?}: silu of {x} is {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for instructions in Instructions::available() {
            for at in [0, 20] {
                let mut numbers = [0.5; 21];
                numbers[at] = f32::NAN;
                let mut scores = numbers;
                times::<Silu>(instructions, &mut numbers, &[1.0; 21]);
                assert!(numbers[at].is_nan());
                softmax(instructions, &mut scores);
                assert!(scores[at].is_nan());
            }
        }
    }

    #[test]
    fn probabilities_sum_up_to_one() {
        for instructions in Instructions::available() {
            for count in 1..40 {
                let mut scores: Vec<f32> = (0..count).map(|i| (i * 7 % 11) as f32).collect();
                let mut expected = scores.clone();
                crate::backend::reference::softmax(&mut expected);
                softmax(instructions, &mut scores);
                for (found, expected) in scores.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-6, "{instructions:?} {count}");
                }
            }
        }
    }
}
