//! Every regular expression of llama.cpp's pre-tokenizers, as a step.

use std::sync::LazyLock;

use super::super::unicode::Class;
use super::Step;
use super::letter_lists::*;
use super::span::{Span, Test};
use super::words::*;
use crate::pattern::Pattern;

/// A step of one pattern as it is published.
macro_rules! pattern {
    ($source:expr) => {
        Step::Pattern(LazyLock::new(|| Pattern::new($source).expect("a pattern of this program")))
    };
}

/// GPT-2's: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
pub(crate) static GPT_2: Step = Step::Matches(|span, at| {
    let contraction = contraction(span, at).filter(|end| {
        (at..*end).all(|place| !span.passes(place, |letter, _| letter.is_ascii_uppercase()))
    });
    if contraction.is_some() {
        return contraction;
    }
    let start = at + usize::from(span.has(at, ' '));
    let digits = |span: Span<'_>| longer(start, span.run_of(start, Class::NUMBER));
    longer(start, span.run_of(start, Class::LETTER))
        .or_else(|| digits(span))
        .or_else(|| longer(start, span.run(start, is_other)))
        .or_else(|| {
            let end = span.run_of(at, Class::SPACE);
            let is_before_word = end > at + 1 && end < span.len();
            longer(at, end - usize::from(is_before_word))
        })
});

/// cl100k's, the one that the others vary:
/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const CL100K: Words = Words {
    first: First::Nothing,
    contractions: Contractions::Own,
    lead: is_lead,
    word: Word::Run(is_letter),
    digits: 3,
    marks: is_other,
    tail: Tail::Breaks,
    breaks: Breaks::WithSpaces,
    spaces: Spaces::Run,
};

pub(crate) static LLAMA_3: Step = Step::Words(CL100K);
/// Digits one by one; Bailing's is the same.
pub(crate) static QWEN_2: Step = Step::Words(Words { digits: 1, ..CL100K });
/// Marks are parts of words.
pub(crate) static QWEN_35: Step = Step::Words(Words {
    word: Word::Run(is_letter_or_mark),
    digits: 1,
    marks: is_other_but_mark,
    ..CL100K
});
/// Runs of white space in powers of two.
pub(crate) static JAIS_2: Step = Step::Words(Words { spaces: Spaces::Halved, ..CL100K });
/// Line breaks end no punctuation.
pub(crate) static SEED_CODER: Step =
    Step::Words(Words { digits: 1, tail: Tail::Nothing, ..CL100K });
/// Without contractions.
pub(crate) static UFAKZEKA: Step =
    Step::Words(Words { contractions: Contractions::None, digits: 1, ..CL100K });
/// Digits in runs.
pub(crate) static MINICPM_5: Step = Step::Words(Words { digits: usize::MAX, ..CL100K });
/// Words with single spaces between them stay together.
pub(crate) static EXAONE_MOE: Step =
    Step::Words(Words { word: Word::Phrase, digits: 1, tail: Tail::OneBreakOrSlash, ..CL100K });

/// o200k's: words end where lower case turns to upper case, and take their
/// contraction with them.
const O200K: Words = Words {
    contractions: Contractions::EndOfWord,
    word: Word::Cased(is_letter),
    tail: Tail::BreaksAndSlashes,
    ..CL100K
};

pub(crate) static GPT_4O: Step = Step::Words(O200K);
pub(crate) static GRANITE_EMBEDDING: Step =
    Step::Words(Words { word: Word::Cased(is_letter_or_mark), ..O200K });
pub(crate) static TEKKEN: Step =
    Step::Words(Words { contractions: Contractions::None, digits: 1, ..O200K });
/// The reference's engine knows one class of letters, so that case splits nothing.
pub(crate) static TINY_AYA: Step =
    Step::Words(Words { word: Word::Run(is_letter_or_mark), ..O200K });
pub(crate) static YOUTU: Step =
    Step::Words(Words { word: Word::Run(is_letter_or_mark), digits: 1, ..O200K });
pub(crate) static KIMI_K2: Step = Step::Words(Words {
    first: First::Han,
    contractions: Contractions::EndOfWord,
    word: Word::Run(is_letter_but_han),
    ..CL100K
});

/// DeepSeek V3's: a mark goes with the ASCII letters after it.
const MARK_AND_LETTERS: Words = Words {
    first: First::MarkAndLetters,
    contractions: Contractions::None,
    lead: is_lead_without_marks,
    word: Word::Run(is_letter_or_mark),
    digits: 0,
    marks: is_punctuation,
    ..CL100K
};

pub(crate) static DEEPSEEK_V3: Step = Step::Words(MARK_AND_LETTERS);
pub(crate) static SPARK: Step =
    Step::Words(Words { tail: Tail::Nothing, breaks: Breaks::One, ..MARK_AND_LETTERS });

/// `\p{N}`
pub(crate) static DIGIT: Step =
    Step::Matches(|span, at| span.is(at, Class::NUMBER).then_some(at + 1));
/// `\p{N}{1,3}`
pub(crate) static DIGIT_GROUPS: Step = Step::Matches(|span, at| {
    longer(at, (at..at + 3).find(|place| !span.is(*place, Class::NUMBER)).unwrap_or(at + 3))
});
/// `\p{N}+`
pub(crate) static DIGIT_RUNS: Step =
    Step::Matches(|span, at| longer(at, span.run_of(at, Class::NUMBER)));
/// `[0-9][0-9][0-9]`
pub(crate) static THREE_DIGITS: Step = Step::Matches(|span, at| {
    (at..at + 3).all(|place| span.passes(place, is_ascii_digit)).then_some(at + 3)
});
/// Groups of three, counted from the end of a run:
/// `\d{1,3}(?=(?:\d{3})*\b)`. The reference does not cut before a run, so that
/// the first group stays with what is before it.
pub(crate) static DIGIT_GROUPS_FROM_END: Step = Step::Whole(|span, add| {
    let mut at = 0;
    while at < span.len() {
        let end = span.run_of(at, Class::NUMBER);
        let first = at + (end - at) % 3;
        (first..=end).step_by(3).filter(|place| *place > at).for_each(&mut *add);
        at = end.max(at + 1);
    }
});
/// The same, for ASCII digits, as the places that `(?=(\d{3})+(?!\d))` finds.
pub(crate) static BEFORE_THREE_DIGITS: Step = Step::Whole(|span, add| {
    let mut at = 0;
    while at < span.len() {
        let end = span.run(at, is_ascii_digit);
        // One or two digits in front of the groups stay with what is before them.
        let first = at + (end - at) % 3;
        (first..end).step_by(3).for_each(&mut *add);
        at = end.max(at + 1);
    }
});

/// `[\r\n]`
pub(crate) static LINE_BREAK: Step =
    Step::Matches(|span, at| span.passes(at, is_break).then_some(at + 1));
/// `[^\n]+|[\n]+`
pub(crate) static LINES: Step = Step::Matches(|span, at| {
    let breaks = span.run(at, |letter, _| letter == '\n');
    longer(at, breaks).or_else(|| longer(at, span.run(at, |letter, _| letter != '\n')))
});
/// `\s+$`
pub(crate) static SPACE_AT_END: Step = Step::Whole(|span, add| {
    let last = (0..span.len()).rev().find(|at| !span.is(*at, Class::SPACE));
    add(last.map_or(0, |last| last + 1));
});
/// `\S+`
pub(crate) static NO_SPACE: Step =
    Step::Matches(|span, at| longer(at, span.run(at, |_, class| !class.is(Class::SPACE))));

/// `[\p{P}\$\+<=>\^~\|]+`
pub(crate) static PUNCTUATION_RUNS: Step = Step::Matches(|span, at| {
    let is_mark: Test = |letter, class| {
        class.is(Class::PUNCTUATION) || matches!(letter, '$' | '+' | '<'..='>' | '^' | '~' | '|')
    };
    longer(at, span.run(at, is_mark))
});
/// The same with backticks.
pub(crate) static FALCON_PUNCTUATION: Step = Step::Matches(|span, at| {
    let is_mark: Test = |letter, class| {
        class.is(Class::PUNCTUATION)
            || matches!(letter, '$' | '+' | '<'..='>' | '^' | '~' | '|' | '`')
    };
    longer(at, span.run(at, is_mark))
});

/// `\s?\p{L}+`
pub(crate) static DEEPSEEK_CODER_LETTERS: Step =
    Step::Matches(|span, at| after_space(span, at, is_letter));
/// `\s?\p{P}+`
pub(crate) static DEEPSEEK_CODER_PUNCTUATION: Step =
    Step::Matches(|span, at| after_space(span, at, |_, class| class.is(Class::PUNCTUATION)));
/// `\s?[A-Za-zµÀ-Ö...]+`
pub(crate) static DEEPSEEK_LLM_LETTERS: Step = Step::Matches(|span, at| {
    after_space(span, at, |letter, class| is_listed(DEEPSEEK_LETTERS, letter, class))
});
/// `\s?[!-/:-~...]+`
pub(crate) static DEEPSEEK_LLM_PUNCTUATION: Step = Step::Matches(|span, at| {
    after_space(span, at, |letter, class| is_listed(DEEPSEEK_PUNCTUATION, letter, class))
});
/// `[一-龥...]+`
pub(crate) static DEEPSEEK_CJK: Step = Step::Matches(|span, at| {
    longer(at, span.run(at, |letter, class| is_listed(DEEPSEEK_ASIAN, letter, class)))
});
/// `[一-龥぀-ゟ゠-ヿ]+`
pub(crate) static CHINESE_AND_JAPANESE: Step = Step::Matches(|span, at| {
    longer(at, span.run(at, |letter, class| is_listed(HAN_AND_KANA, letter, class)))
});
/// `[一-鿿㐀-䶿...]+`
pub(crate) static AFMOE_SCRIPTS: Step = Step::Matches(|span, at| {
    longer(at, span.run(at, |letter, class| is_listed(AFMOE_ASIAN, letter, class)))
});
/// `[가-힣ㄱ-ㆎ]+|[！...]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+`
pub(crate) static YOUTU_SCRIPTS: Step = Step::Matches(|span, at| {
    let tests: [Test; 4] = [
        |letter, class| is_listed(YOUTU_HANGUL, letter, class),
        |letter, class| is_listed(YOUTU_PUNCTUATION, letter, class),
        |letter, class| is_listed(YOUTU_BOPOMOFO, letter, class),
        |letter, class| is_listed(HAN_AND_KANA, letter, class),
    ];
    tests.into_iter().find_map(|test| longer(at, span.run(at, test)))
});
/// Bloom's: ` ?[^(\s|.,!?…。，、।۔،)]+`
pub(crate) static BLOOM: Step = Step::Matches(|span, at| {
    let is_word: Test = |letter, class| {
        !class.is(Class::SPACE)
            && !"(|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})".contains(letter)
    };
    let start = at + usize::from(span.has(at, ' '));
    longer(start, span.run(start, is_word))
});

/// Chameleon's four.
pub(crate) static SENTINEL: Step = pattern!("<sentinel:[0-9]+>");
pub(crate) static IMAGE_TOKEN: Step = pattern!("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z");
pub(crate) static INDENTATION: Step = pattern!(r"([\t\n]|    |  )");
pub(crate) static PUNCTUATION_MARK: Step = pattern!(r"[\p{P}!-/:-@\[-`{-~]");

fn is_ascii_digit(letter: char, _: Class) -> bool {
    letter.is_ascii_digit()
}

/// `\s?[...]+`
fn after_space(span: Span<'_>, at: usize, test: Test) -> Option<usize> {
    let start = at + usize::from(span.is(at, Class::SPACE));
    longer(start, span.run(start, test))
}

/// True if a list has the letter. The reference writes all white space outside
/// ASCII as U+000B first, so that no list has any.
fn is_listed(list: &[(char, char)], letter: char, class: Class) -> bool {
    let after = list.partition_point(|(first, _)| *first <= letter);
    let range = after.checked_sub(1).map(|place| list[place]);
    range.is_some_and(|(_, last)| letter <= last) && !class.is(Class::SPACE)
}

#[cfg(test)]
mod tests {
    use super::super::piece_lengths;
    use super::*;

    fn check(steps: &[&Step], text: &str, expected: &[&str]) {
        let mut rest = text;
        let mut pieces = Vec::new();
        for length in piece_lengths(text, steps).expect("pieces") {
            let (piece, after) = rest.split_at(length);
            pieces.push(piece);
            rest = after;
        }
        assert_eq!(pieces, expected, "{text:?}");
        assert_eq!(rest, "");
    }

    #[test]
    fn gpt_2_cuts_words() {
        let check = |text, expected: &[&str]| check(&[&GPT_2], text, expected);
        check("", &[]);
        check("Hello world", &["Hello", " world"]);
        check("it's IT'S '", &["it", "'s", " IT", "'", "S", " '"]);
        check("a  b", &["a", " ", " b"]);
        check("a \n\n b \n", &["a", " \n\n", " b", " \n"]);
        check("x12.5%", &["x", "12", ".", "5", "%"]);
    }

    #[test]
    fn cl100k_cuts_words() {
        let check = |text, expected: &[&str]| check(&[&LLAMA_3], text, expected);
        check("it'S 12345", &["it", "'S", " ", "123", "45"]);
        check("(a) !\n\n x", &["(a", ")", " !\n\n", " x"]);
        check(" \n \n  x", &[" \n \n", " ", " x"]);
        check("   ", &["   "]);
    }

    #[test]
    fn o200k_cuts_where_case_changes() {
        let check = |text, expected: &[&str]| check(&[&GPT_4O], text, expected);
        check("camelCase HTTPServer's", &["camel", "Case", " HTTPServer's"]);
        check("\u{c9}COLE", &["\u{c9}", "COLE"]);
        check("\u{e9}\u{c9}A b", &["\u{e9}\u{c9}", "A", " b"]);
        check("a/b!/\n", &["a", "/b", "!/\n"]);
    }

    #[test]
    fn runs_of_space_are_cut_in_powers_of_two() {
        let check = |spaces: usize, end: &str, expected: &[usize]| {
            let text = " ".repeat(spaces) + end;
            assert_eq!(piece_lengths(&text, &[&JAIS_2]).expect("pieces"), expected, "{spaces}");
        };
        check(7, "", &[4, 2, 1]);
        check(8, "", &[8]);
        check(8, "x", &[4, 2, 1, 2]);
        check(2, "1", &[1, 1, 1]);
        check(3, "\n", &[4]);
    }

    #[test]
    fn digits_are_grouped_from_their_end() {
        check(&[&DIGIT_GROUPS_FROM_END], "a1234567b12", &["a1", "234", "567", "b12"]);
        check(&[&BEFORE_THREE_DIGITS], "a1234567b12", &["a1", "234", "567b12"]);
        check(&[&DIGIT_GROUPS], "1234567", &["123", "456", "7"]);
    }

    #[test]
    fn lists_are_in_order() {
        let lists = [
            DEEPSEEK_LETTERS,
            DEEPSEEK_PUNCTUATION,
            DEEPSEEK_ASIAN,
            HAN_AND_KANA,
            AFMOE_ASIAN,
            YOUTU_HANGUL,
            YOUTU_PUNCTUATION,
            YOUTU_BOPOMOFO,
        ];
        for list in lists {
            assert!(list.iter().all(|(first, last)| first <= last));
            assert!(list.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
