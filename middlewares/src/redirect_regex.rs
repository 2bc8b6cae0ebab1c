//! Redirects requests whose URL matches a regular expression.

use std::sync::Arc;

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Request, Response,
};

use crate::location;
use crate::pattern::{self, Template};

/// Traefik's `redirectRegex`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RedirectRegex {
    /// An expression in Go's syntax, matched against `scheme://host/path?query`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub regex: String,
    /// Replacement for every match; `$1` and `${name}` refer to groups.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub replacement: String,
    /// Uses 301 and 308 instead of 302 and 307.
    #[serde(skip_serializing_if = "tidegate_core::values::is_default")]
    pub permanent: bool,
}

impl Build for RedirectRegex {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let regex = pattern::compile(&self.regex)?;
        let template = Template::new(&self.replacement, &regex);
        Ok(Arc::new(Redirect { regex, template, permanent: self.permanent }))
    }
}

struct Redirect {
    regex: Regex,
    template: Template,
    permanent: bool,
}

impl Middleware for Redirect {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let scheme = if request.context.is_tls() { "https" } else { "http" };
        let old = format!("{scheme}://{}{}", request.host(), request.original_target());
        match self.template.replace_all(&self.regex, &old) {
            Some(new) if new != old => {
                crate::ready(location::redirect(&new, &request.head.method, self.permanent))
            }
            _ => next.run(request),
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

    fn answer(regex: &str, replacement: &str, url: &str) -> (u16, Option<String>) {
        let options =
            RedirectRegex { regex: regex.to_owned(), replacement: replacement.to_owned(), permanent: true };
        let response = testing::response_of(options, get(url), |_| Response::new(Body::empty()));
        let location = response.headers().get("location").map(|v| v.to_str().unwrap().to_owned());
        (response.status().as_u16(), location)
    }

    #[test]
    fn matching_urls_are_redirected() {
        for (regex, replacement, url, expected) in [
            (
                "^http://h.test/(.*)",
                "http://mydomain/${1}",
                "http://h.test/x?y=1",
                Some("http://mydomain/x?y=1"),
            ),
            ("^http://(.*)$", "https://$1", "http://h.test:81/x", Some("https://h.test:81/x")),
            ("^http://h.test/(.*)", "http://mydomain/${1}", "http://o.test/x", None),
            ("^http://(.*)$", "http://$1", "http://h.test/a", None),
            ("^https://h.test/(.*)", "https://o.test/$1", "https://h.test/a", Some("https://o.test/a")),
        ] {
            let status = if expected.is_some() { 301 } else { 200 };
            assert_eq!(answer(regex, replacement, url), (status, expected.map(str::to_owned)), "{url}");
        }
        assert_eq!(answer(".*", "http://a b/%zz", "http://h.test/").0, 502);
    }
}
