//! Targets that do not exist, and what may have been meant.

use qz_plan::{did_you_mean, is_alike, nearest};

use crate::error::fitting_targets;
use crate::format::{FORMATS, Format};
use crate::model::Model;
use crate::planning::PlanOptions;
use crate::target::Target;

/// A target that does not exist.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no such target: {given}{}{}", meant(given), fitting_targets(fitting))]
pub struct UnknownTarget {
    given: String,
    /// Targets of the format that was named, where it is known which of them fit the model.
    fitting: Vec<String>,
}

impl UnknownTarget {
    pub(crate) fn new(given: &str) -> Self {
        Self { given: given.to_owned(), fitting: Vec::new() }
    }

    /// With what fits a model, if a format was named.
    pub(crate) fn beside(self, model: &Model, options: &PlanOptions) -> Self {
        let name = self.given.split_once(':').map_or(&*self.given, |(name, _)| name);
        let fitting = format_called(name).map(|format| format.fitting(model, options));
        Self { fitting: fitting.unwrap_or_default(), ..self }
    }

    /// As it was given.
    pub fn name(&self) -> &str {
        &self.given
    }
}

/// What other programs call types, and the usual targets of that kind.
static WORDS: &[(&[&str], &[&str])] = &[
    (&["int2", "2bit", "w2", "q2"], &["q2_k", "gptq:w2g64", "mlx:w2g32"]),
    (&["int3", "3bit", "w3", "q3"], &["q3_k_m", "gptq:w3g128", "mlx:w3g64"]),
    (&["int4", "4bit", "w4", "q4"], &["q4_k_m", "gptq:w4g128", "awq:w4g128", "ct:w4a16"]),
    (&["int5", "5bit", "w5", "q5"], &["q5_k_m", "mlx:w5g64"]),
    (&["int6", "6bit", "w6", "q6"], &["q6_k", "mlx:w6g64"]),
    (&["int8", "8bit", "w8", "q8"], &["q8_0", "ct:w8a8", "gptq:w8g128", "bnb:int8"]),
    (&["fp32", "float32", "float"], &["f32", "safetensors:f32"]),
    (&["fp16", "float16", "half"], &["f16", "safetensors:f16"]),
    (&["bfloat16"], &["bf16", "safetensors:bf16"]),
    (&["f8", "float8", "e4m3"], &["fp8:block128", "ct:fp8"]),
];

fn format_called(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.is_called(name))
}

/// The rest of a message: how the format's schemes are spelled, or names like this one.
fn meant(given: &str) -> String {
    match given.split_once(':') {
        Some((name, _)) => scheme_meant(given, name),
        None => name_meant(given),
    }
}

fn scheme_meant(given: &str, format: &str) -> String {
    let names = Target::names();
    let names = names.iter().map(String::as_str);
    match format_called(format) {
        Some(format) => {
            let own = names.filter(|name| Target::is_of(name, format));
            format!("; {} needs {}{}", format.name, format.form, did_you_mean(&nearest(given, own)))
        }
        None => or_listed(&nearest(given, names)),
    }
}

fn name_meant(given: &str) -> String {
    if let Some(format) = format_called(given) {
        return format!("; {} needs {}", format.name, format.form);
    }
    let word = WORDS.iter().find(|(words, _)| words.iter().any(|word| is_alike(given, word)));
    if let Some((_, targets)) = word {
        return did_you_mean(targets);
    }
    let names = Target::names();
    let names = || names.iter().map(String::as_str);
    let is_scheme =
        |name: &&str| name.split_once(':').is_some_and(|(_, scheme)| is_alike(given, scheme));
    let schemes: Vec<&str> = names().filter(is_scheme).collect();
    or_listed(&if schemes.is_empty() { nearest(given, names()) } else { schemes })
}

fn or_listed(names: &[&str]) -> String {
    match names {
        [] => "; `quantize targets` lists them".to_owned(),
        names => did_you_mean(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_meant() {
        let check = |given: &str, expected: &[&str]| {
            let message = given.parse::<Target>().expect_err("unknown").to_string();
            assert!(message.len() < 250, "{message}");
            for part in expected {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
        };
        check("q4km", &["no such target: q4km; did you mean q4_k_m?"]);
        check("Q4-K-M", &["did you mean q4_k_m?"]);
        check("int4", &["did you mean q4_k_m, gptq:w4g128, awq:w4g128 or ct:w4a16?"]);
        check("fp16", &["f16 or safetensors:f16"]);
        check("nf4", &["did you mean bnb:nf4?"]);
        check("nvfp4", &["did you mean ct:nvfp4 or modelopt:nvfp4?"]);
        check("w4g128", &["gptq:w4g128 or awq:w4g128?"]);
        check("gptq", &["gptq needs bits and group: gptq:w4g128"]);
        check("awq", &["awq needs 4 bits", "awq:w4g128"]);
        check("ct", &["ct needs a scheme: ct:w4a16"]);
        check("compressed-tensors", &["ct needs a scheme"]);
        check("mlx:w7g64", &["mlx needs bits and group", "2, 3, 4, 5, 6 or 8 bits", "mlx:w6g64"]);
        check("gptq:w5g128", &["2, 3, 4 or 8 bits", "gptq:w4g128"]);
        check("gtpq:w4g128", &["did you mean gptq:w4g128, "]);
        check("safetensors", &["f32, f16 or bf16"]);
        check("gguf:q4km", &["gguf needs a type"]);
        check("exl2", &["`quantize targets` lists them"]);
        check("", &["no such target: ;"]);
    }
}
