//! The list of codecs, and a codec made of compiled functions.

use qz_codec::{Codec, CodecSpec};
use qz_tensor::DataType;

/// Hands the list of codecs to a macro, behind what it is given itself: each codec's
/// module in [`qz_codec::body`], its element type, its decoder and its encoder, with the
/// name of the lanes where they want some.
macro_rules! for_every_codec {
    ($macro:ident! { $($given:tt)* }) => {
        $macro! {
            $($given)*
            f32: F32, decode, encode;
            f16: F16, decode, encode;
            bf16: BF16, decode, encode;
            q8_0: Q8_0, decode::<L>, encode::<L>;
            q6_k: Q6_K, decode::<L>, encode::<L>;
            q5_k: Q5_K, decode::<L>, encode::<L>;
            q4_k: Q4_K, decode::<L>, encode::<L>;
            q3_k: Q3_K, decode::<L>, encode::<L>;
            q2_k: Q2_K, decode::<L>, encode::<L>;
            q4_0: Q4_0, decode::<L>, encode::<L>;
            q4_1: Q4_1, decode::<L>, encode::<L>;
            q5_0: Q5_0, decode::<L>, encode::<L>;
            q5_1: Q5_1, decode::<L>, encode::<L>;
            iq4_nl: IQ4_NL, decode::<L>, encode::<L>;
            iq4_xs: IQ4_XS, decode::<L>, encode::<L>;
            iq3_s: IQ3_S, decode, encode::<L>;
            iq3_xxs: IQ3_XXS, decode, encode::<L>;
            iq2_s: IQ2_S, decode, encode::<L>;
            iq2_xs: IQ2_XS, decode, encode::<L>;
            iq2_xxs: IQ2_XXS, decode, encode::<L>;
            iq1_s: IQ1_S, decode::<L>, encode::<L>;
            iq1_m: IQ1_M, decode::<L>, encode::<L>;
            tq1_0: TQ1_0, decode::<L>, encode;
            tq2_0: TQ2_0, decode::<L>, encode;
            mxfp4: MXFP4, decode::<L>, encode;
            nvfp4: NVFP4, decode::<L>, encode;
            q8_k: Q8_K, decode::<L>, encode::<L>;
            q8_1: Q8_1, decode::<L>, encode::<L>;
            q1_0: Q1_0, decode, encode::<L>;
            q2_0: Q2_0, decode, encode;
        }
    };
}

pub(crate) use for_every_codec;

/// A codec's functions for an instruction set, to be called where the machine has it.
pub(crate) struct Compiled {
    pub(crate) data_type: DataType,
    pub(crate) decode: Decode,
    pub(crate) encode: Encode,
}

type Decode = unsafe fn(&[u8], &mut [f32]);
type Encode = unsafe fn(&[f32], usize, Option<&[f32]>, &mut [u8]);

/// Functions for instructions that the machine has.
pub(crate) struct Usable(&'static [Compiled]);

impl Usable {
    /// # Safety
    /// The machine has the instructions for which the functions are compiled.
    pub(crate) unsafe fn new(compiled: &'static [Compiled]) -> Self {
        Self(compiled)
    }
}

/// A codec whose body is compiled for instructions that the machine has; the rest is
/// the codec's own.
struct Accelerated {
    codec: &'static dyn Codec,
    /// One of [`Usable`] functions.
    compiled: &'static Compiled,
}

impl Codec for Accelerated {
    fn spec(&self) -> &CodecSpec {
        self.codec.spec()
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        // SAFETY: the function is one of `Usable`, whose maker promised that the machine has
        // its instructions.
        unsafe { (self.compiled.decode)(bytes, out) };
    }

    fn encode(&self, weights: &[f32], columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
        // SAFETY: the function is one of `Usable`, whose maker promised that the machine has
        // its instructions.
        unsafe { (self.compiled.encode)(weights, columns, importance, out) };
    }

    fn first_non_finite_block(&self, bytes: &[u8]) -> Option<usize> {
        self.codec.first_non_finite_block(bytes)
    }
}

/// The codecs with compiled functions, and the others as they are.
pub(crate) fn accelerated(
    codecs: &[&'static dyn Codec],
    Usable(compiled): Usable,
) -> Vec<&'static dyn Codec> {
    let accelerated = codecs.iter().map(|&codec| -> &'static dyn Codec {
        let data_type = codec.spec().data_type;
        match compiled.iter().find(|compiled| compiled.data_type == data_type) {
            // Once per codec and instruction set, in a static.
            Some(compiled) => Box::leak(Box::new(Accelerated { codec, compiled })),
            None => codec,
        }
    });
    accelerated.collect()
}
