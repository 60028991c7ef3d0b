//! Tokenizer files and the vocabularies, names and errors they give. All files
//! are in memory.

mod pre_tokenizers;
mod refusals;
mod restoring;
mod scored;
mod support;
mod vocabularies;
