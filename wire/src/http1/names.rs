//! The names of header fields: which ones are well known, how they are usually spelt, and what the codec does with them.

use http::HeaderName;

/// A name that software commonly sends, so that it is neither allocated nor looked at byte by byte.
#[derive(Debug)]
pub(super) struct Known {
    /// A line with the usual spelling: CR LF, the name, a colon and a space, and then anything. All have one size, which
    /// is copied with fewer instructions than a call takes.
    line: [u8; LINE],
    length: u8,
    /// The same as the HTTP library's type, in lower case.
    pub(super) name: HeaderName,
    /// What it means for the codec.
    pub(super) role: Role,
}

/// The size of the longest line.
const LINE: usize = 40;

impl Known {
    /// Returns the usual spelling.
    fn usual(&self) -> &[u8] {
        &self.line[2..2 + self.length()]
    }

    /// Returns the length of the name.
    pub(super) fn length(&self) -> usize {
        usize::from(self.length)
    }

    /// Writes a line in the usual spelling up to its value.
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.length() + 4;
        out.extend_from_slice(&self.line);
        out.truncate(end);
    }
}

/// What a field means for the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing.
    Other,
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Upgrade`.
    Upgrade,
    /// `Expect`.
    Expect,
    /// `TE`.
    Te,
    /// Another field that concerns one connection (RFC 9110 section 7.6.1, and RFC 9112 section 9 for the older ones).
    OneConnection,
    /// A field that may not be a trailer, since it changes how the message is framed, routed, authorised or read
    /// (RFC 9110 section 6.5.1).
    NoTrailer,
}

/// How a name was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is usual: as in [`KNOWN`], and of other names each word with a capital letter.
    Usual,
    /// In lower case.
    Lower,
    /// Both of them: there are no letters.
    Either,
    /// In no regular way.
    Irregular,
}

/// Returns what is known about a name.
pub(super) fn find(name: &HeaderName) -> Option<&'static Known> {
    candidate(name.as_str().as_bytes()).filter(|known| *name == known.name)
}

/// Returns what is known about a name, and how it is spelt.
#[inline]
pub(super) fn identify(name: &[u8]) -> Option<(&'static Known, Form)> {
    let known = candidate(name)?;
    if name == known.usual() {
        Some((known, Form::Usual))
    } else if name == known.name.as_str().as_bytes() {
        Some((known, Form::Lower))
    } else {
        name.eq_ignore_ascii_case(known.usual()).then_some((known, Form::Irregular))
    }
}

/// Returns the only known name that this may be.
fn candidate(name: &[u8]) -> Option<&'static Known> {
    KNOWN.get(usize::from(SLOTS[slot(name)?]))
}

/// Returns how a name is spelt that is not known.
pub(super) fn form(name: &[u8]) -> Form {
    let (mut usual, mut lower, mut starts) = (true, true, true);
    for byte in name {
        let (small, capital) = (byte.is_ascii_lowercase(), byte.is_ascii_uppercase());
        lower &= !capital;
        usual &= if starts { !small } else { !capital };
        starts = *byte == b'-';
    }
    match (usual, lower) {
        (true, true) => Form::Either,
        (true, false) => Form::Usual,
        (false, true) => Form::Lower,
        (false, false) => Form::Irregular,
    }
}

/// Returns true for a token character (RFC 9110 section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Returns the place in [`SLOTS`] of a name in any spelling; `None` for a shorter one than all in the table.
///
/// Eight letters and the length tell the names in the table apart, which is checked when this is compiled.
const fn slot(name: &[u8]) -> Option<usize> {
    let letters = match (name, name.last_chunk()) {
        (_, Some(last)) => match name.split_at(name.len() / 2 - 2).1.first_chunk() {
            Some(middle) => (u32::from_le_bytes(*middle) as u64) << 32 | u32::from_le_bytes(*last) as u64,
            None => return None,
        },
        ([first, .., last], None) => u16::from_le_bytes([*first, *last]) as u64,
        _ => return None,
    };
    let key = (letters | 0x2020_2020_2020_2020) ^ (name.len() as u64) << 56;
    Some((key.wrapping_mul(0x55a3_61de_7a55_10e9) >> 54) as usize)
}

/// Marks an unused slot.
const NONE: u8 = u8::MAX;

/// The number of the known name at each hash.
static SLOTS: [u8; 1024] = {
    let mut slots = [NONE; 1024];
    let mut number = 0;
    while number < KNOWN_LOWER.len() {
        if let Some(slot) = slot(KNOWN_LOWER[number].as_bytes()) {
            assert!(slots[slot] == NONE, "two known names have one slot");
            slots[slot] = number as u8;
        }
        number += 1;
    }
    slots
};

/// Whether each byte may be in a token.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = true;
        }
        byte += 1;
    }
    table
};

/// Returns a name in lower case.
const fn lower<const N: usize>(name: &str) -> [u8; N] {
    let (bytes, mut lower, mut at) = (name.as_bytes(), [0; N], 0);
    while at < N {
        lower[at] = bytes[at].to_ascii_lowercase();
        at += 1;
    }
    lower
}

const fn text(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("a known name is not ASCII"),
    }
}

/// Returns [`Known::line`].
const fn line(name: &str) -> [u8; LINE] {
    let mut line = [b' '; LINE];
    let (prefix, rest) = line.split_at_mut(2);
    prefix.copy_from_slice(b"\r\n");
    let (start, end) = rest.split_at_mut(name.len());
    start.copy_from_slice(name.as_bytes());
    end[0] = b':';
    assert!(end[1] == b' ');
    line
}

macro_rules! known {
    ($($usual:literal $role:ident),* $(,)?) => {
        const KNOWN_LOWER: &[&str] = &[$(text(&lower::<{ $usual.len() }>($usual))),*];
        static KNOWN: [Known; KNOWN_LOWER.len()] = [$(Known {
            line: line($usual),
            length: $usual.len() as u8,
            name: HeaderName::from_static(text(&lower::<{ $usual.len() }>($usual))),
            role: Role::$role,
        }),*];
    };
}

known! {
    "Accept" Other,
    "Accept-Charset" Other,
    "Accept-Encoding" Other,
    "Accept-Language" Other,
    "Accept-Ranges" Other,
    "Access-Control-Allow-Credentials" Other,
    "Access-Control-Allow-Headers" Other,
    "Access-Control-Allow-Methods" Other,
    "Access-Control-Allow-Origin" Other,
    "Access-Control-Expose-Headers" Other,
    "Access-Control-Max-Age" Other,
    "Access-Control-Request-Headers" Other,
    "Access-Control-Request-Method" Other,
    "Age" NoTrailer,
    "Allow" Other,
    "Alt-Svc" Other,
    "Authorization" NoTrailer,
    "Baggage" Other,
    "Cache-Control" NoTrailer,
    "Cache-Status" Other,
    "CDN-Cache-Control" Other,
    "CF-Ray" Other,
    "Clear-Site-Data" Other,
    "Connection" Connection,
    "Content-Disposition" Other,
    "Content-Encoding" NoTrailer,
    "Content-Language" Other,
    "Content-Length" ContentLength,
    "Content-Location" Other,
    "Content-Range" NoTrailer,
    "Content-Security-Policy" Other,
    "Content-Security-Policy-Report-Only" Other,
    "Content-Type" NoTrailer,
    "Cookie" NoTrailer,
    "Cross-Origin-Embedder-Policy" Other,
    "Cross-Origin-Opener-Policy" Other,
    "Cross-Origin-Resource-Policy" Other,
    "Date" NoTrailer,
    "DNT" Other,
    "ETag" Other,
    "Expect" Expect,
    "Expires" NoTrailer,
    "Forwarded" NoTrailer,
    "From" Other,
    "Host" Host,
    "HTTP2-Settings" NoTrailer,
    "Idempotency-Key" Other,
    "If-Match" NoTrailer,
    "If-Modified-Since" NoTrailer,
    "If-None-Match" NoTrailer,
    "If-Range" NoTrailer,
    "If-Unmodified-Since" NoTrailer,
    "Keep-Alive" OneConnection,
    "Last-Modified" Other,
    "Link" Other,
    "Location" NoTrailer,
    "Max-Forwards" NoTrailer,
    "Origin" Other,
    "Permissions-Policy" Other,
    "Pragma" NoTrailer,
    "Priority" Other,
    "Proxy-Authenticate" OneConnection,
    "Proxy-Authorization" NoTrailer,
    "Proxy-Connection" OneConnection,
    "Proxy-Status" Other,
    "Range" NoTrailer,
    "Referer" Other,
    "Referrer-Policy" Other,
    "Refresh" Other,
    "Retry-After" NoTrailer,
    "Sec-CH-UA" Other,
    "Sec-CH-UA-Mobile" Other,
    "Sec-CH-UA-Platform" Other,
    "Sec-Fetch-Dest" Other,
    "Sec-Fetch-Mode" Other,
    "Sec-Fetch-Site" Other,
    "Sec-Fetch-User" Other,
    "Sec-GPC" Other,
    "Sec-WebSocket-Accept" Other,
    "Sec-WebSocket-Extensions" Other,
    "Sec-WebSocket-Key" Other,
    "Sec-WebSocket-Protocol" Other,
    "Sec-WebSocket-Version" Other,
    "Server" Other,
    "Server-Timing" Other,
    "Set-Cookie" NoTrailer,
    "Strict-Transport-Security" Other,
    "TE" Te,
    "Timing-Allow-Origin" Other,
    "Traceparent" Other,
    "Tracestate" Other,
    "Trailer" NoTrailer,
    "Transfer-Encoding" TransferEncoding,
    "Upgrade" Upgrade,
    "Upgrade-Insecure-Requests" Other,
    "User-Agent" Other,
    "Vary" NoTrailer,
    "Via" Other,
    "Warning" NoTrailer,
    "WWW-Authenticate" NoTrailer,
    "X-Amzn-Trace-Id" Other,
    "X-API-Key" Other,
    "X-Cache" Other,
    "X-Content-Type-Options" Other,
    "X-Correlation-Id" Other,
    "X-CSRF-Token" Other,
    "X-Forwarded-For" NoTrailer,
    "X-Forwarded-Host" NoTrailer,
    "X-Forwarded-Method" NoTrailer,
    "X-Forwarded-Port" NoTrailer,
    "X-Forwarded-Prefix" NoTrailer,
    "X-Forwarded-Proto" NoTrailer,
    "X-Forwarded-Server" NoTrailer,
    "X-Forwarded-Uri" NoTrailer,
    "X-Frame-Options" Other,
    "X-Powered-By" Other,
    "X-Real-Ip" NoTrailer,
    "X-Request-Id" Other,
    "X-Requested-With" Other,
    "X-Robots-Tag" Other,
    "X-Runtime" Other,
    "X-Trace-Id" Other,
    "X-XSS-Protection" Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_found_in_every_spelling() {
        assert!(KNOWN.len() < usize::from(NONE));
        for known in &KNOWN {
            let identified = |name: &[u8]| identify(name).map(|(known, form)| (&known.name, form));
            let (usual, lower) = (known.usual(), known.name.as_str());
            assert_eq!(identified(usual), Some((&known.name, Form::Usual)));
            assert_eq!(identified(lower.as_bytes()), Some((&known.name, Form::Lower)));
            let upper = usual.to_ascii_uppercase();
            if upper != usual {
                assert_eq!(identified(&upper), Some((&known.name, Form::Irregular)));
            }
            assert!(std::ptr::eq(find(&known.name).unwrap(), known));
            assert_eq!(identified(format!("{lower}x").as_bytes()), None);
        }
        assert!(identify(b"").is_none() && identify(b"x").is_none());
        assert!(find(&HeaderName::from_static("x-unknown")).is_none());
    }

    #[test]
    fn spellings_are_told_apart() {
        for (name, expected) in [
            ("X-Some-Name", Form::Usual),
            ("x-some-name", Form::Lower),
            ("1-2", Form::Either),
            ("X-some-name", Form::Irregular),
            ("X-SOME", Form::Irregular),
            ("x-Some", Form::Irregular),
            ("2nd-Name", Form::Usual),
            ("Snake_case", Form::Usual),
        ] {
            assert_eq!(form(name.as_bytes()), expected, "{name}");
        }
    }
}
