//! Text to token ids and back, from a vocabulary as GGUF stores it
//! (`src/llama-vocab.cpp` and `src/unicode.cpp` of llama.cpp).

mod added;
mod byte_pair;
mod charsmap;
mod finder;
mod letters;
mod merge;
mod metadata;
mod partition;
mod pieces;
mod pre_tokenizer;
mod prefixes;
mod rules;
mod sentence_piece;
mod session;
mod space;
mod special;
mod split;
mod text_stream;
mod tokenizer;
mod tokens;
mod unicode;
mod unicode_table;
mod unigram;
mod word_piece;

pub(crate) use letters::{Letters, ScoredLetters};
#[cfg(test)]
pub(crate) use pre_tokenizer::pieces_of;
pub use pre_tokenizer::pre_tokenizer_names;
pub use text_stream::TextStream;
pub use tokenizer::{EncodeOptions, Tokenizer};
pub(crate) use unicode::is_punctuation;
