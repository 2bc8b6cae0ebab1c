//! Consumers in a file of their own, watched (`providers.consumers`). It is read like a route file, but has no
//! templates, may be larger, and can only contain consumers.

use serde::{Deserialize, Serialize};
use tidegate_clients::OptionError;

use crate::file::{self, File};
use crate::{Describe, Error};

/// Options of `providers.consumers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// The file, in YAML, TOML (`.toml`) or JSON.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Follow changes.
    pub watch: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { filename: String::new(), watch: true }
    }
}

impl Describe for Options {
    fn place(&self) -> String {
        self.filename.clone()
    }
}

/// Builds the provider.
pub fn build(options: Options) -> Result<File, Error> {
    match options.filename.as_str() {
        "" => Err(OptionError::new("filename", "expected the path of a file").into()),
        filename => Ok(file::of_consumers(filename, options.watch)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

    use tidegate_config::Provided;
    use tokio::sync::mpsc;

    use super::*;

    async fn until(updates: &mut mpsc::Receiver<crate::Update>, wanted: impl Fn(&Provided) -> bool) {
        let wait = async {
            loop {
                let state = updates.recv().await.expect("an update").state;
                if wanted(&state) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("a state as wanted");
    }

    #[tokio::test]
    async fn a_file_is_read_in_each_format_and_watched() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text, changed) in [
            ("c.yml", "consumers: {a: {plan: x}}", "consumers: {a: {plan: '{{x}}'}}"),
            (
                "c.json",
                r#"{"consumers": {"a": {"plan": "x"}}}"#,
                r#"{"consumers": {"a": {"plan": "{{x}}"}}}"#,
            ),
            ("c.toml", "[consumers.a]\nplan = \"x\"\n", "[consumers.a]\nplan = \"{{x}}\"\n"),
        ] {
            let file = folder.path().join(name);
            fs::write(&file, text).expect("written");
            let options = Options { filename: file.display().to_string(), ..Options::default() };
            let (sender, mut updates) = mpsc::channel(16);
            let provider = Arc::new(build(options).expect("valid options"));
            let handle = crate::start("consumers", provider, sender);
            let plan = |state: &Provided| state.config.http.consumers.get("a").map(|a| a.plan.clone());
            until(&mut updates, |state| plan(state).as_deref() == Some("x")).await;
            // It is no template.
            fs::write(&file, changed).expect("written");
            until(&mut updates, |state| plan(state).as_deref() == Some("{{x}}")).await;
            // A file that cannot be read keeps its last good content.
            fs::write(&file, "consumers: [").expect("written");
            until(&mut updates, |state| plan(state).is_some() && !state.problems.is_empty()).await;
            drop(handle);
        }
    }

    #[test]
    fn a_file_is_needed() {
        assert!(build(Options::default()).is_err());
    }
}
