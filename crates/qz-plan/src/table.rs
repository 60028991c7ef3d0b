//! Every file type, with llama.cpp's rules as data: llama-quant.cpp,
//! `llama_ftype_get_default_type` (bases) and `llama_tensor_get_type_impl`
//! (rules). `cargo xtask snapshots` compares them with the reference's own
//! record of its choices.

use qz_tensor::DataType;

use crate::category::TensorCategory::{
    self, AttentionKey as Key, AttentionOutput as Merge, AttentionQuery as Query,
    AttentionValue as Value, FeedForwardDown as Down, FeedForwardGate as Gate, FeedForwardUp as Up,
    TokenEmbedding as Embedding,
};
use crate::file_type::FileType;
use crate::rule::Condition::{
    self, Architecture, CountedFirstPart, EightExperts, Experts, First, FirstPart, GroupedQuery,
    Importance, Inner, MoreBits, NoImportance, SeventyBillion, Stacked,
};
use crate::rule::Rule;

const fn rule(
    category: TensorCategory,
    conditions: &'static [Condition],
    data_type: DataType,
) -> Rule {
    Rule { category: Some(category), conditions, data_type }
}

const fn any(conditions: &'static [Condition], data_type: DataType) -> Rule {
    Rule { category: None, conditions, data_type }
}

const fn plain(name: &'static str, id: u32, base: DataType) -> FileType {
    mixed(name, id, base, &[])
}

const fn mixed(
    name: &'static str,
    id: u32,
    base: DataType,
    rules: &'static [&'static [Rule]],
) -> FileType {
    FileType { name, id, base, output: DataType::Q6_K, rules, base_requires_importance: false }
}

const fn with_output(file_type: FileType, output: DataType) -> FileType {
    FileType { output, ..file_type }
}

const FALCON: Condition = Architecture("falcon");
const BAILING: Condition = Architecture("bailingmoe3");

/// In models of Mixtral's shape eight bits for these cost little.
static MIXTRAL: &[Rule] =
    &[rule(Value, &[EightExperts], DataType::Q8_0), rule(Key, &[EightExperts], DataType::Q8_0)];

/// Attention outputs of such models in the file types below five bits; the other
/// rules for attention outputs do not apply to them.
static MIXTRAL_MERGE: &[Rule] = &[rule(Merge, &[EightExperts], DataType::Q5_K)];

static MIXTRAL_BELOW_THREE_BITS: &[Rule] =
    &[rule(Key, &[EightExperts], DataType::Q4_K), rule(Merge, &[EightExperts], DataType::Q5_K)];

/// Values of models in which they are small beside the rest.
static SMALL_VALUES: &[Rule] =
    &[rule(Value, &[GroupedQuery], DataType::Q4_K), rule(Value, &[Experts(4)], DataType::Q4_K)];

/// The same for file types above: where values would get three or four bits, the
/// 70B shape gets five.
static SMALL_VALUES_OF_SEVENTY: &[Rule] = &[
    rule(Value, &[GroupedQuery, SeventyBillion], DataType::Q5_K),
    rule(Value, &[GroupedQuery], DataType::Q4_K),
];

static MORE_BITS: &[Rule] =
    &[rule(Value, &[MoreBits], DataType::Q6_K), rule(Down, &[MoreBits], DataType::Q6_K)];

static FIRST_EIGHTH_TWO_BITS: &[Rule] = &[
    rule(Embedding, &[], DataType::Q2_K),
    rule(Value, &[], DataType::Q2_K),
    rule(Down, &[CountedFirstPart(8)], DataType::Q2_K),
];

static ABOVE_TWO_BITS: &[Rule] = &[
    rule(Embedding, &[], DataType::IQ3_S),
    rule(Value, &[], DataType::IQ3_S),
    rule(Down, &[CountedFirstPart(8)], DataType::IQ3_S),
    rule(Merge, &[], DataType::IQ3_S),
];

static TERNARY: &[Rule] = &[rule(Embedding, &[], DataType::Q4_K)];

static NON_LINEAR: &[&[Rule]] = &[
    MIXTRAL,
    MIXTRAL_MERGE,
    &[
        rule(Value, &[GroupedQuery], DataType::Q5_K),
        rule(Down, &[NoImportance, FirstPart(8)], DataType::Q5_K),
    ],
];

static TWO_BITS: &[&[Rule]] = &[SMALL_VALUES, MIXTRAL_BELOW_THREE_BITS, FIRST_EIGHTH_TWO_BITS];

static MORE_THAN_TWO_BITS: &[&[Rule]] = &[SMALL_VALUES, MIXTRAL_BELOW_THREE_BITS, ABOVE_TWO_BITS];

static ONE_BIT: &[&[Rule]] = &[
    SMALL_VALUES,
    MIXTRAL_BELOW_THREE_BITS,
    FIRST_EIGHTH_TWO_BITS,
    &[rule(Merge, &[], DataType::IQ2_XXS)],
];

/// Every file type. Command line values, help and tests walk this list.
pub static FILE_TYPES: &[FileType] = &[
    plain("f32", 0, DataType::F32),
    plain("f16", 1, DataType::F16),
    plain("bf16", 32, DataType::BF16),
    with_output(mixed("q8_0", 7, DataType::Q8_0, &[MIXTRAL]), DataType::Q8_0),
    mixed(
        "q4_0",
        2,
        DataType::Q4_0,
        // Some early down projections go wrong with importance and no minimum.
        &[MIXTRAL, &[rule(Down, &[Importance, FirstPart(8)], DataType::Q4_1)]],
    ),
    mixed("q4_1", 3, DataType::Q4_1, &[MIXTRAL]),
    mixed(
        "q5_0",
        8,
        DataType::Q5_0,
        &[MIXTRAL, &[rule(Down, &[Importance, FirstPart(8)], DataType::Q5_1)]],
    ),
    mixed("q5_1", 9, DataType::Q5_1, &[MIXTRAL]),
    mixed(
        "q2_k",
        10,
        DataType::Q2_K,
        &[
            MIXTRAL,
            &[
                rule(Value, &[SeventyBillion], DataType::Q5_K),
                rule(Value, &[GroupedQuery], DataType::Q4_K),
                rule(Value, &[], DataType::Q3_K),
                rule(Down, &[], DataType::Q3_K),
                rule(Merge, &[FALCON], DataType::Q2_K),
            ],
            MIXTRAL_MERGE,
            &[rule(Merge, &[], DataType::Q3_K)],
        ],
    ),
    FileType {
        base_requires_importance: true,
        ..mixed(
            "q2_k_s",
            21,
            DataType::Q2_K,
            &[MIXTRAL, SMALL_VALUES_OF_SEVENTY, &[rule(Down, &[FirstPart(8)], DataType::Q4_K)]],
        )
    },
    mixed(
        "q3_k_s",
        11,
        DataType::Q3_K,
        &[MIXTRAL, MIXTRAL_MERGE, &[rule(Value, &[SeventyBillion], DataType::Q5_K)]],
    ),
    mixed(
        "q3_k_m",
        12,
        DataType::Q3_K,
        &[
            MIXTRAL,
            &[
                rule(Value, &[SeventyBillion], DataType::Q5_K),
                rule(Value, &[First(2)], DataType::Q5_K),
                rule(Value, &[], DataType::Q4_K),
                rule(Down, &[FirstPart(16)], DataType::Q5_K),
                rule(Down, &[FALCON, MoreBits], DataType::Q4_K),
                rule(Down, &[FALCON], DataType::Q3_K),
                rule(Down, &[], DataType::Q4_K),
                rule(Merge, &[FALCON], DataType::Q3_K),
            ],
            MIXTRAL_MERGE,
            &[rule(Merge, &[], DataType::Q4_K)],
        ],
    ),
    mixed(
        "q3_k_l",
        13,
        DataType::Q3_K,
        &[
            MIXTRAL,
            &[
                rule(Value, &[], DataType::Q5_K),
                rule(Down, &[FALCON], DataType::Q4_K),
                rule(Down, &[], DataType::Q5_K),
                rule(Merge, &[FALCON], DataType::Q4_K),
                rule(Merge, &[EightExperts], DataType::Q3_K),
                rule(Merge, &[], DataType::Q5_K),
            ],
        ],
    ),
    mixed(
        "q4_k_s",
        14,
        DataType::Q4_K,
        &[
            MIXTRAL,
            MIXTRAL_MERGE,
            &[
                rule(Value, &[SeventyBillion], DataType::Q5_K),
                rule(Value, &[First(4)], DataType::Q5_K),
                rule(Down, &[FALCON], DataType::Q4_K),
                rule(Down, &[FirstPart(8)], DataType::Q5_K),
            ],
        ],
    ),
    mixed(
        "q4_k_m",
        15,
        DataType::Q4_K,
        &[
            MIXTRAL,
            MIXTRAL_MERGE,
            &[
                rule(Down, &[FALCON, FirstPart(16)], DataType::Q6_K),
                rule(Down, &[FALCON, MoreBits], DataType::Q5_K),
                rule(Down, &[FALCON], DataType::Q4_K),
            ],
            MORE_BITS,
            &[rule(Value, &[SeventyBillion], DataType::Q5_K)],
        ],
    ),
    mixed("q5_k_s", 16, DataType::Q5_K, &[MIXTRAL]),
    mixed("q5_k_m", 17, DataType::Q5_K, &[MIXTRAL, MORE_BITS]),
    mixed("q6_k", 18, DataType::Q6_K, &[MIXTRAL]),
    mixed("iq4_nl", 25, DataType::IQ4_NL, NON_LINEAR),
    mixed("iq4_xs", 30, DataType::IQ4_XS, NON_LINEAR),
    with_output(
        mixed(
            "iq3_xxs",
            23,
            DataType::IQ3_XXS,
            &[
                MIXTRAL,
                SMALL_VALUES_OF_SEVENTY,
                &[
                    rule(Embedding, &[], DataType::IQ3_S),
                    rule(Value, &[NoImportance], DataType::IQ3_S),
                    rule(Key, &[], DataType::IQ2_S),
                    rule(Query, &[], DataType::IQ2_S),
                    rule(Down, &[NoImportance, FirstPart(8)], DataType::Q4_K),
                    rule(Down, &[NoImportance], DataType::Q3_K),
                    rule(Merge, &[FALCON], DataType::IQ3_XXS),
                ],
                MIXTRAL_MERGE,
                &[rule(Merge, &[], DataType::IQ3_S)],
            ],
        ),
        DataType::Q5_K,
    ),
    mixed(
        "iq3_xs",
        22,
        DataType::IQ3_S,
        &[
            MIXTRAL,
            MIXTRAL_MERGE,
            SMALL_VALUES_OF_SEVENTY,
            &[
                rule(Key, &[], DataType::IQ3_XXS),
                rule(Query, &[], DataType::IQ3_XXS),
                rule(Gate, &[Inner], DataType::IQ3_XXS),
                rule(Up, &[Inner], DataType::IQ3_XXS),
            ],
        ],
    ),
    mixed("iq3_s", 26, DataType::IQ3_S, &[MIXTRAL, MIXTRAL_MERGE, SMALL_VALUES_OF_SEVENTY]),
    mixed(
        "iq3_m",
        27,
        DataType::IQ3_S,
        &[
            MIXTRAL,
            &[
                rule(Value, &[SeventyBillion], DataType::Q5_K),
                rule(Value, &[], DataType::Q4_K),
                rule(Down, &[FirstPart(8)], DataType::Q4_K),
                rule(Down, &[EightExperts, MoreBits], DataType::Q4_K),
                rule(Merge, &[FALCON], DataType::IQ3_S),
            ],
            MIXTRAL_MERGE,
            &[rule(Merge, &[], DataType::Q4_K)],
        ],
    ),
    with_output(mixed("iq2_xxs", 19, DataType::IQ2_XXS, TWO_BITS), DataType::Q5_K),
    with_output(mixed("iq2_xs", 20, DataType::IQ2_XS, TWO_BITS), DataType::Q5_K),
    with_output(mixed("iq2_s", 28, DataType::IQ2_XS, MORE_THAN_TWO_BITS), DataType::Q5_K),
    with_output(mixed("iq2_m", 29, DataType::IQ2_S, MORE_THAN_TWO_BITS), DataType::Q5_K),
    with_output(mixed("iq1_s", 24, DataType::IQ1_S, ONE_BIT), DataType::Q5_K),
    with_output(mixed("iq1_m", 31, DataType::IQ1_M, ONE_BIT), DataType::Q5_K),
    mixed("tq1_0", 36, DataType::TQ1_0, &[MIXTRAL, TERNARY]),
    mixed("tq2_0", 37, DataType::TQ2_0, &[MIXTRAL, TERNARY]),
    mixed("q1_0", 40, DataType::Q1_0, &[MIXTRAL]),
    mixed("q2_0", 41, DataType::Q2_0, &[MIXTRAL, TERNARY]),
    with_output(
        mixed(
            "mxfp4_moe",
            38,
            DataType::MXFP4,
            // Experts alone get four bits. In one architecture other projections
            // are stacked, too.
            &[&[
                rule(Up, &[BAILING, Stacked], DataType::MXFP4),
                rule(Gate, &[BAILING, Stacked], DataType::MXFP4),
                rule(Down, &[BAILING, Stacked], DataType::MXFP4),
                any(&[BAILING], DataType::Q8_0),
                any(&[Stacked], DataType::MXFP4),
                any(&[], DataType::Q8_0),
            ]],
        ),
        DataType::Q8_0,
    ),
];
