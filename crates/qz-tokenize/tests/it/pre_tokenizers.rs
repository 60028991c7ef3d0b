//! Definitions and the names they get.

use qz_tensor::Diagnose;
use qz_tokenize::pre_tokenizer_names;
use serde_json::{Value, json};

use crate::support::{Files, LLAMA_3, added, bytes, sequence, split, split_then_bytes};

const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

fn digits(individual: bool) -> Value {
    json!({"type": "Digits", "individual_digits": individual})
}

/// The name for a definition, with a token named `token` among the added ones.
fn name(definition: &Value, normalizer: Value, token: &str, ignore_merges: bool) -> String {
    let files = Files::small().tokenizer(|file| {
        file["pre_tokenizer"] = definition.clone();
        file["normalizer"] = normalizer;
        file["added_tokens"][1] = added(9, token, false);
        file["model"]["ignore_merges"] = json!(ignore_merges);
    });
    let vocabulary = files.vocabulary(10).unwrap_or_else(|error| panic!("{error}"));
    let name = vocabulary.metadata.string("tokenizer.ggml.pre").expect("a name").to_owned();
    assert!(pre_tokenizer_names().any(|known| known == name), "{name}");
    name
}

#[test]
fn definitions_have_names() {
    let check = |definition: Value, expected: &str| {
        assert_eq!(name(&definition, Value::Null, "<t>", true), expected, "{definition}");
    };
    check(split_then_bytes(LLAMA_3), "llama-bpe");
    check(split_then_bytes(QWEN_2), "qwen2");
    check(split_then_bytes(TEKKEN), "tekken");
    check(split_then_bytes(GPT_4O), "gpt-4o");
    check(bytes(true), "gpt-2");
    check(sequence(&[digits(true), bytes(true)]), "smollm");
    let han = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
    check(
        sequence(&[split(r"\p{N}{1,3}"), split(han), split(DEEPSEEK_V3), bytes(false)]),
        "deepseek-v3",
    );
    let cjk = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
    check(
        sequence(&[
            split("[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split(cjk),
            digits(true),
            bytes(false),
        ]),
        "deepseek-coder",
    );
    let punctuation = json!({"type": "Punctuation", "behavior": "Contiguous"});
    check(sequence(&[punctuation, bytes(true), digits(false), split("[0-9][0-9][0-9]")]), "falcon");
    check(split_then_bytes(" ?[^(\\s|[.,!?…。，、।۔،])]+"), "bloom");
    // The other way to write a split, as converters of tiktoken files do.
    let mut removed = split(LLAMA_3);
    removed["behavior"] = json!("Removed");
    removed["invert"] = json!(true);
    check(sequence(&[removed, bytes(false)]), "llama-bpe");
}

#[test]
fn evidence_tells_families_apart() {
    let check = |definition: Value, token: &str, ignore_merges: bool, expected: &str| {
        assert_eq!(name(&definition, Value::Null, token, ignore_merges), expected, "{token}");
    };
    let llama = || split_then_bytes(LLAMA_3);
    check(llama(), "<|begin_of_text|>", false, "llama-bpe");
    check(llama(), "<t>", false, "smaug-bpe");
    check(llama(), "<|endoftext|>", false, "dbrx");
    check(llama(), "[gMASK]", false, "glm4");
    check(llama(), "<|tool_list_start|>", true, "lfm2");
    let sentence = "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>";
    check(split_then_bytes(QWEN_2), sentence, false, "deepseek-r1-qwen");
    check(split_then_bytes(QWEN_2), "<|role_start|>", false, "megrez");
    check(split_then_bytes(GPT_4O), "<|header_start|>", true, "llama4");
    let each_digit = || sequence(&[digits(true), bytes(true)]);
    check(each_digit(), "<file_sep>", false, "starcoder");
    check(each_digit(), "<fim_prefix>", false, "refact");
    check(each_digit(), "<|START_OF_TURN_TOKEN|>", false, "command-r");
    check(bytes(true), "<|padding|>", false, "olmo");
    check(bytes(true), "[|endofturn|]", false, "exaone4");
    check(bytes(true), &" ".repeat(31), false, "phi-2");
    check(bytes(true), &" ".repeat(24), false, "gpt-2");
    let han = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
    let deepseek = sequence(&[split(r"\p{N}{1,3}"), split(han), split(DEEPSEEK_V3), bytes(false)]);
    check(deepseek, "<\u{ff5c}hy_User\u{ff5c}>", false, "hunyuan-dense");
}

#[test]
fn normal_forms_of_text_are_passed_over() {
    let check = |normalizer: Value| {
        assert_eq!(name(&split_then_bytes(QWEN_2), normalizer, "<t>", false), "qwen2");
    };
    check(json!({"type": "NFC"}));
    check(json!({"type": "Sequence", "normalizers": []}));
    check(json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}]}));
}

/// `carried_out`: text is cut by the definition itself, and only a GGUF file cannot be had.
#[test]
fn unknown_definitions_are_shown() {
    let check = |definition: Value, normalizer: Value, carried_out: bool, shown: &str| {
        let files = Files::small().tokenizer(|file| {
            file["pre_tokenizer"] = definition;
            file["normalizer"] = normalizer;
        });
        let error = match files.vocabulary(10) {
            Ok(vocabulary) => {
                assert!(carried_out, "{shown}");
                assert_eq!(vocabulary.metadata.get("tokenizer.ggml.pre"), None);
                vocabulary.unnamed.expect("no name").into()
            }
            Err(error) => {
                assert!(!carried_out, "{shown}");
                error
            }
        };
        assert_eq!(error.diagnosis().rule, "unknown-pre-tokenizer");
        let message = error.to_string();
        assert!(message.contains(shown) && message.contains("--pre-tokenizer NAME"), "{message}");
        assert!(message.len() < 3000);
    };
    check(split_then_bytes(r"\w+"), Value::Null, true, r#""Regex":"\\w+""#);
    check(Value::Null, Value::Null, false, r#""pre_tokenizer":null"#);
    check(split_then_bytes(&"x".repeat(100_000)), Value::Null, false, "xxx");
    check(split_then_bytes("(x"), Value::Null, false, "(x");
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    check(split_then_bytes(QWEN_2), replace, true, "Replace");
    let unheard = json!({"type": "Unheard"});
    check(split_then_bytes(QWEN_2), unheard, false, "Unheard");
    let prefix = json!({"type": "ByteLevel", "add_prefix_space": true});
    check(prefix, Value::Null, true, "add_prefix_space");
    // A step less or more is another definition.
    check(sequence(&[split(LLAMA_3)]), Value::Null, false, "Split");
    check(sequence(&[split(LLAMA_3), digits(true), bytes(false)]), Value::Null, true, "Digits");
}
