//! A parsed template and its rendering.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Local, NaiveDateTime};
use minijinja::machinery;
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};

use crate::analysis::{self, ContentFormat};
use crate::continuation::{cut_at_tag, tag_final_message};
use crate::environment::{self, TEMPLATE_NAME};
use crate::error::{Error, Result};
use crate::prepare::prepare;
use crate::strftime::strftime;
use crate::value::{from_json, from_json_list};

/// A chat template, parsed once and rendered often; shared between threads freely.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    declared_variables: BTreeSet<String>,
    content_format: ContentFormat,
}

/// One conversation and everything a template may read besides it.
#[derive(Debug, Clone, Copy)]
pub struct RenderInput<'a> {
    /// The messages, oldest first, each a JSON object with a `role`.
    pub messages: &'a [Json],
    /// Tool descriptions, as the caller sent them.
    pub tools: Option<&'a [Json]>,
    /// Documents for templates with retrieval.
    pub documents: Option<&'a [Json]>,
    /// Whether to open the next assistant message.
    pub add_generation_prompt: bool,
    /// Whether to leave the last message open, so that the model goes on with it.
    pub continue_final_message: bool,
    /// Further template variables. They override the fields above, except the messages and the
    /// tools; a null never overrides anything.
    pub kwargs: &'a Map<String, Json>,
    /// `bos_token`, `eos_token` and the other special tokens by name.
    pub special_tokens: &'a BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`Error::Syntax`] if the source is not valid Jinja.
    pub fn new(source: &str) -> Result<Self> {
        let parsable = prepare(source)?;
        let content_format = {
            let ast = machinery::parse(&parsable, TEMPLATE_NAME, environment::syntax())?;
            analysis::content_format(&ast)
        };
        let mut environment = environment::new_environment();
        environment.add_template_owned(TEMPLATE_NAME, parsable)?;
        let declared_variables = environment
            .get_template(TEMPLATE_NAME)?
            .undeclared_variables(false)
            .into_iter()
            .collect();
        Ok(Self {
            source: source.to_owned(),
            environment,
            declared_variables,
            content_format,
        })
    }

    /// Renders a conversation; `strftime_now` sees the local time.
    ///
    /// # Errors
    /// [`Error::Raised`] with the template's own words if it refuses the conversation, other
    /// variants if it cannot be rendered.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String> {
        self.render_at(input, Local::now().naive_local())
    }

    /// Renders a conversation as if it was the given local time.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_at(&self, input: &RenderInput<'_>, now: NaiveDateTime) -> Result<String> {
        let (messages, to_continue) = self.prepare_messages(input)?;
        let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
        variables.insert(
            "strftime_now",
            Value::from_function(move |format: &str| strftime(now, format)),
        );
        for (name, token) in input.special_tokens {
            variables.insert(name, Value::from(token.as_str()));
        }
        variables.insert("messages", messages);
        variables.insert("tools", optional_list(input.tools));
        variables.insert("documents", optional_list(input.documents));
        variables.insert(
            "add_generation_prompt",
            Value::from(input.add_generation_prompt),
        );
        for (name, value) in input.kwargs.iter().filter(|(_, value)| !value.is_null()) {
            if RESERVED_ARGUMENTS.contains(&name.as_str()) {
                return Err(Error::ReservedArgument(name.clone()));
            }
            variables.insert(name, from_json(value));
        }
        let template = self.environment.get_template(TEMPLATE_NAME)?;
        let rendered = template.render(Value::from_pairs(variables))?;
        match to_continue {
            Some(final_message) => cut_at_tag(rendered, &final_message),
            None => Ok(rendered),
        }
    }

    /// The messages as the template gets them, and the text to continue if that was asked for.
    fn prepare_messages(&self, input: &RenderInput<'_>) -> Result<(Value, Option<String>)> {
        let flag = |name: &str, field: bool| match input.kwargs.get(name) {
            Some(Json::Bool(argument)) => *argument,
            _ => field,
        };
        let continues = flag("continue_final_message", input.continue_final_message);
        if continues && flag("add_generation_prompt", input.add_generation_prompt) {
            return Err(Error::ContinueAndGenerate);
        }
        let mut messages = Vec::with_capacity(input.messages.len());
        for message in input.messages {
            let Json::Object(message) = message else {
                return Err(Error::MessageNotAnObject(message.to_string()));
            };
            messages.push(Json::Object(with_reasoning_names(message)));
        }
        let to_continue = if continues {
            Some(tag_final_message(&mut messages, &self.source)?)
        } else {
            None
        };
        Ok((from_json_list(&messages), to_continue))
    }

    /// How message contents must be handed to this template.
    pub fn content_format(&self) -> ContentFormat {
        self.content_format
    }

    /// Whether the template knows the `developer` role.
    pub fn mentions_developer_role(&self) -> bool {
        self.source.contains("\"developer\"") || self.source.contains("'developer'")
    }

    /// The variables that the template reads from outside; arguments with other names have no
    /// effect on it.
    pub fn declared_variables(&self) -> &BTreeSet<String> {
        &self.declared_variables
    }

    /// The source as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// Arguments that belong to the request and cannot be template variables.
const RESERVED_ARGUMENTS: [&str; 2] = ["messages", "tools"];

/// The names under which templates look for an assistant's reasoning; the first is the standard.
const REASONING_NAMES: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Gives a message its reasoning under the names that templates read, as `transformers` does.
fn with_reasoning_names(message: &Map<String, Json>) -> Map<String, Json> {
    let reasoning = REASONING_NAMES
        .iter()
        .find_map(|name| message.get(*name).filter(|value| !value.is_null()));
    let Some(reasoning) = reasoning else {
        return message.clone();
    };
    let mut named = Map::new();
    named.insert("thinking".to_owned(), reasoning.clone());
    named.extend(
        message
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    named.insert("reasoning_content".to_owned(), reasoning.clone());
    named
}

fn optional_list(items: Option<&[Json]>) -> Value {
    items.map_or_else(|| Value::from(()), from_json_list)
}
