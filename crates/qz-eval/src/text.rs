//! A text as it is evaluated: chunks of tokens of one length, each a sequence of its
//! own, the second half of each scored.

use qz_tensor::SourceFile;

use crate::error::{Error, Fault};

/// Chunks of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    context: usize,
    tokens: Vec<u32>,
}

impl Text {
    /// As many whole chunks of `context` tokens as there are, but no more than `limit`;
    /// what is left is dropped.
    ///
    /// # Errors
    /// If a chunk has no position to score, or the text does not fill two, less than
    /// which the reference program refuses, too.
    pub fn new(tokens: &[u32], context: usize, limit: Option<usize>) -> Result<Self, Error> {
        if context < 4 {
            return Err(Error::Context(context));
        }
        let chunks = tokens.len() / context;
        if chunks < 2 {
            return Err(Error::TooShort { tokens: tokens.len(), context });
        }
        let chunks = limit.map_or(chunks, |limit| chunks.min(limit.max(1)));
        Ok(Self { context, tokens: tokens[..chunks * context].to_vec() })
    }

    pub(crate) fn read(
        file: &SourceFile,
        offset: u64,
        context: u64,
        chunks: u64,
        vocabulary: u64,
    ) -> Result<Self, Error> {
        // Both are below 2^32.
        let size = u128::from(context) * u128::from(chunks) * 4;
        if size > u128::from(file.len() - offset) {
            let expected = size + u128::from(offset);
            return Err(Error::at(
                file,
                file.len(),
                Fault::Length { expected, actual: file.len() },
            ));
        }
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(offset, &mut bytes)?;
        let tokens: Vec<u32> =
            bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let stranger = tokens.iter().position(|token| u64::from(*token) >= vocabulary);
        if let Some(place) = stranger {
            let fault = Fault::Token { token: tokens[place], vocabulary };
            return Err(Error::at(file, offset + 4 * place as u64, fault));
        }
        Ok(Self { context: context as usize, tokens })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        4 * self.tokens.len() as u64
    }

    /// Tokens in a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many chunks.
    pub fn chunks(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// The tokens of one chunk.
    pub fn chunk(&self, number: usize) -> &[u32] {
        &self.tokens[number * self.context..(number + 1) * self.context]
    }

    /// The positions of a chunk whose next token is scored: its second half but for the
    /// last one, whose next token belongs to another chunk.
    pub fn scored(&self) -> std::ops::Range<usize> {
        self.context / 2..self.context - 1
    }

    /// Scored positions of all chunks.
    pub fn positions(&self) -> usize {
        self.chunks() * self.scored().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_scored() {
        let check =
            |count: u32, context: usize, limit: Option<usize>, chunks: usize, per_chunk: usize| {
                let tokens: Vec<u32> = (0..count).collect();
                let text = Text::new(&tokens, context, limit).expect("long enough");
                assert_eq!((text.chunks(), text.scored().len()), (chunks, per_chunk));
                assert_eq!(text.positions(), chunks * per_chunk);
            };
        check(1024, 512, None, 2, 255);
        check(1535, 512, None, 2, 255);
        check(1536, 512, Some(1), 1, 255);
        check(14, 7, None, 2, 3);
    }

    #[test]
    fn a_text_fills_two_chunks() {
        let check = |count: u32, context: usize| {
            let tokens: Vec<u32> = (0..count).collect();
            assert!(Text::new(&tokens, context, None).is_err());
        };
        check(0, 512);
        check(1023, 512);
        check(100, 3);
    }
}
