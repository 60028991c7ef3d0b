//! Vectors of f32 numbers, and which of them the machine has.
//!
//! A body is written once over [`Simd`] and compiled for each set of instructions by
//! [`for_instructions!`], into whose entry points everything is inlined. No closure takes
//! vectors: it would be compiled for the baseline.
//!
//! Invariant: a value of a [`Simd`] type is proof that the machine has the instructions, and
//! vectors are made out of such a value alone. So every method of a vector may be called by
//! safe code: only [`Avx2::detect`] and [`Avx512::detect`] make proofs, and they look.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::isa::Isa;

pub(crate) use portable::{Eight, Portable};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, FloatsOf256, FloatsOf512, sum_of_eight};

/// Instructions for arithmetic on vectors that the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Instructions {
    /// The widest that the instruction set in use allows.
    pub(crate) fn best() -> Self {
        Self::of(Isa::chosen())
    }

    /// The widest that this instruction set allows, and the machine has.
    pub(crate) fn of(allowed: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if allowed >= Isa::Avx512
                && let Some(proof) = Avx512::detect()
            {
                return Self::Avx512(proof);
            }
            if allowed >= Isa::Avx2
                && let Some(proof) = Avx2::detect()
            {
                return Self::Avx2(proof);
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = allowed;
        Self::Portable
    }

    /// Every set the machine has, the widest last.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let mut sets: Vec<Self> = Isa::ALL.iter().copied().map(Self::of).collect();
        sets.dedup();
        sets
    }

    /// AVX2 and what goes with it, if they may be used.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx2(self) -> Option<Avx2> {
        match self {
            Self::Portable => None,
            Self::Avx2(proof) => Some(proof),
            Self::Avx512(proof) => Some(proof.avx2()),
        }
    }

    /// Numbers of 32 bits in a register.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Portable => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::LANES,
        }
    }
}

/// Numbers in vectors: a value is proof that the machine has the instructions for them.
pub(crate) trait Simd: Copy {
    /// A vector of f32 numbers.
    type Floats: Vector<Simd = Self>;
    /// Numbers of a vector.
    const LANES: usize;

    fn splat(self, value: f32) -> Self::Floats;
    fn zero(self) -> Self::Floats;
    /// The first lanes of `from`, which has that many.
    fn load(self, from: &[f32]) -> Self::Floats;
    /// Numbers that are stored as binary32, the lowest byte first.
    fn load_singles(self, from: &[u8]) -> Self::Floats;
    /// Numbers that are stored as binary16.
    fn load_halves(self, from: &[u8]) -> Self::Floats;
    /// Numbers that are stored as bfloat16.
    fn load_brains(self, from: &[u8]) -> Self::Floats;
}

/// A vector of f32 numbers.
pub(crate) trait Vector: Copy {
    type Simd: Simd<Floats = Self>;
    /// What it was made with.
    fn simd(self) -> Self::Simd;
    fn store(self, to: &mut [f32]);
    /// `self + a · b`.
    fn add_product(self, a: Self, b: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn divided_by(self, other: Self) -> Self;
    /// The larger one; `other` if either is a NaN.
    fn larger(self, other: Self) -> Self;
    /// The smaller one; `other` if either is a NaN.
    fn smaller(self, other: Self) -> Self;
    /// 2 to the power of the integer that was added to 1.5 · 2^23 in `self`.
    fn power_of_two(self) -> Self;
    fn largest(self) -> f32;
    fn sum(self) -> f32;

    /// The exponential, to about one unit in the last place; of numbers past the range of
    /// normal results that of the range's end. (Cephes, `expf`: 2^n times a polynomial in
    /// what is left of x after n times the logarithm of 2, which is subtracted in two
    /// parts.)
    #[inline(always)]
    fn exp(self) -> Self {
        const ROUND: f32 = 12_582_912.0;
        const POLYNOMIAL: [f32; 6] =
            [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
        let simd = self.simd();
        let x = simd.splat(88.0).smaller(simd.splat(-87.0).larger(self));
        let one = simd.splat(1.0);
        let rounded = simd.splat(ROUND).add_product(x, simd.splat(std::f32::consts::LOG2_E));
        let n = rounded.add_product(one, simd.splat(-ROUND));
        let rest = x.add_product(n, simd.splat(-0.693_359_4));
        let rest = rest.add_product(n, simd.splat(2.121_944_4e-4));
        let mut sum = simd.splat(POLYNOMIAL[0]);
        for coefficient in &POLYNOMIAL[1..] {
            sum = simd.splat(*coefficient).add_product(sum, rest);
        }
        let sum = rest.add_product(sum, rest.times(rest)).add_product(one, one);
        sum.times(rounded.power_of_two())
    }
}

/// Has what lies a little behind these bytes brought into the cache: rows of weights are
/// read faster than the machine finds out by itself that they are.
#[inline(always)]
pub(crate) fn prefetch_behind(bytes: &[u8]) {
    /// Bytes of a cache line.
    const LINE: usize = 64;
    /// Time enough for a read from memory.
    const DISTANCE: usize = 2048;
    #[cfg(target_arch = "x86_64")]
    for line in 0..bytes.len().div_ceil(LINE) {
        let address = bytes.as_ptr().wrapping_add(DISTANCE + line * LINE);
        // SAFETY: every x86-64 has this instruction. It neither reads nor writes, so that
        // the address need not be valid.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, LINE, DISTANCE);
}

/// Defines a function that takes [`Instructions`] before its other arguments, out of a body
/// that takes a [`Simd`] value and is `#[inline(always)]`. The body is compiled for each set.
///
/// With `eight lanes:` before it, the body is one over vectors of eight lanes, of which
/// AVX-512 has those of AVX2.
macro_rules! for_instructions {
    (
        eight lanes:
        $(#[$doc:meta])*
        $visibility:vis fn $name:ident$(<$generic:ident: $bound:ident>)?(
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $result:ty)? = $body:ident;
    ) => {
        $(#[$doc])*
        $visibility fn $name$(<$generic: $bound>)?(
            instructions: $crate::vector::Instructions,
            $($argument: $type),*
        ) $(-> $result)? {
            for_instructions! {
                @choose instructions, $body,
                ($($argument: $type),*), ($($result)?), ($($generic: $bound)?),
                proof => {
                    let proof = proof.avx2();
                    // SAFETY: `proof` exists only if the machine has AVX2, FMA and F16C.
                    unsafe { avx2$(::<$generic>)?(proof, $($argument),*) }
                }
            }
        }
    };
    (
        $(#[$doc:meta])*
        $visibility:vis fn $name:ident$(<$generic:ident: $bound:ident>)?(
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $result:ty)? = $body:ident;
    ) => {
        $(#[$doc])*
        $visibility fn $name$(<$generic: $bound>)?(
            instructions: $crate::vector::Instructions,
            $($argument: $type),*
        ) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
            fn avx512$(<$generic: $bound>)?(
                proof: $crate::vector::Avx512,
                $($argument: $type),*
            ) $(-> $result)? {
                $body$(::<_, $generic>)?(proof, $($argument),*)
            }

            for_instructions! {
                @choose instructions, $body,
                ($($argument: $type),*), ($($result)?), ($($generic: $bound)?),
                proof => {
                    // SAFETY: `proof` exists only if the machine has AVX-512 F and BW, AVX2,
                    // FMA and F16C.
                    unsafe { avx512$(::<$generic>)?(proof, $($argument),*) }
                }
            }
        }
    };
    (
        @choose $instructions:ident, $body:ident,
        ($($argument:ident: $type:ty),*), ($($result:ty)?), ($($generic:ident: $bound:ident)?),
        $proof:ident => $with_avx512:block
    ) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2$(<$generic: $bound>)?(
            proof: $crate::vector::Avx2,
            $($argument: $type),*
        ) $(-> $result)? {
            $body$(::<_, $generic>)?(proof, $($argument),*)
        }

        // As the others are a function of its own, which is optimized for itself: inlined into
        // its callers it is too large for the compiler to inline what it calls.
        #[inline(never)]
        fn portable$(<$generic: $bound>)?($($argument: $type),*) $(-> $result)? {
            $body$(::<_, $generic>)?($crate::vector::Portable, $($argument),*)
        }

        match $instructions {
            $crate::vector::Instructions::Portable => portable$(::<$generic>)?($($argument),*),
            #[cfg(target_arch = "x86_64")]
            $crate::vector::Instructions::Avx2(proof) => {
                // SAFETY: `proof` exists only if the machine has AVX2, FMA and F16C.
                unsafe { avx2$(::<$generic>)?(proof, $($argument),*) }
            }
            #[cfg(target_arch = "x86_64")]
            $crate::vector::Instructions::Avx512($proof) => $with_avx512,
        }
    };
}

pub(crate) use for_instructions;
