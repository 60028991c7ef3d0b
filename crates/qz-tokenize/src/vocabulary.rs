//! The vocabulary as metadata.

use std::collections::HashSet;

use qz_tensor::{Array, Location, Metadata, SideFiles, Warning};
use serde_json::Value;

use crate::added_tokens::AddedTokens;
use crate::byte_level_tokens::byte_level_tokens;
use crate::chat_template::write_chat_templates;
use crate::error::{Error, UnknownPreTokenizer};
use crate::json::{Settings, fault, read_bytes};
use crate::pre_tokenizer;
use crate::scored_tokens::{AddedFrom, byte_fallback_tokens, merged_tokens, sentencepiece_tokens};
use crate::sentencepiece::{self, Normalizer};
use crate::special_tokens::{PastEnd, Search, SpecialTokens};
use crate::tiktoken::tiktoken_tokens;
use crate::token_types::{CONTROL, NORMAL, UNUSED, USER_DEFINED};
use crate::tokenizer_file::{self, MOST_TOKENS, Surroundings, TokenId, TokenizerFile};
use crate::unigram_tokens::{XLM_ROBERTA, t5_tokens, unigram_tokens, xlm_roberta_tokens};
use crate::word_piece_tokens::word_piece_tokens;

/// What the caller knows beside the tokenizer's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct VocabularyOptions<'a> {
    /// How many tokens the model has room for (`vocab_size` of `config.json`).
    pub size: Option<u64>,
    /// The pre-tokenizer's name, decided by a person.
    pub pre_tokenizer: Option<&'a str>,
    /// The architecture's rules.
    pub rules: VocabularyRules,
    /// Kinds of tokens, of which an encoder has a vector each.
    pub token_types: Option<u32>,
}

/// What the reference's model classes do differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VocabularyRules {
    /// `tokenizer.model`, else a byte-level `tokenizer.json`
    /// (`Qwen2Model.set_vocab` in `conversion/qwen.py`).
    #[default]
    Common,
    /// Between the two a `tokenizer.json` with byte tokens; `add_prefix_space`
    /// of `tokenizer_config.json` gets a key of its own, ahead of the
    /// vocabulary; Code Llama's infilling tokens are known by its vocabulary's
    /// size (`LlamaModel.set_vocab` in `conversion/llama.py`).
    Llama,
    /// The same but for the key, which is false and comes last (`Gemma2Model.set_vocab` in
    /// `conversion/gemma.py`).
    Gemma,
    /// `tokenizer.model`, with the added tokens of `tokenizer.json` (`Phi3MiniModel.set_vocab`
    /// in `conversion/phi.py`), else a byte-level `tokenizer.json`.
    Phi,
    /// WordPiece (`BertModel.set_vocab` in `conversion/bert.py`), a byte-level vocabulary
    /// (`RobertaModel.set_vocab`), or a unigram one (`XLMRobertaModel.set_vocab`).
    Bert,
    /// Gemma's, with the token that ends an infill (`GemmaModel.set_vocab`).
    CodeGemma,
    /// `tokenizer.model`; `add_prefix_space` of `tokenizer_config.json` gets a key of its own,
    /// behind the vocabulary (`Ernie4_5Model.set_vocab` in `conversion/ernie.py`).
    Ernie,
    /// `tokenizer.model`; tokens 0 and 1 are those for padding and for what is unknown
    /// (`NemotronModel.set_vocab` in `conversion/nemotron.py`).
    Nemotron,
    /// A byte-level `tokenizer.json`, whose tokens have jobs by their names
    /// (`Glm4Model.set_vocab` in `conversion/glm.py`).
    Glm4,
    /// The same with other jobs (`_set_vocab_glm` in `conversion/base.py`).
    Glm4Experts,
    /// A `tokenizer.json` with byte tokens and its merges (`Gemma4Model.set_vocab` in
    /// `conversion/gemma.py`).
    Gemma4,
    /// `tokenizer.model`, whose spare pieces are told by their names, with the added tokens of
    /// all files; what ends a turn ends texts (`InternLM2Model.set_vocab` in
    /// `conversion/internlm.py`).
    InternLm2,
    /// `tokenizer.model`; what ends a turn ends texts, if it is a control token
    /// (`InternLM3Model.set_vocab`).
    InternLm3,
    /// A unigram model in `tokenizer.model` or `spiece.model`, else in `tokenizer.json`
    /// (`T5Model.set_vocab` in `conversion/t5.py`).
    T5,
    /// A byte-level `tokenizer.json`, or ranks; a text begins with the token of this job
    /// (`HunYuanMoEModel.set_vocab` in `conversion/hunyuan.py`).
    Hunyuan,
}

impl VocabularyRules {
    /// True if a `tokenizer.json` with byte tokens is read as SentencePiece's vocabulary.
    fn takes_byte_tokens(self) -> bool {
        matches!(self, Self::Llama | Self::Gemma | Self::CodeGemma)
    }

    /// True if the token that ends a turn ends texts, whatever files say.
    fn ends_turns(self, table: &TokenTable) -> bool {
        let id = table.tokens.iter().position(|token| token == END_OF_TURN);
        let kind = id.and_then(|id| table.types.get(id));
        match self {
            Self::InternLm2 => matches!(kind, Some(&(CONTROL | USER_DEFINED))),
            Self::InternLm3 => kind == Some(&CONTROL),
            _ => false,
        }
    }

    /// Jobs that tokens have by their names.
    fn named_jobs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Glm4 => GLM_4_JOBS,
            Self::Glm4Experts => GLM_4_EXPERTS_JOBS,
            Self::Hunyuan => HUNYUAN_JOBS,
            _ => &[],
        }
    }
}

/// Jobs of GLM 4's tokens, by their names.
const GLM_4_JOBS: &[(&str, &str)] = &[
    ("eos", "<|endoftext|>"),
    ("eot", "<|user|>"),
    ("unk", "<|endoftext|>"),
    ("bos", "<|endoftext|>"),
];
/// That of Hunyuan's: the reference has its number.
const HUNYUAN_JOBS: &[(&str, &str)] = &[("bos", "<|bos|>")];
/// Those of GLM 4.5 and its successors with experts.
const GLM_4_EXPERTS_JOBS: &[(&str, &str)] = &[
    ("bos", "[gMASK]"),
    ("eot", "<|user|>"),
    ("unk", "<|endoftext|>"),
    ("eom", "<|observation|>"),
];

/// What ends a turn in InternLM's chats.
const END_OF_TURN: &str = "<|im_end|>";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Code Llama's vocabulary with infilling tokens.
const CODE_LLAMA_SIZE: u64 = 32_016;
/// The tokens that end an infill, where files do not say.
const CODE_LLAMA_END: u32 = 32_010;
const CODE_GEMMA_END: u32 = 107;

/// A vocabulary as a GGUF file stores it.
#[derive(Debug)]
pub struct Vocabulary {
    /// The `tokenizer.*` keys in the reference's order.
    pub metadata: Metadata,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// What the tokenizer does and the keys do not say: nothing to whoever reads the
    /// checkpoint's own definition.
    pub unsaid: Vec<Warning>,
    /// There if llama.cpp has no name for the pre-tokenizer. The keys have none either then,
    /// and no GGUF file may be made of them: the text would be cut otherwise.
    pub unnamed: Option<UnknownPreTokenizer>,
}

/// A vocabulary's tokens, whatever file they came from. All lists are equally
/// long, but for the merges.
pub(crate) struct TokenTable {
    /// `tokenizer.ggml.model`.
    pub(crate) model: &'static str,
    /// `tokenizer.ggml.pre`, if the model does not say it.
    pub(crate) pre_tokenizer: Option<String>,
    /// What llama.cpp has no name for, in its place.
    pub(crate) unnamed: Option<UnknownPreTokenizer>,
    pub(crate) tokens: Vec<String>,
    pub(crate) scores: Option<Vec<f32>>,
    pub(crate) types: Vec<i32>,
    pub(crate) merges: Option<Vec<String>>,
    /// Whether texts get a space in front, where `tokenizer.json` defines that.
    pub(crate) space_prefix: Option<bool>,
    /// What a unigram model does with a text first.
    pub(crate) normalizer: Option<Normalizer>,
    pub(crate) surroundings: Surroundings,
    /// What gets lost of the tokenizer.
    pub(crate) unsaid: Vec<Warning>,
}

/// Reads a vocabulary.
///
/// # Errors
/// If a file is missing, broken, contradicts another one, or describes a
/// tokenizer that llama.cpp does not know.
pub fn vocabulary(
    files: &dyn SideFiles,
    options: VocabularyOptions<'_>,
) -> Result<Vocabulary, Error> {
    if let Some(name) = options.pre_tokenizer {
        pre_tokenizer::check_name(name)?;
    }
    let settings = Settings::read(files)?;
    let mut warnings = Vec::new();
    let mut metadata = Metadata::new();
    let table = token_table(files, &settings, options, &mut warnings)?;
    if options.rules == VocabularyRules::Llama
        && let Some(add) = space_prefix(files, &settings, table.space_prefix, &mut warnings)
    {
        metadata.set("tokenizer.ggml.add_space_prefix", add);
    }
    let search = Search {
        files,
        surroundings: &table.surroundings,
        settings: &settings,
        size: table.tokens.len() as u64,
        past_end: if table.merges.is_some() { PastEnd::Refused } else { PastEnd::LeftOut },
    };
    let mut special = SpecialTokens::find(&search, &mut warnings)?;
    special.force(&search, &table.tokens, options.rules.named_jobs())?;
    if options.rules.ends_turns(&table) {
        special.force(&search, &table.tokens, &[("eos", END_OF_TURN)])?;
    }
    let end_of_infill = match options.rules {
        VocabularyRules::Llama if options.size == Some(CODE_LLAMA_SIZE) => Some(CODE_LLAMA_END),
        VocabularyRules::CodeGemma => Some(CODE_GEMMA_END),
        _ => None,
    };
    let infilling = end_of_infill
        .map(|end| SpecialTokens::find_infilling(&search, end, &mut warnings))
        .transpose()?;

    const TOKEN_TYPES: &str = "tokenizer.ggml.token_type_count";
    let comes_first = table.model == "bert";
    let comes_last = table.merges.is_some();
    if let Some(types) = options.token_types.filter(|_| comes_first) {
        metadata.set(TOKEN_TYPES, types);
    }
    metadata.set("tokenizer.ggml.model", table.model);
    if let Some(name) = table.pre_tokenizer {
        metadata.set("tokenizer.ggml.pre", name);
    }
    metadata.set("tokenizer.ggml.tokens", Array::String(table.tokens.into()));
    if let Some(scores) = table.scores {
        metadata.set("tokenizer.ggml.scores", Array::F32(scores));
    }
    metadata.set("tokenizer.ggml.token_type", Array::I32(table.types));
    if let Some(merges) = table.merges {
        metadata.set("tokenizer.ggml.merges", Array::String(merges.into()));
    }
    if let Some(Normalizer { map, adds_space, merges_spaces }) = table.normalizer {
        metadata.set(SPACE_PREFIX, adds_space);
        if let Some(types) = options.token_types {
            metadata.set(TOKEN_TYPES, types);
        }
        metadata.set("tokenizer.ggml.remove_extra_whitespaces", merges_spaces);
        if !map.is_empty() {
            metadata.set("tokenizer.ggml.precompiled_charsmap", Array::U8(map));
        }
    }
    if let Some(adds_space) = spm_prefix(files, &settings, options.rules)? {
        metadata.set(SPACE_PREFIX, adds_space);
    }
    special.write(&mut metadata);
    write_chat_templates(files, &settings.tokenizer, &mut metadata, &mut warnings)?;
    write_normalizer(&table.surroundings.normalizer, &mut metadata);
    if let Some(infilling) = infilling {
        infilling.write(&mut metadata);
    }
    match options.rules {
        VocabularyRules::Gemma | VocabularyRules::CodeGemma => {
            metadata.set("tokenizer.ggml.add_space_prefix", false);
        }
        VocabularyRules::Gemma4 => {
            metadata.set("tokenizer.ggml.add_space_prefix", false);
            metadata.set("tokenizer.ggml.add_bos_token", true);
        }
        VocabularyRules::Ernie => {
            let stated = settings.tokenizer.get("add_prefix_space").and_then(Value::as_bool);
            if let Some(add) = stated {
                metadata.set("tokenizer.ggml.add_space_prefix", add);
            }
        }
        VocabularyRules::Nemotron => {
            metadata.set("tokenizer.ggml.padding_token_id", 0u32);
            metadata.set("tokenizer.ggml.unknown_token_id", 1u32);
        }
        _ => {}
    }
    if let Some(types) = options.token_types.filter(|_| comes_last) {
        metadata.set(TOKEN_TYPES, types);
    }
    Ok(Vocabulary { metadata, warnings, unsaid: table.unsaid, unnamed: table.unnamed })
}

/// Whether texts get a space in front, where InternLM's classes say so.
fn spm_prefix(
    files: &dyn SideFiles,
    settings: &Settings,
    rules: VocabularyRules,
) -> Result<Option<bool>, Error> {
    Ok(match rules {
        VocabularyRules::InternLm2 => match read_bytes(files, sentencepiece::NAME)? {
            Some(model) => {
                let name = sentencepiece::NAME;
                Some(sentencepiece::read_normalizer(files, name, &model)?.adds_space)
            }
            None => None,
        },
        VocabularyRules::InternLm3 => {
            settings.tokenizer.get("add_prefix_space").and_then(Value::as_bool)
        }
        _ => None,
    })
}

/// Whether texts get a space in front, where a file has to say so: as `tokenizer.json`
/// defines it, else as `tokenizer_config.json` says.
fn space_prefix(
    files: &dyn SideFiles,
    settings: &Settings,
    defined: Option<bool>,
    warnings: &mut Vec<Warning>,
) -> Option<bool> {
    let stated = settings.tokenizer.get("add_prefix_space").and_then(Value::as_bool);
    match (defined, stated) {
        (Some(defined), Some(stated)) if defined != stated => {
            let name = "tokenizer_config.json";
            warnings.push(Warning {
                location: Location::file(files.path(name)).tensor("add_prefix_space"),
                rule: "space-prefix-overruled",
                message: format!("is {stated}, but tokenizer.json defines {defined}, which counts"),
            });
            Some(defined)
        }
        (_, Some(stated)) => Some(stated),
        // Where nothing is said, llama.cpp puts one.
        (defined, None) => defined.filter(|add| !add),
    }
}

/// The tokens of the file that the reference would take.
fn token_table(
    files: &dyn SideFiles,
    settings: &Settings,
    options: VocabularyOptions<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<TokenTable, Error> {
    let is_llama = options.rules == VocabularyRules::Llama;
    let tekken = "tekken.json";
    if is_llama && files.read(tokenizer_file::NAME)?.is_none() && files.read(tekken)?.is_some() {
        return Err(Error::Unsupported { path: files.path(tekken), kind: "Tekken".to_owned() });
    }
    if options.rules == VocabularyRules::Bert {
        if let Some(model) = read_bytes(files, XLM_ROBERTA)? {
            return xlm_roberta_tokens(files, &model, options.size);
        }
        let file = TokenizerFile::read(files)?;
        return if file.is_bpe() {
            byte_level_tokens(files, file, settings, options, warnings)
        } else if file.model.vocab.is_scored_list {
            unigram_tokens(files, file, settings, options.size, warnings)
        } else {
            word_piece_tokens(files, file, settings, options, warnings)
        };
    }
    if options.rules == VocabularyRules::T5 {
        if let Some(table) = t5_tokens(files, options.size, warnings)? {
            return Ok(table);
        }
        let file = TokenizerFile::read(files);
        if let Some(file) = file.ok().filter(|file| file.model.vocab.is_scored_list) {
            return unigram_tokens(files, file, settings, options.size, warnings);
        }
    }
    if options.rules == VocabularyRules::Gemma4 {
        let file = TokenizerFile::read(files)?;
        return merged_tokens(files, file, settings, options.size, warnings);
    }
    if let Some(model) = read_bytes(files, sentencepiece::NAME)? {
        warn_of_pre_tokenizer(files, options, sentencepiece::NAME, warnings);
        let added = match options.rules {
            VocabularyRules::Phi | VocabularyRules::InternLm2 => AddedFrom::AllFiles,
            _ => AddedFrom::Settings,
        };
        let mut table =
            sentencepiece_tokens(files, &model, settings, options.size, added, warnings)?;
        if options.rules == VocabularyRules::InternLm2 {
            name_spare_pieces(&mut table);
        }
        return Ok(table);
    }
    if files.read(tokenizer_file::NAME)?.is_none()
        && let Some(table) = tiktoken_tokens(files, settings, options)?
    {
        return Ok(table);
    }
    let file = TokenizerFile::read(files)?;
    if options.rules.takes_byte_tokens() && file.is_llama_with_byte_tokens() {
        warn_of_pre_tokenizer(files, options, tokenizer_file::NAME, warnings);
        return byte_fallback_tokens(files, file, settings, options.size, warnings);
    }
    file.refuse_other_kinds(files)?;
    byte_level_tokens(files, file, settings, options, warnings)
}

/// Pieces of InternLM 2's model that stand for nothing, by their names; and a name for the piece
/// of a zero byte, which ends strings in C.
fn name_spare_pieces(table: &mut TokenTable) {
    for (token, kind) in table.tokens.iter_mut().zip(&mut table.types) {
        if *kind == NORMAL && token.starts_with("[UNUSED") {
            *kind = UNUSED;
        }
        if token == "\0" {
            *token = "\u{1f409}".to_owned();
        }
    }
}

fn warn_of_pre_tokenizer(
    files: &dyn SideFiles,
    options: VocabularyOptions<'_>,
    name: &str,
    warnings: &mut Vec<Warning>,
) {
    if let Some(pre_tokenizer) = options.pre_tokenizer {
        warnings.push(Warning {
            location: Location::file(files.path(name)),
            rule: "pre-tokenizer-ignored",
            message: format!(
                "SentencePiece vocabularies have no pre-tokenizer; {pre_tokenizer} is ignored"
            ),
        });
    }
}

/// How many tokens there are: as many as the model has room for, and no token's
/// id is past them.
pub(crate) fn size_of(
    files: &dyn SideFiles,
    file: &TokenizerFile,
    added: &AddedTokens,
    stated: Option<u64>,
) -> Result<u64, Error> {
    let vocab = &file.model.vocab.ids;
    let further = || added.iter().filter(|token| !vocab.contains_key(&token.content));
    let mut last = vocab.iter().map(|(token, id)| (*id, token.as_str())).max();
    let last_of_model = last;
    let mut count = vocab.len() as u64;
    let mut ids: Option<HashSet<&TokenId>> = None;
    for token in further() {
        // Only a vocabulary with gaps can have its ids given away again.
        if last_of_model.is_some_and(|(id, _)| token.id <= id)
            && ids.get_or_insert_with(|| vocab.values().collect()).contains(&token.id)
            && let Some((other, _)) = vocab.iter().find(|(_, id)| **id == token.id)
        {
            let problem =
                format!("{other:?} and {:?} have the same id {}", token.content, token.id.0);
            return Err(fault(files, tokenizer_file::NAME, "added_tokens", problem));
        }
        count = count.saturating_add(1);
        last = last.max(Some((token.id, token.content.as_str())));
    }
    let size = check_size(files, stated.unwrap_or(count))?;
    match last {
        Some((id, token)) if u64::from(id.0) >= size => {
            let problem = format!(
                "the token {token:?} has id {}, but the model has {size} tokens (vocab_size)",
                id.0
            );
            Err(fault(files, tokenizer_file::NAME, "model.vocab", problem))
        }
        _ => Ok(size),
    }
}

/// Refuses a size that no vocabulary has.
pub(crate) fn check_size(files: &dyn SideFiles, size: u64) -> Result<u64, Error> {
    if size > MOST_TOKENS {
        let problem =
            format!("is {size}, more than the {MOST_TOKENS} tokens a vocabulary may have");
        return Err(fault(files, "config.json", "vocab_size", problem));
    }
    Ok(size)
}

/// Normalizers that llama.cpp has a key for.
fn write_normalizer(normalizer: &Value, metadata: &mut Metadata) {
    let (mut lowercase, mut strip_accents) = (None, None);
    read_normalizer(normalizer, &mut lowercase, &mut strip_accents);
    for (key, value) in [("lowercase", lowercase), ("strip_accents", strip_accents)] {
        if let Some(value) = value {
            metadata.set(format!("tokenizer.ggml.normalizer.{key}"), value);
        }
    }
}

fn read_normalizer(normalizer: &Value, lowercase: &mut Option<bool>, accents: &mut Option<bool>) {
    let flag = |key: &str, old: Option<bool>| match normalizer.get(key) {
        Some(value) => value.as_bool(),
        None => old,
    };
    match normalizer.get("type").and_then(Value::as_str) {
        Some("Lowercase") => *lowercase = Some(true),
        Some("StripAccents") => *accents = Some(true),
        Some("BertNormalizer") => {
            *lowercase = flag("lowercase", *lowercase);
            *accents = flag("strip_accents", *accents);
        }
        Some("Sequence") => {
            let steps = normalizer.get("normalizers").and_then(Value::as_array);
            for step in steps.into_iter().flatten() {
                read_normalizer(step, lowercase, accents);
            }
        }
        _ => {}
    }
}
