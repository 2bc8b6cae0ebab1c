//! `tidegate keys`: creates, lists, rotates and revokes the API keys of consumers, where they are stored.

mod edit;
mod error;
mod file;
mod kv;
mod list;
mod store;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use tidegate_config::Problem;
use tidegate_config::consumer::{ApiKey, Digest, Timestamp};
use tidegate_core::consumer::KeyState;
use tidegate_core::values::{Duration, Secret};
use tidegate_core::word::Word;
use tidegate_middlewares::api_key::key::{self, NewKey, NewKeyError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use edit::{Change, Fields};
use error::StoreError;
use store::{Contents, Store};

/// The subcommands.
#[derive(Subcommand)]
pub(super) enum Keys {
    /// Create a key for a consumer and print it. It cannot be shown again: only its hash is stored.
    New(New),
    /// Print the keys of all consumers, or of one, without secrets.
    List(List),
    /// Create the successor of a key and print it. The old key stays valid until the end of `--grace`, and responses to
    /// it say so.
    Rotate(Rotate),
    /// Revoke a key. It stays listed.
    Revoke(Revoke),
}

/// Where keys are stored.
#[derive(Args)]
pub(super) struct Place {
    /// File with consumers, in YAML or TOML. It is edited in place; comments are kept.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Provider of the settings: `consumers`, `file`, `consul`, `redis`, or the name of an instance. By default, the only one that
    /// can store keys.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    provider: Option<String>,
    /// Settings, as for the gateway itself.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "--SETTING[=VALUE]")]
    settings: Vec<String>,
}

#[derive(Args)]
pub(super) struct New {
    /// Name of the consumer, which is created if it does not exist.
    consumer: String,
    /// What the key is for.
    #[arg(long, default_value = "")]
    label: String,
    /// When it expires: a period like `90d` or `12h`, a date, or a time like `2027-01-31T12:00:00Z`.
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// When it becomes valid, written like `--expires`.
    #[arg(long, value_name = "WHEN")]
    not_before: Option<String>,
    /// Scope of the key. May be repeated.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Address or network that may use the key; all by default. May be repeated.
    #[arg(long = "allow", value_name = "CIDR")]
    allowed: Vec<String>,
    /// What the key begins with, so that scanners find it.
    #[arg(long, default_value = key::PREFIX)]
    prefix: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct List {
    /// Name of the consumer; all by default.
    #[arg(long)]
    consumer: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Rotate {
    /// The key's id: the part between the underscores.
    id: String,
    /// How long the old key stays valid: a period like `7d` or `12h`. `0` revokes it now.
    #[arg(long, default_value = "7d", value_name = "PERIOD")]
    grace: String,
    /// When the successor expires; by default, when the old key was to expire.
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// What the successor begins with.
    #[arg(long, default_value = key::PREFIX)]
    prefix: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// The key's id: the part between the underscores.
    id: String,
    #[command(flatten)]
    place: Place,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    /// The settings are wrong.
    #[error("{0}")]
    Settings(Problem),
    /// The place where keys are stored failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key could not be created.
    #[error(transparent)]
    New(#[from] NewKeyError),
    /// An argument is wrong.
    #[error("invalid value `{value}` of {option}: expected {expected}")]
    Argument {
        /// The argument.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// No key has this id.
    #[error("no key `{id}` in {place}")]
    UnknownKey {
        /// The id.
        id: String,
        /// Where it was searched.
        place: String,
    },
    /// The key cannot be rotated.
    #[error("key `{id}` {problem}")]
    NotRotatable {
        /// The id.
        id: String,
        /// Why not.
        problem: &'static str,
    },
}

/// What a command says.
pub(super) struct Said {
    /// For standard output: a new key, or a list.
    pub(super) out: String,
    /// For the person at the terminal.
    pub(super) note: String,
}

impl Keys {
    /// Runs the command.
    pub(super) fn run(&self) -> Result<Said, KeysError> {
        let store = self.place().store()?;
        let contents = store.read()?;
        match self {
            Self::New(new) => new.run(&store, &contents),
            Self::List(list) => Ok(Said {
                out: list::table(&contents, list.consumer.as_deref()),
                note: contents.problems.join("\n"),
            }),
            Self::Rotate(rotate) => rotate.run(&store, &contents),
            Self::Revoke(revoke) => {
                let (consumer, key) = contents.find(&revoke.id, &store)?;
                let fields = fields(&ApiKey { state: KeyState::Revoked.into(), ..ApiKey::default() });
                store.apply(&contents, &[Change::Set { consumer, id: key.id.clone(), fields }])?;
                Ok(Said { out: format!("key {} is revoked", key.id), note: String::new() })
            }
        }
    }

    fn place(&self) -> &Place {
        match self {
            Self::New(new) => &new.place,
            Self::List(list) => &list.place,
            Self::Rotate(rotate) => &rotate.place,
            Self::Revoke(revoke) => &revoke.place,
        }
    }
}

impl Place {
    fn store(&self) -> Result<Store, KeysError> {
        if let Some(path) = &self.file {
            return Ok(Store::file(path)?);
        }
        let loaded = super::load(&self.settings).map_err(|problems| {
            KeysError::Settings(problems.into_iter().next().unwrap_or_else(|| Problem {
                origin: tidegate_config::Origin::Internal,
                object: None,
                message: "invalid settings".to_owned(),
                excerpt: None,
            }))
        })?;
        Ok(Store::of_settings(&loaded.settings, self.provider.as_deref())?)
    }
}

impl New {
    fn run(&self, store: &Store, contents: &Contents) -> Result<Said, KeysError> {
        contents.check_consumer(&self.consumer)?;
        for network in &self.allowed {
            let is_valid = network.parse::<IpNet>().is_ok() || network.parse::<std::net::IpAddr>().is_ok();
            if !is_valid {
                let expected = "an address, or a network like `10.0.0.0/8`";
                return Err(KeysError::Argument { option: "--allow", value: network.clone(), expected });
            }
        }
        let (now, new) = (now(), NewKey::generate(&self.prefix)?);
        let key = ApiKey {
            label: self.label.clone(),
            not_before: when("--not-before", self.not_before.as_deref(), now)?,
            expires: when("--expires", self.expires.as_deref(), now)?,
            allowed_cidrs: self.allowed.clone(),
            scopes: self.scopes.clone(),
            ..stored(&new)
        };
        let add = Change::Add { consumer: self.consumer.clone(), fields: fields(&key) };
        store.apply(contents, &[add])?;
        let until = key.expires.map_or_else(String::new, |at| format!(", which expires at {}", shown(at)));
        let note = format!(
            "key {} of consumer {}{until}, is stored in {}; it cannot be shown again",
            new.id,
            self.consumer,
            store.place()
        );
        Ok(Said { out: text(&new.text), note })
    }
}

impl Rotate {
    fn run(&self, store: &Store, contents: &Contents) -> Result<Said, KeysError> {
        let now = now();
        let (consumer, old) = contents.find(&self.id, store)?;
        let refuse = |problem| KeysError::NotRotatable { id: old.id.clone(), problem };
        match old.state.meaning() {
            Ok(Some(KeyState::Revoked)) => return Err(refuse("is revoked: create another with `keys new`")),
            Ok(Some(KeyState::Grace)) => return Err(refuse("has already been replaced")),
            Ok(Some(KeyState::Active) | None) => {}
            Err(_) => return Err(refuse("has an unknown state")),
        }
        let expires = match &self.expires {
            Some(_) => when("--expires", self.expires.as_deref(), now)?,
            None => old.expires,
        };
        if expires.is_some_and(|at| at.0 <= now) {
            return Err(refuse("is expired, and so would be its successor: use --expires"));
        }
        let grace = period(&self.grace).ok_or_else(|| KeysError::Argument {
            option: "--grace",
            value: self.grace.clone(),
            expected: "a period like `7d` or `12h`",
        })?;
        let new = NewKey::generate(&self.prefix)?;
        let next = ApiKey { expires, state: Word::default(), not_before: None, ..renewed(&old, &new) };
        let end = now + grace;
        let until = old.expires.map_or(end, |at| at.0.min(end));
        let replaced = match grace.is_zero() {
            true => ApiKey { state: KeyState::Revoked.into(), ..ApiKey::default() },
            false => {
                ApiKey { state: KeyState::Grace.into(), expires: Some(Timestamp(until)), ..ApiKey::default() }
            }
        };
        let changes = [
            Change::Add { consumer: consumer.clone(), fields: fields(&next) },
            Change::Set { consumer: consumer.clone(), id: old.id.clone(), fields: fields(&replaced) },
        ];
        store.apply(contents, &changes)?;
        let fate = match grace.is_zero() {
            true => "is revoked".to_owned(),
            false => format!("stays valid until {}", shown(Timestamp(until))),
        };
        let note = format!(
            "key {} of consumer {consumer} replaces {}, which {fate}; it cannot be shown again",
            new.id, old.id
        );
        Ok(Said { out: text(&new.text), note })
    }
}

/// Returns what is stored of a new key.
fn stored(new: &NewKey) -> ApiKey {
    ApiKey { id: new.id.clone(), sha256: Some(Digest(new.hash)), ..ApiKey::default() }
}

/// Returns an old key's options with the id and hash of a new one.
fn renewed(old: &ApiKey, new: &NewKey) -> ApiKey {
    ApiKey { id: new.id.clone(), sha256: Some(Digest(new.hash)), ..old.clone() }
}

/// Returns the options that are set.
fn fields(key: &ApiKey) -> Fields {
    match serde_json::to_value(key) {
        Ok(serde_json::Value::Object(fields)) => fields,
        // Options are always an object.
        _ => Fields::new(),
    }
}

fn text(secret: &Secret) -> String {
    secret.expose().to_owned()
}

fn shown(at: Timestamp) -> String {
    at.0.format(&Rfc3339).unwrap_or_default()
}

/// Returns the time in whole seconds.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}

/// Parses a period (`90d`, `2w`, `12h30m`).
fn period(text: &str) -> Option<std::time::Duration> {
    const DAY: u64 = 24 * 60 * 60;
    let days = |number: &str, length: u64| {
        number.parse::<u32>().ok().map(|number| std::time::Duration::from_secs(u64::from(number) * length))
    };
    match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(number), _) => days(number, DAY),
        (None, Some(number)) => days(number, 7 * DAY),
        (None, None) => text.parse::<Duration>().ok().map(std::time::Duration::from),
    }
}

/// Parses a moment: a period from now, a date, or a time.
fn when(
    option: &'static str,
    text: Option<&str>,
    now: OffsetDateTime,
) -> Result<Option<Timestamp>, KeysError> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || KeysError::Argument {
        option,
        value: text.to_owned(),
        expected: "a period like `90d`, a date, or a time like `2027-01-31T12:00:00Z`",
    };
    let json = serde_json::Value::from(text);
    match (serde_json::from_value::<Timestamp>(json), period(text)) {
        (Ok(at), _) => Ok(Some(at)),
        (Err(_), Some(period)) => {
            let period = time::Duration::try_from(period).map_err(|_| wrong())?;
            now.checked_add(period).map(|at| Some(Timestamp(at))).ok_or_else(wrong)
        }
        (Err(_), None) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_periods_dates_or_times() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let at = |text| shown(when("--expires", Some(text), now).unwrap().unwrap());
        assert_eq!(at("90d"), "1970-04-01T00:00:00Z");
        assert_eq!(at("1w"), "1970-01-08T00:00:00Z");
        assert_eq!(at("1h30m"), "1970-01-01T01:30:00Z");
        assert_eq!(at("2027-01-31"), "2027-01-31T00:00:00Z");
        assert_eq!(at("2027-01-31T12:00:00Z"), "2027-01-31T12:00:00Z");
        assert_eq!(when("--expires", None, now).unwrap(), None);
        for wrong in ["soon", "d", "-1d", "99999999999d", "4294967295w"] {
            assert!(when("--expires", Some(wrong), now).is_err(), "{wrong}");
        }
    }
}
