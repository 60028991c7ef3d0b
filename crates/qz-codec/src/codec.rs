//! What a codec can be asked.

use qz_tensor::DataType;

use crate::grid::{Grid, grid_for};
use crate::integers::Integers;

/// What an encoder does with importance weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportanceUse {
    /// Encodes the same bytes with and without.
    Ignored,
    /// Searches differently with them.
    Optional,
    /// The result is useless without them.
    Required,
}

/// A codec's fixed facts.
#[derive(Debug)]
pub struct CodecSpec {
    /// The element type it reads and writes.
    pub data_type: DataType,
    /// What its encoder does with importance weights.
    pub importance: ImportanceUse,
    /// The type in which ggml's processor backend multiplies activations with such weights
    /// (`vec_dot_type` in ggml-cpu.c); F32 where it rounds none.
    pub activations: DataType,
    /// How products with such activations are formed in integers.
    pub integers: Integers,
}

/// Turns weights into the bytes of one element type and back.
pub trait Codec: Send + Sync {
    /// The codec's fixed facts.
    fn spec(&self) -> &CodecSpec;

    /// Decodes whole blocks. `out` holds exactly the elements of `bytes`.
    fn decode(&self, bytes: &[u8], out: &mut [f32]);

    /// Encodes whole rows of `columns` weights with the reference search.
    /// `importance` has one non-negative weight per column, shared by all rows;
    /// `out` holds exactly the bytes of `weights`. Weights are finite.
    fn encode(&self, weights: &[f32], columns: usize, importance: Option<&[f32]>, out: &mut [u8]);

    /// The first block that holds a number which is not finite (a scale that
    /// overflowed while encoding, or damage).
    fn first_non_finite_block(&self, bytes: &[u8]) -> Option<usize>;

    /// The values it can represent, for methods that choose among them themselves.
    /// None where every value of a wide type is one, and where no grid is written yet.
    fn grid(&self) -> Option<&'static dyn Grid> {
        grid_for(self.spec().data_type)
    }
}

/// Declares a codec of one element type, out of its file's functions.
macro_rules! codec {
    (
        $name:ident: DataType::$data_type:ident,
        importance: $importance:ident,
        activations: $activations:ident,
        integers: $integers:expr,
        decode: $decode:expr,
        encode: $encode:expr,
        first_non_finite_block: $first_non_finite_block:expr,
    ) => {
        pub(crate) struct $name;

        impl $crate::codec::Codec for $name {
            fn spec(&self) -> &$crate::codec::CodecSpec {
                #[allow(unused_imports, reason = "most types need few of these names")]
                use $crate::{Integers::*, Unit::*};
                static SPEC: $crate::codec::CodecSpec = $crate::codec::CodecSpec {
                    data_type: qz_tensor::DataType::$data_type,
                    importance: $crate::codec::ImportanceUse::$importance,
                    activations: qz_tensor::DataType::$activations,
                    integers: $integers,
                };
                &SPEC
            }

            fn decode(&self, bytes: &[u8], out: &mut [f32]) {
                $decode(bytes, out);
            }

            fn encode(
                &self,
                weights: &[f32],
                columns: usize,
                importance: Option<&[f32]>,
                out: &mut [u8],
            ) {
                $encode(weights, columns, importance, out);
            }

            fn first_non_finite_block(&self, bytes: &[u8]) -> Option<usize> {
                let first: fn(&[u8]) -> Option<usize> = $first_non_finite_block;
                first(bytes)
            }
        }
    };
}

pub(crate) use codec;
