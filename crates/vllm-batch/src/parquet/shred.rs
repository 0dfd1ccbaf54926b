//! Rows into columns with repetition and definition levels (Melnik et al., "Dremel", 2010).

use indexmap::IndexMap;
use parquet::data_type::ByteArray;
use serde_json::{Map, Value};

use crate::parquet::schema::Kind;

/// The columns of the rows taken in so far, as a tree of nodes over flat leaves. Every node may be
/// missing, so that each one is a definition level.
pub(crate) struct Shredder {
    columns: Vec<(String, Node)>,
    leaves: Vec<Leaf>,
    num_rows: usize,
}

/// The values of one primitive column.
#[derive(Debug, PartialEq)]
pub(crate) struct Leaf {
    pub(crate) values: Values,
    pub(crate) definition_levels: Vec<i16>,
    pub(crate) repetition_levels: Vec<i16>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Values {
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Text(Vec<ByteArray>),
}

enum Node {
    Leaf(usize),
    List { level: i16, element: Box<Node> },
    Group(Vec<(String, Node)>),
}

/// Where in its record a value stands.
#[derive(Clone, Copy)]
struct Levels {
    definition: i16,
    repetition: i16,
}

impl Levels {
    fn deeper(self, by: i16) -> Self {
        Self {
            definition: self.definition + by,
            ..self
        }
    }
}

impl Shredder {
    pub(crate) fn new(columns: &IndexMap<String, Kind>) -> Self {
        let mut leaves = Vec::new();
        let columns = nodes(columns, 0, &mut leaves);
        Self {
            columns,
            leaves,
            num_rows: 0,
        }
    }

    pub(crate) fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Takes in one row; members that are no columns are left out.
    pub(crate) fn add(&mut self, row: &Map<String, Value>) {
        let top = Levels {
            definition: 0,
            repetition: 0,
        };
        for (name, node) in &self.columns {
            shred(node, row.get(name), top, &mut self.leaves);
        }
        self.num_rows += 1;
    }

    /// The leaves, in the order of the schema, which start anew.
    pub(crate) fn take(&mut self) -> Vec<Leaf> {
        self.num_rows = 0;
        self.leaves.iter_mut().map(Leaf::take).collect()
    }
}

impl Leaf {
    fn take(&mut self) -> Self {
        let empty = match &self.values {
            Values::Bool(_) => Values::Bool(Vec::new()),
            Values::Int(_) => Values::Int(Vec::new()),
            Values::Float(_) => Values::Float(Vec::new()),
            Values::Text(_) => Values::Text(Vec::new()),
        };
        std::mem::replace(self, Self::new(empty))
    }

    fn new(values: Values) -> Self {
        Self {
            values,
            definition_levels: Vec::new(),
            repetition_levels: Vec::new(),
        }
    }

    fn push(&mut self, value: &Value) {
        match &mut self.values {
            Values::Bool(values) => values.push(value.as_bool().unwrap_or_default()),
            Values::Int(values) => values.push(value.as_i64().unwrap_or_default()),
            Values::Float(values) => values.push(value.as_f64().unwrap_or_default()),
            Values::Text(values) => values.push(match value.as_str() {
                Some(text) => text.as_bytes().to_vec().into(),
                None => value.to_string().into_bytes().into(),
            }),
        }
    }
}

fn nodes(
    members: &IndexMap<String, Kind>,
    level: i16,
    leaves: &mut Vec<Leaf>,
) -> Vec<(String, Node)> {
    members
        .iter()
        .map(|(name, kind)| (name.clone(), node(kind, level, leaves)))
        .collect()
}

/// `level` is the number of lists around this node.
fn node(kind: &Kind, level: i16, leaves: &mut Vec<Leaf>) -> Node {
    let mut leaf = |values| {
        leaves.push(Leaf::new(values));
        Node::Leaf(leaves.len() - 1)
    };
    match kind {
        Kind::Bool => leaf(Values::Bool(Vec::new())),
        Kind::Int => leaf(Values::Int(Vec::new())),
        Kind::Float => leaf(Values::Float(Vec::new())),
        Kind::Text | Kind::Unknown => leaf(Values::Text(Vec::new())),
        Kind::List(inner) => Node::List {
            level: level + 1,
            element: Box::new(node(inner, level + 1, leaves)),
        },
        Kind::Group(members) => Node::Group(nodes(members, level, leaves)),
    }
}

/// Writes a value down, or that it is missing. The schema has seen every value, so that a value
/// that is there has its node's kind.
fn shred(node: &Node, value: Option<&Value>, at: Levels, leaves: &mut [Leaf]) {
    let value = value.filter(|value| !value.is_null());
    match node {
        Node::Leaf(index) => {
            let leaf = &mut leaves[*index];
            leaf.repetition_levels.push(at.repetition);
            leaf.definition_levels
                .push(at.definition + i16::from(value.is_some()));
            if let Some(value) = value {
                leaf.push(value);
            }
        }
        Node::Group(members) => {
            let object = value.and_then(Value::as_object);
            let at = at.deeper(i16::from(object.is_some()));
            for (name, member) in members {
                shred(
                    member,
                    object.and_then(|object| object.get(name)),
                    at,
                    leaves,
                );
            }
        }
        Node::List { level, element } => match value.and_then(Value::as_array) {
            None => shred(element, None, at, leaves),
            Some(items) if items.is_empty() => shred(element, None, at.deeper(1), leaves),
            Some(items) => {
                // One level says that the list is there, one that it has an item here.
                let mut at = at.deeper(2);
                for item in items {
                    shred(element, Some(item), at, leaves);
                    at.repetition = *level;
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::parquet::schema::TableSchema;

    #[test]
    fn levels_are_those_of_the_dremel_paper_with_optional_lists() {
        let rows = [
            json!({"a": [{"b": [1, 2]}, {"b": []}, null]}),
            json!({"a": []}),
            json!({}),
            json!({"a": [{"b": null}, {"b": [null, 3]}]}),
        ];
        let mut schema = TableSchema::default();
        rows.iter()
            .for_each(|row| schema.add(row.as_object().unwrap()));
        let mut shredder = Shredder::new(&schema.into_columns());
        rows.iter()
            .for_each(|row| shredder.add(row.as_object().unwrap()));
        assert_eq!(shredder.num_rows(), 4);
        let leaves = shredder.take();
        let expected = Leaf {
            values: Values::Int(vec![1, 2, 3]),
            definition_levels: vec![6, 6, 4, 2, 1, 0, 3, 5, 6],
            repetition_levels: vec![0, 2, 1, 1, 0, 0, 0, 1, 2],
        };
        assert_eq!(leaves, [expected]);
        assert_eq!(shredder.take()[0], Leaf::new(Values::Int(Vec::new())));
    }
}
