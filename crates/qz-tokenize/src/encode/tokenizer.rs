//! The tokenizer: a vocabulary's tokens, its rules, and one of the four models.

use std::borrow::Cow;

use qz_tensor::{Metadata, SideFiles};

use super::byte_pair::BytePair;
use super::charsmap::CharsMap;
use super::metadata::{Entries, fault};
use super::partition::{Fragment, Partition};
use super::pieces::piece;
use super::pre_tokenizer::{self, Alphabet, Bos, PreTokenizer, Whole};
use super::rules::Rules;
use super::sentence_piece::SentencePiece;
use super::session::Session;
use super::special::{Defaults, Special, set_stripping};
use super::tokens::Tokens;
use super::unigram::Unigram;
use super::word_piece::WordPiece;
use crate::added_tokens::AddedTokens;
use crate::error::Error;
use crate::json::Settings;
use crate::pattern::GaveUp;
use crate::sentencepiece;
use crate::tokenizer_file::{TokenId, TokenizerFile};

/// What is done with special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The vocabulary's own tokens go before and behind the text, if it has any.
    pub add_special: bool,
    /// Control tokens are found in the text. Those that a user defined always are.
    pub parse_special: bool,
}

/// Turns text into token ids and ids into text: as llama.cpp does, or as the
/// tokenizers library does where a checkpoint says more than a GGUF file can.
pub struct Tokenizer {
    tokens: Tokens,
    special: Special,
    partition: Partition,
    model: Model,
    /// What goes before and behind a text.
    first: Option<TokenId>,
    last: Option<TokenId>,
    rules: Option<Rules>,
}

/// `tokenizer.ggml.model`, with what each needs.
enum Model {
    /// `gpt2`, `gemma4`
    BytePair(BytePair),
    /// `llama`
    SentencePiece(SentencePiece),
    /// `bert`
    WordPiece(WordPiece),
    /// `t5`
    Unigram(Box<Unigram>),
}

/// The values of `tokenizer.ggml.model` that there is a model for.
const MODELS: [&str; 5] = ["gpt2", "gemma4", "llama", "bert", "t5"];

impl Tokenizer {
    /// Reads the vocabulary in the `tokenizer.*` entries of `metadata`.
    ///
    /// # Errors
    /// If entries are missing, of another kind, contradict each other, or name a
    /// model or pre-tokenizer that nothing is known of.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, Error> {
        const KEY: &str = "tokenizer.ggml.model";
        let metadata = &*metadata.as_text();
        let entries = Entries(metadata);
        match entries.string(KEY)?.ok_or_else(|| fault(KEY, "is missing"))? {
            "gpt2" => {
                let name = entries.string("tokenizer.ggml.pre")?.unwrap_or_default();
                Self::byte_pair(entries, name, Some(11))
            }
            "gemma4" => Self::byte_pair(entries, "gemma4", None),
            "llama" => Self::sentence_piece(entries),
            "bert" => Self::word_piece(entries),
            "t5" => Self::unigram(entries),
            other => Err(Error::UnknownVocabularyModel {
                model: other.to_owned(),
                known: MODELS.join(", "),
            }),
        }
    }

    /// Reads the vocabulary that `metadata` has of the checkpoint with these `files`,
    /// and the rules of its `tokenizer.json`. Where that is not the same vocabulary
    /// as a `tokenizer.model` beside it, the latter counts, as for GGUF files.
    ///
    /// # Errors
    /// As [`Tokenizer::from_metadata`], and if the files that count are broken.
    pub fn from_checkpoint(files: &dyn SideFiles, metadata: &Metadata) -> Result<Self, Error> {
        let mut tokenizer = Self::from_metadata(metadata)?;
        match tokenizer.add_rules(files, metadata.string("tokenizer.ggml.pre")) {
            Err(_) if files.read(sentencepiece::NAME)?.is_some() => {}
            result => result?,
        }
        Ok(tokenizer)
    }

    /// `name` is llama.cpp's for how the checkpoint's text is cut, if it has one.
    fn add_rules(&mut self, files: &dyn SideFiles, name: Option<&str>) -> Result<(), Error> {
        let Some(file) = TokenizerFile::read_if_there(files)?.filter(TokenizerFile::is_bpe) else {
            return Ok(());
        };
        let settings = Settings::read(files)?;
        let count = self.token_count();
        // What there is to say of the tokens was said when the metadata was made.
        let added =
            AddedTokens::gather(files, &file, &settings, Some(count as u64), &mut Vec::new())?;
        if !self.has_vocabulary_of(&file, &added) {
            return Ok(());
        }
        let rules = Rules::of(files, &file, &added, count, name)?;
        if let Model::BytePair(model) = &mut self.model {
            if rules.cuts_bytes() {
                model.pre_tokenizer = &pre_tokenizer::UNNAMED;
            }
            let is_whole = file.model.ignore_merges == Some(true);
            model.whole = if is_whole { Whole::Always } else { Whole::Never };
        }
        self.rules = Some(rules);
        Ok(())
    }

    /// True if `file` has these tokens with these ids, and text that merges the same
    /// way.
    fn has_vocabulary_of(&self, file: &TokenizerFile, added: &AddedTokens) -> bool {
        let is_same_kind = match self.model {
            Model::BytePair(ref model) => {
                let is_escaped = model.pre_tokenizer.alphabet == Alphabet::Escaped;
                is_escaped == file.is_llama_with_byte_tokens()
            }
            Model::SentencePiece(_) => file.is_llama_with_byte_tokens(),
            Model::WordPiece(_) | Model::Unigram(_) => false,
        };
        let mut ids = file.model.vocab.ids.iter();
        is_same_kind
            && ids.all(|(token, id)| {
                let is_there = (id.0 as usize) < self.tokens.count();
                is_there && (self.tokens.text(*id) == token || added.get(token).is_some())
            })
    }

    /// `default` is the first and the last token where the file names none.
    fn byte_pair(entries: Entries<'_>, name: &str, default: Option<u32>) -> Result<Self, Error> {
        let name = if name.is_empty() { "default" } else { name };
        let found = pre_tokenizer::find(name).ok_or_else(|| {
            let known = pre_tokenizer::names().collect::<Vec<_>>().join(", ");
            Error::UnknownVocabularyPreTokenizer { name: name.to_owned(), known }
        })?;
        let mut tokens = Tokens::read(entries)?;
        let defaults = Defaults {
            bos: default.filter(|_| found.bos != Bos::NoDefault),
            eos: default,
            adds_bos: found.bos == Bos::Added,
            ..Defaults::default()
        };
        let mut special = Special::find(entries, defaults, &mut tokens)?;
        special.adds_bos |= found.bos == Bos::Forced;
        let model = BytePair::read(entries, &mut tokens, found)?;
        Self::new(entries, tokens, special, Model::BytePair(model))
    }

    fn sentence_piece(entries: Entries<'_>) -> Result<Self, Error> {
        let mut tokens = Tokens::read(entries)?;
        let defaults = Defaults {
            bos: Some(1),
            eos: Some(2),
            unknown: Some(0),
            adds_bos: true,
            ..Defaults::default()
        };
        let special = Special::find(entries, defaults, &mut tokens)?;
        let adds_space = entries.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let model = SentencePiece::new(&tokens, adds_space);
        Self::new(entries, tokens, special, Model::SentencePiece(model))
    }

    fn word_piece(entries: Entries<'_>) -> Result<Self, Error> {
        let mut tokens = Tokens::read(entries)?;
        let defaults = Defaults {
            bos: Some(101),
            unknown: Some(100),
            separator: Some(102),
            adds_bos: true,
            ..Defaults::default()
        };
        let special = Special::find(entries, defaults, &mut tokens)?;
        let lowercase = entries.flag("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let strips_accents =
            entries.flag("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
        let unknown = needed("tokenizer.ggml.unknown_token_id", special.unknown)?;
        let model = Model::WordPiece(WordPiece { lowercase, strips_accents, unknown });
        // Both always go around a text, whatever the file says.
        let first = Some(needed("tokenizer.ggml.bos_token_id", special.bos)?);
        let last = Some(needed("tokenizer.ggml.seperator_token_id", special.separator)?);
        Ok(Self { first, last, ..Self::new(entries, tokens, special, model)? })
    }

    fn unigram(entries: Entries<'_>) -> Result<Self, Error> {
        const MAP: &str = "tokenizer.ggml.precompiled_charsmap";
        let mut tokens = Tokens::read(entries)?;
        let map = match entries.bytes(MAP)? {
            Some(blob) => Some(
                CharsMap::read(&blob).ok_or_else(|| fault(MAP, "is not a map of characters"))?,
            ),
            None => None,
        };
        let defaults =
            Defaults { eos: Some(1), unknown: Some(2), adds_eos: true, ..Defaults::default() };
        // The rules by name that `Special` has come too late for the reference's model.
        let stated = tokens.kinds.clone();
        let special = Special::find(entries, defaults, &mut tokens)?;
        let unknown = needed("tokenizer.ggml.unknown_token_id", special.unknown)?;
        let flag = |key: &str| entries.flag(key).map(|stated| stated.unwrap_or(false));
        let ruled = std::mem::replace(&mut tokens.kinds, stated);
        let mut model = Unigram::new(&tokens, map, unknown);
        tokens.kinds = ruled;
        model.adds_space = flag("tokenizer.ggml.add_space_prefix")?;
        model.merges_spaces = flag("tokenizer.ggml.remove_extra_whitespaces")?;
        Self::new(entries, tokens, special, Model::Unigram(Box::new(model)))
    }

    fn new(
        entries: Entries<'_>,
        mut tokens: Tokens,
        special: Special,
        model: Model,
    ) -> Result<Self, Error> {
        set_stripping(entries, &mut tokens)?;
        let partition = Partition::new(&tokens)?;
        let (first, last) = (special.checked_bos()?, special.checked_eos()?);
        Ok(Self { tokens, special, partition, model, first, last, rules: None })
    }

    /// The token ids of `text`. Takes time and memory in proportion to its length,
    /// but for merging within a word, which takes n log n.
    ///
    /// # Errors
    /// If a pattern that cuts text takes too many steps on it.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<TokenId>, Error> {
        let mut output = Vec::new();
        output.extend(self.first.filter(|_| options.add_special));
        match &self.rules {
            Some(rules) => {
                let fragments = rules.fragments(text, options.parse_special);
                encode_fragments(&fragments, &mut output, |part, session, output| {
                    rules.encode(part, session, output, |text, session, output| {
                        self.encode_text(text, session, output)
                    })
                })?;
            }
            None => {
                let fragments = self.prepared(text, options.parse_special);
                encode_fragments(&fragments, &mut output, |text, session, output| {
                    self.encode_text(text, session, output)
                })?;
            }
        }
        output.extend(self.last.filter(|_| options.add_special));
        Ok(output)
    }

    /// The first `count` ids of [`Self::encode`], or all if there are fewer; reads little
    /// more of the text than they stand for.
    ///
    /// What is read ends somewhere in the text. That changes the tokens of the word, or the
    /// run of spaces, that is cut there: every model cuts or scores text within a few words.
    /// Tokens are given only if many more come before the cut.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_first(
        &self,
        text: &str,
        options: EncodeOptions,
        count: usize,
    ) -> Result<Vec<TokenId>, Error> {
        /// Tokens before the cut that are not used.
        const MARGIN: usize = 4096;
        /// More than most tokens have.
        const BYTES: usize = 6;
        let wanted = count.saturating_add(MARGIN);
        let mut length = wanted.saturating_mul(BYTES);
        while length < text.len() {
            let read = &text[..text.ceil_char_boundary(length)];
            let mut tokens = self.encode(read, options)?;
            if tokens.len() >= wanted {
                tokens.truncate(count);
                return Ok(tokens);
            }
            length = length.saturating_mul(2);
        }
        let mut tokens = self.encode(text, options)?;
        tokens.truncate(count);
        Ok(tokens)
    }

    /// The special tokens in a text, and what is between them as the model wants it.
    fn prepared<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<Cow<'a, str>>> {
        let mut follows_special = true;
        let prepare = |fragment| match fragment {
            Fragment::Token(id) => {
                follows_special = true;
                Fragment::Token(id)
            }
            Fragment::Text(text) => {
                let is_start = std::mem::replace(&mut follows_special, false);
                Fragment::Text(match &self.model {
                    Model::BytePair(model) => model.prepare(text),
                    Model::SentencePiece(model) => model.prepare(text, is_start).into(),
                    Model::WordPiece(_) | Model::Unigram(_) => text.into(),
                })
            }
        };
        let fragments = self.partition.split(&self.tokens, text, parse_special);
        fragments.into_iter().map(prepare).collect()
    }

    fn encode_text<'a>(
        &self,
        text: &'a str,
        session: &mut Session<'a>,
        output: &mut Vec<TokenId>,
    ) -> Result<(), GaveUp> {
        let tokens = &self.tokens;
        match &self.model {
            Model::BytePair(model) => return model.encode(tokens, text, session, output),
            Model::SentencePiece(model) => {
                model.encode(tokens, text, self.special.unknown, session, output);
            }
            Model::WordPiece(model) => model.encode(tokens, text, output),
            Model::Unigram(model) => model.encode(text, output),
        }
        Ok(())
    }

    /// The bytes of one token, of control tokens the name. Nothing for an id that
    /// there is no token for. Single tokens need not be UTF-8.
    pub fn piece(&self, id: TokenId) -> Cow<'_, [u8]> {
        if id.0 as usize >= self.tokens.count() {
            return Cow::Borrowed(&[]);
        }
        let alphabet = match &self.model {
            Model::BytePair(BytePair { pre_tokenizer: PreTokenizer { alphabet, .. }, .. }) => {
                *alphabet
            }
            Model::SentencePiece(_) | Model::WordPiece(_) | Model::Unigram(_) => Alphabet::Escaped,
        };
        piece(self.tokens.text(id), self.tokens.kinds(id), alphabet)
    }

    /// The text of `ids`, with U+FFFD for what is no UTF-8.
    pub fn decode(&self, ids: &[TokenId]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.piece(*id).into_owned()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How many tokens there are. Ids are below it.
    pub fn token_count(&self) -> usize {
        self.tokens.count()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<TokenId> {
        self.special.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<TokenId> {
        self.special.eos
    }

    /// True if [`Tokenizer::bos`] belongs before every text.
    pub fn adds_bos(&self) -> bool {
        self.special.adds_bos
    }

    /// True if [`Tokenizer::eos`] belongs behind every text.
    pub fn adds_eos(&self) -> bool {
        self.special.adds_eos
    }

    /// True if a model says nothing more after this token: the end of the text, of
    /// a turn, or of a message.
    pub fn is_end(&self, id: TokenId) -> bool {
        self.special.ends.binary_search(&id).is_ok()
    }
}

fn encode_fragments<'a, T>(
    fragments: &'a [Fragment<T>],
    output: &mut Vec<TokenId>,
    mut encode: impl FnMut(&'a T, &mut Session<'a>, &mut Vec<TokenId>) -> Result<(), GaveUp>,
) -> Result<(), GaveUp> {
    let mut session = Session::default();
    for fragment in fragments {
        match fragment {
            Fragment::Token(id) => output.push(*id),
            Fragment::Text(text) => encode(text, &mut session, output)?,
        }
    }
    Ok(())
}

fn needed(key: &str, token: Option<TokenId>) -> Result<TokenId, Error> {
    token.ok_or_else(|| fault(key, "is missing, and the default is no token"))
}
