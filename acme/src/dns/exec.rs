//! `exec`: a program sets and removes the record. Called as by lego: `<program> present|cleanup <fqdn> <value>`.

use std::process::Stdio;
use std::time::Duration;

use tidegate_core::BoxFuture;
use tokio::process::Command;

use super::query::Resolvers;
use super::variables::Variables;
use super::{Patience, Provider, Record};
use crate::error::Error;

/// Timeout for a call.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Maximum size of the output in messages.
const SHOWN: usize = 1000;

pub(super) struct Exec {
    program: String,
    raw: bool,
    patience: Patience,
}

impl Exec {
    /// Reads `EXEC_PATH`, `EXEC_MODE` (`RAW`), `EXEC_PROPAGATION_TIMEOUT` and `EXEC_POLLING_INTERVAL`.
    pub(super) fn new(variables: &Variables<'_>) -> Result<Self, Error> {
        Ok(Self {
            program: variables.required(&["EXEC_PATH"])?,
            raw: variables.first(&["EXEC_MODE"]).as_deref() == Some("RAW"),
            patience: variables.patience("EXEC", 60, 2)?,
        })
    }

    async fn run(&self, what: &str, record: &Record) -> Result<(), Error> {
        let mut command = Command::new(&self.program);
        command.arg(what);
        match self.raw {
            true => command.args(["--", &record.domain, &record.token, &record.key_authorization]),
            false => command.args([&format!("{}.", record.name), &record.value]),
        };
        command.stdin(Stdio::null()).kill_on_drop(true);
        let failed = |why: &dyn std::fmt::Display| Error::dns(format!("`{} {what}`: {why}", self.program));
        let output = tokio::time::timeout(TIMEOUT, command.output()).await;
        let output = output.map_err(|_| failed(&format_args!("not done after {TIMEOUT:?}")))?;
        let output = output.map_err(|error| failed(&error))?;
        let said: String = [output.stdout, output.stderr]
            .iter()
            .flat_map(|bytes| String::from_utf8_lossy(bytes).chars().collect::<Vec<_>>())
            .take(SHOWN)
            .collect();
        tracing::debug!(program = %self.program, what, output = %said.trim(), "called");
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(&format_args!("{}: {}", output.status, said.trim()))),
        }
    }
}

impl Provider for Exec {
    fn present<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.run("present", record))
    }

    fn clean_up<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.run("cleanup", record))
    }

    fn patience(&self) -> Patience {
        self.patience
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_program_is_called_as_by_lego() {
        let folder = tempfile::tempdir().unwrap();
        let (program, seen) = (folder.path().join("set"), folder.path().join("seen"));
        let script = format!("#!/bin/sh\necho \"$@\" >> {}\n[ \"$1\" = present ]\n", seen.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let record = Record {
            domain: "a.test".into(),
            token: "tok".into(),
            key_authorization: "tok.print".into(),
            name: "_acme-challenge.a.test".into(),
            value: "v".into(),
        };
        for mode in ["", "RAW"] {
            let given = BTreeMap::from([
                ("EXEC_PATH".to_owned(), program.display().to_string()),
                ("EXEC_MODE".to_owned(), mode.to_owned()),
            ]);
            let exec = Exec::new(&Variables::new(&given)).unwrap();
            exec.run("present", &record).await.unwrap();
            assert!(exec.run("cleanup", &record).await.unwrap_err().message.contains("exit status: 1"));
        }
        let expected = "present _acme-challenge.a.test. v\ncleanup _acme-challenge.a.test. v\n\
                        present -- a.test tok tok.print\ncleanup -- a.test tok tok.print\n";
        assert_eq!(std::fs::read_to_string(seen).unwrap(), expected);
    }
}
