//! Resolves the requests of middlewares that are being built.

use std::sync::Arc;

use tidegate_config::middleware::Middleware as Options;
use tidegate_config::service::Service as ServiceOptions;
use tidegate_core::announced::PurgesHandle;
use tidegate_core::building::{State, StateKey, Task};
use tidegate_core::ldap::{LdapClient, LdapOptions};
use tidegate_core::store::{SharedStore, StoreOptions};
use tidegate_core::{
    Access, BoxFuture, BuildContext, BuildError, Clock, ConsumersHandle, Handler, HttpClient, Middleware,
    Resolver,
};

use super::builder::Builder;
use super::tasks;

impl Resolver for Builder<'_> {
    fn service(&self, name: &str) -> Result<Arc<dyn Handler>, BuildError> {
        let service = self.instance::<ServiceOptions>(name)?;
        Ok(service)
    }

    fn middleware(&self, name: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        self.instance::<Options>(name)
    }

    fn access(&self, name: &str) -> Option<Access> {
        self.config.http.middlewares.get(name)?.options.access(&BuildContext::new(name, self))
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        Self::file(self, path)
    }

    fn client(&self) -> Arc<dyn HttpClient> {
        self.environment.client.clone()
    }

    fn store(&self, options: &StoreOptions) -> Result<Arc<dyn SharedStore>, BuildError> {
        self.stores.get(options)
    }

    fn ldap(&self, options: &LdapOptions) -> Result<Arc<dyn LdapClient>, BuildError> {
        let client = tidegate_clients::ldap::Client::new(options, self.environment.control.clone())
            .map_err(|error| BuildError::new(format!("{}: {}", error.option, error.message)))?;
        if client.is_exposed() {
            tracing::warn!(url = options.url, "passwords are sent unencrypted: use `ldaps://` or startTLS");
        }
        Ok(Arc::new(client))
    }

    fn consumers(&self) -> ConsumersHandle {
        self.environment.consumers.clone()
    }

    fn announced_purges(&self) -> PurgesHandle {
        self.environment.purges.clone()
    }

    fn clock(&self) -> Clock {
        self.environment.clock.clone()
    }

    fn state(&self, key: &StateKey) -> Option<State> {
        let found = self.known_state(key)?;
        self.keep_state(key.clone(), found.clone());
        Some(found)
    }

    fn keep_state(&self, key: StateKey, state: State) {
        Self::keep_state(self, key, state);
    }

    fn spawn(&self, label: String, future: BoxFuture<'static, ()>) -> Task {
        let (task, slot) = tasks::prepare(label, future);
        self.note_task(slot);
        task
    }
}
