//! Turns the list of middlewares into the `Options` enum and what can be asked of it.

macro_rules! registry {
    ($($key:ident: $module:ident::$options:ident,)*) => {
        /// The options of one middleware: exactly one kind.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(non_camel_case_types, missing_docs, reason = "the variants are the keys that people write")]
        #[allow(clippy::large_enum_variant, reason = "options are few, and read only when a snapshot is built")]
        pub enum Options {
            $($key($module::$options),)*
            Runtime(crate::runtime::Runtime),
        }

        /// The keys of all kinds that are built in, as they are written in a configuration.
        pub const KINDS: &[&str] = &[$(stringify!($key),)*];

        impl Options {
            /// The key of this kind (`stripPrefix`).
            pub fn kind(&self) -> &str {
                match self {
                    $(Self::$key(_) => stringify!($key),)*
                    Self::Runtime(options) => options.kind(),
                }
            }

            /// True when each router needs an instance of its own.
            pub fn is_per_router(&self) -> bool {
                match self {
                    $(Self::$key(_) => <$module::$options as tidegate_core::Build>::PER_ROUTER,)*
                    Self::Runtime(options) => options.is_per_router(),
                }
            }

            /// Builds the middleware.
            pub fn build(
                &self,
                context: &tidegate_core::BuildContext<'_>,
            ) -> Result<std::sync::Arc<dyn tidegate_core::Middleware>, tidegate_core::BuildError> {
                match self {
                    $(Self::$key(options) => tidegate_core::Build::build(options, context),)*
                    Self::Runtime(options) => tidegate_core::Build::build(options, context),
                }
            }

            /// How the middleware decides who may pass, for kinds that do that and nothing else.
            pub fn access(
                &self,
                context: &tidegate_core::BuildContext<'_>,
            ) -> Option<tidegate_core::Access> {
                match self {
                    $(Self::$key(options) => tidegate_core::Build::access(options, context),)*
                    Self::Runtime(options) => tidegate_core::Build::access(options, context),
                }
            }

            /// Writes the options into a map, under the key of their kind.
            pub fn serialize_into<M: serde::ser::SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
                match self {
                    $(Self::$key(options) => map.serialize_entry(stringify!($key), options),)*
                    Self::Runtime(options) => map.serialize_entry(options.kind(), options),
                }
            }
        }

        impl tidegate_core::reference::References for Options {
            fn references(&self, visit: &mut tidegate_core::reference::Visit<'_>) {
                match self {
                    $(Self::$key(options) => tidegate_core::Build::references(options, visit),)*
                    Self::Runtime(options) => tidegate_core::Build::references(options, visit),
                }
            }

            fn references_mut(&mut self, visit: &mut tidegate_core::reference::VisitMut<'_>) {
                match self {
                    $(Self::$key(options) => tidegate_core::Build::references_mut(options, visit),)*
                    Self::Runtime(options) => tidegate_core::Build::references_mut(options, visit),
                }
            }
        }

        /// Reads the options of the built-in kind with this key; `None` where none are given.
        pub struct Kind<'a>(pub &'a str);

        impl<'de> serde::de::DeserializeSeed<'de> for Kind<'_> {
            type Value = Option<Options>;

            fn deserialize<D: serde::Deserializer<'de>>(self, options: D) -> Result<Self::Value, D::Error> {
                match self.0 {
                    $(stringify!($key) => {
                        <Option<$module::$options> as serde::Deserialize>::deserialize(options)
                            .map(|options| options.map(Options::$key))
                    })*
                    other => Err(serde::de::Error::unknown_field(other, KINDS)),
                }
            }
        }
    };
}
