//! The text of an evaluation, from a file.

use std::path::{Path, PathBuf};

use qz_eval::text::Text;
use qz_tensor::{FileError, Location, SourceFile, stop};
use qz_tokenize::{EncodeOptions, Tokenizer};

use crate::error::Error;
use crate::model::to_usize;
use crate::stream::{Cancel, stoppable};

/// The text to score.
#[derive(Clone, Debug)]
pub enum EvalData {
    /// Text in UTF-8.
    Text(PathBuf),
    /// Token ids, divided by anything that is no digit.
    Tokens(PathBuf),
}

impl EvalData {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Text(path) | Self::Tokens(path) => path,
        }
    }
}

/// Which text, and how it is cut.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// The text.
    pub data: EvalData,
    /// Tokens of a chunk.
    pub context: usize,
    /// The most chunks.
    pub chunks: Option<usize>,
    /// Tokens between overlapping chunks.
    pub stride: Option<usize>,
}

impl TextOptions {
    /// Chunks of this tokenizer's tokens.
    pub(crate) fn read(&self, tokenizer: &Tokenizer, cancel: &Cancel) -> Result<Text, Error> {
        // Chunks follow each other, or overlap; as many tokens again are asked for at least.
        let wanted = self.chunks.map_or(usize::MAX, |chunks| {
            chunks.saturating_add(2).saturating_mul(self.context.max(self.stride.unwrap_or(0)))
        });
        let tokens = stoppable(cancel, || read_tokens(&self.data, tokenizer, wanted))?;
        let text = match self.stride {
            None => Text::new(&tokens, self.context, self.chunks),
            Some(stride) => Text::overlapping(&tokens, self.context, stride, self.chunks),
        };
        Ok(text?)
    }
}

/// No text to evaluate comes near this; a larger file is not read.
const TEXT_LIMIT: u64 = 4 << 30;

/// A second's work for a slow disk.
const READ_AT_ONCE: usize = 16 << 20;

/// The text's tokens, or the first `wanted` of them.
fn read_tokens(data: &EvalData, tokenizer: &Tokenizer, wanted: usize) -> Result<Vec<u32>, Error> {
    match data {
        EvalData::Text(path) => {
            let options = EncodeOptions { add_special: true, parse_special: false };
            let ids = tokenizer.encode_first(&read_text(path)?, options, wanted);
            Ok(ids.map_err(qz_models::Error::from)?.into_iter().map(|id| id.0).collect())
        }
        EvalData::Tokens(path) => read_token_ids(path, tokenizer.token_count()),
    }
}

/// A file of token ids: numbers divided by spaces, commas, brackets and the like. All have to be
/// ids of a vocabulary of so many tokens.
pub(crate) fn read_token_ids(path: &Path, vocabulary: usize) -> Result<Vec<u32>, Error> {
    let bytes = read_file(path)?;
    let mut tokens = Vec::new();
    let mut rest = 0;
    while let Some(start) = bytes[rest..].iter().position(|byte| !is_divider(*byte)) {
        let start = rest + start;
        let length = bytes[start..].iter().position(|byte| is_divider(*byte));
        let end = length.map_or(bytes.len(), |length| start + length);
        let text = String::from_utf8_lossy(&bytes[start..end]);
        // Else `+7` were a number, too.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u32>() {
            Ok(token) if digits && (token as usize) < vocabulary => tokens.push(token),
            _ => {
                let location = Location::file(path).offset(start as u64);
                let token: String = text.chars().take(LONGEST_SHOWN).collect();
                return Err(Error::TokenId { location, token, vocabulary: Some(vocabulary) });
            }
        }
        rest = end;
    }
    Ok(tokens)
}

/// Characters of what is no token id that a message shows.
const LONGEST_SHOWN: usize = 40;

/// What may stand between token ids: what lists of many languages have there.
fn is_divider(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b",;:|[](){}\"'".contains(&byte)
}

/// A file in UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String, Error> {
    String::from_utf8(read_file(path)?).map_err(|error| Error::TextEncoding {
        location: Location::file(path).offset(error.utf8_error().valid_up_to() as u64),
    })
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let file = SourceFile::open(path)?;
    let length = file.len();
    if length > TEXT_LIMIT {
        let path = path.to_owned();
        return Err(FileError::TooLarge { path, length, limit: TEXT_LIMIT }.into());
    }
    let mut bytes = vec![0; to_usize(length)];
    for (number, part) in bytes.chunks_mut(READ_AT_ONCE).enumerate() {
        if stop::is_requested() {
            break;
        }
        file.read_exact_at((number * READ_AT_ONCE) as u64, part)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        let check = |text: &str, expected: Result<&[u32], (&str, u64)>| {
            std::fs::write(&path, text).expect("written");
            match (read_token_ids(&path, 100), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(Error::TokenId { location, token, .. }), Err(expected)) => {
                    assert_eq!((&*token, location.offset), (expected.0, Some(expected.1)));
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check("1, 2\n99", Ok(&[1, 2, 99]));
        check("[1,2,3]", Ok(&[1, 2, 3]));
        check("1;2|[3]", Ok(&[1, 2, 3]));
        check("1-2", Err(("1-2", 0)));
        check("1.5", Err(("1.5", 0)));
        check("1 tok2", Err(("tok2", 2)));
        check("+7", Err(("+7", 0)));
        check("", Ok(&[]));
        check("-1", Err(("-1", 0)));
        check("1 -2", Err(("-2", 2)));
        check("1,-2,3", Err(("-2", 2)));
        check("7 100", Err(("100", 2)));
        check("99999999999", Err(("99999999999", 0)));
    }
}
