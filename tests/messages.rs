//! What is said where something is missing, too short, or more than was meant.

use qz_tensor::{Metadata, Value};
use serde_json::json;

use crate::support::{Run, copy_of, edit_json, fixtures, quantize, scratch, text, write_gguf};

fn expect(run: &Run, code: i32, parts: &[&str]) {
    assert_eq!(run.code, code, "{}\n{}", run.stdout, run.stderr);
    for part in parts {
        let is_said = run.stderr.contains(part) || run.stdout.contains(part);
        assert!(is_said, "{part} is not in\n{}\n{}", run.stdout, run.stderr);
    }
}

#[test]
fn a_method_without_data() {
    let folder = scratch();
    let (source, output) = (fixtures().join("demo-llama"), folder.path().join("x.gguf"));
    let run = quantize(&["quantize", text(&source), "--to", "q4_k_m", "-o", text(&output)]);
    expect(&run, 2, &["--data default", "--tokens", "--stats"]);
    assert!(!output.exists());
}

/// What a GGUF file loses of a tokenizer is of no matter to who reads the folder's own.
#[test]
fn what_gguf_cannot_say_is_told_where_one_is_written() {
    let folder = scratch();
    let source = fixtures().join("tiny/qwen2");
    let (source, data) = (text(&source), folder.path().join("text.txt"));
    std::fs::write(&data, "The weights are numbers, and we round them. ".repeat(20)).expect("text");
    let output = folder.path().join("out/");
    let to = |targets: &'static str| ["convert", source, "--to", targets, "-o", text(&output)];
    let measured = ["eval", source, "--data", text(&data), "--ctx", "16", "--chunks", "2"];
    let count = |arguments: &[&str]| {
        let run = quantize(arguments).expect_success();
        run.stderr.matches("GGUF cannot say NFC").count()
            + run.stdout.matches("GGUF cannot say NFC").count()
    };
    assert_eq!(count(&to("safetensors:bf16,ct:w8a8")), 0);
    assert_eq!(count(&measured), 0);
    assert_eq!(count(&["inspect", source]), 0);
    assert_eq!(count(&["plan", source, "--to", "q8_0"]), 1);
    assert_eq!(count(&to("f16,q8_0")), 1);
}

#[test]
fn the_text_of_calibration_is_none_to_measure_with() {
    let source = fixtures().join("demo-llama");
    let run = quantize(&["eval", text(&source), "--data", "default"]);
    expect(&run, 2, &["calibrated on that text", "wiki.test.raw"]);
    assert!(run.stderr.lines().count() > 2, "{}", run.stderr);
}

#[test]
fn texts_and_contexts() {
    let folder = scratch();
    let source = fixtures().join("demo-llama");
    let data = folder.path().join("text.txt");
    let eval = |words: usize, options: &[&str]| {
        let sentence = "The weights are numbers, and we round them. ";
        std::fs::write(&data, sentence.repeat(words)).expect("written");
        quantize(&[&["eval", text(&source), "--data", text(&data)], options].concat())
    };
    let short = eval(1, &["--chunks", "1"]);
    expect(&short, 3, &["it needs 1024, two chunks of 512", "as llama.cpp asks for"]);
    // Few values have no standard error.
    let few = eval(2, &["--ctx", "8", "--chunks", "1"]).expect_success();
    assert!(!few.stdout.contains("0.000000"), "{}", few.stdout);
    let long = eval(300, &["--ctx", "1200", "--chunks", "1"]);
    expect(&long, 0, &["trained on a context of 1024 tokens, not of 1200"]);
    let long_enough = eval(300, &["--ctx", "1024", "--chunks", "1"]).expect_success();
    assert!(!long_enough.stderr.contains("trained on"), "{}", long_enough.stderr);
}

/// A scaling past the trained context that is not computed.
#[test]
fn unknown_scalings_of_long_contexts() {
    let folder = scratch();
    let source = copy_of("demo-llama", folder.path());
    let data = folder.path().join("text.txt");
    std::fs::write(&data, "The weights are numbers. ".repeat(100)).expect("written");
    let check = |scaling: serde_json::Value, context: &str, is_told: bool| {
        edit_json(&source.join("config.json"), |config| {
            config["max_position_embeddings"] = json!(32);
            config["rope_parameters"] = scaling.clone();
        });
        let eval = ["eval", text(&source), "--data", text(&data), "--chunks", "1", "--ctx"];
        let run = quantize(&[&eval[..], &[context]].concat()).expect_success();
        let told = run.stderr.contains("scaling of the kind \"dynamic\" is not computed");
        assert_eq!(told, is_told, "{scaling}, {context}: {}", run.stderr);
    };
    let dynamic = json!({"rope_type": "dynamic", "factor": 2.0});
    check(dynamic.clone(), "64", true);
    check(dynamic, "32", false);
    check(json!({"rope_type": "linear", "factor": 2.0}), "64", false);
}

/// What a person writes may begin with a hyphen.
#[test]
fn texts_that_begin_with_a_hyphen() {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/llama-tied"), folder.path().join("x.gguf"));
    let convert = ["convert", text(&source), "--to", "q8_0", "-o", text(&output)];
    let named = ["--model-name", "- a", "--tensor-type", "-x=q8_0"];
    quantize(&[&convert[..], &named].concat()).expect_success();
    let shown = quantize(&["inspect", text(&output)]).expect_success().stdout;
    assert!(shown.contains("general.name = - a"), "{shown}");
    let sample = ["eval", text(&output), "--sample", "- a", "-n", "1"];
    quantize(&sample).expect_success();
}

#[test]
fn templates_that_are_none_are_told() {
    let folder = scratch();
    let checkpoint = copy_of("tiny/llama-tied", folder.path());
    let output = folder.path().join("x.gguf");
    let check = |template: serde_json::Value, expected: &str| {
        edit_json(&checkpoint.join("tokenizer_config.json"), |config| {
            config["chat_template"] = template;
        });
        let arguments =
            ["convert", text(&checkpoint), "--to", "q8_0", "-o", text(&output), "--force"];
        expect(&quantize(&arguments), 0, &[expected]);
    };
    check(5.into(), "chat_template: is neither a text nor a list of named ones: left out");
    let list = serde_json::json!([{"name": "default", "template": "{{ x }}"}, {"name": "tool"}]);
    check(list, "chat_template: 1 of 2 entries have no name or no template: left out");
}

#[test]
fn a_tokenizer_that_is_no_utf8() {
    let folder = scratch();
    let checkpoint = copy_of("tiny/llama-tied", folder.path());
    let path = checkpoint.join("tokenizer.json");
    let mut bytes = std::fs::read(&path).expect("read");
    // In a part that nobody asks for.
    let begin = b"{\"note\": \"caf\xe9\",";
    bytes.splice(..1, begin.iter().copied());
    std::fs::write(&path, bytes).expect("written");
    let output = folder.path().join("x.gguf");
    let run = quantize(&["convert", text(&checkpoint), "--to", "q8_0", "-o", text(&output)]);
    expect(&run, 3, &["tokenizer.json", "byte 13 is 0xe9, which is no UTF-8"]);
}

#[test]
fn limits_that_are_not_kept() {
    let folder = scratch();
    let source = fixtures().join("demo-llama");
    let data = folder.path().join("text.txt");
    std::fs::write(&data, "The weights are numbers, and we round them. ".repeat(20)).expect("text");
    let common = ["eval", text(&source), "--data", text(&data), "--ctx", "32", "--chunks", "2"];
    let eval = |options: &[&str]| quantize(&[&common[..], options].concat());
    expect(&eval(&["--max-ppl", "1.5"]), 1, &["FAILED: perplexity ", " > 1.5 (--max-ppl)"]);
    let reference = fixtures().join("demo-llama");
    let beside = ["--reference", text(&reference), "--min-top1"];
    eval(&[&beside[..], &["90%"]].concat()).expect_success();
    expect(&eval(&[&beside[..], &["101%"]].concat()), 2, &["from 0 to 1, or a percentage"]);
}

#[test]
fn token_ids_that_are_none() {
    let folder = scratch();
    let source = fixtures().join("demo-llama");
    let path = folder.path().join("tokens");
    let check = |tokens: &str, expected: &str, offset: u64| {
        std::fs::write(&path, tokens).expect("written");
        let run = quantize(&["eval", text(&source), "--tokens", text(&path), "--json"]);
        expect(&run, 3, &[expected]);
        assert_eq!(run.json()["error"]["offset"], offset);
    };
    check("1 2 -3 4", "-3 is no token id: the vocabulary has 0 to 1151", 4);
    check("1 2 1152", "1152 is no token id", 4);
}

#[test]
fn metadata_is_shown_as_people_read_it() {
    let folder = scratch();
    let path = folder.path().join("x.gguf");
    let metadata: Metadata = [
        ("general.architecture", Value::from("llama")),
        ("general.languages", Value::from(vec!["en".to_owned(), "de".to_owned()])),
        ("some.text", Value::from("it's \"quoted\"\nand broken")),
    ]
    .into_iter()
    .collect();
    write_gguf(&path, &metadata, &[("blk.0.attn_q.weight", &[2, 32], &[0.5; 64])]);
    let run = quantize(&["inspect", text(&path)]);
    let languages = "general.languages = [\"en\", \"de\"]\n";
    expect(&run, 0, &[languages, "some.text = it's \"quoted\"\\nand broken\n"]);
}

/// Who asks for JSON gets mistakes of the command line as JSON, too.
#[test]
fn usage_errors_are_json_where_it_is_asked_for() {
    let check = |arguments: &[&str], told: &str| {
        let run = quantize(arguments);
        let error = &run.json()["error"];
        assert_eq!((run.code, &error["code"]), (2, &2.into()), "{}", run.stderr);
        assert!(error["message"].as_str().expect("a text").contains(told), "{error}");
        assert!(run.stderr.contains(told), "{}", run.stderr);
    };
    check(&["convert", "--json"], "required arguments");
    check(&["verify", "x", "--for", "zz", "--json"], "zz");
    check(&["eval", "x", "--data", "y", "--max-ppl", "nan", "--json"], "a number from 0 on");
}
