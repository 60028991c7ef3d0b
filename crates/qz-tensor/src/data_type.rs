//! Element types: how many bytes a block of elements takes in a file, and what
//! each container calls it. Whether the bytes can be decoded is the codecs'
//! business: a type without a codec can still be listed and copied.

use std::fmt;

use crate::shape::SizeError;

/// The number a GGUF file stores for an element type (`enum ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlTypeId(pub u32);

/// What a container has to know about an element type.
#[derive(Debug)]
pub struct TypeSpec {
    /// The field's name, as llama.cpp or safetensors print it.
    pub name: &'static str,
    /// The id in GGUF files; `None` if GGUF has no such type.
    pub ggml: Option<GgmlTypeId>,
    /// The name in safetensors headers; `None` if safetensors has no such type.
    pub safetensors: Option<&'static str>,
    /// Elements in one block; 1 for plain types.
    pub block_elements: u32,
    /// Bytes of one block.
    pub block_bytes: u32,
}

/// An element type: a row of [`DATA_TYPES`]. Compared by name.
#[derive(Clone, Copy)]
pub struct DataType(&'static TypeSpec);

const fn plain(
    name: &'static str,
    ggml: Option<u32>,
    safetensors: Option<&'static str>,
    bytes: u32,
) -> TypeSpec {
    let ggml = match ggml {
        Some(id) => Some(GgmlTypeId(id)),
        None => None,
    };
    TypeSpec { name, ggml, safetensors, block_elements: 1, block_bytes: bytes }
}

const fn block(name: &'static str, ggml: u32, block_elements: u32, block_bytes: u32) -> TypeSpec {
    TypeSpec { name, ggml: Some(GgmlTypeId(ggml)), safetensors: None, block_elements, block_bytes }
}

macro_rules! data_types {
    ($($(#[$doc:meta])* $ident:ident = $spec:expr;)*) => {
        $(static $ident: TypeSpec = $spec;)*
        impl DataType {
            $($(#[$doc])* pub const $ident: DataType = DataType(&$ident);)*
        }
        /// Every element type that a supported container can name. Ids and block
        /// sizes of GGUF: `ggml/include/ggml.h` and `ggml-common.h`; names of
        /// safetensors: the format's README.
        pub static DATA_TYPES: &[DataType] = &[$(DataType(&$ident)),*];
    };
}

data_types! {
    /// IEEE 754 binary32.
    F32 = plain("F32", Some(0), Some("F32"), 4);
    /// IEEE 754 binary16.
    F16 = plain("F16", Some(1), Some("F16"), 2);
    /// The upper half of a binary32.
    BF16 = plain("BF16", Some(30), Some("BF16"), 2);
    /// IEEE 754 binary64.
    F64 = plain("F64", Some(28), Some("F64"), 8);
    /// Signed 8-bit integer.
    I8 = plain("I8", Some(24), Some("I8"), 1);
    /// Signed 16-bit integer.
    I16 = plain("I16", Some(25), Some("I16"), 2);
    /// Signed 32-bit integer.
    I32 = plain("I32", Some(26), Some("I32"), 4);
    /// Signed 64-bit integer.
    I64 = plain("I64", Some(27), Some("I64"), 8);
    /// Unsigned 8-bit integer.
    U8 = plain("U8", None, Some("U8"), 1);
    /// Unsigned 16-bit integer.
    U16 = plain("U16", None, Some("U16"), 2);
    /// Unsigned 32-bit integer.
    U32 = plain("U32", None, Some("U32"), 4);
    /// Unsigned 64-bit integer.
    U64 = plain("U64", None, Some("U64"), 8);
    /// One byte that is 0 or 1.
    BOOL = plain("BOOL", None, Some("BOOL"), 1);
    /// OCP 8-bit float, 4 exponent and 3 mantissa bits.
    F8_E4M3 = plain("F8_E4M3", None, Some("F8_E4M3"), 1);
    /// OCP 8-bit float, 5 exponent and 2 mantissa bits.
    F8_E5M2 = plain("F8_E5M2", None, Some("F8_E5M2"), 1);
    /// OCP 8-bit power-of-two scale.
    F8_E8M0 = plain("F8_E8M0", None, Some("F8_E8M0"), 1);
    /// Two binary32.
    C64 = plain("C64", None, Some("C64"), 8);

    /// 4 bits, one f16 scale per 32.
    Q4_0 = block("Q4_0", 2, 32, 18);
    /// 4 bits, f16 scale and minimum per 32.
    Q4_1 = block("Q4_1", 3, 32, 20);
    /// 5 bits, one f16 scale per 32.
    Q5_0 = block("Q5_0", 6, 32, 22);
    /// 5 bits, f16 scale and minimum per 32.
    Q5_1 = block("Q5_1", 7, 32, 24);
    /// 8 bits, one f16 scale per 32.
    Q8_0 = block("Q8_0", 8, 32, 34);
    /// 8 bits, f16 scale and sum per 32; activations only.
    Q8_1 = block("Q8_1", 9, 32, 36);
    /// 2 bits, 4-bit scales and minimums per 16 of 256.
    Q2_K = block("Q2_K", 10, 256, 84);
    /// 3 bits, 6-bit scales per 16 of 256.
    Q3_K = block("Q3_K", 11, 256, 110);
    /// 4 bits, 6-bit scales and minimums per 32 of 256.
    Q4_K = block("Q4_K", 12, 256, 144);
    /// 5 bits, 6-bit scales and minimums per 32 of 256.
    Q5_K = block("Q5_K", 13, 256, 176);
    /// 6 bits, 8-bit scales per 16 of 256.
    Q6_K = block("Q6_K", 14, 256, 210);
    /// 8 bits, f32 scale and sums per 256; activations only.
    Q8_K = block("Q8_K", 15, 256, 292);
    /// 2.0625 bits, codebook.
    IQ2_XXS = block("IQ2_XXS", 16, 256, 66);
    /// 2.3125 bits, codebook.
    IQ2_XS = block("IQ2_XS", 17, 256, 74);
    /// 3.0625 bits, codebook.
    IQ3_XXS = block("IQ3_XXS", 18, 256, 98);
    /// 1.5625 bits, codebook.
    IQ1_S = block("IQ1_S", 19, 256, 50);
    /// 4 bits, non-linear levels, one f16 scale per 32.
    IQ4_NL = block("IQ4_NL", 20, 32, 18);
    /// 3.4375 bits, codebook.
    IQ3_S = block("IQ3_S", 21, 256, 110);
    /// 2.5625 bits, codebook.
    IQ2_S = block("IQ2_S", 22, 256, 82);
    /// 4 bits, non-linear levels, 6-bit scales per 32 of 256.
    IQ4_XS = block("IQ4_XS", 23, 256, 136);
    /// 1.75 bits, codebook.
    IQ1_M = block("IQ1_M", 29, 256, 56);
    /// Ternary, base 3.
    TQ1_0 = block("TQ1_0", 34, 256, 54);
    /// Ternary, 2 bits.
    TQ2_0 = block("TQ2_0", 35, 256, 66);
    /// OCP microscaling 4-bit float, E8M0 scale per 32.
    MXFP4 = block("MXFP4", 39, 32, 17);
    /// 4-bit float, E4M3 scale per 16 of 64.
    NVFP4 = block("NVFP4", 40, 64, 36);
    /// Sign bits, one f16 scale per 128.
    Q1_0 = block("Q1_0", 41, 128, 18);
    /// 2 bits, one f16 scale per 64.
    Q2_0 = block("Q2_0", 42, 64, 18);
}

/// Ids that once named a type and no longer do, with the type's name.
const REMOVED_GGML_TYPES: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl DataType {
    /// The type with this GGUF id.
    pub fn from_ggml(id: GgmlTypeId) -> Option<Self> {
        DATA_TYPES.iter().copied().find(|data_type| data_type.0.ggml == Some(id))
    }

    /// The name of a type that GGUF dropped, if `id` was one.
    pub fn removed_ggml_name(id: GgmlTypeId) -> Option<&'static str> {
        REMOVED_GGML_TYPES.iter().find(|(removed, _)| *removed == id.0).map(|(_, name)| *name)
    }

    /// The type that safetensors headers call `name`.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        DATA_TYPES.iter().copied().find(|data_type| data_type.0.safetensors == Some(name))
    }

    /// The type called `name`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        DATA_TYPES.iter().copied().find(|data_type| data_type.0.name.eq_ignore_ascii_case(name))
    }

    /// The type's row in the table.
    pub const fn spec(self) -> &'static TypeSpec {
        self.0
    }

    /// The field's name of the type.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Elements in one block.
    pub const fn block_elements(self) -> usize {
        self.0.block_elements as usize
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        self.0.block_bytes as usize
    }

    /// True for types whose elements share a block (scales, codebooks).
    pub fn is_block(self) -> bool {
        self.0.block_elements > 1
    }

    /// Bits one weight takes, scales included.
    pub fn bits_per_weight(self) -> f64 {
        f64::from(self.0.block_bytes) * 8.0 / f64::from(self.0.block_elements)
    }

    /// Bytes of `elements` consecutive elements.
    ///
    /// # Errors
    /// If they do not fill whole blocks, or the size overflows.
    pub fn byte_size(self, elements: u64) -> Result<u64, SizeError> {
        let block_elements = u64::from(self.0.block_elements);
        if !elements.is_multiple_of(block_elements) {
            return Err(SizeError::PartialBlock { elements, data_type: self });
        }
        (elements / block_elements)
            .checked_mul(u64::from(self.0.block_bytes))
            .ok_or(SizeError::Overflow)
    }
}

impl PartialEq for DataType {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for DataType {}

impl std::hash::Hash for DataType {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name)
    }
}

impl fmt::Debug for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_unique() {
        for (position, a) in DATA_TYPES.iter().enumerate() {
            for b in &DATA_TYPES[position + 1..] {
                assert_ne!(a.name(), b.name());
                assert!(a.spec().ggml.is_none() || a.spec().ggml != b.spec().ggml, "{a} {b}");
                assert!(
                    a.spec().safetensors.is_none() || a.spec().safetensors != b.spec().safetensors
                );
            }
        }
    }

    #[test]
    fn removed_ids_name_no_type() {
        for (id, _) in REMOVED_GGML_TYPES {
            assert!(DataType::from_ggml(GgmlTypeId(*id)).is_none());
        }
    }

    #[test]
    fn sizes() {
        let check = |data_type: DataType, elements: u64, expected: Option<u64>| {
            assert_eq!(data_type.byte_size(elements).ok(), expected, "{elements} of {data_type}");
        };
        check(DataType::F32, 3, Some(12));
        check(DataType::Q4_K, 512, Some(288));
        check(DataType::Q4_K, 300, None);
        check(DataType::Q8_0, 0, Some(0));
        check(DataType::F64, u64::MAX, None);
    }
}
