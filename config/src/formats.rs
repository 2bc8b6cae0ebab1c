//! The formats of configurations, each parsed into a [`Node`].

pub mod entries;
pub mod env;
pub mod excerpt;
pub mod flags;
mod json;
pub mod keys;
pub mod labels;
mod switches;
pub mod toml;
pub mod yaml;

use std::sync::Arc;

use crate::origin::{Origin, Problem};
use crate::tree::Node;

/// Parses a file by its extension: `.toml`, otherwise YAML, which includes JSON.
///
/// `path` is used only in messages. Problems include an excerpt of the file.
pub fn read(path: &str, bytes: &[u8]) -> Result<Node, Problem> {
    read_within(path, bytes, 1)
}

/// Like [`read`], for files that are expected to be large: up to [`LARGE`] bytes.
pub fn read_large(path: &str, bytes: &[u8]) -> Result<Node, Problem> {
    read_within(path, bytes, LARGE / yaml::MAX_FILE_SIZE)
}

/// Maximum size of a large file in bytes, enough for some 500,000 consumers.
pub const LARGE: usize = 8 * yaml::MAX_FILE_SIZE;

/// `times` is what the limits are multiplied by.
fn read_within(path: &str, bytes: &[u8], times: usize) -> Result<Node, Problem> {
    if path.to_ascii_lowercase().ends_with(".toml") {
        toml::read_within(path, bytes, times)
    } else {
        yaml::read_within(path, bytes, times)
    }
}

/// Refuses a file that is too large.
fn check_size(path: &Arc<str>, bytes: &[u8], limit: usize) -> Result<(), Problem> {
    if bytes.len() <= limit {
        return Ok(());
    }
    let message = format!("the file has {} bytes: the maximum is {limit}", bytes.len());
    let origin = Origin::File { path: path.clone(), line: 0, column: 0 };
    Err(Problem { origin, object: None, message, excerpt: None })
}

/// Returns the text of a file.
pub(crate) fn text<'a>(path: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        let origin = Origin::File { path: path.clone(), line: u32::try_from(line).unwrap_or(0), column: 0 };
        let message = format!("the file is not valid UTF-8: byte {} is invalid", error.valid_up_to());
        Problem { origin, object: None, message, excerpt: None }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use tidegate_core::values::Duration;

    use super::*;
    use crate::decode::{decode, decode_config};
    use crate::router::{Observability, Router, RouterTls};
    use crate::service::{LoadBalancer, Server, ServerHealthCheck, Service};
    use crate::tls::{Domain, TlsOptions};
    use crate::{Config, Map};

    fn text() -> impl Strategy<Value = String> {
        "[ -~é]{0,12}"
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(text(), 0..3)
    }

    fn map<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Map<T>> {
        // Lower case and without underscores, the only names that variables can express.
        prop::collection::btree_map("[a-z][a-z0-9-]{0,5}", value.prop_map(Arc::new), 0..3)
    }

    fn router() -> impl Strategy<Value = Router> {
        let domain = (text(), names()).prop_map(|(main, sans)| Domain { main, sans });
        let tls = (text(), prop::collection::vec(domain, 0..3)).prop_map(|(options, domains)| RouterTls {
            options: options.into(),
            domains,
            ..Default::default()
        });
        let observability = prop::option::of(any::<bool>())
            .prop_map(|access_logs| Observability { access_logs, ..Default::default() });
        (text(), names(), any::<i64>(), prop::option::of(tls), prop::option::of(observability)).prop_map(
            |(rule, entry_points, priority, tls, observability)| Router {
                rule,
                entry_points,
                priority,
                tls,
                observability,
                ..Default::default()
            },
        )
    }

    fn service() -> impl Strategy<Value = Service> {
        let server = (text(), prop::option::of(any::<i64>()), any::<bool>())
            .prop_map(|(url, weight, preserve_path)| Server { url, weight, preserve_path });
        let check = (0u64..100_000, prop::collection::btree_map("[a-z][a-z0-9-]{0,5}", text(), 0..3))
            .prop_map(|(milliseconds, headers)| ServerHealthCheck {
                interval: Duration::from_millis(milliseconds),
                headers,
                ..Default::default()
            });
        (prop::collection::vec(server, 0..3), prop::option::of(check), any::<bool>()).prop_map(
            |(servers, health_check, pass_host_header)| Service {
                load_balancer: Some(LoadBalancer {
                    servers,
                    health_check,
                    pass_host_header,
                    ..Default::default()
                }),
                ..Default::default()
            },
        )
    }

    fn config() -> impl Strategy<Value = Config> {
        let options = prop::collection::vec(text(), 1..3)
            .prop_map(|alpn_protocols| TlsOptions { alpn_protocols, ..Default::default() });
        (map(router()), map(service()), map(options)).prop_map(|(routers, services, options)| {
            let mut config = Config::default();
            config.http.routers = routers;
            config.http.services = services;
            config.tls.options = options;
            config
        })
    }

    fn file(config: &Config) -> Node {
        let json = serde_json::to_string(config).expect("JSON");
        read("f.yml", json.as_bytes()).expect("JSON is YAML")
    }

    proptest! {
        #[test]
        fn all_formats_are_equivalent(config in config()) {
            let file = file(&config);
            prop_assert_eq!(&decode::<Config>(&file).expect("decodes"), &config);
            let provided = decode_config(&file);
            prop_assert_eq!(&provided.config, &config);
            prop_assert_eq!(&provided.problems, &[]);

            let leaves = file.flatten();
            let keys: Vec<(String, &str)> =
                leaves.iter().map(|(key, value)| (format!("Traefik.{key}"), value.as_str())).collect();
            let (labels, problems) =
                labels::read(keys.iter().map(|(key, value)| (key.as_str(), *value)), &["traefik"], |_| Origin::Internal);
            prop_assert_eq!(problems, []);
            prop_assert_eq!(&decode::<Config>(&labels).expect("decodes"), &config);

            let flags: Vec<String> = leaves.iter().map(|(key, value)| format!("--{key}={value}")).collect();
            let flags::Read { node: flags, problems, .. } = flags::read(flags.iter().map(String::as_str), &|_| false);
            prop_assert_eq!(problems, []);
            prop_assert_eq!(&decode::<Config>(&flags).expect("decodes"), &config);

            let variables: BTreeMap<String, &str> = leaves
                .iter()
                .map(|(key, value)| {
                    let key = key.replace(['.', '['], "_").replace(']', "").to_uppercase();
                    (format!("TIDEGATE_{key}"), value.as_str())
                })
                .collect();
            let variables = variables.iter().map(|(name, value)| (name.as_str(), *value));
            let env = env::read(variables, |_, _| true, &|_| false);
            prop_assert_eq!(env.problems, []);
            prop_assert_eq!(&decode::<Config>(&env.node).expect("decodes"), &config);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read("f.yml", &bytes).map(|node| decode_config(&node));
            let _ = read("f.toml", &bytes).map(|node| decode_config(&node));
        }

        #[test]
        fn no_text_panics(text in "[a-c:&*<{}\\[\\],\"'|> \n#=.~-]{0,60}") {
            let _ = read("f.yml", text.as_bytes()).map(|node| decode_config(&node));
            let _ = read("f.toml", text.as_bytes()).map(|node| decode_config(&node));
            let _ = labels::read([(text.as_str(), "v")], &["a", ""], |_| Origin::Internal);
            let _ = flags::read([text.as_str()], &|_| true);
        }
    }

    #[test]
    fn invalid_utf8_is_reported_with_its_line() {
        for file in ["f.yml", "f.toml"] {
            let problem = read(file, b"a: 1\nb: \xff\n").expect_err("not UTF-8");
            assert_eq!(
                problem.to_string(),
                format!("{file}:2: the file is not valid UTF-8: byte 8 is invalid")
            );
        }
    }
}
