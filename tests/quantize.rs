//! `quantize quantize`: what a method makes of a model, and that nothing about the run but
//! its inputs can be seen in the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use qz_tensor::TensorSource;

use crate::support::{
    Run, command, fixtures, names, quantize, scratch, survives_kills, tensor, text,
};

fn demo() -> PathBuf {
    fixtures().join("demo-llama")
}

/// Text that the demo model can be calibrated on.
fn prose(folder: &Path) -> PathBuf {
    let path = folder.join("prose.txt");
    let line = "The clerk had counted the barrels twice, and twice had found one barrel more \
                than the book allowed; so he closed the book, and went to look for its owner.\n";
    let lines: String = (0..40).map(|number| format!("{number}. {line}")).collect();
    fs::write(&path, lines).expect("written");
    path
}

fn arguments<'a>(source: &'a Path, data: &'a Path, output: &'a Path) -> Vec<&'a str> {
    let fixed = ["--ctx", "64", "--chunks", "12", "--json"];
    let given = ["quantize", text(source), "--data", text(data), "-o", text(output)];
    [&given[..], &fixed].concat()
}

fn run(source: &Path, output: &Path, more: &[&str]) -> Run {
    let folder = scratch();
    let data = prose(folder.path());
    quantize(&[&arguments(source, &data, output)[..], more].concat())
}

#[test]
fn feedback_loses_less_than_rounding() {
    let folder = scratch();
    let output = folder.path().join("out.gguf");
    let run = run(&demo(), &output, &["--to", "q4_k_m"]).expect_success();
    let report = run.json();
    let tensors = report["outputs"][0]["methods"].as_array().expect("a list").clone();
    let layers = tensors.iter().filter(|tensor| tensor["damping"].is_number());
    assert!(layers.count() >= 7, "{report}");
    for tensor in &tensors {
        let Some(rounding) = tensor["losses"]["rounding"].as_f64() else { continue };
        let result = tensor["losses"]["result"].as_f64().expect("a number");
        assert!(result < rounding, "{tensor}");
    }
    let output_matrix = tensors.iter().find(|tensor| tensor["tensor"] == "output.weight");
    let output_matrix = output_matrix.expect("the output matrix");
    assert!(output_matrix["damping"].is_number(), "{output_matrix}");
    quantize(&["verify", text(&output), "--source", text(&demo())]).expect_success();
}

#[test]
fn packed_floats_lose_less_than_rounding() {
    let fours =
        ["bnb:nf4", "bnb:fp4+double", "ct:nvfp4", "ct:mxfp4", "ct:mxfp4+hadamard32", "mlx:w4g64"];
    for target in fours.into_iter().chain(["ct:mxfp6a16", "ct:mxfp8", "fp8:block128"]) {
        let folder = scratch();
        let output = folder.path().join("out");
        let report = run(&demo(), &output, &["--to", target]).expect_success().json();
        let tensors = report["outputs"][0]["methods"].as_array().expect("a list").clone();
        assert_eq!(tensors.len(), 28, "{target}: {report}");
        for tensor in &tensors {
            let loss = |of: &str| tensor["losses"][of].as_f64().expect("a number");
            assert!(tensor["damping"].is_number(), "{target}: {tensor}");
            assert!(loss("result") < loss("rounding"), "{target}: {tensor}");
        }
        // What was written is read, and is near the source.
        quantize(&["verify", text(&output), "--source", text(&demo())]).expect_success();
    }
}

/// The model with factors folded in, which is another checkpoint: what it computes is the same,
/// and quantized without data it gives the same file.
#[test]
fn factors_are_folded_into_a_model_that_computes_the_same() {
    for (transform, target) in [("awq", "q4_0"), ("smoothquant", "ct:w8a8")] {
        let folder = scratch();
        let at = |name: &str| folder.path().join(name);
        let (output, folded, again) = (at("out"), at("folded"), at("again"));
        let method = format!("{transform}+rtn");
        let given = ["--to", target, "--method", &method, "--save-folded", text(&folded)];
        let report = run(&demo(), &output, &given).expect_success().json();
        let folding = &report["outputs"][0]["folding"];
        assert_eq!(folding["transform"], transform);
        assert!(folding["folds"].as_u64() > Some(0), "{folding}");
        // Only a search measures what is lost.
        let ratio = folding["mean_loss_ratio"].as_f64();
        assert_eq!(ratio.is_some(), transform == "awq", "{folding}");
        assert!(ratio.is_none_or(|ratio| ratio < 1.0), "{folding}");
        let data = prose(folder.path());
        let reads = ["--data", text(&data), "--ctx", "64", "--chunks", "4", "--json"];
        let source = demo();
        let compared = ["compare", text(&source), text(&folded), "--activations", "f32"];
        let compared = quantize(&[&compared[..], &reads].concat()).expect_success().json();
        let mean = &compared["models"][0]["kld"]["mean"]["value"];
        let divergence = mean.as_f64().expect("a number");
        assert!(divergence.abs() < 1e-6, "{divergence}");
        quantize(&["verify", text(&output), "--source", text(&folded)]).expect_success();
        if output.is_dir() {
            // The folded model is in f32, and so are the scales of its folder.
            continue;
        }
        quantize(&["convert", text(&folded), "--to", target, "-o", text(&again)]).expect_success();
        let [file, other] =
            [&output, &again].map(|path| qz_gguf::GgufFile::open(path).expect("opens"));
        for info in other.tensors() {
            let name = &info.name;
            assert_eq!(tensor(&output, name), tensor(&again, name), "{name}");
        }
        assert_eq!(file.tensors().len(), other.tensors().len());
    }
}

#[test]
fn factors_go_before_every_method_and_into_every_format() {
    for (target, method) in [
        ("awq:w4g128", "awq"),
        ("ct:w4a16", "awq+gptq"),
        ("q2_k", "awq+imatrix"),
        ("ct:w8a8", "smoothquant"),
        ("ct:fp8", "smoothquant+gptq"),
        ("mlx:w4g64", "awq+hqq"),
    ] {
        let folder = scratch();
        let output = folder.path().join("out");
        let report = run(&demo(), &output, &["--to", target, "--method", method]);
        let report = report.expect_success().json();
        let own = &report["outputs"][0];
        let full = match method {
            "awq" => "awq+imatrix",
            "smoothquant" => "smoothquant+rtn",
            method => method,
        };
        assert_eq!(own["method"], full);
        assert!(own["folding"]["folds"].as_u64() > Some(0), "{own}");
        quantize(&["verify", text(&output)]).expect_success();
        if let Ok(config) = fs::read_to_string(output.join("config.json")) {
            assert!(config.contains(full), "{config}");
        }
    }
}

#[test]
fn factors_ask_for_a_text_and_a_target_each() {
    let folder = scratch();
    let (output, demo) = (folder.path().join("out"), demo());
    let check = |more: &[&str], expected: &str| {
        let given = ["quantize", text(&demo), "-o", text(&output)];
        let run = quantize(&[&given[..], more].concat());
        assert_eq!(run.code, 2, "{}", run.stderr);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    };
    check(&["--to", "q4_0", "--method", "awq+rtn"], "awq needs a text");
    check(
        &["--to", "q4_0,q5_0", "--method", "awq", "--data", "default", "--save-folded", "x"],
        "of one target alone",
    );
    check(
        &["--to", "q4_0", "--method", "gptq", "--data", "default", "--save-folded", "x"],
        "where factors are folded in",
    );
    check(&["--to", "q4_0", "--method", "awq+awq", "--data", "default"], "no such method");
    // Before any work: the model that is folded is saved before the output is.
    let transform = ["--to", "q4_0", "--method", "awq", "--data", "default", "--save-folded"];
    let own = folder.path().join(".").join("out");
    for path in [output.clone(), own, output.join("in"), folder.path().to_owned()] {
        check(&[&transform[..], &[text(&path)]].concat(), "needs a path of its own");
    }
}

/// Half-quadratic search asks for no text, and writes what `rtn` does not.
#[test]
fn without_data_values_are_searched_in_every_format() {
    for (model, target) in [
        ("demo-llama", "awq:w4g64"),
        ("demo-llama", "ct:w4a16"),
        ("demo-llama", "mlx:w4g64"),
        ("demo-llama", "q4_k_m"),
        ("tiny/mixtral", "awq:w4g32"),
        ("tiny/mixtral", "q4_0"),
    ] {
        let (folder, source) = (scratch(), fixtures().join(model));
        let file = |method: &str, threads: &str| {
            let output = folder.path().join(format!("{method}-{threads}"));
            let given = ["quantize", text(&source), "--to", target, "-o", text(&output)];
            let more = ["--method", method, "--threads", threads, "--json"];
            let report = quantize(&[&given[..], &more].concat()).expect_success().json();
            assert_eq!(report["outputs"][0]["method"], method, "{target}");
            let methods = report["outputs"][0]["methods"].as_array().expect("a list").clone();
            quantize(&["verify", text(&output), "--source", text(&source)]).expect_success();
            let weights = match output.is_dir() {
                true => output.join("model.safetensors"),
                false => output,
            };
            (methods.len(), fs::read(weights).expect("read"))
        };
        let (count, searched) = file("hqq", "2");
        assert!(count >= 8, "{model} {target}: {count}");
        assert!(searched == file("hqq", "1").1, "{model} {target}: threads");
        assert!(searched != file("rtn", "1").1, "{model} {target}: is rtn");
    }
}

#[test]
fn threads_change_no_byte() {
    let folder = scratch();
    let file = |threads: &str| {
        let output = folder.path().join(format!("{threads}.gguf"));
        run(&demo(), &output, &["--to", "q3_k_s", "--threads", threads]).expect_success();
        fs::read(output).expect("read")
    };
    assert!(file("1") == file("3"));
}

#[test]
fn a_killed_run_is_finished_by_the_next() {
    let folder = scratch();
    let data = prose(folder.path());
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let arguments = [&arguments(&source, &data, &output)[..], &["--to", "q5_k_s"]].concat();
    quantize(&arguments).expect_success();
    let expected = fs::read(&output).expect("read");
    survives_kills(&arguments, &output, &|| {
        assert!(fs::read(&output).expect("read") == expected);
    });
    assert_eq!(names(folder.path()), ["out.gguf", "prose.txt"]);
}

/// A finished matrix is in the journal before the next one is: a kill loses at most that.
#[test]
fn a_killed_run_does_not_choose_again() {
    let folder = scratch();
    let data = prose(folder.path());
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let arguments =
        [&arguments(&source, &data, &output)[..], &["--to", "q4_k_s", "--cycles", "10"]].concat();
    quantize(&arguments).expect_success();
    let expected = fs::read(&output).expect("read");
    let journal = folder.path().join("out.gguf.partial/journal");
    let is_written = || {
        let journal = fs::read_to_string(&journal).unwrap_or_default();
        journal.lines().any(|line| line.contains("blk.0.attn_output.weight"))
    };
    // The run may have come to its end before it was killed.
    while output.exists() {
        fs::remove_file(&output).expect("removed");
        let mut child = command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        while !is_written() && child.try_wait().expect("asked").is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().expect("waited");
    }
    let report = quantize(&arguments).expect_success().json();
    assert!(fs::read(&output).expect("read") == expected);
    let methods = report["outputs"][0]["methods"].as_array().expect("a list");
    let names: Vec<&str> = methods.iter().filter_map(|method| method["tensor"].as_str()).collect();
    for done in ["attn_q", "attn_k", "attn_v", "attn_output"] {
        assert!(!names.contains(&&*format!("blk.0.{done}.weight")), "{names:?}");
    }
    assert!(names.contains(&"blk.1.ffn_down.weight"), "{names:?}");
}

#[test]
fn plain_rounding_is_what_convert_does() {
    let folder = scratch();
    let [method, converted] =
        ["method.gguf", "converted.gguf"].map(|name| folder.path().join(name));
    let source = demo();
    let to = ["--to", "q4_k_m"];
    let by_method = ["quantize", text(&source), "--method", "rtn", "-o", text(&method)];
    quantize(&[&by_method[..], &to].concat()).expect_success();
    let by_convert = ["convert", text(&source), "-o", text(&converted)];
    quantize(&[&by_convert[..], &to].concat()).expect_success();
    assert!(fs::read(method).expect("read") == fs::read(converted).expect("read"));
}

#[test]
fn experts_and_several_targets() {
    let folder = scratch();
    let output = folder.path().join("out");
    let source = fixtures().join("tiny/mixtral");
    let data = tokens(folder.path(), 600);
    let given = ["quantize", text(&source), "--tokens", text(&data), "--ctx", "32", "--json"];
    let rest = ["--to", "q4_0,iq4_nl", "-o", text(&output)];
    let report = quantize(&[&given[..], &rest].concat()).expect_success().json();
    for target in 0..2 {
        let tensors = report["outputs"][target]["methods"].as_array().expect("a list");
        let experts = tensors.iter().filter(|tensor| tensor["expert"].is_number()).count();
        assert!(experts > 0 && experts.is_multiple_of(3), "{report}");
    }
    assert_eq!(names(&output), ["mixtral-IQ4_NL.gguf", "mixtral-Q4_0.gguf"]);
}

/// A file of so many tokens.
fn tokens(folder: &Path, count: usize) -> PathBuf {
    let path = folder.join("tokens.txt");
    let tokens: Vec<String> = (0..count).map(|token| (token * 7 % 250).to_string()).collect();
    fs::write(&path, tokens.join(" ")).expect("written");
    path
}

/// The report on a mixture of experts, and the file.
fn mixture(tokens: &Path, ctx: &str, more: &[&str]) -> (Run, Vec<u8>) {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/mixtral"), folder.path().join("out.gguf"));
    let given = ["quantize", text(&source), "--tokens", text(tokens), "--ctx", ctx, "--json"];
    let to = ["--to", "q4_0", "-o", text(&output)];
    let run = quantize(&[&given[..], &to, more].concat()).expect_success();
    quantize(&["verify", text(&output)]).expect_success();
    let bytes = fs::read(&output).expect("read");
    (run, bytes)
}

/// The matrices of experts in a report.
fn experts(run: &Run) -> Vec<serde_json::Value> {
    let report = run.json();
    let methods = report["outputs"][0]["methods"].as_array().expect("a list");
    methods.iter().filter(|method| method["expert"].is_number()).cloned().collect()
}

/// Three tokens are given to two experts each: of eight some get none.
#[test]
fn experts_without_tokens_get_the_mean_and_are_named() {
    let folder = scratch();
    // Of two chunks the first is read.
    let data = tokens(folder.path(), 6);
    let quantized = |more: &[&str]| mixture(&data, "3", &[&["--chunks", "1"], more].concat());
    let (run, bytes) = quantized(&["--threads", "1"]);
    assert!(run.stderr.contains("were given no token: the layer's mean stands in"));
    let layers = run.json()["outputs"][0]["experts"].as_array().expect("a list").clone();
    assert_eq!(layers.len(), 2);
    for layer in &layers {
        let tokens = layer["tokens"].as_array().expect("a list").iter();
        assert_eq!(tokens.map(|count| count.as_u64().expect("a number")).sum::<u64>(), 3 * 2);
    }
    let all = experts(&run);
    assert!(all.iter().any(|expert| expert["tokens"] == 0));
    for expert in &all {
        let added = expert["columns"].as_u64().expect("a number") / 4;
        let counted = expert["tokens"].as_u64().map(|tokens| tokens + added);
        assert_eq!(expert["filled_up_to"].as_u64(), counted, "{expert}");
        assert_eq!(expert["uncorrected"], true, "{expert}");
        assert!(expert["losses"]["result"].is_number() && expert["fallback"].is_null(), "{expert}");
    }
    assert!(quantized(&["--threads", "2"]).1 == bytes);

    let (run, _) = quantized(&["--expert-prior", "0"]);
    for expert in experts(&run) {
        let is_without = expert["tokens"] == 0;
        assert_eq!(expert["fallback"] == "no-input", is_without, "{expert}");
        assert!(expert["filled_up_to"].is_null(), "{expert}");
    }
    let (run, _) = quantized(&["--all-experts", "--expert-prior", "2"]);
    assert!(experts(&run).iter().all(|expert| expert["tokens"] == 3));
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);

    let (source, stats) = (fixtures().join("tiny/mixtral"), folder.path().join("stats.gguf"));
    let words = folder.path().join("words.txt");
    fs::write(&words, "a b c d e f g h").expect("written");
    let given = ["calibrate", text(&source), "--data", text(&words), "-o", text(&stats)];
    quantize(&[&given[..], &["--ctx", "2", "--chunks", "1", "--collect", "grams"]].concat())
        .expect_success();
    let output = folder.path().join("out.gguf");
    let given = ["quantize", text(&source), "--stats", text(&stats), "--to", "q4_0", "--json"];
    let run = quantize(&[&given[..], &["-o", text(&output)]].concat()).expect_success();
    assert!(experts(&run).iter().all(|expert| expert["fallback"].is_null()));
}

/// Experts whose Gram matrices do not fit are visited one by one.
#[test]
fn memory_changes_no_byte() {
    let folder = scratch();
    let data = tokens(folder.path(), 960);
    let file = |memory: &str, prior: &str| {
        let more = ["--max-memory", memory, "--expert-prior", prior];
        mixture(&data, "24", &more).1
    };
    let expected = file("2G", "200");
    assert!(file("200K", "200") == expected);
    assert!(file("2G", "64") != expected);
    // Experts that were given tokens for each of their columns make up for earlier layers.
    let (run, corrected) = mixture(&data, "24", &["--expert-prior", "0"]);
    let is_left_out = |expert: &serde_json::Value| expert["uncorrected"] == true;
    for expert in experts(&run) {
        assert_eq!(expert["tokens"].as_u64() < expert["columns"].as_u64(), is_left_out(&expert));
    }
    assert!(experts(&run).iter().any(|expert| !is_left_out(expert)));
    let plain = ["--expert-prior", "0", "--propagation", "0"];
    assert!(mixture(&data, "24", &plain).1 != corrected);
}

/// With the full model's inputs beside, matrices make up for those before them.
#[test]
fn propagation_is_another_choice() {
    let folder = scratch();
    let file = |more: &[&str]| {
        let output = folder.path().join("out.gguf");
        let more = [&["--to", "q3_k_s", "--force"], more].concat();
        let report = run(&demo(), &output, &more).expect_success().json();
        let methods = report["outputs"][0]["methods"].as_array().expect("a list");
        assert!(methods.iter().all(|method| method["fallback"].is_null()), "{report}");
        fs::read(output).expect("read")
    };
    let plain = file(&["--propagation", "0"]);
    let half = file(&["--propagation", "0.5"]);
    let whole = file(&["--threads", "1"]);
    assert!(half != plain && whole != half && file(&["--propagation", "1"]) == whole);
    assert!(file(&["--threads", "3", "--max-memory", "2M"]) == whole);
}

/// By `auto` each matrix has a damping and a strength of its own, and the report says which.
#[test]
fn corrections_are_told() {
    let folder = scratch();
    let (model, output) = (demo(), folder.path().join("out.gguf"));
    let corrections = |damping: &str, threads: &str| {
        let given = ["quantize", text(&model), "--data", "default", "-o", text(&output), "--force"];
        let text = ["--ctx", "64", "--chunks", "24", "--to", "q3_k_s", "--json"];
        let more = ["--propagation-damping", damping, "--threads", threads];
        let report = quantize(&[&given[..], &text, &more].concat()).expect_success().json();
        let methods = report["outputs"][0]["methods"].as_array().expect("a list").clone();
        let told = methods.iter().map(|method| &method["correction"]);
        let told = told.filter(|correction| !correction.is_null());
        let told: BTreeSet<String> = told.map(ToString::to_string).collect();
        (told, fs::read(&output).expect("read"))
    };
    let (told, _) = corrections("0.5", "2");
    assert!(told.into_iter().eq([r#"{"damping":0.5,"strength":1.0}"#.to_owned()]));
    let (told, bytes) = corrections("auto", "1");
    assert!(told.len() > 5, "{told:?}");
    assert!(corrections("auto", "3") == (told, bytes));
}

/// Statistics of a quantized model beside the full one correct as a text does; of a model
/// beside itself they are those of the model alone.
#[test]
fn statistics_tell_what_was_lost() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let data = prose(folder.path());
    let quantized = at("quantized.gguf");
    quantize(&["convert", text(&demo()), "--to", "q3_k_s", "-o", text(&quantized)])
        .expect_success();
    let collected = |name: &str, more: &[&str]| {
        let (model, output) = (demo(), at(name));
        let given = ["calibrate", text(&model), "--data", text(&data), "-o", text(&output)];
        let fixed = ["--ctx", "64", "--chunks", "12", "--collect", "grams"];
        quantize(&[&given[..], &fixed, more].concat()).expect_success();
        output
    };
    let chosen = |stats: &Path, more: &[&str]| {
        let (model, output) = (demo(), at("out.gguf"));
        let given = ["quantize", text(&model), "--stats", text(stats), "-o", text(&output)];
        let fixed = ["--to", "q3_k_s", "--force", "--json"];
        let report = quantize(&[&given[..], &fixed, more].concat()).expect_success().json();
        let methods = report["outputs"][0]["methods"].as_array().expect("a list").clone();
        assert!(methods.iter().all(|method| method["fallback"].is_null()), "{report}");
        assert!(methods.iter().all(|method| method["damping"].is_number()), "{report}");
        fs::read(output).expect("read")
    };
    let beside = collected("beside.gguf", &["--beside", text(&quantized)]);
    let corrected = chosen(&beside, &[]);
    assert!(corrected == chosen(&beside, &["--propagation", "1"]));
    let plain = chosen(&beside, &["--propagation", "0"]);
    assert!(corrected != plain);
    // What a coarser model lacks is none of a finer one's.
    let finer = ["--tensor-type", "blk=q6_k"];
    let uncorrected = chosen(&beside, &finer);
    assert!(uncorrected == chosen(&beside, &[&finer[..], &["--propagation", "0"]].concat()));
    assert!(uncorrected != chosen(&beside, &[&finer[..], &["--propagation", "1"]].concat()));
    let itself = collected("itself.gguf", &["--beside", text(&demo())]);
    let alone = collected("alone.gguf", &["--process-output", "--activations", "f32"]);
    assert!(chosen(&itself, &["--propagation", "1"]) == chosen(&alone, &[]));
}

#[test]
fn refusals() {
    let folder = scratch();
    let source = demo();
    let output = folder.path().join("out.gguf");
    let check = |arguments: &[&str], code: i32, expected: &str| {
        let given = ["quantize", text(&source), "-o", text(&output)];
        let run = quantize(&[&given[..], arguments].concat());
        assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{arguments:?}: {}", run.stderr);
        assert!(names(folder.path()).iter().all(|name| name != "out.gguf"), "{arguments:?}");
    };
    let short = folder.path().join("short.txt");
    fs::write(&short, "Too short.").expect("written");
    check(&["--to", "q4_k_m"], 2, "--data default");
    check(&["--to", "q4_k_m", "--data", text(&short)], 3, "tokens");
    check(&["--to", "safetensors:f16", "--data", text(&short)], 5, "safetensors:f16");
    let known = source.join("importance.gguf");
    let propagation = ["--to", "q4_k_m", "--stats", text(&known), "--propagation", "0.25"];
    check(&propagation, 5, "needs a text");
    check(&["--to", "q4_k_m", "--damping", "nan"], 2, "not negative");
    check(&["--to", "q4_k_m", "--propagation=-1"], 2, "not negative");
    check(&["--to", "bnb:int8", "--data", text(&short)], 5, "bnb:int8 has no values");
    check(&["--to", "q4_k_m", "--method", "magic"], 2, "rtn, imatrix, gptq, hqq");
    for target in ["ct:w4a16", "q8_0", "bnb:int8"] {
        let smoothing = ["--method", "smoothquant", "--data", "default", "--to", target];
        check(&smoothing, 5, &format!("{target} rounds no activations"));
    }
    check(&["--to", "ct:w8a8", "--smoothing", "1.5"], 2, "from 0 to 1");
    check(&["--to", "fp8:tensor", "--method", "hqq"], 5, "the method hqq cannot write");
}
