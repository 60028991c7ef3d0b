//! The families of pre-tokenizers, in normal form, with their names in
//! `src/llama-vocab.cpp` of llama.cpp.

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
}

impl Family {
    pub(super) fn fits(&self, steps: &[Step]) -> bool {
        self.steps.len() == steps.len()
            && self.steps.iter().zip(steps).all(|(wanted, step)| wanted.fits(step))
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
}

use Wanted::{Bytes, DigitRuns, EachDigit, Gpt2, PunctuationRuns, Split, SplitFrom};

/// Every family whose published definition is known.
pub(super) static FAMILIES: &[Family] = &[
    Family { steps: &[Split(LLAMA_3), Bytes], name: llama_3 },
    Family { steps: &[Split(QWEN_2), Bytes], name: qwen_2 },
    Family { steps: &[Split(QWEN_35), Bytes], name: |_| "qwen35" },
    Family { steps: &[Split(UFAKZEKA), Bytes], name: |_| "ufakzeka" },
    Family { steps: &[Split(TEKKEN), Bytes], name: |_| "tekken" },
    Family { steps: &[Split(GPT_4O), Bytes], name: gpt_4o },
    Family { steps: &[Split(DIGIT_GROUPS_FROM_END), Split(GPT_4O), Bytes], name: |_| "tiny_aya" },
    Family { steps: &[Split(SEED_CODER), Bytes], name: |_| "seed-coder" },
    Family { steps: &[Split(BAILING), Bytes], name: |_| "bailingmoe" },
    Family { steps: &[Split(EXAONE_MOE), Bytes], name: |_| "exaone-moe" },
    Family { steps: &[Split(JAIS_2), Bytes], name: |_| "jais-2" },
    Family { steps: &[Split(DIGIT_GROUPS), Split(MINICPM_5), Bytes], name: |_| "minicpm5" },
    Family { steps: &[SplitFrom(YOUTU_SCRIPTS), Split(YOUTU), Bytes], name: |_| "youtu" },
    Family { steps: &[Split(LINES), Split(QWEN_2), Bytes], name: |_| "laguna" },
    Family { steps: &[Split(DIGIT_RUNS), Split(BEFORE_THREE_DIGITS), Bytes], name: |_| "superbpe" },
    Family {
        steps: &[Split(DIGIT_GROUPS), Split(HAN_AND_KANA), Split(DEEPSEEK_V3), Bytes],
        name: |_| "deepseek-v3",
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
    },
    Family { steps: &[PunctuationRuns, Gpt2, DigitRuns, Split(THREE_DIGITS)], name: falcon },
    Family { steps: &[EachDigit, Gpt2], name: each_digit },
    Family { steps: &[Split(DIGIT), Gpt2], name: each_digit },
    Family { steps: &[Gpt2], name: gpt_2 },
    Family { steps: &[Split(BLOOM), Bytes], name: bloom },
    Family { steps: &[Split(BLOOM_UNNESTED), Bytes], name: bloom },
    Family { steps: &[Split(BLOOM), EachDigit, Bytes], name: |_| "viking" },
    Family { steps: &[EachDigit, Split(BLOOM), Bytes], name: |_| "viking" },
];

/// llama.cpp's `llama-bpe` looks whole words up first; `smaug-bpe` does not.
/// Early files of Llama 3 itself lack the flag.
fn llama_3(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("[gMASK]") {
        "glm4"
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
    } else {
        "qwen2"
    }
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
    } else if evidence.has("<reponame>") {
        "smollm"
    } else if evidence.has("<file_sep>") {
        "starcoder"
    } else if evidence.has("<fim_prefix>") {
        "refact"
    } else if evidence.has("[|endofturn|]") {
        "exaone"
    } else {
        "smollm"
    }
}

/// GPT-NeoX's vocabulary goes under OLMo's name in the reference.
fn gpt_2(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("<|padding|>") { "olmo" } else { "gpt-2" }
}

fn bloom(evidence: &Evidence<'_>) -> &'static str {
    if evidence.has("<|im_start|>") { "poro-chat" } else { "bloom" }
}
