//! The alphabet of byte-level tokens: every byte has a printable character
//! (`bytes_to_unicode` of GPT-2).

/// The characters by byte. Printable Latin-1 characters stand for themselves;
/// the other 68 bytes follow from U+0100 on, in order.
const LETTERS: [char; 256] = letters();

const fn letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        letters[byte] = match byte as u8 {
            printable @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => printable as char,
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("a character below U+0144")
            }
        };
        byte += 1;
    }
    letters
}

/// The bytes of the characters below U+0144; 0 where there is none.
static BYTES: [u8; 0x144] = bytes();

const fn bytes() -> [u8; 0x144] {
    let mut bytes = [0; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[LETTERS[byte] as usize] = byte as u8;
        byte += 1;
    }
    bytes
}

/// The character that stands for `byte`.
pub(crate) fn letter_of(byte: u8) -> char {
    LETTERS[usize::from(byte)]
}

/// The byte that a character of the alphabet stands for.
pub(crate) fn byte_of(letter: char) -> Option<u8> {
    let byte = *BYTES.get(letter as usize)?;
    (letter_of(byte) == letter).then_some(byte)
}

/// The text of one token, as the `ByteLevel` decoder of tokenizers gives it: a
/// token with any character outside the alphabet is taken as it is, and bytes
/// that are no UTF-8 become replacement characters.
pub(crate) fn decode_token(token: &str) -> String {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    match bytes {
        Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        None => token.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_decode_as_the_reference_does() {
        // From tokenizers 0.23.3, `decode(encode(token))`.
        let check = |token: &str, expected: &str| assert_eq!(decode_token(token), expected);
        check("<|im_start|>", "<|im_start|>");
        check("\u{120}foo", " foo");
        check("a\u{120}b", "a b");
        check("\u{10a}", "\n");
        check("\u{e9}", "\u{fffd}");
        check("\u{c3}\u{a9}", "\u{e9}");
        check(" sp", " sp");
        check("<\u{ff5c}x\u{ff5c}>", "<\u{ff5c}x\u{ff5c}>");
        check("\u{143}", "\u{fffd}");
        check("\u{144}", "\u{144}");
    }

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<u8>>());
    }
}
