//! The primary key of a request.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use http::header::{COOKIE, FORWARDED};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// Fields by which clients can change what some servers respond, though they are seldom named in `Vary`. They are part
/// of every key, so that a response that they have changed is found only by requests that have them, too.
/// `X-Forwarded-Server` is not: it is the name of this machine, which a container changes with each start. Sorted.
const STEERING: [&str; 27] = [
    "front-end-https",
    "x-backend-host",
    "x-forwarded-base-url",
    "x-forwarded-host",
    "x-forwarded-method",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-forwarded-uri",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-proxy-host",
    "x-rewrite-url",
    "x-scheme",
    "x-script-name",
    "x-url-scheme",
];

/// Those of [`STEERING`] that a request has, sorted: two requests have them in any order.
fn steering(headers: &HeaderMap) -> SmallVec<[&HeaderName; 8]> {
    let steers = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with(['x', 'f']) && STEERING.binary_search(&name).is_ok()
    };
    let mut names: SmallVec<[&HeaderName; 8]> = headers.keys().filter(steers).collect();
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names
}

/// A primary key: the resource, and after a zero byte what else separates requests. Keys of one resource, and of
/// resources with the same beginning, are neighbours in their order.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A key that a store has written.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// What the key consists of, for people: the resource, and the names of what else separates requests. Values are
    /// left out, since they may be secret, except that of the route.
    pub fn describe(&self) -> String {
        let mut parts = self.0.splitn(2, |byte| *byte == 0);
        let mut text = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let mut rest = parts.next().unwrap_or_default();
        while let Some((letter, name, value)) = next_part(&mut rest) {
            let name = String::from_utf8_lossy(name);
            text.push_str(", ");
            match letter {
                b'r' => text.extend(["router ", &String::from_utf8_lossy(value)]),
                b'i' => text.push_str("the client's identity"),
                b'f' => text.push_str("Forwarded"),
                b'c' => text.extend(["cookie ", &name]),
                _ => text.extend(["header ", &name]),
            }
        }
        text
    }

    /// The resource: scheme, host, path and query, as far as they are part of the key.
    pub fn resource(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

/// The key is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key of {length} bytes, at most {limit} are allowed")]
pub struct KeyTooLong {
    /// Its length in bytes.
    pub length: usize,
    /// The limit in bytes.
    pub limit: usize,
}

/// Which parameters of the query are part of the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Query {
    /// All.
    #[default]
    All,
    /// Those with these names.
    Only(Vec<String>),
    /// All but those with these names.
    Except(Vec<String>),
}

/// What a key consists of. The default is what RFC 9111 §2 asks for: the whole target URI.
#[derive(Clone, Debug)]
pub struct Template {
    /// The scheme is part of the key.
    pub scheme: bool,
    /// The host is part of the key.
    pub host: bool,
    /// The parameters that are part of the key. The server must get no others: see [`Template::query`].
    pub query: Query,
    /// Parameters are sorted by name, so that their order does not matter. Those of one name keep their order.
    pub sort_query: bool,
    /// Fields that are part of the key, beside those of `Vary`.
    pub headers: Vec<HeaderName>,
    /// Cookies that are part of the key.
    pub cookies: Vec<String>,
    /// The largest length in bytes.
    pub max_bytes: usize,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            scheme: true,
            host: true,
            query: Query::All,
            sort_query: false,
            headers: Vec::new(),
            cookies: Vec::new(),
            max_bytes: 8 * 1024,
        }
    }
}

/// The parts of a request that a key is made of.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and port, as in `Host` or `:authority`.
    pub authority: &'a str,
    /// The path, exactly as the server gets it: a server may distinguish what looks equivalent.
    pub path: &'a str,
    /// What follows `?`.
    pub query: Option<&'a str>,
    /// The fields of the request.
    pub headers: &'a HeaderMap,
    /// Which way requests take that share responses: the name of the route. Two routes may answer one URL differently.
    pub route: &'a [u8],
    /// Who sends it, if it is authenticated: a partition of its own, which other clients never see.
    pub identity: Option<&'a [u8]>,
}

impl Template {
    /// The key of a request.
    pub fn key(&self, target: &Target<'_>) -> Result<Key, KeyTooLong> {
        let mut key = self.resource(target.scheme, target.authority, target.path, target.query);
        // Each part has a letter and a length, so that no value can look like two.
        if !target.route.is_empty() {
            part(&mut key, b'r', &[], target.route);
        }
        if let Some(identity) = target.identity {
            part(&mut key, b'i', &[], identity);
        }
        for name in steering(target.headers) {
            let value = header(&mut key, target.headers, name);
            // The gateway sets X-Forwarded-Host, too: it is a host, and has no case.
            if name == "x-forwarded-host" {
                key[value..].make_ascii_lowercase();
            }
        }
        if target.headers.contains_key(FORWARDED) {
            part(&mut key, b'f', &[], &forwarded(target.headers));
        }
        for name in self.headers.iter().filter(|name| target.headers.contains_key(*name)) {
            header(&mut key, target.headers, name);
        }
        for name in &self.cookies {
            for value in cookies(target.headers, name.as_bytes()) {
                part(&mut key, b'c', name.as_bytes(), value);
            }
        }
        if key.len() > self.max_bytes {
            return Err(KeyTooLong { length: key.len(), limit: self.max_bytes });
        }
        Ok(Key(key.into()))
    }

    /// The beginning of every key of a resource: what a purge of it looks for. It ends with a zero byte, without which
    /// it is the beginning of the keys of all resources that start like it.
    pub fn resource(&self, scheme: &str, authority: &str, path: &str, query: Option<&str>) -> Vec<u8> {
        let mut key = Vec::with_capacity(scheme.len() + authority.len() + path.len() + 384);
        if self.scheme {
            key.extend_from_slice(scheme.as_bytes());
        }
        key.extend_from_slice(b"://");
        if self.host {
            key.extend_from_slice(without_port(scheme, authority).as_bytes());
        }
        key.make_ascii_lowercase();
        key.extend_from_slice(path.as_bytes());
        if let Some(query) = self.query(query) {
            key.push(b'?');
            key.extend_from_slice(query.as_bytes());
        }
        // No part of a valid request has a zero byte; one that has must not imitate a key.
        for byte in &mut key {
            if *byte == 0 {
                *byte = b'\n';
            }
        }
        key.push(0);
        key
    }

    /// The query with which a request must be sent to the server if its response is to be stored. A parameter that is
    /// not part of the key must not reach the server: whoever sends it would choose what others get.
    pub fn query<'a>(&self, query: Option<&'a str>) -> Option<Cow<'a, str>> {
        let query = query?;
        if self.query == Query::All && !self.sort_query {
            return Some(Cow::Borrowed(query));
        }
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
        match &self.query {
            Query::All => {}
            Query::Only(names) => pairs.retain(|pair| names.contains(&name(pair))),
            Query::Except(names) => pairs.retain(|pair| !names.contains(&name(pair))),
        }
        if self.sort_query {
            pairs.sort_by_key(|pair| name(pair));
        }
        (!pairs.is_empty()).then(|| Cow::Owned(pairs.join("&")))
    }
}

/// The host, without the port that the scheme has anyway.
fn without_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let default = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    authority.strip_suffix(default).unwrap_or(authority)
}

/// Writes the values of a field like [`part`], and returns where they begin.
fn header(key: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName) -> usize {
    part(key, b'h', name.as_str().as_bytes(), &[]);
    let start = key.len();
    for (number, line) in headers.get_all(name).iter().enumerate() {
        if number > 0 {
            key.extend_from_slice(b", ");
        }
        key.extend_from_slice(line.as_bytes().trim_ascii());
    }
    let length = u32::try_from(key.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = key[..start].last_chunk_mut() {
        *place = length.to_be_bytes();
    }
    start
}

fn part(key: &mut Vec<u8>, letter: u8, name: &[u8], value: &[u8]) {
    key.push(letter);
    for text in [name, value] {
        key.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        key.extend_from_slice(text);
    }
}

/// Takes what [`part`] has written off the front: letter, name and value.
fn next_part<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let mut take = |number: usize| {
        let (taken, left) = rest.split_at_checked(number)?;
        *rest = left;
        Some(taken)
    };
    let letter = *take(1)?.first()?;
    let mut text = || {
        let length = u32::from_be_bytes(take(4)?.try_into().ok()?);
        take(usize::try_from(length).ok()?)
    };
    Some((letter, text()?, text()?))
}

/// `host` and `proto` of `Forwarded` (RFC 7239). The rest names clients, who would each have a key of their own.
fn forwarded(headers: &HeaderMap) -> Vec<u8> {
    let mut found = Vec::new();
    for line in headers.get_all(FORWARDED) {
        for pair in line.as_bytes().split(|byte| matches!(byte, b';' | b',')) {
            let pair = pair.trim_ascii().to_ascii_lowercase();
            if pair.starts_with(b"host") || pair.starts_with(b"proto") {
                found.extend_from_slice(&pair);
                found.push(b';');
            }
        }
    }
    found
}

/// All values of a cookie.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let pairs =
        headers.get_all(COOKIE).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn target<'a>(uri: &'a str, headers: &'a HeaderMap) -> Target<'a> {
        let (scheme, rest) = uri.split_once("://").unwrap();
        let (authority, rest) = rest.split_at(rest.find('/').unwrap());
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        Target { scheme, authority, path, query, headers, route: b"", identity: None }
    }

    fn same(template: &Template, one: &str, other: &str) -> bool {
        let headers = HeaderMap::new();
        template.key(&target(one, &headers)).unwrap() == template.key(&target(other, &headers)).unwrap()
    }

    #[test]
    fn equal_hosts_share_a_key_and_paths_are_exact() {
        let template = Template::default();
        assert!(same(&template, "http://A.example:80/x", "http://a.example/x"));
        assert!(same(&template, "https://a.example:443/x", "https://a.example/x"));
        for (one, other) in [
            ("http://a/x", "https://a/x"),
            ("http://a/x", "http://b/x"),
            ("http://a:443/x", "http://a/x"),
            ("http://a/x", "http://a/X"),
            ("http://a/%41", "http://a/A"),
            ("http://a/x", "http://a/x?"),
            ("http://a/x?a=1&b=2", "http://a/x?b=2&a=1"),
        ] {
            assert!(!same(&template, one, other), "{one} {other}");
        }
        assert!(same(&Template { scheme: false, ..Template::default() }, "http://a/x", "https://a/x"));
    }

    #[test]
    fn only_the_parameters_of_the_key_reach_the_server() {
        let only = Template { query: Query::Only(vec!["a".to_owned()]), ..Template::default() };
        assert_eq!(only.query(Some("utm=<x>&a=1&%61=2&a=3")).as_deref(), Some("a=1&a=3"));
        assert_eq!(only.query(Some("utm=1;a=2")).as_deref(), None);
        let except = Template {
            query: Query::Except(vec!["utm".to_owned()]),
            sort_query: true,
            ..Template::default()
        };
        assert_eq!(except.query(Some("b=2&utm=1&&a=2&a=1&b")).as_deref(), Some("a=2&a=1&b=2&b"));
        assert!(same(&except, "http://a/?b=1&a=1&utm=5", "http://a/?a=1&b=1"));
        assert_eq!(Template::default().query(Some("")).as_deref(), Some(""));
    }

    #[test]
    fn the_fields_that_steer_servers_are_sorted_and_count_in_any_order() {
        assert!(STEERING.is_sorted());
        let key = |lines| {
            let headers = map(lines);
            Template::default().key(&target("http://a/x", &headers)).unwrap()
        };
        assert_eq!(
            key(&[("x-host", "1"), ("x-original-url", "2")]),
            key(&[("x-original-url", "2"), ("a", "b"), ("x-host", "1")])
        );
    }

    #[test]
    fn what_steers_servers_separates_requests() {
        let template = Template {
            headers: vec![HeaderName::from_static("x-a")],
            cookies: vec!["c".to_owned()],
            ..Template::default()
        };
        let key = |lines: &[(&'static str, &'static str)]| {
            template.key(&target("http://a/x", &map(lines))).unwrap()
        };
        let plain = key(&[("user-agent", "x"), ("cookie", "d=1; cc=2"), ("forwarded", "for=1.2.3.4")]);
        for lines in [
            [("x-forwarded-host", "evil")],
            [("x-original-url", "/admin")],
            [("x-forwarded-ssl", "on")],
            [("front-end-https", "on")],
            [("x-http-method-override", "POST")],
            [("forwarded", "for=1.2.3.4;Host=evil")],
            [("x-a", "1")],
            [("cookie", "d=1; c=2")],
        ] {
            assert_ne!(key(&lines), plain, "{lines:?}");
        }
        assert_eq!(key(&[("forwarded", "for=1.1.1.1")]), plain, "clients share a key");
        assert_ne!(key(&[("x-a", "1"), ("x-a", "2")]), key(&[("x-a", "1")]));
        assert_ne!(key(&[("cookie", "c=2; c=3")]), key(&[("cookie", "c=2")]));
    }

    #[test]
    fn identities_have_partitions() {
        let headers = HeaderMap::new();
        let of = |identity| {
            Template::default().key(&Target { identity, ..target("http://a/x", &headers) }).unwrap()
        };
        let keys = [None, Some(b"".as_slice()), Some(b"a"), Some(b"b")].map(of);
        for (i, one) in keys.iter().enumerate() {
            assert!(keys.iter().skip(i + 1).all(|other| one != other));
            assert_eq!(one.resource(), b"http://a/x");
        }
    }

    #[test]
    fn routes_share_nothing_but_the_resource() {
        let headers = HeaderMap::new();
        let of =
            |route| Template::default().key(&Target { route, ..target("http://a/x", &headers) }).unwrap();
        assert_ne!(of(b"one"), of(b"two"));
        assert_eq!(of(b"one").resource(), of(b"two").resource());
    }

    #[test]
    fn parts_cannot_imitate_each_other() {
        let template = Template { host: false, ..Template::default() };
        let headers = HeaderMap::new();
        let honest = Target { identity: Some(b"a"), ..target("http://a/x", &headers) };
        let key = template.key(&honest).unwrap();
        let text = String::from_utf8(key.as_bytes().to_vec()).unwrap();
        let path = text.strip_prefix("http://").unwrap();
        assert_ne!(template.key(&Target { path, identity: None, ..honest }).unwrap(), key);
    }

    #[test]
    fn long_keys_are_refused() {
        let headers = HeaderMap::new();
        let uri = format!("http://a/{}", "x".repeat(8192));
        let error = Template::default().key(&target(&uri, &headers)).unwrap_err();
        assert_eq!(error.limit, 8192);
    }

    #[test]
    fn descriptions_have_no_values_of_clients() {
        let headers = map(&[("x-host", "secret1"), ("x-tenant", "secret2"), ("cookie", "lang=secret3")]);
        let template = Template {
            headers: vec![HeaderName::from_static("x-tenant")],
            cookies: vec!["lang".to_owned()],
            ..Template::default()
        };
        let target =
            Target { route: b"r@file", identity: Some(b"secret4"), ..target("http://h/a?b=1", &headers) };
        assert_eq!(
            template.key(&target).unwrap().describe(),
            "http://h/a?b=1, router r@file, the client's identity, header x-host, header x-tenant, cookie lang"
        );
    }
}
