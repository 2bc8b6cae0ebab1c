//! Consumers: clients that the gateway knows, and the credentials that they are recognised by.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tidegate_core::client_ip::IpRanges;
use tidegate_core::consumer::{self, KeyHash, KeyState, LastUsed};
use tidegate_core::consumers::{self, CredentialKind, Entry};
use tidegate_core::plan::Limits;
use tidegate_core::reference::provider_of;
use tidegate_core::values::{Secret, is_default};
use tidegate_core::word::Word;
use tidegate_core::{BuildError, BuildErrors};
use tidegate_middlewares::hmac::{self, Algorithm};
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

use crate::plan::{Plan, text_error};

/// Maximum length in bytes of the id of a key.
const MAX_ID: usize = 64;

/// `http.consumers.<name>`. Not in Traefik.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Consumer {
    /// Groups that it belongs to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Further attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its plan: `name` of the same provider, or `name@provider`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub plan: String,
    /// What it is recognised by.
    #[serde(skip_serializing_if = "is_default")]
    pub credentials: Credentials,
}

/// A consumer's `credentials`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Credentials {
    /// API keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_keys: Vec<ApiKey>,
    /// Keys that sign requests (`hmac`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hmac: Vec<HmacKey>,
    /// Tokens of the middleware `jwt`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jwt: Vec<Claim>,
    /// Logins of the middleware `oidc`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oidc: Vec<Claim>,
    /// User names of `basicAuth`, `digestAuth` and `ldap`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub basic_auth: Vec<String>,
    /// User names from `forwardAuth`'s `headerField`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward_auth: Vec<String>,
    /// Client certificates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
}

/// A stored API key: `id` and `sha256`, or a hash of a key that was issued elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ApiKey {
    /// The public part of the key; empty for keys issued elsewhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// SHA-256 of the secret, or without `id` of the whole key, as 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Instead of `sha256`: a hash of the whole key in a form of `htpasswd` (bcrypt, MD5, SHA-1).
    #[serde(skip_serializing_if = "is_default")]
    pub hash: Hidden,
    /// What the key is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// When it becomes valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// `active` (the default), `grace` or `revoked`.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub state: Word<KeyState>,
    /// Addresses and networks that may use it; all if empty.
    #[serde(rename = "allowedCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub allowed_cidrs: Vec<String>,
    /// What it permits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// A secret that signs requests: `id`, and `key` or `keyFile`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HmacKey {
    /// The `keyid` of signatures.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The secret, of at least 32 bytes.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub key: Secret,
    /// Instead of `key`: the file with the secret. A line feed at its end is not part of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_file: String,
    /// Whether the secret is in base64.
    #[serde(skip_serializing_if = "is_default")]
    pub base64_encoded: bool,
    /// The only algorithm; by default, that of the form of the signature.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub algorithm: Word<Algorithm>,
}

/// A claim that identifies a consumer: `subject`, or another `claim` with its `value`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Claim {
    /// The token's `iss`; empty for tokens without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// The value of the claim `sub`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Name of another claim.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub claim: String,
    /// Its value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// What a certificate is recognised by: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Certificate {
    /// The common name of its subject.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub common_name: String,
    /// One of its alternative names: a host name, an e-mail address, a URI or an address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub san: String,
    /// The SHA-256 of the certificate in DER, as 64 hexadecimal digits, with or without colons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

impl Consumer {
    /// Returns the qualified name of the plan of the consumer with this qualified name; empty if it has none.
    pub fn plan_name(&self, name: &str) -> String {
        if self.plan.is_empty() || self.plan.contains('@') {
            return self.plan.clone();
        }
        format!("{}@{}", self.plan, provider_of(name))
    }

    /// Validates the options of the consumer with this qualified name. `plan` is its plan with its limits, if it is
    /// defined. Keys that `previous` also has keep when they were last used. `file` reads the files of secrets.
    ///
    /// Returns the entry with all valid credentials, and all mistakes, by option. None contains a hash.
    pub fn entry(
        &self,
        name: &str,
        plan: Option<(&Plan, Option<Limits>)>,
        previous: Option<&Entry>,
        file: &ReadFile<'_>,
    ) -> (Entry, Result<(), BuildError>) {
        let mut errors = BuildErrors::default();
        let mut check = |path: &str, text: &str| errors.extend(text_error(path, text));
        check("name", name);
        self.groups.iter().enumerate().for_each(|(at, group)| check(&format!("groups[{at}]"), group));
        for (label, value) in &self.labels {
            check("labels", label);
            check(&format!("labels.{label}"), value);
        }
        let plan_name = self.plan_name(name);
        if !plan_name.is_empty() && plan.is_none() {
            errors.add(format!("plan: `{plan_name}` is not defined: expected one of `http.plans`"));
        }
        let (plan, limits) = plan.unzip();
        let (groups, labels) = plan.map(|plan| (&plan.groups, &plan.labels)).unzip();
        let consumer = Arc::new(consumer::Consumer {
            name: name.into(),
            groups: self.groups.iter().chain(groups.into_iter().flatten()).cloned().collect(),
            labels: labels.into_iter().flatten().chain(&self.labels).map(owned).collect(),
            plan: plan_name,
            quota: plan.and_then(Plan::quota),
            limits: limits.flatten(),
            ..consumer::Consumer::default()
        });
        let kinds = self.credentials.kinds(&consumer, previous, file);
        let mut credentials = Vec::with_capacity(kinds.len());
        for (path, made) in kinds {
            let made = made.map_err(|error| error.map(|message| format!("{path}{message}")));
            credentials
                .extend(errors.check(made).map(|kind| consumers::Credential { path: path.clone(), kind }));
        }
        let checked = errors.finish();
        (Entry { consumer, credentials, is_broken: checked.is_err() }, checked)
    }
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

/// Returns the content of a file.
pub type ReadFile<'f> = dyn Fn(&str) -> Result<Vec<u8>, BuildError> + 'f;

/// A credential with its option, or what is wrong with it; messages continue the name of the option.
type Made = (String, Result<CredentialKind, BuildError>);

impl Credentials {
    fn kinds(
        &self,
        consumer: &Arc<consumer::Consumer>,
        previous: Option<&Entry>,
        file: &ReadFile<'_>,
    ) -> Vec<Made> {
        let at = |option: &str, index: usize| format!("credentials.{option}[{index}]");
        let user = |user: &String, kind: fn(Box<str>) -> CredentialKind| match text_error("", user) {
            None => Ok(kind(user.as_str().into())),
            Some(error) => Err(BuildError::new(error)),
        };
        let mut all: Vec<Made> = Vec::new();
        for (index, key) in self.api_keys.iter().enumerate() {
            let key = key.stored(consumer, previous);
            all.push((at("apiKeys", index), key.map(|key| CredentialKind::ApiKey(Arc::new(key)))));
        }
        for (index, key) in self.hmac.iter().enumerate() {
            let key = key.stored(consumer, file);
            all.push((at("hmac", index), key.map(|key| CredentialKind::Signature(Arc::new(key)))));
        }
        for (index, claim) in self.jwt.iter().enumerate() {
            all.push((at("jwt", index), claim.parsed().map(CredentialKind::Token)));
        }
        for (index, claim) in self.oidc.iter().enumerate() {
            all.push((at("oidc", index), claim.parsed().map(CredentialKind::Login)));
        }
        for (index, name) in self.basic_auth.iter().enumerate() {
            all.push((at("basicAuth", index), user(name, CredentialKind::BasicUser)));
        }
        for (index, name) in self.forward_auth.iter().enumerate() {
            all.push((at("forwardAuth", index), user(name, CredentialKind::ForwardUser)));
        }
        for (index, certificate) in self.certificates.iter().enumerate() {
            all.push((at("certificates", index), certificate.parsed()));
        }
        all
    }
}

impl ApiKey {
    fn stored(
        &self,
        consumer: &Arc<consumer::Consumer>,
        previous: Option<&Entry>,
    ) -> Result<consumer::ApiKey, BuildError> {
        let mut errors = BuildErrors::default();
        let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if self.id.len() > MAX_ID || !self.id.bytes().all(is_id) {
            errors.add(format!(".id: expected at most {MAX_ID} letters, digits and hyphens"));
        }
        let hash = match (self.sha256, &*self.hash.0) {
            (Some(Digest(sha256)), "") => Some(KeyHash::Sha256(sha256)),
            (None, "") => {
                errors.add(": `sha256` or `hash` is missing".into());
                None
            }
            (None, _) if !self.id.is_empty() => {
                errors.add(".hash: a key with an `id` needs `sha256`".into());
                None
            }
            (None, hash) if !is_password_hash(hash) => {
                errors.add(".hash: expected a bcrypt, MD5 or SHA-1 hash of `htpasswd`".into());
                None
            }
            (None, hash) => Some(KeyHash::Password(hash.into())),
            (Some(_), _) => {
                errors.add(": `sha256` and `hash` exclude each other".into());
                None
            }
        };
        let state = self.state.meaning().map_err(|error| BuildError::new(format!(".state: {error}")));
        let state = errors.check(state);
        let allowed = (!self.allowed_cidrs.is_empty()).then(|| IpRanges::parse(&self.allowed_cidrs));
        let allowed = allowed.transpose().map_err(|error| error.map(|text| format!(".allowedCIDRs: {text}")));
        let allowed = errors.check(allowed);
        errors.extend(text_error(".label", &self.label).filter(|_| !self.label.is_empty()));
        for scope in &self.scopes {
            errors.extend(text_error(".scopes", scope));
        }
        let (Some(hash), Some(state), Some(allowed)) = (hash, state, allowed) else {
            return errors.made(None);
        };
        let last_used = previous.and_then(|entry| last_used(entry, &self.id, &hash)).unwrap_or_default();
        let seconds = |at: Option<Timestamp>| at.map(|at| at.0.unix_timestamp());
        errors.made(Some(consumer::ApiKey {
            id: self.id.as_str().into(),
            hash,
            label: self.label.as_str().into(),
            not_before: seconds(self.not_before),
            expires: seconds(self.expires),
            state: state.unwrap_or_default(),
            allowed,
            scopes: self.scopes.iter().map(|scope| scope.as_str().into()).collect(),
            consumer: consumer.clone(),
            last_used,
        }))
    }
}

impl HmacKey {
    fn stored(
        &self,
        consumer: &Arc<consumer::Consumer>,
        file: &ReadFile<'_>,
    ) -> Result<consumer::SignatureKey, BuildError> {
        let mut errors = BuildErrors::default();
        errors.extend(text_error(".id", &self.id));
        let secret = match (self.key.expose(), &*self.key_file) {
            ("", "") => Err(BuildError::new(": `key` or `keyFile` is missing")),
            (text, "") => hmac::secret(text.as_bytes(), self.base64_encoded)
                .map_err(|error| error.map(|text| format!(".key: {text}"))),
            ("", path) => file(path)
                .and_then(|content| {
                    hmac::secret(content.strip_suffix(b"\n").unwrap_or(&content), self.base64_encoded)
                })
                .map_err(|error| error.map(|text| format!(".keyFile: {text}"))),
            _ => Err(BuildError::new(": `key` and `keyFile` exclude each other")),
        };
        let secret = errors.check(secret);
        let algorithm = self.algorithm.meaning();
        let algorithm = algorithm.map_err(|error| BuildError::new(format!(".algorithm: {error}")));
        let algorithm = errors.check(algorithm);
        if algorithm.flatten().is_some_and(|algorithm| !algorithm.is_hmac()) {
            errors.add(".algorithm: not possible with a secret".to_owned());
        }
        errors.made(secret.map(|secret| consumer::SignatureKey {
            id: self.id.as_str().into(),
            secret: secret.into(),
            algorithm: algorithm.flatten().map_or("", Algorithm::name).into(),
            consumer: consumer.clone(),
        }))
    }
}

/// Returns when the same key of an earlier version of the consumer was last used.
fn last_used(entry: &Entry, id: &str, hash: &KeyHash) -> Option<Arc<LastUsed>> {
    let keys = entry.credentials.iter().filter_map(|credential| match &credential.kind {
        CredentialKind::ApiKey(key) => Some(key),
        _ => None,
    });
    let mut same = keys.filter(|key| *key.id == *id && key.hash == *hash);
    same.next().map(|key| key.last_used.clone())
}

impl Claim {
    fn parsed(&self) -> Result<consumers::Claim, BuildError> {
        let (name, value) = match (&*self.subject, &*self.claim, &*self.value) {
            (subject, "", "") if !subject.is_empty() => ("sub", subject),
            ("", claim, value) if !claim.is_empty() && !value.is_empty() => (claim, value),
            _ => return Err(BuildError::new(": expected `subject`, or `claim` and `value`")),
        };
        match text_error("", name).or_else(|| text_error("", value)) {
            Some(error) => Err(BuildError::new(error)),
            None => Ok(consumers::Claim {
                issuer: self.issuer.as_str().into(),
                name: name.into(),
                value: value.into(),
            }),
        }
    }
}

impl Certificate {
    fn parsed(&self) -> Result<CredentialKind, BuildError> {
        let names = [&self.common_name, &self.san];
        match (&*self.common_name, &*self.san, self.sha256) {
            (name, "", None) if !name.is_empty() => Ok(CredentialKind::CommonName(name.into())),
            ("", name, None) if !name.is_empty() => {
                Ok(CredentialKind::AlternativeName(consumers::normal_name(name).into()))
            }
            ("", "", Some(Digest(sha256))) => Ok(CredentialKind::Fingerprint(sha256)),
            _ => Err(BuildError::new(": expected exactly one of `commonName`, `san` and `sha256`")),
        }
        .and_then(|kind| {
            match names.iter().filter(|name| !name.is_empty()).find_map(|name| text_error("", name)) {
                Some(error) => Err(BuildError::new(error)),
                None => Ok(kind),
            }
        })
    }
}

/// Returns true for the forms of `htpasswd` that passwords can be checked with.
fn is_password_hash(text: &str) -> bool {
    ["$2a$", "$2b$", "$2y$", "$apr1$", "$1$", "{SHA}"].iter().any(|form| text.starts_with(form))
}

/// A SHA-256 in hexadecimal digits, with or without colons. Its value is in no message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let mut digits = text.bytes().filter(|byte| *byte != b':').map(|byte| char::from(byte).to_digit(16));
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(not_a_digest());
            };
            *byte = u8::try_from(high << 4 | low).map_err(|_| not_a_digest())?;
        }
        if digits.next().is_some() { Err(not_a_digest()) } else { Ok(Self(bytes)) }
    }
}

fn not_a_digest<E: serde::de::Error>() -> E {
    E::custom("invalid SHA-256: expected 64 hexadecimal digits")
}

/// A text that is in no message.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub Box<str>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

/// A point in time: `2027-01-31T12:00:00Z` (RFC 3339), or a date, which means its first moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(pub OffsetDateTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.format(&Rfc3339).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let date = time::macros::format_description!("[year]-[month]-[day]");
        let parsed = OffsetDateTime::parse(&text, &Rfc3339)
            .or_else(|_| Date::parse(&text, date).map(|date| date.midnight().assume_utc()));
        parsed.map(Self).map_err(|_| {
            D::Error::custom(format_args!(
                "invalid value `{text}`: expected a time like `2027-01-31T12:00:00Z`, or a date"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Provided;
    use crate::decode::decode_config;
    use crate::formats::yaml;

    fn file(path: &str) -> Result<Vec<u8>, BuildError> {
        match path {
            "/secret" => Ok(b"0123456789abcdef0123456789abcdef\n".to_vec()),
            _ => Err(BuildError::new(format!("open {path}: no such file or directory"))),
        }
    }

    fn result((entry, checked): (Entry, Result<(), BuildError>)) -> Result<Entry, BuildError> {
        assert_eq!(entry.is_broken, checked.is_err());
        checked.map(|()| entry)
    }

    const HEX: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

    fn decoded(options: &str) -> Provided {
        let text = format!("http:\n  consumers:\n    acme: {options}\n    ok: {{plan: free}}\n");
        decode_config(&yaml::read("c.yml", text.as_bytes()).expect("valid YAML"))
    }

    fn entry(options: &str) -> Result<Entry, BuildError> {
        let provided = decoded(options);
        assert_eq!(provided.problems, []);
        let (groups, labels) = (vec!["paying".into()], [("tier".into(), "1".into())].into());
        let plan = Plan { groups, labels, ..Plan::default() };
        result(provided.config.http.consumers["acme"].entry("acme@file", Some((&plan, None)), None, &file))
    }

    #[test]
    fn all_options_become_an_entry() {
        let entry = entry(&format!(
            "{{groups: [ops, dev], labels: {{team: core}}, plan: gold, credentials: {{apiKeys: [{{id: k1, sha256: '{HEX}', \
             label: ci, notBefore: 2026-01-01, expires: 2027-01-01T12:00:00+01:00, state: grace, allowedCIDRs: [10.0.0.0/8], \
             scopes: [read, write]}}, {{hash: '$2y$05$abc'}}], jwt: [{{issuer: i, subject: s}}, {{claim: azp, value: app}}], \
             oidc: [{{issuer: i, subject: s}}], basicAuth: [ann], forwardAuth: [bob], certificates: [{{commonName: c}}, \
             {{san: A.example}}, {{sha256: '{HEX}'}}]}}}}"
        ))
        .expect("valid");
        let consumer = &entry.consumer;
        assert_eq!(
            (&*consumer.name, consumer.short_name(), &*consumer.plan),
            ("acme@file", "acme", "gold@file")
        );
        assert_eq!((consumer.groups.join(","), &*consumer.labels["team"]), ("ops,dev,paying".into(), "core"));
        assert_eq!(&*consumer.labels["tier"], "1");
        let shown: Vec<String> =
            entry.credentials.iter().map(|one| format!("{}: {}", one.path, one.kind)).collect();
        assert_eq!(
            shown,
            [
                "credentials.apiKeys[0]: API key `k1`",
                "credentials.apiKeys[1]: API key",
                "credentials.jwt[0]: token with claim `sub` = `s` of issuer `i`",
                "credentials.jwt[1]: token with claim `azp` = `app` of issuer ``",
                "credentials.oidc[0]: login with claim `sub` = `s` of issuer `i`",
                "credentials.basicAuth[0]: user `ann` of basicAuth",
                "credentials.forwardAuth[0]: user `bob` of forwardAuth",
                "credentials.certificates[0]: certificate with common name `c`",
                "credentials.certificates[1]: certificate with alternative name `a.example`",
                "credentials.certificates[2]: certificate with this fingerprint",
            ]
        );
        let CredentialKind::ApiKey(key) = &entry.credentials[0].kind else { panic!("a key") };
        assert_eq!((key.not_before, key.expires), (Some(1_767_225_600), Some(1_798_801_200)));
        assert_eq!((key.state, key.scopes.join(" ")), (KeyState::Grace, "read write".into()));
        assert!(key.allowed.as_ref().is_some_and(|ranges| ranges.contains([10, 1, 1, 1].into())));
    }

    #[test]
    fn mistakes_are_named_and_never_quote_a_hash() {
        for (options, expected) in [
            ("{groups: ['']}", "groups[0]: is empty"),
            (r#"{groups: ["a\r\nX-Admin: 1"]}"#, "groups[0]: control characters are not allowed"),
            (r#"{labels: {team: "a\nb"}}"#, "labels.team: control characters are not allowed"),
            (
                "{credentials: {apiKeys: [{id: a_b}]}}",
                "credentials.apiKeys[0].id: expected at most 64 letters",
            ),
            ("{credentials: {apiKeys: [{id: a}]}}", "credentials.apiKeys[0]: `sha256` or `hash` is missing"),
            ("{credentials: {apiKeys: [{hash: s3cret}]}}", "credentials.apiKeys[0].hash: expected a bcrypt"),
            ("{credentials: {apiKeys: [{id: a, hash: s3cret}]}}", "credentials.apiKeys[0].hash: a key with"),
            ("{credentials: {jwt: [{issuer: i}]}}", "credentials.jwt[0]: expected `subject`"),
            (
                "{credentials: {certificates: [{commonName: a, san: b}]}}",
                "credentials.certificates[0]: expected exactly",
            ),
            ("{credentials: {basicAuth: ['']}}", "credentials.basicAuth[0]: is empty"),
        ] {
            let error = entry(options).expect_err(options).to_string();
            assert!(error.starts_with(expected), "{options}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let state = entry(&format!(
            "{{credentials: {{apiKeys: [{{id: a, sha256: '{HEX}', state: of, allowedCIDRs: [x]}}]}}}}"
        ));
        let error = state.expect_err("two mistakes").to_string();
        assert!(
            error.contains("apiKeys[0].state: `of` is unknown") && error.contains("[0].allowedCIDRs: "),
            "{error}"
        );
    }

    #[test]
    fn labels_and_keys_say_the_same_as_a_file() {
        let file = decoded(&format!(
            "{{groups: [a, b], credentials: {{apiKeys: [{{id: k, sha256: '{HEX}', allowedCIDRs: [10.0.0.0/8]}}]}}}}"
        ));
        let written = [
            ("groups", "a,b"),
            ("credentials.apikeys[0].id", "k"),
            ("credentials.apikeys[0].sha256", HEX),
            ("credentials.apikeys[0].allowedcidrs", "10.0.0.0/8"),
        ];
        let names = written.map(|(key, _)| format!("tidegate.http.consumers.acme.{key}"));
        let pairs = names.iter().map(String::as_str).zip(written.map(|(_, value)| value));
        let (node, problems) =
            crate::formats::labels::read(pairs, &["tidegate"], |_| crate::Origin::Internal);
        assert_eq!(problems, []);
        let labels = decode_config(&node);
        assert_eq!(labels.problems, []);
        let keys = names.map(|name| name.replace(['.', '['], "/").replace(']', ""));
        let pairs = keys.iter().zip(written).map(|(key, (_, value))| (key.as_str(), Ok(value.as_bytes())));
        let read = crate::formats::keys::read(pairs, &["tidegate"]);
        let keys = decode_config(&read.node);
        assert_eq!((read.problems, &keys.problems), (Vec::new(), &Vec::new()));
        let acme = |provided: &Provided| provided.config.http.consumers["acme"].clone();
        assert_eq!((acme(&labels), acme(&keys)), (acme(&file), acme(&file)));
        // A mistake in a label breaks the consumer that it names.
        let wrong = [("tidegate.http.consumers.acme.credentials.apikeys[0].sha256", "s3cret")];
        let origin = |key: &str| crate::Origin::Label { container: "c".into(), label: key.into() };
        let (node, _) = crate::formats::labels::read(wrong, &["tidegate"], origin);
        let broken = decode_config(&node);
        assert!(broken.config.http.consumers.is_empty());
        let told = broken.problems[0].to_string();
        assert!(told.starts_with("container c, label tidegate.http.consumers.acme.credentials.apikeys[0].sha256: consumer acme: "), "{told}");
    }

    #[test]
    fn a_plan_must_be_defined() {
        let provided = decoded("{plan: gold, labels: {tier: '2'}}");
        let consumer = &provided.config.http.consumers["acme"];
        let error =
            result(consumer.entry("acme@file", None, None, &file)).expect_err("undefined").to_string();
        assert_eq!(error, "plan: `gold@file` is not defined: expected one of `http.plans`");
        let plan = Plan { labels: [("tier".into(), "1".into())].into(), ..Plan::default() };
        let entry = result(consumer.entry("acme@file", Some((&plan, None)), None, &file)).expect("valid");
        assert_eq!(&*entry.consumer.labels["tier"], "2", "its own label is preferred");
        assert!(Plan { groups: vec!["a\nb".into()], ..Plan::default() }.check().is_err());
    }

    #[test]
    fn a_broken_consumer_breaks_only_itself_and_is_not_kept_as_written() {
        for key in ["sha256: s3cret", "sha256: 's3cret'", "sha265: s3cret"] {
            let provided = decoded(&format!("{{credentials: {{apiKeys: [{{id: a, {key}}}]}}}}"));
            assert_eq!(provided.config.http.consumers.keys().collect::<Vec<_>>(), ["ok"]);
            assert!(provided.raw.is_empty());
            let told: Vec<String> = provided.problems.iter().map(ToString::to_string).collect();
            assert!(
                told[0].starts_with("c.yml:3: consumer acme: http.consumers.acme.credentials.apiKeys[0]"),
                "{told:?}"
            );
            assert!(!told[0].contains("s3cret"), "{told:?}");
        }
        assert!(
            !format!("{:?}", decoded(&format!("{{credentials: {{apiKeys: [{{sha256: '{HEX}'}}]}}}}")))
                .contains("123456")
        );
    }

    #[test]
    fn a_changed_consumer_keeps_when_its_keys_were_used() {
        let first =
            entry(&format!("{{credentials: {{apiKeys: [{{id: a, sha256: '{HEX}'}}]}}}}")).expect("valid");
        let CredentialKind::ApiKey(key) = &first.credentials[0].kind else { panic!("a key") };
        key.last_used.record(7);
        let changed = decoded(&format!(
            "{{plan: gold, credentials: {{apiKeys: [{{id: b, sha256: '{HEX}'}}, {{id: a, sha256: '{HEX}'}}]}}}}"
        ));
        let plan = Plan::default();
        let next = changed.config.http.consumers["acme"].entry(
            "acme@file",
            Some((&plan, None)),
            Some(&first),
            &file,
        );
        let next = result(next).expect("valid");
        let used: Vec<_> = next
            .credentials
            .iter()
            .map(|one| match &one.kind {
                CredentialKind::ApiKey(key) => key.last_used.get(),
                _ => None,
            })
            .collect();
        assert_eq!(used, [None, Some(7)]);
    }

    #[test]
    fn hashes_and_times_are_written_as_they_are_read() {
        let provided = decoded(&format!(
            "{{credentials: {{apiKeys: [{{sha256: '{HEX}', expires: 2027-01-01T12:00:00Z}}]}}}}"
        ));
        let json = serde_json::to_string(&provided.config).expect("JSON");
        let again: crate::Config = serde_json::from_str(&json).expect("the same");
        assert_eq!(again, provided.config);
    }

    #[test]
    fn keys_of_signatures_have_a_secret_or_a_file() {
        let long = "0123456789abcdef0123456789abcdef";
        let keys = format!("{{id: a, key: {long}}}, {{id: b, keyFile: /secret, algorithm: hmac-sha512}}");
        let read = entry(&format!("{{credentials: {{hmac: [{keys}]}}}}")).expect("valid");
        let seen: Vec<_> = read
            .credentials
            .iter()
            .filter_map(|one| match &one.kind {
                CredentialKind::Signature(key) => Some((&*key.id, &*key.secret, &*key.algorithm)),
                _ => None,
            })
            .collect();
        assert_eq!(seen, [("a", long.as_bytes(), ""), ("b", long.as_bytes(), "hmac-sha512")]);
        assert!(!format!("{read:?}").contains(long));
        for (key, expected) in [
            ("{id: a}", "credentials.hmac[0]: `key` or `keyFile` is missing"),
            (
                "{id: a, key: short-secret}",
                "credentials.hmac[0].key: the secret has 12 bytes: expected at least 32",
            ),
            ("{id: a, keyFile: /none}", "credentials.hmac[0].keyFile: open /none: no such file or directory"),
            ("{id: a, key: x, keyFile: y}", "credentials.hmac[0]: `key` and `keyFile` exclude each other"),
            ("{id: a, key: '%', base64Encoded: true}", "credentials.hmac[0].key: invalid base64"),
            ("{keyFile: /secret}", "credentials.hmac[0].id: is empty"),
            (
                "{id: a, keyFile: /secret, algorithm: ed25519}",
                "credentials.hmac[0].algorithm: not possible with a secret",
            ),
        ] {
            let error = entry(&format!("{{credentials: {{hmac: [{key}]}}}}")).expect_err(key).to_string();
            assert_eq!(error, expected);
        }
    }
}
