//! Perplexity, from the command line.

use std::path::Path;

use qz_tensor::TensorSource;

use crate::support::{
    Safetensors, copy_of, edit_json, fixtures, names, quantize, scratch, tensor, text, write_gguf,
};

/// Text enough for a few chunks of the tiny vocabularies.
fn write_text(folder: &Path, words: usize) -> std::path::PathBuf {
    let path = folder.join("text.txt");
    std::fs::write(&path, "The weights are numbers, and we round them. ".repeat(words))
        .expect("written");
    path
}

/// A tensor that no rule of the architecture names is told of once, and copied.
#[test]
fn tensors_that_nothing_is_computed_with_are_told() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let (plain, more, copied) = (at("plain.gguf"), at("more.gguf"), at("copied.gguf"));
    let source = fixtures().join("tiny/llama-spm");
    quantize(&["convert", text(&source), "--to", "f32", "-o", text(&plain)]).expect_success();
    let file = qz_gguf::GgufFile::open(&plain).expect("opens");
    let numbers = |name: &str| -> Vec<f32> {
        let (_, bytes) = tensor(&plain, name);
        bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let own = file.tensors().iter().map(|info| (info.name.to_string(), info.shape.clone()));
    let mut all: Vec<(String, Vec<u64>, Vec<f32>)> = own
        .map(|(name, shape)| (name.clone(), shape.dimensions().to_vec(), numbers(&name)))
        .collect();
    for name in ["blk.0.attn_extra.weight", "extra.weight"] {
        all.push((name.to_owned(), vec![2, 32], vec![0.5; 64]));
    }
    let all: Vec<(&str, &[u64], &[f32])> =
        all.iter().map(|(name, shape, own)| (&**name, &**shape, &**own)).collect();
    write_gguf(&more, file.metadata(), &all);
    let data = write_text(folder.path(), 40);
    let evaluated = |model: &Path| {
        let arguments = ["eval", text(model), "--data", text(&data), "--ctx", "32"];
        quantize(&[&arguments[..], &["--chunks", "2"]].concat()).expect_success()
    };
    let expected = "2 tensors are none of llama, and nothing is computed with them: \
                    extra.weight, blk.0.attn_extra.weight";
    let [run, known] = [&more, &plain].map(|model| evaluated(model));
    assert_eq!(run.stderr.matches(expected).count(), 1, "{}", run.stderr);
    assert!(!known.stderr.contains("nothing is computed"), "{}", known.stderr);
    assert_eq!(run.stdout.replace("more", "plain"), known.stdout);
    quantize(&["convert", text(&more), "--to", "q8_0", "-o", text(&copied)]).expect_success();
    assert_eq!(tensor(&copied, "extra.weight").1.len(), 2 * 34);
}

#[test]
fn a_trained_model_foretells_better_than_chance() {
    let folder = scratch();
    let data = write_text(folder.path(), 60);
    let model = fixtures().join("demo-llama");
    let run = |arguments: &[&str]| {
        let common = ["eval", text(&model), "--data", text(&data), "--ctx", "64", "--json"];
        quantize(&[&common, arguments].concat())
    };
    let report = run(&["--chunks", "4"]).expect_success().json();
    let perplexity = report["perplexity"]["value"].as_f64().expect("a number");
    // A repeated sentence, by a model with 1152 tokens.
    assert!((1.0..500.0).contains(&perplexity), "{perplexity}");
    assert_eq!(report["tokens"], 4 * 31);
    assert_eq!(report["chunks"], 4);
    assert_eq!(report["schema_version"], 1);

    // The same whatever the threads and the memory.
    for arguments in
        [&["--chunks", "4", "--threads", "1"][..], &["--chunks", "4", "--max-memory", "1K"]]
    {
        assert_eq!(run(arguments).expect_success().json(), report, "{arguments:?}");
    }
    // What the engine rounds costs little, and something.
    let exact = run(&["--chunks", "4", "--activations", "f32"]).expect_success().json();
    let exact = exact["perplexity"]["value"].as_f64().expect("a number");
    assert!(exact != perplexity && (exact / perplexity - 1.0).abs() < 0.05, "{exact}");

    assert_eq!(run(&["--chunks", "4", "--max-ppl", "1.5"]).code, 1);
    assert_eq!(run(&["--chunks", "4", "--max-ppl", "100000"]).code, 0);
    assert_eq!(run(&["--stride", "16", "--chunks", "4"]).expect_success().json()["tokens"], 64);
    for kv_type in ["f32", "q8_0", "q4_0"] {
        run(&["--chunks", "2", "--kv-type", kv_type]).expect_success();
    }
}

#[test]
fn every_container_and_type_is_evaluated() {
    let folder = scratch();
    let data = write_text(folder.path(), 8);
    for name in ["llama-tied", "llama-spm", "mistral", "mixtral", "qwen2", "qwen3", "sharded"] {
        let source = fixtures().join("tiny").join(name);
        let file = folder.path().join("model.gguf");
        let convert = ["convert", text(&source), "--to", "f32", "-o", text(&file), "--force"];
        quantize(&convert).expect_success();
        let perplexity = |model: &Path| {
            let arguments = ["eval", text(model), "--data", text(&data), "--ctx", "24", "--json"];
            let exact = ["--activations", "f32"];
            let report = quantize(&[&arguments[..], &exact].concat()).expect_success().json();
            report["perplexity"]["value"].as_f64().expect("a number")
        };
        // Sums over the same numbers in the same order.
        assert_eq!(perplexity(&source), perplexity(&file), "{name}");
    }
}

fn fails(arguments: &[&str], code: i32, rule: &str, tensor: Option<&str>) {
    let run = quantize(&[arguments, &["--json"]].concat());
    assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
    let error = &run.json()["error"];
    assert_eq!(error["rule"], rule, "{}", run.stderr);
    assert_eq!(error["tensor"].as_str(), tensor);
}

#[test]
fn a_text_too_short() {
    let folder = scratch();
    let data = write_text(folder.path(), 1);
    let model = fixtures().join("demo-llama");
    let arguments = ["eval", text(&model), "--data", text(&data)];
    fails(&arguments, 3, "text-too-short", None);
    fails(&[&arguments[..], &["--ctx", "2"]].concat(), 3, "context-too-short", None);
    std::fs::write(&data, b"caf\xe9").expect("written");
    fails(&arguments, 3, "not-utf-8", None);
}

#[test]
fn token_ids_that_are_none() {
    let folder = scratch();
    let model = fixtures().join("demo-llama");
    let ids = folder.path().join("ids");
    let arguments = ["eval", text(&model), "--tokens", text(&ids), "--ctx", "4"];
    std::fs::write(&ids, "[1, 2, 3, 4, 5, 6, 7, 99999999999]").expect("written");
    fails(&arguments, 3, "token-id", None);
    std::fs::write(&ids, "[1, 2, 3, 4, 5, 6, 7, 1152]").expect("written");
    fails(&arguments, 3, "token-id", None);
    std::fs::write(&ids, "1 2 3 4 5 6 7 8").expect("written");
    quantize(&arguments).expect_success();
}

#[test]
fn a_number_that_is_none_is_traced_to_its_tensor() {
    let folder = scratch();
    let data = write_text(folder.path(), 8);
    let model = copy_of("tiny/llama-tied", folder.path());
    let weights = model.join("model.safetensors");
    let mut file = Safetensors::read(&weights);
    let name = "model.layers.0.mlp.up_proj.weight";
    let start = file.start(name);
    file.data[start..start + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    file.write(&weights);
    let arguments = ["eval", text(&model), "--data", text(&data), "--ctx", "24"];
    fails(&arguments, 6, "non-finite-activation", Some(name));
}

#[test]
fn a_shape_that_contradicts_the_metadata() {
    let folder = scratch();
    let data = write_text(folder.path(), 8);
    let model = copy_of("tiny/qwen2", folder.path());
    edit_json(&model.join("config.json"), |config| config["num_hidden_layers"] = 2.into());
    let run = quantize(&["eval", text(&model), "--data", text(&data), "--ctx", "24"]);
    assert_eq!(run.code, 3, "{}", run.stderr);
}

/// Figures of a reference model against a coarser one, three ways.
#[test]
fn divergence_from_a_model_and_from_files_of_it() {
    let folder = scratch();
    let data = write_text(folder.path(), 60);
    let reference = fixtures().join("demo-llama");
    let model = folder.path().join("q2_k.gguf");
    quantize(&["convert", text(&reference), "--to", "q4_0", "-o", text(&model)]).expect_success();
    let common = ["--ctx", "64", "--chunks", "9", "--data", text(&data)];

    let [logits, leading] = ["logits", "leading"].map(|name| folder.path().join(name));
    let save = |option: &str, path: &Path| {
        quantize(&[&["eval", text(&reference), option, text(path)][..], &common].concat())
    };
    save("--save-logits", &logits).expect_success();
    save("--save-leading", &leading).expect_success();
    assert_eq!(save("--save-logits", &logits).code, 5, "there is a file already");
    let size = |path: &Path| std::fs::metadata(path).expect("written").len();
    assert!(size(&leading) < size(&logits) / 10);

    let run = |arguments: &[&str]| {
        let run = quantize(&[&["eval", text(&model), "--json"][..], arguments].concat());
        run.expect_success().json()
    };
    let beside = run(&[&common[..], &["--reference", text(&reference)]].concat());
    let from_logits = run(&["--reference-file", text(&logits)]);
    let from_leading = run(&["--reference-file", text(&leading)]);
    let kld = |report: &serde_json::Value| report["kld"]["mean"]["value"].as_f64().expect("a mean");
    assert!((0.001..1.0).contains(&kld(&beside)), "{}", kld(&beside));
    assert!((kld(&from_logits) / kld(&beside) - 1.0).abs() < 0.05, "{}", kld(&from_logits));
    assert!(kld(&from_leading) <= kld(&beside));
    let upper = from_leading["kld_upper"]["mean"]["value"].as_f64().expect("an upper bound");
    assert!(upper >= kld(&beside));
    assert!(beside.get("kld_upper").is_none());
    for report in [&from_logits, &from_leading] {
        assert_eq!(report["tokens"], 9 * 31);
        assert_eq!(report["same_top"], beside["same_top"]);
        // Files are compared in the reference program's f32.
        let perplexity = |report: &serde_json::Value| report["perplexity"]["value"].as_f64();
        let ratio = perplexity(report).zip(perplexity(&beside)).map(|(a, b)| a / b);
        assert!(ratio.is_some_and(|ratio| (ratio - 1.0).abs() < 1e-6), "{ratio:?}");
    }
    assert!(beside["kld"]["mean"]["interval"]["lower"].as_f64() < Some(kld(&beside)));

    let shown =
        [&["eval", text(&model), "--markdown", "--reference", text(&reference)][..], &common];
    let shown = quantize(&shown.concat()).expect_success().stdout;
    // What llama-perplexity --kl-divergence prints.
    for row in ["ratio", "KL divergence: mean", "99.9 %", "median", "0.1 %", "top-1 agreement, %"] {
        assert!(shown.contains(&format!("| {row} |")), "{row} is not in\n{shown}");
    }

    let passes = |threshold: &[&str]| {
        let reference = ["--reference", text(&reference)];
        let arguments = [&["eval", text(&model)][..], &common, &reference, threshold].concat();
        quantize(&arguments).code
    };
    assert_eq!(passes(&["--max-kld", "10", "--min-top1", "0.01"]), 0);
    assert_eq!(passes(&["--max-kld", "0.0001"]), 1);
    assert_eq!(passes(&["--min-top1", "1"]), 1);
}

#[test]
fn models_beside_each_other() {
    let folder = scratch();
    let data = write_text(folder.path(), 60);
    let reference = fixtures().join("demo-llama");
    let output = folder.path().join("out");
    let convert = ["convert", text(&reference), "--to", "q8_0,q4_0", "-o", text(&output)];
    quantize(&convert).expect_success();
    let models = names(&output);
    let paths: Vec<_> = models.iter().map(|name| output.join(name)).collect();
    let page = folder.path().join("page.html");
    let mut arguments = vec!["compare", text(&reference)];
    arguments.extend(paths.iter().map(|path| text(path)));
    arguments.extend(["--data", text(&data), "--ctx", "64", "--chunks", "9"]);
    let report = quantize(&[&arguments[..], &["--json", "-o", text(&page)]].concat());
    let report = report.expect_success().json();
    assert_eq!(report["reference"]["kld"]["mean"]["value"], 0.0);
    assert_eq!(report["reference"]["same_top"]["value"], 1.0);
    let by_type = |part: &str| {
        let models = report["models"].as_array().expect("models");
        let is = |model: &&serde_json::Value| {
            model["path"].as_str().is_some_and(|path| path.to_lowercase().contains(part))
        };
        models.iter().find(is).expect("the model").clone()
    };
    let (fine, coarse) = (by_type("q8_0"), by_type("q4_0"));
    let kld = |model: &serde_json::Value| model["kld"]["mean"]["value"].as_f64().expect("a mean");
    assert!(kld(&fine) < kld(&coarse));
    assert!(fine["bytes"].as_u64() > coarse["bytes"].as_u64());
    assert_eq!(fine["on_pareto_front"], true);
    assert_eq!(coarse["on_pareto_front"], true);
    assert!(report["pairs"][0]["p_value"].as_f64().expect("enough chunks") < 0.05);
    let html = std::fs::read_to_string(&page).expect("a page");
    assert!(html.contains("<svg") && html.contains(&models[0]) && !html.contains("http"));
    // Names given, a table that fits a terminal, and the difference to the best.
    let named = format!("mine={}", paths[0].display());
    let mut arguments_with_names = arguments.clone();
    arguments_with_names[2] = &named;
    let shown = quantize(&arguments_with_names).expect_success().stdout;
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    for expected in ["\nmine ", " − demo-llama-Q8_0.gguf: KLD +", "p ≤ 0.002"] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    let few = [&arguments[..arguments.len() - 1], &["2"]].concat();
    let few = quantize(&few).expect_success().stdout;
    assert!(few.contains("no differences between models: their bootstrap needs 8"), "{few}");
    let markdown = quantize(&[&arguments[..], &["--markdown"]].concat());
    assert!(markdown.expect_success().stdout.starts_with("| model | size |"));
}

#[test]
fn models_that_do_not_go_together() {
    let folder = scratch();
    let data = write_text(folder.path(), 60);
    let model = fixtures().join("demo-llama");
    let other = fixtures().join("tiny/llama-spm");
    let common = ["--data", text(&data), "--ctx", "24"];
    let reference = ["eval", text(&model), "--reference", text(&other)];
    fails(&[&reference[..], &common].concat(), 3, "vocabulary-mismatch", None);
    let base = folder.path().join("base");
    let save = ["eval", text(&other), "--save-logits", text(&base)];
    quantize(&[&save[..], &common].concat()).expect_success();
    let file = ["eval", text(&model), "--reference-file", text(&base)];
    fails(&file, 3, "vocabulary-mismatch", None);
    let bytes = std::fs::read(&base).expect("read");
    std::fs::write(&base, &bytes[..bytes.len() - 1]).expect("written");
    fails(&file, 3, "logits-length", None);
    std::fs::write(&base, b"nonsense").expect("written");
    fails(&file, 3, "not-logits", None);
}

#[test]
fn a_model_writes() {
    let folder = scratch();
    let model = fixtures().join("demo-llama");
    let run = |arguments: &[&str]| {
        let common = ["eval", text(&model), "--sample", "It was the", "-n", "24"];
        quantize(&[&common, arguments].concat()).expect_success()
    };
    let greedy = run(&["--json"]).json();
    let written = greedy["text"].as_str().expect("a text");
    assert_eq!(greedy["tokens"].as_array().map(Vec::len), Some(24));
    assert_eq!(greedy["ended"], "length");
    assert_eq!(run(&[]).stdout, format!("It was the{written}\n"));
    assert!(written.split_whitespace().count() > 8, "words, from a model that has read: {written}");

    let drawn = |seed: &str, threads: &str| {
        let options = ["--temperature", "0.9", "--top-k", "40", "--top-p", "0.95", "--min-p"];
        let more = ["0.05", "--json", "--seed", seed, "--threads", threads];
        run(&[&options[..], &more].concat()).json()
    };
    assert_eq!(drawn("7", "1"), drawn("7", "3"));
    assert_ne!(drawn("7", "1")["text"], drawn("8", "1")["text"]);
    assert_ne!(drawn("7", "1")["text"], written);
    assert_eq!(run(&["--temperature", "0.9", "--top-k", "1", "--json"]).json(), greedy);

    // The same from GGUF.
    let file = folder.path().join("model.gguf");
    quantize(&["convert", text(&model), "--to", "bf16", "-o", text(&file)]).expect_success();
    let command = ["eval", text(&file), "--sample", "It was the", "-n", "24", "--json"];
    assert_eq!(quantize(&command).expect_success().json()["text"], written);
}

/// What `--sample` does at a model's limits.
#[test]
fn a_sample_ends() {
    let folder = scratch();
    let model = copy_of("demo-llama", folder.path());
    let sample = |prompt: &str, count: &str| {
        let run = ["eval", text(&model), "--sample", prompt, "-n", count, "--json"];
        quantize(&run).expect_success().json()
    };
    let first = sample("It was the", "3");
    let tokens: Vec<u64> =
        first["tokens"].as_array().expect("tokens").iter().filter_map(|t| t.as_u64()).collect();
    // A model that sees no more than the prompt and two tokens writes three.
    let prompt = first["prompt_tokens"].as_array().expect("tokens").len();
    edit_json(&model.join("config.json"), |config| {
        config["max_position_embeddings"] = (prompt + 2).into();
    });
    let short = sample("It was the", "9");
    assert_eq!((&short["ended"], &short["tokens"]), (&"context".into(), &first["tokens"]));
    let long = ["eval", text(&model), "--sample", &"It was the ".repeat(9)];
    fails(&long, 3, "prompt-length", None);
    // What it would write first now ends texts.
    let file = folder.path().join("model.gguf");
    let end = format!("tokenizer.ggml.eos_token_id=int:{}", tokens[0]);
    let convert = ["convert", text(&model), "--to", "bf16", "-o", text(&file)];
    quantize(&[&convert[..], &["--override-kv", &end]].concat()).expect_success();
    let command = ["eval", text(&file), "--sample", "It was the", "-n", "9", "--json"];
    let ended = quantize(&command).expect_success().json();
    assert_eq!((&ended["ended"], ended["text"].as_str()), (&"end".into(), Some("")));

    let usage = |arguments: &[&str]| {
        quantize(&[&["eval", text(&model), "--sample", "It"][..], arguments].concat()).code
    };
    assert_eq!(usage(&["--top-k", "3"]), 2);
    assert_eq!(usage(&["--temperature", "-1"]), 2);
    assert_eq!(usage(&["--temperature", "1", "--top-p", "1.5"]), 2);
    assert_eq!(usage(&["--chunks", "3"]), 2);
}

/// llama-perplexity's count of right answers (fixtures/make/golden_tasks.py).
#[test]
fn multiple_choice_tasks() {
    let folder = scratch();
    let model = fixtures().join("demo-llama");
    let tasks = fixtures().join("tasks");
    let run = |file: &Path, arguments: &[&str]| {
        let exact = ["--activations", "f32", "--json"];
        let common = ["eval", text(&model), "--task", text(file)];
        quantize(&[&common[..], &exact, arguments].concat()).expect_success().json()
    };
    let golden = std::fs::read(tasks.join("golden.json")).expect("read");
    let golden: serde_json::Value = serde_json::from_slice(&golden).expect("JSON");
    let golden = golden["right_by_likelihood_per_token_after_each_task"].as_array();
    let golden = golden.expect("a list");
    let [lines, binary] = ["sentences.jsonl", "sentences.bin"].map(|name| tasks.join(name));
    for limit in [8, 17, golden.len()] {
        let report = run(&binary, &["--task-limit", &limit.to_string()]);
        let share = report["normalized_accuracy"]["value"].as_f64().expect("a share");
        assert_eq!(Some((share * limit as f64).round()), golden[limit - 1].as_f64(), "{limit}");
        assert_eq!((&report["tasks"], &report["chance"]), (&limit.into(), &0.25.into()));
    }

    let some = run(&lines, &["--task-limit", "5"]);
    for arguments in [&["--threads", "1"][..], &["--max-memory", "10M"]] {
        let same = run(&lines, &[&["--task-limit", "5"][..], arguments].concat());
        assert_eq!(same, some, "{arguments:?}");
    }
    assert_eq!(run(&lines, &["--few-shot", "2"])["tasks"], 30);
    let prefix = folder.path().join("prefix.txt");
    std::fs::write(&prefix, "Of the Union:\n\n").expect("written");
    let after = ["--few-shot", text(&prefix), "--task-limit", "5"];
    assert_eq!(run(&lines, &after)["tasks"], 5);

    // The blank's options are given, what follows is scored.
    let winogrande = folder.path().join("winogrande.jsonl");
    let line =
        r#"{"sentence":"The _ of the people was","option1":"voice","option2":"x","answer":"1"}"#;
    std::fs::write(&winogrande, line).expect("written");
    assert_eq!(run(&winogrande, &[])["chance"], 0.5);

    let bad = |file: &Path, more: &[&str], rule: &str| {
        fails(&[&["eval", text(&model), "--task", text(file)], more].concat(), 3, rule, None);
    };
    bad(&lines, &["--few-shot", "32"], "few-tasks");
    let long = folder.path().join("long.txt");
    std::fs::write(&long, "of the people ".repeat(50_000)).expect("written");
    bad(&lines, &["--few-shot", text(&long)], "task-too-long");
    bad(&model.join("config.json"), &[], "tasks-json");
    bad(&model.join("model.safetensors"), &[], "tasks-truncated");
    let usage = quantize(&["eval", text(&model), "--task", text(&lines), "--ctx", "64"]);
    assert_eq!(usage.code, 2);
    let shown = quantize(&["eval", text(&model), "--task", text(&lines), "--markdown"]);
    assert!(shown.expect_success().stdout.starts_with("| accuracy, % | value |"));
}

#[test]
fn an_encoder_beside_its_reference() {
    let folder = scratch();
    let data = write_text(folder.path(), 60);
    let reference = fixtures().join("tiny/bert");
    let model = folder.path().join("q4.gguf");
    let convert = ["convert", text(&reference), "--to", "q4_0", "-o", text(&model)];
    quantize(&convert).expect_success();
    let common = ["--data", text(&data), "--ctx", "32", "--chunks", "8"];
    let run = |model: &Path, arguments: &[&str]| {
        quantize(&[&["eval", text(model)][..], &common, arguments].concat())
    };
    let beside = ["--reference", text(&reference), "--json"];
    let mean = |report: &serde_json::Value, figure: &str| {
        report[figure]["mean"]["value"].as_f64().expect("a number")
    };

    let same = run(&reference, &beside).expect_success().json();
    assert_eq!((&same["tokens"], &same["chunks"]), (&256.into(), &8.into()));
    assert_eq!((&same["pooling"], &same["same_nearest"]["value"]), (&"mean".into(), &1.0.into()));
    assert!(
        (mean(&same, "cosine") - 1.0).abs() < 1e-9
            && (mean(&same, "token_cosine") - 1.0).abs() < 1e-9
    );

    let report = run(&model, &beside).expect_success().json();
    let (cosine, of_tokens) = (mean(&report, "cosine"), mean(&report, "token_cosine"));
    let is_near = |cosine: f64| 0.9 < cosine && cosine < 0.99999;
    assert!(is_near(cosine) && is_near(of_tokens), "{of_tokens} {cosine}");
    let threads = [&beside[..], &["--threads", "1", "--max-memory", "1K"]].concat();
    assert_eq!(run(&model, &threads).expect_success().json(), report);

    let shown = run(&model, &["--reference", text(&reference), "--markdown"]).expect_success();
    for row in ["cosine of texts: mean", "cosine of tokens: mean", "same nearest text, %"] {
        assert!(shown.stdout.contains(&format!("| {row} |")), "{row} is not in\n{}", shown.stdout);
    }
    assert!(shown.stdout.contains("256 tokens compared in 8 chunks of 32"), "{}", shown.stdout);

    let check = |arguments: &[&str], code: i32, expected: &str| {
        let run = run(&model, arguments);
        assert_eq!(run.code, code, "{}", run.stderr);
        assert!((run.stderr + &run.stdout).contains(expected), "{arguments:?}");
    };
    let reference = text(&reference);
    check(&["--reference", reference, "--min-cosine", "0.5"], 0, "");
    check(&["--reference", reference, "--min-cosine", "0.99999"], 1, "< 0.99999 (--min-cosine)");
    check(
        &[],
        2,
        "an encoder predicts no tokens, so there are no figures without a reference model",
    );
    let limit = ["--reference", reference, "--max-kld", "1"];
    check(&limit, 2, "an encoder predicts no tokens, so there are no limits of the KL divergence");
    let other = fixtures().join("demo-llama");
    check(&["--reference", text(&other)], 3, "");
    // A limit that nothing is measured for would always be held.
    let decoder = fixtures().join("demo-llama");
    let limit = ["--reference", text(&decoder), "--min-cosine", "0.5"];
    let run = quantize(&[&["eval", text(&decoder)][..], &common, &limit].concat());
    assert!(run.code == 2 && run.stderr.contains("no cosine to limit"), "{}", run.stderr);
    let run = quantize(&["eval", text(&model), "--sample", "text"]);
    assert!(run.code == 3 && run.stderr.contains("q4.gguf: an encoder predicts no tokens: "));
}
