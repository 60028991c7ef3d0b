//! Vectors that any machine has, as loops over their lanes. Nothing here is given a closure:
//! `array::from_fn` and `array::map` may stay calls, in the innermost loops.

use qz_codec::number::{f32_from_bf16, f32_from_f16};

use super::{Simd, Vector};

/// What every machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// Eight numbers.
#[derive(Clone, Copy)]
pub(crate) struct Eight(pub(crate) [f32; 8]);

impl Simd for Portable {
    type Floats = Eight;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> Eight {
        Eight([value; 8])
    }

    #[inline(always)]
    fn zero(self) -> Eight {
        Eight([0.0; 8])
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Eight {
        let mut lanes = [0.0; 8];
        lanes.copy_from_slice(&from[..8]);
        Eight(lanes)
    }

    #[inline(always)]
    fn load_singles(self, from: &[u8]) -> Eight {
        let mut lanes = [0.0; 8];
        for (lane, bytes) in lanes.iter_mut().zip(from[..32].as_chunks().0) {
            *lane = f32::from_le_bytes(*bytes);
        }
        Eight(lanes)
    }

    #[inline(always)]
    fn load_halves(self, from: &[u8]) -> Eight {
        let mut lanes = [0.0; 8];
        for (lane, bytes) in lanes.iter_mut().zip(from[..16].as_chunks().0) {
            *lane = f32_from_f16(u16::from_le_bytes(*bytes));
        }
        Eight(lanes)
    }

    #[inline(always)]
    fn load_brains(self, from: &[u8]) -> Eight {
        let mut lanes = [0.0; 8];
        for (lane, bytes) in lanes.iter_mut().zip(from[..16].as_chunks().0) {
            *lane = f32_from_bf16(u16::from_le_bytes(*bytes));
        }
        Eight(lanes)
    }
}

impl Vector for Eight {
    type Simd = Portable;

    #[inline(always)]
    fn simd(self) -> Portable {
        Portable
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..8].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn add_product(mut self, a: Self, b: Self) -> Self {
        for lane in 0..8 {
            self.0[lane] += a.0[lane] * b.0[lane];
        }
        self
    }

    #[inline(always)]
    fn times(mut self, other: Self) -> Self {
        for lane in 0..8 {
            self.0[lane] *= other.0[lane];
        }
        self
    }

    #[inline(always)]
    fn divided_by(mut self, other: Self) -> Self {
        for lane in 0..8 {
            self.0[lane] /= other.0[lane];
        }
        self
    }

    #[inline(always)]
    fn larger(mut self, other: Self) -> Self {
        for lane in 0..8 {
            let (a, b) = (self.0[lane], other.0[lane]);
            self.0[lane] = if a > b { a } else { b };
        }
        self
    }

    #[inline(always)]
    fn smaller(mut self, other: Self) -> Self {
        for lane in 0..8 {
            let (a, b) = (self.0[lane], other.0[lane]);
            self.0[lane] = if a < b { a } else { b };
        }
        self
    }

    #[inline(always)]
    fn power_of_two(mut self) -> Self {
        for lane in 0..8 {
            let bits = (self.0[lane].to_bits() << 23).wrapping_add(127 << 23);
            self.0[lane] = f32::from_bits(bits);
        }
        self
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}
