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

use crate::added_tokens::AddedTokens;
use crate::encode::pre_tokenizer_names;
use crate::error::Error;
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

/// The name for `tokenizer.json`'s own definition.
pub(crate) fn identify(
    files: &dyn SideFiles,
    file: &TokenizerFile,
    evidence: &Evidence<'_>,
) -> Result<&'static str, Error> {
    let known = steps_of(&file.pre_tokenizer)
        .filter(|_| is_known_normalizer(&file.surroundings.normalizer));
    known.and_then(|steps| name_of(&steps, evidence)).ok_or_else(|| {
        let definition = serde_json::json!({
            "pre_tokenizer": file.pre_tokenizer,
            "normalizer": file.surroundings.normalizer,
        });
        Error::UnknownPreTokenizer {
            path: files.path(tokenizer_file::NAME),
            definition: shown(&definition, LONGEST_DEFINITION),
        }
    })
}

fn name_of(steps: &[Step], evidence: &Evidence<'_>) -> Option<&'static str> {
    FAMILIES.iter().find(|family| family.fits(steps)).map(|family| (family.name)(evidence))
}
