//! The text of single tokens (`llama_vocab::impl::token_to_piece` in
//! `src/llama-vocab.cpp`).

use std::borrow::Cow;
use std::fmt::Write as _;

use super::pre_tokenizer::Alphabet;
use super::space::SPACE;
use super::tokens::Kinds;
use crate::byte_level::byte_of;
use crate::sentencepiece;

/// The bytes of a token with this text. Tokens come apart within characters, so
/// that single ones need not be UTF-8.
pub(super) fn piece(text: &str, kinds: Kinds, alphabet: Alphabet) -> Cow<'_, [u8]> {
    if kinds.is(Kinds::CONTROL.or(Kinds::UNKNOWN).or(Kinds::USER_DEFINED)) {
        return Cow::Borrowed(text.as_bytes());
    }
    if kinds.is(Kinds::NORMAL) {
        return match alphabet {
            Alphabet::Bytes | Alphabet::Plain => Cow::Owned(decoded(text)),
            Alphabet::Escaped if text.contains(SPACE) => {
                Cow::Owned(text.replace(SPACE, " ").into_bytes())
            }
            Alphabet::Escaped => Cow::Borrowed(text.as_bytes()),
        };
    }
    match sentencepiece::byte_of(text) {
        Some(byte) if kinds.is(Kinds::BYTE) => Cow::Owned(vec![byte]),
        _ => Cow::Borrowed(&[]),
    }
}

/// Letters as the bytes they stand for. Of a letter outside the alphabet the
/// reference makes a note.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for letter in text.chars() {
        match byte_of(letter) {
            Some(byte) => bytes.push(byte),
            None => {
                let mut note = String::from("[UNK_BYTE_0x");
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a string cannot fail.
                    let _ = write!(note, "{byte:02x}");
                }
                bytes.extend_from_slice(note.as_bytes());
                bytes.extend_from_slice(text.as_bytes());
                bytes.push(b']');
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_bytes() {
        let check = |text: &str, kinds: Kinds, alphabet: Alphabet, expected: &[u8]| {
            assert_eq!(piece(text, kinds, alphabet).as_ref(), expected, "{text:?}");
        };
        check("\u{120}a", Kinds::NORMAL, Alphabet::Bytes, b" a");
        check("\u{c3}", Kinds::NORMAL, Alphabet::Bytes, b"\xc3");
        check("a b", Kinds::NORMAL, Alphabet::Bytes, b"a[UNK_BYTE_0x20a b]b");
        check("a b", Kinds::USER_DEFINED, Alphabet::Bytes, b"a b");
        check("\u{2581}a\u{2581}", Kinds::NORMAL, Alphabet::Escaped, b" a ");
        check("\u{2581}a", Kinds::CONTROL, Alphabet::Escaped, "\u{2581}a".as_bytes());
        check("<0x0A>", Kinds::BYTE, Alphabet::Escaped, b"\n");
        check("<0x0A>", Kinds::NORMAL, Alphabet::Escaped, b"<0x0A>");
        check("x", Kinds::UNUSED, Alphabet::Escaped, b"");
        check("x", Kinds::NONE, Alphabet::Bytes, b"");
    }
}
