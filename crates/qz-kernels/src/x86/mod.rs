//! The codecs' bodies, compiled for the vector instructions of x86-64.

mod avx2;
mod avx512;
mod lanes;
#[cfg(test)]
mod tests;

use std::arch::x86_64::*;

use qz_codec::lanes::LANES;

use crate::codecs::{Compiled, Usable, for_every_codec};

/// 1.5 * 2^23: see `qz_codec::number`.
const ROUNDING_OFFSET: f32 = 12_582_912.0;

/// A register as an array.
#[inline(always)]
fn sixteen_bytes(register: __m128i) -> [u8; LANES] {
    let mut bytes = [0; LANES];
    // SAFETY: every x86-64 has SSE2, and the array has sixteen bytes.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), register) };
    bytes
}

/// The top bit of each byte.
#[inline(always)]
fn top_bits(bytes: &[u8; LANES]) -> u16 {
    // SAFETY: every x86-64 has SSE2, and the array has sixteen bytes.
    unsafe { _mm_movemask_epi8(_mm_loadu_si128(bytes.as_ptr().cast())) as u16 }
}

/// What a table has at each number; numbers are below 16.
#[inline]
#[target_feature(enable = "ssse3")]
fn look_up(table: &[i8; 16], numbers: &[u8; LANES]) -> [i8; LANES] {
    let mut found = [0; LANES];
    // SAFETY: each of the arrays has sixteen bytes.
    unsafe {
        let table = _mm_loadu_si128(table.as_ptr().cast());
        let numbers = _mm_loadu_si128(numbers.as_ptr().cast());
        _mm_storeu_si128(found.as_mut_ptr().cast(), _mm_shuffle_epi8(table, numbers));
    }
    found
}

/// Compiles every codec's body for an instruction set, with lanes of its registers.
macro_rules! compile {
    (
        $table:ident, $module:ident, $features:literal;
        $($codec:ident: $data_type:ident, decode$(::<$look_ups:ident>)?, encode$(::<$lanes:ident>)?;)*
    ) => {
        static $table: &[Compiled] = &[$({
            #[target_feature(enable = $features)]
            fn decode(bytes: &[u8], out: &mut [f32]) {
                $(use $module::Vectors as $look_ups;)?
                qz_codec::body::$codec::decode$(::<$look_ups>)?(bytes, out);
            }

            #[target_feature(enable = $features)]
            fn encode(
                weights: &[f32],
                columns: usize,
                importance: Option<&[f32]>,
                out: &mut [u8],
            ) {
                $(use $module::Vectors as $lanes;)?
                qz_codec::body::$codec::encode$(::<$lanes>)?(weights, columns, importance, out);
            }

            Compiled { data_type: qz_tensor::DataType::$data_type, decode, encode }
        }),*];
    };
}

for_every_codec! { compile! { AVX2, avx2, "avx2,bmi1,bmi2,f16c,lzcnt,popcnt"; } }
for_every_codec! { compile! {
    AVX512, avx512, "avx2,avx512bw,avx512dq,avx512f,avx512vl,bmi1,bmi2,f16c,lzcnt,popcnt";
} }

/// True if the machine has what [`AVX2`] is compiled for.
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

/// Every codec compiled for AVX2, if the machine has that.
pub(crate) fn avx2_codecs() -> Option<Usable> {
    // SAFETY: `has_avx2` asks for every feature that the functions are compiled for.
    has_avx2().then(|| unsafe { Usable::new(AVX2) })
}

/// Every codec compiled for AVX-512, if the machine has that.
pub(crate) fn avx512_codecs() -> Option<Usable> {
    // SAFETY: `has_avx512` asks for every feature that the functions are compiled for.
    has_avx512().then(|| unsafe { Usable::new(AVX512) })
}

/// True if the machine has what [`AVX512`] is compiled for.
pub(crate) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
}
