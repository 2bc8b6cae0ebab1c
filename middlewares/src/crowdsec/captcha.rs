//! Captchas: the page, the question to its provider, and a signed cookie for clients that have solved one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderValue, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Deserialize;
use tidegate_core::{Clock, Reason, Request, Response, reply};
use url::form_urlencoded;

use super::places::Places;
use super::template::Template;
use crate::api_client::{ApiClient, ApiError};

/// Values of the page.
pub(super) const NAMES: &[&str] = &["SiteKey", "FrontendJS", "FrontendKey"];
/// The page if none is configured.
pub(super) const PAGE: &str = include_str!("captcha.html");
/// Name of the cookie of clients that have solved a captcha.
const COOKIE_NAME: &str = "tidegate-captcha";
/// Maximum length of a form with a solution, in bytes.
const MAX_FORM: u64 = 64 * 1024;
/// Maximum number of solutions that are verified at once.
const MAX_VERIFICATIONS: usize = 256;

/// What differs between providers.
#[derive(Clone, Debug)]
pub(super) struct Provider {
    pub(super) script: String,
    /// Class of the element in the page.
    pub(super) class: String,
    /// Field of the form with the solution.
    pub(super) field: String,
    pub(super) verify: Uri,
}

/// Serves captchas.
pub(super) struct Captcha {
    pub(super) provider: Provider,
    pub(super) site_key: String,
    pub(super) secret: String,
    pub(super) page: Template,
    pub(super) grace: Duration,
    pub(super) client: ApiClient,
    pub(super) key: hmac::Key,
    pub(super) verifying: Places,
}

/// What a client has sent.
pub(super) enum Solution {
    /// No solution, or a wrong one.
    None,
    Right,
    /// The provider cannot be asked.
    Unknown,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    success: bool,
}

/// Derives the key of the cookies. Gateways with the same secret accept each other's.
pub(super) fn signing_key(secret: &str) -> hmac::Key {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"tidegate crowdsec captcha\0");
    context.update(secret.as_bytes());
    hmac::Key::new(hmac::HMAC_SHA256, context.finish().as_ref())
}

impl Captcha {
    /// Returns true if the client has solved a captcha that still counts.
    pub(super) fn is_solved(&self, headers: &HeaderMap, address: IpAddr, clock: &Clock) -> bool {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| {
            let Some((end, tag)) = value.split_once('.').filter(|_| name == COOKIE_NAME) else {
                return false;
            };
            let is_current = end.parse::<u64>().is_ok_and(|end| end > seconds(clock));
            let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).ok();
            is_current
                && tag
                    .is_some_and(|tag| hmac::verify(&self.key, signed(address, end).as_bytes(), &tag).is_ok())
        })
    }

    /// Returns the response for a client that must solve a captcha: the page, or a redirect to where it is if it has
    /// just sent the solution. The second value is what the remediation header says.
    pub(super) async fn respond(
        &self,
        mut request: Request,
        address: IpAddr,
        clock: &Clock,
    ) -> (Response, &'static str) {
        match self.solution(&mut request).await {
            Solution::Right => (self.redirect(&request, address, clock), "solved-captcha"),
            Solution::Unknown => {
                let reason = Reason::DecisionUnavailable;
                (reply::status_text(StatusCode::SERVICE_UNAVAILABLE, reason), "captcha")
            }
            Solution::None => (self.page(), "captcha"),
        }
    }

    async fn solution(&self, request: &mut Request) -> Solution {
        let kind = request.head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if request.head.method != Method::POST || !kind.starts_with(b"application/x-www-form-urlencoded") {
            return Solution::None;
        }
        let Ok(form) = std::mem::take(&mut request.body).collect(MAX_FORM).await else {
            return Solution::None;
        };
        let found = form_urlencoded::parse(&form.bytes).find(|(name, _)| *name == self.provider.field);
        match found {
            Some((_, solution)) if !solution.is_empty() => self.verify(&solution).await,
            _ => Solution::None,
        }
    }

    async fn verify(&self, solution: &str) -> Solution {
        let Some(_place) = self.verifying.take(MAX_VERIFICATIONS) else { return Solution::Unknown };
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("secret", &self.secret)
            .append_pair("response", solution)
            .finish();
        match self.ask(form).await {
            Ok(true) => Solution::Right,
            Ok(false) => Solution::None,
            Err(error) => {
                tracing::warn!(url = %self.provider.verify, %error, "verifying a captcha failed");
                Solution::Unknown
            }
        }
    }

    async fn ask(&self, form: String) -> Result<bool, ApiError> {
        let response = self.client.post_form(&self.provider.verify, None, form).await?;
        if response.status != StatusCode::OK {
            return Err(ApiError::Status(response.status));
        }
        Ok(serde_json::from_slice::<Answer>(&response.body).is_ok_and(|answer| answer.success))
    }

    fn page(&self) -> Response {
        let body = self.page.render(&[
            ("SiteKey", &self.site_key),
            ("FrontendJS", &self.provider.script),
            ("FrontendKey", &self.provider.class),
        ]);
        let mut response = reply::bare(StatusCode::OK, body, Reason::Captcha);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.page.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn redirect(&self, request: &Request, address: IpAddr, clock: &Clock) -> Response {
        let mut response = reply::empty(StatusCode::FOUND, Reason::Captcha);
        let headers = response.headers_mut();
        let target = request.head.uri.path_and_query().map_or("/", |target| target.as_str());
        // `//host` and `/\host` would be other hosts.
        let is_local = !target[1.min(target.len())..].starts_with(['/', '\\']);
        let location = if is_local { target.to_owned() } else { format!("/.{target}") };
        if let Ok(location) = HeaderValue::from_str(&location) {
            headers.insert(LOCATION, location);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let grace = self.grace.as_secs();
        let end = seconds(clock).saturating_add(grace).to_string();
        let tag = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed(address, &end).as_bytes()));
        let secure = if request.context.is_tls() { "; Secure" } else { "" };
        let cookie =
            format!("{COOKIE_NAME}={end}.{tag}; Path=/; Max-Age={grace}; HttpOnly; SameSite=Lax{secure}");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            headers.append(SET_COOKIE, cookie);
        }
        response
    }
}

fn signed(address: IpAddr, end: &str) -> String {
    format!("{end} {address}")
}

fn seconds(clock: &Clock) -> u64 {
    clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns what a known provider needs.
pub(super) fn provider(name: &str) -> Option<Provider> {
    let (script, class, field, verify) = match name {
        "hcaptcha" => (
            "https://hcaptcha.com/1/api.js",
            "h-captcha",
            "h-captcha-response",
            "https://api.hcaptcha.com/siteverify",
        ),
        "recaptcha" => (
            "https://www.google.com/recaptcha/api.js",
            "g-recaptcha",
            "g-recaptcha-response",
            "https://www.google.com/recaptcha/api/siteverify",
        ),
        "turnstile" => (
            "https://challenges.cloudflare.com/turnstile/v0/api.js",
            "cf-turnstile",
            "cf-turnstile-response",
            "https://challenges.cloudflare.com/turnstile/v0/siteverify",
        ),
        _ => return None,
    };
    let verify = Uri::from_static(verify);
    Some(Provider { script: script.into(), class: class.into(), field: field.into(), verify })
}

/// A captcha that middleware and tests share.
pub(super) type Shared = Arc<Captcha>;
