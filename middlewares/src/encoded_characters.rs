//! Refuses paths with certain percent-encoded characters.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Reason, Request, Response,
    reply,
};

/// Traefik's `encodedCharacters`: encoded characters that are not allowed are refused with 400.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EncodedCharacters {
    /// `%2F`
    #[serde(skip_serializing_if = "is_default")]
    pub allow_encoded_slash: bool,
    /// `%5C`
    #[serde(skip_serializing_if = "is_default")]
    pub allow_encoded_back_slash: bool,
    /// `%00`
    #[serde(skip_serializing_if = "is_default")]
    pub allow_encoded_null_character: bool,
    /// `%3B`
    #[serde(skip_serializing_if = "is_default")]
    pub allow_encoded_semicolon: bool,
    /// `%25`
    #[serde(skip_serializing_if = "is_default")]
    pub allow_encoded_percent: bool,
    /// `%3F`
    #[serde(skip_serializing_if = "is_default")]
    pub allow_encoded_question_mark: bool,
    /// `%23`
    #[serde(skip_serializing_if = "is_default")]
    pub allow_encoded_hash: bool,
}

impl EncodedCharacters {
    /// Returns true when this escaped path encodes only characters that the options allow.
    pub fn allows(&self, path: &str) -> bool {
        let bytes = path.as_bytes();
        memchr::memchr_iter(b'%', bytes).all(|at| match bytes.get(at + 1..at + 3) {
            Some(b"2F" | b"2f") => self.allow_encoded_slash,
            Some(b"5C" | b"5c") => self.allow_encoded_back_slash,
            Some(b"00") => self.allow_encoded_null_character,
            Some(b"3B" | b"3b") => self.allow_encoded_semicolon,
            Some(b"25") => self.allow_encoded_percent,
            Some(b"3F" | b"3f") => self.allow_encoded_question_mark,
            Some(b"23") => self.allow_encoded_hash,
            Some(_) => true,
            None => false,
        })
    }
}

impl Build for EncodedCharacters {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Middleware for EncodedCharacters {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if self.allows(request.path()) {
            next.run(request)
        } else {
            crate::ready(reply::empty(StatusCode::BAD_REQUEST, Reason::EncodedCharacters))
        }
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get};
    use tidegate_core::Body;

    #[test]
    fn each_character_has_its_option() {
        type Allow = fn(&mut EncodedCharacters) -> &mut bool;
        let all: [(&str, Allow); 7] = [
            ("%2F", |o| &mut o.allow_encoded_slash),
            ("%5c", |o| &mut o.allow_encoded_back_slash),
            ("%00", |o| &mut o.allow_encoded_null_character),
            ("%3b", |o| &mut o.allow_encoded_semicolon),
            ("%25", |o| &mut o.allow_encoded_percent),
            ("%3F", |o| &mut o.allow_encoded_question_mark),
            ("%23", |o| &mut o.allow_encoded_hash),
        ];
        for (encoded, option) in all {
            let mut options = EncodedCharacters::default();
            let path = format!("/a{encoded}b");
            assert!(!options.allows(&path), "{encoded}");
            *option(&mut options) = true;
            assert!(options.allows(&path), "{encoded}");
            assert_eq!(all.iter().filter(|(other, _)| options.allows(other)).count(), 1, "{encoded}");
        }
    }

    #[test]
    fn the_response_is_an_empty_400_and_the_query_is_not_checked() {
        let options = EncodedCharacters::default();
        let answer =
            |url| testing::response_of(options.clone(), get(url), |_| Response::new(Body::full("reached")));
        let refused = answer("http://h.test/a%2Fb");
        assert_eq!(refused.status(), 400);
        assert_eq!(testing::text(refused), "");
        assert_eq!(answer("http://h.test/a%41?%2F").status(), 200);
    }
}
