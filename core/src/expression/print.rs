//! Formats an expression as text with the same meaning.

use std::fmt::{self, Display};

use super::{Argument, Call, Comparison, Expression, Field, Test, Value};

impl Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Or(left, right) => write!(f, "{left} || {right}"),
            Self::And(left, right) => {
                grouped(left, f)?;
                f.write_str(" && ")?;
                grouped(right, f)
            }
            Self::Not(inner)
                if matches!(
                    **inner,
                    Self::Call(_) | Self::Not(_) | Self::Field(Field { test: None, .. })
                ) =>
            {
                write!(f, "!{inner}")
            }
            Self::Not(inner) => write!(f, "!({inner})"),
            Self::Call(call) => call.fmt(f),
            Self::Compare { call, operator, value } => write!(f, "{call} {operator} {value}"),
            Self::Field(field) => field.fmt(f),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.test {
            None => Ok(()),
            Some(Test::Compare(operator, value)) => write!(f, " {operator} {value}"),
            Some(Test::Matches { pattern, negated }) => {
                f.write_str(if *negated { " !~ " } else { " =~ " })?;
                quoted(pattern, f)
            }
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quoted(text, f),
            Self::Number(number) => number.fmt(f),
            Self::Duration(duration) => duration.fmt(f),
        }
    }
}

/// Adds parentheses around an operand of `&&` that binds less tightly.
fn grouped(operand: &Expression, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match operand {
        Expression::Or(..) => write!(f, "({operand})"),
        _ => operand.fmt(f),
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (index, argument) in self.arguments.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            argument.fmt(f)?;
        }
        f.write_str(")")
    }
}

impl Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => quoted(text, f),
        }
    }
}

/// Formats a string literal.
fn quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !text.contains(['`', '\r']) {
        return write!(f, "`{text}`");
    }
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        })
    }
}
