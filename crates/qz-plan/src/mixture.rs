//! Applies a file type's rules to a model's tensors.

use qz_tensor::{DataType, Diagnose, Diagnosis, FaultClass, Location, Metadata, Shape, SizeError};

use crate::category::{TensorCategory, is_quantizable};
use crate::file_type::FileType;
use crate::order::layer_of;

/// The numbers of a model that the rules ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// Decoder layers.
    pub layers: usize,
    /// Query heads that share one key head (of the first layer).
    pub heads_per_key_head: u64,
    /// Experts of a mixture-of-experts model; 0 in a dense one.
    pub experts: u64,
    /// 80 layers of grouped-query attention in the `llama` or `qwen2`
    /// architecture: what llama.cpp calls type 70B and treats specially.
    pub is_seventy_billion: bool,
}

impl ModelFacts {
    /// Reads the numbers from GGUF metadata; missing ones count as in llama.cpp.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        let number = |key: &str| first_unsigned(metadata, &format!("{architecture}.{key}"));
        let layers = number("block_count").unwrap_or(0);
        let heads = number("attention.head_count").unwrap_or(0);
        let key_heads = number("attention.head_count_kv").unwrap_or(heads);
        let seventy = match architecture {
            "llama" => heads != key_heads,
            "qwen2" => true,
            _ => false,
        };
        Self {
            layers: usize::try_from(layers).unwrap_or(usize::MAX),
            heads_per_key_head: heads.checked_div(key_heads).unwrap_or(0),
            experts: number("expert_count").unwrap_or(0),
            is_seventy_billion: seventy && layers == 80,
        }
    }
}

/// A number, or the first of an array of numbers (one per layer).
fn first_unsigned(metadata: &Metadata, key: &str) -> Option<u64> {
    use qz_tensor::{Array, Value};
    match metadata.get(key)? {
        Value::Array(Array::U32(values)) => values.first().map(|value| u64::from(*value)),
        Value::Array(Array::I32(values)) => u64::try_from(*values.first()?).ok(),
        _ => metadata.unsigned(key),
    }
}

/// A tensor whose type is to be decided.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// The GGUF name.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Shape,
    /// What it keeps if the file type must not touch it.
    pub unquantized: DataType,
}

/// What a tensor gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The type it will have.
    pub data_type: DataType,
    /// The type the rules named first, whose blocks its rows do not fill.
    pub fallback_from: Option<DataType>,
}

/// Why a plan cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A row does not fill whole blocks, and no other type may stand in.
    #[error("{tensor}: a row of {columns} weights does not fill blocks of {} ({data_type}), and falling back to another type is not allowed", data_type.block_elements())]
    RowDoesNotFit {
        /// The tensor.
        tensor: String,
        /// Weights in a row.
        columns: u64,
        /// The type it was to get.
        data_type: DataType,
    },
    /// A size overflows.
    #[error("{tensor}: {source}")]
    Size {
        /// The tensor.
        tensor: String,
        /// How.
        source: SizeError,
    },
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let (tensor, rule) = match self {
            Self::RowDoesNotFit { tensor, .. } => (tensor, "row-does-not-fit"),
            Self::Size { tensor, .. } => (tensor, "size"),
        };
        Diagnosis {
            class: FaultClass::BadInput,
            location: Location::default().tensor(tensor),
            rule,
        }
    }
}

/// How strictly a plan follows its file type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Rows that do not fit get llama.cpp's stand-in type.
    Allowed,
    /// Rows that do not fit are an error (`--no-fallback`).
    Refused,
}

/// The type of each tensor, in the order given. Tensors must come in the order of
/// [`crate::layer_then_name`]: the rules count them.
///
/// # Errors
/// If a tensor's rows do not fit the blocks of its type and may not fall back, or
/// a size overflows.
pub fn assign(
    file_type: &FileType,
    facts: &ModelFacts,
    tensors: &[PlannedTensor],
    fallback: Fallback,
) -> Result<Vec<Assignment>, Error> {
    let mut mixture = Mixture::new(file_type, facts, tensors);
    tensors
        .iter()
        .map(|tensor| {
            let first = mixture.data_type(tensor);
            let data_type = fitting(first, &tensor.shape);
            if data_type != first && fallback == Fallback::Refused {
                return Err(Error::RowDoesNotFit {
                    tensor: tensor.name.clone(),
                    columns: tensor.shape.columns(),
                    data_type: first,
                });
            }
            let size = tensor.shape.byte_size(data_type);
            size.map_err(|source| Error::Size { tensor: tensor.name.clone(), source })?;
            Ok(Assignment { data_type, fallback_from: (data_type != first).then_some(first) })
        })
        .collect()
}

/// Types with smaller blocks that stand in for those with larger ones
/// (llama-quant.cpp, `tensor_type_fallback`).
const STAND_INS: &[(DataType, DataType)] = &[
    (DataType::IQ1_S, DataType::IQ4_NL),
    (DataType::IQ1_M, DataType::IQ4_NL),
    (DataType::IQ2_XXS, DataType::IQ4_NL),
    (DataType::IQ2_XS, DataType::IQ4_NL),
    (DataType::IQ2_S, DataType::IQ4_NL),
    (DataType::IQ3_XXS, DataType::IQ4_NL),
    (DataType::IQ3_S, DataType::IQ4_NL),
    (DataType::IQ4_XS, DataType::IQ4_NL),
    (DataType::Q2_0, DataType::Q4_0),
    (DataType::Q2_K, DataType::Q4_0),
    (DataType::Q3_K, DataType::Q4_0),
    (DataType::TQ1_0, DataType::Q4_0),
    (DataType::TQ2_0, DataType::Q4_0),
    (DataType::Q4_K, DataType::Q5_0),
    (DataType::Q5_K, DataType::Q5_1),
    (DataType::Q6_K, DataType::Q8_0),
];

/// `data_type` if the rows fill its blocks, else its stand-in, else f16.
fn fitting(data_type: DataType, shape: &Shape) -> DataType {
    let fits = |data_type: &DataType| shape.row_bytes(*data_type).is_ok();
    let stand_in = STAND_INS.iter().find(|(from, _)| *from == data_type).map(|(_, to)| *to);
    [Some(data_type), stand_in].into_iter().flatten().find(fits).unwrap_or(DataType::F16)
}

/// A file type at work on one model: rules refer to the how-manieth tensor of a
/// category this is, so it counts.
struct Mixture<'a> {
    file_type: &'a FileType,
    facts: &'a ModelFacts,
    value_tensors: usize,
    values_seen: usize,
    downs_seen: usize,
    is_tied: bool,
}

impl<'a> Mixture<'a> {
    fn new(file_type: &'a FileType, facts: &'a ModelFacts, tensors: &[PlannedTensor]) -> Self {
        let count = |category| {
            tensors.iter().filter(|tensor| TensorCategory::of(&tensor.name) == category).count()
        };
        Self {
            file_type,
            facts,
            value_tensors: count(TensorCategory::AttentionValue),
            values_seen: 0,
            downs_seen: 0,
            is_tied: count(TensorCategory::Output) == 0,
        }
    }

    fn data_type(&mut self, tensor: &PlannedTensor) -> DataType {
        if !is_quantizable(&tensor.name, &tensor.shape) {
            return tensor.unquantized;
        }
        if !self.file_type.base.is_block() {
            return self.file_type.base;
        }
        match TensorCategory::of(&tensor.name) {
            TensorCategory::Output => self.output_type(tensor),
            TensorCategory::TokenEmbedding if self.is_tied => self.output_type(tensor),
            category => {
                let (position, count) = self.position(category, &tensor.name);
                let by_rule = self.by_rule(category, position, count);
                self.special_models(category, by_rule)
            }
        }
    }

    /// The output matrix gets at least Q6_K, unless its rows do not fit.
    fn output_type(&self, tensor: &PlannedTensor) -> DataType {
        let base = self.file_type.base;
        let fits = tensor.shape.columns().is_multiple_of(base.block_elements() as u64);
        if base == DataType::Q8_0 || !fits { DataType::Q8_0 } else { DataType::Q6_K }
    }

    /// Which of how many tensors of its category this is. Values are counted one
    /// by one; down projections by layer, by name where there are experts.
    fn position(&mut self, category: TensorCategory, name: &str) -> (usize, usize) {
        let next = |seen: &mut usize| {
            *seen += 1;
            *seen - 1
        };
        match category {
            TensorCategory::AttentionValue => (next(&mut self.values_seen), self.value_tensors),
            TensorCategory::FeedForwardDown => {
                let counted = next(&mut self.downs_seen);
                let layer = layer_of(name).filter(|_| self.facts.experts > 1);
                (layer.map_or(counted, |layer| layer as usize), self.facts.layers)
            }
            _ => (0, 0),
        }
    }

    fn by_rule(&self, category: TensorCategory, position: usize, count: usize) -> DataType {
        self.file_type
            .rules
            .iter()
            .find(|rule| {
                rule.category == category
                    && rule.condition.holds(position, count, self.facts.heads_per_key_head)
            })
            .map_or(self.file_type.base, |rule| rule.data_type)
    }

    /// Promotions that llama.cpp makes for two well-known model shapes.
    fn special_models(&self, category: TensorCategory, data_type: DataType) -> DataType {
        let eight_experts = self.facts.experts == 8;
        match category {
            TensorCategory::AttentionValue | TensorCategory::AttentionKey if eight_experts => {
                DataType::Q8_0
            }
            TensorCategory::AttentionOutput if eight_experts => {
                if self.file_type.promotes_attention_output_of_eight_experts {
                    DataType::Q5_K
                } else {
                    self.file_type.base
                }
            }
            TensorCategory::AttentionValue
                if self.facts.is_seventy_billion
                    && (data_type == DataType::Q3_K || data_type == DataType::Q4_K) =>
            {
                DataType::Q5_K
            }
            _ => data_type,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const DENSE: ModelFacts =
        ModelFacts { layers: 16, heads_per_key_head: 2, experts: 0, is_seventy_billion: false };
    const ALL: &str = "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15";
    const MORE_BITS: &str = "0 1 4 7 10 13 14 15";

    fn model(layers: usize, is_tied: bool) -> Vec<PlannedTensor> {
        let mut names = vec!["token_embd.weight".to_owned()];
        if !is_tied {
            names.insert(0, "output.weight".to_owned());
        }
        for layer in 0..layers {
            for part in ["attn_k", "attn_output", "attn_v", "ffn_down", "ffn_up"] {
                names.push(format!("blk.{layer}.{part}.weight"));
            }
        }
        let shape = Shape::new([512, 256]).expect("fits");
        let planned =
            |name| PlannedTensor { name, shape: shape.clone(), unquantized: DataType::F32 };
        names.into_iter().map(planned).collect()
    }

    /// "part TYPE: layers" for all tensors that do not get the base type.
    fn exceptions(name: &str, facts: &ModelFacts, is_tied: bool) -> Vec<String> {
        let file_type = FileType::from_name(name).expect("known");
        let tensors = model(facts.layers, is_tied);
        let types = assign(file_type, facts, &tensors, Fallback::Refused).expect("fits");
        let types = types.iter().map(|assignment| assignment.data_type);
        let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tensor, data_type) in tensors.iter().zip(types).filter(|(_, t)| *t != file_type.base) {
            let part = tensor.name.split('.').rev().nth(1).expect("a part");
            let layer = layer_of(&tensor.name).map_or("-".to_owned(), |layer| layer.to_string());
            lines.entry(format!("{part} {data_type}")).or_default().push(layer);
        }
        lines.iter().map(|(key, layers)| format!("{key}: {}", layers.join(" "))).collect()
    }

    fn check(name: &str, facts: &ModelFacts, is_tied: bool, expected: &[&str]) {
        assert_eq!(exceptions(name, facts, is_tied), expected, "{name} {facts:?} tied {is_tied}");
    }

    #[test]
    fn mixtures_of_a_dense_model() {
        check("f16", &DENSE, false, &[]);
        check("q8_0", &DENSE, false, &[]);
        check("q6_k", &DENSE, false, &[]);
        check("q3_k_s", &DENSE, false, &["output Q6_K: -"]);
        check("q5_k_s", &DENSE, false, &["output Q6_K: -"]);
        let first_layers = ["attn_v Q5_K: 0 1 2 3", "ffn_down Q5_K: 0 1", "output Q6_K: -"];
        check("q4_k_s", &DENSE, false, &first_layers);
        let more_bits = [
            &format!("attn_v Q6_K: {MORE_BITS}"),
            &*format!("ffn_down Q6_K: {MORE_BITS}"),
            "output Q6_K: -",
        ];
        check("q4_k_m", &DENSE, false, &more_bits);
        check("q5_k_m", &DENSE, false, &more_bits);
    }

    #[test]
    fn mixtures_of_two_and_three_bits() {
        let all = |part: &str| format!("{part}: {ALL}");
        let (down, output, value) =
            (all("ffn_down Q3_K"), all("attn_output Q3_K"), all("attn_v Q3_K"));
        check("q2_k", &DENSE, false, &[&output, &value, &down, "output Q6_K: -"]);
        let grouped = ModelFacts { heads_per_key_head: 4, ..DENSE };
        check("q2_k", &grouped, false, &[&output, &all("attn_v Q4_K"), &down, "output Q6_K: -"]);
        check(
            "q3_k_m",
            &DENSE,
            false,
            &[
                &all("attn_output Q4_K"),
                &format!("attn_v Q4_K: {}", &ALL[4..]),
                "attn_v Q5_K: 0 1",
                &format!("ffn_down Q4_K: {}", &ALL[2..]),
                "ffn_down Q5_K: 0",
                "output Q6_K: -",
            ],
        );
        let large = [
            &*all("attn_output Q5_K"),
            &all("attn_v Q5_K"),
            &all("ffn_down Q5_K"),
            "output Q6_K: -",
        ];
        check("q3_k_l", &DENSE, false, &large);
    }

    #[test]
    fn a_tied_embedding_is_the_output() {
        check("q5_k_s", &DENSE, true, &["token_embd Q6_K: -"]);
        check("q8_0", &DENSE, true, &[]);
    }

    #[test]
    fn promoted_models() {
        let experts = ModelFacts { layers: 2, experts: 8, ..DENSE };
        check(
            "q4_k_s",
            &experts,
            false,
            &["attn_k Q8_0: 0 1", "attn_output Q5_K: 0 1", "attn_v Q8_0: 0 1", "output Q6_K: -"],
        );
        let seventy = ModelFacts { layers: 2, is_seventy_billion: true, ..DENSE };
        check("q3_k_s", &seventy, false, &["attn_v Q5_K: 0 1", "output Q6_K: -"]);
    }

    #[test]
    fn rows_that_do_not_fit_fall_back_or_are_named() {
        let name = "blk.0.ffn_up.weight";
        let assign_one = |file_type: &str, columns: u64, fallback| {
            let shape = Shape::new([16, columns]).expect("fits");
            let tensor = PlannedTensor { name: name.into(), shape, unquantized: DataType::F32 };
            let file_type = FileType::from_name(file_type).expect("known");
            assign(file_type, &DENSE, &[tensor], fallback)
        };
        let check = |file_type: &str, columns: u64, expected: DataType, from: Option<DataType>| {
            let types = assign_one(file_type, columns, Fallback::Allowed).expect("falls back");
            assert_eq!(types, [Assignment { data_type: expected, fallback_from: from }]);
        };
        check("q4_k_s", 512, DataType::Q4_K, None);
        check("q4_k_s", 96, DataType::Q5_0, Some(DataType::Q4_K));
        check("q5_k_s", 96, DataType::Q5_1, Some(DataType::Q5_K));
        check("q2_k", 96, DataType::Q4_0, Some(DataType::Q2_K));
        check("q6_k", 96, DataType::Q8_0, Some(DataType::Q6_K));
        check("q6_k", 100, DataType::F16, Some(DataType::Q6_K));
        check("q8_0", 100, DataType::F16, Some(DataType::Q8_0));
        let error = assign_one("q4_k_s", 96, Fallback::Refused).expect_err("may not fall back");
        assert_eq!(error.diagnosis().location.tensor.as_deref(), Some(name));
        assert_eq!(error.diagnosis().rule, "row-does-not-fit");
    }

    #[test]
    fn facts_come_from_metadata() {
        let metadata: Metadata = [
            ("general.architecture", qz_tensor::Value::from("llama")),
            ("llama.block_count", 80u32.into()),
            ("llama.attention.head_count", 64u32.into()),
            ("llama.attention.head_count_kv", 8u32.into()),
        ]
        .into_iter()
        .collect();
        let expected =
            ModelFacts { layers: 80, heads_per_key_head: 8, experts: 0, is_seventy_billion: true };
        assert_eq!(ModelFacts::from_metadata(&metadata), expected);
    }
}
