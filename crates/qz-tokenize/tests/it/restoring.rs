//! Vocabularies in GGUF, and the tokenizer files they give.

use std::collections::BTreeMap;
use std::path::Path;

use qz_tensor::{Diagnose, Metadata, SideFile, Value};
use qz_tokenize::{
    Error, RestoreOptions, RestoredTokenizer, VocabularyOptions, VocabularyRules,
    restore_tokenizer, vocabulary,
};
use serde_json::json;

use crate::support::Files;

fn restore(metadata: &Metadata, size: u64) -> Result<RestoredTokenizer, Error> {
    let path = Path::new("model.gguf");
    restore_tokenizer(
        metadata,
        RestoreOptions { path, size, context: Some(64), pre_tokenizer: None },
    )
}

fn file(restored: &RestoredTokenizer, name: &str) -> serde_json::Value {
    let file = restored.files.iter().find(|file| file.name == name);
    let SideFile { content, .. } = file.unwrap_or_else(|| panic!("no {name}"));
    serde_json::from_slice(content).expect("JSON")
}

fn strings(list: &[&str]) -> Value {
    Value::from(list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
}

#[test]
fn a_byte_level_vocabulary_comes_back() {
    let vocabulary = Files::small().vocabulary(12).expect("a vocabulary");
    let restored = restore(&vocabulary.metadata, 12).expect("restored");
    let tokenizer = file(&restored, "tokenizer.json");
    assert_eq!(tokenizer["model"]["vocab"].as_object().map(serde_json::Map::len), Some(8));
    assert_eq!(tokenizer["model"]["merges"][2], json!(["\u{120}a", "b"]));
    assert_eq!(tokenizer["model"]["ignore_merges"], true);
    let added: Vec<_> = tokenizer["added_tokens"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|token| (token["id"].clone(), token["content"].clone(), token["special"].clone()))
        .collect();
    let expected =
        [(json!(8), json!("<|end|>"), json!(true)), (json!(9), json!("<t>"), json!(false))];
    assert_eq!(added, expected);
    assert_eq!(file(&restored, "tokenizer_config.json")["eos_token"], "<|end|>");
    assert_eq!((restored.beginning, restored.ends.as_slice()), (None, &[8][..]));

    // And GGUF again: the same keys, but for flags that are always told.
    let files = restored.files.iter().fold(Files::small(), |files, SideFile { name, content }| {
        files.write(name, content.clone())
    });
    let again = files.vocabulary(12).expect("a vocabulary").metadata;
    for (key, value) in vocabulary.metadata.iter() {
        assert_eq!(again.get(key), Some(value), "{key}");
    }
}

/// A SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, then pieces with scores.
fn pieces(pieces: &[(&str, f32)]) -> Metadata {
    let first = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)];
    let entries: Vec<(&str, f32, i32)> =
        first.into_iter().chain(pieces.iter().map(|(text, score)| (*text, *score, 1))).collect();
    let texts: Vec<&str> = entries.iter().map(|(text, ..)| *text).collect();
    let scores: Vec<f32> = entries.iter().map(|(_, score, _)| *score).collect();
    let types: Vec<i32> = entries.iter().map(|(.., kind)| *kind).collect();
    [
        ("tokenizer.ggml.model", Value::from("llama")),
        ("tokenizer.ggml.tokens", strings(&texts)),
        ("tokenizer.ggml.scores", scores.into()),
        ("tokenizer.ggml.token_type", types.into()),
    ]
    .into_iter()
    .collect()
}

#[test]
fn merges_follow_from_scores() {
    let check = |vocabulary: &[(&str, f32)], expected: serde_json::Value| {
        let restored = restore(&pieces(vocabulary), 32).expect("restored");
        let found = file(&restored, "tokenizer.json")["model"]["merges"].clone();
        assert_eq!(found, expected, "{vocabulary:?}");
    };
    let letters = [("a", -9.0), ("b", -9.0), ("c", -9.0)];
    let with = |further: &[(&'static str, f32)]| [further, &letters[..]].concat();
    check(&with(&[("ab", -1.0), ("bc", -2.0)]), json!([["a", "b"], ["b", "c"]]));
    check(&with(&[("ab", -2.0), ("bc", -1.0)]), json!([["b", "c"], ["a", "b"]]));
    // One piece, two ways: the shorter left part first.
    let abc = with(&[("ab", -1.0), ("bc", -2.0), ("abc", -3.0)]);
    check(&abc, json!([["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]));
    // Without scores that differ the ids decide.
    let flat = [("bc", -1000.0), ("ab", -1000.0), ("a", -1000.0), ("b", -1000.0), ("c", -1000.0)];
    check(&flat, json!([["b", "c"], ["a", "b"]]));
    check(&[("\u{e9}", -2.0), ("\u{e9}\u{e9}", -1.0)], json!([["\u{e9}", "\u{e9}"]]));
}

#[test]
fn long_pieces_take_time_and_memory_in_proportion() {
    let long = "a".repeat(1 << 20);
    let restored = restore(&pieces(&[(&long, -1.0), ("aa", -2.0), ("a", -3.0)]), 6);
    let merges = file(&restored.expect("restored"), "tokenizer.json")["model"]["merges"].clone();
    assert_eq!(merges, json!([["a", "a"]]));
    let all: Vec<String> = (1..4000).map(|length| "a".repeat(length)).collect();
    let all: Vec<(&str, f32)> = all.iter().map(|piece| (piece.as_str(), -1.0)).collect();
    let error = restore(&pieces(&all), 5000).expect_err("refused");
    assert_eq!(error.diagnosis().rule, "bad-tokenizer-value");
    assert!(error.to_string().contains("in too many ways"), "{error}");
}

#[test]
fn pieces_and_scores_come_back() {
    let metadata = pieces(&[("ab", -1.5), ("a", -2.5), ("b", -3.5), ("\u{2581}", -4.5)]);
    let restored = restore(&metadata, 7).expect("restored");
    let names: Vec<&str> = restored.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]);
    let files = restored
        .files
        .iter()
        .filter(|file| file.name != "tokenizer.json")
        .fold(Files(BTreeMap::new()), |files, file| files.write(&file.name, &*file.content));
    let options = VocabularyOptions {
        size: Some(7),
        rules: VocabularyRules::Llama,
        ..VocabularyOptions::default()
    };
    let again = vocabulary(&files, options).expect("a vocabulary").metadata;
    assert_eq!(again.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.tokens"));
    assert_eq!(again.get("tokenizer.ggml.token_type"), metadata.get("tokenizer.ggml.token_type"));
}

#[test]
fn gaps_keep_their_place() {
    // An id without a token in the middle: later tokens cannot be told to follow.
    let mut metadata = Files::small().vocabulary(12).expect("a vocabulary").metadata;
    metadata.set("tokenizer.ggml.token_type", vec![1i32, 1, 1, 1, 1, 5, 1, 1, 3, 4, 5, 5]);
    let restored = restore(&metadata, 12).expect("restored");
    let vocab = file(&restored, "tokenizer.json")["model"]["vocab"].clone();
    assert_eq!(vocab["<|end|>"], 8);
    assert_eq!(vocab["c"], serde_json::Value::Null);
}

#[test]
fn faults_have_rules() {
    let check = |rule: &str, edit: &dyn Fn(&mut Metadata)| {
        let mut metadata = pieces(&[("a", -1.0)]);
        edit(&mut metadata);
        let error = restore(&metadata, 4).expect_err(rule);
        assert_eq!(error.diagnosis().rule, rule, "{error}");
        assert!(error.to_string().starts_with("model.gguf: "), "{error}");
    };
    check("metadata-missing", &|metadata| _ = metadata.remove("tokenizer.ggml.model"));
    check("metadata-missing", &|metadata| _ = metadata.remove("tokenizer.ggml.tokens"));
    check("unsupported-tokenizer", &|metadata| metadata.set("tokenizer.ggml.model", "rwkv"));
    check("metadata-missing", &|metadata| {
        metadata.set("tokenizer.ggml.model", "t5");
        metadata.remove("tokenizer.ggml.scores");
    });
    check("bad-tokenizer-value", &|metadata| {
        metadata.set("tokenizer.ggml.scores", vec![0f32, 0.0, 0.0, f32::NAN]);
    });
    check("bad-tokenizer-value", &|metadata| {
        metadata.set("tokenizer.ggml.scores", vec![0f32]);
    });
    check("bad-tokenizer-value", &|metadata| {
        metadata.set("tokenizer.ggml.bos_token_id", 4u32);
    });
    check("bad-tokenizer-value", &|metadata| metadata.set("tokenizer.ggml.tokens", strings(&[])));
}
