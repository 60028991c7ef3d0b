//! `quantize targets`

use qz_pipeline::{Model, TargetInfo, targets};
use serde::Serialize;

use super::{print_json, print_line};
use crate::cli::{Global, Targets};
use crate::exit::Outcome;
use crate::render::{table, wrapped};

#[derive(Serialize)]
struct Report {
    targets: Vec<TargetInfo>,
}

pub(crate) fn run(arguments: &Targets, _: &Global) -> anyhow::Result<Outcome> {
    let model = arguments.model.as_ref();
    let model = model.map(|path| Model::open(path, &arguments.read.options())).transpose()?;
    let mut targets = targets(model.as_ref());
    if let Some(engine) = arguments.engine {
        targets.retain(|target| target.loaded_by.contains(&engine.name()));
    }
    if arguments.json {
        print_json(&Report { targets });
    } else {
        print_line(&text(&targets, model.is_some()));
    }
    Ok(Outcome::Ok)
}

/// Lines fit a terminal.
const WIDTH: usize = 80;

fn text(targets: &[TargetInfo], of_model: bool) -> String {
    let last = if of_model { "this model" } else { "inputs in" };
    let reasons = reasons(targets);
    let row = |info: &TargetInfo| {
        let bits = match &info.model {
            None => info.demand.bits_per_weight,
            Some(fit) => fit.bits_per_weight,
        };
        vec![
            info.target.clone(),
            bits.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.2}")),
            match info.loaded_by.len() {
                0 => "no engine".to_owned(),
                1..=3 => info.loaded_by.join(", "),
                _ => "all but llama.cpp".to_owned(),
            },
            if of_model { fit(info, &reasons) } else { rows(info) },
        ]
    };
    let rows: Vec<Vec<String>> = targets.iter().map(row).collect();
    let whose = if of_model { "of this model" } else { "of an 8B Llama 3" };
    let mut text = table(&["target", "bits/weight", "loaded by", last], &rows);
    text.push_str(&format!("\n\nbits/weight: {whose}, embedding and output matrix included"));
    for (number, reason) in reasons.iter().enumerate() {
        let line = format!("no ({}): {reason}", number + 1);
        text.push_str(&format!("\n{}", wrapped(&line, "  ", WIDTH)));
    }
    if !of_model {
        text.push_str(
            "\ninputs in: rows are multiples of this; *: others fall back to another type\n\
             --data: `quantize quantize` alone writes them, with a text\n\
             packed targets take other numbers: gptq:w3g64+asym, ct:w4a16+g64, mlx:w6g128",
        );
    }
    text
}

/// Why targets do not fit the model, each reason once.
fn reasons(targets: &[TargetInfo]) -> Vec<&str> {
    let mut reasons = Vec::new();
    for info in targets {
        if let Some(why) = info.model.as_ref().and_then(|fit| fit.why_not.as_deref())
            && !reasons.contains(&why)
        {
            reasons.push(why);
        }
    }
    reasons
}

/// What rows have to be a multiple of.
fn rows(info: &TargetInfo) -> String {
    let demand = &info.demand;
    let columns = match (demand.columns, demand.has_stand_in) {
        (1, _) => "any".to_owned(),
        (columns, false) => format!("{columns}s"),
        (columns, true) => format!("{columns}s *"),
    };
    let rows =
        if demand.rows > 1 { format!(", outputs of {}", demand.rows) } else { String::new() };
    let importance = if demand.needs_importance { ", --imatrix" } else { "" };
    let text = if demand.needs_text { ", --data" } else { "" };
    format!("{columns}{rows}{importance}{text}")
}

fn fit(info: &TargetInfo, reasons: &[&str]) -> String {
    let Some(fit) = &info.model else { return String::new() };
    match (&fit.why_not, fit.fallbacks) {
        (Some(why), _) => {
            let number = reasons.iter().position(|reason| reason == why).unwrap_or_default();
            format!("no ({})", number + 1)
        }
        (None, _) if info.demand.needs_importance => "needs --imatrix".to_owned(),
        (None, _) if info.demand.needs_text => "needs --data".to_owned(),
        (None, 0) => "fits".to_owned(),
        (None, fallbacks) => format!("fits, {fallbacks} fall back"),
    }
}
