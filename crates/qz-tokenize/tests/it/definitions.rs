//! Text to ids by `tokenizer.json`: the ids that the tokenizers library gives
//! (`fixtures/tokenizers/definitions.json`, made by
//! `fixtures/make/tokenizer_definitions.py`), from the checkpoint's files, and from a
//! GGUF file where that can say all of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use qz_tensor::Metadata;
use qz_tokenize::{
    EncodeOptions, Tokenizer, Vocabulary, VocabularyOptions, VocabularyRules, vocabulary,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::{Files, added};

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    bases: BTreeMap<String, Value>,
    variants: Vec<Variant>,
}

/// A base with some parts replaced.
#[derive(Deserialize)]
struct Variant {
    name: String,
    base: String,
    parts: Map<String, Value>,
    model: Map<String, Value>,
    /// Whether a GGUF file says all of it, where there can be one.
    said: Option<bool>,
    /// The ids of every text, with special tokens and without.
    special: Vec<Vec<u32>>,
    plain: Vec<Vec<u32>>,
}

fn golden() -> Golden {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/tokenizers/definitions.json");
    let bytes = std::fs::read(path).expect("definitions.json");
    serde_json::from_slice(&bytes).expect("definitions.json is valid")
}

impl Golden {
    fn files(&self, variant: &Variant) -> Files {
        let mut definition = self.bases[&variant.base].clone();
        for (key, part) in &variant.parts {
            definition[key] = part.clone();
        }
        for (key, part) in &variant.model {
            definition["model"][key] = part.clone();
        }
        files(&definition)
    }

    fn named(&self, name: &str) -> Files {
        let variant = self.variants.iter().find(|variant| variant.name == name);
        self.files(variant.expect("a variant"))
    }
}

fn files(definition: &Value) -> Files {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    Files(Default::default())
        .write("tokenizer.json", definition.to_string())
        .write("tokenizer_config.json", config.to_string())
}

fn converted(files: &Files) -> Vocabulary {
    let options = VocabularyOptions { rules: VocabularyRules::Llama, ..Default::default() };
    vocabulary(files, options).unwrap_or_else(|error| panic!("{error}"))
}

fn of_folder(files: &Files, metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_checkpoint(files, metadata).unwrap_or_else(|error| panic!("{error}"))
}

fn ids(tokenizer: &Tokenizer, text: &str, parse_special: bool) -> Vec<u32> {
    let options = EncodeOptions { add_special: false, parse_special };
    tokenizer.encode(text, options).expect("tokens").iter().map(|id| id.0).collect()
}

/// A text on which a pattern runs into the engine's limit is no text that is cut elsewhere.
#[test]
fn a_pattern_that_takes_too_many_steps_is_an_error() {
    let mut definition = golden().bases["sentencepiece"].clone();
    let pattern = r"x|(?:\w+\w+\w+\w+)+(?=!)";
    definition["normalizer"] = Value::Null;
    definition["pre_tokenizer"] = json!({
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false,
    });
    let files = files(&definition);
    let metadata = converted(&files).metadata;
    let tokenizer = of_folder(&files, &metadata);
    let encode = |text: &str| tokenizer.encode(text, EncodeOptions::default());
    encode("xaaaa!x").expect("tokens");
    let error = encode(&format!("x{}", "a".repeat(60))).expect_err("too many steps").to_string();
    assert!(error.contains("at byte 1: \"aaaa") && error.contains(r"\w+"), "{error}");
}

#[test]
fn ids_are_the_library_s() {
    let golden = golden();
    for variant in &golden.variants {
        let files = golden.files(variant);
        let Vocabulary { metadata, unsaid, unnamed, .. } = converted(&files);
        assert_eq!(unnamed.is_none(), variant.said.is_some(), "{}: {unnamed:?}", variant.name);
        if let Some(is_said) = variant.said {
            assert_eq!(unsaid.is_empty(), is_said, "{}: {unsaid:?}", variant.name);
        }
        let folder = of_folder(&files, &metadata);
        let file = Tokenizer::from_metadata(&metadata).expect("a vocabulary");
        for (place, text) in golden.texts.iter().enumerate() {
            let name = &variant.name;
            let (special, plain) = (&variant.special[place], &variant.plain[place]);
            assert_eq!(&ids(&folder, text, true), special, "{name}, folder: {text:?}");
            assert_eq!(&ids(&folder, text, false), plain, "{name}, folder, plain: {text:?}");
            if variant.said == Some(true) {
                assert_eq!(&ids(&file, text, true), special, "{name}, GGUF: {text:?}");
            }
        }
    }
}

/// Rule and message of every warning, with what a GGUF file cannot say.
fn warnings(files: &Files) -> Vec<(&'static str, String)> {
    let Vocabulary { warnings, unsaid, .. } = converted(files);
    warnings.into_iter().chain(unsaid).map(|warning| (warning.rule, warning.message)).collect()
}

#[track_caller]
fn check_warnings(files: &Files, expected: &[(&str, &str)]) {
    let found = warnings(files);
    let matches = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|((rule, message), (expected, part))| rule == expected && message.contains(part));
    assert!(matches, "{found:#?}\nexpected {expected:#?}");
}

#[test]
fn what_gguf_cannot_say_is_told() {
    let golden = golden();
    let check = |name: &str, expected: &[(&str, &str)]| {
        check_warnings(&golden.named(name), expected);
    };
    let part = "tokenizer-part-lost";
    let flags = (
        "token-flags-lost",
        "lstrip of \"<L>\", rstrip of \"<R>\", single_word of \"mill\", normalized of \"<N>\"",
    );
    check("llama-2", &[]);
    check("gemma-3", &[]);
    check("first", &[(part, "Metaspace's prepend_scheme \"first\": ")]);
    check("split", &[(part, "prepend_scheme \"first\", Metaspace's split: ")]);
    check("flags", &[flags]);
    check("runs", &[(part, "GGUF cannot say Punctuation: ")]);
    check("accents", &[(part, "NFD, StripAccents, Strip: "), (part, "\"first\": ")]);
    let flags =
        ("token-flags-lost", "lstrip of \"<L>\", rstrip of \"<R>\", single_word of \"mill\": ");
    check("bytes-flags", &[(part, "NFC: "), flags]);
    let many = golden.named("llama-2").tokenizer(|file| {
        let count = file["model"]["vocab"].as_object().expect("tokens").len() as i64;
        for place in 0..5 {
            let mut token = added(count + place, &format!("<{place}>"), false);
            token["lstrip"] = json!(true);
            file["added_tokens"].as_array_mut().expect("a list").push(token);
        }
    });
    check_warnings(
        &many,
        &[("token-flags-lost", "lstrip of \"<0>\", \"<1>\", \"<2>\" and 2 more: ")],
    );
    let unknown = golden.named("llama-2").tokenizer(|file| {
        file["pre_tokenizer"] = json!({"type": "UnicodeScripts"});
    });
    check_warnings(&unknown, &[("tokenizer-part-unknown", "UnicodeScripts: ")]);
}

/// Tokens without a normalizer are written as they decode.
#[test]
fn other_texts_of_added_tokens_are_told() {
    let check = |token: &str, is_special: bool, expected: &[(&str, &str)]| {
        let files =
            Files::small().tokenizer(|file| file["added_tokens"][1] = added(9, token, is_special));
        let vocabulary = files.vocabulary(10).expect("a vocabulary");
        let found: Vec<(&str, &str)> =
            vocabulary.unsaid.iter().map(|one| (one.rule, one.message.as_str())).collect();
        let matches = found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(found, expected)| found.0 == expected.0 && found.1.starts_with(expected.1));
        assert!(matches, "{token:?}: {found:?}, expected {expected:?}");
    };
    let rule = "token-text-changed";
    check("<t>", false, &[]);
    check("\u{6771}", false, &[]);
    check("\u{2581}x", true, &[]);
    check("\u{e9}", false, &[(rule, "in GGUF \"\u{e9}\" is \"\u{fffd}\": ")]);
    check("\u{2581}x", false, &[(rule, "in GGUF \"\u{2581}x\" is \" x\": ")]);
    check("\u{120}x", true, &[(rule, "in GGUF \"\u{120}x\" is \" x\": ")]);
}

#[test]
fn merges_left_out_by_chance_are_told() {
    let check = |dropout: Value, expected: &[(&str, &str)]| {
        let files = golden().named("bytes").tokenizer(|file| file["model"]["dropout"] = dropout);
        check_warnings(&files, expected);
    };
    check(json!(null), &[]);
    check(json!(0.0), &[]);
    check(json!(0.5), &[("tokenizer-dropout-ignored", "is 0.5: ")]);
}

/// As of tokenizers 0.23: of a merge that is there twice the last counts.
#[test]
fn the_last_of_equal_merges_counts() {
    let check = |merges: Value, expected: &[u32]| {
        let files = golden().named("bytes").tokenizer(|file| {
            file["model"]["vocab"] =
                json!({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "ab": 5, "bc": 6});
            file["model"]["merges"] = merges.clone();
            file["added_tokens"].as_array_mut().expect("a list").truncate(2);
        });
        let vocabulary = converted(&files);
        let folder = of_folder(&files, &vocabulary.metadata);
        let file = Tokenizer::from_metadata(&vocabulary.metadata).expect("a tokenizer");
        for tokenizer in [folder, file] {
            assert_eq!(ids(&tokenizer, "abc", false), expected, "{merges}");
        }
    };
    check(json!(["a b", "b c"]), &[5, 4]);
    check(json!(["a b", "b c", "a b"]), &[2, 6]);
    check(json!(["a b", "b c", ["a", "b"], "b c"]), &[5, 4]);
}

#[test]
fn merges_that_scores_do_not_say_are_told() {
    // "abc" is no merge of "a" and "bc", which comes first.
    let definition = json!({
        "added_tokens": [added(0, "<unk>", true)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        "decoder": {"type": "Sequence", "decoders": []},
        "model": {
            "type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "a": 1, "b": 2, "c": 3, "bc": 4, "ab": 5, "abc": 6},
            "merges": [["b", "c"], ["a", "b"], ["ab", "c"]],
        },
    });
    let files = files(&definition);
    check_warnings(
        &files,
        &[
            ("byte-tokens-missing", "has tokens for 0 of 256 bytes"),
            ("merges-lost", "what becomes of \"abc\""),
        ],
    );
    let metadata = converted(&files).metadata;
    assert_eq!(ids(&of_folder(&files, &metadata), "abc", true), [1, 4]);
    let whole = files.tokenizer(|file| file["model"]["ignore_merges"] = json!(true));
    assert_eq!(ids(&of_folder(&whole, &metadata), "abc", true), [6]);
}

#[test]
fn a_space_in_front_is_as_defined() {
    let golden = golden();
    let check = |files: Files, expected: Option<bool>, rules: &[&str]| {
        let Vocabulary { metadata, warnings, .. } = converted(&files);
        let found = metadata.get("tokenizer.ggml.add_space_prefix");
        assert_eq!(found, expected.map(qz_tensor::Value::Bool).as_ref());
        assert_eq!(warnings.iter().map(|warning| warning.rule).collect::<Vec<_>>(), rules);
    };
    let stated = |name: &str, add: bool| golden.named(name).config("add_prefix_space", json!(add));
    check(golden.named("llama-2"), None, &[]);
    check(golden.named("gemma-3"), Some(false), &[]);
    check(golden.named("never"), Some(false), &[]);
    check(stated("llama-2", true), Some(true), &[]);
    check(stated("never", false), Some(false), &[]);
    check(stated("llama-2", false), Some(true), &["space-prefix-overruled"]);
    // transformers makes the definition anew for its own classes of Llama.
    for class in ["LlamaTokenizer", "LlamaTokenizerFast"] {
        let of_class = |name: &str, add| stated(name, add).config("tokenizer_class", json!(class));
        check(of_class("llama-2", false), Some(false), &[]);
        check(of_class("never", true), Some(true), &[]);
        let files = of_class("llama-2", false);
        let metadata = converted(&files).metadata;
        let file = ids(&Tokenizer::from_metadata(&metadata).expect("a vocabulary"), "a", false);
        assert_eq!(ids(&of_folder(&files, &metadata), "a", false), file);
        let prefixed = golden.named("llama-2");
        let metadata = converted(&prefixed).metadata;
        assert_ne!(ids(&of_folder(&prefixed, &metadata), "a", false), file);
    }
    check(stated("never", true), Some(false), &["space-prefix-overruled"]);
}

#[test]
fn a_model_file_of_other_tokens_counts() {
    let golden = golden();
    let files = golden.named("first");
    let metadata = converted(&files).metadata;
    let check = |files: &Files, follows: bool| {
        let found = ids(&of_folder(files, &metadata), " a", true);
        let file = ids(&Tokenizer::from_metadata(&metadata).expect("a vocabulary"), " a", true);
        assert_eq!(found == file, !follows);
    };
    check(&files, true);
    let other = files.tokenizer(|file| {
        let vocab = file["model"]["vocab"].as_object_mut().expect("tokens");
        let (first, second) = (vocab["a"].clone(), vocab["e"].clone());
        vocab.insert("a".to_owned(), second);
        vocab.insert("e".to_owned(), first);
    });
    check(&other, false);
    check(&other.without("tokenizer.json"), false);
    // One that no tokenizer can be made of does not count beside a model file.
    let broken = golden.named("first").tokenizer(|file| file["added_tokens"][0]["id"] = json!(9));
    assert!(Tokenizer::from_checkpoint(&broken, &metadata).is_err());
    check(&broken.write("tokenizer.model", "any"), false);
}
