//! What is said of a folder that is about to be written: which engines refuse it, and what
//! they would load instead.

use super::facts::Facts;
use super::{ENGINES, Engine, judged, loading};
use crate::error::Error;
use crate::format::TargetPlan;
use crate::target::Target;
use crate::verify::{Finding, FindingKind};

/// A warning if engines that read the target's method refuse what is planned. `plan` plans
/// another target for the same model.
///
/// # Errors
/// If what is planned is no configuration.
pub(crate) fn warning(
    target: &Target,
    planned: &TargetPlan,
    plan: &dyn Fn(&Target) -> Result<TargetPlan, Error>,
) -> Result<Option<String>, Error> {
    let refusals = refusals(planned)?;
    if refusals.is_empty() {
        return Ok(None);
    }
    let engines: Vec<Engine> = refusals.iter().map(|(engine, _)| *engine).collect();
    // Engines with the same reasons are named together.
    let mut groups: Vec<(String, Vec<Engine>)> = Vec::new();
    for (engine, findings) in &refusals {
        let kinds: Vec<String> =
            FindingKind::of(findings).iter().map(FindingKind::to_string).collect();
        let reasons = kinds.join("; ");
        match groups.iter_mut().find(|(known, _)| *known == reasons) {
            Some((_, engines)) => engines.push(*engine),
            None => groups.push((reasons, vec![*engine])),
        }
    }
    let refusal = |(reasons, engines): (String, Vec<Engine>)| {
        let refuses = if engines.len() == 1 { "refuses" } else { "refuse" };
        format!("{} {refuses} it: {reasons}", named(&engines))
    };
    let mut text: Vec<String> = groups.into_iter().map(refusal).collect();
    let other = alternative(target, &engines, plan);
    text.extend(other.map(|other| format!("{} would load {other}", named(&engines))));
    Ok(Some(format!("{target}: {}", text.join("; "))))
}

fn named(engines: &[Engine]) -> String {
    let names: Vec<&str> = engines.iter().map(|engine| engine.version()).collect();
    names.join(" and ")
}

/// Engines that read the method and refuse this checkpoint, with what they find.
fn refusals(planned: &TargetPlan) -> Result<Vec<(Engine, Vec<Finding>)>, Error> {
    let Some(mut facts) = Facts::planned(&planned.checkpoint())? else { return Ok(Vec::new()) };
    let mut refusals = Vec::new();
    for engine in ENGINES {
        facts.engine = Some(*engine);
        let findings = judged(&facts);
        let reads = findings.iter().all(|finding| finding.rule != "engine-method");
        if reads && !findings.is_empty() {
            refusals.push((*engine, findings));
        }
    }
    Ok(refusals)
}

/// Whether these engines all load what is planned.
fn is_loaded(planned: &TargetPlan, engines: &[Engine]) -> bool {
    let loading = loading(&planned.checkpoint());
    engines.iter().all(|engine| loading.contains(engine))
}

/// Smaller groups than those that are listed.
const SMALL_GROUPS: &[&str] =
    &["gptq:w4g64", "gptq:w4g32", "gptq:w8g64", "gptq:w8g32", "ct:w4a16+g64", "awq:w4g64"];

/// Another packed target that all these engines load: with as many bits if there is one,
/// and of the same family if there is one.
fn alternative(
    target: &Target,
    engines: &[Engine],
    plan: &dyn Fn(&Target) -> Result<TargetPlan, Error>,
) -> Option<Target> {
    let bits = |target: &Target| target.scheme.chars().find(char::is_ascii_digit);
    let family = |target: &Target| target.format.name;
    let names = Target::names();
    let names = names.iter().map(String::as_str).chain(SMALL_GROUPS.iter().copied());
    let mut others: Vec<Target> = names.filter_map(|name| name.parse().ok()).collect();
    others.retain(|other| other.format.is_packed() && other.to_string() != target.to_string());
    others.sort_by_key(|other| (bits(other) != bits(target), family(other) != family(target)));
    others.into_iter().find(|other| plan(other).is_ok_and(|plan| is_loaded(&plan, engines)))
}
