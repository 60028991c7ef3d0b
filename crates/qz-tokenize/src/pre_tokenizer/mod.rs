//! Which of llama.cpp's pre-tokenizers splits text as `tokenizer.json` says.
//!
//! The reference encodes one text and looks the ids' hash up in a table, so any
//! change of the vocabulary makes a model unknown. Here the definition itself is
//! looked up: the steps of `pre_tokenizer`, in a normal form. Names that share
//! their steps are told apart by further evidence; between names that llama.cpp
//! treats alike the choice matters only for equality with the reference.

mod definition;
mod families;
mod patterns;

use qz_tensor::SideFiles;
use serde_json::Value;

use crate::added_tokens::AddedTokens;
use crate::encode::pre_tokenizer_names;
use crate::error::{Error, UnknownPreTokenizer};
use crate::json::shown;
use crate::tokenizer_file::{self, TokenizerFile};

use definition::{Step, is_known_normalizer, steps_of};
use families::FAMILIES;

/// How much of an unknown definition a message shows.
const LONGEST_DEFINITION: usize = 2000;

/// What tells families apart that split text alike.
pub(crate) struct Evidence<'a> {
    file: &'a TokenizerFile,
    added: &'a AddedTokens,
}

impl<'a> Evidence<'a> {
    pub(crate) fn new(file: &'a TokenizerFile, added: &'a AddedTokens) -> Self {
        Self { file, added }
    }

    /// True if there is such a token.
    fn has(&self, token: &str) -> bool {
        self.added.get(token).is_some() || self.file.model.vocab.ids.contains_key(token)
    }

    /// True if whole words are looked up before merges are tried.
    fn ignores_merges(&self) -> bool {
        self.file.model.ignore_merges == Some(true)
    }

    /// How many tokens the model's own vocabulary has.
    fn tokens(&self) -> usize {
        self.file.model.vocab.ids.len()
    }
}

/// Refuses a name that llama.cpp does not know.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    if pre_tokenizer_names().any(|known| known == name) {
        return Ok(());
    }
    let known = pre_tokenizer_names().collect::<Vec<_>>().join(", ");
    Err(Error::UnknownPreTokenizerName { name: name.to_owned(), known })
}

/// llama.cpp's name for `tokenizer.json`'s own definition.
pub(crate) fn identify(
    files: &dyn SideFiles,
    file: &TokenizerFile,
    evidence: &Evidence<'_>,
) -> Result<&'static str, UnknownPreTokenizer> {
    let known = steps_of(&file.pre_tokenizer)
        .filter(|_| is_known_normalizer(&file.surroundings.normalizer));
    known.and_then(|steps| name_of(&steps, evidence)).ok_or_else(|| {
        let definition = serde_json::json!({
            "pre_tokenizer": file.pre_tokenizer,
            "normalizer": file.surroundings.normalizer,
        });
        UnknownPreTokenizer {
            path: files.path(tokenizer_file::NAME),
            definition: shown(&definition, LONGEST_DEFINITION),
        }
    })
}

/// What `tokenizer.json` says of a pre-tokenizer.
pub(crate) struct Definition {
    pub(crate) pre_tokenizer: Value,
    pub(crate) normalizer: Value,
    /// Whether whole words are looked up before merges are tried.
    pub(crate) ignores_merges: bool,
    /// Whether texts begin with the token for that, unless a file says otherwise.
    pub(crate) adds_beginning: bool,
}

/// The definition that goes with a name, as its family publishes it; `None` for
/// names that llama.cpp does not know or whose definition is not known here. The
/// flags are llama.cpp's (`src/llama-vocab.cpp`).
pub(crate) fn definition_of(name: &str) -> Option<Definition> {
    let family = FAMILIES.iter().find(|family| family.names.contains(&name))?;
    // A vocabulary in GGUF does not say that text is normalized; these families' is.
    let normalizer = match name {
        "qwen2" | "qwen35" | "modern-bert" => serde_json::json!({"type": "NFC"}),
        _ => Value::Null,
    };
    let adds_beginning = WITH_BEGINNING.contains(&name);
    Some(Definition {
        pre_tokenizer: family.definition()?,
        normalizer,
        ignores_merges: adds_beginning || LOOKED_UP_WHOLE.contains(&name),
        adds_beginning,
    })
}

/// Names with a token before each text, and with words looked up whole.
const WITH_BEGINNING: &[&str] =
    &["llama-bpe", "llama3", "llama-v3", "falcon3", "midm-2.0", "lfm2", "tekken"];
/// Further names with words looked up whole.
const LOOKED_UP_WHOLE: &[&str] = &["minicpm5", "youtu", "glm4", "glm5"];

/// Names under which llama.cpp cuts some texts otherwise than the family's own pattern does.
/// Its engine knows one class of letters, so that upper case, accents and vowel signs of Indian
/// scripts are cut elsewhere, and it groups other digits.
const SCANNED_OTHERWISE: &[&str] = &[
    "tekken",
    "gpt-4o",
    "llama4",
    "minimax-m2",
    "kanana2",
    "talkie",
    "tiny_aya",
    "cohere2moe",
    "kimi-k2",
    "superbpe",
];

/// True if what a name means is known to cut all text as the family's own pattern does.
pub(crate) fn is_scanned_as_published(name: &str) -> bool {
    let has_definition =
        |family: &families::Family| family.names.contains(&name) && family.definition().is_some();
    !SCANNED_OTHERWISE.contains(&name) && FAMILIES.iter().any(has_definition)
}

/// Every name whose definition is known.
pub(crate) fn restorable_names() -> Vec<&'static str> {
    let known = |family: &&families::Family| family.definition().is_some();
    FAMILIES.iter().filter(known).flat_map(|family| family.names).copied().collect()
}

fn name_of(steps: &[Step], evidence: &Evidence<'_>) -> Option<&'static str> {
    FAMILIES.iter().find(|family| family.fits(steps)).map(|family| (family.name)(evidence))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::definition::cuts::{Pieces, byte_level_cuts};
    use crate::encode::pieces_of;

    #[test]
    fn scanners_cut_as_published_patterns_do() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers/golden.json");
        let golden: Value =
            serde_json::from_slice(&std::fs::read(path).expect("texts")).expect("JSON");
        let texts = golden["texts"].as_array().expect("texts").iter().filter_map(Value::as_str);
        let texts: Vec<&str> = texts.collect();
        for family in FAMILIES {
            let Some(definition) = family.definition() else { continue };
            // Falcon's steps go on after bytes became letters.
            let Some(cuts) = byte_level_cuts(&definition) else { continue };
            for name in family.names {
                let differs = |text: &&&str| {
                    let published = Pieces::of(&cuts, text, true).expect("pieces");
                    !published.iter().eq(pieces_of(name, text))
                };
                let found = texts.iter().find(differs);
                assert_eq!(found.is_some(), SCANNED_OTHERWISE.contains(name), "{name}: {found:?}");
            }
        }
    }

    #[test]
    fn every_definition_is_recognised_again() {
        let mut seen = HashSet::new();
        for family in FAMILIES {
            for name in family.names {
                assert!(pre_tokenizer_names().any(|known| known == *name), "{name}");
                assert!(seen.insert(name), "{name} belongs to two families");
                let Some(definition) = definition_of(name) else { continue };
                let steps = steps_of(&definition.pre_tokenizer).expect("known steps");
                let found = FAMILIES.iter().find(|family| family.fits(&steps));
                assert!(found.is_some_and(|found| found.names.contains(name)), "{name}");
                assert!(is_known_normalizer(&definition.normalizer), "{name}");
            }
        }
        for name in ["llama-bpe", "qwen2", "tekken", "gpt-2", "smollm", "deepseek-v3"] {
            assert!(restorable_names().contains(&name), "{name}");
        }
        for name in ["default", "deepseek-llm", "youtu", "no such name"] {
            assert!(definition_of(name).is_none(), "{name}");
        }
    }
}
