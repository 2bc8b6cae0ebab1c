//! Parses templates into nodes.

use super::value::Value;
use super::{TemplateError, functions};

/// Maximum nesting depth of blocks and parentheses.
const MAX_DEPTH: usize = 64;

/// A syntax error in a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// An action has no end.
    #[error("`{{{{` is never closed by `}}}}`")]
    UnclosedAction,
    /// A comment has no end.
    #[error("a comment is never closed by `*/`")]
    UnclosedComment,
    /// Something follows a comment in its action.
    #[error("expected `}}}}` after the comment")]
    AfterComment,
    /// A string has no end.
    #[error("a string in {quote} is never closed")]
    UnclosedText {
        /// Its opening quote.
        quote: char,
    },
    /// Single quotes without exactly one character.
    #[error("expected one character between single quotes")]
    NotOneCharacter,
    /// An unknown escape.
    #[error("unknown escape `\\{letter}`")]
    UnknownEscape {
        /// The letter.
        letter: char,
    },
    /// An escape with digits that are not a character.
    #[error("invalid character `\\{letter}{digits}`")]
    InvalidEscape {
        /// The letter before the digits.
        letter: char,
        /// The digits.
        digits: String,
    },
    /// An invalid number.
    #[error("invalid number `{0}`")]
    Number(String),
    /// A character that does not start a token.
    #[error("unexpected character {0:?}")]
    UnexpectedCharacter(char),
    /// A symbol in an invalid position.
    #[error("unexpected `{0}`")]
    UnexpectedSymbol(&'static str),
    /// A pipeline, or a part of it, is empty.
    #[error("a value or function is missing")]
    EmptyCommand,
    /// A value is missing.
    #[error("a value is missing")]
    MissingValue,
    /// There is no function of this name.
    #[error("{0}: no such function")]
    UnknownFunction(String),
    /// A parenthesis has no end.
    #[error("`(` is never closed by `)`")]
    UnclosedParenthesis,
    /// Parentheses are nested too deeply.
    #[error("parentheses are nested deeper than {MAX_DEPTH}")]
    ParenthesesTooDeep,
    /// Blocks are nested too deeply.
    #[error("blocks are nested deeper than {MAX_DEPTH}")]
    BlocksTooDeep,
    /// A block has no end.
    #[error("`{{{{ {keyword} }}}}` is never closed by `{{{{ end }}}}`")]
    UnclosedBlock {
        /// Its keyword.
        keyword: String,
    },
    /// `end` or `else` outside of a block.
    #[error("`{{{{ {keyword} }}}}` closes nothing")]
    NoBlock {
        /// `end` or `else`.
        keyword: String,
    },
    /// A block with two `else` parts.
    #[error("a second `else`")]
    SecondElse,
    /// `else` is followed by something other than a condition.
    #[error("expected `else` or `else if`")]
    AfterElse,
    /// An unsupported action of Go.
    #[error("`{keyword}` is not supported")]
    Unsupported {
        /// The action.
        keyword: String,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Action {
        line: u32,
        pipeline: Pipeline,
    },
    If {
        line: u32,
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
        with: bool,
    },
    Range {
        line: u32,
        key: Option<String>,
        item: Option<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pipeline {
    pub(super) declares: Option<String>,
    pub(super) assigns: Option<String>,
    pub(super) commands: Vec<Vec<Expr>>,
}

impl Pipeline {
    pub(super) fn is_assignment(&self) -> bool {
        self.declares.is_some() || self.assigns.is_some()
    }
}

#[derive(Clone, Debug)]
pub(super) enum Expr {
    Dot,
    Root,
    Variable(String),
    Literal(Value),
    Field(Box<Expr>, String),
    Nested(Box<Pipeline>),
    Call(String),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: pieces(text)?, at: 0 };
    let (nodes, end) = parser.block(0)?;
    match end {
        None => Ok(nodes),
        Some((line, keyword)) => Err(TemplateError::new(line, SyntaxError::NoBlock { keyword })),
    }
}

enum Piece {
    Text(String),
    Action { line: u32, tokens: Vec<Token> },
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// `.name`, and whether it follows white space.
    Field(String, bool),
    Variable(String),
    Literal(Value),
    Symbol(&'static str),
}

/// Splits the text at `{{` and `}}` and applies trim markers.
fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut line = 1u32;
    let mut trim_next = false;
    loop {
        let open = rest.find("{{");
        let (before, after) = rest.split_at(open.unwrap_or(rest.len()));
        let trims = after.strip_prefix("{{-").is_some_and(|inside| inside.starts_with(char::is_whitespace));
        let mut literal = before;
        if trim_next {
            literal = literal.trim_start();
        }
        if trims {
            literal = literal.trim_end();
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.to_owned()));
        }
        line += newlines(before);
        if open.is_none() {
            return Ok(pieces);
        }
        let inside = &after[if trims { 3 } else { 2 }..];
        let (tokens, used, trim_after) = action(inside).map_err(|error| TemplateError::new(line, error))?;
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action { line, tokens });
        }
        line += newlines(&inside[..used]);
        trim_next = trim_after;
        rest = &inside[used..];
    }
}

fn newlines(text: &str) -> u32 {
    u32::try_from(text.bytes().filter(|byte| *byte == b'\n').count()).unwrap_or(u32::MAX)
}

/// Returns the tokens of an action (`None` for a comment), its length including `}}`, and whether it trims
/// what follows.
fn action(text: &str) -> Result<(Option<Vec<Token>>, usize, bool), SyntaxError> {
    let start = text.len() - text.trim_start().len();
    if text[start..].starts_with("/*") {
        let end = text.find("*/").ok_or(SyntaxError::UnclosedComment)? + 2;
        let spaces = text[end..].len() - text[end..].trim_start().len();
        let rest = &text[end + spaces..];
        return if rest.starts_with("}}") {
            Ok((None, end + spaces + 2, false))
        } else if spaces > 0 && rest.starts_with("-}}") {
            Ok((None, end + spaces + 3, true))
        } else {
            Err(SyntaxError::AfterComment)
        };
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let spaces = rest.len() - rest.trim_start().len();
        let rest = &rest[spaces..];
        at += spaces;
        if rest.starts_with("}}") {
            return Ok((Some(tokens), at + 2, false));
        }
        if spaces > 0 && rest.starts_with("-}}") {
            return Ok((Some(tokens), at + 3, true));
        }
        if rest.is_empty() {
            return Err(SyntaxError::UnclosedAction);
        }
        let (token, used) = token(rest, spaces > 0 || tokens.is_empty())?;
        tokens.push(token);
        at += used;
    }
}

fn token(rest: &str, spaced: bool) -> Result<(Token, usize), SyntaxError> {
    const SYMBOLS: [&str; 6] = [":=", "=", "|", "(", ")", ","];
    if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
        return Ok((Token::Symbol(symbol), symbol.len()));
    }
    let first = rest.chars().next().unwrap_or(' ');
    let word = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    match first {
        '"' | '\'' | '`' => quoted(rest, first),
        '$' => {
            let length = word(&rest[1..]);
            Ok((Token::Variable(rest[1..=length].to_owned()), 1 + length))
        }
        '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
            let length = word(&rest[1..]);
            Ok((Token::Field(rest[1..=length].to_owned(), spaced), 1 + length))
        }
        '0'..='9' | '-' | '+' | '.' => number(rest),
        c if c.is_alphabetic() || c == '_' => {
            let length = word(rest);
            let token = match &rest[..length] {
                "true" => Token::Literal(Value::Bool(true)),
                "false" => Token::Literal(Value::Bool(false)),
                "nil" => Token::Literal(Value::Nil),
                name => Token::Word(name.to_owned()),
            };
            Ok((token, length))
        }
        c => Err(SyntaxError::UnexpectedCharacter(c)),
    }
}

fn number(rest: &str) -> Result<(Token, usize), SyntaxError> {
    let sign = usize::from(rest.starts_with(['-', '+']));
    let length = rest[sign..]
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_')
        .map_or(rest.len(), |end| sign + end);
    let text = rest[..length].replace('_', "");
    let hex = text.strip_prefix("0x").map(|digits| i64::from_str_radix(digits, 16));
    let value = match hex {
        Some(value) => value.ok().map(Value::Int),
        None => text.parse().map(Value::Int).or_else(|_| text.parse().map(Value::Float)).ok(),
    };
    value.map(|value| (Token::Literal(value), length)).ok_or(SyntaxError::Number(text))
}

/// Parses a string or character in quotes, with Go's escapes.
fn quoted(rest: &str, quote: char) -> Result<(Token, usize), SyntaxError> {
    let unclosed = SyntaxError::UnclosedText { quote };
    if quote == '`' {
        let end = rest[1..].find('`').ok_or(unclosed)?;
        return Ok((Token::Literal(Value::Text(rest[1..=end].to_owned())), end + 2));
    }
    let mut text = String::new();
    let mut chars = rest[1..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                let value = if quote == '"' {
                    Value::Text(text)
                } else {
                    let mut all = text.chars();
                    match (all.next(), all.next()) {
                        (Some(only), None) => Value::Int(i64::from(u32::from(only))),
                        _ => return Err(SyntaxError::NotOneCharacter),
                    }
                };
                return Ok((Token::Literal(value), at + 2));
            }
            '\n' => return Err(unclosed),
            '\\' => {
                let Some((_, escape)) = chars.next() else { return Err(unclosed) };
                text.push(match escape {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '0' => '\0',
                    '\\' | '"' | '\'' => escape,
                    'u' | 'x' => {
                        let digits: String =
                            chars.by_ref().take(if escape == 'u' { 4 } else { 2 }).map(|(_, c)| c).collect();
                        u32::from_str_radix(&digits, 16)
                            .ok()
                            .and_then(char::from_u32)
                            .ok_or(SyntaxError::InvalidEscape { letter: escape, digits })?
                    }
                    letter => return Err(SyntaxError::UnknownEscape { letter }),
                });
            }
            c => text.push(c),
        }
    }
    Err(unclosed)
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
}

/// The line and keyword that ended a block (`end`, `else`). The tokens after it are not consumed.
type Ended = Option<(u32, String)>;

impl Parser {
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Ended), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get_mut(self.at) {
            let (line, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(std::mem::take(text)));
                    self.at += 1;
                    continue;
                }
                Piece::Action { line, tokens } => (*line, std::mem::take(tokens)),
            };
            let fail = |error: SyntaxError| TemplateError::new(line, error);
            if depth > MAX_DEPTH {
                return Err(fail(SyntaxError::BlocksTooDeep));
            }
            let keyword = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                _ => "",
            };
            match keyword {
                "end" | "else" => {
                    let word = keyword.to_owned();
                    if let Some(Piece::Action { tokens: slot, .. }) = self.pieces.get_mut(self.at) {
                        *slot = tokens;
                    }
                    return Ok((nodes, Some((line, word))));
                }
                "if" | "with" | "range" => {
                    self.at += 1;
                    nodes.push(self.opened(line, keyword, &tokens[1..], depth)?);
                    continue;
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => {
                    return Err(fail(SyntaxError::Unsupported { keyword: keyword.to_owned() }));
                }
                _ => nodes.push(Node::Action { line, pipeline: whole_pipeline(&tokens).map_err(fail)? }),
            }
            self.at += 1;
        }
        Ok((nodes, None))
    }

    fn opened(
        &mut self,
        line: u32,
        keyword: &str,
        head: &[Token],
        depth: usize,
    ) -> Result<Node, TemplateError> {
        let (names, head) = if keyword == "range" { range_names(head) } else { ((None, None), head) };
        let pipeline = whole_pipeline(head).map_err(|error| TemplateError::new(line, error))?;
        let (body, ended) = self.block(depth + 1)?;
        let otherwise = self.otherwise(line, keyword, ended, depth)?;
        Ok(match keyword {
            "range" => Node::Range { line, key: names.0, item: names.1, over: pipeline, body, otherwise },
            _ => Node::If { line, condition: pipeline, then: body, otherwise, with: keyword == "with" },
        })
    }

    /// Parses what follows a block: nothing, `else`, or `else if`.
    fn otherwise(
        &mut self,
        line: u32,
        keyword: &str,
        ended: Ended,
        depth: usize,
    ) -> Result<Vec<Node>, TemplateError> {
        let unclosed =
            || TemplateError::new(line, SyntaxError::UnclosedBlock { keyword: keyword.to_owned() });
        let (else_line, word) = ended.ok_or_else(unclosed)?;
        let tokens = match self.pieces.get_mut(self.at) {
            Some(Piece::Action { tokens, .. }) => std::mem::take(tokens),
            _ => Vec::new(),
        };
        self.at += 1;
        if word == "end" {
            return Ok(Vec::new());
        }
        match tokens.get(1) {
            None => {
                let (nodes, ended) = self.block(depth + 1)?;
                match ended {
                    Some((_, word)) if word == "end" => {
                        self.at += 1;
                        Ok(nodes)
                    }
                    Some((line, _)) => Err(TemplateError::new(line, SyntaxError::SecondElse)),
                    None => Err(unclosed()),
                }
            }
            Some(Token::Word(next)) if next == "if" || next == "with" => {
                Ok(vec![self.opened(else_line, &next.clone(), &tokens[2..], depth + 1)?])
            }
            Some(_) => Err(TemplateError::new(else_line, SyntaxError::AfterElse)),
        }
    }
}

/// Parses `$i, $e :=` or `$e :=` before the operand of a range.
fn range_names(tokens: &[Token]) -> ((Option<String>, Option<String>), &[Token]) {
    match tokens {
        [Token::Variable(key), Token::Symbol(","), Token::Variable(item), Token::Symbol(":="), rest @ ..] => {
            ((Some(key.clone()), Some(item.clone())), rest)
        }
        [Token::Variable(item), Token::Symbol(":="), rest @ ..] => ((None, Some(item.clone())), rest),
        _ => ((None, None), tokens),
    }
}

fn whole_pipeline(tokens: &[Token]) -> Result<Pipeline, SyntaxError> {
    let (pipeline, rest) = pipeline(tokens, 0)?;
    if rest.is_empty() { Ok(pipeline) } else { Err(SyntaxError::UnexpectedSymbol(")")) }
}

fn pipeline(tokens: &[Token], depth: usize) -> Result<(Pipeline, &[Token]), SyntaxError> {
    if depth > MAX_DEPTH {
        return Err(SyntaxError::ParenthesesTooDeep);
    }
    let mut pipeline = Pipeline::default();
    let mut rest = tokens;
    match tokens {
        [Token::Variable(name), Token::Symbol(":="), behind @ ..] => {
            pipeline.declares = Some(name.clone());
            rest = behind;
        }
        [Token::Variable(name), Token::Symbol("="), behind @ ..] => {
            pipeline.assigns = Some(name.clone());
            rest = behind;
        }
        _ => {}
    }
    let mut command = Vec::new();
    loop {
        match rest {
            [] | [Token::Symbol(")"), ..] => {
                finish(&mut pipeline, &mut command)?;
                return Ok((pipeline, rest));
            }
            [Token::Symbol("|"), behind @ ..] => {
                finish(&mut pipeline, &mut command)?;
                rest = behind;
            }
            _ => {
                let (expr, behind) = operand(rest, depth)?;
                command.push(expr);
                rest = behind;
            }
        }
    }
}

fn finish(pipeline: &mut Pipeline, command: &mut Vec<Expr>) -> Result<(), SyntaxError> {
    if command.is_empty() {
        return Err(SyntaxError::EmptyCommand);
    }
    pipeline.commands.push(std::mem::take(command));
    Ok(())
}

fn operand(tokens: &[Token], depth: usize) -> Result<(Expr, &[Token]), SyntaxError> {
    let Some((first, mut rest)) = tokens.split_first() else {
        return Err(SyntaxError::MissingValue);
    };
    let mut expr = match first {
        Token::Word(name) if !functions::exists(name) => {
            return Err(SyntaxError::UnknownFunction(name.clone()));
        }
        Token::Word(name) => Expr::Call(name.clone()),
        Token::Field(name, _) if name.is_empty() => Expr::Dot,
        Token::Field(name, _) => Expr::Field(Box::new(Expr::Dot), name.clone()),
        Token::Variable(name) if name.is_empty() => Expr::Root,
        Token::Variable(name) => Expr::Variable(name.clone()),
        Token::Literal(value) => Expr::Literal(value.clone()),
        Token::Symbol("(") => {
            let (inner, behind) = pipeline(rest, depth + 1)?;
            let Some((Token::Symbol(")"), behind)) = behind.split_first() else {
                return Err(SyntaxError::UnclosedParenthesis);
            };
            rest = behind;
            Expr::Nested(Box::new(inner))
        }
        Token::Symbol(symbol) => return Err(SyntaxError::UnexpectedSymbol(symbol)),
    };
    let mut chain = 0;
    while let [Token::Field(name, false), behind @ ..] = rest {
        chain += 1;
        if name.is_empty() || chain > MAX_DEPTH {
            return Err(SyntaxError::UnexpectedSymbol("."));
        }
        expr = Expr::Field(Box::new(expr), name.clone());
        rest = behind;
    }
    Ok((expr, rest))
}
