//! Files of tokenizers that are as large as they may be, of one thing each.

use std::path::PathBuf;

use qz_tensor::{FileError, SideFiles};

/// A kind, and what makes a file of so many bytes of it.
type Kind = (&'static str, fn(usize) -> String);

pub(crate) const KINDS: &[Kind] = &[
    ("post-processors", |size| {
        with("post_processor", &sequence("processors", r#"{"type":"ByteLevel"}"#, size))
    }),
    ("a template", |size| {
        let entry = r#"{"SpecialToken":{"id":"a","type_id":0}}"#;
        with(
            "post_processor",
            &format!(r#"{{"type":"TemplateProcessing","single":[{}]}}"#, list(entry, size)),
        )
    }),
    ("special tokens of a template", |size| {
        let entries = numbered(size, |number| format!(r#""{number}":{{}}"#));
        with(
            "post_processor",
            &format!(r#"{{"type":"TemplateProcessing","special_tokens":{{{entries}}}}}"#),
        )
    }),
    ("normalizers", |size| with("normalizer", &sequence("normalizers", r#"{"type":"NFC"}"#, size))),
    ("unknown normalizers", |size| with("normalizer", &sequence("normalizers", "{}", size))),
    ("pre-tokenizers", |size| {
        with("pre_tokenizer", &sequence("pretokenizers", r#"{"type":"Digits"}"#, size))
    }),
    ("decoders", |size| with("decoder", &sequence("decoders", "0", size))),
    ("paddings", |size| with("padding", &format!("[{}]", list("0", size)))),
    ("truncations", |size| with("truncation", &format!("[{}]", list("{}", size)))),
    ("a long pattern", |size| {
        let pattern = "a|".repeat(size / 2);
        let split = format!(
            r#"{{"type":"Split","pattern":{{"Regex":"{pattern}"}},"behavior":"Isolated"}}"#
        );
        with("pre_tokenizer", &split)
    }),
    ("added tokens", |size| {
        let tokens =
            numbered(size, |number| format!(r#"{{"id":{},"content":"<{number}>"}}"#, number + 3));
        with("added_tokens", &format!("[{tokens}]"))
    }),
    ("added tokens in a gap", |size| {
        let tokens = numbered(size / 2, |number| format!(r#""{number}":{}"#, 9_000_000 + number));
        let count = tokens.matches(':').count();
        let added = numbered(size / 2, |number| {
            format!(r#"{{"id":{},"content":"<{number}>"}}"#, count + number)
        });
        let model = format!(r#"{{"type":"BPE","vocab":{{{tokens}}},"merges":["0 1"]}}"#);
        format!(r#"{{"added_tokens":[{added}],"model":{model}}}"#)
    }),
    ("an added token with many ids", |size| {
        with("added_tokens", &format!(r#"[{{"id":[{}],"content":"a"}}]"#, list("0", size)))
    }),
    ("an added token with a long id", |size| {
        with("added_tokens", &format!(r#"[{{"id":"{}","content":"a"}}]"#, "a".repeat(size)))
    }),
    ("merges as lines", |size| model("", &list(r#""a b""#, size))),
    ("merges as pairs", |size| model("", &list(r#"["a","b"]"#, size))),
    ("a merge of many tokens", |size| model("", &format!("[{}]", list(r#""""#, size)))),
    ("a merge of many numbers", |size| model("", &format!("[{}]", list("0", size)))),
    ("merges that are nothing", |size| model("", &list("[]", size))),
    ("tokens", |size| {
        let tokens = numbered(size, |number| format!(r#""<{number}>":{}"#, number + 3));
        model(&format!(",{tokens}"), r#""a b""#)
    }),
    ("a long token", |size| model(&format!(r#","{}":3"#, "a".repeat(size)), r#""a b""#)),
    ("other keys", |size| {
        let keys = numbered(size, |number| format!(r#""x{number}":[]"#));
        format!(r#"{{{keys},"model":{}}}"#, bpe("", r#""a b""#))
    }),
    ("scored tokens", |size| {
        let tokens = list(r#"["a",-1.5]"#, size);
        format!(r#"{{"model":{{"type":"Unigram","unk_id":0,"vocab":[{tokens}]}}}}"#)
    }),
];

fn bpe(tokens: &str, merges: &str) -> String {
    format!(r#"{{"type":"BPE","vocab":{{"a":0,"b":1,"ab":2{tokens}}},"merges":[{merges}]}}"#)
}

fn model(tokens: &str, merges: &str) -> String {
    format!(r#"{{"model":{}}}"#, bpe(tokens, merges))
}

/// A file with this value of a key.
fn with(key: &str, value: &str) -> String {
    format!(r#"{{"{key}":{value},"model":{}}}"#, bpe("", r#""a b""#))
}

fn sequence(key: &str, step: &str, size: usize) -> String {
    format!(r#"{{"type":"Sequence","{key}":[{}]}}"#, list(step, size))
}

/// The same item again and again.
fn list(item: &str, size: usize) -> String {
    vec![item; size / (item.len() + 1)].join(",")
}

fn numbered(size: usize, item: impl Fn(usize) -> String) -> String {
    let count = size / (item(1_000_000).len() + 1);
    (0..count).map(item).collect::<Vec<_>>().join(",")
}

/// A folder with nothing but this `tokenizer.json`.
pub(crate) struct Files(pub(crate) Vec<u8>);

impl SideFiles for Files {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        Ok((name == "tokenizer.json").then(|| self.0.clone()))
    }

    fn list(&self, _: &str) -> Result<Vec<String>, FileError> {
        Ok(Vec::new())
    }

    fn folder_name(&self) -> Option<&str> {
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}
