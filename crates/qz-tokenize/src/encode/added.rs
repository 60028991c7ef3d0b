//! Added tokens in a text, as the tokenizers library finds them: the leftmost first,
//! of those the longest (`AddedVocabulary` in `src/tokenizer/added_vocabulary.rs`).

use aho_corasick::{AhoCorasick, MatchKind};
use regex::Regex;

use super::finder::finder;
use super::partition::Fragment;
use crate::tokenizer_file::{TokenFlags, TokenId};

/// A token that is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) id: TokenId,
    pub(super) special: bool,
    pub(super) flags: TokenFlags,
}

/// Finds them.
pub(super) struct AddedFinder {
    wanted: Vec<Wanted>,
    finder: AhoCorasick,
    /// A letter of words, as the library has it.
    word: Regex,
}

impl AddedFinder {
    /// For tokens with their texts; `None` if there are none, else what is wrong with
    /// them where that is so.
    pub(super) fn new(tokens: Vec<(String, Wanted)>) -> Result<Option<Self>, String> {
        let (texts, wanted): (Vec<String>, Vec<Wanted>) =
            tokens.into_iter().filter(|(text, _)| !text.is_empty()).unzip();
        if wanted.is_empty() {
            return Ok(None);
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let finder = finder(&texts, MatchKind::LeftmostLongest)?;
        let word = Regex::new(r"^\w$").map_err(|error| error.to_string())?;
        Ok(Some(Self { wanted, finder, word }))
    }

    /// The tokens in `text`, and what is between them with the place where it begins.
    /// Special ones are passed over unless `parse_special` is set.
    pub(super) fn split<'a>(
        &self,
        text: &'a str,
        parse_special: bool,
    ) -> Vec<(usize, Fragment<&'a str>)> {
        let mut fragments = Vec::new();
        let mut rest = 0;
        for found in self.finder.find_iter(text) {
            let Wanted { id, special, flags } = self.wanted[found.pattern().as_usize()];
            let (before, after) = (&text[..found.start()], &text[found.end()..]);
            if (special && !parse_special) || (flags.single_word && self.is_inside(before, after)) {
                continue;
            }
            // Another token may have taken white space before this one, or all of it.
            let start =
                if flags.lstrip { before.trim_end().len().max(rest) } else { found.start() };
            let taken = if flags.rstrip { after.len() - after.trim_start().len() } else { 0 };
            if rest < start {
                fragments.push((rest, Fragment::Text(&text[rest..start])));
            }
            fragments.push((start, Fragment::Token(id)));
            rest = found.end() + taken;
        }
        if rest < text.len() {
            fragments.push((rest, Fragment::Text(&text[rest..])));
        }
        fragments
    }

    /// True between letters of one word.
    fn is_inside(&self, before: &str, after: &str) -> bool {
        let is_word = |letter: Option<char>| {
            letter.is_some_and(|letter| self.word.is_match(letter.encode_utf8(&mut [0; 4])))
        };
        is_word(before.chars().next_back()) || is_word(after.chars().next())
    }
}
