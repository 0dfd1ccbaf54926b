//! Which chat template of a checkpoint applies.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::TokenizerFiles;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// The chat templates of a checkpoint by name; a single one is named `default`.
#[derive(Debug)]
pub(crate) struct ChatTemplates(BTreeMap<String, String>);

impl ChatTemplates {
    /// Template files win over the `chat_template` entry of `tokenizer_config.json`, which is a
    /// template, a list of named templates or a map of them.
    pub(crate) fn new(files: &TokenizerFiles<'_>, entry: Option<&Value>) -> Result<Self> {
        let mut templates = BTreeMap::new();
        if let Some(bytes) = files.chat_template_jinja {
            templates.insert(DEFAULT.to_owned(), utf8("chat_template.jinja", bytes)?);
        }
        for (name, bytes) in &files.additional_chat_templates {
            templates.insert(name.clone(), utf8("additional_chat_templates", bytes)?);
        }
        if templates.is_empty()
            && let Some(entry) = entry
        {
            templates = parse_entry(entry).ok_or_else(|| {
                let reason = "chat_template must be a string or a list of {name, template}";
                Error::invalid_file("tokenizer_config.json", reason)
            })?;
        }
        Ok(Self(templates))
    }

    /// The template called `name`; without a name, `tool_use` for requests with tools if there is
    /// one, else `default`. `None` if there are no templates at all.
    pub(crate) fn choose(&self, name: Option<&str>, has_tools: bool) -> Result<Option<&str>> {
        let available = || self.0.keys().cloned().collect();
        if let Some(name) = name {
            let unknown = || Error::UnknownChatTemplate {
                name: name.to_owned(),
                available: available(),
            };
            return self
                .0
                .get(name)
                .map(|template| Some(template.as_str()))
                .ok_or_else(unknown);
        }
        if self.0.is_empty() {
            return Ok(None);
        }
        let tool_use = self.0.get(TOOL_USE).filter(|_| has_tools);
        tool_use
            .or_else(|| self.0.get(DEFAULT))
            .map(|template| Some(template.as_str()))
            .ok_or_else(|| Error::NoDefaultChatTemplate {
                available: available(),
            })
    }
}

fn utf8(file: &'static str, bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|error| Error::invalid_file(file, error))?;
    Ok(text.to_owned())
}

fn parse_entry(entry: &Value) -> Option<BTreeMap<String, String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match entry {
        Value::String(template) => Some(BTreeMap::from([(DEFAULT.to_owned(), template.clone())])),
        Value::Array(list) => list
            .iter()
            .map(|item| Some((text(item.get("name")?)?, text(item.get("template")?)?)))
            .collect(),
        Value::Object(map) => map
            .iter()
            .map(|(name, template)| Some((name.clone(), text(template)?)))
            .collect(),
        _ => None,
    }
}
