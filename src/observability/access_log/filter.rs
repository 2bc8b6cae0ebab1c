//! `accessLog.filters.expression`: selects lines by fields of the log and by matchers of rules.
//!
//! The expression is compiled once. Matchers (`PathPrefix(…)`) are evaluated when the request begins, before
//! middlewares change it, and stored as one bit each. Fields are evaluated when the exchange ends.

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderName;
use regex::Regex;
use tidegate_core::Request;
use tidegate_core::expression::{self, Call, Comparison, Expression, Field, Test, Value};

use super::error::{ExpressionError, ExpressionFault as Fault};
use super::fields::{Number, Text, Time};
use super::line::Entry;
use super::modes::Modes;
use crate::router::{Rule, go_regex};

/// Maximum number of calls in an expression, as each has a bit.
const MAX_CALLS: usize = 64;

/// A compiled expression.
pub(crate) struct Filter {
    tree: Tree,
    rules: Vec<Rule>,
    /// Which headers the expression uses.
    headers: bool,
}

enum Tree {
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    Not(Box<Tree>),
    /// The result of a matcher.
    Rule(usize),
    Aborted,
    Number(Number, Comparison, f64),
    /// In nanoseconds.
    Time(Time, Comparison, u128),
    Text(Text, String),
    Pattern(Text, Regex),
}

/// The values that an expression compares.
pub(crate) trait Values {
    /// Returns the value of a numeric field; 0 if there is none.
    fn number(&self, field: Number) -> f64;
    /// Returns the value of a field that is a duration.
    fn time(&self, field: Time) -> Duration;
    /// Returns the value of a text field; empty if there is none.
    fn text(&self, field: &Text) -> Cow<'_, str>;
    /// Returns true if the response was aborted.
    fn is_aborted(&self) -> bool;
    /// Returns the result of a matcher.
    fn matches(&self, place: usize) -> bool;
}

/// The values of a line, and the results of the matchers.
struct OfLine<'a>(&'a Entry<'a>, &'a Modes, u64);

impl Values for OfLine<'_> {
    fn number(&self, field: Number) -> f64 {
        self.0.number(field)
    }

    fn time(&self, field: Time) -> Duration {
        self.0.time(field)
    }

    fn text(&self, field: &Text) -> Cow<'_, str> {
        self.0.text(field, self.1)
    }

    fn is_aborted(&self) -> bool {
        self.0.aborted.is_some()
    }

    fn matches(&self, place: usize) -> bool {
        self.2 >> place & 1 == 1
    }
}

/// What a name refers to.
pub(super) enum Known {
    Number(Number),
    Time(Time),
    Text(Text),
    Aborted,
}

const NUMBERS: [(&str, Number); 12] = [
    ("DownstreamStatus", Number::DownstreamStatus),
    ("DownstreamContentSize", Number::DownstreamContentSize),
    ("OriginStatus", Number::OriginStatus),
    ("OriginContentSize", Number::OriginContentSize),
    ("ErrorPageStatus", Number::ErrorPageStatus),
    ("ErrorPageContentSize", Number::ErrorPageContentSize),
    ("RequestContentSize", Number::RequestContentSize),
    ("RequestCount", Number::RequestCount),
    ("RetryAttempts", Number::RetryAttempts),
    ("GzipRatio", Number::GzipRatio),
    ("ClientPort", Number::ClientPort),
    ("RequestPort", Number::RequestPort),
];
const TIMES: [(&str, Time); 4] = [
    ("Duration", Time::Duration),
    ("OriginDuration", Time::OriginDuration),
    ("ErrorPageDuration", Time::ErrorPageDuration),
    ("Overhead", Time::Overhead),
];
const TEXTS: [(&str, Text); 28] = [
    ("ClientAddr", Text::ClientAddr),
    ("ClientHost", Text::ClientHost),
    ("ClientUsername", Text::ClientUsername),
    ("Consumer", Text::Consumer),
    ("RequestAddr", Text::RequestAddr),
    ("RequestHost", Text::RequestHost),
    ("RequestId", Text::RequestId),
    ("RequestMethod", Text::RequestMethod),
    ("RequestPath", Text::RequestPath),
    ("RequestProtocol", Text::RequestProtocol),
    ("RequestScheme", Text::RequestScheme),
    ("RouterName", Text::RouterName),
    ("ServiceName", Text::ServiceName),
    ("ServiceURL", Text::ServiceUrl),
    ("ServiceAddr", Text::ServiceAddr),
    ("ErrorPageServiceName", Text::ErrorPageServiceName),
    ("ErrorPageServiceURL", Text::ErrorPageServiceUrl),
    ("ErrorPageServiceAddr", Text::ErrorPageServiceAddr),
    ("FailedAttempts", Text::FailedAttempts),
    ("entryPointName", Text::EntryPointName),
    ("Origin", Text::Origin),
    ("Reason", Text::Reason),
    ("DownstreamAbortedBy", Text::AbortedBy),
    ("TLSVersion", Text::TlsVersion),
    ("TLSCipher", Text::TlsCipher),
    ("TLSClientSubject", Text::TlsClientSubject),
    ("StartUTC", Text::StartUtc),
    ("StartLocal", Text::StartUtc),
];
const ABORTED: &str = "DownstreamAborted";
/// Short names, which are easier to type in a terminal. Some are those of matchers when they are called.
const ALIASES: [(&str, &str); 14] = [
    ("status", "DownstreamStatus"),
    ("host", "RequestHost"),
    ("method", "RequestMethod"),
    ("path", "RequestPath"),
    ("protocol", "RequestProtocol"),
    ("router", "RouterName"),
    ("service", "ServiceName"),
    ("server", "ServiceURL"),
    ("client", "ClientHost"),
    ("user", "ClientUsername"),
    ("consumer", "Consumer"),
    ("retries", "RetryAttempts"),
    ("entryPoint", "entryPointName"),
    ("aborted", ABORTED),
];

impl Filter {
    /// Compiles an expression. The error names what was expected, and where.
    pub(crate) fn parse(text: &str) -> Result<Self, ExpressionError> {
        let expression =
            expression::parse_fields(text).map_err(|error| ExpressionError::syntax(text, error))?;
        let mut filter = Self { tree: Tree::Aborted, rules: Vec::new(), headers: false };
        filter.tree =
            filter.compile(&expression).map_err(|(at, fault)| ExpressionError::at(text, at, fault))?;
        Ok(filter)
    }

    /// Returns true if the expression needs headers.
    pub(super) fn needs_headers(&self) -> bool {
        self.headers
    }

    /// Evaluates the matchers, and returns one bit for each.
    pub(super) fn ask(&self, request: &Request) -> u64 {
        let answers = self.rules.iter().enumerate();
        answers.fold(0, |bits, (place, rule)| bits | (u64::from(rule.matches(request)) << place))
    }

    /// Returns the first matcher of the expression, if it has any.
    pub(crate) fn matcher(&self) -> Option<&str> {
        self.rules.first().map(Rule::text)
    }

    /// Evaluates the expression.
    pub(crate) fn holds(&self, values: &impl Values) -> bool {
        self.tree.holds(values)
    }

    /// Returns true if the line should be written. `facts` are the results of the matchers.
    pub(super) fn keeps(&self, entry: &Entry<'_>, modes: &Modes, facts: u64) -> bool {
        self.tree.holds(&OfLine(entry, modes, facts))
    }

    fn compile(&mut self, expression: &Expression) -> Result<Tree, (usize, Fault)> {
        Ok(match expression {
            Expression::And(left, right) => {
                Tree::And(Box::new(self.compile(left)?), Box::new(self.compile(right)?))
            }
            Expression::Or(left, right) => {
                Tree::Or(Box::new(self.compile(left)?), Box::new(self.compile(right)?))
            }
            Expression::Not(inner) => Tree::Not(Box::new(self.compile(inner)?)),
            Expression::Call(call) => self.rule(call).map_err(|fault| (call.span.start, fault))?,
            Expression::Compare { call, .. } => {
                return Err((call.span.start, Fault::Boolean(call.name.clone())));
            }
            Expression::Field(field) => self.field(field).map_err(|fault| (field.span.start, fault))?,
        })
    }

    fn rule(&mut self, call: &Call) -> Result<Tree, Fault> {
        if matches!(known(&call.name), Ok(Some(_))) {
            return Err(Fault::FieldCalled(call.name.clone()));
        }
        if self.rules.len() == MAX_CALLS {
            return Err(Fault::TooManyCalls(MAX_CALLS));
        }
        self.rules.push(Rule::of_call(call)?);
        Ok(Tree::Rule(self.rules.len() - 1))
    }

    fn field(&mut self, field: &Field) -> Result<Tree, Fault> {
        let name = field.name.clone();
        let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(&name));
        let known = known(alias.map_or(&name, |(_, field)| field))?.ok_or_else(|| unknown(&name))?;
        let (kind, example) = match known {
            Known::Number(_) => ("number", ">= 500"),
            Known::Time(_) => ("length of time", "> 1s"),
            Known::Text(_) => ("text", "== `…`"),
            Known::Aborted => ("", ""),
        };
        let Some(test) = &field.test else {
            return match known {
                Known::Aborted => Ok(Tree::Aborted),
                _ => Err(Fault::NotCompared { name, kind, example }),
            };
        };
        match (known, test) {
            (Known::Number(field), Test::Compare(operator, Value::Number(number))) => {
                Ok(Tree::Number(field, *operator, *number))
            }
            (Known::Time(field), Test::Compare(operator, Value::Duration(time))) => {
                Ok(Tree::Time(field, *operator, time.0.as_nanos()))
            }
            (Known::Number(_) | Known::Time(_), _) => Err(Fault::Kind { name, kind, example }),
            (Known::Text(field), test) => self.text(name, field, test),
            (Known::Aborted, _) => Err(Fault::Boolean(name)),
        }
    }

    fn text(&mut self, name: String, field: Text, test: &Test) -> Result<Tree, Fault> {
        self.headers |=
            matches!(field, Text::RequestHeader(_) | Text::OriginHeader(_) | Text::DownstreamHeader(_));
        let (tree, negated) = match test {
            Test::Compare(Comparison::Equal, Value::Text(text)) => (Tree::Text(field, text.clone()), false),
            Test::Compare(Comparison::NotEqual, Value::Text(text)) => (Tree::Text(field, text.clone()), true),
            Test::Matches { pattern, negated } => {
                let pattern = go_regex(pattern).map_err(|source| Fault::Pattern { name, source })?;
                (Tree::Pattern(field, pattern), *negated)
            }
            Test::Compare(..) => return Err(Fault::Text(name)),
        };
        Ok(if negated { Tree::Not(Box::new(tree)) } else { tree })
    }
}

impl Tree {
    fn holds(&self, values: &impl Values) -> bool {
        match self {
            Self::And(left, right) => left.holds(values) && right.holds(values),
            Self::Or(left, right) => left.holds(values) || right.holds(values),
            Self::Not(inner) => !inner.holds(values),
            Self::Rule(place) => values.matches(*place),
            Self::Aborted => values.is_aborted(),
            Self::Number(field, operator, number) => compares(values.number(*field), *operator, *number),
            Self::Time(field, operator, time) => compares(values.time(*field).as_nanos(), *operator, *time),
            Self::Text(field, text) => *values.text(field) == **text,
            Self::Pattern(field, pattern) => pattern.is_match(&values.text(field)),
        }
    }
}

fn compares<T: PartialOrd>(value: T, operator: Comparison, with: T) -> bool {
    match operator {
        Comparison::Less => value < with,
        Comparison::LessOrEqual => value <= with,
        Comparison::Greater => value > with,
        Comparison::GreaterOrEqual => value >= with,
        Comparison::Equal => value == with,
        Comparison::NotEqual => value != with,
    }
}

/// Returns what a name refers to, or `None` if it is not a field.
pub(super) fn known(name: &str) -> Result<Option<Known>, Fault> {
    fn in_list<T: Clone>(list: &[(&str, T)], name: &str) -> Option<T> {
        list.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, field)| field.clone())
    }
    let found = in_list(&NUMBERS, name)
        .map(Known::Number)
        .or_else(|| in_list(&TIMES, name).map(Known::Time))
        .or_else(|| in_list(&TEXTS, name).map(Known::Text))
        .or_else(|| name.eq_ignore_ascii_case(ABORTED).then_some(Known::Aborted));
    if found.is_some() {
        return Ok(found);
    }
    for prefix in ["request_", "origin_", "downstream_"] {
        let begins = name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
        if let Some(header) = name.get(prefix.len()..).filter(|_| begins) {
            let header = HeaderName::from_bytes(header.as_bytes())
                .map_err(|_| Fault::HeaderName { name: name.to_owned(), prefix })?;
            return Ok(Some(Known::Text(match prefix {
                "request_" => Text::RequestHeader(header),
                "origin_" => Text::OriginHeader(header),
                _ => Text::DownstreamHeader(header),
            })));
        }
    }
    Ok(None)
}

/// Returns the error for an unknown field.
pub(super) fn unknown(written: &str) -> Fault {
    let numbers = NUMBERS.iter().map(|(name, _)| *name);
    let names = numbers.chain(TIMES.iter().map(|(name, _)| *name)).chain(TEXTS.iter().map(|(name, _)| *name));
    let names = names.chain(ALIASES.iter().map(|(alias, _)| *alias)).chain([ABORTED]);
    let name = written.to_owned();
    match expression::nearest(written, names) {
        Some(near) => Fault::SimilarField { name, near },
        None => Fault::UnknownField(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_place_the_value_and_what_was_expected() {
        for (text, expected) in [
            (
                "DownstreamStats >= 500",
                "column 1: DownstreamStats is not a field of the access log; did you mean DownstreamStatus?",
            ),
            ("DownstreamAborted ||\n xyz", "line 2, column 2: xyz is not a field"),
            ("DownstreamStatus", "must be compared, like DownstreamStatus >= 500"),
            ("DownstreamStatus == `500`", "column 1: DownstreamStatus is compared with a number"),
            ("Duration > 1", "column 1: Duration is compared with a length of time, like Duration > 1s"),
            ("RouterName", "RouterName is a text and must be compared"),
            ("RouterName > `a`", "it is compared by ==, !=, =~ or !~"),
            ("RouterName =~ `(`", "RouterName: invalid regular expression `(`: a closing `)`"),
            ("DownstreamAborted == 1", "is true or false"),
            ("PathPrefx(`/`)", "column 1: unknown matcher PathPrefx: did you mean PathPrefix?"),
            ("Path(`x`)", "does not begin with `/`"),
            ("Host(`a`) > 1", "Host is true or false and cannot be compared"),
            ("Duration(`1s`)", "Duration is a field: it stands without parentheses"),
            ("request_ == `a`", "expected the name of a header after `request_`"),
            ("Duration > 1s &&", "column 17: expected"),
        ] {
            let error = Filter::parse(text).err().unwrap_or_else(|| panic!("{text}")).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let many = vec!["Path(`/`)"; MAX_CALLS + 1].join(" || ");
        assert!(Filter::parse(&many).err().unwrap().to_string().contains("at most 64 calls"));
    }

    #[test]
    fn headers_are_kept_only_if_the_expression_uses_them() {
        assert!(!Filter::parse("Duration > 1s && Header(`a`, `b`)").unwrap().needs_headers());
        assert!(Filter::parse("request_User-Agent =~ `bot`").unwrap().needs_headers());
    }
}
