//! The text in a file of probabilities: where it lies, and how it is read. Both kinds of files
//! begin with a magic and 32-bit numbers; the tokens of all chunks follow, then a record for
//! every scored position.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use qz_tensor::SourceFile;

use crate::error::{Error, Fault};
use crate::text::Text;

/// The most tokens that a file of probabilities may be about. What it says of half as many
/// tokens is hundreds of gigabytes.
const MAX_TOKENS: u64 = 1 << 24;

/// Tokens that are read at once.
const PIECE: u64 = 1 << 16;

/// Where the text of a file lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredText {
    /// Its first byte.
    offset: u64,
    context: u64,
    chunks: u64,
    /// Tokens are below it.
    vocabulary: u64,
}

impl StoredText {
    /// The text behind a head of so many bytes, with the head's `N` numbers: tokens in a chunk,
    /// in the vocabulary, chunks, and others. A record has `record_size` bytes of the numbers.
    ///
    /// # Errors
    /// If the file begins otherwise, or is shorter or longer than it says.
    pub(crate) fn of<const N: usize>(
        file: &SourceFile,
        magic: [u8; 8],
        record_size: impl FnOnce([u64; N]) -> Option<u64>,
    ) -> Result<(Self, [u64; N]), Error> {
        let mut head = vec![0; N.saturating_mul(4).saturating_add(magic.len())];
        let offset = head.len() as u64;
        let fits = file.len() >= offset;
        if fits {
            file.read_exact_at(0, &mut head)?;
        }
        let Some(head) = head.strip_prefix(&magic).filter(|_| fits) else {
            return Err(Error::at(file, 0, Fault::NoLogits));
        };
        let mut numbers = [0; N];
        for (number, bytes) in numbers.iter_mut().zip(head.as_chunks().0) {
            *number = u32::from_le_bytes(*bytes).into();
        }
        let mut first = numbers.iter().copied();
        let mut next = || first.next().unwrap_or(0);
        let (context, vocabulary, chunks) = (next(), next(), next());
        let empty = || Error::at(file, 8, Fault::Empty { context, vocabulary, chunks });
        if context < 4 || vocabulary == 0 || chunks == 0 {
            return Err(empty());
        }
        let record = record_size(numbers).ok_or_else(empty)?;
        let text = Self { offset, context, chunks, vocabulary };
        // Before anything is read, which may be as large as the head says.
        let expected = text.end().saturating_add(text.positions().saturating_mul(record.into()));
        if u128::from(file.len()) != expected {
            let fault = Fault::Length { expected, actual: file.len() };
            return Err(Error::at(file, file.len(), fault));
        }
        let tokens = text.tokens();
        if tokens > MAX_TOKENS {
            return Err(Error::at(file, 8, Fault::ManyTokens { tokens, most: MAX_TOKENS }));
        }
        Ok((text, numbers))
    }

    /// Both factors are below 2^32.
    fn tokens(&self) -> u64 {
        self.context.saturating_mul(self.chunks)
    }

    /// Scored positions of all chunks: of each the second half but one.
    fn positions(&self) -> u128 {
        let scored = self.context.saturating_sub(self.context / 2).saturating_sub(1);
        u128::from(scored).saturating_mul(self.chunks.into())
    }

    /// The byte behind it.
    fn end(&self) -> u128 {
        u128::from(self.tokens()).saturating_mul(4).saturating_add(self.offset.into())
    }

    /// Where the record of a scored position begins. Positions are fewer than tokens, and the
    /// file's length was compared with all of them.
    pub(crate) fn record(&self, position: usize, size: usize) -> u64 {
        let records = (position as u64).saturating_mul(size as u64);
        self.tokens().saturating_mul(4).saturating_add(self.offset).saturating_add(records)
    }

    /// Reads it.
    ///
    /// # Errors
    /// If the file cannot be read, or a token is not of the vocabulary.
    pub(crate) fn read(&self, file: &SourceFile) -> Result<Text, Error> {
        let count = usize::try_from(self.tokens()).unwrap_or(usize::MAX);
        let mut tokens = Vec::with_capacity(count);
        let mut bytes = Vec::new();
        while tokens.len() < count {
            let rest = count.saturating_sub(tokens.len());
            bytes.resize(rest.min(PIECE as usize).saturating_mul(4), 0);
            let place = (tokens.len() as u64).saturating_mul(4).saturating_add(self.offset);
            file.read_exact_at(place, &mut bytes)?;
            for (place, bytes) in (place..).step_by(4).zip(bytes.as_chunks().0) {
                let token = u32::from_le_bytes(*bytes);
                if u64::from(token) >= self.vocabulary {
                    let fault = Fault::Token { token, vocabulary: self.vocabulary };
                    return Err(Error::at(file, place, fault));
                }
                tokens.push(token);
            }
        }
        Ok(Text::halves(usize::try_from(self.context).unwrap_or(usize::MAX), tokens))
    }
}
