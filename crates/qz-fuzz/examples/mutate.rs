//! Tries mutants of every target, or of some: `mutate [--mutants N] [--seed N] [--from N]
//! [TARGET …]`. A finding is written to `finding-TARGET` in the current folder.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::Instant;

use peak_alloc::PeakAlloc;
use qz_fuzz::{Limits, TARGETS, run};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn main() -> ExitCode {
    let (mut mutants, mut seed, mut from, mut names) = (10_000_000, 1, 0, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = match argument.as_str() {
            "--mutants" => &mut mutants,
            "--seed" => &mut seed,
            "--from" => &mut from,
            _ => {
                names.push(argument);
                continue;
            }
        };
        match arguments.next().and_then(|value| value.parse().ok()) {
            Some(value) => *number = value,
            None => {
                eprintln!("{argument} needs a number");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(name) = names.iter().find(|name| TARGETS.iter().all(|one| one.name != **name)) {
        eprintln!("no target {name:?}");
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = false;
    for target in
        TARGETS.iter().filter(|one| names.is_empty() || names.iter().any(|n| n == one.name))
    {
        let start = Instant::now();
        match run(target, seed, from..from + mutants, Limits::default(), &MEMORY) {
            Ok(report) => println!(
                "{:<20} {} mutants, {} read, slowest {:.0} ms, most {:.1} MiB, {:.1} s",
                target.name,
                report.mutants,
                report.accepted,
                report.slowest.as_secs_f64() * 1e3,
                report.memory as f64 / f64::from(1 << 20),
                start.elapsed().as_secs_f64(),
            ),
            Err(finding) => {
                failed = true;
                println!("{:<20} {finding}", target.name);
                if let Err(error) =
                    std::fs::write(format!("finding-{}", target.name), &finding.bytes)
                {
                    eprintln!("the finding cannot be written: {error}");
                }
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
