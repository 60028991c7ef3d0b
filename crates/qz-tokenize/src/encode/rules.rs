//! What a checkpoint's `tokenizer.json` says beyond what a GGUF file can, carried out
//! as the tokenizers library does.

use std::borrow::Cow;

use qz_tensor::SideFiles;

use super::added::{AddedFinder, Wanted};
use super::letters::Letters;
use super::partition::Fragment;
use super::session::Session;
use crate::added_tokens::{AddedToken, AddedTokens};
use crate::definition::cuts::{Cut, Pieces, byte_level_cuts, cuts};
use crate::definition::normalizer::{Normalizer, keeps_start, normalized, normalizers};
use crate::error::Error;
use crate::json::fault;
use crate::pattern::GaveUp;
use crate::pre_tokenizer::is_scanned_as_published;
use crate::tokenizer_file::{self, TokenId, TokenizerFile};

/// The rules.
pub(super) struct Rules {
    /// Tokens in the text as it stands.
    stated: Option<AddedFinder>,
    normalizers: Vec<Normalizer>,
    /// Tokens in normalized text.
    normalized: Option<AddedFinder>,
    /// How text is cut, where the model's own pre-tokenizer does not do it.
    cuts: Vec<Cut>,
    /// How text merges, where it is not by bytes.
    letters: Option<Letters>,
}

/// Text between added tokens, normalized.
pub(super) struct Part<'a> {
    text: Cow<'a, str>,
    /// The whole text begins with it.
    is_start: bool,
}

impl Rules {
    /// The rules of `file`, with ids below `count`. `name` is llama.cpp's
    /// for how text is cut, if it has one.
    pub(super) fn of(
        files: &dyn SideFiles,
        file: &TokenizerFile,
        added: &AddedTokens,
        count: usize,
        name: Option<&str>,
    ) -> Result<Self, Error> {
        let normalizers = normalizers(&file.surroundings.normalizer).known;
        let wanted = |is_normalized: bool| {
            let tokens = added
                .iter()
                .filter(|token| token.normalized == is_normalized && (token.id.0 as usize) < count)
                .map(|token| {
                    let AddedToken { content, id, special, flags, .. } = token;
                    let text = if is_normalized {
                        normalized(&normalizers, content)
                    } else {
                        content.into()
                    };
                    let wanted = Wanted { id: *id, special: *special, flags: *flags };
                    (text.into_owned(), wanted)
                });
            AddedFinder::new(tokens.collect())
                .map_err(|problem| fault(files, tokenizer_file::NAME, "added_tokens", problem))
        };
        let has_letters = file.is_llama_with_byte_tokens();
        let cuts = if has_letters {
            cuts(&file.pre_tokenizer).known
        } else if name.is_some_and(is_scanned_as_published) {
            Vec::new()
        } else {
            byte_level_cuts(&file.pre_tokenizer).unwrap_or_default()
        };
        Ok(Self {
            stated: wanted(false)?,
            normalized: wanted(true)?,
            cuts,
            letters: has_letters.then(|| Letters::of(&file.model)),
            normalizers,
        })
    }

    /// True if text that merges by bytes is cut here.
    pub(super) fn cuts_bytes(&self) -> bool {
        self.letters.is_none() && !self.cuts.is_empty()
    }

    /// The added tokens of `text` and what is between them.
    pub(super) fn fragments<'a>(
        &self,
        text: &'a str,
        parse_special: bool,
    ) -> Vec<Fragment<Part<'a>>> {
        let mut fragments = Vec::new();
        for (start, fragment) in split(self.stated.as_ref(), text, parse_special) {
            match fragment {
                Fragment::Token(id) => fragments.push(Fragment::Token(id)),
                Fragment::Text(part) => {
                    let text = normalized(&self.normalizers, part);
                    let is_start = start == 0 && self.keeps_start(part);
                    self.push_normalized(text, is_start, parse_special, &mut fragments);
                }
            }
        }
        fragments
    }

    /// False if what the part begins with gets lost. Only cuts ask for it.
    fn keeps_start(&self, part: &str) -> bool {
        self.cuts.is_empty() || keeps_start(&self.normalizers, part)
    }

    fn push_normalized<'a>(
        &self,
        text: Cow<'a, str>,
        is_start: bool,
        parse_special: bool,
        fragments: &mut Vec<Fragment<Part<'a>>>,
    ) {
        let Some(finder) = &self.normalized else {
            fragments.push(Fragment::Text(Part { text, is_start }));
            return;
        };
        let parts = finder.split(&text, parse_special);
        fragments.extend(parts.into_iter().map(|(start, fragment)| match fragment {
            Fragment::Token(id) => Fragment::Token(id),
            Fragment::Text(part) => Fragment::Text(Part {
                text: Cow::Owned(part.to_owned()),
                is_start: is_start && start == 0,
            }),
        }));
    }

    /// Adds the tokens of a part; `by_bytes` does where text merges by bytes.
    pub(super) fn encode<'a>(
        &self,
        part: &'a Part<'_>,
        session: &mut Session<'a>,
        output: &mut Vec<TokenId>,
        by_bytes: impl for<'b> Fn(&'b str, &mut Session<'b>, &mut Vec<TokenId>) -> Result<(), GaveUp>,
    ) -> Result<(), GaveUp> {
        fn merge<'b>(
            letters: Option<&Letters>,
            piece: &'b str,
            session: &mut Session<'b>,
            output: &mut Vec<TokenId>,
            by_bytes: &impl Fn(&'b str, &mut Session<'b>, &mut Vec<TokenId>) -> Result<(), GaveUp>,
        ) -> Result<(), GaveUp> {
            match letters {
                Some(letters) => {
                    letters.encode(piece, session, output);
                    Ok(())
                }
                None => by_bytes(piece, session, output),
            }
        }
        let letters = self.letters.as_ref();
        if self.cuts.is_empty() {
            return merge(letters, &part.text, session, output, &by_bytes);
        }
        let pieces = Pieces::of(&self.cuts, &part.text, part.is_start)?;
        let mut session = Session::default();
        pieces.iter().try_for_each(|piece| merge(letters, piece, &mut session, output, &by_bytes))
    }
}

fn split<'a>(
    finder: Option<&AddedFinder>,
    text: &'a str,
    parse_special: bool,
) -> Vec<(usize, Fragment<&'a str>)> {
    match finder {
        Some(finder) => finder.split(text, parse_special),
        None => Vec::from([(0, Fragment::Text(text))]),
    }
}
