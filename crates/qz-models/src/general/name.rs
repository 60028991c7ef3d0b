//! What a model's name says about it: `get_model_id_components` and
//! `id_to_title` in `gguf-py/gguf/metadata.py`.

use std::sync::LazyLock;

use regex::Regex;

/// The parts of a model id such as `meta-llama/Llama-3.1-8B-Instruct`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameParts {
    /// The id without the organization.
    pub(super) full_name: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

/// What a word of the name stands for; it may be a basename and a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds {
    basename: bool,
    size_label: bool,
    finetune: bool,
    version: bool,
    encoding: bool,
}

struct Word {
    text: String,
    kinds: Kinds,
}

impl Kinds {
    fn none(self) -> bool {
        self == Self::default()
    }
}

struct Patterns {
    version: Regex,
    encoding: Regex,
    size: Regex,
    finetune: Regex,
    not_a_title: Regex,
}

static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
    let whole = |pattern: &str| Regex::new(&format!(r"\A(?:{pattern})\z")).ok();
    Some(Patterns {
        version: whole(r"(?i:(v|iter)?\d+([.]\d+)*)")?,
        encoding: whole(r"(?i:i?q\d(_\w)*|b?fp?(16|32))")?,
        size: whole(r"(?i:([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)")?,
        finetune: whole(r"(?i:chat|instruct|vision|lora)")?,
        not_a_title: whole(r"v\d+(?:\.\d+)*|\d.*")?,
    })
});

impl NameParts {
    /// The parts of `id`. `parameters` tells a size from a context length.
    pub(super) fn of(id: &str, parameters: u64) -> Self {
        if id.contains(' ') {
            return Self { full_name: Some(id.to_owned()), ..Self::default() };
        }
        let (organization, full_name) = match id.split_once('/') {
            // "./model" and "../model" are paths.
            Some((organization, name)) if organization.starts_with('.') => (None, name),
            Some((organization, name)) => (Some(organization.to_owned()), name),
            None => (None, id),
        };
        let mut parts =
            Self { full_name: Some(full_name.to_owned()), organization, ..Self::default() };
        let mut words: Vec<Word> = full_name
            .split('-')
            .filter(|word| !word.is_empty())
            .map(|word| Word { text: word.to_owned(), kinds: Kinds::default() })
            .collect();
        for (position, word) in words.iter_mut().enumerate() {
            annotate(word, position == 0, parameters);
        }
        drop_word_sizes(&mut words);
        mark_basename(&mut words);
        parts.collect(&words);
        parts
    }

    fn collect(&mut self, words: &[Word]) {
        let joined = |wanted: &dyn Fn(Kinds) -> bool, once: bool| {
            let mut found: Vec<&str> = Vec::new();
            for word in words.iter().filter(|word| wanted(word.kinds)) {
                if !(once && found.contains(&word.text.as_str())) {
                    found.push(&word.text);
                }
            }
            (!found.is_empty()).then(|| found.join("-"))
        };
        self.size_label = joined(&|kinds| kinds.size_label, true);
        self.finetune = joined(&|kinds| kinds.finetune, false);
        self.version = joined(&|kinds| kinds.version && !kinds.basename, false);
        let ambiguous =
            self.size_label.is_none() && self.finetune.is_none() && self.version.is_none();
        self.basename = joined(&|kinds| kinds.basename, false).filter(|_| !ambiguous);
    }
}

fn annotate(word: &mut Word, first: bool, parameters: u64) {
    let Some(patterns) = &*PATTERNS else { return };
    if patterns.version.is_match(&word.text) {
        word.kinds.version = true;
    } else if patterns.encoding.is_match(&word.text) {
        word.kinds.encoding = true;
        word.text = word.text.to_uppercase();
    } else if !first && patterns.size.is_match(&word.text) {
        annotate_size(word, parameters);
    } else if !first && patterns.finetune.is_match(&word.text) {
        word.kinds.finetune = true;
    }
}

/// `7b`, `8x7B`, `A3B`, `7b1`, `small`; or `128k`, which is a context length if
/// the model is of another size by far.
fn annotate_size(word: &mut Word, parameters: u64) {
    let mut letters: Vec<char> = word.text.replace('_', ".").chars().collect();
    // "7b1" is another way to write "7.1b".
    if let [start @ .., suffix, digit] = letters.as_slice()
        && is_digit(*digit)
    {
        letters = [start, &['.', *digit, *suffix]].concat();
    }
    if let [.., before, suffix] = letters.as_mut_slice()
        && is_digit(*before)
        && "kmbt".contains(*suffix)
    {
        suffix.make_ascii_uppercase();
    }
    let (number, suffix) = match letters.split_last() {
        Some((suffix, number)) => (number.iter().collect::<String>(), *suffix),
        None => return,
    };
    let scale = "KMBT".find(suffix).map_or(1e-3, |power| 1000f64.powi(power as i32 + 1));
    let is_context_length = parameters > 0
        && number.parse::<f64>().is_ok_and(|size| {
            (size * scale - parameters as f64).abs() > (7 * u128::from(parameters) / 8) as f64
        });
    if is_context_length {
        word.kinds.finetune = true;
        word.text = number + &suffix.to_lowercase().to_string();
    } else {
        word.kinds.size_label = true;
        word.text = letters.into_iter().collect();
    }
}

/// Sizes in words count only where there is none in digits.
fn drop_word_sizes(words: &mut [Word]) {
    let in_digits =
        words.iter().any(|word| word.kinds.size_label && word.text.chars().any(is_digit));
    for word in words.iter_mut().filter(|word| in_digits && word.kinds.size_label) {
        if word.text.chars().all(char::is_alphabetic) {
            word.kinds.size_label = false;
        }
    }
}

/// The basename is what the name begins with, up to the first word that is
/// something else; versions belong to it unless they end it.
fn mark_basename(words: &mut [Word]) {
    let mut at_start = true;
    for word in words.iter_mut() {
        let starts_with_letter = word.text.starts_with(char::is_alphabetic);
        if at_start && ((word.kinds.none() && starts_with_letter) || word.kinds.version) {
            word.kinds.basename = true;
        } else {
            at_start = false;
            if word.kinds.none() {
                word.kinds.finetune = true;
            }
        }
    }
    for word in words.iter_mut().rev() {
        let only_basename = Kinds { basename: true, ..Kinds::default() };
        if !word.kinds.basename || word.kinds == only_basename {
            break;
        }
        word.kinds.basename = false;
    }
}

fn is_digit(letter: char) -> bool {
    letter.is_ascii_digit()
}

/// `tiny-llama-v1.1` as a title: words capitalized unless they have capitals
/// already, are versions or begin with a digit.
pub(super) fn title(id: &str) -> String {
    let replaced = id.trim().replace('-', " ");
    let words: Vec<String> = replaced.split_whitespace().map(capitalized).collect();
    words.join(" ")
}

fn capitalized(word: &str) -> String {
    let is_lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
    let is_exempt = PATTERNS.as_ref().is_some_and(|patterns| patterns.not_a_title.is_match(word));
    if !is_lower || is_exempt {
        return word.to_owned();
    }
    let mut after_letter = false;
    let mut out = String::with_capacity(word.len());
    for letter in word.chars() {
        if after_letter {
            out.push(letter);
        } else {
            out.extend(letter.to_uppercase());
        }
        after_letter = letter.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `Metadata.get_model_id_components` of llama.cpp 0c1e57098: full name,
    /// organization, basename, finetune, version, size; empty for none.
    #[test]
    fn parts_follow_the_reference() {
        let check = |id: &str, parameters: u64, expected: [&str; 6]| {
            let parts = NameParts::of(id, parameters);
            let found = [
                parts.full_name,
                parts.organization,
                parts.basename,
                parts.finetune,
                parts.version,
                parts.size_label,
            ];
            assert_eq!(found.map(Option::unwrap_or_default), expected, "{id}");
        };
        check(
            "meta-llama/Llama-3.1-8B-Instruct",
            8_030_261_248,
            ["Llama-3.1-8B-Instruct", "meta-llama", "Llama-3.1", "Instruct", "", "8B"],
        );
        check(
            "Qwen2.5-0.5B-Instruct",
            494_032_768,
            ["Qwen2.5-0.5B-Instruct", "", "Qwen2.5", "Instruct", "", "0.5B"],
        );
        check(
            "Mixtral-8x7B-v0.1",
            46_702_792_704,
            ["Mixtral-8x7B-v0.1", "", "Mixtral", "", "v0.1", "8x7B"],
        );
        check("bloom-7b1", 7_069_016_064, ["bloom-7b1", "", "bloom", "", "", "7.1B"]);
        check(
            "Phi-3-mini-4k-instruct",
            3_821_079_552,
            ["Phi-3-mini-4k-instruct", "", "Phi-3", "4k-instruct", "", "mini"],
        );
        check("a human sentence", 1, ["a human sentence", "", "", "", "", ""]);
        check("./x-1B", 1_000_000_000, ["x-1B", "", "x", "", "", "1B"]);
        check("foo", 1, ["foo", "", "", "", "", ""]);
        check("foo-small-275k", 275_000, ["foo-small-275k", "", "foo-small", "", "", "275K"]);
        check("foo-small", 275_000, ["foo-small", "", "foo", "", "", "small"]);
        check("SmolLM2_135M", 135_000_000, ["SmolLM2_135M", "", "", "", "", ""]);
        check("x-iter100-q4_k_m-fp16", 5, ["x-iter100-q4_k_m-fp16", "", "", "", "", ""]);
        check("A-B-A3B-30B", 30_000_000_000, ["A-B-A3B-30B", "", "A-B", "", "", "A3B-30B"]);
        check("3-model-v1", 0, ["3-model-v1", "", "3-model", "", "v1", ""]);
        check("NAME-XL-v1-v2", 0, ["NAME-XL-v1-v2", "", "NAME", "", "v1-v2", "XL"]);
        check("o1-mini-128k", 1_000_000_000, ["o1-mini-128k", "", "o1", "128k", "", "mini"]);
        check("-x--1b-", 1_000_000_000, ["-x--1b-", "", "x", "", "", "1B"]);
        check("Llama-2-7b-hf", 6_738_415_616, ["Llama-2-7b-hf", "", "Llama-2", "hf", "", "7B"]);
        check("", 1, [""; 6]);
    }

    #[test]
    fn titles_follow_the_reference() {
        let check = |id: &str, expected: &str| assert_eq!(title(id), expected);
        check("tiny-llama-v1.1", "Tiny Llama v1.1");
        check("Llama-3-8b-instruct", "Llama 3 8b Instruct");
        check("  x  y-z ", "X Y Z");
        check("don't-stop", "Don'T Stop");
        check("v2-thing", "v2 Thing");
        check("8b1x", "8b1x");
        check("o1-MINI", "O1 MINI");
        check("\u{e9}a-b2c", "\u{c9}a B2C");
    }
}
