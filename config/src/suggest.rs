//! What to say of a name that is not known: the one that was meant, or those that there are.

pub use tidegate_core::expression::nearest;

/// Keys of Traefik's model that its Kubernetes providers fill in; no file and no label can set them.
const OF_KUBERNETES: &[&str] = &[
    "appRoot",
    "authTLSPassCertificateToUpstream",
    "disableRequestBuffer",
    "disableResponseBuffer",
    "fenced",
    "metadata",
    "nginxHeaders",
    "nginxUpstreamHashBy",
    "requestHeaderModifier",
    "requestRedirect",
    "responseHeaderModifier",
    "rewriteTarget",
    "snippet",
    "upstreamVHost",
    "URLRewrite",
];

/// Why a key of Traefik's is none here; else "did you mean `x`?", or the names that are possible.
pub fn alternatives(name: &str, known: &[&str]) -> String {
    if OF_KUBERNETES.iter().any(|key| key.eq_ignore_ascii_case(name)) {
        return "only Traefik's Kubernetes providers make it, nobody can write it".into();
    }
    if name.eq_ignore_ascii_case("plugin") {
        return "plugins are not supported".into();
    }
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => expected(known),
    }
}

/// "expected `a` or `b`".
pub fn expected(known: &[&str]) -> String {
    match known.split_last() {
        None => "no key is expected here".into(),
        Some((only, [])) => format!("expected `{only}`"),
        Some((last, front)) => format!("expected `{}` or `{last}`", front.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_name_everything_that_is_possible() {
        assert_eq!(alternatives("zzz", &["a", "b", "c"]), "expected `a`, `b` or `c`");
        assert_eq!(alternatives("rulr", &["rule", "b"]), "did you mean `rule`?");
        assert_eq!(alternatives("urlrewrite", &["rule"]), "only Traefik's Kubernetes providers make it, nobody can write it");
        assert_eq!(alternatives("plugin", &["rule"]), "plugins are not supported");
    }
}
