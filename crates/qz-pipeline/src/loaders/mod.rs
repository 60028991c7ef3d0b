//! What engines demand of a packed checkpoint: what they refuse, and what they load as
//! silent garbage. Each demand is an entry of [`LOADER_RULES`].
//!
//! Sources: vLLM 0.33 (`layers/quantization/`), SGLang, transformers 5 (`quantizers/`),
//! compressed-tensors 0.19, GPTQModel 7.7, mlx-lm.

mod facts;
mod layout_rules;
mod rules;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::Error;
use crate::verify::Finding;

use facts::Facts;
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
}

impl Engine {
    /// The packed layouts that it loads without a plugin, by their `quant_method`.
    pub fn methods(self) -> &'static [&'static str] {
        rules::methods_of(self)
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

/// Checks the checkpoint at `path`, if it is one with packed weights, for every engine, or
/// for one with its own rules.
///
/// # Errors
/// If its files cannot be read at all.
pub(crate) fn check(path: &Path, engine: Option<Engine>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let Some(facts) = Facts::read(path, engine)? else { return Ok(findings) };
    for rule in LOADER_RULES {
        let is_about = rule.methods.is_empty() || rule.methods.contains(&&*facts.method);
        let is_asked =
            rule.engines.is_empty() || engine.is_some_and(|engine| rule.engines.contains(&engine));
        if is_about && is_asked {
            (rule.check)(&facts, &mut |what, message| {
                let tensor = Some(what.to_owned());
                findings.push(Finding { rule: rule.name, tensor, message });
            });
        }
    }
    Ok(findings)
}
