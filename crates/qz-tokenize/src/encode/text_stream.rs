//! Text from bytes that come bit by bit.

/// Gives text as soon as its characters are whole: a token may hold a part of one, and
/// the next token the rest.
#[derive(Debug, Default)]
pub struct TextStream {
    /// The beginning of a character.
    begun: Vec<u8>,
}

impl TextStream {
    /// The text that `bytes` completes, with U+FFFD for what is no UTF-8, as
    /// [`String::from_utf8_lossy`] puts it.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let kept = unfinished(&self.begun);
        let whole = self.begun.len() - kept;
        let text = String::from_utf8_lossy(&self.begun[..whole]).into_owned();
        self.begun.drain(..whole);
        text
    }

    /// What is left when nothing follows.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.begun).into_owned()
    }
}

/// Bytes at the end that may begin a character.
fn unfinished(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(_) => return 0,
            Err(error) => {
                let after = &rest[error.valid_up_to()..];
                match error.error_len() {
                    None => return after.len(),
                    Some(wrong) => rest = &after[wrong..],
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&[u8]], expected: &[&str]) {
        let mut stream = TextStream::default();
        let mut found: Vec<String> = parts.iter().map(|part| stream.push(part)).collect();
        found.push(stream.finish());
        assert_eq!(found, expected);
        let whole = parts.concat();
        assert_eq!(found.concat(), String::from_utf8_lossy(&whole));
    }

    #[test]
    fn characters_wait_until_they_are_whole() {
        check(&[b"plain", b" text"], &["plain", " text", ""]);
        check(&[b"caf\xc3", b"\xa9!"], &["caf", "\u{e9}!", ""]);
        check(&[b"\xf0\x9f", b"\xa6", b"\x80x"], &["", "", "\u{1f980}x", ""]);
    }

    #[test]
    fn what_is_no_character() {
        check(&[b"a\xff", b"b"], &["a\u{fffd}", "b", ""]);
        check(&[b"a\xe2\x82", b"b"], &["a", "\u{fffd}b", ""]);
        check(&[b"a\xe2\x82"], &["a", "\u{fffd}"]);
    }
}
