//! Which special tokens the post-processor of `tokenizer.json` adds, and what
//! that says about the tokens that `tokenizer_config.json` names
//! (`SpecialVocab._try_load_from_tokenizer_json` in `gguf-py/gguf/vocab.py`).

use serde_json::{Map, Value};

use crate::json::truthy;
use crate::special_tokens::{AddFlags, Kinds};

/// The named tokens while the post-processor is read: `tokenizer_config.json` as
/// changed by it, and the reference's four running values.
pub(crate) struct Named<'a> {
    /// Absent or empty, nothing is written back.
    config: &'a mut Map<String, Value>,
    beginning: Value,
    class: Value,
    end: Value,
    separator: Value,
}

impl<'a> Named<'a> {
    pub(crate) fn new(config: &'a mut Map<String, Value>) -> Self {
        let value = |key: &str| config.get(key).cloned().unwrap_or(Value::Null);
        let (beginning, class) = (value("bos_token"), value("cls_token"));
        let (end, separator) = (value("eos_token"), value("sep_token"));
        let mut named = Self { config, beginning, class, end, separator };
        if !truthy(&named.beginning) && truthy(&named.class) {
            named.beginning = named.set("bos_token", named.class.clone());
        }
        if !truthy(&named.end) && truthy(&named.separator) {
            named.end = named.set("eos_token", named.separator.clone());
        }
        named
    }

    /// Takes the whole post-processor.
    pub(crate) fn read(&mut self, post_processor: &Value, flags: &mut AddFlags, kinds: &mut Kinds) {
        if !truthy(post_processor) {
            return;
        }
        match post_processor.get("processors").and_then(Value::as_array) {
            Some(steps) => steps.iter().for_each(|step| self.read_step(step, flags, kinds)),
            None => self.read_step(post_processor, flags, kinds),
        }
    }

    fn read_step(&mut self, step: &Value, flags: &mut AddFlags, kinds: &mut Kinds) {
        match step.get("type").and_then(Value::as_str) {
            Some("ByteLevel") => {
                flags.set_default("bos", false);
                flags.set_default("eos", false);
            }
            Some("RobertaProcessing") => self.read_roberta(step, flags),
            Some("TemplateProcessing") => self.read_template(step, flags, kinds),
            _ => {}
        }
    }

    fn read_roberta(&mut self, step: &Value, flags: &mut AddFlags) {
        for kind in ["bos", "eos", "sep"] {
            flags.set(kind, true);
        }
        if self.has_config() && !truthy(&self.class) {
            let class = step.pointer("/cls/0").unwrap_or(&self.beginning).clone();
            self.class = self.set("cls_token", class);
        }
        if self.has_config() && !truthy(&self.separator) {
            let separator = step.pointer("/sep/0").unwrap_or(&self.end).clone();
            self.separator = self.set("sep_token", separator);
        }
    }

    fn read_template(&mut self, step: &Value, flags: &mut AddFlags, kinds: &mut Kinds) {
        let list = |key: &str| {
            step.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
        };
        let (single, pair) = (list("single"), list("pair"));
        let (mut first, mut last) = (None, None);
        if let [start, .., stop] = single {
            first = special_id(start);
            last = special_id(stop);
            if let Some(first) = first {
                self.read_first(first, flags);
            }
            if let Some(last) = last {
                self.read_last(last, flags, kinds);
            }
        }
        self.read_pair(pair, first, last, flags);
    }

    /// The token in front of a text.
    fn read_first(&mut self, first: &Value, flags: &mut AddFlags) {
        if !self.has_config() {
            self.beginning = first.clone();
        } else if *first != self.beginning && *first != self.class {
            if !truthy(&self.beginning) {
                self.beginning = self.set("bos_token", first.clone());
            }
            if !truthy(&self.class) {
                self.class = self.set("cls_token", first.clone());
            }
        }
        flags.set("bos", *first == self.beginning || *first == self.class);
    }

    /// The token behind a text. If it is not the one that ends generation, that
    /// one becomes the end of a turn, or failing that of a message.
    fn read_last(&mut self, last: &Value, flags: &mut AddFlags, kinds: &mut Kinds) {
        if !self.has_config() {
            self.end = last.clone();
        } else if *last != self.end {
            for (kind, key) in [("eot", "eot_token"), ("eom", "eom_token")] {
                if kinds.add(kind) {
                    self.set(key, self.end.clone());
                    break;
                }
            }
            self.end = self.set("eos_token", last.clone());
        }
        flags.set("eos", *last == self.end);
    }

    /// `A [separator] [end] B`, after the tokens in front and behind are gone.
    fn read_pair(
        &mut self,
        pair: &[Value],
        first: Option<&Value>,
        last: Option<&Value>,
        flags: &mut AddFlags,
    ) {
        let is = |entry: Option<&Value>, wanted: Option<&Value>| {
            wanted.is_some() && entry.and_then(special_id) == wanted
        };
        let start = usize::from(is(pair.first(), first));
        let stop = pair.len().saturating_sub(usize::from(is(pair.last(), last)));
        let Some(pair) = pair.get(start..stop) else { return };
        let [_, middle @ .., _] = pair else { return };
        let Some(first) = middle.first() else { return };
        if pair.first().and_then(sequence_id) != Some("A")
            || pair.last().and_then(sequence_id) != Some("B")
        {
            return;
        }
        let separates = |entry: &Value| {
            special_id(entry).is_some_and(|id| *id == self.separator || *id == self.end)
        };
        let mut adds = separates(first) && last.is_none();
        if let [_, second] = middle {
            adds |= separates(second);
        }
        flags.set("sep", adds);
        if adds && self.has_config() && !truthy(&self.separator) {
            self.set("sep_token", self.end.clone());
        }
    }

    fn has_config(&self) -> bool {
        !self.config.is_empty()
    }

    /// Writes a named token back, if there is a file it could have come from.
    fn set(&mut self, key: &str, value: Value) -> Value {
        if self.has_config() {
            self.config.insert(key.to_owned(), value.clone());
        }
        value
    }
}

/// The special token of a template's entry.
fn special_id(entry: &Value) -> Option<&Value> {
    entry.pointer("/SpecialToken/id").filter(|id| truthy(id))
}

/// The text that a template's entry stands for.
fn sequence_id(entry: &Value) -> Option<&str> {
    entry.pointer("/Sequence/id")?.as_str()
}
