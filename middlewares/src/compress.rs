//! Compresses responses with gzip, Brotli or Zstandard, as the client accepts.

mod accept;
mod stream;

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body as _;
use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;
use tidegate_core::word::Word;
use tidegate_core::{
    Body, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Middleware, Next, Prediction, Request,
    Response, boxed,
};

use crate::{peek, sniff};
use accept::Choice;
use stream::Compressed;
pub use stream::Encoding;

/// Traefik's `compress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Compress {
    /// Content types that are not compressed. Mutually exclusive with `includedContentTypes`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_content_types: Vec<String>,
    /// The only content types to compress.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub included_content_types: Vec<String>,
    /// Minimum length of a body in bytes; 0 or less means 1024. Bodies of unknown length are always
    /// compressed.
    #[serde(skip_serializing_if = "is_default")]
    pub min_response_body_bytes: i64,
    /// The encodings to offer, in order of preference. An empty list means all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "all_when_empty")]
    pub encodings: Vec<Word<Encoding>>,
    /// The encoding for clients that send no `Accept-Encoding`, or `*`. Empty means none.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub default_encoding: Word<Encoding>,
}

impl Default for Compress {
    fn default() -> Self {
        Self {
            excluded_content_types: Vec::new(),
            included_content_types: Vec::new(),
            min_response_body_bytes: 0,
            encodings: [Encoding::Gzip, Encoding::Brotli, Encoding::Zstd].map(Word::from).to_vec(),
            default_encoding: Word::EMPTY,
        }
    }
}

impl Build for Compress {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if !self.excluded_content_types.is_empty() && !self.included_content_types.is_empty() {
            return Err(BuildError::new(
                "excludedContentTypes and includedContentTypes options are mutually exclusive",
            ));
        }
        let encodings = BuildErrors::collect(self.encodings.iter().map(encoding));
        let types = BuildErrors::both(
            media_types(&self.excluded_content_types, "excluded"),
            media_types(&self.included_content_types, "included"),
        );
        let (encodings, (mut excluded, included)) = BuildErrors::both(encodings, types)?;
        if encodings.is_empty() {
            return Err(BuildError::new("at least one encoding must be specified"));
        }
        let default = if self.default_encoding.is_empty() {
            None
        } else {
            let unsupported =
                || BuildError::new(format!("unsupported default encoding: {}", self.default_encoding));
            let default = self.default_encoding.known().filter(|default| encodings.contains(default));
            Some(default.ok_or_else(unsupported)?)
        };
        excluded.push("application/grpc".into());
        Ok(Arc::new(Compressor {
            has_lists: !self.included_content_types.is_empty() || !self.excluded_content_types.is_empty(),
            excluded,
            included,
            min_size: u64::try_from(self.min_response_body_bytes)
                .ok()
                .filter(|size| *size > 0)
                .unwrap_or(1024),
            encodings,
            default,
        }))
    }
}

fn all_when_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Word<Encoding>>, D::Error> {
    let given = Vec::deserialize(from)?;
    Ok(if given.is_empty() { Compress::default().encodings } else { given })
}

fn encoding(name: &Word<Encoding>) -> Result<Encoding, BuildError> {
    name.known().ok_or_else(|| BuildError::new(format!("unsupported encoding: {name}")))
}

fn media_types(texts: &[String], which: &str) -> Result<Vec<String>, BuildError> {
    let one = |text: &String| {
        media_type(text).ok_or_else(|| {
            BuildError::new(format!("{which}: invalid media type `{text}`: expected a form like `text/css`"))
        })
    };
    BuildErrors::collect(texts.iter().map(one))
}

/// Returns the media type without parameters, in lower case.
fn media_type(text: &str) -> Option<String> {
    let name = text.split(';').next().unwrap_or("").trim();
    let is_token = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace());
    let valid = name.split('/').count() <= 2 && name.split('/').all(is_token);
    valid.then(|| name.to_ascii_lowercase())
}

struct Compressor {
    /// Whether content types are included or excluded.
    has_lists: bool,
    excluded: Vec<String>,
    included: Vec<String>,
    min_size: u64,
    encodings: Vec<Encoding>,
    default: Option<Encoding>,
}

/// Bodies of at most this declared length are compressed as a whole, so that the response has a
/// `Content-Length`.
const MAX_BUFFERED: u64 = 16 * 1024;

impl Middleware for Compressor {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let Some(choice) = self.choice(&request) else { return next.run(request) };
        let response = next.run(request);
        boxed(move || async move {
            let mut response = response.await;
            if choice == Choice::Decline {
                self.mark_eligible(&mut response);
                return response;
            }
            response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
            match choice {
                Choice::Encode(encoding) if self.is_wanted(&response) => {
                    match self.inspect_body(response).await {
                        (response, true) => encode(response, encoding).await,
                        (response, false) => response,
                    }
                }
                _ => response,
            }
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        let note = match self.choice(&request) {
            Some(Choice::Encode(encoding)) => {
                format!("compresses the response with {} if its type and length allow it", encoding.name())
            }
            _ => "does not compress the response".to_owned(),
        };
        Prediction::rehearsed(self, request).note(note)
    }
}

impl Compressor {
    /// Decides what to do with the response; `None` when it is compressed for no client.
    fn choice(&self, request: &Request) -> Option<Choice> {
        let headers = &request.head.headers;
        if self.has_type(&self.excluded, headers) {
            return None;
        }
        if request.head.method == Method::HEAD {
            return Some(Choice::Decline);
        }
        let Some(first) = headers.get(ACCEPT_ENCODING) else {
            // Traefik's gzip checks the header again and does not compress when it is missing.
            return Some(match self.default {
                None => Choice::Decline,
                Some(Encoding::Gzip) => Choice::Plain,
                Some(other) => Choice::Encode(other),
            });
        };
        let mut lines = headers.get_all(ACCEPT_ENCODING).iter();
        if first.is_empty() && lines.size_hint().1 == Some(1) {
            return Some(Choice::Decline);
        }
        Some(accept::choose(&mut lines, &self.encodings, self.default))
    }

    /// Adds `Vary` to a response that another client would get compressed: a cache must not send it to everyone, or a
    /// compressed one to this client (RFC 9110 §12.5.5).
    fn mark_eligible(&self, response: &mut Response) {
        if self.is_wanted(response) && !varies_by_encoding(response.headers()) {
            response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
    }

    fn is_wanted(&self, response: &Response) -> bool {
        let headers = response.headers();
        let status = response.status();
        if headers.contains_key(CONTENT_ENCODING)
            || headers.contains_key(CONTENT_RANGE)
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || forbids_change(headers)
            || !self.is_wanted_type(headers)
        {
            return false;
        }
        match length(response) {
            Some(length) => length >= self.min_size,
            None => !response.body().is_end_stream(),
        }
    }

    /// Inspects the body where the head is not enough: its type when a list needs one and none is given, and
    /// whether a body of unknown length is empty.
    async fn inspect_body(&self, mut response: Response) -> (Response, bool) {
        if self.has_lists && !response.headers().contains_key(CONTENT_TYPE) {
            let (beginning, body) = peek::prefix(response.body).await;
            response.body = body;
            let found = HeaderValue::from_static(sniff::content_type(&beginning));
            if !self.is_wanted_type(&HeaderMap::from_iter([(CONTENT_TYPE, found)])) {
                return (response, false);
            }
        }
        if response.body.size_hint().exact().is_none() {
            match peek::non_empty(std::mem::take(&mut response.body)).await {
                Some(again) => response.body = again,
                None => {
                    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                    return (response, false);
                }
            }
        }
        (response, true)
    }

    fn is_wanted_type(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(CONTENT_TYPE) {
            return true;
        }
        if self.included.is_empty() {
            self.is_parsable(headers) && !self.has_type(&self.excluded, headers)
        } else {
            self.has_type(&self.included, headers)
        }
    }

    fn is_parsable(&self, headers: &HeaderMap) -> bool {
        headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|text| media_type(text).is_some())
    }

    fn has_type(&self, types: &[String], headers: &HeaderMap) -> bool {
        let Some(text) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let name = text.split(';').next().unwrap_or("").trim();
        types.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
    }
}

fn length(response: &Response) -> Option<u64> {
    let declared = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    declared.or_else(|| response.body().size_hint().exact())
}

/// Returns true for `no-transform` (RFC 9111 section 5.2.2.6).
fn forbids_change(headers: &HeaderMap) -> bool {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case("no-transform")))
}

fn varies_by_encoding(headers: &HeaderMap) -> bool {
    let names = headers.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.map(<[u8]>::trim_ascii).any(|name| name == b"*" || name.eq_ignore_ascii_case(b"Accept-Encoding"))
}

async fn encode(mut response: Response, encoding: Encoding) -> Response {
    let length = length(&response);
    let known = length.filter(|length| *length <= MAX_BUFFERED);
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    let compressed = Compressed::new(std::mem::take(&mut response.body), encoding);
    response.body = match known {
        // Bounded by the declared length; an encoder adds little.
        Some(_) => match Body::of_frames(compressed).collect(2 * MAX_BUFFERED).await {
            Ok(whole) => {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(whole.bytes.len()));
                whole.into()
            }
            Err(error) => error.into_body(),
        },
        None => Body::of_frames(compressed),
    };
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::{self, World, build_in, with_body};
    use std::io::Write as _;

    fn compressed_response(
        options: Compress,
        accept: &str,
        make: impl Fn() -> Response + Send + Sync + 'static,
    ) -> Response {
        let request = with_body(http::Request::get("http://h.test/").header("Accept-Encoding", accept), "");
        testing::response_of(options, request, move |_| make())
    }

    fn plain(length: usize) -> Response {
        let mut response =
            Response::new(Body::full("hello ".repeat(length / 6 + 1).as_bytes()[..length].to_vec()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }

    fn decoded(response: Response) -> Vec<u8> {
        let encoding =
            Word::<Encoding>::from(response.headers()[CONTENT_ENCODING].to_str().unwrap()).known().unwrap();
        let bytes = testing::block_on(response.into_body().collect(1 << 24)).unwrap().bytes;
        stream::tests::decode(encoding, &bytes)
    }

    fn encoding_of(response: &Response) -> &str {
        response.headers().get(CONTENT_ENCODING).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn the_accepted_encoding_is_used_and_the_content_stays() {
        for name in ["gzip", "br", "zstd"] {
            for length in [1024, 2400, 100_000] {
                let response = compressed_response(Compress::default(), name, move || plain(length));
                assert_eq!(encoding_of(&response), name);
                assert_eq!(response.headers()[VARY], "Accept-Encoding");
                assert_eq!(response.headers().contains_key(CONTENT_LENGTH), length < 100_000);
                assert_eq!(decoded(response), "hello ".repeat(length).as_bytes()[..length]);
            }
        }
    }

    #[test]
    fn bodies_of_unknown_length_are_compressed() {
        let response =
            compressed_response(Compress::default(), "gzip", || Response::new(pieces(&["one", "two"])));
        assert_eq!(decoded(response), b"onetwo");
    }

    #[test]
    fn encoded_partial_and_short_responses_are_not_compressed() {
        let with = |name: &'static str, value: &'static str| {
            compressed_response(Compress::default(), "gzip", move || {
                let mut response = plain(5000);
                response.headers_mut().insert(name, HeaderValue::from_static(value));
                response
            })
        };
        for (name, value) in [
            ("content-encoding", "br"),
            ("content-range", "bytes 0-1/2"),
            ("cache-control", "public, no-transform"),
            ("content-type", "application/grpc"),
        ] {
            let response = with(name, value);
            assert_ne!(encoding_of(&response), "gzip", "{name}");
            assert_eq!(response.headers()[VARY], "Accept-Encoding");
        }
        assert_eq!(encoding_of(&compressed_response(Compress::default(), "gzip", || plain(1023))), "");
    }

    #[test]
    fn what_is_compressed_only_for_others_varies() {
        let vary = |builder: http::request::Builder, make: fn() -> Response| -> Vec<HeaderValue> {
            let response = testing::response_of(Compress::default(), with_body(builder, ""), move |_| make());
            assert_eq!(encoding_of(&response), "");
            response.headers().get_all(VARY).iter().cloned().collect()
        };
        let get = || http::Request::get("http://h.test/");
        let long = || plain(5000);
        for builder in [
            get(),
            get().header("Accept-Encoding", ""),
            get().header("Accept-Encoding", "identity"),
            get().header("Accept-Encoding", "compress, gzip;q=0"),
            http::Request::head("http://h.test/").header("Accept-Encoding", "gzip"),
        ] {
            assert_eq!(vary(builder, long), ["Accept-Encoding"]);
        }
        assert_eq!(vary(get(), || Response::new(pieces(&["one"]))), ["Accept-Encoding"], "unknown length");
        // Nobody gets these compressed.
        assert!(vary(get(), || plain(1023)).is_empty());
        assert!(vary(get().header("content-type", "application/grpc"), long).is_empty());
        let varying = || {
            let mut response = plain(5000);
            response.headers_mut().insert(VARY, HeaderValue::from_static("Origin, accept-encoding"));
            response
        };
        assert_eq!(vary(get(), varying), ["Origin, accept-encoding"], "it is there already");
    }

    #[test]
    fn content_types_are_included_and_excluded() {
        let excluding = Compress { excluded_content_types: vec!["text/plain".into()], ..Compress::default() };
        assert_eq!(encoding_of(&compressed_response(excluding, "gzip", || plain(5000))), "");
        let including =
            |name: &str| Compress { included_content_types: vec![name.into()], ..Compress::default() };
        assert_eq!(encoding_of(&compressed_response(including("text/css"), "gzip", || plain(5000))), "");
        assert_eq!(
            encoding_of(&compressed_response(including("Text/Plain"), "gzip", || plain(5000))),
            "gzip"
        );
    }

    #[test]
    fn without_a_content_type_the_content_decides() {
        let excluding =
            |name: &str| Compress { excluded_content_types: vec![name.into()], ..Compress::default() };
        let including =
            |name: &str| Compress { included_content_types: vec![name.into()], ..Compress::default() };
        for (options, compressed) in [
            (Compress::default(), true),
            (excluding("text/plain"), false),
            (excluding("image/gif"), true),
            (including("text/plain"), true),
            (including("image/gif"), false),
        ] {
            let text = "hello ".repeat(400);
            let parts = [text.clone(), text.clone()];
            for known in [true, false] {
                let parts = parts.clone();
                let response = compressed_response(options.clone(), "gzip", move || {
                    let streamed = || pieces(&[&parts[0], &parts[1]]);
                    Response::new(if known { Body::full(parts.concat()) } else { streamed() })
                });
                assert_eq!(encoding_of(&response) == "gzip", compressed, "{options:?}");
                let whole = if compressed { decoded(response) } else { testing::text(response).into_bytes() };
                assert_eq!(whole, parts_of(&text), "{options:?}");
            }
        }
    }

    fn parts_of(text: &str) -> Vec<u8> {
        text.repeat(2).into_bytes()
    }

    #[test]
    fn empty_bodies_are_not_compressed() {
        let response = compressed_response(Compress::default(), "gzip", || Response::new(pieces(&[])));
        assert_eq!(
            (encoding_of(&response), &response.headers()["content-length"]),
            ("", &"0".parse().unwrap())
        );
        assert_eq!(testing::text(response), "");
    }

    #[test]
    fn the_default_encoding_is_for_clients_without_accept_encoding() {
        let ask = |default: &str| {
            let options = Compress { default_encoding: default.into(), ..Compress::default() };
            testing::response_of(options, testing::get("http://h.test/"), |_| plain(5000))
        };
        assert_eq!(encoding_of(&ask("br")), "br");
        assert_eq!(encoding_of(&ask("gzip")), "", "as in Traefik");
        assert_eq!(ask("gzip").headers()[VARY], "Accept-Encoding");
    }

    #[test]
    fn wrong_options_are_refused() {
        let refuse = |options: Compress| build_in(&World::default(), options).err().unwrap().to_string();
        assert_eq!(
            refuse(Compress { encodings: vec!["x".into()], ..Compress::default() }),
            "unsupported encoding: x"
        );
        assert!(refuse(Compress { encodings: vec![], ..Compress::default() }).contains("at least one"));
        let both = Compress {
            excluded_content_types: vec!["a/b".into()],
            included_content_types: vec!["a/b".into()],
            ..Compress::default()
        };
        assert!(refuse(both).contains("mutually exclusive"));
        let default =
            Compress { encodings: vec!["br".into()], default_encoding: "gzip".into(), ..Compress::default() };
        assert_eq!(refuse(default), "unsupported default encoding: gzip");
    }

    #[test]
    fn random_content_survives() {
        let mut noise = Vec::new();
        for n in 0..40_000u32 {
            write!(noise, "{:x}", n.wrapping_mul(2_654_435_761)).unwrap();
        }
        let expected = noise.clone();
        let response =
            compressed_response(Compress::default(), "br", move || Response::new(Body::full(noise.clone())));
        assert_eq!(decoded(response), expected);
    }
}
