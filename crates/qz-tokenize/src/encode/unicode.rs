//! What the tokenizers know of a code point: its general category, whether it
//! is white space, its lower case, and what its decomposition begins with. As
//! in `src/unicode.cpp` of llama.cpp, whose tables these are: another version of
//! Unicode would split some texts differently.

use super::unicode_table::{CATEGORIES, DECOMPOSED, LOWERCASE, LOWERCASE_FIRST};

/// A code point's category as one bit, and white space as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(u16);

impl Class {
    pub(super) const NUMBER: Self = Self(1 << 1);
    pub(super) const LETTER: Self = Self(1 << 2);
    pub(super) const MARK: Self = Self(1 << 4);
    pub(super) const PUNCTUATION: Self = Self(1 << 5);
    pub(super) const SYMBOL: Self = Self(1 << 6);
    pub(super) const CONTROL: Self = Self(1 << 7);
    pub(super) const SPACE: Self = Self(1 << 8);

    /// The class of `letter`.
    pub(super) fn of(letter: char) -> Self {
        if letter.is_ascii() {
            return ASCII[letter as usize];
        }
        let space = if is_space(letter) { Self::SPACE.0 } else { 0 };
        Self(1 << category(letter as u32) | space)
    }

    /// Either of the two.
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if it is one of `wanted`.
    pub(super) fn is(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }
}

/// True for punctuation as the tokenizers library has it: with all of ASCII's symbols.
pub(crate) fn is_punctuation(letter: char) -> bool {
    letter.is_ascii_punctuation() || Class::of(letter).is(Class::PUNCTUATION)
}

static ASCII: [Class; 128] = ascii();

const fn ascii() -> [Class; 128] {
    let mut classes = [Class(0); 128];
    let mut code = 0;
    while code < 128 {
        let space = if matches!(code, 9..=13 | 32) { Class::SPACE.0 } else { 0 };
        classes[code] = Class(1 << ascii_category(code) | space);
        code += 1;
    }
    classes
}

const fn ascii_category(code: usize) -> u32 {
    let mut run = 0;
    while run + 1 < CATEGORIES.len() && (CATEGORIES[run + 1] >> 3) as usize <= code {
        run += 1;
    }
    CATEGORIES[run] & 7
}

/// The number of the category, which is the bit's.
fn category(code: u32) -> u32 {
    let after = CATEGORIES.partition_point(|run| run >> 3 <= code);
    CATEGORIES[after - 1] & 7
}

fn is_space(letter: char) -> bool {
    matches!(
        letter,
        '\t'..='\r'
            | ' '
            | '\u{85}'
            | '\u{a0}'
            | '\u{1680}'
            | '\u{2000}'..='\u{200a}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{202f}'
            | '\u{205f}'
            | '\u{3000}'
    )
}

/// The lower case, where it is one code point.
pub(super) fn lowercase(letter: char) -> char {
    let code = letter as u32;
    let runs = LOWERCASE.as_chunks::<2>().0;
    let after = runs.partition_point(|[first, _]| first >> 2 <= code);
    let Some(run) = after.checked_sub(1) else { return letter };
    let [first, last] = runs[run];
    let (first, step) = (first >> 2, first & 3);
    if code > last || !(code - first).is_multiple_of(step) {
        return letter;
    }
    char::from_u32(LOWERCASE_FIRST[run] + (code - first)).unwrap_or(letter)
}

/// What the canonical decomposition begins with. The reference drops the rest.
pub(super) fn base_letter(letter: char) -> char {
    let code = letter as u32;
    let runs = DECOMPOSED.as_chunks::<3>().0;
    let after = runs.partition_point(|[first, ..]| *first <= code);
    match after.checked_sub(1).map(|run| runs[run]) {
        Some([_, last, base]) if code <= last => char::from_u32(base).unwrap_or(letter),
        _ => letter,
    }
}

/// True for the ideographs that the reference takes for Chinese characters.
pub(super) fn is_han(letter: char) -> bool {
    matches!(
        letter as u32,
        0x4e00..=0x9fff
            | 0x3400..=0x4dbf
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2ebef
            | 0xf900..=0xfaff
            | 0x2f800..=0x2fa1f
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_have_their_class() {
        let check = |letter: char, expected: Class| {
            assert_eq!(Class::of(letter), expected, "{letter:?}");
        };
        check('a', Class::LETTER);
        check('\u{4e2d}', Class::LETTER);
        check('7', Class::NUMBER);
        check('\u{2167}', Class::NUMBER);
        check('+', Class::SYMBOL);
        check('\u{1f680}', Class::SYMBOL);
        check('_', Class::PUNCTUATION);
        check('\u{301}', Class::MARK);
        check('\u{200d}', Class::CONTROL);
        check('\n', Class::CONTROL.or(Class::SPACE));
        check('\u{85}', Class::CONTROL.or(Class::SPACE));
        check('\u{1c}', Class::CONTROL);
        check('\u{378}', Class(1));
        check(char::MAX, Class(1));
        assert!(Class::of(' ').is(Class::SPACE) && Class::of('\u{3000}').is(Class::SPACE));
    }

    #[test]
    fn letters_have_a_lower_case_and_a_base() {
        let check = |letter: char, lower: char, base: char| {
            assert_eq!((lowercase(letter), base_letter(letter)), (lower, base), "{letter:?}");
        };
        check('A', 'a', 'A');
        check('z', 'z', 'z');
        check('\u{c9}', '\u{e9}', 'E');
        check('\u{102}', '\u{103}', 'A');
        check('\u{103}', '\u{103}', 'a');
        check('\u{416}', '\u{436}', '\u{416}');
        check('\u{10400}', '\u{10428}', '\u{10400}');
        check('\u{1f680}', '\u{1f680}', '\u{1f680}');
        check('\0', '\0', '\0');
        check(char::MAX, char::MAX, char::MAX);
    }
}
