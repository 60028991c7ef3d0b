//! Text to ids and back: the ids that llama-tokenize gives for small
//! vocabularies of every kind (`fixtures/tokenizers`, made by
//! `fixtures/make/golden_tokens.py`), and what is refused.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use qz_gguf::GgufFile;
use qz_tensor::{Array, Diagnose, Metadata, TensorSource, stop};
use qz_tokenize::{EncodeOptions, TokenId, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    sets: Vec<Set>,
}

/// The ids of every text, with special tokens and without. Null where the
/// reference ends.
#[derive(Deserialize)]
struct Set {
    vocabulary: String,
    /// The pre-tokenizers that give these ids; none where there is no choice.
    names: Vec<String>,
    special: Vec<Option<Vec<u32>>>,
    #[serde(default)]
    plain: Vec<Option<Vec<u32>>>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers")
}

fn golden() -> Golden {
    let bytes = std::fs::read(folder().join("golden.json")).expect("golden.json");
    serde_json::from_slice(&bytes).expect("golden.json is valid")
}

fn metadata(vocabulary: &str) -> Metadata {
    let file = GgufFile::open(folder().join(format!("{vocabulary}.gguf"))).expect("a GGUF file");
    file.metadata().clone()
}

fn tokenizer(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(metadata).expect("a vocabulary")
}

fn ids(tokenizer: &Tokenizer, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
    let options = EncodeOptions { add_special, parse_special };
    tokenizer.encode(text, options).expect("tokens").into_iter().map(|id| id.0).collect()
}

#[test]
fn the_first_ids_are_those_of_the_whole_text() {
    let golden = golden();
    let usable = |text: &&String| text.is_ascii() || text.contains(' ');
    let some: String = golden.texts.iter().filter(usable).flat_map(|text| [text, "\n"]).collect();
    // Long enough that only a part of it is read.
    let text = some.repeat(300_000 / some.len() + 1);
    for set in golden.sets.iter().filter(|set| set.special.iter().all(Option::is_some)) {
        let tokenizer = tokenizer(&metadata(&set.vocabulary));
        for parse_special in [false, true] {
            let options = EncodeOptions { add_special: true, parse_special };
            let all = tokenizer.encode(&text, options).expect("tokens");
            for count in [0, 1, 100, 5000, all.len(), usize::MAX] {
                let first = tokenizer.encode_first(&text, options, count).expect("tokens");
                assert_eq!(first, all[..count.min(all.len())], "{}: {count}", set.vocabulary);
            }
        }
    }
}

#[test]
fn ids_equal_the_references() {
    let golden = golden();
    let mut names = 0;
    for set in &golden.sets {
        let mut metadata = metadata(&set.vocabulary);
        let choices = set.names.iter().map(|name| Some(name.as_str()));
        for name in choices.chain(set.names.is_empty().then_some(None)) {
            if let Some(name) = name {
                metadata.set("tokenizer.ggml.pre", name);
                names += 1;
            }
            let tokenizer = tokenizer(&metadata);
            // llama-tokenize leaves out what goes around a text where no first
            // token is added.
            let adds = tokenizer.adds_bos();
            for (place, text) in golden.texts.iter().enumerate() {
                let what = format!("{} {name:?} {text:?}", set.vocabulary);
                let special = ids(&tokenizer, text, adds, true);
                if let Some(wanted) = &set.special[place] {
                    assert_eq!(&special, wanted, "{what}");
                }
                let plain = ids(&tokenizer, text, false, false);
                if let Some(Some(wanted)) = set.plain.get(place) {
                    assert_eq!(&plain, wanted, "{what}");
                }
            }
        }
    }
    assert!(golden.texts.len() >= 15 && names >= 85 && golden.sets.len() >= 30);
}

#[test]
fn byte_level_and_scored_text_comes_back() {
    // What SentencePiece puts in front stays; gemma's vocabulary does not.
    for (vocabulary, prefix) in [("byte-level", ""), ("escaped", ""), ("scored", " ")] {
        let tokenizer = tokenizer(&metadata(vocabulary));
        for text in golden().texts.iter().filter(|text| !text.contains('\u{2581}')) {
            let tokens = tokenizer.encode(text, EncodeOptions::default()).expect("tokens");
            // A user's token ends the text before it, and a space follows it again.
            let decoded = tokenizer.decode(&tokens);
            if text.contains("<user>") && vocabulary == "scored" {
                continue;
            }
            assert_eq!(decoded, format!("{prefix}{text}"), "{vocabulary}");
        }
    }
}

#[test]
fn special_tokens_are_known() {
    let check = |vocabulary: &str, bos: u32, eos: u32, adds_bos: bool, count: usize| {
        let tokenizer = tokenizer(&metadata(vocabulary));
        let found = (tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos());
        assert_eq!(found, (Some(TokenId(bos)), Some(TokenId(eos)), adds_bos), "{vocabulary}");
        assert_eq!(tokenizer.token_count(), count, "{vocabulary}");
        assert!(tokenizer.is_end(TokenId(eos)) && !tokenizer.is_end(TokenId(50)));
        assert_eq!(tokenizer.piece(TokenId(count as u32)).as_ref(), b"");
    };
    check("scored", 1, 2, true, 902);
    check("escaped", 2, 1, true, 1162);
}

#[test]
fn phi_3_drops_space_after_special_tokens() {
    let mut metadata = metadata("scored");
    let text = "a<user> \n b";
    let kept = ids(&tokenizer(&metadata), text, false, true);
    metadata.set("general.name", "Phi-3 mini");
    let dropped = ids(&tokenizer(&metadata), text, false, true);
    assert_ne!(kept, dropped);
    assert_eq!(dropped, ids(&tokenizer(&metadata), "a<user>b", false, true));
}

#[test]
fn long_runs_take_no_quadratic_time() {
    // Quadratic time would be minutes for each.
    const LENGTH: usize = 1 << 18;
    let mut byte_level = metadata("byte-level");
    let names = ["gpt-2", "jais-2", "deepseek-llm", "superbpe", "gpt-4o", "tiny_aya", "exaone-moe"];
    for name in names {
        byte_level.set("tokenizer.ggml.pre", name);
        let tokenizer = tokenizer(&byte_level);
        for letter in [" ", "a", "1", "\n", "A", "!"] {
            let text = letter.repeat(LENGTH);
            let tokens = tokenizer.encode(&text, EncodeOptions::default()).expect("tokens");
            assert_eq!(tokenizer.decode(&tokens), text, "{name}");
        }
    }
    for vocabulary in ["escaped", "scored", "word-piece", "unigram"] {
        let tokenizer = tokenizer(&metadata(vocabulary));
        for letter in [" ", "a", "\n", "\u{1f680}"] {
            tokenizer.encode(&letter.repeat(LENGTH), EncodeOptions::default()).expect("tokens");
        }
    }
}

#[test]
fn bad_vocabularies_are_refused() {
    type Edit = fn(&mut Metadata);
    let check = |vocabulary: &str, edit: Edit, rule: &str, message: &str| {
        let mut metadata = metadata(vocabulary);
        edit(&mut metadata);
        let Err(error) = Tokenizer::from_metadata(&metadata) else {
            panic!("{message}: accepted");
        };
        assert_eq!(error.diagnosis().rule, rule, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    };
    let bad = "bad-vocabulary-value";
    let check_value = |edit: Edit, message: &str| check("byte-level", edit, bad, message);
    check_value(|m| drop(m.remove("tokenizer.ggml.model")), "tokenizer.ggml.model: is missing");
    check_value(|m| m.set("tokenizer.ggml.model", 1u32), "tokenizer.ggml.model: is not a string");
    check_value(|m| drop(m.remove("tokenizer.ggml.tokens")), "tokens: is missing");
    check_value(|m| m.set("tokenizer.ggml.tokens", vec![1u32]), "tokens: is not an array of str");
    check_value(
        |m| m.set("tokenizer.ggml.tokens", ["a", "b", "a"].map(String::from).to_vec()),
        r#"tokens: "a" has two ids, 0 and 2"#,
    );
    check_value(|m| drop(m.remove("tokenizer.ggml.merges")), "merges: is missing");
    check_value(
        |m| m.set("tokenizer.ggml.merges", vec!["ab".to_owned()]),
        r#"merges: "ab" is not two parts"#,
    );
    check_value(
        |m| m.set("tokenizer.ggml.merges", vec![String::new()]),
        r#"merges: "" is not two parts"#,
    );
    check_value(|m| m.set("tokenizer.ggml.token_type", vec![1i32; 3]), "has 3 entries for ");
    check_value(|m| m.set("tokenizer.ggml.scores", vec![1.0f32; 3]), "has 3 entries for ");
    check_value(|m| m.set("tokenizer.ggml.bos_token_id", 99_999u32), "is 99999, but there are");
    check_value(|m| m.set("tokenizer.ggml.eos_token_id", u32::MAX), "is 4294967295, but there");
    check_value(|m| m.set("tokenizer.ggml.eos_token_id", "x"), "eos_token_id: is not a token's id");
    check_value(|m| m.set("tokenizer.ggml.add_bos_token", 1u32), "add_bos_token: is not a bool");
    check(
        "byte-level",
        |m| m.set("tokenizer.ggml.pre", "lama-bpe"),
        "unknown-pre-tokenizer-name",
        r#""lama-bpe" is no known pre-tokenizer; known are default, llama3, "#,
    );
    check(
        "byte-level",
        |m| m.set("tokenizer.ggml.model", "rwkv"),
        "unknown-vocabulary-model",
        r#""rwkv" is no known kind of vocabulary; known are gpt2, gemma4, llama, bert, t5"#,
    );
    check("scored", |m| m.set("tokenizer.ggml.tokens", vec!["a".to_owned()]), bad, "bos_token_id");
    check(
        "unigram",
        |m| m.set("tokenizer.ggml.precompiled_charsmap", Array::U8(vec![255; 9])),
        bad,
        "precompiled_charsmap: is not a map",
    );
}

/// Whoever set the flag wants no tokens.
#[test]
fn a_stop_is_heard() {
    let flag = stop::Flag::default();
    let options = EncodeOptions::default();
    for vocabulary in ["byte-level", "escaped", "scored", "word-piece"] {
        let tokenizer = tokenizer(&metadata(vocabulary));
        let count = || tokenizer.encode("one word and another", options).expect("tokens").len();
        let own = stop::own(&flag);
        let whole = count();
        flag.store(true, Ordering::Relaxed);
        assert!(count() < whole, "{vocabulary}");
        drop(own);
        assert_eq!(count(), whole, "{vocabulary}");
        flag.store(false, Ordering::Relaxed);
    }
}
