//! `targets`: what can be written, with what it costs and who loads it.

use crate::error::Error;
use crate::format::{Demand, FORMATS, TargetPlan};
use crate::loaders::Engine;
use crate::model::Model;
use crate::planning::PlanOptions;
use crate::target::Target;

/// One target.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TargetInfo {
    /// As it is called on the command line.
    pub target: String,
    /// The engines that load it, as their rules judge: of the model if one was named and it
    /// fits, else of one whose shapes suit every kernel.
    pub loaded_by: Vec<&'static str>,
    /// What it costs, and asks of matrices.
    #[serde(flatten)]
    pub demand: Demand,
    /// What becomes of a model, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelFit>,
}

/// Whether a model can be written as a target.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelFit {
    /// True if it can.
    pub fits: bool,
    /// The bits of each of its weights then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_weight: Option<f64>,
    /// Tensors that get a stand-in type.
    pub fallbacks: usize,
    /// Why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// The targets that are listed: all of some formats, the usual of others; with what becomes
/// of a model.
pub fn targets(model: Option<&Model>) -> Vec<TargetInfo> {
    let of = |format: &&'static crate::format::Format| {
        let format = *format;
        format.schemes().into_iter().map(move |scheme| {
            let target = Target { format, scheme: scheme.into() };
            let plan = model.map(|model| target.plan(model, &PlanOptions::default()));
            let planned = plan.as_ref().and_then(|plan| plan.as_ref().ok());
            let engines = format.engines(scheme, planned);
            TargetInfo {
                target: target.to_string(),
                loaded_by: engines.into_iter().map(Engine::name).collect(),
                demand: format.demand(scheme),
                model: model.zip(plan).map(|(model, plan)| fit(model, plan)),
            }
        })
    };
    FORMATS.iter().flat_map(of).collect()
}

fn fit(model: &Model, plan: Result<TargetPlan, Error>) -> ModelFit {
    let none = ModelFit { fits: false, bits_per_weight: None, fallbacks: 0, why_not: None };
    match plan {
        Ok(plan) => {
            let bytes =
                |tensor: &qz_tensor::SinkTensor| tensor.shape.byte_size(tensor.data_type).ok();
            let bytes: u64 = plan.tensors.iter().filter_map(bytes).sum();
            let fallbacks = plan.assignments.iter().filter(|one| one.fallback_from.is_some());
            ModelFit {
                fits: true,
                bits_per_weight: Some(bytes as f64 * 8.0 / plan.weights(model).max(1) as f64),
                fallbacks: fallbacks.count(),
                ..none
            }
        }
        Err(Error::Unfit { why, .. }) => ModelFit { why_not: Some(why.into()), ..none },
        Err(error) => {
            // All reasons are about this model.
            let (why, model) = (error.to_string(), format!("{}: ", model.path.display()));
            ModelFit { why_not: Some(why.strip_prefix(&model).unwrap_or(&why).to_owned()), ..none }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_targets_cost_and_ask_for() {
        let targets = targets(None);
        let check = |name: &str, bits: f64, columns: u64, rows: u64, loads: &[&str]| {
            let found = targets.iter().find(|one| one.target == name).expect("listed");
            let Demand { bits_per_weight, columns: found_columns, rows: found_rows, .. } =
                found.demand;
            let found_bits = bits_per_weight.expect("of all weights");
            assert!((found_bits - bits).abs() < 0.005, "{name}: {found_bits}");
            assert_eq!((found_columns, found_rows), (columns, rows), "{name}");
            let is_loaded = |engine: &&str| found.loaded_by.contains(engine);
            assert!(loads.iter().all(is_loaded), "{name}: {:?}", found.loaded_by);
        };
        // The figures that llama-quantize --help has for this model.
        check("q4_k_m", 4.89, 256, 1, &["llama.cpp"]);
        check("q8_0", 8.50, 32, 1, &["llama.cpp"]);
        check("q6_k", 6.56, 256, 1, &["llama.cpp"]);
        check("safetensors:bf16", 16.0, 1, 1, &["transformers", "vllm", "mlx"]);
        check("awq:w4g128", 5.71, 128, 8, &["vllm", "sglang", "transformers"]);
        check("mlx:w4g64", 4.50, 64, 1, &["mlx"]);
    }

    #[test]
    fn engines_are_those_whose_rules_find_nothing() {
        let targets = targets(None);
        let check = |name: &str, expected: &[&str]| {
            let found = targets.iter().find(|one| one.target == name).expect("listed");
            assert_eq!(found.loaded_by, expected, "{name}");
        };
        check("gptq:w4g128", &["vllm", "sglang", "transformers"]);
        check("gptq:w4g128+asym", &["transformers"]);
        check("gptq:w3g128", &["transformers"]);
        check("ct:w4a16", &["vllm", "sglang", "transformers"]);
        check("ct:mxfp8", &["vllm", "transformers"]);
        check("ct:mxfp6a16", &["transformers"]);
        check("fp8:tensor", &["vllm", "sglang"]);
        check("modelopt:nvfp4a16", &["vllm", "sglang"]);
        check("bnb:nf4", &["sglang", "transformers"]);
        check("mlx:w4g64", &["mlx"]);
        check("q8_0", &["llama.cpp"]);
        check("safetensors:f16", &["vllm", "sglang", "transformers", "mlx"]);
    }
}
