//! The kinds of named objects, and the section of each, in one list.
//!
//! What applies to objects of every kind is written once for any [`Object`] and passed to
//! [`for_each_section`] or [`Kind::with_type`]. A new kind needs a line in the list and a map in [`Config`].

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_core::reference::References;

use crate::{Config, Map, consumer, middleware, plan, router, service, tcp, tls, transport};

/// A named object of a configuration.
pub trait Object:
    References + Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Its kind.
    const KIND: Kind;

    /// Returns all objects of this kind.
    fn map(config: &Config) -> &Map<Self>;

    /// Returns all objects of this kind for modification.
    fn map_mut(config: &mut Config) -> &mut Map<Self>;
}

/// An operation on the objects of every kind.
pub trait ForEachSection {
    /// Applies the operation to one kind.
    fn section<T: Object>(&mut self);
}

/// An operation on one kind.
pub trait WithType {
    /// The result of the operation.
    type Output;

    /// Applies the operation.
    fn with<T: Object>(self) -> Self::Output;
}

macro_rules! sections {
    ($($kind:ident $type:ty: $section:ident $map:ident, $section_key:literal $part_key:literal, $title:literal;)*) => {
        /// The kinds of named objects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[allow(missing_docs, reason = "the names are the kinds")]
        pub enum Kind {
            $($kind,)*
            Certificate,
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)* Self::Certificate];

            /// Returns the keys of its section, such as `http` and `routers`.
            pub fn keys(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$kind => ($section_key, $part_key),)*
                    Self::Certificate => ("tls", "certificates"),
                }
            }

            /// Applies an operation with the type of its objects; `None` for certificates.
            pub fn with_type<W: WithType>(self, work: W) -> Option<W::Output> {
                match self {
                    $(Self::$kind => Some(work.with::<$type>()),)*
                    Self::Certificate => None,
                }
            }
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$kind => $title,)*
                    Self::Certificate => "certificate",
                })
            }
        }

        $(impl Object for $type {
            const KIND: Kind = Kind::$kind;

            fn map(config: &Config) -> &Map<Self> {
                &config.$section.$map
            }

            fn map_mut(config: &mut Config) -> &mut Map<Self> {
                &mut config.$section.$map
            }
        })*

        /// Applies an operation to every kind of named object.
        pub fn for_each_section(work: &mut impl ForEachSection) {
            $(work.section::<$type>();)*
        }
    };
}

sections! {
    Router router::Router: http routers, "http" "routers", "router";
    Service service::Service: http services, "http" "services", "service";
    Middleware middleware::Middleware: http middlewares, "http" "middlewares", "middleware";
    ServersTransport transport::ServersTransport: http servers_transports, "http" "serversTransports", "servers transport";
    Consumer consumer::Consumer: http consumers, "http" "consumers", "consumer";
    Plan plan::Plan: http plans, "http" "plans", "plan";
    TcpRouter tcp::TcpRouter: tcp routers, "tcp" "routers", "TCP router";
    TcpService tcp::TcpService: tcp services, "tcp" "services", "TCP service";
    TcpMiddleware tcp::TcpMiddleware: tcp middlewares, "tcp" "middlewares", "TCP middleware";
    TcpServersTransport tcp::TcpServersTransport: tcp servers_transports, "tcp" "serversTransports", "TCP servers transport";
    UdpRouter tcp::UdpRouter: udp routers, "udp" "routers", "UDP router";
    UdpService tcp::UdpService: udp services, "udp" "services", "UDP service";
    TlsOptions tls::TlsOptions: tls options, "tls" "options", "TLS options";
    TlsStore tls::Store: tls stores, "tls" "stores", "TLS store";
}

impl Kind {
    /// Returns the kind of the objects in a section, such as `http` and `routers`. Ignores case.
    pub fn of_section(section: &str, part: &str) -> Option<Self> {
        let is_here = |kind: &Self| {
            let keys = kind.keys();
            keys.0.eq_ignore_ascii_case(section) && keys.1.eq_ignore_ascii_case(part)
        };
        Self::ALL.iter().copied().find(is_here)
    }

    /// Returns true for objects whose only key determines their kind.
    pub(crate) fn has_one_key(self) -> bool {
        self.keys().1 == "middlewares"
    }

    /// Returns true for HTTP, TCP and UDP routers.
    pub fn is_router(self) -> bool {
        self.keys().1 == "routers"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All kinds except certificates, which have no names.
    fn named() -> &'static [Kind] {
        Kind::ALL.split_last().unwrap().1
    }

    struct Empty<'a>(&'a mut Config, Vec<Kind>);

    impl ForEachSection for Empty<'_> {
        fn section<T: Object>(&mut self) {
            T::map_mut(self.0).clear();
            self.1.push(T::KIND);
        }
    }

    struct KindOf;

    impl WithType for KindOf {
        type Output = Kind;

        fn with<T: Object>(self) -> Kind {
            T::KIND
        }
    }

    #[test]
    fn every_section_is_visited() {
        let text = |kind: &Kind| {
            let (section, part) = kind.keys();
            let object = match kind {
                Kind::Middleware => r#"{"stripPrefix": {}}"#,
                Kind::TcpMiddleware => r#"{"inFlightConn": {"amount": 1}}"#,
                _ => "{}",
            };
            (section, format!(r#""{part}": {{"x": {object}}}"#))
        };
        let mut sections: std::collections::BTreeMap<&str, Vec<String>> = Default::default();
        for (section, part) in named().iter().map(text) {
            sections.entry(section).or_default().push(part);
        }
        let sections: Vec<String> = sections
            .iter()
            .map(|(section, parts)| format!(r#""{section}": {{{}}}"#, parts.join(",")))
            .collect();
        let mut config: Config = serde_json::from_str(&format!("{{{}}}", sections.join(","))).unwrap();
        assert_ne!(config, Config::default());
        let mut seen = Empty(&mut config, Vec::new());
        for_each_section(&mut seen);
        assert_eq!(seen.1, named());
        assert_eq!(config, Config::default());
    }

    #[test]
    fn kinds_are_found_by_their_keys_and_know_their_types() {
        for &kind in named() {
            let (section, part) = kind.keys();
            assert_eq!(Kind::of_section(&section.to_uppercase(), part), Some(kind));
            assert_eq!(kind.with_type(KindOf), Some(kind));
        }
        assert_eq!(Kind::of_section("tls", "certificates"), Some(Kind::Certificate));
        assert_eq!(Kind::of_section("udp", "middlewares"), None);
        assert_eq!(Kind::Certificate.with_type(KindOf), None);
    }
}
