//! The rules that reading and writing share.

use qz_tensor::{Metadata, Value};

use crate::error::Fault;

/// The first four bytes.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written.
pub const VERSION: u32 = 3;

/// The alignment of tensor data where `general.alignment` does not say.
pub const DEFAULT_ALIGNMENT: u32 = 32;

/// Largest alignment that is supported. Larger ones have no use and would let a
/// small file claim large gaps.
pub const MAX_ALIGNMENT: u32 = 1 << 16;

/// Largest header (everything before the tensor data) in bytes. The largest known
/// take some tens of millions; in memory a header is a few times as large.
pub const MAX_HEADER: u64 = 128 << 20;

/// What a tensor and a metadata pair take in memory, about and with what is made of them.
const TENSOR_MEMORY: u64 = 250;
const PAIR_MEMORY: u64 = 124;

/// Most memory for tensors and pairs: files that were made for it, not any known model, come
/// near. Inspecting the worst takes 400 MiB.
const MAX_MEMORY: u64 = 380_000_000;

/// Longest metadata key in bytes (the format's own limit).
pub(crate) const MAX_KEY: u64 = 65_535;

/// Longest tensor name in bytes: loaders keep names in 64 bytes with a final NUL.
pub const MAX_NAME: u64 = 63;

/// Most dimensions a tensor may have.
pub const MAX_DIMENSIONS: u32 = 4;

/// The key that says the alignment of tensor data.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Checks that so many tensors and metadata pairs are not too much for memory.
pub(crate) fn check_entries(tensors: u64, pairs: u64) -> Result<(), Fault> {
    let memory =
        tensors.saturating_mul(TENSOR_MEMORY).saturating_add(pairs.saturating_mul(PAIR_MEMORY));
    if memory > MAX_MEMORY { Err(Fault::TooManyEntries { tensors, pairs }) } else { Ok(()) }
}

/// Checks a metadata key.
pub(crate) fn check_key(key: &str) -> Result<(), Fault> {
    match key.len() as u64 {
        0 => Err(Fault::EmptyKey),
        length if length > MAX_KEY => Err(Fault::LongKey(length)),
        _ => check_no_nul("metadata key", key),
    }
}

/// Checks a tensor name.
pub(crate) fn check_name(name: &str) -> Result<(), Fault> {
    match name.len() as u64 {
        0 => Err(Fault::EmptyName),
        length if length > MAX_NAME => Err(Fault::LongName(length)),
        _ => check_no_nul("tensor name", name),
    }
}

/// Readers written in C end a name at its first NUL, and would take two names
/// that differ only after it for one.
fn check_no_nul(what: &'static str, text: &str) -> Result<(), Fault> {
    if text.contains('\0') { Err(text_fault(what, text.as_bytes())) } else { Ok(()) }
}

/// The fault of a text that may not be; shows enough of it to find it.
pub(crate) fn text_fault(what: &'static str, bytes: &[u8]) -> Fault {
    Fault::Text { what, text: beginning(bytes).escape_ascii().to_string() }
}

/// As much of a text as a message shows.
pub(crate) fn beginning(bytes: &[u8]) -> &[u8] {
    bytes.get(..64).unwrap_or(bytes)
}

/// The alignment that `metadata` asks for.
pub(crate) fn alignment(metadata: &Metadata) -> Result<u32, Fault> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(alignment))
            if alignment.is_power_of_two() && *alignment <= MAX_ALIGNMENT =>
        {
            Ok(*alignment)
        }
        Some(Value::U32(alignment)) => Err(Fault::Alignment(*alignment)),
        Some(other) => Err(Fault::AlignmentKind(format!("{:?}", other.kind()))),
    }
}

/// `size` rounded up to a multiple of `alignment`; `None` past 63 bits.
pub(crate) fn padded(size: u64, alignment: u32) -> Option<u64> {
    size.checked_next_multiple_of(u64::from(alignment)).filter(|end| i64::try_from(*end).is_ok())
}
