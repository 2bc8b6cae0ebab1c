//! The input of policies: what is known about a request.

use aws_lc_rs::digest;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap, PROXY_AUTHORIZATION};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use tidegate_core::client_ip::ClientIp;
use tidegate_core::{Identity, Request};
use url::form_urlencoded;

use super::json::parse;

/// The members of an input.
pub(super) const MEMBERS: &[&str] = &[
    "attributes",
    "body",
    "client",
    "entry_point",
    "headers",
    "host",
    "identity",
    "method",
    "parsed_body",
    "parsed_path",
    "parsed_query",
    "path",
    "protocol",
    "query",
    "router",
    "scheme",
    "tls",
];

/// What goes into the input.
pub(super) struct InputRules {
    pub(super) client: ClientIp,
    /// Whether it has `Authorization`, cookies and API keys.
    pub(super) has_credentials: bool,
}

impl InputRules {
    /// Returns the input for a request. Nothing in it changes when an equal request follows.
    pub(super) fn input(&self, request: &Request, body: Option<&[u8]>) -> Value {
        let context = &request.context;
        let connection = context.connection();
        let hidden = |name: &http::HeaderName| {
            !self.has_credentials
                && ([AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(name)
                    || context.exchange.concealed().any(|concealed| concealed.headers.contains(name)))
        };
        let mut names = Map::new();
        let mut lower = Map::new();
        for name in request.head.headers.keys().filter(|name| !hidden(name)) {
            let value = values(&request.head.headers, name);
            names.insert(canonical(name.as_str()), value.clone());
            lower.insert(name.as_str().to_owned(), value);
        }
        let target = self.target(request);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let scheme = if context.is_tls() { "https" } else { "http" };
        let address = self.client.of(request);
        let (host, method) = (request.host(), request.head.method.as_str());
        let protocol = format!("{:?}", request.head.version);
        let identity = context.identity.as_deref().map_or(Value::Null, identity);
        let mut http = json!({"method": method, "scheme": scheme, "host": host, "path": target,
            "protocol": protocol, "headers": lower});
        let mut input = json!({
            "method": method, "scheme": scheme, "host": host, "path": path, "query": query,
            "protocol": protocol, "headers": names,
            "parsed_path": segments(path), "parsed_query": parameters(query),
            "client": {"address": address},
            "tls": connection.tls.as_ref().map(|tls| json!({
                "version": tls.version, "cipher": tls.cipher, "server_name": tls.server_name,
                "client_certificate_sha256": tls.client_certificates.first().map(|one| fingerprint(one)),
            })),
            "identity": identity,
            "entry_point": &*connection.entry_point, "router": context.exchange.router(),
        });
        if let Some(body) = body {
            let text = String::from_utf8_lossy(body);
            if is_json(&request.head.headers)
                && let Some(parsed) = parse(body)
            {
                set(&mut input, "parsed_body", parsed);
            }
            set(&mut input, "body", json!(text));
            set(&mut input, "truncated_body", json!(false));
            set(&mut http, "body", json!(text));
        }
        let principal = context.identity.as_ref().map_or("", |identity| &identity.subject);
        let source = json!({"address": {"socketAddress": {"address": address}}, "principal": principal});
        set(&mut input, "attributes", json!({"source": source, "request": {"http": http}}));
        input
    }

    /// Returns path and query.
    fn target(&self, request: &Request) -> String {
        let target = request.head.uri.path_and_query().map_or("/", |target| target.as_str());
        if self.has_credentials {
            return target.to_owned();
        }
        let mut shown = target.to_owned();
        for concealed in request.context.exchange.concealed() {
            if let Some(redacted) = concealed.redacted(&shown) {
                shown = redacted;
            }
        }
        shown
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(name.to_owned(), value);
    }
}

/// Returns all values of a header in one text, as Envoy does.
fn values(headers: &HeaderMap, name: &http::HeaderName) -> Value {
    let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    Value::from(values.collect::<Vec<_>>().join(","))
}

/// Returns the spelling of Go: `X-Forwarded-For`.
fn canonical(name: &str) -> String {
    let mut starts = true;
    let letter = |letter: char| {
        let is_first = std::mem::replace(&mut starts, letter == '-');
        if is_first { letter.to_ascii_uppercase() } else { letter }
    };
    name.chars().map(letter).collect()
}

/// Returns the decoded segments of a path: an escaped slash does not separate them.
fn segments(path: &str) -> Vec<String> {
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    segments
        .map(|segment| {
            percent_decode_str(segment)
                .decode_utf8()
                .map_or_else(|_| segment.to_owned(), |text| text.into_owned())
        })
        .collect()
}

fn parameters(query: &str) -> Map<String, Value> {
    let mut parameters = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let values = parameters.entry(name.into_owned()).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(Value::from(value.into_owned()));
        }
    }
    parameters
}

fn fingerprint(certificate: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn identity(identity: &Identity) -> Value {
    json!({
        "subject": identity.subject, "method": identity.method.name(), "by": &*identity.by,
        "groups": identity.all_groups().collect::<Vec<_>>(), "labels": identity.all_labels(),
        "scopes": identity.scopes, "plan": identity.plan(),
        "consumer": identity.consumer.as_ref().map(|consumer| &*consumer.name),
        "claims": identity.claims.as_deref(),
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_slash_separates_nothing() {
        assert_eq!(segments("/a/b%2Fc/%61/%ff/"), ["a", "b/c", "a", "%ff", ""]);
        assert_eq!(segments("/"), [""]);
    }

    #[test]
    fn headers_have_the_names_of_go() {
        assert_eq!(canonical("x-forwarded-for"), "X-Forwarded-For");
        assert_eq!(canonical("etag"), "Etag");
    }
}
