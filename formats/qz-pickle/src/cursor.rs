//! Reading forward through a part of a file, from a buffer that is filled by
//! position. Offsets are those of the whole file, so that messages can use them.

use std::ops::Range;

use qz_tensor::SourceFile;

use crate::error::{Error, Fault};

/// Bytes read at a time.
const BUFFER: u64 = 64 * 1024;

/// A place in a file, with an end that must not be passed.
pub(crate) struct Cursor<'f> {
    file: &'f SourceFile,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Where the buffer's first byte lies in the file.
    buffered_from: u64,
}

impl<'f> Cursor<'f> {
    /// Stands at the start of `range`, which is inside the file.
    pub(crate) fn new(file: &'f SourceFile, range: Range<u64>) -> Self {
        let Range { start, end } = range;
        Self { file, position: start, end, buffer: Vec::new(), buffered_from: start }
    }

    /// The offset of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes before the end.
    pub(crate) fn left(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// The error `fault`, at the byte `offset`.
    pub(crate) fn fail(&self, offset: u64, fault: Fault) -> Error {
        Error::at(self.file.path(), offset, fault)
    }

    /// Checks that `count` bytes are left, before anything is made of them.
    pub(crate) fn expect(&self, count: u64) -> Result<(), Error> {
        let left = self.left();
        if count > left {
            return Err(self.fail(self.position, Fault::TruncatedPickle { needed: count, left }));
        }
        Ok(())
    }

    /// The buffered bytes from here on, at least one.
    fn buffered(&mut self) -> Result<&[u8], Error> {
        self.expect(1)?;
        // Inside the buffer, so the cast is exact.
        let mut skip = self.position.saturating_sub(self.buffered_from) as usize;
        if skip >= self.buffer.len() {
            // At most BUFFER, so the cast is exact.
            self.buffer.resize(self.left().min(BUFFER) as usize, 0);
            self.file.read_exact_at(self.position, &mut self.buffer)?;
            self.buffered_from = self.position;
            skip = 0;
        }
        Ok(self.buffer.get(skip..).unwrap_or_default())
    }

    /// Hands the next `count` bytes to `take`, piece by piece.
    fn pieces(&mut self, count: u64, mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        self.expect(count)?;
        let mut missing = count;
        while missing > 0 {
            let piece = self.buffered()?;
            let most = usize::try_from(missing).unwrap_or(usize::MAX);
            let piece = piece.get(..most).unwrap_or(piece);
            let length = piece.len() as u64;
            take(piece);
            self.position = self.position.saturating_add(length);
            missing = missing.saturating_sub(length);
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        let mut empty = out.iter_mut();
        self.pieces(N as u64, |piece| {
            piece.iter().zip(&mut empty).for_each(|(from, to)| *to = *from);
        })?;
        Ok(out)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next `count` bytes, which the caller has bounded.
    pub(crate) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        self.pieces(count, |piece| out.extend_from_slice(piece))?;
        Ok(out)
    }

    pub(crate) fn skip(&mut self, count: u64) -> Result<(), Error> {
        self.expect(count)?;
        self.position = self.position.saturating_add(count);
        Ok(())
    }

    /// A line of text of at most `longest` bytes, without its end.
    pub(crate) fn line(&mut self, longest: usize) -> Result<Vec<u8>, Error> {
        let start = self.position;
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(line),
                _ if line.len() == longest => {
                    return Err(self.fail(start, Fault::LineTooLong(longest)));
                }
                byte => line.push(byte),
            }
        }
    }
}
