//! Hints for unknown names: the one that was probably meant, or all possible ones.

pub use tidegate_core::expression::nearest;

/// Keys in Traefik's model that only its Kubernetes providers set; neither files nor labels can.
const KUBERNETES_KEYS: &[&str] = &[
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

/// Explains why a key of Traefik's is not supported; otherwise returns "did you mean `x`?", or the possible
/// names.
pub fn alternatives(name: &str, known: &[&str]) -> String {
    if KUBERNETES_KEYS.iter().any(|key| key.eq_ignore_ascii_case(name)) {
        return "only Traefik's Kubernetes providers set it".into();
    }
    if name.eq_ignore_ascii_case("plugin") {
        return "plugins are not supported".into();
    }
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => expected(known),
    }
}

/// Returns "expected `a` or `b`".
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
    fn alternatives_list_all_possible_names() {
        assert_eq!(alternatives("zzz", &["a", "b", "c"]), "expected `a`, `b` or `c`");
        assert_eq!(alternatives("rulr", &["rule", "b"]), "did you mean `rule`?");
        assert_eq!(alternatives("urlrewrite", &["rule"]), "only Traefik's Kubernetes providers set it");
        assert_eq!(alternatives("plugin", &["rule"]), "plugins are not supported");
    }
}
