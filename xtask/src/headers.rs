//! What `inspect` takes for the worst legal headers: memory and time.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bench::measure;
use crate::large;

/// Bytes of a header.
const SIZE: usize = 96_000_000;

/// What may be taken (RELIABILITY.md, row 10).
const MOST_KIB: i64 = 400 << 10;
const LONGEST: Duration = Duration::from_secs(10);

pub(crate) fn run(quantize: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("model.gguf");
    let mut is_kept = true;
    println!("{:<16} {:<10} {:>8} {:>8}", "header of", "report", "MiB", "s");
    for (kind, make) in large::KINDS {
        std::fs::write(&path, make(SIZE))?;
        for options in [&[][..], &["--tensors"], &["--json"]] {
            let measured = measure(Command::new(quantize).arg("inspect").arg(&path).args(options))?;
            let (mib, seconds) = (measured.peak_kib / 1024, measured.time.as_secs_f64());
            let report = options.first().copied().unwrap_or("text");
            println!("{kind:<16} {report:<10} {mib:>8} {seconds:>8.1}");
            is_kept &= measured.peak_kib <= MOST_KIB && measured.time <= LONGEST;
        }
    }
    ensure!(is_kept, "more than {MOST_KIB} KiB or {LONGEST:?}");
    Ok(())
}
