//! What a file that is not the expected container looks like. Wrong files have
//! few causes (an unfinished download, another format), and naming the cause is
//! worth more than naming the broken rule.

/// Longest prefix that [`recognise`] looks at.
const LONGEST: usize = 64;

/// What the first bytes of a file show it to be, in words for a message; `None`
/// if they show nothing. 64 bytes are enough.
pub fn recognise(start: &[u8]) -> Option<&'static str> {
    let start = &start[..start.len().min(LONGEST)];
    let text = start.trim_ascii_start().to_ascii_lowercase();
    let begins = |prefix: &[u8]| start.starts_with(prefix);
    if begins(b"version https://git-lfs") {
        Some("a Git LFS pointer: the file itself was never downloaded (run `git lfs pull`)")
    } else if [&b"<!doctype"[..], b"<html", b"<head", b"<?xml"].iter().any(|p| text.starts_with(p))
    {
        Some("a web page: the download saved an error or login page")
    } else if begins(b"GGUF") {
        Some("a GGUF file")
    } else if looks_like_safetensors(start) {
        Some("a safetensors file")
    } else if begins(b"PK\x03\x04") {
        Some("a zip archive (PyTorch `.bin` and `.pt` files are)")
    } else if begins(b"7z\xbc\xaf\x27\x1c") || begins(b"\x1f\x8b") {
        Some("a compressed archive (7z or gzip): unpack it first")
    } else if begins(b"\x80\x02") || begins(b"\x80\x04") {
        Some("a Python pickle")
    } else if begins(b"lmgg") || begins(b"fmgg") || begins(b"tjgg") {
        Some("a llama.cpp file older than GGUF")
    } else if !start.is_empty() && start.iter().all(|byte| *byte == 0) {
        Some("zeros: whatever wrote the file did not finish")
    } else {
        None
    }
}

/// A plausible header length, then a JSON object.
fn looks_like_safetensors(start: &[u8]) -> bool {
    let Some((length, json)) = start.split_first_chunk::<8>() else { return false };
    (1..=100_000_000).contains(&u64::from_le_bytes(*length))
        && json.trim_ascii_start().starts_with(b"{")
}

#[cfg(test)]
mod tests {
    use super::recognise;

    #[test]
    fn names_the_usual_mistakes() {
        let check = |start: &[u8], expected: &str| {
            let found = recognise(start).unwrap_or("nothing");
            assert!(found.contains(expected), "{found}");
        };
        check(b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS");
        check(b"\n<!DOCTYPE html><html>", "web page");
        check(b"GGUF\x03\0\0\0", "GGUF");
        check(b"\x40\0\0\0\0\0\0\0{\"a\":", "safetensors");
        check(b"PK\x03\x04", "zip");
        check(b"tjgg\x03\0\0\0", "older than GGUF");
        check(&[0; 64], "did not finish");
        check(b"FUGG", "nothing");
        check(b"", "nothing");
    }
}
