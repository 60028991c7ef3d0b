//! File types: a base element type and the rules that give some tensors another.

use qz_tensor::DataType;

use crate::rule::Rule;
pub use crate::table::FILE_TYPES;

/// What a GGUF file as a whole is called.
#[derive(Debug)]
pub struct FileType {
    /// The name on the command line.
    pub name: &'static str,
    /// The number under `general.file_type` (`enum llama_ftype`).
    pub id: u32,
    /// What a quantizable tensor gets unless a rule says otherwise.
    pub base: DataType,
    /// What the output matrix gets, or a token embedding that stands for it, if
    /// its rows fill the base type's blocks (Q8_0 if not).
    pub output: DataType,
    /// The first rule that fits decides; the lists are asked in order.
    pub rules: &'static [&'static [Rule]],
    /// True if tensors of the base type are useless without importance weights
    /// although their codec can do without.
    pub base_requires_importance: bool,
}

/// Names that llama-quantize also takes.
const ALIASES: &[(&str, &str)] = &[("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q5_k", "q5_k_m")];

/// Types whose search is useless without importance weights
/// (llama-quant.cpp, `tensor_requires_imatrix`).
const REQUIRE_IMPORTANCE: &[DataType] = &[
    DataType::IQ3_XXS,
    DataType::IQ2_XXS,
    DataType::IQ2_XS,
    DataType::IQ2_S,
    DataType::IQ1_M,
    DataType::IQ1_S,
];

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

    /// The element types its rules can name, some more than once.
    pub fn data_types(&self) -> impl Iterator<Item = DataType> {
        let named = self.rules.iter().flat_map(|rules| *rules).map(|rule| rule.data_type);
        [self.base, self.output].into_iter().chain(named)
    }

    /// True if a tensor of this type in this file needs importance weights. The
    /// embedding and the output matrix, which statistics do not cover, never do.
    pub(crate) fn requires_importance(&self, name: &str, data_type: DataType) -> bool {
        const NOT_COVERED: [&str; 3] =
            ["token_embd.weight", "per_layer_token_embd.weight", "output.weight"];
        !NOT_COVERED.contains(&name)
            && (REQUIRE_IMPORTANCE.contains(&data_type)
                || self.base_requires_importance && data_type == self.base)
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
    fn aliases() {
        let check =
            |name, expected| assert_eq!(FileType::from_name(name).map(|t| t.name), expected);
        check("Q4_K_M", Some("q4_k_m"));
        check("q4_k", Some("q4_k_m"));
        check("q9_k", None);
    }

    #[test]
    fn importance_is_required_where_the_result_is_useless_without() {
        let check = |file_type: &str, name: &str, data_type, expected: bool| {
            let file_type = FileType::from_name(file_type).expect("known");
            assert_eq!(file_type.requires_importance(name, data_type), expected, "{name}");
        };
        check("iq3_xxs", "blk.0.attn_q.weight", DataType::IQ2_S, true);
        check("iq3_xxs", "blk.0.attn_v.weight", DataType::IQ3_S, false);
        check("iq2_xxs", "token_embd.weight", DataType::IQ2_XXS, false);
        check("q2_k", "blk.0.attn_q.weight", DataType::Q2_K, false);
        check("q2_k_s", "blk.0.attn_q.weight", DataType::Q2_K, true);
        check("q2_k_s", "output.weight", DataType::Q2_K, false);
        check("q4_k_m", "blk.0.attn_q.weight", DataType::IQ1_S, true);
    }
}
