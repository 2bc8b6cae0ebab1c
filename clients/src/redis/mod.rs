//! Redis: connections and server discovery.

mod connection;
mod master;
mod sentinel;
mod stream;

use tidegate_core::values::Secret;

pub use ::redis::cluster_routing::Slot;
pub use ::redis::{Cmd, FromRedisValue, ServerError, ServerErrorKind, Value, cmd, from_redis_value};
pub use connection::{
    Commands, Connection, Driver, Login, MAX_QUEUE, RedisError, Subscription, connector, error_text,
    redirection,
};
pub use master::{Master, MasterError};
pub use sentinel::{Sentinel, SentinelError};

use crate::OptionError;
use crate::connect::{Connector, Tls};

/// The option that holds endpoints.
const ENDPOINTS: &str = "endpoints";

/// The address and connection options of a database.
#[derive(Clone, Debug)]
pub struct Database {
    /// Servers, or sentinels; if one fails, the next one is tried.
    pub endpoints: Vec<String>,
    /// User name; empty for the default user.
    pub username: String,
    /// Password; empty for no login.
    pub password: Secret,
    /// Number of the database.
    pub db: i64,
    /// TLS options for servers and sentinels.
    pub tls: Option<Tls>,
    /// Sentinel options, to discover the server.
    pub sentinel: Option<Sentinel>,
}

impl Database {
    /// Validates the options and returns a connector for each endpoint.
    pub fn endpoints(&self) -> Result<Vec<Connector>, OptionError> {
        let connector = |endpoint: &String| self.connector(endpoint);
        let endpoints: Vec<Connector> = self.endpoints.iter().map(connector).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(OptionError::new(ENDPOINTS, "expected at least one, such as `127.0.0.1:6379`"));
        }
        if self.db < 0 {
            return Err(OptionError::new("db", "expected 0 or more"));
        }
        if let Some(sentinel) = &self.sentinel {
            sentinel.check()?;
        }
        Ok(endpoints)
    }

    /// Returns the credentials for servers; sentinels have separate ones.
    pub fn login(&self) -> Login<'_> {
        Login { username: &self.username, password: &self.password, db: self.db }
    }

    /// Returns a connector for one server. Sentinels and servers share the TLS options.
    fn connector(&self, endpoint: &str) -> Result<Connector, OptionError> {
        connector(ENDPOINTS, endpoint, self.tls.as_ref())
    }
}
