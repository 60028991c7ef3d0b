//! Products of each of some rows with each of others, summed in `f64`: what factors of
//! symmetric matrices are made of. Those in `f32` are [`crate::gemm`]'s.
//!
//! A product is summed in pieces of 512 columns, each in four parts, in one order. So
//! results differ in their last bits between instruction sets, and do not depend on which
//! rows are given together.

use qz_codec::grid::Rows;

use crate::isa::Isa;

/// Columns whose products are summed before they are added to the result. So many columns of
/// a few rows stay in the first cache.
const PIECE: usize = 512;
/// Rows of the left side that are taken together.
const LEFT: usize = 4;
/// Rows of the right side that are taken together.
const RIGHT: usize = 3;

/// Adds `a bᵀ` to `out`: as many rows as `a` has, a column for each row of `b`.
///
/// # Panics
/// If rows are not of one length, or `out` has not their products' size.
pub fn add_wide_row_products(a: Rows<'_>, b: Rows<'_>, out: &mut [f64]) {
    let (columns, width) = (a.columns(), b.count());
    assert_eq!(columns, b.columns(), "rows of one length");
    assert_eq!(out.len(), a.count() * width, "room for the products");
    let kernel = Kernel::best();
    for first in (0..columns).step_by(PIECE) {
        let (a, b) = {
            let length = PIECE.min(columns - first);
            (a.slice(first, length), b.slice(first, length))
        };
        for left in (0..a.count()).step_by(LEFT) {
            let rows: [&[f32]; LEFT] = take(a, left);
            for right in (0..width).step_by(RIGHT) {
                let products = kernel.products(rows, take(b, right));
                let own = products.iter().take(a.count() - left).enumerate();
                for (row, products) in own {
                    let out = &mut out[(left + row) * width..][..width][right..];
                    for (total, product) in out.iter_mut().zip(products) {
                        *total += product;
                    }
                }
            }
        }
    }
}

/// Rows from `first` on; the last one again where there are no more.
fn take<const COUNT: usize>(rows: Rows<'_>, first: usize) -> [&[f32]; COUNT] {
    let last = rows.count() - 1;
    std::array::from_fn(|position| rows.row((first + position).min(last)))
}

/// An instruction set that the machine has.
#[derive(Clone, Copy)]
enum Kernel {
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Kernel {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if Isa::chosen() >= Isa::Avx2 && is_x86_feature_detected!("fma") {
            return Self::Avx2;
        }
        Self::Portable
    }

    #[inline(always)]
    fn products(self, a: [&[f32]; LEFT], b: [&[f32]; RIGHT]) -> [[f64; RIGHT]; LEFT] {
        match self {
            Self::Portable => portable(a, b),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `best` found AVX2 and FMA.
            Self::Avx2 => unsafe { x86::products(a, b) },
        }
    }
}

fn portable(a: [&[f32]; LEFT], b: [&[f32]; RIGHT]) -> [[f64; RIGHT]; LEFT] {
    let product = |a: &[f32], b: &[f32]| {
        let mut sums = [0.0f64; 4];
        for (a, b) in a.chunks(4).zip(b.chunks(4)) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += f64::from(*a) * f64::from(*b);
            }
        }
        sums.iter().sum()
    };
    a.map(|a| b.map(|b| product(a, b)))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LEFT, RIGHT};

    /// Rows of one length, four products in `f64` to a register.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn products(a: [&[f32]; LEFT], b: [&[f32]; RIGHT]) -> [[f64; RIGHT]; LEFT] {
        let length = a[0].len();
        assert!(a.iter().chain(&b).all(|row| row.len() == length), "rows of one length");
        let mut sums = [[_mm256_setzero_pd(); RIGHT]; LEFT];
        let mut at = 0;
        while at + 4 <= length {
            // SAFETY: four numbers from `at` on are in each row.
            let right: [__m256d; RIGHT] = unsafe {
                [
                    _mm256_cvtps_pd(_mm_loadu_ps(b[0].as_ptr().add(at))),
                    _mm256_cvtps_pd(_mm_loadu_ps(b[1].as_ptr().add(at))),
                    _mm256_cvtps_pd(_mm_loadu_ps(b[2].as_ptr().add(at))),
                ]
            };
            for row in 0..LEFT {
                // SAFETY: as above.
                let left = unsafe { _mm256_cvtps_pd(_mm_loadu_ps(a[row].as_ptr().add(at))) };
                for column in 0..RIGHT {
                    sums[row][column] = _mm256_fmadd_pd(left, right[column], sums[row][column]);
                }
            }
            at += 4;
        }
        let mut products = [[0.0; RIGHT]; LEFT];
        for row in 0..LEFT {
            for column in 0..RIGHT {
                let mut parts = [0.0f64; 4];
                // SAFETY: room for four numbers.
                unsafe { _mm256_storeu_pd(parts.as_mut_ptr(), sums[row][column]) };
                for (part, at) in parts.iter_mut().zip(at..length) {
                    *part += f64::from(a[row][at]) * f64::from(b[column][at]);
                }
                products[row][column] = parts.iter().sum();
            }
        }
        products
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn check(rows: usize, others: usize, columns: usize, stride: usize) {
        let (a, b) = (numbers(rows * stride, 1), numbers(others * stride, 2));
        let (a, b) = (Rows::new(&a, stride, columns), Rows::new(&b, stride, columns));
        let expected: Vec<f64> = a
            .iter()
            .flat_map(|a| {
                b.iter().map(|b| {
                    1.0 + a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                })
            })
            .collect();
        let mut wide = vec![1.0f64; rows * others];
        add_wide_row_products(a, b, &mut wide);
        for (position, expected) in expected.iter().enumerate() {
            let error = (wide[position] - expected).abs();
            assert!(error < 1e-13 * columns as f64, "{rows}x{others}x{columns}: {error}");
        }
        // The same numbers, whatever is beside them.
        let alone: Vec<f64> = a
            .iter()
            .flat_map(|a| {
                b.iter().map(|b| {
                    let mut one = [1.0];
                    add_wide_row_products(
                        Rows::dense(a, columns),
                        Rows::dense(b, columns),
                        &mut one,
                    );
                    one[0]
                })
            })
            .collect();
        assert_eq!(alone, wide, "{rows}x{others}x{columns}");
    }

    #[test]
    fn products_of_every_size() {
        check(1, 1, 1, 1);
        check(4, 3, 8, 8);
        check(5, 7, 13, 20);
        check(9, 4, 512, 512);
        check(3, 8, 1100, 1200);
    }
}
