//! The patterns that split text into words, in the shape that most model
//! families share: contractions, words, digits, punctuation, line breaks and
//! white space, as alternatives of one regular expression. A pattern is data
//! here; nothing backtracks, so time is proportional to the text.

use super::super::unicode::{Class, is_han};
use super::span::{Span, Test};

/// One pattern of the family.
pub(in crate::encode) struct Words {
    /// What goes before everything else.
    pub(super) first: First,
    pub(super) contractions: Contractions,
    /// The one letter that may stand before a word: `[^\r\n\p{L}\p{N}]?`.
    pub(super) lead: Test,
    pub(super) word: Word,
    /// The longest run of digits; 0 if the pattern has none.
    pub(super) digits: usize,
    /// What runs after an optional space: ` ?[^\s\p{L}\p{N}]+`.
    pub(super) marks: Test,
    pub(super) tail: Tail,
    pub(super) breaks: Breaks,
    pub(super) spaces: Spaces,
}

pub(in crate::encode) enum First {
    Nothing,
    /// `\p{Han}+`
    Han,
    /// One ASCII punctuation mark and ASCII letters.
    MarkAndLetters,
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
#[derive(PartialEq, Eq)]
pub(in crate::encode) enum Contractions {
    None,
    /// As pieces of their own, before words are looked for.
    Own,
    /// As the end of a word.
    EndOfWord,
}

pub(in crate::encode) enum Word {
    /// A run of such letters.
    Run(Test),
    /// A run that ends where lower case turns to upper case. Letters outside
    /// ASCII are taken for both.
    Cased(Test),
    /// Letters with their marks, and single spaces between them.
    Phrase,
}

/// What belongs to the punctuation before it.
pub(in crate::encode) enum Tail {
    Nothing,
    /// `[\r\n]*`
    Breaks,
    /// `[\r\n/]*`
    BreaksAndSlashes,
    /// `[\r\n/]?`
    OneBreakOrSlash,
}

#[derive(PartialEq, Eq)]
pub(in crate::encode) enum Breaks {
    /// `\s*[\r\n]+`; `\s*[\r\n]` is the same, for `\s` takes line breaks, too.
    WithSpaces,
    /// `[\r\n]`
    One,
}

#[derive(PartialEq, Eq)]
pub(in crate::encode) enum Spaces {
    /// `\s+(?!\S)|\s+`: all of a run but the last, which goes to the word after.
    Run,
    /// `\s{512}(?!\S)|\s{256}(?!\S)|...|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`
    Halved,
}

/// The run of white space that was looked at last. A pattern may cut a run into
/// many pieces, and would look at the rest of it for each.
#[derive(Default)]
pub(super) struct SpaceRun {
    end: usize,
    after_last_break: usize,
}

impl SpaceRun {
    /// The run that `at` is in.
    fn look(&mut self, span: Span<'_>, at: usize) {
        if at < self.end {
            return;
        }
        (self.end, self.after_last_break) = (at, 0);
        while span.is(self.end, Class::SPACE) {
            self.end += 1;
            if span.passes(self.end - 1, is_break) {
                self.after_last_break = self.end;
            }
        }
    }
}

pub(super) fn is_break(letter: char, _: Class) -> bool {
    matches!(letter, '\r' | '\n')
}

/// `[^\r\n\p{L}\p{N}]`
pub(super) fn is_lead(letter: char, class: Class) -> bool {
    !is_break(letter, class) && !class.is(Class::LETTER.or(Class::NUMBER))
}

/// `[^\r\n\p{L}\p{P}\p{S}]`
pub(super) fn is_lead_without_marks(letter: char, class: Class) -> bool {
    let other = Class::LETTER.or(Class::PUNCTUATION).or(Class::SYMBOL);
    !is_break(letter, class) && !class.is(other)
}

pub(super) fn is_letter(_: char, class: Class) -> bool {
    class.is(Class::LETTER)
}

pub(super) fn is_letter_or_mark(_: char, class: Class) -> bool {
    class.is(Class::LETTER.or(Class::MARK))
}

pub(super) fn is_letter_but_han(letter: char, class: Class) -> bool {
    is_letter(letter, class) && !is_han(letter)
}

/// `[^\s\p{L}\p{N}]`
pub(super) fn is_other(_: char, class: Class) -> bool {
    !class.is(Class::SPACE.or(Class::LETTER).or(Class::NUMBER))
}

/// `[^\s\p{L}\p{M}\p{N}]`
pub(super) fn is_other_but_mark(letter: char, class: Class) -> bool {
    is_other(letter, class) && !class.is(Class::MARK)
}

/// `[\p{P}\p{S}]`
pub(super) fn is_punctuation(_: char, class: Class) -> bool {
    class.is(Class::PUNCTUATION.or(Class::SYMBOL))
}

impl Words {
    /// Where the match at `at` ends, if there is one.
    pub(super) fn end(&self, span: Span<'_>, at: usize, spaces: &mut SpaceRun) -> Option<usize> {
        self.first_end(span, at)
            .or_else(|| contraction(span, at).filter(|_| self.contractions == Contractions::Own))
            .or_else(|| self.word_end(span, at))
            .or_else(|| self.digits_end(span, at))
            .or_else(|| self.marks_end(span, at))
            .or_else(|| self.space_end(span, at, spaces))
    }

    fn first_end(&self, span: Span<'_>, at: usize) -> Option<usize> {
        match self.first {
            First::Nothing => None,
            First::Han => longer(at, span.run(at, |letter, _| is_han(letter))),
            First::MarkAndLetters => span
                .passes(at, |letter, _| letter.is_ascii_punctuation())
                .then(|| span.run(at + 1, |letter, _| letter.is_ascii_alphabetic()))
                .and_then(|end| longer(at + 1, end)),
        }
    }

    fn word_end(&self, span: Span<'_>, at: usize) -> Option<usize> {
        // The letter in front is taken if the pattern can go on after it.
        let starts = [(at + 1, span.passes(at, self.lead)), (at, true)];
        let starts = starts.into_iter().filter(|(_, is_possible)| *is_possible);
        let mut starts = starts.map(|(start, _)| start);
        let end = match self.word {
            Word::Run(test) => starts.find_map(|start| longer(start, span.run(start, test)))?,
            Word::Phrase => starts.find_map(|start| longer(start, phrase_end(span, start)))?,
            Word::Cased(test) => {
                let either = starts.clone().find_map(|start| to_lower_end(span, start, test));
                either.or_else(|| starts.find_map(|start| from_upper_end(span, start, test)))?
            }
        };
        let contraction = (self.contractions == Contractions::EndOfWord)
            .then(|| contraction(span, end))
            .flatten();
        Some(contraction.unwrap_or(end))
    }

    fn digits_end(&self, span: Span<'_>, at: usize) -> Option<usize> {
        let most = at.saturating_add(self.digits).min(span.len());
        longer(at, (at..most).find(|place| !span.is(*place, Class::NUMBER)).unwrap_or(most))
    }

    fn marks_end(&self, span: Span<'_>, at: usize) -> Option<usize> {
        let start = at + usize::from(span.has(at, ' '));
        let end = longer(start, span.run(start, self.marks))?;
        let is_slash_or_break: Test = |letter, class| letter == '/' || is_break(letter, class);
        Some(match self.tail {
            Tail::Nothing => end,
            Tail::Breaks => span.run(end, is_break),
            Tail::BreaksAndSlashes => span.run(end, is_slash_or_break),
            Tail::OneBreakOrSlash => end + usize::from(span.passes(end, is_slash_or_break)),
        })
    }

    fn space_end(&self, span: Span<'_>, at: usize, spaces: &mut SpaceRun) -> Option<usize> {
        spaces.look(span, at);
        if self.breaks == Breaks::One && span.passes(at, is_break) {
            return Some(at + 1);
        }
        if self.breaks == Breaks::WithSpaces && spaces.after_last_break > at {
            return Some(spaces.after_last_break);
        }
        let length = spaces.end.checked_sub(at).filter(|length| *length > 0)?;
        // Before a word one has to be left over, at the end none.
        let most = length - usize::from(spaces.end < span.len());
        let taken = match self.spaces {
            Spaces::Run => most,
            Spaces::Halved => {
                let sizes = [512, 256, 128, 64, 32, 16, 8, 4, 2];
                sizes.into_iter().find(|size| *size <= most).unwrap_or(1)
            }
        };
        Some(at + taken.max(1))
    }
}

/// `end`, if that is past `start`.
pub(super) fn longer(start: usize, end: usize) -> Option<usize> {
    (end > start).then_some(end)
}

/// Where the contraction at `at` ends, in either case.
pub(super) fn contraction(span: Span<'_>, at: usize) -> Option<usize> {
    if !span.has(at, '\'') {
        return None;
    }
    let letter = |place: usize| span.letter(at + place).map(|letter| letter.to_ascii_lowercase());
    match (letter(1)?, letter(2)) {
        ('s' | 't' | 'm' | 'd', _) => Some(at + 2),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(at + 3),
        _ => None,
    }
}

/// Letters but lower case ASCII, then letters but upper case ASCII, of which
/// there has to be one: `[..]*[..]+`.
fn to_lower_end(span: Span<'_>, start: usize, test: Test) -> Option<usize> {
    let mut middle = start;
    let mut last_of_both = None;
    while let Some(letter) = span
        .letter(middle)
        .filter(|letter| span.passes(middle, test) && !letter.is_ascii_lowercase())
    {
        if !letter.is_ascii_uppercase() {
            last_of_both = Some(middle);
        }
        middle += 1;
    }
    // If none is left for the second part, it gets the last that may be in both;
    // what follows that one is upper case.
    longer(middle, lower_run(span, middle, test)).or(last_of_both.map(|place| place + 1))
}

/// One or more letters but lower case ASCII, then letters but upper case ASCII:
/// `[..]+[..]*`.
fn from_upper_end(span: Span<'_>, start: usize, test: Test) -> Option<usize> {
    let is_upper = |place: usize| {
        span.passes(place, test) && !span.letter(place).is_some_and(|c| c.is_ascii_lowercase())
    };
    let mut middle = start;
    while is_upper(middle) {
        middle += 1;
    }
    longer(start, middle).map(|middle| lower_run(span, middle, test))
}

fn lower_run(span: Span<'_>, start: usize, test: Test) -> usize {
    let mut end = start;
    while span.passes(end, test) && !span.letter(end).is_some_and(|c| c.is_ascii_uppercase()) {
        end += 1;
    }
    end
}

/// `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`
fn phrase_end(span: Span<'_>, start: usize) -> usize {
    let mut end = start;
    loop {
        let space = usize::from(end > start && span.has(end, ' '));
        if !span.is(end + space, Class::LETTER) {
            return end;
        }
        end = span.run_of(end + space + 1, Class::MARK);
    }
}
