//! Which modules a configuration leaves plain, as each engine reads it.
//!
//! Sources: transformers 5.24 (`quantizers/quantizers_utils.py`, `should_convert_module`),
//! vLLM 0.33 (`utils/quant_utils.py`, `is_layer_skipped`; `utils/gptq_utils.py`), SGLang
//! 0.5.23 (`quantization/utils.py`, `bitsandbytes.py`), mlx-lm 0.32 (`utils.py`).

use qz_packed::{Exception, Patterns};
use serde_json::Value;

use super::Engine;
use super::facts::Facts;

/// The engines that go by lists of names, each in its own way.
const READERS: &[Engine] = &[Engine::Transformers, Engine::Vllm, Engine::Sglang];

/// Keys with names of modules that stay plain.
const NAME_KEYS: &[&str] =
    &["modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules", "skip_modules"];

/// How lists are read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    patterns: &'a Patterns,
    engine: Engine,
    /// What is said where a pattern is one of Python's alone (it looks around, or back).
    unknown: bool,
}

impl Reading<'_> {
    /// Python's `re.match`.
    fn begins(self, pattern: &str, behind: &str, text: &str) -> bool {
        self.patterns.begins(pattern, behind, text).unwrap_or(self.unknown)
    }

    /// compressed-tensors: a name, a class, or a pattern.
    fn is_name_or_pattern(self, name: &str, module: &str) -> bool {
        match name.strip_prefix("re:") {
            Some(pattern) => self.begins(pattern, "", module),
            None => name == module || name == "Linear",
        }
    }

    fn is_wild_match(self, name: &str, module: &str) -> bool {
        self.begins(&regex::escape(name).replace("\\*", ".*"), "$", module)
    }

    /// Whether an engine takes a module for the one of this name.
    fn is_named(self, name: &str, module: &str, method: &str) -> bool {
        match (self.engine, method) {
            (Engine::Vllm | Engine::Sglang, "awq") => module.contains(name),
            (Engine::Vllm, "fp8") => name == module || names_experts(name, module),
            (Engine::Sglang, "fp8") => {
                is_in_path(name.trim_end_matches('.'), module) || names_experts(name, module)
            }
            (Engine::Vllm | Engine::Sglang, "bitsandbytes") => {
                module.split('.').any(|part| part == name)
                    || module == name
                    || module.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
            }
            _ => {
                module.ends_with(name)
                    || self.begins(name, r"(?:\.|$)", module)
                    || (name.ends_with('.') && self.begins(name, "", module))
            }
        }
    }
}

/// Whether a path of names holds another one.
fn is_in_path(name: &str, module: &str) -> bool {
    format!(".{module}.").contains(&format!(".{name}."))
}

/// All experts of a layer are one module to an engine: one name stands for all.
fn names_experts(name: &str, module: &str) -> bool {
    const EXPERTS: &str = ".experts";
    let end = module.find(EXPERTS).map(|start| start + EXPERTS.len());
    end.is_some_and(|end| name.contains(&module[..end]))
}

impl Facts<'_> {
    /// True if the configuration may say that a module is plain: as the engine reads it, or
    /// as some engine does if none is asked for.
    pub(super) fn is_ignored(&self, module: &str) -> bool {
        let ignored = |engine: Engine| self.is_ignored_by(module, self.reading(engine, true));
        match self.engine {
            Some(engine) => ignored(engine),
            // What is never packed by one engine may be by another.
            None if is_output(module) => ignored(Engine::Transformers),
            None => READERS.iter().any(|engine| ignored(*engine)),
        }
    }

    /// True if the configuration surely says that a module is plain: as the engine reads it,
    /// or as all do if none is asked for.
    pub(super) fn is_surely_ignored(&self, module: &str) -> bool {
        let ignored = |engine: Engine| self.is_ignored_by(module, self.reading(engine, false));
        match self.engine {
            Some(engine) => ignored(engine),
            None => READERS.iter().all(|engine| ignored(*engine)),
        }
    }

    fn reading(&self, engine: Engine, unknown: bool) -> Reading<'_> {
        Reading { patterns: &self.patterns, engine, unknown }
    }

    fn is_ignored_by(&self, module: &str, reading: Reading<'_>) -> bool {
        match &*self.method {
            "compressed-tensors" => {
                let targets = Reading { unknown: !reading.unknown, ..reading };
                !self.is_targeted(module, targets)
                    || self.names("ignore").any(|name| reading.is_name_or_pattern(name, module))
            }
            "gptq" => {
                (is_output(module) && self.flag("lm_head") != Some(true))
                    || self.is_denied(module, reading)
                    || self.is_outside_blocks(module)
            }
            "modelopt" => {
                let mut names = self.names("ignore").chain(self.names("exclude_modules"));
                names.any(|name| reading.is_wild_match(name, module))
            }
            "mlx" => self.config.get(module) == Some(&Value::Bool(false)),
            "aqlm" => self
                .names("linear_weights_not_to_quantize")
                .any(|name| name.strip_suffix(".weight").unwrap_or(name) == module),
            method => {
                let is_named = |name: &str| reading.is_named(name, module, method);
                self.leaves_output(module, reading.engine)
                    || NAME_KEYS.iter().flat_map(|key| self.names(key)).any(is_named)
            }
        }
    }

    fn names(&self, key: &str) -> impl Iterator<Item = &str> {
        let names = self.config.get(key).and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str)
    }

    /// Engines have an output matrix that is none of their linear modules; transformers
    /// leaves it alone where no list is given, and always with AWQ.
    fn leaves_output(&self, module: &str, engine: Engine) -> bool {
        let has_list =
            NAME_KEYS.iter().any(|key| self.config.get(*key).is_some_and(Value::is_array));
        is_output(module) && (engine != Engine::Transformers || self.method == "awq" || !has_list)
    }

    /// compressed-tensors: whether some group is about the module. Classes but `Linear`
    /// are not known here.
    fn is_targeted(&self, module: &str, reading: Reading<'_>) -> bool {
        let is_class = |name: &str| name.starts_with(|first: char| first.is_ascii_uppercase());
        let mut groups = self.groups().peekable();
        groups.peek().is_none()
            || groups.any(|(_, group)| {
                let Some(targets) = group.get("targets").and_then(Value::as_array) else {
                    return true;
                };
                let mut targets = targets.iter().filter_map(Value::as_str);
                targets.any(|name| is_class(name) || reading.is_name_or_pattern(name, module))
            })
    }

    /// GPTQ: the first rule for a module decides, by the name that the engine has for it.
    fn is_denied(&self, module: &str, reading: Reading<'_>) -> bool {
        let name = self.rule_name(module, Some(reading.engine));
        match Exception::of_patterns(&self.config, &name, reading.patterns) {
            Exception::Plain => true,
            Exception::Unknown => reading.unknown,
            Exception::None | Exception::Own(_) => false,
        }
    }

    /// GPTQ: `modules_in_block_to_quantize` has names within a layer, in lists or alone.
    fn is_outside_blocks(&self, module: &str) -> bool {
        let listed = self.config.get("modules_in_block_to_quantize").and_then(Value::as_array);
        let names: Vec<&str> = listed
            .into_iter()
            .flatten()
            .flat_map(|entry| match entry {
                Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                name => name.as_str().into_iter().collect::<Vec<_>>(),
            })
            .collect();
        !names.is_empty() && !names.iter().any(|name| module.contains(name))
    }
}

/// Whether it is the output matrix' module, of a model that may be a part of another one.
fn is_output(module: &str) -> bool {
    module.rsplit('.').next() == Some("lm_head")
}
