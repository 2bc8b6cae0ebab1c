//! Conditions on measured values: an expression whose functions have been resolved.

use tidegate_core::BuildError;
use tidegate_core::expression::{self, Argument, Call, Comparison, Expression};

/// A condition on values of type `V`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition<V> {
    And(Box<Condition<V>>, Box<Condition<V>>),
    Or(Box<Condition<V>>, Box<Condition<V>>),
    Not(Box<Condition<V>>),
    /// The value is not zero.
    Holds(V),
    /// The value compares this way with a number.
    Compare(V, Comparison, f64),
}

/// Resolves a call.
pub(crate) type Lookup<'a, V> = dyn Fn(&Call) -> Result<(V, ReturnType), BuildError> + 'a;

/// The type that a function returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReturnType {
    /// A boolean: stands alone.
    Bool,
    /// A number: must be compared.
    Number,
}

impl<V> Condition<V> {
    /// Parses `text`; `function` resolves each call with its arguments.
    pub(crate) fn parse(text: &str, function: &Lookup<'_, V>) -> Result<Self, BuildError> {
        let expression = expression::parse(text).map_err(|error| {
            BuildError::new(format!("invalid expression `{text}` at {}", error.located(text)))
        })?;
        Self::from_expression(&expression, function)
    }

    fn from_expression(expression: &Expression, function: &Lookup<'_, V>) -> Result<Self, BuildError> {
        let inner = |expression: &Expression| Self::from_expression(expression, function).map(Box::new);
        Ok(match expression {
            Expression::And(left, right) => Self::And(inner(left)?, inner(right)?),
            Expression::Or(left, right) => Self::Or(inner(left)?, inner(right)?),
            Expression::Not(negated) => Self::Not(inner(negated)?),
            Expression::Call(call) => match function(call)? {
                (value, ReturnType::Bool) => Self::Holds(value),
                _ => {
                    return Err(BuildError::new(format!(
                        "{} returns a number and must be compared with one",
                        call.name
                    )));
                }
            },
            Expression::Field(field) => {
                return Err(BuildError::new(format!("`{}` must be called", field.name)));
            }
            Expression::Compare { call, operator, value: number } => match function(call)? {
                (value, ReturnType::Number) => Self::Compare(value, *operator, *number),
                _ => {
                    return Err(BuildError::new(format!(
                        "{} is true or false and cannot be compared",
                        call.name
                    )));
                }
            },
        })
    }

    /// Evaluates the condition with the values from `measure`. Any number but 0 is true.
    pub(crate) fn holds(&self, measure: &dyn Fn(&V) -> f64) -> bool {
        match self {
            Self::And(left, right) => left.holds(measure) && right.holds(measure),
            Self::Or(left, right) => left.holds(measure) || right.holds(measure),
            Self::Not(inner) => !inner.holds(measure),
            Self::Holds(value) => measure(value) != 0.0,
            Self::Compare(value, operator, number) => {
                let value = measure(value);
                match operator {
                    Comparison::Less => value < *number,
                    Comparison::LessOrEqual => value <= *number,
                    Comparison::Greater => value > *number,
                    Comparison::GreaterOrEqual => value >= *number,
                    Comparison::Equal => value == *number,
                    Comparison::NotEqual => value != *number,
                }
            }
        }
    }
}

/// Returns the arguments of a call, which must be `N` numbers.
pub(crate) fn numbers<const N: usize>(call: &Call) -> Result<[f64; N], BuildError> {
    let numbers: Vec<f64> = call
        .arguments
        .iter()
        .filter_map(|argument| match argument {
            Argument::Number(number) => Some(*number),
            Argument::Text(_) => None,
        })
        .collect();
    match <[f64; N]>::try_from(numbers) {
        Ok(numbers) if call.arguments.len() == N => Ok(numbers),
        _ => Err(BuildError::new(format!("{} takes {N} numbers", call.name))),
    }
}

/// Returns the error for a function that does not exist.
pub(crate) fn unknown(call: &Call, known: &[&str]) -> BuildError {
    let hint = match expression::nearest(&call.name, known.iter().copied()) {
        Some(name) => format!(": did you mean `{name}`?"),
        None => format!(": expected one of {}", known.join(", ")),
    };
    BuildError::new(format!("unknown function `{}`{hint}", call.name))
}
