//! What becomes of tokens, special tokens and templates. The rules are those of
//! llama.cpp 0c1e57098 with transformers 5.23.0; each case was compared with
//! what they write.

use qz_tensor::{Array, Metadata, Value as Entry};
use serde_json::{Value, json};

use crate::support::{Files, added};

fn metadata(files: &Files) -> Metadata {
    files.vocabulary(10).expect("a vocabulary").metadata
}

fn strings<'m>(metadata: &'m Metadata, key: &str) -> Vec<&'m str> {
    match metadata.get(key) {
        Some(Entry::Array(Array::String(values))) => values.iter().collect(),
        other => panic!("{key}: {other:?}"),
    }
}

/// Content and type of the last two tokens.
fn last_tokens(files: &Files) -> Vec<(String, i32)> {
    let metadata = metadata(files);
    let tokens = strings(&metadata, "tokenizer.ggml.tokens").to_vec();
    match metadata.get("tokenizer.ggml.token_type") {
        Some(Entry::Array(Array::I32(types))) => {
            assert_eq!((tokens.len(), types.len()), (10, 10));
            tokens.into_iter().map(str::to_owned).zip(types.iter().copied()).skip(8).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn kinds_of_added_tokens() {
    let check = |token: Value, expected: (&str, i32)| {
        let files = Files::small().tokenizer(|file| file["added_tokens"][1] = token.clone());
        let found = &last_tokens(&files)[1];
        assert_eq!((found.0.as_str(), found.1), expected, "{token}");
    };
    check(added(9, "<t>", false), ("<t>", 4));
    check(added(9, "<t>", true), ("<t>", 3));
    // Forgotten marks.
    check(added(9, "<|t|>", false), ("<|t|>", 3));
    check(added(9, "<pad>", false), ("<pad>", 3));
    check(added(9, "<unused7>", false), ("<unused7>", 3));
    check(added(9, "<\u{ff5c}t\u{ff5c}>", false), ("<\u{ff5c}t\u{ff5c}>", 3));
    // Written as decoded unless matched in normalized text.
    check(added(9, "\u{120}t", false), (" t", 4));
    check(added(9, "\u{120}t", true), (" t", 3));
    let mut normalized = added(9, "\u{120}t", false);
    normalized["normalized"] = json!(true);
    check(normalized, ("\u{120}t", 4));
    check(added(9, "\u{2581}t", false), (" t", 4));
    check(added(9, "\u{2581}t", true), ("\u{2581}t", 3));
}

#[test]
fn unused_ids_are_padded() {
    let files = Files::small().tokenizer(|file| file["added_tokens"] = json!([]));
    let pad = |id: u32| (format!("[PAD{id}]"), 5);
    assert_eq!(last_tokens(&files.config("eos_token", Value::Null)), [pad(8), pad(9)]);
}

#[test]
fn other_files_mark_tokens_as_special() {
    let check = |files: Files, expected: [i32; 2]| {
        let found: Vec<i32> = last_tokens(&files).into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(found, expected);
    };
    check(Files::small(), [3, 4]);
    check(Files::small().config("pad_token", json!("<t>")), [3, 3]);
    check(Files::small().config("think_token", json!("<t>")), [3, 3]);
    check(Files::small().config("additional_special_tokens", json!(["<t>"])), [3, 4]);
    let rebuilt = Files::small().config("tokenizer_class", json!("Qwen2TokenizerFast"));
    check(rebuilt.config("additional_special_tokens", json!(["<t>"])), [3, 3]);
    let special = json!({"9": {"content": "<t>", "special": true, "normalized": false}});
    check(Files::small().config("added_tokens_decoder", special), [3, 3]);
    let silent = json!({"8": {"content": "<|end|>", "special": true, "normalized": false}});
    let files = Files::small().config("added_tokens_decoder", silent);
    check(files.config("pad_token", json!("<t>")), [3, 4]);
    let map = json!({"pad_token": {"content": "<t>"}});
    check(Files::small().write("special_tokens_map.json", map.to_string()), [3, 3]);
}

#[test]
fn tokens_from_other_files() {
    let without = || {
        Files::small().tokenizer(|file| {
            file["added_tokens"].as_array_mut().expect("a list").truncate(1);
        })
    };
    let check = |files: Files, expected: (&str, i32)| {
        let found = &last_tokens(&files)[1];
        assert_eq!((found.0.as_str(), found.1), expected);
    };
    check(without().write("added_tokens.json", r#"{"<n>": 9}"#), ("<n>", 4));
    check(without().config("pad_token", json!("[PAD]")), ("[PAD]", 3));
    check(without().config("extra_special_tokens", json!(["<n>"])), ("<n>", 3));
    let declared = json!({"9": {"content": "<n>", "special": false, "normalized": true}});
    check(without().config("added_tokens_decoder", declared), ("<n>", 4));

    let past = Files::small().config("pad_token", json!("[PAD]"));
    let warnings = past.vocabulary(10).expect("a vocabulary").warnings;
    assert_eq!(warnings[0].rule, "token-without-embedding");
}

#[test]
fn merges_have_one_form() {
    let expected = ["a b", "\u{120} a", "\u{120}a b"];
    assert_eq!(strings(&metadata(&Files::small()), "tokenizer.ggml.merges"), expected);
    let pairs = json!([["a", "b"], ["\u{120}", "a"], ["\u{120}a", "b"]]);
    let files = Files::small().tokenizer(|file| file["model"]["merges"] = pairs);
    assert_eq!(strings(&metadata(&files), "tokenizer.ggml.merges"), expected);
    let files = Files::small().tokenizer(|file| {
        file["model"]["vocab"] = json!({"a": 0, " ": 1, "a ": 2, "b": 3});
        file["model"]["merges"] = json!([["a", " "]]);
        file["added_tokens"] = json!([]);
    });
    let files = files.config("eos_token", Value::Null);
    assert_eq!(strings(&metadata(&files), "tokenizer.ggml.merges"), ["a \u{120}"]);
}

/// The keys that follow the merges.
fn tail(files: &Files) -> Vec<(String, Entry)> {
    let metadata = metadata(files);
    let start =
        metadata.iter().position(|(key, _)| key == "tokenizer.ggml.merges").expect("merges");
    metadata.iter().skip(start + 1).map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

fn check_tail(files: &Files, expected: &[(&str, Entry)]) {
    let found = tail(files);
    let found: Vec<(&str, Entry)> =
        found.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    assert_eq!(found, expected);
}

#[test]
fn post_processors_tell_what_is_added() {
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let template = |single: &[Value], pair: &[Value]| json!({"type": "TemplateProcessing", "single": single, "pair": pair});
    let check = |processor: Value, expected: &[(&str, Entry)]| {
        let files = Files::small().tokenizer(|file| file["post_processor"] = processor);
        check_tail(&files.config("bos_token", json!("<t>")), expected);
    };
    let (begin, end) = (
        ("tokenizer.ggml.bos_token_id", Entry::U32(9)),
        ("tokenizer.ggml.eos_token_id", Entry::U32(8)),
    );
    let adds = |what: &'static str, value: bool| (what, Entry::Bool(value));
    let (bos, eos, sep) = (
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.add_sep_token",
    );
    let all = [begin.clone(), end.clone()];
    check(json!(null), &all);
    let byte_level = json!({"type": "ByteLevel"});
    check(byte_level.clone(), &[&all[..], &[adds(bos, false), adds(eos, false)]].concat());
    let both = template(
        &[special("<t>"), text("A"), special("<|end|>")],
        &[special("<t>"), text("A"), special("<|end|>"), text("B"), special("<|end|>")],
    );
    check(
        json!({"type": "Sequence", "processors": [byte_level, both]}),
        &[&all[..], &[adds(bos, true), adds(eos, true), adds(sep, false)]].concat(),
    );
    let separated = template(&[text("A")], &[text("A"), special("<|end|>"), text("B")]);
    let separator = ("tokenizer.ggml.seperator_token_id", Entry::U32(8));
    check(separated, &[&all[..], &[separator, adds(sep, true)]].concat());
    // Another token than the one that ends generation stands behind the text.
    let turn = template(&[text("A"), special("<t>")], &[]);
    check(
        turn,
        &[
            begin,
            ("tokenizer.ggml.eos_token_id", Entry::U32(9)),
            ("tokenizer.ggml.eot_token_id", Entry::U32(8)),
            adds(eos, true),
        ],
    );
}

#[test]
fn ids_from_the_model_configuration_fill_gaps() {
    let config = json!({"bos_token_id": 0, "eos_token_id": 5, "pad_token_id": [1, 2],
        "text_config": {"unk_token_id": 3}, "cls_token_id": 4});
    check_tail(
        &Files::small().write("config.json", config.to_string()),
        &[
            ("tokenizer.ggml.eos_token_id", Entry::U32(8)),
            ("tokenizer.ggml.bos_token_id", Entry::U32(0)),
            ("tokenizer.ggml.unknown_token_id", Entry::U32(3)),
        ],
    );
}

#[test]
fn templates_are_copied_byte_for_byte() {
    let template = "{{ bos }}\r\n{% for m in x %}\t\u{e9}\u{1f600}{% endfor %} ";
    let key = "tokenizer.chat_template";
    let check = |files: &Files, expected: &[(&str, &str)]| {
        let metadata = metadata(files);
        let found: Vec<(&str, &str)> = metadata
            .iter()
            .filter(|(name, _)| name.starts_with(key))
            .filter_map(|(name, _)| Some((name, metadata.string(name)?)))
            .collect();
        assert_eq!(found, expected);
    };
    check(&Files::small().config("chat_template", json!(template)), &[(key, template)]);
    let beside = Files::small().write("chat_template.jinja", template);
    // A text file's ends of lines are read as Python reads them.
    let plain = template.replace("\r\n", "\n");
    check(&beside, &[(key, &plain)]);
    // The file counts, as in transformers 5.24, and so do templates beside it alone.
    let both = beside.config("chat_template", json!("inline"));
    check(&both, &[(key, &plain)]);
    let rules = |files: &Files| -> Vec<&str> {
        let warnings = files.vocabulary(10).expect("a vocabulary").warnings;
        warnings.iter().map(|warning| warning.rule).collect()
    };
    assert_eq!(rules(&both), ["chat-template-overruled"]);
    assert!(rules(&both.config("chat_template", json!(plain))).is_empty());
    let further = Files::small().write("additional_chat_templates/rag.jinja", "R");
    check(
        &further.config("chat_template", json!("inline")),
        &[("tokenizer.chat_template.rag", "R")],
    );
    let json_file = json!({ "chat_template": template }).to_string();
    let inline = Files::small().config("chat_template", json!("inline"));
    check(&inline.write("chat_template.json", json_file), &[(key, "inline")]);
    let json_file = json!({ "chat_template": template }).to_string();
    check(&Files::small().write("chat_template.json", json_file), &[(key, template)]);
    let named = [
        ("tokenizer.chat_template.rag", "R"),
        ("tokenizer.chat_template.tool_use", "T"),
        (key, "D"),
    ];
    let files = Files::small()
        .write("chat_template.jinja", "D")
        .write("additional_chat_templates/tool-use.jinja", "T")
        .write("additional_chat_templates/rag.jinja", "R")
        .write("additional_chat_templates/notes.txt", "N");
    check(&files, &named);
    assert_eq!(strings(&metadata(&files), "tokenizer.chat_templates"), ["rag", "tool_use"]);
    let list = json!([{"name": "default", "template": "D"}, {"name": "rag", "template": "R"},
        {"name": "tool use", "template": "T"}, {"name": "", "template": "X"}]);
    check(&Files::small().config("chat_template", list), &named);
    // The file needs no tokenizer_config.json beside it.
    let files = Files::small().without("tokenizer_config.json").write("chat_template.jinja", "D");
    check(&files, &[(key, "D")]);
}

#[test]
fn suspicious_templates_are_told_and_copied() {
    let template = "{{ ''.__class__.__mro__[1].__subclasses__() }}";
    let files = Files::small().config("chat_template", json!(template));
    let vocabulary = files.vocabulary(10).expect("a vocabulary");
    assert_eq!(vocabulary.metadata.string("tokenizer.chat_template"), Some(template));
    assert_eq!(vocabulary.warnings[0].rule, "chat-template-suspicious");
    let large = "x".repeat((1 << 20) + 1);
    let files = Files::small().config("chat_template", json!(large));
    let vocabulary = files.vocabulary(10).expect("a vocabulary");
    assert_eq!(vocabulary.metadata.string("tokenizer.chat_template"), Some(large.as_str()));
    assert_eq!(vocabulary.warnings.len(), 1);
}

#[test]
fn normalizers_that_gguf_knows() {
    let steps = json!([{"type": "NFC"}, {"type": "Lowercase"}, {"type": "StripAccents"}]);
    let files = Files::small()
        .tokenizer(|file| file["normalizer"] = json!({"type": "Sequence", "normalizers": steps}));
    let metadata = metadata(&files);
    for key in ["lowercase", "strip_accents"] {
        let key = format!("tokenizer.ggml.normalizer.{key}");
        assert_eq!(metadata.get(&key), Some(&Entry::Bool(true)));
    }
}
