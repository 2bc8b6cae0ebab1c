//! Which router takes a request.

use std::sync::Arc;

use tidegate_core::Request;

/// A checked rule (Traefik's v3 rule language).
#[derive(Clone, Debug)]
pub struct Rule {
    text: String,
}

impl Rule {
    /// Parses and checks a rule. The error says what was expected and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned() })
    }

    /// The rule as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Values of its `Host` matchers that are not negated, in lower case and in the order of the rule.
    pub fn hosts(&self) -> Vec<String> {
        Vec::new()
    }

    /// True when the rule takes the request: the plain evaluation that the index must agree with.
    pub fn matches(&self, _request: &Request) -> bool {
        false
    }
}

/// One route that goes into an [`Index`].
pub struct Entry<T> {
    /// Its rule.
    pub rule: Rule,
    /// Higher goes first.
    pub priority: i64,
    /// Decides between equal priorities: lower goes first. The place of the provider in the precedence, then the name.
    pub tie: (usize, String),
    /// What is found.
    pub value: Arc<T>,
}

/// All routes of one entry point, indexed so that the cost of a look-up does not grow with their number.
pub struct Index<T> {
    entries: Vec<Entry<T>>,
}

impl<T> Index<T> {
    /// Builds the index.
    pub fn new(entries: Vec<Entry<T>>) -> Self {
        Self { entries }
    }

    /// The first route in order of priority whose rule takes the request.
    pub fn find(&self, request: &Request) -> Option<&Arc<T>> {
        self.entries.iter().find(|entry| entry.rule.matches(request)).map(|entry| &entry.value)
    }

    /// True when there is no route.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
