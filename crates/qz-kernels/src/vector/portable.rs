//! Vectors that any machine has.

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
        Eight(std::array::from_fn(|lane| from[lane]))
    }

    #[inline(always)]
    fn load_singles(self, from: &[u8]) -> Eight {
        let from = from.as_chunks().0;
        Eight(std::array::from_fn(|lane| f32::from_le_bytes(from[lane])))
    }

    #[inline(always)]
    fn load_halves(self, from: &[u8]) -> Eight {
        let from = from.as_chunks().0;
        Eight(std::array::from_fn(|lane| f32_from_f16(u16::from_le_bytes(from[lane]))))
    }

    #[inline(always)]
    fn load_brains(self, from: &[u8]) -> Eight {
        let from = from.as_chunks().0;
        Eight(std::array::from_fn(|lane| f32_from_bf16(u16::from_le_bytes(from[lane]))))
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
    fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + a.0[lane] * b.0[lane]))
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] * other.0[lane]))
    }

    #[inline(always)]
    fn divided_by(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] / other.0[lane]))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        Self(std::array::from_fn(|lane| larger(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        let smaller = |a: f32, b: f32| if a < b { a } else { b };
        Self(std::array::from_fn(|lane| smaller(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        let bits = |number: f32| (number.to_bits() << 23).wrapping_add(127 << 23);
        Self(self.0.map(|number| f32::from_bits(bits(number))))
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
