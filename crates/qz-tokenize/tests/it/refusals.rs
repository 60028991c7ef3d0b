//! Broken tokenizers and the errors they give.

use qz_tensor::{Diagnose, FaultClass};
use serde_json::{Value, json};

use crate::support::{Files, added};

#[track_caller]
fn refused(files: &Files, rule: &str, message: &str) {
    match files.vocabulary(10) {
        Ok(_) => panic!("accepted, expected {message:?}"),
        Err(error) => {
            let diagnosis = error.diagnosis();
            assert_eq!((diagnosis.class, diagnosis.rule), (FaultClass::BadInput, rule), "{error}");
            assert!(error.to_string().contains(message), "{error}\nexpected {message:?}");
        }
    }
}

#[test]
fn token_ids() {
    let check = |edit: fn(&mut Value), rule: &str, message: &str| {
        refused(&Files::small().tokenizer(edit), rule, message);
    };
    let range = "expected an integer from 0 to 16777215";
    check(|file| file["model"]["vocab"]["x"] = json!(-1), "invalid-json", range);
    check(|file| file["model"]["vocab"]["x"] = json!(1.5), "invalid-json", range);
    check(|file| file["model"]["vocab"]["x"] = json!("1"), "invalid-json", range);
    check(|file| file["model"]["vocab"]["x"] = json!(1u64 << 31), "invalid-json", range);
    check(|file| file["added_tokens"][0]["id"] = json!(-8), "invalid-json", range);
    check(
        |file| file["model"]["vocab"]["x"] = json!(5),
        "bad-tokenizer-value",
        "tokenizer.json: model.vocab: \"c\" and \"x\" have the same id 5",
    );
    check(
        |file| file["model"]["vocab"]["d"] = json!(10),
        "bad-tokenizer-value",
        "the token \"d\" has id 10, but the model has 10 tokens (vocab_size)",
    );
    // A gap in the model's ids makes room for a clash.
    check(
        |file| file["model"]["vocab"]["d"] = json!(9),
        "bad-tokenizer-value",
        "\"d\" and \"<t>\" have the same id 9",
    );
    check(|file| file["model"]["vocab"] = json!({}), "bad-tokenizer-value", "has no tokens");
    refused(
        &Files::small().write(
            "tokenizer.json",
            r#"{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}"#,
        ),
        "invalid-json",
        "the token \"a\" is there twice, with ids 0 and 1",
    );
}

#[test]
fn added_tokens_keep_to_the_vocabulary() {
    let check = |token: Value, message: &str| {
        let files = Files::small().tokenizer(|file| file["added_tokens"][1] = token);
        refused(&files, "bad-tokenizer-value", message);
    };
    check(
        added(12, "<t>", false),
        "added_tokens[1]: \"<t>\" has id 12, but it would be given 9: added tokens follow",
    );
    check(
        added(9, "c", false),
        "added_tokens[1]: \"c\" has id 9, but it would be given 5: that is its id in model.vocab",
    );
    refused(
        &Files::small().config("added_tokens_decoder", json!({"20": {"content": "<new>"}})),
        "bad-tokenizer-value",
        "tokenizer_config.json: added_tokens_decoder.20: \"<new>\" has id 20",
    );
    refused(
        &Files::small().config("added_tokens_decoder", json!({"-1": {"content": "<new>"}})),
        "bad-tokenizer-value",
        "added_tokens_decoder.-1: is not a token's id",
    );
    refused(
        &Files::small().write("added_tokens.json", r#"{"<new>": 4294967296}"#),
        "bad-tokenizer-value",
        "added_tokens.json: <new>: is not a token's id",
    );
}

#[test]
fn merges() {
    let check = |merges: Value, rule: &str, message: &str| {
        let files = Files::small().tokenizer(|file| file["model"]["merges"] = merges);
        refused(&files, rule, message);
    };
    let rule = "bad-tokenizer-value";
    check(json!(["a x"]), rule, "model.merges[0]: \"a x\" needs the token \"x\"");
    check(json!([["a", "b"], ["b", "a"]]), rule, "model.merges[1]: \"b a\" needs the token \"ba\"");
    check(json!(["ab"]), rule, "\"ab\" is not two tokens with a space between");
    check(json!(["a b c"]), rule, "is not two tokens with a space between");
    check(json!([]), rule, "has no merges");
    check(json!([["a", "b", "c"]]), "invalid-json", "");
    check(json!({"a": "b"}), "invalid-json", "a list of merges");
}

#[test]
fn marks_of_words() {
    let with =
        |key: &str, mark: &str| Files::small().tokenizer(|file| file["model"][key] = json!(mark));
    for (key, mark) in [("continuing_subword_prefix", "##"), ("end_of_word_suffix", "</w>")] {
        let message = format!("tokenizer.json: model.{key}: is {mark:?}");
        refused(&with(key, mark), "bad-tokenizer-value", &message);
        assert!(with(key, "").vocabulary(10).is_ok(), "an empty {key}");
    }
}

#[test]
fn many_absent_merges_are_found_quickly() {
    let merges: Vec<Value> = (0..300_000).map(|n| json!([format!("a{n}"), "b"])).collect();
    let files = Files::small().tokenizer(|file| file["model"]["merges"] = json!(merges));
    let start = std::time::Instant::now();
    refused(&files, "bad-tokenizer-value", "model.merges[0]");
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn broken_and_other_files() {
    let whole = Files::small().0["tokenizer.json"].clone();
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        refused(&Files::small().write("tokenizer.json", &whole[..length]), "invalid-json", "");
    }
    refused(&Files::small().write("tokenizer.json", "[".repeat(100_000)), "invalid-json", "");
    refused(&Files::small().write("tokenizer.json", b"\xff"), "invalid-json", "");
    refused(&Files::small().write("tokenizer_config.json", "[]"), "bad-tokenizer-value", "(root)");
    refused(&Files::small().without("tokenizer.json"), "file-missing", "tokenizer.json");
    for (name, kind) in [("tekken.json", "Tekken"), ("vocab.json", "vocab.json with merges.txt")] {
        let files = Files::small().without("tokenizer.json").write(name, "{}");
        let message = format!("{name}: {kind} vocabularies are not supported yet");
        refused(&files, "unsupported-tokenizer", &message);
    }
    let unigram = json!({"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.5]]});
    refused(
        &Files::small().tokenizer(|file| file["model"] = unigram),
        "unsupported-tokenizer",
        "Unigram",
    );
    refused(
        &Files::small().tokenizer(|file| file["model"]["byte_fallback"] = json!(true)),
        "unsupported-tokenizer",
        "byte_fallback",
    );
    refused(
        &Files::small().tokenizer(|file| file["model"]["type"] = json!("WordPiece")),
        "unsupported-tokenizer",
        "WordPiece vocabularies are not supported yet",
    );
    let files = Files::small().write("chat_template.jinja", b"ok \xff");
    let error = files.vocabulary(10).expect_err("refused").diagnosis();
    assert_eq!((error.rule, error.location.offset), ("invalid-utf-8", Some(3)));
}

#[test]
fn files_that_are_others() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    for name in
        ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"]
    {
        let message = format!("{name}: it looks like a Git LFS pointer");
        refused(&Files::small().write(name, pointer), "another-file", &message);
    }
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"] {
        let message = format!("{name}: it looks like a web page");
        let page = "<!DOCTYPE html><html></html>";
        refused(&Files::small().write(name, page), "another-file", &message);
    }
}

#[test]
fn special_ids() {
    let check = |key: &str, value: Value, message: &str| {
        let files = Files::small().write("config.json", json!({ key: value }).to_string());
        refused(&files, "bad-tokenizer-value", message);
    };
    check(
        "eos_token_id",
        json!(10),
        "config.json: eos_token_id: is 10, expected an integer from 0 to 9",
    );
    check("eos_token_id", json!(-2), "eos_token_id: is -2, expected an integer");
    check("bos_token_id", json!(1.5), "bos_token_id: is 1.5, expected an integer");
}

#[test]
fn sizes_are_bounded() {
    let error = Files::small().vocabulary(u64::MAX).expect_err("refused");
    assert!(error.to_string().contains("vocab_size: is 18446744073709551615"), "{error}");
}
