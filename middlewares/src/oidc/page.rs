//! Pages for people: the choice of a provider, and why a login has failed.

use std::fmt::Write as _;

use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use tidegate_core::{Reason, Response, reply};

const STYLE: &str = "body{font:1.1rem/1.6 system-ui,sans-serif;max-width:24rem;margin:15vh auto 0;padding:0 1rem;\
color-scheme:light dark}ul{list-style:none;padding:0}li{margin:.75rem 0}li a{display:block;padding:.75rem 1rem;\
border:1px solid;border-radius:.5rem;text-align:center}";

/// Returns a page. `body` is HTML.
fn page(status: StatusCode, title: &str, body: &str, reason: Reason) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    );
    let mut response = reply::bare(status, html, reason);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
        ),
    );
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns a page with a sentence, and a link to where the user can try again.
pub(super) fn message(
    status: StatusCode,
    title: &str,
    text: &str,
    again: Option<&str>,
    reason: Reason,
) -> Response {
    let mut body = format!("<p>{}</p>\n", escaped(text));
    if let Some(url) = again {
        let _ = writeln!(body, "<p><a href=\"{}\">Try again</a></p>", escaped(url));
    }
    page(status, title, &body, reason)
}

/// Returns the page on which users choose a provider: titles with their links.
pub(super) fn chooser<'a>(providers: impl Iterator<Item = (&'a str, String)>) -> Response {
    let mut body = String::from("<nav aria-label=\"Providers\">\n<ul>\n");
    for (title, link) in providers {
        let _ = writeln!(body, "<li><a href=\"{}\">{}</a></li>", escaped(&link), escaped(title));
    }
    body.push_str("</ul>\n</nav>\n");
    page(StatusCode::UNAUTHORIZED, "Sign in", &body, Reason::SignIn)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::text;

    #[test]
    fn texts_are_escaped() {
        let shown = text(chooser([("<b>\"'&", "/a?b=\"><script>".to_owned())].into_iter()));
        assert!(shown.contains("<a href=\"/a?b=&quot;&gt;&lt;script&gt;\">&lt;b&gt;&quot;&#39;&amp;</a>"));
    }
}
