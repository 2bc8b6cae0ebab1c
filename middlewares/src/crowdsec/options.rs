//! The options, with the names and defaults of the well-known plug-in.

use serde::{Deserialize, Serialize};
use tidegate_core::values::Secret;

macro_rules! options {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr;)+) => {
        /// The options of the CrowdSec bouncer plug-in for Traefik.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        pub struct Crowdsec {
            $($(#[doc = $doc])+ #[serde(skip_serializing_if = "Shown::is_hidden")] pub $name: $kind,)+
        }

        impl Default for Crowdsec {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }
    };
}

/// For `skip_serializing_if`: omits what is not set.
trait Shown {
    fn is_hidden(&self) -> bool;
}

impl Shown for String {
    fn is_hidden(&self) -> bool {
        self.is_empty()
    }
}

impl Shown for Secret {
    fn is_hidden(&self) -> bool {
        self.is_empty()
    }
}

impl Shown for Vec<String> {
    fn is_hidden(&self) -> bool {
        self.is_empty()
    }
}

impl<T> Shown for Option<T> {
    fn is_hidden(&self) -> bool {
        self.is_none()
    }
}

impl Shown for bool {
    fn is_hidden(&self) -> bool {
        false
    }
}

impl Shown for i64 {
    fn is_hidden(&self) -> bool {
        false
    }
}

options! {
    /// Whether it does anything. By default, it does, and the plug-in does not.
    enabled: Option<bool> = None;
    /// `live`, `stream`, `none` (`live` without a cache) or `appsec`.
    crowdsec_mode: String = "live".into();

    /// Scheme of the local API.
    crowdsec_lapi_scheme: String = "http".into();
    /// Host and port of the local API.
    crowdsec_lapi_host: String = "crowdsec:8080".into();
    /// Path in front of the local API's own.
    crowdsec_lapi_path: String = "/".into();
    /// Key of the local API.
    crowdsec_lapi_key: Secret = Secret::default();
    /// File with the key.
    crowdsec_lapi_key_file: String = String::new();
    /// Accepts any certificate of the local API.
    crowdsec_lapi_tls_insecure_verify: bool = false;
    /// Certificates that are trusted instead of the system's.
    crowdsec_lapi_tls_certificate_authority: String = String::new();
    /// File with them.
    crowdsec_lapi_tls_certificate_authority_file: String = String::new();
    /// Certificate for the local API, instead of a key.
    crowdsec_lapi_tls_certificate_bouncer: String = String::new();
    /// File with it.
    crowdsec_lapi_tls_certificate_bouncer_file: String = String::new();
    /// Private key of the certificate.
    crowdsec_lapi_tls_certificate_bouncer_key: Secret = Secret::default();
    /// File with it.
    crowdsec_lapi_tls_certificate_bouncer_key_file: String = String::new();

    /// Whether AppSec is asked about requests.
    crowdsec_appsec_enabled: bool = false;
    /// Scheme of AppSec; that of the local API if empty.
    crowdsec_appsec_scheme: String = String::new();
    /// Host and port of AppSec.
    crowdsec_appsec_host: String = "crowdsec:7422".into();
    /// Path of AppSec.
    crowdsec_appsec_path: String = "/".into();
    /// Key of AppSec; that of the local API if empty.
    crowdsec_appsec_key: Secret = Secret::default();
    /// File with the key.
    crowdsec_appsec_key_file: String = String::new();
    /// Accepts any certificate of AppSec.
    crowdsec_appsec_tls_insecure_verify: bool = false;
    /// Certificates that are trusted instead of the system's.
    crowdsec_appsec_tls_certificate_authority: String = String::new();
    /// File with them.
    crowdsec_appsec_tls_certificate_authority_file: String = String::new();
    /// Certificate for AppSec.
    crowdsec_appsec_tls_certificate_bouncer: String = String::new();
    /// File with it.
    crowdsec_appsec_tls_certificate_bouncer_file: String = String::new();
    /// Private key of the certificate.
    crowdsec_appsec_tls_certificate_bouncer_key: Secret = Secret::default();
    /// File with it.
    crowdsec_appsec_tls_certificate_bouncer_key_file: String = String::new();
    /// Refuses requests when AppSec answers 500.
    crowdsec_appsec_failure_block: bool = true;
    /// Refuses requests when AppSec is unreachable.
    crowdsec_appsec_unreachable_block: bool = true;
    /// Refuses requests whose body may never end.
    crowdsec_appsec_unreadable_body_block: bool = true;
    /// Number of bytes of a body that are inspected.
    crowdsec_appsec_body_limit: i64 = 10 * 1024 * 1024;

    /// Seconds between questions in stream mode.
    update_interval_seconds: i64 = 60;
    /// Number of consecutive failures that are tolerated; any number if -1.
    update_max_failure: i64 = 0;
    /// Whether requests wait for the first list in stream mode.
    stream_startup_block: bool = true;
    /// Seconds for which a decision is cached in live mode.
    default_decision_seconds: i64 = 60;
    /// Seconds within which CrowdSec must answer.
    http_timeout_seconds: i64 = 10;

    /// Status for banned clients.
    remediation_status_code: i64 = 403;
    /// Response header that says `ban`, `captcha` or `solved-captcha`.
    remediation_headers_custom_name: String = String::new();
    /// File with the page for banned clients.
    ban_file_path: String = String::new();
    /// Older name of `banFilePath`.
    ban_html_file_path: String = String::new();
    /// Request header whose value the page for banned clients may show.
    trace_headers_custom_name: String = String::new();

    /// Proxies that say who the client is.
    forwarded_headers_trusted_ips: Vec<String> = Vec::new();
    /// The header in which they do.
    forwarded_headers_custom_name: String = "X-Forwarded-For".into();
    /// Clients that are never refused.
    client_trusted_ips: Vec<String> = Vec::new();

    /// `hcaptcha`, `recaptcha`, `turnstile` or `custom`; no captchas if empty.
    captcha_provider: String = String::new();
    /// Script of a custom provider.
    captcha_custom_js_url: String = String::new();
    /// Where solutions for a custom provider are verified.
    captcha_custom_validate_url: String = String::new();
    /// Class of the element of a custom provider.
    captcha_custom_key: String = String::new();
    /// Field with the solution for a custom provider.
    captcha_custom_response: String = String::new();
    /// Public key of the site.
    captcha_site_key: String = String::new();
    /// File with it.
    captcha_site_key_file: String = String::new();
    /// Secret key of the site.
    captcha_secret_key: Secret = Secret::default();
    /// File with it.
    captcha_secret_key_file: String = String::new();
    /// Seconds for which a solved captcha counts.
    captcha_grace_period_seconds: i64 = 1800;
    /// File with the page. By default, there is a page of our own.
    captcha_file_path: String = String::new();
    /// Older name of `captchaFilePath`.
    captcha_html_file_path: String = String::new();

    /// Only for mode `alone`, which is not supported.
    crowdsec_capi_machine_id: String = String::new();
    /// Only for mode `alone`.
    crowdsec_capi_machine_id_file: String = String::new();
    /// Only for mode `alone`.
    crowdsec_capi_password: Secret = Secret::default();
    /// Only for mode `alone`.
    crowdsec_capi_password_file: String = String::new();
    /// Only for mode `alone`.
    crowdsec_capi_scenarios: Vec<String> = Vec::new();
    /// No effect: the gateway has its own log.
    log_level: String = String::new();
    /// No effect.
    log_format: String = String::new();
    /// No effect.
    log_file_path: String = String::new();
    /// No effect: the gateway has its own metrics.
    metrics_update_interval_seconds: Option<i64> = None;
    /// No effect: decisions are kept in memory.
    redis_cache_enabled: Option<bool> = None;
    /// No effect.
    redis_cache_host: String = String::new();
    /// No effect.
    redis_cache_read_hosts: Vec<String> = Vec::new();
    /// No effect.
    redis_cache_password: Secret = Secret::default();
    /// No effect.
    redis_cache_password_file: String = String::new();
    /// No effect.
    redis_cache_database: String = String::new();
    /// No effect.
    redis_cache_unreachable_block: Option<bool> = None;
}
