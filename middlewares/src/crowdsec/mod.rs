//! Refuses clients that CrowdSec has banned, and requests that its AppSec component refuses.
//!
//! The options are those of the plug-in that people use with Traefik, so that one type serves both.

mod appsec;
mod captcha;
mod client;
mod decisions;
mod handler;
mod lapi;
mod options;
mod places;
mod stream;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, Uri};
use tidegate_core::building::ClientTls;
use tidegate_core::client_ip::IpRanges;
use tidegate_core::values::Secret;
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Middleware, Next, Prediction, Request, Response,
};

use crate::api_client::{self, ApiClient};
use crate::forward_auth::check_tls;
use appsec::Appsec;
use captcha::Captcha;
use client::Client;
use handler::{Bouncer, Live, Source};
use lapi::Lapi;
pub use options::Crowdsec;
use places::Places;
use stream::Stream;
use template::Template;

/// Maximum value of options in seconds.
const MAX_SECONDS: i64 = 30 * 24 * 3600;
/// Maximum number of bytes of a body that are inspected, since they are kept in memory.
const MAX_BODY: u64 = 64 * 1024 * 1024;

/// What `crowdsecMode` means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    None,
    Live,
    Stream,
    Appsec,
}

impl Build for Crowdsec {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.enabled == Some(false) {
            return Ok(Arc::new(Disabled));
        }
        let addresses = BuildErrors::both(self.client(), self.trusted());
        let pages = BuildErrors::both(self.ban_page(context), self.captcha(context));
        let looks = BuildErrors::both(self.status(), self.headers());
        let limits = BuildErrors::both(self.max_failures(), self.appsec(context));
        let given = BuildErrors::both(
            BuildErrors::both(addresses, pages),
            BuildErrors::both(BuildErrors::both(looks, limits), self.mode()),
        );
        let ((((client, trusted), (ban_page, captcha)), ((looks, (max_failures, appsec)), mode)), ()) =
            BuildErrors::both(given, self.check_rest())?;
        let (status, (remediation_header, trace_header)) = looks;
        Ok(Arc::new(Bouncer {
            client,
            trusted,
            clock: context.clock(),
            source: self.source(mode, context)?,
            max_failures,
            appsec,
            captcha: captcha.map(Arc::new),
            status,
            ban_page,
            remediation_header,
            trace_header,
        }))
    }
}

/// Lets everything pass (`enabled: false`).
struct Disabled;

impl Middleware for Disabled {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        next.run(request)
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::passes(request).note("disabled")
    }
}

impl Crowdsec {
    /// Applies the default of the plug-in, which does nothing unless it is enabled.
    #[must_use]
    pub fn as_plugin(self) -> Self {
        Self { enabled: Some(self.enabled.unwrap_or(false)), ..self }
    }

    fn mode(&self) -> Result<Mode, BuildError> {
        match self.crowdsec_mode.to_ascii_lowercase().as_str() {
            "none" => Ok(Mode::None),
            "live" => Ok(Mode::Live),
            "stream" => Ok(Mode::Stream),
            "appsec" => Ok(Mode::Appsec),
            "alone" => Err(BuildError::new(
                "crowdsecMode: `alone` is not supported: use `stream` with a local API, which has the community's decisions",
            )),
            other => Err(BuildError::new(format!(
                "crowdsecMode: `{other}` is unknown: expected `live`, `stream`, `none` or `appsec`"
            ))),
        }
    }

    fn source(&self, mode: Mode, context: &BuildContext<'_>) -> Result<Source, BuildError> {
        if mode == Mode::Appsec {
            return Ok(Source::None);
        }
        let lapi = self.lapi(context)?;
        if mode == Mode::Stream {
            let stream = Stream::of(&lapi);
            let interval = seconds("updateIntervalSeconds", self.update_interval_seconds, 1)?;
            let task = stream.clone().keep_fresh(lapi.clone(), interval, context.clock());
            let _task = context.spawn("decisions", task);
            return Ok(Source::Stream { stream, lapi, waits_for_start: self.stream_startup_block, _task });
        }
        let longest = seconds("defaultDecisionSeconds", self.default_decision_seconds, 0)?;
        let is_cached = mode == Mode::Live && !longest.is_zero();
        Ok(Source::Live(Live {
            lapi,
            cache: is_cached.then(handler::cache),
            longest,
            asking: Places::default(),
            paused: AtomicU64::new(0),
        }))
    }

    fn lapi(&self, context: &BuildContext<'_>) -> Result<Lapi, BuildError> {
        let (scheme, host) = (&self.crowdsec_lapi_scheme, &self.crowdsec_lapi_host);
        let base = url("crowdsecLapiHost", scheme, host, &self.crowdsec_lapi_path);
        let key = self.lapi_key(context);
        let tls = self.lapi_tls(context);
        let (base, (key, tls)) = BuildErrors::both(base, BuildErrors::both(key, tls))?;
        if key.is_none() && tls.cert.is_empty() {
            return Err(BuildError::new(
                "no credentials: expected crowdsecLapiKey, crowdsecLapiKeyFile or crowdsecLapiTlsCertificateBouncer",
            ));
        }
        Ok(Lapi { client: context.client(), tls, timeout: self.timeout()?, base: base.to_string(), key })
    }

    fn lapi_key(&self, context: &BuildContext<'_>) -> Result<Option<HeaderValue>, BuildError> {
        key("crowdsecLapiKey", &self.crowdsec_lapi_key, &self.crowdsec_lapi_key_file, context)
    }

    fn lapi_tls(&self, context: &BuildContext<'_>) -> Result<ClientTls, BuildError> {
        let key = self.crowdsec_lapi_tls_certificate_bouncer_key.expose();
        let tls = ClientTls {
            ca: file_or(
                &self.crowdsec_lapi_tls_certificate_authority_file,
                &self.crowdsec_lapi_tls_certificate_authority,
            ),
            cert: file_or(
                &self.crowdsec_lapi_tls_certificate_bouncer_file,
                &self.crowdsec_lapi_tls_certificate_bouncer,
            ),
            key: file_or(&self.crowdsec_lapi_tls_certificate_bouncer_key_file, key),
            insecure_skip_verify: self.crowdsec_lapi_tls_insecure_verify,
            ca_optional: false,
        };
        let is_secure = self.crowdsec_lapi_scheme.eq_ignore_ascii_case("https");
        if !tls.cert.is_empty() && !is_secure {
            return Err(BuildError::new(
                "crowdsecLapiScheme: crowdsecLapiTlsCertificateBouncer requires `https`",
            ));
        }
        check_tls(&tls, context).map_err(|error| error.map(|text| format!("crowdsecLapiTls: {text}")))?;
        Ok(tls)
    }

    fn appsec(&self, context: &BuildContext<'_>) -> Result<Option<Appsec>, BuildError> {
        let is_only = matches!(self.mode(), Ok(Mode::Appsec));
        if !self.crowdsec_appsec_enabled && !is_only {
            return Ok(None);
        }
        let scheme = match self.crowdsec_appsec_scheme.as_str() {
            "" => &self.crowdsec_lapi_scheme,
            given => given,
        };
        let url = url("crowdsecAppsecHost", scheme, &self.crowdsec_appsec_host, &self.crowdsec_appsec_path)?;
        let own =
            key("crowdsecAppsecKey", &self.crowdsec_appsec_key, &self.crowdsec_appsec_key_file, context)?;
        let key = match own {
            Some(own) => Some(own),
            None => self.lapi_key(context)?,
        };
        let tls = ClientTls {
            ca: file_or(
                &self.crowdsec_appsec_tls_certificate_authority_file,
                &self.crowdsec_appsec_tls_certificate_authority,
            ),
            cert: file_or(
                &self.crowdsec_appsec_tls_certificate_bouncer_file,
                &self.crowdsec_appsec_tls_certificate_bouncer,
            ),
            key: file_or(
                &self.crowdsec_appsec_tls_certificate_bouncer_key_file,
                self.crowdsec_appsec_tls_certificate_bouncer_key.expose(),
            ),
            insecure_skip_verify: self.crowdsec_appsec_tls_insecure_verify,
            ca_optional: false,
        };
        check_tls(&tls, context).map_err(|error| error.map(|text| format!("crowdsecAppsecTls: {text}")))?;
        Ok(Some(Appsec {
            client: context.client(),
            tls,
            timeout: self.timeout()?,
            url,
            key,
            body_limit: u64::try_from(self.crowdsec_appsec_body_limit).unwrap_or(0).min(MAX_BODY),
            blocks_failure: self.crowdsec_appsec_failure_block,
            blocks_unreachable: self.crowdsec_appsec_unreachable_block,
            blocks_unreadable: self.crowdsec_appsec_unreadable_body_block,
        }))
    }

    fn captcha(&self, context: &BuildContext<'_>) -> Result<Option<Captcha>, BuildError> {
        if self.captcha_provider.is_empty() {
            return Ok(None);
        }
        let path = file_or(&self.captcha_file_path, &self.captcha_html_file_path);
        let page = match path.as_str() {
            "" => page("captchaFilePath", "captcha.html", captcha::PAGE.as_bytes(), captcha::NAMES),
            path => context
                .file(path)
                .map_err(|error| error.map(|text| format!("captchaFilePath: {text}")))
                .and_then(|text| page("captchaFilePath", path, &text, captcha::NAMES)),
        };
        let secret = text(
            "captchaSecretKey",
            self.captcha_secret_key.expose(),
            &self.captcha_secret_key_file,
            context,
        );
        let site_key = text("captchaSiteKey", &self.captcha_site_key, &self.captcha_site_key_file, context);
        let keys = BuildErrors::both(secret, site_key);
        let (provider, (page, (secret, site_key))) =
            BuildErrors::both(self.captcha_provider(), BuildErrors::both(page, keys))?;
        if secret.is_empty() || site_key.is_empty() {
            return Err(BuildError::new("captchaProvider: captchaSiteKey and captchaSecretKey are required"));
        }
        let client =
            ApiClient { client: context.client(), tls: ClientTls::default(), timeout: self.timeout()? };
        Ok(Some(Captcha {
            provider,
            site_key,
            key: captcha::signing_key(&secret),
            secret,
            page,
            grace: seconds("captchaGracePeriodSeconds", self.captcha_grace_period_seconds, 1)?,
            client,
            verifying: Places::default(),
        }))
    }

    fn captcha_provider(&self) -> Result<captcha::Provider, BuildError> {
        if self.captcha_provider != "custom" {
            return captcha::provider(&self.captcha_provider).ok_or_else(|| {
                BuildError::new(format!(
                    "captchaProvider: `{}` is unknown: expected `hcaptcha`, `recaptcha`, `turnstile` or `custom`",
                    self.captcha_provider
                ))
            });
        }
        for (option, text) in [
            ("captchaCustomJsUrl", &self.captcha_custom_js_url),
            ("captchaCustomKey", &self.captcha_custom_key),
            ("captchaCustomResponse", &self.captcha_custom_response),
        ] {
            if text.is_empty() {
                return Err(BuildError::new(format!("{option}: required for the provider `custom`")));
            }
        }
        let verify = api_client::parse_url(&self.captcha_custom_validate_url).ok_or_else(|| {
            BuildError::new("captchaCustomValidateUrl: expected an absolute http or https URL")
        })?;
        Ok(captcha::Provider {
            script: self.captcha_custom_js_url.clone(),
            class: self.captcha_custom_key.clone(),
            field: self.captcha_custom_response.clone(),
            verify,
        })
    }

    fn client(&self) -> Result<Client, BuildError> {
        let proxies = ranges("forwardedHeadersTrustedIps", &self.forwarded_headers_trusted_ips);
        let header = self.forwarded_headers_custom_name.parse().map_err(|_| {
            BuildError::new(format!(
                "forwardedHeadersCustomName: invalid header name `{}`",
                self.forwarded_headers_custom_name
            ))
        });
        BuildErrors::both(header, proxies).map(|(header, proxies)| Client::new(header, proxies))
    }

    fn trusted(&self) -> Result<IpRanges, BuildError> {
        ranges("clientTrustedIps", &self.client_trusted_ips)
    }

    fn ban_page(&self, context: &BuildContext<'_>) -> Result<Option<Template>, BuildError> {
        let path = file_or(&self.ban_file_path, &self.ban_html_file_path);
        if path.is_empty() {
            return Ok(None);
        }
        let text = context.file(&path).map_err(|error| error.map(|text| format!("banFilePath: {text}")))?;
        page("banFilePath", &path, &text, handler::NAMES).map(Some)
    }

    fn headers(&self) -> Result<(Option<HeaderName>, Option<HeaderName>), BuildError> {
        let header = |option: &str, name: &str| match name {
            "" => Ok(None),
            name => name
                .parse()
                .map(Some)
                .map_err(|_| BuildError::new(format!("{option}: invalid header name `{name}`"))),
        };
        BuildErrors::both(
            header("remediationHeadersCustomName", &self.remediation_headers_custom_name),
            header("traceHeadersCustomName", &self.trace_headers_custom_name),
        )
    }

    fn status(&self) -> Result<StatusCode, BuildError> {
        let status = u16::try_from(self.remediation_status_code).ok();
        let status = status.filter(|status| (200..600).contains(status));
        status.and_then(|status| StatusCode::from_u16(status).ok()).ok_or_else(|| {
            BuildError::new(format!(
                "remediationStatusCode: {}: expected 200 to 599",
                self.remediation_status_code
            ))
        })
    }

    fn max_failures(&self) -> Result<Option<u64>, BuildError> {
        match self.update_max_failure {
            -1 => Ok(None),
            given => u64::try_from(given)
                .map(Some)
                .map_err(|_| BuildError::new(format!("updateMaxFailure: {given}: expected -1 or more"))),
        }
    }

    fn timeout(&self) -> Result<Duration, BuildError> {
        seconds("httpTimeoutSeconds", self.http_timeout_seconds, 1)
    }

    /// Checks options that the mode may not use.
    fn check_rest(&self) -> Result<(), BuildError> {
        let update = seconds("updateIntervalSeconds", self.update_interval_seconds, 1);
        let decision = seconds("defaultDecisionSeconds", self.default_decision_seconds, 0);
        BuildErrors::both(BuildErrors::both(update, decision), self.timeout()).map(|_| ())
    }
}

/// Returns the file if there is one, which comes first as in the plug-in.
fn file_or(file: &str, value: &str) -> String {
    if file.is_empty() { value.to_owned() } else { file.to_owned() }
}

/// Returns a text, or the content of its file.
fn text(option: &str, value: &str, file: &str, context: &BuildContext<'_>) -> Result<String, BuildError> {
    if file.is_empty() {
        return Ok(value.trim().to_owned());
    }
    let wrong = |text: &str| BuildError::new(format!("{option}File: {text}"));
    let content = context.file(file).map_err(|error| error.map(|text| format!("{option}File: {text}")))?;
    let content = String::from_utf8(content).map_err(|_| wrong("not UTF-8"))?;
    if content.trim().is_empty() { Err(wrong("the file is empty")) } else { Ok(content.trim().to_owned()) }
}

fn key(
    option: &str,
    value: &Secret,
    file: &str,
    context: &BuildContext<'_>,
) -> Result<Option<HeaderValue>, BuildError> {
    let text = text(option, value.expose(), file, context)?;
    if text.is_empty() {
        return Ok(None);
    }
    let mut key = HeaderValue::from_str(&text)
        .map_err(|_| BuildError::new(format!("{option}: control characters are not allowed")))?;
    key.set_sensitive(true);
    Ok(Some(key))
}

fn page(option: &str, path: &str, text: &[u8], names: &[&str]) -> Result<Template, BuildError> {
    Template::parse(path, text, names).map_err(|error| BuildError::new(format!("{option}: {error}")))
}

fn ranges(option: &str, texts: &[String]) -> Result<IpRanges, BuildError> {
    IpRanges::parse(texts).map_err(|error| error.map(|text| format!("{option}: {text}")))
}

fn seconds(option: &str, value: i64, least: i64) -> Result<Duration, BuildError> {
    let seconds = u64::try_from(value).ok().filter(|_| (least..=MAX_SECONDS).contains(&value));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        BuildError::new(format!("{option}: {value}: expected {least} to {MAX_SECONDS} seconds"))
    })
}

/// Returns the URL of an API, which ends with a slash.
fn url(option: &str, scheme: &str, host: &str, path: &str) -> Result<Uri, BuildError> {
    let path = path.trim_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    let url = format!("{}://{host}/{path}{slash}", scheme.to_ascii_lowercase());
    let parsed = api_client::parse_url(&url).filter(|_| !host.contains(['/', '?', '#']));
    parsed.ok_or_else(|| {
        BuildError::new(format!(
            "{option}: invalid URL `{url}`: expected `http` or `https`, and a host with a port"
        ))
    })
}
