//! What a head says about the rest of its message and about the connection.

use http::{Method, StatusCode, Version};

/// How the end of a body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// It has this many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
    /// It ends with the connection. Responses only.
    UntilClose,
}

impl Framing {
    /// Returns true if bytes follow the head: data, or the framing of an empty body.
    pub fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// What the fields of a head say about the connection (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `Connection` lists `close`.
    pub close: bool,
    /// `Connection` lists `keep-alive`.
    pub keep_alive: bool,
    /// There is an `Upgrade`. Whether `Connection` lists it does not matter: what follows may be another protocol.
    pub upgrade: bool,
    /// `Expect: 100-continue`: the client may wait before it sends the body (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
    /// `TE` lists `trailers` (RFC 9110 section 10.1.4).
    pub accepts_trailers: bool,
}

impl Options {
    /// Returns true if the connection outlives the message (RFC 9112 section 9.3).
    pub fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }

    /// Reads a value of `Connection`. Returns true if it has one option, which is `close` or `keep-alive`.
    pub(super) fn read_connection(&mut self, value: &[u8]) -> bool {
        if value.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
            return true;
        }
        if value.eq_ignore_ascii_case(b"close") {
            self.close = true;
            return true;
        }
        self.close |= lists(value, b"close");
        self.keep_alive |= lists(value, b"keep-alive");
        false
    }

    /// Reads a value of `TE`.
    pub(super) fn read_te(&mut self, value: &[u8]) {
        self.accepts_trailers |= lists(value, b"trailers");
    }

    /// Reads a value of `Expect`.
    pub(super) fn read_expect(&mut self, value: &[u8]) {
        self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
    }
}

/// What a client asked for, as far as it decides how a response is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The method is `HEAD`.
    pub head: bool,
    /// The method is `CONNECT`.
    pub connect: bool,
    /// There was an `Upgrade`.
    pub upgrade: bool,
}

impl Asked {
    /// Notes a request.
    pub fn new(method: &Method, upgrade: bool) -> Self {
        Self { head: *method == Method::HEAD, connect: *method == Method::CONNECT, upgrade }
    }

    /// Returns true if a response with this status has no body, whatever its fields say (RFC 9112 section 6.3).
    pub fn is_bodiless(self, status: StatusCode) -> bool {
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        bodiless || self.head || status.is_informational() || self.opens_tunnel(status)
    }

    /// Returns true if the connection is a tunnel after a response with this status.
    pub fn opens_tunnel(self, status: StatusCode) -> bool {
        (self.connect && status.is_success()) || (self.upgrade && status == StatusCode::SWITCHING_PROTOCOLS)
    }
}

/// Returns true if a list of tokens has this one.
pub(super) fn lists(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|one| trim(one).eq_ignore_ascii_case(token))
}

/// Removes optional white space, which is spaces and tabs (RFC 9110 section 5.6.3).
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Parses a decimal number, which has digits only.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(connection: &[&str]) -> Options {
        let mut options = Options::default();
        for value in connection {
            options.read_connection(value.as_bytes());
        }
        options
    }

    #[test]
    fn connections_persist_as_their_versions_say() {
        for (values, new, old) in [
            (&[][..], true, false),
            (&["Keep-Alive"], true, true),
            (&["close"], false, false),
            (&["x , CLOSE"], false, false),
            (&["keep-alive", "close"], false, false),
            (&["close", "keep-alive"], false, false),
            (&["x, keep-alive\t"], true, true),
            (&["closed", ""], true, false),
        ] {
            let options = options(values);
            let seen = (options.persists(Version::HTTP_11), options.persists(Version::HTTP_10));
            assert_eq!(seen, (new, old), "{values:?}");
        }
    }

    #[test]
    fn only_digits_are_numbers() {
        for (text, expected) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999999999999999", None),
            ("", None),
            ("+1", None),
            ("1 ", None),
            ("0x1", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), expected, "{text}");
        }
    }
}
