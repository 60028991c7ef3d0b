//! The text that comes with this program: `calibration-data/`, whose `manifest.toml` says
//! of each part where it is from and under which licence.

/// How a part's text is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// As it is.
    Text,
    /// A document in each line: `{"text": "…"}` or `{"messages": […]}`.
    JsonLines,
}

/// A part of the bundled text.
#[derive(Clone, Copy, Debug)]
pub struct BundledText {
    /// Its file in `calibration-data/`.
    pub name: &'static str,
    /// How it is kept.
    pub kind: TextKind,
    /// The text.
    pub text: &'static str,
}

macro_rules! part {
    ($name:literal, $kind:ident) => {
        BundledText {
            name: $name,
            kind: TextKind::$kind,
            text: include_str!(concat!("../../../calibration-data/", $name)),
        }
    };
}

/// All parts.
pub const PARTS: &[BundledText] = &[
    part!("prose.txt", Text),
    part!("drama.txt", Text),
    part!("countries.txt", Text),
    part!("addresses.txt", Text),
    part!("lexicon.txt", Text),
    part!("languages.txt", Text),
    part!("rust.txt", Text),
    part!("python.txt", Text),
    part!("other-code.txt", Text),
    part!("mathematics.jsonl", JsonLines),
    part!("dialogue.jsonl", JsonLines),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sha2::{Digest, Sha256};

    use super::*;

    /// The manifest's tables, as far as this test needs TOML: `[name]`, then `key = "value"`.
    fn manifest() -> BTreeMap<String, BTreeMap<String, String>> {
        let text = include_str!("../../../calibration-data/manifest.toml");
        let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut table = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("[\"").and_then(|rest| rest.strip_suffix("\"]")) {
                table = name.to_owned();
                tables.entry(table.clone()).or_default();
            } else if let Some((key, value)) = line.split_once(" = ") {
                let value = value.trim_matches('"').to_owned();
                tables.entry(table.clone()).or_default().insert(key.to_owned(), value);
            }
        }
        tables
    }

    #[test]
    fn every_part_is_what_the_manifest_says() {
        let manifest = manifest();
        let names: Vec<&str> = manifest.keys().map(String::as_str).collect();
        let mut parts: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
        parts.sort_unstable();
        assert_eq!(names, parts);
        for part in PARTS {
            let entry = &manifest[part.name];
            let digest = format!("{:x}", Sha256::digest(part.text.as_bytes()));
            assert_eq!(entry["sha256"], digest, "{}", part.name);
            for key in ["source", "licence"] {
                assert!(!entry[key].is_empty(), "{}: {key}", part.name);
            }
        }
    }

    #[test]
    fn lines_are_documents() {
        for part in PARTS.iter().filter(|part| part.kind == TextKind::JsonLines) {
            for line in part.text.lines() {
                let document: serde_json::Value = serde_json::from_str(line).expect("JSON");
                let is_document = document["text"].is_string() || document["messages"].is_array();
                assert!(is_document, "{}: {line}", part.name);
            }
        }
    }
}
