//! The messages of LDAP (RFC 4511) that checking a password needs.

use super::ber::{self, Malformed, Reader};
use super::filter::Filter;

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const SEARCH_REFERENCE: u8 = 0x73;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;
const VERSION: u32 = 3;
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// The codes of results that have a meaning here (RFC 4511 appendix A).
pub(super) mod code {
    pub(crate) const SUCCESS: u32 = 0;
    pub(crate) const SIZE_LIMIT_EXCEEDED: u32 = 4;
    pub(crate) const REFERRAL: u32 = 10;
    pub(crate) const CONSTRAINT_VIOLATION: u32 = 19;
    pub(crate) const NO_SUCH_OBJECT: u32 = 32;
    pub(crate) const INVALID_DN: u32 = 34;
    pub(crate) const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
    pub(crate) const INVALID_CREDENTIALS: u32 = 49;
    pub(crate) const INSUFFICIENT_ACCESS: u32 = 50;
    pub(crate) const UNWILLING: u32 = 53;
}

/// Which entries a search considers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The base entry alone.
    Base,
    /// The base entry and everything below.
    Subtree,
}

/// A search.
#[derive(Clone, Debug)]
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    pub(super) filter: &'a Filter,
    /// The values of its placeholders.
    pub(super) values: &'a [&'a [u8]],
    pub(super) attributes: &'a [&'a str],
    /// Maximum number of entries.
    pub(super) size_limit: u32,
    /// Maximum duration in seconds.
    pub(super) time_limit: u32,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// The number of its request; 0 if the server sent it on its own.
    pub(super) id: u32,
    pub(super) response: Response<'a>,
}

/// What a response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Response<'a> {
    Bind(Outcome<'a>),
    Entry(Entry),
    Done(Outcome<'a>),
    /// A referral to another server, which is never followed.
    Reference,
    Extended(Outcome<'a>),
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome<'a> {
    pub(super) code: u32,
    /// A text for the operator.
    pub(super) diagnostic: &'a [u8],
}

/// A found entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dn: String,
    /// Attributes with their values. Those that are not text are left out.
    pub(super) attributes: Vec<(String, Vec<String>)>,
}

impl Entry {
    /// Returns the values of an attribute, whose name has no case.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let own = self.attributes.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name));
        own.flat_map(|(_, values)| values).map(String::as_str)
    }
}

/// Returns a simple bind. The caller has to refuse empty passwords (RFC 4513 section 5.1.2).
pub(super) fn bind(id: u32, dn: &str, password: &[u8]) -> Vec<u8> {
    message(id, |out| {
        ber::nested(out, BIND_REQUEST, |out| {
            ber::put_number(out, ber::INTEGER, VERSION);
            ber::put(out, ber::OCTETS, dn.as_bytes());
            ber::put(out, 0x80, password);
        });
    })
}

/// Returns the request that ends a connection.
pub(super) fn unbind(id: u32) -> Vec<u8> {
    message(id, |out| ber::put(out, UNBIND_REQUEST, &[]))
}

/// Returns the request for TLS (RFC 4511 section 4.14).
pub(super) fn start_tls(id: u32) -> Vec<u8> {
    message(id, |out| ber::nested(out, EXTENDED_REQUEST, |out| ber::put(out, 0x80, START_TLS)))
}

/// Returns a search that follows no aliases.
pub(super) fn search(id: u32, search: &Search<'_>) -> Vec<u8> {
    message(id, |out| {
        ber::nested(out, SEARCH_REQUEST, |out| {
            ber::put(out, ber::OCTETS, search.base.as_bytes());
            let scope = match search.scope {
                Scope::Base => 0,
                Scope::Subtree => 2,
            };
            ber::put_number(out, ber::ENUMERATED, scope);
            ber::put_number(out, ber::ENUMERATED, 0);
            ber::put_number(out, ber::INTEGER, search.size_limit);
            ber::put_number(out, ber::INTEGER, search.time_limit);
            ber::put_bool(out, false);
            search.filter.encode(out, search.values);
            ber::nested(out, ber::SEQUENCE, |out| {
                search.attributes.iter().for_each(|name| ber::put(out, ber::OCTETS, name.as_bytes()));
            });
        });
    })
}

fn message(id: u32, operation: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    ber::nested(&mut out, ber::SEQUENCE, |out| {
        ber::put_number(out, ber::INTEGER, id);
        operation(out);
    });
    out
}

/// Decodes a whole message.
pub(super) fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut message = Reader::new(bytes).enter(ber::SEQUENCE)?;
    let id = message.number(ber::INTEGER)?;
    let (tag, content) = message.next()?;
    let content = Reader::new(content);
    let response = match tag {
        BIND_RESPONSE => Response::Bind(outcome(content)?),
        SEARCH_ENTRY => Response::Entry(entry(content)?),
        SEARCH_DONE => Response::Done(outcome(content)?),
        SEARCH_REFERENCE => Response::Reference,
        EXTENDED_RESPONSE => Response::Extended(outcome(content)?),
        _ => return Err(Malformed),
    };
    Ok(Message { id, response })
}

fn outcome(mut content: Reader<'_>) -> Result<Outcome<'_>, Malformed> {
    let code = content.number(ber::ENUMERATED)?;
    content.expect(ber::OCTETS)?;
    Ok(Outcome { code, diagnostic: content.expect(ber::OCTETS)? })
}

fn entry(mut content: Reader<'_>) -> Result<Entry, Malformed> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed);
    let dn = text(content.expect(ber::OCTETS)?)?;
    let mut list = content.enter(ber::SEQUENCE)?;
    let mut attributes = Vec::new();
    while !list.is_empty() {
        let mut attribute = list.enter(ber::SEQUENCE)?;
        let name = text(attribute.expect(ber::OCTETS)?)?;
        let mut set = attribute.enter(ber::SET)?;
        let mut values = Vec::new();
        while !set.is_empty() {
            values.extend(text(set.expect(ber::OCTETS)?).ok());
        }
        attributes.push((name, values));
    }
    Ok(Entry { dn, attributes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_encoded_as_openldap_expects_them() {
        assert_eq!(bind(1, "cn=a", b"pw"), b"\x30\x12\x02\x01\x01\x60\x0d\x02\x01\x03\x04\x04cn=a\x80\x02pw");
        assert_eq!(unbind(300), b"\x30\x06\x02\x02\x01\x2c\x42\x00");
        assert_eq!(start_tls(1), b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037");
        let filter = Filter::everything();
        let attributes = ["cn"];
        let asked = Search {
            base: "dc=a",
            scope: Scope::Base,
            filter: &filter,
            values: &[],
            attributes: &attributes,
            size_limit: 2,
            time_limit: 5,
        };
        assert_eq!(
            search(2, &asked),
            b"\x30\x2d\x02\x01\x02\x63\x28\x04\x04dc=a\x0a\x01\x00\x0a\x01\x00\x02\x01\x02\x02\x01\x05\x01\x01\x00\x87\x0bobjectClass\x30\x04\x04\x02cn"
        );
    }

    #[test]
    fn responses_are_decoded() {
        let done = b"\x30\x0c\x02\x01\x02\x65\x07\x0a\x01\x00\x04\x00\x04\x00";
        let success = Outcome { code: 0, diagnostic: b"" };
        assert_eq!(decode(done), Ok(Message { id: 2, response: Response::Done(success) }));
        // Lengths as Active Directory writes them.
        let padded =
            b"\x30\x84\x00\x00\x00\x10\x02\x01\x01\x61\x84\x00\x00\x00\x07\x0a\x01\x31\x04\x00\x04\x00";
        let wrong = Outcome { code: code::INVALID_CREDENTIALS, diagnostic: b"" };
        assert_eq!(decode(padded), Ok(Message { id: 1, response: Response::Bind(wrong) }));
        let found = b"\x30\x1d\x02\x01\x02\x64\x18\x04\x04cn=a\x30\x10\x30\x0e\x04\x02cn\x31\x08\x04\x01a\x04\x03\xff\xfe\xfd";
        let entry = Entry { dn: "cn=a".into(), attributes: vec![("cn".into(), vec!["a".into()])] };
        assert_eq!(entry.values("CN").collect::<Vec<_>>(), ["a"]);
        assert_eq!(decode(found), Ok(Message { id: 2, response: Response::Entry(entry) }));
        for bytes in
            [&b""[..], b"\x30\x00", b"\x30\x03\x02\x01\x01", b"\x30\x05\x02\x01\x01\x60\x00", b"\x31\x00"]
        {
            assert_eq!(decode(bytes), Err(Malformed), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), tag: u8, id: u8) {
            let _ = decode(&bytes);
            let wrapped = message(u32::from(id), |out| ber::put(out, tag, &bytes));
            let _ = decode(&wrapped);
        }

        #[test]
        fn changed_bytes_do_not_make_it_panic(at in 0_usize..31, byte: u8) {
            let mut found = b"\x30\x1d\x02\x01\x02\x64\x18\x04\x04cn=a\x30\x10\x30\x0e\x04\x02cn\x31\x08\x04\x01a\x04\x03\xff\xfe\xfd".to_vec();
            found[at] = byte;
            let _ = decode(&found);
        }
    }
}
