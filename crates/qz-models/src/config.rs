//! `config.json` as JSON: reading keys with their ranges, and filling in what
//! transformers' configuration classes fill in.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::architecture::{Architecture, Spelling};
use crate::error::Error;

/// What a configuration class of transformers assumes for keys that
/// `config.json` leaves out. It goes by `model_type`, not by architecture.
#[derive(Debug)]
pub struct ConfigDefaults {
    /// The `model_type` these are the defaults of.
    pub model_type: &'static str,
    /// Keys with the number they have if missing.
    pub numbers: &'static [(&'static str, u64)],
    /// What `head_dim` is if missing.
    pub head_size: DefaultHeadSize,
    /// What `rms_norm_eps` is if missing; the model type has none otherwise.
    pub rms_epsilon: Option<f64>,
    /// The base of the rotary frequencies if missing.
    pub rope_theta: f64,
    /// The base in layers with a window if missing, where it is another one.
    pub sliding_rope_theta: Option<f64>,
    /// What `sliding_window` is if missing.
    pub window: DefaultWindow,
}

/// What `sliding_window` is if `config.json` does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultWindow {
    /// The model type has none: the key does not count.
    Never,
    /// Some layers have one if `use_sliding_window` says so, of so many positions. No
    /// such model is supported.
    SomeLayers(u64),
    /// None.
    None,
    /// So many positions.
    Fixed(u64),
}

/// What `head_dim` is if `config.json` does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultHeadSize {
    /// Left out: the size is `hidden_size / num_attention_heads`, and the GGUF
    /// file does not say so.
    Implied,
    /// `hidden_size / num_attention_heads`, and the GGUF file says so.
    Quotient,
    /// A fixed number.
    Fixed(u64),
}

/// The root mean square norm's epsilon in most configuration classes.
pub(crate) const DEFAULT_RMS_EPSILON: Option<f64> = Some(1e-6);
/// The base of the rotary frequencies in most configuration classes.
pub(crate) const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// A JSON object of a side file, with its path for messages.
#[derive(Clone, Debug)]
pub(crate) struct JsonObject {
    path: PathBuf,
    /// The keys that lead to the object, with a dot after each.
    prefix: String,
    values: Map<String, Value>,
    /// Keys that the file calls otherwise.
    spellings: &'static [Spelling],
    /// True if it is of a part of a larger model, and the file says more of the others.
    is_part: bool,
}

impl JsonObject {
    /// Parses a file that must hold an object.
    pub(crate) fn parse(path: PathBuf, bytes: &[u8]) -> Result<Self, Error> {
        match qz_shards::json::settings(bytes) {
            Ok(Value::Object(values)) => Ok(Self::new(path, values)),
            Ok(_) => Err(Error::Key {
                path,
                key: "(root)".to_owned(),
                problem: "is not a JSON object".to_owned(),
            }),
            Err(source) => Err(Error::Json { path, source }),
        }
    }

    /// The values of a file that is not there yet.
    pub(crate) fn new(path: PathBuf, values: Map<String, Value>) -> Self {
        Self { path, prefix: String::new(), values, spellings: &[], is_part: false }
    }

    /// The same with an architecture's own keys under their common names, and with what
    /// follows from them.
    pub(crate) fn of_architecture(mut self, architecture: &dyn Architecture) -> Self {
        for Spelling { own, common } in architecture.spellings() {
            if let Some(value) = self.values.shift_remove(*own) {
                self.values.insert((*common).to_owned(), value);
            }
        }
        self.filled(architecture)
    }

    /// The same of one that has the common names already.
    pub(crate) fn filled(mut self, architecture: &dyn Architecture) -> Self {
        self.spellings = architecture.spellings();
        architecture.fill_config(&mut self.values);
        self
    }

    /// True if it is the configuration of this architecture, among those of its class.
    pub(crate) fn is_of(&self, architecture: &dyn Architecture) -> bool {
        architecture.is_of(&self.values)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What `key` holds; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// True if `key` is there, `null` or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// True if `key` is there and `null`.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(Value::is_null)
    }

    /// The object as a JSON value.
    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.values)
    }

    /// Its values by key.
    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.values
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    /// Sets `key` if it is absent.
    pub(crate) fn set_default(&mut self, key: &str, value: impl Into<Value>) {
        if self.get(key).is_none() {
            self.set(key, value.into());
        }
    }

    /// The error that `key`'s value is wrong.
    pub(crate) fn fault(&self, key: &str, problem: impl Into<String>) -> Error {
        let own = self.spellings.iter().find(|spelling| spelling.common == key);
        let key = own.map_or(key, |spelling| spelling.own);
        Error::Key {
            path: self.path.clone(),
            key: format!("{}{key}", self.prefix),
            problem: problem.into(),
        }
    }

    /// The integer under `key`, which must be in `range`.
    pub(crate) fn integer(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.fault(
                key,
                format!(
                    "is {}, expected an integer from {} to {}",
                    shown(value),
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// The same, for a key that must be there.
    pub(crate) fn required_integer(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<u64, Error> {
        self.integer(key, range)?.ok_or_else(|| self.fault(key, "is missing"))
    }

    /// The integer under `key`, which may be negative and must fit 32 bits.
    pub(crate) fn signed_integer(&self, key: &str) -> Result<Option<i32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_i64().map(i32::try_from) {
            Some(Ok(number)) => Ok(Some(number)),
            _ => Err(self.fault(key, format!("is {}, expected a 32-bit integer", shown(value)))),
        }
    }

    /// The number under `key`. It must stay finite as `f32`, which is what GGUF
    /// files store.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (number as f32).is_finite() => Ok(Some(number)),
            _ => Err(self.fault(key, format!("is {}, expected a finite number", shown(value)))),
        }
    }

    /// The same, for a number that must be above zero.
    pub(crate) fn positive_number(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.number(key)? {
            Some(number) if (number as f32) <= 0.0 => {
                Err(self.fault(key, format!("is {number}, expected a number above zero")))
            }
            number => Ok(number),
        }
    }

    /// The boolean under `key`.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(value) => {
                Err(self.fault(key, format!("is {}, expected true or false", shown(value))))
            }
        }
    }

    /// The string under `key`.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(value) => Err(self.fault(key, format!("is {}, expected a string", shown(value)))),
        }
    }

    /// The object under `key`.
    pub(crate) fn object(&self, key: &str) -> Result<Option<JsonObject>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                path: self.path.clone(),
                prefix: format!("{}{key}.", self.prefix),
                values: values.clone(),
                spellings: &[],
                is_part: false,
            })),
            Some(value) => Err(self.fault(key, format!("is {}, expected an object", shown(value)))),
        }
    }

    /// The object with the keys of `text_config` in it, which a larger model's
    /// configuration has for the part that reads and writes text.
    pub(crate) fn with_text_config(mut self) -> Result<Self, Error> {
        const KEY: &str = "text_config";
        let Some(text) = self.object(KEY)? else { return Ok(self) };
        self.values.remove(KEY);
        for (key, value) in text.values.into_iter().filter(|(key, _)| key != "architectures") {
            // A `null` says that there is none, where configuration classes assume a number;
            // it does not deny what stands outside.
            if !value.is_null() || !self.has(&key) {
                self.values.insert(key, value);
            }
        }
        Ok(self)
    }

    /// These rotary parameters for layers that see all positions, and the plain ones of
    /// another base for layers that see a window.
    pub(crate) fn of_kinds(self, sliding_theta: f64) -> Self {
        let sliding = serde_json::json!({"rope_type": "default", "rope_theta": sliding_theta});
        let mut outer = Self { values: Map::new(), ..self.clone() };
        outer.set("full_attention", Value::Object(self.values));
        outer.set("sliding_attention", sliding);
        outer
    }

    /// Its keys and values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// True without keys.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// An object without keys that is said to lie under `key`.
    pub(crate) fn empty_child(&self, key: &str) -> Self {
        Self {
            path: self.path.clone(),
            prefix: format!("{}{key}.", self.prefix),
            values: Map::new(),
            spellings: &[],
            is_part: false,
        }
    }

    /// The values of a child as those of a part of the larger model that this is of.
    pub(crate) fn part(&self, child: Self) -> Self {
        Self { values: child.values, is_part: true, ..self.clone() }
    }

    /// True if it is of a part of a larger model whose class is not its own.
    pub(crate) fn is_part(&self) -> bool {
        self.is_part
    }
}

/// A 32-bit float as JSON with the fewest digits that tell it from others: 1e-5,
/// not 9.999999747378752e-6.
pub(crate) fn shortest(number: f32) -> Value {
    let text = number.to_string();
    text.parse::<f64>().map_or(Value::Null, Value::from)
}

/// A JSON value in a message: never more than a line of it.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    // Python's words for floats that JSON lacks, as they stand in the file.
    if let Some((word, _)) = value.as_object().and_then(qz_shards::json::tagged_float) {
        return word.to_owned();
    }
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> JsonObject {
        JsonObject::parse("config.json".into(), text.as_bytes()).expect("an object")
    }

    #[test]
    fn integers_have_ranges() {
        let check = |value: &str, expected: Result<Option<u64>, &str>| {
            let found = object(&format!(r#"{{"n": {value}}}"#)).integer("n", 1..=100);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
                (found, expected) => panic!("{value}: {found:?}, expected {expected:?}"),
            }
        };
        let refused =
            |shown: &str| format!("config.json: n: is {shown}, expected an integer from 1 to 100");
        check("7", Ok(Some(7)));
        check("null", Ok(None));
        for value in ["0", "-1", "101", "7.0", "\"7\"", "[7]", "true", "9223372036854775808"] {
            check(value, Err(&refused(value)));
        }
    }
}
