//! The tokens with a part to play, and what their texts say of them
//! (`llama_vocab::impl::load` in `src/llama-vocab.cpp`).

use super::metadata::{Entries, fault};
use super::tokens::{Kinds, Tokens};
use crate::error::Error;
use crate::tokenizer_file::TokenId;

/// What the vocabulary's model takes where the file says nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Defaults {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) separator: Option<u32>,
    pub(super) adds_bos: bool,
    pub(super) adds_eos: bool,
}

/// The special tokens, and which of them a text gets.
pub(super) struct Special {
    pub(super) bos: Option<TokenId>,
    pub(super) eos: Option<TokenId>,
    pub(super) unknown: Option<TokenId>,
    pub(super) separator: Option<TokenId>,
    pub(super) adds_bos: bool,
    pub(super) adds_eos: bool,
    /// The tokens after which a model has nothing more to say, in order.
    pub(super) ends: Vec<TokenId>,
}

/// Tokens that end a turn or a text, whatever their type.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
];

/// A token of infilling: its keys, the texts it goes by where no key names it,
/// and whether it ends a text.
struct Infilling {
    keys: &'static [&'static str],
    texts: &'static [&'static str],
    ends: bool,
}

const INFILLING: &[Infilling] = &[
    Infilling {
        keys: &["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"],
        texts: &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<\u{ff5c}fim\u{2581}begin\u{ff5c}>",
            "<PRE>",
            "\u{2581}<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
        ends: false,
    },
    Infilling {
        keys: &["tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"],
        texts: &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<\u{ff5c}fim\u{2581}hole\u{ff5c}>",
            "<SUF>",
            "\u{2581}<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
        ends: false,
    },
    Infilling {
        keys: &["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"],
        texts: &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<\u{ff5c}fim\u{2581}end\u{ff5c}>",
            "<MID>",
            "\u{2581}<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
        ends: false,
    },
    Infilling {
        keys: &["tokenizer.ggml.fim_pad_token_id"],
        texts: &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
        ends: true,
    },
    Infilling {
        keys: &["tokenizer.ggml.fim_rep_token_id"],
        texts: &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
        ends: true,
    },
    Infilling { keys: &["tokenizer.ggml.fim_sep_token_id"], texts: &["<|file_sep|>"], ends: true },
];

impl Special {
    /// Finds them, and sets the kinds of tokens that go by their text.
    pub(super) fn find(
        entries: Entries<'_>,
        defaults: Defaults,
        tokens: &mut Tokens,
    ) -> Result<Self, Error> {
        let count = tokens.count();
        let token = |key: &str, default: Option<u32>| {
            let default = default.filter(|id| (*id as usize) < count).map(TokenId);
            entries.token(key, count).map(|stated| stated.or(default))
        };
        let flag =
            |key: &str, default: bool| entries.flag(key).map(|stated| stated.unwrap_or(default));
        let mut special = Self {
            bos: token("tokenizer.ggml.bos_token_id", defaults.bos)?,
            eos: token("tokenizer.ggml.eos_token_id", defaults.eos)?,
            unknown: token("tokenizer.ggml.unknown_token_id", defaults.unknown)?,
            separator: token("tokenizer.ggml.seperator_token_id", defaults.separator)?,
            adds_bos: flag("tokenizer.ggml.add_bos_token", defaults.adds_bos)?,
            adds_eos: flag("tokenizer.ggml.add_eos_token", defaults.adds_eos)?,
            ends: Vec::new(),
        };
        let stated = [
            token("tokenizer.ggml.eot_token_id", None)?,
            token("tokenizer.ggml.eom_token_id", None)?,
        ];
        special.find_infilling(entries, tokens)?;
        for text in ENDS {
            if let Some(id) = tokens.find(text) {
                special.ends.push(id);
                make_control(tokens, id);
            }
        }
        // These are shown, whatever they are.
        for text in ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"] {
            set_kinds(tokens, tokens.find(text), Kinds::USER_DEFINED);
        }
        special.ends.extend(stated.into_iter().flatten().chain(special.eos));
        special.ends.sort_unstable();
        special.ends.dedup();
        special.drop_false_ends(tokens);
        Ok(special)
    }

    fn find_infilling(&mut self, entries: Entries<'_>, tokens: &mut Tokens) -> Result<(), Error> {
        for role in INFILLING {
            let mut found = None;
            for key in role.keys {
                found = entries.token(key, tokens.count())?.or(found);
            }
            if found.is_none() {
                // Where several go by such a name, the reference takes the first
                // of its hash table.
                found = role.texts.iter().filter_map(|text| tokens.find(text)).min();
                if let Some(id) = found {
                    make_control(tokens, id);
                }
            }
            self.ends.extend(found.filter(|_| role.ends));
        }
        Ok(())
    }

    /// `<|end|>` ends a message, not a text, where other tokens do that;
    /// `</s>` is text in vocabularies with other ends.
    fn drop_false_ends(&mut self, tokens: &mut Tokens) {
        let has = |text: &str| tokens.find(text).is_some_and(|id| self.ends.contains(&id));
        let calls = has("<|call|>") || has("<|calls|>");
        let end = tokens.find("<|end|>");
        let has_message_end = calls && (has("<|return|>") || has("<|flush|>")) && has("<|end|>");
        let has_text_end = (has("<|tool_response>") || has("<|plamo:eos|>")) && has("</s>");
        let sentence = tokens.find("</s>");
        for (id, kinds) in [
            (end.filter(|_| has_message_end), Kinds::USER_DEFINED),
            (sentence.filter(|_| has_text_end), Kinds::NORMAL),
        ] {
            self.ends.retain(|end| Some(*end) != id);
            set_kinds(tokens, id, kinds);
        }
    }

    /// The token in front of a text, if there is to be one.
    pub(super) fn checked_bos(&self) -> Result<Option<TokenId>, Error> {
        added("tokenizer.ggml.bos_token_id", self.bos, self.adds_bos)
    }

    /// The token behind a text, if there is to be one.
    pub(super) fn checked_eos(&self) -> Result<Option<TokenId>, Error> {
        added("tokenizer.ggml.eos_token_id", self.eos, self.adds_eos)
    }
}

fn added(key: &str, token: Option<TokenId>, is_added: bool) -> Result<Option<TokenId>, Error> {
    if is_added && token.is_none() {
        return Err(fault(key, "is missing, but the token is to be added to every text"));
    }
    Ok(token.filter(|_| is_added))
}

fn make_control(tokens: &mut Tokens, id: TokenId) {
    let kinds = tokens.kinds(id).or(Kinds::CONTROL);
    set_kinds(tokens, Some(id), kinds);
}

fn set_kinds(tokens: &mut Tokens, id: Option<TokenId>, kinds: Kinds) {
    if let Some(id) = id {
        tokens.kinds[id.0 as usize] = kinds;
    }
}

/// The models whose special tokens take the white space around them; the file
/// does not say.
pub(super) fn set_stripping(entries: Entries<'_>, tokens: &mut Tokens) -> Result<(), Error> {
    let name = entries.string("general.name")?.unwrap_or_default().to_ascii_lowercase();
    let pre = entries.string("tokenizer.ggml.pre")?.unwrap_or_default();
    let architecture = entries.string("general.architecture")?.unwrap_or_default();
    let contains = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if contains(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
        || contains(architecture, &["nomic-bert-moe", "jina-bert-v3"])
    {
        strip_left(tokens, "<mask>");
    } else if contains(&name, &["phi-3", "phi3"]) {
        let keeps = ["<unk>", "<s>", "<|endoftext|>"].map(|text| tokens.find(text));
        let sentence = tokens.find("</s>");
        for id in tokens.ids() {
            if (is_special(tokens.kinds(id)) || Some(id) == sentence) && !keeps.contains(&Some(id))
            {
                tokens.kinds[id.0 as usize] = tokens.kinds(id).or(Kinds::STRIPS_RIGHT);
            }
        }
    } else if contains(&name, &["modern-bert"]) {
        strip_left(tokens, "[MASK]");
    }
    Ok(())
}

fn strip_left(tokens: &mut Tokens, text: &str) {
    if let Some(id) = tokens.find(text) {
        tokens.kinds[id.0 as usize] = tokens.kinds(id).or(Kinds::STRIPS_LEFT);
    }
}

/// True for tokens that are looked for in text before anything else.
pub(super) fn is_special(kinds: Kinds) -> bool {
    kinds.is(Kinds::CONTROL.or(Kinds::USER_DEFINED).or(Kinds::UNKNOWN))
}
