//! The `pre_tokenizer` of `tokenizer.json`, step by step: how a text is cut into pieces that
//! merge alone. Byte-level vocabularies are cut by their name in llama.cpp where it has one,
//! which is faster, and by these steps where it has none.

use std::ops::Range;

use serde_json::Value;

use super::Steps;
use crate::encode::is_punctuation;
use crate::pattern::{GaveUp, Pattern};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Metaspace {
        replacement: char,
        prefix: Prefix,
        splits: bool,
    },
    Split {
        matches: Matches,
        behavior: Behavior,
        inverted: bool,
    },
    /// A space in front of a piece that begins without one.
    PrefixSpace,
}

/// Which pieces get a space in front, if they have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// The one that begins the whole text.
    First,
    /// All.
    Always,
    Never,
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Matches {
    Text(String),
    Pattern(Pattern),
    Punctuation,
    Digits,
    WhiteSpace,
}

/// What becomes of the matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// The steps of a definition.
pub(crate) fn cuts(definition: &Value) -> Steps<Cut> {
    let read = |kind: &str, definition: &Value| read_cut(kind, definition).map(|cut| vec![cut]);
    Steps::read(definition, "pretokenizers", &read)
}

/// The steps of a byte-level definition; `None` if one is not known, or if the bytes become
/// letters before the last.
pub(crate) fn byte_level_cuts(definition: &Value) -> Option<Vec<Cut>> {
    let steps = Steps::read(definition, "pretokenizers", &read_byte_level);
    let (last, cuts) = steps.known.split_last().filter(|_| steps.unknown.is_empty())?;
    if last.is_some() {
        return None;
    }
    cuts.iter().cloned().collect()
}

/// GPT-2's pattern, by which `ByteLevel` cuts.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The cuts of one step, and `None` where bytes become letters.
fn read_byte_level(kind: &str, definition: &Value) -> Option<Vec<Option<Cut>>> {
    let flag = |key: &str| definition.get(key).and_then(Value::as_bool).unwrap_or(true);
    if kind != "ByteLevel" {
        return read_cut(kind, definition).map(|cut| vec![Some(cut)]);
    }
    let mut cuts = Vec::new();
    cuts.extend(flag("add_prefix_space").then_some(Some(Cut::PrefixSpace)));
    if flag("use_regex") {
        let matches = Matches::Pattern(Pattern::new(GPT_2)?);
        cuts.push(Some(Cut::Split { matches, behavior: Behavior::Isolated, inverted: false }));
    }
    cuts.push(None);
    Some(cuts)
}

fn read_cut(kind: &str, definition: &Value) -> Option<Cut> {
    let flag = |key: &str| definition.get(key).and_then(Value::as_bool);
    let behavior = || match definition.get("behavior").and_then(Value::as_str)? {
        "Removed" => Some(Behavior::Removed),
        "Isolated" => Some(Behavior::Isolated),
        "MergedWithPrevious" => Some(Behavior::MergedWithPrevious),
        "MergedWithNext" => Some(Behavior::MergedWithNext),
        "Contiguous" => Some(Behavior::Contiguous),
        _ => None,
    };
    let split = |matches: Matches, behavior: Behavior| Cut::Split {
        matches,
        behavior,
        inverted: kind == "Split" && flag("invert") == Some(true),
    };
    Some(match kind {
        "Metaspace" => {
            let mut letters = definition.get("replacement")?.as_str()?.chars();
            let replacement = letters.next().filter(|_| letters.next().is_none())?;
            let prefix = match definition.get("prepend_scheme").and_then(Value::as_str) {
                // The older spelling.
                _ if flag("add_prefix_space") == Some(false) => Prefix::Never,
                Some("always") | None => Prefix::Always,
                Some("first") => Prefix::First,
                Some("never") => Prefix::Never,
                Some(_) => return None,
            };
            Cut::Metaspace { replacement, prefix, splits: flag("split").unwrap_or(true) }
        }
        "Split" => {
            let text = |kind: &str| definition.get("pattern")?.get(kind)?.as_str();
            let matches = match text("Regex") {
                Some(pattern) => Matches::Pattern(Pattern::new(pattern)?),
                None => Matches::Text(text("String").filter(|text| !text.is_empty())?.to_owned()),
            };
            split(matches, behavior()?)
        }
        "CharDelimiterSplit" => {
            let letter = definition.get("delimiter")?.as_str()?;
            let letter = Some(letter).filter(|letter| letter.chars().count() == 1)?;
            split(Matches::Text(letter.to_owned()), Behavior::Removed)
        }
        "Punctuation" => {
            let behavior = match definition.get("behavior") {
                Some(_) => behavior()?,
                None => Behavior::Isolated,
            };
            split(Matches::Punctuation, behavior)
        }
        "Digits" if flag("individual_digits") == Some(true) => {
            split(Matches::Digits, Behavior::Isolated)
        }
        "Digits" => split(Matches::Digits, Behavior::Contiguous),
        "Whitespace" => Cut::Split {
            matches: Matches::Pattern(Pattern::new(r"\w+|[^\w\s]+")?),
            behavior: Behavior::Removed,
            inverted: true,
        },
        "WhitespaceSplit" => split(Matches::WhiteSpace, Behavior::Removed),
        _ => return None,
    })
}

impl Cut {
    /// Its name in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Metaspace { .. } => "Metaspace",
            Self::Split { matches: Matches::Text(_) | Matches::Pattern(_), .. } => "Split",
            Self::Split { matches: Matches::Punctuation, .. } => "Punctuation",
            Self::Split { matches: Matches::Digits, .. } => "Digits",
            Self::Split { matches: Matches::WhiteSpace, .. } => "WhitespaceSplit",
            Self::PrefixSpace => "ByteLevel's add_prefix_space",
        }
    }

    /// Adds the parts of `piece` to `pieces`.
    fn apply(&self, piece: &str, is_start: bool, pieces: &mut Pieces) -> Result<(), GaveUp> {
        match self {
            Self::Metaspace { replacement, prefix, splits } => {
                let mut text = piece.replace(' ', replacement.encode_utf8(&mut [0; 4]));
                let wants_prefix = match prefix {
                    Prefix::First => is_start,
                    Prefix::Always => true,
                    Prefix::Never => false,
                };
                if wants_prefix && !text.starts_with(*replacement) {
                    text.insert(0, *replacement);
                }
                if *splits {
                    let found = letters(&text, |letter| letter == *replacement);
                    pieces.split(&text, found, Behavior::MergedWithNext);
                } else {
                    pieces.push(&text);
                }
            }
            Self::Split { matches, behavior, inverted } => {
                let mut found = match matches {
                    Matches::Text(pattern) => texts(piece, pattern),
                    Matches::Pattern(pattern) => parts(piece, pattern.matches(piece)?.into_iter()),
                    Matches::Punctuation => letters(piece, is_punctuation),
                    Matches::Digits => letters(piece, char::is_numeric),
                    Matches::WhiteSpace => letters(piece, char::is_whitespace),
                };
                for (_, is_match) in &mut found {
                    *is_match ^= inverted;
                }
                pieces.split(piece, found, *behavior);
            }
            Self::PrefixSpace if piece.starts_with(' ') => pieces.push(piece),
            Self::PrefixSpace => pieces.push(&format!(" {piece}")),
        }
        Ok(())
    }
}

/// A part of a text, and whether it is a match.
type Part = (Range<usize>, bool);

/// Every letter of a kind is a match of its own.
fn letters(text: &str, is_match: impl Fn(char) -> bool) -> Vec<Part> {
    let matches = text.char_indices().filter(|(_, letter)| is_match(*letter));
    parts(text, matches.map(|(start, letter)| start..start.saturating_add(letter.len_utf8())))
}

fn texts(text: &str, pattern: &str) -> Vec<Part> {
    let range = |(start, found): (usize, &str)| start..start.saturating_add(found.len());
    parts(text, text.match_indices(pattern).map(range))
}

/// The matches and what is between them.
fn parts(text: &str, matches: impl Iterator<Item = Range<usize>>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut end = 0;
    for found in matches {
        if end < found.start {
            parts.push((end..found.start, false));
        }
        end = found.end;
        parts.push((found, true));
    }
    if end < text.len() {
        parts.push((end..text.len(), false));
    }
    parts
}

/// Pieces of a text, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Pieces {
    /// The pieces of `text` after all steps. `is_start` says that the whole text begins
    /// with it.
    ///
    /// # Errors
    /// If a pattern takes too many steps.
    pub(crate) fn of(steps: &[Cut], text: &str, is_start: bool) -> Result<Self, GaveUp> {
        let mut pieces = Self::default();
        pieces.push(text);
        for step in steps {
            let mut next = Self::default();
            let mut before = 0usize;
            for (place, piece) in pieces.iter().enumerate() {
                let applied = step.apply(piece, is_start && place == 0, &mut next);
                applied.map_err(|failure| failure.behind(before))?;
                before = before.saturating_add(piece.len());
            }
            pieces = next;
        }
        Ok(pieces)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).filter_map(|(start, end)| self.text.get(*start..*end))
    }

    fn push(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.text.push_str(piece);
            self.ends.push(self.text.len());
        }
    }

    /// Adds the parts of `text`, joined or left out as `behavior` says
    /// (`NormalizedString::split` in tokenizers).
    fn split(&mut self, text: &str, parts: Vec<Part>, behavior: Behavior) {
        let joined = match behavior {
            Behavior::Removed => parts
                .into_iter()
                .filter(|(_, is_match)| !is_match)
                .map(|(range, _)| range)
                .collect(),
            Behavior::Isolated => parts.into_iter().map(|(range, _)| range).collect(),
            Behavior::Contiguous => joined(parts, |is_match, before| is_match == before),
            Behavior::MergedWithPrevious => joined(parts, |is_match, before| is_match && !before),
            Behavior::MergedWithNext => merged_with_next(&parts),
        };
        joined.into_iter().filter_map(|range| text.get(range)).for_each(|piece| self.push(piece));
    }
}

/// Parts join the one before them where `joins` says so of the two.
fn joined(parts: Vec<Part>, joins: impl Fn(bool, bool) -> bool) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    let mut follows_match = false;
    for (range, is_match) in parts {
        match joined.last_mut().filter(|_| joins(is_match, follows_match)) {
            Some(before) => before.end = range.end,
            None => joined.push(range),
        }
        follows_match = is_match;
    }
    joined
}

/// The last of several matches takes what follows.
fn merged_with_next(parts: &[Part]) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    let mut precedes_match = false;
    for (range, is_match) in parts.iter().rev() {
        match joined.last_mut().filter(|_| *is_match && !precedes_match) {
            Some(after) => after.start = range.start,
            None => joined.push(range.clone()),
        }
        precedes_match = *is_match;
    }
    joined.reverse();
    joined
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_become_letters_last() {
        let check = |steps: &[Value], text: &str, expected: Option<&[&str]>| {
            let definition = json!({"type": "Sequence", "pretokenizers": steps});
            let cuts = byte_level_cuts(&definition);
            let pieces = cuts.map(|cuts| Pieces::of(&cuts, text, true).expect("pieces"));
            let found: Option<Vec<&str>> = pieces.as_ref().map(|pieces| pieces.iter().collect());
            assert_eq!(found.as_deref(), expected, "{definition}");
        };
        let bytes = |prefix: bool, splits: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "use_regex": splits});
        let digits = || json!({"type": "Digits", "individual_digits": true});
        check(&[bytes(true, true)], "it's  1", Some(&[" it", "'s", " ", " 1"]));
        check(&[bytes(false, false)], "it's 1", Some(&["it's 1"]));
        check(&[digits(), bytes(true, false)], "a12", Some(&[" a", " 1", " 2"]));
        check(&[bytes(false, true), digits()], "a12", None);
        check(&[digits()], "a12", None);
        check(&[json!({"type": "Unheard"}), bytes(false, false)], "a12", None);
    }

    #[test]
    fn texts_are_cut() {
        // From tokenizers 0.23.3, `pre_tokenizer.pre_tokenize_str`.
        let check = |definition: Value, text: &str, expected: &[&str]| {
            let steps = cuts(&definition);
            assert!(steps.unknown.is_empty(), "{definition}");
            let pieces = Pieces::of(&steps.known, text, true).expect("pieces");
            let found: Vec<String> =
                pieces.iter().map(|piece| piece.replace('\u{2581}', "_")).collect();
            assert_eq!(found, expected, "{definition}");
        };
        let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split});
        check(metaspace("always", true), "a  bc d", &["_a", "_", "_bc", "_d"]);
        check(metaspace("first", false), " a b", &["_a_b"]);
        check(metaspace("never", false), "a b", &["a_b"]);
        let split = |behavior: &str| json!({"type": "Split", "pattern": {"String": " "}, "behavior": behavior, "invert": false});
        check(split("MergedWithPrevious"), "a  b c", &["a ", " ", "b ", "c"]);
        check(split("MergedWithNext"), "a  b c", &["a", " ", " b", " c"]);
        check(split("Contiguous"), "a  b c", &["a", "  ", "b", " ", "c"]);
        check(split("Isolated"), "a  b", &["a", " ", " ", "b"]);
        check(split("Removed"), " a  b", &["a", "b"]);
        let kind = |kind: &str| json!({ "type": kind });
        check(kind("Punctuation"), "a,.b\u{ab}", &["a", ",", ".", "b", "\u{ab}"]);
        check(kind("Digits"), "a12b", &["a", "12", "b"]);
        check(json!({"type": "Digits", "individual_digits": true}), "a12", &["a", "1", "2"]);
        check(kind("WhitespaceSplit"), " a\tb", &["a", "b"]);
        check(kind("Whitespace"), "Hey, you!? ", &["Hey", ",", "you", "!?"]);
        let pattern = |pattern: &str, behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert});
        check(pattern(r"\d{1,3}(?=(\d{3})*\b)", "Isolated", false), "a1234", &["a", "1", "234"]);
        check(pattern(r"(?=(\d{3})+(?!\d))", "Isolated", false), "a1234567", &["a1", "234", "567"]);
        check(pattern(r"\w+", "Removed", true), "a, b", &["a", "b"]);
        check(pattern(r"[A-Z]", "MergedWithNext", false), "aBcD", &["a", "Bc", "D"]);
        let both = [split("Isolated"), metaspace("first", true)];
        check(json!({"type": "Sequence", "pretokenizers": both}), "a b", &["_a", "_", "b"]);
    }
}
