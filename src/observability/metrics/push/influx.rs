//! InfluxDB 2, in its line protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Uri};
use tidegate_core::{Body, Connection, Context, HttpClient, Request};
use url::Url;

use super::deltas::{Deltas, Recent};
use super::{PushError, System, TIMEOUT};
use crate::observability::metrics::metric::{Metric, Type, Value, Writer};
use crate::settings::InfluxDb2;

/// Maximum length of one request, unless one line is longer.
const MAX_BODY: usize = 1 << 20;
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];

/// An InfluxDB.
pub(super) struct Influx {
    options: InfluxDb2,
    client: Arc<dyn HttpClient>,
    deltas: Deltas,
}

impl Influx {
    pub(super) fn new(options: &InfluxDb2, client: Arc<dyn HttpClient>) -> Self {
        Self { options: options.clone(), client, deltas: Deltas::default() }
    }

    fn target(&self) -> Result<Uri, PushError> {
        let address = &self.options.address;
        let wrong = || PushError::Url(address.clone());
        let mut url = Url::parse(address).map_err(|_| wrong())?;
        let path = format!("{}/api/v2/write", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let pairs = [("bucket", &*self.options.bucket), ("org", &*self.options.org), ("precision", "ns")];
        url.query_pairs_mut().clear().extend_pairs(pairs);
        url.as_str().parse().map_err(|_| wrong())
    }

    /// Returns the token, which may be the path of a file with it.
    fn token(&self) -> Result<String, PushError> {
        let token = self.options.token.expose();
        match std::path::Path::new(token).is_file() {
            true => Ok(std::fs::read_to_string(token).map_err(PushError::Token)?.trim().to_owned()),
            false => Ok(token.to_owned()),
        }
    }

    fn request(&self, body: Vec<u8>) -> Result<Request, PushError> {
        let target = self.target()?;
        let mut head = http::Request::new(()).into_parts().0;
        head.method = Method::POST;
        if let Some(authority) = target.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            head.headers.insert(HOST, host);
        }
        head.uri = target;
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let token = self.token()?;
        if !token.is_empty() {
            let unusable = |_| PushError::Token(std::io::Error::other("it is not the value of a header"));
            let mut value = HeaderValue::try_from(format!("Token {token}")).map_err(unusable)?;
            value.set_sensitive(true);
            head.headers.insert(AUTHORIZATION, value);
        }
        Ok(Request::new(head, Body::full(body), context()))
    }
}

/// Returns the context for requests of the gateway itself.
fn context() -> Context {
    let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let connection = Connection { entry_point: "".into(), ..Connection::plain(nowhere) };
    Context::new(Arc::new(connection))
}

impl System for Influx {
    type Batch = Vec<Vec<u8>>;

    fn render(&mut self, collect: &mut dyn FnMut(&mut dyn Writer)) -> Self::Batch {
        self.deltas.begin();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut rendering = Rendering {
            now,
            additional: &self.options.additional_labels,
            deltas: &mut self.deltas,
            bodies: Vec::new(),
            current: None,
        };
        collect(&mut rendering);
        let bodies = rendering.bodies;
        self.deltas.end();
        bodies
    }

    async fn send(&mut self, batch: Self::Batch) -> Result<(), PushError> {
        for body in batch {
            let request = self.request(body)?;
            let response = self.client.send(request, &Default::default(), TIMEOUT).await?;
            if !response.status().is_success() {
                return Err(PushError::Status(response.status()));
            }
        }
        Ok(())
    }
}

/// The lines of one push.
struct Rendering<'a> {
    now: u128,
    additional: &'a BTreeMap<String, String>,
    deltas: &'a mut Deltas,
    bodies: Vec<Vec<u8>>,
    /// Name and type of the current metric, if it is pushed.
    current: Option<(String, Type)>,
}

impl Rendering<'_> {
    fn line(&mut self, series: &str, fields: &str) {
        let line = format!("{series} {fields} {}\n", self.now);
        match self.bodies.last_mut().filter(|body| body.len() + line.len() <= MAX_BODY) {
            Some(body) => body.extend_from_slice(line.as_bytes()),
            None => self.bodies.push(line.into_bytes()),
        }
    }
}

impl Writer for Rendering<'_> {
    fn metric(&mut self, metric: Metric<'_>) {
        self.current = metric.pushed.map(|pushed| (format!("traefik.{}", pushed.influx), metric.kind));
    }

    fn series(&mut self, labels: &[(&str, &str)], value: Value<'_>) {
        let Some((mut series, kind)) = self.current.clone() else { return };
        let mut all: BTreeMap<&str, &str> =
            self.additional.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
        all.extend(labels.iter().copied());
        // The protocol has no empty values.
        for (label, value) in all.into_iter().filter(|(_, value)| !value.is_empty()) {
            series.push_str(&format!(",{}={}", escaped(label), escaped(value)));
        }
        match value {
            Value::Durations(durations) => {
                let recent = Recent::of(self.deltas, &series, durations);
                if recent.count() > 0 {
                    let fields = QUANTILES.map(|(name, at)| format!("{name}={:.9}", recent.quantile(at)));
                    self.line(&series, &fields.join(","));
                }
            }
            Value::Count(count) if kind == Type::Counter => {
                let growth = self.deltas.of(&series, &[count])[0];
                if growth > 0 {
                    self.line(&series, &format!("count={growth}"));
                }
            }
            Value::Count(count) => self.line(&series, &format!("value={count}")),
            Value::Number(value) => self.line(&series, &format!("value={value}")),
        }
    }
}

/// Escapes a label or its value.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, ',' | '=' | ' ' | '\\') {
            escaped.push('\\');
        }
        // The protocol cannot escape the end of a line.
        escaped.push(if character.is_control() { '_' } else { character });
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(escaped("a b,c=d\\e\nf"), "a\\ b\\,c\\=d\\\\e_f");
    }
}
