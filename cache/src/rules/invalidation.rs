//! What requests with unsafe methods invalidate (RFC 9111 §4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderName, Method, StatusCode};

/// A resource: the parts of a URI that identify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port, as written.
    pub authority: String,
    /// The path, from its first `/`.
    pub path: String,
    /// What follows `?`.
    pub query: Option<String>,
}

/// Whether a response to this method invalidates: the method is not known to be safe, and the response is no error.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    // CONNECT is not safe, but has no resource.
    let harmless =
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::CONNECT].contains(method);
    !harmless && (status.is_success() || status.is_redirection())
}

/// The resources that are invalidated: the target, and what `Location` and `Content-Location` name if that has the
/// same origin. Others would let one site empty the cache of another.
pub fn invalidated(target: &Resource, response: &HeaderMap) -> Vec<Resource> {
    let mut resources = vec![target.clone()];
    for name in [LOCATION, CONTENT_LOCATION] {
        let resource = named_by(target, response, &name);
        if let Some(resource) = resource.filter(|resource| !resources.contains(resource)) {
            resources.push(resource);
        }
    }
    resources
}

fn named_by(target: &Resource, response: &HeaderMap, name: &HeaderName) -> Option<Resource> {
    let mut lines = response.get_all(name).iter();
    let (value, None) = (lines.next()?, lines.next()) else { return None };
    let resource = resolve(target, value.to_str().ok()?.trim())?;
    let same_origin = resource.scheme == target.scheme
        && origin(&resource.scheme, &resource.authority) == origin(&target.scheme, &target.authority);
    same_origin.then(|| Resource { authority: target.authority.clone(), ..resource })
}

/// Host in lower case, and port.
fn origin(scheme: &str, authority: &str) -> String {
    let default = if scheme == "https" { ":443" } else { ":80" };
    let lower = authority.to_ascii_lowercase();
    lower.strip_suffix(default).unwrap_or(&lower).to_owned()
}

/// Resolves a URI reference (RFC 3986 §5.2).
fn resolve(base: &Resource, reference: &str) -> Option<Resource> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (scheme, rest) = match reference.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        _ => (base.scheme.clone(), reference),
    };
    if let Some(rest) = rest.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (path, query) = split_query(rest);
        let path = if path.is_empty() { "/".to_owned() } else { without_dots(path) };
        return Some(Resource { scheme, authority: authority.to_owned(), path, query });
    }
    if rest.len() != reference.len() {
        return None;
    }
    let (path, query) = split_query(rest);
    let path = match path {
        "" => base.path.clone(),
        path if path.starts_with('/') => without_dots(path),
        path => {
            let folder = base.path.rfind('/').map_or("/", |end| &base.path[..=end]);
            without_dots(&format!("{folder}{path}"))
        }
    };
    let query = if rest.is_empty() { base.query.clone() } else { query };
    Some(Resource { scheme, authority: base.authority.clone(), path, query })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn split_query(text: &str) -> (&str, Option<String>) {
    match text.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (text, None),
    }
}

/// RFC 3986 §5.2.4, for a path that begins with `/`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn resource(authority: &str, path: &str, query: Option<&str>) -> Resource {
        Resource {
            scheme: "https".to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
        }
    }

    #[test]
    fn unsafe_methods_invalidate_unless_they_fail() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "get"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert!(invalidates(&method, StatusCode::OK), "{method}");
            assert!(invalidates(&method, StatusCode::SEE_OTHER), "{method}");
            assert!(!invalidates(&method, StatusCode::INTERNAL_SERVER_ERROR), "{method}");
            assert!(!invalidates(&method, StatusCode::NOT_FOUND), "{method}");
        }
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::CONNECT] {
            assert!(!invalidates(&method, StatusCode::OK), "{method}");
        }
    }

    #[test]
    fn named_resources_of_the_same_origin_are_invalidated() {
        let target = resource("a.example", "/d/e", Some("q"));
        let named = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_LOCATION, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            let mut all = invalidated(&target, &headers);
            assert_eq!(all.remove(0), target);
            all.pop().map(|one| (one.path, one.query))
        };
        let some = |path: &str, query: Option<&str>| Some((path.to_owned(), query.map(str::to_owned)));
        for (text, path, query) in [
            ("/x", "/x", None),
            ("x?y#z", "/d/x", Some("y")),
            ("../x", "/x", None),
            ("../../../x/./", "/x/", None),
            ("?y", "/d/e", Some("y")),
            ("https://A.example:443/x", "/x", None),
            ("//a.example", "/", None),
            ("HTTPS://a.example?y", "/", Some("y")),
            ("./a:b", "/d/a:b", None),
        ] {
            assert_eq!(named(text), some(path, query), "{text}");
        }
        for text in [
            "https://b.example/x",
            "http://a.example/x",
            "//a.example:444/",
            "mailto:x",
            "",
            "/\u{e9}",
            "//u@a.example/x",
        ] {
            assert_eq!(named(text), None, "{text}");
        }
    }
}
