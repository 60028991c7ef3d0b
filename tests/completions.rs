//! What shells complete.

use std::process::Command;

use crate::support::{command, finish, quantize};

/// What the program answers a shell after these words.
fn answers(words: &[&str]) -> Vec<String> {
    let mut asked = command(&[]);
    let index = words.len().to_string();
    asked.env("QUANTIZE_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index);
    asked.env("_CLAP_IFS", "\n").args(["--", "quantize"]).args(words);
    let run = finish(asked.output().expect("the binary runs"));
    run.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn values_are_completed() {
    let check = |words: &[&str], expected: &[&str]| {
        let found = answers(words);
        for value in expected {
            assert!(found.iter().any(|found| found == value), "{words:?}: {found:?}");
        }
    };
    check(&["conv"], &["convert"]);
    check(&["convert", "x", "--to", "q4_k"], &["q4_k_s", "q4_k_m"]);
    check(&["convert", "x", "--to", "gptq:w4"], &["gptq:w4g128", "gptq:w4"]);
    check(&["convert", "x", "--to", "q8_0,q4_k_"], &["q8_0,q4_k_s", "q8_0,q4_k_m"]);
    check(&["convert", "x", "--to", "q8_0,gptq:w8"], &["q8_0,gptq:w8g128"]);
    check(&["convert", "x", "--output-tensor-type", "q6"], &["q6_k"]);
    check(&["verify", "x", "--for", ""], &["vllm", "sglang", "transformers", "llama.cpp", "mlx"]);
    check(&["quantize", "x", "--method", "gp"], &["gptq"]);
    check(&["bench", "--types", "q4_0,q8"], &["q4_0,q8_0"]);
    check(&["calibrate", "--coll"], &["--collect"]);
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = quantize(&["completions", shell]).expect_success().stdout;
        assert!(script.contains("QUANTIZE_COMPLETE"), "{shell}: {script}");
    }
    assert_eq!(quantize(&["completions", "sh"]).code, 2);
}

/// Bash itself, which cuts words at colons: what it would insert for the last of its words.
#[cfg(unix)]
#[test]
fn bash_completes_behind_colons() {
    let program = env!("CARGO_BIN_EXE_quantize");
    let check = |words: &[&str], line: &str, expected: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "source <('{program}' completions bash)
             COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'
             COMP_WORDS=('{program}' {}); COMP_CWORD={}
             COMP_LINE='{program} {line}'; COMP_POINT=${{#COMP_LINE}}
             _quantize; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len(),
        );
        let Ok(output) = Command::new("bash").args(["--norc", "-c", &script]).output() else {
            return;
        };
        let run = finish(output);
        let found: Vec<&str> = run.stdout.lines().collect();
        for value in expected {
            assert!(found.contains(value), "{line}: {found:?} {}", run.stderr);
        }
    };
    check(&["convert", "x", "--to", "q4_k"], "convert x --to q4_k", &["q4_k_s", "q4_k_m"]);
    check(&["convert", "x", "--to", "gptq", ":", "w8"], "convert x --to gptq:w8", &["w8g128"]);
    check(&["convert", "x", "--to", "gptq", ":", ""], "convert x --to gptq:", &["w4g128", "w4"]);
    check(
        &["convert", "x", "--to", "q8_0,ct", ":", "w4"],
        "convert x --to q8_0,ct:w4",
        &["w4a16", "w4a16+asym"],
    );
    check(&["convert", "x", "--to", "=", "q6"], "convert x --to=q6", &["q6_k"]);
    check(&["verify", "x", "--for", ""], "verify x --for ", &["vllm", "mlx"]);
}
