//! The values of `tokenizer.ggml.pre` and what each means: how text is cut, and
//! what else llama.cpp derives from the name (`llama_vocab::impl::load` in
//! `src/llama-vocab.cpp`).

use super::split::Step;
use super::split::patterns::*;

/// What one or more names of pre-tokenizers mean.
pub(crate) struct PreTokenizer {
    pub(crate) names: &'static [&'static str],
    pub(super) steps: &'static [&'static Step],
    pub(super) alphabet: Alphabet,
    pub(super) whole: Whole,
    pub(super) bos: Bos,
}

/// Which pieces are not merged if they are tokens as they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Never,
    Always,
    /// Those of line breaks alone.
    LineBreaks,
}

/// The token in front of every text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bos {
    /// Added if the file says so.
    Stated,
    /// Added unless the file denies it.
    Added,
    /// Added whatever the file says.
    Forced,
    /// As `Stated`; and there is none unless the file names one.
    NoDefault,
}

/// What the text of a token is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// GPT-2's: a printable character for every byte.
    Bytes,
    /// The text itself.
    Plain,
    /// The text with U+2581 for spaces.
    Escaped,
}

const DEFAULT: PreTokenizer = PreTokenizer {
    names: &["default"],
    steps: &[&PUNCTUATION_RUNS, &GPT_2, &DIGIT_RUNS, &THREE_DIGITS],
    alphabet: Alphabet::Bytes,
    whole: Whole::Never,
    bos: Bos::Stated,
};

/// What has no name: text is cut before.
pub(super) static UNNAMED: PreTokenizer = PreTokenizer { names: &[], steps: &[], ..DEFAULT };

/// Every name that llama.cpp knows (commit 0c1e57098).
pub(crate) static PRE_TOKENIZERS: &[PreTokenizer] = &[
    DEFAULT,
    PreTokenizer {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        steps: &[&LLAMA_3],
        whole: Whole::Always,
        bos: Bos::Added,
        ..DEFAULT
    },
    PreTokenizer { names: &["dbrx", "smaug-bpe"], steps: &[&LLAMA_3], ..DEFAULT },
    PreTokenizer { names: &["chatglm-bpe"], steps: &[&LLAMA_3], bos: Bos::NoDefault, ..DEFAULT },
    PreTokenizer {
        names: &["glm4", "glm5"],
        steps: &[&LLAMA_3],
        whole: Whole::Always,
        bos: Bos::NoDefault,
        ..DEFAULT
    },
    PreTokenizer {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ],
        steps: &[&QWEN_2],
        ..DEFAULT
    },
    PreTokenizer { names: &["qwen35"], steps: &[&QWEN_35], ..DEFAULT },
    PreTokenizer { names: &["jais-2"], steps: &[&JAIS_2], ..DEFAULT },
    PreTokenizer { names: &["seed-coder"], steps: &[&SEED_CODER], ..DEFAULT },
    PreTokenizer { names: &["ufakzeka"], steps: &[&UFAKZEKA], ..DEFAULT },
    PreTokenizer { names: &["exaone-moe"], steps: &[&EXAONE_MOE], ..DEFAULT },
    PreTokenizer { names: &["laguna"], steps: &[&LINES, &QWEN_2], ..DEFAULT },
    PreTokenizer {
        names: &["minicpm5"],
        steps: &[&DIGIT_GROUPS, &MINICPM_5],
        whole: Whole::Always,
        ..DEFAULT
    },
    PreTokenizer {
        names: &["tekken"],
        steps: &[&TEKKEN],
        whole: Whole::Always,
        bos: Bos::Added,
        ..DEFAULT
    },
    PreTokenizer {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        steps: &[&GPT_4O],
        ..DEFAULT
    },
    PreTokenizer {
        names: &["granite-embed-multi-97m"],
        steps: &[&GRANITE_EMBEDDING],
        whole: Whole::Always,
        ..DEFAULT
    },
    PreTokenizer {
        names: &["tiny_aya", "cohere2moe"],
        steps: &[&DIGIT_GROUPS_FROM_END, &TINY_AYA],
        ..DEFAULT
    },
    PreTokenizer {
        names: &["youtu"],
        steps: &[&YOUTU_SCRIPTS, &YOUTU],
        whole: Whole::Always,
        ..DEFAULT
    },
    PreTokenizer { names: &["kimi-k2"], steps: &[&KIMI_K2], ..DEFAULT },
    PreTokenizer {
        names: &["deepseek-llm"],
        steps: &[
            &LINE_BREAK,
            &DEEPSEEK_LLM_LETTERS,
            &DEEPSEEK_LLM_PUNCTUATION,
            &SPACE_AT_END,
            &DEEPSEEK_CJK,
            &DIGIT_RUNS,
        ],
        ..DEFAULT
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        steps: &[
            &LINE_BREAK,
            &DEEPSEEK_CODER_LETTERS,
            &DEEPSEEK_CODER_PUNCTUATION,
            &DEEPSEEK_CJK,
            &DIGIT,
        ],
        ..DEFAULT
    },
    PreTokenizer {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        steps: &[&DIGIT_GROUPS, &CHINESE_AND_JAPANESE, &DEEPSEEK_V3],
        ..DEFAULT
    },
    PreTokenizer {
        names: &["spark2_5"],
        steps: &[&DIGIT_GROUPS, &CHINESE_AND_JAPANESE, &SPARK, &DIGIT],
        ..DEFAULT
    },
    PreTokenizer {
        names: &["afmoe"],
        steps: &[&DIGIT_GROUPS_FROM_END, &AFMOE_SCRIPTS, &DEEPSEEK_V3],
        ..DEFAULT
    },
    PreTokenizer {
        names: &["falcon"],
        steps: &[&FALCON_PUNCTUATION, &GPT_2, &THREE_DIGITS],
        ..DEFAULT
    },
    PreTokenizer {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        steps: &[&DIGIT, &GPT_2],
        ..DEFAULT
    },
    PreTokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v1-en",
            "jina-v2-code",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "roberta-bpe",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        steps: &[&GPT_2],
        ..DEFAULT
    },
    PreTokenizer {
        names: &["chameleon"],
        steps: &[&SENTINEL, &IMAGE_TOKEN, &INDENTATION, &DIGIT, &PUNCTUATION_MARK, &GPT_2],
        bos: Bos::Added,
        ..DEFAULT
    },
    PreTokenizer { names: &["superbpe"], steps: &[&DIGIT_RUNS, &BEFORE_THREE_DIGITS], ..DEFAULT },
    PreTokenizer { names: &["bloom", "poro-chat", "gpt3-finnish"], steps: &[&BLOOM], ..DEFAULT },
    PreTokenizer { names: &["viking"], steps: &[&BLOOM, &DIGIT], ..DEFAULT },
    PreTokenizer {
        names: &["gemma4", "granite-embed-multi-311m"],
        steps: &[&LINES],
        alphabet: Alphabet::Escaped,
        whole: Whole::LineBreaks,
        bos: Bos::Forced,
    },
    PreTokenizer {
        names: &["sarvam-moe"],
        steps: &[&LINES],
        alphabet: Alphabet::Escaped,
        ..DEFAULT
    },
    PreTokenizer {
        names: &["whitespace"],
        steps: &[&NO_SPACE],
        alphabet: Alphabet::Plain,
        ..DEFAULT
    },
];

/// The pre-tokenizer of this name.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|entry| entry.names.contains(&name))
}

/// Every name, for vocabularies of any alphabet.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PRE_TOKENIZERS.iter().flat_map(|entry| entry.names).copied()
}

/// Every name that llama.cpp knows for byte-level vocabularies.
pub fn pre_tokenizer_names() -> impl Iterator<Item = &'static str> {
    let byte_level = PRE_TOKENIZERS.iter().filter(|entry| entry.alphabet == Alphabet::Bytes);
    byte_level.flat_map(|entry| entry.names).copied()
}

/// The pieces that `text` is cut into under a name.
#[cfg(test)]
pub(crate) fn pieces_of<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
    let mut rest = text;
    let lengths =
        super::split::piece_lengths(text, find(name).expect("a known name").steps).expect("pieces");
    let cut = |length: usize| {
        let (piece, after) = rest.split_at(length);
        rest = after;
        piece
    };
    lengths.into_iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let mut all: Vec<&str> = names().collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
