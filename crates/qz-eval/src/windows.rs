//! Which tokens of a text a model sees together, and which of them are scored.

use std::ops::Range;

use qz_models::forward::Chunks;
use qz_tensor::Location;

use crate::error::Error;

/// How a text is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowOptions {
    /// Tokens of a window.
    pub context: usize,
    /// The most windows; all if none.
    pub chunks: Option<usize>,
    /// Tokens between the starts of overlapping windows, of which as many are scored;
    /// without it windows follow each other, and the second half of each is scored.
    pub stride: Option<usize>,
    /// What replaces a window's first token, where the vocabulary asks for it.
    pub first_token: Option<u32>,
}

/// A text cut into windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// What the model sees.
    chunks: Chunks,
    /// The positions whose logits are scored, in each window. The token after each is
    /// the one that should have been foretold.
    positions: Range<usize>,
}

impl Windows {
    /// Cuts a text as llama-perplexity does. A text of one window is enough; the
    /// reference asks for two.
    ///
    /// # Errors
    /// If the text is too short, or the options leave nothing to score.
    pub fn new(
        tokens: &[u32],
        options: &WindowOptions,
        location: &Location,
    ) -> Result<Self, Error> {
        let cut = match options.stride {
            None => Cut::halves(options.context)?,
            Some(stride) => Cut::overlapping(options.context, stride)?,
        };
        if tokens.len() < cut.needed {
            let (tokens, needed) = (tokens.len(), cut.needed);
            return Err(Error::TextTooShort { location: location.clone(), tokens, needed });
        }
        let fitting = (tokens.len() - cut.needed) / cut.step + 1;
        let count = options.chunks.unwrap_or(fitting).clamp(1, fitting);
        let mut seen = Vec::with_capacity(count * cut.length);
        for start in (0..count).map(|window| window * cut.step) {
            let window = seen.len();
            seen.extend_from_slice(&tokens[start..start + cut.length]);
            // With a stride the reference sets it too late to have an effect.
            if let (Some(first), None) = (options.first_token, options.stride) {
                seen[window] = first;
            }
        }
        Ok(Self { chunks: Chunks::new(seen, cut.length), positions: cut.positions })
    }

    /// What the model sees.
    pub fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// The positions whose logits are scored.
    pub fn positions(&self) -> Range<usize> {
        self.positions.clone()
    }

    /// Scored rows in all.
    pub fn rows(&self) -> usize {
        self.chunks.count() * self.positions.len()
    }

    /// The window of a scored row, rows counted over all windows.
    pub fn chunk(&self, row: usize) -> usize {
        row / self.positions.len()
    }

    /// The token that a scored row should have foretold.
    pub fn target(&self, row: usize) -> u32 {
        let position = self.positions.start + row % self.positions.len();
        self.chunks.get(self.chunk(row))[position + 1]
    }
}

/// Windows of one kind.
struct Cut {
    length: usize,
    /// From one window's start to the next one's.
    step: usize,
    /// Tokens that the text must have for one window.
    needed: usize,
    positions: Range<usize>,
}

impl Cut {
    fn halves(context: usize) -> Result<Self, Error> {
        if context < 3 {
            return Err(Error::ContextTooShort { context, least: 3 });
        }
        let positions = context / 2..context - 1;
        Ok(Self { length: context, step: context, needed: context, positions })
    }

    fn overlapping(context: usize, stride: usize) -> Result<Self, Error> {
        let length = context + stride / 2;
        if stride == 0 || stride >= length {
            return Err(Error::StrideTooLong { stride, context });
        }
        let positions = length - stride - 1..length - 1;
        // A text of exactly one window is refused there.
        Ok(Self { length, step: stride, needed: length + 1, positions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(
        tokens: u32,
        context: usize,
        chunks: Option<usize>,
        stride: Option<usize>,
    ) -> Result<Windows, Error> {
        let tokens: Vec<u32> = (100..100 + tokens).collect();
        let options = WindowOptions { context, chunks, stride, first_token: Some(1) };
        Windows::new(&tokens, &options, &Location::default())
    }

    #[test]
    fn the_second_half_of_each_chunk_is_scored() {
        let cut = windows(25, 8, None, None).expect("long enough");
        assert_eq!(cut.chunks().count(), 3);
        assert_eq!(cut.chunks().get(1), [1, 109, 110, 111, 112, 113, 114, 115]);
        assert_eq!(cut.positions(), 4..7);
        let targets: Vec<u32> = (0..cut.rows()).map(|row| cut.target(row)).collect();
        assert_eq!(targets, [105, 106, 107, 113, 114, 115, 121, 122, 123]);
        assert_eq!(windows(25, 8, Some(2), None).expect("long enough").chunks().count(), 2);
    }

    #[test]
    fn windows_with_a_stride_overlap() {
        // The window grows by half the stride, and keeps its first token.
        let cut = windows(16, 8, None, Some(4)).expect("long enough");
        assert_eq!((cut.chunks().count(), cut.chunks().length()), (2, 10));
        assert_eq!(cut.chunks().get(1)[0], 104);
        assert_eq!(cut.positions(), 5..9);
        let targets: Vec<u32> = (0..cut.rows()).map(|row| cut.target(row)).collect();
        assert_eq!(targets, [106, 107, 108, 109, 110, 111, 112, 113]);
    }

    #[test]
    fn a_short_text_is_refused() {
        let check = |tokens: u32, context: usize, stride: Option<usize>, expected: Error| {
            assert_eq!(windows(tokens, context, None, stride), Err(expected));
        };
        let short =
            |tokens, needed| Error::TextTooShort { location: Location::default(), tokens, needed };
        check(7, 8, None, short(7, 8));
        check(10, 8, Some(4), short(10, 11));
        check(7, 2, None, Error::ContextTooShort { context: 2, least: 3 });
        check(100, 8, Some(16), Error::StrideTooLong { stride: 16, context: 8 });
        assert!(windows(8, 8, None, None).is_ok());
    }
}
