//! Shared by the authentication middlewares: user lists, the 401 response, and passing the identity on.

pub(crate) mod bearer;
pub(crate) mod credentials;
pub(crate) mod password;
pub(crate) mod remembered;
pub(crate) mod slow;
pub(crate) mod source;

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
pub(crate) use tidegate_core::aliases::is_same;
use tidegate_core::consumers::ConsumerBroken;
use tidegate_core::{
    Access, AuthMethod, BuildContext, BuildError, ConsumersHandle, Identity, Reason, Request, Response, reply,
};

/// The default realm.
pub(crate) const DEFAULT_REALM: &str = "traefik";

/// One entry of a user list, with its place for messages: empty for the option `users` itself.
pub(crate) struct UserEntry {
    pub(crate) text: String,
    pub(crate) place: String,
}

/// Returns the entries of the users file, then those of the list. Skips empty lines and comments (`#`).
pub(crate) fn user_entries(
    listed: &[String],
    file: &str,
    context: &BuildContext<'_>,
) -> Result<Vec<UserEntry>, BuildError> {
    let mut entries = Vec::new();
    if !file.is_empty() {
        let content = context.file(file)?;
        let content = String::from_utf8_lossy(&content);
        for (number, line) in content.lines().map(str::trim).enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                entries.push(UserEntry { text: line.to_owned(), place: format!(" ({file}:{})", number + 1) });
            }
        }
    }
    entries.extend(listed.iter().map(|text| UserEntry { text: text.clone(), place: String::new() }));
    Ok(entries)
}

/// The name of an entry for a message. An entry without a colon may be a password, so nothing of it is shown.
pub(crate) fn shown_name(entry: &str) -> String {
    entry.split_once(':').map_or_else(String::new, |(name, _)| format!(" `{name}`"))
}

/// Records who the client is, for the middlewares that follow and for the service.
#[derive(Debug)]
pub(crate) struct Establishing {
    method: AuthMethod,
    /// Name of the middleware.
    by: Arc<str>,
    header: Option<HeaderName>,
    remove_authorization: bool,
    consumers: ConsumersHandle,
}

impl Establishing {
    /// Checks the options `headerField` and `removeHeader`.
    pub(crate) fn new(
        context: &BuildContext<'_>,
        method: AuthMethod,
        header_field: &str,
        remove_header: bool,
    ) -> Result<Self, BuildError> {
        let header = (!header_field.is_empty())
            .then(|| HeaderName::from_bytes(header_field.as_bytes()))
            .transpose()
            .map_err(|_| BuildError::new(format!("headerField: invalid header name `{header_field}`")))?;
        let (by, consumers) = (context.name.into(), context.consumers());
        Ok(Self { method, by, header, remove_authorization: remove_header, consumers })
    }

    /// Adds the user to the request.
    pub(crate) fn establish(&self, request: &mut Request, user: &str) -> Result<(), NotEstablished> {
        let consumer = self.consumers.load().by_basic_user(user)?;
        let headers = &mut request.head.headers;
        if let Some(name) = &self.header {
            let value = HeaderValue::from_bytes(user.as_bytes()).map_err(|_| NotEstablished::Name)?;
            set_exclusively(headers, name, value);
        }
        if self.remove_authorization {
            headers.remove(AUTHORIZATION);
        }
        request.context.identify(Identity::new(user, self.method, self.by.clone()).of_consumer(consumer));
        Ok(())
    }
}

/// Why a user with the right password cannot be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotEstablished {
    /// The name is not a valid header value.
    #[error("the user's name cannot be sent in a header")]
    Name,
    #[error(transparent)]
    Consumer(#[from] ConsumerBroken),
}

/// Returns the response to a client whose consumer is broken. It has a valid credential, so it may know.
pub(crate) fn consumer_broken() -> Response {
    reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::ConsumerBroken)
}

/// Access by credentials in the request head. The service learns the user from `header_field`, or from any
/// header it might confuse with it.
pub(crate) fn access(header_field: &str) -> Access {
    match HeaderName::from_bytes(header_field.as_bytes()) {
        Ok(name) => Access::by_head().vouching(move |header| is_same(&name, header)),
        Err(_) => Access::by_head(),
    }
}

/// Sets a header that services trust, and removes all others that a service might confuse with it: names that
/// differ only in `_` or `.` instead of `-`, which CGI, WSGI, PHP and nginx treat as equal.
pub(crate) fn set_exclusively(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    replace_exclusively(headers, name, Some(value));
}

/// Like [`set_exclusively`]; without a value, the header itself is removed, too.
pub(crate) fn replace_exclusively(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    let is_alias = |other: &&HeaderName| *other != name && is_same(name, other);
    let aliases: Vec<HeaderName> = headers.keys().filter(is_alias).cloned().collect();
    for alias in aliases {
        headers.remove(alias);
    }
    match value {
        Some(value) => drop(headers.insert(name.clone(), value)),
        None => drop(headers.remove(name)),
    }
}

/// Returns the response to a request without valid credentials.
pub(crate) fn unauthorized(challenge: HeaderValue) -> Response {
    let mut response = reply::bare(StatusCode::UNAUTHORIZED, "401 Unauthorized\n", Reason::Unauthenticated);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// Returns who the holder of a token is, and whether the consumer is broken, which is kept with the token: another
/// directory may know a sound one. `broken` is the refusal for that.
pub(crate) fn holder<R: PartialEq>(
    identity: Result<Option<Identity>, R>,
    broken: R,
) -> Result<(Option<Arc<Identity>>, bool), R> {
    match identity {
        Ok(identity) => Ok((identity.map(Arc::new), false)),
        Err(refusal) if refusal == broken => Ok((None, true)),
        Err(refusal) => Err(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn the_file_comes_first_and_comments_are_skipped() {
        let mut world = World::default();
        world.files.insert("/users".into(), b"# comment\n\n  a:1  \r\nb:2\n".to_vec());
        let context = BuildContext::new("m@file", &world);
        let entries = user_entries(&["c:3".to_owned()], "/users", &context).unwrap();
        let shown = |entry: &UserEntry| format!("{}{}", entry.text, entry.place);
        let shown: Vec<String> = entries.iter().map(shown).collect();
        assert_eq!(shown, ["a:1 (/users:3)", "b:2 (/users:4)", "c:3"]);
        assert!(user_entries(&[], "/missing", &context).is_err());
    }

    #[test]
    fn other_spellings_of_the_identity_header_are_removed() {
        let mut headers = HeaderMap::new();
        for name in ["x-user", "x_user", "x.user", "x-user2", "xuser"] {
            headers.append(name, HeaderValue::from_static("spoofed"));
        }
        set_exclusively(&mut headers, &HeaderName::from_static("x-user"), HeaderValue::from_static("me"));
        assert_eq!(headers["x-user"], "me");
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-user", "x-user2", "xuser"]);
    }
}
