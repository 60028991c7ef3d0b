//! Zip archives as `torch.save` writes them: every entry stored, one behind the
//! other, the directory at the end. What a zip file says twice (in the directory,
//! in an entry's own header, behind its data) must agree, and every byte belongs to
//! something: readers that trust different copies would read different models.
//!
//! Layout: PKWARE's APPNOTE.TXT, 4.3 to 4.5.

use std::collections::HashMap;
use std::ops::Range;

use qz_shards::shown;
use qz_tensor::SourceFile;

use crate::error::{Error, Fault};

/// Largest directory in bytes.
pub const MAX_DIRECTORY: u64 = 64 << 20;

/// Most entries: each storage is one.
pub const MAX_ENTRIES: u64 = 1 << 19;

const END: u32 = 0x0605_4b50;
const END_BYTES: u64 = 22;
const END64: u32 = 0x0606_4b50;
const END64_BYTES: u64 = 56;
const LOCATOR: u32 = 0x0706_4b50;
const LOCATOR_BYTES: u64 = 20;
const CENTRAL: u32 = 0x0201_4b50;
const CENTRAL_BYTES: usize = 46;
const LOCAL: u32 = 0x0403_4b50;
const LOCAL_BYTES: usize = 30;
const DESCRIPTOR: u32 = 0x0807_4b50;

/// The extra field that holds what does not fit 32 bits.
const ZIP64_EXTRA: u16 = 1;

/// Sizes and checksum follow the data.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// The name is UTF-8.
const FLAG_UTF8: u16 = 1 << 11;

/// What stands for a number that is in the zip64 fields.
const SATURATED: u64 = 0xffff_ffff;

/// One entry, which is stored and inside the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The data's first byte in the file.
    pub(crate) offset: u64,
    /// The data's bytes.
    pub(crate) bytes: u64,
    pub(crate) checksum: u32,
}

impl Entry {
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes)
    }
}

/// The entries of an archive by name.
pub(crate) struct Archive<'f> {
    file: &'f SourceFile,
    entries: HashMap<String, Entry>,
}

/// Where the directory lies.
struct Directory {
    range: Range<u64>,
    entries: u64,
}

/// An entry as the directory describes it.
struct Listed {
    name: String,
    flags: u16,
    method: u16,
    checksum: u32,
    bytes: u64,
    /// Where its own header begins.
    header: u64,
    /// Where the directory describes it.
    at: u64,
}

impl<'f> Archive<'f> {
    /// Reads the directory of `file` and compares it with every entry.
    pub(crate) fn open(file: &'f SourceFile) -> Result<Self, Error> {
        let directory = find_directory(file)?;
        let mut listed = read_directory(file, &directory)?;
        listed.sort_by_key(|entry| entry.header);
        let mut entries = HashMap::new();
        let mut end = 0;
        let nexts = listed.iter().skip(1).map(Some).chain([None]);
        for (entry, next) in listed.iter().zip(nexts) {
            let next_begin = next.map_or(directory.range.start, |next| next.header);
            let found = check_entry(file, entry, end, next_begin)?;
            end = next_begin;
            if entries.insert(entry.name.clone(), found).is_some() {
                let fault = Fault::DuplicateEntry(shown(&entry.name));
                return Err(Error::at(file.path(), entry.at, fault));
            }
        }
        Ok(Self { file, entries })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Compares the data of `entry`, which is small, with its checksum.
    pub(crate) fn check_data(&self, name: &str, entry: &Entry) -> Result<(), Error> {
        let mut hasher = crc32fast::Hasher::new();
        const AT_ONCE: u64 = 64 * 1024;
        let mut buffer = Vec::new();
        let mut range = entry.range();
        while !range.is_empty() {
            // At most what the buffer had at first, so the cast is exact.
            buffer.resize(length(&range).min(AT_ONCE) as usize, 0);
            self.file.read_exact_at(range.start, &mut buffer)?;
            hasher.update(&buffer);
            range.start = range.start.saturating_add(buffer.len() as u64);
        }
        let (found, expected) = (hasher.finalize(), entry.checksum);
        if found != expected {
            let fault = Fault::Checksum { name: shown(name), expected, found };
            return Err(Error::at(self.file.path(), entry.offset, fault));
        }
        Ok(())
    }
}

/// Bytes of a range.
fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// Bytes of a record of fixed length; zeros past its end.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Finds the end record, whose comment ends with the file.
fn find_end(file: &SourceFile) -> Result<(u64, Vec<u8>), Error> {
    let window = file.len().min(END_BYTES + u64::from(u16::MAX));
    let start = file.len().saturating_sub(window);
    // At most 64 KiB, so the cast is exact.
    let mut tail = vec![0; window as usize];
    file.read_exact_at(start, &mut tail)?;
    let last = tail.len().checked_sub(END_BYTES as usize);
    let is_end = |at: &usize| {
        let record = tail.get(*at..).unwrap_or_default();
        let comment = record.len().checked_sub(END_BYTES as usize);
        u32_at(record, 0) == END && Some(usize::from(u16_at(record, 20))) == comment
    };
    let at = last.and_then(|last| (0..=last).rev().find(is_end));
    let at = at.ok_or_else(|| Error::at(file.path(), file.len(), Fault::NoEndRecord))?;
    Ok((start.saturating_add(at as u64), tail.split_off(at)))
}

fn find_directory(file: &SourceFile) -> Result<Directory, Error> {
    let (end_at, end) = find_end(file)?;
    let fail = |at, what| Err(Error::at(file.path(), at, Fault::EndRecord(what)));
    if u16_at(&end, 4) != 0 || u16_at(&end, 6) != 0 {
        return fail(end_at, "the archive has several parts");
    }
    let short = [u64::from(u16_at(&end, 10)), u32_at(&end, 12).into(), u32_at(&end, 16).into()];
    if u16_at(&end, 8) != u16_at(&end, 10) {
        return fail(end_at, "the entries are counted twice, differently");
    }
    let (mut limit, mut found) = (end_at, short);
    if let Some((at, long)) = find_end64(file, end_at)? {
        let agree = |short: u64, long: u64, most| short == long || short == most;
        if !(agree(short[0], long[0], 0xffff)
            && agree(short[1], long[1], SATURATED)
            && agree(short[2], long[2], SATURATED))
        {
            return fail(end_at, "it contradicts the zip64 end record");
        }
        (limit, found) = (at, long);
    }
    let [entries, bytes, start] = found;
    if start.checked_add(bytes) != Some(limit) {
        return fail(end_at, "the directory does not end where the record begins");
    }
    if bytes > MAX_DIRECTORY || entries > MAX_ENTRIES {
        return Err(Error::at(file.path(), start, Fault::DirectoryTooLarge { entries, bytes }));
    }
    Ok(Directory { range: start..limit, entries })
}

/// The zip64 end record, if there is one: where it begins, and entries, bytes and
/// start of the directory.
fn find_end64(file: &SourceFile, end_at: u64) -> Result<Option<(u64, [u64; 3])>, Error> {
    let fail = |at, what| Err(Error::at(file.path(), at, Fault::EndRecord(what)));
    let Some(locator_at) = end_at.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
    let mut locator = [0; LOCATOR_BYTES as usize];
    file.read_exact_at(locator_at, &mut locator)?;
    if u32_at(&locator, 0) != LOCATOR {
        return Ok(None);
    }
    if u32_at(&locator, 4) != 0 || u32_at(&locator, 16) > 1 {
        return fail(locator_at, "the archive has several parts");
    }
    let at = u64_at(&locator, 8);
    if at.checked_add(END64_BYTES) != Some(locator_at) {
        return fail(locator_at, "the zip64 end record is not where it is said to be");
    }
    let mut end = [0; END64_BYTES as usize];
    file.read_exact_at(at, &mut end)?;
    if u32_at(&end, 0) != END64 || u64_at(&end, 4) != END64_BYTES - 12 {
        return fail(at, "the zip64 end record is damaged");
    }
    if u64_at(&end, 16) != 0 || u64_at(&end, 24) != u64_at(&end, 32) {
        return fail(at, "the archive has several parts");
    }
    Ok(Some((at, [u64_at(&end, 32), u64_at(&end, 40), u64_at(&end, 48)])))
}

fn read_directory(file: &SourceFile, directory: &Directory) -> Result<Vec<Listed>, Error> {
    // At most MAX_DIRECTORY, so the cast is exact.
    let mut bytes = vec![0; length(&directory.range) as usize];
    file.read_exact_at(directory.range.start, &mut bytes)?;
    let mut listed = Vec::new();
    let (mut rest, mut place) = (bytes.as_slice(), directory.range.start);
    while !rest.is_empty() {
        let (entry, after) =
            read_listed(rest, place).map_err(|fault| Error::at(file.path(), place, fault))?;
        listed.push(entry);
        place = place.saturating_add(rest.len().abs_diff(after.len()) as u64);
        rest = after;
    }
    if listed.len() as u64 != directory.entries {
        let fault = Fault::Directory("it has another number of entries than is said");
        return Err(Error::at(file.path(), directory.range.start, fault));
    }
    Ok(listed)
}

/// The entry that `bytes` begin with, and the bytes behind it.
fn read_listed(bytes: &[u8], at: u64) -> Result<(Listed, &[u8]), Fault> {
    let cut = || Fault::Directory("an entry is cut");
    let (fixed, mut rest) = bytes.split_at_checked(CENTRAL_BYTES).ok_or_else(cut)?;
    if u32_at(fixed, 0) != CENTRAL {
        return Err(Fault::Directory("an entry does not begin where the one before ends"));
    }
    let mut variable = |at| rest.split_off(..usize::from(u16_at(fixed, at))).ok_or_else(cut);
    let (name, extra, _comment) = (variable(28)?, variable(30)?, variable(32)?);
    let name = entry_name(name)?;
    let flags = u16_at(fixed, 8);
    if flags & !(FLAG_DESCRIPTOR | FLAG_UTF8) != 0 {
        return Err(Fault::EntryFlags { name: shown(&name), flags });
    }
    let mut numbers = [24, 20, 42].map(|at| u64::from(u32_at(fixed, at)));
    widen(extra, &mut numbers)?;
    let [bytes, packed, header] = numbers;
    let method = u16_at(fixed, 10);
    if method != 0 || bytes != packed {
        return Err(Fault::Compressed(shown(&name)));
    }
    if u16_at(fixed, 34) != 0 {
        return Err(Fault::Directory("an entry is in another part"));
    }
    let checksum = u32_at(fixed, 16);
    Ok((Listed { name, flags, method, checksum, bytes, header, at }, rest))
}

/// Replaces the numbers that do not fit 32 bits with those of the zip64 field,
/// which has them in this order.
fn widen(mut extra: &[u8], numbers: &mut [u64]) -> Result<(), Fault> {
    let saturated = numbers.iter().filter(|number| **number == SATURATED).count();
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let length = usize::from(u16_at(head, 2));
        let Some((field, rest)) = rest.split_at_checked(length) else {
            return Err(Fault::Directory("an extra field is cut"));
        };
        if u16_at(head, 0) == ZIP64_EXTRA {
            if field.chunks_exact(8).len() < saturated {
                return Err(Fault::Directory("a zip64 field is too short"));
            }
            let wide = numbers.iter_mut().filter(|number| **number == SATURATED);
            wide.zip(field.chunks_exact(8)).for_each(|(number, bytes)| *number = u64_at(bytes, 0));
            return Ok(());
        }
        extra = rest;
    }
    match saturated {
        0 => Ok(()),
        _ => Err(Fault::Directory("a zip64 field is missing")),
    }
}

/// Names never become paths here, but they may in other tools.
fn entry_name(bytes: &[u8]) -> Result<String, Fault> {
    let fail = |text: &str| Err(Fault::EntryName(format!("\"{}\"", shown(text))));
    let Ok(name) = str::from_utf8(bytes) else {
        return fail(&String::from_utf8_lossy(bytes));
    };
    let is_bad = |part: &str| matches!(part, "" | "." | "..");
    if name.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
        || name.split('/').any(is_bad)
    {
        return fail(name);
    }
    Ok(name.to_owned())
}

/// Compares an entry with its own header and what follows its data. The entry
/// before ends at `end`, the next begins at `next`.
fn check_entry(file: &SourceFile, entry: &Listed, end: u64, next: u64) -> Result<Entry, Error> {
    let name = || shown(&entry.name);
    let fail = |at, fault| Err(Error::at(file.path(), at, fault));
    let begin = entry.header;
    if begin != end {
        let fault = match begin < end {
            true => Fault::EntryOverlap { name: name(), begin, end },
            false => Fault::EntryGap { name: name(), begin, end },
        };
        return fail(begin.min(end), fault);
    }
    let offset = check_header(file, entry, next)?;
    let overlap = |end| {
        let name = "what follows".to_owned();
        fail(next, Fault::EntryOverlap { name, begin: next, end })
    };
    let Some(data_end) = offset.checked_add(entry.bytes).filter(|end| *end <= next) else {
        return overlap(offset.saturating_add(entry.bytes));
    };
    let rest = next.saturating_sub(data_end);
    let has_descriptor = entry.flags & FLAG_DESCRIPTOR != 0;
    match (has_descriptor, rest) {
        (false, 0) => {}
        (true, 12 | 16 | 20 | 24) => check_descriptor(file, entry, data_end..next)?,
        (true, 0..12) => return overlap(data_end.saturating_add(12)),
        _ => {
            let name = "what follows".to_owned();
            return fail(data_end, Fault::EntryGap { name, begin: next, end: data_end });
        }
    }
    Ok(Entry { offset, bytes: entry.bytes, checksum: entry.checksum })
}

/// Compares an entry's own header with the directory; returns where its data
/// begins, which is not behind `next`.
fn check_header(file: &SourceFile, entry: &Listed, next: u64) -> Result<u64, Error> {
    let mismatch = |field| {
        let fault = Fault::HeaderMismatch { name: shown(&entry.name), field };
        Err(Error::at(file.path(), entry.header, fault))
    };
    let length = LOCAL_BYTES.saturating_add(entry.name.len());
    if entry.header.checked_add(length as u64).is_none_or(|end| end > next) {
        return mismatch("place");
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(entry.header, &mut bytes)?;
    if u32_at(&bytes, 0) != LOCAL {
        return mismatch("place");
    }
    if usize::from(u16_at(&bytes, 26)) != entry.name.len()
        || !bytes.ends_with(entry.name.as_bytes())
    {
        return mismatch("name");
    }
    if u16_at(&bytes, 6) != entry.flags || u16_at(&bytes, 8) != entry.method {
        return mismatch("flags or method");
    }
    let extra_bytes = u16_at(&bytes, 28);
    let extra_at = entry.header.saturating_add(length as u64);
    let offset = extra_at.saturating_add(extra_bytes.into());
    if offset > next {
        return mismatch("place");
    }
    let mut sizes = [22, 18].map(|at| u64::from(u32_at(&bytes, at)));
    if sizes.contains(&SATURATED) {
        let mut extra = vec![0; extra_bytes.into()];
        file.read_exact_at(extra_at, &mut extra)?;
        widen(&extra, &mut sizes).map_err(|fault| Error::at(file.path(), extra_at, fault))?;
    }
    // Zeros where the descriptor behind the data has them.
    let has_descriptor = entry.flags & FLAG_DESCRIPTOR != 0;
    let agrees = |found: u64, expected: u64| found == expected || (has_descriptor && found == 0);
    if !sizes.iter().all(|size| agrees(*size, entry.bytes)) {
        return mismatch("size");
    }
    if !agrees(u32_at(&bytes, 14).into(), entry.checksum.into()) {
        return mismatch("checksum");
    }
    Ok(offset)
}

/// Compares the record behind an entry's data with the directory: a signature,
/// which may be missing, the checksum, and both sizes in 4 or 8 bytes.
fn check_descriptor(file: &SourceFile, entry: &Listed, range: Range<u64>) -> Result<(), Error> {
    // At most 24, so the cast is exact.
    let mut bytes = vec![0; length(&range) as usize];
    file.read_exact_at(range.start, &mut bytes)?;
    let fields = match bytes.len() {
        16 | 24 => bytes.strip_prefix(&DESCRIPTOR.to_le_bytes()).unwrap_or_default(),
        12 | 20 => &bytes,
        _ => &[],
    };
    let sizes = match fields.len() {
        12 => [u32_at(fields, 4).into(), u32_at(fields, 8).into()],
        20 => [u64_at(fields, 4), u64_at(fields, 12)],
        _ => [u64::MAX; 2],
    };
    if sizes != [entry.bytes; 2] || u32_at(fields, 0) != entry.checksum {
        let fault = Fault::HeaderMismatch { name: shown(&entry.name), field: "data descriptor" };
        return Err(Error::at(file.path(), range.start, fault));
    }
    Ok(())
}
