//! Plug-ins for Traefik that have a native equivalent: a configuration that names one runs unchanged.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::RwLock;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use tidegate_middlewares::crowdsec::Crowdsec;
use tidegate_middlewares::http_cache::HttpCache;
use tidegate_middlewares::{Kind, Options};

/// The key of middlewares that are plug-ins.
pub(crate) const PLUGIN: &str = "plugin";

/// An equivalent of a plug-in.
#[derive(Clone, Copy)]
struct Native {
    /// Module of the plug-in.
    module: &'static str,
    /// The kind of middleware with the plug-in's options.
    kind: &'static str,
    /// Returns the options of a plug-in without any.
    empty: fn() -> Options,
    /// Applies the defaults of the plug-in where they differ from the middleware's.
    adapt: fn(Options) -> Options,
}

/// The plug-ins that have one.
const NATIVE: &[Native] = &[Native {
    module: "github.com/maxlerebourg/crowdsec-bouncer-traefik-plugin",
    kind: "crowdsec",
    empty: || Options::crowdsec(Crowdsec::default()),
    adapt: |options| match options {
        Options::crowdsec(options) => Options::crowdsec(options.as_plugin()),
        other => other,
    },
}];

/// A middleware that Traefik Hub has built in, and that its documentation writes as a plug-in.
const HUB: Native = Native {
    module: "",
    kind: "httpCache",
    empty: || Options::httpCache(HttpCache::default()),
    adapt: |options| options,
};

/// Equivalents by the name that the settings give the plug-in, in lower case.
static DECLARED: RwLock<BTreeMap<String, Native>> = RwLock::new(BTreeMap::new());

/// Returns true if the plug-in with this module (`moduleName`) has an equivalent.
pub fn is_native(module: &str) -> bool {
    native(module).is_some()
}

/// Declares a plug-in of the settings (`experimental.plugins.<name>.moduleName`). Plug-ins without an equivalent are
/// ignored. Call it before the first configuration is read; it takes effect for the whole process.
pub fn declare(name: &str, module: &str) {
    if let Some(native) = native(module) {
        DECLARED.write().insert(name.to_ascii_lowercase(), native);
    }
}

fn native(module: &str) -> Option<Native> {
    NATIVE.iter().find(|native| native.module == module.trim()).copied()
}

/// Deserialises the value of `plugin`: the name of one plug-in, with its options. `None` for an absent value.
pub(crate) struct Plugin;

impl<'de> DeserializeSeed<'de> for Plugin {
    type Value = Option<Options>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Plugin {
    type Value = Option<Options>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of one plug-in with its options")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some(name) = map.next_key::<String>()? else { return Ok(None) };
        let declared = DECLARED.read().get(&name.to_ascii_lowercase()).copied();
        let declared = declared.or_else(|| name.eq_ignore_ascii_case(HUB.kind).then_some(HUB));
        let Some(native) = declared else {
            return Err(de::Error::custom(format_args!(
                "plugins are not supported: the settings name no plug-in `{name}` that has a native equivalent"
            )));
        };
        let options = map.next_value_seed(Kind(native.kind))?.unwrap_or_else(native.empty);
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(de::Error::custom("several plug-ins in one middleware are not possible"));
        }
        Ok(Some((native.adapt)(options)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Middleware;
    use crate::decode::{DecodeError, decode};
    use crate::formats::yaml;

    const MODULE: &str = "github.com/maxlerebourg/crowdsec-bouncer-traefik-plugin";

    fn read(text: &str) -> Result<Middleware, DecodeError> {
        decode(&yaml::read("f.yml", text.as_bytes()).expect("valid YAML"))
    }

    #[test]
    fn a_plug_in_with_an_equivalent_has_its_options_as_text_or_not() {
        declare("bouncerOfTests", MODULE);
        let text = "plugin:
  bouncerOfTests:
    Enabled: 'true'
    crowdsecMode: stream
    crowdsecLapiKey: secret-key
    updateIntervalSeconds: '15'
    crowdsecLapiTLSInsecureVerify: 'false'
    clientTrustedIPs: 10.0.0.0/8,192.168.0.0/16
when: Method(`GET`)";
        let plugin = read(text).unwrap();
        let native = text.replace("  bouncerOfTests:\n", "").replace("plugin:", "crowdsec:");
        assert_eq!(plugin, read(&native).unwrap());
        assert_eq!((plugin.kind(), plugin.when.as_str()), ("crowdsec", "Method(`GET`)"));
        let shown = serde_json::to_string(&plugin).unwrap();
        assert!(!shown.contains("secret-key"), "{shown}");
    }

    #[test]
    fn what_traefik_hub_has_built_in_needs_no_declaration() {
        let native = read("httpCache: {maxTtl: 600, store: {memory: {limit: 3Gi}}}").unwrap();
        assert_eq!(
            read("plugin: {httpCache: {maxTtl: 600, store: {memory: {limit: 3Gi}}}}").unwrap(),
            native
        );
        assert_eq!(
            read("plugin: {httpcache: {maxttl: '600', store: {memory: {limit: 3Gi}}}}").unwrap(),
            native
        );
        assert_eq!(read("plugin: {httpCache: }").unwrap(), read("httpCache: {}").unwrap());
        assert!(read("plugin: {httpCaches: {}}").is_err());
    }

    #[test]
    fn labels_name_it_in_lower_case() {
        declare("labelOfTests", MODULE);
        let labels = [
            ("traefik.http.middlewares.m.plugin.labeloftests.enabled", "true"),
            ("traefik.http.middlewares.m.plugin.labeloftests.crowdseclapikey", "k"),
            ("traefik.http.middlewares.m.plugin.labeloftests.updateintervalseconds", "7"),
            ("traefik.http.middlewares.m.plugin.labeloftests.forwardedheaderstrustedips[0]", "10.0.0.1"),
            ("traefik.http.middlewares.m.plugin.labeloftests.clienttrustedips", "10.0.0.2, 10.0.0.3"),
        ];
        let (node, _) = crate::formats::labels::read(labels, &["traefik"], |_| crate::Origin::Internal);
        let provided = crate::decode_config(&node);
        assert!(provided.problems.is_empty(), "{:?}", provided.problems);
        let Options::crowdsec(options) = &provided.config.http.middlewares["m"].options else {
            panic!("another kind")
        };
        assert_eq!((options.enabled, options.update_interval_seconds), (Some(true), 7));
        assert_eq!(options.forwarded_headers_trusted_ips, ["10.0.0.1"]);
        assert_eq!(options.client_trusted_ips, ["10.0.0.2", "10.0.0.3"]);
    }

    #[test]
    fn the_plug_in_does_nothing_unless_it_is_enabled() {
        declare("idleOfTests", MODULE);
        for text in ["plugin: {idleoftests: {}}", "plugin: {idleOfTests: }"] {
            let Options::crowdsec(options) = read(text).unwrap().options else { panic!("another kind") };
            assert_eq!(options.enabled, Some(false), "{text}");
        }
        let Options::crowdsec(options) = read("crowdsec: {}").unwrap().options else {
            panic!("another kind")
        };
        assert_eq!(options.enabled, None);
    }

    #[test]
    fn other_plug_ins_and_mistakes_are_refused() {
        declare("namedOfTests", MODULE);
        declare("foreignOfTests", "github.com/x/y");
        for (text, expected) in [
            (
                "plugin: {foreignOfTests: {a: b}}",
                "plugins are not supported: the settings name no plug-in `foreignOfTests`",
            ),
            ("plugin: {unknownOfTests: {a: b}}", "plugins are not supported"),
            (
                "plugin: {namedOfTests: {crowdsecMod: x}}",
                "plugin.namedOfTests.crowdsecMod: unknown key: did you mean `crowdsecMode`?",
            ),
            ("plugin: {namedOfTests: {}, other: {}}", "several plug-ins in one middleware"),
            ("plugin: {namedOfTests: {}}\naddPrefix: {}", "multi-types middleware not supported"),
            ("plugin: {}", "invalid middleware type or middleware does not exist"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
