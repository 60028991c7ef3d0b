//! The `pre_tokenizer` of `tokenizer.json` in a normal form.

use serde_json::Value;

/// One step of a pre-tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Every match of a pattern becomes a piece, and so does what is between
    /// matches. (Keeping only the matches is the same for a pattern that matches
    /// all text, as those do that are written that way.)
    Split(String),
    /// Digits become pieces, one by one or in runs.
    Digits { one_by_one: bool },
    /// Runs of punctuation become pieces.
    PunctuationRuns,
    /// Bytes become characters, after a split by GPT-2's pattern or without.
    ByteLevel { splits: bool },
}

/// The steps; `None` if there is one that llama.cpp has no pattern for.
pub(super) fn steps_of(definition: &Value) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    collect(definition, &mut steps).then_some(steps)
}

fn collect(definition: &Value, steps: &mut Vec<Step>) -> bool {
    let flag = |key: &str, default: bool| match definition.get(key) {
        Some(value) => value.as_bool(),
        None => Some(default),
    };
    let step = match definition.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let Some(list) = definition.get("pretokenizers").and_then(Value::as_array) else {
                return false;
            };
            // serde_json's own depth limit bounds the recursion.
            return list.iter().all(|definition| collect(definition, steps));
        }
        Some("Split") => split_pattern(definition).map(Step::Split),
        Some("Digits") => {
            flag("individual_digits", false).map(|one_by_one| Step::Digits { one_by_one })
        }
        Some("Punctuation") => (definition.get("behavior").and_then(Value::as_str)
            == Some("Contiguous"))
        .then_some(Step::PunctuationRuns),
        // A space in front of the text is nothing llama.cpp adds.
        Some("ByteLevel") if flag("add_prefix_space", true) == Some(false) => {
            flag("use_regex", true).map(|splits| Step::ByteLevel { splits })
        }
        _ => None,
    };
    steps.extend(step.iter().cloned());
    step.is_some()
}

fn split_pattern(definition: &Value) -> Option<String> {
    let inverted = definition.get("invert").and_then(Value::as_bool).unwrap_or(false);
    match definition.get("behavior").and_then(Value::as_str)? {
        "Isolated" => {}
        "Removed" if inverted => {}
        _ => return None,
    }
    let pattern = definition.get("pattern")?;
    let text = pattern.get("Regex").or_else(|| pattern.get("String"))?.as_str()?;
    // Some files write line breaks in a class as themselves.
    Some(text.replace('\r', r"\r").replace('\n', r"\n").replace('\t', r"\t"))
}

/// True for normalizers that llama.cpp knows or, like the reference, passes
/// over: Unicode normal forms, lower case, accents. Those that rewrite spaces
/// belong to SentencePiece-like vocabularies.
pub(super) fn is_known_normalizer(normalizer: &Value) -> bool {
    match normalizer.get("type").and_then(Value::as_str) {
        None => normalizer.is_null(),
        Some("NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents") => true,
        Some("Sequence") => normalizer
            .get("normalizers")
            .and_then(Value::as_array)
            .is_some_and(|steps| steps.iter().all(is_known_normalizer)),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_have_one_normal_form() {
        let check = |definition: &str, expected: Option<Vec<Step>>| {
            let definition: Value = serde_json::from_str(definition).expect("JSON");
            assert_eq!(steps_of(&definition), expected, "{definition}");
        };
        let split = |pattern: &str| Step::Split(pattern.to_owned());
        check("null", None);
        check(r#"{"type": "Whitespace"}"#, None);
        check(
            r#"{"type": "ByteLevel", "add_prefix_space": false}"#,
            Some(vec![Step::ByteLevel { splits: true }]),
        );
        check(r#"{"type": "ByteLevel", "add_prefix_space": true}"#, None);
        check(
            r#"{"type": "Split", "pattern": {"Regex": "[\r\n]x"}, "behavior": "Isolated"}"#,
            Some(vec![split(r"[\r\n]x")]),
        );
        check(
            r#"{"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Removed", "invert": true}"#,
            Some(vec![split("x")]),
        );
        check(r#"{"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Removed"}"#, None);
        check(
            r#"{"type": "Sequence", "pretokenizers": [
                {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}]},
                {"type": "Punctuation", "behavior": "Contiguous"}]}"#,
            Some(vec![Step::Digits { one_by_one: true }, Step::PunctuationRuns]),
        );
        check(r#"{"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}]}"#, None);
    }
}
