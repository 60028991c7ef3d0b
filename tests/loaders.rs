//! What engines do with packed folders: their rules, what is said when a folder is written,
//! and what configurations say of how it was made.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Safetensors, edit_json, fixtures, quantize, scratch, text};

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj";

fn demo() -> PathBuf {
    fixtures().join("demo-llama")
}

/// Converts, and gives what was said meanwhile.
fn convert(source: &Path, target: &str, output: &Path, flags: &[&str]) -> String {
    let fixed = ["convert", text(source), "--to", target, "-o", text(output), "--force"];
    quantize(&[&fixed[..], flags].concat()).expect_success().stderr
}

fn config(folder: &Path) -> Value {
    let bytes = fs::read(folder.join("config.json")).expect("read");
    serde_json::from_slice::<Value>(&bytes).expect("JSON")["quantization_config"].clone()
}

/// The rules that findings name, and the report's exit code.
fn rules(path: &Path, engine: &str) -> (Vec<String>, i32) {
    let run = quantize(&["verify", text(path), "--for", engine, "--json"]);
    let report = run.json();
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{report}"));
    let rule = |finding: &Value| finding["rule"].as_str().expect("a rule").to_owned();
    let mut rules: Vec<String> = findings.iter().map(rule).collect();
    rules.dedup();
    (rules, run.code)
}

/// A configuration that calls a packed matrix plain, in each method's words.
#[test]
fn packed_matrices_that_are_called_plain() {
    let folder = scratch();
    let packed = folder.path().join("packed");
    let check = |target: &str, edit: &dyn Fn(&mut Value), engines: &[&str]| {
        convert(&demo(), target, &packed, &[]);
        for engine in engines {
            assert_eq!(rules(&packed, engine), (Vec::new(), 0), "{target} {engine}");
        }
        edit_json(&packed.join("config.json"), |config| edit(&mut config["quantization_config"]));
        for engine in engines {
            let (found, code) = rules(&packed, engine);
            let found = found.iter().any(|rule| rule == "packed-ignored");
            assert!(found && code == 1, "{target} {engine}");
        }
    };
    let all = ["vllm", "sglang", "transformers"];
    let list = |key: &'static str, name: &'static str| {
        move |config: &mut Value| config[key] = json!(["lm_head", name])
    };
    check("gptq:w4g128", &|config| config["dynamic"] = json!({"-:.*\\.o_proj": {}}), &all);
    // The others hold rules to `qkv_proj`.
    let denied = |config: &mut Value| config["dynamic"] = json!({"-:.*\\.q_proj": {}});
    check("gptq:w4g128", &denied, &["transformers"]);
    check("gptq:w4g128", &|config| config["dynamic"] = json!({r"-:^model\.layers\.0\.": {}}), &all);
    check("awq:w4g128", &list("modules_to_not_convert", Q_PROJ), &all);
    check("ct:w4a16", &list("ignore", Q_PROJ), &all);
    check("ct:w4a16", &list("ignore", "re:.*q_proj"), &all);
    check("ct:nvfp4", &list("ignore", Q_PROJ), &all);
    check(
        "ct:fp8",
        &|config| config["config_groups"]["group_0"]["targets"] = json!(["re:.*mlp.*"]),
        &all,
    );
    check("fp8:block128", &list("modules_to_not_convert", Q_PROJ), &all);
    check("fp8:block128", &list("ignored_layers", Q_PROJ), &["vllm", "sglang"]);
    check("bnb:nf4", &list("llm_int8_skip_modules", "q_proj"), &["sglang", "transformers"]);
    check("bnb:int8", &list("llm_int8_skip_modules", Q_PROJ), &["sglang", "transformers"]);

    // What looks around is a pattern of Python's alone: nothing is said of it.
    for (key, name) in [("ignore", "re:^(?!.*mlp).*"), ("targets", "re:^(?!lm_head).*")] {
        convert(&demo(), "ct:w4a16", &packed, &[]);
        edit_json(&packed.join("config.json"), |config| {
            let config = &mut config["quantization_config"];
            match key {
                "targets" => config["config_groups"]["group_0"][key] = json!([name]),
                _ => config[key] = json!(["lm_head", name]),
            }
        });
        assert_eq!(rules(&packed, "vllm"), (Vec::new(), 0), "{key}");
    }

    // The engines read a list in their own ways.
    let check = |target: &str, key: &'static str, name: &'static str, expected: [bool; 3]| {
        convert(&demo(), target, &packed, &[]);
        edit_json(&packed.join("config.json"), |config| {
            list(key, name)(&mut config["quantization_config"]);
        });
        for (engine, expected) in all.iter().zip(expected) {
            let found = rules(&packed, engine).0.iter().any(|rule| rule == "packed-ignored");
            assert_eq!(found, expected, "{target} {name} {engine}");
        }
    };
    check("awq:w4g128", "modules_to_not_convert", "mlp.gate", [true, true, false]);
    check("fp8:tensor", "modules_to_not_convert", "q_proj", [false, true, true]);
    check("fp8:tensor", "modules_to_not_convert", "mlp.gate", [false, false, false]);

    // MLX goes by the tensors, unless a module is denied.
    let packed = folder.path().join("mlx");
    convert(&demo(), "mlx:w4g64", &packed, &[]);
    assert_eq!(rules(&packed, "mlx"), (Vec::new(), 0));
    edit_json(&packed.join("config.json"), |config| config["quantization"][Q_PROJ] = json!(false));
    assert_eq!(rules(&packed, "mlx").0, ["packed-ignored"]);
}

/// GPTQ's exceptions say which bits and groups a matrix has, for reading as for every rule.
#[test]
fn exceptions_hold_for_the_matrices_they_name() {
    let folder = scratch();
    let (packed, output) = (folder.path().join("packed"), folder.path().join("out"));
    let check = |bits: u32, dynamic: Value, expected: Option<&str>| {
        convert(&demo(), "gptq:w4g128", &packed, &[]);
        for (file, key) in [("config.json", "/quantization_config"), ("quantize_config.json", "")] {
            edit_json(&packed.join(file), |config| {
                let config = config.pointer_mut(key).expect("a configuration");
                config["bits"] = bits.into();
                config["dynamic"] = dynamic.clone();
            });
        }
        let to = ["convert", text(&packed), "--to", "f16", "-o", text(&output), "--force"];
        let (read, verified) =
            (quantize(&to), quantize(&["verify", text(&packed), "--for", "vllm"]));
        let codes = if expected.is_some() { (3, 1) } else { (0, 0) };
        assert_eq!((read.code, verified.code), codes, "{}\n{}", read.stderr, verified.stdout);
        if let Some(expected) = expected {
            assert!(read.stderr.contains(expected), "{expected} is not in {}", read.stderr);
            assert!(verified.stdout.contains(expected), "{expected} is not in {}", verified.stdout);
        }
    };
    check(4, json!({"+:.*q_proj": {"bits": 4}}), None);
    check(8, json!({r"+:model\.layers\.": {"bits": 4}}), None);
    let fault = "says 8, but model.layers.0.self_attn.q_proj.qweight has codes of 4 bits";
    check(4, json!({"+:.*q_proj": {"bits": 8}}), Some(fault));
    let fault = "says 64, but model.layers.0.self_attn.q_proj.scales has";
    check(4, json!({".*q_proj": {"group_size": 64}}), Some(fault));
}

/// vLLM and SGLang hold GPTQ's rules to the names of their own modules, which are several of the
/// checkpoint.
#[test]
fn exceptions_of_fused_modules() {
    let folder = scratch();
    let packed = folder.path().join("packed");
    let check = |dynamic: Value, expected: &[&str]| {
        convert(&demo(), "gptq:w4g64", &packed, &[]);
        for (file, key) in [("config.json", "/quantization_config"), ("quantize_config.json", "")] {
            edit_json(&packed.join(file), |config| {
                let config = config.pointer_mut(key).expect("a configuration");
                // The tensors have 64: a rule has to say so.
                config["group_size"] = 32.into();
                config["dynamic"] = dynamic.clone();
            });
        }
        for engine in ["vllm", "sglang"] {
            assert_eq!(
                rules(&packed, engine),
                (
                    expected.iter().map(|rule| (*rule).to_owned()).collect(),
                    i32::from(!expected.is_empty()),
                ),
                "{dynamic} {engine}"
            );
        }
        assert_eq!(rules(&packed, "transformers"), (Vec::new(), 0), "{dynamic}");
    };
    let own = json!({"group_size": 64});
    check(json!({r"+:model\.layers\.": own}), &[]);
    // `.*v_proj` and `.*up_proj` fit the fused names, too.
    let rest = r"+:.*\.(o_proj|down_proj)";
    check(json!({rest: own, r"+:.*\.(q|k|v|gate|up)_proj": own}), &["fused-rule"]);
    check(json!({rest: own, ".*(q_proj|k_proj|v_proj|gate_proj|up_proj)": own}), &[]);
    let fused = r"+:.*\.(qkv|gate_up)_proj";
    check(json!({rest: own, fused: own, r"+:.*\.(q|k|v|gate|up)_proj": own}), &[]);
}

/// Rules with patterns that are Python's alone, or none, are named.
#[test]
fn exceptions_that_are_not_judged() {
    let folder = scratch();
    let (packed, output) = (folder.path().join("packed"), folder.path().join("out"));
    convert(&demo(), "gptq:w4g128", &packed, &[]);
    for rule in [r"+:.*layers\.(?=\d)\d+\..*down_proj.*", "-:.*["] {
        edit_json(&packed.join("config.json"), |config| {
            config["quantization_config"]["dynamic"] = json!({rule: {}});
        });
        let expected = format!("config.json: quantization_config.dynamic[{rule}]: looks around");
        let told = |stderr: &str| {
            stderr.lines().any(|line| line.starts_with("warning: ") && line.contains(&expected))
        };
        let converted = convert(&packed, "f16", &output, &[]);
        assert!(told(&converted), "{converted}");
        let verified = quantize(&["verify", text(&packed)]).stderr;
        assert!(told(&verified), "{verified}");
    }
}

/// vLLM reads no order of activations; SGLang does where the configuration says so, one for
/// matrices that it multiplies by together.
#[test]
fn orders_of_activations() {
    let folder = scratch();
    let packed = folder.path().join("packed");
    let check = |modules: &[&str], stated: bool, vllm: bool, sglang: bool| {
        convert(&demo(), "gptq:w4g128", &packed, &[]);
        for (file, key) in [("config.json", "/quantization_config"), ("quantize_config.json", "")] {
            edit_json(&packed.join(file), |config| {
                config.pointer_mut(key).expect("a configuration")["desc_act"] = stated.into();
            });
        }
        let path = packed.join("model.safetensors");
        let mut file = Safetensors::read(&path);
        for module in modules {
            let start = file.start(&format!("model.layers.0.self_attn.{module}.g_idx"));
            let (first, second) = file.data[start..start + 256 * 4].split_at_mut(128 * 4);
            first.swap_with_slice(second);
        }
        file.write(&path);
        let expected = |is_found: bool| if is_found { vec!["act-order"] } else { Vec::new() };
        assert_eq!(rules(&packed, "vllm").0, expected(vllm), "{modules:?} {stated}");
        assert_eq!(rules(&packed, "sglang").0, expected(sglang), "{modules:?} {stated}");
    };
    check(&[], false, false, false);
    check(&[], true, true, false);
    check(&["o_proj"], false, true, true);
    check(&["o_proj"], true, true, false);
    check(&["q_proj", "k_proj", "v_proj"], true, true, false);
    check(&["k_proj"], true, true, true);
}

/// A plain matrix that the configuration does not name.
#[test]
fn plain_matrices_that_are_not_named() {
    let folder = scratch();
    let packed = folder.path().join("packed");
    let keep = ["--tensor-type", r"blk\.[0-3]\.attn_=bf16"];
    for target in ["gptq:w4g128", "awq:w4g128", "ct:w4a16", "fp8:block128", "bnb:nf4"] {
        convert(&demo(), target, &packed, &keep);
        let engines = match target {
            "bnb:nf4" => &["sglang", "transformers"][..],
            _ => &["vllm", "sglang", "transformers"],
        };
        for engine in engines {
            assert_eq!(rules(&packed, engine), (Vec::new(), 0), "{target} {engine}");
        }
        edit_json(&packed.join("config.json"), |config| {
            let config = &mut config["quantization_config"];
            for key in ["modules_to_not_convert", "ignore", "llm_int8_skip_modules"] {
                if config.get(key).is_some() {
                    config[key] = json!(["lm_head"]);
                }
            }
            if config.get("dynamic").is_some() {
                config["dynamic"] = json!({});
            }
        });
        for engine in engines {
            let (found, code) = rules(&packed, engine);
            let expected = found.iter().any(|rule| rule == "ignore") && code == 1;
            assert!(expected, "{target} {engine}: {found:?}");
        }
    }
}

/// GPTQ and compressed-tensors of the same shapes go to the same kernels.
#[test]
fn shapes_are_judged_alike() {
    let folder = scratch();
    let small = folder.path().join("small");
    // 64 and 96 inputs: no multiples of Marlin's 128.
    let narrow = fixtures().join("tiny/llama-spm");
    for target in ["gptq:w4g32", "ct:w4a16+g32"] {
        let said = convert(&narrow, target, &small, &[]);
        assert_eq!(rules(&small, "vllm"), (Vec::new(), 0), "{target}");
        assert_eq!(rules(&small, "sglang").0, ["alignment"], "{target}");
        let expected = format!("{target}: SGLang 0.5.23 refuses it: ");
        assert!(said.contains(&expected), "{said}");
        assert!(said.contains("64 inputs are not a multiple of 128"), "{said}");
    }
    for target in ["gptq:w4g256", "ct:w4a16+g256"] {
        let said = convert(&demo(), target, &small, &[]);
        for engine in ["vllm", "sglang"] {
            assert_eq!(rules(&small, engine).1, 1, "{target} {engine}");
        }
        let family = target.split_once(':').expect("a colon").0;
        let expected = format!("would load {family}:w4");
        assert!(said.contains("vLLM 0.33") && said.contains(&expected), "{said}");
    }
    let said = convert(&demo(), "gptq:w3g128", &small, &[]);
    assert!(said.contains("vLLM 0.33 and SGLang 0.5.23 refuse it"), "{said}");
    assert!(said.contains("would load"), "{said}");
    let said = convert(&demo(), "fp8:tensor", &small, &[]);
    assert!(said.contains("transformers 5.24 would load fp8:block128"), "{said}");
    // Nothing is said of what is loaded everywhere that reads the method.
    for target in ["gptq:w4g128", "ct:w4a16", "awq:w4g128", "fp8:block128", "mlx:w4g64", "bnb:nf4"]
    {
        let said = convert(&demo(), target, &small, &[]);
        assert!(!said.contains("refuse"), "{target}: {said}");
    }
}

#[test]
fn findings_of_a_kind_are_one_line() {
    let folder = scratch();
    let packed = folder.path().join("packed");
    convert(&fixtures().join("tiny/llama-spm"), "gptq:w4g32", &packed, &[]);
    let arguments = ["verify", text(&packed), "--for", "sglang"];
    let run = quantize(&arguments);
    assert_eq!(run.code, 1);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let about = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(about("64 inputs are not a multiple of 128"), 1, "{}", run.stdout);
    assert_eq!(about("(12 in all): 64 inputs"), 1, "{}", run.stdout);
    assert!(run.stdout.contains("FAILED for SGLang 0.5.23: "), "{}", run.stdout);
    let whole = quantize(&[&arguments[..], &["-v"]].concat());
    assert!(whole.stdout.lines().count() > lines.len(), "{}", whole.stdout);
    let report = quantize(&[&arguments[..], &["--json"]].concat()).json();
    assert_eq!(report["engine"]["version"], "SGLang 0.5.23");
}

/// Engines are not said to load what nobody has looked at.
#[test]
fn other_artifacts_than_packed_folders() {
    let folder = scratch();
    let gguf = folder.path().join("a.gguf");
    convert(&demo(), "q4_0", &gguf, &[]);
    let verdict = |path: &Path, engine: &str| {
        let run = quantize(&["verify", text(path), "--for", engine]);
        (run.code, run.stdout)
    };
    let (code, said) = verdict(&gguf, "llama.cpp");
    assert!(code == 0 && said.contains("ok for llama.cpp"), "{said}");
    for engine in ["sglang", "transformers"] {
        let (code, said) = verdict(&gguf, engine);
        assert!(code == 0 && said.contains("there are no rules for GGUF"), "{said}");
    }
    for (engine, expected) in [("vllm", "vllm-gguf-plugin"), ("mlx", "no GGUF")] {
        let (code, said) = verdict(&gguf, engine);
        assert!(code == 1 && said.contains(expected), "{said}");
    }
    let (code, said) = verdict(&demo(), "llama.cpp");
    assert!(code == 1 && said.contains("GGUF alone"), "{said}");
    assert_eq!(verdict(&demo(), "vllm").0, 0);
    let packed = folder.path().join("bnb");
    convert(&demo(), "bnb:nf4", &packed, &[]);
    let (code, said) = verdict(&packed, "vllm");
    assert!(code == 1 && said.contains("vllm-bnb-plugin") && said.contains("0.27"), "{said}");
}

/// Every tensor is what `mlx_lm.convert` makes of the checkpoint, whether the embedding is
/// tied to the output matrix or not.
#[test]
fn mlx_packs_what_its_package_packs() {
    let folder = scratch();
    let check = |fixture: &str, target: &str, golden: &str| {
        let output = folder.path().join(golden);
        convert(&fixtures().join(fixture), target, &output, &[]);
        let file = Safetensors::read(&output.join("model.safetensors"));
        let mut lines: Vec<String> = Vec::new();
        for (name, info) in file.header.as_object().expect("an object") {
            if name == "__metadata__" {
                continue;
            }
            let dimensions: Vec<String> =
                info["shape"].as_array().expect("a shape").iter().map(Value::to_string).collect();
            let [begin, end] =
                [0, 1].map(|at| info["data_offsets"][at].as_u64().expect("an offset") as usize);
            let kind = info["dtype"].as_str().expect("a type");
            let digest = Sha256::digest(&file.data[begin..end]);
            lines.push(format!("{name} {kind} {} {digest:x}", dimensions.join("x")));
        }
        lines.sort();
        let path = fixtures().join("mlx").join(format!("{golden}.txt"));
        let expected = fs::read_to_string(path).expect("read");
        assert_eq!(lines.join("\n") + "\n", expected, "{fixture}");
        assert_eq!(rules(&output, "mlx"), (Vec::new(), 0));
        let source = fixtures().join(fixture);
        quantize(&["verify", text(&output), "--source", text(&source)]).expect_success();
    };
    check("demo-llama", "mlx:w4g64", "demo-llama-w4g64");
    check("tiny/llama-tied", "mlx:w4g32", "llama-tied-w4g32");
    // What a person wants plain stays plain.
    let output = folder.path().join("kept");
    let keep = ["--token-embedding-type", "bf16", "--leave-output-tensor"];
    convert(&demo(), "mlx:w4g64", &output, &keep);
    let file = Safetensors::read(&output.join("model.safetensors"));
    for name in ["model.embed_tokens", "lm_head"] {
        assert_eq!(file.header[format!("{name}.weight")]["dtype"], "BF16", "{name}");
        assert!(file.header.get(format!("{name}.scales")).is_none(), "{name}");
    }
    assert_eq!(rules(&output, "mlx"), (Vec::new(), 0));
}

/// The output matrix is plain as it is in a model of its own.
#[test]
fn packed_models_inside_of_others() {
    let folder = scratch();
    let packed = folder.path().join("packed");
    convert(&demo(), "gptq:w4g128", &packed, &[]);
    let weights = packed.join("model.safetensors");
    let plain = Safetensors::read(&weights);
    for prefix in ["module.", "actor.", "language_model."] {
        let mut file = Safetensors::read(&weights);
        file.header = renamed(&plain.header, prefix);
        file.write(&weights);
        let report = quantize(&["verify", text(&packed), "--for", "vllm", "--json"]).json();
        let findings = report["findings"].to_string();
        assert!(!findings.contains("lm_head"), "{prefix}: {findings}");
    }
}

fn renamed(header: &Value, prefix: &str) -> Value {
    let entries = header.as_object().expect("an object").iter();
    let renamed = entries.map(|(name, value)| match name.starts_with("__") {
        true => (name.clone(), value.clone()),
        false => (format!("{prefix}{name}"), value.clone()),
    });
    Value::Object(renamed.collect())
}

/// A configuration says what was done, no more.
#[test]
fn configurations_say_how_values_were_chosen() {
    let folder = scratch();
    let [rounded, chosen] = ["rounded", "chosen"].map(|name| folder.path().join(name));
    let version = env!("CARGO_PKG_VERSION");
    for target in ["gptq:w4g128", "awq:w4g128", "ct:w4a16", "fp8:tensor", "bnb:nf4"] {
        convert(&demo(), target, &rounded, &[]);
        let expected = json!({"quantizer": [format!("quantize:{version}")], "method": "rtn"});
        assert_eq!(config(&rounded)["meta"], expected, "{target}");
        convert(&demo(), target, &rounded, &["--rounding", "mse"]);
        assert_eq!(config(&rounded)["meta"]["method"], "mse", "{target}");
    }
    convert(&demo(), "gptq:w4g128", &rounded, &[]);
    for key in ["damp_percent", "true_sequential", "static_groups"] {
        assert_eq!(config(&rounded).get(key), None, "{key}");
    }
    let source = demo();
    let arguments = [
        "quantize",
        text(&source),
        "--to",
        "gptq:w4g128",
        "-o",
        text(&chosen),
        "--data",
        "default",
        "--ctx",
        "32",
        "--chunks",
        "4",
        "--damping",
        "0.02",
        "--order",
        "static",
    ];
    quantize(&arguments).expect_success();
    let made = config(&chosen);
    assert_eq!(made["damp_percent"], 0.02);
    assert_eq!(made["true_sequential"], true);
    assert_eq!(made["static_groups"], true);
    assert_eq!(made["desc_act"], false);
    let meta = &made["meta"];
    assert_eq!(meta["method"], "gptq");
    assert_eq!(meta["order"], "static");
    assert_eq!(meta["damp_percent"], 0.02);
    let read = &meta["calibration"];
    assert_eq!((&read["chunks"], &read["context"]), (&json!(4), &json!(32)));
    assert_eq!(read["data"], json!(["default"]));
    assert_eq!(read["tokens_sha256"].as_str().map(str::len), Some(64));
    let own = fs::read(chosen.join("quantize_config.json")).expect("read");
    assert_eq!(serde_json::from_slice::<Value>(&own).expect("JSON"), made);

    let inspected = |path: &Path| quantize(&["inspect", text(path)]).expect_success().stdout;
    let (of_rounded, of_chosen) = (inspected(&rounded), inspected(&chosen));
    for said in [&of_rounded, &of_chosen] {
        assert!(said.contains("GPTQ 4-bit, group 128, symmetric"), "{said}");
        assert!(!said.contains("Q4_0"), "{said}");
    }
    assert!(of_rounded.contains(&format!("rtn, quantize:{version}")), "{of_rounded}");
    assert!(of_chosen.contains(&format!("gptq, quantize:{version}")), "{of_chosen}");
    let report = quantize(&["inspect", text(&chosen), "--json"]).expect_success().json();
    assert_eq!(report["quantization"]["bits"], 4);
    assert_eq!(report["quantization"]["group_size"], 128);
    assert_eq!(report["quantization"]["symmetric"], true);
    let types = report["types"].as_array().expect("types");
    assert!(types.iter().any(|share| share["type"] == "GPTQ 4-bit"), "{types:?}");
}
