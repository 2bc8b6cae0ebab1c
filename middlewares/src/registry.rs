//! Generates the `Options` enum and its methods from the list of middlewares.

macro_rules! registry {
    ($($key:ident: $module:ident::$options:ident,)*) => {
        /// The options of one middleware of any kind.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(non_camel_case_types, missing_docs, reason = "the variants are the keys that people write")]
        #[allow(clippy::large_enum_variant, reason = "options are few, and read only when a snapshot is built")]
        pub enum Options {
            $($key($module::$options),)*
            Runtime(crate::runtime::Runtime),
        }

        /// The keys of all built-in kinds, as written in a configuration.
        pub const KINDS: &[&str] = &[$(stringify!($key),)*];

        impl Options {
            /// Returns the key of this kind (`stripPrefix`).
            pub fn kind(&self) -> &str {
                match self {
                    $(Self::$key(_) => stringify!($key),)*
                    Self::Runtime(options) => options.kind(),
                }
            }

            /// Returns true when each router needs its own instance.
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

            /// Returns how the middleware decides who may pass, for kinds that only decide that.
            pub fn access(
                &self,
                context: &tidegate_core::BuildContext<'_>,
            ) -> Option<tidegate_core::Access> {
                match self {
                    $(Self::$key(options) => tidegate_core::Build::access(options, context),)*
                    Self::Runtime(options) => tidegate_core::Build::access(options, context),
                }
            }

            /// Serialises the options into a map, under the key of their kind.
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

        /// Deserialises the options of the built-in kind with this key; `None` if there is no such kind.
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
