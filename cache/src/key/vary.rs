//! Secondary keys: which header fields of a request a response depends on (RFC 9111 §4.1).

use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// The largest number of names in `Vary`. Responses with more are not stored.
pub const MAX_NAMES: usize = 16;
/// The largest size of the values of these fields in a request, in bytes. Longer ones are not stored.
pub const MAX_VALUE_BYTES: usize = 4096;

/// The names in `Vary`, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaryNames(SmallVec<[HeaderName; 2]>);

impl VaryNames {
    /// Reads `Vary` of a response. `None` if no later request can match: it contains `*`, which counts anywhere in
    /// the list, or something that is no name, or more than [`MAX_NAMES`].
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut names = SmallVec::<[HeaderName; 2]>::new();
        for line in headers.get_all(VARY) {
            for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                match name {
                    b"" => {}
                    b"*" => return None,
                    name => names.push(HeaderName::from_bytes(name).ok()?),
                }
            }
        }
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        (names.len() <= MAX_NAMES).then_some(Self(names))
    }

    /// Adds a name, as if `Vary` had it.
    pub fn add(&mut self, name: HeaderName) {
        if let Err(place) = self.0.binary_search_by(|other| other.as_str().cmp(name.as_str())) {
            self.0.insert(place, name);
        }
    }
}

/// The fields of the request for which a response was stored, in one form each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant(SmallVec<[Field; 1]>);

/// A name, and the value in its form if the request has the field.
type Field = (HeaderName, Option<Box<[u8]>>);

impl Variant {
    /// Takes the values of `names` from a request. `None` if they are longer than [`MAX_VALUE_BYTES`].
    pub fn new(names: &VaryNames, request: &HeaderMap) -> Option<Self> {
        let mut total = 0;
        let mut fields = SmallVec::new();
        for name in &names.0 {
            let value = normalized(name, request);
            total += value.as_ref().map_or(0, Vec::len);
            fields.push((name.clone(), value.map(Vec::into_boxed_slice)));
        }
        (total <= MAX_VALUE_BYTES).then_some(Self(fields))
    }

    /// A variant of fields that are already in their form: what a store has written.
    pub(crate) fn from_fields(fields: impl IntoIterator<Item = Field>) -> Self {
        Self(fields.into_iter().collect())
    }

    /// The fields and their values; `None` for one that the request did not have.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&HeaderName, Option<&[u8]>)> {
        self.0.iter().map(|(name, value)| (name, value.as_deref()))
    }

    /// Whether `request` has the same values.
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.0.iter().all(|(name, value)| normalized(name, request).as_deref() == value.as_deref())
    }

    /// Approximate size in memory in bytes.
    pub(crate) fn size(&self) -> usize {
        self.0
            .iter()
            .map(|(name, value)| 48 + name.as_str().len() + value.as_ref().map_or(0, |v| v.len()))
            .sum()
    }
}

/// The value of a field in a form that is equal only for values with the same meaning: two requests that a server
/// may answer differently must not share a response.
///
/// Lines are joined. White space is removed only in lists whose syntax is known. The order is removed only from
/// `Accept-Encoding`, where it has no meaning; in `Accept-Language` it is used as a priority (RFC 9110 §12.5.4).
fn normalized(name: &HeaderName, headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut lines = headers.get_all(name).iter();
    let mut joined = lines.next()?.as_bytes().trim_ascii().to_vec();
    for line in lines {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes().trim_ascii());
    }
    if *name == ACCEPT_ENCODING {
        return Some(encodings(&joined).unwrap_or(joined));
    }
    if *name == ACCEPT_LANGUAGE || *name == ACCEPT {
        let spaceless = !joined.contains(&b'"');
        if spaceless {
            joined.retain(|byte| !matches!(byte, b' ' | b'\t'));
            joined.make_ascii_lowercase();
        }
    }
    Some(joined)
}

/// `Accept-Encoding`: lower case, sorted, with the shortest form of each weight. `None` if it is not of that form, or
/// has an encoding twice.
fn encodings(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    let mut codings: SmallVec<[(&str, u16); 6]> = SmallVec::new();
    for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        let (coding, weight) = match element.split_once(';') {
            None => (element, 1000),
            Some((coding, weight)) => (coding.trim_end(), thousandths(weight.trim().strip_prefix("q=")?)?),
        };
        if coding.contains([' ', '\t', '"']) || codings.iter().any(|(other, _)| *other == coding) {
            return None;
        }
        codings.push((coding, weight));
    }
    codings.sort_unstable();
    let mut form = Vec::with_capacity(text.len());
    for (coding, weight) in codings {
        if !form.is_empty() {
            form.push(b',');
        }
        form.extend_from_slice(coding.as_bytes());
        if weight != 1000 {
            form.extend_from_slice(format!(";q={weight}").as_bytes());
        }
    }
    Some(form)
}

/// A qvalue (RFC 9110 §12.4.2) in thousandths.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn same(vary: &'static str, one: &[(&'static str, &str)], other: &[(&'static str, &str)]) -> bool {
        let names = VaryNames::from_headers(&headers(&[("vary", vary)])).unwrap();
        Variant::new(&names, &headers(one)).unwrap().matches(&headers(other))
    }

    #[test]
    fn an_asterisk_anywhere_matches_nothing() {
        for lines in [
            vec![("vary", "*")],
            vec![("vary", ", *")],
            vec![("vary", "*, Foo")],
            vec![("vary", "Foo, *")],
            vec![("vary", ","), ("vary", "*")],
            vec![("vary", "a b")],
        ] {
            assert_eq!(VaryNames::from_headers(&headers(&lines)), None, "{lines:?}");
        }
        assert_eq!(VaryNames::from_headers(&headers(&[])), Some(VaryNames::default()));
        let many: Vec<String> = (0..17).map(|i| format!("x{i}")).collect();
        assert_eq!(VaryNames::from_headers(&headers(&[("vary", &many.join(","))])), None);
    }

    #[test]
    fn variants_compare_what_vary_names() {
        assert!(same("Foo", &[("foo", "1"), ("bar", "2")], &[("foo", "1")]));
        assert!(!same("Foo", &[("foo", "1")], &[("foo", "2")]));
        assert!(!same("Foo", &[("foo", "1")], &[]));
        assert!(!same("Foo", &[], &[("foo", "1")]));
        assert!(!same("Foo", &[], &[("foo", "")]), "absent is not empty");
        assert!(same("Foo, Bar", &[("bar", "2"), ("foo", "1")], &[("foo", "1"), ("bar", "2")]));
        assert!(!same("Foo, Bar", &[("foo", "12")], &[("foo", "1"), ("bar", "2")]));
        assert!(same("Foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")]));
        assert!(!same("Foo", &[("foo", "1, 2")], &[("foo", "2"), ("foo", "1")]));
        assert!(!same("User-Agent", &[("user-agent", "a b")], &[("user-agent", "a  b")]));
    }

    #[test]
    fn equal_meanings_share_a_variant() {
        let encoding =
            |one, other| same("accept-encoding", &[("accept-encoding", one)], &[("accept-encoding", other)]);
        assert!(encoding("gzip, br", "BR,gzip"));
        assert!(encoding("gzip;q=0.5, br", "br;q=1.0,gzip ; q=0.500"));
        assert!(!encoding("gzip", "gzip, br"));
        assert!(!encoding("gzip;q=0", "gzip"));
        assert!(!encoding("gzip;q=0", ""));
        assert!(!encoding("gzip;q=1, gzip;q=0", "gzip;q=0, gzip;q=1"), "twice: left as it is");
        assert!(!encoding("gzip;x=1", "gzip"));
        let language =
            |one, other| same("accept-language", &[("accept-language", one)], &[("accept-language", other)]);
        assert!(language("en, de", " eN ,  De"));
        assert!(!language("en, de", "de, en"), "the order is a priority");
        assert!(!language("en\"a b\"", "en\"ab\""));
    }

    #[test]
    fn long_values_have_no_variant() {
        let names = VaryNames::from_headers(&headers(&[("vary", "cookie")])).unwrap();
        assert!(Variant::new(&names, &headers(&[("cookie", &"a".repeat(MAX_VALUE_BYTES))])).is_some());
        assert!(Variant::new(&names, &headers(&[("cookie", &"a".repeat(MAX_VALUE_BYTES + 1))])).is_none());
    }
}
