//! A text as it is evaluated: chunks of tokens of one length, each a sequence of its
//! own, the second half of each scored.

use crate::error::Error;

/// Chunks of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    context: usize,
    tokens: Vec<u32>,
    /// Positions at the end of a chunk that are scored.
    scored: usize,
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
        Ok(Self::halves(context, tokens[..chunks * context].to_vec()))
    }

    /// Chunks of which the second halves are scored.
    pub(crate) fn halves(context: usize, tokens: Vec<u32>) -> Self {
        Self { context, tokens, scored: context - context / 2 - 1 }
    }

    /// Chunks that begin `stride` tokens apart, of which as many are scored, the last
    /// ones. As the reference program does it, a chunk grows by half a stride
    /// (`perplexity_v2` in perplexity.cpp).
    ///
    /// # Errors
    /// If more would be scored than a chunk has, or the text is too short.
    pub fn overlapping(
        tokens: &[u32],
        context: usize,
        stride: usize,
        limit: Option<usize>,
    ) -> Result<Self, Error> {
        let length = context.saturating_add(stride / 2);
        if stride == 0 || stride >= length {
            return Err(Error::Stride { stride, context });
        }
        if tokens.len() < length.saturating_mul(2) {
            return Err(Error::TooShort { tokens: tokens.len(), context: length });
        }
        let fitting = (tokens.len() - length).div_ceil(stride);
        let chunks = limit.map_or(fitting, |limit| fitting.min(limit.max(1)));
        let starts = (0..chunks).map(|chunk| chunk * stride);
        let tokens = starts.flat_map(|start| &tokens[start..start + length]).copied().collect();
        Ok(Self { context: length, tokens, scored: stride })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
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

    /// The positions of a chunk whose next token is scored: its second half, or as many
    /// as chunks are apart, but for the last one, whose next token belongs to another
    /// chunk.
    pub fn scored(&self) -> std::ops::Range<usize> {
        let end = self.context - 1;
        end - self.scored..end
    }

    /// The token that position `row` should foretell, scored positions counted over all
    /// chunks.
    pub fn next_token(&self, row: usize) -> u32 {
        let scored = self.scored();
        self.chunk(row / scored.len())[scored.start + row % scored.len() + 1]
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
    fn the_tokens_after_scored_positions() {
        let tokens: Vec<u32> = (100..125).collect();
        let check = |text: Text, expected: &[u32]| {
            let next: Vec<u32> = (0..text.positions()).map(|row| text.next_token(row)).collect();
            assert_eq!(next, expected);
        };
        let halves = Text::new(&tokens, 8, None).expect("long enough");
        check(halves, &[105, 106, 107, 113, 114, 115, 121, 122, 123]);
        let overlapping = Text::overlapping(&tokens, 8, 4, Some(2)).expect("long enough");
        assert_eq!((overlapping.context(), overlapping.chunk(1)[0]), (10, 104));
        check(overlapping, &[106, 107, 108, 109, 110, 111, 112, 113]);
        let all = Text::overlapping(&tokens, 8, 4, None).expect("long enough");
        assert_eq!(all.chunks(), 4);
        assert!(Text::overlapping(&tokens, 8, 16, None).is_err());
        assert!(Text::overlapping(&tokens[..19], 8, 4, None).is_err());
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
