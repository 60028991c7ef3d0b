//! The `normalizer` of `tokenizer.json`.

use std::borrow::Cow;

use serde_json::Value;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::{SPACE, Steps};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Normalizer {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    StripAccents,
    Strip { left: bool, right: bool },
    Replace { pattern: String, content: String },
    Prepend(String),
}

/// The steps of a definition.
pub(crate) fn normalizers(definition: &Value) -> Steps<Normalizer> {
    let read = |kind: &str, definition: &Value| read(kind, definition).map(|step| vec![step]);
    Steps::read(definition, "normalizers", &read)
}

fn read(kind: &str, definition: &Value) -> Option<Normalizer> {
    let text = |key: &str| Some(definition.get(key)?.as_str()?.to_owned());
    let flag = |key: &str| definition.get(key).and_then(Value::as_bool).unwrap_or(false);
    Some(match kind {
        "NFC" => Normalizer::Nfc,
        "NFD" => Normalizer::Nfd,
        "NFKC" => Normalizer::Nfkc,
        "NFKD" => Normalizer::Nfkd,
        "Lowercase" => Normalizer::Lowercase,
        "StripAccents" => Normalizer::StripAccents,
        "Strip" => Normalizer::Strip { left: flag("strip_left"), right: flag("strip_right") },
        "Prepend" => Normalizer::Prepend(text("prepend")?),
        "Replace" => {
            let pattern = definition.pointer("/pattern/String")?.as_str()?.to_owned();
            let content = text("content")?;
            (!pattern.is_empty()).then_some(Normalizer::Replace { pattern, content })?
        }
        _ => return None,
    })
}

impl Normalizer {
    /// Its name in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Nfc => "NFC",
            Self::Nfd => "NFD",
            Self::Nfkc => "NFKC",
            Self::Nfkd => "NFKD",
            Self::Lowercase => "Lowercase",
            Self::StripAccents => "StripAccents",
            Self::Strip { .. } => "Strip",
            Self::Replace { .. } => "Replace",
            Self::Prepend(_) => "Prepend",
        }
    }

    /// True if it writes U+2581 for spaces.
    pub(crate) fn escapes_spaces(&self) -> bool {
        matches!(self, Self::Replace { pattern, content }
            if pattern == " " && content.chars().eq([SPACE]))
    }

    /// True if it puts U+2581 in front of a text.
    pub(crate) fn prepends_space(&self) -> bool {
        matches!(self, Self::Prepend(text) if text.chars().eq([SPACE]))
    }

    fn apply<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        let form = |changed: String| Cow::Owned(changed);
        match self {
            Self::Nfc | Self::Nfd | Self::Nfkc | Self::Nfkd | Self::StripAccents
                if text.is_ascii() =>
            {
                text
            }
            Self::Nfc => form(text.nfc().collect()),
            Self::Nfd => form(text.nfd().collect()),
            Self::Nfkc => form(text.nfkc().collect()),
            Self::Nfkd => form(text.nfkd().collect()),
            Self::StripAccents => {
                form(text.chars().filter(|letter| !is_combining_mark(*letter)).collect())
            }
            // Letter by letter: the end of a word changes none.
            Self::Lowercase => form(text.chars().flat_map(char::to_lowercase).collect()),
            Self::Strip { left, right } => {
                let kept = if *left { text.trim_start() } else { &text };
                let kept = if *right { kept.trim_end() } else { kept };
                if kept.len() == text.len() { text } else { form(kept.to_owned()) }
            }
            Self::Replace { pattern, content } => form(text.replace(pattern.as_str(), content)),
            Self::Prepend(_) if text.is_empty() => text,
            Self::Prepend(prefix) => form(format!("{prefix}{text}")),
        }
    }
}

/// True if the text after all steps still begins with what it begins with.
pub(crate) fn keeps_start(steps: &[Normalizer], text: &str) -> bool {
    let mut text = Cow::Borrowed(text);
    for step in steps {
        let drops = match step {
            Normalizer::Strip { left: true, .. } => text.starts_with(char::is_whitespace),
            Normalizer::StripAccents => text.starts_with(is_combining_mark),
            Normalizer::Replace { pattern, content } if content.is_empty() => {
                text.starts_with(pattern.as_str())
            }
            _ => false,
        };
        if drops {
            return false;
        }
        text = step.apply(text);
    }
    true
}

/// The text after all steps.
pub(crate) fn normalized<'a>(steps: &[Normalizer], text: &'a str) -> Cow<'a, str> {
    steps.iter().fold(Cow::Borrowed(text), |text, step| step.apply(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_change_text() {
        // From tokenizers 0.23.3, `normalizer.normalize_str`.
        let check = |definition: Value, text: &str, expected: &str| {
            let steps = normalizers(&definition);
            assert!(steps.unknown.is_empty(), "{definition}");
            assert_eq!(normalized(&steps.known, text), expected, "{definition}");
        };
        let step = |kind: &str| json!({ "type": kind });
        check(step("NFC"), "e\u{301}\u{fb01}", "\u{e9}\u{fb01}");
        check(step("NFD"), "\u{e9}\u{ac00}", "e\u{301}\u{1100}\u{1161}");
        check(step("NFKC"), "\u{fb01}\u{2460}e\u{301}", "fi1\u{e9}");
        check(step("NFKD"), "\u{fb01}\u{e9}", "fie\u{301}");
        check(step("Lowercase"), "\u{130}\u{3a3}A", "i\u{307}\u{3c3}a");
        check(step("StripAccents"), "e\u{301}\u{e9}a", "e\u{e9}a");
        let strip = |left: bool, right: bool| json!({"type": "Strip", "strip_left": left, "strip_right": right});
        check(strip(true, true), " \u{3000}a b\n", "a b");
        check(strip(false, true), " a ", " a");
        let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "_"});
        let prepend = json!({"type": "Prepend", "prepend": "_"});
        check(json!({"type": "Sequence", "normalizers": [prepend, spaces]}), " a", "__a");
        check(prepend, "", "");
    }

    #[test]
    fn a_start_can_get_lost() {
        let replace = Normalizer::Replace { pattern: "_".to_owned(), content: " ".to_owned() };
        let strip = Normalizer::Strip { left: true, right: false };
        let steps = [replace, strip, Normalizer::StripAccents];
        assert!(keeps_start(&steps, "a "));
        for text in [" a", "_a", "\u{301}a"] {
            assert!(!keeps_start(&steps, text), "{text:?}");
        }
    }

    #[test]
    fn other_steps_are_named() {
        let regex = json!({"type": "Replace", "pattern": {"Regex": " +"}, "content": " "});
        let steps =
            normalizers(&json!({"type": "Sequence", "normalizers": [regex, {"type": "Nmt"}]}));
        assert_eq!(steps.unknown, ["Replace", "Nmt"]);
        assert!(normalizers(&Value::Null).known.is_empty());
    }
}
