//! The schema of messages and tools.
//!
//! A message may have any of eight shapes; when it has none, the answer lists what each shape
//! misses. The shapes are data here, in the order and with the names in which they are reported.

use serde_json::{Map, Value as Json, json};

use crate::decode::{
    Dict, Fields, Scope, Value, any, boolean, dict, list_of, literal, model, string,
};
use crate::tools::ToolChoice;

/// What a member of a message may be.
#[derive(Clone, Copy)]
enum Kind {
    /// This role only.
    Role(&'static [&'static str]),
    /// A string.
    Text,
    /// A string or null.
    OptionalText,
    /// A string or a list of parts, which is looked at only when it is used.
    Content,
    /// The same, or null.
    OptionalContent,
    /// A string or a list of parts, which is looked at here.
    CheckedContent,
    /// A list or null.
    OptionalList,
    /// An object or null.
    OptionalObject,
}

struct Shape {
    name: &'static str,
    /// Name, whether it must be there, and what it may be.
    members: &'static [(&'static str, bool, Kind)],
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "ChatCompletionDeveloperMessageParam",
        members: &[
            ("content", true, Kind::Content),
            ("role", true, Kind::Role(&["developer"])),
            ("name", false, Kind::Text),
        ],
    },
    Shape {
        name: "ChatCompletionSystemMessageParam",
        members: &[
            ("content", true, Kind::Content),
            ("role", true, Kind::Role(&["system"])),
            ("name", false, Kind::Text),
        ],
    },
    Shape {
        name: "ChatCompletionUserMessageParam",
        members: &[
            ("content", true, Kind::Content),
            ("role", true, Kind::Role(&["user"])),
            ("name", false, Kind::Text),
        ],
    },
    Shape {
        name: "ChatCompletionAssistantMessageParam",
        members: &[
            ("role", true, Kind::Role(&["assistant"])),
            ("audio", false, Kind::OptionalObject),
            ("content", false, Kind::OptionalContent),
            ("function_call", false, Kind::OptionalObject),
            ("name", false, Kind::Text),
            ("refusal", false, Kind::OptionalText),
            ("tool_calls", false, Kind::OptionalList),
        ],
    },
    Shape {
        name: "ChatCompletionToolMessageParam",
        members: &[
            ("content", true, Kind::Content),
            ("role", true, Kind::Role(&["tool"])),
            ("tool_call_id", true, Kind::Text),
        ],
    },
    Shape {
        name: "ChatCompletionFunctionMessageParam",
        members: &[
            ("content", true, Kind::OptionalText),
            ("name", true, Kind::Text),
            ("role", true, Kind::Role(&["function"])),
        ],
    },
    Shape {
        name: "CustomChatCompletionMessageParam",
        members: &[
            ("role", true, Kind::Text),
            ("content", false, Kind::CheckedContent),
            ("name", false, Kind::Text),
            ("tool_call_id", false, Kind::OptionalText),
            ("tool_calls", false, Kind::OptionalList),
            ("reasoning", false, Kind::OptionalText),
            ("tools", false, Kind::OptionalList),
            ("task", false, Kind::OptionalText),
        ],
    },
];

/// The members that reach the template code; others are dropped.
const KEPT_MEMBERS: [&str; 7] = [
    "role",
    "content",
    "name",
    "tool_call_id",
    "tool_calls",
    "reasoning",
    "tools",
];

/// Decodes the `messages` list.
pub(crate) fn decode_messages(value: &Value, scope: &mut Scope) -> Option<Vec<Map<String, Json>>> {
    list_of(decode_message)(value, scope)
}

fn decode_message(value: &Value, scope: &mut Scope) -> Option<Map<String, Json>> {
    let mut errors = Vec::new();
    for shape in SHAPES {
        let attempt =
            scope.attempt(|scope| scope.at(shape.name, |scope| shape.check(value, scope)));
        match attempt {
            Ok(members) => return Some(kept_members(members)),
            Err(more) => errors.extend(more),
        }
    }
    scope.fail_all::<()>(errors);
    // The eighth shape, a structured message with an author, is never accepted; it only counts.
    scope.at("Message", |scope| {
        let mut fields = Fields::new(model(value, scope)?, scope);
        fields.required("author", dict);
        fields.required("content", list_of(any));
        None
    })
}

impl Shape {
    fn check<'a>(&self, value: &'a Value, scope: &mut Scope) -> Option<&'a Dict> {
        let Value::Dict(members) = value else {
            return scope.fail("dict_type", "Input should be a valid dictionary", value);
        };
        let mut fields = Fields::new(members, scope);
        let mut good = true;
        for (name, is_required, kind) in self.members {
            let fits = match is_required {
                true => fields
                    .required(name, |value, scope| kind.check(value, scope))
                    .is_some(),
                false => {
                    let present = members.contains_key(*name);
                    let checked = fields.with_default(name, None, |value, scope| {
                        kind.check(value, scope).map(Some)
                    });
                    !present || checked.is_some()
                }
            };
            good &= fits;
        }
        good.then_some(members)
    }
}

impl Kind {
    fn check(self, value: &Value, scope: &mut Scope) -> Option<()> {
        let is_null = *value == Value::Null;
        match self {
            Kind::Role(role) => literal(role)(value, scope).map(drop),
            Kind::OptionalText | Kind::OptionalContent if is_null => Some(()),
            Kind::OptionalList | Kind::OptionalObject if is_null => Some(()),
            Kind::Text | Kind::OptionalText => string(value, scope).map(drop),
            Kind::OptionalObject => dict(value, scope).map(drop),
            Kind::OptionalList => list_of(any)(value, scope).map(drop),
            Kind::Content | Kind::OptionalContent => match value {
                Value::String(_) | Value::List(_) | Value::Dict(_) => Some(()),
                other => {
                    scope.fail::<()>("string_type", "Input should be a valid string", other);
                    scope.fail("iterable_type", "Input should be iterable", other)
                }
            },
            Kind::CheckedContent => match value {
                Value::String(_) => Some(()),
                Value::List(_) => list_of(content_part)(value, scope).map(drop),
                other => {
                    scope.fail::<()>("string_type", "Input should be a valid string", other);
                    scope.fail("list_type", "Input should be a valid list", other)
                }
            },
        }
    }
}

fn content_part(value: &Value, scope: &mut Scope) -> Option<()> {
    match value {
        Value::Dict(_) | Value::String(_) => Some(()),
        other => scope.fail("dict_type", "Input should be a valid dictionary", other),
    }
}

fn kept_members(members: &Dict) -> Map<String, Json> {
    let mut kept = Map::new();
    for name in KEPT_MEMBERS {
        if let Some(value) = members.get(name) {
            kept.insert(name.to_owned(), value.to_json());
        }
    }
    // The older name of the reasoning text, unless the newer one is given.
    let has_reasoning = kept
        .get("reasoning")
        .is_some_and(|reasoning| !reasoning.is_null());
    if !has_reasoning && let Some(text @ Value::String(_)) = members.get("reasoning_content") {
        kept.insert("reasoning".to_owned(), text.to_json());
    }
    kept
}

/// Decodes the `tools` list into what templates get: known members only, absent ones null, and
/// `strict` and `defer_loading` only when given.
pub(crate) fn decode_tools(value: &Value, scope: &mut Scope) -> Option<Vec<Json>> {
    list_of(decode_tool)(value, scope)
}

fn decode_tool(value: &Value, scope: &mut Scope) -> Option<Json> {
    let members = model(value, scope)?;
    let mut fields = Fields::new(members, scope);
    fields.with_default("type", "function", literal(&["function"]));
    let function = fields.required("function", decode_function);
    let defer_loading = fields.nullable("defer_loading", boolean);
    let mut function = function?;
    if let Some(defer) = defer_loading {
        function.entry("defer_loading").or_insert(defer.into());
    }
    let mut tool = Map::new();
    tool.insert("type".to_owned(), "function".into());
    tool.insert("function".to_owned(), Json::Object(function));
    if let Some(defer) = defer_loading {
        tool.insert("defer_loading".to_owned(), defer.into());
    }
    Some(Json::Object(tool))
}

/// Decodes the description of one function; the members may stand beside others.
pub(crate) fn decode_function(value: &Value, scope: &mut Scope) -> Option<Map<String, Json>> {
    let members = model(value, scope)?;
    let mut fields = Fields::new(members, scope);
    let name = fields.required("name", string);
    let description = fields.nullable("description", string);
    let parameters = fields.nullable("parameters", dict);
    let flags = [
        ("strict", fields.nullable("strict", boolean)),
        ("defer_loading", fields.nullable("defer_loading", boolean)),
    ];
    let mut function = Map::new();
    function.insert("name".to_owned(), name?.into());
    function.insert("description".to_owned(), json!(description));
    function.insert("parameters".to_owned(), json!(parameters));
    for (name, flag) in flags {
        if let Some(flag) = flag {
            function.insert(name.to_owned(), flag.into());
        }
    }
    Some(function)
}

/// Decodes `tool_choice`; its obvious mistakes were refused before.
pub(crate) fn decode_tool_choice(value: &Value, scope: &mut Scope) -> Option<ToolChoice> {
    if let Value::Dict(members) = value {
        let named = scope.attempt(|scope| {
            scope.at("ChatCompletionNamedToolChoiceParam", |scope| {
                let mut fields = Fields::new(members, scope);
                let name = fields.required("function", |value, scope| {
                    let members = model(value, scope)?;
                    Fields::new(members, scope).required("name", string)
                });
                fields.with_default("type", "function", literal(&["function"]));
                name
            })
        });
        return match named {
            Ok(name) => Some(ToolChoice::Named(name)),
            Err(errors) => {
                for choice in [&["none"], &["auto"], &["required"]] {
                    literal(choice)(value, scope);
                }
                scope.fail_all(errors)
            }
        };
    }
    match literal(&["none", "auto", "required"])(value, scope)? {
        "auto" => Some(ToolChoice::Auto),
        "required" => Some(ToolChoice::Required),
        _ => Some(ToolChoice::None),
    }
}
