//! SentencePiece's `tokenizer.model`: the few fields of `ModelProto` that say
//! which pieces there are (`src/sentencepiece_model.proto`), with the checks that
//! SentencePiece makes when it loads one (`ModelInterface::InitializePieces` in
//! `src/model_interface.cc`).

use qz_tensor::SideFiles;

use crate::error::Error;
use crate::protobuf::{Field, Malformed, Message};
use crate::tokenizer_file::MOST_TOKENS;

/// The file's name.
pub(crate) const NAME: &str = "tokenizer.model";

/// Numbers of the fields that are read or written.
pub(crate) mod fields {
    // `ModelProto`.
    pub(crate) const PIECES: u64 = 1;
    pub(crate) const TRAINER_SPEC: u64 = 2;
    pub(crate) const NORMALIZER_SPEC: u64 = 3;
    // `ModelProto.SentencePiece`.
    pub(crate) const PIECE: u64 = 1;
    pub(crate) const SCORE: u64 = 2;
    pub(crate) const TYPE: u64 = 3;
    // `TrainerSpec`.
    pub(crate) const MODEL_TYPE: u64 = 3;
    pub(crate) const VOCABULARY_SIZE: u64 = 4;
    pub(crate) const BYTE_FALLBACK: u64 = 35;
    pub(crate) const UNKNOWN_ID: u64 = 40;
    pub(crate) const BEGINNING_ID: u64 = 41;
    pub(crate) const END_ID: u64 = 42;
    pub(crate) const PADDING_ID: u64 = 43;
    pub(crate) const UNKNOWN_PIECE: u64 = 45;
    pub(crate) const BEGINNING_PIECE: u64 = 46;
    pub(crate) const END_PIECE: u64 = 47;
    pub(crate) const PADDING_PIECE: u64 = 48;
    // `NormalizerSpec`.
    pub(crate) const NAME: u64 = 1;
    pub(crate) const CHARACTER_MAP: u64 = 2;
    pub(crate) const ADD_DUMMY_PREFIX: u64 = 3;
    pub(crate) const REMOVE_EXTRA_WHITESPACES: u64 = 4;
}

use fields::{
    ADD_DUMMY_PREFIX, BYTE_FALLBACK, CHARACTER_MAP, MODEL_TYPE, NORMALIZER_SPEC, PIECE, PIECES,
    REMOVE_EXTRA_WHITESPACES, SCORE, TRAINER_SPEC, TYPE,
};

/// What a piece is (`ModelProto.SentencePiece.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One piece; its id is its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece<'a> {
    pub(crate) text: &'a str,
    /// Finite.
    pub(crate) score: f32,
    pub(crate) kind: PieceKind,
}

/// What becomes of a text before pieces are looked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Normalizer {
    /// Which sequences of bytes are replaced by what, compiled; empty if none is.
    pub(crate) map: Vec<u8>,
    /// A space is put in front.
    pub(crate) adds_space: bool,
    /// Several spaces are one, and those at both ends are none.
    pub(crate) merges_spaces: bool,
}

/// The pieces of the model in `bytes`, which are those of the file of this name.
pub(crate) fn read_pieces<'a>(
    files: &dyn SideFiles,
    name: &str,
    bytes: &'a [u8],
) -> Result<Vec<Piece<'a>>, Error> {
    read_model(bytes).map_err(|malformed| broken(files, name, malformed))
}

/// What the model does with a text first.
pub(crate) fn read_normalizer(
    files: &dyn SideFiles,
    name: &str,
    bytes: &[u8],
) -> Result<Normalizer, Error> {
    normalizer_of(bytes).map_err(|malformed| broken(files, name, malformed))
}

/// True for a unigram model, which pieces are of if nothing is said.
pub(crate) fn is_unigram(files: &dyn SideFiles, name: &str, bytes: &[u8]) -> Result<bool, Error> {
    unigram_kind(bytes).map_err(|malformed| broken(files, name, malformed))
}

fn unigram_kind(bytes: &[u8]) -> Result<bool, Malformed> {
    const UNIGRAM: u64 = 1;
    let mut kind = UNIGRAM;
    for field in Message::whole(bytes) {
        let field = field?;
        if field.number != TRAINER_SPEC {
            continue;
        }
        for field in field.message()? {
            let field = field?;
            if field.number == MODEL_TYPE {
                kind = field.integer()?;
            }
        }
    }
    Ok(kind == UNIGRAM)
}

fn broken(files: &dyn SideFiles, name: &str, Malformed { offset, problem }: Malformed) -> Error {
    Error::SentencePiece { path: files.path(name), offset, problem }
}

fn normalizer_of(bytes: &[u8]) -> Result<Normalizer, Malformed> {
    // The format's own defaults.
    let mut normalizer = Normalizer { map: Vec::new(), adds_space: true, merges_spaces: true };
    for field in Message::whole(bytes) {
        let field = field?;
        if field.number != NORMALIZER_SPEC {
            continue;
        }
        for field in field.message()? {
            let field = field?;
            match field.number {
                CHARACTER_MAP => normalizer.map = field.bytes()?.to_vec(),
                ADD_DUMMY_PREFIX => normalizer.adds_space = field.integer()? != 0,
                REMOVE_EXTRA_WHITESPACES => normalizer.merges_spaces = field.integer()? != 0,
                _ => {}
            }
        }
    }
    Ok(normalizer)
}

fn read_model(bytes: &[u8]) -> Result<Vec<Piece<'_>>, Malformed> {
    let mut reader = PieceReader { bytes_seen: vec![false; 256], ..PieceReader::default() };
    let mut byte_fallback = None;
    for field in Message::whole(bytes) {
        let field = field?;
        match field.number {
            PIECES => reader.add(&field)?,
            // A message that comes twice is merged: the last value counts.
            TRAINER_SPEC => byte_fallback = Some(reads_byte_fallback(field.message()?)?),
            _ => {}
        }
    }
    reader.finish(byte_fallback, bytes.len() as u64)
}

fn reads_byte_fallback(trainer: Message<'_>) -> Result<bool, Malformed> {
    let mut byte_fallback = false;
    for field in trainer {
        let field = field?;
        if field.number == BYTE_FALLBACK {
            byte_fallback = field.integer()? != 0;
        }
    }
    Ok(byte_fallback)
}

/// Collects the pieces and what must be true of all of them together.
#[derive(Default)]
struct PieceReader<'a> {
    pieces: Vec<Piece<'a>>,
    has_unknown: bool,
    /// Where the first byte piece is in the file.
    first_byte: Option<u64>,
    bytes_seen: Vec<bool>,
}

impl<'a> PieceReader<'a> {
    fn add(&mut self, field: &Field<'a>) -> Result<(), Malformed> {
        if self.pieces.len() as u64 >= MOST_TOKENS {
            return Err(field.malformed(format!("more than {MOST_TOKENS} pieces")));
        }
        let piece = read_piece(field)?;
        match piece.kind {
            PieceKind::Unknown if self.has_unknown => {
                return Err(field.malformed(format!("{:?} is a second unknown piece", piece.text)));
            }
            PieceKind::Unknown => self.has_unknown = true,
            PieceKind::Byte => self.add_byte(field, piece.text)?,
            _ => {}
        }
        self.pieces.push(piece);
        Ok(())
    }

    fn add_byte(&mut self, field: &Field<'_>, text: &str) -> Result<(), Malformed> {
        let upper_case = !text.bytes().any(|letter| matches!(letter, b'a'..=b'f'));
        let Some(byte) = byte_of(text).filter(|_| upper_case) else {
            let problem = format!("{text:?} is a byte piece, expected <0x00> to <0xFF>");
            return Err(field.malformed(problem));
        };
        let Some(seen) = self.bytes_seen.get_mut(usize::from(byte)) else { return Ok(()) };
        if std::mem::replace(seen, true) {
            return Err(field.malformed(format!("{text:?} is there twice")));
        }
        self.first_byte.get_or_insert(field.offset);
        Ok(())
    }

    fn finish(self, byte_fallback: Option<bool>, length: u64) -> Result<Vec<Piece<'a>>, Malformed> {
        let at_end = |problem: String| Err(Malformed { offset: length, problem });
        let seen = self.bytes_seen.iter().filter(|seen| **seen).count();
        let Some(byte_fallback) = byte_fallback else {
            // It follows the pieces: a file without it has lost its end.
            return at_end(format!("no trainer_spec after {} pieces", self.pieces.len()));
        };
        if let Some(offset) = self.first_byte.filter(|_| !byte_fallback) {
            let problem = "a byte piece, but trainer_spec.byte_fallback is false".to_owned();
            return Err(Malformed { offset, problem });
        }
        if byte_fallback && seen != 256 {
            return at_end(format!("byte_fallback needs 256 byte pieces, there are {seen}"));
        }
        if !self.has_unknown {
            return at_end("no piece for unknown text".to_owned());
        }
        Ok(self.pieces)
    }
}

fn read_piece<'a>(piece: &Field<'a>) -> Result<Piece<'a>, Malformed> {
    let (mut text, mut score, mut kind) = ("", 0.0, PieceKind::Normal);
    for field in piece.message()? {
        let field = field?;
        match field.number {
            PIECE => text = field.text()?,
            SCORE => {
                score = field.float()?;
                if !score.is_finite() {
                    return Err(field.malformed(format!("the score is {score}")));
                }
            }
            TYPE => kind = piece_kind(&field)?,
            _ => {}
        }
    }
    if text.is_empty() {
        return Err(piece.malformed("an empty piece"));
    }
    Ok(Piece { text, score, kind })
}

fn piece_kind(field: &Field<'_>) -> Result<PieceKind, Malformed> {
    Ok(match field.integer()? {
        1 => PieceKind::Normal,
        2 => PieceKind::Unknown,
        3 => PieceKind::Control,
        4 => PieceKind::UserDefined,
        5 => PieceKind::Unused,
        6 => PieceKind::Byte,
        kind => return Err(field.malformed(format!("a piece of the unknown type {kind}"))),
    })
}

/// The byte that a text such as `<0x0A>` stands for.
pub(crate) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_number = digits.len() == 2 && digits.bytes().all(|letter| letter.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_number)
}
