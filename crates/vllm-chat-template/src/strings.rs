//! Methods of Python's `str`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::arguments::Arguments;

/// The widest padding a template may ask for.
const MAX_WIDTH: usize = 1 << 16;

/// Digits of the widest field of `str.format`.
const MAX_WIDTH_DIGITS: usize = 5;

/// Calls `text.method(*arguments)`.
pub(crate) fn call(
    state: &State,
    text: &str,
    method: &str,
    mut arguments: Arguments<'_>,
) -> Result<Value, Error> {
    let result = match method {
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "title" => Value::from(title(text)),
        "capitalize" => Value::from(capitalize(text)),
        "swapcase" => Value::from(swapcase(text)),
        "strip" | "lstrip" | "rstrip" => {
            let characters = arguments.optional_not_none("chars")?;
            let strips = match &characters {
                None => None,
                Some(value) => match value.as_str() {
                    Some(characters) => Some(characters),
                    None => return Err(arguments.error("takes None or a string")),
                },
            };
            Value::from(strip(text, strips, method != "rstrip", method != "lstrip"))
        }
        "split" | "rsplit" => {
            let separator = arguments.optional_not_none("sep")?;
            let limit = arguments.optional_integer("maxsplit")?;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok());
            let separator = match &separator {
                None => None,
                Some(value) => match value.as_str() {
                    None => return Err(arguments.error("takes None or a string")),
                    Some("") => return Err(arguments.error("got an empty separator")),
                    separator => separator,
                },
            };
            let parts = match separator {
                Some(separator) => split_at(text, separator, limit, method == "rsplit"),
                None => split_blanks(text, limit, method == "rsplit"),
            };
            parts.into_iter().map(Value::from).collect()
        }
        "splitlines" => {
            let keep_ends = arguments.flag("keepends", false)?;
            split_lines(text, keep_ends)
                .into_iter()
                .map(Value::from)
                .collect()
        }
        "partition" | "rpartition" => {
            let separator = arguments.required_text("sep")?;
            let separator = separator.as_str().filter(|separator| !separator.is_empty());
            let Some(separator) = separator else {
                return Err(arguments.error("got an empty separator"));
            };
            let from_right = method == "rpartition";
            let found = if from_right {
                text.rsplit_once(separator)
            } else {
                text.split_once(separator)
            };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if from_right => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "startswith" | "endswith" => {
            let affix = arguments.required("prefix")?;
            let range = range_argument(text, &mut arguments)?;
            let part = range.map(|(start, end)| &text[start..end]);
            let matches = |affix: &str| match part {
                Some(part) if method == "startswith" => part.starts_with(affix),
                Some(part) => part.ends_with(affix),
                None => false,
            };
            Value::from(match affix.as_str() {
                Some(affix) => matches(affix),
                None if affix.is_tuple() => {
                    let mut any = false;
                    for affix in affix.try_iter()? {
                        match affix.as_str() {
                            Some(affix) => any |= matches(affix),
                            None => return Err(arguments.error("takes strings only")),
                        }
                    }
                    any
                }
                None => return Err(arguments.error("takes a string or a tuple of strings")),
            })
        }
        "removeprefix" => {
            let prefix = arguments.required_text("prefix")?;
            Value::from(
                text.strip_prefix(prefix.as_str().unwrap_or_default())
                    .unwrap_or(text),
            )
        }
        "removesuffix" => {
            let suffix = arguments.required_text("suffix")?;
            Value::from(
                text.strip_suffix(suffix.as_str().unwrap_or_default())
                    .unwrap_or(text),
            )
        }
        "replace" => {
            let old = arguments.required_text("old")?;
            let new = arguments.required_text("new")?;
            let count = arguments.optional_integer("count")?;
            let (old, new) = (
                old.as_str().unwrap_or_default(),
                new.as_str().unwrap_or_default(),
            );
            replace(state, text, old, new, count)?
        }
        "find" | "rfind" | "index" | "rindex" => {
            let wanted = arguments.required_text("sub")?;
            let wanted = wanted.as_str().unwrap_or_default();
            let found = range_argument(text, &mut arguments)?.and_then(|(start, end)| {
                let part = &text[start..end];
                let at = if method.starts_with('r') {
                    part.rfind(wanted)
                } else {
                    part.find(wanted)
                };
                at.map(|at| text[..start + at].chars().count())
            });
            match found {
                Some(at) => Value::from(at),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(arguments.error("did not find the substring")),
            }
        }
        "count" => {
            let wanted = arguments.required_text("sub")?;
            let wanted = wanted.as_str().unwrap_or_default();
            let range = range_argument(text, &mut arguments)?;
            Value::from(range.map_or(0, |(start, end)| text[start..end].matches(wanted).count()))
        }
        "join" => {
            let items = arguments.required("iterable")?;
            join(state, text, &items, &arguments)?
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let width = arguments.required("width")?;
            let width = usize::try_from(i64::try_from(width)?).unwrap_or(0);
            if width > MAX_WIDTH {
                return Err(arguments.error(format_args!("pads to at most {MAX_WIDTH}")));
            }
            let fill = if method == "zfill" {
                None
            } else {
                arguments.optional("fillchar")?
            };
            let fill = match &fill {
                None => ' ',
                Some(value) => {
                    let mut characters = value.as_str().unwrap_or_default().chars();
                    match (characters.next(), characters.next()) {
                        (Some(fill), None) => fill,
                        _ => return Err(arguments.error("fills with one character")),
                    }
                }
            };
            Value::from(pad(text, method, width, fill))
        }
        "format" => return brace_format(text, arguments),
        "isspace" => all(text, is_space),
        "isdigit" | "isdecimal" | "isnumeric" => all(text, char::is_numeric),
        "isalpha" => all(text, char::is_alphabetic),
        "isalnum" => all(text, char::is_alphanumeric),
        "isascii" => Value::from(text.is_ascii()),
        "islower" => cased(text, char::is_lowercase, char::is_uppercase),
        "isupper" => cased(text, char::is_uppercase, char::is_lowercase),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    arguments.finish()?;
    Ok(result)
}

/// Whitespace as Python sees it: Unicode's, and the four ASCII separators.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// `str.strip` and its one-sided forms; without characters, whitespace goes.
pub(crate) fn strip<'t>(
    text: &'t str,
    characters: Option<&str>,
    left: bool,
    right: bool,
) -> &'t str {
    let goes = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => is_space(character),
    };
    let text = if left {
        text.trim_start_matches(goes)
    } else {
        text
    };
    if right {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

/// `str.replace`, with the text it creates paid for beforehand.
fn replace(
    state: &State,
    text: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
) -> Result<Value, Error> {
    // A negative count replaces everything.
    let count = count.map_or(usize::MAX, |count| {
        usize::try_from(count).unwrap_or(usize::MAX)
    });
    let replaced = count.min(text.matches(old).count());
    state.consume_fuel((replaced.saturating_mul(new.len()) / 64) as u64)?;
    Ok(Value::from(text.replacen(old, new, count)))
}

fn join(
    state: &State,
    separator: &str,
    items: &Value,
    arguments: &Arguments<'_>,
) -> Result<Value, Error> {
    let mut joined = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        if index > 0 {
            joined.push_str(separator);
        }
        match item.as_str() {
            Some(text) => joined.push_str(text),
            None => {
                let kind = item.kind();
                return Err(arguments.error(format_args!("got item {index} of type {kind}")));
            }
        }
        state.consume_fuel(1 + (separator.len() / 64) as u64)?;
    }
    Ok(Value::from(joined))
}

/// The optional `start` and `end` arguments as a byte range; none if they exclude one another.
fn range_argument(
    text: &str,
    arguments: &mut Arguments<'_>,
) -> Result<Option<(usize, usize)>, Error> {
    let start = arguments.optional_integer("start")?;
    let end = arguments.optional_integer("end")?;
    if start.is_none() && end.is_none() {
        return Ok(Some((0, text.len())));
    }
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let absolute = |index: i64| {
        if index < 0 {
            (index + length).max(0)
        } else {
            index
        }
    };
    let (start, end) = (
        absolute(start.unwrap_or(0)),
        absolute(end.unwrap_or(length)).min(length),
    );
    let byte_offset = |index: i64| {
        let index = usize::try_from(index).unwrap_or(0);
        text.char_indices()
            .nth(index)
            .map_or(text.len(), |(offset, _)| offset)
    };
    Ok((start <= end).then(|| (byte_offset(start), byte_offset(end))))
}

fn split_at<'t>(
    text: &'t str,
    separator: &str,
    limit: Option<usize>,
    from_right: bool,
) -> Vec<&'t str> {
    let pieces = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    if from_right {
        let mut parts: Vec<_> = text.rsplitn(pieces, separator).collect();
        parts.reverse();
        parts
    } else {
        text.splitn(pieces, separator).collect()
    }
}

/// Splits at runs of whitespace; the piece that a limit leaves whole keeps its outer blanks.
fn split_blanks(text: &str, limit: Option<usize>, from_right: bool) -> Vec<&str> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = strip(text, None, !from_right, from_right);
    while !rest.is_empty() {
        let at = if from_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        let (Some(at), true) = (at, parts.len() < limit) else {
            parts.push(rest);
            break;
        };
        if from_right {
            let after = &rest[at..];
            parts.push(strip(after, None, true, false));
            rest = strip(&rest[..at], None, false, true);
        } else {
            parts.push(&rest[..at]);
            rest = strip(&rest[at..], None, true, false);
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// `str.splitlines`.
pub(crate) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    const BREAKS: [char; 10] = [
        '\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}',
    ];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(BREAKS).unwrap_or(rest.len());
        let break_length = match rest[at..].chars().next() {
            Some('\r') if rest[at..].starts_with("\r\n") => 2,
            Some(character) => character.len_utf8(),
            None => 0,
        };
        lines.push(&rest[..if keep_ends { at + break_length } else { at }]);
        rest = &rest[at + break_length..];
    }
    lines
}

fn title(text: &str) -> String {
    let mut after_letter = false;
    let mut titled = String::with_capacity(text.len());
    for character in text.chars() {
        if after_letter {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        after_letter = character.is_lowercase() || character.is_uppercase();
    }
    titled
}

fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first
            .to_uppercase()
            .chain(characters.as_str().to_lowercase().chars())
            .collect(),
        None => String::new(),
    }
}

fn swapcase(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_uppercase() {
            swapped.extend(character.to_lowercase());
        } else {
            swapped.extend(character.to_uppercase());
        }
    }
    swapped
}

fn pad(text: &str, method: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let fill_with = |count: usize, fill: char| std::iter::repeat_n(fill, count).collect::<String>();
    match method {
        "ljust" => format!("{text}{}", fill_with(missing, fill)),
        "rjust" => format!("{}{text}", fill_with(missing, fill)),
        "zfill" => {
            let digits = text.trim_start_matches(['+', '-']);
            // Only the first sign moves in front of the zeros.
            let sign = if digits.len() < text.len() {
                &text[..1]
            } else {
                ""
            };
            format!("{sign}{}{}", fill_with(missing, '0'), &text[sign.len()..])
        }
        _ => {
            // Python puts the odd blank on the left when the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!(
                "{}{text}{}",
                fill_with(left, fill),
                fill_with(missing - left, fill)
            )
        }
    }
}

fn all(text: &str, accepts: impl Fn(char) -> bool) -> Value {
    Value::from(!text.is_empty() && text.chars().all(accepts))
}

fn cased(text: &str, wanted: fn(char) -> bool, unwanted: fn(char) -> bool) -> Value {
    Value::from(text.chars().any(wanted) && !text.chars().any(unwanted))
}

/// `text % operand`: printf-style formatting.
pub(crate) fn percent_format(
    state: &mut State,
    text: &str,
    operand: &Value,
) -> Result<Value, Error> {
    let mut arguments = vec![Value::from(text)];
    match operand.kind() {
        ValueKind::Map => {
            let entries: Result<Kwargs, Error> = operand
                .try_iter()?
                .map(|key| Ok((key.to_string(), operand.get_item(&key)?)))
                .collect();
            arguments.push(entries?.into());
        }
        _ if operand.is_tuple() => arguments.extend(operand.try_iter()?),
        _ => arguments.push(operand.clone()),
    }
    // The engine's filter checks a width before it pads, unlike the function beneath it.
    state.apply_filter("format", &arguments)
}

/// `text.format(*arguments)`.
fn brace_format(text: &str, arguments: Arguments<'_>) -> Result<Value, Error> {
    // The engine allocates whatever width a field asks for.
    let longest_number = text
        .split(|character: char| !character.is_ascii_digit())
        .map(str::len);
    if text.contains('{') && longest_number.max().unwrap_or(0) > MAX_WIDTH_DIGITS {
        return Err(arguments.error(format_args!("pads to at most {MAX_WIDTH_DIGITS} digits")));
    }
    format(FormatStyle::StrFormat, text, &arguments.into_values()).map(Value::from)
}
