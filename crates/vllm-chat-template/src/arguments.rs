//! Arguments of filters and methods, bound by position or by name as Python binds them.

use minijinja::value::{Kwargs, Rest, from_args};
use minijinja::{Error, ErrorKind, Value};

/// The arguments of one call.
pub(crate) struct Arguments<'a> {
    callee: &'a str,
    positional: Vec<Value>,
    named: Kwargs,
    taken: usize,
}

impl<'a> Arguments<'a> {
    /// Takes the raw argument list of a call, in which the named ones come last as one value.
    pub(crate) fn from_slice(callee: &'a str, arguments: &[Value]) -> Result<Self, Error> {
        let (positional, named): (Rest<Value>, Kwargs) = from_args(arguments)?;
        Ok(Self::new(callee, positional, named))
    }

    /// Takes the arguments of a filter.
    pub(crate) fn new(callee: &'a str, positional: Rest<Value>, named: Kwargs) -> Self {
        Self {
            callee,
            positional: positional.0,
            named,
            taken: 0,
        }
    }

    /// The next parameter, which may be given by position or as `name=`.
    pub(crate) fn optional(&mut self, name: &str) -> Result<Option<Value>, Error> {
        let positional = self.positional.get(self.taken).cloned();
        self.taken += 1;
        match positional {
            Some(value) => Ok(Some(value)),
            None if self.named.has(name) => self.named.get::<Value>(name).map(Some),
            None => Ok(None),
        }
    }

    /// The next parameter, with `None` counting as absent.
    pub(crate) fn optional_not_none(&mut self, name: &str) -> Result<Option<Value>, Error> {
        Ok(self.optional(name)?.filter(|value| !value.is_none()))
    }

    /// The next parameter, which must be given.
    pub(crate) fn required(&mut self, name: &str) -> Result<Value, Error> {
        match self.optional(name)? {
            Some(value) => Ok(value),
            None => Err(self.error(format_args!("missing a required argument: '{name}'"))),
        }
    }

    /// The next parameter as a truth value.
    pub(crate) fn flag(&mut self, name: &str, default: bool) -> Result<bool, Error> {
        Ok(self
            .optional(name)?
            .map_or(default, |value| value.is_true()))
    }

    /// The next parameter as an integer.
    pub(crate) fn optional_integer(&mut self, name: &str) -> Result<Option<i64>, Error> {
        self.optional_not_none(name)?.map(i64::try_from).transpose()
    }

    /// The next parameter as text.
    pub(crate) fn required_text(&mut self, name: &str) -> Result<Value, Error> {
        let value = self.required(name)?;
        match value.as_str() {
            Some(_) => Ok(value),
            None => Err(self.error(format_args!("argument '{name}' must be a string"))),
        }
    }

    /// Refuses arguments that no parameter took.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.positional.len() > self.taken {
            let message = format_args!(
                "takes at most {} arguments ({} given)",
                self.taken,
                self.positional.len()
            );
            return Err(self.error(message));
        }
        self.named.assert_all_used()
    }

    /// All arguments as the engine passes them.
    pub(crate) fn into_values(self) -> Vec<Value> {
        let mut values = self.positional;
        if self.named.args().next().is_some() {
            values.push(self.named.into());
        }
        values
    }

    /// An error that names the callee.
    pub(crate) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("{}() {message}", self.callee),
        )
    }
}
