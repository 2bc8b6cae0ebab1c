//! `X-Forwarded-*` and `X-Real-Ip`: which peers may set them, and what servers receive (Traefik's
//! `forwardedHeaders`). Also which headers a client can remove with `Connection`.

use std::net::IpAddr;
use std::sync::OnceLock;

use http::header::{CONNECTION, Entry, HOST, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, request};
use tidegate_core::client_ip::IpRanges;
use tidegate_core::{BuildError, Request};

use crate::entrypoint::http::presence::Presence;
use crate::settings::ForwardedHeaders;

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");

/// Headers that only trusted peers may set. `Connection` cannot remove them.
const MANAGED: [HeaderName; 11] = [
    X_REAL_IP,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_PORT,
    X_FORWARDED_HOST,
    X_FORWARDED_SERVER,
    HeaderName::from_static("x-forwarded-uri"),
    HeaderName::from_static("x-forwarded-method"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-tls-client-cert"),
    HeaderName::from_static("x-forwarded-tls-client-cert-info"),
];

/// Headers that determine how the request is parsed; `Connection` cannot remove them either.
const FRAMING: [HeaderName; 3] = [HOST, http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING];

/// Maximum number of headers added to a request here, and some for middlewares.
const MAX_ADDED: usize = 8;

/// How an entry point treats these headers.
#[derive(Debug)]
pub(in crate::entrypoint) struct ForwardedRules {
    trust_all: bool,
    trusted: IpRanges,
    /// Headers that are kept even if `Connection` names them.
    kept: Vec<HeaderName>,
    append: bool,
    server: Option<HeaderValue>,
}

/// What all requests of a connection have in common.
#[derive(Clone, Debug)]
pub(in crate::entrypoint) struct Peer {
    trusted: bool,
    address: HeaderValue,
    /// The first port that the client has named, as a rule that of all its requests.
    port: OnceLock<Option<HeaderValue>>,
    tls: bool,
}

impl ForwardedRules {
    /// Checks the options. `append` is false if the gateway never appends to `X-Forwarded-For`; `server` is the value
    /// of `X-Forwarded-Server`.
    pub(in crate::entrypoint) fn new(
        options: &ForwardedHeaders,
        append: bool,
        server: Option<HeaderValue>,
    ) -> Result<Self, BuildError> {
        let kept = options.connection.iter().map(|name| {
            name.trim()
                .parse()
                .map_err(|_| BuildError::new(format!("connection: `{name}` is not a header name")))
        });
        Ok(Self {
            trust_all: options.insecure,
            trusted: IpRanges::parse(&options.trusted_ips)
                .map_err(|error| BuildError::new(format!("trustedIPs: {error}")))?,
            kept: kept.collect::<Result<_, _>>()?,
            append: append && !options.not_append_x_forwarded_for,
            server,
        })
    }

    /// Returns what the requests of a peer have in common.
    pub(in crate::entrypoint) fn peer(&self, address: IpAddr, tls: bool) -> Peer {
        let address = address.to_canonical();
        Peer {
            trusted: self.trust_all || self.trusted.contains(address),
            address: HeaderValue::try_from(address.to_string())
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            port: OnceLock::new(),
            tls,
        }
    }

    /// Removes the headers that the peer may not set, and adds those for servers.
    pub(in crate::entrypoint) fn apply(&self, head: &mut request::Parts, peer: &Peer, presence: Presence) {
        let headers = &mut head.headers;
        if !peer.trusted {
            remove_managed(headers);
        }
        // Grows the map once instead of several times.
        headers.reserve(MAX_ADDED);
        if presence.connection {
            self.apply_connection(headers);
        }
        let host = headers.get(HOST).cloned();
        // Headers that were just removed need no look-up.
        let is_absent = |headers: &HeaderMap, name: &HeaderName| !peer.trusted || is_absent(headers, name);
        if is_absent(headers, &X_REAL_IP) {
            headers.insert(X_REAL_IP, peer.address.clone());
        }
        if is_absent(headers, &X_FORWARDED_PROTO) {
            let proto = match (presence.upgrade && is_websocket(headers), peer.tls) {
                (false, false) => const { HeaderValue::from_static("http") },
                (false, true) => const { HeaderValue::from_static("https") },
                (true, false) => const { HeaderValue::from_static("ws") },
                (true, true) => const { HeaderValue::from_static("wss") },
            };
            headers.insert(X_FORWARDED_PROTO, proto);
        }
        if is_absent(headers, &X_FORWARDED_PORT) {
            let port = port(host.as_ref(), headers, peer);
            headers.insert(X_FORWARDED_PORT, port);
        }
        if is_absent(headers, &X_FORWARDED_HOST)
            && let Some(host) = host.filter(|host| !host.is_empty())
        {
            headers.insert(X_FORWARDED_HOST, host);
        }
        if let Some(server) = &self.server {
            headers.insert(X_FORWARDED_SERVER, server.clone());
        }
    }

    /// Returns the address for [`append_for`].
    pub(in crate::entrypoint) fn appended(&self, peer: &Peer) -> Option<HeaderValue> {
        self.append.then(|| peer.address.clone())
    }

    /// Removes the headers that `Connection` names, and reduces `Connection` to what must be forwarded.
    fn apply_connection(&self, headers: &mut HeaderMap) {
        let mut remaining = String::new();
        let mut upgrade = false;
        let mut named = smallvec::SmallVec::<[HeaderName; 4]>::new();
        for token in tokens(headers, &CONNECTION) {
            if token.eq_ignore_ascii_case("upgrade") {
                upgrade = true;
            } else if let Ok(name) = HeaderName::from_bytes(token.as_bytes()) {
                named.push(name);
            }
        }
        for name in named {
            if MANAGED.contains(&name) || FRAMING.contains(&name) {
                continue;
            }
            if self.kept.contains(&name) {
                remaining.push_str(name.as_str());
                remaining.push(',');
            } else {
                headers.remove(&name);
            }
        }
        if upgrade && headers.contains_key(UPGRADE) {
            remaining.push_str("Upgrade");
        }
        let remaining = remaining.trim_end_matches(',');
        match HeaderValue::from_str(remaining) {
            Ok(value) if !remaining.is_empty() => headers.insert(CONNECTION, value),
            _ => headers.remove(CONNECTION),
        };
    }
}

/// Appends the client's address to `X-Forwarded-For`, unless that is disabled.
pub(crate) fn append_for(request: &mut Request) {
    let Request { head, context, .. } = request;
    if let Some(address) =
        context.exchange.connection.forwarded_for.as_ref().filter(|_| !context.omit_forwarded_for)
    {
        append(&mut head.headers, address);
    }
}

fn append(headers: &mut HeaderMap, address: &HeaderValue) {
    // One look-up for both cases.
    let mut earlier = match headers.entry(X_FORWARDED_FOR) {
        Entry::Vacant(vacant) => {
            vacant.insert(address.clone());
            return;
        }
        Entry::Occupied(earlier) => earlier,
    };
    let mut list = earlier.get().as_bytes().to_vec();
    for value in earlier.iter().skip(1).map(HeaderValue::as_bytes).chain([address.as_bytes()]) {
        list.extend_from_slice(b", ");
        list.extend_from_slice(value);
    }
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        earlier.insert(list);
    }
}

/// Removes the managed headers, whatever their spelling (`X_Forwarded_For`).
fn remove_managed(headers: &mut HeaderMap) {
    let mut odd = smallvec::SmallVec::<[HeaderName; 4]>::new();
    let mut any = false;
    for name in headers.keys() {
        let text = name.as_str();
        // All managed names start with `x`.
        if !text.starts_with('x') {
            continue;
        }
        if MANAGED.contains(name) {
            any = true;
        } else if text.bytes().any(|b| b == b'_' || b == b'.') {
            let plain = text.replace(['_', '.'], "-");
            if MANAGED.iter().any(|managed| managed.as_str() == plain) {
                odd.push(name.clone());
            }
        }
    }
    for name in odd {
        headers.remove(name);
    }
    if any {
        for name in &MANAGED {
            headers.remove(name);
        }
    }
}

fn is_absent(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get(name).is_none_or(HeaderValue::is_empty)
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let Some(upgrade) = headers.get(UPGRADE) else { return false };
    upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")
        && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// Returns the port that the client requested: from `Host`, else by scheme.
fn port(host: Option<&HeaderValue>, headers: &HeaderMap, peer: &Peer) -> HeaderValue {
    let host = host.map_or(&[][..], |host| host.as_bytes());
    let named = host
        .iter()
        .rposition(|byte| *byte == b':')
        .map(|colon| (&host[..colon], &host[colon + 1..]))
        .filter(|(name, port)| !port.is_empty() && (!name.contains(&b':') || name.ends_with(b"]")));
    if let Some((_, port)) = named {
        let known = peer.port.get_or_init(|| HeaderValue::from_bytes(port).ok()).as_ref();
        let known = known.filter(|known| known.as_bytes() == port).cloned();
        if let Some(port) = known.or_else(|| HeaderValue::from_bytes(port).ok()) {
            return port;
        }
    }
    let secure = headers.get(X_FORWARDED_PROTO).is_some_and(|proto| proto == "https" || proto == "wss");
    match secure || peer.tls {
        true => const { HeaderValue::from_static("443") },
        false => const { HeaderValue::from_static("80") },
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(options: &ForwardedHeaders) -> ForwardedRules {
        ForwardedRules::new(options, true, Some(HeaderValue::from_static("gate"))).unwrap()
    }

    fn run(rules: &ForwardedRules, peer: [u8; 4], tls: bool, given: &[(&str, &str)]) -> HeaderMap {
        let mut builder = http::Request::builder().uri("/");
        for (name, value) in given {
            builder = builder.header(*name, *value);
        }
        let mut head = builder.body(()).unwrap().into_parts().0;
        let presence = Presence::from_headers(&head.headers);
        rules.apply(&mut head, &rules.peer(peer.into(), tls), presence);
        head.headers
    }

    fn trusting() -> ForwardedHeaders {
        ForwardedHeaders { trusted_ips: vec!["10.0.0.0/8".into()], ..ForwardedHeaders::default() }
    }

    #[test]
    fn untrusted_peers_cannot_set_forwarded_headers() {
        let headers = run(
            &rules(&trusting()),
            [192, 0, 2, 1],
            false,
            &[
                ("host", "a.test:99"),
                ("x-forwarded-for", "1.1.1.1"),
                ("X_Forwarded_Proto", "https"),
                ("x.real_ip", "1.1.1.1"),
                ("x-forwarded-prefix", "/evil"),
                ("x-other_name", "stays"),
            ],
        );
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert!(
            !names.iter().any(|n| n.contains("prefix") || n.contains("x_") || n.contains("x.")),
            "{names:?}"
        );
        assert!(!headers.contains_key("x-forwarded-for"));
        assert_eq!(headers["x-real-ip"], "192.0.2.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-port"], "99");
        assert_eq!(headers["x-forwarded-host"], "a.test:99");
        assert_eq!(headers["x-forwarded-server"], "gate");
        assert_eq!(headers["x-other_name"], "stays");
    }

    #[test]
    fn trusted_peers_can_set_forwarded_headers() {
        let headers = run(
            &rules(&trusting()),
            [10, 1, 1, 1],
            false,
            &[("host", "a.test"), ("x-forwarded-proto", "https"), ("x-real-ip", "1.1.1.1")],
        );
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-real-ip"], "1.1.1.1");
        assert_eq!(headers["x-forwarded-port"], "443");
    }

    #[test]
    fn websockets_have_their_own_scheme() {
        let given = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("host", "[::1]")];
        let headers = run(&rules(&trusting()), [192, 0, 2, 1], true, &given);
        assert_eq!(headers["x-forwarded-proto"], "wss");
        assert_eq!(headers["x-forwarded-port"], "443");
        assert_eq!(headers["connection"], "Upgrade");
    }

    #[test]
    fn connection_removes_named_headers_except_managed_ones() {
        let options = ForwardedHeaders { connection: vec!["X-Keep".into()], ..ForwardedHeaders::default() };
        let headers = run(
            &rules(&options),
            [192, 0, 2, 1],
            false,
            &[
                ("host", "a.test"),
                ("connection", "X-Drop, x-keep, X-REAL-IP, host, close"),
                ("x-drop", "1"),
                ("x-keep", "1"),
            ],
        );
        assert!(!headers.contains_key("x-drop"));
        assert_eq!(headers["x-keep"], "1");
        assert_eq!(headers["connection"], "x-keep");
        assert_eq!(headers["x-real-ip"], "192.0.2.1");
        assert_eq!(headers["host"], "a.test");
    }

    #[test]
    fn the_peer_is_appended() {
        let mut headers = HeaderMap::new();
        let peer = HeaderValue::from_static("9.9.9.9");
        append(&mut headers, &peer);
        assert_eq!(headers["x-forwarded-for"], "9.9.9.9");
        headers.append("x-forwarded-for", HeaderValue::from_static("8.8.8.8"));
        append(&mut headers, &peer);
        assert_eq!(headers["x-forwarded-for"], "9.9.9.9, 8.8.8.8, 9.9.9.9");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        let quiet = ForwardedHeaders { not_append_x_forwarded_for: true, ..ForwardedHeaders::default() };
        let rules = rules(&quiet);
        assert_eq!(rules.appended(&rules.peer([1, 1, 1, 1].into(), false)), None);
    }
}
