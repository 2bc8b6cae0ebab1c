//! Names that refer to other objects of a configuration.
//!
//! Providers write names of their own objects without qualification. After the merge, every name is qualified
//! once as `name@provider`; later stages never see an unqualified name.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a name refers to, within the protocol of the referring object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A router.
    Router,
    /// A service.
    Service,
    /// A middleware.
    Middleware,
    /// A transport for connections to servers.
    ServersTransport,
    /// TLS options.
    TlsOptions,
}

/// A name that refers to another object.
///
/// A `String` is shown in qualified form, as in Traefik's API; a [`Reference`] is shown as written.
pub trait Name {
    /// Returns the current name.
    fn name(&self) -> &str;
    /// Adds the provider to an unqualified name.
    fn qualify(&mut self, provider: &str);
    /// Removes this provider.
    fn unqualify(&mut self, provider: &str);
}

impl Name for String {
    fn name(&self) -> &str {
        self
    }

    fn qualify(&mut self, provider: &str) {
        self.push('@');
        self.push_str(provider);
    }

    fn unqualify(&mut self, provider: &str) {
        if let Some(plain) = self.strip_suffix(provider).and_then(|rest| rest.strip_suffix('@')) {
            self.truncate(plain.len());
        }
    }
}

/// A name that is shown as written even after it was qualified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reference {
    name: String,
    /// Length of the written part in bytes.
    written: usize,
}

impl Reference {
    /// Returns the name as written.
    pub fn written(&self) -> &str {
        self.name.get(..self.written).unwrap_or(&self.name)
    }

    /// Returns the name, with its provider once it is qualified.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Returns true if the written name is empty.
    pub fn is_empty(&self) -> bool {
        self.written == 0
    }
}

impl Name for Reference {
    fn name(&self) -> &str {
        &self.name
    }

    fn qualify(&mut self, provider: &str) {
        self.name.qualify(provider);
    }

    fn unqualify(&mut self, provider: &str) {
        self.name.unqualify(provider);
        self.written = self.written.min(self.name.len());
    }
}

impl From<String> for Reference {
    fn from(name: String) -> Self {
        Self { written: name.len(), name }
    }
}

impl From<&str> for Reference {
    fn from(name: &str) -> Self {
        name.to_owned().into()
    }
}

impl From<&String> for Reference {
    fn from(name: &String) -> Self {
        name.clone().into()
    }
}

impl PartialEq<str> for Reference {
    fn eq(&self, other: &str) -> bool {
        self.name == other
    }
}

impl PartialEq<&str> for Reference {
    fn eq(&self, other: &&str) -> bool {
        self.name == *other
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.written())
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// Called with each name that an object refers to.
pub type Visit<'a> = dyn FnMut(Target, &dyn Name) + 'a;
/// Called with each name that an object refers to, for modification.
pub type VisitMut<'a> = dyn FnMut(Target, &mut dyn Name) + 'a;

/// An object that refers to others. [`references!`](crate::references) generates both methods from one list.
pub trait References {
    /// Visits the names that it refers to.
    fn references(&self, _visit: &mut Visit<'_>) {}
    /// Visits the names for modification.
    fn references_mut(&mut self, _visit: &mut VisitMut<'_>) {}
}

/// Generates the two methods of [`References`] (and of [`Build`](crate::Build)) from one list of names: a
/// pattern for the object, and statements that pass each name to `visit`, except optional ones that are
/// absent. The statements are used in both methods, with shared references in one and mutable references in
/// the other.
///
/// ```
/// # use tidegate_core::reference::{References, Target};
/// struct Chain { middlewares: Vec<String> }
///
/// impl References for Chain {
///     tidegate_core::references!(Self { middlewares }, visit => {
///         for name in middlewares {
///             visit(Target::Middleware, name);
///         }
///     });
/// }
/// ```
#[macro_export]
macro_rules! references {
    ($object:pat, $visit:ident => $body:block) => {
        fn references(&self, $visit: &mut $crate::reference::Visit<'_>) {
            let $object = self;
            $body
        }

        fn references_mut(&mut self, $visit: &mut $crate::reference::VisitMut<'_>) {
            let $object = self;
            $body
        }
    };
}

/// Returns the part of a qualified name after its last `@`.
pub fn provider_of(name: &str) -> &str {
    name.rsplit_once('@').map_or("", |(_, provider)| provider)
}

/// Name of the TLS options that belong to no provider.
const DEFAULT_TLS_OPTIONS: &str = "default";

/// Returns true for an unqualified name, which refers to an object of the same provider.
pub fn is_plain(target: Target, name: &str) -> bool {
    let belongs_to_none = target == Target::TlsOptions && name == DEFAULT_TLS_OPTIONS;
    !belongs_to_none && !name.contains('@')
}

/// Qualifies every unqualified name in an object of this provider.
pub fn qualify<T: References + ?Sized>(object: &mut T, provider: &str) {
    object.references_mut(&mut |target, name| {
        if is_plain(target, name.name()) {
            name.qualify(provider);
        }
    });
}

/// Returns true if an object contains an unqualified name.
pub fn has_plain<T: References + ?Sized>(object: &T) -> bool {
    let mut found = false;
    object.references(&mut |target, name| found |= is_plain(target, name.name()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Object {
        middlewares: Vec<String>,
        service: Reference,
        options: Reference,
        transport: Option<String>,
    }

    impl References for Object {
        references!(Self { middlewares, service, options, transport }, visit => {
            for name in middlewares {
                visit(Target::Middleware, name);
            }
            visit(Target::Service, service);
            if !options.is_empty() {
                visit(Target::TlsOptions, options);
            }
            if let Some(name) = transport {
                visit(Target::ServersTransport, name);
            }
        });
    }

    #[test]
    fn unqualified_names_are_qualified_once() {
        let mut object = Object {
            middlewares: vec!["a".into(), "b@docker".into()],
            service: "s".into(),
            options: "default".into(),
            transport: Some("default".into()),
        };
        for _ in 0..2 {
            qualify(&mut object, "file");
            assert!(!has_plain(&object));
            assert_eq!(object.middlewares, ["a@file", "b@docker"]);
            assert_eq!((object.service.as_str(), object.service.written()), ("s@file", "s"));
            assert_eq!(object.options, "default", "it belongs to no provider");
            assert_eq!(object.transport.as_deref(), Some("default@file"));
        }
        object.references_mut(&mut |_, name| name.unqualify("file"));
        assert_eq!(object.middlewares, ["a", "b@docker"]);
        assert_eq!((object.service.as_str(), object.service.written()), ("s", "s"));
        let mut empty = Object::default();
        qualify(&mut empty, "file");
        assert_eq!((empty.service.as_str(), empty.service.written()), ("@file", ""), "as in Traefik");
        assert!(empty.service.is_empty() && empty.options.as_str().is_empty(), "the latter may be left out");
    }
}
