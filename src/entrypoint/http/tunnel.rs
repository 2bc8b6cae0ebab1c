//! WebSocket over HTTP/2 and HTTP/3 (RFC 8441, RFC 9220): an extended CONNECT is translated to an HTTP/1.1 upgrade,
//! and the response is translated back.

use base64::Engine;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Method, StatusCode, request};
use tidegate_core::{Reason, Response, reply};

/// The only protocol that is translated.
const WEBSOCKET: &str = "websocket";

/// Turns an extended CONNECT for WebSocket into an HTTP/1.1 handshake. Returns false for another `protocol`: the
/// request stays a CONNECT, which is refused.
pub(in crate::entrypoint) fn translate(head: &mut request::Parts, protocol: &str) -> bool {
    if head.method != Method::CONNECT || protocol != WEBSOCKET || !is_target(&head.uri) {
        return false;
    }
    head.method = Method::GET;
    // HTTP/2 handshakes have no key. It only proves that the server has read the request, so any key will do.
    let key = base64::engine::general_purpose::STANDARD.encode(fastrand::u128(..).to_ne_bytes());
    let Ok(key) = HeaderValue::try_from(key) else { return false };
    head.headers.remove(CONTENT_LENGTH);
    let fields: [(HeaderName, HeaderValue); 3] = [
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static(WEBSOCKET)),
        (SEC_WEBSOCKET_KEY, key),
    ];
    head.headers.extend(fields);
    true
}

/// Turns the response to a translated request into that of a CONNECT: 200 if the server switched protocols. Any other
/// success would announce a tunnel that does not exist, so it becomes a 502.
pub(in crate::entrypoint) fn connect_response(mut response: Response) -> Response {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
            response.headers_mut().remove(name);
        }
    } else {
        refuse_success(&mut response);
    }
    response
}

/// Replaces a success without a switch of protocols by a 502, so that logs show what the client receives.
pub(in crate::entrypoint) fn refuse_success(response: &mut Response) {
    if response.status().is_success() {
        *response = reply::status_text(StatusCode::BAD_GATEWAY, Reason::MalformedResponse);
    }
}

/// Returns true if a URI has scheme, authority and path, as an extended CONNECT must (RFC 8441 section 4).
fn is_target(uri: &http::Uri) -> bool {
    uri.scheme().is_some() && uri.authority().is_some() && uri.path().starts_with('/')
}

#[cfg(test)]
mod tests {
    use tidegate_core::Body;

    use super::*;

    fn connect(uri: &str) -> request::Parts {
        http::Request::connect(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_connect_for_websocket_becomes_an_upgrade() {
        let mut head = connect("https://a.test/chat?x");
        assert!(translate(&mut head, "websocket"));
        assert_eq!((head.method.as_str(), head.headers[UPGRADE].as_bytes()), ("GET", &b"websocket"[..]));
        assert_eq!(head.headers[SEC_WEBSOCKET_KEY].len(), 24);
        for (uri, protocol) in [("https://a.test/chat", "connect-udp"), ("a.test:443", "websocket")] {
            let mut head = connect(uri);
            assert!(!translate(&mut head, protocol));
            assert_eq!((head.method, head.headers.len()), (Method::CONNECT, 0));
        }
    }

    #[test]
    fn a_success_without_a_switch_of_protocols_becomes_a_502() {
        let status = |status: u16| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            let response = connect_response(response);
            (response.status().as_u16(), response.headers().contains_key(UPGRADE))
        };
        assert_eq!(status(101), (200, false));
        assert_eq!(status(200).0, 502);
        assert_eq!(status(403).0, 403);
    }
}
