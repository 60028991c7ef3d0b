//! Ids of the tokens that have a job, and whether they are added to a text
//! (`SpecialVocab` in `gguf-py/gguf/vocab.py`).

use qz_tensor::{Location, Metadata, SideFiles, Warning};
use serde_json::Value;

use crate::error::Error;
use crate::json::{Settings, fault, token_content};
use crate::post_processor::Named;
use crate::tokenizer_file::Surroundings;

/// The jobs a token may have, and the key that tells its id. The last entries
/// count only where the post-processor brings them up.
const ID_KEYS: &[(&str, &str)] = &[
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("unk", "unknown_token_id"),
    // The spelling is the format's.
    ("sep", "seperator_token_id"),
    ("pad", "padding_token_id"),
    ("mask", "mask_token_id"),
    ("eot", "eot_token_id"),
    ("eom", "eom_token_id"),
];

/// Jobs with a key that tells whether the token is added.
const ADD_KEYS: &[&str] = &["bos", "eos", "sep"];

/// The jobs looked for, in order.
#[derive(Debug)]
pub(crate) struct Kinds(Vec<&'static str>);

impl Kinds {
    /// Looks for another job too; false if it is looked for already.
    pub(crate) fn add(&mut self, kind: &'static str) -> bool {
        let is_new = !self.0.contains(&kind);
        if is_new {
            self.0.push(kind);
        }
        is_new
    }
}

/// Whether tokens are added, in the order in which that became known.
#[derive(Debug, Default)]
pub(crate) struct AddFlags(Vec<(&'static str, bool)>);

impl AddFlags {
    pub(crate) fn set(&mut self, kind: &'static str, value: bool) {
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, old)) => *old = value,
            None => self.0.push((kind, value)),
        }
    }

    pub(crate) fn set_default(&mut self, kind: &'static str, value: bool) {
        if !self.0.iter().any(|(known, _)| *known == kind) {
            self.0.push((kind, value));
        }
    }
}

/// What becomes of an id past the vocabulary's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PastEnd {
    /// It is an error.
    Refused,
    /// It is left out with a warning, as in the reference.
    LeftOut,
}

/// Where to look for special tokens.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    pub(crate) files: &'a dyn SideFiles,
    pub(crate) surroundings: &'a Surroundings,
    pub(crate) settings: &'a Settings,
    /// The vocabulary's size.
    pub(crate) size: u64,
    pub(crate) past_end: PastEnd,
}

/// Ids and flags.
#[derive(Debug)]
pub(crate) struct SpecialTokens {
    ids: Vec<(&'static str, u32)>,
    flags: AddFlags,
}

impl SpecialTokens {
    /// Finds them in `tokenizer.json`, `tokenizer_config.json` and `config.json`,
    /// in that order.
    pub(crate) fn find(search: &Search<'_>, warnings: &mut Vec<Warning>) -> Result<Self, Error> {
        let kinds = Kinds(vec!["bos", "eos", "unk", "sep", "pad", "cls", "mask"]);
        Self::find_kinds(search, kinds, warnings)
    }

    /// Tokens for filling in, which end with `end` unless a file gives another. Of these only the end of an infill has a key that is still
    /// written; the flags come along once more.
    pub(crate) fn find_infilling(
        search: &Search<'_>,
        end: u32,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Error> {
        let kinds = Kinds(vec!["prefix", "suffix", "middle", "eot"]);
        let mut special = Self::find_kinds(search, kinds, warnings)?;
        special.set_id("eot", end);
        Ok(special)
    }

    fn find_kinds(
        search: &Search<'_>,
        mut kinds: Kinds,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Error> {
        let mut special = Self { ids: Vec::new(), flags: AddFlags::default() };
        let mut config = search.settings.tokenizer.clone();
        let post_processor = &search.surroundings.post_processor;
        Named::new(&mut config).read(post_processor, &mut special.flags, &mut kinds);
        for kind in &kinds.0 {
            if let Some(add) = config.get(&format!("add_{kind}_token")).and_then(Value::as_bool) {
                special.flags.set_default(kind, add);
            }
            let content = config.get(&format!("{kind}_token")).and_then(token_content);
            let declared = &search.surroundings.added_tokens;
            let token =
                content.and_then(|content| declared.iter().find(|token| token.content == content));
            if let Some(token) = token
                && u64::from(token.id.0) < search.size
            {
                special.set_id(kind, token.id.0);
            }
        }
        special.read_model_config(search, &kinds, warnings)?;
        Ok(special)
    }

    /// `*_token_id` of `config.json`, or of its `text_config`.
    fn read_model_config(
        &mut self,
        search: &Search<'_>,
        kinds: &Kinds,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), Error> {
        let name = "config.json";
        let model = &search.settings.model;
        let mut ignore = |key: &str, message: String| {
            warnings.push(Warning {
                location: Location::file(search.files.path(name)).tensor(key),
                rule: "special-token-ignored",
                message,
            });
        };
        for kind in &kinds.0 {
            let key = format!("{kind}_token_id");
            let nested = || model.get("text_config")?.get(&key);
            let value = model.get(&key).filter(|value| !value.is_null()).or_else(nested);
            // A list, as eos_token_id often is, names no single token.
            let Some(Value::Number(id)) = value else { continue };
            match id.as_u64() {
                Some(id) if id < search.size => {
                    self.set_id(kind, u32::try_from(id).unwrap_or(u32::MAX));
                }
                Some(id) if search.past_end == PastEnd::LeftOut => {
                    ignore(&key, format!("is {id}, but there are {} tokens", search.size));
                }
                // Old configurations say -1 for none.
                None if id.as_i64() == Some(-1) => {
                    ignore(&key, "is -1, which is taken for none".to_owned());
                }
                _ => {
                    let last = search.size.saturating_sub(1);
                    let problem = format!("is {id}, expected an integer from 0 to {last}");
                    return Err(fault(search.files, name, key, problem));
                }
            }
        }
        Ok(())
    }

    /// Gives tokens of these names their jobs, whatever files say.
    pub(crate) fn force(
        &mut self,
        search: &Search<'_>,
        tokens: &[String],
        jobs: &[(&'static str, &str)],
    ) -> Result<(), Error> {
        for (kind, token) in jobs {
            let Some(id) = tokens.iter().position(|known| known == token) else {
                let problem = format!("has no token {token}, which this architecture has");
                return Err(fault(search.files, "tokenizer.json", "added_tokens", problem));
            };
            let id = u32::try_from(id).unwrap_or(u32::MAX);
            match self.ids.iter_mut().find(|(known, _)| known == kind) {
                Some((_, own)) => *own = id,
                None => self.ids.push((kind, id)),
            }
        }
        Ok(())
    }

    /// The first place that gives an id counts.
    fn set_id(&mut self, kind: &'static str, id: u32) {
        if !self.ids.iter().any(|(known, _)| *known == kind) {
            self.ids.push((kind, id));
        }
    }

    /// Adds the keys. Jobs without a key (`cls`) are left out.
    pub(crate) fn write(&self, metadata: &mut Metadata) {
        for (kind, id) in &self.ids {
            if let Some((_, key)) = ID_KEYS.iter().find(|(known, _)| known == kind) {
                metadata.set(format!("tokenizer.ggml.{key}"), *id);
            }
        }
        for (kind, add) in &self.flags.0 {
            if ADD_KEYS.contains(kind) {
                metadata.set(format!("tokenizer.ggml.add_{kind}_token"), *add);
            }
        }
    }
}
