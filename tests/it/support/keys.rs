//! API keys of consumers.

use std::fmt;

use tidegate_middlewares::api_key::key::{ApiKey, NewKey};

/// A new key.
pub struct Key {
    pub text: String,
    pub id: String,
    pub sha256: String,
}

impl Key {
    pub fn new() -> Self {
        let new = NewKey::generate("tg").unwrap();
        let sha256 = new.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text: new.text.expose().to_owned(), id: new.id, sha256 }
    }

    /// Returns a consumer with this key and these options of it.
    pub fn consumer(&self, name: &str, options: &str) -> String {
        format!("    {name}: {{groups: [{name}s], credentials: {{apiKeys: [{{{self}{options}}}]}}}}\n")
    }

    /// Returns the line of a request head with the key.
    pub fn header(&self) -> String {
        format!("X-API-Key: {}\r\n", self.text)
    }

    /// Returns the secret, which must not be shown anywhere.
    pub fn secret(&self) -> &str {
        ApiKey::parse(&self.text).unwrap().secret()
    }
}

impl fmt::Display for Key {
    /// Writes the options that are stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id: {}, sha256: {}", self.id, self.sha256)
    }
}
