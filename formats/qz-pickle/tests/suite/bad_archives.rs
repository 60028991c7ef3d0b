//! Zip archives that break one rule each, and files that are none.

use crate::support::{
    Entry, VALID, archive, check, checkpoint, dict, entry, golden, one, open, zip,
};

/// The pickle of a valid checkpoint.
fn pickle() -> Vec<u8> {
    dict(&[("w", VALID.pickled())])
}

fn entries() -> [Entry; 2] {
    [entry("m/data.pkl", pickle()), entry("m/data/0", [0; 16])]
}

/// A valid archive but for what `bend` does to its first entry.
fn bent(bend: impl FnOnce(&mut Entry)) -> Vec<u8> {
    let mut entries = entries();
    bend(&mut entries[0]);
    zip(&entries)
}

/// The same with an entry's own header bent, not its description.
fn bent_header(bend: impl FnOnce(&mut Entry)) -> Vec<u8> {
    let entries = entries();
    let mut first = entries[0].clone();
    bend(&mut first);
    let locals = [first.local(), entries[1].local()];
    let centrals = [entries[0].central(0), entries[1].central(locals[0].len() as u32)];
    archive(&locals, &centrals)
}

/// A valid archive with `bytes` written `from_end` before its end.
fn patched(from_end: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = one(&VALID);
    let at = file.len() - from_end;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn files_of_other_kinds() {
    let check_kind = |bytes: &[u8], rule: &str, expected: &str| {
        let (_, message) = check(bytes, rule);
        assert!(message.contains(expected), "{message}");
    };
    let tar = [vec![0; 257], b"ustar\0".to_vec(), vec![0; 300]].concat();
    check_kind(b"", "not-pytorch", "an empty file");
    check_kind(b"version https://git-lfs.github.com/spec/v1\n", "not-pytorch", "Git LFS");
    check_kind(b"<!DOCTYPE html>", "not-pytorch", "web page");
    check_kind(b"GGUF\x03\0\0\0", "not-pytorch", "GGUF");
    check_kind(b"7z\xbc\xaf\x27\x1c", "not-pytorch", "7z");
    check_kind(b"\x1f\x8b\x08\0", "not-pytorch", "gzip");
    check_kind(&[0; 64], "not-pytorch", "did not finish");
    check_kind(b"\x80\x04\x95\0", "not-pytorch", "pickle");
    check_kind(&tar, "old-layout", "tar archive");
    check_kind(b"nonsense", "not-pytorch", "nothing we know");
}

#[test]
fn files_that_are_cut_anywhere() {
    let whole = one(&VALID);
    for length in 4..whole.len() {
        check(&whole[..length], "zip-no-end");
    }
}

#[test]
fn real_files_that_are_cut_anywhere() {
    for name in ["types.bin", "old.bin"] {
        let whole = std::fs::read(golden(name)).expect("read");
        for length in (0..whole.len()).rev() {
            assert!(open(&whole[..length]).is_err(), "{name}, {length} bytes");
        }
    }
}

#[test]
fn bytes_that_belong_to_nothing() {
    check(&[one(&VALID), vec![0]].concat(), "zip-no-end");
    let entries = entries();
    let first = entries[0].local();
    let gap = [first.clone(), b"gap".to_vec()].concat();
    let centrals = |second: usize| [entries[0].central(0), entries[1].central(second as u32)];
    check(&archive(&[gap.clone(), entries[1].local()], &centrals(gap.len())), "zip-gap");
    let before = [entries[0].central(3), entries[1].central(3 + first.len() as u32)];
    let start = b"PK\x03".to_vec();
    let shifted = archive(&[start, first, entries[1].local()], &before);
    assert!(open(&shifted).is_err());
}

#[test]
fn entries_that_overlap() {
    let entries = entries();
    let locals = [entries[0].local(), entries[1].local()];
    let centrals = |second: usize| [entries[0].central(0), entries[1].central(second as u32)];
    check(&archive(&locals, &centrals(locals[0].len() - 4)), "zip-overlap");
    check(&archive(&locals, &centrals(0)), "zip-header-mismatch");
    // An entry described as longer than it is.
    let mut long = entries[0].clone();
    long.data.extend([0; 40]);
    let centrals = [long.central(0), entries[1].central(locals[0].len() as u32)];
    check(&archive(&locals, &centrals), "zip-header-mismatch");
    let locals = [bent_local(&long), locals[1].clone()];
    check(&archive(&locals, &[long.central(0), centrals[1].clone()]), "zip-overlap");
}

/// The entry's header with less data behind it than it says.
fn bent_local(entry: &Entry) -> Vec<u8> {
    let mut local = entry.local();
    local.truncate(local.len() - 40);
    local
}

#[test]
fn entries_that_are_not_plain() {
    check(&bent(|entry| entry.method = 8), "zip-compressed");
    check(&bent(|entry| entry.flags = 1), "zip-flags");
    check(&bent(|entry| entry.flags = 1 << 13), "zip-flags");
    check(&bent(|entry| entry.checksum ^= 1), "zip-checksum");
    // A descriptor is promised and not there.
    check(&bent(|entry| entry.flags = 8), "zip-overlap");
}

#[test]
fn names_that_could_be_paths() {
    for name in
        ["../data.pkl", "/data.pkl", "m/../data.pkl", "m//data.pkl", "m\\data.pkl", "", "m/"]
    {
        check(&bent(|entry| entry.name = name.to_owned()), "zip-entry-name");
    }
    check(&bent(|entry| entry.name = "m/data\0.pkl".to_owned()), "zip-entry-name");
    check(&bent(|entry| entry.name = "C:/data.pkl".to_owned()), "zip-entry-name");
}

#[test]
fn archives_that_are_no_checkpoints() {
    check(&bent(|entry| entry.name = "m/other.pkl".to_owned()), "not-pytorch");
    check(&bent(|entry| entry.name = "data.pkl".to_owned()), "not-pytorch");
    check(&bent(|entry| entry.name = "n/data.pkl".to_owned()), "not-pytorch");
    let [first, second] = entries();
    let again = |entry: &Entry| Entry { name: entry.name.replace("m/", "n/"), ..entry.clone() };
    check(&zip(&[first.clone(), second.clone(), again(&first)]), "not-pytorch");
    check(&zip(&[first.clone(), second.clone(), entry("m/constants.pkl", "")]), "torchscript");
    check(&zip(&[first.clone(), second.clone(), second.clone()]), "zip-duplicate-entry");
    check(&zip(&[first.clone(), second.clone(), entry("m/byteorder", "big")]), "big-endian");
    check(&zip(&[first, second, entry("m/byteorder", "little")]).split_off(0)[..4], "zip-no-end");
}

#[test]
fn headers_and_directory_that_disagree() {
    check(&bent_header(|entry| entry.name = "m/data.pkL".to_owned()), "zip-header-mismatch");
    check(&bent_header(|entry| entry.method = 8), "zip-header-mismatch");
    check(&bent_header(|entry| entry.flags = 8), "zip-header-mismatch");
    check(&bent_header(|entry| entry.checksum ^= 1), "zip-header-mismatch");
    check(&bent_header(|entry| entry.data.push(0)), "zip-header-mismatch");
}

#[test]
fn end_records_that_lie() {
    // Entries, bytes and start of the directory, from the file's end.
    check(&patched(14, &3u16.to_le_bytes()), "zip-end-record");
    check(&patched(14, &[3, 0, 3, 0]), "zip-directory");
    check(&patched(10, &1u32.to_le_bytes()), "zip-end-record");
    check(&patched(10, &u32::MAX.to_le_bytes()), "zip-end-record");
    check(&patched(6, &0u32.to_le_bytes()), "zip-end-record");
    check(&patched(18, &[1, 0]), "zip-end-record");
    // A comment that is not there.
    check(&patched(2, &[1, 0]), "zip-no-end");
}

/// The golden file has zip64 records, although none of its numbers needs them.
#[test]
fn zip64_records_that_lie() {
    let whole = std::fs::read(golden("types.bin")).expect("read");
    let end64 = whole.len() - 22 - 20 - 56;
    assert_eq!(&whole[end64..end64 + 4], b"PK\x06\x06");
    let check_at = |at: usize, bytes: &[u8], rule: &str| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        check(&file, rule);
    };
    check_at(end64 + 4, &[45], "zip-end-record");
    check_at(end64 + 24, &u64::MAX.to_le_bytes(), "zip-end-record");
    check_at(end64 + 40, &u64::MAX.to_le_bytes(), "zip-end-record");
    check_at(end64 + 48, &(u64::MAX - 5).to_le_bytes(), "zip-end-record");
    // The locator.
    check_at(end64 + 56 + 8, &u64::MAX.to_le_bytes(), "zip-end-record");
    check_at(end64 + 56 + 16, &[2], "zip-end-record");
    // Ten million entries in what the short record leaves open.
    let end = whole.len() - 22;
    let mut file = whole.clone();
    file[end + 8..end + 20].fill(0xff);
    file[end64 + 24..end64 + 32].copy_from_slice(&10_000_000u64.to_le_bytes());
    file[end64 + 32..end64 + 40].copy_from_slice(&10_000_000u64.to_le_bytes());
    check(&file, "zip-directory-too-large");
}

#[test]
fn descriptors_that_lie() {
    let whole = std::fs::read(golden("types.bin")).expect("read");
    let found = whole.windows(4).position(|bytes| bytes == b"PK\x07\x08").expect("a descriptor");
    for at in found..found + 16 {
        let mut file = whole.clone();
        file[at] ^= 0xff;
        check(&file, "zip-header-mismatch");
    }
}

#[test]
fn a_damaged_pickle_is_found_by_its_checksum() {
    let mut file = checkpoint(&pickle());
    file[60] ^= 1;
    check(&file, "zip-checksum");
}
