//! Accepts rules in the v2 syntax if they mean the same in v3.

use tidegate_config::router::RuleSyntax;
use tidegate_core::expression::{self, Argument, Call, Expression};
use tidegate_core::word::Word;

/// Matchers that mean the same in both, with one value without `{…}`.
const SAME: [&str; 7] = ["ALPN", "ClientIP", "Host", "HostSNI", "Method", "Path", "PathPrefix"];

/// Returns an error if the syntax of a rule is not supported. `default` applies to rules that name none.
pub(super) fn syntax_error(default: &Word<RuleSyntax>, own: &Word<RuleSyntax>, rule: &str) -> Option<String> {
    let syntax = if own.is_empty() { default } else { own };
    match syntax.known() {
        None if syntax.is_empty() => None,
        Some(RuleSyntax::V3 | RuleSyntax::Default) => None,
        // Rules that cannot be parsed are reported elsewhere.
        Some(RuleSyntax::V2) if expression::parse(rule).map_or(true, |parsed| means_the_same(&parsed)) => {
            None
        }
        Some(RuleSyntax::V2) => Some(
            "ruleSyntax `v2`: the rule could mean something else in `v3`, the only supported syntax: write it in `v3`"
                .to_owned(),
        ),
        None => Some(format!("unsupported ruleSyntax `{syntax}`: expected `v3`")),
    }
}

fn means_the_same(rule: &Expression) -> bool {
    match rule {
        Expression::And(left, right) | Expression::Or(left, right) => {
            means_the_same(left) && means_the_same(right)
        }
        Expression::Not(inner) => means_the_same(inner),
        Expression::Call(Call { name, arguments, .. }) => {
            let is_plain =
                |argument: &Argument| matches!(argument, Argument::Text(text) if !text.contains(['{', '}']));
            SAME.iter().any(|same| same.eq_ignore_ascii_case(name))
                && arguments.len() == 1
                && arguments.iter().all(is_plain)
        }
        Expression::Compare { .. } | Expression::Field(_) => false,
    }
}

#[cfg(test)]
mod tests {
    fn syntax_error(default: &str, own: &str, rule: &str) -> Option<String> {
        super::syntax_error(&default.into(), &own.into(), rule)
    }

    #[test]
    fn v2_rules_are_accepted_if_they_mean_the_same_in_v3() {
        for rule in ["Host(`a.test`) && (PathPrefix(`/x`) || !Method(`GET`))", "HostSNI(`*`)", "Hst("] {
            assert_eq!(syntax_error("v2", "", rule), None, "{rule}");
            assert_eq!(syntax_error("", "v2", rule), None, "{rule}");
        }
        for rule in ["PathPrefix(`/{id:[0-9]+}`)", "HostRegexp(`a.test`)", "Query(`a=b`)", "Host(`a`, `b`)"] {
            assert!(syntax_error("v2", "", rule).is_some_and(|error| error.contains("`v2`")), "{rule}");
            assert_eq!(syntax_error("v2", "v3", rule), None, "{rule}");
            assert_eq!(syntax_error("v2", "default", rule), None, "{rule}");
        }
        assert!(syntax_error("", "v4", "Host(`a`)").is_some());
    }
}
