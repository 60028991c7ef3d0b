//! Text as code points with their classes.

use super::super::unicode::Class;

/// A text, ready to be split.
pub(super) struct Letters {
    letters: Vec<char>,
    classes: Vec<Class>,
}

impl Letters {
    pub(super) fn new(text: &str) -> Self {
        let letters: Vec<char> = text.chars().collect();
        let classes = letters.iter().copied().map(Class::of).collect();
        Self { letters, classes }
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    /// From `start` to before `end`.
    pub(super) fn span(&self, start: usize, end: usize) -> Span<'_> {
        Span { letters: &self.letters[start..end], classes: &self.classes[start..end] }
    }

    /// How many bytes the letters from `start` to before `end` take.
    pub(super) fn bytes(&self, start: usize, end: usize) -> usize {
        self.letters[start..end].iter().map(|letter| letter.len_utf8()).sum()
    }
}

/// One piece of the text; nothing before or after it can be seen.
#[derive(Clone, Copy)]
pub(in crate::encode) struct Span<'a> {
    letters: &'a [char],
    classes: &'a [Class],
}

/// Which letters belong to a run.
pub(in crate::encode) type Test = fn(char, Class) -> bool;

impl Span<'_> {
    pub(super) fn len(self) -> usize {
        self.letters.len()
    }

    /// The letters as a text.
    pub(super) fn text(self) -> String {
        self.letters.iter().collect()
    }

    /// The letter at `at`.
    pub(super) fn letter(self, at: usize) -> Option<char> {
        self.letters.get(at).copied()
    }

    /// True if `letter` stands at `at`.
    pub(super) fn has(self, at: usize, letter: char) -> bool {
        self.letter(at) == Some(letter)
    }

    /// True if the letter at `at` is of one of the classes.
    pub(super) fn is(self, at: usize, wanted: Class) -> bool {
        self.classes.get(at).is_some_and(|class| class.is(wanted))
    }

    /// True if the letter at `at` passes.
    pub(super) fn passes(self, at: usize, test: Test) -> bool {
        match (self.letters.get(at), self.classes.get(at)) {
            (Some(letter), Some(class)) => test(*letter, *class),
            _ => false,
        }
    }

    /// Where the run of letters that pass ends which begins at `at`.
    pub(super) fn run(self, at: usize, test: Test) -> usize {
        let mut end = at;
        while self.passes(end, test) {
            end += 1;
        }
        end
    }

    /// The same for letters of one of the classes.
    pub(super) fn run_of(self, at: usize, wanted: Class) -> usize {
        let mut end = at;
        while self.is(end, wanted) {
            end += 1;
        }
        end
    }
}
