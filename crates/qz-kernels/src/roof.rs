//! How fast a core can possibly multiply and add numbers: what kernels are measured
//! against.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm_add_ps, _mm_mul_ps, _mm_set1_ps, _mm_storeu_ps, _mm256_fmadd_ps, _mm256_set1_ps,
    _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps,
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
    let numbers = std::hint::black_box(NUMBERS);
    let (lanes, sum) = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_supported() && is_x86_feature_detected!("fma") => {
            // SAFETY: the guard has found AVX2 and FMA.
            let sum = unsafe { rounds_avx2(rounds, numbers) };
            (8, sum)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_supported() => {
            // SAFETY: the guard has found AVX-512 F.
            let sum = unsafe { rounds_avx512(rounds, numbers) };
            (16, sum)
        }
        #[cfg(target_arch = "x86_64")]
        _ => {
            // SAFETY: every x86-64 has SSE2.
            let sum = unsafe { rounds_baseline(rounds, numbers) };
            (4, sum)
        }
        #[cfg(not(target_arch = "x86_64"))]
        _ => (4, rounds_portable(rounds, numbers)),
    };
    // What nobody looks at would not be computed.
    std::hint::black_box(sum);
    (2 * CHAINS * lanes * rounds) as u64
}

/// What sums begin with, are multiplied by and added to: they stay near 1.
#[derive(Clone, Copy)]
struct Numbers {
    starts: [f32; CHAINS],
    factor: f32,
    term: f32,
}

/// Known numbers would be computed by the compiler, which finds that 1 * 0.999 + 0.001 stays
/// 1, and chains that begin alike would be one chain. So the work is done with numbers that
/// it is not told, each chain with its own.
const NUMBERS: Numbers = Numbers {
    starts: [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08, 1.09, 1.1, 1.11],
    factor: 0.999,
    term: 0.001,
};

/// Every x86-64 has these registers; left to itself, the compiler may keep sums in memory.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn rounds_baseline(rounds: usize, numbers: Numbers) -> f32 {
    let (factor, term) = (_mm_set1_ps(numbers.factor), _mm_set1_ps(numbers.term));
    let mut sums = [factor; CHAINS];
    for (sum, start) in sums.iter_mut().zip(numbers.starts) {
        *sum = _mm_set1_ps(start);
    }
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm_add_ps(_mm_mul_ps(*sum, factor), term);
        }
    }
    let mut lanes = [0.0; 4];
    let mut total = 0.0;
    for sum in sums {
        // SAFETY: there is room for four numbers.
        unsafe { _mm_storeu_ps(lanes.as_mut_ptr(), sum) };
        total += lanes.iter().sum::<f32>();
    }
    total
}

#[cfg(not(target_arch = "x86_64"))]
fn rounds_portable(rounds: usize, Numbers { starts, factor, term }: Numbers) -> f32 {
    let mut sums = [factor; 4 * CHAINS];
    for (position, sum) in sums.iter_mut().enumerate() {
        *sum = starts[position / 4];
    }
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + term;
        }
    }
    sums.iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn rounds_avx2(rounds: usize, numbers: Numbers) -> f32 {
    let (factor, term) = (_mm256_set1_ps(numbers.factor), _mm256_set1_ps(numbers.term));
    let mut sums = [factor; CHAINS];
    for (sum, start) in sums.iter_mut().zip(numbers.starts) {
        *sum = _mm256_set1_ps(start);
    }
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
fn rounds_avx512(rounds: usize, numbers: Numbers) -> f32 {
    let (factor, term) = (_mm512_set1_ps(numbers.factor), _mm512_set1_ps(numbers.term));
    let mut sums = [factor; CHAINS];
    for (sum, start) in sums.iter_mut().zip(numbers.starts) {
        *sum = _mm512_set1_ps(start);
    }
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, term);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn operations_are_counted() {
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_supported()) {
            let (one, ten) = (multiply_add(isa, 1), multiply_add(isa, 10));
            assert_eq!(ten, 10 * one, "{isa}");
            assert!(one.is_multiple_of(2 * CHAINS as u64));
        }
    }

    /// The work takes the time that it takes on a processor: a compiler that saw through it
    /// would need none.
    #[test]
    fn operations_are_computed() {
        const ROUNDS: usize = 500_000;
        // Two units of 16 lanes, a product and a sum in each, at more than any clock; and
        // less than an unoptimized build does.
        const MOST: f64 = 2.0 * 16.0 * 2.0 * 8e9;
        const LEAST: f64 = 1e6;
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_supported()) {
            let speed = |_| {
                let start = Instant::now();
                let operations = multiply_add(isa, ROUNDS);
                operations as f64 / start.elapsed().as_secs_f64().max(1e-9)
            };
            let fastest = (0..3).map(speed).fold(0.0, f64::max);
            assert!((LEAST..MOST).contains(&fastest), "{isa}: {fastest:e} operations per second");
        }
    }
}
