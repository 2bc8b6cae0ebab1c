//! `tidegate certs`: manages the certificates of resolvers in the storage of the settings.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::acme::{Admin, AdminError, Row};
use crate::settings::Settings;

/// The subcommands.
#[derive(Subcommand)]
pub(super) enum Certs {
    /// Print every certificate: names, resolver, issuer, expiry, next renewal, last error. Renewals are
    /// estimated from the lifetime; the authority's own suggestions are in the API of the running gateway.
    List(Which),
    /// Renew a certificate now: by the running gateway within seconds, or by the next one that starts.
    Renew(Named),
    /// Revoke a certificate at its authority and remove it. A gateway that needs it obtains another.
    Revoke(Revoke),
    /// Replace the key of the account at the authority.
    ChangeKey(Which),
    /// Write a certificate and its key as PEM: NAME.crt and NAME.key.
    Export(Export),
    /// Import certificates from another acme.json, or from certbot's folder (/etc/letsencrypt), into the
    /// storage of the settings: a file or Consul.
    Import(Import),
}

#[derive(Args)]
pub(super) struct Which {
    /// Name of the resolver; all of them by default.
    #[arg(long)]
    resolver: Option<String>,
    /// Settings, as for the gateway itself.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "--SETTING[=VALUE]")]
    settings: Vec<String>,
}

#[derive(Args)]
pub(super) struct Named {
    /// One of the certificate's names.
    name: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// Reason code of RFC 5280: 0 unspecified, 1 key compromise, 4 superseded, 5 cessation of operation.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=10))]
    reason: u8,
    #[command(flatten)]
    named: Named,
}

#[derive(Args)]
pub(super) struct Export {
    /// Folder for the files.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    #[command(flatten)]
    named: Named,
}

#[derive(Args)]
pub(super) struct Import {
    /// An acme.json, or certbot's folder.
    source: PathBuf,
    #[command(flatten)]
    which: Which,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertsError {
    /// The storage or the authority failed.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The runtime could not be started.
    #[error(transparent)]
    Runtime(io::Error),
    /// A file could not be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Certs {
    /// Returns the settings given as arguments.
    pub(super) fn settings(&self) -> &[String] {
        &self.which().settings
    }

    fn which(&self) -> &Which {
        match self {
            Self::List(which) | Self::ChangeKey(which) => which,
            Self::Renew(named) => &named.which,
            Self::Revoke(revoke) => &revoke.named.which,
            Self::Export(export) => &export.named.which,
            Self::Import(import) => &import.which,
        }
    }

    /// Runs the command. Returns the text to print.
    pub(super) fn run(&self, settings: &Settings) -> Result<String, CertsError> {
        let resolvers = settings.certificates_resolvers.iter();
        let resolvers = resolvers.filter_map(|(name, one)| Some((name.clone(), one.acme.clone()?)));
        let admin = Admin::new(resolvers, self.which().resolver.as_deref())?;
        match self {
            Self::List(_) => Ok(table(&runtime()?.block_on(admin.list())?)),
            Self::Renew(named) => {
                runtime()?.block_on(admin.renew(&named.name))?;
                Ok(format!("{} will be renewed by the gateway", named.name))
            }
            Self::Revoke(Revoke { named, reason }) => {
                runtime()?.block_on(admin.revoke(&named.name, *reason))?;
                Ok(format!("{} is revoked and removed", named.name))
            }
            Self::ChangeKey(_) => {
                runtime()?.block_on(admin.change_key())?;
                Ok("the account has a new key".to_owned())
            }
            Self::Export(Export { named, folder }) => {
                let exported = runtime()?.block_on(admin.export(&named.name))?;
                let file = exported.main.replace('*', "_");
                let chain = write(folder, &format!("{file}.crt"), &exported.chain, 0o644)?;
                let key = write(folder, &format!("{file}.key"), &exported.key, 0o600)?;
                Ok(format!("{}\n{}", chain.display(), key.display()))
            }
            Self::Import(Import { source, .. }) => {
                let names = runtime()?.block_on(admin.import(source))?;
                Ok(format!(
                    "taken over: {}",
                    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
                ))
            }
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CertsError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(CertsError::Runtime)
}

/// Writes a file into a folder, which is created if necessary. An existing file gets the mode too.
fn write(folder: &Path, name: &str, content: &str, mode: u32) -> Result<PathBuf, CertsError> {
    let path = folder.join(name);
    let failed = |source| CertsError::File { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&path).map_err(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)?;
    Ok(path)
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no certificates".to_owned();
    }
    let time = |at: Option<OffsetDateTime>| {
        at.and_then(|at| at.truncate_to_second().format(&Rfc3339).ok()).unwrap_or_else(|| "-".to_owned())
    };
    let head = ["NAMES", "RESOLVER", "ISSUER", "EXPIRES", "NEXT", "ERROR"].map(str::to_owned);
    let mut lines = vec![head];
    lines.extend(rows.iter().map(|row| {
        let text = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        [
            row.names.join(","),
            row.resolver.clone(),
            text(&row.issuer),
            time(row.not_after),
            time(row.next),
            text(&row.error),
        ]
    }));
    let widths: Vec<usize> = (0..6)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let lines = lines.iter().map(|line| {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_files_make_their_folder_and_have_their_mode() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("new/one");
        for mode in [0o644, 0o600] {
            let path = write(&folder, "a.key", "key", mode).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "key");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }
}
