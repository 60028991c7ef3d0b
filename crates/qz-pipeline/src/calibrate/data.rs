//! Calibration text: from files to chunks of tokens.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use qz_calib::bundled::{self, TextKind};
use qz_calib::chat::ChatTemplate;
use qz_models::forward::Chunks;
use qz_tensor::{FileStates, Location, SourceFile, stop};
use qz_tokenize::{EncodeOptions, TokenId, Tokenizer};
use serde_json::Value;

use super::{lines, parquet};
use crate::error::Error;
use crate::eval::{read_file, read_token_ids};
use crate::model::Model;

/// Where calibration text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CalibrationData {
    /// The text that comes with this program.
    Bundled,
    /// A file of token ids: numbers divided by anything else.
    Tokens(PathBuf),
    /// A file: JSON lines (`.jsonl`, `.ndjson`) or parquet by its name, plain text
    /// otherwise.
    File(PathBuf),
}

/// How conversations become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conversations {
    /// Through the model's chat template, or plain if it has none.
    #[default]
    Either,
    /// Through the model's chat template.
    Template,
    /// Their contents, one behind the other.
    Plain,
}

/// Which text, and how it is cut.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// The text's parts.
    pub data: Vec<CalibrationData>,
    /// Tokens of a chunk.
    pub context: usize,
    /// The most chunks.
    pub chunks: Option<usize>,
    /// Take the names of special tokens in plain text for these tokens.
    pub parse_special: bool,
    /// How conversations become text.
    pub conversations: Conversations,
}

impl CalibrationData {
    /// The file, if it is one.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Bundled => None,
            Self::Tokens(path) | Self::File(path) => Some(path),
        }
    }
}

impl DataOptions {
    /// The files that are read.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.data.iter().filter_map(CalibrationData::path)
    }

    /// What the parts are called in a statistics file.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |data: &CalibrationData| match data {
            CalibrationData::Bundled => "default".to_owned(),
            CalibrationData::Tokens(path) | CalibrationData::File(path) => {
                path.display().to_string()
            }
        };
        self.data.iter().map(name).collect()
    }
}

/// A part of the text, and what it gave.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DataPart {
    /// Its name.
    pub name: String,
    /// Documents in it.
    pub documents: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Whole chunks of them.
    pub chunks: usize,
}

/// The text as the model sees it.
pub(crate) struct CalibrationText {
    pub(crate) chunks: Chunks,
    pub(crate) parts: Vec<DataPart>,
    pub(crate) warnings: Vec<String>,
    /// The files that it is from.
    pub(crate) files: FileStates,
}

/// A part before it is cut.
struct TextPart {
    name: String,
    documents: usize,
    tokens: Vec<u32>,
    /// Bytes of text that its documents may make still.
    room: u64,
}

/// What the documents of a file may make of text, beside so many times its own bytes: a
/// compressed file or a template can make gigabytes of a few bytes.
const LEAST_ROOM: u64 = 64 << 20;
const MOST_GROWTH: u64 = 32;

/// Reads all parts, cuts each into chunks, and mixes them: the chunks of a part lie evenly
/// over the whole, so that any beginning has a share of each. Of the mix `skipped` chunks
/// are passed over.
pub(crate) fn read(
    options: &DataOptions,
    model: &Model,
    tokenizer: &Tokenizer,
    skipped: usize,
) -> Result<CalibrationText, Error> {
    let context = options.context.max(1);
    let template = template(options, model, tokenizer)?;
    // A part alone is used from its beginning; of several each has its share.
    let wanted = match (options.data.as_slice(), options.chunks) {
        ([CalibrationData::File(_)], Some(chunks)) => {
            skipped.saturating_add(chunks).saturating_mul(context).max(2 * context)
        }
        _ => usize::MAX,
    };
    let reader = Reader { options, tokenizer, template, wanted };
    let (mut parts, mut files) = (Vec::new(), FileStates::default());
    for data in &options.data {
        if let CalibrationData::File(path) | CalibrationData::Tokens(path) = data {
            files.note(&SourceFile::open(path)?);
        }
        match data {
            CalibrationData::File(path) => parts.push(reader.file(path)?),
            CalibrationData::Tokens(path) => parts.push(TextPart {
                documents: 1,
                tokens: read_token_ids(path, tokenizer.token_count())?,
                ..TextPart::new(path.display().to_string(), 0)
            }),
            CalibrationData::Bundled => {
                for part in bundled::PARTS {
                    parts.push(reader.part(
                        part.name,
                        part.kind,
                        part.text,
                        &Location::file(part.name),
                    )?);
                }
            }
        }
    }
    let tokens: usize = parts.iter().map(|part| part.tokens.len()).sum();
    let counts: Vec<usize> = parts.iter().map(|part| part.tokens.len() / context).collect();
    // What llama-imatrix asks of a text.
    if tokens < 2 * context || counts.iter().sum::<usize>() == 0 {
        return Err(qz_eval::Error::TooShort { tokens, context }.into());
    }
    let mut warnings = Vec::new();
    for part in parts.iter().filter(|part| part.tokens.len() < context) {
        let (name, tokens) = (&part.name, part.tokens.len());
        warnings
            .push(format!("{name}: {tokens} tokens make no chunk of {context}; it is left out"));
    }
    let limit = options.chunks.unwrap_or(usize::MAX);
    let mixed: Vec<(usize, usize)> = mix(&counts).into_iter().skip(skipped).take(limit).collect();
    if mixed.is_empty() {
        return Err(Error::NoChunksLeft { skipped });
    }
    let first = tokenizer.bos().filter(|_| tokenizer.adds_bos()).map(|token| token.0);
    let mut all = Vec::with_capacity(mixed.len() * context);
    for (part, chunk) in mixed {
        let start = all.len();
        all.extend_from_slice(&parts[part].tokens[chunk * context..][..context]);
        if let Some(first) = first {
            all[start] = first;
        }
    }
    let described = parts.iter().zip(&counts).map(|(part, chunks)| DataPart {
        name: part.name.clone(),
        documents: part.documents,
        tokens: part.tokens.len(),
        chunks: *chunks,
    });
    let parts = described.collect();
    Ok(CalibrationText { chunks: Chunks::new(all, context), parts, warnings, files })
}

/// The chunks of parts with so many, as part and number: chunk `i` of `n` stands at
/// `(i + ½) / n` of the whole, at the same place earlier parts go first.
fn mix(counts: &[usize]) -> Vec<(usize, usize)> {
    let chunks = counts.iter().enumerate();
    let mut chunks: Vec<(usize, usize)> =
        chunks.flat_map(|(part, count)| (0..*count).map(move |chunk| (part, chunk))).collect();
    // Compared as fractions: (2i + 1) / n.
    chunks.sort_by(|one, other| {
        let place = |(_, chunk): &(usize, usize)| (2 * chunk + 1) as u128;
        let of = |(part, _): &(usize, usize)| counts[*part] as u128;
        (place(one) * of(other)).cmp(&(place(other) * of(one)))
    });
    chunks
}

fn template(
    options: &DataOptions,
    model: &Model,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>, Error> {
    if options.conversations == Conversations::Plain {
        return Ok(None);
    }
    const KEY: &str = "tokenizer.chat_template";
    let path = &model.path;
    let Some(text) = model.metadata.string(KEY) else {
        return match options.conversations {
            Conversations::Template => Err(Error::NoChatTemplate(path.clone())),
            Conversations::Either | Conversations::Plain => Ok(None),
        };
    };
    let piece = |id: TokenId| String::from_utf8_lossy(&tokenizer.piece(id)).into_owned();
    let location = Location::file(path.as_path()).tensor(KEY);
    let (bos, eos) = (tokenizer.bos().map(piece), tokenizer.eos().map(piece));
    Ok(Some(ChatTemplate::new(text, bos, eos, location)?))
}

impl TextPart {
    /// An empty part of a source of so many bytes.
    fn new(name: String, source: u64) -> Self {
        let room = source.saturating_mul(MOST_GROWTH).saturating_add(LEAST_ROOM);
        Self { name, documents: 0, tokens: Vec::new(), room }
    }

    /// Pays for a document's text.
    fn pay(&mut self, text: &str, location: &Location) -> Result<(), Error> {
        let left = self.room.checked_sub(text.len() as u64);
        self.room = left.ok_or_else(|| Error::Document {
            location: location.clone(),
            problem: format!(
                "the documents make too much text for the size of their source: more than \
                 {LEAST_ROOM} bytes and {MOST_GROWTH} times as many as it has"
            ),
        })?;
        Ok(())
    }

    /// The part, if there is anything in it.
    fn filled(self, location: Location) -> Result<Self, Error> {
        if self.documents == 0 { Err(Error::EmptyData(location)) } else { Ok(self) }
    }
}

struct Reader<'a> {
    options: &'a DataOptions,
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    /// Tokens of a part that are enough.
    wanted: usize,
}

impl Reader<'_> {
    fn file(&self, path: &Path) -> Result<TextPart, Error> {
        if path.extension().is_some_and(|extension| extension == "parquet") {
            return self.parquet(path);
        }
        let name = path.display().to_string();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("jsonl" | "ndjson")) {
            let mut part = TextPart::new(name, SourceFile::open(path)?.len());
            lines::each_line(path, &mut |line, location| self.line(&mut part, line, location))?;
            return part.filled(Location::file(path));
        }
        let bytes = read_file(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| Error::TextEncoding {
            location: Location::file(path).offset(error.valid_up_to() as u64),
        })?;
        self.part(&name, TextKind::Text, text, &Location::file(path))
    }

    /// Adds the document of a line to a part, until that has enough.
    fn line(
        &self,
        part: &mut TextPart,
        line: &str,
        location: &Location,
    ) -> Result<ControlFlow<()>, Error> {
        if part.tokens.len() >= self.wanted || stop::is_requested() {
            return Ok(ControlFlow::Break(()));
        }
        if !line.trim().is_empty() {
            check_values(line, location)?;
            let document = qz_shards::json::from_slice(line.as_bytes()).map_err(|error| {
                Error::Document { location: location.clone(), problem: error.to_string() }
            })?;
            self.document(part, &document, location)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn parquet(&self, path: &Path) -> Result<TextPart, Error> {
        let name = path.display().to_string();
        let mut part = TextPart::new(name, SourceFile::open(path)?.len());
        parquet::each_row(path, &mut |number, row| {
            self.document(&mut part, row, &Location::file(path).tensor(format!("row {number}")))?;
            let enough = part.tokens.len() >= self.wanted || stop::is_requested();
            Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        part.filled(Location::file(path))
    }

    fn part(
        &self,
        name: &str,
        kind: TextKind,
        text: &str,
        location: &Location,
    ) -> Result<TextPart, Error> {
        let tokenizer = self.tokenizer;
        let mut part = TextPart::new(name.to_owned(), text.len() as u64);
        match kind {
            TextKind::Text => {
                let parse_special = self.options.parse_special;
                let options = EncodeOptions { add_special: true, parse_special };
                part.documents = usize::from(!text.is_empty());
                let tokens = tokenizer.encode_first(text, options, self.wanted);
                part.tokens = ids(tokens.map_err(qz_models::Error::from)?);
            }
            TextKind::JsonLines => {
                let mut start = 0;
                for line in text.split_inclusive('\n') {
                    let location = location.clone().offset(start as u64);
                    start += line.len();
                    if self.line(&mut part, line, &location)?.is_break() {
                        break;
                    }
                }
            }
        }
        part.filled(location.clone())
    }

    /// Adds the tokens of one document: `{"text": "…"}` or `{"messages": […]}`.
    fn document(
        &self,
        part: &mut TextPart,
        document: &Value,
        location: &Location,
    ) -> Result<(), Error> {
        let (tokenizer, parse_special) = (self.tokenizer, self.options.parse_special);
        let mut add = |text: &str, add_special: bool, parse_special: bool| {
            part.pay(text, location)?;
            part.tokens.extend(encode(tokenizer, text, add_special, parse_special)?);
            part.documents += 1;
            Ok(())
        };
        if let Some(text) = document.get("text").and_then(Value::as_str) {
            return add(text, true, parse_special);
        }
        let messages = document.get("messages").filter(|messages| messages.is_array());
        let messages = messages.ok_or_else(|| Error::Document {
            location: location.clone(),
            problem: "there is neither a \"text\" nor a list of \"messages\"".to_owned(),
        })?;
        match &self.template {
            // The template writes the special tokens.
            Some(template) => {
                let text = template.render(messages).map_err(|error| located(error, location))?;
                add(&text, false, true)
            }
            None => {
                let contents = messages.as_array().into_iter().flatten();
                let contents = contents.flat_map(texts);
                add(&contents.collect::<Vec<_>>().join("\n"), true, parse_special)
            }
        }
    }
}

/// The texts of a message: its content, or those of the parts that it is a list of.
fn texts(message: &Value) -> Vec<&str> {
    match message.get("content") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part.get("text")?.as_str()).collect()
        }
        _ => Vec::new(),
    }
}

/// Refuses a line whose values would take far more memory than its text.
fn check_values(line: &str, location: &Location) -> Result<(), Error> {
    const MOST: usize = 1 << 20;
    let values = line.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    match values > MOST {
        true => {
            let problem = format!("a line of more than {MOST} values");
            Err(Error::Document { location: location.clone(), problem })
        }
        false => Ok(()),
    }
}

/// Names the conversation beside the template.
fn located(error: qz_calib::Error, place: &Location) -> Error {
    match error {
        qz_calib::Error::Template { location, problem } => {
            let problem = format!("{problem}; the conversation is at {place}");
            qz_calib::Error::Template { location, problem }.into()
        }
        other => other.into(),
    }
}

fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    add_special: bool,
    parse_special: bool,
) -> Result<Vec<u32>, Error> {
    let options = EncodeOptions { add_special, parse_special };
    Ok(ids(tokenizer.encode(text, options).map_err(qz_models::Error::from)?))
}

fn ids(tokens: Vec<TokenId>) -> Vec<u32> {
    tokens.into_iter().map(|id| id.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few bytes may make some megabytes of text, and no more.
    #[test]
    fn texts_of_messages() {
        let check = |message: &str, expected: &[&str]| {
            let message: Value = serde_json::from_str(message).expect("JSON");
            assert_eq!(texts(&message), expected, "{message}");
        };
        check(r#"{"role": "user", "content": "a"}"#, &["a"]);
        check(
            r#"{"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]}"#,
            &["a", "b"],
        );
        check(r#"{"content": null}"#, &[]);
        check(r#"{"role": "user"}"#, &[]);
    }

    #[test]
    fn documents_have_room_for_their_source() {
        let check = |source: u64, texts: &[usize], is_enough: bool| {
            let mut part = TextPart::new("part".to_owned(), source);
            let longest = "x".repeat(40 << 20);
            let paid = texts
                .iter()
                .try_for_each(|length| part.pay(&longest[..*length], &Location::file("part")));
            assert_eq!(paid.is_ok(), is_enough, "{source}: {texts:?}");
        };
        check(0, &[40 << 20, 24 << 20], true);
        check(0, &[40 << 20, 24 << 20, 1], false);
        check(1, &[40 << 20, 24 << 20, 32], true);
        check(1, &[40 << 20, 24 << 20, 33], false);
    }

    #[test]
    fn lines_have_so_many_values() {
        let check = |values: usize, is_taken: bool| {
            let line = format!("[{}0]", "0,".repeat(values - 2));
            assert_eq!(check_values(&line, &Location::file("x")).is_ok(), is_taken, "{values}");
        };
        check(1 << 20, true);
        check((1 << 20) + 2, false);
    }

    #[test]
    fn chunks_of_parts_lie_evenly() {
        let check = |counts: &[usize], expected: &[(usize, usize)]| {
            assert_eq!(mix(counts), expected, "{counts:?}");
        };
        check(&[], &[]);
        check(&[3], &[(0, 0), (0, 1), (0, 2)]);
        check(&[2, 2], &[(0, 0), (1, 0), (0, 1), (1, 1)]);
        check(&[4, 1, 2], &[(0, 0), (2, 0), (0, 1), (1, 0), (0, 2), (2, 1), (0, 3)]);
        check(&[0, 1], &[(1, 0)]);
    }
}
