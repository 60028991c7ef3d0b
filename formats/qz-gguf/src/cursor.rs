//! A forward reader over a file's header. Holds one window of the file, never
//! the whole of it.

use qz_tensor::SourceFile;

use crate::error::{Error, Fault};
use crate::rules::{MAX_HEADER, text_fault};

/// Bytes read at a time, unless one item needs more.
const WINDOW: u64 = 1 << 18;

pub(crate) struct Cursor<'a> {
    file: &'a SourceFile,
    window: Vec<u8>,
    /// Where in the file the window begins.
    start: u64,
    /// Bytes of the window already handed out.
    used: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(file: &'a SourceFile) -> Self {
        Self { file, window: Vec::new(), start: 0, used: 0 }
    }

    /// The byte that is handed out next, from the start of the file.
    pub(crate) fn position(&self) -> u64 {
        self.start.saturating_add(self.used as u64)
    }

    /// Bytes that the header can still have.
    pub(crate) fn remaining(&self) -> u64 {
        self.file.len().min(MAX_HEADER).saturating_sub(self.position())
    }

    /// `fault` at byte `offset`.
    pub(crate) fn error(&self, offset: u64, fault: Fault) -> Error {
        Error::at(self.file.path(), offset, fault)
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: u64) -> Result<&[u8], Error> {
        let buffered = self.window.len().saturating_sub(self.used) as u64;
        if count > buffered {
            self.refill(count)?;
        }
        let begin = self.used;
        // No more than the window holds by now, so nothing of it fails.
        self.used = begin.saturating_add(count as usize);
        Ok(self.window.get(begin..self.used).unwrap_or_default())
    }

    /// Moves the window to the current position and makes it hold at least
    /// `count` bytes.
    fn refill(&mut self, count: u64) -> Result<(), Error> {
        let position = self.position();
        if count > self.remaining() {
            let left = self.file.len().saturating_sub(position);
            let fault = if count > left {
                Fault::Truncated { wanted: count, left }
            } else {
                Fault::HeaderTooLong
            };
            return Err(self.error(position, fault));
        }
        // At most MAX_HEADER, so the cast is exact.
        let size = count.max(WINDOW.min(self.remaining())) as usize;
        self.window.resize(size, 0);
        self.start = position;
        self.used = 0;
        self.file.read_exact_at(position, &mut self.window)?;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of `W` bytes.
    pub(crate) fn number<T, const W: usize>(&mut self, from: fn([u8; W]) -> T) -> Result<T, Error> {
        self.array().map(from)
    }

    /// Checks a count, stored at `offset`, of items of at least `minimum` bytes
    /// each against the bytes that are left.
    pub(crate) fn count(
        &self,
        offset: u64,
        count: u64,
        minimum: u64,
        items: &'static str,
    ) -> Result<usize, Error> {
        let left = self.file.len().saturating_sub(self.position());
        let least = count.saturating_mul(minimum);
        let fault = match usize::try_from(count) {
            Ok(fits) if least <= self.remaining() => return Ok(fits),
            _ if least <= left => Fault::HeaderTooLong,
            _ => Fault::Count { items, count, left },
        };
        Err(self.error(offset, fault))
    }

    /// The bytes of a string: its length, at most `longest`, then as many bytes.
    pub(crate) fn text(
        &mut self,
        longest: u64,
        too_long: fn(u64) -> Fault,
    ) -> Result<&[u8], Error> {
        let offset = self.position();
        let length = self.u64()?;
        self.count(offset, length, 1, "bytes of text")?;
        if length > longest {
            return Err(self.error(offset, too_long(length)));
        }
        self.take(length)
    }

    /// A string whose bytes must be UTF-8.
    pub(crate) fn string(
        &mut self,
        what: &'static str,
        longest: u64,
        too_long: fn(u64) -> Fault,
    ) -> Result<String, Error> {
        let offset = self.position();
        let bytes = self.text(longest, too_long)?;
        let fault = match str::from_utf8(bytes) {
            Ok(text) => return Ok(text.to_owned()),
            Err(_) => text_fault(what, bytes),
        };
        Err(self.error(offset, fault))
    }

    /// `count` numbers of `W` bytes each; `count` has been checked.
    pub(crate) fn numbers<T, const W: usize>(
        &mut self,
        count: usize,
        from: fn([u8; W]) -> T,
    ) -> Result<Vec<T>, Error> {
        let at_once = (WINDOW as usize).checked_div(W).unwrap_or(1);
        let mut out = Vec::with_capacity(count);
        while out.len() < count {
            let some = at_once.min(count.saturating_sub(out.len()));
            let (numbers, _) = self.take(some.saturating_mul(W) as u64)?.as_chunks::<W>();
            out.extend(numbers.iter().map(|bytes| from(*bytes)));
        }
        Ok(out)
    }
}
