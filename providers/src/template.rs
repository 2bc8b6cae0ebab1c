//! Go templates in route files and default rules.
//!
//! Supports the commonly used part of Go's `text/template`: actions, pipelines, variables, `if`, `with`,
//! `range`, comments, trim markers, and the functions of Go and sprig in [`functions`]. Everything else is an
//! error with the line. Steps and output are limited, so no template can hang the gateway.

mod arguments;
mod function_error;
pub mod functions;
mod limits;
mod parse;
mod sprig;
pub mod value;

use std::collections::HashMap;

pub use function_error::FunctionError;
pub use parse::SyntaxError;
use parse::{Expr, Node, Pipeline};
pub use value::Value;

/// Maximum number of evaluation steps.
const MAX_STEPS: usize = 2_000_000;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    nodes: Vec<Node>,
    dialect: Dialect,
}

/// Differences between the uses of templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A route file: `split` is Go's `strings.Split`; values are not escaped.
    File,
    /// A default rule: `split` is sprig's. Values in quotes of the rule cannot end the quotes: they are
    /// escaped in double quotes and rejected in backticks, so that a label cannot change the surrounding
    /// rule.
    Rule,
}

/// Why a template is invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("template, line {line}: {kind}")]
pub struct TemplateError {
    /// 1-based line in the template.
    pub line: u32,
    /// The kind of error.
    #[source]
    pub kind: TemplateErrorKind,
}

impl TemplateError {
    fn new(line: u32, kind: impl Into<TemplateErrorKind>) -> Self {
        Self { line, kind: kind.into() }
    }
}

/// The kind of a template error.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TemplateErrorKind {
    /// It cannot be parsed.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// It cannot be evaluated.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}

/// Why an evaluation fails.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvaluationError {
    /// A function fails.
    #[error("{name}: {source}")]
    Function {
        /// Name of the function.
        name: String,
        /// The cause.
        source: FunctionError,
    },
    /// Arguments after a value that is not a function.
    #[error("expected a function before the arguments")]
    NotAFunction,
    /// `and` or `or` without arguments.
    #[error("expected at least one argument")]
    NoArgument,
    /// A pipeline is empty.
    #[error("a command is missing")]
    EmptyCommand,
    /// An undeclared variable.
    #[error("undefined variable ${0}")]
    UndefinedVariable(String),
    /// The value is not a table.
    #[error("{kind} has no field .{name}")]
    NoField {
        /// The type of the value.
        kind: &'static str,
        /// Name of the field.
        name: String,
    },
    /// The value cannot be ranged over.
    #[error("range cannot iterate over {kind}")]
    NotARange {
        /// The type of the value.
        kind: &'static str,
    },
    /// A range exceeds the maximum length.
    #[error("range over {count}: at most {}", limits::MAX_ITEMS)]
    RangeTooLong {
        /// The requested length.
        count: i64,
    },
    /// The evaluation exceeds the maximum number of steps.
    #[error("the template exceeds the maximum number of steps")]
    TooManySteps,
    /// The output exceeds the maximum size.
    #[error("the output is larger than {limit} bytes")]
    OutputTooLarge {
        /// The maximum size.
        limit: usize,
    },
    /// The value would end a string of the rule.
    #[error("the value {value:?} has a backtick, which would end the rule's text")]
    Backtick {
        /// The value.
        value: String,
    },
}

impl Template {
    /// Parses a template.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(text)?, dialect })
    }

    /// Renders the template with `data` as `.`; `limit` is the maximum length of the output in bytes.
    pub fn render(&self, data: &Value, limit: usize) -> Result<String, TemplateError> {
        let mut run = Run {
            dialect: self.dialect,
            root: data,
            scopes: vec![HashMap::new()],
            output: String::new(),
            quote: None,
            escaped: false,
            limit,
            steps: 0,
            line: 1,
        };
        run.nodes(&self.nodes, data).map_err(|error| TemplateError::new(run.line, error))?;
        Ok(run.output)
    }
}

/// How evaluation continues after a node.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'t> {
    dialect: Dialect,
    root: &'t Value,
    scopes: Vec<HashMap<&'t str, Value>>,
    output: String,
    /// The open quote in the rendered rule.
    quote: Option<char>,
    escaped: bool,
    limit: usize,
    steps: usize,
    line: u32,
}

impl<'t> Run<'t> {
    fn nodes(&mut self, nodes: &'t [Node], dot: &Value) -> Result<Flow, EvaluationError> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn scoped(&mut self, nodes: &'t [Node], dot: &Value) -> Result<Flow, EvaluationError> {
        self.scopes.push(HashMap::new());
        let flow = self.nodes(nodes, dot);
        self.scopes.pop();
        flow
    }

    fn node(&mut self, node: &'t Node, dot: &Value) -> Result<Flow, EvaluationError> {
        self.step()?;
        match node {
            Node::Text(text) => self.write_text(text)?,
            Node::Action { line, pipeline } => {
                self.line = *line;
                let value = self.pipeline(pipeline, dot)?;
                if !pipeline.is_assignment() {
                    self.write_value(&value.to_string())?;
                }
            }
            Node::If { line, condition, then, otherwise, with } => {
                self.line = *line;
                self.scopes.push(HashMap::new());
                let flow = self.pipeline(condition, dot).and_then(|value| {
                    if !value.is_true() {
                        return self.nodes(otherwise, dot);
                    }
                    let inner = if *with { &value } else { dot };
                    self.nodes(then, inner)
                });
                self.scopes.pop();
                return flow;
            }
            Node::Range { line, key, item, over, body, otherwise } => {
                self.line = *line;
                return self.range((key.as_deref(), item.as_deref()), over, body, otherwise, dot);
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn range(
        &mut self,
        (key, item): (Option<&'t str>, Option<&'t str>),
        over: &'t Pipeline,
        body: &'t [Node],
        otherwise: &'t [Node],
        dot: &Value,
    ) -> Result<Flow, EvaluationError> {
        let items = match self.pipeline(over, dot)? {
            Value::Nil => Vec::new(),
            Value::List(list) => (0i64..).map(Value::Int).zip(list).collect(),
            Value::Map(map) => map.into_iter().map(|(key, value)| (Value::Text(key), value)).collect(),
            Value::Int(count) => {
                if count > limits::MAX_ITEMS {
                    return Err(EvaluationError::RangeTooLong { count });
                }
                (0..count).map(|index| (Value::Int(index), Value::Int(index))).collect()
            }
            other => return Err(EvaluationError::NotARange { kind: other.kind() }),
        };
        if items.is_empty() {
            return self.scoped(otherwise, dot);
        }
        for (index, value) in items {
            self.step()?;
            let mut scope = HashMap::new();
            if let Some(name) = key {
                scope.insert(name, index);
            }
            if let Some(name) = item {
                scope.insert(name, value.clone());
            }
            self.scopes.push(scope);
            let flow = self.nodes(body, &value);
            self.scopes.pop();
            if flow? == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipeline(&mut self, pipeline: &'t Pipeline, dot: &Value) -> Result<Value, EvaluationError> {
        let mut value: Option<Value> = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, value, dot)?);
        }
        let value = value.unwrap_or(Value::Nil);
        if let Some(name) = &pipeline.declares {
            if let Some(scope) = self.scopes.last_mut() {
                scope.insert(name, value.clone());
            }
        } else if let Some(name) = &pipeline.assigns {
            let slot = self.scopes.iter_mut().rev().find_map(|scope| scope.get_mut(name.as_str()));
            *slot.ok_or_else(|| EvaluationError::UndefinedVariable(name.clone()))? = value.clone();
        }
        Ok(value)
    }

    /// Evaluates a function with its arguments, or a single operand. `piped` is the value before the `|`,
    /// which becomes the last argument.
    fn command(
        &mut self,
        command: &'t [Expr],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, EvaluationError> {
        self.step()?;
        let Some((first, rest)) = command.split_first() else {
            return Err(EvaluationError::EmptyCommand);
        };
        let Expr::Call(name) = first else {
            if !rest.is_empty() || piped.is_some() {
                return Err(EvaluationError::NotAFunction);
            }
            return self.operand(first, dot);
        };
        if matches!(name.as_str(), "and" | "or") {
            return self.logic(name == "and", rest, piped, dot);
        }
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for expr in rest {
            arguments.push(self.operand(expr, dot)?);
        }
        arguments.extend(piped);
        let value = functions::call(name, &arguments, self.dialect)
            .map_err(|source| EvaluationError::Function { name: name.clone(), source })?;
        self.steps += value.weight();
        Ok(value)
    }

    /// Evaluates `and` and `or`, which short-circuit as in Go.
    fn logic(
        &mut self,
        and: bool,
        rest: &'t [Expr],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, EvaluationError> {
        let mut last = None;
        for expr in rest {
            let value = self.operand(expr, dot)?;
            if value.is_true() != and {
                return Ok(value);
            }
            last = Some(value);
        }
        piped.or(last).ok_or(EvaluationError::NoArgument)
    }

    fn operand(&mut self, expr: &'t Expr, dot: &Value) -> Result<Value, EvaluationError> {
        self.step()?;
        Ok(match expr {
            Expr::Dot => dot.clone(),
            Expr::Root => self.root.clone(),
            Expr::Variable(name) => self
                .scopes
                .iter()
                .rev()
                .find_map(|scope| scope.get(name.as_str()))
                .cloned()
                .ok_or_else(|| EvaluationError::UndefinedVariable(name.clone()))?,
            Expr::Literal(value) => value.clone(),
            Expr::Field(base, name) => {
                let base = self.operand(base, dot)?;
                match base {
                    Value::Map(mut map) => map.remove(name).unwrap_or(Value::Nil),
                    other => {
                        return Err(EvaluationError::NoField { kind: other.kind(), name: name.clone() });
                    }
                }
            }
            Expr::Nested(pipeline) => self.pipeline(pipeline, dot)?,
            Expr::Call(_) => self.command(std::slice::from_ref(expr), None, dot)?,
        })
    }

    fn step(&mut self) -> Result<(), EvaluationError> {
        self.steps += 1;
        if self.steps > MAX_STEPS { Err(EvaluationError::TooManySteps) } else { Ok(()) }
    }

    fn write_text(&mut self, text: &str) -> Result<(), EvaluationError> {
        if self.output.len() + text.len() > self.limit {
            return Err(EvaluationError::OutputTooLarge { limit: self.limit });
        }
        self.output.push_str(text);
        if self.dialect == Dialect::Rule {
            for c in text.chars() {
                self.follow(c);
            }
        }
        Ok(())
    }

    /// Tracks the quotes of a rule.
    fn follow(&mut self, c: char) {
        match self.quote {
            Some('"') if self.escaped => self.escaped = false,
            Some('"') if c == '\\' => self.escaped = true,
            Some(quote) if c == quote => self.quote = None,
            None if matches!(c, '`' | '"') => self.quote = Some(c),
            _ => {}
        }
    }

    fn write_value(&mut self, text: &str) -> Result<(), EvaluationError> {
        match self.quote {
            Some('`') if text.contains('`') => Err(EvaluationError::Backtick { value: text.to_owned() }),
            Some('"') => {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                self.write_text(&text)
            }
            _ => self.write_text(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn data() -> Value {
        let labels = BTreeMap::from([
            ("a.b".to_owned(), Value::Text("label".into())),
            ("evil".to_owned(), Value::Text("x`) || Host(`y".into())),
            ("quoted".to_owned(), Value::Text("x\") || Host(\"y".into())),
        ]);
        Value::Map(BTreeMap::from([
            ("Name".to_owned(), Value::Text("web_x".into())),
            ("Labels".to_owned(), Value::Map(labels)),
        ]))
    }

    fn rule(text: &str) -> Result<String, TemplateError> {
        let template = Template::parse(text, Dialect::Rule)?;
        template.render(&data(), 1024)
    }

    fn file(text: &str) -> Result<String, TemplateError> {
        let template = Template::parse(text, Dialect::File)?;
        template.render(&Value::Nil, 4096)
    }

    #[test]
    fn common_default_rules_are_rendered() {
        for (template, expected) in [
            ("Host(`{{ normalize .Name }}`)", "Host(`web-x`)"),
            ("Host(`{{ .Name | trimSuffix \"_x\" | upper }}.test`)", "Host(`WEB.test`)"),
            ("Host(`{{ index .Labels \"a.b\" }}.x`)", "Host(`label.x`)"),
            ("Host(`{{ index .Labels \"none\" | default .Name }}`)", "Host(`web_x`)"),
            ("{{ if hasPrefix \"web\" .Name }}Host(`w`){{ else }}Host(`o`){{ end }}", "Host(`w`)"),
            ("Host(`{{ coalesce (index .Labels \"no\") (index .Labels \"a.b\") }}`)", "Host(`label`)"),
            ("Host(`{{ (split \"_\" .Name)._0 }}`)", "Host(`web`)"),
            ("{{ printf \"Host(`%s.%d`)\" .Name 3 }}", "Host(`web_x.3`)"),
            ("Host(`{{ ternary \"a\" \"b\" (eq .Name \"web_x\") }}`)", "Host(`a`)"),
            ("Host(`{{ $.Name | replace \"_\" \"\" }}`)", "Host(`webx`)"),
        ] {
            assert_eq!(rule(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let error = rule("Host(`{{ index .Labels \"evil\" }}`)").expect_err("refused").to_string();
        assert!(error.contains("backtick"), "{error}");
        let error =
            rule("{{ printf \"Host(`%s`)\" (index .Labels \"evil\") }}").expect_err("refused").to_string();
        assert!(error.contains("backtick"), "{error}");
        let escaped = rule("Host(\"{{ index .Labels \"quoted\" }}\")");
        assert_eq!(escaped.as_deref(), Ok("Host(\"x\\\") || Host(\\\"y\")"));
        assert_eq!(rule("{{ index .Labels \"a.b\" }}").as_deref(), Ok("label"));
    }

    #[test]
    fn common_route_files_are_rendered() {
        for (template, expected) in [
            ("{{ range $i, $e := until 3 }}r{{ $i }}{{ $e }};{{ end }}", "r00;r11;r22;"),
            ("{{ range $e := split \"a,b\" \",\" }}<{{ $e }}>{{ end }}", "<a><b>"),
            ("{{range list \"a\" \"b\"}}{{.}}{{else}}none{{end}}", "ab"),
            ("{{ range list }}x{{ else }}none{{ end }}", "none"),
            ("a {{- /* note */ -}} b", "ab"),
            ("a\n{{- if true }}\nb\n{{- end }}\n", "a\nb\n"),
            ("{{ $x := 1 }}{{ if eq $x 1 }}{{ $x = add $x 4 }}{{ end }}{{ $x }}", "5"),
            ("{{ with dict \"k\" \"v\" }}{{ .k }}{{ end }}", "v"),
            ("{{ range $k, $v := dict \"b\" 2 \"a\" 1 }}{{ $k }}={{ $v }} {{ end }}", "a=1 b=2 "),
            ("{{ if and true (not false) (gt 3 2) }}y{{ else if true }}n{{ end }}", "y"),
            ("{{ range until 9 }}{{ if eq . 2 }}{{ break }}{{ end }}{{ . }}{{ end }}", "01"),
            ("{{ `raw \"x\"` | quote }} {{ \"a\\tb\" }}", "\"raw \\\"x\\\"\" a\tb"),
            ("{{ len (list 1 2 3) }} {{ 'a' }} {{ 1.5 }} {{ nil | default \"d\" }}", "3 97 1.5 d"),
            ("{{ env \"TIDEGATE_TEST_UNSET\" | default \"unset\" }}", "unset"),
            (
                "{{ print \"a\" 1 2 }} {{ print 1 \"a\" 2 true }} {{ quote 1 \"a\" }}",
                "a1 2 1a2 true \"1\" \"a\"",
            ),
            ("{{ base \"/a/b.c/\" }} {{ base \"\" }} {{ base \"//\" }}", "b.c . /"),
            (
                "{{ dir \"/a//b/../c/d\" }} {{ dir \"a\" }} {{ dir \"/a\" }} {{ dir \"../../x/y\" }}",
                "/a/c . / ../../x",
            ),
            ("{{ ext \"a.d/b\" }}|{{ ext \"x.tar.gz\" }}", "|.gz"),
            ("{{ initials \"First Try\" }} {{ regexQuoteMeta \"a.b-c\" }}", "FT a\\.b-c"),
            ("{{ ceil 1.2 }} {{ floor 1.9 }} {{ round 123.5555 3 }} {{ round 2 0 }}", "2 1 123.556 2"),
            ("{{ $d := dict \"a\" 1 \"b\" 2 }}{{ pick $d \"a\" }} {{ omit $d \"a\" }}", "map[a:1] map[b:2]"),
            (
                "{{ any 0 \"\" 1 }} {{ all 1 \"\" }} {{ kindOf (list) }} {{ kindOf \"\" }}",
                "true false slice string",
            ),
            ("{{ (fromJson \"{\\\"a\\\":[1,true]}\").a }}{{ fromJson \"{\" }}", "[1 true]"),
            ("{{ \"host.tld\" | splitList \".\" | first | title }}", "Host"),
        ] {
            assert_eq!(file(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn errors_have_the_line() {
        for (template, expected) in [
            ("a\n{{ nosuch 1 }}", "template, line 2: nosuch: no such function"),
            ("{{ if false }}{{ 1 | nosuch }}{{ end }}", "template, line 1: nosuch: no such function"),
            ("\n\n{{ if true }}", "template, line 3: `{{ if }}` is never closed by `{{ end }}`"),
            ("{{ template \"x\" }}", "template, line 1: `template` is not supported"),
            ("{{ .Name }}", "template, line 1: nothing has no field .Name"),
            ("{{ $x }}", "template, line 1: undefined variable $x"),
            ("{{ \"a }}", "template, line 1: "),
            ("{{ end }}", "template, line 1: "),
            ("{{", "template, line 1: "),
        ] {
            let error = file(template).expect_err(template).to_string();
            assert!(error.starts_with(expected), "{template}: {error}");
        }
    }

    #[test]
    fn steps_and_memory_are_limited() {
        for template in [
            "{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}",
            "{{ range until 9999 }}xxxxxxxxxx{{ end }}",
            "{{ repeat 999999999 \"xxxxxxxxxxxx\" }}",
            "{{ $x := \"xxxxxxxxxxxxxxxx\" }}{{ range until 1000 }}{{ $x = cat $x $x }}{{ end }}",
        ] {
            assert!(file(template).is_err(), "{template}");
        }
        let nested = format!("{}1{}", "{{ ".to_owned() + &"(".repeat(5000), ")".repeat(5000) + " }}");
        assert!(Template::parse(&nested, Dialect::File).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(\\{\\{|\\}\\}|[ a-z.$|()`\"',:=0-9-]|if|end|range|else|printf|index){0,24}") {
            if let Ok(template) = Template::parse(&text, Dialect::Rule) {
                let _ = template.render(&data(), 512);
            }
        }
    }
}
