//! GGUF headers of any size in which memory is what is worst: the file is all items of one kind,
//! as short as they may be or as real ones are.

/// What a header is filled with, and a file of about so many bytes.
type Kind = (&'static str, fn(usize) -> Vec<u8>);

/// Kinds of items that fill a header.
pub(crate) const KINDS: &[Kind] = &[
    ("empty strings", |bytes| strings(bytes, "")),
    ("short strings", |bytes| strings(bytes, "a")),
    ("tensors", tensors),
    ("metadata", metadata),
];

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn start(tensors: usize, pairs: usize) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors as u64).to_le_bytes());
    out.extend((pairs as u64).to_le_bytes());
    out
}

/// One list of strings.
fn strings(bytes: usize, item: &str) -> Vec<u8> {
    let count = bytes / (8 + item.len());
    let mut out = start(0, 1);
    text(&mut out, "a");
    out.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
    out.extend((count as u64).to_le_bytes());
    (0..count).for_each(|_| text(&mut out, item));
    out
}

/// Tensors of four dimensions and no weight, in 64 bytes each.
fn tensors(bytes: usize) -> Vec<u8> {
    let count = bytes / 64;
    let mut out = start(count, 0);
    for number in 0..count {
        text(&mut out, &format!("{number:08}"));
        out.extend(4u32.to_le_bytes());
        out.extend([0u64.to_le_bytes(), [1, 0, 0, 0, 0, 0, 0, 0]].concat().repeat(2));
        out.extend([0; 4 + 8]);
    }
    out
}

/// Pairs of a short key and a flag or a text, in 32 bytes each.
fn metadata(bytes: usize) -> Vec<u8> {
    let count = bytes / 32;
    let mut out = start(0, count);
    for number in 0..count {
        text(&mut out, &format!("{number:08}"));
        out.extend(8u32.to_le_bytes());
        text(&mut out, "text");
    }
    out
}
