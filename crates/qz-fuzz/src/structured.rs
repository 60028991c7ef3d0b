//! Mutations that keep a file well formed, so that more than its outermost reader sees it:
//! values of JSON, fields of GGUF headers and of protobuf, bytes of what is in a zip file.

use serde_json::{Map, Value, json};

use crate::mutate::{EDGES, FLOATS, Random, change};
use crate::protobuf;
use crate::seeds::zip;

/// What a format's files are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// Nothing that is known here.
    Bytes,
    /// JSON.
    Json,
    /// JSON behind its length in eight bytes, then data.
    PrefixedJson,
    /// A GGUF file.
    Gguf,
    /// A zip file of stored entries.
    Zip,
    /// A message of protobuf.
    Protobuf,
}

impl Structure {
    /// A well-formed mutant of `seed`; `None` if the seed is not of this structure.
    pub(crate) fn mutant(
        self,
        random: &mut Random,
        seed: &[u8],
        words: &[&[u8]],
    ) -> Option<Vec<u8>> {
        match self {
            Self::Bytes => None,
            Self::Json => json_mutant(random, seed, words),
            Self::PrefixedJson => {
                let (length, rest) = seed.split_first_chunk::<8>()?;
                let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
                let (header, data) = rest.split_at_checked(length)?;
                let header = json_mutant(random, header, words)?;
                Some([&(header.len() as u64).to_le_bytes()[..], &header, data].concat())
            }
            Self::Gguf => gguf_mutant(random, seed, words),
            Self::Zip => zip_mutant(random, seed, words),
            Self::Protobuf => protobuf::mutant(random, seed, words),
        }
    }
}

fn json_mutant(random: &mut Random, seed: &[u8], words: &[&[u8]]) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(seed).ok()?;
    for _ in 0..1 + random.below(3).min(random.below(3)) {
        let original = document.clone();
        let other = random.below(nodes(&original));
        let mut at = random.below(nodes(&document));
        visit(&mut document, &mut at, &mut |node| {
            change_node(random, node, &original, other, words);
        });
    }
    serde_json::to_vec(&document).ok()
}

/// How many values a document has, with itself.
fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(fields) => fields.values().map(nodes).sum(),
        _ => 0usize,
    }
}

/// Calls `change` with the value that has this number.
fn visit(value: &mut Value, at: &mut usize, change: &mut dyn FnMut(&mut Value)) -> bool {
    if *at == 0 {
        change(value);
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| visit(item, at, change)),
        Value::Object(fields) => fields.values_mut().any(|field| visit(field, at, change)),
        _ => false,
    }
}

fn change_node(
    random: &mut Random,
    node: &mut Value,
    original: &Value,
    mut other: usize,
    words: &[&[u8]],
) {
    match (random.below(8), &mut *node) {
        (0 | 1, Value::Object(fields)) => change_fields(random, fields),
        (0 | 1, Value::Array(items)) => change_items(random, items),
        (0 | 1, Value::Number(number)) => {
            let number = number.as_f64().unwrap_or_default();
            let near = [number + 1.0, number - 1.0, number * 2.0, number / 2.0, -number];
            *node = number_of(near[random.below(near.len())]);
        }
        (0 | 1, Value::String(text)) => {
            let word = random.choose(words).copied().unwrap_or_default();
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            let ends: Vec<usize> = ends.collect();
            text.insert_str(ends[random.below(ends.len())], &String::from_utf8_lossy(word));
        }
        (0 | 1, Value::Bool(flag)) => *flag = !*flag,
        (2, _) => *node = json!(random.choose(EDGES).copied().unwrap_or_default()),
        (3, _) => {
            let odd = [json!(-1), json!(0.5), json!(1e308), json!("9".repeat(40)), json!(-0.0)];
            *node = odd[random.below(odd.len())].clone();
        }
        (4, _) => {
            let empty = [json!(null), json!(true), json!(""), json!([]), json!({}), json!("a")];
            *node = empty[random.below(empty.len())].clone();
        }
        (5, _) => *node = json!([node.take()]),
        (6, _) => *node = json!({"a": node.take()}),
        _ => {
            let mut copy = original.clone();
            visit(&mut copy, &mut other, &mut |found| *node = found.take());
        }
    }
}

fn number_of(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

/// Takes a field away, or gives it another's name.
fn change_fields(random: &mut Random, fields: &mut Map<String, Value>) {
    let keys: Vec<String> = fields.keys().cloned().collect();
    let (Some(key), Some(other)) = (random.choose(&keys), random.choose(&keys)) else { return };
    let value = fields.remove(key).unwrap_or_default();
    match random.below(3) {
        0 => {}
        1 => drop(fields.insert(other.clone(), value)),
        _ => drop(fields.insert(format!("{key}_"), value)),
    }
}

/// Takes items away, repeats them, or changes their order.
fn change_items(random: &mut Random, items: &mut Vec<Value>) {
    if items.is_empty() {
        return;
    }
    let (at, other) = (random.below(items.len()), random.below(items.len()));
    match random.below(3) {
        0 => drop(items.remove(at)),
        1 => items.insert(other, items[at].clone()),
        _ => items.swap(at, other),
    }
}

/// Changes the bytes of one entry; checksums and sizes stay right.
fn zip_mutant(random: &mut Random, seed: &[u8], words: &[&[u8]]) -> Option<Vec<u8>> {
    const LOCAL: &[u8] = b"PK\x03\x04";
    let mut entries: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut rest = seed;
    while rest.starts_with(LOCAL) {
        let fields = rest.split_off(..30)?;
        let size = u32::from_le_bytes(*fields[22..].first_chunk()?) as usize;
        let name = u16::from_le_bytes(*fields[26..].first_chunk()?).into();
        let name = str::from_utf8(rest.split_off(..name)?).ok()?;
        entries.push((name, rest.split_off(..size)?.to_vec()));
    }
    let at = random.below(entries.len());
    let (_, data) = entries.get_mut(at)?;
    let seeds = [data.clone()];
    for _ in 0..1 + random.below(3).min(random.below(3)) {
        change(random, &seeds, words, data);
    }
    let entries: Vec<(&str, &[u8])> =
        entries.iter().map(|(name, data)| (*name, data.as_slice())).collect();
    Some(zip(&entries))
}

/// A field of a GGUF header.
enum Field {
    Number(Vec<u8>),
    Text(Vec<u8>),
}

/// Data begins at multiples of this in the seeds.
const ALIGNMENT: usize = 32;

/// Changes numbers and texts of the header; lengths of texts and the data's place stay right.
fn gguf_mutant(random: &mut Random, seed: &[u8], words: &[&[u8]]) -> Option<Vec<u8>> {
    let mut rest = seed;
    let mut fields = header(&mut rest)?;
    let data = (seed.len() - rest.len()).next_multiple_of(ALIGNMENT);
    for _ in 0..1 + random.below(3).min(random.below(3)) {
        let at = random.below(fields.len());
        match &mut fields[at] {
            Field::Number(bytes) => change_number(random, bytes),
            Field::Text(text) => {
                let at = random.below(text.len() + 1);
                match random.below(4) {
                    0 => text.truncate(at),
                    1 => text.extend(random.choose(words).copied().unwrap_or_default()),
                    2 => text.insert(at, b"a1.\xc3\xa9\0 "[random.below(7)]),
                    _ => {
                        if let Some(byte) = text.get_mut(at) {
                            *byte = b'a' + random.below(26) as u8;
                        }
                    }
                }
            }
        }
    }
    let mut out = Vec::with_capacity(seed.len() + 64);
    for field in &fields {
        match field {
            Field::Number(bytes) => out.extend_from_slice(bytes),
            Field::Text(text) => {
                out.extend((text.len() as u64).to_le_bytes());
                out.extend_from_slice(text);
            }
        }
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out.extend_from_slice(seed.get(data..).unwrap_or_default());
    Some(out)
}

fn change_number(random: &mut Random, bytes: &mut [u8]) {
    let width = bytes.len();
    let number = match random.below(4) {
        0 => random.choose(EDGES).copied().unwrap_or_default().to_le_bytes(),
        1 => {
            let float = random.choose(FLOATS).copied().unwrap_or_default();
            u64::from(float.to_bits()).to_le_bytes()
        }
        _ => {
            let mut number = [0; 8];
            number[..width].copy_from_slice(bytes);
            let near = [1, u64::MAX, 2][random.below(3)];
            u64::from_le_bytes(number).wrapping_add(near).to_le_bytes()
        }
    };
    bytes.copy_from_slice(&number[..width]);
}

/// The fields of a good header, up to its padding.
fn header(rest: &mut &[u8]) -> Option<Vec<Field>> {
    let mut fields = vec![number(rest, 4)?, number(rest, 4)?];
    let (tensors, pairs) = (peek(rest)?, peek(rest.get(8..)?)?);
    fields.extend([number(rest, 8)?, number(rest, 8)?]);
    for _ in 0..pairs {
        fields.push(text(rest)?);
        let kind = u32::from_le_bytes(*rest.first_chunk()?);
        fields.push(number(rest, 4)?);
        if kind == 9 {
            let kind = u32::from_le_bytes(*rest.first_chunk()?);
            let count = peek(rest.get(4..)?)?;
            fields.extend([number(rest, 4)?, number(rest, 8)?]);
            for _ in 0..count {
                fields.push(value(rest, kind)?);
            }
        } else {
            fields.push(value(rest, kind)?);
        }
    }
    for _ in 0..tensors {
        fields.push(text(rest)?);
        let rank = u32::from_le_bytes(*rest.first_chunk()?);
        fields.push(number(rest, 4)?);
        for _ in 0..rank {
            fields.push(number(rest, 8)?);
        }
        fields.extend([number(rest, 4)?, number(rest, 8)?]);
    }
    Some(fields)
}

fn value(rest: &mut &[u8], kind: u32) -> Option<Field> {
    match kind {
        0 | 1 | 7 => number(rest, 1),
        2 | 3 => number(rest, 2),
        4..=6 => number(rest, 4),
        8 => text(rest),
        10..=12 => number(rest, 8),
        _ => None,
    }
}

fn peek(rest: &[u8]) -> Option<u64> {
    rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn number(rest: &mut &[u8], width: usize) -> Option<Field> {
    rest.split_off(..width).map(|bytes| Field::Number(bytes.to_vec()))
}

fn text(rest: &mut &[u8]) -> Option<Field> {
    let length = usize::try_from(peek(rest)?).ok()?;
    rest.split_off(..8)?;
    rest.split_off(..length).map(|bytes| Field::Text(bytes.to_vec()))
}
