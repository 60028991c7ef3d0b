//! Conversations as text, through a model's chat template. Templates are Jinja, as
//! transformers renders them; they are part of a model that somebody else made, so the
//! engine reads no files, knows no other templates, and stops after so many steps.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, Error as Failure, ErrorKind, State};
use qz_tensor::Location;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::error::Error;

/// Steps that one conversation may take: a template takes a few hundred for a message.
const FUEL: u64 = 5_000_000;

/// The most text that one conversation may become.
const MAX_TEXT: usize = 64 << 20;

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    location: Location,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of the tokens that begin and end
    /// a text; `location` is where the template is, for messages.
    ///
    /// # Errors
    /// If it is no template.
    pub fn new(
        template: &str,
        bos: Option<String>,
        eos: Option<String>,
        location: Location,
    ) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|failure| fault(&location, &failure))?);
        environment.set_unknown_method_callback(method);
        environment.add_function("raise_exception", |text: String| -> Result<Value, Failure> {
            Err(Failure::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_filter("tojson", to_json);
        // Text must not change from day to day.
        environment.add_function("strftime_now", |_: String| "1 January 2025".to_owned());
        environment
            .add_template_owned(NAME, template.to_owned())
            .map_err(|failure| fault(&location, &failure))?;
        let text = Option::unwrap_or_default;
        Ok(Self { environment, bos: text(bos), eos: text(eos), location })
    }

    /// One conversation: a list of messages, each with a role and a content, as its JSON.
    ///
    /// # Errors
    /// If the template refuses it, or does not end.
    pub fn render(&self, messages: &serde_json::Value) -> Result<String, Error> {
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => false,
        };
        let rendered = self.environment.get_template(NAME).and_then(|one| one.render(context));
        let text = rendered.map_err(|failure| fault(&self.location, &failure))?;
        if text.len() > MAX_TEXT {
            let problem = format!("the template makes {} bytes of one conversation", text.len());
            return Err(Error::Template { location: self.location.clone(), problem });
        }
        Ok(text)
    }
}

/// JSON as Python writes it: transformers does not make it safe for web pages.
fn to_json(value: Value, options: Kwargs) -> Result<String, Failure> {
    let indent: Option<usize> = options.get("indent")?;
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let result = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, OneLine)),
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, pretty))
        }
    };
    let failed = |text: String| Failure::new(ErrorKind::BadSerialization, text);
    result.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| failed(error.to_string()))
}

/// Spaces after commas and colons.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

fn fault(location: &Location, failure: &Failure) -> Error {
    let problem = match (failure.detail(), failure.kind()) {
        (_, ErrorKind::OutOfFuel) => "the template does not come to an end".to_owned(),
        (Some(detail), _) => detail.to_owned(),
        (None, kind) => kind.to_string(),
    };
    let line = failure.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let problem = format!("the chat template fails: {problem}{line}");
    Error::Template { location: location.clone(), problem }
}

/// The methods of Python's strings, lists and dictionaries that templates call.
fn method(
    _: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Failure> {
    let unknown = || Failure::from(ErrorKind::UnknownMethod);
    match (value.as_str(), value.kind()) {
        (Some(text), _) => text_method(text, name, args).ok_or_else(unknown),
        (None, ValueKind::Map) => map_method(value, name, args).unwrap_or_else(|| Err(unknown())),
        _ => Err(unknown()),
    }
}

fn text_method(text: &str, name: &str, args: &[Value]) -> Option<Value> {
    let argument = args.first().and_then(Value::as_str);
    let has = |test: &dyn Fn(&str) -> bool| -> Option<bool> {
        // Several may be given as a tuple.
        match (argument, args.first()) {
            (Some(one), _) => Some(test(one)),
            (None, Some(many)) => {
                Some(many.try_iter().ok()?.any(|one| one.as_str().is_some_and(test)))
            }
            (None, None) => None,
        }
    };
    let set: Vec<char> = argument.unwrap_or_default().chars().collect();
    let strips = |c: char| if argument.is_some() { set.contains(&c) } else { c.is_whitespace() };
    Some(match name {
        "strip" => text.trim_matches(strips).into(),
        "lstrip" => text.trim_start_matches(strips).into(),
        "rstrip" => text.trim_end_matches(strips).into(),
        "upper" => text.to_uppercase().into(),
        "lower" => text.to_lowercase().into(),
        "title" | "capitalize" => {
            let mut letters = text.chars();
            let first = letters.next().map(|first| first.to_uppercase().collect::<String>());
            (first.unwrap_or_default() + &letters.as_str().to_lowercase()).into()
        }
        "startswith" => has(&|start| text.starts_with(start))?.into(),
        "endswith" => has(&|end| text.ends_with(end))?.into(),
        "find" => text.find(argument?).map_or(-1, |at| text[..at].chars().count() as i64).into(),
        "count" => text.matches(argument?).count().into(),
        "replace" => text.replace(argument?, args.get(1)?.as_str()?).into(),
        "split" => {
            match (argument, args.get(1).and_then(|most| i64::try_from(most.clone()).ok())) {
                (None, _) => text.split_whitespace().map(Value::from).collect(),
                (Some(by), Some(most)) if most >= 0 => {
                    text.splitn(most as usize + 1, by).map(Value::from).collect()
                }
                (Some(by), _) => text.split(by).map(Value::from).collect(),
            }
        }
        "splitlines" => text.lines().map(Value::from).collect(),
        "join" => {
            let parts = args.first()?.try_iter().ok()?;
            parts.map(|part| part.to_string()).collect::<Vec<_>>().join(text).into()
        }
        _ => return None,
    })
}

fn map_method(map: &Value, name: &str, args: &[Value]) -> Option<Result<Value, Failure>> {
    let keys = || map.try_iter();
    Some(match name {
        "get" => {
            let found = map.get_item(args.first()?);
            found.map(|found| match found.is_undefined() {
                true => args.get(1).cloned().unwrap_or(Value::from(())),
                false => found,
            })
        }
        "keys" => keys().map(Iterator::collect),
        "values" => keys()
            .and_then(|mut keys| {
                keys.try_fold(Vec::new(), |mut all, key| {
                    all.push(map.get_item(&key)?);
                    Ok(all)
                })
            })
            .map(Value::from),
        "items" => keys()
            .and_then(|mut keys| {
                keys.try_fold(Vec::new(), |mut all, key| {
                    let value = map.get_item(&key)?;
                    all.push(Value::from(vec![key, value]));
                    Ok(all)
                })
            })
            .map(Value::from),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
