use std::collections::BTreeMap;

use crate::reader::Reader;
use crate::{Error, Result};

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any of the unsigned widths.
    Unsigned(u64),
    /// Any of the signed widths.
    Signed(i64),
    /// Either of the floating-point widths.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text; bytes that are not UTF-8 are replaced.
    String(String),
    /// Values of one kind.
    Array(Vec<Value>),
}

/// Values of all metadata together; a large vocabulary with scores and merges has a million.
const MAX_VALUES: usize = 1 << 24;

/// Arrays of arrays of values are the most that makes sense.
const MAX_DEPTH: usize = 2;

/// The metadata of a file: key to value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: BTreeMap<String, Value>,
}

impl Metadata {
    pub(crate) fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut budget = MAX_VALUES;
        for _ in 0..count {
            let key = reader.string("a metadata key")?.to_owned();
            let kind = reader.u32("the type of a metadata value")?;
            let value = read_value(reader, kind, MAX_DEPTH, &mut budget)?;
            if entries.contains_key(&key) {
                return Err(Error::Damaged(format!(
                    "metadata key '{key}' is there twice"
                )));
            }
            entries.insert(key, value);
        }
        Ok(Self { entries })
    }

    /// Metadata from entries at hand.
    pub fn from_entries(entries: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// All keys with their values, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// The text under `key`, if it is there.
    ///
    /// # Errors
    /// It is no text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "is no text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The number under `key`, not below zero, if it is there. A list of equal numbers counts as one
    /// of them: some files write per-layer lists.
    ///
    /// # Errors
    /// It is no such number, or a list of different ones.
    pub fn size(&self, key: &str) -> Result<Option<u64>> {
        self.typed(
            key,
            "is not one whole number of 0 or more",
            |value| match value {
                Value::Array(list) => {
                    let first = list.first()?;
                    let all_equal = list.iter().all(|value| value == first);
                    first.as_u64().filter(|_| all_equal)
                }
                value => value.as_u64(),
            },
        )
    }

    /// The number under `key`, if it is there.
    ///
    /// # Errors
    /// It is no finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "is not a finite number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    /// The truth value under `key`, if it is there.
    ///
    /// # Errors
    /// It is none.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "is neither true nor false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// The list under `key`, if it is there.
    ///
    /// # Errors
    /// It is no list.
    pub fn list(&self, key: &str) -> Result<Option<&[Value]>> {
        self.typed(key, "is no list", |value| match value {
            Value::Array(list) => Some(list.as_slice()),
            _ => None,
        })
    }

    /// The list of texts under `key`, if it is there.
    ///
    /// # Errors
    /// It is no list of texts.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.typed(key, "is no list of texts", |value| match value {
            Value::Array(list) => list
                .iter()
                .map(|value| match value {
                    Value::String(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        problem: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(metadata_error(key, problem)),
        }
    }
}

impl Value {
    /// The value as a whole number of 0 or more.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            Self::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The value as a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(number) => Some(*number as f64),
            Self::Signed(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }
}

pub(crate) fn metadata_error(key: &str, problem: &str) -> Error {
    Error::Metadata {
        key: key.to_owned(),
        problem: problem.to_owned(),
    }
}

/// Bytes of the smallest value of a kind; `None` for a kind that does not exist.
fn smallest_size(kind: u32) -> Option<usize> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12,
        _ => return None,
    })
}

fn read_value(
    reader: &mut Reader<'_>,
    kind: u32,
    depth: usize,
    budget: &mut usize,
) -> Result<Value> {
    const WHAT: &str = "a metadata value";
    *budget = budget
        .checked_sub(1)
        .ok_or_else(|| Error::Damaged(format!("more than {MAX_VALUES} metadata values")))?;
    Ok(match kind {
        0 => Value::Unsigned(u64::from(reader.array::<1>(WHAT)?[0])),
        1 => Value::Signed(i64::from(i8::from_le_bytes(reader.array(WHAT)?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(reader.array(WHAT)?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(reader.array(WHAT)?))),
        4 => Value::Unsigned(u64::from(reader.u32(WHAT)?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(reader.array(WHAT)?))),
        6 => Value::Float(f64::from(f32::from_le_bytes(reader.array(WHAT)?))),
        7 => Value::Bool(reader.array::<1>(WHAT)?[0] != 0),
        8 => Value::String(String::from_utf8_lossy(reader.string_bytes(WHAT)?).into_owned()),
        9 => {
            if depth == 0 {
                return Err(Error::Damaged(
                    "metadata lists are nested too deeply".to_owned(),
                ));
            }
            let kind = reader.u32("the type of a metadata list")?;
            let smallest = smallest_size(kind).ok_or_else(|| unknown_kind(kind))?;
            let count = reader.count(smallest, "the length of a metadata list")?;
            if count > *budget {
                return Err(Error::Damaged(format!(
                    "more than {MAX_VALUES} metadata values"
                )));
            }
            let values = (0..count).map(|_| read_value(reader, kind, depth - 1, budget));
            Value::Array(values.collect::<Result<_>>()?)
        }
        10 => Value::Unsigned(reader.u64(WHAT)?),
        11 => Value::Signed(i64::from_le_bytes(reader.array(WHAT)?)),
        12 => Value::Float(f64::from_le_bytes(reader.array(WHAT)?)),
        kind => return Err(unknown_kind(kind)),
    })
}

fn unknown_kind(kind: u32) -> Error {
    Error::Damaged(format!("metadata value of unknown type {kind}"))
}
