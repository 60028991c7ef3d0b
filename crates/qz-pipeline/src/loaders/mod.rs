//! What engines demand of a packed checkpoint: what they refuse, and what they load as
//! silent garbage. Each demand is an entry of [`LOADER_RULES`].
//!
//! Sources: vLLM 0.33 (`layers/quantization/`), SGLang 0.5.23 (`srt/layers/quantization/`),
//! transformers 5.24 (`quantizers/`), compressed-tensors 0.20, GPTQModel 7.7, mlx-lm 0.32.

mod advice;
mod facts;
mod ignoring;
mod input_rules;
mod layout_rules;
mod rules;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::container;
use crate::error::Error;
use crate::verify::Finding;

pub(crate) use advice::warning;
use facts::Facts;
pub(crate) use facts::Planned;
pub use rules::LOADER_RULES;

/// A program that loads checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Engine {
    Vllm,
    Sglang,
    Transformers,
    LlamaCpp,
    Mlx,
}

/// Every engine.
pub static ENGINES: &[Engine] =
    &[Engine::Vllm, Engine::Sglang, Engine::Transformers, Engine::LlamaCpp, Engine::Mlx];

impl Engine {
    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Transformers => "transformers",
            Self::LlamaCpp => "llama.cpp",
            Self::Mlx => "mlx",
        }
    }

    /// The version that the rules speak of.
    pub fn version(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM 0.33",
            Self::Sglang => "SGLang 0.5.23",
            Self::Transformers => "transformers 5.24",
            Self::LlamaCpp => "llama.cpp",
            Self::Mlx => "mlx-lm 0.32",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = ENGINES.iter().find(|engine| engine.name() == text).copied();
        let known = || ENGINES.iter().map(|engine| engine.name()).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| format!("no such engine; there are: {}", known()))
    }
}

/// One demand.
pub struct LoaderRule {
    /// Its stable name.
    pub name: &'static str,
    /// The engines that have it; every one, and the format itself, if there are none.
    pub engines: &'static [Engine],
    /// The values of `quant_method` that it is about; all if there are none.
    pub methods: &'static [&'static str],
    check: fn(&Facts<'_>, &mut Findings<'_>),
}

impl fmt::Debug for LoaderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Takes what a rule finds: the tensor, module or key, and what is wrong.
pub(crate) type Findings<'a> = dyn FnMut(&str, String) + 'a;

/// What an engine's rules say of an artifact.
#[derive(Default)]
pub(crate) struct Judgement {
    pub(crate) findings: Vec<Finding>,
    /// False if the engine has no rules for such an artifact.
    pub(crate) has_rules: bool,
}

/// Checks the artifact at `path` for one engine with its own rules, or for every one.
///
/// # Errors
/// If its files cannot be read at all.
pub(crate) fn check(path: &Path, engine: Option<Engine>) -> Result<Judgement, Error> {
    let is_gguf = container::is_gguf(path)?;
    if let Some(mut facts) = Facts::read(path)? {
        facts.engine = engine;
        return Ok(Judgement { findings: judged(&facts), has_rules: true });
    }
    Ok(engine.map_or_else(Judgement::default, |engine| unpacked(engine, is_gguf)))
}

/// What an engine's rules say of a GGUF file, or of a folder that is not quantized.
fn unpacked(engine: Engine, is_gguf: bool) -> Judgement {
    let refusal = if is_gguf { gguf(engine) } else { plain_folder(engine) };
    let Some(message) = refusal else {
        // The structure of a GGUF file is what llama.cpp demands, and engines load a folder
        // that is not quantized by its configuration.
        let has_rules = !is_gguf || engine == Engine::LlamaCpp;
        return Judgement { findings: Vec::new(), has_rules };
    };
    let finding = Finding { rule: "engine-method", tensor: None, message };
    Judgement { findings: vec![finding], has_rules: true }
}

/// The engines that have rules for what is planned, and find nothing: those that `verify`
/// would say "ok" for.
pub(crate) fn loading(planned: &Planned<'_>) -> Vec<Engine> {
    let Ok(facts) = Facts::planned(planned) else { return Vec::new() };
    let Some(mut facts) = facts else {
        let loads = |engine: &Engine| {
            let Judgement { findings, has_rules } = unpacked(*engine, planned.is_gguf);
            has_rules && findings.is_empty()
        };
        return ENGINES.iter().copied().filter(loads).collect();
    };
    let mut engines = ENGINES.to_vec();
    engines.retain(|engine| {
        facts.engine = Some(*engine);
        judged(&facts).is_empty()
    });
    engines
}

/// Why an engine does not load a GGUF file, if that is known.
fn gguf(engine: Engine) -> Option<String> {
    let version = engine.version();
    match engine {
        // vLLM pull request 39583.
        Engine::Vllm => {
            Some(format!("{version} loads GGUF with the plugin vllm-gguf-plugin alone"))
        }
        Engine::Mlx => Some(format!("{version} loads folders of safetensors, no GGUF")),
        Engine::LlamaCpp | Engine::Sglang | Engine::Transformers => None,
    }
}

/// Why an engine does not load a folder that is not quantized.
fn plain_folder(engine: Engine) -> Option<String> {
    let loads = engine != Engine::LlamaCpp;
    (!loads).then(|| format!("{engine} loads GGUF alone"))
}

/// What the rules find: those of every engine, and those of the one asked for.
fn judged(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in LOADER_RULES {
        let is_about = rule.methods.is_empty() || rule.methods.contains(&&*facts.method);
        let is_asked = rule.engines.is_empty()
            || facts.engine.is_some_and(|engine| rule.engines.contains(&engine));
        if is_about && is_asked {
            (rule.check)(facts, &mut |what, message| {
                let tensor = Some(what.to_owned());
                findings.push(Finding { rule: rule.name, tensor, message });
            });
        }
    }
    findings
}
