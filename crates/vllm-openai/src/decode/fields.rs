//! Reading the members of an object and keeping the errors in schema order.

use super::errors::SchemaError;
use super::python::string_repr;
use super::value::{Dict, Value};

/// Where in the body a value stands, and the errors found so far.
#[derive(Debug, Default)]
pub struct Scope {
    path: Vec<String>,
    errors: Vec<SchemaError>,
    /// Set while a reader is asked for its fields instead of being given a body.
    declared: Option<Vec<DeclaredField>>,
}

/// A field that a reader looks for.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredField {
    /// The member's name.
    pub name: String,
    /// Whether a body without it is refused.
    pub required: bool,
    /// Whether null stands for its absence.
    pub nullable: bool,
    /// What the field's decoder says about null: one error per type that it accepts, none if it
    /// accepts anything.
    pub refusals: Vec<SchemaError>,
}

/// The fields that a reader of a body looks for, in its order. The reader runs once on an empty
/// object; objects inside of fields are not described.
pub fn declared_fields<T>(read: impl FnOnce(&Dict, &mut Scope) -> T) -> Vec<DeclaredField> {
    let mut scope = Scope {
        declared: Some(Vec::new()),
        ..Scope::new()
    };
    read(&Dict::new(), &mut scope);
    scope.declared.unwrap_or_default()
}

impl Scope {
    /// A scope at the top of a body.
    pub fn new() -> Self {
        Self {
            path: vec!["body".to_owned()],
            ..Self::default()
        }
    }

    /// Runs `read` one level deeper, at member or index `segment`.
    pub fn at<T>(&mut self, segment: impl Into<String>, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(segment.into());
        let result = read(self);
        self.path.pop();
        result
    }

    /// Records an error about `input` at the present place and returns `None`.
    pub fn fail<T>(
        &mut self,
        kind: &'static str,
        message: impl Into<String>,
        input: &Value,
    ) -> Option<T> {
        self.push(SchemaError::new(kind, self.loc(), message, input))
    }

    /// Records that a check beyond types refused `input`, and returns `None`.
    pub fn refuse<T>(&mut self, message: &str, input: &Value) -> Option<T> {
        let printed = format!("ValueError({})", string_repr(message));
        let message = format!("Value error, {message}");
        let error = SchemaError::new("value_error", self.loc(), message, input);
        self.push(error.with_context("error", printed))
    }

    /// Records a ready error and returns `None`.
    pub fn push<T>(&mut self, error: SchemaError) -> Option<T> {
        self.errors.push(error);
        None
    }

    /// The dotted place.
    pub fn loc(&self) -> String {
        self.path.join(".")
    }

    /// The errors found so far.
    pub fn errors(&self) -> &[SchemaError] {
        &self.errors
    }

    /// The value when nothing was wrong, else all errors.
    ///
    /// # Errors
    /// The collected errors.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<SchemaError>> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(self.errors),
        }
    }

    /// Tries one branch of a union: its errors are returned instead of recorded.
    pub fn attempt<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, Vec<SchemaError>> {
        let earlier = std::mem::take(&mut self.errors);
        let value = read(self);
        let errors = std::mem::replace(&mut self.errors, earlier);
        match value {
            Some(value) if errors.is_empty() => Ok(value),
            _ => Err(errors),
        }
    }

    /// Records errors that came back from [`Scope::attempt`] and returns `None`.
    pub fn fail_all<T>(&mut self, errors: impl IntoIterator<Item = SchemaError>) -> Option<T> {
        self.errors.extend(errors);
        None
    }

    /// Sorts the errors by the schema's own field order (`order` holds the names), because an
    /// answer lists them in that order and names the first one as its parameter.
    pub fn sort_by_field(&mut self, order: &[&str]) {
        let depth: usize = self.path.iter().map(|segment| segment.len() + 1).sum();
        self.errors.sort_by_key(|error| {
            let field = error.loc.get(depth..).unwrap_or("");
            let field = field.split('.').next().unwrap_or(field);
            order
                .iter()
                .position(|name| *name == field)
                .unwrap_or(usize::MAX)
        });
    }
}

/// The members of one object. `null` is accepted only by [`Fields::nullable`].
pub struct Fields<'a> {
    members: &'a Dict,
    scope: &'a mut Scope,
    /// The members that the schema has, when the reader asks for more than those.
    known: Option<&'static [&'static str]>,
}

impl<'a> Fields<'a> {
    /// Reads `members`, which stand at the scope's present place.
    pub fn new(members: &'a Dict, scope: &'a mut Scope) -> Self {
        Self {
            members,
            scope,
            known: None,
        }
    }

    /// Treats members other than `names` as absent, for a schema that has only some of the fields
    /// that a shared reader looks for.
    pub fn only(mut self, names: &'static [&'static str]) -> Self {
        self.known = Some(names);
        self
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        match self.known {
            Some(known) if !known.contains(&name) => None,
            _ => self.members.get(name),
        }
    }

    /// Notes the field, if fields are asked for.
    fn declares<T, D>(
        &mut self,
        name: &str,
        required: bool,
        nullable: bool,
        decode: D,
    ) -> Result<(), D>
    where
        D: FnOnce(&Value, &mut Scope) -> Option<T>,
    {
        let Some(mut declared) = self.scope.declared.take() else {
            return Err(decode);
        };
        let is_known = self.known.is_none_or(|known| known.contains(&name));
        if is_known && !declared.iter().any(|field| field.name == name) {
            let decode = |scope: &mut Scope| scope.attempt(|scope| decode(&Value::Null, scope));
            declared.push(DeclaredField {
                name: name.to_owned(),
                required,
                nullable,
                refusals: self.scope.at(name, decode).err().unwrap_or_default(),
            });
        }
        self.scope.declared = Some(declared);
        Ok(())
    }

    /// A member that may be missing or null.
    pub fn nullable<T>(
        &mut self,
        name: &str,
        decode: impl FnOnce(&Value, &mut Scope) -> Option<T>,
    ) -> Option<T> {
        let Err(decode) = self.declares(name, false, true, decode) else {
            return None;
        };
        match self.get(name) {
            None | Some(Value::Null) => None,
            Some(value) => self.scope.at(name, |scope| decode(value, scope)),
        }
    }

    /// A member that may be missing but not null. On an error the default stands in.
    pub fn with_default<T>(
        &mut self,
        name: &str,
        default: T,
        decode: impl FnOnce(&Value, &mut Scope) -> Option<T>,
    ) -> T {
        let Err(decode) = self.declares(name, false, false, decode) else {
            return default;
        };
        match self.get(name) {
            None => default,
            Some(value) => self
                .scope
                .at(name, |scope| decode(value, scope))
                .unwrap_or(default),
        }
    }

    /// A member that must be there.
    pub fn required<T>(
        &mut self,
        name: &str,
        decode: impl FnOnce(&Value, &mut Scope) -> Option<T>,
    ) -> Option<T> {
        let Err(decode) = self.declares(name, true, false, decode) else {
            return None;
        };
        match self.get(name) {
            Some(value) => self.scope.at(name, |scope| decode(value, scope)),
            None => {
                let whole = Value::Dict(self.members.clone());
                self.scope.at(name, |scope| {
                    scope.fail("missing", "Field required", &whole)
                })
            }
        }
    }
}
