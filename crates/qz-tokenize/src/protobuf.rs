//! The wire format of Protocol Buffers, as far as a SentencePiece model needs it
//! (<https://protobuf.dev/programming-guides/encoding/>).
//!
//! Invariants: a length is compared with the bytes that are left before it is
//! used, nothing is copied, and nothing recurses: a nested message is bytes until
//! its caller reads it.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

/// Why bytes are no message, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Bytes from the start of the file.
    pub(crate) offset: u64,
    pub(crate) problem: String,
}

/// The fields of one message, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    rest: &'a [u8],
    /// Where `rest` begins in the file.
    offset: u64,
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) number: u64,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    value: FieldValue<'a>,
}

#[derive(Clone, Copy, Debug)]
enum FieldValue<'a> {
    Integer(u64),
    Fixed32([u8; 4]),
    Fixed64,
    /// A string, or another message.
    Bytes(Message<'a>),
}

/// The most bytes that a 64-bit integer takes, seven bits in each.
const LONGEST_INTEGER: usize = 10;

impl<'a> Message<'a> {
    /// The message that a whole file is.
    pub(crate) fn whole(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    fn malformed(&self, problem: impl Into<String>) -> Malformed {
        Malformed { offset: self.offset, problem: problem.into() }
    }

    fn take(&mut self, length: u64) -> Result<Message<'a>, Malformed> {
        let split = usize::try_from(length).ok().and_then(|at| self.rest.split_at_checked(at));
        let Some((taken, rest)) = split else {
            let left = self.rest.len();
            let problem = format!("a field of {length} bytes, but only {left} are left");
            return Err(self.malformed(problem));
        };
        let taken = Message { rest: taken, offset: self.offset };
        self.rest = rest;
        self.offset = self.offset.saturating_add(length);
        Ok(taken)
    }

    fn integer(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (length, byte) in (1u8..).zip(self.rest.iter().take(LONGEST_INTEGER)) {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if usize::from(length) == LONGEST_INTEGER && *byte > 1 {
                break;
            }
            let place = u32::from(length).saturating_sub(1).saturating_mul(7);
            value |= bits.checked_shl(place).unwrap_or(0);
            if byte & 0x80 == 0 {
                self.take(length.into())?;
                return Ok(value);
            }
        }
        if self.rest.len() < LONGEST_INTEGER {
            Err(self.malformed("the bytes end within a number"))
        } else {
            Err(self.malformed("a number of more than 64 bits"))
        }
    }

    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        let start = *self;
        let key = self.integer()?;
        let number = key >> 3;
        if number == 0 || number > u64::from(u32::MAX >> 3) {
            return Err(start.malformed(format!("a field with the number {number}")));
        }
        let value = match key & 7 {
            0 => FieldValue::Integer(self.integer()?),
            1 => self.take(8).map(|_| FieldValue::Fixed64)?,
            2 => {
                let length = self.integer()?;
                FieldValue::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.rest;
                FieldValue::Fixed32(bytes.try_into().unwrap_or_default())
            }
            // Groups (3 and 4) are older than SentencePiece, which has none.
            kind => return Err(start.malformed(format!("a field of the wire type {kind}"))),
        };
        Ok(Field { number, offset: start.offset, value })
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<Field<'a>, Malformed>;

    /// Ends after a fault: what follows has no meaning.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Field<'a> {
    /// The fault that the field is not what its number promises.
    pub(crate) fn malformed(&self, problem: impl Into<String>) -> Malformed {
        Malformed { offset: self.offset, problem: problem.into() }
    }

    pub(crate) fn message(&self) -> Result<Message<'a>, Malformed> {
        match self.value {
            FieldValue::Bytes(message) => Ok(message),
            _ => Err(self.malformed("expected a message or a string")),
        }
    }

    pub(crate) fn bytes(&self) -> Result<&'a [u8], Malformed> {
        Ok(self.message()?.rest)
    }

    pub(crate) fn text(&self) -> Result<&'a str, Malformed> {
        let bytes = self.message()?;
        std::str::from_utf8(bytes.rest).map_err(|error| Malformed {
            offset: bytes.offset.saturating_add(error.valid_up_to() as u64),
            problem: "the text is not valid UTF-8".to_owned(),
        })
    }

    pub(crate) fn integer(&self) -> Result<u64, Malformed> {
        match self.value {
            FieldValue::Integer(value) => Ok(value),
            _ => Err(self.malformed("expected an integer")),
        }
    }

    pub(crate) fn float(&self) -> Result<f32, Malformed> {
        match self.value {
            FieldValue::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.malformed("expected a float")),
        }
    }
}

/// A message being written.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn integer(&mut self, number: u64, value: u64) {
        self.put(number << 3);
        self.put(value);
    }

    pub(crate) fn float(&mut self, number: u64, value: f32) {
        self.put(number << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn text(&mut self, number: u64, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    pub(crate) fn message(&mut self, number: u64, message: &Writer) {
        self.bytes(number, &message.0);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.put(number << 3 | 2);
        self.put(bytes.len() as u64);
        self.0.extend(bytes);
    }

    /// A number, seven bits in each byte, the lowest first.
    fn put(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_type() {
        let bytes = [
            0x08, 0x96, 0x01, // 1: 150
            0x11, 1, 2, 3, 4, 5, 6, 7, 8, // 2: eight bytes
            0x1a, 2, b'h', b'i', // 3: "hi"
            0x25, 0, 0, 0x80, 0x3f, // 4: 1.0
            0xf8, 0xff, 0xff, 0xff, 0x0f, 1, // the largest number
        ];
        let fields: Result<Vec<Field<'_>>, Malformed> = Message::whole(&bytes).collect();
        let fields = fields.expect("well-formed");
        assert_eq!(fields[0].integer(), Ok(150));
        assert_eq!((fields[1].number, fields[1].offset), (2, 3));
        assert_eq!(fields[2].text(), Ok("hi"));
        assert_eq!(fields[3].float(), Ok(1.0));
        assert_eq!(fields[4].number, (1 << 29) - 1);
        assert!(fields[0].text().is_err() && fields[2].float().is_err());
    }

    #[test]
    fn what_is_written_is_read() {
        let mut inner = Writer::default();
        inner.text(1, "piece");
        inner.float(2, -1.5);
        let mut writer = Writer::default();
        writer.integer(3, 150);
        writer.integer(40, u64::MAX);
        writer.message(1, &inner);
        let bytes = writer.into_bytes();
        let fields: Result<Vec<Field<'_>>, Malformed> = Message::whole(&bytes).collect();
        let fields = fields.expect("well-formed");
        assert_eq!((fields[0].number, fields[0].integer()), (3, Ok(150)));
        assert_eq!((fields[1].number, fields[1].integer()), (40, Ok(u64::MAX)));
        let inner: Result<Vec<Field<'_>>, Malformed> =
            fields[2].message().expect("a message").collect();
        let inner = inner.expect("well-formed");
        assert_eq!((inner[0].text(), inner[1].float()), (Ok("piece"), Ok(-1.5)));
    }

    #[test]
    fn broken_bytes_end_with_their_place() {
        let check = |bytes: &[u8], offset: u64, problem: &str| {
            let fault = Message::whole(bytes).find_map(Result::err).expect("a fault");
            assert_eq!((fault.offset, fault.problem.as_str()), (offset, problem));
            assert!(Message::whole(bytes).count() <= bytes.len());
        };
        check(&[0x80], 0, "the bytes end within a number");
        check(&[0x08, 1, 0x08], 3, "the bytes end within a number");
        check(&[0xff; 11], 0, "a number of more than 64 bits");
        check(&[0x00, 1], 0, "a field with the number 0");
        check(&[0x0b, 0x0c], 0, "a field of the wire type 3");
        check(&[0x0a, 5, 1, 2], 2, "a field of 5 bytes, but only 2 are left");
        check(&[0x15, 1, 2], 1, "a field of 4 bytes, but only 2 are left");
        let huge = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        check(&huge, 11, "a field of 18446744073709551615 bytes, but only 0 are left");
    }
}
