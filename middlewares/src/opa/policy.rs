//! Policies that are evaluated in the process.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use regorus::utils::limits::{ExecutionTimerConfig, TimeSource, set_time_source};
use regorus::{Engine, LimitError, Value};
use tidegate_core::{BuildError, BuildErrors};

use super::bundle::Source;
use super::outline::{Outline, OutlineError};
use super::{builtins, threads};

/// Number of steps between two looks at the clock.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();
/// Maximum length of an error's text in bytes.
const MAX_ERROR: usize = 300;
/// Timeout for the evaluations that check a policy when it is built.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum duration of one of them.
const CHECK_LIMIT: Duration = Duration::from_secs(1);
/// How the evaluator names a path that is not a rule.
const NOT_A_RULE: &str = "not a valid rule path";

/// Policies with their data, ready to be evaluated.
#[derive(Debug)]
pub(super) struct Policy {
    engine: Engine,
    queries: Vec<Query>,
}

/// What is evaluated.
#[derive(Clone, Debug)]
enum Query {
    /// A rule, by its path.
    Rule(String),
    /// Any other expression.
    Expression(String),
}

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EvaluationError {
    #[error("the evaluation takes longer than {0:?}")]
    TooLong(Duration),
    /// With its place.
    #[error("{0}")]
    Failed(String),
}

/// A mistake in a policy, with its place if it has one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Mistake(String);

/// Policies that are parsed, before it is known what is evaluated.
pub(super) struct Parsed {
    engine: Engine,
    outline: Outline,
}

impl Parsed {
    /// Parses policies and data. An evaluation may take `limit`.
    pub(super) fn new(policies: &[Source], data: &[Source], limit: Duration) -> Result<Self, BuildError> {
        use_clock();
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(false);
        engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL });
        builtins::add(&mut engine);
        let mut errors = BuildErrors::default();
        for Source { name, text } in policies {
            errors.extend(add(&mut engine, name, text).err().map(|mistake| mistake.to_string()));
        }
        for Source { name, text } in data {
            let data = serde_json::from_str::<serde_json::Value>(text).map_err(|error| error.to_string());
            let data = data.and_then(|data| match data.is_object() {
                true => Ok(Value::from(data)),
                false => Err("expected an object".to_owned()),
            });
            let added =
                data.and_then(|data| engine.add_data(data).map_err(|error| shown(&error.to_string())));
            errors.extend(added.err().map(|error| format!("{name}: {error}")));
        }
        errors.finish()?;
        let tree = engine.get_ast_as_json().map_err(|error| BuildError::new(shown(&error.to_string())))?;
        let outline =
            Outline::read(&tree).map_err(|error: OutlineError| BuildError::new(error.to_string()))?;
        Ok(Self { engine, outline })
    }

    /// Returns the rule `allow` of the only package; `None` if there is no such rule.
    pub(super) fn allow(&self) -> Result<Option<String>, BuildError> {
        let rules = self.outline.packages.iter().map(|package| format!("{package}.allow"));
        let mut rules = rules.filter(|rule| self.outline.rules.contains(rule));
        match (rules.next(), rules.next()) {
            (rule, None) => Ok(rule),
            (Some(one), Some(other)) => Err(BuildError::new(format!(
                "allow: required, since there are several rules with this name: `{one}`, `{other}`"
            ))),
            (None, Some(_)) => Ok(None),
        }
    }

    /// Checks what is evaluated: options, each with its expression.
    pub(super) fn with_queries(self, queries: &[(String, String)]) -> Result<Policy, BuildError> {
        let Self { engine, .. } = self;
        let (mut tried, texts) = (engine.clone(), queries.to_vec());
        let limit = ExecutionTimerConfig { limit: CHECK_LIMIT, check_interval: CHECK_INTERVAL };
        tried.set_execution_timer_config(limit);
        // On a thread with a large stack, as for requests.
        let checked = threads::run_alone(CHECK_TIMEOUT, move || {
            let check = |(option, text)| check(&mut tried, text).map_err(|mistake| (option, mistake));
            texts.into_iter().map(check).collect::<Vec<_>>()
        });
        let checked = checked.ok_or_else(|| BuildError::new("the policy could not be checked in time"))?;
        let mut errors = BuildErrors::default();
        let named = |(option, mistake)| format!("{option}: {mistake}");
        let kept = checked.into_iter().filter_map(|query| query.map_err(|one| errors.add(named(one))).ok());
        let kept = kept.collect();
        errors.made(Some(Policy { engine, queries: kept }))
    }
}

impl Policy {
    /// Evaluates all queries with an input; undefined results are `None`.
    pub(super) fn evaluate(
        &self,
        input: serde_json::Value,
    ) -> Result<Vec<Option<serde_json::Value>>, EvaluationError> {
        let mut engine = self.engine.clone();
        engine.set_input(Value::from(input));
        self.queries.iter().map(|query| query.evaluate(&mut engine)).collect()
    }
}

impl Query {
    fn evaluate(&self, engine: &mut Engine) -> Result<Option<serde_json::Value>, EvaluationError> {
        let value = match self {
            Self::Rule(path) => engine.eval_rule(path.clone()),
            Self::Expression(text) => engine.eval_query(text.clone(), false).map(|results| {
                let result = results.result.into_iter().next();
                let mut values = result.map(|result| result.expressions).unwrap_or_default().into_iter();
                match (values.next().map(|one| one.value), values.len()) {
                    (Some(value), 0) => value,
                    // Several expressions are a condition.
                    (Some(first), _) => Value::from(
                        [first]
                            .into_iter()
                            .chain(values.map(|one| one.value))
                            .all(|v| v == Value::from(true)),
                    ),
                    (None, _) => Value::Undefined,
                }
            }),
        };
        match value {
            Ok(Value::Undefined) => Ok(None),
            Ok(value) => {
                let value = serde_json::to_value(&value);
                value.map(Some).map_err(|error| EvaluationError::Failed(error.to_string()))
            }
            Err(error) => Err(match error.downcast_ref::<LimitError>() {
                Some(LimitError::TimeLimitExceeded { limit, .. }) => EvaluationError::TooLong(*limit),
                _ => EvaluationError::Failed(shown(&error.to_string())),
            }),
        }
    }
}

/// Parses a policy, which may have the syntax of Rego before OPA 1.0. The error is that of the current syntax.
fn add(engine: &mut Engine, name: &str, text: &str) -> Result<(), Mistake> {
    engine.set_rego_v0(false);
    let Err(error) = engine.add_policy(name.to_owned(), text.to_owned()) else { return Ok(()) };
    engine.set_rego_v0(true);
    let is_older = engine.add_policy(name.to_owned(), text.to_owned()).is_ok();
    engine.set_rego_v0(false);
    if is_older { Ok(()) } else { Err(Mistake(shown(&error.to_string()))) }
}

/// Finds mistakes that no request would survive. What else fails without an input may succeed with one.
fn check(engine: &mut Engine, text: String) -> Result<Query, Mistake> {
    engine.set_input(Value::new_object());
    let is_mistake = |error: &str| {
        error.contains("could not find function")
            || error.contains("is unsafe")
            || error.contains("recursion")
    };
    let query = Query::Rule(text.clone());
    let failed = match query.evaluate(engine) {
        // The machine may be busy.
        Ok(_) | Err(EvaluationError::TooLong(_)) => return Ok(query),
        Err(EvaluationError::Failed(error)) => error,
    };
    if !failed.contains(NOT_A_RULE) {
        return if is_mistake(&failed) { Err(Mistake(failed)) } else { Ok(query) };
    }
    let is_path = text.starts_with("data.")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.[]\"-".contains(&byte));
    let query = Query::Expression(text.clone());
    match query.evaluate(engine) {
        Ok(None) if is_path => Err(Mistake(format!("`{text}` is not defined by the policy"))),
        Ok(_) => Ok(query),
        Err(EvaluationError::Failed(error))
            if !is_mistake(&error) && (is_path || text.starts_with("input.")) =>
        {
            Ok(query)
        }
        Err(error) => Err(Mistake(error.to_string())),
    }
}

/// Returns an error of the evaluator in one line: `policy.rego:5:1: expecting expression`. It may contain what clients
/// have sent.
fn shown(error: &str) -> String {
    let after = |prefix: &str| error.lines().find_map(|line| line.strip_prefix(prefix));
    let text = match (after("--> "), after("error: ")) {
        (Some(place), Some(message)) => format!("{place}: {message}"),
        _ => error.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let text = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut text: String = text.collect();
    if text.len() > MAX_ERROR {
        text.truncate(text.floor_char_boundary(MAX_ERROR));
        text.push('…');
    }
    text
}

/// The clock of all evaluations.
struct Clock;

impl TimeSource for Clock {
    fn now(&self) -> Option<Duration> {
        static START: OnceLock<Instant> = OnceLock::new();
        Some(START.get_or_init(Instant::now).elapsed())
    }
}

/// Gives the evaluator a clock, without which it has no limit.
fn use_clock() {
    // It fails if it has one already.
    let _ = set_time_source(&Clock);
}
