//! Tests in a configuration (`http.tests`): a request, and what should happen to it. `tidegate check` runs them; the
//! gateway ignores them. Not in Traefik.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tree::{Node, Value};

/// A test of the routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RouteTest {
    /// The request.
    pub request: TestRequest,
    /// What should happen to it.
    pub expect: Expectation,
}

/// A request that is not sent. In a configuration, it may also be a text: `GET https://app.example/x`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TestRequest {
    /// The method; `GET` if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The absolute URL.
    pub url: String,
    /// Headers; `Host` replaces that of the URL.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The client's address; 127.0.0.1 if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The entry point; chosen by the URL if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub entry_point: String,
}

/// What should happen to a request. What is not given is not checked. Names may lack `@provider`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Expectation {
    /// The router that handles it, the innermost of nested ones; empty if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<String>,
    /// The service that it reaches; empty if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The status with which the gateway responds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Middlewares of its way, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middleware: Vec<String>,
    /// Path and query that the server receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The target of a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// Turns a request that is a text into one with keys.
pub(crate) fn expand_text(test: &mut Node) {
    let Some(request) = test.get_mut(&["request"]) else { return };
    let Value::Leaf(text) = &request.value else { return };
    let (method, url) = text.trim().split_once(char::is_whitespace).unwrap_or(("", text.trim()));
    let (method, url) = (method.to_owned(), url.trim().to_owned());
    let mut keys = Node::table(request.origin.clone());
    if let Value::Table(table) = &mut keys.value {
        table.push("method".to_owned(), Node::leaf(request.origin.clone(), method));
        table.push("url".to_owned(), Node::leaf(request.origin.clone(), url));
    }
    *request = keys;
}
