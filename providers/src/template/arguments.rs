//! Converts the arguments of a function to the types it expects.

use std::collections::BTreeMap;

use super::function_error::FunctionError;
use super::value::Value;

/// The result of a function.
pub(super) type Outcome = Result<Value, FunctionError>;

#[derive(Clone, Copy)]
pub(super) struct Args<'a>(pub(super) &'a [Value]);

impl<'a> Args<'a> {
    pub(super) fn get(self, index: usize) -> Result<&'a Value, FunctionError> {
        self.0.get(index).ok_or(FunctionError::TooFewArguments { given: self.0.len() })
    }

    pub(super) fn last(self) -> Result<&'a Value, FunctionError> {
        self.0.last().ok_or(FunctionError::NoArgument)
    }

    /// Returns an argument as text; numbers and booleans are formatted, nil is empty.
    pub(super) fn text(self, index: usize) -> Result<String, FunctionError> {
        match self.get(index)? {
            value @ (Value::List(_) | Value::Map(_)) => Err(unexpected("text", value)),
            value => Ok(value.to_string()),
        }
    }

    pub(super) fn int(self, index: usize) -> Result<i64, FunctionError> {
        self.get(index).and_then(int)
    }

    pub(super) fn list(self, index: usize) -> Result<&'a [Value], FunctionError> {
        match self.get(index)? {
            Value::List(list) => Ok(list),
            Value::Nil => Ok(&[]),
            other => Err(unexpected("a list", other)),
        }
    }

    pub(super) fn map(self, index: usize) -> Result<&'a BTreeMap<String, Value>, FunctionError> {
        match self.get(index)? {
            Value::Map(map) => Ok(map),
            other => Err(unexpected("a table", other)),
        }
    }
}

pub(super) fn unexpected(expected: &'static str, actual: &Value) -> FunctionError {
    FunctionError::Type { expected, actual: actual.kind() }
}

pub(super) fn text(value: impl Into<String>) -> Outcome {
    Ok(Value::Text(value.into()))
}

pub(super) fn int(value: &Value) -> Result<i64, FunctionError> {
    Ok(match value {
        Value::Int(value) => *value,
        #[expect(clippy::cast_possible_truncation, reason = "saturates, as wanted")]
        Value::Float(value) => *value as i64,
        Value::Bool(value) => i64::from(*value),
        Value::Text(text) => text.trim().parse().unwrap_or(0),
        other => return Err(unexpected("a number", other)),
    })
}
