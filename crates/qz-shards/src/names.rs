//! Which names a tensor and a shard may have.

use std::hash::{DefaultHasher, Hasher};

use unicode_normalization::UnicodeNormalization;

use crate::error::{Fault, shown};

/// A tensor name that no model has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tensor name is empty or has control characters: {0}")]
pub struct InvalidName(String);

/// Checks a tensor name. It never becomes a path, so any printable text will do;
/// what would not print could fake or hide a message.
///
/// # Errors
/// If it is empty or would not print.
pub fn check_tensor(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() || name.chars().any(|c| c.is_control() || changes_direction(c)) {
        return Err(InvalidName(format!("\"{}\"", shown(name))));
    }
    Ok(())
}

/// Marks that reorder the text around them (Unicode's `Bidi_Control`).
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Checks a shard's name: a plain file name under the rules of every system, so
/// that a checkpoint is accepted everywhere or nowhere.
pub(crate) fn check_shard(name: &str) -> Result<(), Fault> {
    let separates = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    let relative = matches!(name, "" | "." | "..");
    // Windows drops dots and spaces at the end, and opens devices by name.
    if !(relative || name.contains(separates) || name.ends_with(['.', ' ']) || is_device(name)) {
        return Ok(());
    }
    let shown = format!("\"{}\"", shown(name));
    let is_inside = !name.contains(['\\', ':'])
        && name
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && !part.contains(char::is_control));
    Err(if is_inside && name.contains('/') {
        Fault::InSubfolder(shown)
    } else {
        Fault::OutsideFolder(shown)
    })
}

/// Names that Windows gives to devices, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']))
    };
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

/// Two places in `names` whose names differ in case or Unicode form only or not at
/// all, the smaller place first.
pub fn find_alike(names: &[&str]) -> Option<(usize, usize)> {
    // By hash, not by folded copies: those would double what the largest headers
    // take, and comparing names costs more than reading them did.
    let mut places: Vec<(u64, usize)> =
        names.iter().enumerate().map(|(place, name)| (folded_hash(name), place)).collect();
    places.sort_unstable();
    places.chunk_by(|a, b| a.0 == b.0).find_map(|alike| first_pair(names, alike))
}

/// The first pair that is alike, not just in its hash.
fn first_pair(names: &[&str], candidates: &[(u64, usize)]) -> Option<(usize, usize)> {
    let mut pairs = candidates.iter().enumerate().flat_map(|(position, (_, first))| {
        candidates[position + 1..].iter().map(move |(_, second)| (*first, *second))
    });
    pairs.find(|(first, second)| folded(names[*first]).eq(folded(names[*second])))
}

/// In the composed form, as most systems write it; file systems and people take names
/// for the same that differ only in it.
fn folded(name: &str) -> impl Iterator<Item = char> {
    name.nfc().flat_map(char::to_lowercase)
}

fn folded_hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    folded(name).for_each(|c| hasher.write_u32(c.into()));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_plain_file_names() {
        let check = |name: &str, expected: bool| {
            assert_eq!(check_shard(name).is_ok(), expected, "{name}");
        };
        check("model-00001-of-00002.safetensors", true);
        check("..model", true);
        check("console.safetensors", true);
        check("", false);
        check(".", false);
        check("..", false);
        check("../x.safetensors", false);
        check("/etc/passwd", false);
        check("sub/x.safetensors", false);
        check("C:\\x", false);
        check("C:x", false);
        check("\\\\host\\share", false);
        check("a\\..\\b", false);
        check("x.safetensors:stream", false);
        check("x.safetensors.", false);
        check("x.safetensors ", false);
        check("NUL", false);
        check("com1.safetensors", false);
        check("a\0b", false);
        check("a\nb", false);
    }

    #[test]
    fn tensor_names_print() {
        let check = |name: &str, expected: bool| {
            assert_eq!(check_tensor(name).is_ok(), expected, "{name:?}");
        };
        check("model.layers.0.weight", true);
        check("../../x", true);
        check("重み", true);
        check(&"long".repeat(1 << 14), true);
        check("", false);
        check("a\0b", false);
        check("a\u{1b}[2J", false);
        check("a\u{202e}b", false);
        check("a\u{2066}b", false);
    }

    #[test]
    fn neither_case_nor_unicode_form_is_enough() {
        let check = |names: &[&str], expected: Option<(usize, usize)>| {
            assert_eq!(find_alike(names), expected);
        };
        check(&[], None);
        check(&["a", "b", "ab"], None);
        check(&["x", "layer.W", "y", "layer.w"], Some((1, 3)));
        check(&["É", "é"], Some((0, 1)));
        check(&["\u{e9}", "e\u{301}"], Some((0, 1)));
        check(&["b", "a", "b"], Some((0, 2)));
    }
}
