//! Operations that are mostly exponentials.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use crate::vector::{Eight, Instructions, Vector};

/// Defines a function for each set of instructions, from a body over vectors.
macro_rules! for_instructions {
    ($(#[$doc:meta])* $name:ident = $body:ident($($argument:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub(super) fn $name(instructions: Instructions, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) {
                $body::<__m256>($($argument),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
            fn avx512($($argument: $type),*) {
                $body::<__m512>($($argument),*);
            }

            match instructions {
                Instructions::Portable => $body::<Eight>($($argument),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: there were no such value if the machine had no AVX2.
                Instructions::Avx2 => unsafe { avx2($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: there were no such value if the machine had no AVX-512.
                Instructions::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}

for_instructions! {
    /// Exponentials of the distance to the largest, divided by their sum.
    softmax = softmax_of(scores: &mut [f32])
}

for_instructions! {
    /// `gate[i] = silu(gate[i]) · up[i]`.
    silu_times = silu_times_of(gate: &mut [f32], up: &[f32])
}

#[inline(always)]
fn softmax_of<V: Vector>(scores: &mut [f32]) {
    let mut largest = V::splat(f32::NEG_INFINITY);
    for scores in scores.chunks_exact(V::LANES) {
        largest = largest.larger(V::load(scores));
    }
    let whole = scores.len() / V::LANES * V::LANES;
    let largest = scores[whole..].iter().fold(largest.largest(), |a, b| a.max(*b));
    let (distance, one) = (V::splat(-largest), V::splat(1.0));
    let mut sum = V::zero();
    let (vectors, rest) = scores.split_at_mut(whole);
    for scores in vectors.chunks_exact_mut(V::LANES) {
        let power = distance.add_product(one, V::load(scores)).exp();
        sum = sum.add_product(one, power);
        power.store(scores);
    }
    let mut last = [f32::NEG_INFINITY; 16];
    last[..rest.len()].copy_from_slice(rest);
    distance.add_product(one, V::load(&last)).exp().store(&mut last);
    rest.copy_from_slice(&last[..rest.len()]);
    let sum = sum.sum() + rest.iter().sum::<f32>();
    let inverse = 1.0 / sum;
    scores.iter_mut().for_each(|score| *score *= inverse);
}

#[inline(always)]
fn silu_times_of<V: Vector>(gate: &mut [f32], up: &[f32]) {
    let whole = gate.len() / V::LANES * V::LANES;
    let (gates, rest) = gate.split_at_mut(whole);
    for (gate, up) in gates.chunks_exact_mut(V::LANES).zip(up.chunks_exact(V::LANES)) {
        silu::<V>(V::load(gate)).times(V::load(up)).store(gate);
    }
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    silu::<V>(V::load(&last)).store(&mut last);
    for ((gate, silu), up) in rest.iter_mut().zip(last).zip(&up[whole..]) {
        *gate = silu * up;
    }
}

#[inline(always)]
fn silu<V: Vector>(x: V) -> V {
    let one = V::splat(1.0);
    let power = V::splat(-1.0).times(x).exp();
    x.divided_by(one.add_product(one, power))
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
            silu_times(instructions, &mut found, &ones);
            for (x, found) in numbers.iter().zip(&found) {
                let x = f64::from(*x);
                let expected = x / (1.0 + (-x).exp());
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
                silu_times(instructions, &mut numbers, &[1.0; 21]);
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
