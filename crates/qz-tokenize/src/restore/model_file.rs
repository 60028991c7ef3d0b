//! `tokenizer.model`: the pieces with their scores, which `tokenizer.json` has no
//! room for (`src/sentencepiece_model.proto` of SentencePiece).

use qz_tensor::SideFile;

use super::table::Table;
use crate::protobuf::Writer;
use crate::sentencepiece::{self, fields};
use crate::token_types::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};

/// The kind that SentencePiece calls byte-pair encoding (`TrainerSpec.ModelType`).
const BYTE_PAIR_ENCODING: u64 = 2;

/// The file; `None` for a vocabulary that cannot be one: without different scores,
/// without a piece for unknown text, or with fewer than all 256 bytes.
pub(super) fn write(table: &Table<'_>) -> Option<SideFile> {
    let unknown = table.unknown()?;
    let own = 0..table.model_tokens;
    let scores = table.scores?;
    let mut learned = own.clone().filter(|id| table.types[*id] == NORMAL).map(|id| scores[id]);
    let first = learned.next()?;
    let bytes = own.clone().filter(|id| table.types[*id] == BYTE).count();
    // More than one would be refused.
    let unknowns = own.clone().filter(|id| table.types[*id] == UNKNOWN && *id != unknown).count();
    if learned.all(|score| score == first) || !matches!(bytes, 0 | 256) || unknowns > 0 {
        return None;
    }
    let mut file = Writer::default();
    for id in own {
        let mut piece = Writer::default();
        piece.text(fields::PIECE, table.tokens[id]);
        piece.float(fields::SCORE, scores[id]);
        piece.integer(fields::TYPE, if id == unknown { 2 } else { kind(table.types[id]) });
        file.message(fields::PIECES, &piece);
    }
    file.message(fields::TRAINER_SPEC, &trainer(table, unknown, bytes > 0));
    let mut normalizer = Writer::default();
    normalizer.text(fields::NAME, "identity");
    normalizer.integer(fields::REMOVE_EXTRA_WHITESPACES, 0);
    file.message(fields::NORMALIZER_SPEC, &normalizer);
    Some(SideFile { name: sentencepiece::NAME.to_owned(), content: file.into_bytes() })
}

/// GGUF's types have SentencePiece's numbers.
fn kind(of: i32) -> u64 {
    match of {
        NORMAL | UNKNOWN | CONTROL | USER_DEFINED | UNUSED | BYTE => u64::from(of.unsigned_abs()),
        _ => 1,
    }
}

fn trainer(table: &Table<'_>, unknown: usize, byte_fallback: bool) -> Writer {
    /// An id of -1, that of a piece that is not there, as the format writes it.
    const NONE: u64 = u64::MAX;
    let id = |id: Option<u32>| {
        id.filter(|id| (*id as usize) < table.model_tokens).map_or(NONE, u64::from)
    };
    let mut trainer = Writer::default();
    trainer.integer(fields::MODEL_TYPE, BYTE_PAIR_ENCODING);
    trainer.integer(fields::VOCABULARY_SIZE, table.model_tokens as u64);
    trainer.integer(fields::BYTE_FALLBACK, u64::from(byte_fallback));
    trainer.integer(fields::UNKNOWN_ID, unknown as u64);
    trainer.integer(fields::BEGINNING_ID, id(table.special.beginning));
    trainer.integer(fields::END_ID, id(table.special.end));
    trainer.integer(fields::PADDING_ID, id(table.special.padding));
    trainer.text(fields::UNKNOWN_PIECE, table.tokens[unknown]);
    for (field, id) in [
        (fields::BEGINNING_PIECE, table.special.beginning),
        (fields::END_PIECE, table.special.end),
        (fields::PADDING_PIECE, table.special.padding),
    ] {
        if let Some(id) = id.filter(|id| (*id as usize) < table.model_tokens) {
            trainer.text(field, table.text(id));
        }
    }
    trainer
}
