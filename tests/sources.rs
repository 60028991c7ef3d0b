//! Where a model is found: weights under any name, folders of the hub's cache, names
//! that wrappers left, files as other programs write them. What is read is the same model.

use std::fs;
use std::path::Path;

use qz_gguf::GgufFile;
use qz_tensor::TensorSource;
use serde_json::json;

use crate::bad_input::{BAD_INPUT, WEIGHTS, bend_config, bend_weights, check};
use crate::support::{Run, command, copy_of, finish, fixtures, names, quantize, scratch, text};

const LLAMA: &str = "tiny/llama-tied";
const SHARDED: &str = "tiny/sharded";
const INDEX: &str = "model.safetensors.index.json";

/// Converts `source` to a file called like a model of no name.
fn convert(source: &Path, output: &Path) -> Run {
    let (source, output) = (text(source), text(output));
    let named = ["--model-name", "one", "--force", "-o", output];
    quantize(&[&["convert", source, "--to", "q8_0"], &named[..]].concat())
}

/// A copy of `fixture` that was bent gives the very file that the fixture gives, with
/// what is expected on standard error. `named` is what of the copy is converted.
#[track_caller]
fn same(fixture: &str, bend: impl FnOnce(&Path), named: &[&str], told: &str) {
    let folder = scratch();
    let expected = folder.path().join("expected.gguf");
    convert(&fixtures().join(fixture), &expected).expect_success();
    let expected = fs::read(expected).expect("read");
    let checkpoint = copy_of(fixture, folder.path());
    bend(&checkpoint);
    for named in named {
        let output = folder.path().join("bent.gguf");
        let run = convert(&checkpoint.join(named), &output).expect_success();
        assert!(run.stderr.contains(told), "{told:?} is not in: {}", run.stderr);
        assert!(fs::read(output).expect("read") == expected, "{named}: another file");
    }
}

fn rename(folder: &Path, from: &str, to: &str) {
    fs::rename(folder.join(from), folder.join(to)).expect("renamed");
}

fn rename_tensors(folder: &Path, new: impl Fn(&str) -> String) {
    bend_weights(folder, |file| {
        let header = file.header.as_object_mut().expect("an object");
        *header = std::mem::take(header)
            .into_iter()
            .map(|(name, value)| (if name.starts_with("__") { name } else { new(&name) }, value))
            .collect();
    });
}

#[test]
fn weights_under_other_names_are_found() {
    let first = "model-00001-of-00003.safetensors";
    same(LLAMA, |at| rename(at, WEIGHTS, "own.safetensors"), &["", "own.safetensors"], "");
    same(LLAMA, |_| {}, &["", WEIGHTS], "");
    same(SHARDED, |_| {}, &["", INDEX, first], "");
    same(SHARDED, |at| fs::remove_file(at.join(INDEX)).expect("removed"), &["", first], "");
    let second_set = |at: &Path| {
        fs::copy(fixtures().join(LLAMA).join(WEIGHTS), at.join(WEIGHTS)).expect("copied");
    };
    same(SHARDED, second_set, &[""], "two sets of weights");
    let same_set = |at: &Path| {
        fs::copy(fixtures().join(SHARDED).join(first), at.join("extra.safetensors"))
            .expect("copied");
    };
    same(SHARDED, same_set, &["", INDEX, first], "");
    check(
        LLAMA,
        |at| {
            rename(at, WEIGHTS, "b.safetensors");
            fs::copy(at.join("b.safetensors"), at.join("a.safetensors")).expect("copied");
        },
        BAD_INPUT,
        &["several sets of weights", "a.safetensors, b.safetensors", "give the path"],
    );
    check(
        SHARDED,
        |at| {
            fs::remove_file(at.join(INDEX))
                .and_then(|()| fs::remove_file(at.join(first)))
                .expect("removed")
        },
        BAD_INPUT,
        &[first],
    );
}

#[test]
fn names_of_wrappers_are_read_through() {
    let told = "of what the model was wrapped in";
    for prefix in
        ["base_model.model.", "_orig_mod.", "module.", "_fsdp_wrapped_module.", "module._orig_mod."]
    {
        same(LLAMA, |at| rename_tensors(at, |name| format!("{prefix}{name}")), &[""], told);
    }
    let layers = |name: &str| name.replace("layers.0.", "layers.0._checkpoint_wrapped_module.");
    same(LLAMA, |at| rename_tensors(at, layers), &[""], told);
    let adapted = |name: &str| name.replace("q_proj.weight", "q_proj.base_layer.weight");
    check(LLAMA, |at| rename_tensors(at, adapted), BAD_INPUT, &["not merged", "merge_and_unload"]);
}

/// The text part of a larger model, one role of a training, a module that was put around twice.
#[test]
fn a_model_that_lies_deeper_is_read_through() {
    let check = |fixture: &str, prefix: &str, decoder: &str| {
        let deeper = |name: &str| match name.strip_prefix("model.") {
            Some(rest) => format!("{decoder}{rest}"),
            None => format!("{prefix}{name}"),
        };
        let told = format!("lie under `{decoder}`; they are read as those of `model.`");
        same(fixture, |at| rename_tensors(at, deeper), &[""], &told);
    };
    const MISTRAL: &str = "tiny/mistral";
    check(MISTRAL, "", "model.language_model.");
    check(MISTRAL, "model.", "model.language_model.");
    check(MISTRAL, "language_model.", "language_model.model.");
    check(MISTRAL, "actor.", "actor.model.");
    check(MISTRAL, "policy.model.", "policy.model.model.");
    check(MISTRAL, "model.", "model.model.");
    check(LLAMA, "", "model.text_model.");

    let wrapped = |name: &str| format!("module.actor._orig_mod.{name}");
    let told = "lie under `actor.model.`; they are read as those of `model.`";
    same(LLAMA, |at| rename_tensors(at, wrapped), &[""], told);
}

#[test]
fn a_model_beside_another_is_named_and_read_alone() {
    let folder = scratch();
    let expected = folder.path().join("expected.gguf");
    convert(&fixtures().join(LLAMA), &expected).expect_success();
    let check = |decoder: &str, others: &[&str], refusal: &str, prefix: &str, told: &str| {
        let checkpoint = copy_of(LLAMA, folder.path());
        rename_tensors(&checkpoint, |name| name.replacen("model.", decoder, 1));
        bend_weights(&checkpoint, |file| {
            for name in others {
                file.add(name, "F32", &[4], &[0; 16]);
            }
        });
        let output = folder.path().join("bent.gguf");
        let run = convert(&checkpoint, &output);
        assert_eq!(run.code, BAD_INPUT, "{}", run.stderr);
        assert!(run.stderr.contains(refusal), "{refusal:?} is not in: {}", run.stderr);
        assert!(run.stderr.len() < 600, "{}", run.stderr);
        let (checkpoint, output) = (text(&checkpoint).to_owned(), text(&output).to_owned());
        let strip = ["--strip-prefix", prefix, "--model-name", "one"];
        let arguments = ["convert", &checkpoint, "--to", "q8_0", "-o", &output, "--force"];
        let run = quantize(&[&arguments[..], &strip].concat()).expect_success();
        assert!(run.stderr.contains(told), "{told:?} is not in: {}", run.stderr);
        assert!(fs::read(&output).expect("read") == fs::read(&expected).expect("read"));
        let commands = [&["inspect"][..], &["plan", "--to", "q8_0"], &["targets"], &["verify"]];
        for command in commands {
            quantize(&[command, &[&checkpoint], &strip[..2]].concat()).expect_success();
        }
        let verified = ["verify", &output, "--source", &checkpoint];
        quantize(&[&verified[..], &strip[..2]].concat()).expect_success();
        fs::remove_dir_all(&checkpoint).expect("removed");
    };
    check(
        "model.language_model.",
        &["model.visual.patch.weight"],
        "lie under `model.language_model.`, beside others (1), such as model.visual.patch.weight; \
         --strip-prefix model.language_model. reads",
        "model.language_model.",
        "model.visual.patch.weight: is not under `model.language_model.`, and left out",
    );
    check(
        "actor.model.",
        &["critic.model.embed_tokens.weight", "critic.v.weight"],
        "2 models, under `actor.`, `critic.`; --strip-prefix actor. reads the first",
        "actor",
        "is not under `actor`, and left out, as 1 more",
    );
}

#[test]
fn missing_tensors_are_counted() {
    let other = |name: &str| name.replace("model.layers", "model.blocks");
    let run = {
        let folder = scratch();
        let checkpoint = copy_of("tiny/llama-spm", folder.path());
        rename_tensors(&checkpoint, other);
        convert(&checkpoint, &folder.path().join("out.gguf"))
    };
    assert_eq!(run.code, BAD_INPUT);
    assert_eq!(run.stderr.matches("is missing").count(), 3, "{}", run.stderr);
    assert!(run.stderr.contains("and 30 more"), "{}", run.stderr);
}

#[test]
fn a_tied_model_may_store_its_output_alone() {
    let output = |name: &str| name.replace("model.embed_tokens.weight", "lm_head.weight");
    same(LLAMA, |at| rename_tensors(at, output), &[""], "only lm_head.weight is stored");
}

#[test]
fn json_is_read_as_python_writes_it() {
    let marked = |name: &'static str| {
        move |at: &Path| {
            let bytes = fs::read(at.join(name)).expect("read");
            fs::write(at.join(name), [b"\xef\xbb\xbf", &bytes[..]].concat()).expect("written");
        }
    };
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    {
        same(LLAMA, marked(name), &[""], "");
    }
    same(SHARDED, marked(INDEX), &[""], "");
    let infinite = |at: &Path| {
        let path = at.join("config.json");
        let config = fs::read_to_string(&path).expect("read");
        let config = config.replacen('{', "{\"time_step_limit\": [0.0, Infinity, NaN],", 1);
        fs::write(path, config).expect("written");
    };
    same(LLAMA, infinite, &[""], "not known are passed over: time_step_limit");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for name in ["config.json", "tokenizer.json", WEIGHTS] {
        let write = |at: &Path| fs::write(at.join(name), pointer).expect("written");
        check(LLAMA, write, BAD_INPUT, &[name, "Git LFS pointer"]);
    }
}

#[test]
fn a_computation_that_is_not_ours_is_refused() {
    check(
        LLAMA,
        |at| bend_config(at, "hidden_act", json!("relu")),
        BAD_INPUT,
        &["config.json: hidden_act: is \"relu\"", "only silu is supported"],
    );
    let folder = scratch();
    let checkpoint = copy_of(LLAMA, folder.path());
    bend_config(&checkpoint, "hidden_act", json!("gelu"));
    let run = quantize(&["eval", text(&checkpoint), "--sample", "a", "-n", "1"]);
    assert_eq!(run.code, BAD_INPUT, "{}", run.stderr);
    assert!(run.stderr.contains("hidden_act"), "{}", run.stderr);
}

#[test]
fn a_file_whose_graph_is_another_is_not_evaluated() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    convert(&fixtures().join(LLAMA), &at("plain.gguf")).expect_success();
    let check = |key: &str, code: i32| {
        let (from, to) = (at("plain.gguf"), at("odd.gguf"));
        let set = ["--override-kv", key, "--force", "-o", text(&to)];
        quantize(&[&["convert", text(&from), "--to", "copy"], &set[..]].concat()).expect_success();
        let run = quantize(&["eval", text(&to), "--sample", "a", "-n", "1"]);
        assert_eq!(run.code, code, "{key}: {}", run.stderr);
        let named = key.split('=').next().expect("a key");
        assert!(code == 0 || run.stderr.contains(named), "{key}: {}", run.stderr);
    };
    check("llama.logit_scale=float:2", BAD_INPUT);
    check("llama.attn_logit_softcapping=float:30", BAD_INPUT);
    check("llama.attention.scale=float:0.5", BAD_INPUT);
    check("llama.attention.causal=bool:false", BAD_INPUT);
    check("llama.logit_scale=float:1", 0);
    check("llama.expert_shared_count=int:0", 0);
}

#[test]
fn an_adapter_is_called_one() {
    let folder = scratch();
    let adapter = folder.path().join("adapter");
    fs::create_dir(&adapter).expect("created");
    let config = r#"{"peft_type": "LORA", "base_model_name_or_path": "example/base"}"#;
    fs::write(adapter.join("adapter_config.json"), config).expect("written");
    for weights in ["adapter_model.safetensors", "adapter_model.bin"] {
        fs::write(adapter.join(weights), "x").expect("written");
        for path in [adapter.clone(), adapter.join(weights)] {
            let run = convert(&path, &folder.path().join("out.gguf"));
            assert_eq!(run.code, BAD_INPUT);
            let expected = "a LoRA adapter of example/base, not a model: merge it";
            assert!(run.stderr.contains(expected), "{}", run.stderr);
        }
        fs::remove_file(adapter.join(weights)).expect("removed");
    }
}

#[test]
fn gguf_files_are_read_as_llama_cpp_reads_them() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    convert(&fixtures().join(LLAMA), &at("plain.gguf")).expect_success();
    let plain = fs::read(at("plain.gguf")).expect("read");
    let again = |name: &str, bytes: &[u8]| {
        fs::write(at(name), bytes).expect("written");
        convert(&at(name), &at("again.gguf"))
    };
    let run = again("longer.gguf", &[&plain[..], &[0; 1000]].concat()).expect_success();
    assert!(run.stderr.contains("1000 bytes behind the last tensor"), "{}", run.stderr);
    assert!(fs::read(at("again.gguf")).expect("read") == plain);

    // "one" becomes three bytes that are no UTF-8; a token, too.
    let mut odd = plain.clone();
    let place =
        |wanted: &[u8]| plain.windows(wanted.len()).position(|w| w == wanted).expect("there");
    odd[place(b"general.name") + 12 + 4 + 8] = 0xe9;
    odd[place(b"tokenizer.ggml.tokens") + 21 + 4 + 4 + 8 + 8] = 0xff;
    let run = again("odd.gguf", &odd).expect_success();
    assert!(
        run.stderr.contains(r#"general.name: not UTF-8, kept byte for byte: "\xe9ne""#),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("tokenizer.ggml.tokens: not UTF-8"), "{}", run.stderr);
    let copy = fs::read(at("again.gguf")).expect("read");
    assert!(copy.windows(3).any(|bytes| bytes == b"\xe9ne"));
    let metadata = |path: &Path| GgufFile::open(path).expect("opens").metadata().clone();
    let key = "tokenizer.ggml.tokens";
    assert_eq!(metadata(&at("again.gguf")).get(key), metadata(&at("odd.gguf")).get(key));
    let shown = quantize(&["inspect", text(&at("odd.gguf"))]).expect_success();
    assert!(shown.stdout.contains(r"\xe9ne"), "{}", shown.stdout);
    quantize(&["eval", text(&at("odd.gguf")), "--sample", "a", "-n", "1"]).expect_success();

    let run = again("joined.gguf", &plain.repeat(2));
    assert_eq!(run.code, BAD_INPUT);
    assert!(run.stderr.contains("a second GGUF file begins here"), "{}", run.stderr);
}

/// A cache of the hub with one model, whose files are links to blobs.
fn cache(folder: &Path) -> std::path::PathBuf {
    let cache = folder.join("hub");
    let model = cache.join("models--example--Some-Model-1B");
    let hash = "93efa2f0".repeat(5);
    let snapshot = model.join("snapshots").join(&hash);
    for made in [&snapshot, &model.join("refs"), &model.join("blobs")] {
        fs::create_dir_all(made).expect("made");
    }
    fs::write(model.join("refs/main"), &hash).expect("written");
    for (number, name) in names(&fixtures().join(LLAMA)).iter().enumerate() {
        let blob = model.join("blobs").join(number.to_string());
        fs::copy(fixtures().join(LLAMA).join(name), &blob).expect("copied");
        #[cfg(unix)]
        std::os::unix::fs::symlink(format!("../../blobs/{number}"), snapshot.join(name))
            .expect("linked");
        #[cfg(not(unix))]
        fs::copy(&blob, snapshot.join(name)).expect("copied");
    }
    cache
}

#[test]
fn models_of_the_hub_are_taken_from_its_cache() {
    let folder = scratch();
    let cache = cache(folder.path());
    let model = cache.join("models--example--Some-Model-1B");
    let run = |source: &str, key: &str, value: &Path| {
        let output = folder.path().join("out");
        let arguments = ["convert", source, "--to", "q8_0,q4_0", "-o", text(&output), "--force"];
        let mut command = command(&arguments);
        for key in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "TRANSFORMERS_CACHE"] {
            command.env_remove(key);
        }
        command.env("HOME", folder.path().join("home")).env_remove("XDG_CACHE_HOME");
        finish(command.env(key, value).output().expect("the binary runs"))
    };
    let address = "https://huggingface.co/example/Some-Model-1B";
    for source in ["example/Some-Model-1B", "hf://example/Some-Model-1B", address, text(&model)] {
        run(source, "HF_HUB_CACHE", &cache).expect_success();
        let out = folder.path().join("out");
        assert_eq!(names(&out), ["Some-Model-1B-Q4_0.gguf", "Some-Model-1B-Q8_0.gguf"], "{source}");
        let file = GgufFile::open(out.join("Some-Model-1B-Q8_0.gguf")).expect("opens");
        let metadata = file.metadata();
        assert_eq!(metadata.string("general.name"), Some("Some Model 1B"));
        assert_eq!(metadata.string("general.organization"), Some("Example"));
        fs::remove_dir_all(out).expect("removed");
    }
    run("example/Some-Model-1B", "HF_HOME", folder.path()).expect_success();
    let absent = run("example/Some-Model-1B", "HF_HOME", Path::new("/nowhere"));
    assert_eq!(absent.code, BAD_INPUT);
    let hint = "fetch it with `hf download example/Some-Model-1B`";
    assert!(absent.stderr.contains(hint), "{}", absent.stderr);
    let plain = run("./no/model", "HF_HOME", folder.path());
    assert!(plain.stderr.contains("no such file") && !plain.stderr.contains("hf download"));
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_no_missing_file() {
    use std::os::unix::fs::PermissionsExt;

    let lock =
        |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).expect("set");
    let folder = scratch();
    let probe = folder.path().join("probe");
    fs::write(&probe, "x").expect("written");
    lock(&probe);
    if fs::read(&probe).is_ok() {
        return; // The superuser may read everything.
    }
    for name in ["", "config.json", "tokenizer.json", WEIGHTS] {
        let folder = scratch();
        let checkpoint = copy_of(LLAMA, folder.path());
        let path = checkpoint.join(name);
        lock(if name.is_empty() { &checkpoint } else { &path });
        let run = convert(&checkpoint, &folder.path().join("out.gguf"));
        fs::set_permissions(&checkpoint, fs::Permissions::from_mode(0o700)).expect("set");
        assert_eq!(run.code, 4, "{name}: {}", run.stderr);
        assert!(run.stderr.contains("Permission denied"), "{name}: {}", run.stderr);
    }
}

#[test]
fn names_come_from_the_model_not_from_any_folder() {
    let folder = scratch();
    let checkpoint = folder.path().join("Some-Model-1B/checkpoint-500");
    fs::create_dir_all(&checkpoint).expect("made");
    let copied = copy_of(LLAMA, folder.path());
    for name in names(&copied) {
        fs::copy(copied.join(&name), checkpoint.join(&name)).expect("copied");
    }
    let output = folder.path().join("out");
    let arguments = ["convert", text(&checkpoint), "--to", "q8_0,q4_0", "-o", text(&output)];
    quantize(&arguments).expect_success();
    assert_eq!(names(&output), ["Some-Model-1B-Q4_0.gguf", "Some-Model-1B-Q8_0.gguf"]);
    let file = GgufFile::open(output.join("Some-Model-1B-Q8_0.gguf")).expect("opens");
    assert_eq!(file.metadata().string("general.name"), Some("Some Model 1B"));
}

/// Of a model under a prefix and another beside it the one under the prefix is read.
#[test]
fn a_model_beside_another_is_read_by_its_prefix() {
    let folder = scratch();
    let (plain, both) = (copy_of("tiny/qwen3", folder.path()), scratch());
    let checkpoint = copy_of("tiny/qwen3", both.path());
    bend_weights(&checkpoint, |file| {
        let header = file.header.as_object().expect("an object").clone();
        for (name, info) in header.iter().filter(|(name, _)| *name != "__metadata__") {
            file.header[&format!("teacher.{name}")] = info.clone();
            let [begin, end] =
                [0, 1].map(|at| info["data_offsets"][at].as_u64().expect("a number"));
            let at = file.data.len() as u64;
            let other = vec![0; usize::try_from(end - begin).expect("small")];
            file.data.extend(other);
            file.header[name]["data_offsets"] = json!([at, at + end - begin]);
        }
    });
    let output = |name: &str| folder.path().join(name);
    let named = |source: &Path, to: &Path, more: &[&str]| {
        let arguments = ["convert", text(source), "--to", "q8_0", "-o", text(to)];
        quantize(&[&arguments[..], &["--model-name", "one"], more].concat())
    };
    named(&plain, &output("plain"), &[]).expect_success();
    named(&checkpoint, &output("teacher"), &["--strip-prefix", "teacher"]).expect_success();
    let read = |name: &str| fs::read(output(name)).expect("read");
    assert!(read("plain") == read("teacher"));
    let run = named(&checkpoint, &output("none"), &["--strip-prefix", "ema"]);
    assert_eq!(run.code, BAD_INPUT, "{}", run.stderr);
    assert!(run.stderr.contains("no tensor begins with `ema`"), "{}", run.stderr);
}
