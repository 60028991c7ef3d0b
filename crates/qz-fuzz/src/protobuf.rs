//! Mutants of protobuf messages that keep every length right: fields changed, repeated, moved,
//! taken away, or taken from another message, at any depth.

use crate::mutate::{EDGES, FLOATS, Random, change};

/// A field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Varint(u64),
    Eight(Vec<u8>),
    /// A text, bytes, or a message.
    Bytes(Vec<u8>),
    Four(Vec<u8>),
}

/// A mutant of `seed`; `None` if that is no message.
pub(crate) fn mutant(random: &mut Random, seed: &[u8], words: &[&[u8]]) -> Option<Vec<u8>> {
    let mut message = parse(seed)?;
    for _ in 0..1 + random.below(3).min(random.below(3)) {
        change_message(random, &mut message, words);
    }
    Some(write(&message))
}

fn change_message(random: &mut Random, message: &mut Vec<Field>, words: &[&[u8]]) {
    if message.is_empty() {
        return;
    }
    let (at, other) = (random.below(message.len()), random.below(message.len()));
    match random.below(10) {
        0 => drop(message.remove(at)),
        1 => message.insert(other, message[at].clone()),
        2 => message.swap(at, other),
        3 => message[at].value = message[other].value.clone(),
        4 => message[at].number = [1, 2, 3, 4, 5, 15, 41, 1 << 28][random.below(8)],
        _ => change_value(random, &mut message[at].value, words),
    }
}

fn change_value(random: &mut Random, value: &mut Value, words: &[&[u8]]) {
    match value {
        Value::Varint(number) => {
            *number = match random.below(3) {
                0 => random.choose(EDGES).copied().unwrap_or_default(),
                1 => number.wrapping_add(1),
                _ => number.wrapping_sub(1),
            };
        }
        Value::Four(bytes) => {
            let float = random.choose(FLOATS).copied().unwrap_or_default();
            bytes.copy_from_slice(&float.to_le_bytes());
        }
        Value::Eight(bytes) => {
            let number = random.choose(EDGES).copied().unwrap_or_default();
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Value::Bytes(bytes) => match parse(bytes).filter(|message| !message.is_empty()) {
            Some(mut message) => {
                change_message(random, &mut message, words);
                *bytes = write(&message);
            }
            None => {
                let seeds = [bytes.clone()];
                change(random, &seeds, words, bytes);
            }
        },
    }
}

/// The fields, if `bytes` are nothing but fields.
fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Eight(bytes.split_off(..8)?.to_vec()),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Value::Bytes(bytes.split_off(..length)?.to_vec())
            }
            5 => Value::Four(bytes.split_off(..4)?.to_vec()),
            _ => return None,
        };
        fields.push(Field { number: key >> 3, value });
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn write(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value } in fields {
        let key = |kind: u64| number << 3 | kind;
        match value {
            Value::Varint(number) => {
                put_varint(&mut out, key(0));
                put_varint(&mut out, *number);
            }
            Value::Eight(bytes) => {
                put_varint(&mut out, key(1));
                out.extend(bytes);
            }
            Value::Bytes(bytes) => {
                put_varint(&mut out, key(2));
                put_varint(&mut out, bytes.len() as u64);
                out.extend(bytes);
            }
            Value::Four(bytes) => {
                put_varint(&mut out, key(5));
                out.extend(bytes);
            }
        }
    }
    out
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let check = |bytes: &[u8], expected: Option<&[u8]>| {
            assert_eq!(parse(bytes).map(|fields| write(&fields)).as_deref(), expected);
        };
        let good =
            b"\x0a\x03\x08\x96\x01\x15\0\0\x80\x3f\x19\x01\x02\x03\x04\x05\x06\x07\x08\x20\x07";
        check(good, Some(good));
        check(b"", Some(b""));
        check(b"\x0a\x05ab", None);
        check(b"\x08\xff", None);
        check(b"\x0b", None);
    }

    /// Half of all mutants are of this kind, and most of these are messages all through.
    #[test]
    fn mutants_are_messages() {
        let seed = b"\x0a\x08\x0a\x01a\x15\0\0\0\0\x12\x02\x18\x02";
        let mut random = Random::new(1);
        for _ in 0..1000 {
            let mutant = mutant(&mut random, seed, &[b"<0x41>"]).expect("a message");
            assert!(parse(&mutant).is_some());
        }
    }
}
