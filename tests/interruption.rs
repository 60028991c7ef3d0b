//! Killed, starved or raced, it never leaves a wrong file.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use qz_gguf::GgufFile;
use qz_tensor::TensorSource;

use crate::support::{
    command, fixtures, leave_unfinished, names, quantize, scratch, stop, survives_kills, text,
};

fn demo() -> std::path::PathBuf {
    fixtures().join("demo-llama")
}

fn converted(output: &Path) -> Vec<u8> {
    let source = demo();
    quantize(&["convert", text(&source), "--to", "q6_k", "-o", text(output)]).expect_success();
    fs::read(output).expect("read")
}

/// Killed with some of its work written down, a run is continued to the same file.
#[test]
fn a_killed_run_is_finished_by_the_next() {
    let folder = scratch();
    let expected = converted(&folder.path().join("expected.gguf"));
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let arguments = ["convert", text(&source), "--to", "q6_k", "-o", text(&output)];
    survives_kills(&arguments, &output, &|| {
        assert!(fs::read(&output).expect("read") == expected);
    });
    assert_eq!(names(folder.path()), ["expected.gguf", "out.gguf"]);
}

/// Of several outputs those that a killed run has finished are not made again.
#[test]
fn finished_outputs_of_a_killed_run_stay() {
    let folder = scratch();
    let (source, output) = (demo(), folder.path().join("out"));
    let job = ["quantize", text(&source), "--to", "q8_0,q6_k,f16", "--method", "rtn"];
    let arguments = [&job[..], &["-o", text(&output)]].concat();
    let [first, second, third] =
        ["Q8_0", "Q6_K", "F16"].map(|name| output.join(format!("demo-llama-{name}.gguf")));
    let forced = [&arguments[..], &["--force"]].concat();
    let run = || {
        leave_unfinished(&forced, &second, 3);
        // Of a run before that came to its end.
        let _ = fs::remove_file(&third);
        fs::read(&first).expect("read")
    };
    let expected = folder.path().join("expected.gguf");
    let alone = ["quantize", text(&source), "--to", "q6_k", "--method", "rtn", "-o"];
    quantize(&[&alone[..], &[text(&expected)]].concat()).expect_success();
    let made = run();
    let report = quantize(&arguments).expect_success();
    let there = format!("{}: is there already, made by this job", text(&first));
    let is_said = report.stderr.contains(&there) && report.stderr.contains("continuing, ");
    assert!(is_said, "{}", report.stderr);
    assert!(["q8_0 ", "q6_k ", "f16 "].iter().all(|name| report.stdout.contains(name)));
    assert!(fs::read(&first).expect("read") == made);
    assert!(fs::read(&second).expect("read") == fs::read(&expected).expect("read"));
    let written = ["demo-llama-F16.gguf", "demo-llama-Q6_K.gguf", "demo-llama-Q8_0.gguf"];
    assert_eq!(names(&output), written);
    // Once all are there, they are as any others.
    assert_eq!(quantize(&arguments).code, 5);

    // What somebody has changed since is none of the job's.
    run();
    fs::write(&first, &made).expect("written");
    let refused = quantize(&arguments);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
}

/// A run that was killed is not continued with another importance matrix, even one
/// of the same name and size.
#[test]
fn another_importance_matrix_starts_over() {
    let folder = scratch();
    let [matrix, output] = ["matrix.gguf", "out.gguf"].map(|name| folder.path().join(name));
    let source = demo();
    let arguments = ["convert", text(&source), "--to", "q4_k_m", "-o", text(&output)];
    let arguments = [&arguments[..], &["--imatrix", text(&matrix)]].concat();
    let first = fs::read(source.join("importance.gguf")).expect("read");
    let second = with_reversed_sums(&source.join("importance.gguf"));
    fs::write(&matrix, &second).expect("written");
    let expected = |matrix_bytes: &[u8]| {
        fs::write(&matrix, matrix_bytes).expect("written");
        quantize(&arguments).expect_success();
        let bytes = fs::read(&output).expect("read");
        fs::remove_file(&output).expect("removed");
        bytes
    };
    let [of_first, of_second] = [&first, &second].map(|matrix| expected(matrix));
    assert!(of_first != of_second);
    fs::write(&matrix, &first).expect("written");
    leave_unfinished(&arguments, &output, 3);
    fs::write(&matrix, &second).expect("written");
    let run = quantize(&arguments).expect_success();
    assert!(!run.stderr.contains("continuing, "), "{}", run.stderr);
    assert!(fs::read(&output).expect("read") == of_second);
}

/// A bit that flips in what a killed run left is found, told, and in no file.
#[test]
fn a_damaged_tensor_is_computed_again() {
    let folder = scratch();
    let expected = converted(&folder.path().join("expected.gguf"));
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let arguments = ["convert", text(&source), "--to", "q6_k", "-o", text(&output)];
    leave_unfinished(&arguments, &output, 2);
    let partial = folder.path().join("out.gguf.partial");
    let journal = fs::read_to_string(partial.join("journal")).expect("read");
    let name = journal.lines().nth(1).and_then(|line| line.split(' ').nth(3)).expect("a record");
    let file = GgufFile::open(folder.path().join("expected.gguf")).expect("opens");
    let damaged = file.tensors().iter().find(|info| info.name == name).expect("a tensor");
    let data = partial.join("data/out.gguf");
    let mut bytes = fs::read(&data).expect("read");
    bytes[usize::try_from(damaged.offset + damaged.bytes / 2).expect("small")] ^= 4;
    fs::write(&data, bytes).expect("written");
    let run = quantize(&arguments).expect_success();
    assert!(run.stderr.contains("continuing, "), "{}", run.stderr);
    let warning = format!("bytes of {name} have changed");
    assert!(run.stderr.contains(&warning), "{}", run.stderr);
    assert!(fs::read(&output).expect("read") == expected);
}

/// The file with every tensor's sums in the opposite order.
fn with_reversed_sums(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).expect("read");
    let file = GgufFile::open(path).expect("opens");
    for info in file.tensors().iter().filter(|info| info.name.ends_with(".in_sum2")) {
        let start = usize::try_from(info.offset).expect("small");
        let length = usize::try_from(info.bytes).expect("small");
        bytes[start..start + length].as_chunks_mut::<4>().0.reverse();
    }
    bytes
}

/// An interrupt keeps what is done for the next run, and says so by its code.
#[cfg(unix)]
#[test]
fn an_interrupt_is_not_an_error_and_not_a_file() {
    let folder = scratch();
    let expected = converted(&folder.path().join("expected.gguf"));
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let arguments = ["convert", text(&source), "--to", "q6_k", "-o", text(&output)];
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let status = stop(&arguments, &output, 1, &|child| {
            let id = child.id().to_string();
            let sent = std::process::Command::new("kill").args(["-s", signal, &id]).status();
            assert!(sent.expect("kill runs").success());
        });
        assert_eq!(status.code(), Some(code), "{signal}");
        assert!(!output.exists());
        let run = quantize(&arguments).expect_success();
        assert!(run.stderr.contains("continuing, "), "{}", run.stderr);
        assert!(fs::read(&output).expect("read") == expected);
    }
}

/// A limit on file sizes is an error, not a signal; it stands in for a full disk, too: the
/// operating system refuses the room before any work.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing() {
    let folder = scratch();
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let script = format!(
        "ulimit -f 100; ulimit -c 0; exec '{}' convert '{}' --to q8_0 -o '{}' --json",
        env!("CARGO_BIN_EXE_quantize"),
        text(&source),
        text(&output)
    );
    let output =
        std::process::Command::new("bash").args(["-c", &script]).output().expect("bash runs");
    let run = crate::support::finish(output);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("out.gguf"), "{}", run.stderr);
    assert!(names(folder.path()).is_empty());
}

/// A command under a limit of its address space.
#[cfg(target_os = "linux")]
fn under_limit(megabytes: usize, arguments: &[&str]) -> crate::support::Run {
    let script = "ulimit -v $0; ulimit -c 0; exec \"$@\"";
    let kilobytes = (megabytes * 1024).to_string();
    let output = std::process::Command::new("bash")
        .args(["-c", script, &kilobytes, env!("CARGO_BIN_EXE_quantize")])
        .args(arguments)
        .output()
        .expect("bash runs");
    crate::support::finish(output)
}

/// Memory and threads that are refused, at whatever point, are an error, not a signal; what is
/// left of the run is continued.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_is_refused_is_an_error() {
    let folder = scratch();
    let expected = converted(&folder.path().join("expected.gguf"));
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    let arguments = ["convert", text(&source), "--to", "q6_k", "-o", text(&output)];
    // What the program itself needs.
    let least = (16..400).step_by(8).find(|least| under_limit(*least, &["--version"]).code == 0);
    let least = least.expect("the program begins");
    let mut refused = 0;
    for more in (2..32).step_by(2).chain((32..256).step_by(32)) {
        let run = under_limit(least + more, &arguments);
        if run.code == 0 {
            fs::remove_file(&output).expect("removed");
            continue;
        }
        assert_eq!(run.code, 4, "{least} and {more} MB: {}", run.stderr);
        assert!(!run.stderr.is_empty() && !output.exists(), "{least} and {more} MB");
        refused += 1;
    }
    assert!(refused > 0);
    quantize(&arguments).expect_success();
    assert!(fs::read(&output).expect("read") == expected);
    assert!(!names(folder.path()).iter().any(|name| name.ends_with(".partial")));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = scratch();
    fs::write(folder.path().join("taken"), "a file").expect("written");
    let (source, output) = (demo(), folder.path().join("taken/out.gguf"));
    let run = quantize(&["convert", text(&source), "--to", "q8_0", "-o", text(&output)]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("taken: not a folder"), "{}", run.stderr);
}

/// Of several writers one makes the file; the others say who holds it, or find it.
#[test]
fn concurrent_writers_do_not_mix() {
    let folder = scratch();
    let expected = converted(&folder.path().join("expected.gguf"));
    let (source, output) = (demo(), folder.path().join("out.gguf"));
    for _ in 0..3 {
        let arguments = ["convert", text(&source), "--to", "q6_k", "-o", text(&output)];
        let children: Vec<_> = (0..3)
            .map(|_| {
                command(&arguments)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("runs")
            })
            .collect();
        let codes: Vec<Option<i32>> = children
            .into_iter()
            .map(|child| child.wait_with_output().expect("waited").status.code())
            .collect();
        assert!(codes.contains(&Some(0)), "{codes:?}");
        assert!(codes.iter().all(|code| [Some(0), Some(4), Some(5)].contains(code)), "{codes:?}");
        assert!(fs::read(&output).expect("read") == expected);
        fs::remove_file(&output).expect("removed");
        assert_eq!(names(folder.path()), ["expected.gguf"]);
    }
}
