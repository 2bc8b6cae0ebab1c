//! HTTP Message Signatures (RFC 9421): which signature counts, and what it covers.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::HOST;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tidegate_core::Request;
use url::form_urlencoded;

use super::fields::{self, Component, Input, Item};
use super::presented::{Form, Presented, combined};
use super::refusal::Refusal;

/// What is escaped in the names and values of `@query-param` (RFC 9421 section 2.2.8).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// Reads the signature of the only known key. `is_known` returns true for identifiers of keys.
pub(super) fn read(
    request: &Request,
    inputs: &str,
    label: Option<&str>,
    is_known: impl Fn(&str) -> bool,
    required: &[String],
) -> Result<Presented, Refusal> {
    let headers = &request.head.headers;
    let signatures = fields::joined(headers, "signature")?.ok_or(Refusal::Malformed)?;
    let signatures = fields::byte_sequences(&signatures)?;
    let inputs = fields::inputs(inputs)?;
    let candidates = inputs.iter().filter(|input| label.is_none_or(|label| label == input.label));
    let candidates: Vec<&Input> = candidates.collect();
    if candidates.is_empty() {
        return Err(Refusal::Missing);
    }
    let is_known = |input: &&Input| matches!(text(input, "keyid"), Ok(Some(id)) if is_known(id));
    let mut known = candidates.into_iter().filter(is_known);
    let input = known.next().ok_or(Refusal::UnknownKey)?;
    if known.next().is_some() {
        return Err(Refusal::Several);
    }
    let signature = signatures.into_iter().find(|(name, _)| *name == input.label);
    let (_, signature) = signature.ok_or(Refusal::Malformed)?;
    if required.iter().any(|name| !covers(&input.components, name)) {
        return Err(Refusal::NotCovered);
    }
    Ok(Presented {
        form: Form::Message,
        key_id: text(input, "keyid")?.ok_or(Refusal::UnknownKey)?.to_owned(),
        algorithm: text(input, "alg")?.map(str::to_owned),
        base: base(request, input)?,
        signature,
        created: integer(input, "created")?.ok_or(Refusal::NoTime)?,
        expires: integer(input, "expires")?,
        nonce: text(input, "nonce")?.map(str::to_owned),
        covers_digest: has(&input.components, "content-digest"),
    })
}

fn text<'a>(input: &'a Input, name: &str) -> Result<Option<&'a str>, Refusal> {
    match input.parameters.iter().find(|(other, _)| other == name) {
        None => Ok(None),
        Some((_, Item::Text(text))) => Ok(Some(text)),
        Some(_) => Err(Refusal::Malformed),
    }
}

fn integer(input: &Input, name: &str) -> Result<Option<i64>, Refusal> {
    match input.parameters.iter().find(|(other, _)| other == name) {
        None => Ok(None),
        Some((_, Item::Integer(number))) => Ok(Some(*number)),
        Some(_) => Err(Refusal::Malformed),
    }
}

fn has(components: &[Component], name: &str) -> bool {
    components.iter().any(|component| component.name == name && component.parameters.is_empty())
}

/// Returns true if a component is covered, by itself or as a part of another.
fn covers(components: &[Component], name: &str) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| has(components, name));
    match name {
        "@path" | "@query" => any(&[name, "@target-uri", "@request-target"]),
        "@authority" => any(&[name, "@target-uri", "host"]),
        _ => has(components, name),
    }
}

/// Returns the signature base (RFC 9421 section 2.5).
fn base(request: &Request, input: &Input) -> Result<Vec<u8>, Refusal> {
    let mut base = Vec::with_capacity(512);
    for (at, component) in input.components.iter().enumerate() {
        if input.components.iter().take(at).any(|other| other.written == component.written) {
            return Err(Refusal::Malformed);
        }
        base.extend_from_slice(component.written.as_bytes());
        base.extend_from_slice(b": ");
        base.extend_from_slice(&value(request, component)?);
        base.push(b'\n');
    }
    base.extend_from_slice(b"\"@signature-params\": ");
    base.extend_from_slice(input.written.as_bytes());
    Ok(base)
}

/// Returns the value of a component (RFC 9421 sections 2.1 and 2.2).
fn value<'a>(request: &'a Request, component: &Component) -> Result<Cow<'a, [u8]>, Refusal> {
    let name = component.name.as_str();
    if name == "@query-param" {
        let [(parameter, Item::Text(wanted))] = component.parameters.as_slice() else {
            return Err(Refusal::Unsupported);
        };
        return match parameter.as_str() {
            "name" => query_parameter(request, wanted).map(|value| Cow::Owned(value.into_bytes())),
            _ => Err(Refusal::Unsupported),
        };
    }
    if !component.parameters.is_empty() {
        return Err(Refusal::Unsupported);
    }
    let target = request.original_target();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let text: Cow<'a, str> = match name {
        "@method" => request.head.method.as_str().into(),
        "@authority" => authority(request)?.into(),
        "@scheme" => scheme(request).into(),
        "@target-uri" => format!("{}://{}{target}", scheme(request), authority(request)?).into(),
        "@request-target" => target.into(),
        "@path" => path.into(),
        "@query" => format!("?{query}").into(),
        _ if name.starts_with('@') => return Err(Refusal::Unsupported),
        _ => return field(&request.head.headers, name).map(Cow::Owned),
    };
    Ok(match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })
}

fn field(headers: &HeaderMap, name: &str) -> Result<Vec<u8>, Refusal> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Refusal::Malformed);
    }
    combined(headers, name).ok_or(Refusal::NoComponent)
}

/// Returns the only value of a parameter of the query.
fn query_parameter(request: &Request, name: &str) -> Result<String, Refusal> {
    let target = request.original_target();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let escaped = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(other, _)| escaped(other) == name);
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Ok(escaped(&value)),
        _ => Err(Refusal::NoComponent),
    }
}

/// Returns the scheme that the client has used, according to the trusted proxy in front.
fn scheme(request: &Request) -> &'static str {
    let proto = request.head.headers.get("x-forwarded-proto").map(|proto| proto.as_bytes());
    let is_secure = request.context.is_tls() || matches!(proto, Some(b"https" | b"wss"));
    if is_secure { "https" } else { "http" }
}

/// Returns the only host in lower case, without the default port (RFC 9421 section 2.2.3).
fn authority(request: &Request) -> Result<String, Refusal> {
    if request.head.headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(Refusal::NoComponent);
    }
    let host = request.host().to_ascii_lowercase();
    let default = if scheme(request) == "https" { ":443" } else { ":80" };
    Ok(host.strip_suffix(default).map(str::to_owned).unwrap_or(host))
}
