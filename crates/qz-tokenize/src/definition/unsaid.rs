//! What a GGUF file cannot say of a definition: told in one line per kind.

use std::collections::HashMap;

use qz_tensor::{Location, SideFiles, Warning};
use serde_json::Value;

use super::SPACE;
use super::cuts::{Cut, Matches, Prefix, cuts};
use super::normalizer::{Normalizer, normalized, normalizers};
use crate::added_tokens::AddedTokens;
use crate::encode::{Letters, ScoredLetters};
use crate::sentencepiece::byte_of;
use crate::splits::Splits;
use crate::tokenizer_file::{self, TokenFlags, TokenizerFile};

/// Whether texts get a space in front, as far as `file` says so.
pub(crate) fn space_prefix(file: &TokenizerFile) -> Option<bool> {
    let normalizers = normalizers(&file.surroundings.normalizer);
    let cuts = cuts(&file.pre_tokenizer);
    let is_prefixing =
        |cut: &Cut| matches!(cut, Cut::Metaspace { prefix: Prefix::First | Prefix::Always, .. });
    if normalizers.known.iter().any(Normalizer::prepends_space)
        || cuts.known.iter().any(is_prefixing)
    {
        return Some(true);
    }
    (normalizers.unknown.is_empty() && cuts.unknown.is_empty()).then_some(false)
}

/// Tells which parts of `file` nothing here carries out. `is_byte_level` says which kind
/// of vocabulary it is; the pre-tokenizer of a byte-level one is known by its name.
pub(crate) fn warn_of_unknown(
    files: &dyn SideFiles,
    file: &TokenizerFile,
    is_byte_level: bool,
    warnings: &mut Vec<Warning>,
) {
    let normalizers = normalizers(&file.surroundings.normalizer).unknown;
    let cuts = cuts(if is_byte_level { &Value::Null } else { &file.pre_tokenizer }).unknown;
    for (key, unknown) in [("normalizer", normalizers), ("pre_tokenizer", cuts)] {
        if !unknown.is_empty() {
            warnings.push(Warning {
                location: Location::file(files.path(tokenizer_file::NAME)).tensor(key),
                rule: "tokenizer-part-unknown",
                message: format!(
                    "{}: this program does not know it, so token ids may differ from the tokenizers library's",
                    unknown.join(", ")
                ),
            });
        }
    }
    if let Some(dropout) = file.model.dropout.filter(|dropout| *dropout != 0.0) {
        warnings.push(Warning {
            location: Location::file(files.path(tokenizer_file::NAME)).tensor("model.dropout"),
            rule: "tokenizer-dropout-ignored",
            message: format!(
                "is {dropout}: the tokenizers library leaves out merges by chance; here and in \
                 GGUF files none is left out"
            ),
        });
    }
}

/// What of `file` a GGUF file loses.
pub(crate) fn unsaid(
    files: &dyn SideFiles,
    file: &TokenizerFile,
    added: &AddedTokens,
    is_byte_level: bool,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str, rule: &'static str, message: String| {
        let location = Location::file(files.path(tokenizer_file::NAME)).tensor(key);
        warnings.push(Warning { location, rule, message });
    };
    let normalizers = normalizers(&file.surroundings.normalizer);
    let lost: Vec<&str> = normalizers
        .known
        .iter()
        .filter(|step| is_byte_level || !(step.escapes_spaces() || step.prepends_space()))
        .map(Normalizer::name)
        .collect();
    if !lost.is_empty() {
        let message = format!(
            "GGUF cannot say {}: texts that this changes become other tokens when such a file is used",
            lost.join(", ")
        );
        warn("normalizer", "tokenizer-part-lost", message);
    }
    if !is_byte_level {
        let cuts = cuts(&file.pre_tokenizer);
        let escapes = normalizers.known.iter().any(Normalizer::escapes_spaces);
        let lost = lost_cuts(file, &cuts.known, escapes);
        if !lost.is_empty() {
            let message = format!(
                "GGUF cannot say {}: some texts become other tokens when such a file is used",
                lost.join(", ")
            );
            warn("pre_tokenizer", "tokenizer-part-lost", message);
        }
        let bytes = file.model.vocab.ids.keys().filter(|token| byte_of(token).is_some()).count();
        if bytes < 256 {
            let message = format!(
                "has tokens for {bytes} of 256 bytes: llama.cpp ends at a letter whose bytes have none"
            );
            warn("model.vocab", "byte-tokens-missing", message);
        }
        let torn = lost_tokens(file, added);
        if !torn.is_empty() {
            let message = format!(
                "GGUF has scores for the order of merges, which does not say what becomes of {}",
                named(&torn)
            );
            warn("model.merges", "merges-lost", message);
        }
    }
    let of_added = added.iter().map(|token| {
        let changes = || normalized(&normalizers.known, &token.content) != token.content;
        (token.content.as_str(), token.flags, token.normalized && changes())
    });
    warnings.extend(unsaid_flags(files, tokenizer_file::NAME, of_added));
    warnings
}

/// Which flags of tokens a GGUF file loses; the last of each entry says that it is looked
/// for in normalized text and changed itself.
pub(crate) fn unsaid_flags<'a>(
    files: &dyn SideFiles,
    name: &str,
    tokens: impl Iterator<Item = (&'a str, TokenFlags, bool)>,
) -> Option<Warning> {
    let mut by_flag: [(&str, Vec<&str>); 4] =
        ["lstrip", "rstrip", "single_word", "normalized"].map(|flag| (flag, Vec::new()));
    for (content, flags, is_changed) in tokens {
        let set = [flags.lstrip, flags.rstrip, flags.single_word, is_changed];
        for ((_, having), _) in by_flag.iter_mut().zip(set).filter(|(_, is_set)| *is_set) {
            having.push(content);
        }
    }
    let lost = by_flag.iter().filter(|(_, having)| !having.is_empty());
    let lost: Vec<String> =
        lost.map(|(flag, having)| format!("{flag} of {}", named(having))).collect();
    (!lost.is_empty()).then(|| Warning {
        location: Location::file(files.path(name)).tensor("added_tokens"),
        rule: "token-flags-lost",
        message: format!(
            "GGUF cannot say {}: texts with them become other tokens when such a file is used",
            lost.join(", ")
        ),
    })
}

/// Which added tokens have another text in a GGUF file: pairs of both.
pub(crate) fn unsaid_texts<'a>(
    files: &dyn SideFiles,
    texts: impl Iterator<Item = (&'a str, String)>,
) -> Option<Warning> {
    const SHOWN: usize = 3;
    let changed: Vec<String> = texts
        .filter(|(content, text)| content != text)
        .map(|(content, text)| format!("{content:?} is {text:?}"))
        .collect();
    let shown = changed.get(..SHOWN).unwrap_or(&changed).join(", ");
    let more = match changed.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more are others"),
    };
    (!changed.is_empty()).then(|| Warning {
        location: Location::file(files.path(tokenizer_file::NAME)).tensor("added_tokens"),
        rule: "token-text-changed",
        message: format!(
            "in GGUF {shown}{more}: texts with them become other tokens when such a file is used"
        ),
    })
}

/// A few of the tokens, and how many there are.
fn named(tokens: &[&str]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = tokens.iter().take(SHOWN).map(|token| format!("{token:?}")).collect();
    match tokens.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        Some(more) => format!("{} and {more} more", shown.join(", ")),
        None => shown.join(", "),
    }
}

/// What llama.cpp's SentencePiece, which cuts nowhere and begins every text behind a
/// special token with a space or none, does otherwise.
fn lost_cuts(file: &TokenizerFile, cuts: &[Cut], mut escapes: bool) -> Vec<String> {
    let mut lost = Vec::new();
    for cut in cuts {
        match cut {
            // There are none left.
            Cut::Split { matches: Matches::Text(pattern), .. }
                if escapes && pattern.contains(' ') => {}
            Cut::Metaspace { replacement, prefix, splits } => {
                if *replacement == SPACE {
                    escapes = true;
                } else {
                    lost.push(format!("Metaspace with {replacement:?}"));
                }
                match prefix {
                    Prefix::First => lost.push("Metaspace's prepend_scheme \"first\"".to_owned()),
                    Prefix::Always => lost.push("Metaspace's prepend_scheme \"always\"".to_owned()),
                    Prefix::Never => {}
                }
                if *splits && merges_cross(file, *replacement) {
                    lost.push("Metaspace's split".to_owned());
                }
            }
            cut => lost.push(cut.name().to_owned()),
        }
    }
    if !escapes {
        lost.push("spaces that stay spaces".to_owned());
    }
    lost
}

/// True if a merge joins something in front of this letter to it.
fn merges_cross(file: &TokenizerFile, letter: char) -> bool {
    let crosses = |line: &String| {
        let letters = line.chars().filter(|letter| *letter != ' ').skip(1);
        letters.into_iter().any(|found| found == letter)
    };
    file.model.merges.lines.iter().any(crosses)
}

/// The tokens whose own text becomes something else by scores than by merges: another
/// merge gives a part of it, or none gives the token, but its parts are tokens, too.
fn lost_tokens<'a>(file: &'a TokenizerFile, added: &AddedTokens) -> Vec<&'a str> {
    let letters = Letters::of(&file.model);
    let scored = ScoredLetters::of(&file.model);
    let mut merges: HashMap<u32, usize> = HashMap::new();
    for (_, _, product) in file.model.merge_ids() {
        let count = merges.entry(product).or_default();
        *count = count.saturating_add(1);
    }
    let (tokens, ids): (Vec<&str>, Vec<u32>) =
        file.model.vocab.ids.iter().map(|(token, id)| (token.as_str(), id.0)).unzip();
    let splits = Splits::of(&tokens);
    let is_doubtful = |place: usize, id: u32, token: &str| {
        letters.takes_whole()
            || !letters.knows(token)
            || splits.of_piece(place).count() > merges.get(&id).copied().unwrap_or(0)
    };
    let is_lost = |place: usize, id: u32, token: &str| {
        added.get(token).is_none()
            && byte_of(token).is_none()
            && is_doubtful(place, id, token)
            && letters.ids(token) != scored.ids(token)
    };
    let places = ids.iter().copied().zip(tokens.iter().copied()).enumerate();
    let lost = places.filter(|(place, (id, token))| is_lost(*place, *id, token));
    let mut lost: Vec<(u32, &str)> = lost.map(|(_, token)| token).collect();
    lost.sort_unstable();
    lost.into_iter().map(|(_, token)| token).collect()
}
