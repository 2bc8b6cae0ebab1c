//! Where keys are stored: a file, Consul or Redis.

use std::collections::BTreeMap;
use std::path::Path;

use tidegate_config::consumer::ApiKey;
use tidegate_config::decode::{decode_config, decode_consumers};
use tidegate_config::tree::Node;
use tidegate_config::{Kind, Problem};
use tidegate_middlewares::api_key;
use tidegate_providers::Options as ProviderOptions;

use super::KeysError;
use super::edit::{self, Change};
use super::error::StoreError;
use super::file::KeyFile;
use super::kv::{KvContents, KvStore};
use crate::settings::Settings;

/// A place where keys are stored.
pub(super) enum Store {
    File(KeyFile),
    Kv(Box<KvStore>),
}

/// The keys in a place.
pub(super) struct Contents {
    /// The keys of consumers.
    pub(super) consumers: BTreeMap<String, Vec<ApiKey>>,
    /// What is wrong with consumers, with its place.
    pub(super) problems: Vec<String>,
    broken: BTreeMap<String, String>,
    /// The text of the file, or the keys of the store.
    source: Source,
}

/// What was read.
enum Source {
    /// The text; `None` if there is no file yet.
    Text(Option<String>),
    Kv(KvContents),
}

impl Store {
    /// Returns a file.
    pub(super) fn file(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::File(KeyFile::new(path, false)?))
    }

    /// Returns the place that the settings name.
    pub(super) fn of_settings(settings: &Settings, name: Option<&str>) -> Result<Self, StoreError> {
        let chosen = settings.providers.chosen();
        let named = chosen.iter().map(|one| (one.name.unwrap_or(one.options.kind()), &one.options));
        let mut able: Vec<_> = named.filter(|(_, options)| can_store(options)).collect();
        match name {
            Some(name) => able.retain(|(own, _)| own.eq_ignore_ascii_case(name)),
            // It has no other purpose.
            None if able.iter().any(|(_, options)| matches!(options, ProviderOptions::Consumers(_))) => {
                able.retain(|(_, options)| matches!(options, ProviderOptions::Consumers(_)));
            }
            None => {}
        }
        match able[..] {
            [(_, options)] => Self::of_provider(options),
            [] => Err(StoreError::NoPlace(match name {
                Some(name) => format!(
                    "provider `{name}` cannot store keys: expected consumers, consul, redis, or file with `filename`; for a folder of files, use --file"
                ),
                None => "no place for keys: use --file, or settings with the provider consumers, consul, redis, or file with `filename`".into(),
            })),
            _ => {
                let names: Vec<&str> = able.iter().map(|(name, _)| *name).collect();
                Err(StoreError::NoPlace(format!("keys can be stored in several places: choose with --provider: {}", names.join(", "))))
            }
        }
    }

    fn of_provider(options: &ProviderOptions) -> Result<Self, StoreError> {
        match options {
            ProviderOptions::File(file) => Self::file(Path::new(&file.filename)),
            ProviderOptions::Consumers(file) => {
                Ok(Self::File(KeyFile::new(Path::new(&file.filename), true)?))
            }
            ProviderOptions::Consul(consul) => Ok(Self::Kv(Box::new(KvStore::consul(consul)?))),
            ProviderOptions::Redis(redis) => Ok(Self::Kv(Box::new(KvStore::redis(redis)?))),
            _ => Err(StoreError::NoPlace("this provider cannot store keys".into())),
        }
    }

    /// Returns the place for messages.
    pub(super) fn place(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Kv(store) => store.place(),
        }
    }

    /// Reads all keys.
    pub(super) fn read(&self) -> Result<Contents, StoreError> {
        match self {
            Self::File(file) => {
                let (node, text) = file.read()?;
                Ok(Contents::new(&node, Vec::new(), Source::Text(text)))
            }
            Self::Kv(store) => {
                let (node, problems, pairs) = store.read()?;
                Ok(Contents::new(&node, problems, Source::Kv(pairs)))
            }
        }
    }

    /// Applies changes, all of them or none. Fails if something has changed since the contents were read.
    pub(super) fn apply(&self, contents: &Contents, changes: &[Change]) -> Result<(), StoreError> {
        match (self, &contents.source) {
            (Self::File(file), Source::Text(text)) => file.apply(text.as_deref(), changes),
            (Self::Kv(store), Source::Kv(pairs)) => store.apply(pairs, changes),
            _ => Err(StoreError::Conflict(self.place())),
        }
    }
}

fn can_store(options: &ProviderOptions) -> bool {
    match options {
        ProviderOptions::File(file) => !file.filename.is_empty(),
        ProviderOptions::Consumers(file) => !file.filename.is_empty(),
        ProviderOptions::Consul(_) | ProviderOptions::Redis(_) => true,
        _ => false,
    }
}

impl Contents {
    /// Decodes the consumers of a configuration.
    fn new(node: &Node, more: Vec<Problem>, source: Source) -> Self {
        let mut provided = match edit::is_dedicated(node) {
            true => decode_consumers(node),
            false => decode_config(node),
        };
        provided.problems.extend(more);
        let consumers = &provided.config.http.consumers;
        let keys = |(name, consumer): (&String, &std::sync::Arc<tidegate_config::consumer::Consumer>)| {
            (name.clone(), consumer.credentials.api_keys.clone())
        };
        let consumers = consumers.iter().map(keys).collect();
        let (mut problems, mut broken) = (Vec::new(), BTreeMap::new());
        for problem in &provided.problems {
            if let Some(object) = problem.object.as_ref().filter(|object| object.kind == Kind::Consumer) {
                problems.push(problem.to_string());
                broken.entry(object.name.clone()).or_insert_with(|| problem.to_string());
            }
        }
        Self { consumers, problems, broken, source }
    }

    /// Refuses consumers whose options are broken.
    pub(super) fn check_consumer(&self, name: &str) -> Result<(), StoreError> {
        if name.is_empty() || name.contains(['/', '@']) || name.chars().any(char::is_control) {
            return Err(StoreError::Name(name.to_owned()));
        }
        match self.broken.get(name) {
            Some(problem) => Err(StoreError::Broken(problem.clone())),
            None => Ok(()),
        }
    }

    /// Finds a key by its id, or by the whole key.
    pub(super) fn find(&self, id: &str, store: &Store) -> Result<(String, ApiKey), KeysError> {
        let id = api_key::key::ApiKey::parse(id).map_or(id, |key| key.id());
        let mut all = self.consumers.iter().flat_map(|(name, keys)| keys.iter().map(move |key| (name, key)));
        let found = all.find(|(_, key)| !key.id.is_empty() && key.id == id);
        match found {
            Some((name, key)) => Ok((name.clone(), key.clone())),
            None => match self.problems.first() {
                // It may be one of a broken consumer.
                Some(problem) => Err(StoreError::Broken(problem.clone()).into()),
                None => Err(KeysError::UnknownKey { id: id.to_owned(), place: store.place() }),
            },
        }
    }
}
