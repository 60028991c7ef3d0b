//! SentencePiece vocabularies, from `tokenizer.model` and from a `tokenizer.json`
//! with byte tokens. The rules are those of llama.cpp 0c1e57098 with
//! transformers 5.23.0 and sentencepiece 0.2.3, compared with what they write of
//! checkpoints that differ in the same ways.

use qz_tensor::{Array, Diagnose, Metadata, Value as Entry};
use qz_tokenize::{Error, Vocabulary, VocabularyOptions, VocabularyRules, vocabulary};
use serde_json::{Value, json};

use crate::support::{Files, added, split_then_bytes};

/// A field with bytes in it.
fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).expect("short")], bytes].concat()
}

/// A piece of `ModelProto`.
fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    let score = [&[2 << 3 | 5], &score.to_le_bytes()[..]].concat();
    let fields = [bytes_field(1, text.as_bytes()), score, vec![3 << 3, kind]].concat();
    bytes_field(1, &fields)
}

/// `TrainerSpec` with its field 35.
fn trainer(byte_fallback: bool) -> Vec<u8> {
    bytes_field(2, &[0x98, 0x02, u8::from(byte_fallback)])
}

fn start() -> Vec<u8> {
    [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3)].concat()
}

/// Eight pieces, of each kind but bytes.
fn small_model() -> Vec<u8> {
    let rest = [
        piece("\u{2581}a", -1.0, 1),
        piece("b", -2.5, 1),
        piece("<user>", 0.0, 4),
        piece("<unused>", 0.0, 5),
        piece("c", -3.0, 1),
    ];
    [start(), rest.concat(), trainer(false)].concat()
}

fn with_model(model: impl Into<Vec<u8>>) -> Files {
    Files(Default::default()).write("tokenizer.model", model)
}

fn llama(files: &Files, size: u64) -> Result<Vocabulary, Error> {
    let rules = VocabularyRules::Llama;
    vocabulary(files, VocabularyOptions { size: Some(size), rules, ..Default::default() })
}

/// Token, score and type of every id.
fn entries(metadata: &Metadata) -> Vec<(String, f32, i32)> {
    let key = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    match (key("tokens"), key("scores"), key("token_type")) {
        (
            Some(Entry::Array(Array::String(tokens))),
            Some(Entry::Array(Array::F32(scores))),
            Some(Entry::Array(Array::I32(types))),
        ) => {
            assert_eq!((tokens.len(), tokens.len()), (scores.len(), types.len()));
            let tokens = tokens.iter().map(str::to_owned);
            tokens
                .zip(scores)
                .zip(types)
                .map(|((token, score), kind)| (token, *score, *kind))
                .collect()
        }
        other => panic!("{other:?}"),
    }
}

fn check_entries(
    files: &Files,
    size: u64,
    from: usize,
    expected: &[(&str, f32, i32)],
) -> Vocabulary {
    let vocabulary = llama(files, size).unwrap_or_else(|error| panic!("{error}"));
    let found = entries(&vocabulary.metadata);
    assert_eq!(found.len() as u64, size);
    let found: Vec<(&str, f32, i32)> =
        found[from..].iter().map(|(token, score, kind)| (token.as_str(), *score, *kind)).collect();
    assert_eq!(found, expected);
    vocabulary
}

#[test]
fn pieces_become_tokens() {
    let pad = -10_000.0;
    let vocabulary = check_entries(
        &with_model(small_model()),
        10,
        0,
        &[
            ("<unk>", 0.0, 2),
            ("<s>", 0.0, 3),
            ("</s>", 0.0, 3),
            ("\u{2581}a", -1.0, 1),
            ("b", -2.5, 1),
            ("<user>", 0.0, 1),
            ("<unused>", 0.0, 5),
            ("c", -3.0, 1),
            ("[PAD8]", pad, 5),
            ("[PAD9]", pad, 5),
        ],
    );
    let keys: Vec<&str> = vocabulary.metadata.iter().map(|(key, _)| key).collect();
    let expected = ["model", "pre", "tokens", "scores", "token_type"];
    assert_eq!(keys, expected.map(|key| format!("tokenizer.ggml.{key}")));
    assert_eq!(vocabulary.metadata.string("tokenizer.ggml.model"), Some("llama"));
    assert_eq!(vocabulary.metadata.string("tokenizer.ggml.pre"), Some("default"));
    assert_eq!(vocabulary.warnings, []);
}

#[test]
fn files_beside_the_model_add_tokens() {
    let config = json!({
        "add_bos_token": true,
        "add_prefix_space": false,
        "added_tokens_decoder": {
            "0": {"content": "<unk>", "special": true},
            "4": {"content": "other", "special": false},
            "9": {"content": "\u{2581}x\u{2581}", "special": false},
            "10": {"content": "<|end|>", "special": false},
            "77": {"content": "past", "special": true},
        },
    });
    let files = with_model(small_model())
        .write("added_tokens.json", r#"{"\u2581y": 8, "past": 11}"#)
        .write("tokenizer_config.json", config.to_string())
        .write("config.json", json!({"bos_token_id": 1, "pad_token_id": 11}).to_string());
    let vocabulary = check_entries(
        &files,
        11,
        3,
        &[
            ("\u{2581}a", -1.0, 1),
            ("other", -1000.0, 4),
            ("<user>", 0.0, 1),
            ("<unused>", 0.0, 5),
            ("c", -3.0, 1),
            ("\u{2581}y", -1000.0, 4),
            (" x ", -1000.0, 4),
            ("<|end|>", -1000.0, 3),
        ],
    );
    assert_eq!(entries(&vocabulary.metadata)[0], ("<unk>".to_owned(), -1000.0, 3));
    let tail: Vec<(&str, &Entry)> =
        vocabulary.metadata.iter().filter(|(_, value)| !matches!(value, Entry::Array(_))).collect();
    assert_eq!(tail[0], ("tokenizer.ggml.add_space_prefix", &Entry::Bool(false)));
    assert_eq!(tail[3], ("tokenizer.ggml.bos_token_id", &Entry::U32(1)));
    assert_eq!(tail[4], ("tokenizer.ggml.add_bos_token", &Entry::Bool(true)));
    assert_eq!(tail.len(), 5);
    let rules: Vec<&str> = vocabulary.warnings.iter().map(|warning| warning.rule).collect();
    let left_out = "token-without-embedding";
    assert_eq!(rules, [left_out, "token-replaced", left_out, "special-token-ignored"]);
}

#[test]
fn pieces_without_room_are_left_out() {
    let vocabulary = llama(&with_model(small_model()), 5).expect("a vocabulary");
    assert_eq!(entries(&vocabulary.metadata).len(), 5);
    assert!(vocabulary.warnings[0].message.starts_with("3 tokens from id 5 on"));
}

#[test]
fn code_llama_is_known_by_its_size() {
    let files = with_model(small_model())
        .write("tokenizer_config.json", r#"{"add_bos_token": true, "chat_template": "T"}"#);
    let metadata = llama(&files, 32_016).expect("a vocabulary").metadata;
    let keys: Vec<&str> = metadata.iter().map(|(key, _)| key).skip(5).collect();
    let (bos, eot) = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.eot_token_id");
    assert_eq!(keys, [bos, "tokenizer.chat_template", eot]);
    assert_eq!(metadata.get(eot), Some(&Entry::U32(32_010)));
}

/// A `tokenizer.json` with three special tokens, two bytes and two words.
fn byte_fallback() -> Files {
    let tokenizer = json!({
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": []},
        "model": {
            "type": "BPE",
            "byte_fallback": true,
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x00>": 3, "<0x0A>": 4, "a": 5, "b": 6, "ab": 7},
            "merges": [["a", "b"]],
        },
    });
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"});
    Files(Default::default())
        .write("tokenizer.json", tokenizer.to_string())
        .write("tokenizer_config.json", config.to_string())
}

#[test]
fn byte_tokens_of_tokenizer_json() {
    let check = |files: Files, expected: [i32; 9]| {
        let found = entries(&llama(&files, 9).expect("a vocabulary").metadata);
        let types: Vec<i32> = found.iter().map(|(_, _, kind)| *kind).collect();
        assert_eq!(types, expected);
        // Only "ab" is what a merge gives.
        assert!(found[..7].iter().all(|(_, score, _)| *score == -1000.0));
        assert_eq!(found[7].1, 0.0);
    };
    check(byte_fallback(), [3, 3, 3, 6, 6, 1, 1, 1, 5]);
    // Others are control tokens if a key or the class names them.
    let plain = || {
        byte_fallback().tokenizer(|file| {
            for token in file["added_tokens"].as_array_mut().expect("a list") {
                token["special"] = json!(false);
            }
        })
    };
    check(plain(), [4, 4, 3, 6, 6, 1, 1, 1, 5]);
    let class = |files: Files| files.config("tokenizer_class", json!("LlamaTokenizerFast"));
    check(class(plain()), [3, 3, 3, 6, 6, 1, 1, 1, 5]);
    let mistral = class(plain()).write("config.json", r#"{"model_type": "mistral"}"#);
    check(mistral, [4, 4, 3, 6, 6, 1, 1, 1, 5]);
    check(class(plain()).config("bos_token", Value::Null), [3, 4, 3, 6, 6, 1, 1, 1, 5]);
    let with = |special| {
        byte_fallback().tokenizer(|file| {
            file["added_tokens"].as_array_mut().expect("a list").push(added(8, "<t>", special));
        })
    };
    check(with(false), [3, 3, 3, 6, 6, 1, 1, 1, 4]);
    check(with(true), [3, 3, 3, 6, 6, 1, 1, 1, 4]);
    check(with(true).config("pad_token", json!("<t>")), [3, 3, 3, 6, 6, 1, 1, 1, 3]);
    check(with(false).config("pad_token", json!("a")), [3, 3, 3, 6, 6, 3, 1, 1, 4]);
}

#[test]
fn scores_are_in_the_order_of_the_merges() {
    let files = byte_fallback().tokenizer(|file| {
        let vocab = file["model"]["vocab"].as_object_mut().expect("tokens");
        for (token, id) in [("abab", 8), ("ba", 9), ("\u{2581}\u{2581}", 10), ("\u{2581}", 11)] {
            vocab.insert(token.to_owned(), json!(id));
        }
        file["model"]["merges"] =
            json!([["b", "a"], ["\u{2581}", "\u{2581}"], ["a", "b"], ["ab", "ab"], ["b", "a"]]);
        // A token of the model that is found in text; one of spaces has to merge, too.
        let added_tokens = file["added_tokens"].as_array_mut().expect("a list");
        added_tokens.push(added(9, "ba", false));
        added_tokens.push(added(10, "\u{2581}\u{2581}", false));
    });
    // Of the merge that is there twice the last counts.
    let expected = [
        ("a", -1000.0, 1),
        ("b", -1000.0, 1),
        ("ab", -1.0, 1),
        ("abab", -2.0, 1),
        ("ba", -3.0, 4),
        ("\u{2581}\u{2581}", 0.0, 1),
        ("\u{2581}", -1000.0, 1),
    ];
    check_entries(&files, 12, 5, &expected);
}

#[test]
fn the_reference_s_order_of_files() {
    let check = |files: &Files, rules: VocabularyRules, expected: Result<&str, &str>| {
        let options = VocabularyOptions { size: Some(10), rules, ..Default::default() };
        match (vocabulary(files, options), expected) {
            (Ok(found), Ok(model)) => {
                assert_eq!(found.metadata.string("tokenizer.ggml.model"), Some(model));
            }
            (Err(error), Err(rule)) => assert_eq!(error.diagnosis().rule, rule, "{error}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    };
    use VocabularyRules::{Common, Llama};
    for rules in [Common, Llama] {
        check(&Files::small(), rules, Ok("gpt2"));
        check(&Files::small().write("tokenizer.model", small_model()), rules, Ok("llama"));
    }
    check(&byte_fallback(), Llama, Ok("llama"));
    check(&byte_fallback(), Common, Err("unsupported-tokenizer"));
    let other_decoder = byte_fallback().tokenizer(|file| {
        file["decoder"] = json!({"type": "ByteLevel"});
        file["pre_tokenizer"] = split_then_bytes("x");
    });
    check(&other_decoder, Llama, Err("unsupported-tokenizer"));
    let tekken = with_model(small_model()).write("tekken.json", "{}");
    check(&tekken, Llama, Err("unsupported-tokenizer"));
    check(&tekken, Common, Ok("llama"));
}

#[track_caller]
fn refused(files: &Files, rule: &str, message: &str) {
    let error = llama(files, 300).expect_err("refused");
    assert_eq!(error.diagnosis().rule, rule, "{error}");
    assert!(error.to_string().contains(message), "{error}\nexpected {message:?}");
}

#[test]
fn broken_models_are_refused() {
    let check = |model: Vec<u8>, message: &str| {
        refused(&with_model(model), "bad-sentencepiece-model", message);
    };
    let with = |pieces: Vec<u8>| [start(), pieces, trainer(true)].concat();
    for text in ["<0x-1>", "<0xZZ>", "<0x0>", "<0x+1>", "<0xab>", "byte"] {
        check(with(piece(text, 0.0, 6)), "is a byte piece, expected <0x00> to <0xFF>");
    }
    let bytes: Vec<u8> =
        (0..300).flat_map(|byte| piece(&format!("<0x{:02X}>", byte % 256), 0.0, 6)).collect();
    check(with(bytes), "\"<0x00>\" is there twice");
    check(with(piece("<0x00>", 0.0, 6)), "needs 256 byte pieces, there are 1");
    let no_fallback = [start(), piece("<0x00>", 0.0, 6), trainer(false)].concat();
    check(no_fallback, "trainer_spec.byte_fallback is false");
    for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        check(with(piece("a", score, 1)), "the score is");
    }
    check(with(piece("", 0.0, 1)), "an empty piece");
    check(with(piece("a", 0.0, 9)), "a piece of the unknown type 9");
    check(with(piece("<u>", 0.0, 2)), "\"<u>\" is a second unknown piece");
    check([piece("a", 0.0, 1), trainer(false)].concat(), "no piece for unknown text");
    check(Vec::new(), "no trainer_spec after 0 pieces");
    check(
        bytes_field(1, &bytes_field(1, b"a\xff")),
        "at byte 5: not a SentencePiece model: the text",
    );
    check(bytes_field(1, &[1 << 3, 7]), "expected a message or a string");
    let huge = [&[0x0a][..], &[0xff; 9], &[1]].concat();
    check(huge, "a field of 18446744073709551615 bytes, but only 0 are left");
    check(vec![0x0b; 1 << 20], "a field of the wire type 3");
    let nested = (0..100).fold(Vec::new(), |inner, _| bytes_field(1, &inner));
    check(nested, "");
}

#[test]
fn cut_models_are_refused() {
    let model = small_model();
    for length in 0..model.len() {
        let error = llama(&with_model(&model[..length]), 10).expect_err("refused");
        assert_eq!(error.diagnosis().rule, "bad-sentencepiece-model", "{length}: {error}");
        assert!(error.diagnosis().location.offset <= Some(length as u64));
    }
}

#[test]
fn changed_bytes_end_in_a_vocabulary_or_an_error() {
    let model = small_model();
    for position in 0..model.len() {
        for bit in 0..8 {
            let mut model = model.clone();
            model[position] ^= 1 << bit;
            let _ = llama(&with_model(model), 10);
        }
    }
}

#[test]
fn added_tokens_are_checked() {
    let rule = "bad-tokenizer-value";
    let check = |text: &str, message: &str| {
        refused(&with_model(small_model()).write("added_tokens.json", text), rule, message);
    };
    check(r#"{"x": -1}"#, "added_tokens.json: x: is -1, expected a token's id");
    check(r#"{"x": 1.5}"#, "is 1.5, expected a token's id");
    check(r#"{"x": 9, "y": 9}"#, "added_tokens.json: y: \"x\" has the same id 9");
    check(r#"{"b": 9}"#, "tokens: \"b\" has two ids, 4 and 9");
    let check = |decoder: Value, message: &str| {
        let config = json!({ "added_tokens_decoder": decoder }).to_string();
        refused(&with_model(small_model()).write("tokenizer_config.json", config), rule, message);
    };
    check(json!({"-1": {"content": "x"}}), "added_tokens_decoder.-1: is not a token's id");
    check(json!({"9": {}}), "added_tokens_decoder.9: has no content");
    check(json!({"9": {"content": ""}}), "has no content");
    check(json!({"9": {"content": "c"}}), "\"c\" has two ids, 7 and 9");
    let twice = byte_fallback().tokenizer(|file| file["model"]["vocab"]["<0x0a>"] = json!(8));
    refused(&twice, rule, "are the same byte");
    let error = llama(&with_model(small_model()), u64::MAX).expect_err("refused");
    assert!(error.to_string().contains("vocab_size: is 18446744073709551615"), "{error}");
}

#[test]
fn a_pre_tokenizer_is_not_needed() {
    let options = VocabularyOptions { pre_tokenizer: Some("qwen2"), ..Default::default() };
    let found = vocabulary(&with_model(small_model()), options).expect("a vocabulary");
    assert_eq!(found.metadata.string("tokenizer.ggml.pre"), Some("default"));
    assert_eq!(found.warnings[0].rule, "pre-tokenizer-ignored");
}
