//! Sources of AWS access keys: variables, a profile, or a role with temporary keys.

use std::time::Duration;

use http::Method;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Mutex;

use super::super::variables::Variables;
use super::elements;
use super::signing::{Credentials, Unsigned, encoded};
use crate::client::{Answer, Http, Message};
use crate::error::Error;

/// Timeout for a response: outside AWS, the metadata service does not exist.
const ANSWER: Duration = Duration::from_secs(5);
/// How long before their expiry keys are replaced.
const EARLY: time::Duration = time::Duration::minutes(5);
/// The metadata service of EC2.
const INSTANCE: &str = "http://169.254.169.254";
/// The metadata service of ECS.
const CONTAINER: &str = "http://169.254.170.2";
/// Default name of sessions.
const SESSION: &str = "tidegate";

/// Provides valid access keys.
pub(super) struct CredentialChain {
    source: Source,
    /// A role to assume with these keys (`AWS_ASSUME_ROLE_ARN`, as in lego).
    assumed: Option<Role>,
    sts: String,
    region: String,
    http: Http,
    /// Keys of a role, and their expiry.
    held: Mutex<Option<(Credentials, OffsetDateTime)>>,
}

enum Source {
    Fixed(Credentials),
    /// A token that the platform keeps in a file, like Kubernetes (`AWS_WEB_IDENTITY_TOKEN_FILE`).
    WebIdentity {
        role: Role,
        token: String,
    },
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI` or `…_RELATIVE_URI`: ECS, EKS.
    Container {
        url: String,
        token: Option<String>,
        token_file: Option<String>,
    },
    /// The role of an EC2 machine.
    Instance {
        base: String,
    },
}

struct Role {
    arn: String,
    session: String,
    external_id: Option<String>,
}

impl CredentialChain {
    /// Selects the source of keys, in the order of AWS's own libraries. Sends no requests.
    pub(super) fn find(variables: &Variables<'_>) -> Result<Self, Error> {
        let session = |names: &[&str]| variables.first(names).unwrap_or_else(|| SESSION.to_owned());
        let assumed = variables.first(&["AWS_ASSUME_ROLE_ARN"]).map(|arn| Role {
            arn,
            session: session(&["AWS_ROLE_SESSION_NAME"]),
            external_id: variables.first(&["AWS_EXTERNAL_ID"]),
        });
        let region = variables.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
        let sts = variables.first(&["AWS_ENDPOINT_URL_STS"]).unwrap_or_else(|| match &region {
            Some(region) => format!("https://sts.{region}.amazonaws.com"),
            None => "https://sts.amazonaws.com".to_owned(),
        });
        Ok(Self {
            source: Source::find(variables)?,
            assumed,
            sts: sts.trim_end_matches('/').to_owned(),
            region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            http: Http::plain(ANSWER),
            held: Mutex::new(None),
        })
    }

    /// Returns valid keys.
    pub(super) async fn keys(&self) -> Result<Credentials, Error> {
        if let (Source::Fixed(keys), None) = (&self.source, &self.assumed) {
            return Ok(keys.clone());
        }
        let mut held = self.held.lock().await;
        let now = OffsetDateTime::now_utc();
        if let Some((keys, _)) = held.as_ref().filter(|(_, end)| now < *end - EARLY) {
            return Ok(keys.clone());
        }
        let mut new = self.of_source().await?;
        if let Some(role) = &self.assumed {
            new = self.assume(role, &new.0).await?;
        }
        *held = Some(new.clone());
        Ok(new.0)
    }

    async fn of_source(&self) -> Result<(Credentials, OffsetDateTime), Error> {
        match &self.source {
            Source::Fixed(keys) => Ok((keys.clone(), OffsetDateTime::now_utc() + time::Duration::hours(1))),
            Source::WebIdentity { role, token } => {
                let text = secret_of(token)?;
                let form = [
                    ("Action", "AssumeRoleWithWebIdentity"),
                    ("RoleArn", &role.arn),
                    ("RoleSessionName", &role.session),
                    ("Version", "2011-06-15"),
                    ("WebIdentityToken", &text),
                ];
                let answer = self.ask_sts(&form, None).await?;
                of_xml(&answer)
            }
            Source::Container { url, token, token_file } => {
                let token = match token_file {
                    Some(path) => Some(secret_of(path)?),
                    None => token.clone(),
                };
                let headers = token.map(|token| ("authorization", token)).into_iter().collect();
                of_json(&self.get(Method::GET, url, headers).await?)
            }
            Source::Instance { base } => {
                let lasts = vec![("x-aws-ec2-metadata-token-ttl-seconds", "300".to_owned())];
                let token = self.get(Method::PUT, &format!("{base}/latest/api/token"), lasts).await?;
                let headers = vec![("x-aws-ec2-metadata-token", token.trim().to_owned())];
                let roles = format!("{base}/latest/meta-data/iam/security-credentials/");
                let role = self.get(Method::GET, &roles, headers.clone()).await?;
                let role = role.lines().next().unwrap_or("").trim().to_owned();
                of_json(&self.get(Method::GET, &format!("{roles}{role}"), headers).await?)
            }
        }
    }

    async fn assume(&self, role: &Role, keys: &Credentials) -> Result<(Credentials, OffsetDateTime), Error> {
        let mut form = vec![("Action", "AssumeRole")];
        if let Some(id) = &role.external_id {
            form.push(("ExternalId", id));
        }
        form.extend([
            ("RoleArn", role.arn.as_str()),
            ("RoleSessionName", role.session.as_str()),
            ("Version", "2011-06-15"),
        ]);
        of_xml(&self.ask_sts(&form, Some(keys)).await?)
    }

    async fn ask_sts(&self, form: &[(&str, &str)], keys: Option<&Credentials>) -> Result<String, Error> {
        let form: Vec<String> =
            form.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
        let body = form.join("&").into_bytes();
        let url = format!("{}/", self.sts);
        let parsed =
            url::Url::parse(&url).map_err(|error| Error::local(format!("AWS_ENDPOINT_URL_STS: {error}")))?;
        let host = &parsed[url::Position::BeforeHost..url::Position::BeforePath];
        let headers = keys.map(|keys| {
            let scope = (self.region.as_str(), "sts");
            let request = Unsigned { method: "POST", host, path: "/", query: "", body: &body, scope };
            keys.sign(&request, OffsetDateTime::now_utc())
        });
        let message = Message {
            content_type: "application/x-www-form-urlencoded; charset=utf-8",
            headers: headers.unwrap_or_default(),
            body,
        };
        good(&url, self.http.send(Method::POST, &url, message).await)
    }

    async fn get(
        &self,
        method: Method,
        url: &str,
        headers: Vec<(&'static str, String)>,
    ) -> Result<String, Error> {
        let message = Message { headers, ..Message::default() };
        good(url, self.http.send(method, url, message).await)
    }
}

impl Source {
    fn find(variables: &Variables<'_>) -> Result<Self, Error> {
        let id = variables.first(&["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"]);
        let secret = variables.first(&["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"]);
        if let (Some(id), Some(secret)) = (id, secret) {
            let session = variables.first(&["AWS_SESSION_TOKEN"]);
            return Ok(Self::Fixed(Credentials { id, secret, session }));
        }
        if let Some(token) = variables.first(&["AWS_WEB_IDENTITY_TOKEN_FILE"]) {
            let session = variables.first(&["AWS_ROLE_SESSION_NAME"]);
            let role = Role {
                arn: variables.required(&["AWS_ROLE_ARN"])?,
                session: session.unwrap_or_else(|| SESSION.to_owned()),
                external_id: None,
            };
            return Ok(Self::WebIdentity { role, token });
        }
        let path = variables
            .first(&["AWS_SHARED_CREDENTIALS_FILE"])
            .or_else(|| std::env::var("HOME").ok().map(|home| format!("{home}/.aws/credentials")));
        let profile = variables.first(&["AWS_PROFILE"]);
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        match (of_profile(&text, profile.as_deref().unwrap_or("default")), profile) {
            (Some(keys), _) => return Ok(Self::Fixed(keys)),
            (None, Some(profile)) => {
                return Err(Error::local(format!(
                    "AWS_PROFILE: there are no keys of `{profile}` in AWS_SHARED_CREDENTIALS_FILE (profiles with roles \
                     are not supported: name the role in AWS_ASSUME_ROLE_ARN)"
                )));
            }
            (None, None) => {}
        }
        let full = variables.first(&["AWS_CONTAINER_CREDENTIALS_FULL_URI"]);
        let relative = variables.first(&["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]);
        if let Some(url) = relative.map(|path| format!("{CONTAINER}{path}")).or(full) {
            let token_file = variables.first(&["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]);
            let token = variables.first(&["AWS_CONTAINER_AUTHORIZATION_TOKEN"]);
            return Ok(Self::Container { url, token, token_file });
        }
        if variables.is_true("AWS_EC2_METADATA_DISABLED") {
            return Err(Error::local(
                "some credentials information are missing: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in \
                 AWS_SHARED_CREDENTIALS_FILE, or a role",
            ));
        }
        let base = variables.first(&["AWS_EC2_METADATA_SERVICE_ENDPOINT"]);
        let base = base.unwrap_or_else(|| INSTANCE.to_owned()).trim_end_matches('/').to_owned();
        Ok(Self::Instance { base })
    }
}

fn of_profile(text: &str, profile: &str) -> Option<Credentials> {
    let mut here = false;
    let (mut id, mut secret, mut session) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            here = name.trim() == profile;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| here) {
            let value = Some(value.trim().to_owned());
            match key.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => session = value,
                _ => {}
            }
        }
    }
    Some(Credentials { id: id?, secret: secret?, session })
}

/// Reads a token from its file, each time, because tokens are replaced.
fn secret_of(path: &str) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::local(format!("{path}: {error}")))?;
    Ok(text.trim().to_owned())
}

fn good(url: &str, answer: Result<Answer, Error>) -> Result<String, Error> {
    let at = |message: String| Error::dns(format!("no access keys for AWS from {url}: {message}"));
    let answer = answer.map_err(|error| at(error.message))?;
    match answer.status.is_success() {
        true => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
        false => Err(at(format!("status {}: {}", answer.status, answer.excerpt()))),
    }
}

fn of_xml(text: &str) -> Result<(Credentials, OffsetDateTime), Error> {
    let get = |name: &str| elements(text, name).next().map(str::to_owned);
    read(get("AccessKeyId"), get("SecretAccessKey"), get("SessionToken"), get("Expiration"))
}

fn of_json(text: &str) -> Result<(Credentials, OffsetDateTime), Error> {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let get = |name: &str| value[name].as_str().map(str::to_owned);
    read(get("AccessKeyId"), get("SecretAccessKey"), get("Token"), get("Expiration"))
}

fn read(
    id: Option<String>,
    secret: Option<String>,
    session: Option<String>,
    end: Option<String>,
) -> Result<(Credentials, OffsetDateTime), Error> {
    let (Some(id), Some(secret)) = (id, secret) else {
        return Err(Error::dns("AWS's answer has no access keys"));
    };
    let end = end.and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok());
    // Keys without an expiry are requested again from time to time.
    let end = end.unwrap_or_else(|| OffsetDateTime::now_utc() + time::Duration::minutes(15));
    Ok((Credentials { id, secret, session }, end))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Responds to requests by their first lines, one connection each, and returns the requests.
    fn server(answers: Vec<(&'static str, String)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for (line, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut text = String::new();
                let mut bytes = [0; 4096];
                loop {
                    let count = stream.read(&mut bytes).unwrap();
                    text.push_str(&String::from_utf8_lossy(&bytes[..count]));
                    let Some((head, sent)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.to_lowercase();
                    let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                    if sent.len() >= length.and_then(|length| length.trim().parse().ok()).unwrap_or(0) {
                        break;
                    }
                }
                assert!(text.starts_with(line), "{text}");
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                )
                .unwrap();
                seen.push(text);
            }
            seen
        });
        (url, thread)
    }

    /// Returns true if a request contains a text, regardless of case.
    fn has(request: &str, text: &str) -> bool {
        request.to_lowercase().contains(&text.to_lowercase())
    }

    fn credentials(given: &[(&str, &str)]) -> Result<CredentialChain, Error> {
        let mut all: BTreeMap<String, String> =
            given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        all.entry("AWS_SHARED_CREDENTIALS_FILE".into()).or_insert("/nowhere".into());
        CredentialChain::find(&Variables::new(&all))
    }

    fn json(id: &str) -> String {
        format!(
            r#"{{"AccessKeyId": "{id}", "SecretAccessKey": "S", "Token": "T", "Expiration": "2099-01-01T00:00:00Z"}}"#
        )
    }

    fn xml(id: &str, end: &str) -> String {
        format!(
            "<R><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>S</SecretAccessKey><SessionToken>T</SessionToken><Expiration>{end}</Expiration></Credentials></R>"
        )
    }

    #[tokio::test]
    async fn a_machine_has_a_role() {
        let (url, thread) = server(vec![
            ("PUT /latest/api/token ", "tok".into()),
            ("GET /latest/meta-data/iam/security-credentials/ ", "dns-role".into()),
            ("GET /latest/meta-data/iam/security-credentials/dns-role ", json("I")),
        ]);
        let credentials = credentials(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)]).unwrap();
        for _ in 0..3 {
            let keys = credentials.keys().await.unwrap();
            assert_eq!((keys.id.as_str(), keys.session.as_deref()), ("I", Some("T")), "asked for once");
        }
        let seen = thread.join().unwrap();
        assert!(has(&seen[0], "x-aws-ec2-metadata-token-ttl-seconds: 300"), "{}", seen[0]);
        assert!(has(&seen[2], "x-aws-ec2-metadata-token: tok"), "{}", seen[2]);
    }

    #[tokio::test]
    async fn a_token_in_a_file_becomes_keys_that_are_replaced_in_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "web.token\n").unwrap();
        let soon = (OffsetDateTime::now_utc() + time::Duration::minutes(2)).format(&Rfc3339).unwrap();
        let (url, thread) =
            server(vec![("POST / ", xml("one", &soon)), ("POST / ", xml("two", "2099-01-01T00:00:00Z"))]);
        let credentials = credentials(&[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &file.path().display().to_string()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/dns"),
            ("AWS_ENDPOINT_URL_STS", &url),
        ])
        .unwrap();
        assert_eq!(credentials.keys().await.unwrap().id, "one");
        assert_eq!(credentials.keys().await.unwrap().id, "two", "the first end too soon");
        assert_eq!(credentials.keys().await.unwrap().id, "two");
        let seen = thread.join().unwrap();
        assert!(
            seen[0].contains("Action=AssumeRoleWithWebIdentity&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fdns"),
            "{}",
            seen[0]
        );
        assert!(
            seen[0].ends_with("WebIdentityToken=web.token") && !has(&seen[0], "authorization"),
            "{}",
            seen[0]
        );
    }

    #[tokio::test]
    async fn a_container_is_given_keys_and_another_role_is_taken_on() {
        let (container, first) = server(vec![("GET /creds ", json("C"))]);
        let (sts, second) = server(vec![("POST / ", xml("R", "2099-01-01T00:00:00Z"))]);
        let credentials = credentials(&[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{container}/creds")),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer x"),
            ("AWS_ASSUME_ROLE_ARN", "arn:r"),
            ("AWS_EXTERNAL_ID", "ext"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL_STS", &sts),
        ])
        .unwrap();
        assert_eq!(credentials.keys().await.unwrap().id, "R");
        assert!(has(&first.join().unwrap()[0], "authorization: Bearer x"));
        let asked = second.join().unwrap().remove(0);
        assert!(asked.contains("Credential=C/") && asked.contains("/eu-west-1/sts/aws4_request"), "{asked}");
        assert!(asked.contains("Action=AssumeRole&ExternalId=ext&RoleArn=arn%3Ar"), "{asked}");
    }

    #[tokio::test]
    async fn what_is_missing_is_told() {
        let error = credentials(&[("AWS_EC2_METADATA_DISABLED", "true")]).err().unwrap();
        assert!(error.message.contains("AWS_ACCESS_KEY_ID"), "{error}");
        let error = credentials(&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere")]).err().unwrap();
        assert!(error.message.contains("AWS_ROLE_ARN"), "{error}");
        let error = credentials(&[("AWS_PROFILE", "dns")]).err().unwrap();
        assert!(error.message.contains("`dns`"), "{error}");
        let gone = credentials(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")]).unwrap();
        let error = gone.keys().await.err().unwrap();
        assert!(error.message.contains("http://127.0.0.1:1/latest/api/token"), "{error}");
    }

    #[test]
    fn a_profile_is_found_in_the_file() {
        let text = "[default]\naws_access_key_id = A\naws_secret_access_key=B\n[dns]\naws_access_key_id=C\n\
                    aws_secret_access_key = D\naws_session_token = E\n";
        let found = of_profile(text, "dns").unwrap();
        assert_eq!(
            (found.id.as_str(), found.secret.as_str(), found.session.as_deref()),
            ("C", "D", Some("E"))
        );
        assert!(of_profile(text, "other").is_none());
    }
}
