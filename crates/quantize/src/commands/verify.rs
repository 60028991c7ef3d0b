//! `quantize verify`

use qz_pipeline::{FindingKind, JudgedFor, TensorCheck, Verification, VerifyOptions, verify};

use super::{print_json, print_line};
use crate::cli::{Global, Verify};
use crate::exit::Outcome;
use crate::interrupt;
use crate::progress::Progress;
use crate::render::{many, table};

pub(crate) fn run(arguments: &Verify, global: &Global) -> anyhow::Result<Outcome> {
    let options = VerifyOptions {
        source: arguments.source.clone(),
        engine: arguments.engine,
        open: arguments.read.options(),
        max_relative_error: arguments.max_relative_error,
        threads: global.thread_count(),
    };
    let mut progress = Progress::new(global);
    let cancel = interrupt::install()?;
    let verification = verify(&arguments.model, &options, &cancel, &mut progress)?;
    drop(progress);
    if arguments.json {
        print_json(&verification);
    } else {
        print_line(&text(&verification, global.verbose));
    }
    Ok(Outcome::of_check(verification.passed))
}

/// Findings, a line for each kind or for each one, then the measured errors: the worst
/// tensor of each type, or all.
pub(crate) fn text(verification: &Verification, all: bool) -> String {
    let findings = &verification.findings;
    let kinds: Vec<FindingKind<'_>> = match all {
        true => findings.chunks(1).flat_map(FindingKind::of).collect(),
        false => FindingKind::of(findings),
    };
    let mut parts: Vec<String> =
        kinds.iter().map(|kind| format!("failed: {kind} [{}]", kind.rule)).collect();
    parts.extend(few_lost(verification));
    let measured: Vec<&TensorCheck> =
        verification.tensors.iter().filter(|check| check.relative_error.is_some()).collect();
    if !measured.is_empty() {
        parts.push(if all { errors(&measured) } else { worst_of_each_type(&measured) });
    }
    parts.push(verdict(verification, kinds.len(), measured.len()));
    parts.join("\n")
}

fn verdict(verification: &Verification, kinds: usize, compared: usize) -> String {
    let (findings, tensors) = (verification.findings.len(), verification.tensors.len());
    let engine = match &verification.engine {
        Some(JudgedFor { version, has_rules: true, .. }) => format!(" for {version}"),
        _ => String::new(),
    };
    let unjudged = match &verification.engine {
        Some(JudgedFor { version, has_rules: false, .. }) => {
            format!("not judged for {version}: there are no rules for GGUF files\n")
        }
        _ => String::new(),
    };
    let (all, tensors) = (many(findings, "finding"), many(tensors, "tensor"));
    let verdict = match (verification.passed, compared) {
        (false, _) if kinds < findings => {
            format!("FAILED{engine}: {all} of {}", many(kinds, "kind"))
        }
        (false, _) => format!("FAILED{engine}: {all}"),
        (true, 0) => format!("ok{engine}: {tensors}, structure only"),
        (true, compared) => {
            format!("ok{engine}: {tensors}, {compared} compared with their source")
        }
    };
    unjudged + &verdict
}

/// Weights in lost blocks that are too few for a finding.
fn few_lost(verification: &Verification) -> Option<String> {
    const SHOWN: usize = 8;
    const RULE: &str = "lost-weights";
    let is_found = |check: &TensorCheck| {
        let of_tensor = |tensor: Option<&str>| tensor == Some(&*check.name);
        verification.findings.iter().any(|it| it.rule == RULE && of_tensor(it.tensor.as_deref()))
    };
    let lost = |check: &TensorCheck| check.lost.filter(|lost| *lost > 0 && !is_found(check));
    let checks = verification.tensors.iter();
    let all: Vec<String> =
        checks.filter_map(|check| Some(format!("{} ({})", check.name, lost(check)?))).collect();
    let more = match all.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {} more", many(more, "tensor")),
    };
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    (!all.is_empty()).then(|| {
        format!(
            "warning: weights in blocks of which more than half is lost: {shown}{more} [{RULE}]"
        )
    })
}

fn errors(checks: &[&TensorCheck]) -> String {
    let row = |check: &&TensorCheck| {
        vec![
            check.name.clone(),
            check.data_type.to_owned(),
            format!("{:.6}", check.relative_error.unwrap_or_default()),
            check.vanished.unwrap_or_default().to_string(),
            check.lost.unwrap_or_default().to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = checks.iter().map(row).collect();
    table(&["tensor", "type", "relative error", "vanished", "lost"], &rows)
}

fn worst_of_each_type(checks: &[&TensorCheck]) -> String {
    let mut worst: Vec<(&TensorCheck, usize)> = Vec::new();
    for check in checks {
        match worst.iter_mut().find(|(known, _)| known.data_type == check.data_type) {
            Some((known, tensors)) => {
                *tensors += 1;
                if check.relative_error > known.relative_error {
                    *known = check;
                }
            }
            None => worst.push((check, 1)),
        }
    }
    let row = |(check, tensors): &(&TensorCheck, usize)| {
        vec![
            check.data_type.to_owned(),
            tensors.to_string(),
            format!("{:.6}", check.relative_error.unwrap_or_default()),
            check.name.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = worst.iter().map(row).collect();
    table(&["type", "tensors", "largest relative error", "of tensor"], &rows)
}
