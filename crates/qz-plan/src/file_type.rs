//! File types: a base element type and the rules that give some tensors another.
//! The rules are llama.cpp's (llama-quant.cpp, `llama_tensor_get_type_impl`),
//! written as data.

use qz_tensor::DataType;

use crate::category::TensorCategory::{self, AttentionOutput, AttentionValue, FeedForwardDown};

/// What a GGUF file as a whole is called.
#[derive(Debug)]
pub struct FileType {
    /// The name on the command line.
    pub name: &'static str,
    /// The number under `general.file_type` (`enum llama_ftype`).
    pub id: u32,
    /// What a quantizable tensor gets unless a rule says otherwise.
    pub base: DataType,
    /// The first rule that fits decides.
    pub rules: &'static [Rule],
    /// Gives attention outputs of models with exactly eight experts Q5_K.
    pub promotes_attention_output_of_eight_experts: bool,
}

/// Gives tensors of a category another type.
#[derive(Debug)]
pub struct Rule {
    /// Which tensors.
    pub category: TensorCategory,
    /// Which of them.
    pub condition: Condition,
    /// What they get.
    pub data_type: DataType,
}

/// Picks tensors of a category by their position among `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// All.
    Always,
    /// The first this many.
    First(usize),
    /// The first `count / this`.
    FirstPart(usize),
    /// The first and last eighth, and every third between.
    MoreBits,
    /// All, in models where at least four query heads share a key head.
    GroupedQuery,
}

impl Condition {
    /// True for the tensor at `position` of `count`; `group` query heads share a
    /// key head.
    pub fn holds(self, position: usize, count: usize, group: u64) -> bool {
        match self {
            Self::Always => true,
            Self::First(limit) => position < limit,
            Self::FirstPart(parts) => position < count / parts,
            Self::MoreBits => {
                let eighth = count / 8;
                position < eighth || position >= 7 * count / 8 || (position - eighth) % 3 == 2
            }
            Self::GroupedQuery => group >= 4,
        }
    }
}

const fn rule(category: TensorCategory, condition: Condition, data_type: DataType) -> Rule {
    Rule { category, condition, data_type }
}

const fn plain(name: &'static str, id: u32, base: DataType) -> FileType {
    mixed(name, id, base, &[])
}

const fn mixed(name: &'static str, id: u32, base: DataType, rules: &'static [Rule]) -> FileType {
    FileType { name, id, base, rules, promotes_attention_output_of_eight_experts: false }
}

const fn promoting(file_type: FileType) -> FileType {
    FileType { promotes_attention_output_of_eight_experts: true, ..file_type }
}

use Condition::{Always, First, FirstPart, GroupedQuery, MoreBits};

/// Every file type that can be written. Command line values, help and tests walk
/// this list.
pub static FILE_TYPES: &[FileType] = &[
    plain("f32", 0, DataType::F32),
    plain("f16", 1, DataType::F16),
    plain("bf16", 32, DataType::BF16),
    plain("q8_0", 7, DataType::Q8_0),
    promoting(mixed(
        "q2_k",
        10,
        DataType::Q2_K,
        &[
            rule(AttentionValue, GroupedQuery, DataType::Q4_K),
            rule(AttentionValue, Always, DataType::Q3_K),
            rule(FeedForwardDown, Always, DataType::Q3_K),
            rule(AttentionOutput, Always, DataType::Q3_K),
        ],
    )),
    promoting(plain("q3_k_s", 11, DataType::Q3_K)),
    promoting(mixed(
        "q3_k_m",
        12,
        DataType::Q3_K,
        &[
            rule(AttentionValue, First(2), DataType::Q5_K),
            rule(AttentionValue, Always, DataType::Q4_K),
            rule(FeedForwardDown, FirstPart(16), DataType::Q5_K),
            rule(FeedForwardDown, Always, DataType::Q4_K),
            rule(AttentionOutput, Always, DataType::Q4_K),
        ],
    )),
    mixed(
        "q3_k_l",
        13,
        DataType::Q3_K,
        &[
            rule(AttentionValue, Always, DataType::Q5_K),
            rule(FeedForwardDown, Always, DataType::Q5_K),
            rule(AttentionOutput, Always, DataType::Q5_K),
        ],
    ),
    promoting(mixed(
        "q4_k_s",
        14,
        DataType::Q4_K,
        &[
            rule(AttentionValue, First(4), DataType::Q5_K),
            rule(FeedForwardDown, FirstPart(8), DataType::Q5_K),
        ],
    )),
    promoting(mixed(
        "q4_k_m",
        15,
        DataType::Q4_K,
        &[
            rule(AttentionValue, MoreBits, DataType::Q6_K),
            rule(FeedForwardDown, MoreBits, DataType::Q6_K),
        ],
    )),
    plain("q5_k_s", 16, DataType::Q5_K),
    mixed(
        "q5_k_m",
        17,
        DataType::Q5_K,
        &[
            rule(AttentionValue, MoreBits, DataType::Q6_K),
            rule(FeedForwardDown, MoreBits, DataType::Q6_K),
        ],
    ),
    plain("q6_k", 18, DataType::Q6_K),
];

/// Names that llama-quantize also takes.
const ALIASES: &[(&str, &str)] = &[("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q5_k", "q5_k_m")];

impl FileType {
    /// The file type called `name`, in any case, or by an alias.
    pub fn from_name(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase();
        let name =
            ALIASES.iter().find(|(alias, _)| *alias == name).map_or(&*name, |(_, full)| full);
        FILE_TYPES.iter().find(|file_type| file_type.name == name)
    }

    /// The file type with this number.
    pub fn from_id(id: u32) -> Option<&'static Self> {
        FILE_TYPES.iter().find(|file_type| file_type.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_unique() {
        for (position, a) in FILE_TYPES.iter().enumerate() {
            for b in &FILE_TYPES[position + 1..] {
                assert!(a.name != b.name && a.id != b.id, "{} {}", a.name, b.name);
            }
        }
    }

    #[test]
    fn more_bits_promotes_half() {
        let promoted =
            |count| (0..count).filter(|position| MoreBits.holds(*position, count, 1)).count();
        let check = |count, expected| assert_eq!(promoted(count), expected, "of {count}");
        check(28, 14);
        check(32, 16);
        check(80, 40);
        check(6, 2);
        check(1, 1);
    }

    #[test]
    fn aliases() {
        let check =
            |name, expected| assert_eq!(FileType::from_name(name).map(|t| t.name), expected);
        check("Q4_K_M", Some("q4_k_m"));
        check("q4_k", Some("q4_k_m"));
        check("q9_k", None);
    }
}
