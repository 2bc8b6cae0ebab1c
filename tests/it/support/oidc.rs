//! A stand-in for an OpenID provider, and the browser of somebody who signs in there.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::backend::Seen;
use super::tokens::{OWN, now, signed_by};
use super::{Answer, Backend, Gateway, raw};

/// The client's identifier and secret.
pub const CLIENT: &str = "gate way";
pub const CLIENT_SECRET: &str = "s+cr/t";
/// A secret of sessions.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// A host whose secure cookies browsers keep without TLS.
pub const HOST: &str = "app.localhost";

/// What somebody has agreed to.
#[derive(Clone, Debug)]
pub struct Grant {
    pub challenge: String,
    pub nonce: String,
    pub redirect_uri: String,
}

/// What the provider does and has done.
pub struct Behaviour {
    pub codes: HashMap<String, Grant>,
    refresh_tokens: Vec<String>,
    /// Changes of the claims of ID tokens; null removes one.
    pub claims: Value,
    /// The whole ID token, instead of one for the client.
    pub id_token: Option<String>,
    /// The user's further claims.
    pub user_info: Value,
    /// Lifetime of access tokens in seconds.
    pub expires_in: u64,
    pub refreshes: usize,
    /// Answers of these paths instead of the usual ones.
    pub answers: HashMap<String, Vec<u8>>,
    /// Whether all answers are 503.
    pub is_down: bool,
    last: usize,
}

/// The provider. It runs until it is dropped.
pub struct StandIn {
    pub server: Backend,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl StandIn {
    pub fn start() -> Self {
        let behaviour = Arc::new(Mutex::new(Behaviour {
            codes: HashMap::new(),
            refresh_tokens: Vec::new(),
            claims: json!({}),
            id_token: None,
            user_info: json!({"sub": "ann", "email": "ann@example.com"}),
            expires_in: 300,
            refreshes: 0,
            answers: HashMap::new(),
            is_down: false,
            last: 0,
        }));
        let state = behaviour.clone();
        let server = Backend::with(move |seen, stream| {
            let answer = state.lock().unwrap().answer(seen);
            match answer {
                Some(answer) => stream.write_all(&answer).is_ok(),
                // A server that hangs.
                None => stream.peek(&mut [0]).is_ok_and(|_| false),
            }
        });
        Self { server, behaviour }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    /// The user agrees: returns the target of the callback.
    pub fn agree(&self, location: &str) -> String {
        let url = url::Url::parse(location).unwrap();
        let query: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["client_id"], CLIENT);
        assert_eq!(query["code_challenge_method"], "S256");
        let mut behaviour = self.behaviour();
        behaviour.last += 1;
        let code = format!("code{}", behaviour.last);
        let grant = Grant {
            challenge: query["code_challenge"].clone(),
            nonce: query["nonce"].clone(),
            redirect_uri: query["redirect_uri"].clone(),
        };
        behaviour.codes.insert(code.clone(), grant);
        let redirect = url::Url::parse(&query["redirect_uri"]).unwrap();
        format!("{}?code={code}&state={}", redirect.path(), query["state"])
    }

    /// A logout token with these claims beside the usual ones; null removes one.
    pub fn logout_token(&self, changes: &Value) -> String {
        let mut claims = json!({
            "iss": self.url(), "aud": CLIENT, "iat": now(), "exp": now() + 120, "jti": format!("{changes}"),
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        change(&mut claims, changes);
        signed_by(&OWN, "RS256", &json!({"alg": "RS256", "kid": "rsa", "typ": "logout+jwt"}), &claims)
    }
}

fn change(claims: &mut Value, changes: &Value) {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
}

fn response(status: &str, body: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

impl Behaviour {
    fn answer(&mut self, seen: &Seen) -> Option<Vec<u8>> {
        let path = seen.target().split('?').next().unwrap().to_owned();
        if self.is_down {
            return response("503 Service Unavailable", "");
        }
        if let Some(answer) = self.answers.get(&path) {
            return if answer.is_empty() { None } else { Some(answer.clone()) };
        }
        let issuer = format!("http://{}", seen.header("host").unwrap());
        match path.as_str() {
            "/.well-known/openid-configuration" => response(
                "200 OK",
                &json!({
                    "issuer": issuer,
                    "authorization_endpoint": format!("{issuer}/authorize"),
                    "token_endpoint": format!("{issuer}/token"),
                    "jwks_uri": format!("{issuer}/keys"),
                    "userinfo_endpoint": format!("{issuer}/me"),
                    "end_session_endpoint": format!("{issuer}/end?a=b"),
                })
                .to_string(),
            ),
            "/keys" => response("200 OK", &OWN.jwks()),
            "/me" if seen.header("authorization") == Some("Bearer access") => {
                response("200 OK", &self.user_info.to_string())
            }
            "/token" => self.tokens(seen, &issuer),
            _ => response("404 Not Found", "{}"),
        }
    }

    fn tokens(&mut self, seen: &Seen, issuer: &str) -> Option<Vec<u8>> {
        let form: HashMap<String, String> = url::form_urlencoded::parse(&seen.body).into_owned().collect();
        let pair = BASE64_STANDARD.encode("gate+way:s%2Bcr%2Ft");
        let is_client = seen.header("authorization") == Some(&format!("Basic {pair}"))
            || form.get("client_secret").map(String::as_str) == Some(CLIENT_SECRET);
        if !is_client {
            return response("401 Unauthorized", r#"{"error": "invalid_client"}"#);
        }
        let nonce = match form["grant_type"].as_str() {
            "authorization_code" => {
                let Some(grant) = self.codes.remove(&form["code"]) else {
                    return response("400 Bad Request", r#"{"error": "invalid_grant"}"#);
                };
                let digest =
                    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form["code_verifier"].as_bytes());
                assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(digest), grant.challenge);
                assert_eq!(form["redirect_uri"], grant.redirect_uri);
                Some(grant.nonce)
            }
            _ => {
                // Each refresh token is good for one use.
                let known = self.refresh_tokens.iter().position(|token| *token == form["refresh_token"]);
                let Some(known) = known else {
                    return response("400 Bad Request", r#"{"error": "invalid_grant"}"#);
                };
                self.refresh_tokens.remove(known);
                self.refreshes += 1;
                None
            }
        };
        self.last += 1;
        let refresh = format!("refresh{}", self.last);
        self.refresh_tokens.push(refresh.clone());
        let mut claims = json!({
            "iss": issuer, "aud": CLIENT, "sub": "ann", "sid": "sid1", "iat": now(), "exp": now() + 300,
            "groups": ["ops", "dev"], "name": "Ann Example",
        });
        claims["nonce"] = nonce.into();
        change(&mut claims, &self.claims);
        let token = signed_by(&OWN, "RS256", &json!({"alg": "RS256", "kid": "rsa"}), &claims);
        let tokens = json!({
            "access_token": "access", "token_type": "Bearer", "expires_in": self.expires_in,
            "refresh_token": refresh, "id_token": self.id_token.clone().unwrap_or(token),
        });
        response("200 OK", &tokens.to_string())
    }
}

/// Headers of a browser that shows a page.
pub const PAGE: &str = "Accept: text/html,*/*;q=0.8\r\nSec-Fetch-Mode: navigate\r\n";

/// A browser with its cookies for one host.
#[derive(Clone)]
pub struct Browser {
    address: SocketAddr,
    host: String,
    pub jar: BTreeMap<String, String>,
}

impl Browser {
    pub fn new(address: SocketAddr) -> Self {
        Self::at(address, HOST)
    }

    pub fn at(address: SocketAddr, host: &str) -> Self {
        Self { address, host: host.to_owned(), jar: BTreeMap::new() }
    }

    /// The same browser at another host or gateway.
    pub fn moved(&self, address: SocketAddr, host: &str) -> Self {
        Self { address, host: host.to_owned(), jar: self.jar.clone() }
    }

    /// Opens a page.
    pub fn open(&mut self, path: &str) -> Answer {
        self.send("GET", path, PAGE)
    }

    /// Sends a request with its cookies, and keeps those of the response.
    pub fn send(&mut self, method: &str, path: &str, headers: &str) -> Answer {
        let pairs: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies =
            if pairs.is_empty() { String::new() } else { format!("Cookie: {}\r\n", pairs.join("; ")) };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}{cookies}Connection: close\r\n\r\n",
            self.host
        );
        let answer = raw(self.address, request).unwrap();
        for (_, field) in answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
            let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
            if field.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    /// Signs in on the way to a page, and returns it.
    pub fn sign_in(&mut self, provider: &StandIn, path: &str) -> Answer {
        let location = self.begin(path);
        let back = self.open(&provider.agree(&location));
        assert_eq!(back.status, 302, "{}", back.text());
        let target = back.header("location").unwrap();
        let origin = format!("http://{}", self.host);
        let target = target.strip_prefix(&origin).unwrap_or_else(|| panic!("{target}"));
        self.open(target)
    }

    /// Opens a page without a session, and returns where the login begins.
    pub fn begin(&mut self, path: &str) -> String {
        let answer = self.open(path);
        assert_eq!(answer.status, 302, "{}", answer.text());
        answer.header("location").unwrap().to_owned()
    }

    /// The name of the one cookie that is not of a login.
    pub fn session(&self) -> String {
        self.jar.keys().find(|name| !name.contains("-state-")).expect("no session").clone()
    }
}

/// Routes with an `oidc` with these options.
pub fn routes(options: &str, url: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}}
  middlewares:
    m: {{oidc: {{{options}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
    )
}

/// Options for the provider.
pub fn options(provider: &StandIn, more: &str) -> String {
    let url = provider.url();
    format!(
        "issuer: '{url}', clientId: '{CLIENT}', clientSecret: '{CLIENT_SECRET}', session: {{secrets: ['{SECRET}']}}{more}"
    )
}

/// A gateway with the middleware in front of a service.
pub struct Guarded {
    pub provider: StandIn,
    pub gateway: Gateway,
    pub service: Backend,
}

impl Guarded {
    /// With these options beside those for the provider.
    pub fn new(more: &str) -> Self {
        Self::with(|provider| options(provider, more))
    }

    pub fn with(options: impl FnOnce(&StandIn) -> String) -> Self {
        let (provider, service) = (StandIn::start(), Backend::echo("a"));
        let gateway = Gateway::with(&[], &routes(&options(&provider), &service.url()));
        assert_eq!(gateway.problems(), Vec::<String>::new());
        Self { provider, gateway, service }
    }

    pub fn browser(&self) -> Browser {
        Browser::new(self.gateway.web())
    }

    /// A browser with a session.
    pub fn signed_in(&self) -> Browser {
        let mut browser = self.browser();
        assert_eq!(browser.sign_in(&self.provider, "/").status, 200);
        browser
    }
}
