//! What a parquet file says of its pages, compared with its length before a page is decoded:
//! the decoder believes sizes and counts, and reserves memory for them.

use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use qz_tensor::SourceFile;

/// The largest page; writers make them of a megabyte, or of one value.
const MAX_PAGE: u64 = 256 << 20;

/// What one page and the dictionary of each column may take.
const MAX_GROUP: u64 = 1 << 30;

/// What the decoder keeps of a value of a dictionary, beside its bytes.
const DICTIONARY_VALUE: u64 = 40;

/// What the decoder keeps of a row group's and a column's metadata is paid for by rows and
/// values, of which no more than these are in a file of so many bytes. A document has more
/// bytes than bits; other columns may be runs of the same value.
fn most_values(bytes: u64) -> u64 {
    bytes.saturating_mul(8).saturating_add(1 << 16)
}

/// How to get at a column's pages: row group and column.
pub(super) type Pages<'a> = dyn Fn(usize, usize) -> Result<Box<dyn PageReader>, String> + 'a;

/// Refuses what cannot be, and what takes too much memory.
pub(super) fn check(
    file: &SourceFile,
    metadata: &ParquetMetaData,
    pages: &Pages<'_>,
) -> Result<(), String> {
    let most = most_values(file.len());
    let mut rows = 0u64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        rows = rows.saturating_add(u64::try_from(group.num_rows()).unwrap_or(u64::MAX));
        if rows > most {
            return Err(format!("{rows} rows or more cannot be in {} bytes", file.len()));
        }
        let mut taken = 0u64;
        for (index, column) in group.columns().iter().enumerate() {
            let found = Column { file, column, most }.check();
            let column_pages = || pages(number, index);
            let checked = found.and_then(|found| {
                if found.delta {
                    check_delta(column, column_pages()?.as_mut())?;
                }
                Ok(found.taken)
            });
            let name = column.column_path();
            taken =
                taken.saturating_add(checked.map_err(|fault| format!("column {name}: {fault}"))?);
        }
        if taken > MAX_GROUP {
            return Err(format!("decoding row group {number} takes {taken} bytes"));
        }
    }
    Ok(())
}

struct Column<'a> {
    file: &'a SourceFile,
    column: &'a ColumnChunkMetaData,
    most: u64,
}

/// What decoding a column's pages, one after the other, takes.
#[derive(Default)]
struct Found {
    taken: u64,
    /// Some pages state counts of their own.
    delta: bool,
}

impl Column<'_> {
    fn check(&self) -> Result<Found, String> {
        self.check_compression()?;
        let (start, length) = self.column.byte_range();
        let end = start.checked_add(length).filter(|end| *end <= self.file.len());
        let end = end.ok_or("its pages lie behind the file's end")?;
        let (mut at, mut found, mut values) = (start, Found::default(), 0u64);
        let mut largest = 0;
        while at < end {
            let (header, size) = self.header(at, end)?;
            at += size;
            if header.compressed > end - at {
                return Err(format!(
                    "a page's {} bytes lie behind the column's end",
                    header.compressed
                ));
            }
            self.check_size(&header)?;
            if header.is_dictionary {
                let smallest = header.values.saturating_mul(self.smallest_value());
                if smallest / 8 > header.size {
                    return Err(format!(
                        "a dictionary of {} values in {} bytes",
                        header.values, header.size
                    ));
                }
                let kept = header.values.saturating_mul(DICTIONARY_VALUE);
                found.taken = found.taken.saturating_add(header.size).saturating_add(kept);
            } else {
                values = values.saturating_add(header.values);
                if values > self.most {
                    let bytes = self.file.len();
                    return Err(format!("{values} values or more cannot be in {bytes} bytes"));
                }
                largest = header.size.max(largest);
                match i32::try_from(header.encoding) {
                    Ok(encoding) if encoding == Encoding::DELTA_BYTE_ARRAY as i32 => {
                        return Err("pages encoded as DELTA_BYTE_ARRAY are not read".to_owned());
                    }
                    _ => {}
                }
                found.delta |= matches!(header.encoding, DELTA_BINARY_PACKED | DELTA_LENGTH);
            }
            at += header.compressed;
        }
        found.taken = found.taken.saturating_add(largest);
        Ok(found)
    }

    fn check_compression(&self) -> Result<(), String> {
        let name = match self.column.compression() {
            Compression::UNCOMPRESSED | Compression::SNAPPY => return Ok(()),
            Compression::GZIP(_) => "gzip",
            Compression::ZSTD(_) => "zstd",
            Compression::BROTLI(_) => "brotli",
            Compression::LZ4 | Compression::LZ4_RAW => "lz4",
            Compression::LZO => "lzo",
        };
        Err(format!(
            "it is compressed with {name}, which this program does not read: write the file anew with \
             snappy (pandas: `to_parquet(path, compression=\"snappy\")`), or as JSON lines"
        ))
    }

    /// Bits of the smallest value, without compression.
    fn smallest_value(&self) -> u64 {
        match self.column.column_type() {
            Type::BOOLEAN => 1,
            Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 32,
            Type::INT64 | Type::DOUBLE => 64,
            Type::INT96 => 96,
            Type::FIXED_LEN_BYTE_ARRAY => 8,
        }
    }

    fn check_size(&self, header: &Header) -> Result<(), String> {
        let (size, compressed) = (header.size, header.compressed);
        let possible = match self.column.compression() {
            Compression::UNCOMPRESSED => compressed,
            // No copy of snappy's is more than 64 bytes for 3.
            Compression::SNAPPY => compressed.saturating_mul(24).saturating_add(64),
            // Refused before.
            _ => 0,
        };
        if size > possible.min(MAX_PAGE) {
            return Err(format!("a page of {size} bytes in {compressed} bytes"));
        }
        Ok(())
    }

    /// A page's header, and its size.
    fn header(&self, at: u64, end: u64) -> Result<(Header, u64), String> {
        // Statistics of long texts make long headers.
        let mut window = 1 << 12;
        loop {
            let length = (end - at).min(window);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            self.file.read_exact_at(at, &mut bytes).map_err(|error| error.to_string())?;
            let mut thrift = Thrift { bytes: &bytes, at: 0 };
            match Header::read(&mut thrift) {
                Some(header) => return Ok((header, thrift.at as u64)),
                None if length < window || window >= MAX_PAGE => {
                    return Err(format!("no page header at byte {at}"));
                }
                None => window *= 16,
            }
        }
    }
}

const DELTA_BINARY_PACKED: u32 = 5;
const DELTA_LENGTH: u32 = 6;

/// Pages whose values are differences begin with how many they are, which the decoder
/// believes.
fn check_delta(column: &ColumnChunkMetaData, pages: &mut dyn PageReader) -> Result<(), String> {
    let descriptor = column.column_descr();
    let levels = [descriptor.max_rep_level() > 0, descriptor.max_def_level() > 0];
    while let Some(page) = pages.get_next_page().map_err(|error| error.to_string())? {
        let (encoding, count) = (page.encoding(), page.num_values());
        if !matches!(encoding, Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY) {
            continue;
        }
        let bytes = page.buffer();
        let start = match &page {
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                (*def_levels_byte_len as usize).checked_add(*rep_levels_byte_len as usize)
            }
            _ => levels.iter().filter(|there| **there).try_fold(0usize, |at, _| {
                let length =
                    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
                at.checked_add(4)?.checked_add(length as usize)
            }),
        };
        let values = start.and_then(|start| bytes.get(start..));
        let mut thrift = Thrift { bytes: values.unwrap_or_default(), at: 0 };
        let numbers = [thrift.varint(), thrift.varint(), thrift.varint()];
        let [Some(block), Some(parts), Some(total)] = numbers else {
            return Err("a page of differences is cut short".to_owned());
        };
        if block > 1 << 20 || parts > 1 << 12 || total > u64::from(count) {
            return Err(format!("a page of {count} values holds {total} differences"));
        }
    }
    Ok(())
}

/// What a page's header says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    /// Bytes after decompression.
    size: u64,
    compressed: u64,
    values: u64,
    encoding: u32,
    is_dictionary: bool,
}

impl Header {
    fn read(thrift: &mut Thrift<'_>) -> Option<Self> {
        let mut header = Self::default();
        let mut sizes = (None, None);
        let mut values = None;
        let mut field = 0;
        while let Some(kind) = thrift.field(&mut field)? {
            match (field, kind) {
                (2, INTEGER) => sizes.0 = u64::try_from(thrift.integer()?).ok(),
                (3, INTEGER) => sizes.1 = u64::try_from(thrift.integer()?).ok(),
                (5 | 7 | 8, STRUCT) => {
                    header.is_dictionary = field == 7;
                    // Of the newer pages the encoding is the fourth field.
                    let encoding = if field == 8 { 4 } else { 2 };
                    let mut inner = 0;
                    while let Some(kind) = thrift.field(&mut inner)? {
                        match (inner, kind) {
                            (1, INTEGER) => values = u64::try_from(thrift.integer()?).ok(),
                            (number, INTEGER) if number == encoding => {
                                header.encoding = u32::try_from(thrift.integer()?).ok()?;
                            }
                            _ => thrift.skip(kind, 0)?,
                        }
                    }
                }
                _ => thrift.skip(kind, 0)?,
            }
        }
        (header.size, header.compressed) = (sizes.0?, sizes.1?);
        // Pages of indexes have no values.
        header.values = values.unwrap_or(0);
        Some(header)
    }
}

/// Thrift's compact protocol.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// 32-bit integers, as the protocol numbers kinds.
const INTEGER: u8 = 5;
const STRUCT: u8 = 12;

/// Structures in each other that are skipped.
const MAX_DEPTH: u32 = 16;

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field's kind, of which none is the structure's end.
    fn field(&mut self, number: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *number = match byte >> 4 {
            0 => self.integer()?,
            step => number.checked_add(i64::from(step))?,
        };
        Some(Some(byte & 15))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            1 | 2 => Some(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let length = self.varint()?;
                self.pass(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => u64::from(count),
                };
                // Truths in lists have a byte, and everything else has one at least.
                for _ in 0..count {
                    match head & 15 {
                        1 | 2 => self.pass(1)?,
                        kind => self.skip(kind, depth + 1)?,
                    }
                }
                Some(())
            }
            STRUCT => {
                let mut number = 0;
                while let Some(kind) = self.field(&mut number)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    fn pass(&mut self, length: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        self.at = (end <= self.bytes.len()).then_some(end)?;
        Some(())
    }
}
