//! The types of a table, found in its values.

use std::sync::Arc;

use indexmap::IndexMap;
use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::errors::Result;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};

/// A group with more members than this is a dictionary rather than a structure, and is written as
/// JSON text, so that the schema stays small whatever the rows hold.
const MAX_MEMBERS: usize = 256;

/// What the values of a column have in common. Every value may be missing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// No value so far.
    Unknown,
    Bool,
    Int,
    Float,
    /// Text, and values of several kinds as JSON text.
    Text,
    List(Box<Kind>),
    Group(IndexMap<String, Kind>),
}

/// The columns of a table.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TableSchema {
    columns: IndexMap<String, Kind>,
}

impl TableSchema {
    /// Takes in one row.
    pub(crate) fn add(&mut self, row: &Map<String, Value>) {
        add_members(&mut self.columns, row);
    }

    /// The columns, each with a kind that has a type in the file.
    pub(crate) fn into_columns(self) -> IndexMap<String, Kind> {
        let settled = |(name, kind): (String, Kind)| (name, kind.settled());
        self.columns.into_iter().map(settled).collect()
    }
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Unknown,
            Value::Bool(_) => Self::Bool,
            Value::Number(number) if number.is_i64() => Self::Int,
            Value::Number(_) => Self::Float,
            Value::String(_) => Self::Text,
            Value::Array(items) => {
                let mut inner = Self::Unknown;
                items.iter().for_each(|item| inner.add(item));
                Self::List(Box::new(inner))
            }
            Value::Object(members) => {
                let mut group = IndexMap::new();
                add_members(&mut group, members);
                Self::Group(group).limited()
            }
        }
    }

    /// Takes in one value.
    fn add(&mut self, value: &Value) {
        match (&mut *self, value) {
            (_, Value::Null) => return,
            (Self::List(inner), Value::Array(items)) => {
                items.iter().for_each(|item| inner.add(item));
                return;
            }
            (Self::Group(group), Value::Object(members)) => add_members(group, members),
            (Self::Unknown, value) => *self = Self::of(value),
            (Self::Text, _) => return,
            (kind, value) => match (kind, Self::of(value)) {
                (Self::Bool, Self::Bool) | (Self::Int | Self::Float, Self::Int) => {}
                (kind @ (Self::Int | Self::Float), Self::Float) => *kind = Self::Float,
                (kind, _) => *kind = Self::Text,
            },
        }
        let whole = std::mem::replace(self, Self::Unknown);
        *self = whole.limited();
    }

    fn limited(self) -> Self {
        match self {
            Self::Group(group) if group.len() > MAX_MEMBERS => Self::Text,
            other => other,
        }
    }

    /// Parquet has no columns without a type and no groups without members.
    fn settled(self) -> Self {
        match self {
            Self::Unknown => Self::Text,
            Self::List(inner) => Self::List(Box::new(inner.settled())),
            Self::Group(group) if group.is_empty() => Self::Text,
            Self::Group(group) => {
                let settled = |(name, kind): (String, Self)| (name, kind.settled());
                Self::Group(group.into_iter().map(settled).collect())
            }
            other => other,
        }
    }
}

fn add_members(group: &mut IndexMap<String, Kind>, members: &Map<String, Value>) {
    for (name, value) in members {
        match group.get_mut(name) {
            Some(kind) => kind.add(value),
            None => {
                group.insert(name.clone(), Kind::of(value));
            }
        }
    }
}

/// The schema of the file.
pub(crate) fn message_type(columns: &IndexMap<String, Kind>) -> Result<TypePtr> {
    let fields = columns.iter().map(|(name, kind)| field(name, kind));
    let fields = fields.collect::<Result<Vec<_>>>()?;
    let message = Type::group_type_builder("schema").with_fields(fields);
    message.build().map(Arc::new)
}

fn field(name: &str, kind: &Kind) -> Result<TypePtr> {
    let primitive = |physical, logical| {
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical)
            .build()
            .map(Arc::new)
    };
    let group = |name, repetition, logical, fields| {
        Type::group_type_builder(name)
            .with_repetition(repetition)
            .with_logical_type(logical)
            .with_fields(fields)
            .build()
            .map(Arc::new)
    };
    match kind {
        Kind::Bool => primitive(PhysicalType::BOOLEAN, None),
        Kind::Int => primitive(PhysicalType::INT64, None),
        Kind::Float => primitive(PhysicalType::DOUBLE, None),
        Kind::Text | Kind::Unknown => {
            primitive(PhysicalType::BYTE_ARRAY, Some(LogicalType::String))
        }
        Kind::List(inner) => {
            let element = vec![field("element", inner)?];
            let list = vec![group("list", Repetition::REPEATED, None, element)?];
            group(name, Repetition::OPTIONAL, Some(LogicalType::List), list)
        }
        Kind::Group(members) => {
            let members = members.iter().map(|(name, kind)| field(name, kind));
            let members = members.collect::<Result<Vec<_>>>()?;
            group(name, Repetition::OPTIONAL, None, members)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(values: Value) -> Kind {
        let mut schema = TableSchema::default();
        for value in values.as_array().unwrap() {
            schema.add(json!({"a": value}).as_object().unwrap());
        }
        schema.into_columns().swap_remove("a").unwrap()
    }

    fn list(inner: Kind) -> Kind {
        Kind::List(Box::new(inner))
    }

    fn group(members: &[(&str, Kind)]) -> Kind {
        let members = members.iter().cloned();
        Kind::Group(
            members
                .map(|(name, kind)| (name.to_owned(), kind))
                .collect(),
        )
    }

    #[test]
    fn values_of_one_kind_have_a_type() {
        assert_eq!(kind(json!([true, null, false])), Kind::Bool);
        assert_eq!(kind(json!([null, 1, -2])), Kind::Int);
        assert_eq!(kind(json!([1, 2.5, 3])), Kind::Float);
        assert_eq!(kind(json!([u64::MAX])), Kind::Float);
        assert_eq!(kind(json!(["a"])), Kind::Text);
        assert_eq!(kind(json!([[], [1], null, [2.5]])), list(Kind::Float));
        assert_eq!(
            kind(json!([{"x": 1}, {"y": [{"z": true}]}, {"x": null}])),
            group(&[("x", Kind::Int), ("y", list(group(&[("z", Kind::Bool)])))]),
        );
    }

    #[test]
    fn values_of_several_kinds_or_none_are_text() {
        for values in [
            json!([1, "a"]),
            json!([true, 1]),
            json!([[1], 1]),
            json!([{"x": 1}, [1]]),
            json!([null]),
            json!([{}]),
            json!(["a", 1, [1]]),
            json!([1, {"x": 1}]),
        ] {
            assert_eq!(kind(values.clone()), Kind::Text, "{values}");
        }
        assert_eq!(kind(json!([[], []])), list(Kind::Text));
        assert_eq!(kind(json!([[1, "a"]])), list(Kind::Text));
    }

    #[test]
    fn a_dictionary_with_ever_new_keys_does_not_grow() {
        let mut schema = TableSchema::default();
        for number in 0..10_000 {
            schema.add(json!({"a": {number.to_string(): 1}}).as_object().unwrap());
        }
        assert_eq!(schema.columns["a"], Kind::Text);
    }
}
