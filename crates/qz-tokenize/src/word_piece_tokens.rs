//! The tokens of a WordPiece vocabulary (`BertModel.set_vocab` in `conversion/bert.py`).
//! GGUF marks the pieces that begin a word, `tokenizer.json` those that do not.

use std::collections::HashMap;

use qz_tensor::{SideFiles, Warning};

use crate::added_tokens::AddedTokens;
use crate::definition::{SPACE, unsaid_flags};
use crate::error::Error;
use crate::json::{Settings, fault};
use crate::token_types::{
    CONTROL, NORMAL, UNUSED, USER_DEFINED, looks_special, padding, with_spaces,
};
use crate::tokenizer_file::{self, TokenizerFile};
use crate::vocabulary::{TokenTable, VocabularyOptions, size_of};

/// What stands in front of a piece that continues a word.
pub(crate) const CONTINUES: &str = "##";

/// llama.cpp cuts texts for WordPiece in one way, by whatever name.
const PRE_TOKENIZER: &str = "bert-bge";

/// The table for `file`, which must hold a WordPiece vocabulary.
pub(crate) fn word_piece_tokens(
    files: &dyn SideFiles,
    file: TokenizerFile,
    settings: &Settings,
    options: VocabularyOptions<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<TokenTable, Error> {
    if file.model.kind.as_deref() != Some("WordPiece") {
        let kind = file.model.kind.clone().unwrap_or_else(|| "BPE".to_owned());
        return Err(Error::Unsupported { path: files.path(tokenizer_file::NAME), kind });
    }
    if file.model.vocab.ids.is_empty() {
        return Err(fault(files, tokenizer_file::NAME, "model.vocab", "has no tokens"));
    }
    let added = AddedTokens::gather(files, &file, settings, options.size, warnings)?;
    let size = size_of(files, &file, &added, options.size)?;
    let mut by_id: HashMap<u64, &str> = HashMap::with_capacity(file.model.vocab.ids.len());
    by_id.extend(file.model.vocab.ids.iter().map(|(token, id)| (id.0.into(), token.as_str())));
    by_id.extend(added.iter().map(|token| (token.id.0.into(), token.content.as_str())));
    let entry = |id: u64| {
        let (token, kind) = match by_id.get(&id) {
            None => (padding(id), UNUSED),
            Some(content) => match added.get(content) {
                None => ((*content).to_owned(), NORMAL),
                Some(token) if token.special || looks_special(content) => {
                    ((*content).to_owned(), CONTROL)
                }
                Some(_) => (with_spaces(content), USER_DEFINED),
            },
        };
        (marked(token, kind), kind)
    };
    let (tokens, types) = (0..size).map(entry).unzip();
    let flags = file.surroundings.added_tokens.iter();
    let flags = flags.map(|token| (token.content.as_str(), token.flags(), false));
    let unsaid = unsaid_flags(files, tokenizer_file::NAME, flags).into_iter().collect();
    Ok(TokenTable {
        model: "bert",
        pre_tokenizer: Some(options.pre_tokenizer.unwrap_or(PRE_TOKENIZER).to_owned()),
        tokens,
        scores: None,
        types,
        merges: None,
        space_prefix: None,
        normalizer: None,
        surroundings: file.surroundings,
        unsaid,
        unnamed: None,
    })
}

/// A piece as GGUF has it.
fn marked(token: String, kind: i32) -> String {
    match token.strip_prefix(CONTINUES) {
        _ if kind == CONTROL => token,
        Some(rest) => rest.to_owned(),
        None => format!("{SPACE}{token}"),
    }
}
