//! What a configuration says of some modules alone: GPTQ's `dynamic`, auto-round's
//! `extra_config`. Sources: GPTQModel 7.7 (`quantization/config.py`, `dynamic_get`),
//! auto-round 0.9 (`inference/convert_model.py`).

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use regex::Regex;
use serde_json::{Map, Value};

/// Patterns that have been compiled: there are few, and many modules to hold to them.
#[derive(Default)]
pub struct Patterns(RefCell<HashMap<String, Option<Regex>>>);

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} patterns", self.0.borrow().len())
    }
}

impl Patterns {
    /// The rules of a configuration whose patterns cannot be held to a name here, each under its
    /// key: Python's alone, or no patterns at all.
    pub(crate) fn unknown(&self, config: &Map<String, Value>) -> Vec<String> {
        let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
        let dynamic = object(config.get("dynamic")).unwrap_or_default().into_iter();
        let mut rules: Vec<(String, String)> = dynamic
            .map(|(rule, _)| {
                let pattern = rule.strip_prefix("-:").or_else(|| rule.strip_prefix("+:"));
                (format!("dynamic[{rule}]"), pattern.unwrap_or(&rule).to_owned())
            })
            .collect();
        let mut lists = vec![("ignore".to_owned(), config.get("ignore").cloned())];
        for (name, group) in object(config.get("config_groups")).unwrap_or_default() {
            lists.push((format!("config_groups.{name}.targets"), group.get("targets").cloned()));
        }
        for (key, names) in lists {
            let names = names.as_ref().and_then(Value::as_array).into_iter().flatten();
            let patterns = names.filter_map(|name| name.as_str()?.strip_prefix("re:"));
            rules.extend(
                patterns.map(|pattern| (format!("{key}[re:{pattern}]"), pattern.to_owned())),
            );
        }
        rules.retain(|(_, pattern)| self.begins(pattern, "", "").is_none());
        rules.into_iter().map(|(key, _)| key).collect()
    }

    /// Python's `re.match` of a pattern with another one behind it; none if it is one of
    /// Python's alone (it looks around, or back).
    pub fn begins(&self, pattern: &str, behind: &str, text: &str) -> Option<bool> {
        let whole = format!("^(?:{pattern}){behind}");
        let mut known = self.0.borrow_mut();
        let compiled = known.entry(whole).or_insert_with_key(|whole| Regex::new(whole).ok());
        compiled.as_ref().map(|pattern| pattern.is_match(text))
    }
}

/// Names of modules that engines multiply by together, and what those call the one of them
/// where that is known.
pub const FUSED: &[(&[&str], Option<&str>)] = &[
    (&["q_proj", "k_proj", "v_proj"], Some("qkv_proj")),
    (&["gate_proj", "up_proj"], Some("gate_up_proj")),
    (&["w1", "w3"], None),
];

/// The name that vLLM and SGLang hold GPTQ's rules for a module to: that of their own module,
/// which may be several of the checkpoint, or all experts of a layer (vLLM 0.33,
/// `utils/gptq_utils.py`, `get_dynamic_override`; SGLang has the same). `is_there` says which
/// modules the checkpoint has.
pub fn fused_name<'a>(module: &'a str, is_there: impl Fn(&str) -> bool) -> Cow<'a, str> {
    const EXPERTS: &str = ".experts";
    if let Some((before, _)) = module.split_once(".experts.") {
        return format!("{before}{EXPERTS}").into();
    }
    let Some((before, last)) = module.rsplit_once('.') else { return module.into() };
    let fused = FUSED.iter().find(|(names, _)| names.contains(&last));
    match fused {
        Some((names, Some(fused)))
            if names.iter().all(|name| is_there(&format!("{before}.{name}"))) =>
        {
            format!("{before}.{fused}").into()
        }
        _ => module.into(),
    }
}

/// Patterns that fit these names and no others: names that differ in numbers alone share one.
pub(crate) fn patterns_of(names: &[String]) -> Vec<String> {
    /// Numbers by their places, of names that are alike in all else.
    type Numbers<'a> = Vec<Vec<&'a str>>;
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut alike: Vec<(Vec<Option<&str>>, Numbers<'_>)> = Vec::new();
    for name in names {
        let parts = name.split('.');
        let form = parts.clone().map(|part| (!is_number(part)).then_some(part)).collect();
        let numbers = parts.filter(|part| is_number(part)).collect();
        match alike.iter_mut().find(|(known, _)| *known == form) {
            Some((_, known)) => known.push(numbers),
            None => alike.push((form, vec![numbers])),
        }
    }
    let pattern = |form: &[Option<&str>], product: Vec<Vec<&str>>| {
        let mut choices = product.into_iter();
        let part =
            |part: &Option<&str>| match (part, part.is_none().then(|| choices.next()).flatten()) {
                (Some(part), _) => (*part).to_owned(),
                (None, Some(numbers)) if numbers.len() > 1 => format!("(?:{})", numbers.join("|")),
                (None, numbers) => numbers.unwrap_or_default().join(""),
            };
        let parts: Vec<String> = form.iter().map(part).collect();
        format!("^{}$", parts.join("\\."))
    };
    let of_form = |(form, numbers): &(Vec<Option<&str>>, Numbers<'_>)| {
        let tuples: Vec<&[&str]> = numbers.iter().map(Vec::as_slice).collect();
        let patterns = products(&tuples).into_iter().map(|product| pattern(form, product));
        patterns.collect::<Vec<String>>()
    };
    alike.iter().flat_map(of_form).collect()
}

/// Tuples as products of alternatives: those with the same rest behind them go together.
fn products<'a>(tuples: &[&[&'a str]]) -> Vec<Vec<Vec<&'a str>>> {
    let mut rests: Vec<(&str, Vec<&[&'a str]>)> = Vec::new();
    for tuple in tuples {
        let Some((first, rest)) = tuple.split_first() else { return vec![Vec::new()] };
        match rests.iter_mut().find(|(known, _)| known == first) {
            Some((_, known)) => known.push(rest),
            None => rests.push((first, vec![rest])),
        }
    }
    let mut merged: Vec<(Vec<&'a str>, Vec<&[&'a str]>)> = Vec::new();
    for (first, rest) in rests {
        match merged.iter_mut().find(|(_, known)| *known == rest) {
            Some((firsts, _)) => firsts.push(first),
            None => merged.push((vec![first], rest)),
        }
    }
    let with_rests = |(firsts, rests): (Vec<&'a str>, Vec<&[&'a str]>)| {
        let rests = products(&rests).into_iter();
        rests.map(move |rest| std::iter::once(firsts.clone()).chain(rest).collect::<Vec<_>>())
    };
    merged.into_iter().flat_map(with_rests).collect()
}

/// What is said of one module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exception<'a> {
    /// Nothing but what is said of all.
    None,
    /// It stays plain.
    Plain,
    /// It has these values instead of those of all.
    Own(&'a Map<String, Value>),
    /// A pattern before any that fits is Python's alone.
    Unknown,
}

impl<'a> Exception<'a> {
    /// GPTQ's `dynamic`: of the patterns the first that fits decides; `-:` before it leaves
    /// the module plain.
    pub fn of_patterns(config: &'a Map<String, Value>, module: &str, patterns: &Patterns) -> Self {
        let rules = config.get("dynamic").and_then(Value::as_object);
        for (rule, values) in rules.into_iter().flatten() {
            let plain = rule.strip_prefix("-:");
            let pattern = plain.or_else(|| rule.strip_prefix("+:")).unwrap_or(rule);
            match (patterns.begins(pattern, "", module), plain, values.as_object()) {
                (None, ..) => return Self::Unknown,
                (Some(false), ..) => {}
                (Some(true), Some(_), _) => return Self::Plain,
                (Some(true), None, Some(values)) => return Self::Own(values),
                (Some(true), None, None) => return Self::None,
            }
        }
        Self::None
    }

    /// auto-round's `extra_config`: by names, and by patterns that are not looked at.
    pub fn of_names(config: &'a Map<String, Value>, module: &str) -> Self {
        let rules = config.get("extra_config").and_then(Value::as_object);
        match rules.map(|rules| rules.get(module).and_then(Value::as_object)) {
            Some(Some(values)) => Self::Own(values),
            Some(None) => Self::Unknown,
            None => Self::None,
        }
    }

    /// What is said of the module's `key`: by its own values, or by those of all.
    pub fn number(self, config: &Map<String, Value>, key: &str) -> Option<i64> {
        let own = match self {
            Self::Own(values) => values.get(key),
            _ => None,
        };
        own.or_else(|| config.get(key))?.as_i64()
    }
}

#[cfg(test)]
mod tests {
    use qz_tensor::DataType;
    use serde_json::json;

    use super::*;
    use crate::layouts::numbers::ScaleType;
    use crate::testing::{Checkpoint, Tensor};

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let config = json!({
            "bits": 4,
            "dynamic": {
                r"-:.*\.gate$": {},
                r"+:a\.[0-3]\..*": {"bits": 8},
                r"a\.3\.": {"bits": 2},
                r"b\.": {"group_size": 32},
                "(?!x)": {"bits": 3},
            }
        });
        let config = config.as_object().expect("an object");
        let patterns = Patterns::default();
        let check = |module: &str, is_plain: bool, bits: Option<i64>| {
            let exception = Exception::of_patterns(config, module, &patterns);
            assert_eq!(exception == Exception::Plain, is_plain, "{module}");
            let known = (exception != Exception::Unknown).then(|| exception.number(config, "bits"));
            assert_eq!(known.flatten(), bits, "{module}");
        };
        check("a.0.gate", true, Some(4));
        check("a.3.up", false, Some(8));
        check("a.33.up", false, None);
        check("b.1", false, Some(4));
        check("c.b.1", false, None);
    }

    #[test]
    fn patterns_fit_the_names_and_no_others() {
        let check = |names: &[&str], expected: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let found = patterns_of(&names);
            assert_eq!(found, expected);
            let patterns = Patterns::default();
            let fits = |name: &str| {
                found.iter().any(|pattern| patterns.begins(pattern, "", name) == Some(true))
            };
            assert!(names.iter().all(|name| fits(name)));
            for other in ["m.3.a", "m.11.a", "m.1.ab", "m.1.e.2.b", "m.1xa"] {
                assert!(!fits(other), "{other}");
            }
        };
        check(&["lm_head"], &["^lm_head$"]);
        check(&["m.1.a", "m.1.b", "m.2.a"], &[r"^m\.(?:1|2)\.a$", r"^m\.1\.b$"]);
        check(
            &["m.1.e.0.b", "m.1.e.1.b", "m.2.e.0.b", "m.2.e.1.b", "m.5.e.0.b"],
            &[r"^m\.(?:1|2)\.e\.(?:0|1)\.b$", r"^m\.5\.e\.0\.b$"],
        );
        check(&[], &[]);
    }

    #[test]
    fn names_of_fused_modules() {
        let check = |module: &str, expected: &str| {
            let is_there = |name: &str| name != "b.q_proj" && name != "b.gate_proj";
            assert_eq!(fused_name(module, is_there), expected);
        };
        check("a.q_proj", "a.qkv_proj");
        check("a.v_proj", "a.qkv_proj");
        check("a.up_proj", "a.gate_up_proj");
        check("a.shared_experts.up_proj", "a.shared_experts.gate_up_proj");
        check("a.experts.3.up_proj", "a.experts");
        check("a.experts.3.w1", "a.experts");
        check("a.o_proj", "a.o_proj");
        check("b.k_proj", "b.k_proj");
        check("b.up_proj", "b.up_proj");
        check("q_proj", "q_proj");
    }

    #[test]
    fn rules_that_cannot_be_judged_are_named() {
        let check = |key: &str, value: Value, expected: &[&str]| {
            let config = json!({ key: value });
            let config = config.as_object().expect("an object");
            assert_eq!(Patterns::default().unknown(config), expected);
        };
        check("dynamic", json!({"+:a.*": {}, "-:b": {}, "c": {}}), &[]);
        check(
            "dynamic",
            json!({"+:.*(?=x)": {}, "-:.*[": {}, "(a)\\1": {}, "b": {}}),
            &["dynamic[+:.*(?=x)]", "dynamic[-:.*[]", "dynamic[(a)\\1]"],
        );
        check("dynamic", json!(["+:.*("]), &[]);
        check("ignore", json!(["lm_head", "re:.*a", "re:(?!b)"]), &["ignore[re:(?!b)]"]);
        check(
            "config_groups",
            json!({"g": {"targets": ["Linear", "re:("]}}),
            &["config_groups.g.targets[re:(]"],
        );
    }

    /// One module of 64 inputs and 8 outputs with these bits, in groups of 32.
    fn module(names: [&'static str; 4], bits: u64) -> Vec<Tensor<'static>> {
        let shapes: [&'static [u64]; 2] = match bits {
            4 => [&[8, 8], &[2, 1]],
            _ => [&[16, 8], &[2, 2]],
        };
        let words =
            |shape: &[u64]| 0x0707_0707u32.to_le_bytes().repeat((shape[0] * shape[1]) as usize);
        let mut scales = Vec::new();
        ScaleType::F16.write(&[0.5; 16], &mut scales);
        let index = (0..64).flat_map(|column: i32| (column / 32).to_le_bytes()).collect();
        vec![
            (names[0], DataType::I32, shapes[0], words(shapes[0])),
            (names[1], DataType::I32, shapes[1], words(shapes[1])),
            (names[2], DataType::F16, &[2, 8], scales),
            (names[3], DataType::I32, &[64], index),
        ]
    }

    const A: [&str; 4] = ["a.qweight", "a.qzeros", "a.scales", "a.g_idx"];
    const B: [&str; 4] = ["b.qweight", "b.qzeros", "b.scales", "b.g_idx"];

    #[test]
    fn each_matrix_has_what_its_rule_says() {
        let check = |bits: [u64; 2], dynamic: Value, expected: Option<&str>| {
            let tensors = [module(A, bits[0]), module(B, bits[1])].concat();
            let config = json!({
                "quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": dynamic
            });
            let found = Checkpoint::new(tensors).open(config).err().map(|error| error.to_string());
            match (expected, &found) {
                (None, found) => assert_eq!(*found, None),
                (Some(expected), Some(found)) => assert!(found.contains(expected), "{found}"),
                (Some(expected), None) => panic!("{expected} is not said"),
            }
        };
        check([4, 8], json!({"+:^b$": {"bits": 8}}), None);
        check([4, 8], json!({"^b": {"bits": 8, "group_size": 32}}), None);
        check([4, 8], json!({"+:^(?!a)": {"bits": 8}}), None);
        check([4, 4], json!({"+:^b$": {"bits": 8}}), Some("says 8, but b.qweight has codes of 4"));
        check([8, 8], json!({"+:^b$": {"bits": 8}}), Some("says 4, but a.qweight has codes of 8"));
        check(
            [4, 8],
            json!({"+:^b$": {"bits": 8, "group_size": 64}}),
            Some("says 64, but b.scales has 2 groups for 64 inputs"),
        );
        check([4, 8], json!({"+:^b$": {"bits": 8}, "-:x": {}}), None);
    }

    #[test]
    fn an_empty_group_index_is_named() {
        let mut tensors = module(A, 4);
        (tensors[3].2, tensors[3].3) = (&[0], Vec::new());
        let config = json!({"quant_method": "gptq", "bits": 4, "group_size": 32});
        let found = Checkpoint::new(tensors).refusal(config);
        assert!(found.contains("a.g_idx") && found.contains("is empty"), "{found}");
    }
}
