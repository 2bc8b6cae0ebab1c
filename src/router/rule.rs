//! A rule: matchers combined with `&&`, `||` and `!`.

use tidegate_core::Request;
use tidegate_core::expression::{self, Call};

use super::error::{MatcherError, RuleError};
use super::matcher::Matcher;
use super::tree::Tree;
use super::view::View;

/// A validated rule (Traefik's v3 rule language).
#[derive(Clone, Debug)]
pub struct Rule {
    text: Box<str>,
    tree: Tree<Matcher>,
}

impl Rule {
    /// Parses and validates a rule. The error contains the position and what was expected.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let expression = expression::parse(text).map_err(|error| RuleError::syntax(text, error))?;
        let tree = Tree::new(&expression, &Matcher::new).map_err(|misplaced| misplaced.in_rule(text))?;
        Ok(Self { text: text.into(), tree })
    }

    /// Creates a rule from a single call, for other expressions that use matchers.
    pub(crate) fn of_call(call: &Call) -> Result<Self, MatcherError> {
        let matcher = Matcher::new(call)?;
        Ok(Self { text: call.to_string().into(), tree: Tree::Matcher(matcher) })
    }

    /// Returns the rule as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the values of its `Host` matchers that are not negated, in lower case and in the order of the
    /// rule.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        collect_hosts(&self.tree, false, &mut hosts);
        hosts
    }

    /// Returns true if the rule matches the request: the direct evaluation that the index must agree with.
    pub fn matches(&self, request: &Request) -> bool {
        let view = View::new(request);
        self.tree.matches(&|matcher| matcher.matches(&view))
    }

    pub(super) fn tree(&self) -> &Tree<Matcher> {
        &self.tree
    }

    pub(super) fn into_tree(self) -> Tree<Matcher> {
        self.tree
    }
}

/// Collects the values of `Host` matchers that are not negated.
fn collect_hosts(tree: &Tree<Matcher>, negated: bool, hosts: &mut Vec<String>) {
    match tree {
        Tree::All(parts) | Tree::Any(parts) => {
            parts.iter().for_each(|part| collect_hosts(part, negated, hosts));
        }
        Tree::Not(part) => collect_hosts(part, !negated, hosts),
        Tree::Matcher(_) if negated => {}
        Tree::Matcher(Matcher::Host(host)) => hosts.push(host.to_string()),
        Tree::Matcher(Matcher::HostBelow(suffix)) => hosts.push(format!("*.{suffix}")),
        Tree::Matcher(Matcher::AnyHost) => hosts.push("*".to_owned()),
        Tree::Matcher(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate_core::{AuthMethod, Identity};

    use super::super::testing::request;
    use super::*;

    #[test]
    fn matchers_match_what_traefik_matches() {
        for (rule, method, host, target, taken) in [
            ("Host(`UP.test`)", "GET", "up.TEST.:99", "/", true),
            ("Host(`dot.test.`)", "GET", "dot.test", "/", true),
            ("Host(`*.w.test`)", "GET", "a.w.test", "/", true),
            ("Host(`*.w.test`)", "GET", "a.b.w.test", "/", false),
            ("Host(`*.w.test`)", "GET", "w.test", "/", false),
            ("Host(`*`)", "GET", "any", "/", true),
            ("Host(`[::1]`)", "GET", "[::1]:80", "/", true),
            ("HostRegexp(`^RE.test$`)", "GET", "RE.test", "/", false),
            ("HostRegexp(`^re\\.test$`)", "GET", "RE.test:80", "/", true),
            ("HostRegexp(`^re\\.test$`)", "GET", "re.test.", "/", false),
            ("Path(`/x\"y`)", "GET", "h", "/x%22y", true),
            ("PathPrefix(\"/esc\\\\d\")", "GET", "h", "/esc%5Cd", true),
            ("Path(`/enc%2Fslash`)", "GET", "h", "/enc%2fslash", true),
            ("Path(`/a/b`)", "GET", "h", "/a%2Fb", false),
            ("Path(`/u/é`)", "GET", "h", "/u/%C3%A9", true),
            ("PathPrefix(`/api`)", "GET", "h", "/apix", true),
            ("PathRegexp(`/[^/]+/end$`)", "GET", "h", "/re/a%2Fb/end", true),
            ("Method(`put`)", "PUT", "h", "/", true),
            ("Query(`a`)", "GET", "h", "/?b&a", true),
            ("Query(`a`)", "GET", "h", "/?a=1", false),
            ("Query(`a b`, `c d`)", "GET", "h", "/?a+b=c%20d", true),
            ("Query(`a`, `1`)", "GET", "h", "/?a=1;b=2", true),
            ("Query(`a`, `1`)", "GET", "h", "/?x=%zz&a=1", true),
            ("QueryRegexp(`a`, `^1+$`)", "GET", "h", "/?a=0&a=11", true),
            ("Header(`x-a`, `1`)", "GET", "h", "/", true),
            ("HeaderRegexp(`X-A`, `^2$`)", "GET", "h", "/", true),
            ("Header(`x-a`, `1,2`)", "GET", "h", "/", false),
            ("Header(`Host`, `h`)", "GET", "h", "/", false),
            ("ClientIP(`127.0.0.1`)", "GET", "h", "/", true),
            ("ClientIP(`::ffff:127.0.0.0/120`)", "GET", "h", "/", true),
            ("ClientIP(`10.0.0.0/8`)", "GET", "h", "/", false),
            ("HOST(`h`) && Pathprefix(`/`) && !method(`PUT`)", "GET", "h", "/", true),
        ] {
            let parsed = Rule::parse(rule).unwrap();
            let request = request(method, host, target, &[("x-a", "1"), ("x-a", "2")]);
            assert_eq!(parsed.matches(&request), taken, "{rule} on {method} {host} {target}");
        }
    }

    #[test]
    fn rules_can_match_the_identity_of_the_client() {
        let takes = |rule: &str, identity: Option<Identity>| {
            let mut request = request("GET", "h", "/", &[]);
            request.context.identity = identity.map(Arc::new);
            Rule::parse(rule).unwrap().matches(&request)
        };
        let ann = || Identity {
            groups: vec!["dev".into(), "ops".into()],
            labels: [("team".into(), "core".into())].into(),
            ..Identity::new("ann", AuthMethod::Basic, "users@file".into())
        };
        for (rule, taken) in [
            ("User(`ann`)", true),
            ("User(`Ann`)", false),
            ("Group(`ops`)", true),
            ("Group(`op`)", false),
            ("Label(`team`, `core`)", true),
            ("Label(`team`, `edge`)", false),
            ("Label(`tea`, `core`)", false),
            ("(User(`bob`) || Label(`team`, `core`)) && !Group(`guests`)", true),
        ] {
            assert_eq!(takes(rule, Some(ann())), taken, "{rule}");
            assert!(!takes(rule, None), "{rule} without an identity");
        }
        assert!(takes("!User(`ann`)", None), "nobody is not ann");
        assert!(Rule::parse("Label(`team`)").is_err());
    }

    #[test]
    fn errors_say_what_was_expected_and_where() {
        for (rule, place, reason) in [
            ("Nope(`/x`)", "column 1", "unknown matcher Nope"),
            ("Path(`/y`", "column 1", "the call of Path is never closed"),
            ("Host(`a`) &&", "column 13", "expected a call like Host(`…`), found the end"),
            (
                "Host(`a`) > 1",
                "column 1",
                "`>` cannot stand in a rule: matchers are combined by `&&`, `||` and `!`",
            ),
            ("Host(`a`) && Host()", "column 14", "Host is called without a value: expected Host(`…`)"),
            ("Header(`a`,``)", "column 1", "value 2 of Header is empty"),
            ("Host(``)", "column 1", "the value of Host is empty"),
            ("Path(`noslash`)", "column 1", "Path: `noslash` does not begin with `/`"),
            ("Header(`a`)", "column 1", "Header takes 2 values, one is given"),
            ("Query(`a`,`b`,`c`)", "column 1", "Query takes 1 or 2 values, 3 are given"),
            (
                "PathRegexp(`(`)",
                "column 1",
                "PathRegexp: invalid regular expression `(`: a closing `)` is missing",
            ),
            (
                "ClientIP(`10.0.0`)",
                "column 1",
                "ClientIP: invalid address or network `10.0.0`: expected one like `192.0.2.1` or `10.0.0.0/8`",
            ),
            (
                "Host(`a`) ||\n  Host(`*.BÜCHER.example.`)",
                "line 2, column 3",
                "Host: `*.BÜCHER.example.` is not ASCII: write `*.xn--bcher-kva.example`",
            ),
            (
                "HostRegexp(`^bü.*$`)",
                "column 1",
                "HostRegexp: `^bü.*$` is not ASCII: clients ask for the form `xn--…`",
            ),
            ("Host(`a b\u{e9}`)", "column 1", "Host: `a bé` is not a host name"),
        ] {
            let expected = format!("invalid rule {rule:?} at {place}: {reason}");
            assert_eq!(Rule::parse(rule).unwrap_err().to_string(), expected);
        }
        assert_eq!(
            Rule::parse(" ").unwrap_err().to_string(),
            "the rule is empty: expected a matcher like Host(`…`)"
        );
    }

    #[test]
    fn v2_syntax_is_refused_with_the_v3_form() {
        for (rule, shown) in [
            ("Host(`a`,`b`)", "in v3 it is Host(`a`) || Host(`b`)"),
            ("Headers(`a`,`b`)", "in v3 it is Header(`name`, `value`)"),
            ("HostRegexp(`{sub:[a-z]+}.test`)", "like HostRegexp(`"),
            ("PathPrefix(`/{id:[0-9]+}`)", "like PathRegexp(`"),
            ("PathPrefx(`/`)", "did you mean PathPrefix?"),
        ] {
            let error = Rule::parse(rule).unwrap_err().to_string();
            assert!(error.contains(shown), "{error}");
        }
    }

    #[test]
    fn hosts_are_those_in_host_matchers() {
        let rule =
            Rule::parse("Host(`B.test`) || !(Host(`no`)) || !!Host(`*.A.test`) && HostRegexp(`x`)").unwrap();
        assert_eq!(rule.hosts(), ["b.test", "*.a.test"]);
        assert_eq!(rule.text(), "Host(`B.test`) || !(Host(`no`)) || !!Host(`*.A.test`) && HostRegexp(`x`)");
    }
}
