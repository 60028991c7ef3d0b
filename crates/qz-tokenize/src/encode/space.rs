//! U+2581, which stands for a space in SentencePiece's texts, and where text
//! can be cut at it.

use std::collections::HashSet;

/// The letter.
pub(super) const SPACE: &str = "\u{2581}";
const SPACE_LETTER: char = '\u{2581}';

/// After which letters a merge can cross to a space. Elsewhere text falls into
/// words that are merged alone, with the same result.
pub(super) struct Spaces {
    crossed: HashSet<char>,
}

impl Spaces {
    /// For merges that give these texts.
    pub(super) fn of<'a>(products: impl Iterator<Item = &'a str>) -> Self {
        let mut crossed = HashSet::new();
        for product in products {
            let mut previous = None;
            for letter in product.chars() {
                crossed.extend(previous.filter(|_| letter == SPACE_LETTER));
                previous = Some(letter);
            }
        }
        Self { crossed }
    }

    /// The words of `text`.
    pub(super) fn words<'a>(&self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let (word, after) = rest.split_at(self.word_end(rest));
            rest = after;
            (!word.is_empty()).then_some(word)
        })
    }

    fn word_end(&self, text: &str) -> usize {
        let mut previous = None;
        for (start, letter) in text.char_indices() {
            if letter == SPACE_LETTER
                && previous.is_some_and(|letter| !self.crossed.contains(&letter))
            {
                return start;
            }
            previous = Some(letter);
        }
        text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_where_no_merge_crosses() {
        let check = |products: &[&str], text: &str, expected: &[&str]| {
            let text = text.replace('_', SPACE);
            let products: Vec<String> = products.iter().map(|p| p.replace('_', SPACE)).collect();
            let spaces = Spaces::of(products.iter().map(String::as_str));
            let words: Vec<String> =
                spaces.words(&text).map(|word| word.replace(SPACE, "_")).collect();
            assert_eq!(words, expected, "{text}");
        };
        check(&["_a", "ab"], "_ab_c__d", &["_ab", "_c", "_", "_d"]);
        check(&["_a", "__"], "_ab_c__d_", &["_ab", "_c", "__d", "_"]);
        check(&["b_"], "ab_c_d", &["ab_c", "_d"]);
        check(&[], "", &[]);
        check(&[], "a", &["a"]);
    }
}
