//! Asks for a user name and password without sending the password (HTTP Digest with MD5, RFC 2617).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, HeaderValue};
use md5::{Digest as _, Md5};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tidegate_core::values::is_default;
use tidegate_core::{
    Access, AuthMethod, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Clock, Middleware, Next,
    Prediction, Request, Response,
};

use crate::auth::{self, DEFAULT_REALM, Establishing, NotEstablished};
use crate::path;

/// Lifetime of a nonce. The client then gets a new one, without asking its user again.
const NONCE_TTL: Duration = Duration::from_secs(600);
/// Maximum number of nonces in use. Only a client with the right password takes a slot.
const MAX_NONCES: usize = 8192;

/// Traefik's `digestAuth`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DigestAuth {
    /// Users as `name:realm:hash`, in the format of `htdigest`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// A file with one `name:realm:hash` per line, in addition to `users`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub users_file: String,
    /// Removes the `Authorization` header before the request reaches the service.
    #[serde(skip_serializing_if = "is_default")]
    pub remove_header: bool,
    /// The realm; `traefik` when empty. Users of other realms cannot log in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub realm: String,
    /// Request header that carries the user's name to the service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_field: String,
}

impl Build for DigestAuth {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let realm = if self.realm.is_empty() { DEFAULT_REALM } else { &self.realm };
        if HeaderValue::from_bytes(realm.as_bytes()).is_err() {
            return Err(BuildError::new("realm: control characters are not allowed"));
        }
        let mut users = HashMap::default();
        let mut errors = BuildErrors::default();
        for entry in auth::user_entries(&self.users, &self.users_file, context)? {
            let parts: Vec<&str> = entry.text.split(':').collect();
            let [name, its_realm, hash] = parts[..] else {
                let (name, place) = (auth::shown_name(&entry.text), &entry.place);
                errors.add(format!("invalid user{name}{place}: expected `name:realm:hash`"));
                continue;
            };
            if its_realm == realm {
                users.insert(name.to_owned(), hash.to_owned());
            }
        }
        let establishing =
            Establishing::new(context, AuthMethod::Digest, &self.header_field, self.remove_header);
        let establishing = errors.check(establishing);
        let establishing = errors.made(establishing)?;
        Ok(Arc::new(Digest {
            users,
            realm: realm.to_owned(),
            // Kept when users change, so that clients keep their nonces and no response is accepted twice.
            nonces: context.try_state("nonces", || Nonces::new(context.clock()))?,
            establishing,
        }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        Some(auth::access(&self.header_field))
    }
}

struct Digest {
    /// MD5 of `name:realm:password` in hexadecimal, by name.
    users: HashMap<String, String, foldhash::fast::RandomState>,
    realm: String,
    nonces: Arc<Nonces>,
    establishing: Establishing,
}

/// Issues and checks nonces.
struct Nonces {
    opaque: String,
    /// Signs nonces, so that those not yet in use take no memory.
    key: hmac::Key,
    clock: Clock,
    /// The highest count received with each nonce in use.
    counts: Cache<[u8; 16], Arc<AtomicU64>>,
}

impl Middleware for Digest {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let header = request
            .head
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let Some(credentials) = header.and_then(Credentials::parse) else {
            return self.refuse(Refusal::Wrong);
        };
        if !credentials.username.is_empty() {
            request.context.exchange.claim(&credentials.username);
        }
        match self.check(&credentials, &request) {
            Ok(()) => match self.establishing.establish(&mut request, &credentials.username) {
                Ok(()) => next.run(request),
                Err(NotEstablished::Name) => self.refuse(Refusal::Wrong),
                Err(NotEstablished::Consumer(_)) => crate::ready(auth::consumer_broken()),
            },
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn predict(&self, mut request: Request) -> Prediction {
        let header = request.head.headers.get(AUTHORIZATION);
        let header = header.and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let refused = |refusal, note| Prediction::responds(self.refusal(refusal)).note(note);
        let Some(credentials) = header.and_then(Credentials::parse) else {
            return refused(Refusal::Wrong, "a login is required");
        };
        let checked = self.check_hash(&credentials, &request);
        match checked.and_then(|()| self.nonces.peek(&credentials)) {
            Ok(()) => match self.establishing.establish(&mut request, &credentials.username) {
                Ok(()) => Prediction::passes(request).note("the credentials are valid"),
                Err(NotEstablished::Name) => refused(Refusal::Wrong, "the credentials are invalid"),
                Err(error) => Prediction::responds(auth::consumer_broken()).note(error.to_string()),
            },
            Err(Refusal::Stale) => refused(Refusal::Stale, "the nonce has expired"),
            _ => refused(Refusal::Wrong, "the credentials are invalid"),
        }
    }
}

/// Why credentials are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Wrong or missing.
    Wrong,
    /// Right, but with an expired nonce: the client may retry with a new one without asking its user.
    Stale,
}

impl Digest {
    fn check(&self, credentials: &Credentials, request: &Request) -> Result<(), Refusal> {
        self.check_hash(credentials, request)?;
        self.nonces.check(credentials)
    }

    /// Checks everything but the nonce.
    fn check_hash(&self, credentials: &Credentials, request: &Request) -> Result<(), Refusal> {
        let is_supported = credentials.qop == "auth" && matches!(credentials.algorithm.as_str(), "" | "MD5");
        if !is_supported || !credentials.is_for(&request.head.uri) {
            return Err(Refusal::Wrong);
        }
        let secret = self.users.get(&credentials.username);
        let method_and_uri = md5_hex(&[request.head.method.as_str(), &credentials.uri]);
        let expected = md5_hex(&[
            secret.map_or("", String::as_str),
            &credentials.nonce,
            &credentials.nc,
            &credentials.cnonce,
            &credentials.qop,
            &method_and_uri,
        ]);
        let equal: bool = expected.as_bytes().ct_eq(credentials.response.as_bytes()).into();
        if secret.is_none() || !equal { Err(Refusal::Wrong) } else { Ok(()) }
    }

    fn refuse<'a>(&self, refusal: Refusal) -> BoxFuture<'a, Response> {
        crate::ready(self.refusal(refusal))
    }

    fn refusal(&self, refusal: Refusal) -> Response {
        let stale = if refusal == Refusal::Stale { "stale=\"true\", " } else { "" };
        let challenge = format!(
            "Digest realm=\"{}\", nonce=\"{}\", opaque=\"{}\", {stale}algorithm=\"MD5\", qop=\"auth\"",
            self.realm,
            self.nonces.issue(),
            self.nonces.opaque
        );
        let challenge =
            HeaderValue::from_bytes(challenge.as_bytes()).unwrap_or(HeaderValue::from_static("Digest"));
        auth::unauthorized(challenge)
    }
}

impl Nonces {
    fn new(clock: Clock) -> Result<Self, BuildError> {
        let mut random = [0; 44];
        rand::fill(&mut random)
            .map_err(|_| BuildError::new("the system's random number generator failed"))?;
        Ok(Self {
            opaque: STANDARD.encode(&random[..12]),
            key: hmac::Key::new(hmac::HMAC_SHA256, &random[12..]),
            clock,
            counts: Cache::new(MAX_NONCES),
        })
    }

    fn check(&self, credentials: &Credentials) -> Result<(), Refusal> {
        let (nonce, count) = self.read(credentials)?;
        let Ok(highest) =
            self.counts.get_or_insert_with(&nonce, || Ok::<_, std::convert::Infallible>(Arc::default()));
        compare(highest.fetch_max(count, Ordering::AcqRel), count)
    }

    /// Returns what [`Self::check`] would, without using the count.
    fn peek(&self, credentials: &Credentials) -> Result<(), Refusal> {
        let (nonce, count) = self.read(credentials)?;
        let highest = self.counts.peek(&nonce).map_or(0, |highest| highest.load(Ordering::Relaxed));
        compare(highest, count)
    }

    /// Returns the time and random part of the nonce, and its count.
    fn read(&self, credentials: &Credentials) -> Result<([u8; 16], u64), Refusal> {
        let count = u64::from_str_radix(&credentials.nc, 16).ok().filter(|&count| count > 0);
        let count = count.ok_or(Refusal::Wrong)?;
        Ok((self.verify(&credentials.nonce).ok_or(Refusal::Stale)?, count))
    }

    /// Issues a nonce: milliseconds of uptime, eight random bytes, and half a MAC of both.
    fn issue(&self) -> String {
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&(self.clock.uptime().as_millis() as u64).to_be_bytes());
        // If this fails two clients may share a nonce; the MAC still holds.
        let _ = rand::fill(&mut nonce[8..16]);
        let mac = hmac::sign(&self.key, &nonce[..16]);
        nonce[16..].copy_from_slice(&mac.as_ref()[..16]);
        URL_SAFE_NO_PAD.encode(nonce)
    }

    /// Returns the time and random part of a nonce that we issued and that has not expired.
    fn verify(&self, text: &str) -> Option<[u8; 16]> {
        let nonce: [u8; 32] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let mac = hmac::sign(&self.key, &nonce[..16]);
        let ours: bool = mac.as_ref()[..16].ct_eq(&nonce[16..]).into();
        let made = Duration::from_millis(u64::from_be_bytes(nonce[..8].try_into().ok()?));
        let fresh = self.clock.uptime().checked_sub(made).is_some_and(|age| age < NONCE_TTL);
        if ours && fresh { nonce[..16].try_into().ok() } else { None }
    }
}

/// Compares the count of a request with the highest one received with its nonce.
fn compare(highest: u64, count: u64) -> Result<(), Refusal> {
    match highest.cmp(&count) {
        std::cmp::Ordering::Less => Ok(()),
        std::cmp::Ordering::Equal => Err(Refusal::Wrong),
        // Concurrent requests that arrived out of order.
        std::cmp::Ordering::Greater => Err(Refusal::Stale),
    }
}

/// Joins the parts with colons and returns their MD5 in hexadecimal.
fn md5_hex(parts: &[&str]) -> String {
    let mut hasher = Md5::new();
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            hasher.update(b":");
        }
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().fold(String::with_capacity(32), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The parameters of an `Authorization` header. Missing ones are empty.
#[derive(Debug, Default, PartialEq)]
struct Credentials {
    username: String,
    nonce: String,
    uri: String,
    response: String,
    algorithm: String,
    cnonce: String,
    qop: String,
    nc: String,
}

impl Credentials {
    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return None;
        }
        let mut credentials = Self::default();
        let mut rest = rest.trim_start();
        while !rest.is_empty() {
            let (name, after) = match rest.find(['=', ',']) {
                Some(at) if rest[at..].starts_with('=') => (rest[..at].trim(), &rest[at + 1..]),
                Some(at) => (rest[..at].trim(), &rest[at..]),
                None => (rest.trim(), ""),
            };
            let (value, after) = parameter_value(after);
            credentials.set(name, value);
            rest = after.trim_start_matches([',', ' ', '\t']);
        }
        Some(credentials)
    }

    fn set(&mut self, name: &str, value: String) {
        let field = match name {
            "username" => &mut self.username,
            "nonce" => &mut self.nonce,
            "uri" => &mut self.uri,
            "response" => &mut self.response,
            "algorithm" => &mut self.algorithm,
            "cnonce" => &mut self.cnonce,
            "qop" => &mut self.qop,
            "nc" => &mut self.nc,
            _ => return,
        };
        *field = value;
    }

    /// Returns true when the credentials are for this target, or for a path that starts with it.
    fn is_for(&self, uri: &http::Uri) -> bool {
        if uri.path_and_query().is_some_and(|target| target.as_str() == self.uri) {
            return true;
        }
        let Ok(answered) = self.uri.parse::<http::Uri>() else { return false };
        let Ok(prefix) = path::unescape(answered.path()) else { return false };
        path::strip_decoded_prefix(uri.path(), &prefix).is_some()
    }
}

/// Returns a parameter's value, quoted or not, and the rest of the text.
fn parameter_value(text: &str) -> (String, &str) {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, request};
    use http::Request as Head;
    use proptest::prelude::*;
    use tidegate_core::Body;
    use tidegate_core::consumers::CredentialKind;

    const SECRET: &str = "a2688e031edb4be6a3797f3882655c05";

    struct Client {
        digest: Arc<dyn Middleware>,
        nonce: String,
    }

    impl Client {
        fn new(options: DigestAuth) -> Self {
            Self::of(testing::build(options))
        }

        fn of(digest: Arc<dyn Middleware>) -> Self {
            let mut client = Self { digest, nonce: String::new() };
            let challenge = client.send("").1;
            client.nonce = challenge.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            client
        }

        /// Returns the status and the challenge.
        fn send(&self, authorization: &str) -> (u16, String) {
            let request = request(Head::get("http://h.test/x?q=1").header("authorization", authorization));
            let service = testing::Service(|_| Response::new(Body::empty()));
            let response = testing::block_on(testing::run(&self.digest, request, &service));
            let challenge =
                response.headers().get("www-authenticate").map(|v| v.to_str().unwrap().to_owned());
            (response.status().as_u16(), challenge.unwrap_or_default())
        }

        fn answer(&self, user: &str, secret: &str, count: u64, uri: &str) -> String {
            let nc = format!("{count:08x}");
            let method_and_uri = md5_hex(&["GET", uri]);
            let response = md5_hex(&[secret, &self.nonce, &nc, "cn", "auth", &method_and_uri]);
            format!(
                "Digest username=\"{user}\", realm=\"traefik\", nonce=\"{}\", uri=\"{uri}\", response=\"{response}\", \
                 qop=auth, nc={nc}, cnonce=\"cn\", algorithm=\"MD5\"",
                self.nonce
            )
        }
    }

    fn options() -> DigestAuth {
        DigestAuth { users: vec![format!("test:traefik:{SECRET}")], ..DigestAuth::default() }
    }

    #[test]
    fn valid_credentials_are_accepted_once_per_count() {
        let client = Client::new(options());
        for (count, uri, status, stale) in [
            (1, "/x?q=1", 200, false),
            (1, "/x?q=1", 401, false),
            (5, "/x?q=1", 200, false),
            (3, "/x?q=1", 401, true),
            (6, "/", 200, false),
            (7, "/x/longer", 401, false),
            (0, "/x?q=1", 401, false),
        ] {
            let (found, challenge) = client.send(&client.answer("test", SECRET, count, uri));
            assert_eq!((found, challenge.contains("stale=\"true\"")), (status, stale), "{count} {uri}");
        }
    }

    #[test]
    fn a_broken_consumer_gets_503_with_the_right_password_only() {
        let world = testing::World::default();
        let client = Client::of(testing::build_in(&world, options()).unwrap());
        world.store_consumer(CredentialKind::BasicUser("test".into()), true);
        assert_eq!(client.send(&client.answer("test", SECRET, 1, "/x?q=1")).0, 503);
        assert_eq!(client.send(&client.answer("test", "00", 2, "/x?q=1")).0, 401);
        world.store_consumer(CredentialKind::BasicUser("test".into()), false);
        assert_eq!(client.send(&client.answer("test", SECRET, 3, "/x?q=1")).0, 200);
    }

    #[test]
    fn nonces_expire() {
        let (world, clock) = testing::World::stopped();
        let client = Client::of(testing::build_in(&world, options()).unwrap());
        let stale = |count| {
            let (status, challenge) = client.send(&client.answer("test", SECRET, count, "/x?q=1"));
            (status, challenge.contains("stale=\"true\""))
        };
        clock.advance(NONCE_TTL - Duration::from_millis(1));
        assert_eq!(stale(1), (200, false));
        clock.advance(Duration::from_millis(1));
        assert_eq!(stale(2), (401, true));
    }

    #[test]
    fn nonces_stay_valid_when_users_change() {
        let world = testing::World::default();
        let mut client = Client::of(testing::build_in(&world, options()).unwrap());
        assert_eq!(client.send(&client.answer("test", SECRET, 1, "/x?q=1")).0, 200);
        let more = vec![format!("test:traefik:{SECRET}"), "other:traefik:00".into()];
        client.digest = testing::build_in(&world, DigestAuth { users: more, ..options() }).unwrap();
        assert_eq!(client.send(&client.answer("test", SECRET, 1, "/x?q=1")).0, 401, "once per count");
        assert_eq!(client.send(&client.answer("test", SECRET, 2, "/x?q=1")).0, 200);
        client.digest = testing::build_in(&world, DigestAuth { users: Vec::new(), ..options() }).unwrap();
        assert_eq!(client.send(&client.answer("test", SECRET, 3, "/x?q=1")).0, 401);
    }

    #[test]
    fn wrong_credentials_are_refused() {
        let mut client = Client::new(options());
        assert_eq!(client.send(&client.answer("test", "00", 1, "/x?q=1")).0, 401);
        // An unknown user has no secret: the empty one must not match.
        assert_eq!(client.send(&client.answer("nobody", "", 1, "/x?q=1")).0, 401);
        assert_eq!(client.send("Digest x").0, 401);
        assert_eq!(client.send("Basic eDp5").0, 401);
        client.nonce.replace_range(0..1, "Z");
        let (status, challenge) = client.send(&client.answer("test", SECRET, 1, "/x?q=1"));
        assert_eq!((status, challenge.contains("stale=\"true\"")), (401, true));
    }

    #[test]
    fn users_of_another_realm_cannot_log_in() {
        let client = Client::new(DigestAuth { realm: "other".into(), ..options() });
        assert_eq!(client.send(&client.answer("test", SECRET, 1, "/x?q=1")).0, 401);
    }

    #[test]
    fn the_challenge_is_traefiks() {
        let response =
            testing::response_of(options(), testing::get("http://h.test/"), |_| Response::new(Body::empty()));
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Digest realm=\"traefik\", nonce=\""), "{challenge}");
        assert!(challenge.ends_with("\", algorithm=\"MD5\", qop=\"auth\""), "{challenge}");
        assert_eq!(response.headers()["content-type"], "text/plain");
        assert_eq!(testing::text(response), "401 Unauthorized\n");
    }

    #[test]
    fn parameters_are_read_quoted_or_not() {
        let answer =
            Credentials::parse(r#"Digest username="a\"b, c" , nc=00000001,odd, uri="/x", qop = auth"#)
                .unwrap();
        let expected = Credentials {
            username: "a\"b, c".into(),
            nc: "00000001".into(),
            uri: "/x".into(),
            qop: "auth".into(),
            ..Credentials::default()
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_broken_user_is_an_error() {
        let options = DigestAuth { users: vec!["a:b".into()], ..DigestAuth::default() };
        let error = testing::build_in(&testing::World::default(), options).err();
        assert_eq!(error, Some(BuildError::new("invalid user `a`: expected `name:realm:hash`")));
    }

    proptest! {
        #[test]
        fn no_header_panics(text in r#"Digest [a-z=", \\é]{0,60}"#) {
            let _ = Credentials::parse(&text);
        }
    }
}
