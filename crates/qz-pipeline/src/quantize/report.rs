//! What is said about a quantization, and what tells it from another.

use std::fmt::Write as _;
use std::path::Path;

use qz_kernels::Isa;
use qz_methods::{Needs, Order, TensorReport};
use qz_packed::{Feedback, Provenance};
use serde_json::json;

use super::QuantizeOptions;
use super::capture::{Calibration, CalibrationSummary};
use super::folding::{FoldingSummary, Transform};
use super::known::Known;
use super::ranges::UnseenInputs;
use crate::calibrate::ExpertCoverage;
use crate::convert::ConvertReport;
use crate::planning::file_name;

/// What came of one output.
#[derive(Clone, Debug, serde::Serialize)]
pub struct QuantizeReport {
    /// The artifact.
    #[serde(flatten)]
    pub artifact: ConvertReport,
    /// The method's name.
    pub method: String,
    /// What was folded into the model before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folding: Option<FoldingSummary>,
    /// What the model read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationSummary>,
    /// How many tokens each expert was given, layer by layer, where that was seen in this run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertCoverage>,
    /// Experts that were given no token: what the target stores of their inputs is the largest of
    /// their siblings'.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unseen_inputs: Vec<UnseenInputs>,
    /// What the run takes of memory at most, as it was told before it began.
    pub memory_bound_bytes: u64,
    /// The matrices that the method was used on in this run.
    pub methods: Vec<MethodTensor>,
}

/// What the method did with a matrix.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MethodTensor {
    /// Its name in the output.
    pub tensor: String,
    /// Whose matrix of those stacked in the tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// The type it got.
    #[serde(rename = "type")]
    pub data_type: &'static str,
    /// Tokens that its inputs are known of, if these were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// As how many tokens these count, with the mean over all experts for the rest, where an
    /// expert was given few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filled_up_to: Option<u64>,
    /// Not corrected for what earlier layers lost, because the expert was given too few tokens.
    #[serde(rename = "uncorrected", skip_serializing_if = "std::ops::Not::not")]
    pub is_uncorrected: bool,
    /// What came of it.
    #[serde(flatten)]
    pub report: TensorReport,
}

/// What is gathered for a report.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) methods: Vec<MethodTensor>,
    pub(super) experts: Vec<ExpertCoverage>,
}

/// What configurations say of the method and of what the model read.
pub(super) fn provenance(
    options: &QuantizeOptions,
    calibration: Option<&Calibration>,
    known: Option<&Known>,
) -> Provenance {
    let mut provenance = Provenance::of(options.method_name());
    let details = &mut provenance.details;
    if let Some(Transform::SmoothQuant { strength }) = options.transform {
        details.insert("smoothing".to_owned(), json!(strength));
    }
    if options.method.needs() == Needs::Gram {
        let gptq = &options.options.gptq;
        details.insert("order".to_owned(), json!(gptq.order));
        details.insert("cycles".to_owned(), json!(gptq.cycles));
        if gptq.propagation != 0.0 {
            details.insert("propagation".to_owned(), json!(gptq.propagation));
            let damping = gptq.propagation_damping.map_or(json!("auto"), |own| json!(own));
            details.insert("propagation_damping".to_owned(), damping);
        }
        provenance.feedback = Some(Feedback {
            damping: gptq.damping,
            // With statistics of an earlier run every matrix sees the full model's inputs.
            sequential: calibration.is_some(),
            static_groups: gptq.order == Order::Static,
        });
    }
    if let (Some(calibration), Some(text)) = (calibration, &options.text) {
        let data: Vec<String> =
            text.names().iter().map(|name| file_name(Path::new(name))).collect();
        let read = json!({
            "data": data,
            "chunks": calibration.chunks.count(),
            "context": calibration.chunks.length(),
            "tokens_sha256": calibration.digest(),
        });
        details.insert("calibration".to_owned(), read);
    }
    if let (Some(known), Some(path)) = (known, &options.statistics) {
        let read = json!({"file": file_name(path), "sha256": known.digest()});
        details.insert("statistics".to_owned(), read);
    }
    provenance
}

/// Everything that decides about bytes beside the model and the plan. The instruction set
/// is a part of it: sums differ in their last bits between them.
pub(super) fn recipe(
    options: &QuantizeOptions,
    calibration: Option<&Calibration>,
    known: Option<&Known>,
) -> String {
    let mut text = format!("method {} {:?}\n", options.method_name(), options.options);
    if let Some(calibration) = calibration {
        let compute = &options.compute;
        let _ = writeln!(
            text,
            "calibration {} {:?} {:?} {} {}",
            calibration.digest(),
            options.experts,
            compute.rounding,
            compute.cache_type,
            Isa::chosen()
        );
    }
    if let Some(known) = known {
        let _ = writeln!(text, "statistics {} {}", known.digest(), Isa::chosen());
    }
    text
}
