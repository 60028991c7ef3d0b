//! The families of pre-tokenizers, in normal form, with their names in
//! `src/llama-vocab.cpp` of llama.cpp.

use serde_json::{Value, json};

use super::Evidence;
use super::definition::Step;
use super::patterns::*;

/// A step a family has.
pub(super) enum Wanted {
    /// A split by exactly this pattern.
    Split(&'static str),
    /// A split by a pattern that begins like this.
    SplitFrom(&'static str),
    /// Digits one by one.
    EachDigit,
    /// Digits in runs.
    DigitRuns,
    PunctuationRuns,
    /// Bytes to characters.
    Bytes,
    /// Bytes to characters after a split by GPT-2's pattern.
    Gpt2,
}

/// Steps, and the name among those that have them.
pub(super) struct Family {
    pub(super) steps: &'static [Wanted],
    pub(super) name: fn(&Evidence<'_>) -> &'static str,
    /// Every name that llama.cpp splits text like this for, unless another entry
    /// has it. Names whose own definition is another in spite of that are left out.
    pub(super) names: &'static [&'static str],
}

impl Family {
    pub(super) fn fits(&self, steps: &[Step]) -> bool {
        self.steps.len() == steps.len()
            && self.steps.iter().zip(steps).all(|(wanted, step)| wanted.fits(step))
    }

    /// The steps as `tokenizer.json` has them; `None` where only the beginning of
    /// one is known.
    pub(super) fn definition(&self) -> Option<Value> {
        let steps: Option<Vec<Value>> = self.steps.iter().map(Wanted::definition).collect();
        let mut steps = steps?;
        match steps.len() {
            1 => steps.pop(),
            _ => Some(json!({"type": "Sequence", "pretokenizers": steps})),
        }
    }
}

impl Wanted {
    fn fits(&self, step: &Step) -> bool {
        match (self, step) {
            (Self::Split(pattern), Step::Split(found)) => pattern == found,
            (Self::SplitFrom(start), Step::Split(found)) => found.starts_with(start),
            (Self::EachDigit, Step::Digits { one_by_one }) => *one_by_one,
            (Self::DigitRuns, Step::Digits { one_by_one }) => !*one_by_one,
            (Self::PunctuationRuns, Step::PunctuationRuns) => true,
            (Self::Bytes, Step::ByteLevel { splits }) => !*splits,
            (Self::Gpt2, Step::ByteLevel { splits }) => *splits,
            _ => false,
        }
    }

    /// The step as `tokenizer.json` has it; `None` where only its beginning is
    /// known.
    fn definition(&self) -> Option<Value> {
        let byte_level = |splits: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": splits,
            })
        };
        Some(match self {
            Self::Split(pattern) => json!({
                "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                "invert": false,
            }),
            Self::SplitFrom(_) => return None,
            Self::EachDigit => json!({"type": "Digits", "individual_digits": true}),
            Self::DigitRuns => json!({"type": "Digits", "individual_digits": false}),
            Self::PunctuationRuns => json!({"type": "Punctuation", "behavior": "Contiguous"}),
            Self::Bytes => byte_level(false),
            Self::Gpt2 => byte_level(true),
        })
    }
}

use Wanted::{Bytes, DigitRuns, EachDigit, Gpt2, PunctuationRuns, Split, SplitFrom};

/// Every family whose published definition is known.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        steps: &[Split(LLAMA_3), Bytes],
        name: llama_3,
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "smaug-bpe",
            "dbrx",
            "glm4",
            "glm5",
            "midm-2.0",
            "lfm2",
        ],
    },
    Family {
        steps: &[Split(QWEN_2), Bytes],
        name: qwen_2,
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "kormo", "f2llmv2", "hunyuan"],
    },
    Family { steps: &[Split(QWEN_35), Bytes], name: |_| "qwen35", names: &["qwen35"] },
    Family { steps: &[Split(UFAKZEKA), Bytes], name: |_| "ufakzeka", names: &["ufakzeka"] },
    Family { steps: &[Split(TEKKEN), Bytes], name: |_| "tekken", names: &["tekken"] },
    Family {
        steps: &[Split(GPT_4O), Bytes],
        name: gpt_4o,
        names: &["gpt-4o", "llama4", "minimax-m2", "kanana2", "talkie"],
    },
    Family {
        steps: &[Split(DIGIT_GROUPS_FROM_END), Split(GPT_4O), Bytes],
        name: |_| "tiny_aya",
        names: &["tiny_aya", "cohere2moe"],
    },
    Family { steps: &[Split(KIMI_K2), Bytes], name: |_| "kimi-k2", names: &["kimi-k2"] },
    Family { steps: &[Split(SEED_CODER), Bytes], name: |_| "seed-coder", names: &["seed-coder"] },
    Family {
        steps: &[Split(BAILING), Bytes],
        name: |_| "bailingmoe",
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
    },
    Family { steps: &[Split(EXAONE_MOE), Bytes], name: |_| "exaone-moe", names: &["exaone-moe"] },
    Family { steps: &[Split(JAIS_2), Bytes], name: |_| "jais-2", names: &["jais-2"] },
    Family {
        steps: &[Split(DIGIT_GROUPS), Split(MINICPM_5), Bytes],
        name: |_| "minicpm5",
        names: &["minicpm5"],
    },
    Family {
        steps: &[SplitFrom(YOUTU_SCRIPTS), Split(YOUTU), Bytes],
        name: |_| "youtu",
        names: &["youtu"],
    },
    Family { steps: &[Split(LINES), Split(QWEN_2), Bytes], name: |_| "laguna", names: &["laguna"] },
    Family {
        steps: &[Split(DIGIT_RUNS), Split(BEFORE_THREE_DIGITS), Bytes],
        name: |_| "superbpe",
        names: &["superbpe"],
    },
    Family {
        steps: &[Split(DIGIT_GROUPS), Split(HAN_AND_KANA), Split(DEEPSEEK_V3), Bytes],
        name: deepseek_v3,
        names: &["deepseek-v3"],
    },
    Family {
        steps: &[
            Split(LINE_BREAK),
            SplitFrom(DEEPSEEK_LLM_LETTERS),
            SplitFrom(DEEPSEEK_LLM_PUNCTUATION),
            Split(SPACE_AT_END),
            SplitFrom(CJK),
            EachDigit,
            Bytes,
        ],
        name: |_| "deepseek-llm",
        names: &["deepseek-llm"],
    },
    Family {
        steps: &[
            Split(LINE_BREAK),
            Split(DEEPSEEK_CODER_LETTERS),
            Split(DEEPSEEK_CODER_PUNCTUATION),
            SplitFrom(CJK),
            EachDigit,
            Bytes,
        ],
        name: |_| "deepseek-coder",
        names: &["deepseek-coder"],
    },
    Family {
        steps: &[PunctuationRuns, Gpt2, DigitRuns, Split(THREE_DIGITS)],
        name: falcon,
        names: &["falcon", "falcon3"],
    },
    Family {
        steps: &[EachDigit, Gpt2],
        name: each_digit,
        names: &["smollm", "command-r", "starcoder", "refact", "exaone", "codeshell"],
    },
    Family { steps: &[Split(DIGIT), Gpt2], name: each_digit, names: &[] },
    Family {
        steps: &[Gpt2],
        name: gpt_2,
        names: &[
            "gpt-2",
            "olmo",
            "phi-2",
            "mpt",
            "jais",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "roberta-bpe",
            "jina-v1-en",
            "jina-v2-code",
            "modern-bert",
            "exaone4",
        ],
    },
    Family {
        steps: &[Split(BLOOM), Bytes],
        name: bloom,
        names: &["bloom", "poro-chat", "gpt3-finnish"],
    },
    Family { steps: &[Split(BLOOM_UNNESTED), Bytes], name: bloom, names: &[] },
    Family { steps: &[Split(BLOOM), EachDigit, Bytes], name: |_| "viking", names: &["viking"] },
    Family { steps: &[EachDigit, Split(BLOOM), Bytes], name: |_| "viking", names: &[] },
];

/// llama.cpp's `llama-bpe` looks whole words up first; `smaug-bpe` does not.
/// Early files of Llama 3 itself lack the flag.
fn llama_3(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("[gMASK]") {
        "glm4"
    } else if evidence.has("<|tool_list_start|>") {
        "lfm2"
    } else if evidence.ignores_merges() || evidence.has("<|begin_of_text|>") {
        "llama-bpe"
    } else if evidence.has("<|endoftext|>") {
        "dbrx"
    } else {
        "smaug-bpe"
    }
}

fn qwen_2(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>") {
        "deepseek-r1-qwen"
    } else if evidence.has("<|role_start|>") {
        "megrez"
    } else if evidence.has("<|reg_extra|>") {
        "stablelm2"
    } else if evidence.has("<|startoftext|>") && evidence.has("<|extra_0|>") {
        "hunyuan"
    } else {
        "qwen2"
    }
}

fn deepseek_v3(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("<\u{ff5c}hy_User\u{ff5c}>") { "hunyuan-dense" } else { "deepseek-v3" }
}

fn gpt_4o(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("<|header_start|>") {
        "llama4"
    } else if evidence.has("]~b]") {
        "minimax-m2"
    } else {
        "gpt-4o"
    }
}

/// Falcon 3 has twice the tokens of the first Falcons.
fn falcon(evidence: &Evidence<'_>) -> &'static str {
    const FALCON_3: usize = 131_000;
    if evidence.tokens() >= FALCON_3 { "falcon3" } else { "falcon" }
}

fn each_digit(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("<|START_OF_TURN_TOKEN|>") {
        "command-r"
    } else if evidence.has("<reponame>") && !evidence.has("<fim_prefix>") {
        "smollm"
    } else if evidence.has("<file_sep>") {
        "starcoder"
    } else if evidence.has("<fim_prefix>") {
        // Granite's is StarCoder 1's, as Refact's.
        "refact"
    } else if evidence.has("[|endofturn|]") {
        "exaone"
    } else {
        "smollm"
    }
}

/// CodeGen's vocabulary, which the first Phis have, is GPT-2's and tokens for indentation: up
/// to so many spaces.
const LONGEST_INDENTATION: &str = "                               ";

/// GPT-NeoX's vocabulary goes under OLMo's name in the reference.
fn gpt_2(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("[CLS]") {
        "modern-bert"
    } else if evidence.has("<mask>") {
        "roberta-bpe"
    } else if evidence.has("<|padding|>") {
        "olmo"
    } else if evidence.has("[|endofturn|]") {
        "exaone4"
    } else if evidence.has(LONGEST_INDENTATION) {
        "phi-2"
    } else {
        "gpt-2"
    }
}

fn bloom(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("<|im_start|>") { "poro-chat" } else { "bloom" }
}
