//! Tokenizer files and the vocabularies, names and errors they give, with all
//! files in memory; and the ids that vocabularies give for texts.

mod definitions;
mod encode;
mod pre_tokenizers;
mod refusals;
mod restoring;
mod scored;
mod support;
mod vocabularies;
