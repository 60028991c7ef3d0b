//! What is said about a quantization, and what tells it from another.

use std::fmt::Write as _;

use qz_kernels::Isa;
use qz_methods::TensorReport;

use super::QuantizeOptions;
use super::capture::{Calibration, CalibrationSummary};
use super::known::Known;
use crate::calibrate::ExpertCoverage;
use crate::convert::ConvertReport;

/// What came of one output.
#[derive(Clone, Debug, serde::Serialize)]
pub struct QuantizeReport {
    /// The artifact.
    #[serde(flatten)]
    pub artifact: ConvertReport,
    /// The method's name.
    pub method: &'static str,
    /// What the model read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationSummary>,
    /// How many tokens each expert was given, layer by layer, where that was seen in this run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertCoverage>,
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

/// Everything that decides about bytes beside the model and the plan. The instruction set
/// is a part of it: sums differ in their last bits between them.
pub(super) fn recipe(
    options: &QuantizeOptions,
    calibration: Option<&Calibration>,
    known: Option<&Known>,
) -> String {
    let mut text = format!("method {} {:?}\n", options.method.name(), options.options);
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
