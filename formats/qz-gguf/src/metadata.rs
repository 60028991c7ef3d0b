//! Reading the key-value section.

use qz_tensor::{Array, Metadata, Texts, Value, ValueKind};

use crate::cursor::Cursor;
use crate::error::{Error, Fault};
use crate::rules::{MAX_HEADER, MAX_KEY, check_key};
use crate::seen::Seen;

/// A pair is at least a key of one byte with its length, a kind and one byte.
pub(crate) const MIN_PAIR: u64 = 8 + 1 + 4 + 1;

/// A string is at least its length.
const MIN_STRING: u64 = 8;

/// Reads `count` pairs, which were compared with the bytes that are left; also returns
/// where each is.
pub(crate) fn read(cursor: &mut Cursor<'_>, count: usize) -> Result<(Metadata, Vec<u64>), Error> {
    let (mut keys, mut values) = (Texts::with_capacity(count), Vec::with_capacity(count));
    let mut offsets = Vec::with_capacity(count);
    let mut seen = Seen::default();
    for number in 0..count {
        let offset = cursor.position();
        let key = read_key(cursor)?;
        let key_at = |at: usize| keys.get(at);
        if let Some(first) = seen.insert(&key, number, key_at) {
            let first = offsets.get(first).copied().unwrap_or_default();
            return Err(cursor.error(offset, Fault::DuplicateKey { first }).inside(&key));
        }
        let value = read_value(cursor).map_err(|error| error.inside(&key))?;
        keys.push(&key);
        values.push(value);
        offsets.push(offset);
    }
    drop(seen);
    // Cannot fail: a key that occurs twice was refused above, with its place.
    let metadata = Metadata::from_unique(keys, values).unwrap_or_default();
    Ok((metadata, offsets))
}

fn read_key(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    let offset = cursor.position();
    let key = cursor.string("metadata key", MAX_KEY, Fault::LongKey)?;
    check_key(&key).map_err(|fault| cursor.error(offset, fault))?;
    Ok(key)
}

fn read_value(cursor: &mut Cursor<'_>) -> Result<Value, Error> {
    Ok(match read_kind(cursor, "value")? {
        ValueKind::U8 => Value::U8(cursor.u8()?),
        ValueKind::I8 => Value::I8(cursor.number(i8::from_le_bytes)?),
        ValueKind::U16 => Value::U16(cursor.number(u16::from_le_bytes)?),
        ValueKind::I16 => Value::I16(cursor.number(i16::from_le_bytes)?),
        ValueKind::U32 => Value::U32(cursor.u32()?),
        ValueKind::I32 => Value::I32(cursor.number(i32::from_le_bytes)?),
        ValueKind::F32 => Value::F32(cursor.number(f32::from_le_bytes)?),
        ValueKind::Bool => Value::Bool(read_bool(cursor)?),
        ValueKind::String => {
            let bytes = read_bytes(cursor)?;
            match str::from_utf8(bytes) {
                Ok(text) => Value::String(text.to_owned()),
                Err(_) => Value::Bytes(bytes.to_owned()),
            }
        }
        ValueKind::Array => Value::Array(read_array(cursor)?),
        ValueKind::U64 => Value::U64(cursor.u64()?),
        ValueKind::I64 => Value::I64(cursor.number(i64::from_le_bytes)?),
        ValueKind::F64 => Value::F64(cursor.number(f64::from_le_bytes)?),
    })
}

fn read_kind(cursor: &mut Cursor<'_>, what: &'static str) -> Result<ValueKind, Error> {
    let offset = cursor.position();
    let kind = cursor.u32()?;
    ValueKind::from_number(kind).ok_or_else(|| cursor.error(offset, Fault::Kind { what, kind }))
}

fn read_bool(cursor: &mut Cursor<'_>) -> Result<bool, Error> {
    let offset = cursor.position();
    match cursor.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cursor.error(offset, Fault::Bool(other))),
    }
}

/// The bytes of a value, which may be no UTF-8: llama.cpp takes any.
fn read_bytes<'c>(cursor: &'c mut Cursor<'_>) -> Result<&'c [u8], Error> {
    cursor.text(MAX_HEADER, |_| Fault::HeaderTooLong)
}

/// Strings; as bytes if one of them is no UTF-8.
fn read_strings(cursor: &mut Cursor<'_>, count: usize) -> Result<Array, Error> {
    let mut texts = Texts::with_capacity(count);
    while texts.len() < count {
        let bytes = read_bytes(cursor)?;
        match str::from_utf8(bytes) {
            Ok(text) => texts.push(text),
            Err(_) => {
                let mut all = texts.into_bytes();
                all.push(bytes);
                while all.len() < count {
                    all.push(read_bytes(cursor)?);
                }
                return Ok(Array::Bytes(all));
            }
        }
    }
    Ok(Array::String(texts))
}

fn read_array(cursor: &mut Cursor<'_>) -> Result<Array, Error> {
    let kind_offset = cursor.position();
    let kind = read_kind(cursor, "array element")?;
    let minimum = match kind {
        ValueKind::U8 | ValueKind::I8 | ValueKind::Bool => 1,
        ValueKind::U16 | ValueKind::I16 => 2,
        ValueKind::U32 | ValueKind::I32 | ValueKind::F32 => 4,
        ValueKind::U64 | ValueKind::I64 | ValueKind::F64 => 8,
        ValueKind::String => MIN_STRING,
        ValueKind::Array => return Err(cursor.error(kind_offset, Fault::NestedArray)),
    };
    let offset = cursor.position();
    let count = cursor.u64()?;
    let count = cursor.count(offset, count, minimum, "array elements")?;
    Ok(match kind {
        ValueKind::U8 => Array::U8(cursor.numbers(count, u8::from_le_bytes)?),
        ValueKind::I8 => Array::I8(cursor.numbers(count, i8::from_le_bytes)?),
        ValueKind::U16 => Array::U16(cursor.numbers(count, u16::from_le_bytes)?),
        ValueKind::I16 => Array::I16(cursor.numbers(count, i16::from_le_bytes)?),
        ValueKind::U32 => Array::U32(cursor.numbers(count, u32::from_le_bytes)?),
        ValueKind::I32 => Array::I32(cursor.numbers(count, i32::from_le_bytes)?),
        ValueKind::F32 => Array::F32(cursor.numbers(count, f32::from_le_bytes)?),
        ValueKind::U64 => Array::U64(cursor.numbers(count, u64::from_le_bytes)?),
        ValueKind::I64 => Array::I64(cursor.numbers(count, i64::from_le_bytes)?),
        ValueKind::F64 => Array::F64(cursor.numbers(count, f64::from_le_bytes)?),
        ValueKind::Bool => Array::Bool(read_bools(cursor, count)?),
        ValueKind::String => read_strings(cursor, count)?,
        ValueKind::Array => return Err(cursor.error(kind_offset, Fault::NestedArray)),
    })
}

fn read_bools(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<bool>, Error> {
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(read_bool(cursor)?);
    }
    Ok(out)
}
