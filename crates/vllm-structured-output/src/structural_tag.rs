//! Structural tags: free text with constrained parts, translated to Lark notation.

use std::fmt::Write;

use serde_json::{Map, Value};
use vllm_sampling::StructuredOutputs;

use crate::error::{Error, Result};
use crate::source::{lark_regex, lark_string};
use crate::{ebnf, json_schema};

/// The grammar of a structural tag: `{"type": "structural_tag", "format": …}`, or the older form
/// with `structures` and `triggers`.
pub(crate) fn to_lark(text: &str, params: &StructuredOutputs) -> Result<String> {
    let tag: Value = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let mut writer = Writer {
        params,
        rules: String::new(),
        count: 0,
    };
    let start = match (tag.get("format"), tag.get("structures")) {
        (Some(format), _) => writer.format(format, After::End)?,
        (None, Some(structures)) => {
            let structures = structures
                .as_array()
                .ok_or_else(|| invalid("structures must be a list"))?;
            let tags: Vec<Tag<'_>> = structures
                .iter()
                .map(|structure| Tag::legacy(object(structure, "a structure")?))
                .collect::<Result<_>>()?;
            let triggers = texts(tag.get("triggers"), "triggers")?;
            writer.triggered_tags(&triggers, &tags, Repeats::default(), After::End)?
        }
        (None, None) => return Err(invalid("\"format\" is missing")),
    };
    Ok(format!("start: {start}\n{}", writer.rules))
}

fn invalid(problem: impl Into<String>) -> Error {
    Error::StructuralTag(problem.into())
}

/// What follows a part, which tells where free text ends.
#[derive(Clone, Copy)]
enum After<'a> {
    /// Nothing.
    End,
    /// One of these texts, which the part writes itself.
    Texts(&'a [&'a str]),
    /// Something else.
    More,
}

/// How many tags come.
#[derive(Clone, Copy, Default)]
struct Repeats {
    at_least_one: bool,
    stop_after_first: bool,
}

impl Repeats {
    fn of(format: &Map<String, Value>) -> Result<Self> {
        let flag = |name: &str| match format.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(invalid(format!("{name} must be true or false"))),
        };
        Ok(Self {
            at_least_one: flag("at_least_one")?,
            stop_after_first: flag("stop_after_first")?,
        })
    }
}

/// `begin`, constrained content, and one of `ends`.
struct Tag<'a> {
    begin: &'a str,
    content: Content<'a>,
    ends: Vec<&'a str>,
}

enum Content<'a> {
    Format(&'a Value),
    Schema(&'a Value),
}

impl<'a> Tag<'a> {
    fn new(tag: &'a Map<String, Value>) -> Result<Self> {
        let ends = match tag.get("end") {
            Some(Value::String(end)) => vec![end.as_str()],
            ends => texts(ends, "end")?,
        };
        Ok(Self {
            begin: string(tag, "begin")?,
            content: Content::Format(member(tag, "content")?),
            ends,
        })
    }

    fn legacy(tag: &'a Map<String, Value>) -> Result<Self> {
        Ok(Self {
            begin: string(tag, "begin")?,
            content: Content::Schema(member(tag, "schema")?),
            ends: vec![string(tag, "end")?],
        })
    }
}

struct Writer<'a> {
    params: &'a StructuredOutputs,
    rules: String,
    count: usize,
}

impl Writer<'_> {
    /// A Lark expression for `format`, followed by the texts of `after`.
    fn format(&mut self, format: &Value, after: After<'_>) -> Result<String> {
        let format = object(format, "a format")?;
        let part = match string(format, "type")? {
            "any_text" => return self.any_text(after),
            "sequence" => return self.sequence(elements(format)?, after),
            "triggered_tags" => {
                let tags = tags(format)?;
                let triggers = texts(format.get("triggers"), "triggers")?;
                return self.triggered_tags(&triggers, &tags, Repeats::of(format)?, after);
            }
            "or" => {
                let options = elements(format)?
                    .iter()
                    .map(|element| self.format(element, after))
                    .collect::<Result<Vec<_>>>()?;
                return Ok(self.rule(&options.join(" | ")));
            }
            "const_string" => lark_string(string(format, "value")?),
            "json_schema" => self.json(member(format, "json_schema")?)?,
            "regex" => match lark_regex(string(format, "pattern")?).as_str() {
                "" => "\"\"".to_owned(),
                pattern => format!("/{pattern}/"),
            },
            "grammar" => nested_grammar(string(format, "grammar")?)?,
            "tag" => self.tag(&Tag::new(format)?, "")?,
            "tags_with_separator" => self.separated_tags(format)?,
            other => {
                return Err(invalid(format!(
                    "formats of type {other:?} are not supported"
                )));
            }
        };
        Ok(match after {
            After::Texts(texts) => format!("{part} {}", self.one_of(texts)),
            After::End | After::More => part,
        })
    }

    fn any_text(&mut self, after: After<'_>) -> Result<String> {
        match after {
            After::End => Ok(self.text_without(&[])),
            After::Texts(ends) => Ok(self.text_up_to(ends)),
            After::More => Err(invalid(
                "any_text must be the last part of a tag or of the whole text",
            )),
        }
    }

    fn sequence(&mut self, elements: &[Value], after: After<'_>) -> Result<String> {
        let Some((last, others)) = elements.split_last() else {
            return Err(invalid("elements must not be empty"));
        };
        let mut parts = others
            .iter()
            .map(|element| self.format(element, After::More))
            .collect::<Result<Vec<_>>>()?;
        parts.push(self.format(last, after)?);
        Ok(self.rule(&parts.join(" ")))
    }

    /// A tag whose first `written` bytes stand in the text already.
    fn tag(&mut self, tag: &Tag<'_>, written: &str) -> Result<String> {
        let rest = tag.begin.strip_prefix(written).unwrap_or(tag.begin);
        let after = After::Texts(&tag.ends);
        let content = match tag.content {
            Content::Format(format) => self.format(format, after)?,
            Content::Schema(schema) => {
                format!("{} {}", self.json(schema)?, self.one_of(&tag.ends))
            }
        };
        Ok(self.rule(&format!("{} {content}", lark_string(rest))))
    }

    /// Free text in which each trigger begins a tag.
    fn triggered_tags(
        &mut self,
        triggers: &[&str],
        tags: &[Tag<'_>],
        repeats: Repeats,
        after: After<'_>,
    ) -> Result<String> {
        let mut options = Vec::new();
        for trigger in triggers.iter().filter(|trigger| !trigger.is_empty()) {
            let bodies = tags
                .iter()
                .filter(|tag| tag.begin.starts_with(trigger))
                .map(|tag| self.tag(tag, trigger))
                .collect::<Result<Vec<_>>>()?;
            if !bodies.is_empty() {
                let text = self.text_up_to(&[trigger]);
                options.push(format!("{text} ({})", bodies.join(" | ")));
            }
        }
        let is_triggered = |tag: &Tag<'_>| triggers.iter().any(|t| tag.begin.starts_with(t));
        if options.is_empty() || !tags.iter().all(is_triggered) {
            return Err(invalid("each tag must begin with one of the triggers"));
        }
        let one = self.rule(&options.join(" | "));
        if repeats.at_least_one && repeats.stop_after_first {
            return Ok(match after {
                After::Texts(ends) => format!("{one} {}", self.one_of(ends)),
                After::End | After::More => one,
            });
        }
        let rest = match after {
            After::End => self.text_without(triggers),
            After::Texts(ends) => self.text_up_to(ends),
            After::More => {
                return Err(invalid(
                    "triggered_tags must be the last part of a tag or of the whole text",
                ));
            }
        };
        Ok(match (repeats.stop_after_first, after) {
            (true, After::Texts(ends)) => {
                let end = self.one_of(ends);
                self.rule(&format!("{one} {end} | {rest}"))
            }
            (true, _) => self.rule(&format!("{one} | {rest}")),
            (false, _) if repeats.at_least_one => self.rule(&format!("{one}+ {rest}")),
            (false, _) => self.rule(&format!("{one}* {rest}")),
        })
    }

    fn separated_tags(&mut self, format: &Map<String, Value>) -> Result<String> {
        let repeats = Repeats::of(format)?;
        let bodies = tags(format)?
            .iter()
            .map(|tag| self.tag(tag, ""))
            .collect::<Result<Vec<_>>>()?;
        let one = self.rule(&bodies.join(" | "));
        let separator = lark_string(string(format, "separator")?);
        let some = match repeats.stop_after_first {
            true => one,
            false => format!("{one} ({separator} {one})*"),
        };
        Ok(match repeats.at_least_one {
            true => self.rule(&some),
            false => self.rule(&format!("({some})?")),
        })
    }

    /// Text up to and with the first of `ends`.
    fn text_up_to(&mut self, ends: &[&str]) -> String {
        let ends: Vec<String> = ends.iter().map(|end| lark_string(end)).collect();
        let name = self.new_name();
        let _ = writeln!(self.rules, "{name}[lazy]: /(?s:.)*/ ({})", ends.join(" | "));
        name
    }

    /// Text in which none of `excluded` stands.
    fn text_without(&mut self, excluded: &[&str]) -> String {
        let name = self.new_name().to_uppercase();
        let _ = match excluded.is_empty() {
            true => writeln!(self.rules, "{name}: /(?s:.)*/"),
            false => {
                let texts: Vec<String> = excluded.iter().map(|text| lark_string(text)).collect();
                let texts = texts.join(" | ");
                writeln!(
                    self.rules,
                    "{name}: /(?s:.)*/ & ~(/(?s:.)*/ ({texts}) /(?s:.)*/)"
                )
            }
        };
        name
    }

    fn json(&self, schema: &Value) -> Result<String> {
        let schema = json_schema::prepare(schema.clone(), self.params)?;
        Ok(format!("%json {schema}"))
    }

    fn one_of(&mut self, texts: &[&str]) -> String {
        let texts: Vec<String> = texts.iter().map(|text| lark_string(text)).collect();
        self.rule(&texts.join(" | "))
    }

    fn rule(&mut self, body: &str) -> String {
        let name = self.new_name();
        let _ = writeln!(self.rules, "{name}: {body}");
        name
    }

    fn new_name(&mut self) -> String {
        self.count += 1;
        format!("p{}", self.count)
    }
}

fn nested_grammar(grammar: &str) -> Result<String> {
    let lark = match ebnf::is_ebnf(grammar) {
        true => ebnf::to_lark(grammar)?,
        false => grammar.to_owned(),
    };
    Ok(format!("%lark {{\n{lark}\n}}"))
}

fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| invalid(format!("{what} must be an object")))
}

fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Value> {
    object
        .get(name)
        .ok_or_else(|| invalid(format!("{name:?} is missing")))
}

fn string<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str> {
    member(object, name)?
        .as_str()
        .ok_or_else(|| invalid(format!("{name:?} must be a string")))
}

/// A list of strings, not empty.
fn texts<'a>(value: Option<&'a Value>, name: &str) -> Result<Vec<&'a str>> {
    let texts: Option<Vec<&str>> = value
        .and_then(Value::as_array)
        .and_then(|texts| texts.iter().map(Value::as_str).collect());
    texts
        .filter(|texts| !texts.is_empty())
        .ok_or_else(|| invalid(format!("{name:?} must be a list of strings")))
}

fn elements(format: &Map<String, Value>) -> Result<&[Value]> {
    match member(format, "elements")?.as_array() {
        Some(elements) if !elements.is_empty() => Ok(elements),
        _ => Err(invalid("\"elements\" must be a list of formats")),
    }
}

fn tags(format: &Map<String, Value>) -> Result<Vec<Tag<'_>>> {
    let tags = member(format, "tags")?
        .as_array()
        .filter(|tags| !tags.is_empty())
        .ok_or_else(|| invalid("\"tags\" must be a list of tags"))?;
    tags.iter()
        .map(|tag| Tag::new(object(tag, "a tag")?))
        .collect()
}
