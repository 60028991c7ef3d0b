//! Conversations as text, through a model's chat template, as transformers renders it.
//! Templates are part of a model that somebody else made: they are rendered by an engine
//! that reads nothing else and has a budget (`qz-jinja`).

use qz_jinja::Template;
use qz_tensor::Location;
use serde_json::{Map, Value};

use crate::error::Error;

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    /// What every conversation is rendered with.
    variables: Map<String, Value>,
    location: Location,
}

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
        let template = Template::new(template).map_err(|error| fault(&location, &error))?;
        let mut variables = Map::new();
        // transformers always says that there are none.
        for name in ["tools", "documents"] {
            variables.insert(name.to_owned(), Value::Null);
        }
        variables.insert("add_generation_prompt".to_owned(), Value::Bool(false));
        for (name, token) in [("bos_token", bos), ("eos_token", eos)] {
            variables.extend(token.map(|token| (name.to_owned(), Value::String(token))));
        }
        Ok(Self { template, variables, location })
    }

    /// One conversation: a list of messages, each with a role and a content, as its JSON.
    ///
    /// # Errors
    /// If the template refuses it, or takes more than its budget.
    pub fn render(&self, messages: &Value) -> Result<String, Error> {
        let mut variables = self.variables.clone();
        variables.insert("messages".to_owned(), messages.clone());
        self.template.render(&variables).map_err(|error| fault(&self.location, &error))
    }
}

fn fault(location: &Location, error: &qz_jinja::Error) -> Error {
    let problem = format!("the chat template fails: {error}");
    match error.from_system {
        true => Error::System { location: location.clone(), problem },
        false => Error::Template { location: location.clone(), problem },
    }
}

#[cfg(test)]
mod tests;
