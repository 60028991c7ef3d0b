//! Token types of GGUF (`TokenType` in `gguf-py/gguf/constants.py`).

pub(crate) const NORMAL: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

/// Tokens that checkpoints forget to mark as special
/// (`does_token_look_special` in `conversion/base.py`).
pub(crate) fn looks_special(token: &str) -> bool {
    let between = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// The text of a token that is not special: llama.cpp looks for it in plain text.
pub(crate) fn with_spaces(token: &str) -> String {
    token.replace('\u{2581}', " ")
}

/// What stands at an id without a token.
pub(crate) fn padding(id: u64) -> String {
    format!("[PAD{id}]")
}
