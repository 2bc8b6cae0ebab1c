//! Which TLS options apply to which host of an entry point.

use std::collections::HashMap;
use std::sync::Arc;

use super::DEFAULT_OPTIONS;

/// The names of the TLS options of an entry point's hosts. They are chosen by the server name that a client asks for, before
/// any request is read (Traefik's `tls.options` of routers).
#[derive(Debug, Default)]
pub struct HostOptions(HashMap<String, Arc<str>>);

impl HostOptions {
    /// By host: in lower case, `*.` and a suffix for hosts one label below it, `*` for all that nothing else names.
    pub fn new(names: HashMap<String, Arc<str>>) -> Self {
        // The cheap case: nothing has to be looked up.
        let is_default = |name: &Arc<str>| **name == *DEFAULT_OPTIONS;
        Self(if names.values().all(is_default) { HashMap::new() } else { names })
    }

    /// Those of a host, which is given in lower case and without port; empty for a client that names none.
    pub fn of(&self, host: &str) -> &str {
        if self.0.is_empty() {
            return DEFAULT_OPTIONS;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let below = || host.split_once('.').and_then(|(_, rest)| self.0.get(&format!("*.{rest}")));
        let found = self.0.get(host).or_else(below).or_else(|| self.0.get("*"));
        found.map_or(DEFAULT_OPTIONS, |name| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_counts() {
        let names = [("a.test", "strict"), ("*.w.test", "low"), ("x.w.test", "default"), ("*", "any")];
        let options = HostOptions::new(names.map(|(host, name)| (host.to_owned(), Arc::from(name))).into());
        let asked = ["a.test", "a.test.", "y.w.test", "x.w.test", "z.y.w.test", "b.test", ""];
        let found: Vec<&str> = asked.iter().map(|host| options.of(host)).collect();
        assert_eq!(found, ["strict", "strict", "low", "default", "any", "any", "any"]);
        assert_eq!(HostOptions::default().of("a.test"), "default");
    }
}
