//! How fast a core can possibly multiply and add numbers: what kernels are measured
//! against.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm256_fmadd_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps,
    _mm512_set1_ps,
};

use crate::isa::Isa;

/// Vectors that are added to at once: more than a multiply-add's latency times what
/// begins in a cycle, and few enough for the registers.
const CHAINS: usize = 12;

/// Multiplies and adds f32 numbers in the instruction set's registers, and nothing else,
/// on this thread. Returns how many operations that were, a product and a sum counting
/// as two.
///
/// Without AVX2 products and sums are instructions of their own.
pub fn multiply_add(isa: Isa, rounds: usize) -> u64 {
    let (lanes, sum) = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_supported() && is_x86_feature_detected!("fma") => {
            // SAFETY: the machine has been asked for AVX2 and FMA.
            let sum = unsafe { rounds_avx2(rounds) };
            (8, sum)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_supported() => {
            // SAFETY: the machine has been asked for AVX-512.
            let sum = unsafe { rounds_avx512(rounds) };
            (16, sum)
        }
        _ => (4, rounds_portable(rounds)),
    };
    // What nobody looks at would not be computed.
    std::hint::black_box(sum);
    (2 * CHAINS * lanes * rounds) as u64
}

// Sums stay near 1: x * 0.999 + 0.001.
const FACTOR: f32 = 0.999;
const TERM: f32 = 0.001;

fn rounds_portable(rounds: usize) -> f32 {
    let mut sums = [[1.0f32; 4]; CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            for lane in sum {
                *lane = *lane * FACTOR + TERM;
            }
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn rounds_avx2(rounds: usize) -> f32 {
    let (factor, term) = (_mm256_set1_ps(FACTOR), _mm256_set1_ps(TERM));
    let mut sums = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, term);
        }
    }
    let mut lanes = [0.0; 8];
    let mut total = 0.0;
    for sum in sums {
        // SAFETY: there is room for eight numbers.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        total += lanes.iter().sum::<f32>();
    }
    total
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn rounds_avx512(rounds: usize) -> f32 {
    let (factor, term) = (_mm512_set1_ps(FACTOR), _mm512_set1_ps(TERM));
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, term);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted() {
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_supported()) {
            let (one, ten) = (multiply_add(isa, 1), multiply_add(isa, 10));
            assert_eq!(ten, 10 * one, "{isa}");
            assert!(one.is_multiple_of(2 * CHAINS as u64));
        }
    }
}
