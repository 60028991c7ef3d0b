//! Chat templates: copied byte for byte, never rendered.

use qz_tensor::{Array, Location, Metadata, SideFiles, Warning};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::json::{read_object, read_text};

const FOLDER: &str = "additional_chat_templates";
const EXTENSION: &str = ".jinja";
const DEFAULT_NAME: &str = "default";

/// Templates larger than this are no templates.
const LARGE: usize = 1 << 20;
/// What a template needs only to reach outside of its sandbox.
const SUSPICIOUS: &[&str] =
    &["__class__", "__globals__", "__builtins__", "__import__", "__subclasses__", "popen"];

/// One template, or several by name.
#[derive(Debug, PartialEq, Eq)]
enum Templates {
    One(String),
    Named(Vec<(String, String)>),
}

/// Adds the templates of the files for them, or failing that those of
/// `tokenizer_config.json`, as transformers does (`_from_pretrained` in
/// `tokenization_utils_base.py`).
pub(crate) fn write_chat_templates(
    files: &dyn SideFiles,
    config: &Map<String, Value>,
    metadata: &mut Metadata,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let stated = config.get("chat_template").and_then(from_json);
    warnings.extend(left_out(files, config));
    let templates = match (from_files(files)?, stated) {
        (Some(found), stated) => {
            if stated.is_some_and(|stated| stated != found) {
                warnings.push(overruled(files));
            }
            Some(found)
        }
        (None, Some(stated)) => Some(stated),
        (None, None) => from_processor(files)?,
    };
    let texts: Vec<&str> = match &templates {
        None => return Ok(()),
        Some(Templates::One(text)) => vec![text],
        Some(Templates::Named(named)) => named.iter().map(|(_, text)| text.as_str()).collect(),
    };
    if texts
        .iter()
        .any(|text| text.len() > LARGE || SUSPICIOUS.iter().any(|word| text.contains(word)))
    {
        warnings.push(Warning {
            location: Location::file(files.path("tokenizer_config.json")).tensor("chat_template"),
            rule: "chat-template-suspicious",
            message: "the template is unusually large or reaches for Python internals; it is copied, not run".to_owned(),
        });
    }
    match templates {
        Some(Templates::One(text)) => set(metadata, "tokenizer.chat_template".to_owned(), text),
        Some(Templates::Named(named)) => write_named(named, metadata),
        None => {}
    }
    Ok(())
}

/// Named templates first, then the list of their names, then the default one
/// (`GGUFWriter.add_chat_template`).
fn write_named(named: Vec<(String, String)>, metadata: &mut Metadata) {
    let mut names: Vec<String> = Vec::new();
    let mut default = None;
    for (name, text) in named {
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name == DEFAULT_NAME {
            default = Some(text);
        } else if !name.is_empty() {
            set(metadata, format!("tokenizer.chat_template.{name}"), text);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if !names.is_empty() {
        metadata.set("tokenizer.chat_templates", Array::String(names.into()));
    }
    if let Some(text) = default {
        set(metadata, "tokenizer.chat_template".to_owned(), text);
    }
}

fn set(metadata: &mut Metadata, key: String, text: String) {
    if !text.is_empty() {
        metadata.set(key, text);
    }
}

fn from_json(value: &Value) -> Option<Templates> {
    match value {
        Value::String(text) => Some(Templates::One(text.clone())),
        Value::Array(list) => {
            let text = |entry: &Value, key: &str| Some(entry.get(key)?.as_str()?.to_owned());
            let named = list
                .iter()
                .filter_map(|entry| Some((text(entry, "name")?, text(entry, "template")?)));
            by_name(named.collect())
        }
        _ => None,
    }
}

/// `chat_template.jinja` and the templates in the folder beside it.
fn from_files(files: &dyn SideFiles) -> Result<Option<Templates>, Error> {
    let mut named = Vec::new();
    let read = |name: &str| Ok::<_, Error>(read_text(files, name)?.map(with_plain_ends));
    named.extend(read("chat_template.jinja")?.map(|text| (DEFAULT_NAME.to_owned(), text)));
    for file in files.list(FOLDER)? {
        if let Some(name) = file.strip_suffix(EXTENSION)
            && let Some(text) = read(&format!("{FOLDER}/{file}"))?
        {
            named.push((name.to_owned(), text));
        }
    }
    Ok(by_name(named))
}

/// Ends of lines as Python reads them from a text file: `\n`, whatever system wrote it.
fn with_plain_ends(text: String) -> String {
    match text.contains('\r') {
        true => text.replace("\r\n", "\n").replace('\r', "\n"),
        false => text,
    }
}

/// Templates by name; `None` if there are none.
fn by_name(named: Vec<(String, String)>) -> Option<Templates> {
    match <[_; 1]>::try_from(named) {
        Ok([(name, text)]) if name == DEFAULT_NAME => Some(Templates::One(text)),
        Ok(other) => Some(Templates::Named(other.into())),
        Err(named) => (!named.is_empty()).then_some(Templates::Named(named)),
    }
}

/// `chat_template.json`, which older processors have in the place of the others.
fn from_processor(files: &dyn SideFiles) -> Result<Option<Templates>, Error> {
    let json = read_object(files, "chat_template.json")?;
    Ok(json.and_then(|json| json.get("chat_template").and_then(from_json)))
}

/// What of the stated templates is none.
fn left_out(files: &dyn SideFiles, config: &Map<String, Value>) -> Option<Warning> {
    let is_named = |entry: &Value| entry["name"].is_string() && entry["template"].is_string();
    let message = match config.get("chat_template")? {
        Value::Null | Value::String(_) => return None,
        Value::Array(list) => match list.iter().filter(|entry| !is_named(entry)).count() {
            0 => return None,
            count => format!("{count} of {} entries have no name or no template", list.len()),
        },
        _ => "is neither a text nor a list of named ones".to_owned(),
    };
    Some(Warning {
        location: Location::file(files.path("tokenizer_config.json")).tensor("chat_template"),
        rule: "chat-template-left-out",
        message: format!("{message}: left out"),
    })
}

fn overruled(files: &dyn SideFiles) -> Warning {
    Warning {
        location: Location::file(files.path("tokenizer_config.json")).tensor("chat_template"),
        rule: "chat-template-overruled",
        message: "differs from the template files beside it, which count, as in transformers"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_lines_are_those_of_python() {
        let check = |text: &str, expected: &str| {
            assert_eq!(with_plain_ends(text.to_owned()), expected);
        };
        check("a\nb\n", "a\nb\n");
        check("a\r\nb\r\n", "a\nb\n");
        check("a\rb\n\r", "a\nb\n\n");
    }
}
