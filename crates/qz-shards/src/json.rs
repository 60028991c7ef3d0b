//! JSON as checkpoints have it. [`from_slice`] reads files that Python wrote, with what
//! its `json` module takes and the standard does not; [`parse`] is for headers and
//! indexes: strict JSON whose errors are faults with a place.
//!
//! `serde_json` knows where it stands but carries errors of its own only. A
//! visitor that finds a broken rule leaves the fault in a [`Stash`] and fails
//! with an empty error; [`parse`] puts the two together.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

use qz_tensor::recognise;
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde_json::Value;

use crate::error::shown;

/// What Windows' editors put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// `bytes` without a byte order mark in front.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Reads a whole text as Python's `json` module does: a byte order mark in front is
/// skipped, and `NaN`, `Infinity` and `-Infinity` are values. JSON has none for them, so
/// each becomes the object that transformers 5 writes in its place,
/// `{"__float__": "NaN"}`: it is kept when the text is written again, and is no number
/// to whoever asks for one.
///
/// # Errors
/// What the parser says. Where the text shows what it is instead, this.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let text = without_mark(bytes);
    // The parser looks at those strings alone that somebody asks for.
    let (error, is_text) = match str::from_utf8(text) {
        Ok(text) => match serde_json::from_str(text) {
            Ok(value) => return Ok(value),
            Err(error) => (error, true),
        },
        Err(error) => {
            let place = bytes.len() - text.len() + error.valid_up_to();
            let byte = bytes[place];
            (de::Error::custom(format!("byte {place} is {byte:#04x}, which is no UTF-8")), false)
        }
    };
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(de::Error::custom("the text is UTF-16, JSON is UTF-8: save it anew"));
    }
    if let Some(found) = recognise(bytes) {
        return Err(de::Error::custom(format!("it looks like {found}")));
    }
    // Only a text that is not JSON is looked through for them.
    let read = match Some(text).filter(|_| is_text).and_then(with_tagged_floats) {
        Some(text) => serde_json::from_slice(&text),
        None => Err(error),
    };
    read.map_err(|error| {
        let is_escape = error.is_syntax() && error.to_string().contains("hex escape");
        match half_letter(text).filter(|_| is_escape) {
            Some(place) => {
                let escape = String::from_utf8_lossy(&text[place..place + ESCAPE]);
                let place = bytes.len() - text.len() + place;
                de::Error::custom(format!(
                    "byte {place}: {escape} is half of a surrogate pair, as Python writes a \
                     letter that was cut in two; no text has it: write \\ufffd instead"
                ))
            }
            None => error,
        }
    })
}

/// The length of `\ud83d`.
const ESCAPE: usize = 6;

/// The place of the first escape of a surrogate without its other half.
fn half_letter(text: &[u8]) -> Option<usize> {
    let unit = |place: usize| {
        let digits = text.get(place..place + ESCAPE)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut place = 0;
    while let Some(byte) = text.get(place) {
        // Outside of strings there are none.
        place += match (byte, unit(place)) {
            (b'\\', Some(0xd800..=0xdbff)) => match unit(place + ESCAPE) {
                Some(0xdc00..=0xdfff) => 2 * ESCAPE,
                _ => return Some(place),
            },
            (b'\\', Some(0xdc00..=0xdfff)) => return Some(place),
            (b'\\', _) => 2,
            _ => 1,
        };
    }
    None
}

/// The longest file of settings. Those with thousands of added tokens have a megabyte; a value
/// of JSON takes up to fifty times the memory of its text.
pub const MAX_SETTINGS: usize = 4 << 20;

/// [`from_slice`] for files of settings, which are no longer than [`MAX_SETTINGS`].
///
/// # Errors
/// As that; and if the text is longer.
pub fn settings<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    if bytes.len() > MAX_SETTINGS {
        let length = bytes.len();
        return Err(de::Error::custom(format!(
            "{length} bytes; a file of settings has at most {MAX_SETTINGS}"
        )));
    }
    from_slice(bytes)
}

/// Any value, with no more values in it than `most`, itself among them: each takes up to fifty
/// times the memory of its text.
///
/// # Errors
/// If there are more.
pub fn few_values<'de, D: Deserializer<'de>>(
    deserializer: D,
    most: usize,
) -> Result<Value, D::Error> {
    FewValues { left: &Cell::new(most), most }.deserialize(deserializer)
}

struct FewValues<'a> {
    left: &'a Cell<usize>,
    most: usize,
}

impl FewValues<'_> {
    fn another(&self) -> Self {
        Self { ..*self }
    }
}

impl<'de> DeserializeSeed<'de> for FewValues<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            let most = self.most;
            return Err(de::Error::custom(format!("more than {most} values where a few belong")));
        };
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FewValues<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.another())? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = serde_json::Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            object.insert(key, entries.next_value_seed(self.another())?);
        }
        Ok(Value::Object(object))
    }
}

/// Python's words for floats that JSON lacks.
const WORDS: [(&str, f64); 3] =
    [("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY), ("NaN", f64::NAN)];

/// The key of the object that stands for one.
const TAG: &str = "__float__";

/// The float that an object of [`from_slice`] stands for, and its word.
pub fn tagged_float(entries: &serde_json::Map<String, Value>) -> Option<(&'static str, f64)> {
    let word = entries.get(TAG).filter(|_| entries.len() == 1)?.as_str()?;
    WORDS.into_iter().find(|(known, _)| *known == word)
}

/// The text with Python's words for floats that JSON lacks as objects; `None` if there
/// are none.
pub(crate) fn with_tagged_floats(text: &[u8]) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let (mut place, mut copied) = (0, 0);
    while let Some(byte) = text.get(place) {
        if *byte == b'"' {
            place = end_of_string(text, place);
            continue;
        }
        let rest = &text[place..];
        let is_next = |(word, _): &&(&str, f64)| rest.starts_with(word.as_bytes());
        let Some((word, _)) = WORDS.iter().find(is_next) else {
            place += 1;
            continue;
        };
        let out = out.get_or_insert_default();
        out.extend_from_slice(&text[copied..place]);
        out.extend_from_slice(format!(r#"{{"{TAG}": "{word}"}}"#).as_bytes());
        place += word.len();
        copied = place;
    }
    let mut out = out?;
    out.extend_from_slice(&text[copied..]);
    Some(out)
}

/// The place behind the string that begins at `start`.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut place = start + 1;
    while let Some(byte) = text.get(place) {
        match byte {
            b'"' => return place + 1,
            b'\\' => place += 2,
            _ => place += 1,
        }
    }
    text.len()
}

/// What is wrong with a JSON text, whatever it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextFault {
    /// Bytes that are not UTF-8.
    #[error("the {0} is not valid UTF-8")]
    Utf8(&'static str),
    /// Not JSON.
    #[error("invalid JSON: {0}")]
    Json(String),
    /// JSON that nests too deep.
    #[error("the JSON nests too deep")]
    Depth,
    /// JSON padded with NUL bytes.
    #[error(
        "the JSON is padded with NUL bytes, the format wants spaces (0x20): save the file anew or replace them"
    )]
    NulPadding,
    /// JSON of another form than is wanted.
    #[error("{0}")]
    Field(String),
    /// A field that must be there.
    #[error("`{0}` is missing")]
    MissingField(&'static str),
    /// A field that occurs twice.
    #[error("`{0}` occurs twice")]
    DuplicateField(String),
}

impl TextFault {
    /// The rule's short, stable name.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Utf8(_) => "invalid-utf8",
            Self::Json(_) => "invalid-json",
            Self::Depth => "json-too-deep",
            Self::NulPadding => "nul-padding",
            Self::Field(_) | Self::MissingField(_) => "invalid-field",
            Self::DuplicateField(_) => "duplicate-field",
        }
    }
}

/// A broken rule in a JSON text.
pub struct Broken<F> {
    /// Bytes from the start of the text: at the fault or the end of the item
    /// that has it.
    pub offset: usize,
    /// The tensor it is about.
    pub name: Option<String>,
    /// What it is.
    pub fault: F,
}

/// Where visitors leave what they found.
pub struct Stash<F> {
    fault: RefCell<Option<F>>,
    name: RefCell<Option<String>>,
}

impl<F> Default for Stash<F> {
    fn default() -> Self {
        Self { fault: RefCell::default(), name: RefCell::default() }
    }
}

impl<F> Stash<F> {
    /// Keeps `fault`; the error stops the parser.
    pub fn fail<E: de::Error>(&self, fault: impl Into<F>) -> E {
        *self.fault.borrow_mut() = Some(fault.into());
        E::custom("")
    }

    /// For `map_err`: notes that the error lies in tensor `name`.
    pub fn inside<E>(&self, name: &str) -> impl Fn(E) -> E {
        move |error| {
            *self.name.borrow_mut() = Some(name.to_owned());
            error
        }
    }
}

/// Parses a whole text.
///
/// # Errors
/// What is wrong with it and where: what a visitor left in `stash`, else what the
/// parser found.
pub fn parse<'de, F: From<TextFault>, S: DeserializeSeed<'de>>(
    text: &'de str,
    stash: &Stash<F>,
    seed: S,
) -> Result<S::Value, Broken<F>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = seed.deserialize(&mut deserializer);
    parsed.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        let offset = place_of(text, &error);
        let fault = stash.fault.take().unwrap_or_else(|| fault_of(text, offset, &error).into());
        Broken { offset, name: stash.name.take(), fault }
    })
}

/// The parser gives line and column, both from 1, columns in bytes.
fn place_of(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let line_start: usize = lines_before.map(str::len).sum();
    (line_start + error.column().saturating_sub(1)).min(text.len())
}

fn fault_of(text: &str, offset: usize, error: &serde_json::Error) -> TextFault {
    let rest = text.as_bytes().get(offset..).unwrap_or_default();
    if !rest.is_empty() && rest.iter().all(|byte| *byte == 0) {
        return TextFault::NulPadding;
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    match error.classify() {
        // The parser has no other way to tell.
        _ if message.contains("recursion limit") => TextFault::Depth,
        serde_json::error::Category::Data => TextFault::Field(shown(message)),
        _ => TextFault::Json(shown(message)),
    }
}

/// An object's key, borrowed where it has no escapes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key<'de>(pub Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Any value, read and dropped. Unlike `serde`'s own it counts the depth.
pub struct Skip;

impl<'de> Deserialize<'de> for Skip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Skip)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = Skip;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_str<E>(self, _: &str) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_unit<E>(self) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Skip, A::Error> {
        while items.next_element::<Skip>()?.is_some() {}
        Ok(Skip)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Skip, A::Error> {
        while entries.next_entry::<Key<'_>, Skip>()?.is_some() {}
        Ok(Skip)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        let check = |text: &[u8], expected: Value| {
            let found: Value = from_slice(text).expect("JSON");
            assert_eq!(found, expected);
        };
        let tagged = |word: &str| json!({ "__float__": word });
        check(b"\xef\xbb\xbf{\"a\": 1}", json!({"a": 1}));
        check(
            b"{\"a\": NaN, \"b\": [-Infinity,Infinity], \"c\": \"NaN \\\" Infinity\"}",
            json!({
                "a": tagged("NaN"),
                "b": [tagged("-Infinity"), tagged("Infinity")],
                "c": "NaN \" Infinity",
            }),
        );
        check(b"\xef\xbb\xbfNaN", tagged("NaN"));
        check(b"\"NaN\"", json!("NaN"));
    }

    #[test]
    fn halves_of_letters_are_named() {
        let check = |text: &str, expected: Option<&str>| {
            let found = from_slice::<Value>(text.as_bytes()).err().map(|error| error.to_string());
            match (&found, expected) {
                (Some(found), Some(expected)) => {
                    assert!(found.starts_with(expected), "{text}: {found}");
                }
                _ => assert!(found.is_none() && expected.is_none(), "{text}: {found:?}"),
            }
        };
        check(r#""\ud83d\ude00""#, None);
        check(r#""\\ud83d""#, None);
        check(r#"["\ud83d\ude00", "a\ud83d"]"#, Some("byte 19: \\ud83d is half of"));
        check(r#""\ud83d\u0041""#, Some("byte 1: \\ud83d is half of"));
        check(r#""\ud83d\ud83d\ude00""#, Some("byte 1: \\ud83d is half of"));
        check(r#""\uDE00""#, Some("byte 1: \\uDE00 is half of"));
        check("\u{feff}[NaN, \"\\ud83d\"]", Some("byte 10: \\ud83d is half of"));
        // What is wrong is something else.
        check(r#"["\ud83d\ude00", "\u12"]"#, Some("invalid escape"));
        check(r#"["\ud83d\ude00",]"#, Some("trailing comma"));
    }

    #[test]
    fn values_are_counted() {
        let check = |text: &str, most: usize, expected: bool| {
            let found = few_values(&mut serde_json::Deserializer::from_str(text), most);
            assert_eq!(found.is_ok(), expected, "{text}");
            assert!(
                !expected
                    || found.expect("few") == serde_json::from_str::<Value>(text).expect("JSON")
            );
        };
        check("1", 1, true);
        check("[]", 1, true);
        check("[-1]", 1, false);
        check(r#"{"a": [null, true, 0.5], "b": "c", "a": -3}"#, 7, true);
        check(r#"{"a": [null, true, 0.5], "b": "c", "a": -3}"#, 6, false);
        check("[[[[]]]]", 3, false);
    }

    #[test]
    fn tagged_floats_are_known() {
        let check = |text: &[u8], expected: Option<(&str, f64)>| {
            let found: Value = from_slice(text).expect("JSON");
            let found = found.as_object().and_then(tagged_float);
            assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        };
        check(b"NaN", Some(("NaN", f64::NAN)));
        check(b"-Infinity", Some(("-Infinity", f64::NEG_INFINITY)));
        check(b"{\"__float__\": \"Infinity\"}", Some(("Infinity", f64::INFINITY)));
        check(b"{\"__float__\": \"nan\"}", None);
        check(b"{\"__float__\": \"NaN\", \"a\": 1}", None);
    }

    #[test]
    fn settings_are_short() {
        let text = |length: usize| [b"[".to_vec(), vec![b' '; length - 2], b"]".to_vec()].concat();
        assert_eq!(settings::<Value>(&text(MAX_SETTINGS)).expect("JSON"), json!([]));
        let error = settings::<Value>(&text(MAX_SETTINGS + 1)).expect_err("too long");
        assert!(error.to_string().contains("4194305 bytes"), "{error}");
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let check = |text: &[u8], expected: &str| {
            let error = from_slice::<Value>(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"", "EOF");
        check(b"{\"a\": Nan}", "line 1 column 7");
        check(b"{\"a\": NaN", "EOF");
        check(b"{\"a\": \"NaN", "EOF");
        check(b"{\"a\\", "EOF");
        check(b"1 NaN", "trailing characters");
        check(b"\xff\xfe{\0}\0", "UTF-16");
        // One of what `qz_tensor::recognise` knows.
        check(b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull");
    }
}
