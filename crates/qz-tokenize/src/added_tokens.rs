//! Tokens on top of the model's own: which there are, with which ids, and which
//! of them are special.
//!
//! transformers gathers them from four files (`_from_pretrained` in
//! `tokenization_utils_base.py`, `TokenizersBackend.__init__` and `_post_init`
//! in `tokenization_utils_tokenizers.py`), later ones overriding the flags of
//! earlier ones:
//! 1. `added_tokens` of `tokenizer.json`;
//! 2. `added_tokens_decoder` of `tokenizer_config.json`, or without it
//!    `special_tokens_map.json` and `added_tokens.json`;
//! 3. every token that a `*_token` key names becomes special, if 2. declares it
//!    or nothing does; and so do those of the lists of further special tokens
//!    that nothing declares.
//!
//! tokenizers gives a token that the model knows the model's id and any other
//! the next free one, whatever the files say; where they say otherwise, the
//! embedding's rows would not be those of their tokens, so that is an error.

use std::collections::{HashMap, HashSet};

use qz_tensor::{Location, SideFiles, Warning};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::json::{Settings, fault, read_object, token_content};
use crate::tokenizer_file::{self, DeclaredToken, MOST_TOKENS, TokenFlags, TokenId, TokenizerFile};

/// The keys that name a token in every tokenizer class.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token on top of the model's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) content: String,
    pub(crate) id: TokenId,
    pub(crate) special: bool,
    pub(crate) normalized: bool,
    pub(crate) flags: TokenFlags,
}

/// The tokens on top of the model's own.
#[derive(Debug, Default)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    by_content: HashMap<String, usize>,
    /// The contents that are named as special, whether or not they are here.
    named: HashSet<String>,
    /// The id that the next token unknown to the model gets.
    next: u32,
}

impl AddedTokens {
    /// Gathers them. `limit` is the vocabulary's size if `config.json` gives it:
    /// a token that is only named and lies past it is left out with a warning,
    /// because the model has no embedding for it.
    pub(crate) fn gather(
        files: &dyn SideFiles,
        file: &TokenizerFile,
        settings: &Settings,
        limit: Option<u64>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Error> {
        let vocab = &file.model.vocab.ids;
        let mut added =
            Self { next: u32::try_from(vocab.len()).unwrap_or(u32::MAX), ..Self::default() };
        for (position, token) in file.surroundings.added_tokens.iter().enumerate() {
            let key = format!("added_tokens[{position}]");
            added.declare(files, file, (tokenizer_file::NAME, &key), token)?;
        }
        let rebuilt = is_rebuilt(settings);
        let class_names = class_names(settings, file);
        let mut settings = settings.tokenizer.clone();
        let declared = match settings.get("added_tokens_decoder") {
            Some(Value::Object(tokens)) => added.declare_decoder(files, file, tokens)?,
            _ => added.declare_legacy(files, file, &mut settings)?,
        };
        for (key, content) in class_names {
            settings.entry(*key).or_insert_with(|| Value::from(*content));
        }
        for token in named_tokens(&settings, file) {
            added.named.insert(token.content.clone());
            let marks = rebuilt || (token.by_key && declared.contains(&token.content));
            added.name(files, file, token, marks, limit, warnings);
        }
        Ok(added)
    }

    /// The token with this content.
    pub(crate) fn get(&self, content: &str) -> Option<&AddedToken> {
        self.tokens.get(*self.by_content.get(content)?)
    }

    /// True if a key or a list names this content as special.
    pub(crate) fn is_named(&self, content: &str) -> bool {
        self.named.contains(content)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    /// Takes a token that a file declares with an id and flags.
    fn declare(
        &mut self,
        files: &dyn SideFiles,
        file: &TokenizerFile,
        place: (&str, &str),
        token: &DeclaredToken,
    ) -> Result<(), Error> {
        if token.content.is_empty() {
            return Ok(());
        }
        let id = self.id_of(file, &token.content);
        if id != token.id {
            let problem = format!(
                "{:?} has id {}, but it would be given {}: {}",
                token.content,
                token.id.0,
                id.0,
                if file.model.vocab.ids.contains_key(&token.content) {
                    "that is its id in model.vocab"
                } else {
                    "added tokens follow the model's tokens without a gap"
                }
            );
            return Err(fault(files, place.0, place.1, problem));
        }
        self.put(AddedToken {
            content: token.content.clone(),
            id,
            special: token.special,
            normalized: token.normalized.unwrap_or(!token.special),
            flags: token.flags(),
        });
        Ok(())
    }

    /// `added_tokens_decoder`: flags by id, in order of the ids. Returns the
    /// contents it declares.
    fn declare_decoder(
        &mut self,
        files: &dyn SideFiles,
        file: &TokenizerFile,
        tokens: &Map<String, Value>,
    ) -> Result<HashSet<String>, Error> {
        let name = "tokenizer_config.json";
        let mut sorted = Vec::new();
        for (id, token) in tokens {
            let key = format!("added_tokens_decoder.{id}");
            let wrong = |problem: &str| fault(files, name, &key, problem);
            let number = id
                .parse::<u32>()
                .ok()
                .filter(|id| u64::from(*id) < MOST_TOKENS)
                .ok_or_else(|| wrong("is not a token's id"))?;
            let content = token_content(token).ok_or_else(|| wrong("has no content"))?;
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            sorted.push((key, DeclaredToken::new(TokenId(number), content, special, token)));
        }
        sorted.sort_by_key(|(_, token)| token.id);
        for (key, token) in &sorted {
            self.declare(files, file, (name, key), token)?;
        }
        Ok(sorted.into_iter().map(|(_, token)| token.content).collect())
    }

    /// Without `added_tokens_decoder`: `special_tokens_map.json` overrides the
    /// named tokens, `added_tokens.json` adds tokens by content.
    fn declare_legacy(
        &mut self,
        files: &dyn SideFiles,
        file: &TokenizerFile,
        settings: &mut Map<String, Value>,
    ) -> Result<HashSet<String>, Error> {
        if let Some(map) = read_object(files, "special_tokens_map.json")? {
            settings.extend(map);
        }
        let named = named_tokens(settings, file);
        let named: HashSet<&str> = named.iter().map(|token| token.content.as_str()).collect();
        let name = "added_tokens.json";
        let mut sorted = Vec::new();
        for (content, id) in read_object(files, name)?.unwrap_or_default() {
            let id =
                id.as_u64().filter(|id| *id < MOST_TOKENS).and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| fault(files, name, &content, "is not a token's id"))?;
            sorted.push((id, content));
        }
        sorted.sort();
        for (id, content) in sorted {
            // tokenizer.json has the last word on the tokens it lists.
            if self.by_content.contains_key(&content) {
                continue;
            }
            let special = named.contains(content.as_str());
            let token = DeclaredToken::new(TokenId(id), &content, special, &Value::Null);
            self.declare(files, file, (name, &content), &token)?;
        }
        Ok(self.tokens.iter().map(|token| token.content.clone()).collect())
    }

    /// Takes a token that is named as special. `marks` tells whether that
    /// changes a token that is there already.
    fn name(
        &mut self,
        files: &dyn SideFiles,
        file: &TokenizerFile,
        token: NamedToken,
        marks: bool,
        limit: Option<u64>,
        warnings: &mut Vec<Warning>,
    ) {
        let place = self.by_content.get(&token.content);
        if let Some(known) = place.and_then(|place| self.tokens.get_mut(*place)) {
            known.special |= marks;
            return;
        }
        let id = self.id_of(file, &token.content);
        if limit.is_some_and(|limit| u64::from(id.0) >= limit) {
            warnings.push(Warning {
                location: Location::file(files.path("tokenizer_config.json")),
                rule: "token-without-embedding",
                message: format!(
                    "{:?} is named as a special token but is in no vocabulary, and the model has no room for it; it is left out",
                    token.content
                ),
            });
            return;
        }
        self.put(AddedToken {
            content: token.content,
            id,
            special: true,
            normalized: token.normalized,
            flags: token.flags,
        });
    }

    fn id_of(&self, file: &TokenizerFile, content: &str) -> TokenId {
        match (self.get(content), file.model.vocab.ids.get(content)) {
            (Some(token), _) => token.id,
            (None, Some(id)) => *id,
            (None, None) => TokenId(self.next),
        }
    }

    /// Adds a token or replaces its flags.
    fn put(&mut self, token: AddedToken) {
        let place = self.by_content.get(&token.content);
        if let Some(known) = place.and_then(|place| self.tokens.get_mut(*place)) {
            *known = token;
            return;
        }
        if token.id.0 >= self.next {
            self.next = token.id.0.saturating_add(1);
        }
        self.by_content.insert(token.content.clone(), self.tokens.len());
        self.tokens.push(token);
    }
}

/// A token that is named as special.
#[derive(Debug)]
struct NamedToken {
    content: String,
    normalized: bool,
    flags: TokenFlags,
    /// By a key of its own, not in a list.
    by_key: bool,
}

impl NamedToken {
    fn new(value: &Value, by_key: bool) -> Option<Self> {
        let content = token_content(value).filter(|content| !content.is_empty())?;
        let normalized = value.get("normalized").and_then(Value::as_bool).unwrap_or(false);
        let flags = TokenFlags::of(value);
        Some(Self { content: content.to_owned(), normalized, flags, by_key })
    }
}

/// True for the tokenizer class that transformers builds anew, with all named
/// tokens, and not from `tokenizer.json` (`models/qwen2/tokenization_qwen2.py`).
/// It takes that class for every Qwen 2, and for a Qwen 3 that names no other
/// (`models/auto/tokenization_auto.py`).
fn is_rebuilt(settings: &Settings) -> bool {
    let class = settings.tokenizer.get("tokenizer_class").and_then(Value::as_str);
    let model_type = settings.model.get("model_type").and_then(Value::as_str);
    match class.map(|class| class.trim_end_matches("Fast")) {
        Some("Qwen2Tokenizer") => true,
        Some(_) => model_type == Some("qwen2"),
        None => matches!(model_type, Some("qwen2" | "qwen3")),
    }
}

/// The tokens that a tokenizer class names where the file is silent.
type ClassNames = &'static [(&'static str, &'static str)];

const LLAMA_NAMES: ClassNames =
    &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")];

const CODE_LLAMA_NAMES: ClassNames = &[
    ("unk_token", "<unk>"),
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("prefix_token", "\u{2581}<PRE>"),
    ("middle_token", "\u{2581}<MID>"),
    ("suffix_token", "\u{2581}<SUF>"),
    ("eot_token", "\u{2581}<EOT>"),
    ("fill_token", "<FILL_ME>"),
];

/// The names of the class that transformers takes for a vocabulary with byte
/// tokens (`models/llama/tokenization_llama.py`,
/// `models/code_llama/tokenization_code_llama.py`): the one that the settings
/// name, but for the model types that it reads from `tokenizer.json` alone.
fn class_names(settings: &Settings, file: &TokenizerFile) -> ClassNames {
    let model_type = settings.model.get("model_type").and_then(Value::as_str);
    if file.model.byte_fallback != Some(true) || matches!(model_type, Some("mistral" | "mixtral")) {
        return &[];
    }
    let class = settings.tokenizer.get("tokenizer_class").and_then(Value::as_str);
    match class.map(|class| class.trim_end_matches("Fast")) {
        Some("LlamaTokenizer") => LLAMA_NAMES,
        Some("CodeLlamaTokenizer") => CODE_LLAMA_NAMES,
        _ => &[],
    }
}

/// Every token that is named as special, in the order transformers goes through
/// them.
fn named_tokens(settings: &Map<String, Value>, file: &TokenizerFile) -> Vec<NamedToken> {
    let mut named = Vec::new();
    for key in NAMED {
        // The padding of tokenizer.json names the padding token if nothing else does.
        let padding = || file.padding.get("pad_token").filter(|_| key == "pad_token");
        let value = settings.get(key).or_else(padding);
        named.extend(value.and_then(|value| NamedToken::new(value, true)));
    }
    for (key, value) in settings {
        if key.ends_with("_token") && !NAMED.contains(&key.as_str()) {
            named.extend(NamedToken::new(value, true));
        }
    }
    let lists = ["extra_special_tokens", "additional_special_tokens"];
    match lists.iter().filter_map(|key| settings.get(*key)).find(|list| !list.is_null()) {
        Some(Value::Array(tokens)) => {
            named.extend(tokens.iter().filter_map(|value| NamedToken::new(value, false)));
        }
        Some(Value::Object(tokens)) => {
            named.extend(tokens.values().filter_map(|value| NamedToken::new(value, true)));
        }
        _ => {}
    }
    named
}
