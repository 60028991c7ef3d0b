//! How runs end: by signals, before readers that are gone, and refused before any work.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{command, copy_of, fixtures, interruptible, names, quantize, scratch, text};

fn demo() -> PathBuf {
    fixtures().join("demo-llama")
}

/// A run that takes far longer than a test: `quantize` on many chunks of text.
#[cfg(unix)]
fn slow<'a>(source: &'a Path, output: &'a Path) -> [&'a str; 13] {
    let (source, output) = (text(source), text(output));
    let job = ["quantize", source, "--to", "q4_0", "--data", "default", "--ctx", "128"];
    let [a, b, c, d, e, f, g, h] = job;
    [a, b, c, d, e, f, g, h, "--threads", "1", "-v", "-o", output]
}

/// Runs until a tensor is done, then sends signals; gives the code, what was said, and how
/// long the end took.
#[cfg(unix)]
fn signalled(mut run: Command, signals: &[&str]) -> (Option<i32>, String, Duration) {
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    for line in lines.by_ref().map(|line| line.expect("UTF-8")) {
        said.push_str(&line);
        said.push('\n');
        if line.starts_with("blk.") && line.ends_with(" -> Q4_0") {
            break;
        }
    }
    let id = child.id().to_string();
    let sent = Instant::now();
    for signal in signals {
        let status = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(status.expect("kill runs").success());
    }
    lines.map(|line| line.expect("UTF-8")).for_each(|line| {
        said.push_str(&line);
        said.push('\n');
    });
    (child.wait().expect("waited").code(), said, sent.elapsed())
}

/// An interrupt keeps what is done for the next run, and says so: by its code, and in words.
#[cfg(unix)]
#[test]
fn an_interrupt_says_where_it_was() {
    let folder = scratch();
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    for (signal, expected) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let (code, said, time) = signalled(interruptible(&slow(&source, &output)), &[signal]);
        assert_eq!(code, Some(expected), "{signal}: {said}");
        assert!(time < Duration::from_secs(3), "{signal}: {time:?}");
        assert_eq!(names(folder.path()), ["out.gguf.partial"]);
        let wanted = [
            "text: ",
            "interrupted: quantize q4_0, layer ",
            "out.gguf.partial (",
            "the same command continues",
        ];
        for wanted in wanted {
            assert!(said.contains(wanted), "{wanted:?}: {said}");
        }
    }
    // The last runs went on from what the first had.
    let (_, said, _) = signalled(interruptible(&slow(&source, &output)), &["INT"]);
    assert!(said.contains("continuing"), "{said}");
}

/// `nohup` is asked for what it says.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let folder = scratch();
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let mut run = Command::new("bash");
    let binary = env!("CARGO_BIN_EXE_quantize");
    run.args(["-c", "trap '' HUP; exec \"$@\"", "bash", binary]).args(slow(&source, &output));
    let (code, said, _) = signalled(run, &["HUP", "TERM"]);
    assert_eq!(code, Some(143), "{said}");
}

/// Nobody who could be told: the work is done all the same.
#[cfg(target_os = "linux")]
#[test]
fn messages_never_end_a_job() {
    let folder = scratch();
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    quantize(&["convert", text(&source), "--to", "q6_k", "-o", text(&output)]).expect_success();
    let expected = fs::read(&output).expect("read");
    fs::remove_file(&output).expect("removed");
    let arguments = ["convert", text(&source), "--to", "q6_k", "-v", "-o", text(&output)];
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let closed = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    for gone in [Stdio::from(full()), Stdio::from(closed())] {
        let status = command(&arguments).stdout(Stdio::null()).stderr(gone).status();
        assert_eq!(status.expect("runs").code(), Some(0));
        assert!(fs::read(&output).expect("read") == expected);
        fs::remove_file(&output).expect("removed");
    }
}

/// A reader of the report who is gone changes nothing; a report that cannot be written is
/// told by the code.
#[cfg(target_os = "linux")]
#[test]
fn the_outcome_does_not_depend_on_who_reads_it() {
    let folder = scratch();
    let model = fixtures().join("tiny/llama-tied");
    let words = folder.path().join("text");
    fs::write(&words, "The quick brown fox jumps over the lazy dog.\n".repeat(60))
        .expect("written");
    let eval = ["eval", text(&model), "--data", text(&words), "--ctx", "32", "--chunks", "2"];
    let failing = [&eval[..], &["--max-ppl", "1"]].concat();
    let code = |arguments: &[&str], out: Stdio| {
        let run = command(arguments).stdout(out).stderr(Stdio::null()).status();
        run.expect("runs").code()
    };
    let closed = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        Stdio::from(writer)
    };
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    assert_eq!(code(&eval, closed()), Some(0));
    assert_eq!(code(&failing, closed()), Some(1));
    assert_eq!(code(&failing, Stdio::null()), Some(1));
    for json in [&[][..], &["--json"]] {
        assert_eq!(code(&[&eval[..], json].concat(), full().into()), Some(4));
        assert_eq!(code(&[&failing[..], json].concat(), full().into()), Some(4));
    }
    let bad = ["eval", text(&words), "--data", text(&words), "--json"];
    assert_eq!(code(&bad, full().into()), Some(3));
    assert_eq!(code(&bad, closed()), Some(3));
}

/// No output is an input, by whatever name, and nothing is touched to find out.
#[cfg(unix)]
#[test]
fn an_output_is_no_input() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let (model, gguf, words) = (copy_of("tiny/llama-tied", folder.path()), at("m"), at("text"));
    fs::write(&words, "The quick brown fox jumps over the lazy dog.\n".repeat(60))
        .expect("written");
    quantize(&["convert", text(&model), "--to", "f16", "-o", text(&gguf)]).expect_success();
    let statistics = at("statistics");
    let cut = ["--data", text(&words), "--ctx", "32", "--chunks", "2"];
    let calibrate = [&["calibrate", text(&gguf)][..], &cut].concat();
    quantize(&[&calibrate[..], &["-o", text(&statistics)]].concat()).expect_success();
    let [hard, soft, side] = [at("hard"), at("soft"), model.join("tokenizer.json")];
    fs::hard_link(&words, &hard).expect("linked");
    std::os::unix::fs::symlink(&gguf, &soft).expect("linked");
    let page = at("page");
    fs::write(&page, "a page").expect("written");
    let [eval, compare, convert] =
        ["eval", "compare", "convert"].map(|name| vec![name, text(&gguf)]);
    let quantized = [&["quantize", text(&gguf), "--to", "q4_0"][..], &cut].concat();
    let to = |target| vec!["--to", target];
    let cases: Vec<(Vec<&str>, &str, &Path)> = vec![
        (calibrate.clone(), "-o", &gguf),
        (calibrate.clone(), "-o", &words),
        (calibrate.clone(), "-o", &hard),
        (calibrate, "-o", &soft),
        (vec!["calibrate", "--in-file", text(&statistics)], "-o", &statistics),
        (quantized.clone(), "-o", &hard),
        (quantized, "-o", &gguf),
        ([eval.clone(), cut.to_vec()].concat(), "--save-logits", &gguf),
        ([eval.clone(), cut.to_vec()].concat(), "--save-leading", &words),
        ([eval, vec!["--reference", text(&model)], cut.to_vec()].concat(), "--save-logits", &side),
        ([compare.clone(), vec![text(&gguf)], cut.to_vec()].concat(), "-o", &soft),
        ([compare.clone(), vec![text(&model)], cut.to_vec()].concat(), "-o", &side),
        ([compare, vec![text(&gguf)], cut.to_vec()].concat(), "-o", &words),
        ([convert.clone(), to("q8_0")].concat(), "-o", &soft),
        ([convert, to("q4_0"), vec!["--imatrix", text(&statistics)]].concat(), "-o", &statistics),
        ([vec!["convert", text(&model)], to("q8_0")].concat(), "-o", &side),
    ];
    let before = contents(folder.path());
    for (command, option, output) in cases {
        let run = quantize(&[&command[..], &[option, text(output), "--force", "--json"]].concat());
        let found = (run.code, run.json()["error"]["rule"].clone());
        assert_eq!(found, (5, "output-is-input".into()), "{command:?} {output:?}: {}", run.stderr);
        assert!(contents(folder.path()) == before, "{command:?} {output:?}");
    }
    // What is there already is found before the work, too.
    let gguf = text(&gguf);
    let compare = [&["compare", gguf, gguf][..], &cut, &["-o", text(&page), "--json"]].concat();
    let run = quantize(&compare);
    assert_eq!((run.code, &run.json()["error"]["rule"]), (5, &"output-exists".into()));
    assert!(contents(folder.path()) == before);
}

/// Every file below a folder, with its bytes.
#[cfg(unix)]
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.clone(), fs::read(&path).expect("read"))),
        }
    }
    found
}
