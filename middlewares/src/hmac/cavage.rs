//! The older form of signatures (draft-cavage-http-signatures-12), as Kong's `hmac-auth` and Traefik Hub's `hmac` read
//! it.

use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::{HeaderMap, Version};
use tidegate_core::Request;

use super::presented::{Form, Presented, combined};
use super::refusal::Refusal;

/// Schemes in front of the parameters: Kong's and Traefik Hub's, and the draft's.
const SCHEMES: [&str; 2] = ["hmac", "signature"];
/// Maximum length of a field in bytes.
const MAX_FIELD: usize = 8 * 1024;
/// Maximum number of signed headers.
const MAX_HEADERS: usize = 64;
/// Names of the request line.
const REQUEST_LINE: [&str; 3] = ["(request-target)", "request-line", "@request-target"];

/// Returns the parameters of the only such credentials; `None` if there are none.
pub(super) fn find(headers: &HeaderMap) -> Result<Option<(HeaderName, &str)>, Refusal> {
    let mut found = None;
    for name in [AUTHORIZATION, PROXY_AUTHORIZATION] {
        for value in headers.get_all(&name) {
            let Some(parameters) = after_scheme(value) else { continue };
            // Another field of the same name could be what the service reads.
            if found.is_some() || headers.get_all(&name).iter().nth(1).is_some() {
                return Err(Refusal::Several);
            }
            found = Some((name.clone(), parameters?));
        }
    }
    Ok(found)
}

fn after_scheme(value: &HeaderValue) -> Option<Result<&str, Refusal>> {
    let bytes = value.as_bytes();
    let is_ours = SCHEMES.iter().any(|scheme| {
        let (own, rest) = bytes.split_at_checked(scheme.len()).unwrap_or_default();
        own.eq_ignore_ascii_case(scheme.as_bytes()) && matches!(rest.first(), Some(b' ' | b'\t'))
    });
    if !is_ours {
        return None;
    }
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_FIELD);
    Some(text.and_then(|text| text.split_once([' ', '\t'])).map(|(_, rest)| rest).ok_or(Refusal::Malformed))
}

/// Reads a signature. Without `required` names, it must cover the request line and the host.
pub(super) fn read(request: &Request, text: &str, required: &[String]) -> Result<Presented, Refusal> {
    let parameters = parameters(text)?;
    let of = |name: &str| parameters.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    let key_id = match (of("keyid"), of("username")) {
        (Some(id), None) | (None, Some(id)) => id,
        _ => return Err(Refusal::Malformed),
    };
    let integer = |name: &str| of(name).map(|text| text.parse().map_err(|_| Refusal::Malformed)).transpose();
    let (created, expires): (Option<i64>, Option<i64>) = (integer("created")?, integer("expires")?);
    let names = of("headers").ok_or(Refusal::NotCovered)?;
    let names: Vec<String> = names.split(' ').map(str::to_ascii_lowercase).collect();
    let is_distinct =
        |(at, name): (usize, &String)| !name.is_empty() && !names.iter().take(at).any(|one| one == name);
    if names.len() > MAX_HEADERS || !names.iter().enumerate().all(is_distinct) {
        return Err(Refusal::Malformed);
    }
    let has = |name: &str| names.iter().any(|own| own == name);
    let is_covered = match required.is_empty() {
        true => REQUEST_LINE.iter().any(|name| has(name)) && has("host"),
        false => required.iter().all(|name| has(name)),
    };
    if !is_covered {
        return Err(Refusal::NotCovered);
    }
    let mut base = Vec::with_capacity(512);
    for name in &names {
        if !base.is_empty() {
            base.push(b'\n');
        }
        line(&mut base, request, name, created, expires)?;
    }
    let date = ["date", "x-date"].into_iter().find(|name| has(name));
    let made = match created.filter(|_| has("(created)")) {
        Some(created) => created,
        None => date.and_then(|name| seconds(&request.head.headers, name)).ok_or(Refusal::NoTime)?,
    };
    Ok(Presented {
        form: Form::Cavage,
        key_id: key_id.to_owned(),
        algorithm: of("algorithm").map(str::to_ascii_lowercase),
        base,
        signature: BASE64_STANDARD
            .decode(of("signature").ok_or(Refusal::Malformed)?)
            .map_err(|_| Refusal::Malformed)?,
        created: made,
        expires: expires.filter(|_| has("(expires)")),
        nonce: None,
        covers_digest: has("digest") || has("content-digest"),
    })
}

/// Adds the line of a header.
fn line(
    base: &mut Vec<u8>,
    request: &Request,
    name: &str,
    created: Option<i64>,
    expires: Option<i64>,
) -> Result<(), Refusal> {
    let (method, target) = (&request.head.method, request.original_target());
    let number =
        |value: Option<i64>| value.map(|value| value.to_string().into_bytes()).ok_or(Refusal::NoComponent);
    let value = match name {
        // Kong's name for a line without a name.
        "request-line" => {
            let version = match request.head.version {
                Version::HTTP_10 => "1.0",
                Version::HTTP_2 => "2",
                Version::HTTP_3 => "3",
                _ => "1.1",
            };
            base.extend_from_slice(format!("{method} {target} HTTP/{version}").as_bytes());
            return Ok(());
        }
        "(request-target)" | "@request-target" => {
            format!("{} {target}", method.as_str().to_ascii_lowercase()).into_bytes()
        }
        "(created)" => number(created)?,
        "(expires)" => number(expires)?,
        _ => combined(&request.head.headers, name).ok_or(Refusal::NoComponent)?,
    };
    base.extend_from_slice(name.as_bytes());
    base.extend_from_slice(b": ");
    base.extend_from_slice(&value);
    Ok(())
}

/// Returns the time of the only field with this name, in seconds since 1970.
fn seconds(headers: &HeaderMap, name: &str) -> Option<i64> {
    let mut values = headers.get_all(name).iter();
    let date = httpdate::parse_http_date(values.next()?.to_str().ok()?).ok()?;
    let since = date.duration_since(UNIX_EPOCH).ok()?;
    if values.next().is_some() { None } else { i64::try_from(since.as_secs()).ok() }
}

/// Reads `name="value", name=123`, with names in lower case. A name that occurs twice is malformed.
fn parameters(mut text: &str) -> Result<Vec<(String, &str)>, Refusal> {
    let mut parameters: Vec<(String, &str)> = Vec::new();
    loop {
        let (name, rest) = text.split_once('=').ok_or(Refusal::Malformed)?;
        let name = name.trim_matches([' ', '\t']).to_ascii_lowercase();
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
        if !is_name || parameters.iter().any(|(other, _)| *other == name) {
            return Err(Refusal::Malformed);
        }
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or(Refusal::Malformed)?,
            None => rest.split_at(rest.find([',', ' ']).unwrap_or(rest.len())),
        };
        if value.contains('\\') {
            return Err(Refusal::Malformed);
        }
        parameters.push((name, value));
        let rest = rest.trim_matches([' ', '\t']);
        if rest.is_empty() {
            return Ok(parameters);
        }
        text = rest.strip_prefix(',').ok_or(Refusal::Malformed)?;
    }
}
