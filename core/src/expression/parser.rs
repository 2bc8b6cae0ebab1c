//! Builds an expression from tokens.

use std::ops::Range;

use super::lexer::{Lexer, Token};
use super::{Argument, Call, Expression, Field, MAX_LENGTH, MAX_NESTING, SyntaxError, Test, Value};

/// Parses a whole text.
pub(super) fn parse(text: &str, fields: bool) -> Result<Expression, SyntaxError> {
    if text.len() > MAX_LENGTH {
        let message = format!("too long: {} bytes, the maximum is {MAX_LENGTH}", text.len());
        return Err(SyntaxError { message, span: 0..0 });
    }
    let mut lexer = Lexer::new(text, fields);
    let (token, span) = lexer.next()?;
    if token == Token::End {
        return Err(SyntaxError { message: "empty expression".into(), span: 0..text.len() });
    }
    let mut parser = Parser { lexer, token, span, nesting: 0, fields };
    let expression = parser.either()?;
    match parser.token {
        Token::End => Ok(expression),
        Token::Close => parser.fail("unmatched `)`"),
        _ => parser.expected("`&&`, `||` or the end"),
    }
}

/// A parser with one token of lookahead.
struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token,
    span: Range<usize>,
    nesting: usize,
    fields: bool,
}

impl Parser<'_> {
    fn either(&mut self) -> Result<Expression, SyntaxError> {
        self.chain(&Token::Or, Self::both, Expression::Or)
    }

    fn both(&mut self) -> Result<Expression, SyntaxError> {
        self.chain(&Token::And, Self::comparison, Expression::And)
    }

    fn chain(
        &mut self,
        operator: &Token,
        operand: fn(&mut Self) -> Result<Expression, SyntaxError>,
        join: fn(Box<Expression>, Box<Expression>) -> Expression,
    ) -> Result<Expression, SyntaxError> {
        let first = operand(self)?;
        if self.token != *operator {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.token == *operator {
            self.advance()?;
            operands.push(operand(self)?);
        }
        Ok(balanced(operands, join))
    }

    fn comparison(&mut self) -> Result<Expression, SyntaxError> {
        let start = self.span.start;
        let left = self.unary()?;
        if !matches!(self.token, Token::Compare(_) | Token::Match(_)) {
            return Ok(left);
        }
        let (operator, call) = match (&self.token, left) {
            (_, Expression::Field(field)) if field.test.is_none() => return self.test(field),
            (&Token::Compare(operator), Expression::Call(call)) => (operator, call),
            (operator, _) => {
                let known = if self.fields { "a call or a field" } else { "a call" };
                let message = format!("only {known} can be on the left of {}", operator.describe());
                return Err(SyntaxError { message, span: start..self.span.end });
            }
        };
        self.advance()?;
        let Token::Number(value) = self.token else { return self.expected("a number") };
        self.advance()?;
        Ok(Expression::Compare { call, operator, value })
    }

    /// Parses the test of a field.
    fn test(&mut self, mut field: Field) -> Result<Expression, SyntaxError> {
        let operator = std::mem::replace(&mut self.token, Token::End);
        self.advance()?;
        let value = std::mem::replace(&mut self.token, Token::End);
        field.test = Some(match (operator, value) {
            (Token::Match(negated), Token::Text(pattern)) => Test::Matches { pattern, negated },
            (Token::Match(_), other) => {
                self.token = other;
                return self.expected("a pattern in quotes");
            }
            (Token::Compare(operator), value) => Test::Compare(operator, self.value(value)?),
            (operator, _) => {
                return self.fail(format!("expected a comparison, found {}", operator.describe()));
            }
        });
        self.advance()?;
        Ok(Expression::Field(field))
    }

    fn value(&mut self, token: Token) -> Result<Value, SyntaxError> {
        match token {
            Token::Text(text) => Ok(Value::Text(text)),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Duration(duration) => Ok(Value::Duration(duration)),
            other => {
                self.token = other;
                self.expected("a string, a number or a duration")
            }
        }
    }

    fn unary(&mut self) -> Result<Expression, SyntaxError> {
        match &self.token {
            Token::Not => {
                self.enter()?;
                let inner = self.unary()?;
                self.nesting -= 1;
                Ok(Expression::Not(Box::new(inner)))
            }
            Token::Open => {
                let opened = self.span.clone();
                self.enter()?;
                let inner = self.either()?;
                match self.token {
                    Token::Close => self.advance()?,
                    Token::End => {
                        return Err(SyntaxError { message: "this `(` is never closed".into(), span: opened });
                    }
                    _ => return self.expected("`&&`, `||` or `)`"),
                }
                self.nesting -= 1;
                Ok(inner)
            }
            Token::Name(_) => self.call(),
            Token::Text(_) | Token::Number(_) | Token::Duration(_) => {
                let message =
                    format!("expected a call like Host(`…`), found {} alone", self.token.describe());
                self.fail(message)
            }
            _ => self.expected("a call like Host(`…`)"),
        }
    }

    /// Parses a call, or a field if they are allowed.
    fn call(&mut self) -> Result<Expression, SyntaxError> {
        let start = self.span.start;
        let Token::Name(name) = std::mem::replace(&mut self.token, Token::End) else {
            return self.expected("a name");
        };
        let named = self.span.clone();
        self.advance()?;
        if self.token != Token::Open && self.fields {
            return Ok(Expression::Field(Field { name, test: None, span: named }));
        }
        if self.token != Token::Open {
            let message = format!("`{name}` must be called, like {name}(`…`)");
            return Err(SyntaxError { message, span: named });
        }
        self.advance()?;
        let mut arguments = Vec::new();
        while self.token != Token::Close {
            arguments.push(self.argument(&name)?);
            match self.token {
                Token::Comma => self.advance()?,
                Token::Close => {}
                Token::End => {
                    return Err(SyntaxError {
                        message: format!("the call of {name} is never closed"),
                        span: named,
                    });
                }
                _ => return self.expected("`,` or `)`"),
            }
        }
        let end = self.span.end;
        self.advance()?;
        Ok(Expression::Call(Call { name, arguments, span: start..end }))
    }

    fn argument(&mut self, of: &str) -> Result<Argument, SyntaxError> {
        let argument = match &mut self.token {
            Token::Text(text) => Argument::Text(std::mem::take(text)),
            Token::Number(number) => Argument::Number(*number),
            Token::Name(name) => {
                let message =
                    format!("the arguments of {of} are strings or numbers: write `…` around {name}");
                return self.fail(message);
            }
            _ => return self.expected(&format!("a string or a number as argument of {of}")),
        };
        self.advance()?;
        Ok(argument)
    }

    fn enter(&mut self) -> Result<(), SyntaxError> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.fail(format!("nested too deeply: the maximum is {MAX_NESTING} levels"));
        }
        self.advance()
    }

    fn advance(&mut self) -> Result<(), SyntaxError> {
        (self.token, self.span) = self.lexer.next()?;
        Ok(())
    }

    fn expected<T>(&self, what: &str) -> Result<T, SyntaxError> {
        self.fail(format!("expected {what}, found {}", self.token.describe()))
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { message: message.into(), span: self.span.clone() })
    }
}

/// Joins operands, in order, into a tree of logarithmic depth.
fn balanced(
    mut operands: Vec<Expression>,
    join: fn(Box<Expression>, Box<Expression>) -> Expression,
) -> Expression {
    while operands.len() > 1 {
        let mut pairs = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => join(Box::new(left), Box::new(right)),
                None => left,
            });
        }
        operands = pairs;
    }
    // A chain has at least one operand.
    operands
        .pop()
        .unwrap_or_else(|| Expression::Call(Call { name: String::new(), arguments: Vec::new(), span: 0..0 }))
}
